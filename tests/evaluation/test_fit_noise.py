"""The error that a fitted behaviour brings: its derivatives, its place in the intervals, and regression importance sampling."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import (
    OF_EPISODES,
    QUICK,
    UNDISCOUNTED,
    Table,
    draw,
    sized,
    small_log,
    small_world,
    without_propensities,
)

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.behavior_models import counts
from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.evaluate import evaluate, evaluate_all
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

COUNTS = dataclasses.replace(QUICK, behavior="counts")


def case_of(fits: Fits) -> Case:
    (case,) = cases_of(fits, Units(fits.log.num_episodes))
    return case


@pytest.mark.slow
def test_every_estimator_knows_how_it_depends_on_the_behaviour() -> None:
    """The gradient against finite differences in a random direction."""
    _, _, policy = small_world()
    log, other = without_propensities(small_log(1)), without_propensities(small_log(2))
    fits = Fits([Table(policy)], log, other, estimand=UNDISCOUNTED, settings=COUNTS)
    direction, step = np.random.default_rng(0).normal(size=log.num_transitions), 1e-3
    values: dict[str, list[float]] = {name: [] for name in OF_EPISODES}
    for sign in (1, -1):
        moved = Fits([Table(policy)], log, other, estimand=UNDISCOUNTED, settings=COUNTS)
        moved._data_of_others = fits._data_of_others
        behavior = fits.behavior._replace(log_prob=fits.behavior.log_prob + sign * step * direction)
        moved._folds[0].__dict__["behavior"] = moved.__dict__["behavior"] = behavior
        for name in OF_EPISODES:
            statistic = ESTIMATORS[name].estimate(case_of(moved)).statistic
            assert statistic is not None
            values[name].append(statistic.value())
    for name in OF_EPISODES:
        gradient = ESTIMATORS[name].estimate(case_of(fits)).behavior_gradient
        assert gradient is not None
        slope = (values[name][0] - values[name][1]) / (2 * step)
        # What the ratios do to the weights of magic through the covariance of its returns is left out of its gradient.
        near = 0.3 if name == "magic" else 0.02
        assert gradient @ direction == pytest.approx(slope, rel=near, abs=1e-6), name


def test_the_error_of_the_fit_is_part_of_the_standard_error() -> None:
    _, _, policy = small_world()
    log = small_log(3)
    known = evaluate(Table(policy), log, fit_on=small_log(4), settings=COUNTS, estimators=("is", "wis"))
    assert known.behavior_model is None
    assert known.estimates["is"].behavior_error is None
    one = without_propensities(log)
    found = evaluate(
        Table(policy), one, fit_on=without_propensities(small_log(4)), settings=COUNTS, estimators=("is", "wis")
    )
    few = without_propensities(small_log(4)).head(60)
    fewer = evaluate(Table(policy), one, fit_on=few, settings=COUNTS, estimators=("is", "wis"))
    for name in ("is", "wis"):
        estimate = found.gain[name]
        assert estimate.behavior_error is not None
        assert estimate.standard_error is not None
        assert 0.2 < estimate.behavior_error / estimate.standard_error < 0.95
        assert estimate.behavior_error == pytest.approx(found.estimates[name].behavior_error)
        assert (fewer.gain[name].behavior_error or 0) > 1.5 * estimate.behavior_error
    model = found.behavior_model
    assert model is not None
    assert model.names == ("counts",)
    assert found.to_dict()["behavior_model"]["curve"]["pairs"]
    assert "smoothed shares of the actions in each state" in " ".join(str(found.verdict).split())


def test_ris_is_weighted_importance_sampling_with_the_shares_of_the_log_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "STRENGTHS", (1e-9,))
    _, _, policy = small_world()
    log = small_log(5)
    found = ESTIMATORS["ris"].estimate(case_of(Fits([Table(policy)], log, estimand=UNDISCOUNTED, settings=COUNTS)))
    state, action = log.observation_id, log.action
    assert state is not None
    taken = np.zeros((5, 2))
    np.add.at(taken, (state, action), 1)
    ratio = policy[state, action] / (taken / np.maximum(taken.sum(1, keepdims=True), 1))[state, action]
    weight = np.exp(np.add.reduceat(np.log(ratio), log.episode_start[:-1]))
    assert found.statistic is not None
    assert found.statistic.value() == pytest.approx(weight @ log.episode_returns(1.0) / weight.sum(), rel=1e-4)
    assert found.statistic.influence().sum() == pytest.approx(0.0, abs=1e-8)


def scattered(episodes: int) -> tuple[Dataset, np.ndarray]:
    """A log of 60 states of 10 actions: far too many cells for the episodes it has."""
    rng = np.random.default_rng(4)
    transition = np.full((61, 10, 61), 0.8 / 60)
    transition[..., 60] = 0.2
    world = FiniteMDP(transition, rng.normal(size=(61, 10, 61)), np.r_[np.full(60, 1 / 60), 0], np.arange(61) == 60)
    behavior = rng.dirichlet(np.ones(10), size=61)
    e = world.draw(behavior, episodes, seed=1)
    columns = {
        "episode": e.episode,
        "step": e.step,
        "observation": np.eye(61, dtype=np.float32)[e.state],
        "action": e.action,
        "reward": e.reward,
        "terminated": e.terminated,
        "truncated": e.truncated,
        "behavior_probs": behavior[e.state],
    }
    return read(columns, Schema.infer(list(columns), num_actions=10, gamma=1.0)), behavior


@pytest.mark.slow
def test_a_behaviour_that_learned_its_episodes_by_heart_is_called_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of ris: its weights look evener than the true ones, though they are wrong."""
    monkeypatch.setattr(counts, "STRENGTHS", (1e-3,))
    log, behavior = scattered(300)
    policy = behavior**1.5 / (behavior**1.5).sum(1, keepdims=True)
    case = case_of(Fits([Table(policy)], log, estimand=UNDISCOUNTED, settings=COUNTS))
    own = ESTIMATORS["ris"].estimate(case)
    true = ESTIMATORS["wis"].estimate(case)
    assert own.unit_weight is not None
    assert true.unit_weight is not None
    assert own.unit_weight.mean() < 0.85 * true.unit_weight.mean()
    (check,) = [one for one in own.checks if one.key == "own-fit"]
    assert not check.passed
    assert "learned these episodes by heart" in check.sentence
    sound = ESTIMATORS["ris"].estimate(
        case_of(Fits([Table(small_world()[2])], small_log(6), estimand=UNDISCOUNTED, settings=COUNTS))
    )
    assert [one.passed for one in sound.checks if one.key == "own-fit"] == [True]


def test_ris_refuses_the_network() -> None:
    settings = dataclasses.replace(QUICK, behavior="mlp")
    draft = ESTIMATORS["ris"].estimate(
        case_of(Fits([Table(small_world()[2])], small_log(6), estimand=UNDISCOUNTED, settings=settings))
    )
    assert draft.statistic is None
    assert "maximum likelihood" in draft.checks[0].sentence


@pytest.mark.slow
def test_printed_errors_are_the_spread_over_logs_where_fit_and_estimate_are_drawn_anew() -> None:
    world, behavior, policy = small_world()
    truth = world.policy_value(policy) - world.policy_value(behavior)
    names, found = ("is", "pdis", "wis", "pdwis", "ris", "dr", "wdr"), []
    for seed in range(60):
        log, other = (
            without_propensities(sized(draw(world, behavior, 1000, part + seed, last=False)))
            for part in (10_000, 20_000)
        )
        (one,) = evaluate_all(
            [Table(policy)],
            log,
            fit_on=other,
            settings=dataclasses.replace(COUNTS, seed=seed),
            estimators=names,
            confirm=False,
            resamples=200,
        )
        found.append(
            [(one.gain[n].value, one.gain[n].standard_error, one.gain[n].behavior_error or 0.0) for n in names]
        )
    value, error, fit = np.moveaxis(np.array(found, np.float64), 2, 0)
    spread = value.std(0)
    assert (np.abs(value.mean(0) - truth) < 3 * spread / np.sqrt(60)).all()
    assert (error.mean(0) / spread > 0.75).all()
    assert (error.mean(0) / spread < 1.3).all()
    without = np.sqrt(np.maximum(error**2 - fit**2, 0)).mean(0)
    assert without[0] < 0.9 * spread[0]  # what an error that ignores the fit would have been
    assert spread[names.index("ris")] < spread[names.index("wis")]
