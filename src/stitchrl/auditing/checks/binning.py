"""The check of bins of time: whether rows hold several events rather than one decision."""

from __future__ import annotations

from collections.abc import Iterator

from stitchrl.auditing.binning import binning_of
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.data.dataset import Dataset

__all__ = ["steps_binned"]


def steps_binned(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Traces of events that were sorted into bins of time, after which an action may stand before what it reacted to."""
    found = binning_of(log)
    if found is not None:
        yield Finding(
            "steps-binned",
            "warning",
            ", ".join(found.where),
            found.sentence,
            "a row for each decision, with what was known when it was taken",
            "Where an action reacted to what happened inside its own bin, estimates are too good. Log each decision at its own "
            "time (`time` and `time_unit` in the schema), or see whether narrower bins give the same estimate.",
        )
