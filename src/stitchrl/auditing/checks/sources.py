"""Checks of the sources of a log: whether a good source is drowned by a large one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.thresholds import MAJORITY, MINORITY
from stitchrl.data.dataset import Dataset

__all__ = ["source_drowned", "source_numbers"]

BETTER_BY = 0.8
"""Difference of mean returns, in standard deviations, that is called large (Cohen 1988)."""
Z = 5.0
"""Standard errors by which a source must be better."""
MOST_SOURCES = 50
"""With more sources than this the column is taken for an identifier, and sources are not compared."""


def source_numbers(facts: Facts) -> list[dict[str, Any]]:
    """Share of rows, number of episodes and mean return of each source, the best first; empty without a source column. An
    episode has the source of its first row."""
    log = facts.log
    if log.source is None:
        return []
    names, of_episode = np.unique(log.source[log.episode_start[:-1]], return_inverse=True)
    if not 2 <= len(names) <= MOST_SOURCES:
        return []
    lengths, returns = np.diff(log.episode_start), facts.scan.returns
    found = [
        {
            "source": str(name),
            "episodes": int((of_episode == k).sum()),
            "share": float(lengths[of_episode == k].sum() / log.num_transitions),
            "mean_return": float(returns[of_episode == k].mean()),
            "return_spread": float(returns[of_episode == k].std()),
        }
        for k, name in enumerate(names)
    ]
    return sorted(found, key=lambda entry: -entry["mean_return"])


def source_drowned(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A source that is clearly better than the largest one but has few rows."""
    found = facts.once(source_numbers)
    if not found:
        return
    largest = max(found, key=lambda entry: entry["share"])
    best = [
        entry
        for entry in found
        if entry["mean_return"] - largest["mean_return"] > BETTER_BY * max(largest["return_spread"], 1e-12)
        and entry["mean_return"] - largest["mean_return"]
        > Z * np.hypot(*(e["return_spread"] / np.sqrt(max(e["episodes"], 1)) for e in (entry, largest)))
    ]
    share = sum(entry["share"] for entry in best)
    if best and largest["share"] > MAJORITY and share < MINORITY:
        yield Finding(
            "source-drowned",
            "warning",
            f"source: {', '.join(entry['source'] for entry in best[:3])}",
            f"{share:.0%} of rows come from better sources (mean return {best[0]['mean_return']:.4g}), while "
            f"{largest['share']:.0%} come from {largest['source']} (mean return {largest['mean_return']:.4g})",
            f"at least {MINORITY:.0%} of rows from the better sources",
            "Sample sources evenly, filter by source or return (FilteredBC), or weight by advantage (IQL, AWAC).",
        )
