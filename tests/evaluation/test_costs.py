"""Costs beside the return: exact in an exact world, against limits that hold, are broken, or cannot be told."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, small_log, small_world

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.costs import Limit, cost_of, limits_of
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.evaluation import Evaluation


def with_cost(seed: int) -> Dataset:
    """The small log with a cost: 1 for each step in states 1 and 2 with action 1, else .25, as "pain"; and one of zeros."""
    log = small_log(seed)
    state = np.asarray(log.observation_id)
    pain = np.where(np.isin(state, (1, 2)) & (log.action == 1), 1.0, 0.25)
    columns = dict(log.schema.columns) | {"cost": ("pain", "nothing")}
    return dataclasses.replace(
        log,
        cost=np.stack([pain, np.zeros(len(pain))], axis=1).astype(np.float32),
        schema=dataclasses.replace(log.schema, columns=columns),
    )


def exact_cost(table: np.ndarray, gamma: float = 1.0) -> float:
    """The expected discounted cost of an episode, by a linear solve on the world whose reward is the cost."""
    world, _, _ = small_world()
    cost = np.full((5, 2), 0.25)
    cost[[1, 2], 1] = 1.0
    live, probs = ~world.terminal, table
    step = np.einsum("sa,sat->st", probs, world.transition)[np.ix_(live, live)]
    value = np.linalg.solve(np.eye(int(live.sum())) - gamma * step, (probs * cost).sum(1)[live])
    return float(world.initial[live] @ value)


def asked(costs: list[str], **more) -> Evaluation:
    _, _, policy = small_world()
    settings = {"fit_on": with_cost(12), "settings": QUICK, "audit_verdict": "usable", "costs": costs} | more
    return evaluate(Table(policy), with_cost(11), **settings)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_cost_of_a_policy_is_near_the_exact_one_by_every_estimator(gamma: float) -> None:
    _, behavior, policy = small_world()
    found = asked(["pain<=10"], gamma=gamma)
    assert found.costs is not None
    (one,) = found.costs.costs
    assert one.estimator == "fqe"
    assert one.estimate is not None
    for estimate in (one.estimate, *one.others.values()):
        assert abs(estimate.value - exact_cost(policy, gamma)) < 4 * estimate.standard_error, estimate.name
        assert estimate.estimand.gamma == gamma
    assert one.behavior == pytest.approx(exact_cost(behavior, gamma), rel=0.1)


def test_limits_hold_are_broken_or_stay_open_and_only_a_broken_one_forbids_go() -> None:
    _, _, policy = small_world()
    exact = exact_cost(policy)
    lower, upper = exact - 1.0, exact + 1.0
    found = asked([f"pain<={upper}", "nothing<=0.1"], margin=-1.0)  # which the gain of -.4 is above
    assert found.costs is not None
    assert found.verdict.decision == "GO"
    assert [one.state for one in found.costs.costs] == ["shown to hold", "shown to hold"]
    line = found.verdict.lines[-1]
    assert (line.key, line.passed) == ("f", True)
    assert line.rule == "no cost lies wholly above its limit"
    broken = asked([f"pain<={lower}"], margin=-1.0)
    assert broken.costs is not None
    (one,) = broken.costs.costs
    assert one.state == "shown to be broken"
    assert one.sentence.startswith(f"The limit pain <= {lower:g} is shown to be broken: ")
    assert broken.verdict.lines[-1].passed is False
    assert "line (f) failed" in broken.verdict.headline
    assert broken.verdict.decision == "CANNOT TELL"
    near = asked([f"pain<={one.estimate.value:.6f}"])
    assert near.costs is not None
    assert near.costs.costs[0].state == "not shown"
    assert near.verdict.lines[-1].passed is True
    assert "is not shown to hold, nor to be broken" in near.verdict.lines[-1].seen


def test_the_gain_is_the_same_with_a_cost_as_without_and_all_survives_json() -> None:
    plain, costly = asked([]), asked(["pain<=3"])
    assert plain.costs is None
    assert plain.to_dict()["gain"] == costly.to_dict()["gain"]
    stored = json.loads(json.dumps(costly.to_dict(), allow_nan=False))
    assert stored["costs"][0]["column"] == "pain"
    assert stored["costs"][0]["sentence"].startswith("The limit pain <= 3 is ")


def test_an_unhealthy_estimate_of_a_cost_forbids_nothing_and_shows_nothing() -> None:
    """The policy never does what the log always did."""
    _, _, _ = small_world()
    log = with_cost(11)
    never = np.tile([0.0, 1.0], (5, 1))
    rare = dataclasses.replace(
        log, behavior_probs=None, behavior_log_prob=np.where(log.action == 1, np.log(1e-4), 0.0).astype(np.float32)
    )
    found = evaluate(Table(never), rare, estimators=("wdr",), settings=QUICK, costs="pain<=-1")
    assert found.costs is not None
    (one,) = found.costs.costs
    assert one.state == "not shown"
    assert found.verdict.lines[-1].passed is None


@pytest.mark.parametrize("text", ["pain", "pain<8", "pain<=eight", "<=8", "pain<=inf", ""])
def test_a_text_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="COLUMN<=LIMIT"):
        limits_of([text])


def test_limits_are_read_and_columns_found() -> None:
    assert limits_of("hours at night <= -2.5") == (Limit("hours at night", -2.5),)
    with pytest.raises(ConfigurationError, match="'pain' has several limits"):
        limits_of(["pain<=1", "pain<=2"])
    log = with_cost(11)
    with pytest.raises(ConfigurationError, match="there is no 'hours' among pain, nothing"):
        cost_of(log, "hours")
    np.testing.assert_array_equal(cost_of(log, "observation[1]"), log.observation[:, 1])
