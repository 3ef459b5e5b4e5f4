"""The history check of a log and the rows that it looks at, computed once for all checks that use them."""

from __future__ import annotations

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.history import HistoryCheck, history_check
from stitchrl.auditing.history_rows import PastRows, past_rows

__all__ = ["history_of", "rows_with_past"]


def rows_with_past(facts: Facts) -> PastRows | None:
    """The rows that have a row before them; None for images and logs of single decisions."""
    return facts.once(_rows_with_past)


def history_of(facts: Facts) -> HistoryCheck:
    """The answer of the history check."""
    return facts.once(_history)


def _rows_with_past(facts: Facts) -> PastRows | None:
    log = facts.log
    if not facts.has_columns or log.observation_table.shape[1] == 0 or (log.episode_lengths < 2).all():
        return None
    return past_rows(log)


def _history(facts: Facts) -> HistoryCheck:
    return history_check(facts.log, rows_with_past(facts))
