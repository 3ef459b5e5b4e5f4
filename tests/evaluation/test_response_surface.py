"""The response surface: on rewards that it can hold, on noise, beyond the rewards seen, and with many columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stitchrl as st
from stitchrl.evaluation import response_surface
from stitchrl.evaluation.response_surface import fit_surface


def log_of(seen: np.ndarray, action: np.ndarray, reward: np.ndarray) -> st.Dataset:
    roles: dict[str, Any] = {"observation": "seen", "action": "action", "reward": "reward"}
    columns = {
        "seen": seen.astype(np.float32),
        "action": action.astype(np.float32),
        "reward": reward.astype(np.float32),
    }
    return st.read(columns, st.Schema(roles, bandit=True, gamma=1.0))


def drawn(rows: int, columns: int, numbers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 3.0 + 2.0 * rng.normal(size=(rows, columns)), 1.0 + 0.5 * rng.normal(size=(rows, numbers))


@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_a_surface_of_the_second_order_is_found_with_the_products_it_needs(terms: int) -> None:
    seen, action = drawn(3000, 3, 2, terms)
    truth = [
        lambda x, u: x[:, 0] - 2.0 * u[:, 1],
        lambda x, u: -((u[:, 0] - 1.0) ** 2) + u[:, 0] * u[:, 1],
        lambda x, u: u[:, 0] ** 2 - 0.3 * x[:, 2] * u[:, 1],
        lambda x, u: -((u[:, 0] - 0.4 * x[:, 0]) ** 2),
    ][terms - 1]
    noise = 0.05 * np.random.default_rng(9).normal(size=3000)
    model = fit_surface(log_of(seen, action, truth(seen, action) + noise))
    assert model.terms >= terms
    fresh, doses = drawn(500, 3, 2, 10 + terms)
    exact = truth(fresh, doses)
    inside = (exact > model.low) & (exact < model.high)
    assert inside.mean() > 0.95
    assert np.abs(model.of_actions(fresh, doses) - exact)[inside].max() < 0.1
    assert model.residual.std() == pytest.approx(0.05, rel=0.1)


def test_noise_alone_gives_the_mean_reward() -> None:
    seen, action = drawn(4000, 5, 2, 1)
    model = fit_surface(log_of(seen, action, np.random.default_rng(2).random(4000) < 0.1))
    q = model.of_actions(seen, action)
    assert np.abs(q - q.mean()).max() < 0.05


def test_rewards_beyond_those_seen_are_not_claimed() -> None:
    seen, action = drawn(500, 2, 1, 3)
    model = fit_surface(log_of(seen, action, 5.0 * action[:, 0]))
    far = np.full((500, 1), 100.0)
    assert (model.of_actions(seen, far) == model.high).all()
    assert (model.of_actions(seen, -far) == model.low).all()


def test_an_average_is_that_of_single_actions_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, action = drawn(300, 3, 2, 4)
    model = fit_surface(log_of(seen, action, seen[:, 0] * action[:, 0]))
    draws = np.stack([action, action + 0.3, action - 0.7], axis=1)
    each = np.stack([model.of_actions(seen, draws[:, k]) for k in range(3)])
    assert model.average(seen, draws) == pytest.approx(each.mean(0))
    monkeypatch.setattr(response_surface, "NUMBERS_AT_ONCE", 100)
    assert model.average(seen, draws) == pytest.approx(each.mean(0))


def test_many_columns_leave_out_the_products_that_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, action = drawn(400, 12, 2, 5)
    reward = 0.1 * seen[:, 0] * seen[:, 1] + 3.0 * seen[:, 2] * action[:, 0]
    assert fit_surface(log_of(seen, action, reward)).terms == 4
    monkeypatch.setattr(response_surface, "MOST_TERMS", 60)  # 12 + 2, 3, 24, and 78 products of two observations
    assert fit_surface(log_of(seen, action, reward)).terms == 3


def test_columns_that_do_not_vary_and_more_columns_than_rows() -> None:
    seen, action = drawn(20, 30, 1, 6)
    seen[:, 3] = 7.0
    model = fit_surface(log_of(seen, np.full_like(action, 2.0), seen[:, 0]))
    assert np.isfinite(model.of_actions(seen, action)).all()


def test_a_large_log_is_fitted_on_a_sample_and_every_decision_has_a_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, action = drawn(2000, 2, 1, 8)
    reward = seen[:, 0] - action[:, 0] ** 2 + 0.1 * np.random.default_rng(8).normal(size=2000)
    log = log_of(seen, action, reward)
    whole = fit_surface(log)
    monkeypatch.setattr(response_surface, "NUMBERS_OF_FIT", 5000)
    sampled = fit_surface(log)
    assert sampled.residual.shape == (2000,)
    assert sampled.residual.std() == pytest.approx(0.1, rel=0.1)
    assert not np.array_equal(sampled.of_actions(seen, action), whole.of_actions(seen, action))
    assert sampled.of_actions(seen, action) == pytest.approx(whole.of_actions(seen, action), abs=0.3)
