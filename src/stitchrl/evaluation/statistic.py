"""What an estimate is, statistically: a function of n episodes that resampling and pairing understand."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import Float

from stitchrl.types import NumpyArray

__all__ = ["Difference", "OfSums", "Statistic", "is_linear", "minus"]


@runtime_checkable
class Statistic(Protocol):
    """A number computed from n episodes.

    Intervals and paired gains need these methods alone. A statistic that is a plain average of one number an episode may say
    so by a property `linear` that is True; its interval then needs no resampling.
    """

    @property
    def n(self) -> int:
        """How many episodes it is computed from."""

    def value(self) -> float:
        """The number, every episode counted once."""

    def influence(self) -> Float[NumpyArray, " n"]:
        """Linearised contribution of each episode; sums to 0. Its spread over sqrt(n) is the standard error."""

    def replicate(self, counts: Float[NumpyArray, "R n"]) -> Float[NumpyArray, " R"]:
        """The number recomputed R times, with episode i counted `counts[r, i]` times.

        A self-normalised estimate divides by the weights of the resample, not by those of the whole.
        """


@runtime_checkable
class OfSums(Protocol):
    """A statistic that sees its episodes only through the sums of K columns over them.

    The sums of many such statistics in many resamples are one product of matrices.
    """

    def columns(self) -> Float[NumpyArray, "n K"]:
        """What is summed."""

    def of_sums(self, sums: Float[NumpyArray, "R K"]) -> Float[NumpyArray, " R"]:
        """The statistic from the sums of each resample; `replicate(counts)` is `of_sums(counts @ columns())`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """One statistic minus another on the same episodes, so that what both share cancels in every resample."""

    minuend: Statistic
    subtrahend: Statistic

    @property
    def n(self) -> int:
        """How many episodes both are computed from."""
        return self.minuend.n

    @property
    def linear(self) -> bool:
        """Whether both are plain averages of one number an episode."""
        return is_linear(self.minuend) and is_linear(self.subtrahend)

    def value(self) -> float:
        """The difference of the values."""
        return self.minuend.value() - self.subtrahend.value()

    def influence(self) -> Float[NumpyArray, " n"]:
        """The difference of the influence values, episode by episode."""
        return self.minuend.influence() - self.subtrahend.influence()

    def replicate(self, counts: Float[NumpyArray, "R n"]) -> Float[NumpyArray, " R"]:
        """The difference of the replicates, resample by resample."""
        return self.minuend.replicate(counts) - self.subtrahend.replicate(counts)


def is_linear(statistic: Statistic) -> bool:
    """Whether a statistic says, by its property `linear`, that it is a plain average of one number an episode."""
    return bool(getattr(statistic, "linear", False))


def minus(statistic: Statistic, other: Statistic) -> Difference:
    """The paired difference of two statistics of the same episodes."""
    assert statistic.n == other.n, f"statistics of {statistic.n} and of {other.n} episodes cannot be paired"
    return Difference(statistic, other)
