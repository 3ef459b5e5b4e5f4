"""Weights for a few steps and a fitted value for the rest: a table by hand, its two ends, and what it cannot see."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, by_hand, corridor, draw, small_log, small_world, values, weights

from stitchrl.evaluation.estimators.importance_sampling import weighted_per_decision
from stitchrl.evaluation.estimators.weights_then_value import (
    WeightsThenValue,
    uncorrected_share,
    weights_then_value,
)
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.refit import FittedValues


def test_three_episodes_by_hand() -> None:
    """Episodes as in `by_hand`: w_0 = [2, 3, 4]; before step 1 the weights are [4, 3, 0]; rewards [1, 2 | 5 | 7]; gamma .5.

    k = 0: (2 + 3 + 1) / 3.  k = 1: (2 * 1 + 3 * 5 + 4 * 7) / 9 + .5 (4 * 4 + 3 * 0) / 7: the second episode has ended.
    """
    episodes, weight = by_hand()
    fitted = FittedValues(np.array([99.0, 99, 99, 99]), np.array([2.0, 4, 3, 1]))
    assert weights_then_value(episodes, weight, fitted, 0).value() == pytest.approx(2.0)
    assert weights_then_value(episodes, weight, fitted, 1).value() == pytest.approx(45 / 9 + 8 / 7)
    assert weights_then_value(episodes, weight, fitted, 2).value() == pytest.approx(
        weighted_per_decision(episodes, weight).value()
    )
    assert uncorrected_share(episodes, weight, 0) == 1.0
    assert uncorrected_share(episodes, weight, 1) == pytest.approx(0.5 * 4 / 7)
    assert uncorrected_share(episodes, weight, 2) == 0.0


def test_it_is_as_wrong_as_the_value_after_the_cut() -> None:
    world, behavior, policy = small_world()
    log, truth = draw(world, behavior, 20_000, 3), world.policy_value(policy)
    episodes, weight = weights(log, policy, behavior)
    right = values(log, world.action_values(policy), policy)
    wrong = values(log, world.action_values(policy) + 1.0, policy)
    for steps in (0, 1, 2):
        found = weights_then_value(episodes, weight, right, steps)
        error = found.influence().std() / np.sqrt(found.n)
        assert abs(found.value() - truth) < 4 * max(error, 1e-9) + 5e-3 * (steps == 0)
        off = weights_then_value(episodes, weight, wrong, steps).value() - found.value()
        assert off == pytest.approx(uncorrected_share(episodes, weight, steps))


def test_the_average_over_all_transitions_is_another_number() -> None:
    """The mean of rho (r + gamma V) over logged transitions, as some texts have it, is the value at the states that the
    behaviour visits; here these are better than the first ones."""
    world, behavior, policy = corridor()
    gamma, log = 0.9, draw(world, behavior, 300, 4)
    v, state = world.state_values(policy, gamma=gamma), log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    found = (ratio * (log.reward + gamma * v[log.next_observation.argmax(1)])).sum() / ratio.sum()
    assert found == pytest.approx(v[state].mean(), rel=0.03)
    assert found > 1.3 * world.policy_value(policy, gamma=gamma)


def test_an_estimate_that_rests_on_the_value_is_not_healthy() -> None:
    _, _, policy = small_world()
    some = (WeightsThenValue("one", steps=1), WeightsThenValue("many", steps=50))
    found = evaluate(Table(policy), small_log(51), estimators=some, fit_on=small_log(52), settings=QUICK)
    assert "nothing corrects" in " ".join(found.estimates["one"].reasons)
    assert not found.estimates["one"].healthy
    assert "nothing corrects" not in " ".join(found.estimates["many"].reasons)


@pytest.mark.parametrize(
    ("steps", "title"),
    [
        (0, "an uncorrected fitted value"),
        (1, "importance sampling for the first step, then an uncorrected fitted value"),
        (2, "importance sampling for the first 2 steps, then an uncorrected fitted value"),
    ],
)
def test_the_title_names_its_own_steps(steps: int, title: str) -> None:
    assert WeightsThenValue(steps=steps).title == title
