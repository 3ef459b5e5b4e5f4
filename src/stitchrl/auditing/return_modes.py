"""Whether the returns of a log have one mode or two."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.types import NumpyArray

__all__ = ["Modes", "return_mode_numbers", "return_modes"]

MOST_RETURNS = 20_000
"""The fit uses at most this many episodes, drawn at random."""
LEAST_EPISODES = 50
LEAST_VALUES = 20
"""Returns with at most this many different values are not fitted."""
ROUNDS = 60
"""Rounds of expectation-maximisation from each start."""
SEPARATION = 2.0
"""Ashman's D above which two normals make two modes (Ashman, Bird and Zepf 1994)."""
STRONG = 10.0
"""Difference of BIC that is called very strong evidence (Kass and Raftery 1995)."""
LEAST_SHARE = 0.01
"""Share of the episodes that the smaller mode must hold."""
LEAST_STEP = 0.5
"""By how many standard deviations a decision must earn more in the better mode, on average, to be more than shorter or longer."""


@dataclasses.dataclass(frozen=True)
class Modes:
    """A mixture of two normals fitted to the returns.

    Attributes:
        share, mean, spread: weight, mean and standard deviation of each normal, the better one first.
        gain: by how much its BIC is better than that of a single normal.
        separation: Ashman's D, the distance of the means in units of the spreads.
        by_length: whether the modes differ in the length of their episodes and not in what a decision earns.
    """

    share: tuple[float, float]
    mean: tuple[float, float]
    spread: tuple[float, float]
    gain: float
    separation: float
    by_length: bool = False

    @property
    def distinct(self) -> bool:
        """Whether there are two modes beyond doubt."""
        return self.gain >= STRONG and self.separation >= SEPARATION and min(self.share) >= LEAST_SHARE

    @property
    def sentence(self) -> str:
        """Says that there are two modes; empty where there is doubt."""
        if not self.distinct:
            return ""
        return (
            f"Two modes fit these returns far better than one: about {self.share[0]:.0%} of episodes return around "
            f"{self.mean[0]:.4g}, the other {self.share[1]:.0%} around {self.mean[1]:.4g}."
        )


def return_modes(facts: Facts) -> Modes | None:
    """The two modes of the episode returns, fitted by expectation-maximisation; None where returns take few values or there
    are few episodes."""
    return facts.once(_fit)


def return_mode_numbers(facts: Facts) -> dict[str, Any] | None:
    """The modes as plain numbers, with the sentence that says what they mean."""
    modes = return_modes(facts)
    if modes is None:
        return None
    return {
        "share": list(modes.share),
        "mean": list(modes.mean),
        "spread": list(modes.spread),
        "bic_gain": modes.gain,
        "separation": modes.separation,
        "sentence": modes.sentence,
    }


def _fit(facts: Facts) -> Modes | None:
    returns, length = facts.scan.returns, np.diff(facts.log.episode_start)
    if len(returns) < LEAST_EPISODES:
        return None
    if len(returns) > MOST_RETURNS:
        kept = draws(7).choice(len(returns), MOST_RETURNS, replace=False)
        returns, length = returns[kept], length[kept]
    if len(np.unique(returns)) <= LEAST_VALUES or returns.std() == 0:
        return None
    x = (returns - returns.mean()) / returns.std()
    fits = [_fit_two_normals(x, x > np.quantile(x, cut)) for cut in (0.1, 0.3, 0.5, 0.7, 0.9)]
    fitted = [fit for fit in fits if fit is not None]
    if not fitted:
        return None
    likelihood, weight, mean, spread = max(fitted, key=lambda fit: fit[0])
    single = -0.5 * len(x) * (np.log(2 * np.pi) + 1)
    gain = 2 * (likelihood - single) - 3 * np.log(len(x))
    better = int(mean.argmax())
    order = [better, 1 - better]
    means, spreads = returns.mean() + returns.std() * mean[order], returns.std() * spread[order]
    return Modes(
        share=(float(weight[order[0]]), float(weight[order[1]])),
        mean=(float(means[0]), float(means[1])),
        spread=(float(spreads[0]), float(spreads[1])),
        gain=float(gain),
        separation=float(np.sqrt(2) * abs(mean[0] - mean[1]) / np.hypot(*spread)),
        by_length=_by_length(returns, length, means, spreads),
    )


def _by_length(returns: NumpyArray, length: NumpyArray, mean: NumpyArray, spread: NumpyArray) -> bool:
    """Whether a decision of the better episodes earns no more than one of the others, although lengths differ."""
    better = returns > (mean[0] * spread[1] + mean[1] * spread[0]) / spread.sum()
    if better.all() or not better.any() or length.min() == length.max():
        return False
    earned = returns / length
    return bool(earned[better].mean() - earned[~better].mean() < LEAST_STEP * earned.std())


def _fit_two_normals(x: NumpyArray, high: NumpyArray) -> tuple[float, NumpyArray, NumpyArray, NumpyArray] | None:
    """Log-likelihood, weights, means and spreads of two normals, from a start that divides the values in two."""
    if not high.any() or high.all():
        return None
    belongs = np.stack([high, ~high], 1).astype(float)
    for _ in range(ROUNDS):
        weight = belongs.mean(0)
        mean = (belongs * x[:, None]).sum(0) / np.maximum(belongs.sum(0), 1e-9)
        variance = (belongs * (x[:, None] - mean) ** 2).sum(0) / np.maximum(belongs.sum(0), 1e-9) + 1e-4
        logs = np.log(weight + 1e-12) - 0.5 * (np.log(2 * np.pi * variance) + (x[:, None] - mean) ** 2 / variance)
        total = np.logaddexp(logs[:, 0], logs[:, 1])
        belongs = np.exp(logs - total[:, None])
    return float(total.sum()), weight, mean, np.sqrt(variance)
