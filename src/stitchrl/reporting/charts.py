"""Chart geometry: the numbers of a page as percentages of a track, drawn as inline SVG by ``charts.html.j2``.

Positions are percentages rather than units of a fixed drawing, so a chart takes the width that it is given while its text
and marks keep their size: the same markup can be read on a phone, on a desktop screen and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stitchrl.reporting.numbers import DECIMALS, Json, is_number, number, percent, short

__all__ = [
    "Axis",
    "action_bars",
    "action_name",
    "claims_chart",
    "fit_axis",
    "fitting",
    "forest_axis",
    "forest_rows",
    "heat_map",
    "histogram",
    "learning_panels",
    "line_path",
    "mark",
    "span",
]

MAX_CURVE_POINTS = 200  # a panel is about 300 pixels wide: more points only add bytes
MAX_NAMED_ACTIONS = 30  # with more actions the names at the axes of a heat map would overlap
SHOWN_BARS = 40  # rows in a list of actions, of which nobody would read thousands
MAX_LABEL = 24  # characters of a name beside a heat map
MAX_CELLS = 2500  # keeps the file small when there are hundreds of actions
LOG_SCALE_RATIO = 1000.0  # a curve that spans a larger ratio is drawn on a log scale

Number = int | float  # JSON writes 1.0 as 1 as often as not


@dataclass(frozen=True)
class Axis:
    """A linear scale from data units to percent of a track's width."""

    lower: Number
    upper: Number

    def at(self, value: Number) -> float:
        """Percent of the track, held inside 0 to 100."""
        share = 100.0 * (value - self.lower) / (self.upper - self.lower)
        return round(min(100.0, max(0.0, share)), 2)

    def side(self, value: Number) -> str:
        """``"left"`` or ``"right"`` where `value` lies off the axis, otherwise ``""``."""
        return "left" if value < self.lower else "right" if value > self.upper else ""

    def ticks(self, count: int = 5, sign: bool = False) -> list[dict[str, Any]]:
        """About `count` round positions (two at least), each with ``x`` (percent) and ``text``."""
        rough = (self.upper - self.lower) / max(count, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(math.log(s / rough)))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if not math.isclose(step, round(step, decimals), rel_tol=1e-6):
            decimals += 1
        first = math.ceil(self.lower / step - 1e-9)
        last = math.floor(self.upper / step + 1e-9)
        if last <= first and count < 12:
            return self.ticks(count + 1, sign)
        several = last - first > 3
        return [
            # The text of a minor tick is left out on a narrow screen; zero is never minor.
            {
                "value": index * step,
                "x": self.at(index * step),
                "text": number(index * step, decimals, sign),
                "minor": several and index % 2 == 1,
            }
            for index in range(first, last + 1)
        ]


def fit_axis(core: Iterable[Any], extra: Iterable[Any] = (), reach: float = 0.6, pad: float = 0.06) -> Axis:
    """An axis that holds all of `core`, and those values of `extra` that lie within `reach` spans of it.

    A single claim of 3.0 must not squeeze fifteen estimates near 0.8 together: a value that is left out is drawn as an
    arrow with its number. Where nothing is sure enough to belong to `core`, the middle half of `extra` takes its place.
    """
    held = [float(value) for value in core if is_number(value)]
    others = sorted(float(value) for value in extra if is_number(value))
    if not held or max(held) == min(held):
        held += others[len(others) // 4 : len(others) - len(others) // 4]
    if not held:
        held = [0.0, 1.0]
    lower, upper = min(held), max(held)
    span_ = upper - lower or max(abs(upper) * 0.1, 0.1)
    near = [v for v in others if lower - reach * span_ <= v <= upper + reach * span_]
    lower, upper = min([lower, *near]), max([upper, *near])
    margin = pad * (upper - lower or span_)
    return Axis(lower - margin, upper + margin)


def mark(axis: Axis, value: Any, sign: bool = False, decimals: int = DECIMALS) -> dict[str, Any] | None:
    """The place of a point: ``x`` in percent, ``side`` when it lies off the axis, and its ``text``."""
    if not is_number(value):
        return None
    return {"x": axis.at(value), "side": axis.side(value), "text": number(value, decimals, sign)}


def span(axis: Axis, lower: Any, upper: Any) -> dict[str, Any] | None:
    """The place of an interval, with each end that lies off the axis marked as cut."""
    if not (is_number(lower) and is_number(upper)) or axis.side(upper) == "left" or axis.side(lower) == "right":
        return None
    return {
        "x1": axis.at(lower),
        "x2": axis.at(upper),
        "cut_left": axis.side(lower) == "left",
        "cut_right": axis.side(upper) == "right",
    }


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows gathered under what their labels share, in order of appearance: the label of a candidate without its seed.

    A row whose label does not name its seed goes under its algorithm and keeps the whole label.
    """
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        seed = f"seed {row['seed']}"
        named = f" {seed}" in row["label"]
        shared = row["label"].replace(f" {seed}", "", 1) if named else row["algorithm"]
        heading, _, note = shared.partition(", ")
        group = groups.setdefault(shared, {"heading": heading, "note": note, "caution": False, "rows": []})
        group["caution"] = group["caution"] or row["caution"]
        group["rows"].append(row)
        row["short"] = seed if named else row["label"]
    return list(groups.values())


def claims_chart(
    claims: Sequence[Json],
    behavior: Json,
    decimals: int = DECIMALS,
    attainable: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, Any]:
    """The dot plot of claimed, estimated and exact values: a row for each candidate, in groups.

    The axis names no value outside the `attainable` range, and `beyond` says whether an interval reaches out of it.
    """
    reference = behavior["exact"] if is_number(behavior["exact"]) else behavior["validation"]["value"]
    core: list[Any] = [reference, *(claim["exact"] for claim in claims)]
    extra: list[Any] = [claim["claimed"] for claim in claims]
    for claim in claims:
        estimated = claim["estimated"] or {}
        trusted = core if estimated.get("healthy") and not claim["caution"] else extra
        trusted += [estimated.get("value"), estimated.get("lower"), estimated.get("upper")]
    axis = fit_axis(core, extra)
    rows = []
    for claim in claims:
        estimated = claim["estimated"] or {}
        truth = claim["exact"] if is_number(claim["exact"]) else estimated.get("value")
        known = is_number(claim["claimed"]) and is_number(truth)
        rows.append(
            {
                **claim,
                "claimed_mark": mark(axis, claim["claimed"], decimals=decimals),
                "estimated_mark": mark(axis, estimated.get("value"), decimals=decimals),
                "interval": span(axis, estimated.get("lower"), estimated.get("upper")),
                "healthy": bool(estimated.get("healthy")),
                "exact_mark": mark(axis, claim["exact"], decimals=decimals),
                "excess": claim["claimed"] - truth if known else None,
            }
        )
    excess = [row for row in rows if row["excess"] is not None]
    low, high = attainable
    ends = [((c["estimated"] or {}).get("lower"), (c["estimated"] or {}).get("upper")) for c in claims]
    return {
        "ticks": [tick for tick in axis.ticks() if low <= tick["value"] <= high],
        "beyond": any(is_number(lower) and is_number(upper) and (lower < low or upper > high) for lower, upper in ends),
        "groups": grouped(rows),
        "behavior": mark(axis, reference, decimals=decimals),
        "behavior_exact": is_number(behavior["exact"]),
        "any_exact": any(is_number(claim["exact"]) for claim in claims),
        "worst": max(excess, key=lambda row: row["excess"], default=None),
    }


def forest_axis(rows: Sequence[Json], margin: Number) -> Axis:
    """One axis for gains, on which zero, the margin, exact gains and healthy intervals always fit."""
    core: list[Any] = [0.0, margin]
    extra: list[Any] = []
    for row in rows:
        core.append(row["exact_gain"])
        trusted = core if row["healthy"] and not row["caution"] else extra
        trusted += [row["gain"]["value"], row["gain"]["lower"], row["gain"]["upper"]]
    return fit_axis(core, extra)


def forest_rows(rows: Sequence[Json], axis: Axis, decimals: int = DECIMALS) -> list[dict[str, Any]]:
    """The rows of a forest plot of gains, in groups."""
    placed = [
        {
            **row,
            "mark": mark(axis, row["gain"]["value"], sign=True, decimals=decimals),
            "interval": span(axis, row["gain"]["lower"], row["gain"]["upper"]),
            "exact_mark": mark(axis, row["exact_gain"], sign=True, decimals=decimals),
            "failed": [str(key).replace("-", " ") for key in row.get("failed", ())],
        }
        for row in rows
    ]
    return grouped(placed)


def histogram(content: Json, mean: Any = None) -> dict[str, Any] | None:
    """The bars of a histogram in percent of its box; None when it holds no bin or no count."""
    edges, counts = content["edges"], content["counts"]
    if not counts or not sum(counts) or edges[-1] <= edges[0]:
        return None
    axis, top, total = Axis(edges[0], edges[-1]), max(counts), sum(counts)
    bars = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        x1, x2, share = axis.at(low), axis.at(high), count / total
        bars.append(
            {
                "x": x1,
                "width": round(x2 - x1, 2),
                "height": round(100.0 * count / top, 2),
                # A label fits only over a wide bar, and a bar too low to see needs none.
                "label": f"{share:.0%}" if x2 - x1 >= 8 and share >= 0.005 else "",
                "title": f"{short(low)} to {short(high)}: {count:,} ({percent(share)})",
            }
        )
    place = mark(axis, mean)
    return {"bars": bars, "ticks": axis.ticks(4), "mean": place and place | {"text": short(mean)}}


def action_name(names: Sequence[str], action: int) -> str:
    """The name of an action; where it is a bare number, or missing, "action 7"."""
    name = names[action] if action < len(names) else str(action)
    return f"action {name}" if name.isdigit() else name


def fitting(names: Sequence[str], most: int) -> list[str]:
    """Names cut to a length, or their numbers where names that are cut would look alike."""
    cut = [name if len(name) <= most else name[: most - 1] + "…" for name in names]
    return cut if len(set(cut)) >= len(set(names)) else [str(i) for i in range(len(names))]


def action_bars(counts: Sequence[int], allowed: Sequence[Number] | None, names: Sequence[str]) -> list[Json]:
    """A row for each action: its name, count, share of decisions, width of its bar, and the share of rows that allow it.

    Of more than `SHOWN_BARS` actions only the commonest are listed, in the order of their counts, with one row without a bar
    for all others.
    """
    total, top = sum(counts) or 1, max(counts, default=0) or 1
    many = len(counts) > SHOWN_BARS
    shown = sorted(range(len(counts)), key=lambda action: -counts[action])[:SHOWN_BARS] if many else range(len(counts))
    rows: list[Json] = [
        {
            "number": action,
            "name": action_name(names, action),
            "count": counts[action],
            "share": counts[action] / total,
            "width": round(100.0 * counts[action] / top, 2),
            "allowed": allowed[action] if allowed else None,
        }
        for action in shown
    ]
    if many:
        rest = sum(counts) - sum(row["count"] for row in rows)
        name = f"{len(counts) - SHOWN_BARS:,} others"
        rows.append({"number": None, "name": name, "count": rest, "share": rest / total, "width": 0, "allowed": None})
    return rows


def learning_panels(learning: Sequence[Json]) -> list[dict[str, Any]]:
    """Small multiples: a panel for each algorithm and metric, with a line for each seed."""
    return [
        {
            "algorithm": entry["algorithm"],
            "caution": entry["caution"],
            "panels": [_panel(curve) for curve in entry["curves"]],
        }
        for entry in learning
    ]


def _panel(curve: Json) -> dict[str, Any]:
    updates = curve["updates"]
    values = [v for seed in curve["seeds"] for v in seed["values"] if is_number(v)]
    log = bool(values) and min(values) > 0 and max(values) / min(values) > LOG_SCALE_RATIO
    scaled = [math.log10(v) for v in values] if log else values
    across = Axis(updates[0], updates[-1]) if len(updates) > 1 and updates[-1] > updates[0] else Axis(0, 1)
    up = fit_axis(scaled)
    ticks = up.ticks(3)
    if log:
        powers = range(math.ceil(up.lower), math.floor(up.upper) + 1)
        ticks = [{"x": up.at(p), "text": f"{10.0**p:g}"} for p in powers]
    lines = [
        {"seed": seed["seed"], "path": line_path(updates, seed["values"], across, up, log)} for seed in curve["seeds"]
    ]
    first, last = (f"{updates[0]:,}", f"{updates[-1]:,}") if updates else ("", "")
    return {
        "metric": curve["metric"],
        "log": log,
        "lines": lines,
        "ticks": ticks,
        "first": first,
        "last": last,
        "empty": not values,
    }


def line_path(updates: Sequence[Any], values: Sequence[Any], across: Axis, up: Axis, log: bool) -> str:
    """An SVG path in a 100 x 100 box; a missing value breaks the line."""
    pairs = list(zip(updates, values, strict=True))
    stride = max(1, math.ceil(len(pairs) / MAX_CURVE_POINTS))
    kept = pairs[::stride] if not pairs or (len(pairs) - 1) % stride == 0 else [*pairs[::stride], pairs[-1]]
    parts, pen = [], "M"
    for update, value in kept:
        if not is_number(value):
            pen = "M"
            continue
        y = 100.0 - up.at(math.log10(value) if log else value)
        parts.append(f"{pen}{across.at(update):g} {y:.2f}")
        pen = "L"
    return "".join(parts)


def heat_map(
    matrix: Sequence[Sequence[Number]], names: Sequence[str], *, pooled: bool = False
) -> dict[str, Any] | None:
    """Cells of logged actions (rows) against actions of the policy (columns), and the commonest disagreements.

    With `pooled` the last row and column stand for many actions together, and their common cell may be agreement or not.
    """
    size = len(matrix)
    named = [action_name(names, action) for action in range(size)]
    cells = [
        (share, row, column)
        for row, shares in enumerate(matrix)
        for column, share in enumerate(shares)
        if is_number(share) and share > 0 and not (pooled and row == column == size - 1)
    ]
    if not cells:
        return None
    cells.sort(reverse=True)
    top, step = cells[0][0], 100.0 / size
    drawn = [
        {
            "x": round(column * step, 3),
            "y": round(row * step, 3),
            # Square root, because a few pairs hold most decisions and the others must stay visible.
            "strength": round(math.sqrt(share / top), 3),
            "title": f"logged {named[row]}, policy {named[column]}: {percent(share, 2)}",
        }
        for share, row, column in cells[:MAX_CELLS]
        if share / top >= 1e-4
    ]
    texts = [name.removeprefix("action ") for name in named]
    texts = fitting(texts, MAX_LABEL)
    labels = [{"at": round((i + 0.5) * step, 3), "text": text} for i, text in enumerate(texts)]
    return {
        "size": size,
        "step": round(step, 4),
        "cells": drawn,
        "labels": labels if size <= MAX_NAMED_ACTIONS else [],
        "side": max(60, 12 + round(5.4 * max(map(len, texts)))),  # pixels: room for the longest label
        "titles": size <= MAX_NAMED_ACTIONS,
        "largest": top,
        "apart": matrix[-1][-1] if pooled else None,
        "disagreements": [
            {"logged": named[row], "policy": named[column], "share": share}
            for share, row, column in cells
            if row != column
        ][:6],
    }
