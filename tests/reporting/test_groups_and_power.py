"""The report's section on groups and costs, and its power curve: what they show, and pages of runs without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pages import Page
from stage_files import candidate, changed, estimate, write_stage_files

from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.reporting.power import power_view
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report


def group(label: str, value: float | None, state: str, units: int = 500) -> dict[str, Any]:
    lower, upper = (None, None) if value is None else (value - 0.02, value + 0.02)
    sentence = f"For ward = {label} it is {state}."
    return {
        "column": "ward", "label": label, "units": units, "noun": "episode", "value": value, "lower": lower,
        "upper": upper, "state": state, "sentence": sentence,
    }  # fmt: skip


GROUPS = {
    "estimator": "wdr",
    "confidence": 0.95,
    "reach": 2.4,
    "margin": 0.0,
    "gains": [group("ICU <b>", 0.05, "above"), group("ER", -0.05, "below"), group("new", None, "too few", 9)],
}
COST = {
    "column": "hours",
    "limit": 8.0,
    "estimate": estimate(9.0),
    "behavior": 7.0,
    "state": "shown to be broken",
    "sentence": "The limit hours <= 8 is shown to be broken.",
}
POWER = {
    "sizes": [100, 200, 400],
    "at_estimate": [0.2, 0.5, 0.9],
    "at_half": [0.1, 0.2, 0.5],
    "noun": "episode",
    "sentence": "With about 350 episodes GO would be likely.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_stage_files(tmp_path)
    selected = candidate("IQL-2 seed 0, greedy", 0, 0.8)
    selected["evaluation"] |= {"groups": GROUPS, "costs": [COST]}
    stored = json.loads((made / "estimates.json").read_text())
    changed(made, "estimates.json", **(stored | {"selected": selected}))
    verdict = json.loads((made / "verdict.json").read_text())
    changed(made, "verdict.json", **(verdict | {"decision": "CANNOT TELL", "power": POWER}))
    return made


def test_groups_costs_and_the_curve_are_shown(folder: Path) -> None:
    page = Page(render(build_report(folder, MEANINGS)))
    assert "groups" in page.ids
    text = page.text
    for words in (
        "The gain in each group", "ICU <b>", "loses", "too few", "9 episodes", "For ward = ER it is below.",
        "For ward = new it is too few.", "shown to be broken", "limit 8, behaviour 7", POWER["sentence"],
        "2.40 standard errors",
    ):  # fmt: skip
        assert words in text, words


def test_a_run_without_them_has_no_such_section(tmp_path: Path) -> None:
    page = Page(render(build_report(write_stage_files(tmp_path), MEANINGS)))
    assert "groups" not in page.ids
    assert "How large a log" not in page.text


def test_the_curve_stands_where_its_numbers_say() -> None:
    view = power_view(POWER)
    assert view is not None
    assert [tick["x"] for tick in view["ticks"]] == [0.0, 100.0]
    assert view["likely_y"] == pytest.approx(20.0)
    assert view["lines"][0].startswith("M0")
    short = power_view(POWER | {"sizes": []})
    assert short is not None
    assert short["lines"] == []
    assert power_view(None) is None
