"""The fitted behaviour: its calibration on episodes that it did not see, as a picture.

Probabilities of discrete actions are set against how often such actions were taken. For continuous actions, the shares of
the transformed actions in equal bins are set against the equal shares that a right density gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stitchrl.reporting.charts import Axis
from stitchrl.reporting.numbers import Json, is_number, number, percent

__all__ = ["calibration_view"]

SHOWN_DIMENSIONS = 6
"""Action dimensions that are drawn: those whose shares are the least equal."""
WHISKER = 2.0
"""Standard errors that a whisker reaches to each side."""


def calibration_view(model: Json | None) -> dict[str, Any] | None:
    """Geometry of the picture; None where no behaviour was fitted or its curve is of another version."""
    curve = (model or {}).get("curve") or {}
    if model is None or not is_number(curve.get("expected_error")):
        return None
    view = {
        "title": model.get("title", ""),
        "held_out": number(model.get("held_out"), 3),
        "wrong": percent(curve["expected_error"]),
        "by_chance": percent(curve.get("by_chance")),
        "pairs": _pairs(curve) if "predicted" in curve else None,
        "panels": _dimensions(curve) if "shares" in curve else [],
        "dimensions": len(curve.get("shares", ())),
    }
    return view if view["pairs"] or view["panels"] else None


def _pairs(curve: Json) -> dict[str, Any]:
    """A dot for each bin of probabilities, its share of taken actions upwards, with a whisker."""
    axis = Axis(0.0, 1.0)
    rows = zip(curve["predicted"], curve["taken"], curve["error"], curve["pairs"], strict=True)
    return {
        "ticks": axis.ticks(4),
        "dots": [
            {
                "x": axis.at(predicted),
                "y": _height(axis, taken),
                "low": _height(axis, taken - WHISKER * error),
                "high": _height(axis, taken + WHISKER * error),
                "title": f"probability {percent(predicted)}: taken {percent(taken)} of {count:,} times",
            }
            for predicted, taken, error, count in rows
        ],
    }


def _dimensions(curve: Json) -> list[dict[str, Any]]:
    """A panel of bars for each action dimension that is drawn, on one scale."""
    bins, shares = curve["bins"], curve["shares"]
    unequal = [sum(abs(share - 1 / bins) for share in of_one) for of_one in shares]
    chosen = sorted(sorted(range(len(shares)), key=lambda j: -unequal[j])[:SHOWN_DIMENSIONS])
    axis = Axis(0.0, 1.12 * max(2 / bins, *(max(shares[j]) for j in chosen)))
    return [
        {
            "name": f"action dimension {j}",
            "bars": _bars(shares[j], curve["error"][j], axis),
            "right": _height(axis, 1 / bins),
            "right_text": percent(1 / bins, 0),
        }
        for j in chosen
    ]


def _bars(shares: Sequence[float], errors: Sequence[float], axis: Axis) -> list[dict[str, Any]]:
    width = 100.0 / len(shares)
    return [
        {
            "x": round(k * width, 3),
            "middle": round((k + 0.5) * width, 3),
            "width": round(width, 3),
            "y": _height(axis, share),
            "height": axis.at(share),
            "low": _height(axis, share - WHISKER * error),
            "high": _height(axis, share + WHISKER * error),
            "title": f"bin {k + 1} of {len(shares)}: {percent(share)} of the actions",
        }
        for k, (share, error) in enumerate(zip(shares, errors, strict=True))
    ]


def _height(axis: Axis, value: float) -> float:
    return round(100.0 - axis.at(value), 2)
