"""IDQL: its loss by hand, its values and draws in a log with two kinds of action, and its published settings."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import KEY, SPECS, fitted
from scipy.stats import expectile
from two_modes import SCALED, STATE, near, two_modes

import stitchrl as st
from stitchrl.algorithms.idql import denoising_loss
from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import Ensemble

UPDATES = 1000


def test_the_denoising_loss_and_its_gradient_by_hand() -> None:
    # Misses (1, -0.5) and (0, 2): sums of squares 1.25 and 4.
    predicted = jnp.asarray([[1.0, 1.0], [-1.0, 0.0]], jnp.float32)
    noise = jnp.asarray([[0.0, 1.5], [-1.0, -2.0]], jnp.float32)
    loss, gradient = jax.value_and_grad(denoising_loss)(predicted, noise)
    assert float(loss) == pytest.approx((1.25 + 4.0) / 2)
    np.testing.assert_allclose(gradient, [[1.0, -0.5], [0.0, 2.0]])


@cache
def run(updates: int = UPDATES) -> Any:
    """IDQL on a log of two kinds of action."""
    algorithm = st.IDQL(
        expectile=0.8, learning_rate=1e-2, target_rate=0.05, actor_target_rate=0.05, hidden_sizes=(32,), actor_width=32,
        actor_blocks=1, actor_dropout=0.0, diffusion_steps=20, acting_candidates=16, decay_updates=updates,
    )  # fmt: skip
    return fitted(algorithm, two_modes(), updates=updates, log_every_updates=updates, batch_size=128)


@pytest.mark.slow
def test_the_diffusion_keeps_both_modes_and_the_best_draw_is_of_the_better() -> None:
    # A normal's likelihood is largest with its mean at that of the log, where nobody acted.
    middle = two_modes().action.mean()
    assert np.abs(two_modes().action - middle).min() > 0.4
    drawn = run().states[0].target_actor.sample(SCALED, key=jax.random.key(1))
    shares = near(drawn, -0.7), near(drawn, 0.7)
    assert min(shares) > 0.35
    assert sum(shares) > 0.9
    assert near(run().policy.sample(STATE, key=jax.random.key(2)), 0.7) > 0.95


@pytest.mark.slow
def test_values_are_the_expectile_and_the_rewards_of_the_log() -> None:
    state, log = run().states[0], two_modes()
    exact = expectile(log.reward.astype(float), 0.8)
    assert float(state.value.model(SCALED[:1])[0, 0]) == pytest.approx(exact, abs=0.02)
    q = np.asarray(run().values[0].q(jnp.asarray(log.observation), jnp.asarray(log.action)))
    assert np.mean(np.abs(q - log.reward)) < 0.04


def test_it_chooses_by_the_least_of_the_target_critics() -> None:
    state, policy = run(20).states[0], run(20).policy.policy
    assert isinstance(policy.critic, Ensemble)
    obs = jnp.linspace(-1.0, 1.0, 5)[:, None]
    drawn = policy.proposal.candidates(obs, jnp.broadcast_to(policy.noise[:, None], (16, 5, 20)))
    q = jnp.stack([jnp.min(state.target_critics(obs, action), axis=0) for action in drawn])
    np.testing.assert_allclose(policy.mode(obs), drawn[jnp.argmax(q, axis=0), jnp.arange(5)], atol=1e-6)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"IDQL needs continuous actions; .* IQL, BCQ or CQL learn from it\."):
        st.IDQL().init(KEY, SPECS["discrete"], None)


def test_published_settings() -> None:
    assert st.IDQL.preset("antmaze") == st.IDQL(expectile=0.9, actor_decay_updates=3_000_000)
    assert st.IDQL.preset("mujoco").expectile == 0.7
    assert all("512 rows" in preset.training for preset in st.IDQL.presets.values())
