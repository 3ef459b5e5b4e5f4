"""From rows of a log to batches: transitions, n-step windows, and pieces of episodes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from stitchrl.data.dataset import MOST_ROWS, Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import DataError
from stitchrl.jax_types import Array, Batch
from stitchrl.types import NumpyArray, PyTree

__all__ = ["NStepTransitions", "Sequences", "check_rows", "sample_transitions"]


def check_rows(log: Dataset) -> None:
    """Raise DataError where rows or stored observations cannot be numbered by 32 bits."""
    rows = max(log.num_transitions, len(log.observation_table))
    if rows > MOST_ROWS:
        raise DataError(
            f"A log in memory may have up to {MOST_ROWS:,} rows and stored observations; this one has {rows:,}. "
            "Convert it to a store and train with stream=True, or on a part of it."
        )


def transition_arrays(log: Dataset, scaling: Scaling) -> dict[str, NumpyArray]:
    """The log's columns as batches need them, one row a transition but for `observations`."""
    check_rows(log)
    following = np.where(log.next_observation_index < 0, 0, log.next_observation_index)
    arrays = {
        "observations": scaling.observations(log.observation_table),
        "observation_index": log.observation_index,
        "next_observation_index": following.astype(np.int32),
        "action": scaling.actions(log.action),
        "reward": scaling.rewards(log.reward),
        "terminated": log.terminated.astype(np.float32),
        "truncated": log.truncated.astype(np.float32),
        "td_weight": log.can_bootstrap.astype(np.float32),
    }
    if log.num_actions is not None:
        everything = np.ones((1, log.num_actions), bool)
        # One all-True row stands in for a log without masks.
        arrays["action_mask"] = everything if log.action_mask is None else log.action_mask
        arrays["next_action_mask"] = everything if log.next_action_mask is None else log.next_action_mask
    return arrays


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
            batch[name] = arrays[name][_row_of(arrays[name], index)]
    return batch


def _row_of(masks: Array, index: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Where a row's mask stands: one all-True row may stand in for all."""
    return index if masks.shape[0] > 1 else jnp.zeros_like(index)


@dataclasses.dataclass(frozen=True)
class NStepTransitions:
    """Batches over n steps: obs and action of a row, and what follows m <= n steps later, within its episode.

    Fields beside those of one step: rewards (B, n), 0 beyond m; steps (B,) float32, m. `next_obs`, `terminated`,
    `truncated`, `td_weight` and `next_action_mask` are those of the last of the m rows.
    """

    n_steps: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        steps = jnp.minimum(self.n_steps, arrays["run_end"][index] - index + 1)
        last = index + steps - 1
        offsets = jnp.arange(self.n_steps)
        window = jnp.minimum(index[:, None] + offsets[None, :], last[:, None])
        rewards = jnp.where(offsets[None, :] < steps[:, None], arrays["reward"][window], 0.0)
        batch, after = (dict(sample_transitions(arrays, rows, member)) for rows in (index, last))
        later = ("next_obs", "terminated", "truncated", "td_weight", "next_action_mask")
        batch |= {name: after[name] for name in later if name in after}
        return batch | {"rewards": rewards, "steps": steps.astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Batches of pieces of episodes: K rows from the drawn one on, within its episode.

    Fields: obs (B, K, D), action, reward, terminated, truncated (B, K, ...), position (B, K) in the episode, valid
    (B, K) 1 for rows of the episode and 0 beyond its end, where the last row is repeated; action_mask where discrete.
    """

    length: int

    def __call__(self, arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
        del member
        wanted = index[:, None] + jnp.arange(self.length)[None, :]
        rows = jnp.minimum(wanted, arrays["run_end"][index][:, None])
        batch = {name: arrays[name][rows] for name in ("action", "reward", "terminated", "truncated", "position")}
        batch["obs"] = arrays["observations"][arrays["observation_index"][rows]]
        batch["valid"] = (rows == wanted).astype(jnp.float32)
        if "action_mask" in arrays:
            batch["action_mask"] = arrays["action_mask"][_row_of(arrays["action_mask"], rows)]
        return batch
