"""Distributions of returns against exact ones: by enumeration, by weights with their intervals, by the fitted model."""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_worlds import UNDISCOUNTED, Table, draw, small_world
from scipy import stats
from worlds import schema_of

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.distributional_q import ATOMS, projected, support_of
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.returns import WeightedReturns, names_of, read_off, spans
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.return_distribution import return_distribution

TAIL = 0.1
SPREAD_OUT = FitSettings(updates=1500, hidden_sizes=(32,), learning_rate=3e-3)


@functools.cache
def wards() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Three live states and an end; a safe and a risky action with whole rewards from -4 to 3. The policy is riskier than the
    behaviour: it is better on average, and worse in the worst tenth."""
    transition = np.zeros((4, 2, 4))
    transition[0, 0], transition[0, 1] = [0.2, 0.5, 0.0, 0.3], [0.1, 0.2, 0.4, 0.3]
    transition[1, 0], transition[1, 1] = [0.2, 0.2, 0.1, 0.5], [0.3, 0.0, 0.3, 0.4]
    transition[2, 0], transition[2, 1] = [0.1, 0.3, 0.1, 0.5], [0.3, 0.1, 0.2, 0.4]
    transition[3] = np.eye(4)[3]
    reward = np.zeros((4, 2, 4))
    reward[:3, 0] = [1, 0, -1, 1]
    reward[:3, 1] = [2, 3, -4, 3]
    world = FiniteMDP(transition, reward, np.array([0.7, 0.3, 0, 0]), np.arange(4) == 3)
    return world, np.tile([0.6, 0.4], (4, 1)), np.tile([0.35, 0.65], (4, 1))


def exact(table: np.ndarray, grid: np.ndarray, **kwargs: float) -> np.ndarray:
    """What `read_off` gives of the exact distribution of a policy."""
    x, p = return_distribution(wards()[0], table, **kwargs)  # type: ignore[arg-type]
    return read_off(x, p[None] / p.sum(), grid, TAIL)[0]


def ward_log(episodes: int, seed: int) -> Dataset:
    world, behavior, _ = wards()
    return draw(world, behavior, episodes, seed)


def test_the_exact_distribution_has_the_exact_mean_and_is_that_of_all_paths() -> None:
    world, behavior, policy = wards()
    for gamma, horizon in ((1.0, None), (1.0, 3), (0.5, 4)):
        x, p = return_distribution(world, policy, gamma=gamma, horizon=horizon)
        assert p.sum() == pytest.approx(1.0, abs=1e-9)
        assert x @ p == pytest.approx(world.policy_value(policy, gamma=gamma, horizon=horizon), abs=1e-6)
    x, p = return_distribution(world, behavior, gamma=0.5, horizon=2)
    by_path: dict[float, float] = {}
    for s, a, t, b, u in itertools.product(range(3), range(2), range(4), range(2), range(4)):
        first = (
            world.initial[s] * behavior[s, a] * world.transition[s, a, t] * (behavior[t, b] * world.transition[t, b, u])
        )
        returned = float(world.reward[s, a, t] + 0.5 * world.reward[t, b, u])
        by_path[returned] = by_path.get(returned, 0.0) + float(first)
    found = {key: value for key, value in by_path.items() if value > 0}
    assert dict(zip(x.tolist(), p.tolist(), strict=True)) == pytest.approx(found)


def test_numbers_by_hand() -> None:
    found = WeightedReturns(np.array([3.0, 1.0, 1.0, 2.0]), np.array([1.0, 0.0, 2.0, 1.0]))
    assert found.x.tolist() == [1.0, 2.0, 3.0]
    assert found.mass().tolist() == [[0.5, 0.25, 0.25]]
    numbers = dict(zip(names_of(0.6), read_off(found.x, found.mass(), np.array([0.9, 1.0, 2.5]), 0.6)[0], strict=False))
    assert numbers["mean"] == 1.75
    assert numbers["standard deviation"] == pytest.approx(np.sqrt(0.5 * 1 + 0.25 * 4 + 0.25 * 9 - 1.75**2))
    assert numbers["worst 60%"] == pytest.approx((0.5 * 1 + 0.1 * 2) / 0.6)
    assert (numbers["quantile 0.5"], numbers["quantile 0.75"], numbers["quantile 0.9"]) == (1.0, 2.0, 3.0)
    assert read_off(found.x, found.mass(), np.array([0.9, 1.0, 2.5]), 0.6)[0][-3:].tolist() == [0.0, 0.5, 0.75]
    counts = np.array([[0.0, 2.0, 1.0, 1.0]])  # weights are divided by their sum in the resample
    assert found.mass(counts) == pytest.approx(np.array([[2 / 3, 1 / 3, 0.0]]))


def test_every_resample_is_a_distribution() -> None:
    rng = np.random.default_rng(0)
    found = WeightedReturns(rng.normal(size=300), rng.exponential(size=300) ** 4)
    for counts in Resampler(Units(300), resamples=50).counts():
        numbers = read_off(found.x, found.mass(counts), np.linspace(-3, 3, 30), TAIL)
        cdf = numbers[:, len(names_of(TAIL)) :]
        assert (np.diff(cdf, axis=1) >= 0).all()
        assert cdf.min() >= 0
        assert cdf.max() <= 1 + 1e-12
        assert (numbers[:, 2] <= numbers[:, 0]).all()  # the worst tenth is no better than all


def test_intervals_of_the_worst_tenth_cover_and_the_paired_one_too() -> None:
    world, behavior, policy = wards()
    grid = np.array([-3.0, 0.0, 3.0])
    truth = np.stack([exact(policy, grid, horizon=3), exact(behavior, grid, horizon=3)])
    truth = np.concatenate([truth, truth[:1] - truth[1:]])
    assert truth[2, 0] > 0 > truth[2, 2]  # better on average, worse in the worst tenth
    size, replicates = 2000, 60
    log = draw(world, behavior, size * replicates, 1, max_steps=3)
    state = log.observation_id
    assert state is not None
    ratio = np.add.reduceat(np.log(policy[state, log.action] / behavior[state, log.action]), log.episode_start[:-1])
    returns, missed = log.episode_returns(1.0).astype(np.float64), np.zeros((3, len(names_of(TAIL)) + 3), int)
    for start in range(0, size * replicates, size):
        part = slice(start, start + size)
        both = [WeightedReturns(returns[part], np.exp(ratio[part])), WeightedReturns(returns[part], np.ones(size))]
        drawn: list[list[np.ndarray]] = [[], [], []]
        for counts in Resampler(Units(size), resamples=300, seed=start).counts():
            one, other = (read_off(each.x, each.mass(counts), grid, TAIL) for each in both)
            for k, numbers in enumerate((one, other, one - other)):
                drawn[k].append(numbers)
        for k in range(3):
            lower, upper = spans(drawn[k], 0.95)
            missed[k] += (truth[k] < lower) | (truth[k] > upper)
    # The mean, the worst tenth and the distribution function. The spread has no interval; quantiles of a lattice jump.
    kept = [0, 2, *range(len(names_of(TAIL)), missed.shape[1])]
    assert missed[:, kept].max() <= stats.binom.ppf(0.999, replicates, 0.06), missed


def test_influence_on_the_worst_is_the_derivative_by_an_episode() -> None:
    rng = np.random.default_rng(3)
    found = WeightedReturns(rng.normal(size=400), rng.exponential(size=400))
    influence = found.influence_on_worst(TAIL)
    assert influence.sum() == pytest.approx(0.0, abs=1e-8)
    more = np.ones((400, 400)) + 1e-4 * np.eye(400)
    moved = (
        read_off(found.x, found.mass(more), np.zeros(1), TAIL)[:, 2]
        - read_off(found.x, found.mass(), np.zeros(1), TAIL)[0, 2]
    )
    assert 400 * moved / 1e-4 == pytest.approx(influence, abs=0.02 * np.abs(influence).max())


def test_projection_by_hand() -> None:
    probs = jnp.asarray([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    found = projected(probs, jnp.asarray([0.5, 1.0, 9.0]), jnp.asarray([1.0, 0.0, 0.5]), 0.0, 1.0)
    # Row 1: atoms 0.5 and 1.5, each shared by two. Row 2 ends: all on the reward. Row 3 is beyond the last atom.
    assert np.asarray(found) == pytest.approx(np.array([[0.25, 0.5, 0.25], [0, 1, 0], [0, 0, 1]]))


def test_atoms_lie_on_the_lattice_of_rewards() -> None:
    low, spacing = support_of(ward_log(300, 0), UNDISCOUNTED)
    assert (low, spacing) == (round(low), 1.0)
    low, spacing = support_of(ward_log(300, 0), Estimand(0.9))
    assert spacing < 1.0
    world, behavior, _ = small_world()
    assert support_of(draw(world, behavior, 200, 0), UNDISCOUNTED)[1] * (ATOMS - 1) < 60


def test_atoms_reach_over_missing_rows() -> None:
    step = np.tile(np.delete(np.arange(10), 5), 20)  # the sixth row of every episode is missing
    columns = {
        "episode": np.repeat(np.arange(20), 9),
        "step": step,
        "observation": np.ones((180, 1), np.float32),
        "action": np.zeros(180, np.int32),
        "reward": np.ones(180, np.float32),
        "terminated": step == 9,
    }
    log = st.read(columns, schema_of(columns, num_actions=2))
    low, spacing = support_of(log, Estimand(0.99))
    assert low + spacing * (ATOMS - 1) > log.episode_returns(0.99).max() > 8.5


@pytest.mark.slow
def test_the_fitted_distribution_is_near_the_exact_one_and_says_that_it_has_no_interval() -> None:
    _, behavior, policy = wards()
    log = ward_log(1200, 3)
    result = st.evaluate(Table(policy), log, estimators=("wis",), distribution=True, settings=SPREAD_OUT)
    modelled, weighed = result.distribution["fqe"], result.distribution["weights"]
    assert modelled.worst.policy.lower is None
    assert modelled.cdf_lower is None
    assert not modelled.healthy
    truth, of_behavior = exact(policy, modelled.returns), exact(behavior, modelled.returns)
    names = names_of(TAIL)
    assert np.abs(modelled.cdf - truth[len(names) :]).max() < 0.06
    assert np.abs(modelled.other_cdf - of_behavior[len(names) :]).max() < 0.05
    assert np.abs(of_behavior - truth)[len(names) :].max() > 0.06  # what a model of the behaviour would be off by
    assert modelled.worst.policy.value == pytest.approx(truth[2], abs=0.6)
    assert modelled.worst.difference.value < 0
    # Returns and weights of long episodes have heavy tails here, and intervals of the worst tenth miss too often.
    assert [check.key for check in weighed.checks if not check.passed] == ["tail-influence"]
    # How often its intervals hold the truth is tested above; here, that the two methods were given the same question.
    assert weighed.worst.policy.value == pytest.approx(truth[2], abs=1.0)
    assert weighed.readings["standard deviation"].policy.lower is None
    assert weighed.worst.policy.lower < weighed.worst.policy.value < weighed.worst.policy.upper  # type: ignore[operator]
    text = str(result)
    assert "The worst 10% of episodes return" in text
    assert "so it has no interval" in text
    content = result.to_dict()["distribution"]["weights"]
    assert content["readings"]["worst 10%"]["policy"]["value"] == weighed.worst.policy.value


@pytest.mark.slow
def test_cut_episodes_are_no_ends_for_the_model() -> None:
    world, behavior, _ = wards()
    # A third go on after two steps; what follows is in no row. One fit, on other episodes, is enough here.
    log, other = (draw(world, behavior, 1250, seed, max_steps=2) for seed in (9, 10))
    result = st.evaluate(
        Table(behavior), log, estimators=("wis",), distribution=True, settings=SPREAD_OUT, baseline=Table(behavior),
        fit_on=other,
    )  # fmt: skip
    found = result.distribution["fqe"]
    truth, cut = exact(behavior, found.returns), exact(behavior, found.returns, horizon=2)
    names = len(names_of(TAIL))
    assert np.abs(found.cdf - truth[names:]).max() < 0.5 * np.abs(cut - truth)[names:].max()


def test_refusals_are_sentences() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 60, 0)
    with pytest.raises(st.errors.ConfigurationError, match="`tail` must be in"):
        st.evaluate(Table(policy), log, estimators=("wis",), distribution=True, tail=10.0)
