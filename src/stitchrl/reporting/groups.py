"""The gain in groups of episodes, and costs against their limits, as rows of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stitchrl.reporting.charts import fit_axis, mark, span
from stitchrl.reporting.numbers import Json, decimals_for

__all__ = ["groups_content", "groups_view"]


def groups_content(evaluation: Json) -> dict[str, Any] | None:
    """The groups and costs of a stored evaluation; None where none were asked for, or the run is of an older version."""
    found = {key: evaluation.get(key) for key in ("groups", "costs")}
    return found if any(found.values()) else None


def groups_view(content: Json | None) -> dict[str, Any] | None:
    """Geometry of the pictures; None where there is nothing to show."""
    if content is None:
        return None
    groups = content.get("groups")
    costs = content.get("costs") or ()
    return {"groups": _groups(groups) if groups else None, "costs": [_cost(cost) for cost in costs]}


def _groups(found: Json) -> dict[str, Any]:
    """One axis for all groups: where they lie beside each other is what is asked."""
    gains: Sequence[Json] = found["gains"]
    judged = [gain for gain in gains if gain["state"] not in ("too few", "not judged")]
    ends = [gain[key] for gain in judged for key in ("value", "lower", "upper")]
    others = [gain[key] for gain in gains for key in ("value", "lower", "upper")]
    axis = fit_axis([0.0, found["margin"], *ends], others, reach=0.3)
    decimals = decimals_for(judged or gains)
    columns = list(dict.fromkeys(gain["column"] for gain in gains))
    return {
        "columns": [
            {"name": column, "rows": [_row(gain, axis, decimals) for gain in gains if gain["column"] == column]}
            for column in columns
        ],
        "ticks": axis.ticks(4, sign=True),
        "zero": mark(axis, 0.0),
        "margin": mark(axis, found["margin"], sign=True, decimals=decimals) if found["margin"] else None,
        "confidence": found["confidence"],
        "reach": found["reach"],
        "estimator": found["estimator"],
        "count": len(gains),
        "vetoes": [gain["sentence"] for gain in gains if gain["state"] == "below"],
        "unjudged": [gain["sentence"] for gain in gains if gain["state"] in ("too few", "not judged")],
    }


def _row(gain: Json, axis: Any, decimals: int) -> dict[str, Any]:
    return {
        **gain,
        "decimals": decimals,
        "judged": gain["state"] not in ("too few", "not judged"),
        "mark": mark(axis, gain["value"], sign=True, decimals=decimals),
        "interval": span(axis, gain["lower"], gain["upper"]),
    }


def _cost(cost: Json) -> dict[str, Any]:
    """Each cost has an axis of its own, for each has units of its own."""
    estimate = cost["estimate"] or {"value": None, "lower": None, "upper": None, "healthy": False}
    decimals = decimals_for([estimate])
    axis = fit_axis([cost["limit"], cost["behavior"], *(estimate[key] for key in ("value", "lower", "upper"))])
    return {
        **cost,
        "healthy": estimate["healthy"],
        "value": estimate["value"],
        "ends": estimate,
        "decimals": decimals,
        "mark": mark(axis, estimate["value"], decimals=decimals),
        "interval": span(axis, estimate["lower"], estimate["upper"]),
        "limit_mark": mark(axis, cost["limit"], decimals=decimals),
        "behavior_mark": mark(axis, cost["behavior"], decimals=decimals),
        "ticks": axis.ticks(4),
    }
