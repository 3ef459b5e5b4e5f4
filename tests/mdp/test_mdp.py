"""Finite worlds solved exactly against hand and brute force; ICU-Sepsis and the shipped log."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from worlds import random_mdp

import stitchrl as st
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import (
    DEATH,
    FOLDER,
    SURVIVAL,
    ExactValues,
    compact_table,
    demo_log,
    draw_log,
    icu_sepsis,
    log_table,
)

GO, WAIT = 0, 1


def chain() -> FiniteMDP:
    """0 -> 1 -> 2 (the end). GO moves on for reward 1 from 0 and 10 from 1; WAIT costs 1 and stays put."""
    transition = np.zeros((3, 2, 3))
    transition[0, GO, 1] = transition[1, GO, 2] = 1
    transition[0, WAIT, 0] = transition[1, WAIT, 1] = 1
    reward = np.zeros((3, 2, 3))
    reward[0, GO, 1], reward[1, GO, 2] = 1, 10
    reward[:2, WAIT] = -1
    return FiniteMDP(transition, reward, np.array([0.5, 0.5, 0]), np.array([False, False, True]))


ALWAYS_GO = np.array([[1, 0], [1, 0], [0, 0]], float)
HALF = np.array([[0.5, 0.5], [0.5, 0.5], [0, 0]], float)


def test_chain_always_go() -> None:
    # V(1) = 10; V(0) = 1 + gamma 10.
    np.testing.assert_allclose(chain().state_values(ALWAYS_GO, gamma=1.0), [11, 10, 0])
    np.testing.assert_allclose(chain().state_values(ALWAYS_GO, gamma=0.9), [10, 10, 0])
    assert chain().policy_value(ALWAYS_GO, gamma=1.0) == pytest.approx(10.5)
    assert chain().policy_value(ALWAYS_GO, gamma=0.9) == pytest.approx(10.0)


def test_chain_half_go_half_wait() -> None:
    # gamma 1: V(1) = .5 10 + .5 (-1 + V(1)) = 9;  V(0) = .5 (1 + 9) + .5 (-1 + V(0)) = 9.
    np.testing.assert_allclose(chain().state_values(HALF, gamma=1.0), [9, 9, 0])
    # gamma .9: V(1) = 4.5 / .55 = 90/11;  V(0) = (.5 (1 + .9 90/11) - .5) / .55 = 810/121.
    np.testing.assert_allclose(chain().state_values(HALF, gamma=0.9), [810 / 121, 90 / 11, 0])
    assert chain().policy_value(HALF, gamma=0.9) == pytest.approx((810 / 121 + 990 / 121) / 2)


def test_the_first_steps_of_a_random_world() -> None:
    """Against the sum over every path of three steps; of many steps it is the value until the end."""
    world, rng = random_mdp(seed=2), np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(world.num_actions), size=world.num_states)
    step = np.einsum("sa,sat->st", policy, world.transition) * ~world.terminal[:, None]
    reward = (policy * world.expected_reward).sum(1) * ~world.terminal
    by_paths = world.initial @ (reward + 0.9 * step @ reward + 0.81 * step @ step @ reward)
    assert world.policy_value(policy, gamma=0.9, horizon=3) == pytest.approx(by_paths)
    assert world.policy_value(policy, horizon=1) == pytest.approx(world.initial @ reward)
    assert world.policy_value(policy, horizon=5000) == pytest.approx(world.policy_value(policy), rel=1e-6)


def test_chain_action_values() -> None:
    # gamma .9, always GO, V = (10, 10, 0): Q(., GO) = (1 + 9, 10); Q(., WAIT) = -1 + 9 = 8 in both.
    np.testing.assert_allclose(chain().action_values(ALWAYS_GO, gamma=0.9), [[10, 8], [10, 8], [0, 0]])


def test_chain_expected_reward() -> None:
    np.testing.assert_allclose(chain().expected_reward, [[1, -1], [10, -1], [0, 0]])


def test_probabilities_must_sum_to_one() -> None:
    world = chain()
    with pytest.raises(ConfigurationError, match="must sum to 1"):
        FiniteMDP(world.transition * 0.9, world.reward, world.initial, world.terminal)
    with pytest.raises(ConfigurationError, match="must sum to 1"):
        FiniteMDP(world.transition, world.reward, world.initial * 0.9, world.terminal)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_optimal_policy_against_every_deterministic_policy(seed: int, gamma: float) -> None:
    world = random_mdp(4, 3, seed=seed)
    found = world.state_values(world.optimal_policy(gamma=gamma), gamma=gamma)
    choices = itertools.product(range(3), repeat=3)
    values = [world.state_values(np.eye(3)[[*choice, 0]], gamma=gamma) for choice in choices]
    # Best in every state at once, and not only from the initial distribution.
    np.testing.assert_allclose(found, np.max(values, axis=0), rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_optimal_policy_among_allowed_actions(seed: int) -> None:
    world = random_mdp(4, 3, seed=seed)
    allowed = np.random.default_rng(seed).random((4, 3)) < 0.6
    allowed[:, seed] = True
    policy = world.optimal_policy(gamma=0.9, allowed=allowed)
    assert not policy[~allowed].any()
    choices = itertools.product(*(np.flatnonzero(row).tolist() for row in allowed[:3]))
    best = max(world.policy_value(np.eye(3)[[*choice, 0]], gamma=0.9) for choice in choices)
    assert world.policy_value(policy, gamma=0.9) == pytest.approx(best, rel=1e-9)


def test_bellman_equation_holds_for_a_random_world() -> None:
    world = random_mdp(5, 3, seed=7)
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    values, q = world.state_values(policy, gamma=0.8), world.action_values(policy, gamma=0.8)
    np.testing.assert_allclose((policy * q).sum(1)[:4], values[:4], rtol=1e-12)


def test_drawn_returns_have_the_exact_mean() -> None:
    world = random_mdp(4, 2, seed=1)
    policy = np.random.default_rng(2).dirichlet(np.ones(2), size=4)
    drawn = world.draw(policy, 4000, seed=5)
    for gamma in (1.0, 0.9):
        returns = np.bincount(drawn.episode, drawn.reward * gamma**drawn.step)
        error = returns.mean() - world.policy_value(policy, gamma=gamma)
        assert abs(error) < 4 * returns.std() / np.sqrt(4000)


def test_drawn_first_steps_have_the_right_frequencies() -> None:
    world = random_mdp(4, 2, seed=1)
    policy = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    drawn = world.draw(policy, 8000, seed=6)
    first = drawn.step == 0
    assert first.sum() == 8000

    def near(count: int, rows: int, chance: float) -> None:
        assert abs(count - rows * chance) < 4 * np.sqrt(rows * chance * (1 - chance)) + 1e-9

    for state in range(3):
        here = first & (drawn.state == state)
        near(here.sum(), 8000, world.initial[state])
        for action in range(2):
            taken = here & (drawn.action == action)
            near(taken.sum(), here.sum(), policy[state, action])
            for following in range(4):
                near(
                    (taken & (drawn.next_state == following)).sum(),
                    taken.sum(),
                    world.transition[state, action, following],
                )


def test_drawn_rows_follow_each_other() -> None:
    drawn = random_mdp(4, 2, seed=1).draw(np.full((4, 2), 0.5), 200, seed=0)
    goes_on = ~(drawn.terminated | drawn.truncated)
    np.testing.assert_array_equal(drawn.next_state[:-1][goes_on[:-1]], drawn.state[1:][goes_on[:-1]])
    np.testing.assert_array_equal(drawn.step[1:][goes_on[:-1]], drawn.step[:-1][goes_on[:-1]] + 1)
    assert (drawn.terminated == (drawn.next_state == 3)).all()
    assert np.unique(drawn.episode).tolist() == list(range(200))


def test_episodes_still_running_at_max_steps_are_truncated() -> None:
    wait = np.array([[0, 1], [0, 1], [0, 0]], float)
    drawn = chain().draw(wait, 3, seed=0, max_steps=4)
    assert len(drawn.reward) == 12
    assert not drawn.terminated.any()
    assert drawn.truncated.tolist() == [False, False, False, True] * 3
    # An end on the very last step is an end, not a cut.
    ended = chain().draw(ALWAYS_GO, 50, seed=0, max_steps=2)
    assert not ended.truncated.any()
    assert ended.terminated.sum() == 50
    cut = chain().draw(ALWAYS_GO, 50, seed=0, max_steps=1)
    np.testing.assert_array_equal(cut.truncated, cut.state == 0)
    np.testing.assert_array_equal(cut.terminated, cut.state == 1)


# --- ICU-Sepsis ----------------------------------------------------------------------------


def test_icu_values_are_the_published_ones() -> None:
    world = icu_sepsis()
    assert world.mdp.policy_value(world.clinicians) == pytest.approx(0.78184, abs=1e-4)
    best = world.mdp.optimal_policy(allowed=world.mask)
    assert world.mdp.policy_value(best) == pytest.approx(0.87514, abs=1e-4)


def test_icu_sizes_and_masks() -> None:
    world = icu_sepsis()
    assert world.mdp.transition.shape == (716, 25, 716)
    assert world.features.shape == (716, 47)
    allowed = world.mask[:DEATH].sum(1)
    assert allowed.mean() == pytest.approx(13, abs=0.5)
    assert allowed.min() >= 1
    np.testing.assert_allclose(world.clinicians[:DEATH].sum(1), 1.0)


@pytest.fixture(scope="module")
def shipped() -> st.Dataset:
    return demo_log()


def test_shipped_log_is_what_the_readme_says(shipped: st.Dataset) -> None:
    assert shipped.num_episodes == 20_000
    assert shipped.num_transitions == 185_235
    assert shipped.num_actions == 25
    assert shipped.observation_size == 47
    assert shipped.schema.gamma == 1.0
    assert not shipped.truncated.any()
    assert shipped.terminated.sum() == 20_000
    returns = shipped.episode_returns()
    assert set(returns.tolist()) == {0.0, 1.0}
    assert abs(returns.mean() - 0.78184) < 4 * returns.std() / np.sqrt(20_000)


def test_every_logged_action_is_inside_its_mask(shipped: st.Dataset) -> None:
    assert shipped.action_mask is not None
    assert shipped.behavior_probs is not None
    assert shipped.behavior_log_prob is not None
    rows = np.arange(shipped.num_transitions)
    assert shipped.action_mask[rows, shipped.action].all()
    np.testing.assert_array_equal(shipped.action_mask, shipped.behavior_probs > 0)
    np.testing.assert_allclose(
        np.exp(shipped.behavior_log_prob), shipped.behavior_probs[rows, shipped.action], rtol=1e-5
    )


def test_drawing_again_gives_the_same_log() -> None:
    first, again, other = (demo_log(compact_table(draw_log(200, seed=seed))) for seed in (1, 1, 2))
    assert first.content_hash == again.content_hash
    assert first.content_hash != other.content_hash
    assert first.num_episodes == 200


def test_the_shipped_file_is_what_draw_log_gives() -> None:
    assert compact_table(draw_log()).equals(pq.read_table(FOLDER / "stays.parquet"))


def test_rewards_may_be_given_another_scheme() -> None:
    table = compact_table(draw_log(300, seed=1))
    plain = demo_log(table)
    scheme = demo_log(table, survival_reward=100.0, death_reward=-100.0)
    returns = plain.episode_returns()
    assert set(returns.tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(scheme.episode_returns(), np.where(returns == 1, 100.0, -100.0))
    assert not scheme.reward[~scheme.terminated].any()
    np.testing.assert_array_equal(scheme.action, plain.action)


def test_propensities_may_be_left_out() -> None:
    table = compact_table(draw_log(50, seed=1))
    bare = demo_log(table, propensities=False)
    assert bare.behavior_probs is None
    assert bare.behavior_log_prob is None
    assert bare.action_mask is not None
    assert "behavior_probs" not in bare.schema.columns


@pytest.mark.parametrize("propensities", [True, False])
def test_log_table_round_trips_through_read(propensities: bool, tmp_path: Any) -> None:
    log = demo_log(compact_table(draw_log(60, seed=3)), propensities=propensities)
    pq.write_table(log_table(log), tmp_path / "stays.parquet")
    for source in (log_table(log), tmp_path / "stays.parquet"):
        again = st.read(source, log.schema)
        for name in (
            "observation", "action", "reward", "terminated", "truncated", "step", "episode_start",
            "episode_id", "behavior_log_prob", "behavior_probs", "action_mask", "next_action_mask",
            "next_observation", "observation_id", "can_bootstrap",
        ):  # fmt: skip
            ours, theirs = getattr(log, name), getattr(again, name)
            if ours is None:
                assert theirs is None, name
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=name)


class Table:
    """A policy read from a table by finding each observation's state."""

    def __init__(self, probs: np.ndarray) -> None:
        self.rows = {row.tobytes(): k for k, row in enumerate(icu_sepsis().features[:DEATH].astype(np.float32))}
        self.table = probs

    def probs(self, obs: np.ndarray, *, action_mask: np.ndarray | None = None) -> np.ndarray:
        assert action_mask is not None
        found = np.where(action_mask, self.table[[self.rows[row.tobytes()] for row in np.asarray(obs)]], 0.0)
        return found / found.sum(1, keepdims=True)


def test_exact_value_of_the_clinicians_is_the_behaviour() -> None:
    truth, world = ExactValues(), icu_sepsis()
    clinicians = Table(world.clinicians)
    assert len(clinicians.rows) == DEATH
    assert truth.value(clinicians) == pytest.approx(truth.behavior(), abs=1e-9)
    np.testing.assert_allclose(truth.table(clinicians), world.clinicians, atol=1e-9)
    best = Table(world.mdp.optimal_policy(allowed=world.mask))
    assert truth.value(best) == pytest.approx(0.87514, abs=1e-4)
    assert truth.value(clinicians, horizon=5) == pytest.approx(truth.behavior(horizon=5), abs=1e-9)
    drawn = draw_log(4000, seed=5)
    survived = (drawn.reward * (drawn.step < 5)).sum() / 4000
    assert truth.behavior(horizon=5) == pytest.approx(survived, abs=4 * 0.5 / np.sqrt(4000))
    assert truth.behavior(horizon=5) < 0.5 < truth.behavior(horizon=10_000)


def test_survival_pays_and_death_does_not() -> None:
    mdp = icu_sepsis().mdp
    assert mdp.terminal[[DEATH, SURVIVAL]].all()
    drawn = draw_log(100, seed=4)
    np.testing.assert_array_equal(drawn.reward, (drawn.next_state == SURVIVAL).astype(float))
