"""One step of a policy with memory, in NumPy and in JAX alike: what it remembers is a tree of NumPy arrays in both."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from stitchrl.deployment.numpy_memory import NumpyMemoryPolicy
from stitchrl.types import Bool, NumpyArray

__all__ = ["beginning", "begun_anew", "stepped"]


def beginning(policy: Any, count: int) -> Any:
    """What a policy remembers at the start of `count` episodes."""
    return _of_numpy(policy.initial_carry(count))


def begun_anew(policy: Any, carry: Any, begins: Bool[NumpyArray, " B"]) -> Any:
    """What is remembered, with the episodes that begin replaced by fresh ones."""
    return _merged(beginning(policy, len(begins)), carry, begins)


def stepped(
    policy: Any,
    carry: Any,
    obs: NumpyArray,
    last_action: NumpyArray,
    last_reward: NumpyArray,
    *,
    rng: np.random.Generator | None,
    action_mask: NumpyArray | None,
) -> tuple[NumpyArray, Any]:
    """(B, A) float probabilities of numbered actions, or (B, action) vectors, and what is remembered after this step.

    Args:
        policy: of NumPy or of JAX.
        carry: from `beginning`, or from the step before.
        obs: (B, D) what is seen now.
        last_action: (B,) or (B, action) what was done in the step before; ignored at the first step.
        last_reward: (B,) what that step paid; ignored at the first step.
        rng: of drawn vectors; None takes the mode.
        action_mask: (B, A) True for allowed actions, or None.
    """
    last_reward = last_reward.astype(np.float32)
    if isinstance(policy, NumpyMemoryPolicy):
        return policy.answer(carry, obs, last_action, last_reward, rng=rng, action_mask=action_mask)
    import jax

    drawn_inside = rng is not None and bool(policy.action_shape)  # numbered actions are drawn from their probabilities
    key = jax.random.key(int(rng.integers(2**31))) if drawn_inside and rng is not None else None
    found, after = _compiled()(policy, carry, obs, last_action, last_reward, key, action_mask)
    return np.asarray(found), _of_numpy(after)


@cache
def _compiled() -> Any:
    """`answer` of a policy of JAX, compiled for every size of batch that it meets."""
    import equinox as eqx
    import jax.numpy as jnp

    @eqx.filter_jit
    def answer(
        policy: Any, carry: Any, obs: Any, last_action: Any, last_reward: Any, key: Any, action_mask: Any
    ) -> Any:
        if policy.action_shape:
            return policy.step(carry, obs, last_action, last_reward, key=key)
        found, after = policy.respond(carry, obs, last_action, last_reward, action_mask=action_mask)
        return jnp.exp(found.log_probs), after

    return answer


def _of_numpy(carry: Any) -> Any:
    if isinstance(carry, tuple):
        parts = [_of_numpy(part) for part in carry]
        return type(carry)(*parts) if hasattr(carry, "_fields") else tuple(parts)
    if isinstance(carry, dict):
        return {name: _of_numpy(part) for name, part in carry.items()}
    return np.asarray(carry)


def _merged(fresh: Any, held: Any, begins: NumpyArray) -> Any:
    if isinstance(fresh, tuple):
        parts = [_merged(one, other, begins) for one, other in zip(fresh, held, strict=True)]
        return type(fresh)(*parts) if hasattr(fresh, "_fields") else tuple(parts)
    if isinstance(fresh, dict):
        return {name: _merged(part, held[name], begins) for name, part in fresh.items()}
    return np.where(begins.reshape(-1, *[1] * (np.ndim(held) - 1)), fresh, held)
