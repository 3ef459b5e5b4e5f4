"""Settings that cannot do what they are for on the log at hand, and sound ones beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from run_subjects import codes_of, episodes_log, run_of, subjects_of

import stitchrl as st
from stitchrl.diagnosis.checks import horizon, settings

GOALS = episodes_log([[0.0] * (n - 1) + [1.0] for n in (8, 12, 10, 9)])
"""Rewards at the end, after 9.75 steps on average."""
CUT = episodes_log([[1.0] * 50] * 4, cut=True)


def run_codes(
    check: Callable[..., Any], algorithm: Any, log: st.Dataset, rows: Sequence[Any] = (), **scaling: Any
) -> Any:
    return codes_of(check, subjects_of(run_of(algorithm, log, rows, **scaling), log))


@pytest.mark.parametrize(
    ("check", "gamma", "log", "found"),
    [
        (horizon.gamma_too_large, 0.999, CUT, ["gamma-too-large"]),  # .999^50 = .95 lies beyond the cuts
        (horizon.gamma_too_large, 1.0, CUT, ["gamma-too-large"]),
        (horizon.gamma_too_large, 0.99, CUT, []),  # .61
        (horizon.gamma_too_large, 1.0, GOALS, []),
        (horizon.gamma_too_small, 0.7, GOALS, ["gamma-too-small"]),  # .7^8.75 = .044
        (horizon.gamma_too_small, 0.72, GOALS, []),  # .056
        (horizon.gamma_too_small, 0.7, episodes_log([[1.0] * 50] * 4), []),
        (horizon.gamma_too_small, 0.7, episodes_log([[0.0] * 50] * 4), []),
    ],
)
def test_the_discount_against_the_episodes(check: Any, gamma: float, log: st.Dataset, found: list[str]) -> None:
    assert run_codes(check, st.IQL(gamma=gamma), log) == found


def test_numbers_of_the_discount() -> None:
    found = horizon.horizon_numbers(subjects_of(run_of(st.IQL(gamma=0.5), GOALS), GOALS)[0])
    assert found == {
        "gamma": 0.5,
        "mean_length": 9.75,
        "cut_share": 0.0,
        "weight_beyond_cuts": None,
        "reward_share_at_end": 1.0,
        "weight_at_end": 0.5**8.75,
    }


@pytest.mark.parametrize(("expectile", "found"), [(0.3, ["expectile-low"]), (0.5, ["expectile-low"]), (0.7, [])])
def test_an_expectile_that_improves_nothing(expectile: float, found: list[str]) -> None:
    assert run_codes(settings.expectile_low, st.IQL(expectile=expectile), GOALS) == found


@pytest.mark.parametrize(
    ("threshold", "likely", "found"),
    [
        (0.0, None, ["threshold-off"]),
        pytest.param(0.1, 1.0, ["threshold-off"], marks=pytest.mark.slow),
        (0.3, 0.7, []),
        (0.99, 0.5, ["threshold-strict"]),  # of two actions one is left
        (0.3, None, []),
    ],
)
def test_a_threshold_that_is_off_or_leaves_no_choice(threshold: float, likely: float | None, found: list[str]) -> None:
    rows = [] if likely is None else [{"update": 100, "member": 0, "behavior/likely": likely}]
    run = run_of(st.BCQ(threshold=threshold), GOALS, rows)
    subjects = subjects_of(run, GOALS)
    assert codes_of(settings.threshold_off, subjects) + codes_of(settings.threshold_strict, subjects) == found


def test_a_log_of_random_actions_has_nothing_to_forbid() -> None:
    """Both actions are taken alike, so that a threshold that both pass is no fault, and no other would be better."""
    even = episodes_log([[0.0, 1.0]] * 5, action=np.tile([0, 1], 5), behavior_probs=np.full((10, 2), 0.5))
    run = run_of(st.BCQ(threshold=0.3), even, [{"update": 100, "member": 0, "behavior/likely": 1.0}])
    assert codes_of(settings.threshold_off, subjects_of(run, even)) == []


def test_a_shift_that_makes_worse_episodes_the_better_ones() -> None:
    """Death (0) after 2 steps and recovery (1) after 10: at -1 a step death becomes the better end."""
    outcomes = episodes_log([[0.0, 0.0], [0.0] * 9 + [1.0]] * 5)
    assert run_codes(settings.shift_changes_order, st.IQL(gamma=1.0), outcomes, reward_shift=-1.0) == [
        "reward-shift-changes-order"
    ]
    # A goal that is reached early is the better one before and after: the usual use of a shift.
    maze = episodes_log([[0.0, 1.0], [0.0] * 10] * 5)
    assert run_codes(settings.shift_changes_order, st.IQL(gamma=1.0), maze, reward_shift=-1.0) == []
    assert run_codes(settings.shift_changes_order, st.IQL(gamma=1.0), outcomes) == []


def test_actions_in_a_sliver_of_their_bounds_and_outside_of_them() -> None:
    rng = np.random.default_rng(0)
    action = np.stack([rng.uniform(-1, 1, 500), rng.uniform(0, 3, 500)], 1).astype(np.float32)
    rewards = [[0.0] * 50] * 10
    sound = episodes_log(rewards, action=action)
    assert run_codes(settings.actions_scaled, st.IQL(), sound) == []
    outlier = action.copy()
    outlier[7, 1] = 100.0
    (found,) = settings.actions_scaled(subjects_of(run_of(st.IQL(), episodes_log(rewards, action=outlier)), sound))
    assert (found.code, found.where) == ("actions-in-a-sliver", "action dimension 1")
    milligrams = episodes_log(rewards, action=action * np.float32([1, 1000]))
    (found,) = settings.actions_scaled(subjects_of(run_of(st.IQL(), sound), milligrams))
    assert (found.code, found.where) == ("actions-outside-scale", "action dimension 1")
