"""How many episodes of a log have an equal among the others by chance alone.

Where states and actions are few, independent episodes coincide: such pairs are no copies. The chance of an episode is
estimated step by step from all the others,

    P(episode) = P(o_0) prod_t P(a_t | o_t) P(r_t, o_{t+1} or the end | o_t, a_t),

with the shares among the other episodes, those equal to it left out, so that a copy does not vouch for itself. Where a clock
ends episodes that the observation does not show, the end does not follow from o_t and a_t: the chance is therefore also
estimated as the share of the episode's length times that of its steps given which of them is the last, and the larger of the
two counts. In a log whose numbers hardly ever repeat these shares are 0, and no pair is expected at all.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt64

from stitchrl.auditing.draws import draws
from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import hash_moments, hash_words, mix, words
from stitchrl.types import NumpyArray

__all__ = ["expected_with_twin"]

MOST_EPISODES, MOST_ROWS = 2**15, 2**20
"""The shares come from at most this many episodes, and from about this many rows."""


def expected_with_twin(log: Dataset, least_length: int) -> float:
    """The number of episodes of at least `least_length` steps that are expected to have an equal among all others."""
    episodes, start, rows = _episodes_to_read(log)
    lengths = np.diff(start)
    of_row = np.repeat(np.arange(len(episodes)), lengths)
    moment = hash_moments(log.observation_table[log.observation_index[rows]])
    chosen = mix(moment ^ hash_words(words(log.action[rows])))
    outcome = mix(hash_words(words(log.reward[rows])) + np.uint64(3)) ^ log.terminated[rows].astype(np.uint64)
    inside = np.ones(len(rows), bool)
    inside[start[1:] - 1] = False
    outcome[inside] ^= mix(moment[np.flatnonzero(inside) + 1] + np.uint64(5))
    first = start[:-1]
    content = np.add.reduceat(mix(mix(chosen + np.uint64(1)) ^ outcome ^ _place(of_row, start)), first)
    equal = np.unique(content, return_inverse=True, return_counts=True)
    copies = equal[2][equal[1]]

    log_chance = _log_shares(np.zeros(len(first), np.uint64), moment[first], np.arange(len(first)), copies)
    log_chance = log_chance + np.add.reduceat(_log_shares(moment, chosen, of_row, copies), first)
    by_state = np.add.reduceat(_log_shares(chosen, outcome, of_row, copies), first)
    known_end = np.where(inside, chosen, mix(chosen + np.uint64(13)))
    by_clock = np.add.reduceat(_log_shares(known_end, outcome, of_row, copies), first)
    of_episode = np.zeros(len(first), np.uint64), lengths.astype(np.uint64), np.arange(len(first))
    by_clock = by_clock + _log_shares(*of_episode, copies)
    log_chance = log_chance + np.maximum(by_state, by_clock)
    chance = np.exp(np.minimum(log_chance, 0))
    with_twin = -np.expm1((log.num_episodes - 1) * np.log1p(-np.minimum(chance, 1 - 1e-12)))
    return float(with_twin[lengths >= least_length].sum() * log.num_episodes / len(episodes))


def _episodes_to_read(log: Dataset) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Some episodes drawn at random, where each begins among their rows, and the numbers of these rows."""
    count = log.num_episodes
    most = int(min(MOST_EPISODES, max(2, MOST_ROWS * count / max(log.num_transitions, 1))))
    episodes = np.arange(count)
    if count > most:
        episodes = np.sort(draws(6).choice(count, most, replace=False, shuffle=False))
    lengths = log.episode_start[episodes + 1] - log.episode_start[episodes]
    start = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(start[-1]) + np.repeat(log.episode_start[episodes] - start[:-1], lengths)
    return episodes, start, rows


def _place(of_row: Int[NumpyArray, " n"], start: NumpyArray) -> UInt64[NumpyArray, " n"]:
    position = np.arange(len(of_row)) - start[:-1][of_row]
    return mix(position.astype(np.uint64) + np.uint64(11))


def _log_shares(before: NumpyArray, after: NumpyArray, of_row: NumpyArray, copies: NumpyArray) -> NumpyArray:
    """(n,) the logarithm of how often `after` follows `before` in the episodes that do not equal the row's own; -infinity
    where it never does."""
    pair = mix(before ^ mix(after + np.uint64(9)))
    together, alone = (_elsewhere(of, of_row, copies) for of in (pair, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        share: NumpyArray = np.log(np.where(alone > 0, together / np.maximum(alone, 1), 0.0))
    return share


def _elsewhere(value: NumpyArray, of_row: NumpyArray, copies: NumpyArray) -> NumpyArray:
    """(n,) how often the value of each row occurs in the episodes that do not equal its own."""
    code, counts = np.unique(value, return_inverse=True, return_counts=True)[1:]
    here, own = np.unique(of_row * len(counts) + code, return_inverse=True, return_counts=True)[1:]
    found: NumpyArray = counts[code] - own[here] * copies[of_row]
    return found
