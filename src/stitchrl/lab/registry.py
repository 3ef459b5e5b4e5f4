"""The lessons, in the order of the path through them.

A lesson is a module in `lessons/` with a function `lesson()`; its prose is the Markdown file of the same name beside it.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from stitchrl.errors import ConfigurationError

__all__ = ["LESSONS", "STAGES", "check_name", "prose_of"]

STAGES = {
    "What offline learning is": ("value_functions", "online_offline", "stitching", "overestimation"),
    "From imitation to values": ("filtered_bc", "awr", "awac", "iql", "cql", "bcq_bear", "comparing"),
    "Believing a number": ("off_policy_evaluation", "hidden_confounding"),
    "In practice": ("choosing", "language_models"),
}
"""Heading -> the lessons below it."""
LESSONS = tuple(name for names in STAGES.values() for name in names)


def prose_of(name: str) -> str:
    """The Markdown of a lesson."""
    return (Path(__file__).parent / "lessons" / f"{name}.md").read_text(encoding="utf-8")


def check_name(name: str) -> None:
    """Raises ConfigurationError where there is no lesson of this name."""
    if name not in LESSONS:
        near = difflib.get_close_matches(name, LESSONS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LESSONS)}."
        raise ConfigurationError(f"There is no lesson {name!r}; {meant}")
