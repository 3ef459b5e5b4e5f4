"""The picture of a fitted behaviour's calibration, of both kinds of action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page
from stage_files import changed, write_stage_files

from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.evaluation.probability_transform import TransformCurve
from stitchrl.evaluation.reliability import CalibrationCurve
from stitchrl.reporting.calibration import calibration_view
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report

EVIL = "<script>alert('x')</script>\"&"


def model(curve: Any, **more: Any) -> dict[str, Any]:
    """A fitted behaviour as estimates.json has it."""
    found = {"names": ["mlp"], "title": "a network", "held_out": -0.5, "tried": {}, "curve": curve.to_dict()} | more
    return dict(json.loads(json.dumps(found)))


def discrete() -> CalibrationCurve:
    edges = ((0.2, 0.3), (0.7, 0.8))
    return CalibrationCurve(edges, (100, 100), (0.25, 0.75), (0.4, 0.6), (0.05, 0.05), 0.3, 0.1, 0.06)


def continuous(dimensions: int = 1) -> TransformCurve:
    shares, error = np.full((dimensions, 10), 0.1), np.full((dimensions, 10), 0.01)
    shares[-1, 0], shares[-1, 9] = 0.2, 0.0
    return TransformCurve(10, tuple(map(tuple, shares.tolist())), tuple(map(tuple, error.tolist())), 0.1, 0.02)


def shown(folder: Path, behavior: dict[str, Any]) -> str:
    """The text of a report on it; tags must balance."""
    write_stage_files(folder)
    selected = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))["selected"]
    selected["evaluation"]["behavior_model"] = behavior
    changed(folder, "estimates.json", selected=selected)
    page = Page(render(build_report(folder, MEANINGS)))
    assert "script" not in {tag for tag, _ in page.tags}
    return page.text


def test_probabilities_are_set_against_how_often_actions_were_taken(tmp_path: Path) -> None:
    view = calibration_view(model(discrete()))
    assert view is not None
    first, second = view["pairs"]["dots"]
    assert (first["x"], first["y"]) == (25.0, 60.0)
    assert (first["low"], first["high"]) == (70.0, 50.0)
    assert (second["x"], second["y"]) == (75.0, 40.0)
    text = shown(tmp_path, model(discrete(), title=EVIL))
    assert f"The behaviour is {EVIL}. Dots on the diagonal are right" in text
    assert "the mean distance from it, is 30.0%; right probabilities would show 6.0% by chance" in text


def test_the_worst_dimensions_are_drawn_as_shares_of_equal_bins(tmp_path: Path) -> None:
    view = calibration_view(model(continuous(9)))
    assert view is not None
    assert view["dimensions"] == 9
    assert [panel["name"] for panel in view["panels"]] == [f"action dimension {j}" for j in (0, 1, 2, 3, 4, 8)]
    bars = view["panels"][-1]["bars"]
    assert bars[0]["height"] == pytest.approx(2 * bars[1]["height"], abs=0.02)
    assert bars[1]["y"] == view["panels"][-1]["right"]
    assert bars[9]["height"] == 0.0
    assert bars[0]["low"] - bars[0]["y"] == pytest.approx(0.2 * bars[1]["height"], abs=0.02)
    text = shown(tmp_path, model(continuous(9)))
    assert "In the worst dimension 10.0% of the actions lie in a wrong bin; 2.0% would do so by chance alone." in text
    assert "The 6 worst of 9 dimensions are shown." in text
    assert "bin 1 of 10: 20.0% of the actions" in text


def test_without_a_fitted_behaviour_nothing_is_drawn(tmp_path: Path) -> None:
    assert calibration_view(None) is None
    assert calibration_view({"names": ["mlp"], "title": "a network"}) is None
    assert "calibrated" not in Page(render(build_report(write_stage_files(tmp_path), MEANINGS))).text
