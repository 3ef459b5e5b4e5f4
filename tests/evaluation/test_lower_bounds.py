"""Lower bounds without a model: right constants, clips from other episodes, any sign of rewards, and the truth above them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from bandit_worlds import BanditWorld
from evaluation_worlds import UNDISCOUNTED, Table, corridor, cut_at_random, draw, small_world
from scipy import stats

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import attainable_range
from stitchrl.evaluation.contributions import Episodes, Estimand
from stitchrl.evaluation.estimator import FITTED_IS_RIGHT
from stitchrl.evaluation.lower_bounds import METHODS, LowerBound, bound_of, bounds_of, numbers_of
from stitchrl.evaluation.units import Units

WORLD = BanditWorld()


@pytest.mark.parametrize(
    ("assumed", "begins"),
    [
        ("the logged propensities are right", "By the weights alone,"),
        (FITTED_IS_RIGHT, "By weights from a fitted behaviour,"),
    ],
)
def test_a_bound_says_whether_its_weights_rest_on_a_fitted_behaviour(assumed: str, begins: str) -> None:
    bound = LowerBound("gain", "bernstein", "episodes", 0.1, 0.95, 3.0, 1200, -1.0, (assumed,), noun="decision")
    assert bound.sentence.startswith(begins)
    assert "weighing 1,200 decisions" in bound.sentence


def found_on(
    log: Dataset,
    policy: np.ndarray,
    behavior: np.ndarray,
    *,
    estimand: Estimand = UNDISCOUNTED,
    attainable: tuple[float, float] | None = None,
    share: float = 0.2,
) -> dict[tuple[str, str, str], LowerBound]:
    """The bounds of a table policy on a log of a finite world, by what, method and weights."""
    state = log.observation_id
    assert state is not None
    with np.errstate(divide="ignore"):
        ratio = np.log(policy[state, log.action]) - np.log(behavior[state, log.action])
    episodes, units = Episodes.of(log, estimand), Units(log.num_episodes, log.group)
    choosing = np.arange(units.count) < share * units.count
    reach = attainable_range(log, estimand) if attainable is None else attainable
    found = numbers_of(episodes, ratio, estimand, reach, units)
    bounds = [
        b for of in ("value", "gain") for b in bounds_of([x for x in found if x.of == of], choosing, confidence=0.95)
    ]
    return {(b.of, b.method, b.weights): b for b in bounds}


def test_constants_are_those_of_the_papers() -> None:
    x = np.tile([0.0, 1.0], 500)  # mean 1/2, variance 250/999
    assert bound_of(x, 1.0, 0.0, 0.05, "hoeffding") == pytest.approx(0.5 - math.sqrt(math.log(20) / 2000))
    # By hand: sqrt(2 * .25025 * 3.68888 / 1000) = .042968, 7 * 3.68888 / (3 * 999) = .008616.
    assert bound_of(x, 1.0, 0.0, 0.05, "bernstein") == pytest.approx(0.5 - 0.042968 - 0.008616, abs=2e-6)
    assert bound_of(x, 1.0, 0.0, 0.05, "student") == pytest.approx(0.5 - 1.646380 * math.sqrt(0.25025 / 1000), abs=2e-6)
    # The range of numbers that may be negative is wider than the clip alone.
    wide = bound_of(x, 1.0, -1.0, 0.05, "hoeffding")
    assert wide == pytest.approx(0.5 - 2 * math.sqrt(math.log(20) / 2000))


def test_a_clip_is_chosen_on_other_episodes() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 300, 0)
    first = found_on(log, policy, behavior)
    paid = np.array(log.reward)
    paid[log.episode_start[200] :] = 0.0  # other returns in the part that the bound is computed on
    other = found_on(
        dataclasses.replace(log, reward=paid), policy, behavior, attainable=attainable_range(log, UNDISCOUNTED)
    )
    key = ("value", "bernstein", "episodes")
    assert first[key].clip == other[key].clip
    assert first[key].lower != other[key].lower
    assert first[key].chosen == other[key].chosen


def test_a_constant_in_all_rewards_moves_the_bound_by_itself() -> None:
    columns = WORLD.columns(500, 3)
    plain = WORLD.read(columns)
    lower = WORLD.read(columns | {"reward": columns["reward"] - np.float32(5.0)})
    results = [st.evaluate(WORLD.acting(), log, estimators=("snips",)) for log in (plain, lower)]
    assert "episode" not in str(results[0])  # there are decisions only
    one, other = (result.lower_bounds for result in results)
    assert [b.lower - 5.0 for b in one if b.of == "value"] == pytest.approx([b.lower for b in other if b.of == "value"])
    assert [b.lower for b in one if b.of == "gain"] == pytest.approx([b.lower for b in other if b.of == "gain"])


@pytest.mark.slow
def test_the_truth_lies_above_on_single_decisions_and_the_bound_is_no_empty_one() -> None:
    value, base = WORLD.value(WORLD.policy), WORLD.value(WORLD.behavior)
    rng, lowers = np.random.default_rng(0), {}
    table, behavior = WORLD.policy, WORLD.behavior
    for _ in range(200):
        kind = rng.integers(len(table), size=2000)
        action = (rng.random((2000, 1)) > behavior[kind].cumsum(1)[:, :-1]).sum(1)
        reward = rng.random(2000) < WORLD.rate[kind, action]
        x = table[kind, action] / behavior[kind, action] * reward
        episodes = Episodes(
            reward[:, None] * 1.0, np.ones((2000, 1), bool), np.ones(2000, bool), np.arange(2000)[:, None], np.ones(1)
        )
        found = numbers_of(
            episodes, np.log(table[kind, action] / behavior[kind, action]), UNDISCOUNTED, (0.0, 1.0), Units(2000)
        )
        assert found[0].per_unit == pytest.approx(x)
        for numbers in found:
            for bound in bounds_of([numbers], np.arange(2000) < 400, confidence=0.95):
                lowers.setdefault((bound.of, bound.method), []).append(bound.lower)
    for (of, method), seen in lowers.items():
        truth = value if of == "value" else value - base
        missed = int((np.array(seen) > truth).sum())
        assert missed <= stats.binom.ppf(0.999, 200, 0.05), (of, method, missed)
    assert np.mean(lowers["value", "bernstein"]) > 0.5 * value
    assert np.mean(lowers["value", "hoeffding"]) > 0.5 * value
    assert np.mean(lowers["gain", "student"]) > 0.0  # a true gain of .07 is shown


@pytest.mark.parametrize(("horizon", "cut"), [(None, 0.0), (6, 0.0), (None, 0.15)])
def test_the_truth_lies_above_in_a_world_of_negative_rewards(horizon: int | None, cut: float) -> None:
    world, behavior, policy = small_world() if cut == 0 else corridor()
    estimand = Estimand(1.0 if horizon or not cut else 0.9, horizon)
    truth = {
        "value": world.policy_value(policy, gamma=estimand.gamma, horizon=horizon),
        "gain": world.policy_value(policy, gamma=estimand.gamma, horizon=horizon)
        - world.policy_value(behavior, gamma=estimand.gamma, horizon=horizon),
    }
    whole = draw(world, behavior, 10_000 if not cut else 4000, 5)
    whole = cut_at_random(whole, cut, 1) if cut else whole
    reach, size = attainable_range(whole, estimand), 200
    missed, count = (
        dict.fromkeys([(of, m, w) for of in truth for m in METHODS for w in ("episodes", "decisions")], 0),
        0,
    )
    for start in range(0, whole.num_episodes - size + 1, size):
        count += 1
        part = whole.select_episodes(np.arange(start, start + size))
        for key, bound in found_on(part, policy, behavior, estimand=estimand, attainable=reach).items():
            missed[key] += bound.lower > truth[key[0]]
    assert max(missed.values()) <= stats.binom.ppf(0.999, count, 0.05), missed


def test_a_policy_that_leaves_the_support_is_bounded_from_below_all_the_same() -> None:
    world, behavior, policy = small_world()
    never = np.array(behavior)
    never[:2] = [1.0, 0.0]
    log = draw(world, never, 2000, 1)
    for bound in found_on(log, policy, never).values():
        if bound.of == "value" and bound.method != "student":
            assert bound.lower < world.policy_value(policy)


def test_units_are_groups_and_one_of_them_is_never_in_both_parts() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 400, 2)
    grouped = dataclasses.replace(log, group=np.repeat(np.arange(40), 10))
    alone, together = found_on(log, policy, behavior), found_on(grouped, policy, behavior)
    key = ("value", "bernstein", "episodes")
    assert together[key].episodes == 32
    assert alone[key].episodes == 320
    assert together[key].lower <= alone[key].lower


def test_an_evaluation_states_the_bounds() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 2000, 4)
    result = st.evaluate(Table(policy), log, estimators=("wis",))
    stated = [one for one in result.lower_bounds if one.chosen]
    assert [one.of for one in stated] == ["value", "gain"]
    assert all(one.proven and one.episodes == 1600 for one in stated)
    assert f"the value of the policy is at least {stated[0].lower:.4f} with 95% one-sided confidence" in str(result)
    assert result.to_dict()["lower_bounds"][0]["sentence"] == result.lower_bounds[0].sentence
    over = st.evaluate(Table(policy), log, estimators=("wis",), baseline=Table(behavior))
    assert {one.of for one in over.lower_bounds} == {"value"}


def test_without_discount_and_horizon_cuts_leave_no_bound_of_the_gain() -> None:
    """After a cut the behaviour may get any sum of rewards, so nothing can be said of what is gained over it."""
    world, behavior, policy = small_world()
    log = draw(world, behavior, 400, 5)
    log = dataclasses.replace(log, reward=log.reward - log.reward.min())
    assert {of for of, _, _ in found_on(log, policy, behavior)} == {"value", "gain"}
    cut = cut_at_random(log, 0.3, 1)
    assert not cut.terminated[cut.episode_start[1:] - 1].all()
    assert {of for of, _, _ in found_on(cut, policy, behavior)} == {"value"}
    discounted = found_on(cut, policy, behavior, estimand=Estimand(0.9, None))
    assert {of for of, _, _ in discounted} == {"value", "gain"}
