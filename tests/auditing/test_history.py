"""The history check: it sees causes that the past betrays, and stays silent where nothing is hidden."""

from __future__ import annotations

import dataclasses
import json
import re

import hidden_worlds as worlds
import numpy as np
import pytest
from small_faults import changed
from worlds import bandit_log, random_log

import stitchrl as st
from stitchrl.auditing import history_network
from stitchrl.auditing.checks import common_cause as common_cause_check
from stitchrl.auditing.checks import history as checks
from stitchrl.auditing.checks.history import history_decides_actions, history_decides_outcomes, history_numbers
from stitchrl.auditing.common_cause import _sums_within, common_cause
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.history import LEAST_GAIN, HistoryCheck, HistoryGain, history_check
from stitchrl.auditing.history_models import (
    Predictor,
    class_gains,
    held_out_probabilities,
    mean_and_error,
    number_gains,
)
from stitchrl.auditing.history_network import _parts, _slopes
from stitchrl.auditing.history_rows import past_rows


def of(check: HistoryCheck, target: str) -> HistoryGain:
    return next(gain for gain in check.targets if gain.target == target)


def image_log() -> st.Dataset:
    """A log whose observations are small images."""
    log = random_log(40)
    table = np.zeros((len(log.observation_table), 4, 4, 1), np.uint8)
    return dataclasses.replace(log, observation_table=table)


@pytest.fixture(scope="module")
def severity() -> st.Dataset:
    """A log whose hidden severity decides actions and rewards; no propensities."""
    return worlds.severity(400, 0, False)


@pytest.fixture(scope="module")
def seen(severity: st.Dataset) -> HistoryCheck:
    """What the check says of it. A check that raises an alarm fits a network, and takes seconds."""
    return history_check(severity)


# --- causes hidden and shown -----------------------------------------------------------------------------------------


def test_a_hidden_cause_is_seen(seen: HistoryCheck) -> None:
    action = of(seen, "action")
    assert seen.passed is action.passed is False
    assert action.lower > 0
    assert action.columns[0].startswith("action")
    assert "the action" in seen.sentence
    assert action.columns[0] in seen.sentence


def test_the_same_cause_shown_is_not_missed() -> None:
    shown = history_check(worlds.severity(400, 0, True))
    assert shown.passed is True
    assert of(shown, "action").gain < LEAST_GAIN
    assert shown.sentence.startswith("The past predicts nothing beyond")
    assert not shown.enough


@pytest.mark.slow
@pytest.mark.parametrize("world", [worlds.severity, worlds.preference, worlds.target])
def test_a_hidden_cause_is_seen_and_a_shown_one_is_not_missed(world: worlds.World) -> None:
    hidden, shown = history_check(world(400, 3, False)), history_check(world(400, 3, True))
    action = of(hidden, "action")
    assert hidden.passed is action.passed is False
    assert action.lower > 0
    assert action.columns
    assert action.columns[0].startswith("action")
    assert "the action" in hidden.sentence
    assert action.columns[0] in hidden.sentence
    assert shown.passed is True
    assert of(shown, "action").gain < LEAST_GAIN
    assert shown.sentence.startswith("The past predicts nothing beyond")


def test_a_cause_without_memory_leaves_no_trace() -> None:
    assert history_check(worlds.unseen_noise(400, 0, False)).passed is True


@pytest.mark.slow
def test_glucose_and_diabetes_that_the_doctor_heeds() -> None:
    assert history_check(worlds.sepsis(1500, 5, False)).passed is False
    assert history_check(worlds.sepsis(1500, 5, True)).passed is True


@pytest.mark.parametrize("name", ["network policy", "boxes, nearly deterministic", "hospital"])
def test_small_logs_that_hide_nothing_raise_no_alarm(name: str) -> None:
    check = history_check(worlds.SOUND[name](100, 50, True))
    assert [gain.passed for gain in check.targets if gain.passed is False] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", worlds.SOUND)
def test_the_level_over_many_draws(name: str) -> None:
    assert sum(history_check(worlds.SOUND[name](200, seed, True)).passed is False for seed in range(100, 140)) <= 1


def test_the_same_log_gets_the_same_answer(severity: st.Dataset, seen: HistoryCheck) -> None:
    assert history_check(severity) == seen
    assert HistoryCheck.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


# --- what the check cannot judge, and odd logs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (bandit_log(400), "every decision stands alone"),
        (image_log(), "these are images"),
        (worlds.severity(25, 0, False), "has 275 in 25"),
        (worlds.severity(40, 0, False).select_episodes(range(15)), "in 15"),
    ],
)
def test_what_cannot_be_checked_is_said(log: st.Dataset, words: str) -> None:
    check = history_check(log)
    assert (check.passed, check.targets) == (None, ())
    assert words in check.sentence
    facts = Facts(log)
    assert [*history_decides_actions(log, facts), *history_decides_outcomes(log, facts)] == []


def test_groups_are_the_independent_units(severity: st.Dataset, seen: HistoryCheck) -> None:
    episodes = of(seen, "action")
    grouped = dataclasses.replace(severity, group=np.arange(severity.num_episodes) // 4)
    groups = of(history_check(grouped), "action")
    assert groups.passed is False
    assert len(np.unique(past_rows(grouped).cluster)) == 100
    assert episodes.lower != groups.lower
    few = dataclasses.replace(severity, group=np.arange(severity.num_episodes) // 40)
    assert "20 groups, and this log has 4,400 in 10" in history_check(few).sentence


def test_missing_values_are_columns_of_their_own() -> None:
    log = worlds.control(60, 0)
    lost = np.random.default_rng(0).random(len(log.observation_table)) < 0.1

    def lose(table: np.ndarray) -> None:
        table[lost, 1] = np.nan

    spoiled = changed(log, "observation_table", lose)
    rows = past_rows(spoiled)
    assert rows.columns[-1] == "angle_2 missing"
    assert np.isfinite(rows.observation).all()
    assert np.isfinite(rows.past).all()
    check = history_check(spoiled)
    assert np.isfinite([(g.gain, g.lower, g.upper) for g in check.targets]).all()
    # What is missing now was there a step ago, and the past then tells where the joint is.
    assert of(check, "next observation").gain > of(history_check(log), "next observation").gain


def test_a_mask_explains_actions_that_it_forbids() -> None:
    """Which actions are allowed follows the past; within the allowed ones the draw is even. Without the mask that is a
    hidden cause, with it there is none."""
    log = worlds.severity(120, 1, True)
    rng = np.random.default_rng(2)
    phase = np.repeat(rng.integers(0, 3, log.num_episodes), log.episode_lengths)
    mask = np.ones((log.num_transitions, 3), bool)
    mask[np.arange(len(mask)), phase] = False
    action = (phase + 1 + rng.integers(0, 2, len(mask))) % 3
    bare = dataclasses.replace(log, action=action.astype(np.int32))
    assert of(history_check(bare), "action").passed is False
    masked = of(history_check(dataclasses.replace(bare, action_mask=mask)), "action")
    assert masked.passed is True
    assert masked.gain < LEAST_GAIN


def test_rows_have_the_past_that_their_names_say(severity: st.Dataset) -> None:
    rows = past_rows(severity)
    assert len(rows.reward) == 400 * 11  # all but the first of each episode
    later = np.setdiff1d(np.arange(severity.num_transitions), severity.episode_start[:-1])
    np.testing.assert_allclose(rows.reward, severity.reward[later], rtol=1e-6)
    by_name = {name: rows.past[:, j] for j, name in enumerate(rows.past_names)}
    for name, truth in (
        ("pulse one step back", severity.observation[later - 1, 0]),
        ("action 2 one step back", severity.action[later - 1] == 2),
        ("reward one step back", severity.reward[later - 1]),
    ):
        assert np.corrcoef(by_name[name], truth)[0, 1] > 0.99
    second = severity.position[later] >= 2
    truth = severity.observation[later - 2, 1]
    assert np.corrcoef(by_name["pressure two steps back"][second], truth[second])[0, 1] > 0.99
    assert len(np.unique(by_name["pressure two steps back"][~second])) == 1
    known = rows.change_known
    np.testing.assert_array_equal(~known, severity.terminated[later])


# --- the pieces, by hand ---------------------------------------------------------------------------------------------


def coins(rows: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A column of -1 and 1, coins that it bends by a known logit, the true share of the coins without it, and halves."""
    rng = np.random.default_rng(seed)
    past = rng.choice([-1.0, 1.0], rows)
    coin = (rng.random(rows) < 1 / (1 + np.exp(-slope * past))).astype(np.int64)
    return past[:, None], coin, np.full((rows, 2), 0.5), np.arange(rows) % 2 == 0


def test_the_gain_of_a_known_model_is_its_exact_value() -> None:
    past, coin, even, half = coins(40_000, 0.8)
    gains = class_gains(past, coin, even, half)
    mean, error = mean_and_error(gains.rows, np.arange(len(coin)))
    share = 1 / (1 + np.exp(-0.8))
    exact = np.log(2) + share * np.log(share) + (1 - share) * np.log(1 - share)
    assert abs(mean - exact) < 3 * error
    assert error < 0.1 * exact


def test_a_number_gains_half_its_explained_share() -> None:
    rng = np.random.default_rng(1)
    past = rng.normal(size=(40_000, 2))
    left = 0.3 * past[:, :1] + np.sqrt(1 - 0.09) * rng.normal(size=(40_000, 1))
    half = np.arange(len(past)) % 2 == 0
    gains = number_gains(past, left, half)
    mean, error = mean_and_error(gains.rows, np.arange(len(past)))
    assert abs(mean - 0.045) < 3 * error  # .3^2 / 2, in units of the whole variance
    assert gains.columns.argmax() == 0


def test_nothing_is_gained_from_chance() -> None:
    rng = np.random.default_rng(2)
    _, coin, even, half = coins(4000, 0.0)
    noise = rng.normal(size=(4000, 30))
    assert class_gains(noise, coin, even, half).rows.mean() < 1e-3
    assert number_gains(noise, rng.normal(size=(4000, 5)), half).rows.mean() < 1e-3


def test_a_wrong_model_of_the_present_is_forgiven_where_the_past_is_predicted_well() -> None:
    """Actions follow a parity of the present that the model ignores; the past is correlated with it. Raw, the past looks
    like a cause; what is left of it after the present is not."""
    rng = np.random.default_rng(3)
    present = rng.choice([-1.0, 1.0], 20_000)
    past = (present * rng.choice([-1.0, 1.0], 20_000, p=[0.2, 0.8]))[:, None]
    coin = (rng.random(20_000) < np.where(present > 0, 0.8, 0.2)).astype(np.int64)
    even, half = np.full((20_000, 2), 0.5), np.arange(20_000) % 2 == 0
    left = Predictor(np.stack([np.ones(20_000), present], 1), half).residuals(past)
    assert class_gains(past, coin, even, half).rows.mean() > 0.03
    assert abs(class_gains(left, coin, even, half).rows.mean()) < 1e-3


def test_probabilities_are_those_of_the_states_and_respect_the_mask() -> None:
    rng = np.random.default_rng(4)
    state = rng.integers(0, 5, 20_000)
    truth = rng.dirichlet(np.ones(3), 5)
    allowed = np.ones((20_000, 3), bool)
    allowed[state == 4, 0] = False
    truth[4] = np.where([False, True, True], truth[4], 0) / truth[4, 1:].sum()
    action = (truth[state].cumsum(1) < rng.random((20_000, 1))).sum(1)
    model = Predictor(np.ones((20_000, 1)), np.arange(20_000) % 2 == 0, (state,))
    found = held_out_probabilities(model, action, 3, allowed)
    np.testing.assert_allclose(found, truth[state], atol=0.04)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[~allowed] == 0).all()


def test_the_error_of_a_mean_counts_clusters() -> None:
    values, cluster = np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1])
    mean, error = mean_and_error(values, cluster)
    # Two clusters with means 1 and 3: the standard error of their mean is 1.
    assert (mean, error) == (2.0, pytest.approx(1.0))


@pytest.mark.parametrize("most", [2**18, 32, 1])  # rows in one part, in three, and one at a time
def test_the_slopes_of_the_network_are_those_of_its_loss(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_network, "MOST_PRODUCTS", most)
    assert _parts(6, 16) == {2**18: 1, 32: 3, 1: 6}[most]
    rng = np.random.default_rng(5)
    shapes = [(3, 4), (4, 4), (4, 2), (4,), (4,), (2,)]
    parameters = [rng.normal(size=shape) for shape in shapes]
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))

    def loss(changed: list[np.ndarray]) -> float:
        first = np.tanh(x @ changed[0] + changed[3])
        second = np.tanh(first @ changed[1] + changed[4])
        return float(0.5 * ((second @ changed[2] + changed[5] - y) ** 2).sum() / len(x))

    for k, slope in enumerate(_slopes(parameters, x, y)):
        nudge = rng.normal(size=shapes[k])
        more = [p + 1e-6 * nudge if j == k else p for j, p in enumerate(parameters)]
        less = [p - 1e-6 * nudge if j == k else p for j, p in enumerate(parameters)]
        assert (loss(more) - loss(less)) / 2e-6 == pytest.approx((slope * nudge).sum(), rel=1e-5)


# --- in the audit ----------------------------------------------------------------------------------------------------


def test_findings_name_columns_and_weigh_more_without_propensities(
    severity: st.Dataset, seen: HistoryCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "history_of", lambda facts: seen)
    facts = Facts(severity)
    (found,) = history_decides_actions(severity, facts)
    assert (found.code, found.severity) == ("history-decides-actions", "warning")
    assert "action 2" in found.where
    assert "held out" in found.seen
    told = dataclasses.replace(severity, behavior_log_prob=np.full(severity.num_transitions, -1.0, np.float32))
    (with_propensities,) = history_decides_actions(told, Facts(told))
    assert with_propensities.severity == "info"
    numbers = history_numbers(facts)
    assert json.loads(json.dumps(numbers))["targets"][0]["target"] == "action"
    assert numbers["sentence"] == seen.sentence


def test_a_lasting_cause_of_actions_and_rewards_is_hinted_at(severity: st.Dataset) -> None:
    """What is left of both is related across the rows of an episode, in both directions of time; where the cause decides the
    actions alone the second direction is chance."""
    both = common_cause(past_rows(severity))
    assert both is not None
    assert both.hinted
    assert min(both.reaction, both.late) > 0.1
    alone = common_cause(past_rows(worlds.preference(400, 0, False)))
    assert alone is not None
    assert not alone.hinted
    assert abs(alone.late) < 0.05


def test_the_hint_is_said_as_a_hint(severity: st.Dataset, seen: HistoryCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_cause_check, "history_of", lambda facts: seen)
    (found,) = common_cause_check.common_cause_hinted(severity, Facts(severity))
    assert (found.code, found.severity) == ("hidden-common-cause", "info")
    assert found.seen.startswith("a hint that")
    assert "no proof" in found.action
    told = dataclasses.replace(seen, targets=tuple(g for g in seen.targets if g.target != "action"))
    monkeypatch.setattr(common_cause_check, "history_of", lambda facts: told)
    assert list(common_cause_check.common_cause_hinted(severity, Facts(severity))) == []


def test_sums_of_the_other_rows_of_a_cluster_by_hand() -> None:
    """Clusters need not be contiguous: rows 0, 2, 3 are of one and 1, 4 of another."""
    values = np.array([[1.0], [10.0], [2.0], [4.0], [20.0]])
    earlier, later = _sums_within(values, np.array([7, 3, 7, 7, 3]))
    assert earlier[:, 0].tolist() == [0, 0, 1, 3, 10]
    assert later[:, 0].tolist() == [6, 20, 4, 0, 0]


@pytest.mark.slow
def test_a_hidden_target_also_decides_outcomes() -> None:
    log = worlds.target(400, 3, False)
    (found,) = history_decides_outcomes(log, Facts(log))
    assert (found.code, found.severity) == ("history-decides-outcomes", "warning")
    assert re.search(r"the past predicts the reward, and held out, it is [0-9.]+% likelier on average", found.seen)
