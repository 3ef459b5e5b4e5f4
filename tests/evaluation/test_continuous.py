"""Evaluation over continuous actions, against the exact values of a linear system."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import linear_worlds as lw
import numpy as np
import pytest
from scipy import stats

import stitchrl as st
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.balance import balance_of_actions
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.looks import look_at
from stitchrl.evaluation.policy_actions import DRAWS, drawn_actions, following_actions, log_densities
from stitchrl.evaluation.refit import Refit, refit, refit_behavior, refit_without_ratios
from stitchrl.evaluation.registry import first_primary
from stitchrl.evaluation.units import Units

SHAKY = lw.STD * 0.8


def corrected(way: str, log: st.Dataset, gain: np.ndarray, std: np.ndarray) -> tuple[Refit, Refit]:
    """The value of a policy by one of the two refits with features in which Q is linear, and the behaviour's."""
    acting = lw.policy(gain, std)
    fitted = lw.fitted(log, acting)
    if way == "lstdq":
        found = refit_without_ratios(log, fitted, gamma=lw.GAMMA)
    else:
        assert log.behavior_log_prob is not None
        ratio = np.exp(log_densities(acting, log.observation, log.action) - log.behavior_log_prob)
        found = refit(log, fitted, ratio, gamma=lw.GAMMA)
    return found, refit_behavior(log, fitted, gamma=lw.GAMMA)


@pytest.mark.parametrize("way", ["fqe", pytest.param("lstdq", marks=pytest.mark.slow)])
def test_with_features_that_hold_q_intervals_of_the_gain_cover_though_every_episode_is_cut(way: str) -> None:
    truth = lw.value(lw.BETTER, SHAKY) - lw.value(lw.BEHAVIOR, lw.STD)
    z = []
    for seed in range(60):
        mine, theirs = corrected(way, lw.log(150, 40, seed), lw.BETTER, SHAKY)
        gain = mine.contributions - theirs.contributions
        z.append((gain.mean() - truth) / (gain.std(ddof=1) / np.sqrt(len(gain))))
    assert np.mean(np.abs(z) < 1.96) > 0.85  # 60 logs of nominal 95%: below 51 hits would be beyond chance
    assert abs(np.mean(z)) < 4 / np.sqrt(60) * 1.3


def test_a_policy_without_chance_is_estimated_by_lstdq() -> None:
    truth = lw.value(lw.BETTER, np.zeros(2))
    found, _ = corrected("lstdq", lw.log(400, 40, 1), lw.BETTER, np.zeros(2))
    error = found.contributions.std() / np.sqrt(400)
    assert abs(found.contributions.mean() - truth) < 4 * error
    assert abs(lw.value(lw.BEHAVIOR, lw.STD) - truth) > 6 * error


def test_draws_that_serve_both_sides_of_a_product_would_add_their_own_variance_to_it() -> None:
    log = lw.log(400, 40, 5)
    acting = lw.policy(lw.BETTER, lw.STD * 3)
    fitted = lw.fitted(log, acting)
    # The first number of the action, averaged over 8 draws of standard deviation 1.5 about K s.
    column = 3
    psi, instrument = fitted["psi"][:, column], fitted["instrument"][:, column]
    mean = log.observation.astype(np.float64) @ lw.BETTER[0]
    exact = (mean**2).mean()
    error = 5 * 1.5**2 / np.sqrt(8 * log.num_transitions) + 5 * 1.5 * np.sqrt(exact / log.num_transitions)
    assert (instrument * psi).mean() == pytest.approx(exact, abs=error)
    assert (psi**2).mean() == pytest.approx(exact + 1.5**2 / 8, abs=error)
    assert error < 1.5**2 / 16  # so that the one cannot pass for the other


def test_draws_are_the_same_again_and_one_where_there_is_no_chance() -> None:
    obs = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    acting = lw.policy(lw.BETTER, lw.STD)
    drawn = drawn_actions(acting, obs, 2, seed=0)
    assert drawn.shape == (5000, DRAWS, 2)
    np.testing.assert_array_equal(drawn, drawn_actions(acting, obs, 2, seed=0))
    np.testing.assert_allclose(drawn.mean(1), obs @ lw.BETTER.T, atol=5 * 0.5 / np.sqrt(DRAWS))
    still = drawn_actions(lw.policy(lw.BETTER, np.zeros(2)), obs, 2, seed=0)
    assert still.shape == (5000, 1, 2)
    np.testing.assert_allclose(still[:, 0], obs @ lw.BETTER.T, atol=1e-5)


def test_actions_at_the_next_state_are_those_of_the_next_row_and_drawn_at_a_cut() -> None:
    log = lw.log(3, 4, 0)
    acting = lw.policy(lw.BETTER, np.zeros(2))
    here = drawn_actions(acting, log.observation, 2, seed=0)
    following = following_actions(acting, log, here, seed=0)
    np.testing.assert_allclose(following[:, 0], log.next_observation @ lw.BETTER.T, atol=1e-5)


class Plain:
    """A policy of someone else: NumPy in and out."""

    def __init__(self, width: int = 2, bad: float = 0.0) -> None:
        self.width, self.bad = width, bad

    def mode(self, obs: np.ndarray) -> np.ndarray:
        return np.full((len(obs), self.width), self.bad)


class WithDensity(Plain):
    """It says a density, and nothing draws from it."""

    def log_prob(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        return np.zeros(len(obs))


class WithoutKey(Plain):
    """Its draws take no key."""

    def sample(self, obs: np.ndarray) -> np.ndarray:
        return self.mode(obs)


class OneRow(Plain):
    """One action for all."""

    def mode(self, obs: np.ndarray) -> np.ndarray:
        return np.zeros((1, self.width))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Plain(width=3), "actions of 2 numbers"),
        (OneRow(), "one row an observation"),
        (Plain(bad=np.nan), "finite actions"),
        (object(), "needs `sample"),
        (WithDensity(), "needs `sample.* as well"),
        (WithoutKey(), "must take"),
    ],
)
def test_policies_that_cannot_be_asked_are_refused_in_one_sentence(policy: object, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        st.evaluate(policy, lw.log(4, 5, 0), gamma=lw.GAMMA)


QUICK = st.FitSettings(updates=2, networks=2, hidden_sizes=(8,))


@functools.cache
def quick(kind: str) -> st.Evaluation:
    """An evaluation of hardly fitted networks: what is said of it does not depend on what it finds."""
    still, noisy = lw.policy(lw.BETTER, np.zeros(2)), lw.policy(lw.BETTER, lw.STD)
    log, other = lw.log(40, 6, 1), lw.log(40, 6, 2)
    policy, baseline, settings = {
        "still": (still, None, QUICK),
        "noisy": (noisy, None, QUICK),
        "over still": (noisy, still, QUICK),
        "alone": (noisy, None, dataclasses.replace(QUICK, networks=1)),
    }[kind]
    return st.evaluate(policy, log, gamma=lw.GAMMA, baseline=baseline, fit_on=other, settings=settings)


def test_logged_propensities_do_not_confirm_an_estimate_that_does_not_weigh_by_them() -> None:
    found = quick("still")
    assert found.verdict.primary == "lstdq"
    (line,) = [line for line in found.verdict.lines if line.key == "e"]
    assert line.passed is False
    assert "does not weigh actions by their propensities" in line.seen


def test_a_gain_over_a_policy_without_chance_is_taken_where_both_have_an_estimate() -> None:
    gain = quick("over still").gain
    assert gain["fqe"].value is None
    assert gain["lstdq"].value is not None
    assert gain["lstdq"].model_error is not None


def test_one_network_says_nothing_about_its_own_error() -> None:
    assert not quick("alone").gain["fqe"].healthy
    assert any("One network" in reason for reason in quick("alone").gain["fqe"].reasons)
    assert not any("One network" in reason for reason in quick("noisy").gain["fqe"].reasons)


def test_few_networks_widen_the_interval_by_as_much_as_students_quantile_asks() -> None:
    gain = quick("noisy").gain["fqe"]
    assert gain.model_error is not None
    assert gain.standard_error is not None
    few, many = (stats.t.ppf(0.975, degrees) for degrees in (1, 39))
    assert gain.standard_error >= gain.model_error * few / many


def test_actions_beyond_all_logged_ones_are_said_to_be_unknown() -> None:
    def outside(std: np.ndarray) -> bool:
        found = st.evaluate(
            lw.policy(lw.BEHAVIOR, std), lw.log(40, 6, 1), gamma=lw.GAMMA, fit_on=lw.log(40, 6, 2), settings=QUICK
        )
        return {check.key: check for check in found.gain["lstdq"].checks}["outside"].passed

    assert outside(lw.STD * 0.8)
    assert not outside(lw.STD * 20)


def test_a_ratio_beyond_all_measure_gives_numbers_and_fails_the_checks() -> None:
    log = lw.log(40, 6, 1)
    assert log.behavior_log_prob is not None
    wrong = log.behavior_log_prob.copy()
    wrong[7] = -900.0
    found = st.evaluate(
        lw.policy(lw.BETTER, lw.STD),
        dataclasses.replace(log, behavior_log_prob=wrong),
        gamma=lw.GAMMA,
        fit_on=lw.log(40, 6, 2),
        settings=QUICK,
    )
    json.dumps(found.to_dict(), allow_nan=False)
    assert not found.gain["fqe"].healthy


def test_a_smoothed_policy_is_named_wherever_its_value_is_printed() -> None:
    still = lw.policy(lw.BETTER, np.zeros(2))
    log, other = lw.log(40, 6, 1), lw.log(40, 6, 2)

    def judged(policy: object) -> st.Evaluation:
        return st.evaluate(policy, log, gamma=lw.GAMMA, estimators=("fqe",), fit_on=other, settings=QUICK)

    found = judged(st.SmoothedPolicy(still, 0.2, -np.inf, np.inf))
    name = "smoothed by normal noise of 0.2"
    assert f"value of the policy, {name}, by fqe" in str(found)
    assert found.to_dict()["policy"] == name
    assert any(name in caveat for caveat in found.to_dict()["verdict"]["caveats"])
    plain = judged(lw.policy(lw.BETTER, lw.STD))
    assert "smoothed" not in json.dumps(plain.to_dict())


def test_two_amounts_of_noise_about_one_mode_are_two_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STITCHRL_STATE", str(tmp_path))
    log, estimand = lw.log(20, 5, 0), Estimand(lw.GAMMA)
    noisy, noisier = lw.policy(lw.BETTER, lw.STD), lw.policy(lw.BETTER, 2 * lw.STD)
    assert look_at([noisy], log, estimand).count == 0
    assert look_at([noisy], log, estimand).count == 0
    assert look_at([noisier], log, estimand).count == 1


def test_balance_of_actions_fails_where_the_log_lacks_what_the_policy_does() -> None:
    log = lw.log(200, 30, 2)
    units = Units(log.num_episodes, None)
    away = lw.policy(lw.BEHAVIOR * 9, lw.STD)

    def test(acting: object, weights: np.ndarray) -> tuple[float, float]:
        here = drawn_actions(acting, log.observation, 2, seed=0)
        following = following_actions(acting, log, here, seed=0)
        found = balance_of_actions(log, here, following, weights, lw.GAMMA, units)
        return found.size, found.p_value

    # The behaviour's own weights are gamma^t, summed to 1 / (1 - gamma) where episodes go on.
    own = np.power(lw.GAMMA, log.position)
    size, _ = test(lw.policy(lw.BEHAVIOR, lw.STD), own)
    assert size < 0.1
    assert test(away, own)[0] > size
    assert test(away, own)[1] < 1e-6


def test_what_is_estimated_of_many_policies_is_what_a_verdict_would_rest_on() -> None:
    known = lw.log(4, 5, 1)
    estimand = Estimand.of(known)
    assert first_primary(known, estimand).name == "fqe"
    # Ratios to a fitted density are asked for by name alone.
    assert first_primary(dataclasses.replace(known, behavior_log_prob=None), estimand).name == "lstdq"
