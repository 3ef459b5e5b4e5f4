"""The picture of how a log changes from early to late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stitchrl.reporting import charts
from stitchrl.reporting.charts import Axis
from stitchrl.reporting.numbers import Json, is_number, percent, short, signed

__all__ = ["drift_view"]

LINES = 5
"""A panel shows at most as many lines as its dashes tell apart."""


def drift_view(numbers: Json, names: Sequence[str]) -> dict[str, Any] | None:
    """Panels of lines over equal parts of the log, early to late, and the table of their numbers."""
    drift = numbers.get("drift")
    if not drift or not drift["rows"]:
        return None
    rows, small = drift["rows"], drift.get("small")
    least = min((n for n in rows if n), default=0)
    actions = _action_lines(drift.get("action"), numbers.get("action_range"), names)
    panels = [
        panel
        for panel in (
            _reward_panel(drift.get("reward"), numbers.get("reward"), small),
            _shift_panel("Observation columns that move most", drift.get("observation"), small),
            _mix_panel(actions)
            if numbers["num_actions"] is not None
            else _shift_panel("Numbers of the action", actions, small),
        )
        if panel
    ]
    return {
        "by_time": drift["order"] == "time",
        "parts": len(rows),
        "part_name": "tenth" if len(rows) == 10 else "part",
        "rows": least,
        "small": small,
        "chance": f"{1.0 / math.sqrt(least):.1g}" if least else "",
        "panels": panels,
        "table": _drift_table(rows, panels),
    }


def _reward_panel(values: Sequence[Any] | None, reward: Json | None, small: Any) -> dict[str, Any] | None:
    known = [v for v in values or [] if is_number(v)]
    if values is None or not known:
        return None
    spread, middle = (reward["spread"], reward["mean"]) if reward else (None, None)
    band: tuple[float, float] | None = None
    if is_number(small) and is_number(spread) and is_number(middle) and spread > 0:
        band = middle - small * spread, middle + small * spread
    axis = charts.fit_axis([*known, *(band or ())], pad=0.1)
    return _panel(
        "Mean reward of a decision",
        [("mean reward", values)],
        axis,
        f"It is {short(known[0])} in the first part and {short(known[-1])} in the last, and lies between "
        f"{short(min(known))} and {short(max(known))}.",
        band=band,
        ticks=axis.ticks(3),
        write=short,
    )


def _shift_panel(title: str, entries: Sequence[Json] | None, small: Any) -> dict[str, Any] | None:
    lines = [(entry["name"], entry["shift"]) for entry in entries or []][:LINES]
    known = [v for _, values in lines for v in values if is_number(v)]
    if not known:
        return None
    name, values = max(lines, key=lambda line: max((abs(v) for v in line[1] if is_number(v)), default=0.0))
    own = [v for v in values if is_number(v)]
    band = (-small, small) if is_number(small) else None
    inside = band is not None and max(abs(v) for v in own) <= band[1]
    says = "No line leaves the band. " if inside else ""
    says += f"The largest shift is in {name}: between {signed(min(own))} and {signed(max(own))}."
    axis = charts.fit_axis([*known, *(band or ())], pad=0.12)
    return _panel(title, lines, axis, says, band=band, ticks=axis.ticks(3, sign=True), write=signed) | {
        "unit": "In standard deviations from the mean of the whole log. ",
        "keyed": True,
    }


def _action_lines(
    action: Sequence[Sequence[Any]] | None, ranges: Sequence[Json] | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A line for each action (its share) or number of the action (its shift in standard deviations), the greatest change
    first."""
    if not action or not action[0]:
        return []
    lines = []
    for index, values in enumerate(zip(*action, strict=True)):
        shift: list[Any] = list(values)
        if ranges:
            mean, spread = ranges[index]["mean"], ranges[index]["spread"]
            if not (is_number(mean) and is_number(spread) and spread > 0):
                continue
            shift = [(v - mean) / spread if is_number(v) else None for v in values]
        known = [v for v in shift if is_number(v)]
        if known:
            name = f"number {index}" if ranges else charts.action_name(names, index)
            lines.append({"name": name, "shift": shift, "reach": max(known) - min(known)})
    return sorted(lines, key=lambda line: -line["reach"])


def _mix_panel(lines: Sequence[Json]) -> dict[str, Any] | None:
    if not lines:
        return None
    drawn = [(line["name"], line["shift"]) for line in lines[:LINES]]
    known = [v for _, values in drawn for v in values if is_number(v)]
    axis = Axis(0.0, max(1.12 * max(known), 0.01))
    ticks = [tick | {"text": tick["text"] + "%"} for tick in Axis(0.0, 100.0 * axis.upper).ticks(3)]
    own = [v for v in drawn[0][1] if is_number(v)]
    says = f"The largest change is in {drawn[0][0]}: between {percent(min(own))} and {percent(max(own))} of decisions."
    title = "Share of each action" if len(lines) <= LINES else f"Shares of the {LINES} actions that change most"
    return _panel(title, drawn, axis, says, ticks=ticks, write=percent) | {
        "unit": "Shares of the decisions. ",
        "keyed": True,
    }


def _panel(
    title: str,
    lines: Sequence[tuple[str, Sequence[Any]]],
    axis: Axis,
    says: str,
    *,
    ticks: Sequence[Json],
    write: Any,
    band: tuple[float, float] | None = None,
) -> dict[str, Any]:
    parts = max(len(values) for _, values in lines)
    across = Axis(-0.5, parts - 0.5)
    return {
        "title": title,
        "says": says,
        "unit": "",
        "keyed": False,
        "ticks": ticks,
        "band": None if band is None else {"y": 100 - axis.at(band[1]), "height": axis.at(band[1]) - axis.at(band[0])},
        "lines": [
            {
                "name": name,
                "path": charts.line_path(range(len(values)), values, across, axis, False),
                "dots": [
                    {"x": across.at(i), "y": round(100 - axis.at(v), 2), "title": f"{name}, {i + 1}: {write(v)}"}
                    for i, v in enumerate(values)
                    if is_number(v)
                ],
                "texts": [write(v) for v in values],
            }
            for name, values in lines
        ],
    }


def _drift_table(rows: Sequence[int], panels: Sequence[Json]) -> dict[str, Any]:
    lines = [line for panel in panels for line in panel["lines"]]
    return {
        "heads": [line["name"] for line in lines],
        "rows": [
            {"part": i + 1, "rows": n, "texts": [line["texts"][i] if i < len(line["texts"]) else "" for line in lines]}
            for i, n in enumerate(rows)
        ],
    }
