"""The page on choosing names what exists: algorithms, estimators and roles, and the regrets of the advice."""

from __future__ import annotations

import re
from pathlib import Path

import stitchrl as st
from stitchrl.data.schema import ROLES
from stitchrl.diagnosis import choice
from stitchrl.evaluation.registry import ESTIMATORS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "choosing.md").read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The rows of all tables of a page, cell by cell, without heads and rules."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


def test_the_rules_for_algorithms_name_algorithms_that_the_advice_can_give() -> None:
    rules = PAGE.partition("## Which algorithm")[2].partition("How good is that?")[0]
    named = {
        cell.partition(" ")[0].rstrip(",") for row in cells(rules) for cell in [row[1], *row[2].split(", ")] if cell
    }
    named = {name.replace("+", "") for name in named - {"first", "then"}}
    assert named == {name for name in vars(choice) if name in st.ALGORITHMS}


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
