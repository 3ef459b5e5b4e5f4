"""The main job over continuous actions, from a Parquet file to a bundle and a second evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import linear_worlds as lw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stitchrl as st
from stitchrl.deployment.bundle import Bundle
from stitchrl.pipeline.ladder import REACHES, SPREADS
from stitchrl.pipeline.pipeline import run_stages
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.workspace import Workspace

SCHEMA = """
[action]
kind = "continuous"

[task]
gamma = 0.95
name = "plant"
"""
QUICK: dict[str, Any] = {"updates": 20, "evaluation_updates": 4, "seeds": 1}
ALGORITHMS = [st.BC(hidden_sizes=(8,)), st.TD3BC(hidden_sizes=(8,))]


def write(folder: Path, seed: int, name: str) -> Path:
    columns = lw.WORLD.log(lw.BEHAVIOR, lw.STD, episodes=60, steps=12, seed=seed)
    table = pa.table({key: pa.array(value.tolist()) for key, value in columns.items()})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{name}.parquet")
    (folder / f"{name}.toml").write_text(
        "[columns]\n" + "".join(f'{key} = "{key}"\n' for key in columns) + SCHEMA, encoding="utf-8"
    )
    return folder / f"{name}.parquet"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("continuous")
    log = write(folder, 1, "plant")
    st.run(log, folder / "run", algorithms=ALGORITHMS, **QUICK)
    return log, folder / "run"


def test_candidates_with_a_density_are_ranked_both_ways_and_those_without_by_lstdq(finished: tuple[Path, Path]) -> None:
    _, run = finished
    ranking = json.loads((run / "ranking.json").read_text(encoding="utf-8"))
    titles = [candidate["title"] for candidate in ranking["candidates"] if candidate["rung"] is None]
    assert titles == ["BC seed 0, greedy", "BC seed 0", "TD3BC seed 0, greedy"]
    estimators = {titles[row["index"]]: row["estimator"] for row in ranking["order"] if row["index"] < len(titles)}
    assert estimators == {"BC seed 0, greedy": "lstdq", "BC seed 0": "fqe", "TD3BC seed 0, greedy": "lstdq"}


def test_the_best_rung_of_each_label_is_ranked_and_is_what_acts(finished: tuple[Path, Path]) -> None:
    log, run = finished
    ranking = json.loads((run / "ranking.json").read_text(encoding="utf-8"))
    rungs = [candidate for candidate in ranking["candidates"] if candidate["rung"]]
    assert {candidate["label"] for candidate in rungs} == {"BC", "TD3BC"}
    assert len(ranking["ladder"]) == 2 * len(REACHES) * len(SPREADS)
    of = {candidate["label"]: ranking["candidates"][candidate["rung"]["of"]] for candidate in rungs}
    assert all(label == candidate["label"] for label, candidate in of.items())
    # Rungs have a density, also of a policy that has none, and the best of each label is the one that was estimated so.
    for candidate in rungs:
        assert set(candidate["evaluation"]["gain"]) == {"fqe"}
        own = [step for step in ranking["ladder"] if step["label"] == candidate["label"]]
        assert candidate["title"] == own[0]["title"]
    place = ranking["candidates"].index(rungs[-1])
    first = sorted(ranking["order"], key=lambda row: row["index"] != place)
    changed = run.parent / "rung"
    shutil.copytree(run, changed)
    (changed / "ranking.json").write_text(json.dumps(ranking | {"order": first}), encoding="utf-8")
    for name in ("estimates.json", "looks.json", "diagnosis.json", "verdict.json", "report.html"):
        (changed / name).unlink(missing_ok=True)
    shutil.rmtree(changed / "policy")
    st.run(log, changed, algorithms=ALGORITHMS, **QUICK)
    estimates = json.loads((changed / "estimates.json").read_text(encoding="utf-8"))
    assert estimates["selected"]["title"] == rungs[-1]["title"]
    page = (changed / "report.html").read_text(encoding="utf-8")
    assert "80% of the behaviour's standard deviation" in page.replace("&#39;", "'")
    obs = np.zeros((3, 2), np.float32)
    acting = [st.load_policy(changed / "policy"), st.load_policy(changed / "policy", backend="numpy")]
    # The rung holds a model of the behaviour, to which the guard can leave what lies outside the log.
    far = np.full((2, 2), 1e3, np.float32)
    outside = np.asarray(acting[0].guarded("behavior").mode(far))
    np.testing.assert_allclose(outside, np.asarray(acting[0].policy.policy.behavior.mode(far)), rtol=1e-5)
    with_jax, with_numpy = (np.asarray(bundle.mode(obs)) for bundle in acting)
    np.testing.assert_allclose(with_jax, with_numpy, rtol=1e-5)


def test_the_report_shows_the_shift_of_each_number_and_the_error_of_the_model(finished: tuple[Path, Path]) -> None:
    _, run = finished
    estimates = json.loads((run / "estimates.json").read_text(encoding="utf-8"))
    assert len(estimates["disagreement"]["shift"]["distance"]) == 2
    gains = estimates["selected"]["evaluation"]["gain"]
    assert all(gain["model_error"] > 0 for gain in gains.values() if gain["value"] is not None)
    # The shares that the report lists are those that the check of the verdict's estimate counted, models and all.
    evaluation = estimates["selected"]["evaluation"]
    primary = gains[evaluation["verdict"]["primary"]]
    (check,) = (check for check in primary["checks"] if check["key"] == "influence")
    assert evaluation["influence"]["largest"][0] == pytest.approx(check["seen"])
    assert 0 < evaluation["influence"]["models"] < 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "it comes from the fitted models" in page
    assert "action 1" in page
    assert "outside the logged range" in page


def test_the_bundle_acts_on_arrays_and_is_evaluated_on_another_log(finished: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = finished
    bundle = st.load_policy(run / "policy")
    obs = np.zeros((3, 2), np.float32)
    assert bundle.mode(obs).shape == (3, 2)
    assert isinstance(bundle.mode(obs), np.ndarray)
    with pytest.raises(st.errors.DataError, match="no probabilities"):
        bundle.probs(obs)
    other = st.read(write(tmp_path, 2, "other"))
    found = st.evaluate(bundle, other, settings=st.FitSettings(updates=4, networks=1))
    assert found.verdict.decision in ("GO", "NO-GO", "CANNOT TELL")
    assert isinstance(found.agreement, st.ActionShift)


def test_an_algorithm_for_other_actions_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    log, _ = finished
    with pytest.raises(
        st.errors.ConfigurationError, match="DQN learns from discrete actions; this log's are continuous"
    ):
        st.run(log, tmp_path / "run", algorithms=[st.DQN(), st.BC()], **QUICK)


def test_candidates_are_clipped_as_the_logged_actions_were(tmp_path: Path) -> None:
    log = write(tmp_path, 1, "clipped")
    table = pq.read_table(log).drop_columns(["behavior_log_prob"])
    action = np.clip(np.array(table["action"].to_pylist()), -0.5, 0.5)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", pa.array(action.tolist())), log)
    toml = log.with_suffix(".toml")
    toml.write_text(
        toml.read_text(encoding="utf-8").replace('behavior_log_prob = "behavior_log_prob"\n', ""), encoding="utf-8"
    )
    job = Workspace(
        log,
        tmp_path / "run",
        algorithms=[st.BC(hidden_sizes=(8,))],
        settings=PipelineSettings(updates=3, seeds=1),
        progress=False,
    )
    run_stages(job, until="train")
    greedy, drawn = (candidate.policy for candidate in job.candidates)
    assert isinstance(drawn, st.ClippedPolicy)
    np.testing.assert_allclose([drawn.low, drawn.high], [[-0.5] * action.shape[1], [0.5] * action.shape[1]])
    assert not greedy.has_density


def test_a_clipped_or_smoothed_bundle_knows_what_it_learned_from(finished: tuple[Path, Path]) -> None:
    log, run = finished
    bundle = st.load_policy(run / "policy")
    assert isinstance(bundle, Bundle)
    for other in (bundle.smoothed(0.2, -2.0, 2.0), bundle.smoothed(0.2, -np.inf, np.inf).clipped(-2.0, 2.0)):
        assert other.knows(st.read(log)).any()
        assert "smoothed by normal noise of 0.2" in other.described
