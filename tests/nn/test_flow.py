"""Euler's method on fields whose flow is known, and the two policies that make actions of noise, by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.nn.flow import FlowPolicy, euler
from stitchrl.nn.networks import MLP
from stitchrl.nn.one_step import OneStepPolicy

START = jnp.asarray([[1.0, -2.0], [0.5, 0.0]], jnp.float32)
OBS = jnp.asarray([[0.1], [-0.3]], jnp.float32)
NOISE = jnp.asarray([[0.2], [-0.4]], jnp.float32)


def linear(weights: Any, biases: Any) -> MLP:
    return MLP((jnp.asarray(weights, jnp.float32),), (jnp.asarray(biases, jnp.float32),))


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_eulers_method_on_known_fields(steps: int) -> None:
    # dx/dt = x multiplies by 1 + 1/K in each of K steps; dx/dt = t adds the sum of k / K^2, k < K, which is (K - 1) / 2K;
    # dx/dt = c adds c, whatever K is.
    start = np.asarray(START)
    np.testing.assert_allclose(euler(lambda x, t: x, START, steps), start * (1 + 1 / steps) ** steps, rtol=1e-5)
    np.testing.assert_allclose(
        euler(lambda x, t: jnp.broadcast_to(t, x.shape), START, steps), start + (steps - 1) / (2 * steps), rtol=1e-5
    )
    np.testing.assert_allclose(euler(lambda x, t: jnp.full_like(x, 3.0), START, steps), start + 3, rtol=1e-5)


def test_a_flow_by_hand_in_two_steps() -> None:
    # Velocity s + 2 x - 4 t + 0.5. With K = 2: x + (s + 2 x + .5) / 2, then x + (s + 2 x - 2 + .5) / 2.
    policy = FlowPolicy(linear([[1.0], [2.0], [-4.0]], [0.5]), 2)
    s, z = np.asarray(OBS), np.asarray(NOISE)
    middle = z + (s + 2 * z + 0.5) / 2
    end = middle + (s + 2 * middle - 1.5) / 2
    np.testing.assert_allclose(end, [[0.7 * 2 - 0.7], [-0.7 * 2 - 0.9]], rtol=1e-6)
    np.testing.assert_allclose(policy.action(OBS, NOISE), [[0.7], [-1.0]], rtol=1e-5)  # the second one is cut
    np.testing.assert_allclose(policy.mode(OBS), [[2 * 0.3 - 0.7], [2 * 0.1 - 0.9]], rtol=1e-5)
    np.testing.assert_allclose(policy.velocity(OBS, NOISE, jnp.full((2, 1), 0.5)), s + 2 * z - 1.5, rtol=1e-5)


def test_one_step_by_hand() -> None:
    policy = OneStepPolicy(linear([[1.0], [3.0]], [0.1]))  # s + 3 z + .1
    np.testing.assert_allclose(policy.unbounded(OBS, NOISE), [[0.8], [-1.4]], rtol=1e-5)
    np.testing.assert_allclose(policy.action(OBS, NOISE), [[0.8], [-1.0]], rtol=1e-5)
    np.testing.assert_allclose(policy.mode(OBS), [[0.2], [-0.2]], rtol=1e-5)


@pytest.mark.parametrize(
    "policy", [FlowPolicy(linear([[1.0], [0.0], [0.0]], [0.0]), 1), OneStepPolicy(linear([[1.0], [1.0]], [0.0]))]
)
def test_draws_are_of_normal_noise_and_have_no_density_and_no_mask(policy: FlowPolicy | OneStepPolicy) -> None:
    # Both act s + z, cut at +-1: at s = 0.5 normal noise is cut above with probability P(z > 1/2) = 0.3085.
    obs = jnp.full((20_000, 1), 0.5, jnp.float32)
    drawn = np.asarray(policy.sample(obs, key=jax.random.key(0)))
    assert np.mean(drawn == 1.0) == pytest.approx(0.3085, abs=0.01)
    assert np.median(drawn) == pytest.approx(0.5, abs=0.03)
    np.testing.assert_array_equal(policy.greedy().sample(obs[:2], key=jax.random.key(0)), [[0.5], [0.5]])
    assert not policy.has_density
    with pytest.raises(TypeError, match="no density in closed form"):
        policy.log_prob(obs, obs)
    for act in (policy.mode, lambda obs, **mask: policy.sample(obs, key=jax.random.key(0), **mask)):
        with pytest.raises(TypeError, match="takes no `action_mask`"):
            act(obs[:2], action_mask=np.ones((2, 1), bool))
