"""Checks of the sources of a log: a good source that few rows come from."""

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
"""Effect size called large (Cohen 1988)."""


Z = 5.0


MOST_SOURCES = 50


def source_numbers(log: Dataset, facts: Facts) -> list[dict[str, Any]]:
    """Share of rows, episodes and mean return of each source, best first; empty without a source column. An episode
    has the source of its first row."""
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
    """A clearly better source with few rows beside one with most."""
    found = source_numbers(log, facts)
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
            f"{share:.0%} of rows, mean return {best[0]['mean_return']:.4g}, beside {largest['share']:.0%} from "
            f"{largest['source']} with {largest['mean_return']:.4g}",
            f"the better sources to have {MINORITY:.0%} of rows or more",
            "Sample sources evenly, filter by source or return (FilteredBC), or weigh by advantage (IQL, AWAC).",
        )
