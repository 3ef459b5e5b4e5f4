"""What a prompt and a notebook show of results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import stitchrl as st
from stitchrl.pipeline.bundling import save_trained
from stitchrl.training.flags import RedFlag


@pytest.fixture(scope="module")
def log() -> st.Dataset:
    return st.demo_log().head(30)


@pytest.fixture(scope="module")
def run(log: st.Dataset) -> st.Run:
    return st.fit(st.BC(hidden_sizes=(4,)), log, updates=2, seeds=[3, 5], progress=False)


class Printer:
    """Takes what IPython would show."""

    def text(self, said: str) -> None:
        self.said = said


def test_a_prompt_shows_one_line_and_a_notebook_all(log: st.Dataset, run: st.Run) -> None:
    small = st.FitSettings(updates=2, hidden_sizes=(4,))
    evaluation = st.evaluate(run.policy, log, estimators=("wis",), settings=small)
    for result in (run, evaluation, evaluation.verdict, st.audit(log), st.diagnose(run)):
        assert len(str(result)) > 20
        assert repr(result) == f"<{type(result).__name__}: {str(result).splitlines()[0]}>"
        printer = Printer()
        result._repr_pretty_(printer, False)  # type: ignore[union-attr]
        assert printer.said == str(result)


def test_a_run_and_a_grid_in_words(log: st.Dataset, run: st.Run) -> None:
    assert str(run).startswith("BC: 2 seeds, 2 updates; loss/actor ")
    last = [row["loss/actor"] for row in run.history if row["update"] == 2]
    assert float(str(run).rpartition(" ")[2]) == pytest.approx(sum(last) / 2, rel=1e-3)
    flag = RedFlag("critic-explodes", 1, 2, "a value of 9", "at most 1", "Lower the step size.")
    ill = dataclasses.replace(run, stopped="enough", diverged={7: "loss/actor is NaN."}, red_flags=(flag,))
    assert str(ill).splitlines()[1:] == [
        "  stopped: enough",
        "  seed 7 diverged: loss/actor is NaN.",
        "  critic-explodes, seed 5: A value of 9; expected at most 1. Lower the step size.",
    ]
    grid = st.fit_grid(run.algorithm, log, {"learning_rate": [1e-3, 1e-2]}, updates=2, progress=False)
    lines = str(grid).splitlines()
    assert lines[0] == "grid of 2 points over learning_rate"
    assert [line.partition(":")[0] for line in lines[1:]] == ["  learning_rate=0.001", "  learning_rate=0.01"]


def test_a_bundle_says_what_it_is_and_what_is_known_of_it(log: st.Dataset, run: st.Run, tmp_path: Path) -> None:
    st.fit(run.algorithm, log, updates=2, seeds=[3], out=tmp_path / "run", progress=False)
    where = save_trained(st.load(tmp_path / "run"), log, tmp_path / "run", label="mine")
    assert where is not None
    said = repr(st.load_policy(where))
    assert said == (
        "Bundle(mine seed 3, as trained; 25 discrete actions of the log 'hospital stays (ICU-Sepsis)'; verdict NOT JUDGED)"
    )
    assert "; guarded by clipping observations" in repr(st.load_policy(where).guarded("clip"))
