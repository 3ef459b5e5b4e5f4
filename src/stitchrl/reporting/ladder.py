"""The trade-off of a run's ladders: how much each rung gains against how surely the gain can be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stitchrl.reporting.charts import Axis, fit_axis, line_path
from stitchrl.reporting.numbers import Json, is_number, number, short, signed
from stitchrl.reporting.rungs import place_on_ladder

__all__ = ["exact_base", "ladder_content", "ladder_view"]


def exact_base(ranking: Json) -> Any:
    """The exact value that exact gains are over: of the baseline where the run has one, else of the behaviour; None where it is
    not known."""
    baseline = ranking.get("baseline")
    return ranking["behavior_exact"] if baseline is None else baseline["exact"]


def ladder_content(ranking: Json, selected: str, title_of: Callable[[Json], str]) -> dict[str, Any] | None:
    """Every rung of a run's ladders, and the policies that they lead to; None where the run has no ladder.

    Args:
        ranking: the content of ranking.json.
        selected: the title of the selected candidate.
        title_of: gives the title of a candidate.
    """
    steps = ranking.get("ladder") or []
    if not steps:
        return None
    base = exact_base(ranking)
    rows = [
        _row(step["title"], step, step["gain"], step["standard_error"], step, base)
        | {key: step[key] for key in ("power", "floor", "reach", "spread") if key in step}
        for step in steps
    ]
    candidates = ranking["candidates"]
    learned = {candidate["rung"]["of"] for candidate in candidates if candidate.get("rung")}
    for place in ranking["order"]:
        candidate = candidates[place["index"]]
        gain = candidate["evaluation"]["gain"].get(place["estimator"] or "")
        if place["index"] in learned and gain is not None:
            title = title_of(candidate)
            found = _row(title, place, gain["value"], gain["standard_error"], candidate, base)
            rows.append(found | {"label": candidate["label"]})
    return {"rows": [row | {"selected": row["title"] == selected} for row in rows]}


def _row(title: str, place: Json, gain: Any, error: Any, known: Json, base: Any) -> dict[str, Any]:
    exact = known["exact"]
    return {
        "title": title,
        "label": known["label"],
        "estimator": place.get("estimator"),
        "gain": gain,
        "standard_error": error,
        "healthy": bool(place.get("healthy")),
        "predicted_lower": place.get("predicted_lower"),
        "exact_gain": exact - base if is_number(exact) and is_number(base) else None,
    }


def ladder_view(content: Json | None, margin: float, decimals: int) -> dict[str, Any] | None:
    """A panel for each label, on shared axes: the standard error to the right, the gain upwards; None without a ladder."""
    rows = [
        row for row in (content or {"rows": []})["rows"] if is_number(row["gain"]) and is_number(row["standard_error"])
    ]
    rungs = [row for row in rows if place_on_ladder(row) is not None]
    if not rungs:
        return None
    across = _axis([0.0], rungs, rows, "standard_error")
    across = Axis(0.0, across.upper)  # no error is below 0, and the behaviour has none
    up = _axis([0.0, margin], rungs, rows, "gain", "exact_gain")
    labels = sorted({row["label"] for row in rungs}, key=lambda label: -_best(rungs, label))
    reach = _reach(rows)
    return {
        "panels": [
            _panel(label, [row for row in rows if row["label"] == label], across, up, decimals) for label in labels
        ],
        "lines": [_line_named(rungs[0], line) for line in _lines(rungs)],
        "continuous": rungs[0].get("reach") is not None,
        "estimators": _estimators(rows),
        "x_ticks": across.ticks(3),
        "y_ticks": up.ticks(4, sign=True),
        "zero": up.at(0.0),
        "edge": None if reach is None else _edge(reach, margin, across, up),
        "reach": None if reach is None else number(reach, 2),
        "any_exact": any(is_number(row["exact_gain"]) for row in rows),
        "rows": sorted(map(_in_numbers, rows), key=lambda row: -_or_least(row["predicted_lower"])),
    }


def _axis(core: Sequence[float], rungs: Sequence[Json], rows: Sequence[Json], *keys: str) -> Axis:
    """Holds all rungs, and those learned policies that do not lie far from them."""
    inside = [row[key] for row in rungs for key in keys]
    return fit_axis([*core, *inside], [row[key] for row in rows for key in keys], reach=0.3)


def _best(rungs: Sequence[Json], label: str) -> float:
    return max(_or_least(row["predicted_lower"]) for row in rungs if row["label"] == label)


def _or_least(value: Any) -> float:
    return float(value) if is_number(value) else -1e300


def _lines(rungs: Sequence[Json]) -> list[float]:
    """The numbers that name the lines on which rungs lie."""
    return sorted({_place(row)[1] for row in rungs})


def _line_named(rung: Json, line: float) -> str:
    if rung.get("reach") is not None:
        return f"rungs with {line:.0%} of the behaviour's standard deviation"
    return f"rungs on actions of at least {line:.0%} behaviour probability"


def _estimators(rows: Sequence[Json]) -> dict[str, str] | None:
    """What gains of rungs and of learned policies are estimated by, in words; None where it is the same or not known."""
    found: dict[str, set[str]] = {"rungs": set(), "learned": set()}
    for row in rows:
        if row.get("estimator"):
            found["learned" if place_on_ladder(row) is None else "rungs"].add(row["estimator"])
    if len(found["rungs"] | found["learned"]) < 2 or not all(found.values()):
        return None
    return {which: " or ".join(sorted(names)) for which, names in found.items()}


def _in_numbers(row: Json) -> dict[str, Any]:
    along, line = place_on_ladder(row) or (None, None)
    return {**row, "along": along, "line": line}


def _place(row: Json) -> tuple[float, float]:
    found = place_on_ladder(row)
    assert found is not None
    return found


def _reach(rows: Sequence[Json]) -> float | None:
    """Standard errors that were taken off each gain: the same for all rows, read off the one with the largest error."""
    known = [row for row in rows if is_number(row["predicted_lower"]) and row["standard_error"] > 0]
    if not known:
        return None
    row = max(known, key=lambda row: row["standard_error"])
    return float((row["gain"] - row["predicted_lower"]) / row["standard_error"])


def _edge(reach: float, margin: float, across: Axis, up: Axis) -> str:
    """The line of gains whose predicted lower end is the margin."""
    steps = [across.upper * k / 50 for k in range(51)]
    inside = [error for error in steps if up.lower <= margin + reach * error <= up.upper]
    return line_path(inside, [margin + reach * error for error in inside], across, up, False)


def _panel(label: str, rows: Sequence[Json], across: Axis, up: Axis, decimals: int) -> dict[str, Any]:
    rungs = [row for row in rows if place_on_ladder(row) is not None]
    lines = []
    for line in _lines(rungs):
        on = sorted((row for row in rungs if _place(row)[1] == line), key=lambda row: _place(row)[0])
        lines.append(line_path([row["standard_error"] for row in on], [row["gain"] for row in on], across, up, False))
    return {
        "label": label,
        "lines": lines,
        "dots": [_dot(row, across, up, decimals) for row in rows],
        "selected": any(row["selected"] for row in rows),
    }


def _dot(row: Json, across: Axis, up: Axis, decimals: int) -> dict[str, Any]:
    x, error, gain = across.at(row["standard_error"]), row["standard_error"], row["gain"]
    return {
        "x": x,
        "y": round(100.0 - up.at(gain), 2),
        "off": bool(across.side(error) or up.side(gain)),
        "exact": round(100.0 - up.at(row["exact_gain"]), 2) if is_number(row["exact_gain"]) else None,
        "learned": place_on_ladder(row) is None,
        "healthy": row["healthy"],
        "selected": row["selected"],
        "anchor": "end" if x > 60 else "middle" if x > 30 else "start",
        "title": f"{row['title']}: gain {signed(gain, decimals)}, standard error {short(error)}",
        "name": row["title"].rpartition(", ")[2],
    }
