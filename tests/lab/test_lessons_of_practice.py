"""What the last four lessons compute, against numbers that are known otherwise."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.algorithms.dpo import preference_loss
from stitchrl.evaluation.estimators.doubly_robust import doubly_robust
from stitchrl.evaluation.estimators.importance_sampling import per_decision
from stitchrl.lab.hospital import best_possible, exact_value
from stitchrl.lab.lessons import choosing
from stitchrl.lab.lessons import hidden_confounding as confounding
from stitchrl.lab.lessons.language_models import JUDGED, REFERENCE, START, optimum, two_answers
from stitchrl.lab.lessons.off_policy_evaluation import second_moment
from stitchrl.lab.ward_logs import coverage, fitted_values, logs, padded, q_by_step, treats, ward, weights_of
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import icu_sepsis


def test_the_mean_square_of_a_weight_is_that_of_all_sequences() -> None:
    ratio, found = np.array([0.25, 0.75]) / 0.5, 0.0
    for taken in itertools.product((0, 1), repeat=4):
        found += 0.5**4 * float(np.prod(ratio[list(taken)])) ** 2
    assert second_moment(0.75, 4) == pytest.approx(found)


def test_values_by_step_are_those_of_the_world() -> None:
    world, policy = ward(), treats(0.9)
    _, v = q_by_step(world.transition, policy, 7)
    for step in (0, 3, 6):
        np.testing.assert_allclose(v[step], world.state_values(policy, horizon=7 - step), atol=1e-12)


def test_doubly_robust_estimation_is_the_model_where_nothing_is_left_to_chance_and_pdis_without_one() -> None:
    drawn, policy = logs(1, 20, 5, 0), treats(0.75)
    state, action, reward = drawn.state[0], drawn.action[0], drawn.reward[0]
    episodes = padded(reward)
    weight = weights_of(episodes, state, action, policy, treats(0.5))
    nothing = fitted_values(np.zeros((5, 4, 2)), np.zeros((5, 4)), state, action)
    assert doubly_robust(episodes, weight, nothing).value() == pytest.approx(per_decision(episodes, weight).value())

    # A ring of four states, in which a treatment moves on and waiting stays, pays the number of the state.
    transition = np.zeros((4, 2, 4))
    transition[np.arange(4), 0, np.arange(4)] = transition[np.arange(4), 1, (np.arange(4) + 1) % 4] = 1.0
    ring = FiniteMDP(transition, np.tile(np.arange(4.0), (4, 2, 1)), np.full(4, 0.25), np.zeros(4, bool))
    walked = ring.draw(treats(0.5), 20, seed=1, max_steps=5)
    state, action = walked.state.reshape(20, 5), walked.action.reshape(20, 5)
    q, v = np.zeros((5, 4, 2)), np.zeros((6, 4))
    for step in range(4, -1, -1):
        q[step] = ring.expected_reward + transition @ v[step + 1]
        v[step] = (policy * q[step]).sum(1)
    episodes = padded(walked.reward.reshape(20, 5))
    weight = weights_of(episodes, state, action, policy, treats(0.5))
    exact = doubly_robust(episodes, weight, fitted_values(q, v[:5], state, action)).value()
    assert exact == pytest.approx(v[0][state[:, 0]].mean())


def test_the_interval_by_the_spread_of_patients_is_narrower_than_by_fitting_anew() -> None:
    ends = coverage(50, 20)
    width = {way: (found[:, 1] - found[:, 0]).mean() for way, found in ends.items()}
    assert 3 * width["spread"] < width["refit"]
    centre = ends["spread"].mean(1)
    assert ((ends["refit"][:, 0] < centre) & (centre < ends["refit"][:, 1])).all()


def test_the_least_mean_of_a_hidden_cause_is_the_one_worked_by_hand() -> None:
    survived = np.zeros(11)
    survived[[0, 1]] = 0.2, 0.8
    assert confounding.least_mean(survived, 2.0) == pytest.approx(0.7)
    assert confounding.least_mean(survived, 4.0) == pytest.approx(0.5)
    world = confounding.one_decision(2.0)
    true = world.true[1] @ confounding.DAYS
    assert confounding.least_mean(world.logged[1], 2.0) < true < world.logged[1] @ confounding.DAYS


def test_a_cause_in_one_decision_is_one_in_every_decision_where_there_is_but_one() -> None:
    every, single = confounding.gains(1, 1.7).values()
    assert every == pytest.approx(single)
    every, single = confounding.gains(3, 1.7).values()
    assert every < single
    assert confounding.turning_point(lambda odds: 2.0 - odds) == pytest.approx(2.0)


def test_the_optimum_is_flat_in_every_direction() -> None:
    best = optimum(0.5)
    slope = JUDGED - 0.5 * np.log(best / REFERENCE)
    np.testing.assert_allclose(slope, slope[0])


def test_the_descent_of_the_lesson_follows_the_loss_of_the_library() -> None:
    def loss(theta: jax.Array) -> jax.Array:
        log_ratio = jax.nn.log_softmax(jnp.log(START) + theta) - jnp.log(START)
        return preference_loss(log_ratio[:1], log_ratio[1:2], jnp.float32(1.0))[0]

    theta = jnp.zeros(3)
    for _ in range(2):
        theta = theta - 0.5 * jax.grad(loss)(theta)
    wanted = jax.nn.softmax(jnp.log(START) + theta)
    np.testing.assert_allclose(two_answers("DPO", False, 2)[-1], wanted, atol=1e-6)
    assert two_answers("AWR", False, 2000)[-1][1] == pytest.approx(1 / (1 + np.e), abs=0.01)


@pytest.mark.slow
def test_the_hospital_of_the_lesson_is_that_of_the_library() -> None:
    world = icu_sepsis()
    assert exact_value(world.clinicians) == pytest.approx(world.mdp.policy_value(world.clinicians))
    assert best_possible(25) == pytest.approx(0.87514, abs=1e-5)
    assert best_possible(4) < best_possible(9) < best_possible(25)


@pytest.mark.slow
def test_the_verdict_of_the_hospital_lesson_is_what_its_prose_says() -> None:
    values = choosing.lesson().values
    assert values["chosen_word"] == "not shown"  # so "CANNOT TELL"
    assert values["chosen_lower"] < 0 < values["chosen_upper"]
    assert values["chosen_true"] > 0  # "here the policy is better"
