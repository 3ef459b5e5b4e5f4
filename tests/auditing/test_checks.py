"""Every check finds the fault that is planted for it, and nothing harmful in a clean log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import audit_corpus as corpus
import numpy as np
import pytest
import small_faults as small
import treatment_faults as treatment
from worlds import random_log, schema_of, tiny_log

import stitchrl as st
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.places import region_names

BY_NAME = {check.__name__: check for check in CHECKS}
ELSEWHERE = {
    "reward_sparse",
    "behavior_random",
    "reader_notes",
    "history_decides_actions",
    "history_decides_outcomes",
    "common_cause_hinted",
    "removed_column_revealed",
}
"""Checks whose findings are planted in tests of their own: below, in test_history.py and in test_left_out.py."""
ALL_FAULTS = (*corpus.FAULTS, *treatment.FAULTS)
CHECKS_OF_CODE = corpus.CHECKS_OF_CODE | treatment.CHECKS_OF_CODE


def test_every_check_has_a_fault_planted_for_it() -> None:
    planted = {name for fault in ALL_FAULTS for name in CHECKS_OF_CODE[fault.code]}
    assert {name for name, *_ in small.SMALL_FAULTS} | planted | ELSEWHERE == set(BY_NAME)


@pytest.mark.parametrize("fault", ALL_FAULTS, ids=lambda f: f"{f.log}-{f.name}".replace(" ", "-"))
def test_a_fault_of_the_corpus_is_found(clean_codes: dict[str, set[str]], fault: corpus.Fault) -> None:
    assert fault.code not in clean_codes[fault.log]
    log, against = fault.spoiled(corpus.clean_logs()[fault.log])
    facts = Facts(log, against)
    found = [f for name in CHECKS_OF_CODE[fault.code] for f in BY_NAME[name](log, facts)]
    assert fault.code in {finding.code for finding in found}
    assert all(f.where and f.seen and f.expected and f.action for f in found)


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus.FAULTS) >= 40
    assert {fault.log for fault in corpus.FAULTS} == set(corpus.clean_logs())


@pytest.mark.parametrize(
    ("name", "plant", "code", "severity"),
    small.SMALL_FAULTS,
    ids=[f"{f[0]}-{k}" for k, f in enumerate(small.SMALL_FAULTS)],
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
    # The whole audit runs every check that is registered; that it says so is asked of errors, which change its verdict.
    first = next(fault for _, fault, other, _ in small.SMALL_FAULTS if other == code)
    if severity == "error" and plant is first:
        audit = st.audit(log)
        assert code in {finding.code for finding in audit.findings}
        assert audit.verdict == "not usable"


def test_findings_say_where(clean: st.Dataset) -> None:
    def only(name: str, log: st.Dataset) -> Finding:
        (finding,) = BY_NAME[name](log, Facts(log))
        return finding

    assert (
        only("logged_action_outside_mask", small.mask_forbids(clean)).where == "action, action_mask: row 5 and 1 more"
    )
    assert only("empty_mask", small.mask_empty(clean)).where == "action_mask: row 7"
    assert only("propensities_impossible", small.impossible(clean)).where == "behavior_log_prob: row 3"
    calibration = only("propensities_uncalibrated", small.handed_over(clean))
    assert calibration.where == "behavior_probs: action 7"
    assert f"logged {(clean.action == 7).sum():,} times, while its propensities sum to 0 " in calibration.seen
    assert only("observation_constant", small.constant_observation(clean)).where == "observation: column 6"
    assert only("cut_without_next", small.cut(clean)).seen.startswith("1 of 1 truncated episodes")
    assert only("duplicated_episodes", small.copies(clean)).code == "episodes-duplicated"


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


def test_few_clicks_are_said_to_be_few() -> None:
    (found,) = BY_NAME["reward_sparse"](log := corpus.clean_logs()["bandit"], Facts(log))
    clicks = int(log.reward.sum())
    assert found.severity == "warning"
    assert found.seen.startswith(f"{clicks} of 10,000 decisions")


def test_two_categories_of_one_column_are_no_duplicates() -> None:
    """One-hot columns of two categories complete each other by construction; the same columns by other names do not."""
    log = random_log(60, with_masks=False)
    flag = (np.arange(len(log.observation_table)) % 3 == 0).astype(np.float32)
    log = dataclasses.replace(log, observation_table=np.stack([flag, 1 - flag], axis=1))
    for names, found in ((("sex=f", "sex=m"), 0), (("sex=f", "site=b"), 1)):
        named = dataclasses.replace(log, observation_names=names)
        assert len(list(BY_NAME["observation_twins"](named, Facts(named)))) == found


def test_regions_are_named_by_what_tells_them_apart() -> None:
    """A category is named as such, and never by its complement; two regions at the same end get a second column each."""
    log = random_log(800, with_masks=False)
    rng = np.random.default_rng(0)
    sex, age = rng.random(len(log.observation_table)) < 0.1, rng.choice([0.0, 1.0, 9.0], len(log.observation_table))
    table = np.stack([sex, ~sex, age], axis=1).astype(np.float32)
    log = dataclasses.replace(log, observation_table=table, observation_names=("sex=f", "sex=m", "age"))
    names = region_names(Facts(log))
    assert len(names) == len(set(names))
    assert not any("high sex" in name or "low sex" in name for name in names)
    assert any("sex=f" in name or "sex=m" in name for name in names), names


@pytest.mark.parametrize(("late", "code"), [(-1.0, "returns-multimodal"), (-5.0, "quality-drowned")])
def test_short_episodes_are_no_better_behaviour(late: float, code: str) -> None:
    """Every decision costs 1: the few that end early return more, and are no better unless the others cost more a decision."""
    rng = np.random.default_rng(0)
    length = np.where(rng.random(400) < 0.08, 2, 12)
    last = np.cumsum(length) - 1
    count = int(length.sum())
    columns = {
        "episode": np.repeat(np.arange(400), length),
        "observation": rng.normal(size=(count, 3)).astype(np.float32),
        "action": rng.integers(0, 3, count),
        "reward": np.where(np.repeat(length, length) == 2, -1.0, late) + rng.normal(0, 0.2, count),
        "terminated": np.isin(np.arange(count), last),
    }
    log = st.read(columns, schema_of(columns))
    (found,) = BY_NAME["returns_multimodal"](log, Facts(log))
    assert found.code == code


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


def test_densities_above_one_are_no_fault() -> None:
    log = corpus.clean_logs()["control"]
    dense = small.changed(log, "behavior_log_prob", lambda column: column + 5)
    assert list(BY_NAME["propensities_impossible"](dense, Facts(dense))) == []


@pytest.mark.parametrize("noise", [1.0, 0.5, 1e-3])
def test_densities_in_place_of_their_logarithms_are_told_apart(noise: float) -> None:
    """With little noise all log-densities are above 0 too, and a simple model of a bent rule falls far short of them."""
    rng = np.random.default_rng(0)
    seen, away = rng.normal(size=(2000, 2)), rng.normal(size=2000)
    density = np.exp(-0.5 * away**2) / (noise * np.sqrt(2 * np.pi))
    columns = {"seen": seen, "action": np.abs(seen[:, :1]) + noise * away[:, None], "reward": seen[:, 0]}
    roles = {"observation": "seen", "action": "action", "reward": "reward", "behavior_log_prob": "density"}

    def found(numbers: np.ndarray) -> bool:
        log = st.read(columns | {"density": numbers}, st.Schema(roles, bandit=True))
        return "propensities-uncalibrated" in {finding.code for finding in st.audit(log).findings}

    assert not found(np.log(density))
    assert found(density)


def test_log_densities_with_the_wrong_sign_are_told_from_densities() -> None:
    rng = np.random.default_rng(1)
    away = rng.normal(size=2000)
    columns = {"seen": rng.normal(size=(2000, 2)), "action": away[:, None], "reward": away}
    columns["density"] = 0.5 * away**2 + 0.5 * np.log(2 * np.pi)
    roles = {"observation": "seen", "action": "action", "reward": "reward", "behavior_log_prob": "density"}
    findings = st.audit(st.read(columns, st.Schema(roles, bandit=True))).findings
    assert [one.action for one in findings if one.code == "propensities-uncalibrated"] == [
        "The sign seems to be wrong."
    ]


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


# --- the order of rows, by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3, 2**16])
def test_a_jump_of_the_steps_by_hand(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    log = small.counted([0, 1, 2, 5, 6, 8, 9, 10, 11])  # row 5 begins an episode: no jump
    (found,) = BY_NAME["steps_missing"](log, Facts(log))
    assert (found.code, found.severity, found.where) == ("steps-missing", "warning", "step: row 2")
    assert (
        found.seen == "after 14.3% of rows inside episodes the step jumps by more than one, which skips 2 steps in all"
    )  # 1 of 7


@pytest.mark.parametrize(
    "step", [[0, 4, 8, 12, 20, 0, 4, 8, 9], [0, 1, 2, 3, 4, 0, 1, 2, 3], [7, 7, 7, 7, 7, 7, 7, 7, 7]]
)
def test_steps_that_do_not_count_one_by_one_may_jump(step: list[int]) -> None:
    log = small.counted(step)
    assert list(BY_NAME["steps_missing"](log, Facts(log))) == []


@pytest.mark.parametrize("rows", [2, 3, 2**16])
def test_time_that_goes_back_by_hand(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    step = [0, 1, 2, 3, 4, 0, 1, 1, 2]
    log = small.counted(
        step, [10, 11, 11, 9, 12, 1, 5, 4, 3]
    )  # row 7 goes back at the same step, rows 3 and 8 at a later one
    (found,) = BY_NAME["time_backwards"](log, Facts(log))
    assert (found.code, found.severity) == ("time-backwards", "warning")
    assert found.where == "time, step: row 3 and 1 more"
    assert found.seen.startswith("28.6% of rows inside episodes")  # 2 of 7
    forward = small.counted(step, [10, 11, 11, 12, np.nan, 1, 5, 6, 7])
    assert list(BY_NAME["time_backwards"](forward, Facts(forward))) == []


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
    assert found.where == "observation: column 1"
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
        "observation: column 1",
    )
    assert st.audit(log).verdict != "not usable"
