"""Whether an algorithm can learn from a log, with what `fit` was asked for: each reason that it cannot is one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.sampling import Sampling, UniformSampling, drawing_rule
from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import Network
from stitchrl.training.closed_forms import check_closed_form
from stitchrl.training.comparing import check_kind

__all__ = ["ASKED", "check_suits"]

ASKED = ("n_steps", "sampling", "stream", "reward_scale", "reward_shift", "stop", "environment")
"""Arguments of `fit` that not every algorithm and not every log allows."""
MOST_JOINT_ACTIONS = 10_000
"""The most joint actions: a network has an output, and a row a mask entry, for each of them."""


def check_suits(
    algorithm: Algorithm, log: Dataset, preferences: Preferences | None, arguments: Mapping[str, Any]
) -> None:
    """Raise ConfigurationError where an algorithm cannot learn from a log, or not with these arguments.

    Args:
        algorithm: any.
        log: what is learned from; with `preferences`, their segments.
        preferences: where these are learned from.
        arguments: of `fit`, by name: those of `ASKED`, and `seeds`, how many there are.

    Warns:
        StitchRLWarning: several seeds of an algorithm that draws nothing at random.
    """
    check_kind(algorithm, preferences, arguments)
    _check_actions_and_observations(algorithm, log)
    _check_components(algorithm, log)
    _check_steps(algorithm, arguments)
    _check_drawing(algorithm, arguments)
    if log.schema.time_unit is not None:
        _check_time(algorithm, arguments)
    check_closed_form(algorithm, arguments["seeds"], arguments)


def _check_actions_and_observations(algorithm: Algorithm, log: Dataset) -> None:
    """Actions and observations are of a kind that the algorithm learns from."""
    kind = "continuous" if log.num_actions is None else "discrete"
    if kind not in algorithm.actions:
        raise ConfigurationError(
            f"{algorithm.name} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}. BC, IQL and "
            "CQL learn from both kinds."
        )
    shape = log.observation_table.shape[1:]
    seen = "vectors" if len(shape) == 1 else "images"
    if seen not in algorithm.observations or (seen == "images" and kind == "continuous" and algorithm.has_critics):
        raise ConfigurationError(
            f"{algorithm.name} learns from {' or '.join(algorithm.observations)}; this log's observations are {seen} "
            f"of shape {shape} with {kind} actions. BC learns from images whatever the actions."
        )


def _check_components(algorithm: Algorithm, log: Dataset) -> None:
    """Actions of several components are not too many, and there are some where networks are made for them."""
    counts = log.schema.action_counts
    shapes = [shape for shape in vars(algorithm).values() if isinstance(shape, Network)]
    if len(counts or ()) < 2 and any(shape.outputs == "factored" for shape in shapes):
        raise ConfigurationError(
            f'`outputs="factored"` of a network of {algorithm.name} needs discrete actions of several components; an action '
            'of this log has none. Declare them (`count = [5, 5]` or `bins` in the schema), or use "joint".'
        )
    if counts is not None and math.prod(counts) > MOST_JOINT_ACTIONS:
        raise ConfigurationError(
            f"An action of this log is a choice in each of {len(counts)} components, {' x '.join(map(str, counts))}: "
            f"{math.prod(counts):,} joint actions. Networks have an output for each, and fit takes at most "
            f"{MOST_JOINT_ACTIONS:,}. Join choices (fewer `bins`), or read the components as continuous actions."
        )


def _check_steps(algorithm: Algorithm, arguments: Mapping[str, Any]) -> None:
    """`n_steps` is left to algorithms that have no such setting of their own, and a TD target."""
    steps = arguments["n_steps"]
    if algorithm.target_steps and steps > 1:
        raise ConfigurationError(
            f"{algorithm.name} has {algorithm.target_steps} steps of reward in its targets by its own settings; `n_steps` of "
            f"fit gives another number, {steps}. Leave it out."
        )
    if algorithm.sequence_length and steps > 1:
        raise ConfigurationError(
            f"`n_steps` of fit, {steps}, does nothing for {algorithm.name}, which learns from pieces of episodes and "
            "has no TD target. Leave it out."
        )


def _check_drawing(algorithm: Algorithm, arguments: Mapping[str, Any]) -> None:
    """Rows are drawn by one rule, one that the algorithm is right under."""
    sampling, own = arguments["sampling"], algorithm.sampling
    if own is not None and isinstance(sampling, Sampling):
        raise ConfigurationError(
            f"{algorithm.name} draws rows by its own rule, {own!r}; `sampling` of fit gives another, "
            f"{sampling!r}. Leave it out, or use BC with that rule."
        )
    if algorithm.refresh_every_updates and arguments["stream"]:
        raise ConfigurationError(
            f"{algorithm.name} reads the whole log every {algorithm.refresh_every_updates} updates, which a streamed "
            "log does not allow. Train without `stream`."
        )
    if getattr(algorithm, "critic_per_source", False) and not isinstance(drawing_rule(own, sampling), UniformSampling):
        raise ConfigurationError(
            f"`critic_per_source` of {algorithm.name} weights rows by their source's share of the log, which is wrong where "
            f"`sampling` of fit, {sampling!r}, draws other shares. Leave one of them out."
        )


def _check_time(algorithm: Algorithm, arguments: Mapping[str, Any]) -> None:
    """Where a log is discounted by time, neither the algorithm nor `n_steps` counts steps."""
    steps, leave = arguments["n_steps"], "Leave `time_unit` out of the schema to count steps"
    if hasattr(algorithm, "gamma") and not algorithm.irregular_time:
        raise ConfigurationError(
            f"{algorithm.name} discounts by steps, and the schema of this log has a `time_unit`, which makes gamma a "
            f"discount per unit of time. {leave}, or use IQL or CQL."
        )
    if steps > 1:
        raise ConfigurationError(
            f"`n_steps` of fit, {steps}, discounts by steps, and the schema of this log has a `time_unit`. {leave}, "
            "or leave out `n_steps`."
        )
