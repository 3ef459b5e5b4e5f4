"""Spaces of observations and actions, as Minari and Stable-Baselines3 describe them, in terms of a schema."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from stitchrl.data.column_rule import ColumnRule

__all__ = ["Part", "action_of", "is_image", "observation_of"]

MOST_CATEGORIES = 1000
IMAGE_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Part:
    """One array of an observation or action; those of Dict and Tuple spaces have several.

    Attributes:
        column: what it is called in the log: "observations/position".
        path: the keys (numbers for a Tuple) that lead to it.
        kind: "Box", "Discrete", "MultiDiscrete", "MultiBinary" or "Text".
        shape: of one value.
        dtype: of its numbers.
        counts: choices of each part, where discrete.
        starts: the smallest choice of each part.
        low, high: bounds of a Box, flat; empty where nothing says so.
    """

    column: str
    path: tuple[str | int, ...]
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    counts: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def shifted(self) -> bool:
        """Its choices are numbered from something else than 0."""
        return any(self.starts)


def is_image(part: Part) -> bool:
    """Pixels: whole bytes in two or three axes, at least 32 each way (the channels aside)."""
    sides = sorted(part.shape, reverse=True)[:2]
    return part.kind == "Box" and part.dtype == "uint8" and len(part.shape) in (2, 3) and min(sides) >= IMAGE_SIDE


def observation_of(parts: list[Part]) -> tuple[list[Part], dict[str, ColumnRule], list[str]]:
    """Which parts make the observation, how they become numbers, and what a person should know."""
    numeric = [part for part in parts if part.kind != "Text"]
    notes = [f"{part.column} is text and was left out." for part in parts if part.kind == "Text"]
    vectors = [part for part in numeric if not is_image(part)]
    if vectors and len(vectors) < len(numeric):
        left = ", ".join(part.column for part in numeric if is_image(part))
        notes.append(f"The images {left} were left out: an observation is an image or numbers.")
        numeric = vectors
    rules = {}
    for part in numeric:
        if part.kind == "Discrete" and 2 <= part.counts[0] <= MOST_CATEGORIES:
            first = part.starts[0] if part.starts else 0
            rules[part.column] = ColumnRule(categories=tuple(str(first + i) for i in range(part.counts[0])))
    return numeric, rules, notes


def action_of(parts: list[Part]) -> tuple[dict[str, Any] | None, list[str]]:
    """The action settings of a schema, None where no schema can say it; and what a person should know.

    Choices numbered from elsewhere than 0 keep their names where the action is one number; parts of a multi-discrete
    action must be shifted by the reader (see `Part.shifted`).
    """
    if any(part.kind == "Text" for part in parts):
        return None, ["Its action holds text; name the columns to use in a schema."]
    discrete = [part for part in parts if part.kind != "Box"]
    if not discrete:
        return {"num_actions": None}, []
    if len(discrete) < len(parts):
        return None, [
            "Its action mixes numbers and choices, for which there is no policy here; name the columns to use in a "
            "schema."
        ]
    if len(parts) == 1 and parts[0].kind == "Discrete":
        count, first = parts[0].counts[0], parts[0].starts[0] if parts[0].starts else 0
        if first == 0:
            return {"num_actions": count}, []
        return {"action_categories": tuple(str(first + i) for i in range(min(count, 2**17)))}, []
    counts = tuple(n for part in parts for n in part.counts)
    notes = [f"{part.column} was shifted to start from 0." for part in parts if part.shifted]
    return {"action_counts": counts} if math.prod(counts) > 1 else {"num_actions": 2}, notes
