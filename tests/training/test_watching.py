"""What looks on: trackers, red flags, play in an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from training_cases import SETTINGS, TINY, StopHereError, stop_after
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import StitchRLWarning
from stitchrl.progress import ProgressDisplay, shown_display


class Noted:
    """A tracker that keeps what it is told, and fails from its second chunk on if asked to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.calls, self.config, self.finished = fails, [], {}, 0

    def start(self, config: dict[str, Any]) -> None:
        self.config = config

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        self.calls.append((update, metrics, members))
        if self.fails and len(self.calls) > 1:
            raise OSError("the network is gone")

    def finish(self) -> None:
        self.finished += 1


def test_trackers_are_told_every_chunk_by_the_name_of_its_members() -> None:
    noted = Noted()
    run = st.fit(st.BC(**TINY), random_log(12), seeds=[3, 1], trackers=[noted], **SETTINGS)
    assert [update for update, _, _ in noted.calls] == [10, 20, 30, 40, 45]
    assert noted.calls[0][2] == ["seed 3", "seed 1"]
    assert noted.calls[-1][1]["loss/actor"] == [row["loss/actor"] for row in run.history[-2:]]
    assert noted.config["algorithm"] == "BC"
    assert noted.finished == 1
    st.fit_grid(st.IQL(**TINY), random_log(12), {"expectile": [0.6, 0.9]}, trackers=[noted], **SETTINGS)
    assert noted.calls[-1][2] == ["seed 0, expectile 0.6", "seed 0, expectile 0.9"]


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_closed() -> None:
    noted, log = Noted(fails=True), random_log(12)
    with pytest.warns(StitchRLWarning, match="the network is gone"):
        run = st.fit(st.BC(**TINY), log, trackers=[noted], **SETTINGS)
    assert_trees_equal(run.states, st.fit(st.BC(**TINY), log, **SETTINGS).states)
    assert noted.finished == 1


TINY_REWARDS = {"reward_scale": 1e-9, "updates": 50, "log_every_updates": 2, "batch_size": 256}
"""Beside such rewards the first claims of a network, which are below 0 here, are far out of what rewards allow."""


def test_red_flags_are_told_as_they_appear_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    log = random_log(12, constant_reward=0.0)
    zero = st.IQL(learning_rate=1e-9, hidden_sizes=(8,), gamma=0.9)
    fine = st.fit(st.BC(**TINY), log, **SETTINGS)
    assert fine.red_flags == ()
    wild = st.fit(zero, random_log(12), **SETTINGS | TINY_REWARDS | {"progress": True})
    assert [flag.code for flag in wild.red_flags] == ["pessimistic-value"]
    assert "red flag of IQL, seed 0, update 40: The critics claim a value of" in capsys.readouterr().err


def test_red_flags_outlive_the_process(tmp_path: Path) -> None:
    settings = SETTINGS | TINY_REWARDS
    zero = st.IQL(learning_rate=1e-9, hidden_sizes=(8,), gamma=0.9)
    first = st.fit(zero, random_log(12), out=tmp_path, **settings)
    assert [flag.code for flag in first.red_flags] == ["pessimistic-value"]
    assert st.fit(zero, random_log(12), out=tmp_path, **settings).red_flags == first.red_flags
    assert st.load(tmp_path).red_flags == first.red_flags


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """Three steps; reward 1 where the action is 0."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(3, np.float32), float(action == 0), self.steps == 3, False, {}


def test_play_in_an_environment_is_logged_when_due_and_resumes(tmp_path: Path) -> None:
    log, bc = random_log(12, with_masks=False), st.BC(**TINY)
    settings = SETTINGS | {
        "seeds": [3, 1], "environment": Counting, "evaluate_every_updates": 20, "evaluation_episodes": 2,
        "save_every_updates": 10,
    }  # fmt: skip
    whole = st.fit(bc, log, **settings)
    played = {row["update"]: row["online/return"] for row in whole.history if "online/return" in row}
    assert list(played) == [20, 40, 45]
    assert set(played.values()) <= {0.0, 3.0}
    for k, policy in enumerate(whole.policies):
        mode = int(policy.mode(jnp.zeros((1, 3), jnp.float32))[0])
        assert whole.history[-2 + k]["online/return"] == (3.0 if mode == 0 else 0.0)
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_after(3)], **settings)
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert resumed.history == whole.history
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table["online/return"].null_count == len(whole.history) - 6


def test_work_done_for_others_is_shown_by_the_innermost_display_that_shows_anything(tmp_path: Path) -> None:
    with (tmp_path / "outer").open("w") as outer, (tmp_path / "inner").open("w") as inner:
        shown_display().say("to nobody")
        with ProgressDisplay(file=outer):
            shown_display().say("first")
            with ProgressDisplay(file=inner, enabled=False):
                shown_display().say("second")
            with ProgressDisplay(file=inner):
                shown_display().track("a fit")(3, 3, {})
            shown_display().say("third")
        shown_display().say("to nobody")
    assert (tmp_path / "outer").read_text().split() == ["first", "second", "third"]
    assert (tmp_path / "inner").read_text().split()[:3] == ["a", "fit", "3/3"]
