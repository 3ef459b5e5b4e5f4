"""What speaks for a gain beside its interval: hidden causes, the past, who carries the variance, the fitted behaviour."""

from __future__ import annotations

import math
from typing import Any

from stitchrl.reporting.calibration import calibration_view
from stitchrl.reporting.charts import Axis
from stitchrl.reporting.numbers import Json, is_number, number, percent

__all__ = ["confirmation_content", "confirmation_view"]

ODDS_TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""Round odds ratios on a scale on which equal factors are equally far apart."""


def confirmation_content(evaluation: Json) -> dict[str, Any] | None:
    """The parts of a stored evaluation that this section shows; None where the run is of a version that has none."""
    confirmation = evaluation.get("confirmation") or {}
    found = {
        "fitted": confirmation.get("fitted"),
        "hidden_cause": confirmation.get("hidden_cause"),
        "history": confirmation.get("history"),
        "influence": evaluation.get("influence"),
        "behavior_model": evaluation.get("behavior_model"),
    }
    return found if any(found[key] for key in ("hidden_cause", "history", "influence", "behavior_model")) else None


def confirmation_view(content: Json | None) -> dict[str, Any] | None:
    """Geometry of the pictures; None where there is nothing to show."""
    if content is None:
        return None
    return {
        "hidden_cause": _scale(content.get("hidden_cause")),
        "history": content.get("history"),
        "influence": _influence(content.get("influence")),
        "behavior": calibration_view(content.get("behavior_model")),
    }


def _scale(found: Json | None) -> dict[str, Any] | None:
    """A strip from no hidden cause to the largest that was tried, on which the seen and the needed strength stand, and under
    it one for a cause in every decision, which runs of older versions did not compute."""
    if not found or not is_number(found["seen"]):
        return None
    low, high = found["none"], found["largest"]
    axis = Axis(math.log(low), math.log(high))
    needed, every = found["needed"], found.get("every")
    return {
        "sentence": found["sentence"],
        "seen": axis.at(math.log(max(found["seen"], low))),
        "text": f"{'more than ' if found['seen'] >= high else ''}{number(found['seen'], 2)}",
        "every": axis.at(math.log(max(every, low))) if is_number(every) else None,
        "every_text": f"{'more than ' if every >= found['largest_every'] else ''}{number(every, 2)}"
        if is_number(every)
        else "",
        "needed": axis.at(math.log(needed)) if is_number(needed) and low <= needed <= high else None,
        "needed_text": f"{needed:g}" if is_number(needed) else "",
        "ticks": [{"x": axis.at(math.log(odds)), "text": f"{odds:g}"} for odds in ODDS_TICKS if low <= odds <= high],
    }


def _influence(found: Json | None) -> dict[str, Any] | None:
    """The largest shares of the variance as bars, under the limit for one of them."""
    shares = [share for share in (found or {}).get("largest", ()) if is_number(share)]
    if not found or not shares:
        return None
    axis, width = Axis(0.0, 1.12 * max(found["limit"], shares[0])), 100.0 / len(shares)
    return {
        "bars": [
            {
                "x": round(k * width, 3),
                "width": round(0.8 * width, 3),
                "y": round(100.0 - axis.at(share), 2),
                "height": axis.at(share),
                "title": f"number {k + 1}: {percent(share)}",
            }
            for k, share in enumerate(shares)
        ],
        "limit": round(100.0 - axis.at(found["limit"]), 2),
        "limit_text": percent(found["limit"], 0),
        "largest": percent(shares[0]),
        "shown": len(shares),
        "together": percent(sum(shares)),
        "half": found["half"],
        "models": percent(found["models"]) if found.get("models", 0.0) >= 0.0005 else "",
        "count": found["count"],
        "noun": found["noun"],
    }
