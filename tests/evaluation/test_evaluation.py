"""Estimators against exact worlds, hand-computed tables, limit identities, and their intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.agreement import MOST_ACTIONS, agreement
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.estimators.doubly_robust import doubly_robust, weighted_doubly_robust
from stitchrl.evaluation.estimators.fqe import refit
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    weighted,
    weighted_per_decision,
)
from stitchrl.evaluation.evaluate import ESTIMATORS, check_size, evaluate, evaluate_all
from stitchrl.evaluation.evidence import FitSettings
from stitchrl.evaluation.fits import FittedValues
from stitchrl.evaluation.intervals import Resampler, effective_sample_size, minus
from stitchrl.evaluation.weights import Weights, cumulative_weights
from stitchrl.mdp.finite import FiniteMDP

UNDISCOUNTED = Estimand(1.0)
COLUMNS = [
    *("episode", "step", "observation", "next_observation", "observation_id"),
    *("action", "reward", "terminated", "truncated", "behavior_probs"),
]
QUICK = FitSettings(updates=300, hidden_sizes=(32,))


def small_world() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Four live states and an end, two actions, random rewards; a behaviour and another policy."""
    rng = np.random.default_rng(7)
    transition = rng.dirichlet(np.ones(5) * 0.8, size=(5, 2))
    transition[..., 4] += 0.3
    transition /= transition.sum(-1, keepdims=True)
    terminal = np.arange(5) == 4
    initial = np.array([0.6, 0.2, 0.1, 0.1, 0.0])
    reward = rng.normal(size=(5, 2, 5)).round(2)
    behavior, policy = rng.dirichlet([3, 3], size=5), rng.dirichlet([2, 4], size=5)
    return FiniteMDP(transition, reward, initial, terminal), behavior, policy


def draw(world: FiniteMDP, behavior: np.ndarray, episodes: int, seed: int, **kwargs: Any) -> Dataset:
    """A log of the small world: one-hot observations, propensities."""
    e = world.draw(behavior, episodes, seed=seed, **kwargs)
    return st.read(
        {
            "episode": e.episode,
            "step": e.step,
            "observation": np.eye(world.num_states, dtype=np.float32)[e.state],
            "next_observation": np.eye(world.num_states, dtype=np.float32)[e.next_state],
            "observation_id": e.state,
            "action": e.action,
            "reward": e.reward,
            "terminated": e.terminated,
            "truncated": e.truncated,
            "behavior_probs": behavior[e.state],
        },
        st.Schema.infer(
            COLUMNS,
            num_actions=2,
            gamma=1.0,
        ),
    )


class Table:
    """A duck-typed NumPy policy: probabilities by one-hot state."""

    def __init__(self, probs: np.ndarray) -> None:
        self.table = probs

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self.table[np.asarray(obs).argmax(1)]


def weights(log: Dataset, policy: np.ndarray, behavior: np.ndarray) -> tuple[Episodes, Weights]:
    state = log.observation_id
    assert state is not None
    log_ratio = np.log(policy[state, log.action]) - np.log(behavior[state, log.action])
    episodes = Episodes.of(log, UNDISCOUNTED)
    return episodes, cumulative_weights(episodes, log_ratio)


def values(log: Dataset, q: np.ndarray, policy: np.ndarray) -> FittedValues:
    state = log.observation_id
    assert state is not None
    return FittedValues(q[state, log.action], (policy * q).sum(1)[state])


def by_hand() -> tuple[Episodes, Weights]:
    """Three episodes: two terminate (2 steps, 1 step), one is cut after its first step.

    ratios  [2, .5] [3] [4]   rewards  [1, 2] [5] [7]   gamma .5
    One is cut after step 0 and one runs on, so that one counts twice at step 1: its weight there is 2 * .5 * 2.
    """
    reward = np.array([[1.0, 2.0], [5.0, 0.0], [7.0, 0.0]])
    valid = np.array([[True, True], [True, False], [True, False]])
    index = np.array([[0, 1], [2, 0], [3, 0]])
    episodes = Episodes(reward, valid, np.array([True, True, False]), index, np.array([1.0, 0.5]))
    return episodes, cumulative_weights(episodes, np.log([2.0, 0.5, 3.0, 4.0]))


def test_weights_by_hand() -> None:
    _, weight = by_hand()
    np.testing.assert_allclose(weight.now, [[2, 2], [3, 3], [4, 0]])
    np.testing.assert_allclose(weight.before, [[1, 4], [1, 3], [1, 0]])
    assert weight.lost == 0


def test_importance_sampling_by_hand() -> None:
    episodes, weight = by_hand()
    # is: (2 * (1 + .5 * 2) + 3 * 5) / 3
    assert importance_sampling(episodes, weight).value == pytest.approx((4 + 15) / 3)
    # pdis: (2 * 1 + .5 * 2 * 2 + 3 * 5 + 4 * 7) / 3
    assert per_decision(episodes, weight).value == pytest.approx((4 + 15 + 28) / 3)
    # wis: (4 + 15) / (2 + 3)
    assert weighted(episodes, weight).value == pytest.approx(19 / 5)
    # pdwis: step 0 (2 + 15 + 28) / 9; step 1: the terminated episode of weight 3 stays, the cut one leaves: .5 * 4 / 5
    assert weighted_per_decision(episodes, weight).value == pytest.approx(45 / 9 + 2 / 5)


def test_weight_that_nobody_can_take_over_is_lost() -> None:
    valid = np.array([[True, True], [True, False]])
    episodes = Episodes(np.ones((2, 2)), valid, np.array([False, True]), np.array([[0, 1], [2, 0]]), np.ones(2))
    assert cumulative_weights(episodes, np.zeros(3)).lost == pytest.approx(0.5)


def test_cumulative_weights_are_products_and_survive_long_episodes() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 20, 0)
    episodes = Episodes.of(log, UNDISCOUNTED)
    weight = cumulative_weights(episodes, np.full(log.num_transitions, np.log(2.0))).now
    np.testing.assert_allclose(weight[:, -1], 2.0**log.episode_lengths)
    long = Episodes(
        np.zeros((1, 1000)), np.ones((1, 1000), bool), np.array([True]), np.arange(1000)[None], np.ones(1000)
    )
    # 0.3 / 0.3 a thousand times: a product of probabilities would be 0 / 0.
    ratio = np.log(np.full(1000, 0.3)) - np.log(np.full(1000, 0.3))
    assert cumulative_weights(long, ratio).now[0, -1] == pytest.approx(1.0)


def cut_at_random(log: Dataset, chance: float, seed: int) -> Dataset:
    """Each episode is cut after a step with a chance that depends on nothing, and its later rows are dropped."""
    cut = (np.random.default_rng(seed).random(log.num_transitions) < chance) & ~log.terminated
    ended = np.zeros(log.num_transitions, bool)
    for start, end in zip(log.episode_start[:-1], log.episode_start[1:], strict=True):
        first = np.flatnonzero(cut[start:end])
        if len(first):
            cut[start + first[0] + 1 : end] = False
            ended[start + first[0] + 1 : end] = True
    keep = ~ended
    assert log.observation_id is not None
    assert log.behavior_probs is not None
    columns = {
        "episode": np.repeat(log.episode_id, log.episode_lengths),
        "step": log.step,
        "observation": log.observation,
        "next_observation": log.next_observation,
        "observation_id": log.observation_id,
        "action": log.action,
        "reward": log.reward,
        "terminated": log.terminated,
        "truncated": cut | log.truncated,
        "behavior_probs": log.behavior_probs,
    }
    return st.read({role: column[keep] for role, column in columns.items()}, log.schema)


def test_cut_episodes_do_not_move_the_estimates() -> None:
    world, behavior, policy = small_world()
    whole = draw(world, behavior, 6000, 21)
    log, other = cut_at_random(whole, 0.25, 0), cut_at_random(draw(world, behavior, 6000, 22), 0.25, 1)
    assert log.truncated.sum() > 1000
    found = evaluate(Table(policy), log, estimators=tuple(ESTIMATORS), fit_on=other, settings=QUICK)
    truth, own = world.policy_value(policy), world.policy_value(behavior)
    for name, estimate in found.estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - truth) < 4 * estimate.standard_error, name
    assert found.behavior.value is not None
    assert found.behavior.standard_error is not None
    assert abs(found.behavior.value - own) < 4 * found.behavior.standard_error
    # What the reader of raw returns would have believed is far off.
    assert abs(log.episode_returns().mean() - own) > 8 * found.behavior.standard_error


def test_the_behaviour_itself_gains_nothing_where_episodes_are_cut() -> None:
    world, behavior, _ = small_world()
    log = cut_at_random(draw(world, behavior, 3000, 23), 0.25, 2)
    found = evaluate(Table(behavior), log, settings=QUICK)
    for name, gain in found.gain.items():
        assert gain.lower is not None
        assert gain.upper is not None
        assert gain.lower <= 0.005, name
        assert gain.upper >= -0.005, name
    assert found.verdict.decision != "GO"


def test_where_all_are_cut_nothing_is_claimed() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 500, 24, max_steps=3)
    found = evaluate(Table(policy), log, settings=QUICK)
    assert found.verdict.decision == "CANNOT TELL"
    assert "Give a `horizon`" in " ".join(found.gain["fqe"].reasons)


def test_a_policy_that_starts_where_the_log_never_went_is_unhealthy() -> None:
    """The log always takes action 0 first; later it tries both. The policy takes action 1 first."""
    transition = np.zeros((4, 2, 4))
    transition[0, :, 1] = transition[1, :, 2] = transition[2, :, 3] = transition[3, :, 3] = 1.0
    reward = np.zeros((4, 2, 4))
    reward[1, 1, 2] = reward[2, 1, 3] = 1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0, 0]), np.arange(4) == 3)
    behavior, policy = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]), np.tile([0.0, 1.0], (4, 1))
    log = draw(world, behavior, 1000, 25)
    found = evaluate(Table(policy), log, settings=QUICK)
    assert not found.estimates["fqe"].healthy
    assert "unbalanced" in " ".join(found.estimates["fqe"].reasons)
    assert found.verdict.decision == "CANNOT TELL"
    same_start = np.concatenate([behavior[:1], policy[1:]])
    assert evaluate(Table(same_start), log, settings=QUICK).estimates["fqe"].healthy


def test_a_baseline_that_cannot_be_estimated_gives_no_gain() -> None:
    world, _, _ = small_world()
    behavior, baseline = np.tile([1.0, 0.0], (5, 1)), np.tile([0.0, 1.0], (5, 1))
    log = draw(world, behavior, 300, 26)
    found = evaluate(Table(behavior), log, baseline=Table(baseline), settings=QUICK)
    assert found.verdict.decision == "CANNOT TELL"
    assert found.gain["wis"].value is None
    assert "Of the baseline" in " ".join(found.gain["fqe"].reasons)


def test_behaviour_as_policy_gives_the_logged_mean() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 300, 1)
    episodes, weight = weights(log, behavior, behavior)
    mean = log.episode_returns().mean()
    for estimator in (importance_sampling, per_decision, weighted, weighted_per_decision):
        assert estimator(episodes, weight).value == pytest.approx(mean, abs=1e-6)


def test_zero_q_makes_doubly_robust_per_decision() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 200, 2, max_steps=4)
    episodes, weight = weights(log, policy, behavior)
    nothing = values(log, np.zeros((5, 2)), policy)
    assert doubly_robust(episodes, weight, nothing).value == pytest.approx(per_decision(episodes, weight).value)
    assert weighted_doubly_robust(episodes, weight, nothing).value == pytest.approx(
        weighted_per_decision(episodes, weight).value
    )


def test_exact_q_in_a_deterministic_world_makes_doubly_robust_the_model() -> None:
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[0, 1, 2] = transition[1, :, 2] = transition[2, :, 2] = 1.0
    reward = np.zeros((3, 2, 3))
    reward[0, 0, 1], reward[0, 1, 2], reward[1, 0, 2], reward[1, 1, 2] = 1.0, 4.0, 2.0, -1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0]), np.array([False, False, True]))
    behavior, policy = np.full((3, 2), 0.5), np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    log = draw(world, behavior, 50, 3)
    episodes, weight = weights(log, policy, behavior)
    fitted = values(log, world.action_values(policy), policy)
    # .7 * (1 + .2 * 2 - .8) + .3 * 4
    assert world.policy_value(policy) == pytest.approx(0.7 * 0.6 + 1.2)
    for estimator in (doubly_robust, weighted_doubly_robust):
        found = estimator(episodes, weight, fitted)
        assert found.value == pytest.approx(world.policy_value(policy), abs=1e-6)
        assert found.influence.std() < 1e-5


def test_unbiased_estimators_are_unbiased_and_normalised_ones_consistent() -> None:
    world, behavior, policy = small_world()
    truth, wrong_q = world.policy_value(policy), world.action_values(behavior) + 1.0
    found: dict[str, list[float]] = {name: [] for name in ("is", "pdis", "dr", "wis", "pdwis", "wdr")}
    for seed in range(150):
        log = draw(world, behavior, 150, 1000 + seed)
        episodes, weight = weights(log, policy, behavior)
        fitted = values(log, wrong_q, policy)
        found["is"].append(importance_sampling(episodes, weight).value)
        found["pdis"].append(per_decision(episodes, weight).value)
        found["dr"].append(doubly_robust(episodes, weight, fitted).value)
        found["wis"].append(weighted(episodes, weight).value)
        found["pdwis"].append(weighted_per_decision(episodes, weight).value)
        found["wdr"].append(weighted_doubly_robust(episodes, weight, fitted).value)
    for name, estimates in found.items():
        error, spread = np.mean(estimates) - truth, np.std(estimates)
        if name in ("is", "pdis", "dr"):
            assert abs(error) < 4 * spread / np.sqrt(len(estimates)), name
        assert abs(error) < 0.5 * spread, name
    # A planted fault is seen: the behaviour's own value is far from the policy's on this scale.
    assert abs(world.policy_value(behavior) - truth) > 4 * np.std(found["pdis"]) / np.sqrt(150)


def tabular(log: Dataset, states: int) -> dict[str, np.ndarray]:
    """A fitted Q of 0 with one-hot state features: the refit must do all the work."""
    zeros = np.zeros(log.num_transitions)
    one_hot = np.eye(states)
    return {
        "q": zeros,
        "v": zeros,
        "next_v": zeros,
        "psi": one_hot[log.observation_id],
        "next_psi": one_hot[log.next_observation.argmax(1)],
    }


def test_refit_solves_the_weighted_bellman_equation_of_the_log() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 3000, 4)
    state = log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    found = refit(log, tabular(log, 5), ratio, gamma=1.0)
    # The same by counting: V(s) = sum ratio (r + V(s')) / sum ratio over visits of s.
    matrix, target = np.eye(5), np.zeros(5)
    for s in range(4):
        rows = state == s
        share = ratio[rows] / ratio[rows].sum()
        target[s] = share @ log.reward[rows]
        for following, w in zip(log.next_observation.argmax(1)[rows], share, strict=True):
            matrix[s, following] -= w
    matrix[4] = np.eye(5)[4]
    value = np.linalg.solve(matrix, target)[state[log.episode_start[:-1]]].mean()
    assert found.contributions.mean() == pytest.approx(value, abs=2e-3)
    error = found.contributions.std() / np.sqrt(log.num_episodes)
    assert abs(found.contributions.mean() - world.policy_value(policy)) < 4 * error


def coverage(way: str, replicates: int, episodes: int) -> tuple[float, float]:
    """Share of 95% intervals of the gain that hold the exact gain, and the mean of (estimate - exact) / SE."""
    world, behavior, policy = small_world()
    truth = world.policy_value(policy) - world.policy_value(behavior)
    hits, z = [], []
    for seed in range(replicates):
        log = draw(world, behavior, episodes, 5000 + seed)
        logged = Contributions.average(log.episode_returns())
        state = log.observation_id
        assert state is not None
        if way == "refit":
            ratio = policy[state, log.action] / behavior[state, log.action]
            found = Contributions.average(refit(log, tabular(log, 5), ratio, gamma=1.0).contributions)
        else:
            padded, weight = weights(log, policy, behavior)
            q = world.action_values(behavior)
            found = {
                "wis": lambda p=padded, w=weight: weighted(p, w),
                "pdwis": lambda p=padded, w=weight: weighted_per_decision(p, w),
                "wdr": lambda p=padded, w=weight, g=log, q=q: weighted_doubly_robust(p, w, values(g, q, policy)),
            }[way]()
        interval = Resampler(episodes, resamples=300, seed=seed).interval(minus(found, logged))
        hits.append(interval.lower <= truth <= interval.upper)
        z.append((interval.value - truth) / interval.standard_error)
    return float(np.mean(hits)), float(np.mean(z))


@pytest.mark.parametrize("way", ["wis", "pdwis", "wdr", "refit"])
def test_intervals_of_the_gain_cover(way: str) -> None:
    share, bias = coverage(way, 120, 300)
    # Binomial spread of 120 draws at .95 is .02: a 20% interval fails for sure; the slow test tells 90% from 95%.
    assert 0.88 <= share <= 1.0
    assert abs(bias) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wis", "pdwis", "wdr", "refit"])
def test_intervals_of_the_gain_cover_many(way: str) -> None:
    share, _ = coverage(way, 1000, 600)
    assert 0.925 <= share <= 0.975


def test_self_normalised_intervals_do_not_see_the_scale_of_weights() -> None:
    rng = np.random.default_rng(0)
    weight, value = rng.exponential(size=(200, 1)), rng.normal(size=(200, 1))
    resampler = Resampler(200, resamples=200)
    one = resampler.interval(Contributions(weight * value, weight))
    ten = resampler.interval(Contributions(10 * weight * value, 10 * weight))
    assert one.lower == pytest.approx(ten.lower)
    assert one.upper == pytest.approx(ten.upper)
    # A fixed denominator would be wider: constant values have no spread at all when renormalised.
    flat = resampler.interval(Contributions(weight * 3.0, weight))
    assert flat.upper - flat.lower == pytest.approx(0.0, abs=1e-9)


def test_standard_error_and_interval_of_a_plain_mean() -> None:
    values_ = np.random.default_rng(1).normal(size=500)
    found = Resampler(500, resamples=2000).interval(Contributions.average(values_))
    error = values_.std(ddof=1) / np.sqrt(500)
    assert found.standard_error == pytest.approx(error)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0, 0, 0])) == pytest.approx(1)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0


def test_evaluate_is_near_the_truth_with_and_without_propensities() -> None:
    world, behavior, policy = small_world()
    log, other = draw(world, behavior, 3000, 11), draw(world, behavior, 3000, 12)
    truth = world.policy_value(policy)
    names = ("is", "pdis", "wis", "pdwis", "dr", "wdr", "fqe")
    known = evaluate(Table(policy), log, estimators=names, fit_on=other, settings=QUICK)
    for name, estimate in known.estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - truth) < 4 * estimate.standard_error, name
        assert known.gain[name].value == pytest.approx(estimate.value - known.behavior.value)
    assert not known.behavior_fitted
    bare = dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None)
    fitted = evaluate(Table(policy), bare, fit_on=other, settings=FitSettings(updates=1500, hidden_sizes=(32,)))
    assert fitted.behavior_fitted
    assert any("no propensities" in caveat for caveat in fitted.verdict.caveats)
    assert any("fitted behaviour" in text for text in fitted.estimates["wis"].assumptions)
    for name, estimate in fitted.estimates.items():
        assert estimate.value is not None
        assert abs(estimate.value - truth) < 0.15, name


def test_cross_fitting_serves_each_half_by_the_other() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 2000, 13)
    found = evaluate(Table(policy), log, settings=QUICK)
    for name, estimate in found.estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - world.policy_value(policy)) < 4.5 * estimate.standard_error, name
    assert found.agreement.matrix.sum() == pytest.approx(1.0)
    assert evaluate(Table(policy), log, settings=QUICK).to_dict() == found.to_dict()


def test_a_policy_s_numbers_do_not_depend_on_its_company() -> None:
    world, behavior, policy = small_world()
    log, other = draw(world, behavior, 400, 14), draw(world, behavior, 400, 15)
    alone = evaluate(Table(policy), log, fit_on=other, settings=QUICK)
    together = evaluate_all([Table(behavior), Table(policy)], log, fit_on=other, settings=QUICK)[1]
    for name in alone.estimates:
        assert alone.estimates[name].value == pytest.approx(together.estimates[name].value, abs=1e-5)


def test_a_baseline_policy_is_paired() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 400, 16)
    same = evaluate(Table(policy), log, baseline=Table(policy), settings=QUICK)
    for gain in same.gain.values():
        assert gain.value == pytest.approx(0.0, abs=1e-6)
        assert gain.upper == pytest.approx(0.0, abs=1e-6)
    assert same.verdict.decision == "CANNOT TELL"


def test_a_finite_horizon_has_no_fqe_and_says_so() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 400, 17)
    found = evaluate(Table(policy), log, horizon=2, settings=QUICK)
    assert found.estimates["fqe"].value is None
    assert "horizon" in found.estimates["fqe"].reasons[0]
    truth = 0.0
    reach = world.initial.copy()
    for _ in range(2):
        truth += reach @ (policy * world.expected_reward).sum(1)
        reach = np.einsum("s,sa,sat->t", reach, policy, world.transition) * ~world.terminal
    estimate = found.estimates["wis"]
    assert estimate.value is not None
    assert estimate.standard_error is not None
    assert abs(estimate.value - truth) < 4 * estimate.standard_error


def test_a_policy_the_log_never_tried_is_called_unhealthy() -> None:
    world, _, _ = small_world()
    behavior, policy = np.tile([0.99, 0.01], (5, 1)), np.tile([0.0, 1.0], (5, 1))
    log = draw(world, behavior, 500, 18)
    found = evaluate(Table(policy), log, settings=QUICK)
    assert not any(estimate.healthy for estimate in found.estimates.values())
    assert found.verdict.decision == "CANNOT TELL"


class Broken:
    """Probabilities that are none."""

    def __init__(self, row: list[float]) -> None:
        self.row = np.array(row)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.tile(self.row, (len(obs), 1))


@pytest.mark.parametrize("row", [[0.7, 0.7], [1.5, -0.5], [np.nan, 1.0]])
def test_policies_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    world, behavior, _ = small_world()
    with pytest.raises(EvaluationError, match="sum to 1"):
        evaluate(Broken(row), draw(world, behavior, 20, 0), settings=QUICK)


def test_wrong_arguments() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 20, 0)
    with pytest.raises(ConfigurationError, match="names from is, pdis"):
        evaluate(Table(policy), log, estimators=("wis", "magic"))
    with pytest.raises(ConfigurationError, match="gamma"):
        evaluate(Table(policy), log, gamma=1.5)
    with pytest.raises(ConfigurationError, match="confidence"):
        evaluate(Table(policy), log, confidence=95.0, settings=QUICK)
    with pytest.raises(EvaluationError, match="probs"):
        evaluate(object(), log, settings=QUICK)
    with pytest.raises(EvaluationError, match="horizon"):
        evaluate(Table(policy), log, horizon=0, settings=QUICK)


def test_mass_on_a_forbidden_action_is_refused() -> None:
    log = st.demo_log().select_episodes(range(5))
    with pytest.raises(EvaluationError, match="forbidden"):
        evaluate(Broken([1 / 25] * 25), log, settings=QUICK)


def test_groups_are_resampled_whole() -> None:
    """By hand: a mean over groups of 1, 2 and 3 episodes is a ratio of group sums; its error that of their residuals."""
    values_, group = np.array([1.0, 2.0, 4.0, 0.0, 3.0, 6.0]), np.array(["a", "b", "b", "c", "c", "c"])
    found = Resampler(6, group=group, resamples=4000).interval(Contributions.average(values_))
    mean = 16 / 6
    assert found.value == pytest.approx(mean)
    residual = np.array([1 - mean, 6 - 2 * mean, 9 - 3 * mean])  # of each group's sum
    assert found.standard_error == pytest.approx(np.sqrt(3 / 2 * (residual**2).sum()) / 6)
    # The least and largest resample: group a thrice, group c thrice.
    assert (found.lower, found.upper) == (1.0, 3.0)


def test_the_order_of_episodes_and_the_names_of_groups_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    values_, group, shuffle = rng.normal(size=90), np.repeat(np.arange(30), 3), rng.permutation(90)
    one = Resampler(90, group=group).interval(Contributions.average(values_))
    other = Resampler(90, group=group[shuffle] + 7).interval(Contributions.average(values_[shuffle]))
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other))


def test_groups_of_one_episode_change_nothing() -> None:
    values_ = np.random.default_rng(2).normal(size=70)
    plain = Resampler(70).interval(Contributions.average(values_))
    assert Resampler(70, group=np.arange(70)).interval(Contributions.average(values_)) == plain


def test_intervals_cover_where_episodes_share_a_group() -> None:
    """100 patients of 1 to 10 stays; half of the spread is the patient's. By episode, 95% would cover far less."""
    covered = {"groups": 0, "episodes": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(100), rng.integers(1, 11, 100))
        values_ = rng.normal(size=100)[group] + rng.normal(size=len(group))
        for way, of in (("groups", group), ("episodes", None)):
            found = Resampler(len(group), group=of, resamples=300, seed=seed).interval(Contributions.average(values_))
            covered[way] += found.lower <= 0.0 <= found.upper
    assert covered["groups"] / 300 > 0.91
    assert covered["episodes"] / 300 < 0.80


def test_copies_in_one_group_add_nothing_to_what_is_known() -> None:
    """Every stay four times, as four stays of one patient: four times the rows, and the very same intervals."""
    world, behavior, target = small_world()
    log, other = draw(world, behavior, 200, 1), draw(world, behavior, 200, 2)
    four = log.concat(log, log, log)
    grouped = dataclasses.replace(four, group=np.tile(np.arange(200), 4))
    kwargs: dict[str, Any] = {"fit_on": other, "settings": QUICK}
    one, of_groups, of_episodes = (evaluate(Table(target), each, **kwargs) for each in (log, grouped, four))
    for name, gain in one.gain.items():
        found = of_groups.gain[name]
        for what in ("value", "lower", "upper", "standard_error", "max_weight_share"):
            assert getattr(found, what) == pytest.approx(getattr(gain, what), rel=1e-4, abs=1e-6), (name, what)
        assert gain.ess is not None
        assert found.ess == pytest.approx(4 * gain.ess, rel=1e-4)  # in episodes, of which there are four times as many
        plain = of_episodes.gain[name]
        assert plain.standard_error == pytest.approx(gain.standard_error / 2, rel=0.01)
        assert "the 200 groups are independent" in found.assumptions
    assert of_groups.behavior.assumptions == ("groups are independent",)


def test_a_log_of_one_group_is_refused() -> None:
    world, behavior, target = small_world()
    log = dataclasses.replace(draw(world, behavior, 20, 1), group=np.zeros(20, int))
    with pytest.raises(EvaluationError, match=r"at least 2 groups: .* all 20 are of 0\. Leave `gap`"):
        evaluate(Table(target), log, settings=QUICK)


def test_of_many_actions_the_commonest_pairs_are_counted() -> None:
    """By hand: 100 actions, of which 2 are logged and 3 are the policy's; the rest together are nothing."""
    log = st.read(
        {
            "episode": np.arange(4),
            "observation": np.zeros((4, 1)),
            "action": np.array([90, 90, 5, 5]),
            "reward": np.zeros(4),
            "terminated": np.ones(4, bool),
        },
        st.Schema.infer(["episode", "observation", "action", "reward", "terminated"], num_actions=100),
    )
    probs = np.zeros((4, 100), np.float32)
    probs[:2, 90], probs[:2, 7], probs[2:, 99] = 0.75, 0.25, 1.0
    found = agreement(log, probs, np.zeros(4), None)
    assert found.matrix.shape == (MOST_ACTIONS + 1, MOST_ACTIONS + 1)
    assert found.matrix.sum() == pytest.approx(1.0)
    place = {int(a): k for k, a in enumerate(found.actions)}
    assert {5, 7, 90, 99} <= set(place)
    assert found.matrix[place[90], place[90]] == pytest.approx(0.375)
    assert found.matrix[place[90], place[7]] == pytest.approx(0.125)
    assert found.matrix[place[5], place[99]] == pytest.approx(0.5)
    # Spread over more actions than are shown, what is not shown is in the last column.
    spread = agreement(log, np.full((4, 100), 0.01, np.float32), np.zeros(4), None)
    assert spread.matrix[:, -1].sum() == pytest.approx((100 - MOST_ACTIONS) / 100)


def test_an_evaluation_that_would_not_fit_is_refused() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 5, 1)
    with pytest.raises(
        EvaluationError, match=r"13 policies, 100,000,000 rows and 2 actions come to 15,600,000,000 numbers"
    ):
        check_size(log, 100_000_000, None, 13)
    check_size(log, 100_000_000, 500_000_000, 1)
