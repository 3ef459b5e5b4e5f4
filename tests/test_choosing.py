"""The page on choosing repeats tables of other pages word for word, and names the estimators that the product chooses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stitchrl.data.schema import ROLES
from stitchrl.evaluation.registry import ESTIMATORS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "choosing.md").read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The rows of all tables of a page, cell by cell, without heads and rules."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


@pytest.mark.parametrize(
    "first",
    [
        "every return is the same",
        "the behaviour is deterministic in most decisions",
        "states are numbered, and more than 30% of the decisions are",
    ],
)
def test_the_rules_for_algorithms_are_those_of_the_advice(first: str) -> None:
    advice = (DOCS / "advice.md").read_text(encoding="utf-8")
    assert [row for row in cells(PAGE) if row[0] == first] == [row for row in cells(advice) if row[0] == first] != []


def test_the_regrets_are_those_of_the_advice() -> None:
    advice = (DOCS / "advice.md").read_text(encoding="utf-8")
    (row,) = [row for row in cells(advice) if row[0].startswith("18 logs")]
    for regret in (re.split(r" ", cell)[0] for cell in row[1:]):
        assert regret in PAGE


def test_estimators_and_roles_exist() -> None:
    named = re.findall(r"`([a-z-]+)`", PAGE.partition("## Which estimator")[2].partition("What can go wrong")[0])
    assert len(named) > 10
    assert set(named) <= set(ESTIMATORS)
    roles = [row[1] for row in cells(PAGE.partition("## Which algorithm")[0])[1:]]
    used = {name for cell in roles for name in re.findall(r"`([a-z_]+)`", cell)}
    assert set(ROLES) - used <= {"weight", "observation_id", "policy_probs", "policy_log_prob", "reported"}
    assert used <= set(ROLES)
