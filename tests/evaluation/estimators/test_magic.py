"""MAGIC against tables by hand: the partial returns, the weights on the simplex, and the ends it goes between."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import by_hand, draw, small_world, values, weights

from stitchrl.evaluation.estimators.doubly_robust import weighted_doubly_robust
from stitchrl.evaluation.estimators.magic import MagicStatistic, blend, steps_looked_at
from stitchrl.evaluation.refit import FittedValues


def test_partial_returns_by_hand() -> None:
    """Episodes as in `by_hand`: w_0 = [2, 3, 4], w_1 = [2, 3, 0]; w_{0} at step 1 = [4, 3, 0] with the weight of the cut one.

    Q = [1, 1 | 2 | 3], V = [2, 4 | 3 | 1], gamma .5.
    g_{-1} = (2 + 3 + 1) / 3 = 2
    g_0 = 2 + [2 (1 - 1) + 3 (5 - 2) + 4 (7 - 3)] / 9 + .5 [4 * 4] / (4 + 3) = 2 + 25/9 + 8/7
    g_1 = g_0 without a value at step 2, with .5 [2 (2 - 1)] / (2 + 3) = g_0 + .2
    """
    episodes, weight = by_hand()
    fitted = FittedValues(np.array([1.0, 1, 2, 3]), np.array([2.0, 4, 3, 1]))
    found = MagicStatistic.of(episodes, weight, fitted)
    assert found.steps.tolist() == [-1, 0, 1]
    assert found.returns - 2.0 == pytest.approx([0 - 0.0, 25 / 9 - 2 * 0 + 8 / 7, 25 / 9 + 8 / 7 + 0.2])
    assert found.returns[-1] == pytest.approx(weighted_doubly_robust(episodes, weight, fitted).value())


def test_the_weights_minimise_over_the_simplex() -> None:
    # Independent, unbiased returns of variance 1, 4 and 4: inverse variances, 4/6, 1/6, 1/6.
    found, bias = blend(np.array([0.1, 0.2, 0.0]), np.diag([1.0, 4.0, 4.0]))
    assert found == pytest.approx([4 / 6, 1 / 6, 1 / 6])
    assert not bias.any()
    # A model that is 10 away from wdr, 10 - 1.645 outside of its interval: the squared bias counts as a variance.
    found, bias = blend(np.array([10.0, 0.0]), np.diag([0.0, 1.0]))
    assert bias == pytest.approx([10 - 1.6448536, 0])
    assert found == pytest.approx(np.array([1 / bias[0] ** 2, 1.0]) / (1 / bias[0] ** 2 + 1.0))
    # Biases of opposite sign cancel, so that their sign counts.
    found, bias = blend(np.array([3.0, -3.0, 0.0]), np.diag([0.0, 0.0, 1.0]))
    assert bias[0] == -bias[1] > 0
    assert found == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    # A constraint that binds: the second is the first with more noise.
    found, _ = blend(np.array([0.0, 0.0, 0.0]), np.array([[1.0, 1.5, 0], [1.5, 4.0, 0], [0, 0, 2.0]]))
    assert found == pytest.approx([2 / 3, 0.0, 1 / 3])
    rng = np.random.default_rng(0)
    for _ in range(20):  # no point of the simplex is better
        root, returns = rng.normal(size=(5, 5)), rng.normal(size=5) * 3
        found, bias = blend(returns, root @ root.T)
        matrix = root @ root.T + np.outer(bias, bias)
        assert found.sum() == pytest.approx(1.0)
        assert found.min() >= 0
        others = rng.dirichlet(np.full(5, 0.3), 500)
        assert found @ matrix @ found <= np.einsum("rj,jk,rk->r", others, matrix, others).min() + 1e-9


def test_where_wdr_does_not_vary_the_estimate_is_wdr() -> None:
    for error in (0.0, np.nan):
        found, bias = blend(np.array([5.0, 2.0]), np.diag([1.0, error]))
        assert found.tolist() == [0, 1]
        assert not bias.any()


def test_omega_is_the_covariance_of_the_partial_returns() -> None:
    """Its scale is that of the estimates, not of single episodes: against the spread over 300 fresh logs."""
    world, behavior, policy = small_world()
    q = world.action_values(behavior) + 0.3
    found, expected = [], []
    for seed in range(300):
        log = draw(world, behavior, 200, 3000 + seed)
        episodes, weight = weights(log, policy, behavior)
        one = MagicStatistic.of(episodes, weight, values(log, q, policy))
        at = [int(np.flatnonzero(one.steps == step)[0]) for step in (-1, 0, 1)] + [len(one.steps) - 1]
        found.append(one.returns[at])
        expected.append((one.by_step[:, at].T @ one.by_step[:, at]) / (one.n * (one.n - 1)))
    assert np.cov(np.array(found).T) == pytest.approx(np.mean(expected, axis=0), rel=0.25, abs=2e-4)


def test_a_right_model_is_taken_and_a_wrong_one_is_left() -> None:
    world, behavior, policy = small_world()
    truth, errors = world.policy_value(policy), {}
    for name, q in (("right", world.action_values(policy)), ("wrong", world.action_values(policy) + 4.0)):
        magic, wdr, model = [], [], []
        for seed in range(60):
            log = draw(world, behavior, 300, 4000 + seed)
            episodes, weight = weights(log, policy, behavior)
            one = MagicStatistic.of(episodes, weight, values(log, q, policy))
            magic.append(one.value() - truth)
            wdr.append(one.returns[-1] - truth)
            model.append(one.blended[0][0])
        errors[name] = [float(np.sqrt(np.mean(np.square(e)))) for e in (magic, wdr)] + [float(np.mean(model))]
    assert errors["right"][0] < 0.8 * errors["right"][1]
    assert errors["right"][2] > 0.5 > 0.05 > errors["wrong"][2]
    assert errors["wrong"][0] < 1.2 * errors["wrong"][1]


def test_few_steps_are_looked_at_whatever_the_length() -> None:
    assert steps_looked_at(1).tolist() == [-1, 0]
    found = steps_looked_at(1000)
    assert len(found) <= 13
    assert found[[0, 1, -1]].tolist() == [-1, 0, 999]
