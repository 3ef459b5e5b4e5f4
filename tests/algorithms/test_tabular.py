"""VI-LCB and SPIBB: the model's counts by hand, dynamic programming against exact solutions, and safe improvement."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from worlds import full_columns, random_continuous_log, random_log, random_mdp, schema_of

import stitchrl as st
from stitchrl.algorithms.spibb import improved
from stitchrl.algorithms.tabular_model import TabularModel, policy_value
from stitchrl.algorithms.vilcb import penalty
from stitchrl.data.scaling import Scaling
from stitchrl.errors import CheckpointError, ConfigurationError, DataError
from stitchrl.mdp.finite import FiniteMDP


def two_state_log(**changes: Any) -> st.Dataset:
    """States a (0, 0) and b (1, 0): three episodes a-b-end, a-end, b-cut (then a is seen)."""
    columns = {
        "episode": np.array([0, 0, 1, 2]),
        "observation": np.array([[0, 0], [1, 0], [0, 0], [1, 0]], np.float32),
        "next_observation": np.array([[1, 0], [9, 9], [9, 9], [0, 0]], np.float32),
        "observation_id": np.array([5, 7, 5, 7]),
        "action": np.array([0, 1, 1, 0], np.int32),
        "reward": np.array([1, 2, 3, 4], np.float32),
        "terminated": np.array([0, 1, 1, 0], bool),
        "truncated": np.array([0, 0, 0, 1], bool),
    } | changes
    return st.read(columns, schema_of(columns, num_actions=2))


def model_of(log: st.Dataset) -> TabularModel:
    return TabularModel.of(log, Scaling.identity(2), gamma=0.9, name="SPIBB")


def test_the_model_counts_by_hand() -> None:
    model = model_of(two_state_log())
    np.testing.assert_array_equal(model.count, [[1, 1], [1, 1]])
    np.testing.assert_array_equal(model.reward, [[1, 3], [4, 2]])
    # a, 0 -> b; a, 1 ends; b, 0 -> a although cut, for what was seen then is a; b, 1 ends.
    np.testing.assert_array_equal(model.transition.toarray(), [[0, 1], [0, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(model.behavior, [[0.5, 0.5], [0.5, 0.5]])
    unknown = np.array([[1, 0], [9, 9], [9, 9], [3, 3]], np.float32)
    left_out = model_of(two_state_log(next_observation=unknown))
    np.testing.assert_array_equal(left_out.count, [[1, 1], [0, 1]])
    probs = np.array([[0.5, 0.5], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], np.float32)
    known = model_of(two_state_log(behavior_probs=probs, behavior_log_prob=np.log([0.5, 0.8, 0.3, 0.4])))
    np.testing.assert_allclose(known.behavior, [[0.6, 0.4], [0.3, 0.7]], rtol=1e-6)


def test_the_value_of_a_policy_is_the_linear_solution() -> None:
    model, probs = model_of(two_state_log()), np.array([[0.3, 0.7], [0.6, 0.4]])
    step = 0.9 * np.einsum("sa,sat->st", probs, model.transition.toarray().reshape(2, 2, 2))
    expected = np.linalg.solve(np.eye(2) - step, (probs * model.reward).sum(1))
    np.testing.assert_allclose(policy_value(model, probs, 0.9), expected, rtol=1e-8)
    with pytest.raises(DataError, match="did not settle"):
        policy_value(model, np.array([[1.0, 0.0], [1.0, 0.0]]), 1.0)  # round in circles for ever


def test_improved_moves_only_the_mass_of_certain_pairs() -> None:
    behavior = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.9, 0.0]])
    q = np.array([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0], [5.0, 1.0, 9.0]])
    certain = np.array([[True, True, False], [False, False, False], [True, True, False]])
    np.testing.assert_allclose(improved(q, behavior, certain), [[0, 0.8, 0.2], [0.5, 0.3, 0.2], [1, 0, 0]])


def test_penalties_by_hand() -> None:
    found = penalty(np.array([[2.0, 0.0], [8.0, 50.0]]), 3.0, 0.5)
    log_term = np.log(2 * 4 / 0.05)
    np.testing.assert_allclose(found[0, 0], 0.5 * 3 * np.sqrt(log_term / 4))
    np.testing.assert_allclose(found[1], 0.5 * 3 * np.sqrt(log_term / np.array([16.0, 100.0])))
    assert np.isinf(found[0, 1])


def world_log(world: FiniteMDP, behavior: np.ndarray, episodes: int, seed: int) -> st.Dataset:
    """Episodes of a world, each state seen as its own unit vector."""
    drawn, seen = world.draw(behavior, episodes, seed=seed), np.eye(world.num_states, dtype=np.float32)
    episode, step, state, action, reward, following, ended, cut = dataclasses.astuple(drawn)
    columns = {
        "episode": episode, "step": step, "observation": seen[state], "next_observation": seen[following],
        "observation_id": state, "action": action.astype(np.int32), "reward": reward.astype(np.float32),
        "terminated": ended, "truncated": cut,
    }  # fmt: skip
    return st.read(columns, schema_of(columns, num_actions=world.num_actions))


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_without_caution_and_with_much_data_both_find_the_best_policy(gamma: float) -> None:
    world = random_mdp(5, 2, seed=3)
    log = world_log(world, np.full((5, 2), 0.5), 4000, seed=0)
    best = world.policy_value(world.optimal_policy(gamma=gamma), gamma=gamma)
    for algorithm in (st.VILCB(gamma=gamma, penalty_weight=0.0), st.SPIBB(gamma=gamma, least_count=1)):
        run = st.fit(algorithm, log, updates=0, standardize=False)
        probs = np.asarray(run.policy.probs(np.eye(5, dtype=np.float32)))
        assert world.policy_value(probs, gamma=gamma) == pytest.approx(best, abs=0.02)
        assert run.updates == 0
        assert run.history == []


@pytest.mark.slow
def test_spibb_improves_safely_where_plain_policy_iteration_does_not() -> None:
    # A good behaviour and little data: the lucky reward of a pair tried once or twice misleads plain iteration.
    gamma, behaviors, safe, plain = 0.95, [], [], []
    for seed in range(40):
        world = random_mdp(8, 4, seed=seed % 8)
        good = 0.6 * world.optimal_policy(gamma=gamma) + 0.4 / 4
        log = world_log(world, good, 25, seed=100 + seed)
        behaviors.append(world.policy_value(good, gamma=gamma))
        for found, least in ((safe, 8), (plain, 1)):
            run = st.fit(st.SPIBB(gamma=gamma, least_count=least), log, updates=0, standardize=False)
            probs = np.asarray(run.policy.probs(np.eye(8, dtype=np.float32)))
            found.append(world.policy_value(probs, gamma=gamma))
    gains = {name: np.sort(np.array(found) - behaviors) for name, found in (("safe", safe), ("plain", plain))}
    worst = {name: gain[:4].mean() for name, gain in gains.items()}  # the worst tenth
    assert worst["plain"] < -0.1
    assert worst["safe"] > 0.3 * worst["plain"]
    assert gains["safe"].mean() > 0


def test_masks_are_honoured_and_unseen_observations_are_treated_as_the_nearest() -> None:
    run = st.fit(st.VILCB(gamma=0.9), two_state_log(), updates=0, standardize=False)
    near_a = np.array([[0.1, -0.2], [0.9, 0.3]], np.float32)
    on_table = np.array([[0, 0], [1, 0]], np.float32)
    np.testing.assert_array_equal(run.policy.mode(near_a), run.policy.mode(on_table))
    best = np.asarray(run.policy.mode(on_table))
    mask = np.ones((2, 2), bool)
    mask[np.arange(2), best] = False
    probs = np.asarray(run.policy.probs(on_table, action_mask=mask))
    np.testing.assert_allclose(probs[np.arange(2), 1 - best], 1.0)


def test_a_mask_of_only_unlikely_actions_still_forbids_the_others() -> None:
    # SPIBB takes action 1 in state a and 0 in state b, with certainty; where those are forbidden the other one is left.
    run = st.fit(st.SPIBB(gamma=0.9, least_count=1), two_state_log(), updates=0, standardize=False)
    obs = np.array([[0, 0], [1, 0]], np.float32)
    probs = np.asarray(run.policy.probs(obs))
    assert sorted(probs.ravel().tolist()) == [0, 0, 1, 1]
    np.testing.assert_array_equal(run.policy.probs(obs, action_mask=probs == 0), 1 - probs)


def test_what_cannot_be_counted_is_refused_with_a_sentence() -> None:
    with pytest.raises(DataError, match="needs a column with the role `observation_id`"):
        st.fit(st.SPIBB(), random_log(8), updates=0)
    with pytest.raises(ConfigurationError, match="learns from discrete actions"):
        st.fit(st.VILCB(), random_continuous_log(8), updates=0)
    several = two_state_log(observation_id=np.array([5, 5, 5, 5]))
    with pytest.raises(DataError, match="An `observation_id` must always have the same observation for VILCB; 5 has"):
        st.fit(st.VILCB(), several, updates=0)


def test_a_closed_form_run_is_saved_and_loaded(tmp_path: Any) -> None:
    columns = full_columns()
    log = st.read(columns, schema_of(columns))
    run = st.fit(st.SPIBB(least_count=1), log, updates=500, out=tmp_path)
    again = st.load(tmp_path)
    np.testing.assert_array_equal(run.policy.probs(log.observation), again.policy.probs(log.observation))
    assert (tmp_path / "given.safetensors").exists()
    assert again.remarks == run.remarks
    assert "promises nothing here" in run.remarks[1]


def test_what_was_prepared_for_a_run_that_saved_nothing_is_prepared_again(tmp_path: Any) -> None:
    log = two_state_log()
    st.fit(st.SPIBB(least_count=5), log, updates=0, out=tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()  # as if killed before it was written
    run = st.fit(st.SPIBB(least_count=1), log, updates=0, out=tmp_path)
    loaded = st.load(tmp_path)
    assert loaded.algorithm.least_count == 1
    np.testing.assert_array_equal(loaded.policy.probs(log.observation), run.policy.probs(log.observation))
    other = st.fit(st.SPIBB(least_count=5), log, updates=0).policy.probs(log.observation)
    assert (np.asarray(other) != np.asarray(run.policy.probs(log.observation))).any()


def chain(rows: list[tuple[int, int, float, int]], times: int) -> st.Dataset:
    """A log of rows (state, action, reward, next state; -1 ends, -2 is cut and unknown), each an episode of its own."""
    table = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    state, action, reward, after = (np.tile(column, times) for column in zip(*rows, strict=True))
    columns = {
        "episode": np.arange(len(state)), "observation": table[state], "observation_id": state,
        "next_observation": np.where(after[:, None] >= 0, table[np.maximum(after, 0)], 99).astype(np.float32),
        "action": action.astype(np.int32), "reward": reward.astype(np.float32),
        "terminated": after == -1, "truncated": after != -1,
    }  # fmt: skip
    return st.read(columns, schema_of(columns, num_actions=2))


BOTH = [st.VILCB(gamma=1.0), st.SPIBB(gamma=1.0), st.VILCB(gamma=0.99, penalty_weight=0.0)]


@pytest.mark.parametrize("algorithm", BOTH, ids=["VILCB", "SPIBB", "VILCB without caution"])
@pytest.mark.parametrize("reward_shift", [0.0, -1.0])
def test_a_loss_after_a_large_gain_is_still_avoided(algorithm: Any, reward_shift: float) -> None:
    # Every return is above 0, and yet in state 1 there is only a larger and a smaller loss to choose from.
    log = chain([(0, 0, 20.0, 1), (0, 1, 20.0, 1), (1, 0, -8.0, -1), (1, 1, -1.0, -1)], 500)
    run = st.fit(algorithm, log, updates=0, reward_shift=reward_shift)
    seen = log.observation[2:3]
    assert int(run.policy.mode(seen)[0]) == 1
    q = np.asarray(run.policy.probs(seen))[0]
    assert q[1] > 0.99


@pytest.mark.parametrize("algorithm", BOTH, ids=["VILCB", "SPIBB", "VILCB without caution"])
def test_a_cut_of_which_nothing_is_known_is_no_way_out(algorithm: Any) -> None:
    # Action 0 ends at a cost of 2; action 1 costs 1 and leads to state 1, of which only cut rows are there.
    log = chain([(0, 0, -2.0, -1), (0, 1, -1.0, 1), (1, 0, -1.0, -2), (1, 1, -1.0, -2)], 200)
    policy = st.fit(algorithm, log, updates=0).policy
    assert float(policy.probs(log.observation[:1])[0, 0]) > 0.99


def test_the_default_penalty_prefers_what_was_tried_often() -> None:
    # Action 1 was lucky twice; action 0 paid .95 of the time in 2,000 tries.
    often = [(0, 0, 1.0, -1)] * 19 + [(0, 0, 0.0, -1)]
    log = chain(often, 100).concat(chain([(0, 1, 1.0, -1)], 2))
    for weight, chosen in ((0.0, 1), (0.1, 0)):
        policy = st.fit(st.VILCB(gamma=1.0, penalty_weight=weight), log, updates=0).policy
        assert int(policy.mode(log.observation[:1])[0]) == chosen


def test_identifiers_of_one_observation_are_refused() -> None:
    same = two_state_log(observation=np.zeros((4, 2), np.float32))
    with pytest.raises(DataError, match="5 and 7 have the same"):
        st.fit(st.SPIBB(), same, updates=0)


def test_a_proved_bound_that_says_something_is_told() -> None:
    log = chain([(0, 0, 0.0, -1), (0, 1, 1.0, -1)], 40_000)
    proved = st.fit(st.SPIBB(gamma=0.1, least_count=30_000), log, updates=0).remarks[1]
    assert proved.startswith("With probability 95% it loses no more than")
    assert "promises nothing" in st.fit(st.SPIBB(gamma=0.9, least_count=10), log, updates=0).remarks[1]


def test_a_run_without_what_it_was_given_is_refused(tmp_path: Any) -> None:
    st.fit(st.SPIBB(least_count=1), two_state_log(), updates=0, out=tmp_path)
    (tmp_path / "given.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the file given\.safetensors"):
        st.load(tmp_path)
