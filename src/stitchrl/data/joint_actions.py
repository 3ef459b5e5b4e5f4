"""Discrete actions that are one number for several choices or doses: their parts, their ranges, their names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stitchrl.types import NumpyArray

__all__ = ["bounds_of", "names_of", "parts_of"]

Edges = Sequence[Sequence[float]]


def parts_of(action: Int[NumpyArray, " N"], counts: Sequence[int]) -> Int[NumpyArray, "N parts"]:
    """The choice of each part; the last part changes fastest."""
    return np.stack(np.unravel_index(action, tuple(counts)), axis=1).astype(np.int32)


def bounds_of(
    parts: Int[NumpyArray, "N parts"], bins: Edges, low: Sequence[float] | None, high: Sequence[float] | None
) -> Float[NumpyArray, "N parts 2"]:
    """Where the bin of each part begins and ends, within `low` and `high`; the outermost are open (infinite) without."""
    first, last = low or (-math.inf,) * len(bins), high or (math.inf,) * len(bins)
    edges = [np.array([a, *np.clip(e, a, b), b]) for a, e, b in zip(first, bins, last, strict=True)]
    return np.stack([np.stack([e[parts[:, j]], e[parts[:, j] + 1]], axis=1) for j, e in enumerate(edges)], axis=1)


def names_of(names: Sequence[str], counts: Sequence[int], bins: Edges | None) -> tuple[str, ...]:
    """A name for each joint action: "fluid below 250, vasopressor from 0.3", or "arm 2, speed 0"."""
    chosen = [[str(i) for i in range(n)] for n in counts] if bins is None else [_doses(edges) for edges in bins]
    parts = [[f"{name} {choice}" for choice in choices] for name, choices in zip(names, chosen, strict=True)]
    return tuple(", ".join(joint) for joint in itertools.product(*parts))


def _doses(edges: Sequence[float]) -> list[str]:
    """The bins between edges, these with as many digits as tell them apart."""
    texts = next((t for t in ([f"{e:.{n}g}" for e in edges] for n in (6, 9, 12)) if len(set(t)) == len(edges)), None)
    texts = texts or [repr(float(e)) for e in edges]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    return [f"below {texts[0]}", *between, f"from {texts[-1]}"]
