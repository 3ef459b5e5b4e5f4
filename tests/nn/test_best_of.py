"""Policies that generate candidates and take the best of them, by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.nn import best_of
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.vae import ActionVAE, PerturbedPolicy


def linear(weights: Any, biases: Any) -> MLP:
    return MLP((jnp.asarray(weights, jnp.float32),), (jnp.asarray(biases, jnp.float32),))


OBS = jnp.asarray([[1.0], [-2.0]], jnp.float32)
# Before tanh: the observation plus the first latent number; moved by 0.1 tanh of ten times the action.
PROPOSAL = PerturbedPolicy(
    linear([[1.0], [1.0], [0.0]], [0.0]), linear([[0.0], [10.0]], [0.0]), jnp.float32(0.1)
)  # fmt: skip
NOISE = jnp.asarray([[[0.2, 9.0], [3.0, 9.0]], [[-7.0, 9.0], [0.0, 9.0]]], jnp.float32)


def moved(inner: Any) -> np.ndarray:
    action = np.tanh(np.asarray(inner, np.float64))
    return np.clip(action + 0.1 * np.tanh(10.0 * action), -1.0, 1.0)


def test_generated_actions_are_cut_moved_and_kept_in_the_box() -> None:
    found = np.asarray(PROPOSAL.candidates(OBS, NOISE))[..., 0]
    np.testing.assert_allclose(found, moved([[1.2, -1.5], [0.5, -2.0]]), rtol=1e-6)
    assert found[1, 1] == -1.0  # tanh(-2) - 0.1 is beyond
    assert PROPOSAL.noise_size == 2
    np.testing.assert_allclose(np.asarray(PROPOSAL.mode(OBS))[:, 0], moved([1.0, -2.0]), rtol=1e-6)
    drawn = np.asarray(PROPOSAL.sample(OBS, key=jax.random.key(0)))[:, 0]
    assert (drawn >= moved([0.5, -2.5])).all()
    assert (drawn <= moved([1.5, -1.5])).all()


def test_the_best_candidate_by_the_critic_is_taken() -> None:
    # Q = max(s + a, 0) + max(-s - a, 0): at s = 1 it rises with the action, at s = -2 it falls.
    hidden, output = jnp.asarray([[1.0, -1.0], [1.0, -1.0]]), jnp.ones((2, 1))
    critic = MLP((hidden, output), (jnp.zeros(2), jnp.zeros(1)))
    policy = BestOfPolicy(PROPOSAL, critic, jnp.asarray([[0.2, 0.0], [-0.3, 0.0], [0.1, 0.0]]))
    expected = moved([1.2, -2.3])
    np.testing.assert_allclose(np.asarray(policy.mode(OBS))[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(policy.mode(OBS[1:]), policy.mode(OBS)[1:])  # each row by itself
    np.testing.assert_array_equal(policy.greedy().mode(OBS), policy.mode(OBS))


def test_many_rows_are_computed_in_parts_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    critic = linear([[0.5], [-1.0]], [0.0])
    policy = BestOfPolicy.create(PROPOSAL, critic, 5, 2)
    whole = policy.sample(OBS, key=jax.random.key(1)), policy.mode(OBS)
    assert (np.asarray(whole[0]) != np.asarray(policy.sample(OBS, key=jax.random.key(2)))).any()
    monkeypatch.setattr(best_of, "AT_ONCE", 9)
    np.testing.assert_allclose(policy.sample(OBS, key=jax.random.key(1)), whole[0], rtol=1e-6)
    np.testing.assert_allclose(policy.mode(OBS), whole[1], rtol=1e-6)
    np.testing.assert_array_equal(BestOfPolicy.create(PROPOSAL, critic, 5, 2).noise, policy.noise)


def test_there_is_no_density_and_no_mask() -> None:
    policy = BestOfPolicy.create(PROPOSAL, linear([[0.0], [1.0]], [0.0]), 3, 2)
    for one in (PROPOSAL, policy):
        assert not one.has_density
        with pytest.raises(TypeError, match="no density in closed form"):
            one.log_prob(OBS, OBS)
    with pytest.raises(TypeError, match="takes no `action_mask`"):
        policy.mode(OBS, action_mask=np.ones((2, 1), bool))


def test_an_encoder_gives_means_first_and_keeps_deviations_in_their_range() -> None:
    vae = ActionVAE(linear([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 90.0]], [0.0] * 4), PROPOSAL.decoder)
    mean, log_std = vae.encode(OBS, jnp.asarray([[0.5], [-0.5]], jnp.float32))
    np.testing.assert_allclose(mean, [[1.0, 0.5], [-2.0, -0.5]])
    np.testing.assert_allclose(log_std, [[2.0, 15.0], [-4.0, -4.0]])
    assert vae.latent_size == 2
    np.testing.assert_allclose(vae.decode(OBS, mean)[:, 0], np.tanh([2.0, -4.0]), rtol=1e-6)
    np.testing.assert_allclose(vae.generate(OBS, NOISE)[..., 0], [[1.2, -1.5], [0.5, -2.0]], rtol=1e-6)
    fresh = ActionVAE.create(3, 2, Network((5,)), key=jax.random.key(0))
    assert (fresh.latent_size, fresh.decoder.weights[0].shape) == (4, (7, 5))
