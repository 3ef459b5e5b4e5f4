"""Spaces of observations and actions, as Minari and Stable-Baselines3 describe them, in terms of a schema.

A space has one or more components, each an array of its own: the entries of Dict and Tuple spaces.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from stitchrl.data.column_rule import ColumnRule

__all__ = ["Component", "action_of", "is_image", "observation_of"]

MOST_CATEGORIES = 1000
"""A discrete observation of more choices than this is taken as a number rather than as categories."""
IMAGE_SIDE = 32
"""The smallest height and width at which bytes count as an image."""


@dataclasses.dataclass(frozen=True)
class Component:
    """One array of an observation or action.

    Attributes:
        column: the name of its column in the log, such as "observations/position".
        path: the keys (numbers for a Tuple) that lead to it.
        kind: "Box", "Discrete", "MultiDiscrete", "MultiBinary" or "Text".
        shape: of one value.
        dtype: of its numbers.
        counts: number of choices of each of its numbers, if discrete.
        starts: the smallest choice of each of its numbers, if discrete.
        low, high: flat bounds of a Box; empty if they are not known.
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
        """Whether its choices are numbered from something other than 0."""
        return any(self.starts)


def is_image(component: Component) -> bool:
    """Whether it holds pixels: bytes with two or three axes, of which the two longest are at least `IMAGE_SIDE`."""
    sides = sorted(component.shape, reverse=True)[:2]
    return (
        component.kind == "Box"
        and component.dtype == "uint8"
        and len(component.shape) in (2, 3)
        and min(sides) >= IMAGE_SIDE
    )


def observation_of(components: list[Component]) -> tuple[list[Component], dict[str, ColumnRule], list[str]]:
    """The components that make the observation, the rules by which they become numbers, and notes for a user."""
    numeric = [component for component in components if component.kind != "Text"]
    notes = [f"{component.column} is text and was left out." for component in components if component.kind == "Text"]
    vectors = [component for component in numeric if not is_image(component)]
    if vectors and len(vectors) < len(numeric):
        left = ", ".join(component.column for component in numeric if is_image(component))
        notes.append(f"The images {left} were left out: an observation is an image or numbers.")
        numeric = vectors
    rules = {}
    for component in numeric:
        if component.kind == "Discrete" and 2 <= component.counts[0] <= MOST_CATEGORIES:
            first = component.starts[0] if component.starts else 0
            rules[component.column] = ColumnRule(categories=tuple(str(first + i) for i in range(component.counts[0])))
    return numeric, rules, notes


def action_of(components: list[Component]) -> tuple[dict[str, Any] | None, list[str]]:
    """The settings of a schema for an action, or None if no schema can describe it; and notes for a user.

    Choices that are not numbered from 0 become named actions if the action is one number. Those of a multi-discrete
    action must be shifted by the caller (see `Component.shifted`).
    """
    if any(component.kind == "Text" for component in components):
        return None, ["Its action holds text; name the columns to use in a schema."]
    discrete = [component for component in components if component.kind != "Box"]
    if not discrete:
        return {"num_actions": None}, []
    if len(discrete) < len(components):
        return None, [
            "Its action mixes numbers and choices, for which there is no policy here; name the columns to use in a "
            "schema."
        ]
    if len(components) == 1 and components[0].kind == "Discrete":
        count, first = components[0].counts[0], components[0].starts[0] if components[0].starts else 0
        if first == 0:
            return {"num_actions": count}, []
        return {"action_categories": tuple(str(first + i) for i in range(min(count, 2**17)))}, []
    counts = tuple(n for component in components for n in component.counts)
    notes = [f"{component.column} was shifted to start from 0." for component in components if component.shifted]
    return {"action_counts": counts} if math.prod(counts) > 1 else {"num_actions": 2}, notes
