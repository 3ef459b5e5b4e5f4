"""Checks of the rewards: whether they vary, stand in the right rows, and have a usable scale without wild values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.regression import features, residuals, waves, z_of_mean
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = [
    "returns_constant",
    "reward_beside_end",
    "reward_misaligned",
    "reward_outliers",
    "reward_scale",
    "reward_sparse",
]

SPARSE_SHARE = 0.01
"""Share of episodes with another return than the commonest below which rewards are sparse."""
LEAST_REWARDED = 100
"""With fewer episodes that differ from the commonest return, the mean return is known no better than to 10%."""
WILD = 50.0
"""A reward is wild when it lies this many times as far from the usual one as nine of ten others do. The largest of ten
million normal values lies three times as far, the largest of a million log-normal values (sigma 1) thirty times."""
WILD_SHARE = 0.01
"""With a larger share of wild rewards they belong to the distribution."""
SMALLEST_SCALE, LARGEST_SCALE = 1e-3, 1e4
"""Standard deviations of the returns that networks with standard settings can learn."""
BETTER_FIT, FULL_FIT = 0.7, 0.1
"""The squared error of the shifted fit over that of the fit in place, below which the shift is likely, and certain."""
LEAST_EXPLAINED = 0.3
"""Share of the variance of the reward that the shifted fit must explain."""
Z = 5.0
"""Standard errors by which the shifted fit must be better, in view of the many comparisons of an audit."""
BESIDE, ELSEWHERE = 0.1, 0.05
"""For rewards paid once, at the end of an episode: the share that may lie one row beside the end, and anywhere else."""
FITTED_ROWS = 6144
"""The fits use at most this many rows."""
WAVES = 200
"""Random cosines added to the quadratic terms: a shift of one row shows only where curved rewards are fitted well."""


def returns_constant(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """All episodes have the same return, so there is nothing to learn from."""
    returns = facts.scan.returns
    if log.num_episodes > 1 and returns.min() == returns.max():
        yield Finding(
            "returns-constant",
            "error",
            "reward",
            f"every episode has the return {returns[0]:g}",
            "returns that differ between episodes",
            "Check that the reward column holds the outcome.",
        )


def reward_sparse(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Hardly any episode has another return than the commonest one."""
    returns = facts.scan.returns
    values, counts = np.unique(returns, return_counts=True)
    usual = values[counts.argmax()]
    paid = int((returns != usual).sum())
    share = paid / len(returns)
    if log.num_episodes < 200 or not paid or share > 10 * SPARSE_SHARE:
        return
    if share < SPARSE_SHARE or paid < LEAST_REWARDED:
        single = log.num_transitions == log.num_episodes
        each, paying = ("decisions", "reward") if single else ("episodes", "return")
        yield Finding(
            "reward-sparse",
            "warning" if paid < LEAST_REWARDED else "info",
            "reward",
            f"{paid:,} of {log.num_episodes:,} {each} ({share:.2%}) have another {paying} than {usual:g}",
            f"at least {LEAST_REWARDED} such {each}, which tell good from bad",
            f"Intervals will be wide: collect more {each}, or reward something that is reached more often.",
        )


def reward_outliers(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rewards far larger than the others: a placeholder, or another unit. A few such rows decide every sum."""
    reward, moments = facts.sample.reward, facts.scan.reward
    if len(reward) < 100:
        return
    values, counts = np.unique(reward, return_counts=True)
    usual = values[counts.argmax()] if counts.max() > 0.1 * len(reward) else float(np.median(reward))
    others = np.abs(reward[reward != usual] - usual)
    if len(others) < 20:
        return
    typical = float(np.quantile(others, 0.9))
    low, high = float(moments.low[0]), float(moments.high[0])
    worst = low if usual - low > high - usual else high
    if typical > 0 and abs(worst - usual) > WILD * typical:
        share = float((others > WILD * typical).sum() / len(reward))
        if share > WILD_SHARE:
            return
        yield Finding(
            "reward-outlier",
            "warning",
            "reward",
            f"there is a reward of {worst:g}, while nine of ten rewards other than {usual:.3g} lie within {typical:.3g} of it; "
            f"{share:.2%} of rows are as far out",
            f"rewards within {WILD:g} times that distance",
            "Look for a placeholder or another unit: one such row decides every mean.",
        )


def reward_scale(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Returns too large or too small for the usual learning rates."""
    spread = float(facts.scan.returns.std())
    if spread and not SMALLEST_SCALE <= spread <= LARGEST_SCALE:
        yield Finding(
            "reward-scale",
            "info",
            "reward",
            f"the standard deviation of the returns is {spread:.3g}",
            f"a standard deviation from {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}",
            "Divide the rewards by it for training; learned values are then in units of it.",
        )


def reward_beside_end(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rewards that are paid once an episode, but one row before its end or in its first row: shifted by one row."""
    sample = facts.sample
    values, counts = np.unique(sample.reward, return_counts=True)
    if len(values) < 2 or counts.max() < 0.5 * len(sample):
        return
    paid = (sample.reward != values[counts.argmax()]) & (sample.length >= 3)
    lengths = sample.length[paid]
    if paid.sum() < 30 or len(np.unique(lengths)) < 3:
        return
    from_end = lengths - 1 - sample.position[paid]
    before, first, at_end = (from_end == 1).mean(), (sample.position[paid] == 0).mean(), (from_end == 0).mean()
    if max(before, first) > BESIDE and before + first + at_end > 1 - ELSEWHERE and min(before, first) < ELSEWHERE:
        place = "the second-to-last row" if before >= first else "the first row"
        yield Finding(
            "reward-misaligned",
            "warning",
            "reward",
            f"{max(before, first):.0%} of the rewards in longer episodes are in {place}, and {at_end:.0%} in the last row",
            "an outcome in the last row, whose action it follows",
            f"Shift the reward column by one row {'down' if before >= first else 'up'}, inside its episode.",
        )


def reward_misaligned(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rewards that the step before or after explains far better than their own step: the column is shifted by one row.

    A step is (observation, action, next observation). Ridge regressions on quadratic features and random cosines (Rahimi
    and Recht 2007) predict the reward in episodes that they were not fitted on. This can miss a shift: where rewards come
    late, or depend on states and hardly on actions, two of the three fits are equally good.
    """
    sample = facts.sample
    inner = np.flatnonzero((sample.position >= 1) & (sample.position + 2 < sample.length))
    if len(inner) < 500 or not facts.has_columns:
        return
    if len(inner) > FITTED_ROWS:
        inner = np.sort(draws(6).choice(inner, FITTED_ROWS, replace=False))
    rows, episode = sample.rows[inner], sample.episode[inner]
    # Fewer than four episodes are cut into stretches of rows, which still predict one another.
    group = episode if len(np.unique(episode)) >= 4 else rows // 50
    reward = sample.reward[inner] - sample.reward[inner].mean()
    spread = float((reward**2).mean())
    if spread == 0:
        return
    left = {o: residuals(_step(log, facts, rows + o), reward[:, None], group)[:, 0] ** 2 for o in (-1, 0, 1)}
    best = min((-1, 1), key=lambda o: left[o].mean())
    explained = {o: 1 - left[o].mean() / spread for o in left}
    ratio = left[best].mean() / max(left[0].mean(), 1e-12 * spread)
    if ratio < BETTER_FIT and explained[best] > LEAST_EXPLAINED and z_of_mean(left[0] - left[best], group) > Z:
        late = best == -1
        sure = ratio < FULL_FIT and explained[best] > 0.9
        yield Finding(
            "reward-misaligned",
            "error" if sure else "warning",
            "reward",
            f"the step {'before' if late else 'after'} explains {explained[best]:.1%} of the variance of a row's reward, and its "
            f"own step {max(explained[0], 0):.1%}",
            "each reward in the row of the action that it follows",
            f"Shift the reward column by one row {'up' if late else 'down'}, inside its episode.",
        )


def _step(log: Dataset, facts: Facts, rows: NumpyArray) -> NumpyArray:
    """Regression features of the step that each row makes: observation, action, next observation."""
    following = log.next_observation_index[rows]
    following = np.where(following == NO_OBSERVATION, log.observation_index[rows], following)
    action = log.action[rows]
    if log.num_actions is not None:
        action = facts.one_hot(action)
    parts = (
        facts.observation_at(log.observation_index[rows]),
        np.where(np.isfinite(action), action, 0).astype(np.float64),
        facts.observation_at(following),
    )
    return np.concatenate([features(*parts, full_up_to=12), waves(*parts, count=WAVES)], 1)
