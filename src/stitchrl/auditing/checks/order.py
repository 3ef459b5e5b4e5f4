"""Checks of the order of the rows, by the `step` and `time` columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import blocks
from stitchrl.auditing.wording import rows_from, share_of
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["steps_missing", "time_backwards"]

CONSECUTIVE = 0.5
"""A log counts its steps one by one where more than this share of its steps go up by one."""


def steps_missing(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Steps that jump by more than one inside an episode, in a log that counts them one by one."""
    ones = jumps = lost = inside = 0
    first = -1
    for rows in _pairs(log):
        ahead = log.step[rows + 1].astype(np.int64) - log.step[rows].astype(np.int64)
        jumped = np.flatnonzero(ahead > 1)
        inside, ones = inside + len(rows), ones + int((ahead == 1).sum())
        jumps, lost = jumps + len(jumped), lost + int((ahead[jumped] - 1).sum())
        if first < 0 and len(jumped):
            first = int(rows[jumped[0]])
    if jumps and ones > CONSECUTIVE * inside:
        yield Finding(
            "steps-missing",
            "warning",
            f"step: {rows_from(first, jumps)}",
            f"after {share_of(jumps, inside)} of rows inside episodes the step jumps by more than one, which skips {lost:,} "
            "steps in all",
            "steps that go up by one, as most in this log do",
            "Look for lost rows: next observations and returns are then not those that followed the logged action.",
        )


def time_backwards(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows inside an episode whose time is earlier than that of the row before, although their step is later."""
    if log.time is None or log.time.dtype.kind not in "iufM":
        return
    back = inside = 0
    first = -1
    for rows in _pairs(log):
        wrong = np.flatnonzero((log.time[rows + 1] < log.time[rows]) & (log.step[rows + 1] > log.step[rows]))
        inside, back = inside + len(rows), back + len(wrong)
        if first < 0 and len(wrong):
            first = int(rows[wrong[0]]) + 1
    if back:
        yield Finding(
            "time-backwards",
            "warning",
            f"time, step: {rows_from(first, back)}",
            f"{share_of(back, inside)} of rows inside episodes have an earlier time than the row before, although their "
            "step is later",
            "times that increase with the steps",
            "Find out which of the two is right: rows out of order make every next observation wrong.",
        )


def _pairs(log: Dataset) -> Iterator[NumpyArray]:
    """Block by block, the rows that another row of the same episode follows."""
    for block in blocks(log.num_transitions):
        inside = np.ones(block.stop - block.start, bool)
        first, last = np.searchsorted(log.episode_start, [block.start + 1, block.stop + 1])
        inside[log.episode_start[first:last] - 1 - block.start] = False
        yield np.flatnonzero(inside) + block.start
