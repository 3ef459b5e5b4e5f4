"""Which of several estimates a verdict rests on."""

from __future__ import annotations

from collections.abc import Mapping

from stitchrl.evaluation.results import Estimate

__all__ = ["choose_primary"]


def choose_primary(estimates: Mapping[str, Estimate]) -> str | None:
    """Name of the primary estimate: of those with an interval, healthy or not, the one with the least rank; None without any.

    An estimate that fails a check is not exchanged for the next one, which may not have been put to that check at all.
    """
    ranked = [(one.primary_rank, name) for name, one in estimates.items() if one.primary_rank is not None]
    return next((name for _, name in sorted(ranked) if estimates[name].lower is not None), None)
