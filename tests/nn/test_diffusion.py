"""The diffusion: its schedule and its steps by hand, and where it ends when the noise that is seen is exactly right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.nn.diffusion import DiffusionPolicy, denoised, noise_schedule, noisy
from stitchrl.nn.networks import MLP
from stitchrl.nn.residual import ResidualNetwork

# For T = 2 the rates are 0.05 + 9.9 / 8 = 1.2875 and 0.05 + 3 * 9.9 / 8 = 3.7625.
BETA = 1 - np.exp([-1.2875, -3.7625])
KEPT = np.exp([-1.2875, -5.05])


def test_the_schedule_by_hand() -> None:
    beta, kept = noise_schedule(2)
    np.testing.assert_allclose(beta, BETA, rtol=1e-6)
    np.testing.assert_allclose(kept, KEPT, rtol=1e-6)
    for steps in (1, 5, 1000):
        beta, kept = noise_schedule(steps)
        np.testing.assert_allclose(np.cumprod(1 - beta.astype(float)), kept, rtol=1e-4)
        # What is left of an action at the end is the same whatever the number of steps: exp(-(0.1 + 9.9 / 2)).
        assert kept[-1] == pytest.approx(np.exp(-5.05), rel=1e-5)


def test_a_noisy_action_by_hand() -> None:
    action, noise = jnp.asarray([[0.5], [0.5]]), jnp.asarray([[1.0], [-2.0]])
    found = noisy(action, noise, jnp.asarray([0, 1]), 2)
    np.testing.assert_allclose(found[:, 0], np.sqrt(KEPT) * 0.5 + np.sqrt(1 - KEPT) * [1.0, -2.0], rtol=1e-6)


def test_the_steps_by_hand_with_known_noise() -> None:
    # The noise that is seen is x / 2 + 0.1 t.
    seen: list[float] = []
    x, z = 0.3, -0.2
    first = (x - BETA[1] / np.sqrt(1 - KEPT[1]) * (x / 2 + 0.1)) / np.sqrt(1 - BETA[1]) + np.sqrt(BETA[1]) * z
    assert abs(first) < 1
    last = (first - BETA[0] / np.sqrt(1 - KEPT[0]) * first / 2) / np.sqrt(1 - BETA[0])

    def predicted(point: Any, step: Any) -> Any:
        jax.debug.callback(lambda step: seen.append(float(step)), step[0, 0])
        return point / 2 + 0.1 * step

    found = denoised(predicted, jnp.asarray([[[x], [z]]], jnp.float32))
    jax.effects_barrier()
    np.testing.assert_allclose(found, [[last]], rtol=1e-5)
    assert seen == [1.0, 0.0]


def test_every_step_is_kept_in_the_box() -> None:
    # The first step goes to -1, far from it uncut; the second doubles it and more, and is cut again.
    found = denoised(lambda point, step: jnp.zeros_like(point), jnp.asarray([[[-3.0], [0.0]], [[0.001], [0.0]]]))
    np.testing.assert_allclose(found[:, 0], [-1.0, 0.001 / np.sqrt(KEPT[1])], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_right_noise_of_one_action_ends_at_it_exactly(steps: int) -> None:
    kept = noise_schedule(steps)[1]
    action = jnp.asarray([0.4, -0.7])

    def predicted(point: Any, step: Any) -> Any:
        left = jnp.asarray(kept)[step.astype(jnp.int32)]
        return (point - jnp.sqrt(left) * action[None]) / jnp.sqrt(1 - left)

    found = denoised(predicted, jax.random.normal(jax.random.key(0), (50, steps, 2)))
    np.testing.assert_allclose(found, np.broadcast_to(action, (50, 2)), atol=1e-4)


@pytest.mark.parametrize(("steps", "share"), [(5, 0.78), (20, 1.0)])
def test_right_noise_of_two_actions_ends_at_each_as_often_as_the_log_has_it(steps: int, share: float) -> None:
    # Of actions -0.7 and 0.7, taken as often: E[a | x_t] = 0.7 tanh(0.7 sqrt(kept) x_t / (1 - kept)). Five steps are so coarse
    # that a fifth of the draws end between the two although the noise is right.
    kept = noise_schedule(steps)[1]

    def predicted(point: Any, step: Any) -> Any:
        left = jnp.asarray(kept)[step.astype(jnp.int32)]
        mean = 0.7 * jnp.tanh(0.7 * jnp.sqrt(left) * point / (1 - left))
        return (point - jnp.sqrt(left) * mean) / jnp.sqrt(1 - left)

    found = np.asarray(denoised(predicted, jax.random.normal(jax.random.key(0), (4000, steps, 1))))
    assert np.mean(np.abs(np.abs(found) - 0.7) < 0.25) == pytest.approx(share, abs=0.03)
    assert np.mean(found > 0) == pytest.approx(0.5, abs=0.03)


def test_a_residual_network_by_hand() -> None:
    def layers(*pairs: Any) -> MLP:
        weights, biases = zip(*pairs, strict=True)
        return MLP(tuple(map(jnp.float32, weights)), tuple(map(jnp.float32, biases)), activation="relu")

    network = ResidualNetwork(
        layers(([[1.0, 2.0]], [0.0, 1.0])),
        (layers(([[1.0], [3.0]], [0.5]), ([[2.0, -1.0]], [0.0, 0.25])),),
        layers(([[1.0], [10.0]], [0.125])),
        (jnp.asarray([1.0, 2.0]),),
        (jnp.asarray([0.0, -1.0]),),
        "relu",
    )
    # x = 3 becomes (3, 7), normalised (-1, 1), scaled (-1, 1); the block's unit is max(-1 + 3 + 0.5, 0) = 2.5; with what it adds
    # the sum is (3 + 5, 7 - 2.25); all are above 0. x = -3: (-3, -5), (1, -1), (1, -3), max(-7.5, 0) = 0, (-3, -4.75), cut to 0.
    found = network(jnp.asarray([[3.0], [-3.0]]))
    np.testing.assert_allclose(found[:, 0], [8.0 + 47.5 + 0.125, 0.125], rtol=1e-4)


def test_dropout_is_on_with_a_key_alone() -> None:
    network = ResidualNetwork.create(2, 8, 1, 1, key=jax.random.key(0), dropout=0.5)
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(network(x), network(x))
    one, two = (network(x, key=jax.random.key(k)) for k in (0, 1))
    assert (np.asarray(one) != np.asarray(two)).any()
    none = ResidualNetwork.create(2, 8, 1, 1, key=jax.random.key(0))
    np.testing.assert_array_equal(none(x, key=jax.random.key(0)), network(x))


def test_the_policy_hands_each_draw_its_own_noise() -> None:
    policy = DiffusionPolicy.create(2, 3, 8, 1, 4, 0.0, key=jax.random.key(0))
    obs, noise = jnp.ones((5, 2)), jax.random.normal(jax.random.key(1), (6, 5, policy.noise_size))
    assert policy.noise_size == 12
    found = policy.candidates(obs, noise)
    assert found.shape == (6, 5, 3)
    seen = denoised(lambda x, t: policy.predicted_noise(obs, x, t), noise[2].reshape(5, 4, 3))
    np.testing.assert_allclose(found[2], seen, atol=1e-6)
    with pytest.raises(TypeError, match="DiffusionPolicy have no density in closed form"):
        policy.log_prob(obs, found[0])
