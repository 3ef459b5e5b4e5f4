"""The main job on a small log: every stage's file, repeatable, resumable after kill -9, and honest about bad input."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import main_job
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Command
from main_job import SMALL, small_algorithms, small_job, write_small_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.evaluation.clock import first_steps
from stitchrl.mdp.icu_sepsis import ExactValues
from stitchrl.pipeline.demo import write_demo_log
from stitchrl.pipeline.ladder import FLOORS, POWERS
from stitchrl.pipeline.pipeline import run_stages
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.stages import STAGES
from stitchrl.storage.tensors import read_tensors
from stitchrl.training.divergence import DivergenceError

FILES = ["audit.json", "split.json", "ranking.json", "looks.json", "estimates.json", "verdict.json", "report.html"]
RESULTS = ["split.json", "ranking.json", "estimates.json", "verdict.json"]
ONE = dataclasses.replace(SMALL, updates=100, seeds=1)  # 100 at a time, as in SMALL: the same programs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log and a finished run on it, with exact values."""
    folder = tmp_path_factory.mktemp("main")
    log = write_small_log(folder)
    run_stages(small_job(log, folder / "run"))
    return log, folder / "run"


def results(run: Path) -> dict[str, str]:
    return {name: (run / name).read_text() for name in RESULTS}


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_stage_leaves_its_file(finished: tuple[Path, Path]) -> None:
    _, run = finished
    for name in [*FILES, "run.json", "policy/policy.json", "policy/policy.safetensors"]:
        assert (run / name).stat().st_size > 0, name
    assert not list(run.rglob("*.part"))
    advice = content(run / "advice.json")
    assert "40% are the test part" in advice["parts"]["next_log"]["statements"][-1]["statement"]
    report = (run / "report.html").read_text()
    assert "<h2>What is advised</h2>" in report
    assert f"<p>{advice['parts']['choice']['statements'][0]['statement']}</p>" in report
    ranking = content(run / "ranking.json")
    for candidate in ranking["candidates"]:
        names = {"fqe"} if candidate["rung"] else {"wis", "wdr", "fqe"}
        assert names <= set(candidate["evaluation"]["estimates"])
        assert 0.7 < candidate["exact"] < 0.9


def test_the_best_rung_of_each_label_is_ranked_and_acts_as_it_says(finished: tuple[Path, Path]) -> None:
    log, run = finished
    ranking = content(run / "ranking.json")
    rungs = [candidate for candidate in ranking["candidates"] if candidate["rung"]]
    assert {rung["label"] for rung in rungs} == {"BC", "IQL", "IQL-2"}
    assert len(ranking["ladder"]) == 3 * len(POWERS) * len(FLOORS)
    for rung in rungs:
        of = ranking["candidates"][rung["rung"]["of"]]
        assert (of["label"], of["seed"], of["rung"]) == (rung["label"], rung["seed"], None)
        assert rung["acts"] == "rung of the ladder"
        assert rung["claimed"] is None
        steps = [step for step in ranking["ladder"] if step["label"] == rung["label"] and step["healthy"]]
        best = max((step["predicted_lower"] for step in steps), default=None)
        shown = next(step for step in ranking["ladder"] if step["title"] == rung["title"])
        assert best is None or shown["predicted_lower"] == best
    # A rung put first is what test and the bundle see, also by another process that only has the files.
    job = small_job(log, run)
    place = ranking["candidates"].index(rungs[-1])
    ranking["order"] = sorted(ranking["order"], key=lambda row: row["index"] != place)
    job.load = lambda name: ranking if name == "ranking.json" else type(job).load(job, name)  # type: ignore[method-assign]
    chosen = job.selected
    assert chosen.title == rungs[-1]["title"]
    assert ExactValues().value(chosen.policy) == pytest.approx(rungs[-1]["exact"], abs=1e-9)


def test_without_the_ladder_there_are_the_candidates_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    settings = dataclasses.replace(ONE, ladder=False)
    job = small_job(finished[0], tmp_path / "run", algorithms=small_algorithms()[:1], settings=settings)
    run_stages(job, until="select")
    ranking = content(tmp_path / "run" / "ranking.json")
    assert [candidate["title"] for candidate in ranking["candidates"]] == ["BC seed 0"]
    assert ranking["ladder"] == []


def test_two_settings_of_one_class_stand_in_one_run(finished: tuple[Path, Path]) -> None:
    _, run = finished
    ranking, report = content(run / "ranking.json"), (run / "report.html").read_text()
    trained = [candidate for candidate in ranking["candidates"] if candidate["rung"] is None]
    assert [(c["title"], c["label"], c["algorithm"], c["seed"]) for c in trained] == [
        (f"{label} seed {seed}{form}", label, algorithm, seed)
        for label, algorithm, form in [
            ("BC", "BC", ""),
            ("IQL", "IQL", ", greedy"),
            ("IQL-2", "IQL", ", greedy"),
        ]
        for seed in (0, 1)
    ]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"BC", "IQL", "IQL-2"}
    settings = {entry["label"]: entry["settings"] for entry in content(run / "run.json")["candidates"]}
    assert settings["IQL"]["inverse_temperature"] == 10.0
    assert settings["IQL-2"]["inverse_temperature"] == 1.0
    claims = [candidate["claimed"] for candidate in trained if candidate["algorithm"] == "IQL"]
    assert len(set(claims)) == 4  # each has weights of its own
    metrics = {label: (run / "checkpoints" / label / "metrics.parquet").read_bytes() for label in ("IQL", "IQL-2")}
    assert metrics["IQL"] != metrics["IQL-2"]
    selected = content(run / "estimates.json")["selected"]
    assert content(run / "policy" / "policy.json")["provenance"]["label"] == selected["label"]
    assert report.count("IQL-2") > 3  # claims, gains, learning curves, settings
    assert selected["title"] in report


def test_only_the_selected_policy_touches_test(finished: tuple[Path, Path]) -> None:
    _, run = finished
    estimates, split = content(run / "estimates.json"), content(run / "split.json")
    assert estimates["part"] == "test"
    assert set(estimates) == {"part", "selected", "behavior", "behavior_exact", "weights", "disagreement"}
    positions = [set(part["positions"]) for part in split["parts"].values()]
    assert sum(map(len, positions)) == len(set.union(*positions)) == 400
    assert [len(p) for p in positions] == [200, 40, 160]


def test_behaviour_value_is_the_mean_return_of_the_test_stays(finished: tuple[Path, Path]) -> None:
    log, run = finished
    estimates = content(run / "estimates.json")
    test = st.read(log).split((0.5, 0.1, 0.4), seed=0)[2]
    assert estimates["behavior"]["value"] == pytest.approx(test.episode_returns().mean())
    assert estimates["behavior_exact"] == pytest.approx(0.78184, abs=1e-4)


def test_the_bundle_acts_as_the_selected_policy(finished: tuple[Path, Path]) -> None:
    log, run = finished
    bundle, data = st.load_policy(run / "policy"), st.read(log)
    estimates = content(run / "estimates.json")
    assert ExactValues().value(bundle.unguarded()) == pytest.approx(estimates["selected"]["exact"], abs=1e-9)
    assert data.action_mask is not None
    probs = bundle.probs(data.observation[:50], action_mask=data.action_mask[:50])
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert bundle.guard.admits(data.observation).mean() > 0.95
    assert not bundle.guard.admits(data.observation[:1] + np.float32(100))[0]
    assert bundle.provenance["verdict"]["decision"] in ("GO", "NO-GO", "CANNOT TELL")


def test_the_same_command_again_changes_nothing(finished: tuple[Path, Path]) -> None:
    log, run = finished

    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "timings.json"}

    before = files()
    found = run_stages(small_job(log, run))
    assert files() == before
    assert found.verdict is not None
    assert json.loads(json.dumps(found.to_dict()["verdict"])) == content(run / "verdict.json")
    assert (found.folder, found.report, found.policy) == (run, run / "report.html", run / "policy")
    assert (found.audit, found.stopped) == ("usable", "")
    assert found.selected == content(run / "estimates.json")["selected"]["title"]
    assert str(found).startswith(found.verdict.decision)
    assert str(run / "report.html") in str(found)


def test_run_of_the_face_is_the_same_job(finished: tuple[Path, Path]) -> None:
    log, run = finished
    numbers = {"updates": 600, "evaluation_updates": 40, "seeds": 2, "batch_size": 64}
    found = st.run(log, run, algorithms=small_algorithms(), truth=ExactValues(), **numbers)
    assert isinstance(found, st.Outcome)
    assert found.to_dict() == run_stages(small_job(log, run)).to_dict()
    shown = inspect.signature(st.run).parameters
    for field in dataclasses.fields(PipelineSettings):
        assert shown[field.name].default == field.default, field.name
    with pytest.raises(RunDirectoryError, match=r"with margin 0\.0 where yours has 0\.1"):
        st.run(log, run, algorithms=small_algorithms(), truth=ExactValues(), margin=0.1, **numbers)


def test_a_deleted_stage_is_done_again_and_so_is_what_rests_on_it(finished: tuple[Path, Path], tmp_path: Path) -> None:
    log, run = finished
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {name: (copy / name).read_bytes() for name in FILES}
    (copy / "verdict.json").write_text("{}")
    (copy / "report.html").write_text("stale")
    (copy / "estimates.json").unlink()
    run_stages(small_job(log, copy))
    assert {name: (copy / name).read_bytes() for name in FILES} == before


@pytest.mark.slow
def test_a_log_without_propensities_takes_the_same_path(tmp_path: Path) -> None:
    log = write_small_log(tmp_path, propensities=False)
    found = run_stages(small_job(log, tmp_path / "run", algorithms=small_algorithms()[:1], settings=ONE, truth=None))
    assert found.verdict is not None
    assert any("no propensities" in caveat for caveat in found.verdict.caveats)
    audit = content(tmp_path / "run" / "audit.json")
    assert [f["code"] for f in audit["findings"] if f["code"].startswith("prop")] == ["propensities-missing"]
    estimates = content(tmp_path / "run" / "estimates.json")
    assert estimates["selected"]["evaluation"]["behavior_fitted"]
    assert estimates["selected"]["exact"] is None


# --- a horizon ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of stays of which nothing is known after five steps: every stay that still runs is cut there."""
    folder = tmp_path_factory.mktemp("limited")
    log = first_steps(main_job.demo_log(main_job.compact_table(main_job.draw_log(600, seed=5))), 5)
    pq.write_table(main_job.log_table(log), folder / "stays.parquet")
    (folder / "stays.toml").write_text(log.schema.to_toml())
    return folder / "stays.parquet"


@pytest.mark.slow
def test_from_the_advice_to_a_verdict(limited: Path, stitchrl: Command) -> None:
    """A log whose stays are all cut cannot be judged until the end, and what it says to do about that works."""
    one = ["--algorithms", "BC", "--set", "BC.hidden_sizes=16", "--updates", 100, "--seeds", 1]
    words = ["run", limited, *one, "--evaluation-updates", 40, "--batch-size", 64]
    plain = stitchrl(*words, "--out", limited.parent / "plain", "--quiet")
    assert (plain.status, plain.err) == (0, "")
    assert plain.out.startswith("CANNOT TELL")
    said = " ".join(plain.out.split())  # the terminal breaks its lines
    advice = re.search(r"With `(\w+)` at most (\d+) no weight is lost", said)
    assert advice is not None
    assert advice.groups() == ("horizon", "5")
    done = stitchrl(*words, "--out", limited.parent / "run", f"--{advice[1]}", advice[2])
    assert done.status == 0, done.err
    for stage in ("4/9 select ", "5/9 evaluate"):
        (line,) = (line for line in done.out.splitlines() if line.startswith(stage))
        assert line.endswith("in the first 5 steps"), line
    assert "Only the first 5 steps of an episode count" in done.out
    run = limited.parent / "run"
    estimates = content(run / "estimates.json")
    for gain in estimates["selected"]["evaluation"]["gain"].values():
        assert gain["estimand"] == {"gamma": 1.0, "horizon": 5}
        lost = [check for check in gain["checks"] if check["key"].endswith("lost-weight")]
        assert lost
        assert all(check["passed"] for check in lost)
    assert estimates["selected"]["evaluation"]["gain"]["fqe"]["value"] is not None
    assert estimates["selected"]["claimed"] is None
    assert "in return of the first 5 steps" in (run / "report.html").read_text()
    assert "Only the first 5 steps" in content(run / "policy" / "policy.json")["provenance"]["verdict"]["caveats"][0]


@pytest.mark.slow
def test_exact_values_are_of_the_same_steps(limited: Path) -> None:
    settings = dataclasses.replace(ONE, horizon=5)
    job = small_job(limited, limited.parent / "exact", algorithms=small_algorithms()[1:2], settings=settings)
    run_stages(job, until="select")
    ranking = content(limited.parent / "exact" / "ranking.json")
    assert ranking["behavior_exact"] == pytest.approx(ExactValues().behavior(horizon=5), abs=1e-12)
    trained = [entry for entry in ranking["candidates"] if entry["rung"] is None]
    for candidate, entry in zip(job.candidates, trained, strict=True):
        assert entry["exact"] == pytest.approx(ExactValues().value(candidate.policy, horizon=5), abs=1e-12)
        assert entry["claimed"] is None


def test_a_truth_without_horizons_is_refused_before_anything_is_written(limited: Path, tmp_path: Path) -> None:
    class UntilTheEnd:
        name = "exact"

        def value(self, policy: Any) -> float:
            return 0.8

        def behavior(self) -> float:
            return 0.7

    settings = dataclasses.replace(ONE, horizon=5)
    with pytest.raises(
        ConfigurationError, match=r"`truth` has no exact values of the first 5 steps: its `value` takes"
    ):
        run_stages(small_job(limited, tmp_path / "run", settings=settings, truth=UntilTheEnd()))
    assert not (tmp_path / "run").exists()


def test_a_run_begun_before_there_were_horizons_goes_on(finished: tuple[Path, Path], tmp_path: Path) -> None:
    log, run = finished
    shutil.copytree(run, tmp_path / "run")
    identity = content(run / "run.json")
    assert identity.pop("horizon") is None
    (tmp_path / "run" / "run.json").write_text(json.dumps(identity))
    (tmp_path / "run" / "report.html").unlink()
    run_stages(small_job(log, tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").read_bytes() == (run / "report.html").read_bytes()


# --- what is refused ---------------------------------------------------------------------------------------------


def other_temperature() -> dict[str, Any]:
    labels = ("BC", "IQL", "IQL-2")
    found = dict(zip(labels, small_algorithms(), strict=True))
    return found | {"IQL-2": dataclasses.replace(found["IQL-2"], inverse_temperature=2.0)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": dataclasses.replace(SMALL, updates=601)}, "updates"),
        ({"settings": dataclasses.replace(SMALL, seed=1)}, "seed"),
        ({"algorithms": small_algorithms()[:2]}, "candidates 'BC, IQL, IQL-2' where yours has 'BC, IQL'"),
        ({"algorithms": other_temperature()}, "candidate 'IQL-2'.settings.inverse_temperature 1.0 where yours has 2.0"),
        ({"truth": None}, "truth"),
        ({"settings": dataclasses.replace(SMALL, horizon=5)}, "horizon None where yours has 5"),
    ],
)
def test_another_run_in_the_directory_is_refused(
    finished: tuple[Path, Path], change: dict[str, Any], named: str
) -> None:
    log, run = finished
    before = results(run)
    with pytest.raises(RunDirectoryError) as refused:
        run_stages(small_job(log, run, **change))
    assert f"another run, with {named}" in str(refused.value)
    assert results(run) == before


def test_a_run_of_a_version_without_labels_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    log, _ = finished
    job = small_job(log, tmp_path / "run", algorithms=small_algorithms()[:2])
    job.claim()
    old = content(tmp_path / "run" / "run.json")
    old["algorithms"] = [{k: v for k, v in entry.items() if k != "label"} for entry in old.pop("candidates")]
    (tmp_path / "run" / "run.json").write_text(json.dumps(old))
    with pytest.raises(RunDirectoryError, match="of an earlier version"):
        job.claim()


def test_another_log_in_the_directory_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = finished
    other = write_small_log(tmp_path, stays=401)
    with pytest.raises(RunDirectoryError, match="another log"):
        run_stages(small_job(other, run))


def test_a_directory_with_something_else_is_left_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"holds other files \(thesis\.txt\)"):
        run_stages(small_job(finished[0], tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_algorithm_for_other_actions_is_refused_before_anything_is_written(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="TD3BC learns from continuous actions; this log's are discrete"):
        run_stages(small_job(finished[0], tmp_path / "run", algorithms=[st.BC(), st.TD3BC()]))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_warning_example_is_never_selected_and_left_out_where_it_diverges(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    log, said = finished[0], []
    usual = small_algorithms()
    warning = st.DQN(gamma=1.0, hidden_sizes=(16,))
    chosen = [dataclasses.replace(warning, learning_rate=1e30), usual[0], warning]
    job = small_job(
        log, tmp_path / "run", algorithms=chosen, settings=ONE, truth=None, say=lambda *words: said.append(words)
    )
    run_stages(job, until="select")
    assert any(stage == "train" and text.startswith("DQN left out") for stage, text in said)
    ranking = content(tmp_path / "run" / "ranking.json")
    assert [c["label"] for c in ranking["candidates"]] == ["BC", "DQN-2", "BC"]  # no ladder for the warning
    places = [(ranking["candidates"][row["index"]]["label"], row["eligible"]) for row in ranking["order"]]
    assert places == [("BC", True), ("BC", True), ("DQN-2", False)]
    serious = [usual[0], dataclasses.replace(usual[1], learning_rate=1e30)]
    with pytest.raises(DivergenceError, match="IQL must stay finite"):
        run_stages(small_job(log, tmp_path / "serious", algorithms=serious, settings=ONE, truth=None))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": 0}, "`seeds` must be at least 1; got 0"),
        ({"horizon": 0}, "`horizon` must be at least 1 step; got 0"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
        ({"confidence": 1.0}, r"`confidence` must be in \(0, 1\); got 1.0"),
        ({"margin": float("nan")}, "`margin` must be a finite number; got nan"),
        ({"fractions": (0.5, 0.5, 0.5)}, "`fractions` must be three shares above 0 that sum to 1.* got 0.5, 0.5, 0.5"),
        ({"fractions": (0.5, 0.5, 0.0)}, "got 0.5, 0.5, 0.0"),
        ({"split_by": "ward"}, "`split_by` must be one of episode, group, time, return; got 'ward'"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        PipelineSettings(**change)


def test_the_demo_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "stays.toml").write_text("mine = true")
    with pytest.raises(RunDirectoryError, match=r"stays.toml is of another log"):
        write_demo_log(tmp_path)
    assert (tmp_path / "stays.toml").read_text() == "mine = true"
    assert not (tmp_path / "stays.parquet").exists()


# --- a log that is not usable ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unusable(finished: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stays, with logged probabilities of the taken actions that contradict those of all actions."""
    folder = tmp_path_factory.mktemp("unusable")
    log = write_small_log(folder)
    table = pq.read_table(log)
    halved = table["behavior_log_prob"].to_numpy() - np.float32(0.7)
    table = table.drop_columns(["behavior_log_prob"]).append_column("behavior_log_prob", pa.array(halved))
    pq.write_table(table, log)
    return log


def test_a_run_stops_at_a_log_that_is_not_usable(unusable: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = small_job(unusable, run, algorithms=small_algorithms()[:1], settings=ONE)
    found = run_stages(job)
    assert (found.audit, found.verdict, found.policy) == ("not usable", None, None)
    assert "not usable (propensities-disagree), so the run stopped there" in found.stopped
    assert str(found).startswith(found.stopped)
    assert {path.name for path in run.iterdir()} == {"run.json", "audit.json", "report.html", "timings.json"}
    report = (run / "report.html").read_text()
    assert "not usable, so the run stopped after the audit" in report
    assert "propensities-disagree" in report
    assert st.report(run, tmp_path / "again.html") == tmp_path / "again.html"
    assert (tmp_path / "again.html").read_text() == report

    forced = run_stages(job, force=True)
    assert forced.stopped == ""
    assert forced.verdict is not None
    assert forced.verdict.decision != "GO"
    assert any("the run went on because it was told to (`force`)" in caveat for caveat in forced.verdict.caveats)
    report = (run / "report.html").read_text()
    assert "so the run stopped" not in report
    assert "the run went on because it was told to" in report
    again = run_stages(job)  # without force it stops, and leaves what is there
    assert again.verdict is None
    assert (run / "report.html").read_text() == report


# --- the commands on a finished run ------------------------------------------------------------------------------

CONFIG = """
updates = 600
evaluation_updates = 40
seeds = 5                  # the command line says 2, and wins
batch-size = 64

[[candidate]]
algorithm = "BC"
hidden_sizes = [16]
learning_rate = 3e-4

[[candidate]]
algorithm = "IQL"
hidden_sizes = [16]
expectile = 0.7
learning_rate = 3e-4
target_rate = 0.005

[[candidate]]
algorithm = "IQL"
hidden_sizes = "16"
expectile = 0.7
learning_rate = 3e-4
target_rate = 0.005
"""


@pytest.fixture(scope="module")
def commanded(finished: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """A copy of the finished run, and the command that would have made it but for the exact values."""
    log, run = finished
    folder = tmp_path_factory.mktemp("commanded")
    shutil.copytree(run, folder / "run")
    identity = content(run / "run.json") | {"truth": None}
    (folder / "run" / "run.json").write_text(json.dumps(identity))
    (folder / "config.toml").write_text(CONFIG)
    words = ["run", log, "--out", folder / "run", "--config", folder / "config.toml", "--seeds", 2]
    return folder / "run", [*words, "--set", "IQL-2.inverse_temperature=1.0"]


def test_the_command_finds_the_run_that_python_made(commanded: tuple[Path, list[object]], stitchrl: Command) -> None:
    run, words = commanded
    before = results(run)
    done = stitchrl(*words)
    assert done.status == 0, done.err
    verdict = content(run / "verdict.json")
    lines = done.out.splitlines()
    said = [tuple(line.split()[:2]) for line in lines[: lines.index("")]]
    assert list(dict.fromkeys(said)) == [(f"{k}/9", stage) for k, stage in enumerate(STAGES, 1)]
    assert any(line.endswith("6 candidates: BC x 2, IQL x 2, IQL-2 x 2") for line in lines)
    assert lines[lines.index("") + 1].startswith(f"{verdict['decision']}: ")
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert results(run) == before


def test_what_the_command_prints(commanded: tuple[Path, list[object]], stitchrl: Command) -> None:
    run, words = commanded
    quiet = stitchrl(*words, "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    assert quiet.out.startswith(content(run / "verdict.json")["decision"])
    assert "1/9" not in quiet.out
    plain = stitchrl(*words, "--json")
    assert (plain.status, plain.err) == (0, "")
    found = json.loads(plain.out)
    assert found["verdict"] == content(run / "verdict.json")
    assert (found["audit"], found["stopped"], found["policy"]) == ("usable", "", str(run / "policy"))
    assert stitchrl(*words, "--until", "split").out.splitlines()[-1].startswith("2/9 split")


@pytest.mark.parametrize(("decision", "status"), [("GO", 0), ("NO-GO", 3), ("CANNOT TELL", 4)])
def test_the_gate_tells_the_verdict(
    commanded: tuple[Path, list[object]], stitchrl: Command, decision: str, status: int
) -> None:
    run, words = commanded
    verdict = content(run / "verdict.json")
    (run / "verdict.json").write_text(json.dumps(verdict | {"decision": decision}))
    try:
        assert stitchrl(*words).status == 0
        assert stitchrl(*words, "--gate").status == status
        assert stitchrl(*words, "--gate", "--json").status == status
    finally:
        (run / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")


def test_a_command_that_does_not_fit_the_run_is_refused(
    commanded: tuple[Path, list[object]], stitchrl: Command
) -> None:
    run, words = commanded
    before = results(run)
    for more, sentence in [
        (["--set", "IQL.expectile=0.9"], "candidate 'IQL'.settings.expectile 0.7 where yours has 0.9"),
        (["--seeds", 3], "holds another run, with seeds"),
        (["--set", "IQL-3.expectile=0.9"], "the candidates are BC, IQL, IQL-2"),
        (["--algorithms", "BC"], "Candidates stand in the configuration file and on the command line"),
        (["--gate", "--until", "select"], "`--gate` needs a verdict, and a run until 'select' has none"),
    ]:
        done = stitchrl(*words, *more)
        assert done.status == 2
        assert done.err.startswith("error: ")
        assert sentence in done.err
    assert results(run) == before


def test_evaluate_command(finished: tuple[Path, Path], tmp_path: Path, stitchrl: Command) -> None:
    log, run = finished
    for folder in (run / "policy", run):
        done = stitchrl("evaluate", folder, log)
        assert (done.status, "learned from this very log" in done.err) == (2, True)
    other = write_small_log(tmp_path, seed=4, stays=100)
    words = ["evaluate", run / "policy", other, "--evaluation-updates", 5]
    done = stitchrl(*words, "--estimators", "wis", "--confidence", 0.9, "--gamma", 0.95, "--json", "--gate")
    found = json.loads(done.out)
    assert set(found["estimates"]) == {"wis"}
    assert found["estimates"]["wis"]["confidence"] == 0.9
    assert found["estimates"]["wis"]["estimand"] == {"gamma": 0.95, "horizon": None}
    assert done.status == {"GO": 0, "NO-GO": 3, "CANNOT TELL": 4}[found["verdict"]["decision"]]
    for more, sentence in [
        (["--estimators", "spell"], "`estimators` must be names from"),
        (["--baseline", tmp_path], "no policy to load"),
        (["--cost", "reward<0.5"], "A limit of a cost must say COLUMN<=LIMIT"),
        (["--cost", "hours<=0.5"], "The schema says cost is in column 'hours'"),
        (["--group", "step", "--group", "sex"], "subgroup is in column 'sex'"),
    ]:
        done = stitchrl(*words, *more)
        assert (done.status, sentence in done.err) == (2, True), done.err


def test_evaluate_command_with_groups_costs_and_a_trained_baseline(
    finished: tuple[Path, Path], tmp_path: Path, stitchrl: Command
) -> None:
    """Columns of the file that its schema does not name; every stay is one half of the log or the other."""
    log, run = finished
    own = pq.read_table(log)
    same = tmp_path / "same"
    same.mkdir()
    pq.write_table(own.append_column("hours", pa.array(np.ones(len(own)))), same / "stays.parquet")
    (same / "stays.toml").write_text(log.with_suffix(".toml").read_text())
    refused = stitchrl("evaluate", run, same / "stays.parquet", "--cost", "hours<=5")
    assert (refused.status, "learned from this very log" in refused.err) == (2, True)
    other = write_small_log(tmp_path, seed=4, stays=220)
    table = pq.read_table(other)
    half = np.where(table["episode"].to_numpy() % 2 == 0, "even", "odd")
    table = table.append_column("half", pa.array(half)).append_column("hours", pa.array(np.ones(len(table))))
    pq.write_table(table, other)
    words = ["evaluate", run, other, "--evaluation-updates", 5, "--estimators", "wdr", "--json"]
    more = ["--group", "half", "--cost", "hours<=1", "--baseline", run / "checkpoints" / "BC"]
    done = stitchrl(*words, *more)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    groups, (cost,) = found["groups"]["gains"], found["costs"]
    assert [(gain["column"], gain["label"], gain["units"]) for gain in groups] == [
        ("half", "even", 110),
        ("half", "odd", 110),
    ]
    assert cost["behavior"] == pytest.approx(len(table) / 220)  # an hour a step: the mean length of a stay
    line = found["verdict"]["lines"][-1]
    assert line["rule"] == "no group lies wholly below 0 and no cost lies wholly above its limit"
    assert [part["sentence"].split()[1] for part in line["parts"]] == ["half", "half", "limit"]
    assert "baseline" in found["verdict"]["headline"]


class Found(SimpleNamespace):
    """An evaluation that says its verdict alone."""

    def __str__(self) -> str:
        return str(self.verdict)


def test_what_the_evaluate_command_asks_for(
    finished: tuple[Path, Path], tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = finished
    other = write_small_log(tmp_path, seed=4, stays=20)
    asked: dict[str, Any] = {}
    verdict = st.Verdict("NO-GO", "not better.", (), (), "wis", 0.0, 0.95)

    def evaluate(policy: st.Bundle, log: st.Dataset, **arguments: Any) -> Any:
        asked.update(arguments)
        return Found(verdict=verdict)

    monkeypatch.setattr(st, "evaluate", evaluate)
    words = ["evaluate", run / "policy", other, "--baseline", run / "policy", "--horizon", 3, "--margin", 0.02]
    done = stitchrl(*words, "--estimators", "wis, fqe", "--seed", 5, "--evaluation-updates", 7)
    assert (done.status, done.out) == (0, "NO-GO: not better.\n")
    assert isinstance(asked.pop("baseline"), st.Bundle)
    assert asked.pop("settings") == st.FitSettings(updates=7, seed=5)
    assert asked == {
        "gamma": None, "horizon": 3, "confidence": 0.95, "margin": 0.02, "estimators": ("wis", "fqe"),
        "audit_verdict": "usable with care", "record_look": True, "minimum_odds_ratio": 1.5,
        "groups": (), "costs": (), "distribution": False, "tail": 0.1, "force": False,
    }  # fmt: skip
    assert stitchrl(*words, "--gate").status == 3


def test_report_command(finished: tuple[Path, Path], tmp_path: Path, stitchrl: Command) -> None:
    _, run = finished
    done = stitchrl("report", run, "--out", tmp_path / "again.html")
    assert (done.status, done.out) == (0, f"{tmp_path / 'again.html'}\n")
    assert (tmp_path / "again.html").read_bytes() == (run / "report.html").read_bytes()
    done = stitchrl("report", tmp_path)
    assert (done.status, "run.json" in done.err) == (2, True)


# --- kill -9 -----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    found = os.environ | {"PYTHONPATH": str(Path(st.__file__).parent.parent)}
    for strict in ("JAX_NUMPY_RANK_PROMOTION", "JAX_NUMPY_DTYPE_PROMOTION"):
        found.pop(strict, None)
    return found


def whole(run: Path) -> None:
    """No file a reader would look at is ever half written."""
    for path in run.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_text())
    for path in run.rglob("metrics.parquet"):
        pq.read_table(path)


@pytest.mark.slow
def test_stage_by_stage_and_killed_in_training_and_in_selection_it_ends_the_same(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    log, undisturbed = finished
    run = tmp_path / "killed"

    def until(*stages: str) -> None:
        for stage in stages:
            found = run_stages(small_job(log, run), until=stage)
            assert (found.verdict is None) == (stage in ("audit", "split", "train", "select", "evaluate", "diagnose"))

    def killed(name: str, count: int, updates: int) -> None:
        words = [sys.executable, main_job.__file__, log, run, name, count]
        done = subprocess.run([*map(str, words)], env=environment(), capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        whole(run)
        assert not (run / "ranking.json").exists()
        _, header = read_tensors(run / "checkpoints" / "BC" / "checkpoint.safetensors")
        assert header["update"] == updates

    until("audit", "split")
    killed("BC/checkpoint.safetensors", 2, updates=500)
    until("train")
    killed("ranking.json", 1, updates=600)
    until(*list(STAGES)[list(STAGES).index("select") :])
    assert results(run) == results(undisturbed)
    assert (run / "report.html").read_bytes() == (undisturbed / "report.html").read_bytes()
    assert not list(run.rglob("*.part"))


def start(log: Path, out: Path, updates: int) -> subprocess.Popen[bytes]:
    words = ["run", log, "--out", out, "--updates", updates, "--seeds", 2, "--algorithms", "BC,IQL"]
    return subprocess.Popen(
        [sys.executable, "-m", "stitchrl.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path) -> None:
    log = write_small_log(tmp_path)
    assert start(log, tmp_path / "undisturbed", 2500).wait() == 0
    began = time.monotonic()  # with everything compiled, as it is for those that are killed
    assert start(log, tmp_path / "again", 2500).wait() == 0
    length = time.monotonic() - began
    rng, disturbed = np.random.default_rng(0), 0
    for attempt in range(20):
        run, kills = tmp_path / f"killed{attempt}", 0
        while True:
            process = start(log, run, 2500)
            try:
                code = process.wait(timeout=rng.uniform(0.2, 0.9) * length if kills < 4 else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                whole(run)
                kills += 1
                continue
            assert code == 0
            break
        assert results(run) == results(tmp_path / "undisturbed")
        disturbed += kills > 0
        length *= 1.0 if kills else 0.7  # the machine had been busier when it was timed
        if disturbed == 6:
            break
    assert disturbed == 6


@pytest.mark.slow
def test_the_main_jobs_own_candidates_run(tmp_path: Path) -> None:
    log = write_small_log(tmp_path)
    settings = PipelineSettings(updates=40, evaluation_updates=40, seeds=2)
    found = run_stages(small_job(log, tmp_path / "run", algorithms=None, settings=settings))
    assert found.verdict is not None
    ranking = content(tmp_path / "run" / "ranking.json")
    assert {"BC", "FilteredBC", "IQL", "CQL", "DQN"} <= {c["label"] for c in ranking["candidates"]}
    assert all(0.7 < candidate["exact"] < 0.9 for candidate in ranking["candidates"])
