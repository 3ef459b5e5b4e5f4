"""What algorithms learn on two bandits: one of two actions, one of actions spread over an interval."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, fitted
from worlds import bandit_log, continuous_bandit_log

STATE = jnp.ones((1, 1), jnp.float32)


def test_bc_learns_the_frequencies_of_a_bandit_log() -> None:
    log = bandit_log()
    run = fitted(ALL["BC"], log, updates=300, log_every_updates=300)
    share = np.bincount(log.action, minlength=2) / 500
    np.testing.assert_allclose(np.asarray(run.policy.probs(STATE))[0], share, atol=0.05)
    assert abs(share[0] - 0.7) < 0.05


def test_filtered_bc_learns_from_the_better_half_of_a_bandit_log() -> None:
    run = fitted(ALL["FilteredBC"], bandit_log(share=0.5), updates=300, log_every_updates=300)
    assert float(run.policy.probs(STATE)[0, 1]) > 0.85


@pytest.mark.parametrize("name", ["CQL", "DQN", *(pytest.param(n, marks=pytest.mark.slow) for n in ("IQL", "SACN"))])
def test_value_learners_pick_the_better_and_rarer_action(name: str) -> None:
    run = fitted(ALL[name], bandit_log(), updates=300, log_every_updates=300)
    assert int(run.policy.greedy().mode(STATE)[0]) == 1
    value = run.values[0]
    assert value is not None
    claimed = np.asarray(value.q_all(STATE))[0]
    assert claimed[1] - claimed[0] > 0.3
    if name != "CQL":  # whose penalty shifts its values
        np.testing.assert_allclose(claimed, [0.2, 0.8], atol=0.1)


def test_a_heavy_conservative_weight_stays_with_what_the_log_did_often() -> None:
    heavy = dataclasses.replace(ALL["CQL"], cql_weight=10.0)
    run = fitted(heavy, bandit_log(), updates=300, log_every_updates=300)
    assert int(run.policy.mode(STATE)[0]) == 0


# --- continuous actions ----------------------------------------------------------------------------------------------

BEST = {"TD3BC": 1.0, "ReBRAC": 1.0}
"""What the best action pays: these divide by mean |Q|, so it must not be 0 where the policy goes."""


@cache
def bandit_run(name: str) -> Any:
    """Actions spread evenly over [-1, 1], of which 0.5 is best."""
    tuned = {
        "IQL": {"inverse_temperature": 10.0},
        "AWAC": {"inverse_temperature": 10.0},
        "ReBRAC": {"actor_bc_weight": 0.4},
    }.get(name, {})
    algorithm = dataclasses.replace(ALL[name], **tuned)
    updates = 1000 if name in BEST else 400
    return fitted(algorithm, continuous_bandit_log(best=BEST.get(name, 0.0)), updates=updates, log_every_updates=400)


def bandit_mode(name: str) -> float:
    return float(bandit_run(name).policy.mode(STATE)[0, 0])


def test_bc_learns_the_mean_and_spread_of_a_continuous_bandit_log() -> None:
    assert abs(bandit_mode("BC")) < 0.1
    # A uniform on [-1, 1] has standard deviation 1 / sqrt 3.
    std = float(jnp.exp(bandit_run("BC").states[0].actor.model.log_std)[0])
    assert std == pytest.approx(1 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "FilteredBC",
        "IQL",
        "TD3BC",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("AWAC", "CQL", "EQL", "ReBRAC", "SACN")),
    ],
)
def test_learners_find_the_better_actions_that_bc_does_not(name: str) -> None:
    assert abs(bandit_mode(name) - 0.5) < 0.2
    assert abs(bandit_mode(name) - 0.5) < abs(bandit_mode("BC") - 0.5) - 0.2


@pytest.mark.parametrize("name", ["TD3BC", pytest.param("ReBRAC", marks=pytest.mark.slow)])
def test_it_stands_between_the_best_action_and_imitation_as_by_hand(name: str) -> None:
    # Q = 1 - (a - 1/2)^2, so lambda is about 5/2; lambda Q - a^2 - 1/3 is largest at a = 5/14. ReBRAC's weight is 2/5.
    assert bandit_mode(name) == pytest.approx(5 / 14, abs=0.1)


@pytest.mark.parametrize(
    "name", ["IQL", "CQL", "TD3BC", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ReBRAC", "SACN"))]
)
def test_learned_values_prefer_the_better_action(name: str) -> None:
    value = bandit_run(name).values[0]
    obs = jnp.ones((3, 1), jnp.float32)
    q = np.asarray(value.q(obs, jnp.asarray([[-0.8], [0.5], [1.0]], jnp.float32)))
    assert q[1] > q[0] + 0.5
    assert q[1] > q[2]
    if name != "CQL":  # whose penalty shifts its values
        np.testing.assert_allclose(q - BEST.get(name, 0.0), [-1.69, 0.0, -0.25], atol=0.25)
    assert float(value.v(STATE)[0]) == pytest.approx(float(value.q(STATE, bandit_run(name).policy.mode(STATE))[0]))


def test_continuous_actions_are_learned_in_the_units_of_the_log() -> None:
    # The same bandit with actions from 10 to 30: the same training, and a policy and value in those units.
    algorithm, log = bandit_run("IQL").algorithm, continuous_bandit_log(center=20.0, half_width=10.0)
    run = fitted(algorithm, log, updates=400, log_every_updates=400)
    np.testing.assert_allclose(run.policy.mode(STATE), [[20 + 10 * bandit_mode("IQL")]], rtol=1e-2)
    assert run.policy.mode(STATE).shape == (1, 1)
    action = jnp.full((1, 1), 0.3, jnp.float32)
    inner = bandit_run("IQL").policy.log_prob(STATE, action)
    outer = run.policy.log_prob(STATE, 20 + 10 * action)
    np.testing.assert_allclose(outer, np.asarray(inner) - math.log(10), atol=0.05)
    values = [r.values[0].q(STATE, a) for r, a in ((bandit_run("IQL"), action), (run, 20 + 10 * action))]
    np.testing.assert_allclose(values[0], values[1], atol=0.05)
