"""The exact distribution of returns in a finite world: every return that is possible, with its probability."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.types import NumpyArray

__all__ = ["return_distribution"]

EQUAL = 9
"""Returns that agree to this many decimals count as one."""
MOST = 2_000_000
"""The most pairs of a state and a return so far; beyond it the computation gives up."""


def return_distribution(
    mdp: FiniteMDP,
    probs: Float[NumpyArray, "S A"],
    *,
    gamma: float = 1.0,
    horizon: int | None = None,
    left: float = 1e-10,
) -> tuple[Float[NumpyArray, " K"], Float[NumpyArray, " K"]]:
    """All returns of a policy, ascending, and their probabilities.

    The joint distribution of the state and the return so far is carried forward step by step. Where rewards lie on a lattice
    and gamma is 1 there are few returns; otherwise their number grows with every step.

    Args:
        mdp: the world.
        probs: (S, A) the policy; rows of terminal states are ignored.
        gamma: discount.
        horizon: how many steps count; None counts until all but `left` of the episodes have ended, and leaves out these.
        left: see `horizon`.

    Raises:
        ConfigurationError: too many returns are possible.
    """
    step = probs[:, :, None] * mdp.transition  # (S, A, S)
    source, action, following = np.nonzero(step)
    reward, chance = mdp.reward[source, action, following], step[source, action, following]
    by_source = [np.flatnonzero(source == s) for s in range(mdp.num_states)]
    state = np.flatnonzero(mdp.initial)
    returned, mass = np.zeros(len(state)), mdp.initial[state].astype(np.float64)
    ended: list[tuple[NumpyArray, NumpyArray]] = []
    t = 0
    while len(state) and mass.sum() > left and (horizon is None or t < horizon):
        parts = []
        for s in np.unique(state):
            here, ways = state == s, by_source[s]
            parts.append(
                (
                    np.tile(following[ways], int(here.sum())),
                    (returned[here, None] + gamma**t * reward[ways]).reshape(-1),
                    (mass[here, None] * chance[ways]).reshape(-1),
                )
            )
        state, returned, mass = (np.concatenate(column) for column in zip(*parts, strict=True))
        state, returned, mass = _merged(state, returned, mass)
        if len(state) > MOST:
            raise ConfigurationError(
                f"More than {MOST:,} returns are possible after {t + 1} steps. Give a `horizon`, or rewards on a lattice and "
                "gamma 1."
            )
        over = mdp.terminal[state]
        ended.append((returned[over], mass[over]))
        state, returned, mass = state[~over], returned[~over], mass[~over]
        t += 1
    if horizon is not None:
        ended.append((returned, mass))
    found, weight = (np.concatenate(column) for column in zip(*ended, strict=True))
    _, found, weight = _merged(np.zeros(len(found), np.int64), found, weight)
    return found, weight


def _merged(state: NumpyArray, returned: NumpyArray, mass: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Rows with the same state and return put together, in order."""
    rounded = np.round(returned, EQUAL) + 0.0
    order = np.lexsort((rounded, state))
    state, rounded, mass = state[order], rounded[order], mass[order]
    first = np.flatnonzero(np.append(True, (np.diff(state) != 0) | (np.diff(rounded) != 0)))
    return state[first], rounded[first], np.add.reduceat(mass, first)
