"""drl, smis and samis with exact models, with wrong ones, and with models fitted to growing logs, on worlds known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from exact_fits import Models, better_policy, estimates_with, exact_models, exact_value, expected_drl
from exact_worlds import HOSPITAL, World, world_named
from scipy import stats

from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.marginal import FitMarginal
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.visits import FitVisits

SMALL, LARGE = "tabular, 12 states", "tabular, 100 states"


def wrong_values(world: World) -> np.ndarray:
    """The behaviour's Q, and something added to it."""
    return world.mdp.action_values(world.behavior)[: world.live] + 0.3


def check_unbiased_and_covering(estimates: list[Estimate], truth: float) -> None:
    """No bias beyond 4 standard errors; no more misses than 1 in 1,000 sets of right intervals would have."""
    values = np.array([one.value for one in estimates], float)
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(len(values))
    missed = sum(not one.lower <= truth <= one.upper for one in estimates)  # type: ignore[operator]
    assert stats.binom.sf(missed - 1, len(values), 0.05) > 1e-3, f"{missed} of {len(values)} intervals miss"


@pytest.mark.parametrize(
    ("name", "logs"),
    [
        (SMALL, 25),
        pytest.param(SMALL, 200, marks=pytest.mark.slow),
        pytest.param(LARGE, 200, marks=pytest.mark.slow),
        pytest.param(HOSPITAL, 200, marks=pytest.mark.slow),
    ],
)
def test_with_exact_models_nothing_is_biased_and_intervals_cover(name: str, logs: int) -> None:
    """drl is right with either model wrong as well, and wrong where both are."""
    world, episodes = world_named(name), 400
    table = better_policy(world)
    truth, exact = exact_value(world, table), exact_models(world, table)
    wrong = Models(np.full(world.live, 1.4), wrong_values(world))
    cases = {
        "exact": (exact, ("drl", "smis", "samis")),
        "wrong Q": (Models(exact.visits, wrong.q), ("drl",)),
        "wrong visits": (Models(wrong.visits, exact.q), ("drl",)),
        "both wrong": (wrong, ("drl",)),
    }
    drawn = world.log(episodes * logs, 70_000)
    found: dict[tuple[str, str], list[Estimate]] = {}
    for k in range(logs):
        log = drawn.select_episodes(np.arange(k * episodes, (k + 1) * episodes))
        for case, (models, names) in cases.items():
            for estimator, one in estimates_with(world, table, log, models, names).items():
                found.setdefault((case, estimator), []).append(one)
    astray = found.pop(("both wrong", "drl"))
    for estimates in found.values():
        check_unbiased_and_covering(estimates, truth)
    values = np.array([one.value for one in astray], float)
    assert abs(values.mean() - truth) > 8 * values.std() / np.sqrt(logs)
    # The exact expectation says by how much.
    expected = expected_drl(world, table, wrong)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(logs)


def test_ratios_of_visits_that_are_all_too_large_fail_a_check() -> None:
    """By a common factor, which the balance in regions of long episodes does not see."""
    world = world_named(LARGE)
    table = better_policy(world)
    exact, log = exact_models(world, table), world.log(800, 5)

    def checks(factor: float) -> dict[str, bool]:
        models = Models(factor * exact.visits, wrong_values(world))
        (one,) = estimates_with(world, table, log, models, ("drl",)).values()
        return {check.key: check.passed for check in one.checks}

    right, large, small = checks(1.0), checks(1.4), checks(0.6)
    assert right["carried-mass"]
    assert right["regional-balance"]
    assert large["regional-balance"]
    assert not large["carried-mass"]
    assert not small["carried-mass"]


def test_drl_comes_nearer_as_the_log_grows_that_its_visits_are_fitted_to() -> None:
    """With a wrong Q its expectation is wrong by what the ratio of visits misses, which is computed exactly."""
    world = world_named(LARGE)
    table = better_policy(world)
    truth, q = exact_value(world, table), wrong_values(world)
    q = q + 3.0 * np.random.default_rng(0).normal(size=q.shape[0])[:, None]
    errors = []
    for episodes in (300, 3000, 30_000):
        log = world.log(episodes, 9)
        fits = Fits([world.policy(table)], log, log, estimand=Estimand(1.0), settings=FitSettings())
        (model,) = fits._data_of_others.models(FitVisits())
        rows = np.array([model.features.known.get(row.tobytes(), -1) for row in world.features])
        visits = np.where(rows >= 0, np.maximum(1.0 + model.beta[rows], 0.0), 1.0)
        errors.append(abs(expected_drl(world, table, Models(visits, q)) - truth))
    assert errors[2] < 0.3 * errors[0]
    assert errors[2] < 0.05
    assert expected_drl(world, table, Models(exact_models(world, table).visits, q)) == pytest.approx(truth)


def test_samis_needs_no_network_where_pairs_of_state_and_action_can_be_counted() -> None:
    """800 pairs: features of a network left it 0.3 to 0.5 too low on logs of such size."""
    world = world_named(LARGE)
    table = better_policy(world)
    truth, log = exact_value(world, table), world.log(4000, 6)
    fits = Fits([world.policy(table)], log, log, estimand=Estimand(1.0), settings=FitSettings())
    fits._data_of_others._models[FitQ()] = [[]]  # no network is asked
    (found,) = fits.get(FitMarginal(True))
    value = found.carried.mean() / found.ended.mean()
    error = (found.carried - value * found.ended).std() / found.ended.mean() / np.sqrt(log.num_episodes)
    assert abs(value - truth) < 4 * error
    assert error < 0.06
