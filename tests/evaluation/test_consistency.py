"""Whether estimates agree, from the joint influence of episodes, and the interval that holds if one of them is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from evaluation_worlds import UNDISCOUNTED, Table, draw, small_world, weights
from scipy import stats

import stitchrl as st
from stitchrl.evaluation.consistency import consistency_of
from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Draft
from stitchrl.evaluation.estimators.importance_sampling import importance_sampling, per_decision, weighted
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units


def no_noise(drafts: Sequence[Draft]) -> list[float | None]:
    """Propensities were logged."""
    return [0.0] * len(drafts)


def estimate(name: str, lower: float, upper: float, *, healthy: bool = True) -> Estimate:
    return Estimate(name, (lower + upper) / 2, lower, upper, 1.0, 0.95, UNDISCOUNTED, healthy=healthy)


def test_the_test_of_a_difference_is_the_paired_one() -> None:
    rng = np.random.default_rng(0)
    shared, small = 5 * rng.normal(size=200), 0.1 * rng.normal(size=200)
    a, b = shared + small + 0.03, shared
    drafts = {"a": Draft(Contributions.average(a)), "b": Draft(Contributions.average(b))}
    both = {"a": estimate("a", -1, 1), "b": estimate("b", -1, 1)}
    (pair,) = consistency_of(drafts, both, both, no_noise, Resampler(Units(200))).pairs
    expected = stats.ttest_rel(a, b)
    assert pair.p_value == pytest.approx(expected.pvalue)
    assert pair.difference == pytest.approx(float((a - b).mean()))
    assert pair.differs  # although the two intervals of about +-.7 overlap almost wholly
    grouped = Units(200, np.repeat(np.arange(20), 10))
    (pair,) = consistency_of(drafts, both, both, no_noise, Resampler(grouped)).pairs
    assert pair.p_value == pytest.approx(stats.ttest_1samp((a - b).reshape(20, 10).mean(1), 0.0).pvalue)


def test_equal_estimates_agree_and_unhealthy_ones_do_not_count() -> None:
    draft = Draft(Contributions.average(np.arange(50.0)))
    found = consistency_of(
        {"a": draft, "b": draft, "c": draft},
        {"a": estimate("a", 0, 1), "b": estimate("b", 0, 1), "c": estimate("c", 0, 1, healthy=False)},
        {"a": estimate("a", 0.1, 1), "b": estimate("b", 0, 0.5), "c": estimate("c", -9, 9, healthy=False)},
        no_noise,
        Resampler(Units(50)),
    )
    assert [(pair.name, pair.other, pair.p_value, pair.differs) for pair in found.pairs] == [("a", "b", 1.0, False)]
    assert (found.names, found.lower, found.upper) == (("a", "b"), 0, 1)
    assert (
        "If at least one of a, b is right, the gain lies in [+0.0000, +1.0000] with 95% confidence"
        in found.sentences[-1]
    )
    assert not dataclasses.replace(found, names=("a",)).sentences


def test_the_combined_interval_covers_though_one_estimate_is_wrong() -> None:
    world, behavior, policy = small_world()
    truth = world.policy_value(policy) - world.policy_value(behavior)
    log, size, replicates = draw(world, behavior, 24_000, 3), 300, 80
    above = below = alarms = caught = wrong_alone = 0
    for start in range(0, size * replicates, size):
        episodes, weight = weights(log.select_episodes(np.arange(start, start + size)), policy, behavior)
        logged = Contributions.average(episodes.returns)
        resampler = Resampler(Units(size), resamples=300, seed=start)
        made = {"is": importance_sampling, "pdis": per_decision, "wis": weighted}
        drafts = {name: Draft(formula(episodes, weight)) for name, formula in made.items()}
        shifted = per_decision(episodes, weight)
        drafts["wrong"] = Draft(Contributions.average(shifted.numerator[:, 0] + 0.6))
        gains = {}
        for name, draft in drafts.items():
            assert draft.statistic is not None
            interval = resampler.interval(minus(draft.statistic, logged))
            gains[name] = estimate(name, interval.lower, interval.upper)
        right = {name: gains[name] for name in made}
        first = consistency_of(drafts, right, right, no_noise, resampler)
        alarms += any(pair.differs for pair in first.pairs)
        found = consistency_of(drafts, gains, gains, no_noise, resampler)
        caught += any(pair.differs and "wrong" in (pair.name, pair.other) for pair in found.pairs)
        assert found.lower is not None
        assert found.upper is not None
        above, below = above + (found.lower > truth), below + (found.upper < truth)
        lower = gains["wrong"].lower
        assert lower is not None
        wrong_alone += lower > truth
    most = stats.binom.ppf(0.999, replicates, 0.025)
    assert above <= most
    assert below <= most
    assert wrong_alone > 10 * max(above, 1)  # a bound that trusted the wrong one would not cover
    assert alarms <= stats.binom.ppf(0.999, replicates, 0.05)
    assert caught > 0.9 * replicates


def test_an_evaluation_says_whether_its_estimates_agree() -> None:
    world, behavior, policy = small_world()
    near = 0.9 * behavior + 0.1 * policy
    result = st.evaluate(Table(near), draw(world, behavior, 2000, 4), estimators=("pdis", "wis"))
    found = result.consistency
    assert found is not None
    assert found.names == ("pdis", "wis")
    assert found.lower == min(one.lower for one in result.gain.values() if one.lower is not None)
    assert "The healthy estimates agree: pdis and wis differ by" in str(result)
    assert result.to_dict()["consistency"]["sentences"] == list(found.sentences)
