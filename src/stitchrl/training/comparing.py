"""Checks of `fit` where an algorithm learns from preferences, or preferences are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.given import check_is_log
from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import Sampling
from stitchrl.errors import ConfigurationError

__all__ = ["check_kind", "learned_from"]

FROM_PREFERENCES = (
    "learns from preferences, not from a log: `st.read_preferences` makes them of a table, and st.Preferences of a log "
    "whose episodes were compared."
)
USUAL = {"n_steps": 1, "stream": False, "reward_scale": 1.0, "reward_shift": 0.0}
"""Arguments of `fit` that do nothing where pairs are learned from, with their defaults."""


def learned_from(algorithm: Algorithm, given: object, function: str) -> dict[str, Any]:
    """The arguments of a `Job` for what is learned from: a log, or preferences together with the log of their segments.

    Raises:
        ConfigurationError: `function`, as users call it, was given neither.
    """
    if isinstance(given, Preferences):
        return {"log": given.segments, "preferences": given}
    if algorithm.learns_from == "preferences":
        raise ConfigurationError(
            f"{algorithm.name} {FROM_PREFERENCES} Got an object of the class {type(given).__name__}."
        )
    check_is_log(given, function)
    return {"log": given}


def check_kind(algorithm: Algorithm, preferences: Preferences | None, arguments: Mapping[str, Any]) -> None:
    """Raise ConfigurationError where an algorithm does not learn from what is given, or an argument would do nothing for it.

    Args:
        algorithm: any.
        preferences: where these are learned from; None for a log, which most algorithms take.
        arguments: of `fit`, by name: those of `USUAL`, and `sampling`.
    """
    if preferences is None:
        if algorithm.learns_from == "preferences":
            raise ConfigurationError(f"{algorithm.name} {FROM_PREFERENCES}")
        return
    if algorithm.learns_from != "preferences":
        raise ConfigurationError(
            f"{algorithm.name} learns from a log with rewards, and was given preferences. st.DPO learns from these."
        )
    for name, usual in USUAL.items():
        if arguments[name] != usual:
            raise ConfigurationError(
                f"`{name}` of fit, {arguments[name]!r}, does nothing for {algorithm.name}, which reads no rewards and holds "
                "all pairs in memory. Leave it out."
            )
    if isinstance(arguments["sampling"], Sampling):
        raise ConfigurationError(
            f"`sampling` of fit, {arguments['sampling']!r}, draws rows of a log, and {algorithm.name} learns from pairs. "
            "Give the pairs a `weight`, and leave it out."
        )
