"""The value under a hidden cause in every decision, from logs, against the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from confounded import confounded, draw_confounded
from evaluation_worlds import corridor, draw, small_world

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.fit_data import Order
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.robust_values import GRID, RobustValues, robust_values
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.hidden_cause import robust_policy_value, robust_state_values
from stitchrl.mdp.icu_sepsis import DEATH, demo_log, icu_sepsis

ALWAYS_ONE = np.tile([0.0, 1.0], (5, 1))


def known(
    log: Dataset, world: FiniteMDP, policy: np.ndarray, next_state: np.ndarray, psi: np.ndarray
) -> dict[str, Any]:
    """The exact Q of the policy as if it had been fitted, with features of each state."""
    q = world.action_values(policy)
    v = (policy * q).sum(1)
    state = log.observation_id
    return {
        "q": q[state, log.action],
        "v": v[state],
        "next_v": np.where(world.terminal, 0.0, v)[next_state],
        "psi": psi[state],
        "next_psi": psi[next_state],
    }


def on_world(log: Dataset, world: FiniteMDP, behavior: np.ndarray, policy: np.ndarray, **kwargs: Any) -> RobustValues:
    """The robust values on a log whose observations are one-hot states, with states told apart."""
    state, following = log.observation_id, log.next_observation.argmax(1)
    b = behavior[state, log.action]
    fitted = known(log, world, policy, following, np.eye(world.num_states, dtype=np.float32))
    return robust_values(log, fitted, policy[state, log.action] / b, b, gamma=1.0, **kwargs)


def on_small_world(log: Dataset, policy: np.ndarray, **kwargs: Any) -> RobustValues:
    """The same in the small world."""
    world, behavior, _ = small_world()
    return on_world(log, world, behavior, policy, **kwargs)


@pytest.mark.parametrize("upwards", [False, True])
def test_falls_and_rises_are_the_exact_ones(upwards: bool) -> None:
    world, behavior, policy = small_world()
    grid = (1.0, 1.05, 1.3, 2.0)
    change = on_small_world(draw(world, behavior, 20_000, 3), policy, upwards=upwards, grid=grid).change
    sign = -1 if upwards else 1  # the best case of rewards is the worst one of their negatives
    turned = FiniteMDP(world.transition, sign * world.reward, world.initial, world.terminal)
    for odds_ratio, of_episode in zip(grid[1:], change.T[1:], strict=True):
        exact = sign * (robust_policy_value(turned, policy, behavior, odds_ratio) - turned.policy_value(policy))
        error = of_episode.std() / np.sqrt(len(of_episode))
        assert of_episode.mean() == pytest.approx(exact, abs=3 * error)
        assert abs(exact) > 5 * error


def test_no_cause_is_the_refit_itself_and_every_stronger_one_costs_more() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 2000, 4)
    state, following = log.observation_id, log.next_observation.argmax(1)
    assert state is not None
    found = on_small_world(log, policy)
    fitted = known(log, world, policy, following, np.eye(5, dtype=np.float32))
    ratio = policy[state, log.action] / behavior[state, log.action]
    assert found.contributions[:, 0] == pytest.approx(refit(log, fitted, ratio, gamma=1.0).contributions, abs=1e-4)
    assert (found.change[:, 0] == 0).all()
    assert found.contributions.shape == (2000, len(GRID))
    assert (np.diff(found.change.mean(0)) < 0).all()


@pytest.mark.slow
def test_the_error_of_a_fall_is_its_spread_over_logs() -> None:
    """In a corridor with long episodes most of the error comes from where the worst cause leads, and next to nothing would
    be seen of it with the visits of the policy without a cause (a quarter)."""
    world, behavior, policy = corridor()
    falls, errors = [], []
    for seed in range(40):
        change = on_world(draw(world, behavior, 300, seed), world, behavior, policy, grid=(1.0, 1.05, 1.2)).change[
            :, 1:
        ]
        falls.append(change.mean(0))
        errors.append(change.std(0) / np.sqrt(300))
    exact = [robust_policy_value(world, policy, behavior, odds) - world.policy_value(policy) for odds in (1.05, 1.2)]
    assert np.mean(falls, axis=0) == pytest.approx(exact, rel=0.02)
    # 40 logs tell a spread to within 11%.
    assert np.std(falls, axis=0) == pytest.approx(np.mean(errors, axis=0), rel=0.3)


def test_the_true_value_under_a_cause_is_not_below_the_bound_at_its_strength_but_below_that_of_weaker_ones() -> None:
    """A log of a world that has the worst cause of odds ratio 2: what is asked of the bound, and a fault that it shows."""
    world, behavior, _ = small_world()
    robust = robust_state_values(world, ALWAYS_ONE, behavior, 2.0)
    hidden, seen = confounded(world, behavior, world.reward + robust, 2.0)
    truth = hidden.policy_value(np.repeat(ALWAYS_ONE, 2, axis=0))
    log = draw_confounded(world, hidden, seen, behavior, 20_000, 5)
    bounds = on_small_world(log, ALWAYS_ONE, grid=(1.0, 1.5, 2.0)).contributions
    naive, weaker, bound = bounds.mean(0)
    error = bounds.std(0).max() / np.sqrt(20_000)
    assert truth >= bound - 3 * error
    assert bound == pytest.approx(truth, abs=3 * error)  # it is no weaker than it must be
    assert weaker > truth + 5 * error  # a strength that is taken too small is seen
    assert naive > weaker + 5 * error


def test_it_is_the_exact_fall_on_the_hospital_world() -> None:
    """The demo log, a policy that prefers better actions among those of at least 10%, and the patients' features."""
    hospital = icu_sepsis()
    world, behavior = hospital.mdp, hospital.clinicians
    usual = (behavior >= 0.1) | (behavior == behavior.max(1, keepdims=True))
    policy = usual * behavior * np.exp(np.minimum(world.action_values(behavior) / 0.05, 700))
    policy[:DEATH] /= policy[:DEATH].sum(1, keepdims=True)
    policy[DEATH:] = 0.0
    log = demo_log().select_episodes(np.arange(4000))
    state = log.observation_id
    assert state is not None
    following = np.where(log.next_observation_index >= 0, log.next_observation_index, DEATH)
    features = np.concatenate([hospital.features, np.ones((len(behavior), 1))], axis=1).astype(np.float32)
    b = behavior[state, log.action]
    fitted = known(log, world, policy, following, features)
    grid = (1.0, 1.05, 1.3)
    change = robust_values(log, fitted, policy[state, log.action] / b, b, gamma=1.0, grid=grid).change.mean(0)
    exact = [robust_policy_value(world, policy, behavior, odds) - world.policy_value(policy) for odds in grid]
    assert change == pytest.approx(exact, rel=0.08)
    assert exact[1] < -0.005


def test_folds_are_put_in_the_order_of_the_log() -> None:
    parts = [RobustValues(np.array([[3.0, 2.0], [1.0, 0.5]])), RobustValues(np.array([[2.0, 1.0]]))]
    joined = RobustValues.join(parts, Order(np.arange(3), np.array([1, 2, 0])))  # the folds hold episodes 2, 0 and 1
    assert joined.contributions.tolist() == [[1.0, 0.5], [2.0, 1.0], [3.0, 2.0]]
    assert joined.change.tolist() == [[0.0, -0.5], [0.0, -1.0], [0.0, -1.0]]


def test_a_strength_that_finds_no_value_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    world, behavior, policy = small_world()
    monkeypatch.setattr("stitchrl.evaluation.robust_values.ITERATIONS", 2)
    found = on_small_world(draw(world, behavior, 500, 6), policy, grid=(1.0, 5.0)).contributions
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[:, 1]).all()
