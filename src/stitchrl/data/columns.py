"""Names and limits of the columns of a Dataset."""

from __future__ import annotations

__all__ = ["MOST_ROWS", "NO_OBSERVATION", "PER_TRANSITION"]

NO_OBSERVATION = -1
"""Stands in `next_observation_index` where the log does not have the next observation."""
MOST_ROWS = 2**31 - 1
"""The largest number of rows that 32-bit integers can number."""
PER_TRANSITION = (
    "observation_index",
    "next_observation_index",
    "action",
    "reward",
    "terminated",
    "truncated",
    "step",
    "behavior_log_prob",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "time",
    "observation_id",
    "cost",
    "subgroup",
    "policy_probs",
    "policy_log_prob",
)
"""Columns of a Dataset with one row a transition."""
