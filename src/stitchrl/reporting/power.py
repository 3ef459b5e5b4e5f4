"""The power curve under CANNOT TELL: the chance of GO against the size of the log, on a scale of equal factors."""

from __future__ import annotations

import math
from typing import Any

from stitchrl.reporting.charts import Axis, line_path
from stitchrl.reporting.numbers import Json, number

__all__ = ["power_view"]


def power_view(found: Json | None) -> dict[str, Any] | None:
    """Geometry of the curve; without one the sentence alone, and None where nobody looked."""
    if found is None:
        return None
    sizes = found["sizes"]
    view: dict[str, Any] = {
        "sentence": found["sentence"],
        "noun": found["noun"],
        "lines": [],
        "ticks": [],
        "likely": 80.0,
    }
    if len(sizes) < 2:
        return view
    across, up = Axis(math.log(sizes[0]), math.log(sizes[-1])), Axis(0.0, 1.0)
    places = [math.log(size) for size in sizes]
    view["lines"] = [line_path(places, found[key], across, up, False) for key in ("at_estimate", "at_half")]
    view["ticks"] = [{"x": across.at(places[k]), "text": number(sizes[k], 0)} for k in range(0, len(sizes), 2)]
    view["likely_y"] = round(100.0 - up.at(0.8), 2)
    return view
