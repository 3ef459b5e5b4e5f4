"""Arguments that `fit` refuses for algorithms that make no updates, because they would do nothing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.sampling import Sampling, UniformSampling
from stitchrl.errors import ConfigurationError, StitchRLWarning

__all__ = ["check_closed_form"]

OF_UPDATES = ("max_gradient_norm", "warmup_updates", "decay_updates", "average_rate", "precision")
"""Settings of every algorithm that only say how updates are made."""


def check_closed_form(algorithm: Algorithm, seeds: int, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do nothing for an algorithm in closed form. `updates`, logging and saving do no harm.

    Args:
        algorithm: any; one that makes updates is never refused.
        seeds: how many there are.
        arguments: of `fit`, by name: `n_steps`, `sampling`, `stop` and `environment`.

    Raises:
        ConfigurationError: an argument or a setting that does nothing for it.

    Warns:
        StitchRLWarning: several seeds, which all have the same policy.
    """
    if not algorithm.closed_form:
        return
    why = f"does nothing for {algorithm.name}, which makes no updates but solves the whole log at once."
    sampling = arguments["sampling"]
    if isinstance(sampling, Sampling) and not isinstance(sampling, UniformSampling):
        raise ConfigurationError(
            f"`sampling` of fit, {sampling!r}, {why} Leave it out, or give `fit` a log of only the rows to learn from."
        )
    if arguments["n_steps"] > 1:
        raise ConfigurationError(f"`n_steps` of fit, {arguments['n_steps']}, {why} Leave it out.")
    if arguments["stop"] is not None:
        raise ConfigurationError(f"`stop` of fit, {arguments['stop']!r}, {why} Leave it out.")
    if arguments["environment"] is not None:
        raise ConfigurationError(
            f"`environment` of fit {why} Leave it out, and play the policy with `st.rollout` afterwards."
        )
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if field.name in OF_UPDATES and value != field.default:
            raise ConfigurationError(f"`{field.name}` of {algorithm.name}, {value!r}, {why} Leave it out.")
    if seeds > 1:
        warnings.warn(
            f"{algorithm.name} solves the log without drawing anything at random, so its {seeds} seeds have the same "
            "policy: they say nothing about how much chance matters. One seed is enough.",
            StitchRLWarning,
            stacklevel=5,
        )
