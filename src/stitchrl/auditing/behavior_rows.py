"""Stretches of episodes with a model of the discrete actions there, fitted to one half of the episodes and used on the other."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.history_models import Predictor, held_out_probabilities
from stitchrl.auditing.regression import features
from stitchrl.auditing.sample import Sample
from stitchrl.data.row_hashes import hash_words, mix, words
from stitchrl.types import NumpyArray

__all__ = ["BehaviorRows", "behavior_rows"]

ROWS, STRETCH = 2**14, 64
"""About this many rows are looked at, and at most this many consecutive ones of one episode."""
LEAST_ROWS, LEAST_EPISODES = 500, 20
"""Smaller logs are not looked at."""
MOST_ACTIONS = 50
"""The commonest actions have a class of their own; all others share one."""
MOST_STATES, LEAST_ROWS_PER_STATE = 2048, 4
"""Observations that repeat are states when there are at most so many of them, with so many rows each on average."""


@dataclasses.dataclass(frozen=True)
class BehaviorRows:
    """Some rows of a log with discrete actions, n of them.

    Attributes:
        sample: the rows.
        whole: whether they are whole episodes.
        common: (k,) the actions that have a class of their own, ascending.
        choice: (n,) the class of each row's action; k for all other actions.
        allowed: (n, k + 1) the classes that the action mask allows; None without a mask.
        state: (n,) a number for each distinct observation where observations repeat; None where they do not.
        x: (n, p) features of the observation.
        half: (n,) True in a random half of the episodes; copies of an episode are in one half where observations hardly repeat.
    """

    sample: Sample
    whole: bool
    common: NumpyArray
    choice: NumpyArray
    allowed: NumpyArray | None
    state: NumpyArray | None
    x: NumpyArray
    half: NumpyArray

    def fitted(self, half: NumpyArray) -> NumpyArray:
        """(n, k + 1) probabilities of each class: a softmax regression, and the shares in each state where there are states,
        fitted to the rows where `half` is True for the others, and the reverse."""
        cells = () if self.state is None else (self.state,)
        return held_out_probabilities(Predictor(self.x, half, cells), self.choice, len(self.common) + 1, self.allowed)

    @cached_property
    def probabilities(self) -> NumpyArray:
        """(n, k + 1) `fitted` with halves of the episodes."""
        return self.fitted(self.half)


def behavior_rows(facts: Facts) -> BehaviorRows | None:
    """The rows; None where actions are not discrete, observations are images, or the log is small."""
    return facts.once(_behavior_rows)


def _behavior_rows(facts: Facts) -> BehaviorRows | None:
    log = facts.log
    if log.num_actions is None or not facts.has_columns or log.observation_table.shape[1] == 0:
        return None
    if log.num_transitions < LEAST_ROWS or log.num_episodes < LEAST_EPISODES:
        return None
    rng = draws(9)
    order = rng.permutation(log.num_episodes)
    lengths = np.diff(log.episode_start)[order]
    stretch = max(STRETCH, -(-ROWS // log.num_episodes))
    taken = np.minimum(lengths, stretch)
    order = order[: int(np.searchsorted(np.cumsum(taken), ROWS)) + 1]
    taken = taken[: len(order)]
    first = log.episode_start[order] + (rng.random(len(order)) * (lengths[: len(order)] - taken + 1)).astype(np.int64)
    ends = np.cumsum(taken)
    sample = facts.take(np.sort(np.repeat(first - ends + taken, taken) + np.arange(taken.sum())))
    action = sample.action.clip(0, log.num_actions - 1)
    used, counts = np.unique(action, return_counts=True)
    common = np.sort(used[np.argsort(-counts, kind="stable")[:MOST_ACTIONS]])
    place = np.searchsorted(common, action).clip(0, len(common) - 1)
    choice = np.where(common[place] == action, place, len(common))
    allowed = None
    if log.action_mask is not None:
        others = np.setdiff1d(np.arange(log.num_actions), common)
        free = facts.allowed(sample.rows, others).any(1) if len(others) else np.zeros(len(action), bool)
        allowed = np.concatenate([facts.allowed(sample.rows, common), np.reshape(free, (-1, 1))], 1)
        allowed[np.arange(len(action)), choice] = True  # an action outside its mask is another check's finding
    states, state = np.unique(hash_words(words(sample.observation)), return_inverse=True)
    repeat = len(states) <= MOST_STATES and len(states) * LEAST_ROWS_PER_STATE <= len(action)
    half: NumpyArray = rng.permutation(log.num_episodes)[sample.episode] % 2 == 0
    if not repeat:  # copies of an episode belong to one half, so that none is predicted from its own copy
        half = (mix(facts.scan.episode_hash[sample.episode]) & np.uint64(1)) == 0
    return BehaviorRows(
        sample=sample,
        whole=bool((taken == lengths[: len(order)]).all()),
        common=common,
        choice=choice,
        allowed=allowed,
        state=state if repeat else None,
        x=features(sample.observation, full_up_to=8),
        half=half,
    )
