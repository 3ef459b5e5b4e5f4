"""Checks of the structure of a log: missing values, how episodes end, and rows or episodes that are lost or duplicated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import NotFinite
from stitchrl.auditing.regression import features, residuals
from stitchrl.auditing.thresholds import MAXIMUM_WEIGHT_SHARE
from stitchrl.auditing.wording import rows_from, share_of
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
"""With 100 episodes, a 95% interval of a share reaches 10 percentage points to either side."""
MOST_COPIED_EPISODES, COPIED_ROWS = 0.01, 0.01
"""Shares of copies above which intervals are noticeably too narrow."""
MOST_REPEATS = 0.5
"""With a larger share of rows that repeat an observation the states are few, and equal rows are to be expected."""
PILE = 3.0
"""Episode lengths pile up where a length is this many times as common as its neighbours, and five standard errors more."""
LEAST_PILE = 0.02
"""Share of episodes below which a pile does no harm."""
SHARED_GROUPS = 0.05
"""Share of episodes that may share a group with another before the number of episodes overstates what is known."""
TEST_PART = 0.4
"""The share of the log that serves as test."""
ONE_STEP_SHARE = 0.05
"""Share of one-step episodes below which they do no harm."""
ROUTINE_NOTES = ("Read as",)
"""How notes of the reader begin that report nothing unusual."""
STEPS_LOOKED_AT = 2**14
"""Jumps are sought among at most this many steps."""
FAR_OFF, HALF = 10.0, 0.5
"""A jump misses the prediction ten times as far as nine of ten steps do, and by half a standard deviation a column."""
MANY_JUMPS = 0.01
"""With at least this share of such steps, ten times as far as the median step is enough."""


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


def observation_jumps(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Steps that lead far from where other steps lead: rows are lost or out of order, or two episodes share an identifier.

    A step counts as a jump when the observation changes much, and a regression of the change on observation and action
    (fitted on other episodes) misses it by far more than it misses nearly all other steps.
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
        action = facts.one_hot(action)
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
            f"next_observation: {rows_from(rows[found[0]], len(found))} of {len(rows):,} examined",
            f"{len(found) / len(rows):.2%} of steps lead {np.median(off[found]):.2g} standard deviations a column away from "
            f"where the other steps would (the usual distance is {usual:.2g})",
            "steps that follow from the observation and the action, as nearly all others in this log do",
            "Look for lost rows, rows out of order, or two episodes under one identifier.",
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


def some_episodes_of_one_step(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Far too many one-step episodes among longer ones: starts that were cut off from the rest of their episodes."""
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
            f"{ones / len(lengths):.0%} of episodes have one step, while the median of the others is {np.median(longer):.0f}",
            "few episodes that end after their first step",
            "Look for episodes that were opened and not continued, or whose identifier changed after the first step.",
        )


def _is_pile(count: int, usual: float) -> bool:
    """Whether a length with this count is far more common than its neighbours, whose usual count is given."""
    return bool(count > PILE * max(usual, 0.5) + 5 * np.sqrt(max(usual, 0.5)))


def few_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """So few episodes that intervals cannot be relied on."""
    if log.num_episodes < LEAST_EPISODES:
        yield Finding(
            "few-episodes",
            "warning",
            "episode",
            f"the log has {log.num_episodes} episode{'' if log.num_episodes == 1 else 's'}",
            f"at least {LEAST_EPISODES}, better several hundred, for intervals to hold",
            "Collect more episodes before deciding anything.",
        )


def duplicated_episodes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes of three or more steps that equal another one in every action, reward and observation."""
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
            "If they are copies, drop them: copies in training and test make intervals too narrow. A log of few states and "
            "actions may repeat whole episodes by chance.",
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


def terminated_at_limit(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes marked terminated that pile up at the greatest length: a time limit marked as a true end."""
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
            f"{at_limit / log.num_episodes:.0%} of episodes ({at_limit:,}) are marked terminated at exactly {longest:,} steps, "
            f"the greatest length, against {usual:.1f} on average at each slightly smaller length",
            "`truncated` where a time limit ended the episode",
            "If that is a time limit, mark those ends truncated: `terminated` says that no reward can follow.",
        )


def cut_at_odd_places(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most episodes are truncated at many different lengths, which no time limit does."""
    last = log.episode_start[1:] - 1
    cut = log.truncated[last]
    lengths = np.diff(log.episode_start)[cut]
    if log.num_episodes < 20 or cut.mean() <= 0.5:
        return
    commonest = np.unique(lengths, return_counts=True)[1].max() / len(lengths)
    if commonest < 0.2 and lengths.max() >= 2 * lengths.min():
        never = ", and no episode is terminated" if cut.all() else ""
        yield Finding(
            "cuts-look-like-ends",
            "warning",
            "truncated",
            f"{cut.mean():.0%} of episodes are truncated, at lengths from {lengths.min():,} to {lengths.max():,} of which none "
            f"is common{never}",
            "truncation at a time limit, or of few episodes",
            "If these are true ends (a death, a goal, a discharge), mark them terminated.",
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


def _shown(log: Dataset, episodes: NumpyArray, most: int = 3) -> str:
    """The identifiers of the first few of these episodes."""
    text = ", ".join(str(i) for i in log.episode_id[episodes[:most]])
    return f"{text} and {len(episodes) - most:,} more" if len(episodes) > most else text
