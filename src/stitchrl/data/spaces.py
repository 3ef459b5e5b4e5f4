"""The Gymnasium spaces of a log's observations and actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stitchrl.data.schema import Schema

if TYPE_CHECKING:
    from gymnasium import spaces

__all__ = ["action_space", "observation_space"]


def action_space(schema: Schema, size: int) -> spaces.Space[Any]:
    """Discrete; MultiDiscrete for several choices in one action; else a Box with the bounds that the schema declares.

    Args:
        schema: of the log.
        size: numbers in a continuous action; not used for discrete ones.
    """
    from gymnasium import spaces

    if schema.action_counts is not None and schema.action_bins is None:
        return spaces.MultiDiscrete(list(schema.action_counts))
    if schema.num_actions is not None:
        return spaces.Discrete(schema.num_actions)
    low, high = (
        np.full(size, unbounded, np.float32) if declared is None else np.asarray(declared, np.float32)
        for declared, unbounded in ((schema.action_low, -np.inf), (schema.action_high, np.inf))
    )
    return spaces.Box(low, high, dtype=np.float32)


def observation_space(shape: tuple[int, ...], dtype: np.dtype[Any]) -> spaces.Box:
    """A Box: of bytes for images, else of numbers without bounds."""
    from gymnasium import spaces

    if dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)
