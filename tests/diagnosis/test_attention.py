"""What a policy looks at: importances, repeats and departures that are known exactly, each alarm on a planted fault alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hand_policies import BEHAVIOR, Numbers, Table, numbers_log, subject_of, two_states
from memory_policies import Sticky
from worlds import schema_of

from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.checks.attention import (
    attention_numbers,
    departure_numbers,
    follows_one_column,
    repeats_last_action,
)
from stitchrl.diagnosis.importance import importance_of
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.reading.read import read

STEPS = 10


class Follows:
    """Takes action 1 where a sum of columns is above 0, else action 0."""

    def __init__(self, *columns: int) -> None:
        self.columns = list(columns)

    def probs(self, obs: Any, *, action_mask: Any = None) -> np.ndarray:
        return np.eye(2)[(np.asarray(obs)[:, self.columns].sum(1) > 0).astype(int)]


def controlled(stays: float = 0.5, episodes: int = 40) -> Dataset:
    """Three columns of noise and, in column 3, the last action as -1 or 1; the behaviour repeats it with probability `stays`."""
    rng = np.random.default_rng(0)
    action = np.zeros((episodes, STEPS), np.int32)
    for step in range(1, STEPS):
        again = rng.random(episodes) < stays
        action[:, step] = np.where(again, action[:, step - 1], 1 - action[:, step - 1])
    last = np.concatenate([np.zeros((episodes, 1)), action[:, :-1]], axis=1)
    obs = rng.normal(size=(episodes * STEPS, 4)).astype(np.float32)
    obs[:, 3] = 2 * last.ravel() - 1
    chosen = np.where(action == last, stays, 1 - stays).ravel()
    other = np.where(action.ravel()[:, None] == np.arange(2), chosen[:, None], 1 - chosen[:, None])
    columns = {
        "episode": np.repeat(np.arange(episodes), STEPS),
        "observation": obs,
        "action": action.ravel(),
        "reward": rng.normal(size=len(obs)).astype(np.float32),
        "terminated": np.tile([False] * (STEPS - 1) + [True], episodes),
        "behavior_probs": other.astype(np.float32),
        "behavior_log_prob": np.log(chosen),
    }
    return read(columns, schema_of(columns, num_actions=2))


def beside(policy: Any, log: Dataset, behavior: Any) -> Subject:
    """A subject whose behaviour is known, in the place of a fitted model of it."""
    subject = subject_of(policy, log)
    subject.shared.__dict__["behavior_model"] = behavior
    return subject


def test_a_column_that_is_not_looked_at_has_no_importance() -> None:
    """Shuffling the sign of a normal column turns half of the choices over; one of two in a sum turns a third."""
    log = controlled(episodes=100)
    one = importance_of(subject_of(Follows(1), log)).values
    np.testing.assert_allclose(one, [0.0, 0.5, 0.0, 0.0], atol=0.05)
    assert np.count_nonzero(one) == 1
    two = importance_of(subject_of(Follows(0, 2), log)).values
    np.testing.assert_allclose(two, [1 / 3, 0.0, 1 / 3, 0.0], atol=0.05)


def test_importance_of_continuous_actions_is_in_standard_deviations() -> None:
    """Actions of the second column moved by E|z - z'| = 2 / root(pi) of its size."""
    log = numbers_log(200)
    found = importance_of(subject_of(Numbers(lambda obs: obs[:, 1:]), log)).values
    assert found[0] == 0.0
    assert found[1] == pytest.approx(2 / np.sqrt(np.pi) / log.action.std(), rel=0.06)


def test_a_column_that_gives_the_action_away_is_no_excuse() -> None:
    """The model of the behaviour follows the column as well, but knows actions that the propensities say were drawn evenly."""
    log = controlled()
    given = dataclasses.replace(log, observation_table=log.observation_table.copy())
    given.observation_table.flags.writeable = True
    given.observation_table[given.observation_index, 1] = 2 * log.action - 1
    (finding,) = follows_one_column(beside(Follows(1), given, Follows(1)))
    assert "The log lets the action be told from the observation" in finding.seen
    assert finding.severity == "warning"


def test_a_policy_that_follows_one_column() -> None:
    log = controlled()
    (finding,) = follows_one_column(beside(Follows(1), log, Follows(0, 1, 2)))
    assert finding.where == "observation column 1"
    assert finding.severity == "info"  # it may truly decide
    assert "the policy acts almost by observation column 1 alone" in finding.seen
    assert "shuffling all other 3 columns together 0% of its choices" in finding.seen
    (last,) = follows_one_column(beside(Follows(3), log, Follows(0, 1, 2)))  # column 3 tells the last action
    assert last.severity == "warning"
    assert "That column tells the last action" in last.seen
    for policy, behavior in (
        (Follows(0, 1), Follows(0, 1, 2)),  # follows two
        (Follows(1), Follows(1)),  # as the behaviour does
        (Table([[1.0, 0.0]]), Follows(0, 1, 2)),  # follows nothing
    ):
        assert list(follows_one_column(beside(policy, log, behavior))) == []


@pytest.mark.parametrize(
    ("policy", "stays", "share"),
    [
        (Follows(3), 0.5, 1.0),
        (Follows(3), 0.93, 1.0),
        (Follows(0), 0.5, None),
        (Table([[0.0, 1.0]]), 0.5, None),
    ],
)
def test_a_policy_that_copies_the_last_action(policy: Any, stays: float, share: float | None) -> None:
    subject = subject_of(policy, controlled(stays))
    findings = list(repeats_last_action(subject))
    assert [finding.code for finding in findings] == ([] if share is None else ["repeats-last-action"])
    assert attention_numbers(subject)["repeats"]["rows"] == 40 * (STEPS - 1)
    if share is not None:
        assert "the policy takes the last logged action again in 100.0% of them" in findings[0].seen


def test_a_behaviour_that_repeats_itself_may_be_imitated() -> None:
    """The policy knows no last action: it holds one that is as usual as the other."""
    subject = subject_of(Table([[0.0, 1.0]]), controlled(0.95))
    assert attention_numbers(subject)["repeats"]["behavior"] == pytest.approx(0.95, abs=0.02)
    assert list(repeats_last_action(subject)) == []


def test_a_policy_that_acts_by_the_column_of_the_last_action() -> None:
    """Its behaviour holds an action as often, but not because it looks at it alone."""

    class Held:
        def probs(self, obs: Any, *, action_mask: Any = None) -> np.ndarray:
            again = np.asarray(obs)[:, 3] > 0
            return np.where(again[:, None] == (np.arange(2) == 1), 0.95, 0.05)

    (finding,) = repeats_last_action(subject_of(Held(), controlled(0.95)))
    assert "it acts almost by observation column 3 alone, which tells the last action" in finding.seen


def test_where_nothing_can_be_chosen_nothing_is_repeated() -> None:
    log = controlled()
    only = np.eye(2, dtype=bool)[log.action]
    subject = subject_of(Follows(3), dataclasses.replace(log, action_mask=only))
    subject.__dict__["probs"] = only.astype(np.float32)  # what is left under the mask
    assert list(repeats_last_action(subject)) == []


def test_copies_of_continuous_actions() -> None:
    """The policy gives the action of the row before, which the test looks up by the observation."""
    log = numbers_log(40)
    before = np.concatenate([log.action[:1], log.action[:-1]])
    (finding,) = repeats_last_action(subject_of(Numbers(lambda obs: before), log))
    assert finding.code == "repeats-last-action"
    assert list(repeats_last_action(subject_of(Numbers(lambda obs: 0.5 * obs[:, :1]), log))) == []


def test_the_table_of_departures_is_exact() -> None:
    """In both states action 0 is usual; the policy takes action 1 half of the time in state 0, which is 2 of 3 decisions."""
    log = two_states(40)
    named = dataclasses.replace(
        log, schema=dataclasses.replace(log.schema, action_categories=("none", "low", "mid", "high"))
    )
    found = departure_numbers(subject_of(Table([[0.5, 0.5, 0.0, 0.0], BEHAVIOR[1]]), named))
    low, mid = found["table"]
    assert (low["usual"], low["taken"], mid["taken"]) == ("none", "low", "mid")
    assert low["share"] == pytest.approx((2 * 0.5 + 0.01) / 3)
    assert low["support"] == pytest.approx((2 * 0.5 * 0.25 + 0.01 * 0.01) / (2 * 0.5 + 0.01))
    assert (mid["share"], mid["support"]) == (pytest.approx(0.01 / 3), pytest.approx(0.01))
    assert found["share"] == pytest.approx((2 * 0.5 + 0.02) / 3)


def test_where_it_departs_from_the_usual_action() -> None:
    found = departure_numbers(subject_of(Table(np.eye(4)[[0, 1]]), two_states(40)))
    (column,) = found["where"]
    assert (column["here"], column["elsewhere"], column["chance"]) == (1.0, 0.0, 1.0)


def test_moved_numbers_of_continuous_actions() -> None:
    log = numbers_log()
    (moved,) = departure_numbers(subject_of(Numbers(lambda obs: log.action + 0.3), log))["numbers"]
    assert moved["moved"] == pytest.approx(0.3 / log.action.std(), rel=1e-4)
    assert moved["policy"] - moved["logged"] == pytest.approx(0.3, abs=1e-5)


def test_what_cannot_be_looked_at_is_said() -> None:
    log = two_states(4)
    for check in (follows_one_column, repeats_last_action):
        with pytest.raises(NotLookedAtError, match="memory of the episode"):
            list(check(subject_of(Sticky(np.float32(0.8)), log)))
    with pytest.raises(NotLookedAtError, match="at the rows of the log alone"):
        list(follows_one_column(subject_of(LoggedPolicy(), log)))
    numbers = numbers_log(4)
    images = dataclasses.replace(
        numbers, observation_table=np.zeros((len(numbers.observation_table), 4, 4, 1), np.uint8)
    )
    with pytest.raises(NotLookedAtError, match="no columns whose importance"):
        list(follows_one_column(subject_of(Numbers(lambda obs: np.zeros((len(obs), 1))), images)))
