"""How a fitted Q is read where a policy's actions are drawn: features of each action, averaged over the draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.pieces import pieces
from stitchrl.jax_types import Array
from stitchrl.nn.networks import MLP
from stitchrl.types import NumpyArray

__all__ = ["features_and_q", "read_drawn"]

ROWS_AT_ONCE = 1024
"""Rows that are read in one call, each with its own draws."""


def read_drawn(
    critic: MLP,
    scaling: Scaling,
    table: NumpyArray,
    log: Dataset,
    draws: Float[NumpyArray, "N K D"],
    next_draws: Float[NumpyArray, "N K D"],
    *,
    logged: bool,
) -> dict[str, NumpyArray]:
    """What a network says of each transition: q, v and next_v, (N,) in scaled units, and features, each (N, H + 1).

    The features are psi and next_psi, `instrument`, which is psi over other draws, and with `logged` phi of the logged action.

    Args:
        critic: the network.
        scaling: the scaling of its inputs.
        table: the scaled observations that the log's indices point to.
        log: a log with continuous actions.
        draws, next_draws: (N, K, D) actions of the policy; those at the next state of a row are those of the next row.
        logged: whether phi is asked for.
    """
    found = _read(critic, scaling, table, log.observation_index, log.action, draws)
    if not logged:
        del found["phi"]
    # What follows a row is the next row, which has been read; only what follows the others is read as well.
    following = np.flatnonzero(log.continues)
    others = np.flatnonzero(~log.continues & ~log.terminated & (log.next_observation_index >= 0))
    read = None
    if len(others):
        read = _read(
            critic, scaling, table, log.next_observation_index[others], next_draws[others, 0], next_draws[others]
        )
    for name in ("psi", "v"):
        found[f"next_{name}"] = np.zeros_like(found[name])
        found[f"next_{name}"][following] = found[name][following + 1]
        if read is not None:
            found[f"next_{name}"][others] = read[name]
    return found


def _read(
    critic: MLP, scaling: Scaling, table: NumpyArray, index: NumpyArray, action: NumpyArray, draws: NumpyArray
) -> dict[str, NumpyArray]:
    """The numbers of some states, with the given actions as those logged there."""
    parts: list[dict[str, Any]] = []
    for first, start, stop in pieces(len(index), ROWS_AT_ONCE):
        rows = slice(first, stop)
        out = _drawn(
            critic,
            jnp.asarray(table[index[rows]]),
            jnp.asarray(scaling.actions(action[rows])),
            jnp.asarray(scaling.actions(draws[rows])),
        )
        parts.append({name: np.asarray(value)[start - first :] for name, value in out.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@jax.jit
def _drawn(critic: MLP, obs: Array, action: Array, draws: Array) -> Any:
    actions = jnp.concatenate([action[:, None, :], draws], axis=1)
    phi, q = features_and_q(critic, obs, actions @ critic.weights[0][obs.shape[1] :])
    # A product of two averages over the same draws would be biased by the variance of the draws: each draw serves one side.
    half = (draws.shape[1] + 1) // 2
    return {
        "q": q[:, 0],
        "phi": phi[:, 0],
        "instrument": jnp.mean(phi[:, 1 : 1 + half], axis=1),
        "psi": jnp.mean(phi[:, 1 + half :] if half < draws.shape[1] else phi[:, 1:], axis=1),
        "v": jnp.mean(q[:, 1:], axis=1),
    }


def features_and_q(critic: MLP, obs: Array, of_actions: Array) -> tuple[Array, Array]:
    """phi (B, K, H + 1), the last hidden layer and a constant, and q (B, K), from what actions add to the first layer."""
    here = obs @ critic.weights[0][: obs.shape[1]] + critic.biases[0][None, :]
    hidden = critic.hidden_from_first(here[:, None, :] + of_actions)
    ones = jnp.ones((*hidden.shape[:2], 1), hidden.dtype)
    q = hidden @ critic.weights[-1] + critic.biases[-1][None, None, :]
    return jnp.concatenate([hidden, ones], axis=-1), q[..., 0]
