"""What a policy over continuous actions does at the states of a log: actions drawn from it, and densities of logged ones.

Sums over all actions, which discrete policies permit, become averages over a few drawn actions. They are drawn once, from
a key that depends on the seed and the row alone. So two policies with the same distribution draw the same actions, and a gain
is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.guard import ANSWER
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.evaluation.pieces import pieces
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.progress import LateProgress
from stitchrl.types import NumpyArray

__all__ = [
    "DRAWS",
    "drawn_actions",
    "following_actions",
    "has_density",
    "log_densities",
    "log_densities_on",
    "one_action",
    "refusal_without_density",
    "usual_actions",
]

DRAWS = 16
"""Actions that are drawn at each state; of a deterministic policy one is enough."""
COSTLY_DRAWS = 4
"""`DRAWS` for a policy that evaluates its networks more than MANY_PASSES times for one action, such as IDQL by default (320
times). Averages over fewer draws are unbiased too, but noisier. The noise at the first states widens the standard error of an
estimate, as it differs between episodes; by how much has not been measured."""
MANY_PASSES = 128
ROWS_AT_ONCE = 4096
COSTLY_ROWS_AT_ONCE = 1024


def has_density(policy: Any) -> bool:
    """Whether a policy says what probability, or density, it gives an action."""
    return bool(getattr(policy, "has_density", True)) and (hasattr(policy, "log_prob") or hasattr(policy, "probs"))


def refusal_without_density(name: str, policies: Sequence[Any]) -> str | None:
    """Why an estimator of this name, which weighs logged actions, does not apply; None where it does."""
    for policy in policies:
        if not has_density(policy):
            return (
                f"{name} weighs logged actions by their density, and {type(policy).__name__} has none (has_density is False). "
                "lstdq needs none; or evaluate `st.SmoothedPolicy(policy, std, low, high)`, which is another policy and has one."
            )
    return None


def drawn_actions(policy: Any, obs: NumpyArray, action_size: int, *, seed: int) -> Float[NumpyArray, "N K D"]:
    """(N, K, D) float32 actions that a policy takes at each observation, in logged units; K is 1 where it is deterministic.

    Args:
        policy: a policy of this library, or anything with `sample(obs, key=...)`, or with `mode(obs)` alone.
        obs: (N, ...) observations.
        action_size: D, how many numbers the policy's actions must have.
        seed: random seed of the draws.

    Raises:
        EvaluationError: neither `sample` nor `mode`, a `sample` that takes no key, `log_prob` without `sample`, a wrong shape,
            or actions that are not finite.
    """
    if (native := _native(policy)) is not None and native.draws_share_networks:
        return _drawn_together(native, obs, action_size, seed)
    chance, most = _may_take_chances(policy), COSTLY_DRAWS if _costly(policy) else DRAWS
    root, at_once, parts = jax.random.key(seed), _rows_at_once(policy), list[NumpyArray]()
    draws = most if chance else 1
    bar, asked = LateProgress("actions of the policy", draws * len(obs), "rows/s"), 0
    for piece, (first, start, stop) in enumerate(pieces(len(obs), at_once)):
        keys, found = jax.random.split(jax.random.fold_in(root, piece), most), list[NumpyArray]()
        for key in keys[:draws]:
            found.append(_asked(policy, obs[first:stop], action_size, key))
            asked += stop - start
            bar(asked)
            alike = chance and piece == 0 and len(found) == 2 and np.array_equal(found[0], found[1])
            if alike:  # the policy is deterministic
                draws, chance = 1, False
                bar, asked = LateProgress("actions of the policy", len(obs), "rows/s"), stop - start
                break
        parts.append(np.stack(found[:draws], axis=1)[start - first :])
    return np.concatenate(parts)


def _drawn_together(
    policy: ContinuousPolicy, obs: NumpyArray, action_size: int, seed: int
) -> Float[NumpyArray, "N K D"]:
    """`drawn_actions` of a policy whose draws share networks: all draws of some rows are made in one call, with the same keys."""
    root, at_once, parts, draws = jax.random.key(seed), _rows_at_once(policy), list[NumpyArray](), DRAWS
    bar = LateProgress("actions of the policy", len(obs), "rows/s")
    for piece, (first, start, stop) in enumerate(pieces(len(obs), at_once)):
        keys = jax.random.split(jax.random.fold_in(root, piece), DRAWS)
        several = np.asarray(_compiled_samples(policy, obs[first:stop], keys[:draws]))
        found = [_checked(one, stop - first, action_size) for one in several]
        if piece == 0 and np.array_equal(found[0], found[1]):  # the policy is deterministic
            draws = 1
        parts.append(np.stack(found[:draws], axis=1)[start - first :])
        bar(stop)
    return np.concatenate(parts)


def one_action(policy: Any, obs: NumpyArray, action_size: int, *, key: Key) -> Float[NumpyArray, "N D"]:
    """(N, D) float32 one action of a policy at each observation, drawn where the policy is not deterministic.

    Args:
        policy, obs, action_size: as in `drawn_actions`.
        key: JAX key of the draws.

    Raises:
        EvaluationError: a wrong shape, or actions that are not finite.
    """
    parts = []
    for piece, (first, start, stop) in enumerate(pieces(len(obs), ROWS_AT_ONCE)):
        found = _asked(policy, obs[first:stop], action_size, jax.random.fold_in(key, piece))
        parts.append(found[start - first :])
    return np.concatenate(parts)


def log_densities(policy: Any, obs: NumpyArray, action: NumpyArray) -> Float[NumpyArray, " N"]:
    """(N,) float64 log-density that a policy gives each action, in logged units.

    Raises:
        EvaluationError: there is no `log_prob`, or it does not give one number a row, or a number is NaN or infinity.
    """
    if not hasattr(policy, "log_prob"):
        raise EvaluationError(
            f"A density of continuous actions needs `log_prob(obs, action)`; {type(policy).__name__} has none. Set its "
            "has_density to False to be judged by lstdq, which needs no density."
        )
    ask = _compiled_log_prob if isinstance(policy, ContinuousPolicy) else _plain_log_prob
    parts = []
    for first, start, stop in pieces(len(obs), _rows_at_once(policy)):
        found = np.asarray(ask(policy, obs[first:stop], action[first:stop]), np.float64)
        if found.shape != (stop - first,):
            raise EvaluationError(
                f"`log_prob` must give one number a row; got shape {found.shape} for {stop - first} rows."
            )
        parts.append(found[start - first :])
    joined = np.concatenate(parts)
    if np.isnan(joined).any() or (joined == np.inf).any():
        bad = int((np.isnan(joined) | (joined == np.inf)).sum())
        raise EvaluationError(f"`log_prob` must be a number or minus infinity; it is not for {bad:,} logged actions.")
    return joined


def log_densities_on(policy: Any, log: Dataset) -> Float[NumpyArray, " N"]:
    """(N,) float64 log-density that a policy gives each logged action. Raises EvaluationError as `log_densities`."""
    if isinstance(policy, LoggedPolicy):
        return policy.log_prob_on(log)
    return log_densities(policy, log.observation, log.action)


def following_actions(
    policy: Any, log: Dataset, here: Float[NumpyArray, "N K D"], *, seed: int
) -> Float[NumpyArray, "N K D"]:
    """(N, K, D) actions at every next state, given those at the logged states.

    The actions at a next state are those of the next row. Where the next row does not follow but the next observation is stored,
    they are drawn there. Where there is no next observation they are 0, and have weight 0.
    """
    following = np.zeros_like(here)
    following[log.continues] = here[np.flatnonzero(log.continues) + 1]
    known = np.flatnonzero(~log.continues & (log.next_observation_index >= 0) & ~log.terminated)
    if len(known):
        obs = log.observation_table[log.next_observation_index[known]]
        drawn = drawn_actions(policy, obs, here.shape[2], seed=seed + 1)
        draws = here.shape[1]  # a policy may be deterministic in some of its states only
        following[known] = drawn[:, :draws] if drawn.shape[1] >= draws else np.repeat(drawn[:, :1], draws, axis=1)
    return following


def usual_actions(policy: Any, obs: NumpyArray, action_size: int) -> Float[NumpyArray, "N D"]:
    """(N, D) float32 the mode of a policy at each observation; where it has none, one draw.

    Raises:
        EvaluationError: a wrong shape, or actions that are not finite.
    """
    if not hasattr(policy, "mode"):
        return drawn_actions(policy, obs, action_size, seed=0)[:, 0]
    parts, native = [], _native(policy)
    bar = LateProgress("usual actions of the policy", len(obs), "rows/s")
    for first, start, stop in pieces(len(obs), _rows_at_once(policy)):
        rows = obs[first:stop]
        found = policy.mode(rows) if native is None else _compiled_mode(native, rows)
        parts.append(_checked(found, len(rows), action_size)[start - first :])
        bar(stop)
    return np.concatenate(parts)


def _may_take_chances(policy: Any) -> bool:
    """Whether a policy can be asked to draw actions; otherwise it has `mode` alone, and must have no density."""
    if not hasattr(policy, "sample"):
        if not hasattr(policy, "mode"):
            raise EvaluationError(
                f"A policy over continuous actions needs `sample(obs, key=...)` or `mode(obs)`; {type(policy).__name__} "
                "has neither."
            )
        if has_density(policy):
            raise EvaluationError(
                f"A policy with `log_prob` needs `sample(obs, key=...)` as well, or has_density False if it is deterministic; "
                f"{type(policy).__name__} has `mode` alone, and its values would be of another policy than its weights."
            )
        return False
    return True


def _native(policy: Any) -> ContinuousPolicy | None:
    """The JAX policy, in a bundle or not, that decides alone and so can be compiled; None where there is none."""
    if isinstance(policy, Bundle) and policy.guard.on_outside == ANSWER:
        policy = policy.policy
    return policy if isinstance(policy, ContinuousPolicy) else None


def _many_passes(policy: Any) -> bool:
    inner = policy.policy if isinstance(policy, Bundle) else policy
    return int(getattr(inner, "passes_per_action", 1)) > MANY_PASSES


def _costly(policy: Any) -> bool:
    """Whether each further draw takes many passes of the policy's networks."""
    inner = policy.policy if isinstance(policy, Bundle) else policy
    return _many_passes(policy) and not getattr(inner, "draws_share_networks", False)


def _rows_at_once(policy: Any) -> int:
    return COSTLY_ROWS_AT_ONCE if _many_passes(policy) else ROWS_AT_ONCE


def _asked(policy: Any, obs: NumpyArray, action_size: int, key: Key) -> Float[NumpyArray, "B D"]:
    """(B, D) one action an observation."""
    if (native := _native(policy)) is not None:
        return _checked(_compiled_sample(native, obs, key), len(obs), action_size)
    if not hasattr(policy, "sample"):
        return _checked(policy.mode(obs), len(obs), action_size)
    try:
        found = policy.sample(obs, key=key)
    except TypeError as error:
        raise EvaluationError(
            f"`sample` of {type(policy).__name__} must take `(obs, key=...)`, the key of JAX's kind; it failed: {error}."
        ) from error
    return _checked(found, len(obs), action_size)


def _checked(found: Any, rows: int, action_size: int) -> Float[NumpyArray, "B D"]:
    """Actions as float32, of the right shape."""
    actions = np.asarray(found, np.float32)
    if actions.shape != (rows, action_size):
        raise EvaluationError(
            f"The policy must give actions of {action_size} numbers, one row an observation; got shape {actions.shape} for "
            f"{rows} observations."
        )
    if not np.isfinite(actions).all():
        raise EvaluationError("The policy must give finite actions; some of its actions are not. Check its inputs.")
    return actions


@eqx.filter_jit
def _compiled_sample(policy: ContinuousPolicy, obs: AnyArray, key: Key) -> Array:
    return policy.sample(obs, key=key)


@eqx.filter_jit
def _compiled_samples(policy: ContinuousPolicy, obs: AnyArray, keys: Key) -> Array:
    """(K, B, D) a draw for each key; what the networks compute does not depend on it, so that it is computed once."""
    return jax.vmap(lambda key: policy.sample(obs, key=key))(keys)


@eqx.filter_jit
def _compiled_mode(policy: ContinuousPolicy, obs: AnyArray) -> Array:
    return policy.mode(obs)


@eqx.filter_jit
def _compiled_log_prob(policy: ContinuousPolicy, obs: AnyArray, action: AnyArray) -> Array:
    return policy.log_prob(obs, action)


def _plain_log_prob(policy: Any, obs: NumpyArray, action: NumpyArray) -> Any:
    return policy.log_prob(obs, action)
