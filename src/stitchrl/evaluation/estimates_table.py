"""The estimates of an evaluation as a table for a terminal of 80 columns: value, gain and health of each."""

from __future__ import annotations

from collections.abc import Mapping

from stitchrl.evaluation.results import Estimate
from stitchrl.messages import interval_in_words
from stitchrl.nn.memory import REMEMBERS

__all__ = ["estimates_table"]

MOST_CHECKS = 2
"""Failed checks that are named; of more the number is given."""


def estimates_table(estimates: Mapping[str, Estimate], gain: Mapping[str, Estimate], primary: str | None) -> list[str]:
    """A line an estimator under a line of headings; none where only one was asked for.

    Args:
        estimates, gain: as in `Evaluation`.
        primary: the estimator that the verdict rests on, which gets a star; None where it rests on none.
    """
    if len(estimates) < 2:
        return []
    rows = [("estimator", "value", "gain", "health")]
    for name, one in estimates.items():
        star = "*" if name == primary else " "
        rows.append((f"{name} {star}", _number(one), _span(gain.get(name)), _health(gain.get(name, one))))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3])).rstrip()
        for row in rows
    ]
    if primary is not None:
        lines.append("* the verdict rests on this one")
    unable = [name for name, one in estimates.items() if any(REMEMBERS in reason for reason in one.reasons)]
    if unable:
        lines.append(
            f"Not for this policy, which remembers its episode: {', '.join(unable)} ask what a policy does at one observation."
        )
    return lines


def _number(one: Estimate) -> str:
    """The value, in as many digits as its interval calls for."""
    if one.value is None:
        return "-"
    if one.lower is None or one.upper is None:
        return f"{one.value:.4g}"
    return interval_in_words(one.value, one.lower, one.upper, sign=False).split(" ")[0]


def _span(one: Estimate | None) -> str:
    """The gain with its interval, where there are any."""
    if one is None or one.value is None:
        return "-"
    if one.lower is None or one.upper is None:
        return f"{one.value:+.4g}, no interval"
    return interval_in_words(one.value, one.lower, one.upper)


def _health(one: Estimate) -> str:
    """Whether every check holds, or which do not."""
    if one.healthy:
        return "healthy"
    failed = [check.key for check in one.checks if not check.passed]
    if one.value is None or not failed:
        return "does not apply"
    more = f" and {len(failed) - MOST_CHECKS} more" if len(failed) > MOST_CHECKS else ""
    return f"fails {', '.join(failed[:MOST_CHECKS])}{more}"
