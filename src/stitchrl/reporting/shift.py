"""Where a policy over continuous actions differs from the log, prepared for the report: a row for each number of the action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.reporting.numbers import percent

__all__ = ["shift_view"]

MOST_ROWS = 16
WIDTH = 200.0
"""Units of the drawing of one row."""


def shift_view(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rows, those that differ most first, each with what was logged and what the policy does as bands on one axis; None
    where actions are discrete."""
    if found is None:
        return None
    columns = zip(
        found["logged_mean"],
        found["logged_std"],
        found["policy_mean"],
        found["policy_std"],
        found["distance"],
        found["outside"],
        strict=True,
    )
    rows = []
    for number, (mean, spread, policy_mean, policy_spread, distance, outside) in enumerate(columns):
        ends = [mean - spread, mean + spread, policy_mean - policy_spread, policy_mean + policy_spread]
        low, wide = min(ends), max(max(ends) - min(ends), 1e-12)
        at = [round((end - low) / wide * WIDTH, 1) for end in (*ends, mean, policy_mean)]
        rows.append(
            {
                "name": f"action {number}",
                "logged": f"{_plain(mean)} ± {_plain(spread)}",
                "policy": f"{_plain(policy_mean)} ± {_plain(policy_spread)}",
                "distance": distance,
                "outside": percent(outside),
                "bands": {"logged": (at[0], at[1] - at[0]), "policy": (at[2], at[3] - at[2])},
                "means": {"logged": at[4], "policy": at[5]},
            }
        )
    rows.sort(key=lambda row: -row["distance"])
    shown = [row | {"distance": _plain(row["distance"])} for row in rows[:MOST_ROWS]]
    return {"rows": shown, "left_out": len(rows) - len(shown), "width": WIDTH}


def _plain(value: float) -> str:
    """Two digits are enough to compare two bands."""
    return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
