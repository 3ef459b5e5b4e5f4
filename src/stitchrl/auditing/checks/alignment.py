"""The check that actions stand in the rows in which they were taken, and were not mixed within their episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from stitchrl.auditing.behavior_rows import behavior_rows
from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.regression import features, residuals, z_of_mean
from stitchrl.auditing.sample import Sample
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.messages import likelier
from stitchrl.types import NumpyArray

__all__ = ["actions_shuffled"]

LEAST_EPISODES, LEAST_LENGTH = 50, 3
"""Episodes that are needed, and the length from which on an episode counts."""
STRETCHES, STRETCH = 256, 32
"""Continuous actions are looked at in at most this many stretches, each of at most this many rows."""
SEEN, SURE = 3.0, 5.0
"""Standard errors from which on a sign that actions belong to their rows is seen, and evidence against it is sure."""
LEAST_GAIN = 0.003
"""Nats per row that the observation must say about the action."""
PART_WITHIN = 0.2
"""Share of what the observation says that must differ from row to row within an episode."""
MUCH_LESS = 0.25
"""Rows that say less than this part of what the model expects of them are not the rows of these actions."""
LEAST_VARIED = 0.1
"""Share of neighbouring rows whose actions differ; below it an episode has one action, whose order cannot be wrong."""


ENOUGH_ROWS = 2000
"""Rows from which on the absence of every link says something by itself."""
NOT_UNIFORM = 1e-6
"""The actions are not uniformly random where chance would make them so uneven more seldom than this, as a probability."""


class _Signs(NamedTuple):
    """What links the action of each row to that row, rather than to another row of its episode; n rows.

    Attributes:
        sample: the rows, stretches of episodes.
        own: (n,) log-likelihood of the action, by a model of the behaviour fitted to other episodes, at the observation of its
            own row, less that without any observation.
        gap: (n,) the same at its own row less that at the other rows of the stretch.
        expected: (n,) the gap that the model expects of actions that it drew itself.
        surprise: (n, k) the action less its prediction.
        half: (n,) True in a random half of the episodes.
        action: (n, k) the actions as columns.
    """

    sample: Sample
    own: Float[NumpyArray, " n"]
    gap: Float[NumpyArray, " n"]
    expected: Float[NumpyArray, " n"]
    surprise: Float[NumpyArray, "n k"]
    half: NumpyArray
    action: Float[NumpyArray, "n k"]


def actions_shuffled(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions that belong to other rows of their episodes, as after a join by episode alone.

    Three signs show that actions stand where they were taken: the observation of the row itself predicts the action better
    than those of other rows of the episode; the action of the row itself predicts the next observation and the reward better
    than those of other rows; neighbouring actions are more alike than others of the episode. The finding needs that all three
    are absent, and that the actions of an episode as a whole do follow from its observations, or decide its outcomes, or that no
    propensities say otherwise and the actions are not uniformly random.
    """
    signs = _discrete(facts) if log.num_actions is not None else _continuous(log, facts)
    if signs is None:
        return
    episode = signs.sample.episode
    start, length = _stretches(episode)
    kept = length[np.repeat(np.arange(len(start)), length)] >= LEAST_LENGTH
    if (length >= LEAST_LENGTH).sum() < LEAST_EPISODES:
        return
    other = _other_rows(start, length)
    alike = _alike(signs.action, start, length, other)
    if alike is None or alike > SEEN:
        return
    if z_of_mean(signs.gap[kept], episode[kept]) > SEEN:
        return
    own_effect, other_effect = _effects(log, facts, signs, other)
    if z_of_mean((own_effect - other_effect)[kept], episode[kept]) > SEEN:
        return
    gain, gap, expected = (float(part[kept].mean()) for part in (signs.own, signs.gap, signs.expected))
    by_policy = (
        gain > LEAST_GAIN
        and expected > PART_WITHIN * gain
        and z_of_mean(signs.own[kept], episode[kept]) > SURE
        and z_of_mean((signs.gap - MUCH_LESS * signs.expected)[kept], episode[kept]) < -SURE
    )
    by_effect = z_of_mean(other_effect[kept], episode[kept]) > SURE
    if by_policy or by_effect or _must_depend(log, signs):
        if by_policy:
            seen = (
                "an action is no likelier at the observation of its own row than at those of other rows of its episode "
                f"({likelier(gap)}, where {likelier(expected)} was to be expected), although the observations of the episode "
                "predict its actions"
            )
        elif by_effect:
            seen = (
                "the next observation and the reward follow from the actions of other rows of the episode as much as from the "
                "row's own action"
            )
        else:
            seen = (
                f"in {len(signs.own):,} rows nothing links an action to its row: neither does the row's observation tell the "
                "action, nor does the action tell the reward or the next observation, more than in other rows of its episode"
            )
        yield Finding(
            "actions-shuffled",
            "warning",
            "action",
            f"{seen}; neighbouring actions are no more alike than others of the episode",
            "actions in the rows in which they were taken",
            "Were actions joined to rows by episode alone, or sorted by another column? Join them by episode and step. A "
            "behaviour that depends only on what stays the same within an episode, or on nothing at all, may look the same.",
        )


def _must_depend(log: Dataset, signs: _Signs) -> bool:
    """Whether actions without any link to their rows are a question: the log does not say how they were drawn, and they are
    not uniformly random, as those of an experiment would be."""
    if log.behavior_log_prob is not None or len(signs.own) < ENOUGH_ROWS:
        return False
    if log.num_actions is None:
        low, high = signs.action.min(0), signs.action.max(0)
        inner = (signs.action - low) / np.maximum(high - low, 1e-12)
        return bool(min(stats.kstest(column, "uniform").pvalue for column in inner.T) < NOT_UNIFORM)
    counts = signs.action.sum(0)
    counts = counts[counts > 0]
    return bool(len(counts) > 1 and stats.chisquare(counts).pvalue < NOT_UNIFORM)


def _stretches(episode: Int[NumpyArray, " n"]) -> tuple[Int[NumpyArray, " e"], Int[NumpyArray, " e"]]:
    """The first row and the number of rows of each stretch."""
    start = np.flatnonzero(np.diff(episode, prepend=-1))
    return start, np.diff(np.append(start, len(episode)))


def _other_rows(start: NumpyArray, length: NumpyArray) -> Int[NumpyArray, " n"]:
    """(n,) for each row another one of its stretch (itself where it is alone): all are moved on by the same random number."""
    rng = draws(10)
    shift = np.where(length > 1, 1 + (rng.random(len(length)) * np.maximum(length - 1, 1)).astype(np.int64), 0)
    place = np.arange(length.sum()) - np.repeat(start, length)
    return np.repeat(start, length) + (place + np.repeat(shift, length)) % np.repeat(length, length)


def _alike(action: NumpyArray, start: NumpyArray, length: NumpyArray, other: NumpyArray) -> float | None:
    """By how many standard errors neighbouring actions are more alike than other pairs of the stretch; None where hardly any
    action differs from its neighbour."""
    spread = np.maximum(action.std(0), 1e-12)
    place = np.arange(len(action)) - np.repeat(start, length)
    pairs = np.flatnonzero(place > 0)
    near = (((action[pairs] - action[pairs - 1]) / spread) ** 2).sum(1)
    far = (((action[pairs] - action[other[pairs]]) / spread) ** 2).sum(1)
    if not len(pairs) or (near > 0).mean() < LEAST_VARIED:
        return None
    return z_of_mean(far - near, np.repeat(np.arange(len(start)), length)[pairs])


def _discrete(facts: Facts) -> _Signs | None:
    rows = behavior_rows(facts)
    if rows is None:
        return None
    n, classes = len(rows.sample), len(rows.common) + 1
    probs = np.maximum(rows.probabilities, 1e-6)  # a mask forbids an action at other rows of its episode
    log_probs = np.log(probs)
    start, length = _stretches(rows.sample.episode)
    total = np.repeat(np.add.reduceat(log_probs, start), length, axis=0)
    gap = log_probs - (total - log_probs) / np.maximum(np.repeat(length, length) - 1, 1)[:, None]
    at = np.arange(n), rows.choice
    shares = np.zeros((n, classes))
    for train in (rows.half, ~rows.half):
        shares[~train] = (np.bincount(rows.choice[train], minlength=classes) + 0.5) / (train.sum() + 0.5 * classes)
    hot = np.eye(classes)[rows.choice]
    return _Signs(
        rows.sample, (log_probs - np.log(shares))[at], gap[at], (probs * gap).sum(1), hot - probs, rows.half, hot
    )


def _continuous(log: Dataset, facts: Facts) -> _Signs | None:
    if not facts.has_columns or log.observation_table.shape[1] == 0 or not log.action[:1].size:
        return None
    rng = draws(9)
    lengths = np.diff(log.episode_start)
    long = np.flatnonzero(lengths >= LEAST_LENGTH)
    if len(long) < LEAST_EPISODES:
        return None
    chosen = np.sort(rng.choice(long, min(STRETCHES, len(long)), replace=False))
    taken = np.minimum(lengths[chosen], STRETCH)
    first = log.episode_start[chosen] + (rng.random(len(chosen)) * (lengths[chosen] - taken + 1)).astype(np.int64)
    ends = np.cumsum(taken)
    sample = facts.take(np.repeat(first - ends + taken, taken) + np.arange(ends[-1]))
    half = (rng.permutation(log.num_episodes) % 2 == 0)[sample.episode]
    live = sample.action.std(0) > 0
    if not live.any():
        return None
    action = (sample.action[:, live] - sample.action[:, live].mean(0)) / sample.action[:, live].std(0)
    left = residuals(features(sample.observation, full_up_to=8), action, half.astype(np.int64))
    mean, variance = action - left, np.maximum((left**2).mean(0), 1e-3)
    start, length = _stretches(sample.episode)
    others = np.maximum(np.repeat(length, length) - 1, 1)[:, None]
    # The mean of (a - m_u)^2 over the other rows u is (a - mean m)^2 plus the variance of m over them.
    first_moment = (np.repeat(np.add.reduceat(mean, start), length, axis=0) - mean) / others
    second_moment = (np.repeat(np.add.reduceat(mean**2, start), length, axis=0) - mean**2) / others
    away = (action - first_moment) ** 2 + second_moment - first_moment**2
    expected = (mean - first_moment) ** 2 + second_moment - first_moment**2
    return _Signs(
        sample,
        (0.5 * (action**2 - left**2) / variance).sum(1),
        (0.5 * (away - left**2) / variance).sum(1),
        (0.5 * expected / variance).sum(1),
        left,
        half,
        action,
    )


def _effects(
    log: Dataset, facts: Facts, signs: _Signs, other: NumpyArray
) -> tuple[Float[NumpyArray, " n"], Float[NumpyArray, " n"]]:
    """(n,) how much the surprising part of an action says about the change of the observation and the reward of its row, in
    nats, by a regression on other episodes; and the same for the action of another row of the stretch."""
    sample = signs.sample
    following = log.next_observation_index[sample.rows]
    known = following != NO_OBSERVATION
    change = facts.standardised(facts.observation_at(np.where(known, following, 0))) - facts.standardised(
        sample.observation
    )
    group = signs.half.astype(np.int64)
    x = features(sample.observation, full_up_to=8)
    outcome = np.concatenate([np.where(known[:, None], change, 0), sample.reward[:, None]], 1)
    left = residuals(x, outcome, group)
    left[~known, :-1] = 0
    spread = left.std(0)
    left = (left[:, spread > 1e-9] / spread[spread > 1e-9]).clip(-5, 5)
    own, others = np.zeros(len(left)), np.zeros(len(left))
    instead = signs.action[other] - (signs.action - signs.surprise)  # the other action, less what this row predicts
    for train in (signs.half, ~signs.half):
        fitted = signs.surprise[train]
        gram = fitted.T @ fitted
        # As strong a penalty as a hundred rows of every action keeps chance effects of rare actions small.
        gram[np.diag_indices(len(gram))] += 100.0 * np.maximum(np.diag(gram).mean() / max(len(fitted), 1), 1e-9)
        weight = np.linalg.solve(gram, fitted.T @ left[train])
        for into, surprise in ((own, signs.surprise), (others, instead)):
            said = surprise[~train] @ weight
            into[~train] = (said * left[~train] - 0.5 * said**2).sum(1)
    return own, others
