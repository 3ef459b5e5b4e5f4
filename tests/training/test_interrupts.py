"""Ctrl-C, and runs whose numbers cease to be finite."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from training_cases import SETTINGS, TINY
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.data.scaling import Scaling
from stitchrl.errors import StitchRLWarning
from stitchrl.feeds.feed import transition_source
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.loop import train
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


def test_a_diverging_run_says_so_and_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    wild = st.IQL(learning_rate=1e30, hidden_sizes=(8,))
    with pytest.raises(DivergenceError, match=r"of IQL must stay finite; got .* Lower the learning rate"):
        st.fit(
            wild,
            random_log(12),
            out=tmp_path,
            **SETTINGS | {"updates": 400, "log_every_updates": 1, "save_every_updates": 1},
        )
    for file in tmp_path.glob("checkpoint*"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(st.load(file.parent).states))


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


@dataclasses.dataclass(frozen=True)
class Breaker(Algorithm):
    """Breaks in its third update, with metrics that are fine."""

    def init(self, key: Any, spec: Spec, given: Any) -> Any:
        return {"x": jnp.zeros(3, jnp.float32)}

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Step) -> Any:
        return {"x": state["x"] + jnp.where(step.update == 2, jnp.inf, 0.0)}, {"loss": jnp.float32(0)}


def test_a_state_that_is_not_finite_is_neither_saved_nor_given_back(tmp_path: Path) -> None:
    # Metrics are of the state before an update: the state itself is looked at too.
    log, path = random_log(12), tmp_path / "c.safetensors"
    source = transition_source(log, Scaling.identity(3))
    with pytest.raises(DivergenceError, match=r"\['x'\] of Breaker must stay finite; it is not after update 3"):
        train(
            Breaker(), source, Spec.of(log), seeds=[0], updates=3, batch_size=4, log_every_updates=1,
            save_every_updates=1, checkpoint=path,
        )  # fmt: skip
    with safe_open(path, framework="np") as file:
        assert np.isfinite(file.get_tensor(".algorithm['x']")).all()
