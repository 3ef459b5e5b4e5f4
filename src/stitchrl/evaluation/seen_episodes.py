"""Whether a log holds episodes that a policy learned from, or only ones that are equal to them by coincidence.

Where there are few different observations, different episodes can be equal in every row. How often that happens by coincidence
can be seen inside each of the two logs (`_chance`): an episode of the same origin has an equal one among E others as often as
one of E + 1 episodes has among the other E. Equality is tested with the rewards of the episodes, without them, and on runs of
rows, so that episodes are also recognised where rewards were changed, rows were cut off or episodes were joined.

Where nearly every episode has an equal one by coincidence, two signs remain: all episodes of the log are equal to those of the
other log, each occurring as often as there; or the contents are spread more evenly over the two logs than in two random draws,
as happens with a part of the log that was learned from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammainc, gammaln

from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import CHOSEN, CONTENT, EVERY, FEW_ALIKE, OBSERVED, EpisodeMemory
from stitchrl.storage.coincidence import BEYOND_CHANCE, beyond_chance
from stitchrl.types import NumpyArray

__all__ = ["Overlap", "overlap_of"]

FEWEST = 3
"""The fewest equal episodes that count as more than coincidence, unless single rows prove it."""
SAME_BY_CHANCE = 1e-6
"""Two logs count as the same where two random draws would agree as much with a smaller probability than this."""
AGREEING = 0.8
"""The chance that two episodes with equal observations agree in the rest too, where the log itself does not show it."""
TOLD = 20.0
"""The evenness of two logs is tested where the expected chi-square is at least this."""
TOLD_BY = 20
"""The fewest episodes with equal observations from which that chance of agreement is computed."""
EQUAL = "The policy learned from {count:,} of the {episodes:,} episodes of this log,"
OTHER_REWARDS = EQUAL + " as their observations and actions show though their rewards differ,"
MOST_ROWS = EQUAL + " as most of their rows show,"
UNPLANNED = 0.5
PLANNED_BY_CHANCE = 0.01
"""Observations count as planned, for instance each of them used once, where the variance of their counts is less than the first
number times that of random draws, and random draws would have so small a variance with less than the second probability."""


class Overlap(NamedTuple):
    """How much of a log a policy learned from.

    Attributes:
        known: how many episodes are equal to ones that were learned from, or have most of their rows from there.
        seen: "" where coincidence explains them; else what was seen, as the beginning of a sentence.
        removable: whether the equal episodes can be left out without selecting the rest by coincidence.
    """

    known: int
    seen: str = ""
    removable: bool = False


def overlap_of(memory: EpisodeMemory, log: Dataset) -> Overlap:
    """Compare a log with what a policy remembers of the log it learned from."""
    mine = EpisodeMemory.of(log, run=memory.run)
    hashes = log.nested_hashes[log.nested_hashes[:, OBSERVED] <= memory.limit] if memory.whole else log.nested_hashes
    most, removable, words = 0, True, ""
    for level in (CONTENT, CHOSEN) if memory.whole else (CONTENT,):
        count, expected, seen = _equal_episodes(memory, mine, hashes, level, log)
        most, removable = max(most, count), removable and expected <= FEW_ALIKE * log.num_episodes
        words = words or ((EQUAL if level == CONTENT else OTHER_REWARDS) if seen else "")
    most = round(most * log.num_episodes / max(len(hashes), 1))  # where only some of them could be compared
    if not words and memory.whole:
        count, expected, seen = _equal_rows(memory, mine, log)
        if seen:
            words, most = MOST_ROWS, count
            removable = memory.run_limit == EVERY and expected <= FEW_ALIKE * log.num_episodes
    if words:
        most = int(memory.recognised(log).sum()) if removable else most
        return Overlap(most, words.format(count=most, episodes=log.num_episodes), removable)
    if memory.whole and len(hashes):
        for level in (CONTENT, CHOSEN):
            if words := _too_alike(memory.episodes, hashes, level, one_row=log.num_transitions == log.num_episodes):
                return Overlap(most, words)
    return Overlap(most)


def _known(memory: EpisodeMemory, hashes: NumpyArray, level: int) -> NumpyArray:
    return np.isin(hashes[:, level], memory.episodes[:, level])


def _equal_episodes(
    memory: EpisodeMemory, mine: EpisodeMemory, hashes: NumpyArray, level: int, log: Dataset
) -> tuple[int, float, bool]:
    """How many episodes are equal at a level, how many are expected by coincidence, and whether there are too many for it."""
    known = _known(memory, hashes, level)
    count, episodes = int(known.sum()), len(hashes)
    if not count:
        return 0, 0.0, False
    theirs = _once(memory.episodes, copies=memory.copies)
    own = _once(mine.episodes[mine.episodes[:, OBSERVED] <= memory.limit], copies=mine.copies)
    share, variance = max(_chance(theirs[:, level], len(theirs)), _chance(own[:, level], len(theirs)))
    expected = episodes * share
    limit = expected + BEYOND_CHANCE * np.sqrt(expected * (1 - share) + episodes**2 * variance)
    # The same people or places may occur again in a new log; some of them then have another action or reward.
    again = hashes[_known(memory, hashes, OBSERVED)] if memory.whole else hashes[known]
    others, odds = len(again) - count, _odds_of_agreement(theirs, again[:, OBSERVED], level)
    agreeing = others * odds
    limit = max(limit, agreeing + BEYOND_CHANCE * np.sqrt(agreeing * (1 + odds)), FEWEST - 1)
    expected = max(expected, agreeing)
    sure = _proven(
        memory,
        mine,
        int((np.isin(log.nested_hashes[:, level], memory.episodes[:, level]) & (log.episode_lengths > 1)).sum()),
        log,
    )
    return count, float(expected), bool(count > limit) or (sure and not others)


def _equal_rows(memory: EpisodeMemory, mine: EpisodeMemory, log: Dataset) -> tuple[int, float, bool]:
    """How many episodes have most rows from remembered ones, how many are expected by chance, and whether there are too many."""
    found = memory.known_runs(log)
    count, episodes = int((found > 0).sum()), int((found >= 0).sum())
    if not count:
        return 0, 0.0, False
    share, others = max(memory.runs_alike, mine.runs_alike), max(len(memory.chosen), 1)
    expected = episodes * share
    variance = (2 * share * (1 - share) + 2 / others) / others
    limit = expected + BEYOND_CHANCE * np.sqrt(expected * (1 - share) + episodes**2 * variance)
    sure = _proven(memory, mine, int((found > 1).sum()), log)
    return count, expected, bool(count > max(limit, FEWEST - 1)) or sure


def _proven(memory: EpisodeMemory, mine: EpisodeMemory, count: int, log: Dataset) -> bool:
    """Whether equal episodes of two rows or more are proof, as they are where single observations hardly ever occur again."""
    recurring = max(memory.recurring, mine.recurring, 3 / log.num_transitions)
    expected = log.num_episodes * recurring**2
    return beyond_chance(count, expected)


def _once(episodes: NumpyArray, *, copies: bool) -> NumpyArray:
    """The hashes of episodes, each copied episode kept once."""
    return episodes[np.unique(episodes[:, CONTENT], return_index=True)[1]] if copies else episodes


def _chance(hashes: NumpyArray, others: int) -> tuple[float, float]:
    """The share of the episodes of one log that have an equal one among `others` episodes of the same origin, and its variance.

    It is the coverage of Good (1953) with its variance. Where the log has more than `others` episodes, it is thinned to them.
    """
    episodes = len(hashes)
    if episodes < 2:
        return 0.0, 2.0 / max(episodes, 1)
    times = np.unique(hashes, return_counts=True)[1]
    thinned = min(1.0, others / (episodes - 1))
    share = float((times * (1 - (1 - thinned) ** (times - 1))).sum() / episodes)
    once, twice = episodes * (1 - share), (times == 2).sum() if thinned == 1 else episodes * share / 2
    return share, float((once * share + 2 * max(twice, 1)) / episodes**2)


def _odds_of_agreement(theirs: NumpyArray, again: NumpyArray, level: int) -> float:
    """The odds that an episode whose observations are known agrees by coincidence with a remembered one in the rest too.

    Args:
        theirs: the remembered hashes.
        again: the observation hashes of the episodes whose observations are known.
        level: what is compared.
    """
    values, group, size = np.unique(theirs[:, OBSERVED], return_inverse=True, return_counts=True)
    cell, alike = np.unique(theirs[:, level], return_inverse=True, return_counts=True)[1:]
    twins = size[group] > 1
    chance = AGREEING
    if twins.sum() >= TOLD_BY:
        chance = float(((alike[cell] - 1)[twins] / (size[group] - 1)[twins]).mean())
    # Where several remembered episodes have these observations, it is enough that one of them agrees. Where their chances
    # differ, this is an upper bound.
    place = np.minimum(np.searchsorted(values, again), len(values) - 1)
    agree = 1 - (1 - chance) ** size[place]
    return float(agree.sum() / max((1 - agree).sum(), 1 / len(theirs)))


def _too_alike(theirs: NumpyArray, own: NumpyArray, level: int, *, one_row: bool) -> str:
    """What two logs share that two random draws would not, where nearly every episode has an equal one; "" if nothing."""
    planned = _planned(theirs[:, OBSERVED]) or _planned(own[:, OBSERVED])
    if planned and level == CHOSEN:
        return ""
    by_observation = one_row and level == CHOSEN
    group = CHOSEN if planned else OBSERVED if by_observation else None
    counts = _counts(theirs, own, level, group)
    what = "" if level == CONTENT else ", but for their rewards,"
    if counts.same_by_chance() < np.log(SAME_BY_CHANCE):
        return f"The policy learned from this log: it holds{what} the same episodes, each as often,"
    if not planned and _counts(theirs, own, level, OBSERVED if one_row else None).evenness() < SAME_BY_CHANCE:
        return (
            f"The policy learned from episodes of this log: it holds{what} nearly as many of each kind, as two random draws "
            "never do,"
        )
    return ""


def _planned(hashes: NumpyArray) -> bool:
    """Whether observations occur more evenly than in random draws, as where somebody planned it."""
    times = np.unique(hashes, return_counts=True)[1]
    if len(times) < 2:
        return False
    spread, freedom = times.var(ddof=1) / times.mean(), len(times) - 1
    return bool(spread < UNPLANNED and gammainc(freedom / 2, spread * freedom / 2) < PLANNED_BY_CHANCE)


class _Counts(NamedTuple):
    """How often each content occurs in two logs, and the group it belongs to."""

    theirs: NumpyArray
    own: NumpyArray
    group: NumpyArray

    def same_by_chance(self) -> float:
        """The log-probability that two random draws have each content equally often, given both together; 0 if these do not."""
        if (self.theirs != self.own).any():
            return 0.0
        whole = np.bincount(self.group, self.own)
        return float(_log_middle(self.own).sum() - _log_middle(whole).sum())

    def evenness(self) -> float:
        """The probability that Pearson's chi-square of the two logs is as small as it is, when episodes are permuted.

        It is computed from a gamma distribution with the mean and the variance of chi-square; 1 where there are too few contents.
        """
        seen, mean, variance = self.chi_square()
        return float(gammainc(mean**2 / variance, seen * mean / variance)) if mean >= TOLD else 1.0

    def chi_square(self) -> tuple[float, float, float]:
        """Pearson's chi-square of the two logs, summed over groups, with its mean and variance over permutations within groups.

        Mean and variance are those of Dawson (1954). Groups of fewer than 4 episodes are left out.
        """
        total = self.theirs + self.own
        number, n, k = (np.bincount(self.group, x) for x in (total, self.own, np.ones_like(total)))
        told = (number > 3) & (n > 0) & (n < number) & (k > 1)
        inside = told[self.group]
        group, m, own = self.group[inside], total[inside], self.own[inside]
        share = (n / np.maximum(number, 1))[group]
        seen = ((own - m * share) ** 2 / (m * share * (1 - share))).sum()
        harmonic = np.bincount(group, 1 / m, len(number))[told]
        number, n, k = number[told], n[told], k[told]
        mean = (number * (k - 1) / (number - 1)).sum()
        v, w = (k - 1) * (number - k) / (number - 1), (number * harmonic - k**2) / (number - 2)
        z = (number - 2) / (number - 1)
        y = (number * (1 / n + 1 / (number - n)) - 4) / (number - 2)
        variance = (2 * number / (number - 3) * (v - w) * (z - y) + number**2 / (number - 1) * w * y).sum()
        return float(seen), float(mean), float(variance)


def _log_middle(count: NumpyArray) -> NumpyArray:
    """The logarithm of the number of ways to halve 2 `count` things."""
    found: NumpyArray = gammaln(2 * count + 1) - 2 * gammaln(count + 1)
    return found


def _counts(theirs: NumpyArray, own: NumpyArray, level: int, group: int | None) -> _Counts:
    """How often each content of a level occurs in two logs, in groups of another level, or in one."""
    both = np.concatenate([theirs, own])
    first, place = np.unique(both[:, level], return_index=True, return_inverse=True)[1:]
    groups = np.zeros(len(first), np.int64) if group is None else np.unique(both[first, group], return_inverse=True)[1]
    here, there = place[len(theirs) :], place[: len(theirs)]
    return _Counts(np.bincount(there, minlength=len(first)), np.bincount(here, minlength=len(first)), groups)
