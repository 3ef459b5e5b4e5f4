"""One correction over the features of several networks, with traces of ratios."""

from __future__ import annotations

import dataclasses

import linear_worlds as lw
import numpy as np
import pytest

import stitchrl as st
from stitchrl.evaluation.balance_checks import check_balance
from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Draft
from stitchrl.evaluation.joint_correction import (
    Equations,
    Joint,
    joint_features,
    pseudo_values,
    solve_jointly,
    trace_rate,
    traced,
)
from stitchrl.evaluation.policy_actions import log_densities
from stitchrl.evaluation.refit import refit

STD = lw.STD * 1.1


def ratio_of(log: st.Dataset, gain: np.ndarray, std: np.ndarray) -> np.ndarray:
    assert log.behavior_log_prob is not None
    return np.asarray(np.exp(log_densities(lw.policy(gain, std), log.observation, log.action) - log.behavior_log_prob))


def narrowed(fitted: dict[str, np.ndarray], columns: slice) -> dict[str, np.ndarray]:
    """The same with some of the features."""
    of_features = ("phi", "psi", "next_psi", "instrument")
    return {name: one[:, columns] if name in of_features else one for name, one in fitted.items()}


def test_a_trace_carries_what_came_before_within_its_episode() -> None:
    log = st.read(
        {
            "episode": [0, 0, 0, 1, 1],
            "observation": np.zeros((5, 1), np.float32),
            "action": np.zeros((5, 1), np.float32),
            "reward": np.zeros(5, np.float32),
            "terminated": [False, False, True, False, True],
        }
    )
    features = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    decay = np.array([0.5, 2.0, 7.0, 0.1, 9.0])
    # By hand: 1; 2 + .5 * 1; 3 + 2 * 2.5; and anew 4; 5 + .1 * 4.
    np.testing.assert_allclose(traced(log, features, decay)[:, 0], [1.0, 2.5, 8.0, 4.0, 5.4])
    np.testing.assert_array_equal(features[:, 0], [1, 2, 3, 4, 5])


def test_the_rate_bounds_the_growth_of_a_traces_variance() -> None:
    decay = np.full(1000, 0.99)
    assert trace_rate(np.ones(1000), decay) == pytest.approx(np.sqrt(0.75) / 0.99)
    wide = np.where(np.arange(1000) % 10 == 0, 10.0, 0.0)  # mean square 10
    assert trace_rate(wide, decay) ** 2 * 10 * 0.99**2 == pytest.approx(0.75)
    assert trace_rate(np.full(1000, 0.5), decay) == 0.9
    assert trace_rate(np.zeros(1000), decay) == 0.9


def test_without_traces_one_network_is_corrected_as_by_the_refit() -> None:
    log = lw.log(150, 40, 3)
    fitted = narrowed(lw.fitted(log, lw.policy(lw.BEHAVIOR, STD)), slice(0, 3))
    ratio = ratio_of(log, lw.BEHAVIOR, STD)
    joint = solve_jointly(log, [fitted], ratio, gamma=lw.GAMMA, rate=0.0)
    symmetric = joint.equations.balance + joint.equations.balance.T
    assert np.linalg.eigvalsh(symmetric)[0] > 0  # so no ridge is added
    visits, imbalance = joint.solved.visits()
    one = refit(log, fitted, ratio, gamma=lw.GAMMA)
    np.testing.assert_allclose(joint.solved.contributions(visits), one.contributions, rtol=1e-4)
    assert imbalance == pytest.approx(one.imbalance, rel=1e-3)
    assert joint.moved() == 0
    assert joint.by_network() == (pytest.approx(one.contributions.mean(), rel=1e-4),)


@pytest.mark.slow
def test_where_features_cannot_say_where_the_policy_goes_traces_bring_the_estimate_nearer_to_the_truth() -> None:
    gain = lw.BEHAVIOR + 0.3 * (lw.BETTER - lw.BEHAVIOR)
    truth = lw.value(gain, lw.STD) - lw.value(lw.BEHAVIOR, lw.STD)
    gains: dict[float, list[float]] = {0.0: [], 0.8: [], 0.97: []}
    for seed in range(12):
        log = lw.log(300, 60, seed)
        poor = narrowed(lw.fitted(log, lw.policy(gain, lw.STD)), slice(0, 1))  # the constant alone
        ratio = ratio_of(log, gain, lw.STD)
        for rate, found in gains.items():
            mine = solve_jointly(log, [poor], ratio, gamma=lw.GAMMA, rate=rate)
            own = solve_jointly(log, [poor | {"q": poor["v"]}], np.ones(len(ratio)), gamma=lw.GAMMA, rate=rate)
            found.append(mine.by_network()[0] - own.by_network()[0])
    without, some, long = (truth - np.mean(found) for found in gains.values())
    error = max(np.std(found) for found in gains.values()) / np.sqrt(12)
    assert without > 0.8 * truth  # it is pulled towards no gain
    assert without - some > 4 * error
    assert some - long > 4 * error


def test_a_matrix_that_the_sample_makes_indefinite_does_not_divide_by_nothing() -> None:
    balance = np.array([[1.0, 0.0], [0.0, -0.0099]])
    equations = Equations(balance, np.array([1.0, 1e-3]), np.array([1.0, 1.0]), 0.01)
    # With the ridge alone the second row would be 1e-4 theta = 1e-3.
    np.testing.assert_allclose(equations.matrix(), np.diag([1.0199, 0.01]))
    assert abs(equations.correction(np.ones(2))) < 2
    sound = Equations(np.diag([1.0, 0.5]), np.ones(2), np.ones(2), 0.01)
    np.testing.assert_allclose(sound.matrix(), np.diag([1.01, 0.51]))
    np.testing.assert_allclose(sound.matrix(np.array([1])), [[0.51]])


def test_more_features_than_a_log_can_tell_apart_pull_to_the_network_and_fail_the_balance() -> None:
    truth = lw.value(lw.BETTER, STD)
    rng = np.random.default_rng(0)
    for seed in range(4):
        log = lw.log(150, 40, seed)
        fitted = lw.fitted(log, lw.policy(lw.BETTER, STD))
        noisy = dict(fitted)
        for name in ("phi", "psi", "next_psi", "instrument"):  # features that mean nothing
            noisy[name] = np.concatenate([fitted[name], rng.normal(size=(log.num_transitions, 300))], 1)
        joint = solve_jointly(log, [noisy], ratio_of(log, lw.BETTER, STD), gamma=lw.GAMMA, rate=0.5)
        # The network claims 0: the estimate lies between that and the truth, and is known to be no good.
        assert truth < joint.by_network()[0] < 0
        assert not check_balance(joint.solved.visits()[1]).passed


def test_pseudo_values_are_the_values_themselves_where_the_whole_is_their_mean() -> None:
    values = np.array([1.0, 4.0, 10.0])
    without = [(4 + 10) / 2, (1 + 10) / 2, (1 + 4) / 2]
    np.testing.assert_allclose(pseudo_values(values.mean(), without), values)


def test_networks_side_by_side_keep_their_features_and_average_their_values() -> None:
    one = {"q": np.ones(3), "v": np.ones(3), "next_v": np.ones(3), "psi": np.ones((3, 2)), "next_psi": np.ones((3, 2))}
    other = {name: 3 * values for name, values in one.items()}
    both = joint_features([one, other])
    np.testing.assert_array_equal(both["v"], np.full(3, 2.0))
    np.testing.assert_array_equal(both["psi"], [[1, 1, 3, 3]] * 3)


def halves() -> Joint:
    """Two networks, each with half of the features."""
    log = lw.log(100, 40, 5)
    whole, ratio = lw.fitted(log, lw.policy(lw.BETTER, STD)), ratio_of(log, lw.BETTER, STD)
    parts = [narrowed(whole, slice(0, 6)), narrowed(whole, slice(6, None))]
    return solve_jointly(log, parts, ratio, gamma=lw.GAMMA, rate=0.5)


def test_without_one_network_the_equations_of_the_others_are_solved() -> None:
    joint = halves()
    kept, first = joint.blocks[1], joint.solved.first_psi
    equations = Equations(
        *(one[kept] for one in (joint.equations.balance[:, kept], *joint.equations[1:3])), joint.equations.ridge
    )
    member = (np.arange(100) < 30).astype(float)
    for counts, given in ((np.ones(100), None), (member, member)):
        alone = (counts * joint.first_v).mean() + equations.correction((counts[:, None] * first[:, kept]).mean(0))
        visits, _ = joint.solved.visits(given)
        whole = joint.solved.contributions(visits, given).mean()
        assert joint.by_network(given)[0] == pytest.approx(2 * whole - alone, rel=1e-4)
    assert joint.moved(member) != joint.moved() != 0


@pytest.mark.slow
def test_the_error_of_the_model_is_the_jackknifes_and_what_traces_moved_enters_the_interval() -> None:
    draft = Draft(Contributions.average(np.zeros(4)), by_network=(1.0, 2.0, 3.0, 6.0), jointly=True, moved=0.5)
    assert draft.model_variance == pytest.approx(np.var([1, 2, 3, 6], ddof=1) / 4)
    apart = dataclasses.replace(draft, jointly=False)
    assert apart.model_variance == pytest.approx(np.var([1, 2, 3, 6], ddof=1) * 1.25)
    assert draft.over(dataclasses.replace(draft, moved=0.2)).moved == pytest.approx(0.3)
    quick = lw.log(60, 30, 1)
    settings = st.FitSettings(updates=20, networks=2, hidden_sizes=(16, 16))
    found = st.evaluate(lw.policy(lw.BETTER, STD), quick, estimators=("fqe",), settings=settings).gain["fqe"]
    assert found.trace_shift is not None
    assert found.model_error is not None
    assert found.standard_error is not None
    assert found.standard_error**2 > found.trace_shift**2 + found.model_error**2
