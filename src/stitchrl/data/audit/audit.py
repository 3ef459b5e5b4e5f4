"""`st.audit`: run every check on a log."""

from __future__ import annotations

import numpy as np

from stitchrl.data.audit.checks import CHECKS
from stitchrl.data.audit.finding import SEVERITIES, Audit
from stitchrl.data.dataset import Dataset

__all__ = ["audit"]


def audit(log: Dataset) -> Audit:
    """What is in a log and what is wrong with it, before a single update.

    Returns:
        Findings ordered by harm, and numbers: sizes, returns, lengths, action counts.
    """
    findings = [finding for check in CHECKS for finding in check(log)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    returns, lengths = log.episode_returns(), log.episode_lengths
    numbers = {
        "episodes": log.num_episodes,
        "transitions": log.num_transitions,
        "observation_size": log.observation_size,
        "num_actions": log.num_actions,
        "mean_return": float(returns.mean()),
        "mean_length": float(lengths.mean()),
        "return_hist": _histogram(returns),
        "length_hist": _histogram(lengths.astype(float)),
        "action_counts": [] if log.num_actions is None else np.bincount(log.action, minlength=log.num_actions).tolist(),
        "action_allowed_share": None if log.action_mask is None else log.action_mask.mean(0).tolist(),
        "truncated_episodes": int(log.truncated.sum()),
        "behavior_source": "fitted" if log.behavior_log_prob is None else "logged",
    }
    return Audit(tuple(findings), tuple(check.__name__ for check in CHECKS), numbers)


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    """At most 24 bins; whole numbers over a wide enough range get bins of whole width."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 2:
        edges = np.linspace(low, high if high > low else low + 1, 11)
    elif (values == np.floor(values)).all():
        width = max(1.0, np.ceil((high - low + 1) / 24))
        edges = np.arange(low - 0.5, high + 0.5 + width, width)
    else:
        edges = np.linspace(low, high, 25)
    counts, edges = np.histogram(values, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
