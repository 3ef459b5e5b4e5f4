"""Which of several estimates a verdict rests on."""

from __future__ import annotations

from collections.abc import Mapping

from stitchrl.evaluation.results import Estimate

__all__ = ["choose_primary"]


def choose_primary(estimates: Mapping[str, Estimate]) -> str | None:
    """Name of the primary estimate: the first with a rank and an interval, healthy or not.

    One that fails a check is not exchanged for the next, which may never have been asked what the first failed.
    """
    ranked = [(one.primary_rank, name) for name, one in estimates.items() if one.primary_rank is not None]
    return next((name for _, name in sorted(ranked) if estimates[name].lower is not None), None)
