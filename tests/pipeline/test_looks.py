"""The main job counts looks at its test part: other splits count, going on after a kill and the same command do not."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from evaluation_worlds import Uniform
from main_job import SMALL, small_job, write_small_log

import stitchrl as st
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.looks import look_at
from stitchrl.pipeline import stages
from stitchrl.pipeline.pipeline import run_stages
from stitchrl.pipeline.workspace import Workspace

ONE = dataclasses.replace(SMALL, updates=100, seeds=1, ladder=False)  # which policy looks does not matter here


@pytest.fixture(autouse=True, scope="module")
def _no_fits() -> Iterator[None]:
    """Which estimators there are does not matter here, and those without a fitted Q are quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "evaluate_all", functools.partial(evaluate_all, estimators=("wis",)))
        yield


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log, and a run on it that has not looked at its test part yet."""
    folder = tmp_path_factory.mktemp("selected")
    log = write_small_log(folder)
    run_stages(job(log, folder / "run"), until="select")
    return log, folder / "run"


def job(log: Path, out: Path, seed: int = 0) -> Workspace:
    algorithms = [st.BC(hidden_sizes=(16,))]
    return small_job(log, out, algorithms=algorithms, settings=dataclasses.replace(ONE, seed=seed))


def verdict_of(selected: tuple[Path, Path], out: Path) -> st.Verdict:
    """The verdict of the run that was begun, in a directory of its own."""
    if not out.exists():
        shutil.copytree(selected[1], out)
    found = run_stages(job(selected[0], out), until="verdict").verdict
    assert found is not None
    return found


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def results(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in ("looks.json", "estimates.json", "verdict.json")}


@pytest.mark.slow
def test_other_splits_are_counted_and_the_same_command_is_not(selected: tuple[Path, Path], tmp_path: Path) -> None:
    first = verdict_of(selected, tmp_path / "first")
    assert not any("looked at" in caveat for caveat in first.caveats)
    assert content(tmp_path / "first" / "looks.json")["count"] == 0
    # The same command again, there and elsewhere.
    before = results(tmp_path / "first")
    for folder in ("first", "elsewhere"):
        assert verdict_of(selected, tmp_path / folder) == first
        assert results(tmp_path / folder) == before
    # Another split: two fifths of its test stays are in the first one's test part.
    second = run_stages(job(selected[0], tmp_path / "second", seed=1), until="verdict").verdict
    assert second is not None
    tests = [set(content(tmp_path / run / "split.json")["parts"]["test"]["positions"]) for run in ("first", "second")]
    share = len(tests[0] & tests[1]) / 160
    looks = content(tmp_path / "second" / "looks.json")
    assert (looks["count"], looks["whole"], looks["share"]) == (1, 0, pytest.approx(share, abs=0.05))
    assert second.caveats[-1].startswith(f"About {looks['share']:.0%} of these test episodes have been looked at once")
    # The first one, elsewhere again, is one of two by now; what the finished run says stays.
    assert "have been looked at once before" in verdict_of(selected, tmp_path / "third").caveats[-1]
    report = run_stages(job(selected[0], tmp_path / "third")).report
    assert report is not None
    assert "have been looked at once before" in report.read_text()
    assert verdict_of(selected, tmp_path / "first") == first
    assert results(tmp_path / "first") == before


@pytest.mark.slow
def test_a_run_that_goes_on_says_what_it_would_have_said(
    selected: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = verdict_of(selected, tmp_path / "undisturbed")

    def die(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    for stage, kept in (("_evaluate", False), ("_weights", True)):  # before there are estimates, and after
        with monkeypatch.context() as patch:
            patch.setattr(stages, stage, die)
            with pytest.raises(KeyboardInterrupt):
                verdict_of(selected, tmp_path / "killed")
        assert (tmp_path / "killed" / "looks.json").exists() == kept
        assert not (tmp_path / "killed" / "estimates.json").exists()
    # Somebody else looks meanwhile.
    assert look_at([Uniform()], job(selected[0], tmp_path / "killed").parts["test"], Estimand(1.0)).count == 1
    assert verdict_of(selected, tmp_path / "killed") == undisturbed
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")
    for name in ("looks.json", "estimates.json"):
        (tmp_path / "killed" / name).unlink()
    assert verdict_of(selected, tmp_path / "killed") != undisturbed
    assert content(tmp_path / "killed" / "looks.json")["count"] == 1


def test_switched_off_it_says_so(selected: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_STATE", "off")
    found = verdict_of(selected, tmp_path / "run")
    assert found.caveats[-1].startswith("This look at the test episodes was not recorded")


def test_the_evaluate_command_records_a_look(selected: tuple[Path, Path], tmp_path: Path, stitchrl: Command) -> None:
    verdict_of(selected, tmp_path / "run")
    run_stages(job(selected[0], tmp_path / "run"))
    other = write_small_log(tmp_path, seed=4, stays=100)
    words = ["evaluate", tmp_path / "run", other, "--estimators", "wis", "--json"]
    for _ in range(2):
        done = stitchrl(*words)
        assert (done.status, done.err) == (0, "")
        assert "looked at" not in done.out
    found = json.loads(stitchrl(*words, "--gamma", 0.9).out)
    assert "have been looked at once before" in found["verdict"]["caveats"][-1]
    assert len(list(Path(os.environ["STITCHRL_STATE"]).glob("looks/*.npz"))) == 3
