"""How the returns are distributed, of the policy and of what it is compared with, as pictures and a table of readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stitchrl.reporting.charts import Axis
from stitchrl.reporting.numbers import Json, decimals_for

__all__ = ["distribution_content", "distribution_view"]

FEWEST_POINTS = 3
"""Returns without which there is no picture: of two of them the mean says everything."""


def distribution_content(evaluation: Json) -> list[Json] | None:
    """The distributions of a stored evaluation; None where none was asked for."""
    return list((evaluation.get("distribution") or {}).values()) or None


def distribution_view(content: Sequence[Json] | None) -> dict[str, Any] | None:
    """Geometry of the pictures; None where there is nothing to show."""
    if not content:
        return None
    return {
        "other": content[0]["other"],
        "noun": content[0]["noun"],
        "tail": f"{100 * content[0]['tail']:g}%",
        "confidence": content[0]["confidence"],
        "methods": [_method(found) for found in content],
    }


def _method(found: Json) -> dict[str, Any]:
    readings = found["readings"]
    decimals = decimals_for([span for reading in readings.values() for span in reading.values()])
    failed = [check for check in found["checks"] if not check["passed"]]
    return {
        "method": found["method"],
        "title": found["title"],
        "sentence": found["sentence"],
        "healthy": found["healthy"],
        "failed": [str(check["key"]).replace("-", " ") for check in failed],
        "decimals": decimals,
        "rows": [{"name": name, **reading} for name, reading in readings.items()],
        "picture": _picture(found) if len(found["returns"]) >= FEWEST_POINTS else None,
    }


def _picture(found: Json) -> dict[str, Any]:
    """Two step functions in a box of 100 by 100, with a band where one is known."""
    returns, up = found["returns"], Axis(0.0, 1.0)
    across = Axis(returns[0], returns[-1])
    places = [across.at(value) for value in returns]
    band = None
    if found["cdf_lower"] is not None:
        above, below = (_steps(places, found[key], up) for key in ("cdf_upper", "cdf_lower"))
        band = "M" + "L".join([*above, *reversed(below)]) + "Z"
    return {
        "policy": "M" + "L".join(_steps(places, found["cdf"], up)),
        "other": "M" + "L".join(_steps(places, found["other_cdf"], up)),
        "band": band,
        "tail_y": round(100.0 - up.at(found["tail"]), 2),
        "tail_text": f"worst {100 * found['tail']:g}%",
        "ticks": across.ticks(4),
    }


def _steps(places: Sequence[float], chances: Sequence[float], up: Axis) -> list[str]:
    """The corners of a step function that jumps at each place."""
    corners, before = [], 0.0
    for place, chance in zip(places, chances, strict=True):
        corners += [f"{place:g} {100.0 - up.at(before):.2f}", f"{place:g} {100.0 - up.at(chance):.2f}"]
        before = chance
    return corners
