"""Compares the estimate of a policy with the returns that it brought when it was deployed.

    gap = mean deployed return - estimate

A positive gap means that the estimate was pessimistic, a negative one that it was optimistic. The interval of the gap joins that
of the estimate with that of the mean (Zou and Donner 2008, the method of variance estimates recovery), so that chance in either
is taken into account before anything is claimed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.results import Estimate
from stitchrl.types import NumpyArray

__all__ = ["AS_ESTIMATED", "BAND", "CANNOT_TELL", "OPTIMISTIC", "PESSIMISTIC", "DeployedGap", "deployed_gap"]

BAND = 0.1
"""A gap of at most this share of the estimate counts as small."""
LEAST_RETURNS = 10
"""Deployed episodes below which no interval of their mean can be trusted."""
AS_ESTIMATED, OPTIMISTIC, PESSIMISTIC, CANNOT_TELL = "as estimated", "optimistic", "pessimistic", "cannot tell"


@dataclasses.dataclass(frozen=True)
class DeployedGap:
    """What deployment says about an estimate.

    Attributes:
        estimate: the estimated value.
        deployed: the mean return of the deployed episodes.
        episodes: how many these are.
        cut: how many of them were cut before their end, so that their returns lack what would have followed.
        gap: deployed - estimate.
        lower, upper: the interval of the gap, at `confidence`.
        band: the gap that is called small, in units of return: 10% of the estimate.
        verdict: the estimate was "optimistic" or "pessimistic" (the gap is beyond the band, and its interval does not hold 0),
            the policy does "as estimated" (the interval lies inside the band), or one "cannot tell".
    """

    estimate: float
    deployed: float
    episodes: int
    cut: int
    gap: float
    lower: float
    upper: float
    confidence: float
    band: float
    verdict: str

    @property
    def sentence(self) -> str:
        """The gap with its interval and what it means."""
        relative = f", {self.gap / abs(self.estimate):+.0%} of the estimate" if self.estimate else ""
        found = (
            f"{self.episodes:,} deployed episodes returned {self.deployed:.4g} on average, where {self.estimate:.4g} was "
            f"estimated: a gap of {self.gap:+.3g} ({self.confidence:.0%} interval {self.lower:+.3g} to {self.upper:+.3g}"
            f"{relative})"
        )
        if self.cut:
            found += (
                f"; {self.cut:,} of these episodes were cut, and their returns lack what would have followed, so the gap is "
                "not known as well as its interval says"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def deployed_gap(estimate: Estimate, returns: Sequence[float] | NumpyArray | Dataset) -> DeployedGap:
    """Compare an estimate with deployed returns.

    Args:
        estimate: of the policy that was deployed, with an interval.
        returns: the return of each deployed episode, discounted and cut off as the estimate's estimand says; or the log that the
            deployed policy collected, of which these are computed.

    Raises:
        ConfigurationError: an estimate without an interval, or fewer than 10 returns, or one that is not a finite number.
    """
    if estimate.value is None or estimate.lower is None or estimate.upper is None:
        raise ConfigurationError(
            f"The estimate that deployed returns are compared with needs an interval; {estimate.name!r} has none. Choose "
            "another of the evaluation's estimates."
        )
    cut = 0
    if isinstance(returns, Dataset):
        if estimate.estimand.horizon is None:
            cut = int((~returns.terminated[returns.episode_start[1:] - 1]).sum())
        returns = _returns_of(returns, estimate.estimand)
    try:
        found = np.asarray(returns, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"`deployed` must be numbers, the return of each deployed episode, or a log of them; got {returns!r:.60}."
        ) from None
    if len(found) < LEAST_RETURNS or not np.isfinite(found).all():
        raise ConfigurationError(
            f"`deployed` must hold at least {LEAST_RETURNS} finite returns, one per episode; got {len(found)}, of which "
            f"{int(np.isfinite(found).sum())} are finite. Fewer say nothing about a mean."
        )
    mean = float(found.mean())
    low, high = _interval(found, estimate.confidence)
    value, gap = estimate.value, mean - estimate.value
    lower = gap - math.hypot(mean - low, estimate.upper - value)
    upper = gap + math.hypot(high - mean, value - estimate.lower)
    band = BAND * abs(value)
    if lower > 0 and gap > band:
        verdict = PESSIMISTIC
    elif upper < 0 and gap < -band:
        verdict = OPTIMISTIC
    else:
        verdict = AS_ESTIMATED if -band <= lower and upper <= band else CANNOT_TELL
    return DeployedGap(value, mean, len(found), cut, gap, lower, upper, estimate.confidence, band, verdict)


def _returns_of(log: Dataset, estimand: Estimand) -> Float[NumpyArray, " E"]:
    """(E,) the return of each episode, as the estimand counts it."""
    reward = log.reward.astype(np.float64) * log.reward_discount(estimand.gamma)
    if estimand.horizon is not None:
        reward = np.where(log.position < estimand.horizon, reward, 0.0)
    returns: Float[NumpyArray, " E"] = np.add.reduceat(reward, log.episode_start[:-1])
    return returns


def _interval(returns: Float[NumpyArray, " E"], confidence: float) -> tuple[float, float]:
    """The interval of the mean: Wilson's for returns of 0 and 1, Student's for others."""
    count = len(returns)
    if np.isin(returns, (0.0, 1.0)).all():
        found = stats.binomtest(int(returns.sum()), count).proportion_ci(confidence, method="wilson")
        return float(found.low), float(found.high)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * returns.std(ddof=1) / np.sqrt(count))
    return float(returns.mean()) - half, float(returns.mean()) + half
