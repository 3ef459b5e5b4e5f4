"""Deployed returns against an estimate: the sign, the bands, and how often chance alone is taken for an error."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from run_subjects import TablePolicy, episodes_log

import stitchrl as st
from stitchrl.diagnosis.checks import deployment
from stitchrl.diagnosis.deployed import DeployedGap, deployed_gap
from stitchrl.diagnosis.diagnose import diagnose_members
from stitchrl.diagnosis.subject import Member, Shared, Subject
from stitchrl.errors import ConfigurationError

EXACT = st.Estimate("wis", 10.0, 10.0, 10.0, 0.0, 0.95, st.Estimand(1.0))
"""An estimate without any error of its own."""


def around(mean: float, count: int = 20, spread: float = 0.1) -> np.ndarray:
    """Returns with exactly this mean."""
    return mean + spread * np.where(np.arange(count) % 2, 1.0, -1.0)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(12.0, "pessimistic"), (8.0, "optimistic"), (10.5, "as estimated"), (9.5, "as estimated"), (10.99, "cannot tell")],
)
def test_returns_above_the_estimate_mean_that_it_was_pessimistic(mean: float, verdict: str) -> None:
    found = deployed_gap(EXACT, around(mean))
    assert found.verdict == verdict
    np.testing.assert_allclose(found.gap, mean - 10)


def test_the_interval_joins_both_errors() -> None:
    """By hand: deployed 12 +- 2.093 sd / sqrt(20), sd = .1 sqrt(20 / 19); estimate 10 in [7, 11]."""
    estimate = dataclasses.replace(EXACT, lower=7.0, upper=11.0)
    half = 2.0930240544 * 0.1 / np.sqrt(19)
    found = deployed_gap(estimate, around(12.0))
    np.testing.assert_allclose([found.lower, found.upper], [2 - np.hypot(half, 1), 2 + np.hypot(half, 3)], rtol=1e-6)
    assert found.verdict == "pessimistic"


def test_a_large_gap_within_the_noise_is_no_claim() -> None:
    found = deployed_gap(dataclasses.replace(EXACT, lower=4.0, upper=16.0), around(13.0))
    assert found.verdict == "cannot tell"
    assert "+30% of the estimate" in found.sentence


def test_survivals_have_an_interval_even_where_all_survive() -> None:
    estimate = dataclasses.replace(EXACT, value=0.9, lower=0.88, upper=0.92)
    assert deployed_gap(estimate, np.ones(12)).verdict == "cannot tell"  # Wilson: 12 of 12 is 76% to 100%
    assert deployed_gap(estimate, np.repeat([1.0, 0.0], [20, 20])).verdict == "optimistic"


def test_chance_alone_is_rarely_taken_for_an_error() -> None:
    """The estimate is right, with a noise of 0.1 like that of 25 deployed returns: false claims in about 5% of draws."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        value = 0.5 + 0.1 * rng.normal()
        estimate = dataclasses.replace(EXACT, value=value, lower=value - 0.196, upper=value + 0.196)
        found.append(deployed_gap(estimate, rng.normal(0.5, 0.5, 25)).verdict)
    wrong = sum(verdict in ("optimistic", "pessimistic") for verdict in found)
    assert wrong / 400 <= 0.08


def test_a_log_is_counted_as_the_estimand_says() -> None:
    log = episodes_log([[1.0, 1.0, 4.0]] * 10)
    discounted: DeployedGap = deployed_gap(dataclasses.replace(EXACT, estimand=st.Estimand(0.5)), log)
    assert (discounted.deployed, discounted.episodes, discounted.cut) == (2.5, 10, 0)
    assert deployed_gap(dataclasses.replace(EXACT, estimand=st.Estimand(1.0, 2)), log).deployed == 2.0
    cut = deployed_gap(EXACT, episodes_log([[1.0, 1.0, 4.0]] * 10, cut=True))
    assert cut.cut == 10
    assert "10 of these episodes were cut" in cut.sentence


@pytest.mark.parametrize("returns", [[1.0] * 9, [1.0] * 10 + [np.nan]])
def test_too_few_returns_are_refused(returns: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="at least 10 finite returns"):
        deployed_gap(EXACT, returns)


def test_words_are_no_returns() -> None:
    with pytest.raises(
        ConfigurationError, match=r"must be numbers, the return of each deployed episode.*got \['alive'\]"
    ):
        deployed_gap.__wrapped__(EXACT, ["alive"])  # type: ignore[attr-defined]


def test_an_estimate_without_an_interval_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs an interval"):
        deployed_gap(dataclasses.replace(EXACT, lower=None), [1.0] * 10)


LOG = episodes_log([[0.0, 1.0]] * 5, behavior_probs=np.tile([0.5, 0.5], (10, 1)))
POLICY = TablePolicy(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("mean", "codes", "says"),
    [
        (8.0, ["estimate-optimistic"], "the policy does worse than it said"),
        (12.0, ["estimate-pessimistic"], "the policy does better than it said"),
        (10.99, ["deployed-cannot-tell"], "go on counting"),
        (10.0, [], ""),
    ],
)
def test_what_is_said_of_a_deployed_policy(mean: float, codes: list[str], says: str) -> None:
    member = Member("the policy", POLICY, estimate=EXACT, deployed=around(mean))
    found = list(deployment.estimate_against_deployed(Subject(member, Shared(LOG))))
    assert [one.code for one in found] == codes
    assert says in " ".join(one.action for one in found)


def test_ten_percent_below_the_noise_is_said() -> None:
    wide = dataclasses.replace(EXACT, lower=7.0, upper=13.0)
    member = Member("the policy", POLICY, estimate=wide, deployed=around(11.5))
    (finding,) = deployment.estimate_against_deployed(Subject(member, Shared(LOG)))
    assert finding.action.endswith("10% of the estimate are 1, less than the 3 by which chance may move the gap.")


def test_the_gap_is_among_the_numbers_of_a_diagnosis() -> None:
    found = diagnose_members("a policy", [Member("it", POLICY, estimate=EXACT, deployed=around(8.0))], LOG)
    assert "estimate-optimistic" in found.codes
    assert json.loads(json.dumps(found.to_dict()))["numbers"]["it"]["deployed"]["gap"] == pytest.approx(-2)


def test_deployed_returns_without_an_evaluation_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 0 such evaluations"):
        st.diagnose(POLICY, LOG, deployed=[1.0] * 10)
