"""Policies with memory whose probabilities are worked out by hand, and a log of a behaviour without memory."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from worlds import schema_of

import stitchrl as st
from stitchrl.nn.distributions import Categorical, Normal
from stitchrl.nn.memory import MemoryPolicy

STAYS = 0.8
"""The probability with which `Sticky` repeats an action that paid."""
BEHAVIOR = np.array([0.6, 0.4])
STEPS = 3


class Sticky(MemoryPolicy):
    """Two actions, even odds at first; then the last action again with probability 0.8 if it paid, and 0.2 if it did not."""

    stays: jax.Array

    @property
    def action_shape(self) -> tuple[int, ...]:
        return ()

    def initial_carry(self, count: int) -> Any:
        return jnp.zeros(count, jnp.int32)

    def respond(
        self, carry: Any, obs: Any, last_action: Any, last_reward: Any, *, action_mask: Any = None
    ) -> tuple[Any, Any]:
        again = jnp.where(last_reward > 0, self.stays, 1.0 - self.stays)
        again = jnp.where(carry == 0, 0.5, again)
        one = jnp.where(last_action == 1, again, 1.0 - again)
        probs = jnp.stack([1.0 - one, one], axis=-1)
        if action_mask is not None:
            probs = jnp.where(action_mask, probs, 0.0)
            probs = probs / probs.sum(-1, keepdims=True)
        return Categorical(jnp.log(probs)), carry + 1


class Drifting(MemoryPolicy):
    """Actions of one number: half the last action, plus a tenth of the last reward, plus one; with deviation 0.5."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (1,)

    def initial_carry(self, count: int) -> Any:
        return jnp.zeros((count, 2), jnp.float32)

    def respond(
        self, carry: Any, obs: Any, last_action: Any, last_reward: Any, *, action_mask: Any = None
    ) -> tuple[Any, Any]:
        begun = carry[:, :1] > 0
        mean = 1.0 + jnp.where(begun, 0.5 * last_action + 0.1 * last_reward[:, None], 0.0)
        return Normal(mean, jnp.full_like(mean, np.log(0.5))), carry + 1.0


STICKY = Sticky(jnp.float32(STAYS))


def pays(step: Any, action: Any) -> Any:
    """Action 1 pays at even steps and costs 0.5 at odd ones; action 0 pays 0.5 at odd steps."""
    even = np.asarray(step) % 2 == 0
    return np.where(even, np.where(action == 1, 1.0, 0.0), np.where(action == 1, -0.5, 0.5))


def exact_value(steps: int) -> float:
    """The value of `STICKY` over so many steps: a sum over all sequences of actions."""
    total = 0.0
    for actions in itertools.product((0, 1), repeat=steps):
        probability, paid = 1.0, 0.0
        for t, action in enumerate(actions):
            probability *= by_hand(actions, t)
            paid += float(pays(t, action))
        total += probability * paid
    return total


def by_hand(actions: Any, t: int) -> float:
    """The probability that `STICKY` gives action t of an episode, by hand."""
    if t == 0:
        return 0.5
    again = STAYS if pays(t - 1, actions[t - 1]) > 0 else 1.0 - STAYS
    return again if actions[t] == actions[t - 1] else 1.0 - again


def sticky_log(episodes: int, *, seed: int = 0, longest: int = STEPS) -> st.Dataset:
    """Episodes of `longest` steps, every fifth of one step less, of the behaviour that takes action 1 with probability 0.4."""
    rng = np.random.default_rng(seed)
    lengths = np.where(np.arange(episodes) % 5 == 4, longest - 1, longest) if longest > 1 else np.ones(episodes, int)
    step = np.concatenate([np.arange(n) for n in lengths])
    action = (rng.random(len(step)) < BEHAVIOR[1]).astype(np.int32)
    last = np.cumsum(lengths) - 1
    columns = {
        "episode": np.repeat(np.arange(episodes), lengths),
        "step": step,
        "observation": np.ones((len(step), 1), np.float32),
        "action": action,
        "reward": pays(step, action).astype(np.float32),
        "terminated": np.isin(np.arange(len(step)), last),
        "behavior_probs": np.tile(BEHAVIOR, (len(step), 1)),
    }
    return st.read(columns, schema_of(columns, 2, 1.0))
