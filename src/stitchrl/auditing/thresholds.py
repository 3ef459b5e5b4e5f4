"""Thresholds that several checks and estimates of the audit share."""

from __future__ import annotations

MINORITY, MAJORITY = 0.2, 0.5
"""A better part under 20% of rows, beside a part of more than half: uniform batches hold mostly the worse."""
