"""The ridge model of the reward: against a brute force, on rewards it can hold, and on actions it never saw."""

from __future__ import annotations

import numpy as np
import pytest
from bandit_worlds import BanditWorld

import stitchrl as st
from stitchrl.evaluation import reward_model
from stitchrl.evaluation.reward_model import fit_reward
from stitchrl.evaluation.ridge import PENALTIES, ridge


def log_of(seen: np.ndarray, action: np.ndarray, reward: np.ndarray, actions: int) -> st.Dataset:
    roles = {"observation": "seen", "action": "action", "reward": "reward"}
    columns = {"seen": seen.astype(np.float32), "action": action, "reward": reward.astype(np.float32)}
    return st.read(columns, st.Schema(roles, num_actions=actions, bandit=True, gamma=1.0))


@pytest.mark.parametrize("shape", [(30, 4), (5, 9)], ids=["more rows than columns", "fewer"])
def test_ridge_paths_are_those_of_a_brute_force(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    z, target = rng.normal(size=shape), rng.normal(size=shape[0])
    path = ridge(z, target)
    for k, penalty in enumerate(PENALTIES[:-1]):
        matrix = z.T @ z + penalty * np.eye(shape[1])
        assert path.coefficients[k] == pytest.approx(np.linalg.solve(matrix, z.T @ target))
        for row in range(shape[0]):
            others = np.arange(shape[0]) != row
            without = z[others].T @ z[others] + penalty * np.eye(shape[1])
            predicted = z[row] @ np.linalg.solve(without, z[others].T @ target[others])
            assert path.left_out[k, row] == pytest.approx(target[row] - predicted)
    assert not path.coefficients[-1].any()
    assert path.left_out[-1] == pytest.approx(target)


def test_rewards_that_are_linear_for_each_action_are_found() -> None:
    rng = np.random.default_rng(1)
    seen, action = rng.normal(size=(4000, 3)), rng.integers(5, size=4000)
    slopes, level = rng.normal(size=(5, 3)), rng.normal(size=5)
    truth = level + seen @ slopes.T
    model = fit_reward(log_of(seen, action, truth[np.arange(4000), action] + 0.1 * rng.normal(size=4000), 5))
    fresh = rng.normal(size=(200, 3))
    q = level + fresh @ slopes.T
    inside = (q > model.low) & (q < model.high)
    found = np.stack([model.of_actions(fresh, np.full(200, a)) for a in range(5)], axis=1)
    assert np.abs(found - q)[inside].max() < 0.05
    probs = rng.dirichlet(np.ones(5), size=200)
    assert model.average(fresh, probs) == pytest.approx((probs * found).sum(1))


def test_noise_alone_gives_the_mean_reward_and_an_unseen_action_the_base() -> None:
    rng = np.random.default_rng(2)
    seen, action = rng.normal(size=(500, 6)), rng.integers(40, size=500)
    model = fit_reward(log_of(seen, action, rng.random(500) < 0.02, 50))
    q = model.of_actions(seen, action)
    assert np.abs(q - q.mean()).max() < 0.05
    assert (q >= 0).all()
    linear = fit_reward(log_of(seen, action, seen[:, 0] + 0.0 * action, 50))
    unseen = np.clip(linear.intercept + linear.slope @ np.zeros(6), linear.low, linear.high)
    at_mean = linear.scaling.mean[None].astype(np.float64)
    assert linear.of_actions(at_mean, np.array([49]))[0] == pytest.approx(unseen)
    assert linear.average(at_mean, np.eye(50)[[49]])[0] == pytest.approx(unseen)


def test_pieces_and_constants_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = BanditWorld()
    log = world.log(400, 1)
    model, probs = fit_reward(log), world.acting().probs(log.observation)
    whole = model.average(log.observation, probs)
    monkeypatch.setattr(reward_model, "CELLS_AT_ONCE", 10)
    assert model.average(log.observation, probs) == pytest.approx(whole)
    alike = fit_reward(log_of(np.ones((20, 2)), np.arange(20) % 3, np.full(20, 2.5), 3))
    assert alike.of_actions(np.ones((3, 2)), np.arange(3)) == pytest.approx([2.5, 2.5, 2.5])


def test_many_actions_have_effects_that_do_not_depend_on_the_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    seen, action = rng.normal(size=(3000, 3)), rng.integers(20, size=3000)
    reward = action / 20 + 0.5 * seen[:, 0] * (action % 2)
    assert fit_reward(log_of(seen, action, reward, 20)).effects.shape == (20, 4)
    monkeypatch.setattr(reward_model, "MOST_EFFECTS", 50)
    assert fit_reward(log_of(seen, action, reward, 20)).effects.shape == (20, 1)
