"""Every check finds the fault planted for it, and nothing harmful in a clean log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.audit.checks import CHECKS
from stitchrl.data.audit.finding import SEVERITIES, Audit, Finding
from worlds import bandit_log, random_log, tiny_log

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


def weighed(log: st.Dataset) -> st.Dataset:
    return dataclasses.replace(log, weight=np.ones(log.num_transitions, np.float32))


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
    ("weights_unused", weighed, "weight-unused", "warning"),
]


def test_every_check_has_a_fault_planted_for_it() -> None:
    assert {name for name, *_ in FAULTS} == set(BY_NAME)


@pytest.mark.parametrize(
    ("name", "plant", "code", "severity"), FAULTS, ids=[f"{f[0]}-{k}" for k, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(
    clean: st.Dataset, name: str, plant: Callable[[st.Dataset], st.Dataset], code: str, severity: str
) -> None:
    assert code not in {finding.code for finding in BY_NAME[name](clean)}
    log = plant(clean)
    found = [finding for finding in BY_NAME[name](log) if finding.code == code]
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
        (finding,) = BY_NAME[name](log)
        return finding

    assert only("logged_action_outside_mask", mask_forbids(clean)).where == "action, action_mask: row 5 and 1 more"
    assert only("empty_mask", mask_empty(clean)).where == "action_mask: row 7"
    assert only("propensities_impossible", impossible(clean)).where == "behavior_log_prob: row 3 and 0 more"
    calibration = only("propensities_uncalibrated", handed_over(clean))
    assert calibration.where == "behavior_probs: action 7"
    assert f"logged {(clean.action == 7).sum():,} times where the propensities expect 0 " in calibration.seen
    assert only("observation_constant", constant_observation(clean)).where == "observation: columns 6"
    assert only("cut_without_next", cut(clean)).seen.startswith("1 of 1 cut episodes")
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
    assert audit.to_dict()["verdict"] == verdict
    text = str(audit)
    assert text.startswith(f"log: {verdict} (2 checks, {len(severities)} findings)")
    assert all(f"code-{severity}: column x: this; expected that. Do it." in text for severity in severities)


def test_findings_come_most_harmful_first(clean: st.Dataset) -> None:
    log = constant_observation(mask_forbids(clean)).select_episodes(range(50))
    ranks = [SEVERITIES.index(finding.severity) for finding in st.audit(log).findings]
    assert ranks == sorted(ranks)
    assert {0, 1} <= set(ranks)
