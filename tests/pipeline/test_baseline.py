"""A run whose gains are over a baseline: every stage, the report and the resume speak of that policy, not of the behaviour."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command
from evaluation_worlds import Uniform
from main_job import SMALL, small_job, write_small_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.mdp.icu_sepsis import ExactValues
from stitchrl.pipeline import stages
from stitchrl.pipeline.baseline import Baseline
from stitchrl.pipeline.pipeline import run_stages
from stitchrl.pipeline.workspace import Workspace
from stitchrl.reporting.report import build_report

ONE = dataclasses.replace(SMALL, updates=100, seeds=1)


@pytest.fixture(autouse=True, scope="module")
def _no_fits() -> Iterator[None]:
    """On test the estimator without a fitted Q is enough, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "evaluate_all", functools.partial(evaluate_all, estimators=("wis",)))
        yield


def job(log: Path, out: Path, policy: Any = None, name: str = "", **changes: Any) -> Workspace:
    baseline = None if policy is None else Baseline(policy, name)
    return small_job(log, out, algorithms=[st.BC(hidden_sizes=(16,))], settings=ONE, baseline=baseline, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[tuple[str, str]]]:
    """A log, a finished run on it over the policy that takes every allowed action alike, and what it said."""
    folder = tmp_path_factory.mktemp("baseline")
    log, said = write_small_log(folder), []
    run_stages(job(log, folder / "run", Uniform(), "the old protocol", say=lambda *words: said.append(words)))
    return log, folder / "run", said


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_gains_are_differences_from_the_value_of_the_baseline(finished: tuple[Path, Path, Any]) -> None:
    _, run, _ = finished
    for file, part in (("ranking.json", "validation"), ("estimates.json", "test")):
        found = content(run / file)
        assert (found["part"], found["baseline"]["title"]) == (part, "the old protocol")
        base = found["baseline"]["estimates"]
        checked = 0
        for candidate in found.get("candidates") or [found["selected"]]:
            for name, gain in candidate["evaluation"]["gain"].items():
                if gain["value"] is not None:
                    value = candidate["evaluation"]["estimates"][name]["value"]
                    assert gain["value"] == pytest.approx(value - base[name]["value"], abs=1e-9), (file, name)
                    assert abs(base[name]["value"] - found["behavior"]["value"]) > 1e-3  # the two can be told apart
                    checked += 1
        assert checked >= (3 if part == "validation" else 1)
    ranking = content(run / "ranking.json")
    rungs = [candidate for candidate in ranking["candidates"] if candidate["rung"]]
    assert len(ranking["candidates"]) == 2  # BC and the best rung of its ladder: the baseline is no candidate
    best = next(step for step in ranking["ladder"] if step["title"] == rungs[0]["title"])
    (gain,) = (gain["value"] for gain in rungs[0]["evaluation"]["gain"].values())
    assert best["gain"] == gain


def test_the_verdict_and_the_lines_of_the_run_name_the_baseline(finished: tuple[Path, Path, Any]) -> None:
    _, run, said = finished
    headline = content(run / "verdict.json")["headline"]
    assert "the baseline" in headline
    assert "behaviour" not in headline
    lines = dict(said)
    assert "gain over the baseline " in lines["select"]
    assert re.search("gain over the baseline |no estimate has an interval", lines["evaluate"])
    identity = content(run / "run.json")
    assert identity["baseline"] == "the old protocol"
    assert content(run / "policy" / "policy.json")["provenance"]["baseline"] == "the old protocol"


def test_the_report_is_about_the_baseline_and_its_exact_gains_too(finished: tuple[Path, Path, Any]) -> None:
    _, run, _ = finished
    text = re.sub(r"<[^>]*>", " ", (run / "report.html").read_text())
    assert "better than the baseline (the old protocol)" in text
    assert "gain over the baseline, in return" in text
    assert "over behaviour" not in text
    assert "as good as behaviour" not in text
    ranking = content(run / "ranking.json")
    assert ranking["baseline"]["exact"] == pytest.approx(ExactValues().value(Uniform()))
    assert abs(ranking["baseline"]["exact"] - ranking["behavior_exact"]) > 1e-3
    exact = {candidate["title"]: candidate["exact"] for candidate in ranking["candidates"]}
    exact |= {step["title"]: step["exact"] for step in ranking["ladder"]}
    report = build_report(run, {})
    rows = [
        *report["ranking"],
        *report["ladder"]["rows"],
        *report["estimates"]["validation"],
        *report["estimates"]["test"],
    ]
    assert len(rows) > 10
    for row in rows:
        gain = exact[row.get("title") or row["label"]] - ExactValues().value(Uniform())
        assert row["exact_gain"] == pytest.approx(gain, abs=1e-9)


class Renamed(Uniform):
    """Another class that acts alike."""


class Sometimes(Uniform):
    """Nearly the same policy: it leaves out one action of the rows whose first number is large."""

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        assert action_mask is not None
        mask = action_mask.copy()
        several = (mask.sum(1) > 1) & (obs[:, 0] > np.quantile(obs[:, 0], 0.99))
        mask[several, mask[several].argmax(1)] = False
        return super().probs(obs, mask)


def test_a_run_goes_on_over_the_same_baseline_only(finished: tuple[Path, Path, Any], tmp_path: Path) -> None:
    log, run, _ = finished
    before = (run / "run.json").read_text()
    run_stages(job(log, run, Renamed(), "the same under another name"))
    assert (run / "run.json").read_text() == before
    with pytest.raises(RunDirectoryError, match="another run, with baseline 'the old protocol' where yours has None"):
        run_stages(job(log, run))
    with pytest.raises(
        RunDirectoryError, match="another run, with baseline 'the old protocol' where yours has 'Sometimes'"
    ):
        run_stages(job(log, run, Sometimes()))
    with pytest.raises(RunDirectoryError, match="another run, with baseline_fingerprint"):
        run_stages(job(log, run, Sometimes(), "the old protocol"))
    identity = content(run / "run.json")
    shutil.copytree(run, tmp_path / "older")
    older = {key: value for key, value in identity.items() if not key.startswith("baseline")}
    (tmp_path / "older" / "run.json").write_text(json.dumps(older))  # as versions without baselines left it
    run_stages(job(log, tmp_path / "older"), until="split")
    with pytest.raises(RunDirectoryError, match="another run, with baseline None where yours has 'Uniform'"):
        run_stages(job(log, tmp_path / "older", Uniform()))


class Narrow:
    """It knows two actions."""

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.full((len(obs), 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("old/policy", "`baseline` must be a policy, such as `st.load_policy` gives; got 'old/policy'"),
        (Narrow(), r"The baseline 'Narrow' does not fit this log: .*25"),
        (st.LoggedPolicy(), "known for every action"),
    ],
)
def test_what_cannot_be_a_baseline_is_refused_before_anything_is_written(
    policy: Any, sentence: str, finished: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        st.run(finished[0], tmp_path / "run", algorithms=[st.BC(hidden_sizes=(16,))], baseline=policy)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_takes_what_evaluate_takes(
    finished: tuple[Path, Path, Any], tmp_path: Path, stitchrl: Command
) -> None:
    log, run, _ = finished
    words = ["run", log, "--algorithms", "BC", "--until", "audit", "--quiet"]
    for number, policy in enumerate((run, run / "policy", run / "checkpoints" / "BC")):
        out = tmp_path / f"run-{number}"
        done = stitchrl(*words, "--out", out, "--baseline", policy)
        assert done.status == 0, done.err
        assert content(out / "run.json")["baseline"] == str(policy)
    known = content(tmp_path / "run-0" / "run.json")["baseline_fingerprint"]
    assert content(tmp_path / "run-1" / "run.json")["baseline_fingerprint"] == known
    refused = stitchrl(*words, "--out", tmp_path / "none", "--baseline", tmp_path)
    assert (refused.status, "no policy to load" in refused.err) == (2, True)
    assert not (tmp_path / "none").exists()
