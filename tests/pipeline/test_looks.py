"""The main job counts looks at its test part: other splits count, going on after a kill and the same command do not."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from main_job import SMALL, small_job, write_small_log

import stitchrl as st
from stitchrl.evaluation.looks import look_at
from stitchrl.pipeline import stages
from stitchrl.pipeline.pipeline import run_stages

ONE = dataclasses.replace(SMALL, updates=100, seeds=1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_log(tmp_path_factory.mktemp("log"))


def job(log: Path, out: Path, seed: int = 0) -> Any:
    algorithms = [st.BC(hidden_sizes=(16,))]
    return small_job(log, out, algorithms=algorithms, settings=dataclasses.replace(ONE, seed=seed))


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def results(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in ("looks.json", "estimates.json", "verdict.json")}


def test_other_splits_are_counted_and_the_same_command_is_not(log: Path, tmp_path: Path) -> None:
    first = run_stages(job(log, tmp_path / "first"), until="verdict").verdict
    assert first is not None
    assert not any("looked at" in caveat for caveat in first.caveats)
    assert content(tmp_path / "first" / "looks.json")["count"] == 0
    # The same command again, there and elsewhere.
    before = results(tmp_path / "first")
    for folder in ("first", "elsewhere"):
        run_stages(job(log, tmp_path / folder), until="verdict")
        assert results(tmp_path / folder) == before
    # Another split: two fifths of its test stays are in the first one's test part.
    second = run_stages(job(log, tmp_path / "second", seed=1), until="verdict").verdict
    assert second is not None
    tests = [set(content(tmp_path / run / "split.json")["parts"]["test"]["positions"]) for run in ("first", "second")]
    share = len(tests[0] & tests[1]) / 160
    looks = content(tmp_path / "second" / "looks.json")
    assert (looks["count"], looks["whole"], looks["share"]) == (1, 0, pytest.approx(share, abs=0.05))
    assert second.caveats[-1].startswith(f"About {looks['share']:.0%} of these test episodes have been looked at once")
    # The first one, elsewhere again, is one of two by now; what the finished run says stays.
    third = run_stages(job(log, tmp_path / "third"), until="verdict").verdict
    assert third is not None
    assert "have been looked at once before" in third.caveats[-1]
    report = run_stages(job(log, tmp_path / "third")).report
    assert report is not None
    assert "have been looked at once before" in report.read_text()
    run_stages(job(log, tmp_path / "first"))
    assert results(tmp_path / "first") == before


def test_a_run_that_goes_on_says_what_it_would_have_said(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(job(log, tmp_path / "undisturbed"), until="verdict")

    def die(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    started = job(log, tmp_path / "killed")
    run_stages(started, until="select")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "_evaluate", die)  # the look is recorded, and nothing was estimated yet
        with pytest.raises(KeyboardInterrupt):
            run_stages(started, until="verdict")
    assert not (tmp_path / "killed" / "estimates.json").exists()
    # Somebody else looks meanwhile.
    other = st.fit(st.BC(hidden_sizes=(16,)), started.parts["train"], updates=1, progress=False).policy
    assert look_at([other], started.parts["test"], stages.Estimand(1.0)).count == 1
    run_stages(job(log, tmp_path / "killed"), until="verdict")
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")
    (tmp_path / "killed" / "looks.json").unlink()
    (tmp_path / "killed" / "estimates.json").unlink()
    run_stages(job(log, tmp_path / "killed"), until="verdict")
    assert content(tmp_path / "killed" / "looks.json")["count"] == 1


def test_switched_off_it_says_so(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_STATE", "off")
    found = run_stages(job(log, tmp_path / "run"), until="verdict").verdict
    assert found is not None
    assert found.caveats[-1].startswith("This look at the test episodes was not recorded")


def test_the_evaluate_command_records_a_look(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    run_stages(job(log, tmp_path / "run"))
    other = write_small_log(tmp_path, seed=4, stays=100)
    words = ["evaluate", tmp_path / "run", other, "--estimators", "wis", "--json"]
    for _ in range(2):
        done = stitchrl(*words)
        assert (done.status, done.err) == (0, "")
        assert "looked at" not in done.out
    found = json.loads(stitchrl(*words, "--gamma", 0.9).out)
    assert "have been looked at once before" in found["verdict"]["caveats"][-1]
    assert len(list(Path(os.environ["STITCHRL_STATE"]).glob("looks/*.npz"))) == 3
