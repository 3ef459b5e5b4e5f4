"""BEAR: the discrepancy by hand, the warm start, the multiplier, and that the actor stays where the log has actions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, differ, fitted, model, with_models
from worlds import schema_of

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.bear import LOG_MULTIPLIERS, mean_discrepancy
from stitchrl.errors import ConfigurationError
from stitchrl.nn.best_of import BestOfPolicy

BEAR = CASES["BEAR continuous"]


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_the_discrepancy_and_its_slope_by_hand(kernel: str) -> None:
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(3, 2, 2)), rng.normal(1.0, 0.5, size=(3, 2, 2))

    def k(one: np.ndarray, other: np.ndarray) -> float:
        size = np.abs(one - other) if kernel == "laplacian" else (one - other) ** 2
        return float(np.exp(-size.sum() / (2 * 0.7)))

    def by_hand(u: np.ndarray) -> np.ndarray:
        found = np.zeros(2)
        for row in range(2):
            pairs = [(i, j) for i in range(3) for j in range(3)]
            same = [k(x[i, row], x[j, row]) + k(u[i, row], u[j, row]) for i, j in pairs]
            found[row] = sum(same) / 9 - 2 * sum(k(x[i, row], u[j, row]) for i, j in pairs) / 9
        return np.sqrt(found + 1e-6)

    arguments = jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)
    found, pull = jax.vjp(lambda u: mean_discrepancy(arguments[0], u, kernel, 0.7), arguments[1])
    np.testing.assert_allclose(found, by_hand(u), rtol=1e-5)
    slopes = np.zeros_like(u)
    for place in np.ndindex(u.shape):
        change = np.zeros_like(u)
        change[place] = 1e-6
        slopes[place] = (by_hand(u + change) - by_hand(u - change)).sum() / 2e-6
    np.testing.assert_allclose(pull(jnp.ones(2))[0], slopes, atol=1e-4)
    # Of two equal sets nothing is left but the floor, and no slope that is not a number.
    zero, flat = jax.vjp(lambda u: mean_discrepancy(arguments[0], u, kernel, 0.7), arguments[0])
    np.testing.assert_allclose(zero, 1e-3, atol=5e-4)
    assert np.isfinite(np.asarray(flat(jnp.ones(2))[0])).all()


def test_the_actor_heeds_the_critics_after_the_warm_start_alone() -> None:
    state, batch = BEAR.state(), BEAR.batch()
    other = with_models(state, critics=jax.tree.map(lambda leaf: -3.0 * leaf, model(state, "critics")))
    last = BEAR.algorithm.warm_start_updates  # type: ignore[attr-defined]
    for update, heeds in ((0, False), (last - 1, False), (last, True)):
        actors = [BEAR.update(one, batch, update=update)[0].actor.model for one in (state, other)]
        assert differ(*actors) == heeds


def test_the_multiplier_rises_and_falls_with_the_discrepancy_within_its_ends() -> None:
    state, batch = BEAR.state(), BEAR.batch()
    seen = float(BEAR.update(state, batch)[1]["mmd/mean"])
    rate = 0.1  # the first step of Adam is its step size
    for threshold, start, wanted in (
        (0.5 * seen, 0.0, rate),
        (2.0 * seen, 0.0, -rate),
        (0.5 * seen, LOG_MULTIPLIERS[1], LOG_MULTIPLIERS[1]),
        (2.0 * seen, LOG_MULTIPLIERS[0], LOG_MULTIPLIERS[0]),
    ):
        case = BEAR.with_settings(mmd_threshold=threshold)
        after, metrics = case.update(with_models(state, log_multiplier=jnp.float32(start)), batch)
        assert float(after.log_multiplier.model) == pytest.approx(wanted, rel=1e-3)
        assert float(metrics["mmd/multiplier"]) == pytest.approx(np.exp(start), rel=1e-5)


def test_discrete_actions_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"BEAR needs continuous actions; .* BCQ, IQL or CQL learn from it"):
        BEAR.algorithm.init(jax.random.key(0), Spec.vectors(3, 3), None)


# --- what sets it apart: the actor stays where the log has actions -----------------------------------------------------


def narrow_log() -> st.Dataset:
    """One state; actions spread evenly over [-0.5, 0.5], the larger the better."""
    action = np.random.default_rng(0).uniform(-0.5, 0.5, 400)
    columns = {
        "episode": np.arange(400),
        "observation": np.ones((400, 1), np.float32),
        "action": action[:, None].astype(np.float32),
        "reward": (2.0 * action).astype(np.float32),
        "terminated": np.ones(400, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=None))


def trained(**settings: Any) -> tuple[Any, np.ndarray]:
    """(run, 200 actions) on that log, the multiplier quick to learn."""
    changed = {"warm_start_updates": 100, "kernel_width": 1.0, "acting_candidates": 3} | settings
    run = fitted(dataclasses.replace(ALL["BEAR"], **changed), narrow_log(), updates=600, log_every_updates=300)
    return run, np.asarray(run.policy.sample(jnp.ones((200, 1), jnp.float32), key=jax.random.key(0)))


@pytest.mark.slow
def test_the_actor_improves_and_stays_where_the_log_has_actions() -> None:
    held, actions = trained(mmd_threshold=0.3)
    assert 0.1 < actions.mean() < 0.6
    assert np.mean(actions > 0.7) < 0.05
    assert isinstance(held.policy.policy, BestOfPolicy)
    assert held.history[-1]["mmd/mean"] == pytest.approx(0.3, abs=0.12)
    # With a threshold that nothing reaches, the same program goes to the end of the box, where the log has nothing.
    free, beyond = trained(mmd_threshold=5.0)
    assert beyond.mean() > 0.9
    assert free.history[-1]["mmd/multiplier"] < 0.05 < held.history[-1]["mmd/multiplier"]
