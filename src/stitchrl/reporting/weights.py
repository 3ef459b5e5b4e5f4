"""How evenly the importance weights are spread: effective units by step, and the shares of the heaviest, as pictures."""

from __future__ import annotations

import math
from typing import Any

from stitchrl.reporting.charts import Axis, line_path
from stitchrl.reporting.numbers import Json, is_number, number, percent

__all__ = ["weights_content", "weights_view"]

SPREAD_CHECK = "effective-units"
"""The key of the check that says how many effective units are needed."""


def weights_content(estimates: Json) -> dict[str, Any] | None:
    """The spread of the weights on test, with how many effective units an estimate by them needs; None where the run is of a
    version that did not keep it, or the policy has no ratios."""
    found = estimates.get("weights")
    if not found:
        return None
    by_weight = {
        name: estimate
        for name, estimate in estimates["selected"]["evaluation"]["estimates"].items()
        if estimate.get("weight_based")
    }
    checks = [check for one in by_weight.values() for check in one.get("checks", ()) if check["key"] == SPREAD_CHECK]
    return {**found, "needed": checks[0]["limit"] if checks else None, "estimators": list(by_weight)}


def weights_view(found: Json | None) -> dict[str, Any] | None:
    """Geometry of the pictures; None where there is nothing to show."""
    if not found:
        return None
    return {
        "noun": found["noun"],
        "count": found["count"],
        "estimators": found["estimators"],
        "last": number(found["effective"][-1], 0 if found["effective"][-1] >= 10 else 1),
        "last_step": found["steps"][-1],
        "largest": percent(found["shares"][0]),
        "half": found["half"],
        "none": found["none"],
        "by_step": _by_step(found) if len(found["steps"]) > 1 else None,
        "bars": _bars(found["shares"]),
        "shown": len(found["shares"]),
        "together": percent(sum(found["shares"])),
        "top": percent(_top(found["shares"])),
    }


def _by_step(found: Json) -> dict[str, Any]:
    """The curve on a scale on which equal factors are equally far apart, from one unit to all of them."""
    steps, effective = found["steps"], [max(value, 1.0) for value in found["effective"]]
    up = Axis(0.0, math.log10(max(found["count"], 10)))
    across = Axis(steps[0], steps[-1])
    powers = range(math.floor(up.upper + 1e-9) + 1)
    needed = found["needed"]
    return {
        "line": line_path(steps, [math.log10(value) for value in effective], across, up, False),
        "ticks": [{"y": round(100.0 - up.at(power), 2), "text": number(10.0**power, 0)} for power in powers],
        "needed": round(100.0 - up.at(math.log10(needed)), 2) if is_number(needed) and needed >= 1 else None,
        "needed_text": number(needed, 0),
        "enough": is_number(needed) and effective[-1] >= needed,
        "first": number(steps[0], 0),
        "last": number(steps[-1], 0),
    }


def _top(shares: list[float]) -> float:
    """The height of the picture of the bars: a share of all weight, at least a hundredth."""
    return max(1.12 * shares[0], 0.01)


def _bars(shares: list[float]) -> list[dict[str, Any]]:
    axis, width = Axis(0.0, _top(shares)), 100.0 / len(shares)
    return [
        {
            "x": round(k * width, 3),
            "width": round(0.8 * width, 3),
            "y": round(100.0 - axis.at(share), 2),
            "height": axis.at(share),
            "title": f"number {k + 1}: {percent(share)}",
        }
        for k, share in enumerate(shares)
    ]
