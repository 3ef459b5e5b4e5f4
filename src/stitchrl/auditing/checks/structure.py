"""Checks of the log's form: missing values, episodes and their ends, rows that are missing, copied or out of place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import NotFinite
from stitchrl.auditing.regression import features, residuals
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = [
    "cut_at_odd_places",
    "cut_without_next",
    "duplicated_episodes",
    "duplicated_rows",
    "episodes_of_one_step",
    "few_episodes",
    "infinite_values",
    "missing_values",
    "observation_jumps",
    "reader_notes",
    "rows_missing",
    "some_episodes_of_one_step",
    "terminated_at_limit",
    "weights_unused",
]

LEAST_EPISODES = 100
"""A 95% interval of a share then has a half width of 10 points."""
MOST_COPIED_EPISODES, COPIED_ROWS = 0.01, 0.01
"""Shares of copies above which estimates are noticeably too sure."""
MOST_REPEATS = 0.5
"""Where more rows than this repeat an observation, the states are few, and equal rows are no wonder."""
PILE = 3.0
"""A length is a pile when it is this many times as common as the lengths beside it (and five standard errors more)."""
LEAST_PILE = 0.02
"""Share of episodes in a pile below which it does no harm."""
SHARED_GROUPS = 0.05
"""Share of episodes that may belong to a group already seen before the number of episodes says too much."""
MOST_OF_A_TEST, TEST_PART = 0.02, 0.4
"""An evaluation trusts no estimate with more of the weight on one group, and is made on such a part of the episodes."""
ONE_STEP_SHARE = 0.05
NOT_NEWS = ("Read as",)
"""Beginnings of notes that say nothing was amiss."""
STEPS_LOOKED_AT = 2**14
FAR_OFF, HALF = 10.0, 0.5
"""A jump is ten times as far off as nine of ten steps, and half a standard deviation of every column."""
MANY_JUMPS = 0.01
"""From this share of steps on, ten times as far off as the usual step is enough."""


def reader_notes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """What the reader had to do to the file."""
    for note in getattr(log, "notes", ()) or ():
        if str(note).startswith(NOT_NEWS):
            continue
        yield Finding(
            "reader-note",
            "info",
            "the file",
            str(note).rstrip("."),
            "a file that needs no mending",
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
    which = f"columns {facts.labels(np.flatnonzero(counts))}, " if name.endswith("observation") else ""
    return Finding(
        code,
        "error",
        f"{name}: {which}row {row} first",
        f"{int(counts.sum()):,} values are {kind}",
        "finite numbers everywhere",
        "Fill them, drop their episodes, or log a column that says what was missing.",
    )


def cut_without_next(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Truncated ends whose next observation is unknown: no TD target there."""
    lost = facts.scan.cut
    if lost:
        yield Finding(
            "cut-without-next-observation",
            "warning",
            "truncated, next_observation",
            f"{lost:,} of {int(log.truncated.sum()):,} cut episodes lack what came next (or its action mask)",
            "the observation after the cut",
            "Those rows stay for imitation and have weight 0 in every TD loss. Log one more observation.",
        )


def rows_missing(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """next_observation is not the next row's observation: rows are missing in between, or the columns disagree."""
    gaps = facts.scan.gaps
    if gaps:
        inside = log.num_transitions - log.num_episodes
        yield Finding(
            "rows-missing",
            "warning",
            f"next_observation: row {facts.scan.first_gap} and {gaps - 1:,} more",
            f"{gaps / max(inside, 1):.1%} of rows inside episodes are not followed by what they say follows",
            "each next_observation to be the next row's observation",
            "Each row's own next_observation is used; weights over whole episodes miss what was between.",
        )


def observation_jumps(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Next observations far from where this log's other steps lead: rows are lost or out of order, or two episodes have one
    identifier.

    A step counts as a jump when it is long and a regression of the change on observation and action (fitted on other
    episodes) misses it by far more than it misses nearly all others.
    """
    sample = facts.sample
    following = log.next_observation_index[sample.rows]
    known = np.flatnonzero(following != NO_OBSERVATION)
    if len(known) > STEPS_LOOKED_AT:
        known = np.sort(np.random.default_rng(5).choice(known, STEPS_LOOKED_AT, replace=False))
    rows = sample.rows[known]
    if not facts.has_columns or len(rows) < 1000:
        return
    here = facts.standardised(sample.observation[known])
    change = facts.standardised(facts.observation_at(following[known])) - here
    action = sample.action[known]
    if log.num_actions is not None:
        action = facts.told_apart(action)
    left = residuals(features(here, action, full_up_to=8), change, facts.fold[known])
    off = np.minimum(*(np.sqrt((part**2).mean(1)) for part in (left, change)))
    usual, nearly_all = (float(q) for q in np.quantile(off, [0.5, 0.9]))
    jumps = np.flatnonzero(off > max(FAR_OFF * nearly_all, HALF))
    many = np.flatnonzero(off > max(FAR_OFF * usual, HALF))
    found = many if len(many) >= MANY_JUMPS * len(off) else jumps
    if len(found) >= 3:
        yield Finding(
            "observation-jumps",
            "warning",
            f"next_observation: row {rows[found[0]]} and {len(found) - 1:,} more of {len(rows):,} looked at",
            f"{len(found) / len(rows):.2%} of steps lead far from where the others would, by {np.median(off[found]):.2g} "
            f"standard deviations a column (usually {usual:.2g})",
            "steps that follow from the observation and the action, as nearly everywhere in this log",
            "Look for lost rows, rows out of order, or two episodes under one identifier.",
        )


def episodes_of_one_step(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Many one-step episodes: a contextual bandit, or a broken episode column."""
    share = float((np.diff(log.episode_start) == 1).mean())
    if share > 0.5 and not log.schema.bandit:
        yield Finding(
            "episodes-of-one-step",
            "warning",
            "episode",
            f"{share:.0%} of episodes have one step",
            "episodes of several decisions",
            "If decisions follow each other, check the episode column.",
        )


def some_episodes_of_one_step(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A pile of one-step episodes among long ones: broken off starts."""
    lengths = np.diff(log.episode_start)
    ones = int((lengths == 1).sum())
    longer = lengths[lengths > 1]
    if not len(longer) or ones > len(lengths) / 2 or ones < max(5, ONE_STEP_SHARE * len(lengths)):
        return
    if _is_pile(ones, max(int((longer == 2).sum()), int((longer == 3).sum()))):
        yield Finding(
            "some-episodes-of-one-step",
            "warning",
            f"episode: {_shown(log, np.flatnonzero(lengths == 1))}",
            f"{ones / len(lengths):.0%} of episodes have one step, where the others have {np.median(longer):.0f}",
            "few episodes that end at once",
            "Look for episodes that were opened and never logged, or whose identifier changed after a step.",
        )


def _is_pile(count: int, usual: float) -> bool:
    """Whether a length is far more common than its neighbours."""
    return bool(count > PILE * max(usual, 0.5) + 5 * np.sqrt(max(usual, 0.5)))


def few_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """So few episodes that no interval means much."""
    if log.num_episodes < LEAST_EPISODES:
        yield Finding(
            "few-episodes",
            "warning",
            "episode",
            f"{log.num_episodes} episodes",
            "at least some hundreds, for intervals to mean what they say",
            "Collect more before deciding anything.",
        )


def duplicated_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Long episodes that are equal in every action, reward and observation."""
    long = np.flatnonzero(np.diff(log.episode_start) >= 3)
    _, first = np.unique(facts.scan.episode_hash[long], return_index=True)
    twice = len(long) - len(first)
    if twice > max(3, MOST_COPIED_EPISODES * log.num_episodes):
        copies = np.setdiff1d(long, long[first])
        yield Finding(
            "episodes-duplicated",
            "warning",
            f"episode: {_shown(log, copies)}",
            f"{twice:,} episodes of 3 or more steps equal an earlier one",
            "each episode once",
            "Copies in training and test make estimates too sure; drop them.",
        )


def duplicated_rows(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows equal in observation, action, reward (and time), in a log whose observations do not repeat of themselves."""
    scan = facts.scan
    if len(scan.row_hash) < 100:
        return
    _, first, counts = np.unique(scan.row_hash, return_index=True, return_counts=True)
    rows = float((counts - 1).sum() / len(scan.row_hash))
    if rows <= COPIED_ROWS:
        return
    # A copied row copies its moment (observation and time) too. Moments that repeat beyond that repeat of themselves.
    repeated = 1 - len(np.unique(scan.moment_hash)) / len(scan.moment_hash)
    if repeated > MOST_REPEATS or repeated > 1.5 * rows:
        return
    copies = np.setdiff1d(np.arange(len(scan.row_hash)), first)
    yield Finding(
        "rows-duplicated",
        "warning",
        f"rows {', '.join(map(str, scan.row_number[copies[:3]]))} and more",
        f"{rows:.1%} of rows equal an earlier one in everything",
        "each row once",
        "Look for an export that ran twice; drop the copies, or every number will be too sure.",
    )


def terminated_at_limit(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes marked terminated that pile up at one greatest length: time limits taken for true ends."""
    lengths = np.diff(log.episode_start)
    longest = int(lengths.max())
    ended = log.terminated[log.episode_start[1:] - 1]
    if longest < 5 or log.num_episodes < 20:
        return
    at_limit = int((ended & (lengths == longest)).sum())
    near = ended & (lengths < longest) & (lengths >= 0.8 * longest)
    usual = near.sum() / max(int(0.2 * longest), 1)
    if at_limit >= max(5, LEAST_PILE * log.num_episodes) and _is_pile(at_limit, usual):
        yield Finding(
            "time-limit-as-terminal",
            "warning",
            f"terminated: {_shown(log, np.flatnonzero(ended & (lengths == longest)))}",
            f"{at_limit / log.num_episodes:.0%} of episodes are marked terminated at exactly {longest:,} steps, the greatest "
            f"length; {usual:.1f} on average at each length just below",
            "`truncated` where a clock ended the episode",
            "If that is a time limit, mark those ends truncated: terminated says nothing of value lies beyond.",
        )


def cut_at_odd_places(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most episodes are cut, each at a length of its own: no time limit does that."""
    last = log.episode_start[1:] - 1
    cut = log.truncated[last]
    lengths = np.diff(log.episode_start)[cut]
    if log.num_episodes < 20 or cut.mean() <= 0.5:
        return
    commonest = np.unique(lengths, return_counts=True)[1].max() / len(lengths)
    if commonest < 0.2 and lengths.max() >= 2 * lengths.min():
        never = "; no episode is terminated" if cut.all() else ""
        yield Finding(
            "cuts-look-like-ends",
            "warning",
            "truncated",
            f"{cut.mean():.0%} of episodes are cut, at lengths from {lengths.min():,} to {lengths.max():,} with no common "
            f"one{never}",
            "cuts at a time limit, or few",
            "If these are true ends (a death, a goal, a discharge), mark them terminated.",
        )


def weights_unused(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A weight column, which nothing uses unless told to."""
    if log.weight is not None:
        yield Finding(
            "weight-unused",
            "warning",
            "weight",
            "the log weighs its rows",
            "no weights, or training told of them",
            "Train with `sampling=st.WeightedSampling()` if they matter; evaluation counts every row alike.",
        )


def groups_of_several_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes that belong together: less is known than their number says."""
    if log.group is None:
        return
    sizes = np.unique(log.group, return_counts=True)[1]
    if len(sizes) >= (1 - SHARED_GROUPS) * log.num_episodes:
        return
    largest = float(sizes.max() / log.num_episodes)
    heavy = largest > MOST_OF_A_TEST * TEST_PART
    yield Finding(
        "episodes-in-groups",
        "warning" if heavy else "info",
        "group",
        f"{log.num_episodes:,} episodes of {len(sizes):,} groups, {largest:.1%} of them of one",
        f"one episode a group, or none with more than {MOST_OF_A_TEST * TEST_PART:.1%}",
        f"Collect more groups, or cut the largest down: of a test part of {TEST_PART:.0%} one group has more than "
        f"{MOST_OF_A_TEST:.0%} of the weight, with which no estimate is trusted."
        if heavy
        else "Count on the number of groups: intervals resample whole groups, and are as wide as that makes them.",
    )


def _shown(log: Dataset, episodes: NumpyArray, most: int = 3) -> str:
    """Identifiers of the first few of some episodes."""
    text = ", ".join(str(i) for i in log.episode_id[episodes[:most]])
    return f"{text} and {len(episodes) - most:,} more" if len(episodes) > most else text
