"""Checks of the structure of a log: missing values, and rows or episodes that are lost, few or duplicated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import NotFinite
from stitchrl.auditing.thresholds import MAXIMUM_WEIGHT_SHARE
from stitchrl.auditing.twins import expected_with_twin
from stitchrl.auditing.wording import episodes_shown, rows_from, share_of
from stitchrl.data.dataset import Dataset
from stitchrl.storage.coincidence import beyond_chance
from stitchrl.types import NumpyArray

__all__ = [
    "cut_without_next",
    "duplicated_episodes",
    "duplicated_rows",
    "episodes_of_one_step",
    "few_episodes",
    "infinite_values",
    "missing_values",
    "reader_notes",
    "rows_missing",
    "weights_unused",
]

LEAST_EPISODES = 100
"""With 100 episodes, a 95% interval of a share reaches 10 percentage points to either side."""
MOST_COPIED_EPISODES, COPIED_ROWS = 0.01, 0.01
"""Shares of copies above which intervals are noticeably too narrow."""
MORE_THAN_CHANCE = 1.25
"""Episodes with an equal may be this many times as many as chance explains, since its model is an estimate."""
MOST_REPEATS = 0.5
"""With a larger share of rows that repeat an observation the states are few, and equal rows are to be expected."""
SHARED_GROUPS = 0.05
"""Share of episodes that may share a group with another before the number of episodes overstates what is known."""
TEST_PART = 0.4
"""The share of the log that serves as test."""
ROUTINE_NOTES = ("Read as",)
"""How notes of the reader begin that report nothing unusual."""


def reader_notes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """What the reader had to change to read the file."""
    for note in getattr(log, "notes", ()) or ():
        if str(note).startswith(ROUTINE_NOTES):
            continue
        yield Finding(
            "reader-note",
            "info",
            "the file",
            str(note).rstrip("."),
            "a file that can be read as it is",
            "Check that this is what the file means.",
        )


def missing_values(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """NaN in a column that is used."""
    for name, moments in _moments(facts):
        if moments.missing.any():
            yield _not_finite(facts, "missing-values", "NaN", name, moments.missing, moments.first_missing)


def infinite_values(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Infinities in a column that is used."""
    for name, moments in _moments(facts):
        if moments.infinite.any():
            yield _not_finite(facts, "infinite-values", "infinite", name, moments.infinite, moments.first_infinite)


def _moments(facts: Facts) -> list[tuple[str, NotFinite]]:
    scan = facts.scan
    columns: tuple[tuple[str, NotFinite | None], ...] = (
        ("observation", scan.observation),
        ("next_observation", facts.last_observations),
        ("action", scan.action),
        ("reward", scan.reward),
    )
    return [(name, moments) for name, moments in columns if moments is not None]


def _not_finite(facts: Facts, code: str, kind: str, name: str, counts: NumpyArray, row: int) -> Finding:
    which = f"{facts.columns(np.flatnonzero(counts))}, " if name.endswith("observation") else ""
    return Finding(
        code,
        "error",
        f"{name}: {which}first in row {row}",
        f"{int(counts.sum()):,} value{' is' if counts.sum() == 1 else 's are'} {kind}",
        "finite numbers everywhere",
        "Fill them in, drop their episodes, or add a column that says what was missing.",
    )


def cut_without_next(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Truncated episodes whose last next observation is unknown, so that their last rows have no TD target."""
    lost = facts.scan.cut
    if lost:
        yield Finding(
            "cut-without-next-observation",
            "warning",
            "truncated, next_observation",
            f"{lost:,} of {int(log.truncated.sum()):,} truncated episodes lack the observation after the cut (or its action "
            "mask)",
            "the observation after the cut in every truncated episode",
            "Those rows serve imitation only and have weight 0 in every TD loss. Log one more observation.",
        )


def rows_missing(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows whose next_observation is not the next row's observation: rows between them are lost, or the columns disagree."""
    gaps = facts.scan.gaps
    if gaps:
        inside = log.num_transitions - log.num_episodes
        yield Finding(
            "rows-missing",
            "warning",
            f"next_observation: {rows_from(facts.scan.first_gap, gaps)}",
            f"{share_of(gaps, inside)} of rows inside episodes have a next_observation that the next row does not start from",
            "each next_observation to be the observation of the next row",
            "Find the lost rows. Training uses each row's own next_observation, but importance weights over whole episodes "
            "leave out the lost decisions.",
        )


def episodes_of_one_step(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Mostly one-step episodes: a contextual bandit, or a wrong episode column."""
    share = float((np.diff(log.episode_start) == 1).mean())
    if share > 0.5 and not log.schema.bandit:
        yield Finding(
            "episodes-of-one-step",
            "warning",
            "episode",
            f"{share:.0%} of episodes have one step",
            "episodes of several decisions, unless the schema declares a bandit",
            "If decisions follow one another, check the episode column.",
        )


def few_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """So few episodes that intervals cannot be relied on."""
    if log.num_episodes < LEAST_EPISODES:
        yield Finding(
            "few-episodes",
            "warning",
            "episode",
            f"the log has {log.num_episodes} episode{'' if log.num_episodes == 1 else 's'}",
            f"at least {LEAST_EPISODES}, better several hundred, for reliable intervals",
            "Collect more episodes before deciding anything.",
        )


def duplicated_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes of three or more steps that equal another one in every action, reward and observation, more of them than
    coincide by chance where states and actions are few."""
    long = np.flatnonzero(np.diff(log.episode_start) >= 3)
    _, first, times = np.unique(facts.scan.episode_hash[long], return_index=True, return_counts=True)
    twice = len(long) - len(first)
    if twice <= max(3, MOST_COPIED_EPISODES * log.num_episodes):
        return
    by_chance = expected_with_twin(log, 3)
    if beyond_chance(int(times[times > 1].sum()), MORE_THAN_CHANCE * by_chance):
        copies = np.setdiff1d(long, long[first])
        yield Finding(
            "episodes-duplicated",
            "warning",
            f"episode: {episodes_shown(log.episode_id, copies)}",
            f"{twice:,} episodes of 3 or more steps equal an earlier one: {int(times[times > 1].sum()):,} have an equal, where "
            f"chance explains about {by_chance:,.0f}",
            "each episode once, but for those that coincide by chance",
            "Drop the copies: copies in training and test make intervals too narrow.",
        )


def duplicated_rows(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows that equal another one in observation, action, reward (and time), in a log whose observations seldom repeat."""
    scan = facts.scan
    if len(scan.row_hash) < 100:
        return
    _, first, counts = np.unique(scan.row_hash, return_index=True, return_counts=True)
    rows = float((counts - 1).sum() / len(scan.row_hash))
    if rows <= COPIED_ROWS:
        return
    # A copied row also copies its moment (observation and time). Where moments repeat more often than rows do, they repeat
    # without being copied.
    repeated = 1 - len(np.unique(scan.moment_hash)) / len(scan.moment_hash)
    if repeated > MOST_REPEATS or repeated > 1.5 * rows:
        return
    copies = np.setdiff1d(np.arange(len(scan.row_hash)), first)
    yield Finding(
        "rows-duplicated",
        "warning",
        f"rows {', '.join(map(str, scan.row_number[copies[:3]]))} and more",
        f"{rows:.1%} of rows equal an earlier row in every column",
        "each row once",
        "Look for an export that ran twice, and drop the copies: with them every interval is too narrow.",
    )


def weights_unused(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A weight column, which nothing uses unless it is asked to."""
    if log.weight is not None:
        yield Finding(
            "weight-unused",
            "warning",
            "weight",
            "the log has a weight for each row, which is not used by default",
            "no weights, or training that is told to use them",
            "Train with `sampling=st.WeightedSampling()` if the weights matter; evaluation counts every row equally.",
        )


def groups_of_several_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes that belong together in groups: less is known than their number suggests."""
    if log.group is None:
        return
    sizes = np.unique(log.group, return_counts=True)[1]
    if len(sizes) >= (1 - SHARED_GROUPS) * log.num_episodes:
        return
    largest = float(sizes.max() / log.num_episodes)
    heavy = largest > MAXIMUM_WEIGHT_SHARE * TEST_PART
    yield Finding(
        "episodes-in-groups",
        "warning" if heavy else "info",
        "group",
        f"{log.num_episodes:,} episodes belong to {len(sizes):,} groups, and {largest:.1%} of them to a single one",
        f"one episode a group, or no group with more than {MAXIMUM_WEIGHT_SHARE * TEST_PART:.1%} of the episodes",
        f"Collect more groups, or cut the largest down: it would hold over {MAXIMUM_WEIGHT_SHARE:.0%} of the weight in a test "
        f"part of {TEST_PART:.0%}, and the verdict accepts no such estimate."
        if heavy
        else "Nothing to correct, but the number of groups decides how much is known: intervals resample whole groups.",
    )
