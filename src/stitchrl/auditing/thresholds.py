"""Thresholds that several checks of the audit share."""

from __future__ import annotations

MINORITY, MAJORITY = 0.2, 0.5
"""A better part with less than 20% of the rows is drowned by a part with more than half of them: uniform batches then hold
mostly the worse one."""
MAXIMUM_WEIGHT_SHARE = 0.02
"""The verdict accepts no estimate in which one episode, or group of episodes, holds a larger share of all weight: the
health checks of an estimate have their limit from here."""
