"""Coverage where it fails first: a policy with rare large ratios, and logs that happen to lack the rare action."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from exact_worlds import TableQ, World, of_rows, tilted
from known_fits import KnownFits, refit_of_tables

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation import estimating, evaluate
from stitchrl.evaluation.estimators.fqe import FittedQEvaluation
from stitchrl.evaluation.refit import FitQ, refit
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.mdp.finite import FiniteMDP

REPLICATES = 30


def rare_world() -> World:
    """One decision: an action of probability .01 that pays 1 in one case of ten, and one that pays in half of the cases."""
    transition = np.zeros((3, 2, 3))
    transition[0, :, 1:] = [[0.1, 0.9], [0.5, 0.5]]
    transition[1:] = np.eye(3)[1:, None]
    reward = np.zeros((3, 2, 3))
    reward[0, :, 1] = 1.0
    mdp = FiniteMDP(transition, reward, np.array([1.0, 0.0, 0.0]), np.array([False, True, True]))
    return World("rare", mdp, np.tile([0.01, 0.99], (3, 1)), np.ones((1, 2), np.float32), None)


def longer_world() -> World:
    """Three live states, two actions, several steps."""
    rng = np.random.default_rng(5)
    transition = rng.dirichlet(np.ones(4), size=(4, 2))
    transition[3] = np.eye(4)[3]
    mdp = FiniteMDP(transition, rng.normal(size=(4, 2, 4)), np.array([0.5, 0.3, 0.2, 0.0]), np.arange(4) == 3)
    return World("longer", mdp, rng.dirichlet([2, 2], size=4), rng.normal(size=(3, 2)).astype(np.float32), None)


def gain(world: World, log: Dataset, policy: np.ndarray, model: TableQ) -> Estimate:
    """The product's gain of a policy on a log with propensities."""
    fits = KnownFits(world, [policy], log, log, models=[model], rows=1, settings=FitSettings())
    # Single decisions have estimators of their own, and this one leaves them to these: the arithmetic is the same.
    with mock.patch.object(FittedQEvaluation, "refusal", return_value=None):
        (found,) = evaluate.evaluate_fits(fits, (FittedQEvaluation(),), confirm=False)
    return found.gain["fqe"]


def false_go(world: World, policy: np.ndarray) -> float:
    """How often the lower end lies above the true gain."""
    model = TableQ(np.ones((1, 2, 1), np.float32), np.zeros((1, 2)))
    truth = world.gain(policy)
    lower = [gain(world, world.log(100, 500 + seed), policy, model).lower for seed in range(REPLICATES)]
    return float(np.mean([one is not None and one > truth for one in lower]))


def test_sums_over_states_are_the_products_sums_over_transitions() -> None:
    world = longer_world()
    log, rng = world.log(60, 3), np.random.default_rng(2)
    policy = world.policy(rng.dirichlet([1, 3], size=3))
    model = TableQ(rng.normal(size=(3, 2, 4)).astype(np.float32), rng.normal(size=(3, 2)))
    state = log.observation_id
    ratio = policy.table[state, log.action] / world.behavior[state, log.action]
    probs = policy.probs(log.observation)
    same = refit(log, model.on(log, probs, probs), ratio, gamma=1.0)
    found = refit_of_tables(log, model, policy.table, ratio)
    for name in ("contributions", "visits", "weights", "residual", "first"):
        np.testing.assert_allclose(getattr(found, name), getattr(same, name), rtol=1e-4, atol=1e-5)
    assert found.imbalance == pytest.approx(same.imbalance, abs=1e-5)
    assert found.network_value == pytest.approx(same.network_value, abs=1e-5)


def test_a_part_of_a_log_has_the_rows_that_were_asked_for() -> None:
    log = longer_world().log(80, 4)
    assert of_rows(log, 100).num_transitions == 100
    with pytest.raises(ValueError, match="are left"):
        of_rows(log, log.num_transitions + 1)


def test_a_tilt_keeps_to_actions_above_the_floor() -> None:
    behavior = np.array([[0.04, 0.48, 0.48], [0.02, 0.03, 0.95]])
    found = tilted(behavior, np.log([[9.0, 1.0, 3.0], [1.0, 1.0, 1.0]]), floor=0.05)
    np.testing.assert_allclose(found, [[0, 0.25, 0.75], [0, 0, 1]])


@pytest.mark.slow
def test_rare_large_ratios_make_no_false_go() -> None:
    world, policy = rare_world(), np.array([[0.3, 0.7]])
    with mock.patch.object(estimating, "expected_variance", return_value=None):
        assert false_go(world, policy) > 0.15  # in about a third of the logs the rare action is absent
    assert false_go(world, policy) <= 0.07


def test_the_models_are_used_as_they_are_given() -> None:
    world = longer_world()
    log = world.log(50, 6)
    fits = KnownFits(
        world,
        [world.behavior[:3]],
        log,
        log,
        models=[TableQ(np.ones((3, 2, 1), np.float32), np.full((3, 2), 7.0))],
        rows=1,
        settings=FitSettings(),
    )
    assert fits.get(FitQ())[0].values.q == pytest.approx(np.full(log.num_transitions, 7.0))
