"""Fitted nuisances: what estimators ask to be fitted, and how it is fitted once for all of them."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float

from stitchrl.types import NumpyArray

__all__ = ["FittedValues"]


@dataclasses.dataclass(frozen=True, eq=False)
class FittedValues:
    """A fitted Q on a log's transitions, in return units.

    Attributes:
        q: (N,) of the logged action.
        v: (N,) of the policy.
    """

    q: Float[NumpyArray, " N"]
    v: Float[NumpyArray, " N"]
