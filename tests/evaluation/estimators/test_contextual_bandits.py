"""Estimators of single decisions: by hand, in their limits, over replicates of an exact world, and with faults planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bandit_worlds import ACTIONS, KINDS, BanditWorld
from scipy import stats

import stitchrl as st
from stitchrl.errors import EvaluationError
from stitchrl.evaluation import probabilities, requirements
from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimators.contextual_bandits import (
    CONTEXTUAL_BANDITS,
    ChooseLimit,
    doubly_robust,
    optimistic,
    self_normalised,
    sub_gaussian,
    switched,
)
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.reward_model import RewardValues
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units

ALL = tuple(one.name for one in CONTEXTUAL_BANDITS)
WEIGHT, REWARD = np.array([0.5, 2.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0])
MODEL = RewardValues(q=np.array([0.6, 0.2, 0.5, 0.9]), v=np.array([0.5, 0.3, 0.4, 0.6]))


# --- formulas --------------------------------------------------------------------------------------------------


def test_formulas_by_hand() -> None:
    nothing = RewardValues(np.zeros(4), np.zeros(4))
    assert doubly_robust(WEIGHT, REWARD, nothing).value() == pytest.approx(1.5 / 4)
    assert self_normalised(WEIGHT, REWARD).value() == pytest.approx(1.5 / 3.5)
    # .5 + .5 * .4;  .3 - 2 * .2;  .4 + 1 * .5;  .6
    assert doubly_robust(WEIGHT, REWARD, MODEL).value() == pytest.approx((0.7 - 0.1 + 0.9 + 0.6) / 4)
    assert switched(WEIGHT, 1.0).weight.tolist() == [0.5, 0.0, 1.0, 0.0]
    assert optimistic(WEIGHT, 4.0).weight == pytest.approx([2 / 4.25, 1.0, 0.8, 0.0])
    assert sub_gaussian(WEIGHT, 0.5).weight == pytest.approx([0.5 / 0.75, 2 / 1.5, 1.0, 0.0])


def test_limits_are_the_model_alone_and_doubly_robust() -> None:
    robust, model = doubly_robust(WEIGHT, REWARD, MODEL).value(), float(MODEL.v.mean())
    for shrink in (switched, optimistic):
        assert doubly_robust(shrink(WEIGHT, 0.0).weight, REWARD, MODEL).value() == model
        assert doubly_robust(shrink(WEIGHT, np.inf).weight, REWARD, MODEL).value() == robust
    assert doubly_robust(optimistic(WEIGHT, 1e-12).weight, REWARD, MODEL).value() == pytest.approx(model)
    assert doubly_robust(optimistic(WEIGHT, 1e12).weight, REWARD, MODEL).value() == pytest.approx(robust)
    assert doubly_robust(sub_gaussian(WEIGHT, 0.0).weight, REWARD, MODEL).value() == robust
    assert sub_gaussian(WEIGHT, 1.0).weight == pytest.approx([1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(("shrink", "limit"), [(switched, 1.5), (optimistic, 4.0), (sub_gaussian, 0.3)])
def test_slopes_are_derivatives_by_the_logarithm(shrink: type, limit: float) -> None:
    weight, step = np.array([0.3, 1.0, 2.5]), 1e-6
    above, below = shrink(weight * np.exp(step), limit).weight, shrink(weight * np.exp(-step), limit).weight
    assert shrink(weight, limit).slope == pytest.approx((above - below) / (2 * step), abs=1e-6)


def test_unbiased_ones_are_unbiased_with_a_wrong_model() -> None:
    """z-tests over 300 logs; the model alone, and weights that are cut off, are seen to be off."""
    world = BanditWorld()
    truth, n = world.value(world.policy), 200
    wrong = np.random.default_rng(1).uniform(0.3, 0.9, size=world.rate.shape)
    found: dict[str, list[float]] = {name: [] for name in ("ips", "dr", "model", "cut off")}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        kind = rng.integers(KINDS, size=n)
        action = (rng.random((n, 1)) > world.behavior[kind].cumsum(1)[:, :-1]).sum(1)
        reward = (rng.random(n) < world.rate[kind, action]).astype(np.float64)
        weight = world.policy[kind, action] / world.behavior[kind, action]
        model = RewardValues(wrong[kind, action], (world.policy * wrong)[kind].sum(1))
        found["ips"].append(doubly_robust(weight, reward, RewardValues(np.zeros(n), np.zeros(n))).value())
        found["dr"].append(doubly_robust(weight, reward, model).value())
        found["model"].append(float(model.v.mean()))
        found["cut off"].append(doubly_robust(switched(weight, 1.0).weight, reward, model).value())
    z = {name: (np.mean(x) - truth) / (np.std(x) / np.sqrt(len(x))) for name, x in found.items()}
    assert abs(z["ips"]) < 4
    assert abs(z["dr"]) < 4
    assert abs(z["model"]) > 10
    assert abs(z["cut off"]) > 10


# --- which estimate a verdict rests on -------------------------------------------------------------------------


def test_a_verdict_on_decisions_rests_on_weights_and_never_on_a_fitted_q() -> None:
    world = BanditWorld()
    log, policy, small = world.log(1500, 1), world.acting(), world.log(200, 2)
    found = st.evaluate(policy, log)
    assert list(found.estimates) == ["reward-dr", "snips", "dros"]
    assert found.verdict.primary == "reward-dr"
    assert found.verdict.decision == "GO"
    truth = world.value(world.policy)
    for name in ("reward-dr", "snips"):
        estimate = found.estimates[name]
        assert estimate.healthy, estimate.reasons
        assert estimate.lower <= truth <= estimate.upper
    asked = st.evaluate(policy, small, estimators=("wis", "fqe"))
    assert asked.verdict.primary is None
    assert "nothing follows a single decision" in asked.estimates["fqe"].reasons[0]
    assert "reward-dr or snips" in st.evaluate(policy, small, estimators=("wis",)).verdict.lines[0].seen


@pytest.mark.slow
def test_without_propensities_the_weights_are_fitted_and_nothing_is_shown() -> None:
    world = BanditWorld()
    log = world.read(world.columns(1500, 1), known=False)
    found = st.evaluate(world.acting(), log, settings=FitSettings(updates=50, hidden_sizes=(16,), behavior="counts"))
    assert found.verdict.primary == "reward-dr"
    assert found.verdict.decision != "GO"
    assert list(found.estimates) == ["reward-dr", "snips", "dros", "fqe"]
    assert found.estimates["fqe"].value is not None
    assert found.gain["reward-dr"].behavior_error > 0


def test_longer_episodes_are_refused_and_cut_ones_need_a_horizon() -> None:
    world = BanditWorld()
    columns = world.columns(40, 1)
    roles = {"observation": "seen", "action": "action", "reward": "reward", "behavior_probs": "every"}
    roles |= {"episode": "episode", "step": "step", "terminated": "terminated", "truncated": "truncated"}

    def read(episode: np.ndarray, terminated: np.ndarray) -> st.Dataset:
        more = {"episode": episode, "step": np.arange(40) - np.searchsorted(episode, episode)}
        more |= {"terminated": terminated, "truncated": ~terminated & (np.append(np.diff(episode), 1) > 0)}
        table = {name: (columns | more)[name] for name in roles.values()}
        return st.read(table, st.Schema(roles, num_actions=ACTIONS, gamma=1.0))

    (estimator, *_) = CONTEXTUAL_BANDITS
    pairs = read(np.arange(40) // 2, np.arange(40) % 2 == 1)
    assert "have up to 2" in (estimator.refusal(pairs, Estimand(1.0), ()) or "")
    cut = read(np.arange(40), np.zeros(40, bool))
    assert "were cut after it" in (estimator.refusal(cut, Estimand(1.0), ()) or "")
    assert estimator.refusal(cut, Estimand(1.0, horizon=1), ()) is None


# --- limits of the weights -------------------------------------------------------------------------------------


def test_limits_are_chosen_on_other_decisions() -> None:
    """The rewards of the estimate's own log do not move them, those of the other log do."""
    world = BanditWorld(pull=2.5)
    log, other = world.log(400, 1), world.log(400, 2)

    def limits(here: st.Dataset, there: st.Dataset) -> dict[str, float]:
        fits = Fits([world.acting()], here, there, estimand=Estimand(1.0), settings=FitSettings())
        found = {name: fits.get(ChooseLimit(name, modelled=True))[0].limit for name in ("switch", "dros", "sg")}
        assert all((limit == limit[0]).all() for limit in found.values())
        return {name: float(limit[0]) for name, limit in found.items()}

    flipped = dataclasses.replace(log, reward=1 - log.reward)
    assert limits(flipped, other) == limits(log, other)
    louder = dataclasses.replace(other, reward=(other.reward * np.arange(400) % 7).astype(np.float32))
    assert limits(log, louder) != limits(log, other)


def test_the_interval_holds_the_bias_that_other_decisions_show() -> None:
    """Equations (7) and (8) written out for one policy, and the ends of the interval moved by the latter."""
    world = BanditWorld(pull=2.5)
    log, other = world.log(300, 1), world.log(500, 2)
    fits = Fits([world.acting()], log, other, estimand=Estimand(1.0), settings=FitSettings())
    kind = np.abs(other.observation[:, None, 0] - world.features[None, :, 0]).argmin(1)
    weight = world.policy[kind, other.action] / world.behavior[kind, other.action]
    best, bound = np.inf, 0.0
    for rate in (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3):
        used = weight / (1 - rate + rate * weight)
        lost = (weight - used) * other.reward
        noise = lost.std() / np.sqrt(500)
        error = (abs(lost.mean()) + noise) ** 2 + (used * other.reward).var() / 300
        if error < best:
            best, bound, limit = error, abs(lost.mean()) + 2 * noise, rate
    found = fits.get(ChooseLimit("sg", modelled=False))[0]
    assert found.limit == pytest.approx(np.full(300, limit))
    assert found.bias == pytest.approx(np.full(300, bound), rel=1e-4)
    assert limit > 0
    estimate = st.evaluate(world.acting(), log, fit_on=other, estimators=("sg-ips",)).estimates["sg-ips"]
    reach = stats.t.ppf(0.975, 299) * estimate.standard_error + bound
    assert estimate.upper == pytest.approx(min(estimate.value + reach, 1.0), rel=1e-4)
    assert estimate.lower == pytest.approx(max(estimate.value - reach, 0.0), abs=1e-4)


def test_limits_follow_the_size_of_the_log_and_shrinkage_is_checked() -> None:
    """Few decisions: variance counts, weights shrink. Many: bias counts, hardly any does."""
    world = BanditWorld(pull=2.5)
    small = st.evaluate(world.acting(), world.log(150, 3), fit_on=world.log(3000, 4), estimators=("dros", "sg-ips"))
    large = st.evaluate(world.acting(), world.log(9000, 3), fit_on=world.log(3000, 4), estimators=("dros", "sg-ips"))
    for name in ("dros", "sg-ips"):
        seen = [
            next(check for check in found.estimates[name].checks if check.key == "shrinkage").seen
            for found in (small, large)
        ]
        assert seen[0] > seen[1] >= 0


# --- health: each planted fault is seen ------------------------------------------------------------------------


def failed(found: st.Evaluation, name: str) -> set[str]:
    return {check.key for check in found.estimates[name].checks if not check.passed}


def test_wrong_propensities_are_seen() -> None:
    world = BanditWorld()
    columns = world.columns(4000, 5)
    first = columns["action"] < 2
    columns["probability"] = np.where(first, 0.8 * columns["probability"], columns["probability"])
    found = st.evaluate(world.acting(), world.read(columns, every=False), settings=FitSettings(behavior="counts"))
    for name in ("reward-dr", "snips"):
        assert "calibration" in failed(found, name)
    assert found.verdict.decision == "CANNOT TELL"
    right = st.evaluate(world.acting(), world.log(4000, 5, every=False), settings=FitSettings(behavior="counts"))
    assert "calibration" not in failed(right, "reward-dr")


def test_a_log_that_lacks_the_actions_of_the_policy_is_seen() -> None:
    world = BanditWorld()
    rare = np.tile([0.33, 0.33, 0.339, 0.001], (KINDS, 1))
    policy = world.acting(np.tile([0.0, 0.0, 0.0, 1.0], (KINDS, 1)))
    found = st.evaluate(policy, world.read(world.columns(3000, 6, rare)), estimators=ALL)
    for name in ALL:
        estimate = found.estimates[name]
        assert not estimate.healthy, name
        assert "effective-units" in failed(found, name)
    never = np.tile([0.33, 0.33, 0.34, 0.0], (KINDS, 1))
    half = world.acting(np.tile([0.25, 0.25, 0.0, 0.5], (KINDS, 1)))
    found = st.evaluate(half, world.read(world.columns(3000, 6, never)))
    for name in ("reward-dr", "snips"):
        assert {"never-tried", "mean-weight", "calibration"} <= failed(found, name)


def test_rare_large_ratios_that_were_not_drawn_do_not_make_propensities_wrong() -> None:
    """In most logs no rare action is drawn in most regions, and all other ratios are a little below 1."""
    world = BanditWorld(actions=40)
    behavior = np.full((KINDS, 40), 1 / 40)
    policy = 0.85 * behavior + 0.15 * np.eye(40)[np.arange(KINDS) % 40]
    alarms = []
    for seed in range(20):
        log = world.read(world.columns(1200, seed, behavior))
        (found,) = evaluate_all([world.acting(policy)], log, estimators=("snips",), confirm=False, resamples=100)
        alarms.append("calibration" in failed(found, "snips"))
    assert sum(alarms) <= 1


def test_one_decision_that_carries_the_estimate_is_seen() -> None:
    world = BanditWorld(level=0.001)
    columns = world.columns(2000, 7)
    columns["reward"][:] = 0
    columns["reward"][3] = 1
    found = st.evaluate(world.acting(), world.read(columns))
    assert {"influence"} <= failed(found, "reward-dr") & failed(found, "snips")


# --- values, intervals, words ----------------------------------------------------------------------------------


def test_values_and_intervals_of_rare_clicks_stay_possible_and_are_printed_with_their_digits() -> None:
    world = BanditWorld(level=0.02)
    found = st.evaluate(world.acting(), world.log(1000, 8), estimators=ALL)
    for name in ("reward-dr", "snips", "ips"):
        estimate = found.estimates[name]
        assert 0 <= estimate.lower <= estimate.value <= estimate.upper <= 1
    # Equally many clicks on ten times as many decisions: twice as many digits are needed.
    small = st.evaluate(world.acting(), world.log(1000, 8, reward=_scaled(world, 1000, 8)), estimators=("snips",))
    text = str(small.verdict)
    assert "+0.0000 " not in text
    assert "e-0" not in text.split("(b)")[0]


def _scaled(world: BanditWorld, decisions: int, seed: int) -> np.ndarray:
    return (1e-3 * world.columns(decisions, seed)["reward"]).astype(np.float32)


def test_nothing_that_is_said_of_decisions_speaks_of_episodes() -> None:
    world = BanditWorld()
    found = st.evaluate(world.acting(), world.log(600, 9), estimators=ALL)
    said = [str(found.verdict), found.behavior.title, *found.behavior.assumptions]
    for estimate in (*found.estimates.values(), *found.gain.values()):
        said += [check.sentence for check in estimate.checks] + list(estimate.assumptions) + [estimate.title]
    assert not [sentence for sentence in said if "episode" in sentence]
    assert any("decision" in sentence for sentence in said)


# --- bad input -------------------------------------------------------------------------------------------------


def test_a_propensity_of_zero_is_refused_in_one_sentence() -> None:
    world = BanditWorld()
    columns = world.columns(50, 1)
    columns["probability"][7] = 0.0
    with pytest.raises((EvaluationError, st.errors.DataError), match="propensit"):
        st.evaluate(world.acting(), world.read(columns, every=False))


def test_a_policy_that_takes_no_logged_action_has_no_estimate() -> None:
    world = BanditWorld()
    never = np.tile([0.5, 0.5, 0.0, 0.0], (KINDS, 1))
    policy = world.acting(np.tile([0.0, 0.0, 0.0, 1.0], (KINDS, 1)))
    found = st.evaluate(policy, world.read(world.columns(300, 1, never)), estimators=ALL)
    for name in ALL:
        assert found.estimates[name].value is None
        assert "too little of the log speaks about this policy" in found.estimates[name].reasons[0]
    assert found.verdict.decision == "CANNOT TELL"


def test_weights_of_any_size_give_a_number_or_one_sentence() -> None:
    world = BanditWorld()
    columns = world.columns(1200, 1)
    columns["logarithm"] = np.log(columns["probability"])
    columns["logarithm"][5] = -690.0
    roles = {"observation": "seen", "action": "action", "reward": "reward", "behavior_log_prob": "logarithm"}
    table = {name: columns[name] for name in roles.values()}
    log = st.read(table, st.Schema(roles, num_actions=ACTIONS, bandit=True, gamma=1.0))
    found = st.evaluate(world.acting(), log, estimators=ALL, settings=FitSettings(behavior="counts"))
    for name in ALL:
        assert not found.estimates[name].healthy
    assert found.estimates["ips"].value is None
    assert "snips, which divides by their sum" in " ".join(found.estimates["ips"].reasons)
    assert 0 <= found.estimates["snips"].value <= 1


@pytest.mark.parametrize("decisions", [1, 2, 3])
def test_very_few_decisions(decisions: int) -> None:
    world = BanditWorld()
    log = world.log(decisions, 2)
    if decisions == 1:
        with pytest.raises(EvaluationError, match="at least 2"):
            st.evaluate(world.acting(), log)
        return
    found = st.evaluate(world.acting(), log)
    assert found.verdict.decision == "CANNOT TELL"
    assert not any(estimate.healthy for estimate in found.estimates.values())


def test_derivatives_by_the_behaviour_are_those_of_finite_differences() -> None:
    """As for the other estimators in test_fit_noise.py, from which the error of a fitted behaviour is computed."""
    world, settings = BanditWorld(), FitSettings(behavior="counts")
    log, other = (world.read(world.columns(400, seed), known=False) for seed in (1, 2))

    def fits() -> Fits:
        return Fits([world.acting()], log, other, estimand=Estimand(1.0), settings=settings)

    given, step = fits(), 1e-4
    direction = np.random.default_rng(0).normal(size=400)
    drafts = []
    for sign in (0, 1, -1):
        moved = fits()
        moved._data_of_others = given._data_of_others
        behavior = given.behavior._replace(log_prob=given.behavior.log_prob + sign * step * direction)
        moved._folds[0].__dict__["behavior"] = moved.__dict__["behavior"] = behavior
        (case,) = cases_of(moved, Units(400, noun="decision"))
        drafts.append([one.estimate(case) for one in CONTEXTUAL_BANDITS])
    for name, here, above, below in zip(ALL, *drafts, strict=True):
        if name == "switch-dr":  # weights jump over its limit
            continue
        slope = (above.statistic.value() - below.statistic.value()) / (2 * step)
        assert here.behavior_gradient @ direction == pytest.approx(slope, rel=1e-3, abs=1e-7), name


# --- many actions ----------------------------------------------------------------------------------------------


def test_many_actions_are_asked_for_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = BanditWorld(actions=50)
    log = world.log(700, 1, every=False)
    whole = st.evaluate(world.acting(), log, settings=FitSettings(behavior="counts"), estimators=ALL)
    monkeypatch.setattr(requirements, "MOST_PROBABILITIES", 10_000)
    monkeypatch.setattr(probabilities, "CELLS_AT_ONCE", 64 * 50)
    policy = world.acting()
    found = st.evaluate(policy, log, estimators=ALL)
    assert policy.most_rows <= 64
    for name in ALL:
        assert found.estimates[name].value == pytest.approx(whole.estimates[name].value, rel=1e-6), name
    assert found.agreement.policy == pytest.approx(whole.agreement.policy)
    assert found.agreement.matrix == pytest.approx(whole.agreement.matrix)
    with pytest.raises(EvaluationError, match="snips and reward-dr need no such array"):
        st.evaluate(world.acting(), log, estimators=("wis",))


# --- coverage --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward-dr", "snips", "ips"])
def test_coverage(name: str) -> None:
    """300 logs of 500 decisions: 2.5% a side within binomial noise, and a standard error that is right."""
    world = BanditWorld()
    truth = world.value(world.policy) - world.value(world.behavior)
    found = [st.evaluate(world.acting(), world.log(500, seed), estimators=(name,)).gain[name] for seed in range(300)]
    low, high = sum(gain.lower > truth for gain in found), sum(gain.upper < truth for gain in found)
    most = stats.binom.ppf(0.999, 300, 0.025)
    assert low <= most
    assert high <= most
    spread = np.std([gain.value for gain in found])
    assert 0.85 <= np.mean([gain.standard_error for gain in found]) / spread <= 1.2
