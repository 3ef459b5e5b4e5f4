"""Ctrl-C, and runs whose numbers cease to be finite."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import SETTINGS, TINY
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.settings import choice, setting
from stitchrl.errors import StitchRLWarning
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.fit import load
from stitchrl.training.run import Grid


@pytest.fixture
def listening() -> Iterator[None]:
    """A process started in the background ignores Ctrl-C: for the test, it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_finishes_the_chunk_and_saves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bc, log = st.BC(**TINY), random_log(12)
    settings = SETTINGS | {"save_every_updates": 1000}

    def press(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if done == 20:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        st.fit(bc, log, out=tmp_path, callbacks=[press], **settings)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Stopping after this chunk" in capsys.readouterr().err
    assert st.load(tmp_path).updates == 20
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert_trees_equal(resumed.states, st.fit(bc, log, **settings).states)


@pytest.mark.usefixtures("listening")
def test_a_second_ctrl_c_acts_at_once(tmp_path: Path) -> None:
    def press(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[press], **SETTINGS)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@dataclasses.dataclass(frozen=True)
class Breaker(Algorithm):
    """Counts updates; breaks in the one after `sound` of them: its state, or its metric."""

    sound: int = setting(20, "at least 0", "Updates that are fine.")
    breaks: str = choice("state", ("state", "metric"), "What ceases to be finite.")

    def init(self, key: Any, spec: Spec, given: Any) -> dict[str, Any]:
        return {"x": jnp.zeros(3, jnp.float32)}

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Step) -> Any:
        broken = jnp.where(step.update >= self.sound, jnp.inf, 0.0)
        in_state = broken if self.breaks == "state" else 0.0
        return {"x": state["x"] + 1 + in_state}, {"loss": jnp.float32(0) if self.breaks == "state" else broken}

    def policy(self, state: Any, given: Any) -> CategoricalPolicy:
        raise TypeError("none")


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("metric", r"loss of Breaker must stay finite; got inf by update 30 with seed 1 \(member 0 of 1\)\. Lower the"),
        # Metrics are of the state before an update: the state itself is looked at too.
        ("state", r"\['x'\] of Breaker must stay finite; it is not after update 30 with seed 1 .* Lower the learning"),
    ],
)
def test_a_diverging_run_says_so_and_keeps_its_last_good_checkpoint(breaks: str, message: str, tmp_path: Path) -> None:
    log, settings = random_log(12), SETTINGS | {"save_every_updates": 10, "seeds": [1]}
    with pytest.raises(DivergenceError, match=message):
        st.fit(Breaker(breaks=breaks), log, out=tmp_path, **settings)
    read = load(tmp_path, {"Breaker": Breaker})
    assert read.updates == 20
    assert np.asarray(read.states[0]["x"]).tolist() == [20, 20, 20]
    assert [row["update"] for row in read.history] == [10, 20]


def test_a_learning_rate_that_is_far_too_large_is_named() -> None:
    wild = st.IQL(learning_rate=1e30, hidden_sizes=(8,))
    with pytest.raises(DivergenceError, match=r"of IQL must stay finite; got .* Lower the learning rate"):
        st.fit(wild, random_log(12), **SETTINGS | {"updates": 400, "log_every_updates": 1})


def test_a_diverging_point_of_a_grid_leaves_the_others_alone(tmp_path: Path) -> None:
    log, iql = random_log(12), st.IQL(hidden_sizes=(8,))
    grid = {"learning_rate": [1e30, 3e-4]}
    settings: dict[str, Any] = SETTINGS | {"updates": 40, "log_every_updates": 2, "seeds": (3, 5)}
    with pytest.warns(
        StitchRLWarning, match=r"with seed \d, learning_rate 1e\+30 \(member [01] of 4\).* The others go on"
    ):
        whole = st.fit_grid(iql, log, grid, out=tmp_path / "whole", **settings)
    lost, kept = whole.runs
    assert (lost.seeds, lost.members, lost.policies, lost.history) == ((), [], [], [])
    assert set(lost.diverged) == {3, 5}
    assert kept.diverged == {}
    with pytest.raises(DivergenceError, match="must stay finite"):
        _ = lost.policy
    alone = st.fit(iql, log, **settings)
    assert kept.seeds == alone.seeds
    assert_trees_equal(kept.states, alone.states, rtol=1e-4, atol=1e-5)
    assert {row["member"] for row in kept.history} == {0, 1}
    assert kept.history[-1]["update"] == 40
    # Saved and read back, and continued after an interruption that came later than the divergence.
    read = st.load(tmp_path / "whole")
    assert isinstance(read, Grid)
    assert read.runs[0].diverged == lost.diverged
    assert_trees_equal(read.runs[1].states, kept.states)

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if done == 30:
            raise RuntimeError

    cut = settings | {"out": tmp_path / "cut", "save_every_updates": 10}
    with pytest.warns(StitchRLWarning, match="The others go on"), pytest.raises(RuntimeError):
        st.fit_grid(iql, log, grid, callbacks=[stop], **cut)
    resumed = st.fit_grid(iql, log, grid, **cut)  # and warns no more
    assert resumed.runs[0].diverged == lost.diverged
    assert_trees_equal(resumed.runs[1].states, kept.states)


def test_a_grid_whose_every_member_diverges_says_so() -> None:
    wild = {"learning_rate": [1e30, 1e31]}
    with (
        pytest.warns(StitchRLWarning, match="The others go on"),
        pytest.raises(DivergenceError, match=r"All 2 members diverged; the last: .* learning_rate 1e\+3"),
    ):
        st.fit_grid(st.IQL(hidden_sizes=(8,)), random_log(12), wild, **SETTINGS | {"updates": 400})
