"""What an estimate is, and the arrays every estimator works on."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import Array, NumpyArray

__all__ = [
    "Contributions",
    "Episodes",
    "Estimand",
    "Estimate",
    "action_probabilities",
    "policy_probabilities",
]


@dataclasses.dataclass(frozen=True)
class Estimand:
    """Which quantity an estimate is of: expected sum of gamma**t * reward over the first `horizon` steps.

    Attributes:
        gamma: discount in [0, 1].
        horizon: number of steps; None means until terminated.
    """

    gamma: float
    horizon: int | None = None

    def __str__(self) -> str:
        span = "until terminated" if self.horizon is None else f"first {self.horizon} steps"
        return f"gamma {self.gamma:g}, {span}"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number with what it is worth.

    Attributes:
        name: the estimator.
        value: in return units; None where the estimator cannot be applied (see `reasons`).
        lower, upper: two-sided interval at `confidence`; None where there is no honest one.
        standard_error: in return units; None where there is no interval.
        confidence: coverage aimed at, e.g. 0.95.
        estimand: which quantity.
        ess: effective sample size in episodes; None where no weights are involved.
        max_weight_share: largest share of one episode, or group of episodes, in all weight; None likewise.
        healthy: False means: do not lean on it.
        reasons: why it is not healthy, or not applicable, one sentence each.
        assumptions: what must hold for the interval to mean what it says.
        weight_based: uses products of probability ratios over whole episodes.
    """

    name: str
    value: float | None
    lower: float | None
    upper: float | None
    standard_error: float | None
    confidence: float
    estimand: Estimand
    ess: float | None = None
    max_weight_share: float | None = None
    healthy: bool = True
    reasons: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    weight_based: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        content = dataclasses.asdict(self)
        return content | {"estimand": dataclasses.asdict(self.estimand)}


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """An estimate as a sum of ratios of means over n episodes: sum_k mean(numerator[:, k]) / mean(denominator[:, k]).

    Plain averages have one column and denominator 1. Self-normalised estimators put weights in the denominator, so
    that resampling episodes renormalises inside each resample. Everything generic (value, standard error, interval,
    paired gain) follows from these two arrays.

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

    @property
    def value(self) -> float:
        """The estimate."""
        return float((self.numerator.mean(0) / self.denominator.mean(0)).sum())

    @cached_property
    def influence(self) -> Float[NumpyArray, " n"]:
        """(n,) linearised contribution of each episode, centred; its spread over sqrt(n) is the standard error."""
        mean_n, mean_d = self.numerator.mean(0), self.denominator.mean(0)
        return ((self.numerator - (mean_n / mean_d) * self.denominator) / mean_d).sum(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """A log as (n, T) arrays, padded after each episode's end; n episodes, T steps of the longest.

    Attributes:
        reward: (n, T) float64, 0 in the padding.
        valid: (n, T) True on logged steps.
        terminated: (n,) True where the episode truly ended within the horizon or reached it; False where it was cut.
        index: (n, T) row of the log, 0 in the padding.
        discount: (T,) gamma**t.
    """

    reward: Float[NumpyArray, "n T"]
    valid: Bool[NumpyArray, "n T"]
    terminated: Bool[NumpyArray, " n"]
    index: Int[NumpyArray, "n T"]
    discount: Float[NumpyArray, " T"]

    @classmethod
    def of(cls, log: Dataset, estimand: Estimand) -> Episodes:
        """Pad a log's episodes, keeping the first `horizon` steps."""
        lengths = log.episode_lengths
        longest = int(lengths.max())
        steps = longest if estimand.horizon is None else min(estimand.horizon, longest)
        if steps < 1:
            raise EvaluationError(f"`horizon` must be at least 1 step; got {estimand.horizon}.")
        time = np.arange(steps)
        valid = time[None, :] < lengths[:, None]
        index = np.where(valid, log.episode_start[:-1, None] + time[None, :], 0)
        last = log.episode_start[1:] - 1
        complete = log.terminated[last]
        if estimand.horizon is not None:
            complete = complete | (lengths >= estimand.horizon)
        reward = np.where(valid, log.reward[index].astype(np.float64), 0.0)
        return cls(reward, valid, complete, index, np.power(float(estimand.gamma), time))

    @property
    def returns(self) -> Float[NumpyArray, " n"]:
        """(n,) discounted return of each episode as logged."""
        return self.reward @ self.discount

    def pad(self, per_transition: NumpyArray, fill: float = 0.0) -> Float[NumpyArray, "n T"]:
        """A per-transition column (N,) as (n, T) float64, `fill` in the padding."""
        return np.where(self.valid, per_transition[self.index].astype(np.float64), fill)


PolicyLike = Any
"""Anything with `probs(obs, action_mask=...)` returning (B, A), NumPy or JAX."""
ROWS_AT_ONCE = 16384


def policy_probabilities(policy: PolicyLike, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
    """(B, A) float32 probabilities of a policy, native or duck-typed, checked.

    Raises:
        EvaluationError: no `probs`, a wrong shape, rows that are not probabilities, or mass on forbidden actions.
    """
    if not hasattr(policy, "probs"):
        raise EvaluationError(
            f"A policy over discrete actions needs `probs(obs, action_mask=...)`; {type(policy).__name__} has none."
        )
    ask = _compiled_probs if isinstance(policy, DiscretePolicy) else _plain_probs
    parts = []
    for start in range(0, len(obs), ROWS_AT_ONCE):
        # The last piece reaches back, so that every piece has one shape and compiles once.
        first = max(0, min(start, len(obs) - ROWS_AT_ONCE))
        rows = slice(first, first + ROWS_AT_ONCE)
        mask = None if action_mask is None else action_mask[rows]
        parts.append(np.asarray(ask(policy, obs[rows], mask), dtype=np.float32)[start - first :])
    probs = np.concatenate(parts)
    if probs.ndim != 2 or len(probs) != len(obs):
        raise EvaluationError(f"`probs` must give one row of probabilities an observation; got shape {probs.shape}.")
    if action_mask is not None and probs.shape != action_mask.shape:
        raise EvaluationError(f"The policy has {probs.shape[1]} actions; the log has {action_mask.shape[1]}.")
    if not np.isfinite(probs).all() or (probs < 0).any() or (np.abs(probs.sum(1) - 1) > 1e-3).any():
        raise EvaluationError("`probs` must be at least 0 and sum to 1 in every row; they do not.")
    if action_mask is not None and (np.where(action_mask, 0.0, probs) > 1e-6).any():
        raise EvaluationError(
            "A policy must give probability 0 to forbidden actions; it does not. Honour `action_mask` in `probs`."
        )
    return probs


@jax.jit
def _compiled_probs(policy: DiscretePolicy, obs: Array, action_mask: Array | None) -> Array:
    return policy.probs(obs, action_mask=action_mask)


def _plain_probs(policy: PolicyLike, obs: NumpyArray, action_mask: NumpyArray | None) -> Any:
    return policy.probs(obs, action_mask=action_mask)


def action_probabilities(policy: PolicyLike, log: Dataset) -> tuple[NumpyArray, NumpyArray]:
    """A policy's probabilities at every logged state and at every next state, (N, A) each.

    The probabilities of a next state are those of the next row; where that is not the next moment but the observation
    is stored, they are computed there with every action allowed; where there is none they are uniform, with weight 0.
    """
    here = policy_probabilities(policy, log.observation, log.action_mask)
    following = np.empty_like(here)
    following[:-1] = here[1:]
    following[~log.continues] = 1.0 / here.shape[1]
    known = np.flatnonzero(~log.continues & (log.next_observation_index >= 0) & ~log.terminated)
    if len(known):
        obs = log.observation_table[log.next_observation_index[known]]
        mask = None if log.next_action_mask is None else log.next_action_mask[known]
        following[known] = policy_probabilities(policy, obs, mask)
    return here, following
