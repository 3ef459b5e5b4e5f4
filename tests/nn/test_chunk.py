"""Chunks of actions: they are taken one after another without looking, by each episode at its own pace, and valued."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.data.scaling import Scaling
from stitchrl.nn.chunk import ChunkPolicy, ChunkValue
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.memory import nothing_yet, restarted
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.one_step import OneStepPolicy
from stitchrl.nn.units import unscaled_policy

# Three actions of one number a chunk: s, s + 0.1 and s + 0.2, each with its noise added.
PLANNER = OneStepPolicy(
    MLP((jnp.concatenate([jnp.ones((1, 3)), jnp.eye(3)]).astype(jnp.float32),), (jnp.asarray([0.0, 0.1, 0.2]),))
)
POLICY = ChunkPolicy(PLANNER, 3, 1)


@eqx.filter_jit
def step(policy: Any, carry: Any, obs: Any, last_action: Any, last_reward: Any, key: Any) -> Any:
    return policy.step(carry, obs, last_action, last_reward, key=key)


def played(policy: Any, seen: Any, keys: Any = None) -> np.ndarray:
    """(T, B) what is done while (T, B) is seen."""
    count = len(seen[0])
    carry, last, done = policy.initial_carry(count), nothing_yet(policy, count), []
    for t, obs in enumerate(seen):
        seen_now = jnp.asarray(obs, jnp.float32)[:, None]
        action, carry = step(policy, carry, seen_now, *last, key=None if keys is None else keys[t])
        done.append(np.asarray(action)[:, 0])
    return np.asarray(done)


def test_a_chunk_is_carried_out_before_it_looks_again() -> None:
    seen = [[0.1, -0.5], [9.0, 9.0], [9.0, 9.0], [0.3, 0.0], [9.0, 9.0]]
    np.testing.assert_allclose(
        played(POLICY, seen), [[0.1, -0.5], [0.2, -0.4], [0.3, -0.3], [0.3, 0.0], [0.4, 0.1]], atol=1e-6
    )


class Counted(OneStepPolicy):
    """Says on the host that it planned."""

    def mode(self, obs: Any, *, action_mask: Any = None) -> Any:
        jax.debug.callback(lambda: PLANNED.append(1))
        return super().mode(obs, action_mask=action_mask)


PLANNED: list[int] = []


@pytest.mark.parametrize("compiled", [True, False])
def test_it_plans_only_where_some_episode_needs_a_chunk(compiled: bool) -> None:
    PLANNED.clear()
    counted = ChunkPolicy(Counted(PLANNER.network), 3, 1)
    carry, last, plans = counted.initial_carry(2), nothing_yet(counted, 2), []
    for at in range(5):
        if at == 2:  # one of them begins anew, so that they look at different steps
            carry = restarted(counted, carry, jnp.asarray([False, True]))
        obs = jnp.asarray([[0.1 * at], [-0.7]])
        # as it was: planned at every step, and taken where it is new
        every = jnp.where((carry.left == 0)[:, None, None], PLANNER.mode(obs).reshape(2, 3, 1), carry.actions)
        _, carry = step(counted, carry, obs, *last, key=None) if compiled else counted.step(carry, obs, *last)
        np.testing.assert_array_equal(carry.actions, every)
        jax.effects_barrier()
        plans.append(len(PLANNED))
    assert plans == [1, 1, 2, 3, 3]


def test_an_episode_that_begins_anew_looks_at_once() -> None:
    obs = jnp.asarray([[0.1], [-0.5]])
    _, carry = step(POLICY, POLICY.initial_carry(2), obs, *nothing_yet(POLICY, 2), key=None)
    carry = restarted(POLICY, carry, jnp.asarray([True, False]))
    action, carry = step(POLICY, carry, jnp.asarray([[0.7], [0.7]]), *nothing_yet(POLICY, 2), key=None)
    np.testing.assert_allclose(action[:, 0], [0.7, -0.4], atol=1e-6)
    np.testing.assert_array_equal(carry.left, [2, 1])


def test_a_drawn_chunk_is_remembered_whole() -> None:
    # All of a chunk comes of the key of its first step, also in logged units.
    keys = [jax.random.key(k) for k in (5, 6, 7)]
    drawn = PLANNER.sample(jnp.full((2, 1), 0.1), key=keys[0])
    np.testing.assert_allclose(played(POLICY, [[0.1, 0.1]] * 3, keys).T, drawn, atol=1e-6)
    scaling = Scaling(np.zeros(1, np.float32), np.ones(1, np.float32), 1.0, np.float32([2.0]), np.float32([3.0]))
    outside = unscaled_policy(POLICY, scaling)
    np.testing.assert_allclose(played(outside, [[0.1, 0.1]] * 3, keys).T, 2.0 + 3.0 * np.asarray(drawn), atol=1e-5)
    np.testing.assert_allclose(played(outside.greedy(), [[0.1, 0.1]] * 3, keys)[:, 0], [2.3, 2.6, 2.9], atol=1e-5)


def test_it_has_no_density_and_no_action_of_a_single_observation() -> None:
    assert not POLICY.has_density
    with pytest.raises(TypeError, match="no density"):
        POLICY.log_probs_along(jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 1)), jnp.zeros((1, 2)))
    with pytest.raises(Exception, match="The policy remembers its episode and cannot answer for a single observation"):
        POLICY.mode(jnp.zeros((1, 1)))
    with pytest.raises(TypeError, match="takes no `action_mask`"):
        POLICY.step(
            POLICY.initial_carry(1), jnp.zeros((1, 1)), *nothing_yet(POLICY, 1), action_mask=np.ones((1, 1), bool)
        )


def test_the_value_of_an_action_is_that_of_the_plan_begun_with_it() -> None:
    # Q of two critics: s + a_0 + 10 a_1 + 100 a_2, and 2 more.
    weight = jnp.asarray([[1.0], [1.0], [10.0], [100.0]])
    critics = ContinuousCritics(Ensemble(MLP((jnp.stack([weight, weight]),), (jnp.asarray([[0.0], [2.0]]),))))
    value, obs = ChunkValue(critics, PLANNER), jnp.asarray([[0.1], [-0.5]])
    np.testing.assert_allclose(value.v(obs), [0.1 + 0.1 + 2.0 + 30.0 + 1.0, -0.5 - 0.5 - 4.0 - 30.0 + 1.0], rtol=1e-5)
    found = value.q(obs, jnp.asarray([[0.9], [0.9]]))
    np.testing.assert_allclose(found, [0.1 + 0.9 + 2.0 + 30.0 + 1.0, -0.5 + 0.9 - 4.0 - 30.0 + 1.0], rtol=1e-5)
    np.testing.assert_allclose(value.spread(obs, obs), [1.0, 1.0], rtol=1e-5)
