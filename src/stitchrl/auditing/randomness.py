"""How random the logged actions are, estimated by a mixture over episodes, and what that means for learning from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.auditing.evenness import even_where_seen_often, looks_uniform
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.moments import blocks
from stitchrl.auditing.regression import features
from stitchrl.auditing.uniform_mixture import uniform_part
from stitchrl.messages import likelier
from stitchrl.types import NumpyArray

__all__ = ["Randomness", "randomness", "randomness_numbers"]

LEAST_ROWS, LEAST_EPISODES, LEAST_LENGTH = 1000, 50, 3
"""Smaller logs, and mixtures over shorter episodes, are not estimated."""
ALL = 0.95
"""Effective actions over allowed actions from which on a log of short episodes counts as uniformly random."""
ONE_ACTION = 0.95
"""Probability of one action from which on a decision counts as near-deterministic."""
NARROW = 0.05
"""Spread about the mean action, relative to the spread of uniform actions, below which a region counts as
near-deterministic."""
LEAST_GAIN = 0.1
"""Nats per episode by which the mixture must beat a single part before the share of random episodes counts as evidence."""
LEAST_POLICY = 0.03
"""Share of episodes that follow a policy below which the log counts as random throughout."""
MOSTLY_CERTAIN = 0.5
"""Share of near-deterministic decisions above which the log counts as near-deterministic."""
HARDLY, SOME, NEARLY_UNIFORM = 0.05, 0.4, 0.9
"""Degrees of chance, from 0 (always the same action) to 1 (uniform), between which the words for it change."""


@dataclasses.dataclass(frozen=True)
class Randomness:
    """An estimate of how random the logged actions look; every number is None where the log is too small to say.

    Attributes:
        random_share: the share of episodes that look drawn uniformly (over the allowed actions, or the box of the action).
            It is the weight of the uniform part in a mixture, by episode, of uniform actions and a policy (action shares in
            each region, or a normal about a regression), fitted by expectation-maximisation. Episodes of one or two steps
            do not tell the parts apart: then it is None, or 1 where the actions as a whole look uniform.
        near_deterministic_share: the share of rows where one action has 95% (by logged probabilities where there are any,
            otherwise by shares in the region); for continuous actions, of rows in regions where actions spread about their
            regression by less than 5% of a uniform's spread. A regression that misses the shape of the policy adds to that
            spread, so this share is a lower bound.
        effective_actions: the exponential of the entropy, averaged over rows or regions.
        allowed_actions: the mean number of allowed actions.
        relative_spread: the spread of continuous actions about their regression, in units of a uniform's spread.
        gain: by how many nats per episode the mixture beats the better of its parts alone.
    """

    random_share: float | None = None
    near_deterministic_share: float | None = None
    effective_actions: float | None = None
    allowed_actions: float | None = None
    relative_spread: float | None = None
    gain: float | None = None

    @property
    def chance(self) -> float | None:
        """How much chance there is in the actions, from 0 (always the same action) to 1 (uniformly random)."""
        if self.relative_spread is not None:
            return min(1.0, max(0.0, self.relative_spread))
        if self.effective_actions is None or self.allowed_actions is None:
            return None
        if self.allowed_actions <= 1:
            return 0.0
        return min(1.0, max(0.0, (self.effective_actions - 1) / (self.allowed_actions - 1)))

    @property
    def deterministic(self) -> bool:
        """Whether most decisions are determined by the observation."""
        return self.near_deterministic_share is not None and self.near_deterministic_share > MOSTLY_CERTAIN

    @property
    def uniform(self) -> bool:
        """Whether the actions look uniformly random throughout."""
        return self.random_share is not None and self.random_share >= 1 - LEAST_POLICY

    @property
    def proven_mixture(self) -> bool:
        """Whether there is evidence that some episodes are random and the others follow a policy."""
        return self.gain is not None and self.gain > LEAST_GAIN and bool(self.random_share) and not self.uniform

    @property
    def meaning(self) -> str:
        """What this much chance means for learning and evaluation, in a sentence or two; empty where it is unknown."""
        chance = self.chance
        if chance is None:
            return ""
        if self.deterministic or chance < HARDLY:
            return (
                "Close to no chance: in most places the log holds one action only. Policies close to the behaviour can be "
                "evaluated; for others an estimate rests on a model alone."
            )
        if self.uniform or (self.relative_spread is None and chance > NEARLY_UNIFORM):
            return "Close to uniformly random: good for comparing policies, poor for imitation."
        if chance < SOME:
            return (
                "Some chance: policies that differ moderately from the behaviour can be evaluated. The longer the episodes, "
                "the faster the importance weights grow."
            )
        if self.relative_spread is not None:
            return (
                "Spread widely, but not like uniformly random actions: a noisy policy, several policies, or a policy whose "
                "shape a regression cannot follow. Log its probabilities rather than rely on a fit."
            )
        return "Much chance: many policies can be evaluated from this log; imitation would be as noisy as the log."

    @property
    def explanations(self) -> dict[str, str]:
        """What each number that is known counts, to be read after the number itself."""
        texts = {
            "effective_actions": "effective actions: among similar observations, the choice varies as much as a uniform draw "
            "from this many of the allowed actions (the mean of exp(entropy))",
            "relative_spread": "is the spread of the actions about a regression on the observation; uniformly random actions "
            "have 1, a deterministic policy 0. It is an upper bound: what the regression misses counts as chance",
            "near_deterministic_share": self._certain_text(),
            "random_share": self._random_text(),
        }
        return {name: text for name, text in texts.items() if getattr(self, name) is not None}

    def _certain_text(self) -> str:
        if self.relative_spread is None:
            rule = f"of decisions were made where one action is nearly certain ({ONE_ACTION:.0%} or more)"
        else:
            rule = f"of decisions, at least, were made where the actions hardly vary (relative spread under {NARROW:g})"
        return f"{rule}: there the log holds nothing to compare that action with"

    def _random_text(self) -> str:
        text = "of episodes look like uniformly random actions"
        if self.uniform or not self.random_share:
            return text
        text += "; the other episodes follow a policy"
        if self.gain is None:
            return text
        gain = likelier(self.gain)
        text += f". Compared with one policy for all episodes, such a mixture makes the actions of an episode {gain}"
        return text if self.gain >= LEAST_GAIN else f"{text}; below {likelier(LEAST_GAIN)} that is no evidence"


def randomness(facts: Facts) -> Randomness:
    """How random the logged actions look."""
    return facts.once(_estimate)


def randomness_numbers(facts: Facts) -> dict[str, Any]:
    """The estimate as plain numbers, with the sentences that say what they mean."""
    found = randomness(facts)
    words = {"chance": found.chance, "meaning": found.meaning, "explanations": found.explanations}
    return dataclasses.asdict(found) | words


def _estimate(facts: Facts) -> Randomness:
    log = facts.log
    if log.num_transitions < LEAST_ROWS or not facts.has_columns or not log.action[:1].size:
        return Randomness()
    return Randomness(**(_discrete(facts) if log.num_actions is not None else _continuous(facts)))


def _discrete(facts: Facts) -> dict[str, float]:
    log, sample = facts.log, facts.sample
    number = np.maximum(facts.allowed_count(sample.rows), 1)
    entropy, certain = _entropy_as_logged(facts) if log.behavior_probs is not None else _entropy_by_region(facts)
    effective = float(np.minimum(np.exp(entropy), number).mean())
    found = {
        "near_deterministic_share": float((certain & (number > 1)).mean()),
        "effective_actions": effective,
        "allowed_actions": float(number.mean()),
    }
    if not _has_episodes(facts):
        return found | ({"random_share": 1.0} if effective > ALL * number.mean() else {})
    return found | _discrete_mixture(facts)


def _entropy_as_logged(facts: Facts) -> tuple[NumpyArray, NumpyArray]:
    """(n,) entropy of the logged probabilities of each row of the sample, and whether one action is nearly certain."""
    assert facts.log.behavior_probs is not None
    rows_of_sample = facts.sample.rows
    entropy, certain = np.zeros(len(rows_of_sample)), np.zeros(len(rows_of_sample), bool)
    for rows in blocks(len(rows_of_sample), facts.log.behavior_probs.shape[1]):
        probs = facts.log.behavior_probs[rows_of_sample[rows]].astype(np.float64)
        entropy[rows] = -(probs * np.log(np.maximum(probs, 1e-30))).sum(1)
        certain[rows] = probs.max(1) >= ONE_ACTION
    return entropy, certain


def _entropy_by_region(facts: Facts) -> tuple[NumpyArray, NumpyArray]:
    """As `_entropy_as_logged`, by the shares of the actions in the region of each row."""
    sample, region = facts.sample, facts.sample_region
    used, taken = np.unique(sample.action.clip(0, (facts.log.num_actions or 1) - 1), return_inverse=True)
    counts = _counts_by_region(facts, region, taken, len(used))
    rows = counts.sum(1).clip(1)
    # For shares p = c / z of counts c that sum to z, the entropy is log z - (sum of c log c) / z.
    parts = np.stack([counts, counts * np.log(np.maximum(counts, 1))])
    total, logs = _sums_over_allowed(facts, sample.rows, used, region, parts)
    # Miller and Madow's correction: the entropy of few rows is too small on average.
    missed = ((counts > 0).sum(1) - 1) / (2 * rows)
    entropy = np.log(np.maximum(total, 1)) - logs / np.maximum(total, 1) + missed[region]
    return entropy, (counts.max(1) >= ONE_ACTION * rows)[region]


def _has_episodes(facts: Facts) -> bool:
    """Whether there are enough episodes, long enough, for a mixture by episode."""
    return facts.log.num_episodes >= LEAST_EPISODES and float(np.median(facts.segments.length)) >= LEAST_LENGTH


def _discrete_mixture(facts: Facts) -> dict[str, float]:
    log, part = facts.log, facts.segments
    actions = log.num_actions or 1
    region = facts.regions.of(facts.standardised(part.observation))
    used, taken = np.unique(part.action.clip(0, actions - 1), return_inverse=True)
    free_count = facts.allowed_count(part.rows)
    uniform = -np.log(np.maximum(free_count, 1))
    # Masks by region, so that one product serves all rows of a region.
    allowed = None
    if log.action_mask is not None:
        allowed = [facts.allowed(part.rows[region == r], used).astype(np.float32) for r in range(facts.regions.count)]

    def fit(weight: NumpyArray, half: NumpyArray) -> NumpyArray:
        counts = _counts_by_region(facts, region[~half], taken[~half], len(used), weight[~half])
        # Every action starts from half a row, whether it occurs or not.
        if allowed is None:
            free = counts.sum(1)[region] + 0.5 * free_count
        else:
            free = 0.5 * free_count
            for r, mask in enumerate(allowed):
                free[region == r] += mask @ counts[r].astype(np.float32)
        share = (counts[region[half], taken[half]] + 0.5) / np.maximum(free[half], 0.5)
        log_share: NumpyArray = np.log(share)
        return log_share

    share, belongs, gain = uniform_part(part, uniform, fit, actions * facts.regions.count)
    if share and not even_where_seen_often(facts, part, taken, used, belongs):
        share = 0.0  # several policies, which look uniform together where a region holds many observations
    return {"random_share": share, "gain": gain}


def _counts_by_region(
    facts: Facts, region: NumpyArray, taken: NumpyArray, actions: int, weight: NumpyArray | None = None
) -> NumpyArray:
    """(regions, actions) sum of the weights of the rows that took an action in a region; counts without weights."""
    count = facts.regions.count
    sums = np.bincount(region * actions + taken, weight, count * actions).reshape(count, actions)
    return np.asarray(sums, np.float64)


def _sums_over_allowed(
    facts: Facts, rows: NumpyArray, actions: NumpyArray, region: NumpyArray, values: NumpyArray
) -> NumpyArray:
    """(k, n) for each row, the sum of `values` (k, regions, actions) of its region over the actions allowed in that row."""
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


def _continuous(facts: Facts) -> dict[str, float]:
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
    found = {
        "near_deterministic_share": float((spread[facts.sample_region] < NARROW).mean()),
        "relative_spread": float(np.sqrt((left**2).mean())),
    }
    if not _has_episodes(facts):
        return found
    return found | _continuous_mixture(facts, low[live], high[live], live)


def _continuous_mixture(facts: Facts, low: NumpyArray, high: NumpyArray, live: NumpyArray) -> dict[str, float]:
    part, width = facts.segments, high - low
    x = features(part.observation, full_up_to=6)
    action = part.action[:, live]
    uniform = np.full(len(action), -np.log(width).sum())

    def fit(weight: NumpyArray, half: NumpyArray) -> NumpyArray:
        w = np.maximum(weight[~half], 1e-6)
        weighed = (x[~half] * w[:, None]).T
        gram = weighed @ x[~half]
        gram[np.diag_indices(len(gram))] += 1e-4 * w.sum()
        coefficients = np.linalg.solve(gram, weighed @ action[~half])
        variance = (w[:, None] * (action[~half] - x[~half] @ coefficients) ** 2).sum(0) / w.sum()
        variance = np.maximum(variance, (1e-3 * width) ** 2)
        error = action[half] - x[half] @ coefficients
        density: NumpyArray = -0.5 * (error**2 / variance + np.log(2 * np.pi * variance)).sum(1)
        return density

    share, belongs, gain = uniform_part(part, uniform, fit, x.shape[1] * action.shape[1])
    if share and not looks_uniform(action, low, high, belongs):
        share = 0.0  # broad but not uniform: a noisy policy
    return {"random_share": share, "gain": gain}
