"""Actions that were clipped to their bounds: ratios, fits and health against closed forms and a million draws."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_worlds import QUICK
from scipy import stats

import stitchrl as st
from stitchrl.auditing.checks.actions import action_saturated
from stitchrl.auditing.checks.propensities import propensities_beaten
from stitchrl.auditing.facts import Facts
from stitchrl.data import atoms
from stitchrl.data.atoms import action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.behavior_model import FittedBehavior, log_likelihoods
from stitchrl.evaluation.behavior_models.mixture import with_factor
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.policy_actions import log_densities
from stitchrl.evaluation.probability_transform import probability_transform, transform_curve
from stitchrl.nn.linear_policy import LinearPolicy
from stitchrl.nn.units import RescaledPolicy

STEPS = 5
GAIN, STD = 1.0, 0.6
"""The behaviour: a ~ N(GAIN s, STD^2) clipped to [-1, 1], with s ~ N(0, 1): a quarter of the actions lie on bounds."""
OTHER, OTHER_STD = 0.6, 0.7


def policy(gain: float = OTHER, std: float = OTHER_STD) -> LinearPolicy:
    return LinearPolicy(jnp.full((1, 1), gain, jnp.float32), jnp.full(1, std, jnp.float32))


def clipped_law(action: np.ndarray, mean: np.ndarray, std: float, bound: float = 1.0) -> np.ndarray:
    """The logarithm of the censored normal, by SciPy."""
    inside = stats.norm.logpdf(action, mean, std)
    inside = np.where(action >= bound, stats.norm.logsf(bound, mean, std), inside)
    return np.where(action <= -bound, stats.norm.logcdf(-bound, mean, std), inside)


@functools.cache
def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and actions before they are clipped."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=rows)
    return obs, GAIN * obs + STD * rng.normal(size=rows)


def log_of(rows: int, seed: int, *, propensities: str | None = None, bound: float = 1.0, unit: float = 1.0) -> Dataset:
    """Decisions, each an episode, with reward a^2 + a s of the clipped action; `propensities` are "mass" or "density"."""
    obs, raw = drawn(rows, seed)
    action = np.clip(raw, -bound, bound)
    columns = {
        "episode": np.arange(rows), "observation": obs[:, None].astype(np.float32),
        "action": unit * action[:, None].astype(np.float32), "reward": action**2 + action * obs,
        "terminated": np.ones(rows, bool),
    }  # fmt: skip
    if propensities is not None:
        law = clipped_law(action, GAIN * obs, STD, bound)
        columns["behavior_log_prob"] = law if propensities == "mass" else stats.norm.logpdf(action, GAIN * obs, STD)
    return st.read(columns, Schema.infer(list(columns), num_actions=None, gamma=1.0))


@functools.cache
def true_value(gain: float = OTHER, std: float = OTHER_STD) -> tuple[float, float]:
    """The mean reward of a clipped policy over a million draws, and its standard error."""
    rng = np.random.default_rng(99)
    obs = rng.normal(size=1_000_000)
    action = np.clip(gain * obs + std * rng.normal(size=len(obs)), -1, 1)
    reward = action**2 + action * obs
    return float(reward.mean()), float(reward.std() / 1000)


def judged(acting: object, log: Dataset, *names: str, other: Dataset | None = None) -> st.Evaluation:
    return st.evaluate(acting, log, gamma=1.0, estimators=names or ("is", "wis"), fit_on=other, settings=QUICK)


def check(found: st.Evaluation, name: str = "wis") -> Check:
    (one,) = (one for one in found.estimates[name].checks if one.key == "clipping")
    return one


# --- atoms ----------------------------------------------------------------------------------------------------------


def test_atoms_are_the_ends_that_are_logged_again_and_again() -> None:
    log = log_of(4000, 1)
    found = action_atoms(log)
    assert found is not None
    assert (found.low[0], found.high[0]) == (-1.0, 1.0)
    assert found.share_low[0] == pytest.approx((log.action == -1).mean())
    assert found.share == pytest.approx(2 * stats.norm.sf(1 / np.hypot(GAIN, STD)), abs=4 * np.sqrt(0.4 * 0.6 / 4000))
    narrow = action_atoms(log_of(4000, 1, bound=0.5, unit=3.0))  # less than any declared box, and other units
    assert narrow is not None
    assert (narrow.low[0], narrow.high[0]) == (-1.5, 1.5)


def test_one_audit_looks_for_atoms_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log, looks = log_of(600, 1, propensities="mass"), []
    real = atoms._ends

    def counted(log: Dataset, seed: int) -> Any:
        looks.append(seed)
        return real(log, seed)

    monkeypatch.setattr(atoms, "_ends", counted)
    facts = Facts(log)
    (found,) = action_saturated(log, facts)
    assert "number 0 is exactly -1 or 1" in found.seen
    list(propensities_beaten(log, facts))
    assert len(looks) == 1


def with_actions(action: np.ndarray, **schema: object) -> Dataset:
    log = log_of(len(action), 1)
    changed = dataclasses.replace(log.schema, **schema)
    return dataclasses.replace(log, action=action[:, None].astype(np.float32), schema=changed)


def test_what_is_no_atom_and_what_is_one_on_one_side() -> None:
    raw = drawn(4000, 1)[1]
    assert action_atoms(with_actions(raw)) is None
    assert action_atoms(with_actions(np.tanh(raw))) is None
    assert action_atoms(with_actions(np.round(raw, 1))) is None  # rounded: what is inside repeats more often
    assert action_atoms(with_actions(np.ones(4000))) is None
    few = raw / 10
    few[:4] = 1.0
    assert action_atoms(with_actions(few)) is None  # four rows are less than five
    one = action_atoms(with_actions(np.maximum(raw, 0.0)))
    assert one is not None
    assert (one.low[0], one.high[0]) == (0.0, np.inf)
    declared = action_atoms(with_actions(np.maximum(raw, 0.0), action_low=(0.0,), action_high=(9.0,)))
    assert declared is not None
    assert declared.high[0] == 9.0
    assert declared.share_high[0] == 0.0


def rest_and_bounds() -> np.ndarray:
    """Actions of which 30% rest at 0 and 11% lie on each of -1 and 1."""
    rng = np.random.default_rng(8)
    kind, inside = rng.random(20_000), rng.uniform(-1, 1, 20_000)
    return np.where(kind < 0.3, 0.0, np.where(kind < 0.41, -1.0, np.where(kind < 0.52, 1.0, inside)))


@pytest.mark.parametrize("unit", [1.0, 1e-6, 48.0])
def test_neither_a_rest_value_nor_outliers_hide_clipping(unit: float) -> None:
    clipped = np.clip(drawn(20_000, 1)[1], -1, 1)
    clipped[[17, 4000]] = 1.3, -1.2
    share = (np.abs(clipped) == 1).mean()
    few_steps = np.round(np.clip(drawn(20_000, 1)[1], -1, 1), 2)
    for action, expected in ((rest_and_bounds(), 0.22), (clipped, share), (few_steps, (np.abs(few_steps) == 1).mean())):
        found = action_atoms(with_actions(unit * action))
        assert found is not None
        np.testing.assert_allclose([found.low[0], found.high[0]], [-unit, unit], rtol=1e-6)
        assert found.share == pytest.approx(expected, abs=0.02 if expected == 0.22 else 1e-9)
        log = with_actions(unit * action)
        assert [one.code for one in action_saturated(log, Facts(log))] == ["action-saturated"]
    if unit == 1.0:  # the whole audit says it too
        assert "action-saturated" in {one.code for one in st.audit(log).findings}


def test_declared_bounds_are_looked_at_however_many_rows_lie_beyond() -> None:
    action = np.clip(drawn(20_000, 1)[1], -1, 1)
    action[::50] = 3 * drawn(20_000, 2)[1][::50]  # 2% of the rows are wider and were not clipped
    assert action_atoms(with_actions(action)) is None
    found = action_atoms(with_actions(action, action_low=(-1.0,), action_high=(1.0,)))
    assert found is not None
    assert found.share == pytest.approx((np.abs(action) == 1).mean())


def test_rounded_actions_with_a_rest_value_or_outliers_have_no_atoms() -> None:
    for digits in (1, 2):
        action = np.round(drawn(20_000, 1)[1], digits)
        action[::3] = 0.0
        action[[5, 6]] = 9.0, -9.0
        assert action_atoms(with_actions(action)) is None


def test_small_doses_next_to_a_bound_do_not_lie_on_it() -> None:
    rng = np.random.default_rng(4)
    for dose in (1e-5 * np.exp(rng.normal(size=4000)), np.exp(2 * rng.normal(size=4000))):
        dose[:600] = 0.0
        for schema in ({}, {"action_low": (0.0,), "action_high": (1e6,)}):
            found = action_atoms(with_actions(dose, **schema))
            assert found is not None
            assert found.share == 0.15
            assert found.high[0] == (1e6 if schema else np.inf)


# --- ratios ---------------------------------------------------------------------------------------------------------


def test_right_ratios_average_one_and_give_the_value_where_those_of_densities_do_not() -> None:
    log = log_of(200_000, 2, propensities="mass")
    assert log.behavior_log_prob is not None
    truth, error = true_value()

    def mean_ratio_and_value(acting: object) -> tuple[float, float, float, float]:
        ratio = np.exp(log_densities(acting, log.observation, log.action) - log.behavior_log_prob)
        weighted = ratio * log.reward
        n = np.sqrt(len(ratio))
        return float(ratio.mean()), float(ratio.std() / n), float(weighted.mean()), float(weighted.std() / n)

    mean, mean_error, value, value_error = mean_ratio_and_value(st.ClippedPolicy(policy(), -1.0, 1.0))
    assert abs(mean - 1) < 4 * mean_error
    assert abs(value - truth) < 4 * np.hypot(value_error, error)
    mean, mean_error, value, value_error = mean_ratio_and_value(policy())
    assert abs(mean - 1) > 20 * mean_error
    assert abs(value - truth) > 20 * np.hypot(value_error, error)


def test_estimates_of_the_clipped_policy_hold_the_truth_and_are_healthy() -> None:
    found = judged(st.ClippedPolicy(policy(), -1.0, 1.0), log_of(8000, 3, propensities="mass"))
    truth, _ = true_value()
    for name in ("is", "wis"):
        estimate = found.estimates[name]
        assert estimate.healthy, estimate.reasons
        assert estimate.standard_error is not None
        assert abs(estimate.value - truth) < 3 * estimate.standard_error
    assert check(found).passed
    assert "clipped to [-1, 1]" in str(found)


def test_an_ordinary_density_fails_by_name_with_the_share_and_the_way_out() -> None:
    log = log_of(8000, 3, propensities="mass")
    share = (np.abs(log.action) == 1).mean()
    inside = st.SmoothedPolicy(policy(), 0.5, -1.0, 1.0)  # truncated: its draws never lie on a bound
    for acting in (policy(), inside):
        found = judged(acting, log)
        failed = check(found)
        assert not failed.passed
        assert failed.sentence.startswith(f"{share:.1%} of the logged actions lie exactly on a bound")
        assert "st.ClippedPolicy(policy, low, high)" in failed.sentence
        assert not found.estimates["wis"].healthy
    # A policy whose density leaves the bounds out has right ratios all the same.
    calm = check(judged(policy(0.0, 0.1), log))
    assert calm.passed
    # Without atoms nothing is said, and what weighs no action is not asked.
    whole = judged(policy(0.1, 0.2), log_of(8000, 3, propensities="mass", bound=50.0))
    assert "clipping" not in {one.key for one in whole.estimates["wis"].checks}
    assert whole.lower_bounds


def test_logged_densities_of_clipped_actions_are_caught_by_the_policys_own_share() -> None:
    found = judged(st.ClippedPolicy(policy(), -1.0, 1.0), log_of(8000, 3, propensities="density"))
    failed = check(found)
    assert not failed.passed
    assert "are not probabilities of being clipped" in failed.sentence
    assert not found.lower_bounds  # they rest on the ratios alone


class ClipsOnlyDraws:
    """Its draws are clipped, and its density is that of before: as many libraries have it."""

    def sample(self, obs: np.ndarray, *, key: jax.Array) -> np.ndarray:
        return np.clip(np.asarray(policy().sample(obs, key=key)), -1, 1)

    def log_prob(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        return np.asarray(policy().log_prob(obs, action))


def test_a_policy_that_clips_its_draws_and_not_its_density_is_caught() -> None:
    assert not check(judged(ClipsOnlyDraws(), log_of(8000, 3, propensities="mass"))).passed


# --- fits -----------------------------------------------------------------------------------------------------------


@functools.cache
def fitted(name: str) -> FittedBehavior:
    return fit_behavior(log_of(6000, 4), dataclasses.replace(QUICK, behavior=name, updates=600))


def law_of(model: FittedBehavior, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the one normal that was fitted, in logged units."""
    assert isinstance(model.policy, RescaledPolicy)
    inner = model.policy.policy(model.policy._inside(obs[:, None].astype(np.float32)))  # type: ignore[operator]
    half = np.asarray(model.policy.action_half_width)
    return np.asarray(inner.mean)[:, 0, 0] * half[0], np.exp(np.asarray(inner.log_std))[:, 0, 0] * half[0]


@pytest.mark.slow
def test_a_fit_of_clipped_draws_recovers_mean_and_spread_where_an_uncensored_one_does_not() -> None:
    obs = np.linspace(-1.5, 1.5, 13)
    mean, std = law_of(fitted("gaussian"), obs)
    assert np.abs(mean - GAIN * obs).max() < 0.15
    assert np.abs(std / STD - 1).max() < 0.2
    seen, action = (one[:, None] for one in drawn(6000, 4))
    action = np.clip(action, -1, 1)
    slope = float((seen * action).mean() / (seen**2).mean())  # least squares of what was clipped
    assert slope < 0.7 * GAIN
    assert (action - slope * seen).std() < 0.8 * STD


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_a_fit_predicts_clipped_actions_as_well_as_the_law_that_drew_them(name: str) -> None:
    test = log_of(20_000, 5)
    exact = clipped_law(test.action[:, 0], GAIN * test.observation[:, 0], STD)
    found = log_likelihoods(fitted(name).policy, test)
    assert float(exact.mean()) - 0.03 < float(found.mean()) < float(exact.mean()) + 0.005
    ratio = np.exp(clipped_law(test.action[:, 0], OTHER * test.observation[:, 0], OTHER_STD) - found)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.03)
    assert isinstance(fitted(name).policy, RescaledPolicy)
    curve = transform_curve([probability_transform(fitted(name).policy, test)], [test])
    assert curve.expected_error < 0.03


def test_a_bound_has_the_same_probability_in_every_unit_and_only_what_is_inside_a_density_of_it() -> None:
    settings = dataclasses.replace(QUICK, behavior="gaussian")
    here, there = (
        with_factor(fit_behavior(log_of(500, 4, bound=0.5, unit=unit), settings).policy, 1.0) for unit in (3.0, 48.0)
    )
    obs, action = np.zeros((3, 1), np.float32), np.array([[-1.5], [0.3], [1.5]], np.float32)
    gap = log_densities(here, obs, action) - log_densities(there, obs, 16 * action)
    np.testing.assert_allclose(gap, [0.0, np.log(16.0), 0.0], atol=1e-4)


@pytest.mark.slow
def test_a_fitted_behaviour_serves_the_clipped_policy_and_not_the_ordinary_one() -> None:
    log, other = log_of(8000, 6), log_of(8000, 7)
    truth, _ = true_value()
    clipped = st.ClippedPolicy(policy(), -1.0, 1.0)
    right, wrong = evaluate_all(
        [clipped, policy()], log, gamma=1.0, estimators=("wis",), fit_on=other, settings=QUICK, confirm=False
    )  # one fit of the behaviour serves both
    assert check(right, name="wis").passed
    estimate = right.estimates["wis"]
    assert estimate.standard_error is not None
    assert abs(estimate.value - truth) < 4 * estimate.standard_error
    assert not check(wrong, name="wis").passed
