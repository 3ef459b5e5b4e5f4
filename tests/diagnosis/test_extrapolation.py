"""What critics claim for actions that the log does not show, and by how much they disagree: tables with known answers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hand_policies import Numbers, NumbersValue, Table, TableValue, numbers_log, subject_of, two_states

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.checks.extrapolation import claims_without_support, extrapolation_numbers
from stitchrl.diagnosis.checks.uncertainty import critics_disagree, uncertainty_numbers
from stitchrl.diagnosis.extrapolation_error import one_step_error
from stitchrl.diagnosis.subject import Member, NotLookedAtError, Shared, Subject

CLAIMED = np.array([[0.0, 0.0, 4.0, 10.0], [0.0, 0.0, 0.0, 10.0]])
APART = np.array([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 5.0]])


def always(*actions: int) -> Table:
    return Table(np.eye(4)[list(actions)])


def value(table: np.ndarray = CLAIMED, apart: np.ndarray = APART) -> TableValue:
    return TableValue(jnp.asarray(table, jnp.float32), jnp.asarray(apart, jnp.float32))


def one_step(rows: int = 400, *, above: float = 0.0) -> Dataset:
    """Decisions of one step in two states, paid by the state and the action without noise."""
    log = two_states(rows, first=(0,))
    state = (np.arange(rows) % 2).astype(np.float32)
    reward = (state + 0.5 * log.action + above).astype(np.float32)
    return dataclasses.replace(log, observation_table=state[:, None], reward=reward)


@pytest.mark.parametrize(("action", "gap", "unseen"), [(3, 9.0, 10.0), (2, 3.0, 0.0), (0, -1.0, 0.0)])
def test_the_gap_is_exact(action: int, gap: float, unseen: float) -> None:
    """In state 0 the behaviour's own actions are claimed 4 x 0.25 = 1 on average, and action 3 is one that it never takes."""
    subject = subject_of(always(action, action), two_states(40, first=(0, 0)), value())
    numbers = extrapolation_numbers(subject)
    assert numbers["gap"] == pytest.approx(gap, abs=1e-5)
    assert numbers["gap_without_support"] == pytest.approx(0.0 if unseen == 0 else gap, abs=1e-5)
    findings = list(claims_without_support(subject))
    assert [finding.code for finding in findings] == (["claims-without-support"] if action == 3 else [])
    if findings:
        assert "the critics claim 9 more" in findings[0].seen
        assert "100% of that is for actions which the log does not show" in findings[0].seen


@pytest.mark.parametrize("above", [0.0, 0.7])
def test_the_excess_of_one_step_is_what_was_planted(above: float) -> None:
    """Rewards are linear in the features, so the regression is exact at logged actions, and the claims lie `above` it."""
    log = one_step()
    paid = np.arange(2)[:, None] + 0.5 * np.arange(4)[None, :] + above
    error = one_step_error(subject_of(always(1, 0), log, value(paid)))
    assert error.logged == pytest.approx(above, abs=0.02)
    assert error.policy == pytest.approx(above, abs=0.05)
    assert error.noise < 0.05
    assert error.steps == 1.0
    assert error.bound == pytest.approx(max(error.policy, 0.0))


def test_the_excess_at_an_action_that_was_not_logged_is_measured_and_told() -> None:
    """Action 3 is claimed 8 above every other one; the regression draws it to what is usual in its state, at most 1 apart."""
    paid = np.arange(2)[:, None] + 0.5 * np.arange(4)[None, :]
    paid[:, 3] += 8.0
    subject = subject_of(always(3, 3), one_step(), value(paid))
    assert one_step_error(subject).policy == pytest.approx(8.0, abs=1.5)
    (finding,) = claims_without_support(subject)
    assert "above what a regression on the logged rows predicts" in finding.seen


@pytest.mark.parametrize(
    ("gamma", "cut", "steps"), [(0.9, True, 10.0), (0.9, False, 3.0), (1.0, False, 3.0), (1.0, True, np.inf)]
)
def test_over_how_many_steps_an_error_adds_up(gamma: float, cut: bool, steps: float) -> None:
    log = two_states(8)
    ends = log.terminated & (not cut)
    log = dataclasses.replace(log, schema=dataclasses.replace(log.schema, gamma=gamma), terminated=ends)
    assert one_step_error(subject_of(always(0, 0), log, value())).steps == pytest.approx(steps)


def numbers_subject(aside: float) -> Subject:
    return subject_of(Numbers(lambda obs: 0.5 * obs[:, :1] + aside), numbers_log(), NumbersValue(10.0))


def test_actions_of_numbers() -> None:
    """Claims of ten times the distance from the behaviour's mean: two aside is claimed 20."""
    log = numbers_log()
    apart = float(np.abs(log.action[:, 0] - 0.5 * log.observation[:, 0]).mean())
    numbers = extrapolation_numbers(numbers_subject(2.0))
    assert numbers["gap"] == pytest.approx(20.0 - 10 * apart, abs=1e-3)
    assert numbers["gap_without_support"] == pytest.approx(numbers["gap"], abs=0.3)
    assert [finding.code for finding in claims_without_support(numbers_subject(2.0))] == ["claims-without-support"]
    assert list(claims_without_support(numbers_subject(0.0))) == []
    assert uncertainty_numbers(numbers_subject(2.0))["times"] == pytest.approx(2.1 / (0.1 + apart), rel=1e-4)
    assert [finding.code for finding in critics_disagree(numbers_subject(2.0))] == ["critics-disagree"]
    assert list(critics_disagree(numbers_subject(0.0))) == []


def test_critics_that_disagree_about_the_chosen_actions() -> None:
    log = two_states(40)
    (finding,) = critics_disagree(subject_of(always(3, 3), log, value()))
    assert (
        "by 5 (standard deviation) about the policy's actions, 5.0 times as much as about the logged ones (1)"
        in finding.seen
    )
    assert list(critics_disagree(subject_of(always(2, 2), log, value()))) == []


def test_the_noise_on_rewards_counts_rows() -> None:
    subject = subject_of(always(3, 3), two_states(40), value())
    noisy = Subject(dataclasses.replace(subject.member, algorithm=st.IQL(reward_noise=1.0)), subject.shared)
    (finding,) = critics_disagree(noisy)
    assert "as if the log had 1/25 of the rows for them" in finding.seen


def test_what_cannot_be_looked_at_is_said() -> None:
    log = two_states(8)
    for check in (claims_without_support, critics_disagree):
        with pytest.raises(NotLookedAtError, match="There are no critics"):
            list(check(subject_of(always(0, 0), log)))
    with pytest.raises(NotLookedAtError, match="only one critic, so no disagreement can be measured"):
        list(critics_disagree(subject_of(always(0, 0), log, value(apart=0 * APART))))
    with pytest.raises(NotLookedAtError, match="two halves of at least 4 episodes"):
        one_step_error(subject_of(always(0, 0), two_states(2), value()))


def test_rows_of_which_nobody_knows_what_followed_have_no_error_of_a_backup() -> None:
    rows = np.arange(40)
    log = st.read(
        {
            "episode": rows,
            "observation": np.linspace(-1, 1, 40, dtype=np.float32)[:, None],
            "action": rows % 2,
            "reward": np.ones(40, np.float32),
            "terminated": np.zeros(40, bool),
            "truncated": np.ones(40, bool),
        }
    )
    with pytest.raises(NotLookedAtError, match="only on rows whose next observation is known"):
        one_step_error(Subject(Member("seed 0", None, None, st.DQN()), Shared(log)))
