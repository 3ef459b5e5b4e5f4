"""What `fit` takes, and refuses, where an algorithm learns from preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import Sampling
from stitchrl.errors import ConfigurationError
from stitchrl.messages import printable

__all__ = ["check_preferences", "learned_preferences"]

USUAL = {"n_steps": 1, "stream": False, "reward_scale": 1.0, "reward_shift": 0.0}
"""Arguments of `fit` that pairs have no use for, with the values that ask for nothing."""


def learned_preferences(algorithm: Algorithm, given: object, function: str) -> dict[str, Any]:
    """The arguments of a `Job` for preferences. Raises ConfigurationError where `function` was given something else."""
    if not isinstance(given, Preferences):
        raise ConfigurationError(
            f"{algorithm.name} learns from preferences, and `{function}` was given {printable(repr(given)):.80}. "
            "`st.read_preferences` makes them of a table, and st.Preferences of a log whose episodes were compared."
        )
    return {"log": given.segments, "preferences": given}


def check_preferences(algorithm: Algorithm, arguments: Mapping[str, Any]) -> None:
    """Raise ConfigurationError where an argument of `fit` would do nothing for pairs.

    Args:
        algorithm: that learns from preferences.
        arguments: of `fit`, by name: those of `USUAL`, and `sampling`.
    """
    for name, usual in USUAL.items():
        if arguments[name] != usual:
            raise ConfigurationError(
                f"`{name}` of fit, {arguments[name]!r}, does nothing for {algorithm.name}, which reads no rewards and holds all pairs "
                "in memory. Leave it out."
            )
    if isinstance(arguments["sampling"], Sampling):
        raise ConfigurationError(
            f"`sampling` of fit, {arguments['sampling']!r}, draws rows of a log, and {algorithm.name} learns from pairs. Give the pairs "
            "a `weight`, and leave it out."
        )
