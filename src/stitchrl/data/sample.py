"""From a Dataset to batches drawn in-graph: device-resident arrays and a pure function of row indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.transform import Scaling
from stitchrl.types import Array, Batch, PyTree

__all__ = ["Source", "sample_transitions", "transition_source"]


@dataclasses.dataclass(frozen=True)
class Source:
    """What the loop learns from.

    Attributes:
        arrays: pytree of device arrays.
        count: rows that can be drawn.
        sample: (arrays, row indices (B,), member index) -> batch; pure. The member index tells vmapped members apart
            (a seed, or the policy an evaluation is for).
    """

    arrays: PyTree
    count: int
    sample: Callable[[PyTree, Int[Array, " B"], Int[Array, ""]], Batch]


def transition_source(log: Dataset, scaling: Scaling) -> Source:
    """Every transition of the log, drawn with equal chance. Observations are scaled once and stored once."""
    count, num_actions = log.num_transitions, log.num_actions
    following = np.where(log.next_observation_index < 0, 0, log.next_observation_index)
    arrays = {
        "observations": scaling.observations(log.observation_table),
        "observation_index": log.observation_index,
        "next_observation_index": following.astype(np.int32),
        "action": scaling.actions(log.action),
        "reward": (log.reward * np.float32(scaling.reward_scale)),
        "terminated": log.terminated.astype(np.float32),
        "truncated": log.truncated.astype(np.float32),
        "td_weight": log.can_bootstrap.astype(np.float32),
    }
    if num_actions is not None:
        everything = np.ones((1, num_actions), bool)
        # One all-True row stands in for a log without masks.
        arrays["action_mask"] = everything if log.action_mask is None else log.action_mask
        arrays["next_action_mask"] = everything if log.next_action_mask is None else log.next_action_mask
    return Source({name: jnp.asarray(value) for name, value in arrays.items()}, count, sample_transitions)


def sample_transitions(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    """The batch of the given rows; the same for every member."""
    del member
    batch = {
        "obs": arrays["observations"][arrays["observation_index"][index]],
        "next_obs": arrays["observations"][arrays["next_observation_index"][index]],
    }
    for name in ("action", "reward", "terminated", "truncated", "td_weight"):
        batch[name] = arrays[name][index]
    for name in ("action_mask", "next_action_mask"):
        if name in arrays:
            rows = arrays[name].shape[0]
            batch[name] = arrays[name][index if rows > 1 else jnp.zeros_like(index)]
    return batch
