"""Which quantity is estimated, the padded episodes it is estimated from, and sums of ratios of their contributions."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.elapsed import name_of_unit
from stitchrl.errors import EvaluationError
from stitchrl.types import NumpyArray

__all__ = ["Contributions", "Episodes", "Estimand", "influence_of_ratios"]


@dataclasses.dataclass(frozen=True)
class Estimand:
    """Which quantity an estimate is of: expected sum of gamma**t * reward over the first `horizon` steps.

    Estimates of different estimands are never compared.

    Attributes:
        gamma: discount in [0, 1].
        horizon: number of steps; None means until terminated.
        time_unit: the unit in which t is the time since the first decision, as "hour"; None: t counts steps.
    """

    gamma: float
    horizon: int | None = None
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise EvaluationError(f"`horizon` must be at least 1 step; got {self.horizon}.")

    def __str__(self) -> str:
        span = "until terminated" if self.horizon is None else f"first {self.horizon} steps"
        per = "" if self.time_unit is None else f" per {self.time_unit}"
        return f"gamma {self.gamma:g}{per}, {span}"

    @classmethod
    def of(cls, log: Dataset, gamma: float | None = None, horizon: int | None = None) -> Estimand:
        """The estimand on a log: discounted by steps, or by time where the log's schema has a `time_unit`.

        Args:
            log: gives the unit of time, and the discount where `gamma` is None.
            gamma: discount; None takes the schema's.
            horizon: number of steps, 1 or more; None means until terminated.

        Raises:
            EvaluationError: a horizon below 1.
        """
        gamma = log.schema.gamma if gamma is None else float(gamma)
        return cls(gamma, horizon, _unit_of(log))


def _unit_of(log: Dataset) -> str | None:
    """What the log's unit of time is called; None where it counts steps."""
    unit, time = log.schema.time_unit, log.time
    if unit is None or time is None:
        return None
    column = log.schema.columns.get("time", "time")
    return name_of_unit(unit, time, column if isinstance(column, str) else "time")


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """A statistic that is a sum of ratios of means over n episodes: sum_k mean(numerator[:, k]) / mean(denominator[:, k]).

    Plain averages have one column and denominator 1. Self-normalised estimators put weights in the denominator, so
    that resampling episodes renormalises inside each resample.

    Attributes:
        numerator: (n, K) float64.
        denominator: (n, K) float64, columns with mean above 0.
    """

    numerator: Float[NumpyArray, "n K"]
    denominator: Float[NumpyArray, "n K"]

    @classmethod
    def average(cls, values: Float[NumpyArray, " n"]) -> Contributions:
        """The mean of one number an episode."""
        column = np.asarray(values, np.float64)[:, None]
        return cls(column, np.ones_like(column))

    @classmethod
    def ratios(cls, numerator: Float[NumpyArray, "n K"], denominator: Float[NumpyArray, "n K"]) -> Contributions:
        """The sum of the ratios of columns that count; a column whose numerators, or whose denominators, are all 0 counts as 0.

        Args:
            numerator: (n, K).
            denominator: (n, K), at least 0.
        """
        used = (numerator != 0).any(0) & (denominator.sum(0) > 0)
        if not used.any():
            return cls.average(np.zeros(len(numerator)))
        if used.all():
            return cls(numerator, denominator)
        return cls(numerator[:, used], denominator[:, used])

    @property
    def n(self) -> int:
        """How many episodes it is computed from."""
        return len(self.numerator)

    @property
    def linear(self) -> bool:
        """Whether it is a plain average of one number an episode."""
        return bool((self.denominator == 1.0).all())

    def value(self) -> float:
        """The estimate."""
        return float((self.numerator.mean(0) / self.denominator.mean(0)).sum())

    def influence(self) -> Float[NumpyArray, " n"]:
        """(n,) linearised contribution of each episode, centred; its spread over sqrt(n) is the standard error."""
        return influence_of_ratios(self.numerator, self.denominator).sum(1)

    def replicate(self, counts: Float[NumpyArray, "R n"]) -> Float[NumpyArray, " R"]:
        """(R,) the estimate of each resample, its ratios formed anew; a column without weight there counts as 0."""
        return self.of_sums(counts @ self.columns())

    def columns(self) -> Float[NumpyArray, "n K"]:
        """The numerators, then the denominators, each column in one piece of memory."""
        return np.concatenate([self.numerator.T, self.denominator.T]).T

    def of_sums(self, sums: Float[NumpyArray, "R K"]) -> Float[NumpyArray, " R"]:
        """The sum of the ratios of the first half of the sums to the second; a column without weight counts as 0."""
        numerator, denominator = np.split(sums, 2, axis=1)
        ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
        return ratio.sum(1)


def influence_of_ratios(
    numerator: Float[NumpyArray, "n K"], denominator: Float[NumpyArray, "n K"]
) -> Float[NumpyArray, "n K"]:
    """(n, K) influence values of mean(numerator) / mean(denominator), column by column, by the delta method; 0 where the mean
    of a denominator is 0."""
    mean_n, mean_d = numerator.mean(0), denominator.mean(0)
    known = np.where(mean_d != 0, mean_d, 1.0)
    return np.where(mean_d != 0, (numerator - (mean_n / known) * denominator) / known, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """A log as (n, T) arrays, padded after each episode's end; n episodes, T steps of the longest.

    Attributes:
        reward: (n, T) float64, 0 in the padding.
        valid: (n, T) True on logged steps.
        terminated: (n,) True where the episode truly ended within the horizon or reached it; False where it was cut.
        index: (n, T) row of the log, 0 in the padding.
        discount: (T,) gamma**t; (n, T) where the log has a `time_unit`.
    """

    reward: Float[NumpyArray, "n T"]
    valid: Bool[NumpyArray, "n T"]
    terminated: Bool[NumpyArray, " n"]
    index: Int[NumpyArray, "n T"]
    discount: Float[NumpyArray, " T"] | Float[NumpyArray, "n T"]

    @classmethod
    def of(cls, log: Dataset, estimand: Estimand) -> Episodes:
        """Pad a log's episodes, keeping the first `horizon` steps.

        Raises:
            EvaluationError: the estimand and the log count time in different units, or one counts steps and the other time.
        """
        if estimand.time_unit != _unit_of(log):
            raise EvaluationError(
                f"The estimand has gamma per {estimand.time_unit or 'step'} and the log per {_unit_of(log) or 'step'}; "
                "take `Estimand.of(log)`."
            )
        lengths = log.episode_lengths
        longest = int(lengths.max())
        steps = longest if estimand.horizon is None else min(estimand.horizon, longest)
        time = np.arange(steps)
        valid = time[None, :] < lengths[:, None]
        index = np.where(valid, log.episode_start[:-1, None] + time[None, :], 0)
        last = log.episode_start[1:] - 1
        complete = log.terminated[last]
        if estimand.horizon is not None:
            complete = complete | (lengths >= estimand.horizon)
        reward = np.where(valid, log.reward[index].astype(np.float64), 0.0)
        discount = np.power(float(estimand.gamma), time)
        if estimand.time_unit is not None:
            discount = np.where(valid, log.reward_discount(estimand.gamma)[index], 0.0)
        return cls(reward, valid, complete, index, discount)

    @property
    def longest(self) -> int:
        """Steps of the longest episode, within the horizon."""
        return self.valid.shape[1]

    @cached_property
    def returns(self) -> Float[NumpyArray, " n"]:
        """(n,) discounted return of each episode as logged."""
        return self.discounted(self.reward)

    def discounted(
        self, values: Float[NumpyArray, "n T"], scale: Float[NumpyArray, " T"] | float = 1.0
    ) -> Float[NumpyArray, " n"]:
        """(n,) discounted sums of the numbers of each step, each multiplied by `scale`, which may have one number a step."""
        factor = self.discount * scale
        return values @ factor if factor.ndim == 1 else (values * factor).sum(1)

    def pad(self, per_transition: NumpyArray, fill: float = 0.0) -> Float[NumpyArray, "n T"]:
        """A per-transition column (N,) as (n, T) float64, `fill` in the padding."""
        return np.where(self.valid, per_transition[self.index].astype(np.float64), fill)
