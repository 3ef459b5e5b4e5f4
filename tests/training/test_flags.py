"""Red flags: each fires on a planted history and not on a sound one, and once a member."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from worlds import random_log

import stitchrl as st
from stitchrl.training.flag_rules import RULES
from stitchrl.training.flags import red_flags
from stitchrl.training.value_limits import ValueLimits

GAMMA, REWARD = 0.9, 2.0  # values of at most 20
LIMITS = ValueLimits(GAMMA, REWARD, low=-2.0, high=20.0, spread=0.2)
"""Means from -4.2 to 22.2 are possible, a tenth of the range beyond its ends."""


def history(rows: int = 24, member: int = 0, **planted: Any) -> list[dict[str, Any]]:
    """Sound rows, a planted metric being a number or a function of the row from 0; None drops it."""
    sound = {
        "loss/critic": lambda i: 1.0 + 0.3 * i,
        "loss/value": 0.2,
        "q/data_mean": lambda i: 0.7 * i,
        "q/policy_mean": lambda i: 0.8 * i,
        "weight/mean": 1.0,
        "weight/clipped": 0.1,
        "policy/agreement": 0.5,
        "policy/entropy": 1.2,
        "loss/actor": 1.0,
        "weight/effective_share": 0.4,
        "probe/q_gap": 0.1,
        "probe/q_highest": 1.0,
        "probe/q_states": 0.5,
        "probe/dead_units": 0.1,
        "probe/td_error": lambda i: 1.0 / (i + 1),
        "held_out/td_error": lambda i: 1.0 / (i + 1) + 0.1,
        "probe/log_prob": lambda i: -1.0 / (i + 1),
        "held_out/log_prob": lambda i: -1.0 / (i + 1) - 0.1,
    }
    metrics = {name.replace("__", "/"): value for name, value in planted.items()}
    return [
        {"update": 100 * (i + 1), "member": member}
        | {n: v(i) if callable(v) else v for n, v in (sound | metrics).items() if v is not None}
        for i in range(rows)
    ]


def codes(rows: list[dict[str, Any]], **settings: Any) -> list[str]:
    return [flag.code for flag in red_flags(rows, dataclasses.replace(LIMITS, **settings))]


SOFT = dataclasses.replace(LIMITS, entropy=1.0, steps=9.0)
"""Of values that hold an entropy of up to 1 nat in each of 9 later decisions."""


PLANTED: list[tuple[str, dict[str, Any], int]] = [
    ("impossible-value", {"q__data_mean": lambda i: 31.1 if i >= 7 else 1.0, "q__policy_mean": None}, 1200),
    ("impossible-value", {"q__data_mean": 22.3, "q__policy_mean": None}, 2000),
    ("impossible-value", {"q__data_mean": 21.5, "q__policy_mean": 31.1, "probe__q_gap": None}, 500),
    ("accelerating-value", {"q__data_mean": lambda i: 0.1 * 1.25**i, "q__policy_mean": None}, 2400),
    ("policy-claim", {"q__data_mean": 1.0, "q__policy_mean": lambda i: 11.5 if i >= 3 else 10.5}, 800),
    ("critic-growth", {"loss__critic": lambda i: 1.0 if i < 6 else 10.5}, 2400),
    ("capped-weights", {"weight__clipped": lambda i: 0.6 if i >= 19 else 0.0}, 2400),
    ("collapsed-entropy", {"policy__entropy": lambda i: 0.009 if i >= 19 else 1.0}, 2400),
    ("policy-claim", {"q__policy_mean": None, "probe__q_gap": lambda i: 10.1 if i >= 3 else 9.9}, 800),
    ("pessimistic-value", {"q__data_mean": lambda i: -4.3 if i >= 19 else 1.0, "q__policy_mean": None}, 2400),
    ("entropy-outweighs-rewards", {"temperature": lambda i: 1.23 if i >= 19 else 0.5}, 2400),
    ("constant-value", {"probe__q_states": lambda i: 0.0019 if i >= 19 else 1.0}, 2400),
    ("collapsed-weights", {"weight__effective_share": lambda i: 0.04 if i >= 19 else 0.3}, 2400),
    ("equal-weights", {"weight__effective_share": lambda i: 0.9995 if i >= 19 else 0.9}, 2400),
    ("dead-units", {"probe__dead_units": lambda i: 0.8 if i >= 19 else 0.4}, 2400),
    # Least, smoothed, at row 11; risen to twice that, while the error on seen rows goes on falling.
    ("held-out-error", {"held_out__td_error": lambda i: 1.0 - 0.05 * i if i < 12 else 0.45 + 0.1 * (i - 11)}, 2400),
    ("held-out-likelihood", {"held_out__log_prob": lambda i: -1.0 if i < 12 else -1.0 - 0.05 * (i - 11)}, 2400),
    ("nothing-learned", {"loss__critic": lambda i: 0.0 if i >= 19 else 1.0}, 2400),
    ("nothing-learned", {"loss__value": 0.0}, 2400),
]


@pytest.mark.parametrize(("code", "planted", "update"), PLANTED)
def test_a_planted_flaw_is_flagged_and_nothing_else(code: str, planted: dict[str, Any], update: int) -> None:
    flags = red_flags(history(**planted), SOFT if code.startswith("entropy") else LIMITS)
    assert [(flag.code, flag.member, flag.update) for flag in flags] == [(code, 0, update)]
    assert flags[0].sentence.count(". ") >= 1  # what was seen; what it may mean and what to do


def test_every_check_is_planted_above() -> None:
    assert {code for code, _, _ in PLANTED} == set(RULES)


def test_a_sound_history_has_no_flag() -> None:
    for rows in range(25):
        assert codes(history(rows)) == []


@pytest.mark.parametrize(
    "planted",
    [
        {"q__data_mean": 22.1, "q__policy_mean": 22.1},
        {"q__data_mean": lambda i: 30.9 if i < 19 else 1.0, "q__policy_mean": None},  # of fresh networks
        {"q__data_mean": lambda i: 1e6 if i < 4 else 1.0, "q__policy_mean": None},  # of fresh networks
        {"q__data_mean": 1.0, "q__policy_mean": 10.9},
        {"q__data_mean": 1.0, "q__policy_mean": lambda i: 20.0 if i < 4 else 1.0},  # of fresh networks
        {"loss__critic": lambda i: 1.0 if i < 6 else 9.9},
        {"loss__critic": lambda i: 0.001 if i < 6 else 3.9},  # a sparse reward's signal arriving
        {"weight__clipped": lambda i: 1.0 if i >= 22 else 0.1},
        {"policy__entropy": lambda i: 0.0 if i >= 21 else 1.0},
        {"policy__entropy": -3.0, "policy__agreement": None},  # a density's
        {"loss__critic": lambda i: 0.0 if i >= 20 else 1.0},
        {"loss__critic": lambda i: None},
        {"q__data_mean": lambda i: 0.8 * i, "q__policy_mean": None},  # which does not slow down, nor grow faster
        {"q__data_mean": lambda i: 0.05 * 1.25**i, "q__policy_mean": None},  # which is small yet
        {"q__data_mean": -4.1, "q__policy_mean": -4.1},
        {"q__data_mean": lambda i: -9.0 if i < 19 else 1.0, "q__policy_mean": None},  # of fresh networks
        {"probe__q_states": 0.0021},
        {"weight__effective_share": 0.051},
        {"weight__effective_share": 0.9989},
        {"probe__dead_units": 0.75},
        {"held_out__td_error": lambda i: 1.0 if i < 12 else 1.24},
        # Both errors rise, as where values grow from 0.
        {"held_out__td_error": lambda i: 1.0 + i, "probe__td_error": lambda i: 0.9 + i},
        {"held_out__log_prob": lambda i: -1.0 if i < 12 else -1.19},
        # Seen actions become less probable as well, as where a policy climbs values; the samples differ from the start.
        {
            "held_out__log_prob": lambda i: -1.3 - 0.05 * max(i - 11, 0),
            "probe__log_prob": lambda i: -1.0 - 0.05 * max(i - 11, 0),
        },
        # Both likelihoods fall, as where a policy leaves the behaviour.
        {"held_out__log_prob": lambda i: -1.0 - 0.1 * i, "probe__log_prob": lambda i: -0.9 - 0.1 * i},
    ],
)  # fmt: skip
def test_just_inside_the_threshold_is_no_flag(planted: dict[str, Any]) -> None:
    rows = [{name: value for name, value in row.items() if value is not None} for row in history(**planted)]
    assert codes(rows) == []


def test_rewards_of_nothing_but_0_are_no_pessimism() -> None:
    rows = history(q__data_mean=-0.01, q__policy_mean=-0.01, probe__q_gap=0.0)
    assert codes(rows, reward=0.0, low=0.0, high=0.0, spread=0.0) == []


def test_values_that_hold_entropy_may_be_larger_by_its_bonus() -> None:
    """At a temperature of 0.5, 9 later decisions of 1 nat each add up to 4.5 at most."""
    rows = history(q__data_mean=26.6, q__policy_mean=None, temperature=0.5)
    assert codes(rows) == ["impossible-value"]
    assert codes(rows, entropy=1.0, steps=9.0) == []
    # What was learned while the temperature was high is there for a while after it fell.
    falls = history(q__data_mean=26.6, q__policy_mean=None, temperature=lambda i: 0.5 if i < 5 else 0.1)
    assert codes(falls, entropy=1.0, steps=9.0) == []
    assert codes(history(q__data_mean=26.8, q__policy_mean=None, temperature=0.5), entropy=1.0, steps=9.0) == [
        "impossible-value"
    ]
    # Entropies of densities may be below 0: -2 nats take 9 from a value.
    low = history(
        q__data_mean=-13.1, q__policy_mean=None, temperature=0.5, policy__entropy=-2.0, policy__agreement=None
    )
    assert codes(low, entropy=1.0, steps=9.0) == []
    assert codes(low) == ["pessimistic-value"]


def test_flags_speak_in_units_of_the_log_whatever_rewards_were_scaled_by() -> None:
    rows = history(q__data_mean=223.0, q__policy_mean=None, loss__critic=1.0)
    (flag,) = red_flags(rows, dataclasses.replace(LIMITS, scale=10.0))
    assert flag.code == "impossible-value"
    assert "a value of 22.3 on average, where rewards add up to 20 at most" in flag.seen
    assert codes(history(q__data_mean=221.0, q__policy_mean=None), scale=10.0) == []


def test_growth_needs_twenty_rows() -> None:
    planted = {"loss__critic": lambda i: 50.0**i if i < 5 else 1e9}
    assert codes(history(19, **planted)) == []
    assert codes(history(20, **planted)) == ["critic-growth"]


def test_metrics_that_only_some_rows_have() -> None:
    rows = history(policy__entropy=0.0)
    for row in rows[::2]:
        del row["policy/entropy"]
    assert codes(rows) == ["collapsed-entropy"]


def test_without_discounting_values_are_judged_by_the_bound_given() -> None:
    rows = history(q__data_mean=1e6, q__policy_mean=3e6)
    assert codes(rows, gamma=1.0, low=-np.inf, high=np.inf) == []
    assert codes(rows, gamma=1.0, low=0.0, high=1.0) == ["impossible-value", "policy-claim"]


def test_each_member_has_its_own_flags_each_once() -> None:
    sound, wild = history(), history(member=1, q__data_mean=1e6, q__policy_mean=None)
    rows = [row for pair in zip(sound, wild, strict=True) for row in pair]
    flags = red_flags(rows, LIMITS)
    assert [(flag.code, flag.member) for flag in flags] == [("impossible-value", 1)]
    assert red_flags(rows, LIMITS, reported=flags) == []


def test_between_chunks_a_flag_is_reported_once() -> None:
    rows, reported = history(weight__clipped=1.0), []
    for seen in range(1, len(rows) + 1):
        reported += red_flags(rows[:seen], LIMITS, reported=reported)
    assert [(flag.code, flag.update) for flag in reported] == [("capped-weights", 500)]


def test_a_real_run_has_no_flag() -> None:
    run = st.fit(st.IQL(hidden_sizes=(8,)), random_log(), updates=60, log_every_updates=3, seeds=2)
    assert len(run.history) == 40
    assert red_flags(run.history, ValueLimits(0.99, 10.0, low=-1000.0, high=1000.0)) == []


def test_a_critic_that_is_nearly_right_is_no_failure_where_every_return_is_the_same() -> None:
    """One-step episodes that all pay 1: claims of .999 are neither pessimistic nor too much alike."""
    rows = [{"update": i, "member": 0, "q/data_mean": 0.999, "probe/q_states": 1e-4} for i in range(1, 30)]
    limits = ValueLimits(0.99, 1.0, low=1.0, high=1.0, seen=1.0)
    assert red_flags(rows, limits) == []
    (flag,) = red_flags([row | {"q/data_mean": 0.8} for row in rows], limits)
    assert flag.code == "pessimistic-value"


def test_limits_come_from_the_rewards_of_a_log() -> None:
    """Two episodes, 0 0 1 and 0 -1, that end: without a discount values lie from -1 to 1, and 2 decisions may follow."""
    log = st.read(
        {
            "episode": [0, 0, 0, 1, 1],
            "observation": np.zeros((5, 2), np.float32),
            "action": [0, 1, 2, 0, 1],
            "reward": np.asarray([0, 0, 1, 0, -1], np.float32),
            "terminated": [False, False, True, False, True],
        }
    )
    limits = ValueLimits.of_algorithms(log, [st.SAC(gamma=1.0), st.SAC(gamma=0.5)], scale=3.0)
    assert (limits.gamma, limits.reward, limits.scale, limits.low, limits.high, limits.seen) == (1, 1, 3, -1, 1, 1)
    assert limits.spread == pytest.approx(np.std([1, 1, 1, -1, -1]))
    assert (limits.entropy, limits.steps) == (pytest.approx(np.log(3)), 2)
    assert ValueLimits.of(log, 0.5).steps == 1
    assert ValueLimits.of_algorithms(log, [st.DQN(gamma=1.0)], scale=1.0).entropy == 0
    assert ValueLimits.from_dict(limits.to_dict()) == limits
    shifted = ValueLimits.of(log, 1.0, shift=-1.0)
    assert (shifted.low, shifted.high) == (-6, 6)  # 3 steps of up to 2 each
    cut = dataclasses.replace(log, terminated=np.zeros(5, bool), truncated=log.terminated)
    assert ValueLimits.of(cut, 1.0).to_dict()["steps"] is None
