"""Discounts by time: estimates of an exact semi-Markov world, and what refuses to count steps in its place."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, sized, small_world
from timed_worlds import GAMMA, SECONDS_AN_HOUR, exact_value, timed_log, timed_world

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.attainable import attainable_range, what_follows
from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.contributions import Episodes, Estimand
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units

EPISODES, ROWS = 600, 1000
MODEST = FitSettings(updates=1000, hidden_sizes=(32, 32))
NAMES = ("is", "pdis", "wis", "pdwis", "dr", "wdr", "fqe")


def fits_of(log: Dataset) -> Fits:
    _, _, policy = small_world()
    return Fits([Table(policy)], log, log, estimand=Estimand.of(log), settings=MODEST)


@functools.cache
def fits() -> Fits:
    """Q fitted on a log of its own, by time."""
    return fits_of(timed_log(0, 1500))


def replicated(replicates: int, known: Fits, **kwargs: Any) -> dict[str, np.ndarray]:
    """Estimator -> (replicates, 2) values and standard errors over fresh logs of one number of rows, which compile once."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    for seed in range(1, replicates + 1):
        log = sized(timed_log(seed, EPISODES, **kwargs), ROWS)
        (case,) = cases_of(known.on(log), Units(log.num_episodes))
        for name, pairs in found.items():
            draft = ESTIMATORS[name].estimate(case)
            assert draft.statistic is not None
            pairs.append((draft.statistic.value(), Resampler(case.units).standard_error(draft.statistic)))
    return {name: np.array(pairs) for name, pairs in found.items()}


def z_score(values: np.ndarray, truth: float) -> float:
    return float((values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values))))


def test_estimates_of_a_semi_markov_world_are_unbiased() -> None:
    _, _, policy = small_world()
    truth = exact_value(policy)
    for name, pairs in replicated(30, fits()).items():
        values, errors = pairs.T
        assert abs(z_score(values, truth)) < 4, name
        assert 0.6 < errors.mean() / values.std(ddof=1) < 1.7, name


def test_counting_steps_in_place_of_time_is_seen() -> None:
    """The same logs with gamma per step: every estimator is far from the value by time, so the test above can fail."""
    _, _, policy = small_world()
    by_steps, truth = timed_world().policy_value(policy, gamma=GAMMA), exact_value(policy)
    known = fits_of(timed_log(0, 1500, time_unit=None))
    for name, pairs in replicated(30, known, time_unit=None).items():
        assert abs(z_score(pairs[:, 0], by_steps)) < 4, name
        assert abs(z_score(pairs[:, 0], truth)) > 4, name


@pytest.mark.slow
def test_intervals_of_a_semi_markov_world_cover() -> None:
    _, _, policy = small_world()
    truth = exact_value(policy)
    for name, pairs in replicated(400, fits()).items():
        values, errors = pairs.T
        assert abs(z_score(values, truth)) < 3.5, name
        # Products of ratios are skewed, and normal intervals of `is` hold the truth in 90% of logs of this size.
        least = 0.88 if name == "is" else 0.92
        assert least <= (np.abs(values - truth) < 1.96 * errors).mean() <= 0.975, name


def test_cuts_that_hide_the_time_of_the_next_decision_are_seen() -> None:
    """Half of the episodes that run past two decisions are cut there: their rows are left out, and the value is too small."""
    known = fits()
    for cut in (False, True):
        log = timed_log(3, EPISODES, **({"max_steps": 4} if cut else {}))
        (case,) = cases_of(known.on(log), Units(log.num_episodes))
        (check,) = (one for one in ESTIMATORS["fqe"].estimate(case).checks if one.key == "unknown-waits")
        assert check.passed is not cut
        if cut:
            assert "episodes seem to end more often than they do" in check.sentence


def test_the_behaviour_by_time_is_its_mean_return_by_time() -> None:
    _, behavior, policy = small_world()
    log = timed_log(3, 8000)
    returns = log.episode_returns(GAMMA)
    assert abs(returns.mean() - exact_value(behavior)) < 4 * returns.std() / np.sqrt(len(returns))
    np.testing.assert_allclose(Episodes.of(log, Estimand.of(log)).returns, returns)
    found = evaluate(Table(policy), log.head(400), estimators=("wis",), settings=QUICK)
    assert found.behavior.value == pytest.approx(log.head(400).episode_returns(GAMMA).mean())


def test_the_estimand_names_its_unit_and_the_verdict_says_so() -> None:
    _, _, policy = small_world()
    log = timed_log(5, 300, dates=True, time_unit=SECONDS_AN_HOUR)
    found = evaluate(Table(policy), log, estimators=("wis", "wdr", "fqe"), fit_on=timed_log(6, 300, dates=True,
                     time_unit=SECONDS_AN_HOUR), settings=QUICK)  # fmt: skip
    estimate = found.estimates["fqe"]
    assert estimate.estimand == Estimand(GAMMA, None, "hour")
    assert str(estimate.estimand) == "gamma 0.6 per hour, until terminated"
    assert Estimate.from_dict(estimate.to_dict()).estimand == estimate.estimand
    assert any("gamma 0.6 per hour" in caveat for caveat in found.verdict.caveats)
    # Another unit is another question; the same unit in other words is the same one.
    hours = timed_log(5, 300)
    assert Estimand.of(hours) == Estimand(GAMMA, None, "unit of `time`")
    same = evaluate(Table(policy), hours, estimators=("wis",), settings=QUICK).estimates["wis"].value
    assert same == pytest.approx(found.estimates["wis"].value, rel=1e-6)


def test_gamma_of_another_unit_is_a_power_of_it() -> None:
    """gamma per hour, and gamma^(1/60) per minute, are one discount."""
    _, _, policy = small_world()
    hours = timed_log(7, 200)
    minutes = dataclasses.replace(hours, schema=dataclasses.replace(hours.schema, time_unit=1 / 60))
    values = [
        evaluate(Table(policy), log, gamma, estimators=("wis",), settings=QUICK).estimates["wis"].value
        for log, gamma in ((hours, GAMMA), (minutes, GAMMA ** (1 / 60)))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


class BySteps:
    """An estimator of one's own that knows nothing of time."""

    name, title, primary_rank = "mine", "my own", None

    def refusal(self, *_: object) -> None:
        return None

    def requests(self) -> tuple[()]:
        return ()

    def estimate(self, case: object) -> Any:
        raise AssertionError("It must not be asked.")


def test_what_counts_steps_is_refused() -> None:
    _, _, policy = small_world()
    log, plain = timed_log(1, 50), timed_log(1, 50, time_unit=None)
    found = evaluate(Table(policy), log, estimators=("wis", BySteps()), settings=QUICK)
    assert found.estimates["mine"].value is None
    assert "mine discounts by steps" in found.estimates["mine"].reasons[0]
    with pytest.raises(EvaluationError, match="gamma per step and the log per unit of `time`"):
        Episodes.of(log, Estimand(GAMMA))
    with pytest.raises(EvaluationError, match="gamma per unit of `time` and the log per step"):
        Episodes.of(plain, Estimand.of(log))
    with pytest.raises(ConfigurationError, match="`fit_on` must be discounted as the log is"):
        evaluate(Table(policy), log, fit_on=plain, settings=QUICK)


def test_what_is_possible_follows_the_shortest_time() -> None:
    """Rewards -1 and 2 at times 0, 1 and 3: no step is shorter than 1, and a loss may come as late as one likes."""
    log = timed_log(1, 400, max_steps=3)
    estimand = Estimand.of(log)
    known = log.elapsed
    assert known is not None
    largest = GAMMA ** np.nanmin(known)
    assert log.largest_discount(GAMMA) == pytest.approx(largest)
    low, high = attainable_range(log, estimand)
    returns = log.episode_returns(GAMMA)
    assert low <= returns.min()
    assert returns.max() <= high
    assert high <= float(log.reward.max()) / (1 - largest) + 1e-9
    lost = what_follows(log, estimand, 0.5, 3)
    assert lost[1] == pytest.approx(0.5 * largest**3 / (1 - largest) * float(log.reward.max()))


@pytest.mark.slow
def test_a_world_without_waiting_is_an_ordinary_one() -> None:
    """One unit between all decisions: the numbers are those of steps, to rounding."""
    _, _, policy = small_world()
    plain = timed_log(2, 300, time_unit=None)
    regular = dataclasses.replace(
        plain, time=plain.position.astype(float), schema=dataclasses.replace(plain.schema, time_unit=1.0)
    )
    steps, time = (
        evaluate(Table(policy), log, estimators=("pdis", "wdr", "fqe"), settings=QUICK) for log in (plain, regular)
    )
    for name, estimate in steps.estimates.items():
        assert time.estimates[name].value == pytest.approx(estimate.value, rel=1e-3), name
        assert time.gain[name].lower == pytest.approx(steps.gain[name].lower, abs=2e-3), name
