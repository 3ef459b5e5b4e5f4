"""The report's sections on agreement, bounds without a model, weights and distributions: what they show, and when not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import Page
from stage_files import candidate, changed, estimate, write_stage_files

from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.reporting.distribution import distribution_view
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report
from stitchrl.reporting.together import together_view
from stitchrl.reporting.weights import weights_view

CONSISTENCY: dict[str, Any] = {
    "pairs": [
        {"name": "wdr", "other": "fqe", "difference": -0.1, "standard_error": 0.02, "p_value": 1e-6, "differs": True},
        {"name": "wdr", "other": "wis", "difference": 0.01, "standard_error": 0.02, "p_value": 0.617, "differs": False},
    ],
    "names": ["wdr", "fqe"],
    "lower": 0.09,
    "upper": 0.21,
    "confidence": 0.95,
    "sentences": ["wdr and fqe differ by more than chance <b>explains</b>."],
}


def bound(of: str, lower: float, least: float = -1.0) -> dict[str, Any]:
    return {
        "of": of, "method": "bernstein", "weights": "episodes", "lower": lower, "confidence": 0.95, "clip": 3.0,
        "episodes": 800, "least": least, "assumptions": ["the propensities are right"], "chosen": True,
        "noun": "episode", "sentence": f"The {of} is at least {lower:+.4f}.",
    }  # fmt: skip


WEIGHTS: dict[str, Any] = {
    "noun": "episode",
    "count": 1000,
    "steps": [1, 2, 3],
    "effective": [1000.0, 100.0, 10.0],
    "shares": [0.3, 0.2, 0.1],
    "half": 2,
    "none": 40,
}


def spread(value: float) -> dict[str, Any]:
    return {"value": value, "lower": value - 0.1, "upper": value + 0.1}


DISTRIBUTION: dict[str, Any] = {
    "method": "weights",
    "title": "logged returns, whole episodes reweighted",
    "other": "the behaviour",
    "confidence": 0.95,
    "tail": 0.1,
    "readings": {"worst 10%": {"policy": spread(0.3), "other": spread(0.2), "difference": spread(0.1)}},
    "returns": [0.0, 1.0, 4.0],
    "cdf": [0.25, 0.5, 1.0],
    "other_cdf": [0.5, 0.75, 1.0],
    "cdf_lower": [0.2, 0.4, 1.0],
    "cdf_upper": [0.3, 0.6, 1.0],
    "noun": "episode",
    "checks": [{"key": "tail-units", "seen": 3.0, "limit": 30.0, "passed": False, "sentence": "Too few."}],
    "healthy": False,
    "sentence": "The worst 10% of episodes return +0.3.",
}


def folder_with(tmp_path: Path, evaluation: dict[str, Any], **estimates: Any) -> Path:
    made = write_stage_files(tmp_path)
    selected = candidate("IQL-2 seed 0, greedy", 0, 0.8)
    check = {"key": "effective-units", "seen": 10.0, "limit": 100.0, "passed": False, "sentence": "Too few."}
    selected["evaluation"]["estimates"]["wis"] = estimate(0.8, weight_based=True, checks=[check])
    selected["evaluation"]["gain"]["wis"] = estimate(0.1, healthy=False, checks=[check])
    selected["evaluation"] |= evaluation
    stored = json.loads((made / "estimates.json").read_text())
    changed(made, "estimates.json", **(stored | {"selected": selected} | estimates))
    return made


def page_of(folder: Path) -> tuple[str, Page]:
    text = render(build_report(folder, MEANINGS))
    return text, Page(text)


def test_sections_show_what_was_found(tmp_path: Path) -> None:
    evaluation = {
        "consistency": CONSISTENCY,
        "lower_bounds": [bound("gain", -0.05), bound("value", 0.6), bound("value", 0.9) | {"chosen": False}],
        "distribution": {"weights": DISTRIBUTION},
    }
    text, page = page_of(folder_with(tmp_path, evaluation, weights=WEIGHTS))
    words = " ".join(" ".join(page.words).split())
    assert "wdr and fqe differ by more than chance <b>explains</b>." in words  # as text, and not as markup
    assert "at least −0.050" in words  # noqa: RUF001
    assert "The value is at least +0.6000." in words
    assert "+0.9000" not in words  # a bound that is not the stated one
    assert "the propensities are right" in words
    assert "are worth 10 of equal weight: one has 30.0% of all weight, 2 have half of it, and 40 have none" in words
    assert "needed: 100" in words
    assert "not healthy, fails: tail units" in words
    assert "The worst 10% of episodes return +0.3." in words
    assert text.count('id="distribution"') == 1
    assert 'href="#distribution"' in text


def test_runs_of_earlier_versions_have_none_of_it(tmp_path: Path) -> None:
    text, _ = page_of(write_stage_files(tmp_path))
    for absent in ('id="distribution"', "What the estimates say together", "How far the weights of whole"):
        assert absent not in text


def test_a_bar_reaches_zero_exactly_where_a_pair_agrees() -> None:
    view: Any = together_view({"primary": None, "consistency": CONSISTENCY, "bounds": []})
    assert view is not None
    zero = view["pairs"]["zero"]["x"]
    reaches = [row["interval"]["x1"] <= zero <= row["interval"]["x2"] for row in view["pairs"]["rows"]]
    assert reaches == [not pair["differs"] for pair in CONSISTENCY["pairs"]]
    # 0.95 two-sided, divided by two pairs: 2.2414 standard errors.
    first, axis_width = view["pairs"]["rows"][0], view["pairs"]["ticks"]
    per_unit = (axis_width[-1]["x"] - axis_width[0]["x"]) / (axis_width[-1]["value"] - axis_width[0]["value"])
    assert (first["interval"]["x2"] - first["interval"]["x1"]) / per_unit == pytest.approx(2 * 2.2414 * 0.02, abs=1e-3)


def test_a_bound_has_no_upper_end_and_one_that_says_nothing_is_no_number() -> None:
    primary = {"name": "wdr", "value": 0.1, "lower": 0.05, "upper": 0.15}
    view = together_view({"primary": primary, "consistency": None, "bounds": [bound("gain", 0.02)]})
    assert view is not None
    first, last = view["ranges"]["rows"]
    assert last["interval"]["cut_right"]
    assert not first["interval"]["cut_right"]
    assert last["interval"]["x1"] < first["interval"]["x1"]
    view = together_view({"primary": primary, "consistency": None, "bounds": [bound("gain", -1.0)]})
    assert view is not None
    assert view["ranges"]["rows"][1]["lower"] is None


def test_effective_units_are_drawn_on_a_scale_of_equal_factors() -> None:
    view = weights_view(WEIGHTS | {"needed": 100.0, "estimators": ["wis"]})
    assert view is not None
    heights = [float(y) for _, y in re.findall(r"[ML](\S+) ([\d.]+)", view["by_step"]["line"])]
    assert heights == pytest.approx([0.0, 100 / 3, 200 / 3], abs=0.02)  # 1000, 100, 10 of 1000 on three decades
    assert view["by_step"]["needed"] == pytest.approx(100 / 3, abs=0.02)
    assert [bar["height"] / view["bars"][0]["height"] for bar in view["bars"]] == pytest.approx(
        [1, 2 / 3, 1 / 3], abs=1e-3
    )


def test_a_distribution_is_drawn_as_steps_and_two_returns_are_not_drawn() -> None:
    view = distribution_view([DISTRIBUTION])
    assert view is not None
    picture = view["methods"][0]["picture"]
    assert picture["policy"] == "M0 100.00L0 75.00L25 75.00L25 50.00L100 50.00L100 0.00"
    assert picture["tail_y"] == 90.0
    view = distribution_view([DISTRIBUTION | {"returns": [0.0, 1.0]}])
    assert view is not None
    assert view["methods"][0]["picture"] is None
