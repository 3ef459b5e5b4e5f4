"""Checks against another log, such as the test part, with which nothing may be shared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.data.dataset import Dataset

__all__ = ["episodes_in_both", "rows_in_both"]

SHARED = 0.001
"""Share of the other log's episodes that may be in this one; ten times as many of its rows."""
MOST_REPEATS = 0.8
"""Logs in which a larger share of the rows repeat an earlier one are not compared by rows."""


def episodes_in_both(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes of three or more steps that both logs hold, beyond what repeats within each of them."""
    if facts.other is None:
        return
    mine, theirs = (_long_episodes(f) for f in (facts, facts.other))
    if not len(mine) or not len(theirs):
        return
    both = float(np.isin(theirs, mine).mean())
    repeats = max(1 - len(np.unique(h)) / len(h) for h in (mine, theirs))
    if both > SHARED + 2 * repeats:
        yield Finding(
            "episodes-in-both",
            "error",
            "episode",
            f"{both:.1%} of the other log's episodes are also in this one",
            "no episode in both logs",
            "Split the log by episode, once, before anything is learned.",
        )


def rows_in_both(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows that both logs hold, where rows seldom repeat within each of them."""
    if facts.other is None:
        return
    mine, theirs = facts.scan, facts.other.scan
    # A scan of a large log keeps one row in `every`, chosen by content: compare only rows that both scans would keep.
    every = np.lcm(mine.every, theirs.every)
    mine, theirs = (scan.row_hash[scan.row_hash % np.uint64(every) == 0] for scan in (mine, theirs))
    if not len(mine) or not len(theirs):
        return
    both = float(np.isin(theirs, mine).mean())
    repeats = max(1 - len(np.unique(h)) / len(h) for h in (mine, theirs))
    if repeats < MOST_REPEATS and both > SHARED * 10 + 2 * repeats:
        yield Finding(
            "rows-in-both",
            "error",
            "rows",
            f"{both:.1%} of the other log's rows are also in this one",
            "no row in both logs",
            "Split by episode (or by user, or by time), not by row.",
        )


def _long_episodes(facts: Facts) -> np.ndarray:
    return np.asarray(facts.scan.episode_hash[np.diff(facts.log.episode_start) >= 3])
