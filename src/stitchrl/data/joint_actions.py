"""Joint discrete actions, where one number stands for several choices or doses: components, ranges and names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from stitchrl.types import Float, Int, NumpyArray

__all__ = ["bounds_of", "components_of", "names_of"]

Edges = Sequence[Sequence[float]]


def components_of(action: Int[NumpyArray, " N"], counts: Sequence[int]) -> Int[NumpyArray, "N components"]:
    """The choice that each action makes in each component; the last component changes fastest."""
    return np.stack(np.unravel_index(action, tuple(counts)), axis=1).astype(np.int32)


def bounds_of(
    components: Int[NumpyArray, "N components"],
    bins: Edges,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
) -> Float[NumpyArray, "N components 2"]:
    """Where the bin of each component begins and ends.

    Args:
        components: number of the bin in each component.
        bins: the edges between the bins of each component.
        low, high: where the outermost bins end; None leaves them infinite.
    """
    first, last = low or (-math.inf,) * len(bins), high or (math.inf,) * len(bins)
    edges = [np.array([a, *np.clip(e, a, b), b]) for a, e, b in zip(first, bins, last, strict=True)]
    ranges = [np.stack([e[components[:, j]], e[components[:, j] + 1]], axis=1) for j, e in enumerate(edges)]
    return np.stack(ranges, axis=1)


def names_of(names: Sequence[str], counts: Sequence[int], bins: Edges | None) -> tuple[str, ...]:
    """A name for each joint action, such as "fluid below 250, vasopressor from 0.3" or "arm 2, speed 0"."""
    chosen = [[str(i) for i in range(n)] for n in counts] if bins is None else [_doses(edges) for edges in bins]
    named = [[f"{name} {choice}" for choice in choices] for name, choices in zip(names, chosen, strict=True)]
    return tuple(", ".join(joint) for joint in itertools.product(*named))


def _doses(edges: Sequence[float]) -> list[str]:
    """A name for each bin; edges are written with as many digits as it takes to tell them apart."""
    texts = next((t for t in ([f"{e:.{n}g}" for e in edges] for n in (6, 9, 12)) if len(set(t)) == len(edges)), None)
    texts = texts or [repr(float(e)) for e in edges]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    return [f"below {texts[0]}", *between, f"from {texts[-1]}"]
