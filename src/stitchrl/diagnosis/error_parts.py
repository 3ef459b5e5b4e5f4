"""The error of claimed values in a world that is known exactly, split by where it comes from.

With T the Bellman operator of a policy pi, and Q the claimed values of every state and action:

    (1)  Bellman error         e = Q - T Q,  the error of one backup, whose size training reduces on logged pairs
    (2)  error of the values   Q - Q^pi = (I - gamma P^pi)^-1 e
    (3)  approximation error   (2) with the e of logged pairs alone: the error that the fit to the log leaves
    (4)  extrapolation error   (2) with the e of all other pairs alone: the error that nothing in the log could correct

(2) is linear in e, so (3) and (4) add up to it. An e of eps at every pair that a policy takes makes (2) eps / (1 - gamma).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.types import NumpyArray

__all__ = ["ErrorParts", "error_parts"]


class ErrorParts(NamedTuple):
    """Errors of claimed values, (S, A) each and 0 in terminal states.

    Attributes:
        bellman: equation (1).
        approximation, extrapolation: equations (3) and (4), which add up to Q - Q^pi.
        bound: the largest absolute Bellman error of a pair outside of the log, over 1 - gamma; infinite at gamma 1. No
            extrapolation error is larger.
    """

    bellman: Float[NumpyArray, "S A"]
    approximation: Float[NumpyArray, "S A"]
    extrapolation: Float[NumpyArray, "S A"]
    bound: float

    @property
    def total(self) -> Float[NumpyArray, "S A"]:
        """Equation (2)."""
        return self.approximation + self.extrapolation


def error_parts(
    mdp: FiniteMDP,
    q: Float[NumpyArray, "S A"],
    probs: Float[NumpyArray, "S A"],
    logged: Bool[NumpyArray, "S A"],
    *,
    gamma: float,
) -> ErrorParts:
    """Split the error of claimed values.

    Args:
        mdp: the world.
        q: (S, A) the claimed values; those of terminal states are not read.
        probs: (S, A) the policy that the values are claimed for.
        logged: (S, A) which pairs the log shows.
        gamma: the discount; at 1 the policy must reach a terminal state from everywhere.

    Raises:
        ConfigurationError: a table of another shape than the world's.
    """
    shape = (mdp.num_states, mdp.num_actions)
    for name, table in (("q", q), ("probs", probs), ("logged", logged)):
        if table.shape != shape:
            raise ConfigurationError(f"`{name}` of error_parts must have the world's shape {shape}; got {table.shape}.")
    live = ~mdp.terminal[:, None]
    claimed = np.where(live, q, 0.0)
    bellman = np.where(live, claimed - mdp.expected_reward - gamma * mdp.transition @ (probs * claimed).sum(1), 0.0)
    beyond = np.abs(np.where(logged, 0.0, bellman)).max()
    return ErrorParts(
        bellman,
        _propagated(mdp, np.where(logged, bellman, 0.0), probs, gamma),
        _propagated(mdp, np.where(logged, 0.0, bellman), probs, gamma),
        float(beyond / (1 - gamma)) if gamma < 1 else float("inf") if beyond > 0 else 0.0,
    )


def _propagated(
    mdp: FiniteMDP, error: Float[NumpyArray, "S A"], probs: Float[NumpyArray, "S A"], gamma: float
) -> Float[NumpyArray, "S A"]:
    """(I - gamma P^pi)^-1 of an error: the values of a world whose rewards are that error."""
    paid = np.broadcast_to(error[:, :, None], mdp.transition.shape)
    return dataclasses.replace(mdp, reward=paid).action_values(probs, gamma=gamma)
