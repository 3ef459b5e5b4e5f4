"""What the estimates say together: whether they agree, what holds if one of them is right, and what holds without a model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from stitchrl.reporting.charts import fit_axis, mark, span
from stitchrl.reporting.numbers import Json, decimals_for, is_number

__all__ = ["together_content", "together_view"]


def together_content(evaluation: Json, primary: str | None) -> dict[str, Any] | None:
    """The consistency and the stated lower bounds of a stored evaluation; None where it has neither."""
    consistency = evaluation.get("consistency")
    bounds = [bound for bound in evaluation.get("lower_bounds") or () if bound["chosen"]]
    if not consistency and not bounds:
        return None
    gain = None if primary is None else evaluation["gain"][primary]
    return {
        "primary": None if gain is None else {"name": primary, **{k: gain[k] for k in ("value", "lower", "upper")}},
        "consistency": consistency,
        "bounds": bounds,
    }


def together_view(content: Json | None) -> dict[str, Any] | None:
    """Geometry of the pictures; None where there is nothing to show."""
    if content is None:
        return None
    consistency = content.get("consistency") or {}
    bounds: Sequence[Json] = content["bounds"]
    return {
        "pairs": _pairs(consistency) if consistency.get("pairs") else None,
        "sentences": consistency.get("sentences", []),
        "alone": bool(consistency) and len(consistency["names"]) < 2,
        "ranges": _ranges(content["primary"], consistency, bounds),
        "bounds": [bound["sentence"] for bound in bounds],
        "assumptions": _assumptions(bounds),
    }


def _pairs(consistency: Json) -> dict[str, Any]:
    """A row for each pair, its bar as wide as chance allows at the level that is divided by the number of pairs."""
    pairs: Sequence[Json] = consistency["pairs"]
    reach = NormalDist().inv_cdf(1 - (1 - consistency["confidence"]) / len(pairs) / 2)
    rows = [
        {
            **pair,
            "lower": pair["difference"] - reach * pair["standard_error"],
            "upper": pair["difference"] + reach * pair["standard_error"],
        }
        for pair in pairs
    ]
    axis = fit_axis([0.0, *(row[key] for row in rows for key in ("lower", "upper", "difference"))])
    decimals = decimals_for(rows)
    return {
        "rows": [
            {
                "label": f"{row['name']} \N{MINUS SIGN} {row['other']}",
                "differs": row["differs"],
                "difference": row["difference"],
                "p_value": row["p_value"],
                "mark": mark(axis, row["difference"], sign=True, decimals=decimals),
                "interval": span(axis, row["lower"], row["upper"]),
            }
            for row in rows
        ],
        "decimals": decimals,
        "ticks": axis.ticks(4, sign=True),
        "zero": mark(axis, 0.0),
    }


def _ranges(primary: Json | None, consistency: Json, bounds: Sequence[Json]) -> dict[str, Any] | None:
    """The gain under fewer and fewer assumptions, on one axis; None where there is nothing but the primary estimate."""
    rows: list[dict[str, Any]] = []
    if primary is not None:
        rows.append({"label": primary["name"], "note": "what the verdict rests on", "kind": "primary", **primary})
    if len(consistency.get("names", ())) > 1 and is_number(consistency["lower"]):
        note = f"at least one of {', '.join(consistency['names'])} is right"
        ends = {key: consistency[key] for key in ("lower", "upper")}
        rows.append({"label": "any of them", "note": note, "kind": "combined", "value": None, **ends})
    for bound in bounds:
        if bound["of"] == "gain":
            says = bound["lower"] > bound["least"]
            note = "weights alone, no model" if says else "weights alone: nothing is known"
            lower = bound["lower"] if says else None
            rows.append(
                {"label": "no model", "note": note, "kind": "bound", "value": None, "lower": lower, "upper": None}
            )
    if len(rows) < 2:
        return None
    core = [row[key] for row in rows if row["kind"] != "bound" for key in ("value", "lower", "upper")]
    axis = fit_axis([0.0, *core], [row["lower"] for row in rows], reach=2.0)
    decimals = decimals_for(rows[:1])
    for row in rows:
        upper = 1e9 if row["kind"] == "bound" else row["upper"]  # a bound has no other end: its bar leaves the axis
        row["mark"] = mark(axis, row["value"], sign=True, decimals=decimals)
        row["interval"] = span(axis, row["lower"], upper)
    return {"rows": rows, "ticks": axis.ticks(5, sign=True), "zero": mark(axis, 0.0)}


def _assumptions(bounds: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(str(assumption) for bound in bounds for assumption in bound["assumptions"]))
