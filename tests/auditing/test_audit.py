"""Every check finds the fault planted for it, and nothing harmful in a clean log."""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import audit_corpus as corpus
import numpy as np
import pytest
from rich.console import Console
from worlds import bandit_log, random_log, schema_of, tiny_log

import stitchrl as st
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.checks.drift import _sides_of_actions
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import SEVERITIES, Audit, Finding
from stitchrl.auditing.randomness import Randomness, randomness
from stitchrl.auditing.return_modes import Modes
from stitchrl.reporting.audit_terminal import print_audit

BY_NAME = {check.__name__: check for check in CHECKS}


@pytest.fixture(scope="module")
def clean() -> st.Dataset:
    return st.demo_log().select_episodes(range(500))


def changed(log: st.Dataset, name: str, change: Callable[[np.ndarray], Any]) -> st.Dataset:
    """The log with one array copied and changed in place (or replaced by what `change` returns)."""
    column = getattr(log, name).copy()
    returned = change(column)
    return dataclasses.replace(log, **{name: column if returned is None else returned})


def mask_forbids(log: st.Dataset) -> st.Dataset:
    def forbid(mask: np.ndarray) -> None:
        mask[[5, 9], log.action[[5, 9]]] = False

    return changed(log, "action_mask", forbid)


def mask_empty(log: st.Dataset) -> st.Dataset:
    return changed(log, "action_mask", lambda mask: mask.__setitem__(7, False))


def no_propensities(log: st.Dataset) -> st.Dataset:
    return dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None)


def impossible(log: st.Dataset) -> st.Dataset:
    return changed(log, "behavior_log_prob", lambda column: column.__setitem__(3, -np.inf))


def above_one(log: st.Dataset) -> st.Dataset:
    return changed(log, "behavior_log_prob", lambda column: column.__setitem__(3, 0.5))


def disagreeing(log: st.Dataset) -> st.Dataset:
    def halve(column: np.ndarray) -> None:
        column[int(column.argmax())] -= 1.0

    return changed(log, "behavior_log_prob", halve)


def uncalibrated(log: st.Dataset) -> st.Dataset:
    # Each row's probabilities handed on to the next action.
    return changed(log, "behavior_probs", lambda probs: np.roll(probs, 1, axis=1))


def handed_over(log: st.Dataset) -> st.Dataset:
    # All of action 7's probability given to action 8.
    def hand_over(probs: np.ndarray) -> None:
        probs[:, 8] += probs[:, 7]
        probs[:, 7] = 0

    return changed(log, "behavior_probs", hand_over)


def unused(log: st.Dataset) -> st.Dataset:
    return changed(log, "action", lambda action: np.where(action == 4, 5, action).astype(action.dtype))


def rare(log: st.Dataset) -> st.Dataset:
    def leave_one(action: np.ndarray) -> None:
        action[action == 4] = 5
        action[11] = 4

    return changed(log, "action", leave_one)


def constant_observation(log: st.Dataset) -> st.Dataset:
    return changed(log, "observation_table", lambda table: table.__setitem__((slice(None), 6), 2.0))


def constant_return(log: st.Dataset) -> st.Dataset:
    return changed(log, "reward", lambda reward: reward.fill(0))


def cut(log: st.Dataset) -> st.Dataset:
    last = log.episode_start[1] - 1
    ended = changed(log, "terminated", lambda column: column.__setitem__(last, False))
    return changed(ended, "truncated", lambda column: column.__setitem__(last, True))


def copies(log: st.Dataset) -> st.Dataset:
    return log.select_episodes([*range(480), *range(20)])


def gap(log: st.Dataset) -> st.Dataset:
    """A row is followed, it says, by what some other row saw."""
    rows = np.flatnonzero(log.continues)
    following = log.next_observation_index.copy()
    other = np.flatnonzero(log.observation_index != following[rows[0]])[0]
    following[rows[0]] = log.observation_index[other]
    return dataclasses.replace(log, next_observation_index=following)


def step_lost(log: st.Dataset) -> st.Dataset:
    """In the first episode of three rows or more, the last step comes two later."""
    last = log.episode_start[1:][np.diff(log.episode_start) >= 3][0] - 1
    return changed(log, "step", lambda step: step.__setitem__(last, step[last - 1] + 3))


def time_back(log: st.Dataset) -> st.Dataset:
    time = np.arange(log.num_transitions)
    second = log.episode_start[:-1][np.diff(log.episode_start) >= 2][0] + 1
    time[second] -= 2
    return dataclasses.replace(log, time=time)


def last_observation_missing(log: st.Dataset) -> st.Dataset:
    """The last row is cut, and what came after it has a NaN that no row of the log observed."""
    return dataclasses.replace(
        cut_last(log),
        observation_table=np.concatenate([log.observation_table, np.full_like(log.observation_table[:1], np.nan)]),
        next_observation_index=np.append(log.next_observation_index[:-1], len(log.observation_table)).astype(np.int32),
    )


def last_observation_infinite(log: st.Dataset) -> st.Dataset:
    log = last_observation_missing(log)
    return changed(log, "observation_table", lambda table: np.where(np.isnan(table), np.inf, table))


def cut_last(log: st.Dataset) -> st.Dataset:
    ended = changed(log, "terminated", lambda column: column.__setitem__(-1, False))
    return changed(ended, "truncated", lambda column: column.__setitem__(-1, True))


def weighed(log: st.Dataset) -> st.Dataset:
    return dataclasses.replace(log, weight=np.ones(log.num_transitions, np.float32))


def grouped(log: st.Dataset) -> st.Dataset:
    """One patient in ten comes back once."""
    return dataclasses.replace(log, group=np.arange(log.num_episodes) * 10 // 11)


def few_groups(log: st.Dataset) -> st.Dataset:
    """All episodes are of a hundred patients."""
    return dataclasses.replace(log, group=np.arange(log.num_episodes) % 100)


def one_large_group(log: st.Dataset) -> st.Dataset:
    """A tenth of the episodes is one machine's."""
    return dataclasses.replace(log, group=np.maximum(np.arange(log.num_episodes) - log.num_episodes // 10, 0))


FAULTS: list[tuple[str, Callable[[st.Dataset], st.Dataset], str, str]] = [
    ("logged_action_outside_mask", mask_forbids, "action-outside-mask", "error"),
    ("empty_mask", mask_empty, "empty-mask", "error"),
    ("propensities_missing", no_propensities, "propensities-missing", "info"),
    ("propensities_impossible", impossible, "propensity-impossible", "error"),
    ("propensities_impossible", above_one, "propensity-impossible", "error"),
    ("propensities_disagree", disagreeing, "propensities-disagree", "error"),
    ("propensities_uncalibrated", uncalibrated, "propensities-uncalibrated", "error"),
    ("actions_unused", unused, "action-unused", "info"),
    (
        "actions_unused",
        lambda log: dataclasses.replace(unused(log), action_mask=None),
        "action-unused",
        "warning",
    ),
    ("actions_unused", rare, "action-rare", "info"),
    ("observation_constant", constant_observation, "observation-constant", "warning"),
    ("returns_constant", constant_return, "returns-constant", "error"),
    ("cut_without_next", cut, "cut-without-next-observation", "warning"),
    ("episodes_of_one_step", lambda log: bandit_log(), "episodes-of-one-step", "warning"),
    ("few_episodes", lambda log: log.select_episodes(range(99)), "few-episodes", "warning"),
    ("duplicated_episodes", copies, "episodes-duplicated", "warning"),
    ("rows_missing", gap, "rows-missing", "warning"),
    ("steps_missing", step_lost, "steps-missing", "warning"),
    ("time_backwards", time_back, "time-backwards", "warning"),
    ("missing_values", last_observation_missing, "missing-values", "error"),
    ("infinite_values", last_observation_infinite, "infinite-values", "error"),
    ("weights_unused", weighed, "weight-unused", "warning"),
    ("groups_of_several_episodes", grouped, "episodes-in-groups", "info"),
    ("groups_of_several_episodes", few_groups, "episodes-in-groups", "warning"),
    ("groups_of_several_episodes", one_large_group, "episodes-in-groups", "warning"),
]


ELSEWHERE = {"reward_sparse", "behavior_random", "reader_notes"}
"""Checks whose findings are planted in tests of their own below."""


def test_every_check_has_a_fault_planted_for_it() -> None:
    planted = {name for fault in corpus.FAULTS for name in corpus.CHECKS_OF_CODE[fault.code]}
    assert {name for name, *_ in FAULTS} | planted | ELSEWHERE == set(BY_NAME)


@pytest.fixture(scope="module")
def clean_audits() -> dict[str, Audit]:
    """A full audit of each clean log."""
    return {name: st.audit(log) for name, log in corpus.clean_logs().items()}


@pytest.fixture(scope="module")
def clean_codes(clean_audits: dict[str, Audit]) -> dict[str, set[str]]:
    """What it says of each."""
    return {name: {finding.code for finding in audit.findings} for name, audit in clean_audits.items()}


def test_the_clean_logs_have_few_findings(clean_audits: dict[str, Audit], clean_codes: dict[str, set[str]]) -> None:
    for audit in clean_audits.values():
        assert audit.verdict != "not usable"
        json.dumps(audit.to_dict(), allow_nan=False)
    assert clean_codes == {
        "hospital": set(),
        "control": set(),
        "bandit": {"reward-sparse", "episodes-of-one-step"},
    }


@pytest.mark.parametrize("fault", corpus.FAULTS, ids=lambda f: f"{f.log}-{f.name}".replace(" ", "-"))
def test_a_fault_of_the_corpus_is_found(clean_codes: dict[str, set[str]], fault: corpus.Fault) -> None:
    assert fault.code not in clean_codes[fault.log]
    log, against = fault.spoiled(corpus.clean_logs()[fault.log])
    facts = Facts(log, against)
    found = [f for name in corpus.CHECKS_OF_CODE[fault.code] for f in BY_NAME[name](log, facts)]
    assert fault.code in {finding.code for finding in found}
    assert all(f.where and f.seen and f.expected and f.action for f in found)


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus.FAULTS) >= 40
    assert {fault.log for fault in corpus.FAULTS} == set(corpus.clean_logs())


@pytest.mark.parametrize("name", ["infinite rewards", "actions lost"])
def test_a_log_spoiled_by_numbers_is_audited_to_the_end(name: str) -> None:
    fault = next(f for f in corpus.FAULTS if f.name == name)
    log, _ = fault.spoiled(corpus.clean_logs()[fault.log])
    audit = st.audit(log)
    assert fault.code in {finding.code for finding in audit.findings}
    json.dumps(audit.to_dict(), allow_nan=False)


def test_few_clicks_are_said_to_be_few() -> None:
    (found,) = BY_NAME["reward_sparse"](log := corpus.clean_logs()["bandit"], Facts(log))
    clicks = int(log.reward.sum())
    assert found.severity == "warning"
    assert found.seen.startswith(f"{clicks} of 10,000 episodes")


def test_uniform_actions_are_recognised() -> None:
    log = random_log(800, with_masks=False)
    (found,) = BY_NAME["behavior_random"](log, Facts(log))
    assert (found.code, found.severity) == ("behavior-random", "info")


def test_what_the_reader_mended_is_said() -> None:
    log = tiny_log()
    object.__setattr__(log, "notes", ("Read as Parquet.", "1,203 rows were out of order and were sorted by step."))
    (found,) = BY_NAME["reader_notes"](log, Facts(log))
    assert (found.code, found.severity) == ("reader-note", "info")
    assert found.seen == "1,203 rows were out of order and were sorted by step"


# --- the order of rows, by hand ---------------------------------------------------------------------------------------


def counted(step: list[int], time: list[float] | None = None) -> st.Dataset:
    """Nine rows, episodes of five and four, with these steps and times."""
    log = random_log(2).select_episodes([0])
    count = len(step)
    index = np.zeros(count, np.int32)
    return dataclasses.replace(
        log,
        observation_index=index,
        next_observation_index=index,
        action=index,
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, bool),
        truncated=np.zeros(count, bool),
        action_mask=None,
        step=np.array(step),
        time=None if time is None else np.array(time),
        episode_start=np.array([0, 5, 9]),
        episode_id=np.array([1, 2]),
    )


@pytest.mark.parametrize("rows", [2, 3, 2**16])
def test_a_jump_of_the_steps_by_hand(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    log = counted([0, 1, 2, 5, 6, 8, 9, 10, 11])  # row 5 begins an episode: no jump
    (found,) = BY_NAME["steps_missing"](log, Facts(log))
    assert (found.code, found.severity, found.where) == ("steps-missing", "warning", "step: row 2 and 0 more")
    assert (
        found.seen == "after 14.3% of rows inside episodes the step jumps by more than one, which skips 2 steps in all"
    )  # 1 of 7


@pytest.mark.parametrize(
    "step", [[0, 4, 8, 12, 20, 0, 4, 8, 9], [0, 1, 2, 3, 4, 0, 1, 2, 3], [7, 7, 7, 7, 7, 7, 7, 7, 7]]
)
def test_steps_that_do_not_count_one_by_one_may_jump(step: list[int]) -> None:
    log = counted(step)
    assert list(BY_NAME["steps_missing"](log, Facts(log))) == []


@pytest.mark.parametrize("rows", [2, 3, 2**16])
def test_time_that_goes_back_by_hand(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    step = [0, 1, 2, 3, 4, 0, 1, 1, 2]
    log = counted(
        step, [10, 11, 11, 9, 12, 1, 5, 4, 3]
    )  # row 7 goes back at the same step, rows 3 and 8 at a later one
    (found,) = BY_NAME["time_backwards"](log, Facts(log))
    assert (found.code, found.severity) == ("time-backwards", "warning")
    assert found.where == "time, step: row 3 and 1 more"
    assert found.seen.startswith("28.6% of rows inside episodes")  # 2 of 7
    forward = counted(step, [10, 11, 11, 12, np.nan, 1, 5, 6, 7])
    assert list(BY_NAME["time_backwards"](forward, Facts(forward))) == []


@pytest.mark.parametrize("rows", [2, 2**16])
def test_last_observations_are_looked_at_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    table = np.zeros((4, 3), np.float32)
    table[1] = [0, np.nan, 0]  # row 2 saw it: counted by the scan
    table[2] = [np.nan, np.inf, 0]  # followed rows 4 and 8
    log = counted(list(range(9)))
    seen, following = np.zeros(9, np.int32), np.zeros(9, np.int32)
    seen[2] = 1
    following[[1, 6]], following[[4, 8]] = 1, 2
    log = dataclasses.replace(log, observation_table=table, observation_index=seen, next_observation_index=following)
    last = Facts(log).last_observations
    assert last is not None
    assert last.missing.tolist() == [1, 0, 0]
    assert last.infinite.tolist() == [0, 1, 0]
    assert (last.first_missing, last.first_infinite) == (4, 4)
    inside, after = BY_NAME["missing_values"](log, Facts(log))
    assert (inside.where, inside.seen) == ("observation: columns 1, row 2 first", "1 value is NaN")
    assert (after.where, after.seen) == ("next_observation: columns 0, row 4 first", "1 value is NaN")


# --- sound logs that look like leaks ----------------------------------------------------------------------------------


def test_a_rule_of_one_column_is_asked_about() -> None:
    """Triage: the level seen is the action taken, in all rows."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, 600)
    columns = {
        "episode": np.repeat(np.arange(200), 3),
        "observation": np.stack([rng.normal(size=600), level], 1).astype(np.float32),
        "action": level.astype(np.int32),
        "reward": rng.normal(size=600).astype(np.float32),
        "terminated": np.tile([False, False, True], 200),
    }
    log = st.read(columns, schema_of(columns))
    (found,) = BY_NAME["leaks_action"](log, Facts(log))
    assert (found.code, found.severity) == ("observation-leaks-action", "warning")
    assert found.where == "observation: columns 1"
    assert found.seen == "1 column equals the action of the same row"
    assert st.audit(log).verdict != "not usable"


@pytest.mark.parametrize("values", [2, 50])
def test_a_reward_of_the_context_is_no_error_in_one_step_logs(values: int) -> None:
    rng = np.random.default_rng(0)
    price = rng.integers(0, values, 600)
    columns = {
        "episode": np.arange(600),
        "observation": np.stack([rng.normal(size=600), price], 1).astype(np.float32),
        "action": rng.integers(0, 3, 600).astype(np.int32),
        "reward": price.astype(np.float32),
        "terminated": np.ones(600, bool),
    }
    log = st.read(columns, schema_of(columns))
    (found,) = BY_NAME["leaks_outcome"](log, Facts(log))
    assert (found.code, found.severity, found.where) == (
        "observation-leaks-outcome",
        "warning",
        "observation: columns 1",
    )
    assert st.audit(log).verdict != "not usable"


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("discharge code among features", "error"),  # known before the last of several steps
        ("clicks among features", "warning"),  # one step an episode
        ("the dose among features", "warning"),
        ("the item among features", "warning"),
    ],
)
def test_severities_of_leaks_in_the_corpus(name: str, severity: str) -> None:
    fault = next(f for f in corpus.FAULTS if f.name == name)
    log, _ = fault.spoiled(corpus.clean_logs()[fault.log])
    found = [f for check in corpus.CHECKS_OF_CODE[fault.code] for f in BY_NAME[check](log, Facts(log))]
    assert [(f.code, f.severity) for f in found] == [(fault.code, severity)]


# --- very many actions ------------------------------------------------------------------------------------------------


def catalogue(actions: int, rows: int, *, steps: int = 6) -> st.Dataset:
    """Episodes of `steps` items of a catalogue, drawn evenly but for item 7, which every third row shows."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, actions, rows)
    item[::3] = 7
    columns = {
        "episode": np.arange(rows) // steps,
        "observation": rng.normal(size=(rows, 4)).astype(np.float32),
        "action": item.astype(np.int32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminated": np.arange(rows) % steps == steps - 1,
    }
    return st.read(columns, schema_of(columns, num_actions=actions))


@pytest.mark.parametrize(("actions", "rows"), [(10_000, 102_000), (65_536, 60_000)])
def test_very_many_actions_fit_in_memory(actions: int, rows: int) -> None:
    log = catalogue(actions, rows)
    tracemalloc.start()
    try:
        audit = st.audit(log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e8  # rows of the sample times actions would be 2.6e9 and more
    numbers = audit.numbers
    assert len(numbers["action_counts"]) == actions
    coverage, drift = numbers["coverage"], numbers["drift"]
    assert len(coverage["actions"]) == 100
    assert 7 in coverage["actions"]
    place = coverage["actions"].index(7)
    np.testing.assert_allclose(np.array(coverage["matrix"])[:, place], 1 / 3, atol=0.06)
    assert drift["action"] is None
    assert np.shape(drift["common_actions"]["share"]) == (10, 100)
    # entropy of a third on one item: at least that of the coin, 3^(1/3) * 1.5^(2/3) = 1.89 actions
    assert numbers["randomness"]["effective_actions"] > 1.89
    assert numbers["randomness"]["allowed_actions"] == actions
    json.dumps(audit.to_dict(), allow_nan=False)


def test_change_of_actions_by_hand() -> None:
    """Forty episodes of two rows: the first twenty take action 3, of the others every second takes 3, the rest 9."""
    action = np.repeat([3] * 20 + [3, 9] * 10, 2)
    columns = {
        "episode": np.repeat(np.arange(40), 2),
        "observation": np.arange(80, dtype=np.float32)[:, None],
        "action": action.astype(np.int32),
        "reward": np.arange(80, dtype=np.float32),
        "terminated": np.tile([False, True], 40),
    }
    log = st.read(columns, schema_of(columns, num_actions=1000))
    facts = Facts(log)
    ((cut, before, after, error),) = _sides_of_actions(facts, facts.sample, (action == 9).astype(np.int64))
    assert cut == 5
    np.testing.assert_allclose(before, [1, 0])
    np.testing.assert_allclose(after, [0.5, 0.5])
    np.testing.assert_allclose(error, 20 * (2 - 0.5 * 2) ** 2 / 40**2)


def test_randomness_with_masks_by_hand() -> None:
    """One region; action 0 in half of the rows, 1 and 2 in a quarter each. Where 2 is forbidden, 2/3 and 1/3 are left."""
    action = np.tile([0, 1, 0, 2], 300).astype(np.int32)
    mask = np.ones((1200, 3), bool)
    mask[1::4, 2] = False  # forbidden where action 1 is taken
    columns = {
        "episode": np.arange(1200),
        "observation": np.ones((1200, 1), np.float32),
        "action": action,
        "reward": np.arange(1200, dtype=np.float32),
        "terminated": np.ones(1200, bool),
        "action_mask": mask,
    }
    log = st.read(columns, schema_of(columns))
    found = randomness(Facts(log))
    small = 2 / (2 * 1200)  # Miller and Madow
    free = np.exp(1.5 * np.log(2) + small)
    bound = np.exp(np.log(3) - 2 / 3 * np.log(2) + small)
    assert found.effective_actions == pytest.approx(0.75 * free + 0.25 * bound)
    assert found.allowed_actions == 2.75


# --- facts by hand ---------------------------------------------------------------------------------------------------


def test_the_scan_by_blocks_agrees_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(300, with_masks=True)
    whole = Facts(log).scan
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", 7)
    scan = Facts(log).scan
    seen, returns = log.observation.astype(float), log.episode_returns()
    assert scan.observation is not None
    np.testing.assert_allclose(scan.observation.mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scan.observation.spread, seen.std(0), rtol=1e-6)
    np.testing.assert_array_equal(scan.observation.low, seen.min(0))
    np.testing.assert_array_equal(scan.observation.high, seen.max(0))
    np.testing.assert_allclose(scan.returns, returns, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(scan.action_counts.sum(0), np.bincount(log.action, minlength=3))
    assert scan.cut == int((~log.can_bootstrap).sum())
    assert scan.gaps == whole.gaps == 0
    np.testing.assert_array_equal(scan.episode_hash, whole.episode_hash)
    np.testing.assert_array_equal(scan.row_hash, whole.row_hash)
    tenth = np.arange(len(seen)) * 10 // len(seen)
    np.testing.assert_allclose(scan.observation.part_mean[3], seen[tenth == 3].mean(0), rtol=1e-6)
    assert len(np.unique(scan.episode_hash)) == log.num_episodes


def test_copies_are_counted_in_a_sample_of_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one row in so many is kept, copies are kept together, so their share stays right."""
    log = corpus.copied_episodes(corpus.clean_logs()["control"], 0.2)
    monkeypatch.setattr("stitchrl.auditing.scan.KEPT_HASHES", 2000)
    facts = Facts(log)
    assert facts.scan.every == 9
    share = 1 - len(np.unique(facts.scan.row_hash)) / len(facts.scan.row_hash)
    assert share == pytest.approx(0.2, abs=0.04)


def test_an_audit_reads_large_arrays_in_blocks(clean: st.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: st.Dataset) -> None:
        raise AssertionError("an N x D array was made")

    for name in ("observation", "next_observation", "can_bootstrap", "episode_of_transition", "position"):
        monkeypatch.setattr(type(clean), name, property(whole))
    st.audit(clean)


def test_numbers_for_pictures(clean_audits: dict[str, Audit]) -> None:
    for name, log in corpus.clean_logs().items():
        numbers = clean_audits[name].numbers
        coverage, drift = numbers["coverage"], numbers["drift"]
        assert len(coverage["matrix"]) == len(coverage["regions"]) == len(coverage["row_share"])
        assert sum(coverage["row_share"]) == pytest.approx(1)
        assert len(drift["reward"]) == len(drift["observation_shift"]) == len(drift["action"]) == 10
        assert sum(drift["rows"]) == log.num_transitions
        assert len(numbers["columns"]) == log.observation_size
        if name == "bandit":
            assert drift["order"] == "time"
            np.testing.assert_allclose(np.sum(coverage["matrix"], 1), 1, rtol=1e-6)


def test_random_share_of_a_mixed_log() -> None:
    log = corpus.random_torques(corpus.clean_logs()["control"], 0.7)
    assert randomness(Facts(log)).random_share == pytest.approx(0.7, abs=0.15)


def test_densities_above_one_are_no_fault() -> None:
    log = corpus.clean_logs()["control"]
    dense = changed(log, "behavior_log_prob", lambda column: column + 5)
    assert list(BY_NAME["propensities_impossible"](dense, Facts(dense))) == []


def test_declared_bounds_are_enforced() -> None:
    log = corpus.clean_logs()["control"]

    @dataclasses.dataclass(frozen=True)
    class Bounded(type(log.schema)):  # type: ignore[misc]
        action_low: tuple[float, ...] = (-1.0,)
        action_high: tuple[float, ...] = (1.0,)

    fields = {f.name: getattr(log.schema, f.name) for f in dataclasses.fields(log.schema)}
    fields |= {"action_low": (-1.0,), "action_high": (1.0,)}
    bounded = dataclasses.replace(log, schema=Bounded(**fields))
    (found,) = BY_NAME["action_outside_bounds"](bounded, Facts(bounded))
    assert (found.code, found.severity) == ("action-outside-bounds", "error")


def test_two_parts_of_a_log_do_not_overlap() -> None:
    for log in corpus.clean_logs().values():
        train, _, test = log.split(seed=0)
        facts = Facts(train, test)
        assert [*BY_NAME["episodes_in_both"](train, facts), *BY_NAME["rows_in_both"](train, facts)] == []


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_finding(clean: st.Dataset, width: int) -> None:
    audit = st.audit(constant_observation(mask_forbids(clean)))
    console = Console(width=width, record=True, file=io.StringIO())
    print_audit(audit.to_dict(), console)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "not usable" in text.splitlines()[0]
    for finding in audit.findings:
        assert finding.code in text
        assert finding.severity in text


@pytest.mark.parametrize(
    ("name", "plant", "code", "severity"), FAULTS, ids=[f"{f[0]}-{k}" for k, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(
    clean: st.Dataset, name: str, plant: Callable[[st.Dataset], st.Dataset], code: str, severity: str
) -> None:
    assert code not in {finding.code for finding in BY_NAME[name](clean, Facts(clean))}
    log = plant(clean)
    found = [finding for finding in BY_NAME[name](log, Facts(log)) if finding.code == code]
    assert len(found) == 1
    assert found[0].severity == severity
    for text in (found[0].where, found[0].seen, found[0].expected, found[0].action):
        assert text
    # The whole audit says it too.
    audit = st.audit(log)
    assert code in {finding.code for finding in audit.findings}
    if severity == "error":
        assert audit.verdict == "not usable"


def test_findings_say_where(clean: st.Dataset) -> None:
    def only(name: str, log: st.Dataset) -> Finding:
        (finding,) = BY_NAME[name](log, Facts(log))
        return finding

    assert only("logged_action_outside_mask", mask_forbids(clean)).where == "action, action_mask: row 5 and 1 more"
    assert only("empty_mask", mask_empty(clean)).where == "action_mask: row 7"
    assert only("propensities_impossible", impossible(clean)).where == "behavior_log_prob: row 3 and 0 more"
    calibration = only("propensities_uncalibrated", handed_over(clean))
    assert calibration.where == "behavior_probs: action 7"
    assert f"logged {(clean.action == 7).sum():,} times, while its propensities sum to 0 " in calibration.seen
    assert only("observation_constant", constant_observation(clean)).where == "observation: columns 6"
    assert only("cut_without_next", cut(clean)).seen.startswith("1 of 1 truncated episodes")
    assert only("duplicated_episodes", copies(clean)).code == "episodes-duplicated"


def test_a_clean_log_has_no_errors(clean: st.Dataset) -> None:
    audit = st.audit(clean)
    assert [finding.code for finding in audit.findings if finding.severity == "error"] == []
    assert audit.verdict != "not usable"
    assert audit.checks == tuple(check.__name__ for check in CHECKS)


def test_a_random_log_with_known_cuts_has_no_errors() -> None:
    audit = st.audit(random_log(120, with_masks=False))
    assert audit.verdict == "usable"
    assert [finding.code for finding in audit.findings] == ["propensities-missing"]


def test_facts_of_a_log_by_hand() -> None:
    numbers = st.audit(tiny_log()).numbers
    assert (numbers["episodes"], numbers["transitions"], numbers["observation_size"]) == (3, 6, 2)
    assert numbers["num_actions"] == 3
    assert numbers["mean_return"] == pytest.approx((7 + 2 + 0.5) / 3)
    assert numbers["mean_length"] == 2.0
    assert numbers["action_counts"] == [3, 2, 1]
    assert numbers["truncated_episodes"] == 1
    assert numbers["behavior_source"] == "fitted"
    assert numbers["action_allowed_share"] is None
    lengths = numbers["length_hist"]
    assert sum(lengths["counts"]) == 3
    assert len(lengths["edges"]) == len(lengths["counts"]) + 1
    assert sum(numbers["return_hist"]["counts"]) == 3


# --- what the numbers mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "chance", "said"),
    [
        (
            {"near_deterministic_share": 0.9, "effective_actions": 1.1, "allowed_actions": 3.0},
            0.05,
            "Close to no chance",
        ),
        (
            {"near_deterministic_share": 0.51, "effective_actions": 2.0, "allowed_actions": 3.0},
            0.5,
            "Close to no chance",
        ),
        ({"near_deterministic_share": 0.5, "effective_actions": 2.0, "allowed_actions": 3.0}, 0.5, "Much chance"),
        ({"effective_actions": 1.08, "allowed_actions": 3.0}, 0.04, "Close to no chance"),
        ({"effective_actions": 1.5, "allowed_actions": 3.0}, 0.25, "Some chance"),
        ({"effective_actions": 2.2, "allowed_actions": 3.0}, 0.6, "Much chance"),
        ({"effective_actions": 2.95, "allowed_actions": 3.0}, 0.975, "Close to uniformly random"),
        ({"effective_actions": 1.0, "allowed_actions": 1.0}, 0.0, "Close to no chance"),
        ({"relative_spread": 1.06, "random_share": 0.0}, 1.0, "but not like uniformly random actions"),
        ({"relative_spread": 0.98, "random_share": 1.0}, 0.98, "Close to uniformly random"),
        ({}, None, ""),
    ],
)
def test_randomness_is_put_in_words(numbers: dict[str, float], chance: float | None, said: str) -> None:
    found = Randomness(**numbers)
    assert found.chance == (None if chance is None else pytest.approx(chance))
    assert said in found.meaning
    assert bool(found.meaning) == bool(said)
    assert set(found.explanations) == set(numbers) - {"allowed_actions"}


@pytest.mark.parametrize(
    ("numbers", "said", "proven"),
    [
        ({"random_share": 0.4, "gain": 0.03}, "counts as none", False),
        ({"random_share": 0.4, "gain": 3.0}, "The evidence for such a mixture is 3.00 nats per episode", True),
        ({"random_share": 0.98, "gain": 3.0}, "look like uniformly random actions", False),
        ({"random_share": 0.0, "gain": 3.0}, "look like uniformly random actions", False),
        ({"random_share": 1.0}, "look like uniformly random actions", False),
    ],
)
def test_a_share_of_random_episodes_needs_evidence(numbers: dict[str, float], said: str, proven: bool) -> None:
    found = Randomness(**numbers)
    assert said in found.explanations["random_share"]
    assert found.proven_mixture is proven
    assert ("follow a policy" in found.explanations["random_share"]) == (numbers["random_share"] == 0.4)


@pytest.mark.parametrize(
    ("change", "distinct"),
    [({}, True), ({"gain": 9.0}, False), ({"separation": 1.9}, False), ({"share": (0.005, 0.995)}, False)],
)
def test_two_modes_are_said_only_beyond_doubt(change: dict[str, Any], distinct: bool) -> None:
    whole = {"share": (0.3, 0.7), "mean": (15.0, 8.0), "spread": (1.0, 1.0), "gain": 50.0, "separation": 7.0}
    modes = Modes(**(whole | change))
    assert modes.distinct is distinct
    assert ("30% of episodes return around 15, the other 70% around 8." in modes.sentence) == distinct
    assert bool(modes.sentence) == distinct


def test_the_words_of_an_audit_go_with_its_numbers(clean_audits: dict[str, Audit]) -> None:
    numbers = clean_audits["control"].to_dict()["numbers"]
    found = Randomness(**{f.name: numbers["randomness"][f.name] for f in dataclasses.fields(Randomness)})
    assert numbers["randomness"]["meaning"] == found.meaning != ""
    assert numbers["randomness"]["explanations"] == found.explanations
    modes = numbers["return_modes"]
    assert (
        modes["sentence"]
        == Modes(
            *(tuple(modes[k]) for k in ("share", "mean", "spread")), modes["bic_gain"], modes["separation"]
        ).sentence
    )
    coverage = numbers["coverage"]
    assert coverage["thin"] == [share < coverage["thin_below"] for share in coverage["row_share"]]


@pytest.mark.parametrize("value", [0.0, 0.3, 7.0])
def test_histograms_of_equal_returns_hold_every_episode(value: float) -> None:
    log = random_log(10, constant_reward=0.0)
    last = log.episode_start[1:] - 1
    log = changed(log, "reward", lambda reward: reward.__setitem__(last, value))
    histogram = st.audit(log).numbers["return_hist"]
    assert sum(histogram["counts"]) == 10


def test_an_audit_is_plain_json(clean: st.Dataset) -> None:
    audit = st.audit(mask_forbids(clean))
    content = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert content["verdict"] == "not usable"
    assert content["findings"][0]["code"] == "action-outside-mask"
    assert content["numbers"]["episodes"] == 500


def finding(severity: str) -> Finding:
    return Finding(f"code-{severity}", severity, "column x", "this", "that", "Do it.")


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        ([], "usable"),
        (["info"], "usable"),
        (["info", "warning"], "usable with care"),
        (["warning"], "usable with care"),
        (["error"], "not usable"),
        (["info", "warning", "error"], "not usable"),
    ],
)
def test_verdict_is_that_of_the_worst_finding(severities: list[str], verdict: str) -> None:
    audit = Audit(tuple(finding(severity) for severity in severities), ("a", "b"), {})
    assert audit.verdict == verdict
    content = audit.to_dict()
    assert content["verdict"] == verdict
    assert content["worst"] == next((s for s in SEVERITIES if s in severities), None)
    assert content["counts"] == {severity: severities.count(severity) for severity in SEVERITIES}
    assert list(content["counts"]) == list(SEVERITIES)
    assert content["meaning"].endswith(".")
    text = str(audit)
    assert text.startswith(f"log: {verdict} (2 checks, {len(severities)} findings)")
    assert all(f"code-{severity}: column x: this; expected that. Do it." in text for severity in severities)


@pytest.mark.parametrize(
    ("severities", "checks", "summary"),
    [
        ([], 1, "1 check found nothing to report."),
        (["warning"], 2, "2 checks found 1 warning."),
        (["error", "error", "warning", "info", "info"], 60, "60 checks found 2 errors, 1 warning and 2 notes."),
        (["info", "warning"], 60, "60 checks found 1 warning and 1 note."),
    ],
)
def test_an_audit_sums_up_in_a_sentence(severities: list[str], checks: int, summary: str) -> None:
    audit = Audit(tuple(finding(severity) for severity in severities), ("check",) * checks, {})
    assert audit.summary == audit.to_dict()["summary"] == summary


def test_findings_come_most_harmful_first(clean: st.Dataset) -> None:
    log = constant_observation(mask_forbids(clean)).select_episodes(range(50))
    ranks = [SEVERITIES.index(finding.severity) for finding in st.audit(log).findings]
    assert ranks == sorted(ranks)
    assert {0, 1} <= set(ranks)
