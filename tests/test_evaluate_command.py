"""The policies that `stitchrl evaluate` takes: columns of the log, files of ONNX, and folders of `st.fit`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Command
from main_job import write_small_log

import stitchrl as st

ACTIONS = 25
OF_ALL = ",".join(f"p_{k}" for k in range(ACTIONS))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with the probabilities of a policy that is half the clinicians' and half uniform, in columns."""
    path = write_small_log(tmp_path_factory.mktemp("log"), stays=60)
    data = st.read(path)
    allowed = np.ones((len(data.action), ACTIONS)) if data.action_mask is None else data.action_mask
    probs = data.behavior_probs + allowed / allowed.sum(1, keepdims=True)
    probs /= probs.sum(1, keepdims=True)
    chosen = np.take_along_axis(probs, data.action[:, None], 1)[:, 0]
    table = pq.read_table(path)
    for k in range(ACTIONS):
        table = table.append_column(f"p_{k}", pa.array(probs[:, k]))
    table = table.append_column("always", pa.array(data.action))
    pq.write_table(table.append_column("logp", pa.array(np.log(chosen))), path)
    return path


def wis(done: tuple[int, str, str]) -> float:
    status, out, err = done
    assert status == 0, err
    return float(json.loads(out)["estimates"]["wis"]["value"])


def test_columns_of_the_log_are_a_policy(log: Path, stitchrl: Command) -> None:
    words = ["evaluate", log, "--estimators", "wis", "--json"]
    every = wis(stitchrl(*words, "--policy-columns", OF_ALL))
    alone = wis(stitchrl(*words, "--policy-log-prob", "logp"))
    assert alone == pytest.approx(every, rel=1e-5)
    data = st.read(log, beside={"policy_log_prob": ["logp"]})
    assert alone == pytest.approx(st.evaluate(st.LoggedPolicy(), data, estimators=("wis",)).estimates["wis"].value)
    assert wis(stitchrl(*words, "--policy-column", "always")) == pytest.approx(one_action(data))
    shown = stitchrl("evaluate", log, "--estimators", "wis,fqe", "--policy-log-prob", "logp")
    assert (shown.status, "\nwis " in shown.out) == (0, True)
    assert re.search(r"^fqe +- +- +does not apply$", shown.out, flags=re.MULTILINE)
    assert "CANNOT TELL" in shown.out


def one_action(log: st.Dataset) -> float:
    """The wis estimate, by hand, of the policy that repeats every logged action, whose ratio is 1 / its propensity."""
    ratio = np.exp(-np.asarray(log.behavior_log_prob, np.float64))
    weight = np.multiply.reduceat(ratio, log.episode_start[:-1])
    returns = np.add.reduceat(np.asarray(log.reward, np.float64), log.episode_start[:-1])
    return float((weight * returns).sum() / weight.sum())


def test_settings_of_the_fits_reach_them(
    log: Path, tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[st.FitSettings] = []

    def evaluate(*_: object, settings: st.FitSettings, **__: object) -> None:
        given.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(st, "evaluate", evaluate)
    (tmp_path / "config.toml").write_text('set = ["fit.hidden_sizes=8x4", "behavior=counts"]\nevaluation_updates = 7\n')
    words = ["evaluate", log, "--policy-log-prob", "logp", "--config", tmp_path / "config.toml", "--seed", 2]
    assert stitchrl(*words).status == 130
    assert stitchrl(*words, "--set", "fit.updates=9").status == 130
    assert given[0] == st.FitSettings(updates=7, seed=2, hidden_sizes=(8, 4), behavior="counts")
    assert given[1] == st.FitSettings(updates=9, seed=2)  # the command line wins
    (tmp_path / "config.toml").write_text('[[candidate]]\nalgorithm = "BC"\n')
    refused = stitchrl(*words)
    assert (refused.status, "`candidate` in " in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs POLICY and LOG, or LOG with `--policy-columns`"),
        (["LOG", "--policy-log-prob", "logp"], "both were given. Leave one of them out"),
        (["--policy-log-prob", "logp", "--policy-columns", OF_ALL], "both were given. Give one of them."),
        (
            ["--policy-columns", "p_0,p_1"],
            r"policy_probs of stays.parquet must hold one number for each of the 25 actions",
        ),
        (["--policy-columns", "p_0,,p_1"], "must be names separated by commas"),
        (["--policy-log-prob", "magic"], "policy_log_prob is in column 'magic'"),
        (["LOG", "--policy-output", "probs"], "no policy to load"),
        (["LOG"], "no policy to load"),
        (
            ["--policy-log-prob", "logp", "--set", "FQE.updates=3"],
            "got 'FQE.updates=3'. The settings are fit.updates, fit.batch_size, fit.hidden_sizes, fit.learning_rate, fit.seed, "
            "fit.behavior, fit.networks.",
        ),
        (
            ["--policy-log-prob", "logp", "--set", "fit.updates=few"],
            "`updates` of fit must be a whole number; got 'few'",
        ),
        (["--policy-log-prob", "logp", "--set", "fit.behavior=magic"], "`behavior` must be one of auto, counts"),
    ],
)
def test_bad_columns_are_one_sentence(words: list[str], sentence: str, log: Path, stitchrl: Command) -> None:
    done = stitchrl("evaluate", log, *(log if word == "LOG" else word for word in words))
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert done.err.count("\n") == 1


def test_a_folder_of_fit_is_a_policy(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    other = st.read(write_small_log(tmp_path / "other", stays=60, seed=5))
    run = st.fit(st.BC(hidden_sizes=(8,)), other, updates=3, seeds=2, out=tmp_path / "run")
    words = ["--estimators", "wis", "--json"]
    done = stitchrl("evaluate", tmp_path / "run", log, *words)
    expected = st.evaluate(run.policy, st.read(log), estimators=("wis",)).estimates["wis"].value
    assert wis(done) == pytest.approx(expected)
    assert "holds 2 seeds; the policy is that of seed 0" in done.err
    refused = stitchrl("evaluate", tmp_path / "run", tmp_path / "other" / "stays.parquet", *words)
    assert (refused.status, "learned from this very log" in refused.err) == (2, True)
    st.fit_grid(st.BC(hidden_sizes=(8,)), other, {"learning_rate": [1e-3, 1e-4]}, updates=3, out=tmp_path / "grid")
    refused = stitchrl("evaluate", tmp_path / "grid", log, *words)
    assert (refused.status, "holds a grid. Name one run of it" in refused.err) == (2, True)


def test_a_file_of_onnx_is_a_policy_and_a_baseline(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    data = st.read(log)
    size = data.observation_size
    weight = np.random.default_rng(0).normal(size=(size, ACTIONS)).astype(np.float32) * 0.02
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "weight"], ["y"])],
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["rows", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", ACTIONS])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "policy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    words = ["evaluate", path, log, "--estimators", "wis", "--json"]
    done = stitchrl(*words, "--policy-output", "logits")
    policy = st.load_policy(path, output="logits")
    assert wis(done) == pytest.approx(st.evaluate(policy, data, estimators=("wis",)).estimates["wis"].value)
    assert "does not say which log it learned from" in done.err
    refused = stitchrl(*words)
    assert (refused.status, "its outputs are y" in refused.err) == (2, True), refused.err
    wrong = stitchrl(*words, "--policy-output", "probs")
    assert (wrong.status, "If its output is logits" in wrong.err) == (2, True)
