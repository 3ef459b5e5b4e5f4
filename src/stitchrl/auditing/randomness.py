"""How random the logged actions are, estimated by a mixture over episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.moments import blocks
from stitchrl.auditing.regression import features
from stitchrl.auditing.sample import Sample
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["randomness"]


LEAST_ROWS, LEAST_EPISODES = 1000, 50
ROUNDS = 60


ALL = 0.95
"""A share from which on we say "all"."""


ONE_ACTION = 0.95
"""Share of one action in a region from which on it is near-deterministic there."""


NARROW = 0.05
"""Spread about the mean action, relative to the spread of uniform actions, that counts as near-deterministic."""


UNEVEN = 0.1
"""Total variation from a uniform up to which actions look uniform."""


def randomness(log: Dataset, facts: Facts) -> dict[str, Any]:
    """An estimate of how random the logged actions look; every number None where the log is too small to say.

    `random_share`: the part of episodes that look drawn uniformly (over the allowed actions, or the box of the action).
    It is the weight of the uniform part in a mixture, by episode, of uniform actions and one policy (shares of actions in
    each region, or a normal about a regression), fitted by expectation-maximisation. Episodes of one or two steps do not
    tell the parts apart: then it is None, or 1 where the actions as a whole look uniform.
    `near_deterministic_share`: rows where one action has 95% (logged probabilities where there are any, else shares in the
    region); for continuous actions, rows of regions where actions spread about their regression by less than 5% of a
    uniform's spread. A regression that misses the policy's shape adds to that spread, so this share is a lower bound.
    `effective_actions`: mean of exp(entropy) over rows or regions; `relative_spread`: of continuous actions about their
    regression, in units of a uniform's spread.
    """
    if facts.randomness is not None:
        return facts.randomness
    found: dict[str, Any] = dict.fromkeys(
        ("random_share", "near_deterministic_share", "effective_actions", "allowed_actions", "relative_spread", "gain")
    )
    if log.num_transitions >= LEAST_ROWS and facts.has_columns and log.action[:1].size:
        found |= _discrete(log, facts) if log.num_actions is not None else _continuous(log, facts)
    facts.randomness = found
    return found


def _discrete(log: Dataset, facts: Facts) -> dict[str, Any]:
    sample = facts.sample
    number = np.maximum(facts.allowed_count(sample.rows), 1)
    if log.behavior_probs is not None:
        entropy, certain = np.zeros(len(sample)), np.zeros(len(sample), bool)
        for rows in blocks(len(sample), log.behavior_probs.shape[1]):
            probs = log.behavior_probs[sample.rows[rows]].astype(np.float64)
            entropy[rows] = -(probs * np.log(np.maximum(probs, 1e-30))).sum(1)
            certain[rows] = probs.max(1) >= ONE_ACTION
    else:
        used, taken = np.unique(sample.action.clip(0, (log.num_actions or 1) - 1), return_inverse=True)
        counts = _counts_by_region(facts, facts.sample_region, taken, len(used))
        rows_of = counts.sum(1).clip(1)
        # Of shares p = c / z of counts c that sum to z, the entropy is log z - (sum of c log c) / z.
        parts = np.stack([counts, counts * np.log(np.maximum(counts, 1))])
        total, logs = _sums_over_allowed(facts, sample.rows, used, facts.sample_region, parts)
        # Miller and Madow's correction: few rows see less entropy than there is.
        missed = ((counts > 0).sum(1) - 1) / (2 * rows_of)
        entropy = np.log(np.maximum(total, 1)) - logs / np.maximum(total, 1) + missed[facts.sample_region]
        certain = (counts.max(1) >= ONE_ACTION * rows_of)[facts.sample_region]
    effective = float(np.minimum(np.exp(entropy), number).mean())
    found = {
        "near_deterministic_share": float((certain & (number > 1)).mean()),
        "effective_actions": effective,
        "allowed_actions": float(number.mean()),
    }
    part = facts.segments
    if log.num_episodes < LEAST_EPISODES or np.median(part.length) < 3:
        return found | ({"random_share": 1.0} if effective > ALL * number.mean() else {})
    actions = log.num_actions or 1
    region = facts.regions.of(facts.standardised(part.observation))
    used, taken = np.unique(part.action.clip(0, actions - 1), return_inverse=True)
    free_count = facts.allowed_count(part.rows)
    uniform = -np.log(np.maximum(free_count, 1))
    # Half a row for each action, whether it occurs or not; by region, so that a product does for all its rows.
    allowed = None
    if log.action_mask is not None:
        allowed = [facts.allowed(part.rows[region == r], used).astype(np.float32) for r in range(facts.regions.count)]

    def fit(weight: NumpyArray, half: NumpyArray) -> NumpyArray:
        counts = _counts_by_region(facts, region[~half], taken[~half], len(used), weight[~half])
        if allowed is None:
            free = counts.sum(1)[region] + 0.5 * free_count
        else:
            free = 0.5 * free_count
            for r, mask in enumerate(allowed):
                free[region == r] += mask @ counts[r].astype(np.float32)
        share = (counts[region[half], taken[half]] + 0.5) / np.maximum(free[half], 0.5)
        log_share: NumpyArray = np.log(share)
        return log_share

    share, _, gain = _uniform_part(part, uniform, fit, actions * facts.regions.count)
    return found | {"random_share": share, "gain": gain}


def _counts_by_region(
    facts: Facts, region: NumpyArray, taken: NumpyArray, actions: int, weight: NumpyArray | None = None
) -> NumpyArray:
    """(regions, actions) sums of the weights, or counts."""
    count = facts.regions.count
    sums = np.bincount(region * actions + taken, weight, count * actions).reshape(count, actions)
    return np.asarray(sums, np.float64)


def _sums_over_allowed(
    facts: Facts, rows: NumpyArray, actions: NumpyArray, region: NumpyArray, values: NumpyArray
) -> NumpyArray:
    """(k, n) sums over the actions allowed at each row of values (k, regions, actions) of its region."""
    if facts.log.action_mask is None:
        everything: NumpyArray = values.sum(2)[:, region]
        return everything
    sums = np.zeros((len(values), len(rows)))
    for r in range(facts.regions.count):
        inside = np.flatnonzero(region == r)
        for block in blocks(len(inside), len(actions)):
            allowed = facts.allowed(rows[inside[block]], actions).astype(np.float64)
            sums[:, inside[block]] = values[:, r] @ allowed.T
    return sums


def _continuous(log: Dataset, facts: Facts) -> dict[str, Any]:
    sample = facts.sample
    low, high = np.quantile(sample.action, [0.001, 0.999], axis=0)
    live = high > low
    if not live.any():
        return {"near_deterministic_share": 1.0, "relative_spread": 0.0, "random_share": 0.0}
    width = (high - low)[live]
    left = facts.action_residuals[:, live] / (width / np.sqrt(12))
    spread = np.stack(
        [
            np.sqrt((left[facts.sample_region == r] ** 2).mean()) if (facts.sample_region == r).any() else np.nan
            for r in range(facts.regions.count)
        ]
    )
    found: dict[str, Any] = {
        "near_deterministic_share": float((spread[facts.sample_region] < NARROW).mean()),
        "relative_spread": float(np.sqrt((left**2).mean())),
    }
    part = facts.segments
    if log.num_episodes < LEAST_EPISODES or np.median(part.length) < 3:
        return found
    x = features(part.observation, full_up_to=6)
    action = part.action[:, live]
    uniform = np.full(len(action), -np.log(width).sum())

    def fit(weight: NumpyArray, half: NumpyArray) -> NumpyArray:
        w = np.maximum(weight[~half], 1e-6)
        weighed = (x[~half] * w[:, None]).T
        gram = weighed @ x[~half]
        gram[np.diag_indices(len(gram))] += 1e-4 * w.sum()
        found = np.linalg.solve(gram, weighed @ action[~half])
        variance = (w[:, None] * (action[~half] - x[~half] @ found) ** 2).sum(0) / w.sum()
        variance = np.maximum(variance, (1e-3 * width) ** 2)
        error = action[half] - x[half] @ found
        density: NumpyArray = -0.5 * (error**2 / variance + np.log(2 * np.pi * variance)).sum(1)
        return density

    share, belongs, gain = _uniform_part(part, uniform, fit, x.shape[1] * action.shape[1])
    if share and not _looks_uniform(action, low[live], high[live], belongs):
        share = 0.0  # broad, but not uniform: a noisy policy
    return found | {"random_share": share, "gain": gain}


def _looks_uniform(action: NumpyArray, low: NumpyArray, high: NumpyArray, weight: NumpyArray) -> bool:
    """Whether the weighted actions fill each of ten equal bins of every number alike, to a tenth in total variation."""
    bins = np.clip((action - low) / (high - low) * 10, 0, 9.999).astype(np.int64)
    for column in bins.T:
        share = np.bincount(column, weight, 10) / weight.sum()
        if 0.5 * np.abs(share - 0.1).sum() > UNEVEN:
            return False
    return True


def _uniform_part(part: Sample, uniform: NumpyArray, fit: Any, parameters: int) -> tuple[float, NumpyArray, float]:
    """A mixture by episode of the uniform part and one or two policies (two, so that a broad policy need not pass for
    chance), from several starts; the best by BIC.

    Returns:
        Weight of the uniform part; (rows,) probability that a row's episode belongs to it; what the mixture gains in
        log-likelihood an episode over the better of the uniform part and one policy alone.
    """
    _, episode = np.unique(part.episode, return_inverse=True)
    even = episode % 2 == 0

    def score(weight: NumpyArray) -> NumpyArray:
        """(episodes,) log-likelihood under a policy fitted with these weights, each half by the other's fit."""
        rows = np.zeros(len(episode))
        rows[even], rows[~even] = fit(weight, even), fit(weight, ~even)
        return np.bincount(episode, rows)

    flat = np.bincount(episode, uniform)
    whole = score(np.ones(len(episode)))
    single = max(float(flat.sum()), float(whole.sum()))
    random_first = float(whole.sum() < flat.sum())
    best, belongs_best = single, np.full(len(flat), random_first)
    rank = np.argsort(np.argsort((whole - flat) / np.bincount(episode))) / len(flat)
    for cuts in ((0.9,), (0.5,), (0.2,), (0.33, 0.67)):
        label = np.searchsorted(cuts, rank)  # 0: uniform; the others: policies
        belongs = (label[:, None] == np.arange(len(cuts) + 1)).astype(float)
        last = -np.inf
        for _ in range(ROUNDS // 3):
            weight = np.clip(belongs.mean(0), 1e-3, 1)
            policies = [score(belongs[episode, k]) for k in range(1, len(weight))]
            logs = np.stack([flat, *policies], 1) + np.log(weight / weight.sum())
            total = np.logaddexp.reduce(logs, axis=1)
            belongs = np.exp(logs - total[:, None])
            if total.sum() < last + 1e-3 * len(flat):
                break
            last = total.sum()
        value = float(total.sum()) - 0.5 * (len(cuts) - 1) * parameters * np.log(len(episode))
        if value > best:
            best, belongs_best = value, belongs[:, 0]
    return float(belongs_best.mean()), belongs_best[episode], (best - single) / len(flat)
