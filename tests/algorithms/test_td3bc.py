"""TD3+BC: an update by hand, the delayed actor, noise on targets, and what the actor weighs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, differ, largest_step, last_bias, mlp_of, model, one_hand, plain, row, with_models
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import Ensemble


def test_an_update_of_td3bc_by_hand() -> None:
    algorithm = st.TD3BC(
        gamma=0.9, q_weight=2.5, target_noise=0.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=()
    )
    start = math.atanh(0.5)
    after, metrics = one_hand(
        algorithm,
        Spec.vectors(1, None, 1),
        row(action=jnp.full((1, 1), 0.5, jnp.float32)),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        target_actor=DeterministicPolicy(plain(weights=[[0]], biases=[start])),
        critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[1], [0]]))),
        target_critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[0], [0]]))),
    )
    expected = {
        # The target actor says 0.5, the target critics 1 and 2 of it: y = 2 + 0.9, against 2 and 2.
        "loss/critic": 2 * 0.9**2,
        "q/data_mean": 2.0,
        # The first critic is 2.1 a + 1.1 by now, and the actor at 0: q = 1.1, so the first term is -2.5 whatever q.
        "q/policy_mean": 1.1,
        "loss/actor": -2.5 + 0.5**2,
        "policy/mode_error": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_actor"), [start + 0.25 * (0.1 - start)], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(model(after, "critics")).weights[0], [[[0], [2.1]], [[0], [4.1]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.1], [0.1]], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.target_critics).weights[0], [[[0], [2.025]], [[0], [4.025]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.275], [0.025]], rtol=1e-4)


@pytest.mark.parametrize(("q_weight", "direction"), [(0.0, 1), (0.9, 1), (1.1, -1), (2.5, -1)])
def test_the_actor_of_td3bc_weighs_value_against_imitation(q_weight: float, direction: int) -> None:
    # At 0 the first critic, 4 - 2 a, says 4; the logged action is 0.25. The slope is 2 q_weight / 4 - 2 0.25: 0 at 1.
    algorithm = st.TD3BC(q_weight=q_weight, learning_rate=1e-3, hidden_sizes=())
    critics = ContinuousCritics(Ensemble(plain(weights=[[[0], [-2]]] * 2, biases=[[4]] * 2)))
    after, _ = one_hand(
        algorithm,
        Spec.vectors(1, None, 1),
        row(action=jnp.full((1, 1), 0.25, jnp.float32)),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        critics=critics,
        target_critics=critics,
    )
    np.testing.assert_allclose(last_bias(after, "actor"), [direction * 1e-3], rtol=1e-3)


@pytest.mark.parametrize(("every", "due"), [(2, [1, 3]), (3, [2, 5])])
def test_td3bc_updates_actor_and_targets_every_so_often(every: int, due: list[int]) -> None:
    case = CASES["TD3BC continuous"].with_settings(actor_every_updates=every)
    state = case.state()
    for update in range(max(due) + 1):
        after, metrics = case.update(state, case.batch(), update=update)
        assert differ(state.critics, after.critics)
        slow = ("actor", "target_actor", "target_critics", "actor_metrics")
        for name in slow:
            assert differ(getattr(state, name), getattr(after, name)) == (update in due), (name, update)
        assert all(float(metrics[name]) == float(after.actor_metrics[name]) for name in after.actor_metrics)
        state = after


def test_the_schedule_of_td3bcs_actor_counts_all_updates() -> None:
    # Over 4 updates the step size of the second is 1 for the actor (its first), of the fourth 1/2; then 0 for both.
    case = CASES["TD3BC continuous"].with_settings(decay_updates=4)
    state, moved = case.state(), {"actor": [], "critics": []}
    for update in range(6):
        before, state = state, case.update(state, case.batch(), update=update)[0]
        for name, seen in moved.items():
            seen.append(largest_step(model(before, name), model(state, name)))
    assert moved["actor"] == pytest.approx([0, 1e-2, 0, 5e-3, 0, 0], rel=0.25, abs=1e-9)
    assert min(moved["critics"][:4]) > 1e-3
    assert moved["critics"][4:] == [0, 0]
    # And of a warm-up over 8, the actor's first step is the first of 4.
    warm = CASES["TD3BC continuous"].with_settings(warmup_updates=8)
    after, _ = warm.update(warm.state(), warm.batch())
    assert largest_step(warm.state().actor.model, after.actor.model) == pytest.approx(0.25 * 1e-2, rel=0.01)


def test_the_actor_of_td3bc_follows_the_first_critic_alone() -> None:
    case = CASES["TD3BC continuous"]
    state, batch = case.state(), case.batch()
    members = mlp_of(state.critics.model)
    second = jax.tree.map(lambda leaf: leaf.at[1].add(jnp.float32(0.5)), members)
    planted = with_models(state, critics=ContinuousCritics(Ensemble(second)))
    one, two = (case.update(s, batch)[0] for s in (state, planted))
    assert differ(one.critics, two.critics)
    assert_trees_equal((one.actor, one.target_actor), (two.actor, two.target_actor))


def test_target_noise_is_clipped_and_gone_at_zero() -> None:
    case = CASES["TD3BC continuous"]
    batch = case.batch()
    for settings in ({"target_noise": 0.0}, {"noise_clip": 0.0}):
        still = case.with_settings(**settings)
        one, two = (still.update(case.state(), batch, jax.random.key(k))[0] for k in (0, 1))
        assert_trees_equal(one, two)
    # Noise this large is all clip: only its signs are left of it.
    losses = [
        float(case.with_settings(target_noise=noise, noise_clip=0.1).update(case.state(), batch)[1]["loss/critic"])
        for noise in (1e5, 1e6)
    ]
    assert losses[0] == losses[1]
