"""Settings whose fault shows in learned values, and runs that were too short or longer than needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from run_subjects import TablePolicy, TableValue, codes_of, episodes_log, run_of, subjects_of

import stitchrl as st
from stitchrl.diagnosis.checks import learned_settings, updates

BEHAVIOR = np.array([0.6, 0.3, 0.1])
Q = np.array([0.0, 1.0, 5.0])
LOG = episodes_log(
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]] * 10,
    observation=np.zeros((60, 1)),
    action=np.tile([0, 0, 1], 20),
    behavior_probs=np.tile(BEHAVIOR, (60, 1)),
)
"""One state, of whose three actions two are taken; the mean Q of those is 1/3."""


def of_value(algorithm: Any, q: np.ndarray, rows: Any = (), **scaling: Any) -> Any:
    run = run_of(algorithm, LOG, rows, **scaling)
    policy, value = TablePolicy(BEHAVIOR[None]), TableValue(np.asarray(q, np.float32)[None])
    return subjects_of(run, LOG, policies=[policy], values=[value])


@pytest.mark.parametrize(("v", "found"), [(5.1, ["expectile-high"]), (4.9, [])])
def test_v_above_the_best_supported_action(v: float, found: list[str]) -> None:
    rows = [{"update": u, "member": 0, "v/mean": v if u > 90 else 99.0, "q/data_mean": 1 / 3} for u in range(1, 101)]
    assert codes_of(learned_settings.expectile_high, of_value(st.IQL(expectile=0.9), Q, rows)) == found


def test_v_above_a_q_that_falls_is_late_and_not_too_high() -> None:
    """Q falls by .02 an update; target critics follow at a rate of .01: V may lie 2 x 100 x .02 = 4 above for that alone."""
    for over, found in ((8.8, ["expectile-high"]), (8.5, [])):  # the best supported action lies 5 - 1/3 above
        rows = [{"update": u, "member": 0, "v/mean": over - 0.02 * u, "q/data_mean": -0.02 * u} for u in range(1, 101)]
        subjects = of_value(st.IQL(expectile=0.9, target_rate=0.01), Q, rows)
        assert codes_of(learned_settings.expectile_high, subjects) == found
    assert codes_of(learned_settings.expectile_high, of_value(st.IQL(expectile=0.7), Q, rows)) == []


def test_an_action_without_support_excuses_no_value() -> None:
    log = episodes_log(
        [[0.0, 1.0]] * 5,
        observation=np.zeros((10, 1)),
        action=np.tile([0, 1], 5),
        behavior_probs=np.tile([0.5, 0.49, 0.01], (10, 1)),
    )
    run = run_of(st.IQL(expectile=0.8), log, [{"update": 1, "member": 0, "v/mean": 2.0, "q/data_mean": 0.5}])
    subjects = subjects_of(run, log, policies=[TablePolicy(BEHAVIOR[None])], values=[TableValue(np.float32(Q[None]))])
    assert codes_of(learned_settings.expectile_high, subjects) == ["expectile-high"]


@pytest.mark.parametrize(
    ("q", "scale", "found"),
    [
        (np.log(BEHAVIOR), 1.0, ["penalty-decides"]),
        (np.log(BEHAVIOR) / 4, 4.0, ["penalty-decides"]),  # the units of training are those of the penalty
        (0.5 * np.log(BEHAVIOR), 1.0, []),
        (-np.log(BEHAVIOR), 1.0, []),
        (Q, 1.0, []),
    ],
)
def test_values_that_are_log_probabilities(q: np.ndarray, scale: float, found: list[str]) -> None:
    subjects = of_value(st.CQL(cql_weight=100.0), q)
    object.__setattr__(subjects[0].member.run.scaling, "reward_scale", scale)
    assert codes_of(learned_settings.penalty_decides, subjects) == found


def probed(
    q: Callable[[float], float], log_prob: Callable[[float], float] = lambda t: -1.0 + 0.2 * t, *, critics: bool = True
) -> Any:
    """Subjects of a run of 4,000 updates with 40 rows of metrics, each a function of the share of updates done."""
    rows = []
    for i in range(1, 41):
        row = {"update": 100 * i, "member": 0, "loss/actor": 1.0, "held_out/log_prob": log_prob(i / 40)}
        rows.append(row | ({"probe/q_logged": q(i / 40)} if critics else {}))
    run = run_of(st.IQL(gamma=1.0), LOG, rows)
    object.__setattr__(run, "updates", 4000)
    return subjects_of(run, LOG)


@pytest.mark.parametrize(
    ("subjects", "found"),
    [
        (probed(lambda t: 0.8 * t), ["updates-too-few"]),  # returns have a standard deviation of .5
        (probed(lambda t: 0.5 * min(2 * t, 1.0)), []),
        (probed(lambda t: 3.0 * t), []),  # beyond what rewards allow: not a matter of updates
        (probed(lambda t: 0.0, lambda t: -2.0 + t, critics=False), ["updates-too-few"]),
        (probed(lambda t: 0.0, lambda t: -2.0 + min(4 * t, 1.0), critics=False), ["updates-more-than-enough"]),
        (probed(lambda t: 0.8 * t, lambda t: -2.0 + min(4 * t, 1.0)), ["updates-too-few"]),
        (probed(lambda t: 0.5, lambda t: -2.0 + min(4 * t, 1.0) - max(t - 0.5, 0.0)), []),  # it got worse again
        (probed(lambda t: 0.5, lambda t: -2.0 + 0.5 * np.sqrt(t)), []),
    ],
)
def test_too_few_updates_and_more_than_enough(subjects: Any, found: list[str]) -> None:
    assert codes_of(updates.updates_too_few, subjects) + codes_of(updates.updates_more_than_enough, subjects) == found


def test_what_moved_is_held_against_returns_by_the_gamma_of_training() -> None:
    """Two steps, of which the second pays: at gamma 0.1 returns differ a tenth as much, and a move of .04 is large."""
    log = episodes_log([[0.0, 1.0], [0.0, 0.0]])
    rows = [{"update": 100 * i, "member": 0, "probe/q_logged": 0.16 * i / 40} for i in range(1, 41)]
    for gamma, found in ((0.1, ["updates-too-few"]), (1.0, [])):
        subjects = subjects_of(run_of(st.IQL(gamma=gamma), log, rows), log)
        assert codes_of(updates.updates_too_few, subjects) == found
