"""The picture of which actions a log tries in which region of the state space."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from stitchrl.reporting import charts
from stitchrl.reporting.numbers import Json, is_number, number, percent, short

__all__ = ["coverage_view"]

NUMBERED = 8
"""A coverage map with at most this many columns has room for a number in each cell."""
HEADED = 25
"""A coverage map with at most this many columns names each of them."""
SHORT_HEAD = 4
"""Column names with at most this many characters are written horizontally."""
MAX_HEAD = 24
"""Longer column names are cut."""


def coverage_view(coverage: Json | None, names: Sequence[str]) -> dict[str, Any] | None:
    """A row of cells for each region of the state space; a column is an action, or a number of a continuous action."""
    if not coverage or not coverage["matrix"] or not coverage["actions"]:
        return None
    share = coverage["kind"] == "share"
    heads = [charts.action_name(names, a) if share else f"number {a}" for a in coverage["actions"]]
    known = [v for row in coverage["matrix"] for v in row if is_number(v)]
    top = max([*known, 0.0 if share else 1.0]) or 1.0
    thin = coverage.get("thin") or [False] * len(coverage["regions"])
    parts = zip(coverage["regions"], coverage["row_share"], coverage["matrix"], thin, strict=True)
    rows = [_region(*part, heads, top, share) for part in parts]
    judged = [row for row in rows if not row["thin"]] or rows
    narrowest = max(judged, key=lambda row: row["narrow"])
    return {
        "share": share,
        "rows": rows,
        "columns": len(heads),
        "numbered": len(heads) <= NUMBERED,
        **_heads(heads),
        "legend": [
            {"strength": _strength(v, top, share), "text": percent(v, 0 if v >= 0.01 else 1) if share else short(v)}
            for v in ((0.001, 0.01, 0.05, 0.2, 0.5, 1.0) if share else (0.25, 0.5, 1.0, 2.0))
            if v <= top
        ],
        "thin": sum(row["thin"] for row in rows),
        "thin_below": coverage.get("thin_below"),
        "narrowest": narrowest,
        "fullest": max(row["seen"] for row in judged),
        "emptiest": min(row["seen"] for row in judged),
    }


def _region(
    name: str, part: float, values: Sequence[Any], thin: bool, heads: Sequence[str], top: float, share: bool
) -> Json:
    step = 100.0 / len(heads)
    cells = [
        {
            "x": round(i * step, 3),
            "strength": _strength(v, top, share),
            "text": percent(v, 0) if share else number(v, 2),
            "title": f"{heads[i]}: {percent(v)}" if share else f"{heads[i]}: {number(v, 2)}",
        }
        for i, v in enumerate(values)
        if is_number(v) and (v > 0 or len(heads) <= NUMBERED)
    ]
    never = [(i, i + 1) for i, v in enumerate(values) if is_number(v) and v <= 0]
    runs: list[tuple[int, int]] = []
    for first, last in never:
        if runs and runs[-1][1] == first:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))
    known = [(v, i) for i, v in enumerate(values) if is_number(v)]
    # The commonest action; for continuous actions, the number that varies least.
    (value, at) = (max(known) if share else min(known)) if known else (None, 0)
    match = re.fullmatch(r"(region \d+) \((.*)\)", name, re.DOTALL)
    return {
        "name": name,
        "head": match[2] if match else name,
        "tail": match[1] if match else "",
        "part": percent(part),
        "thin": thin,
        "cells": cells,
        "blanks": [{"x": round(i * step, 3), "width": round((j - i) * step, 3)} for i, j in runs],
        "width": round(step, 3),
        "seen": sum(v > 0 for v, _ in known),
        "extreme": heads[at],
        "extreme_value": value,
        "narrow": -math.inf if value is None else value if share else -sum(v for v, _ in known) / len(known),
        "mean": sum(v for v, _ in known) / len(known) if known else None,
    }


def _strength(value: float, top: float, share: bool) -> float:
    """Opacity of a cell: by the square root of a share, because a few actions hold most decisions; linear for spreads."""
    part = min(1.0, max(0.0, value / top))
    if not share:
        return round(part, 3)
    return (
        round(0.14 + 0.86 * math.sqrt(part), 3) if value > 0 else 0.0
    )  # a rare action must not look like one never taken


def _heads(heads: Sequence[str]) -> dict[str, Any]:
    """Names of the columns: horizontal where they are short, upright where long, and only some of them where they are many."""
    texts = [head.removeprefix("action ").removeprefix("number ") for head in heads]
    every = math.ceil(len(texts) / HEADED)
    if every > 1:
        texts = [str(i) if len(text) > SHORT_HEAD else text for i, text in enumerate(texts)]
        every = next((n for n in (2, 5, 10, 20) if n >= every), every)
    texts = charts.fitting(texts, MAX_HEAD)
    longest = max(map(len, texts))
    return {
        "upright": longest > SHORT_HEAD,
        "side": 10 + round(5.6 * longest),  # pixels: room for the longest upright name
        "heads": [
            {"x": round(100.0 * (i + 0.5) / len(texts), 3), "text": text, "minor": i // every % 2 == 1}
            for i, text in enumerate(texts)
            if i % every == 0
        ],
        "crowded": longest > 1 and len(texts) / every > 14,
    }
