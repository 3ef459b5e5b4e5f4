"""Whether the returns of a log have one mode or two."""

from __future__ import annotations

import dataclasses

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.types import NumpyArray

__all__ = ["return_modes"]


RETURNS_LOOKED_AT = 20_000


ROUNDS = 60


LEAST_EPISODES = 50


@dataclasses.dataclass(frozen=True)
class Modes:
    """Two humps of the returns: weights, means and spreads, the better first; `gain` in BIC over one hump."""

    share: tuple[float, float]
    mean: tuple[float, float]
    spread: tuple[float, float]
    gain: float
    separation: float


def return_modes(facts: Facts) -> Modes | None:
    """A mixture of two normals fitted to the episode returns by expectation-maximisation; None where returns take few
    values or there are few episodes."""
    if facts.modes is None:
        facts.modes = (_fit_modes(facts.scan.returns),)
    found: Modes | None = facts.modes[0]
    return found


def _fit_modes(returns: NumpyArray) -> Modes | None:
    if len(returns) < LEAST_EPISODES:
        return None
    if len(returns) > RETURNS_LOOKED_AT:
        returns = np.random.default_rng(7).choice(returns, RETURNS_LOOKED_AT, replace=False)
    if len(np.unique(returns)) <= 20 or returns.std() == 0:
        return None
    x = (returns - returns.mean()) / returns.std()
    best: tuple[float, NumpyArray, NumpyArray, NumpyArray] | None = None
    for cut in (0.1, 0.3, 0.5, 0.7, 0.9):
        high = x > np.quantile(x, cut)
        if not high.any() or high.all():
            continue
        belongs = np.stack([high, ~high], 1).astype(float)
        for _ in range(ROUNDS):
            weight = belongs.mean(0)
            mean = (belongs * x[:, None]).sum(0) / np.maximum(belongs.sum(0), 1e-9)
            variance = (belongs * (x[:, None] - mean) ** 2).sum(0) / np.maximum(belongs.sum(0), 1e-9) + 1e-4
            logs = np.log(weight + 1e-12) - 0.5 * (np.log(2 * np.pi * variance) + (x[:, None] - mean) ** 2 / variance)
            total = np.logaddexp(logs[:, 0], logs[:, 1])
            belongs = np.exp(logs - total[:, None])
        if best is None or total.sum() > best[0]:
            best = float(total.sum()), weight, mean, np.sqrt(variance)
    if best is None:
        return None
    likelihood, weight, mean, spread = best
    one = -0.5 * len(x) * (np.log(2 * np.pi) + 1)
    gain = 2 * (likelihood - one) - 3 * np.log(len(x))
    better = int(mean.argmax())
    order = [better, 1 - better]
    separation = float(np.sqrt(2) * abs(mean[0] - mean[1]) / np.hypot(*spread))
    back = returns.mean() + returns.std() * mean[order], returns.std() * spread[order]
    return Modes(
        (float(weight[order[0]]), float(weight[order[1]])),
        (float(back[0][0]), float(back[0][1])),
        (float(back[1][0]), float(back[1][1])),
        float(gain),
        separation,
    )
