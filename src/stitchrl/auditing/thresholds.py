"""Thresholds that several checks of the audit share."""

from __future__ import annotations

MINORITY, MAJORITY = 0.2, 0.5
"""A better part with less than 20% of the rows is drowned by a part with more than half of them: uniform batches then hold
mostly the worse one."""
