"""Runs on disk: they continue bit for bit, are returned when finished, and are refused where they are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from training_cases import TINY, StopHereError, stop_after
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import CheckpointError, RunDirectoryError
from stitchrl.training.checkpoint import read_meta


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


BC = st.BC(learning_rate=1e-2, hidden_sizes=(8,))
SETTINGS: dict[str, Any] = {
    "updates": 50,
    "seeds": [3, 8],
    "batch_size": 8,
    "log_every_updates": 10,
    "save_every_updates": 20,
    "progress": False,
}


def undisturbed(algorithm: Any = BC) -> Any:
    return st.fit(algorithm, random_log(12), **SETTINGS)


@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path, chunks: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopHereError):
        st.fit(BC, random_log(12), out=out, callbacks=[stop_after(chunks)], **SETTINGS)
    assert (out / "metrics.parquet").exists() == (chunks >= 2)  # metrics come with each checkpoint
    seen = []
    resumed = st.fit(BC, random_log(12), out=out, callbacks=[lambda done, *_: seen.append(done)], **SETTINGS)
    # Checkpoints are at 20, 40 and 50, each before the callbacks: what came after the last one is done again.
    assert seen[0] == {1: 10, 2: 30, 3: 30, 4: 50}[chunks]
    whole = undisturbed()
    assert_trees_equal(resumed.states, whole.states)
    assert resumed.history == whole.history
    table = pq.read_table(out / "metrics.parquet")
    assert table["update"].to_pylist() == [u for u in (10, 20, 30, 40, 50) for _ in range(2)]
    assert table["seed"].to_pylist() == [3, 8] * 5
    assert table["loss/actor"].to_pylist() == [row["loss/actor"] for row in whole.history]
    assert names(out) == [
        "checkpoint.safetensors",
        "config.json",
        "episodes.safetensors",
        "metrics.arrows",
        "metrics.parquet",
    ]


def test_an_interrupted_run_with_critics_continues_bit_for_bit(tmp_path: Path) -> None:
    iql = st.IQL(learning_rate=1e-2, hidden_sizes=(8,), actor_decay_updates=50)
    with pytest.raises(StopHereError):
        st.fit(iql, random_log(12), out=tmp_path, callbacks=[stop_after(3)], **SETTINGS)
    resumed = st.fit(iql, random_log(12), out=tmp_path, **SETTINGS)
    assert_trees_equal(resumed.states, undisturbed(iql).states)


def test_writing_a_run_changes_nothing_of_it(tmp_path: Path) -> None:
    assert_trees_equal(st.fit(BC, random_log(12), out=tmp_path, **SETTINGS).states, undisturbed().states)


def test_a_finished_run_is_returned_without_training(tmp_path: Path) -> None:
    first = st.fit(BC, random_log(12), out=tmp_path, **SETTINGS)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    seen = []
    again = st.fit(BC, random_log(12), out=tmp_path, callbacks=[lambda done, *_: seen.append(done)], **SETTINGS)
    assert seen == []
    assert_trees_equal(again.states, first.states)
    assert again.history == first.history
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


OTHERS = {
    "algorithm": {"algorithm": st.FilteredBC(learning_rate=1e-2, hidden_sizes=(8,))},
    "settings": {"algorithm": st.BC(learning_rate=2e-2, hidden_sizes=(8,))},
    "seeds": {"seeds": [3, 9]},
    "batch_size": {"batch_size": 16},
    "log_every_updates": {"log_every_updates": 5},
    "standardize": {"standardize": False},
    "reward_scale": {"reward_scale": 2.0},
    "log": {"log": random_log(12, seed=1)},
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_configuration_is_refused_with_the_key_that_differs(tmp_path: Path, key: str) -> None:
    call = {"algorithm": BC, "log": random_log(12)} | SETTINGS
    st.fit(**call | {"updates": 50}, out=tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RunDirectoryError, match=rf"holds another run, with {key}(\.\S+)? "):
        st.fit(**call | OTHERS[key], out=tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_how_often_to_save_may_change(tmp_path: Path) -> None:
    with pytest.raises(StopHereError):
        st.fit(BC, random_log(12), out=tmp_path, callbacks=[stop_after(3)], **SETTINGS)
    resumed = st.fit(BC, random_log(12), out=tmp_path, **SETTINGS | {"save_every_updates": 10})
    assert_trees_equal(resumed.states, undisturbed().states)


def test_load_gives_the_same_policies(tmp_path: Path) -> None:
    iql = st.IQL(learning_rate=1e-2, hidden_sizes=(8,), actor_decay_updates=50)
    run = st.fit(iql, random_log(12), out=tmp_path, **SETTINGS | {"reward_scale": 0.5})
    loaded = st.load(tmp_path)
    assert loaded.algorithm == iql
    assert loaded.seeds == (3, 8)
    assert loaded.updates == 50
    assert loaded.history == run.history
    assert_trees_equal(loaded.states, run.states)
    obs = jnp.asarray(random_log(12).observation)
    for ours, theirs in zip(run.policies, loaded.policies, strict=True):
        np.testing.assert_array_equal(ours.probs(obs), theirs.probs(obs))
    for ours, theirs in zip(run.values, loaded.values, strict=True):  # type: ignore[assignment]
        np.testing.assert_array_equal(ours.v(obs), theirs.v(obs))


def test_load_of_an_interrupted_run_goes_as_far_as_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StopHereError):
        st.fit(BC, random_log(12), out=tmp_path, callbacks=[stop_after(3)], **SETTINGS)
    assert st.load(tmp_path).updates == 20
    with pytest.raises(StopHereError):
        st.fit(BC, random_log(12), out=tmp_path / "b", callbacks=[stop_after(1)], **SETTINGS)
    with pytest.raises(CheckpointError, match="cannot be read"):
        st.load(tmp_path / "b")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"algorithm": "os.system"}'])
def test_load_of_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="There is no run to load in"):
        st.load(tmp_path)


def test_damaged_runs_are_refused_and_left_alone(tmp_path: Path) -> None:
    st.fit(BC, random_log(12), out=tmp_path, **SETTINGS)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="Delete it to start over"):
        st.fit(BC, random_log(12), out=tmp_path, **SETTINGS)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"damaged"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"config\.json is damaged"):
        st.fit(BC, random_log(12), out=tmp_path, **SETTINGS)


def test_a_folder_with_other_files_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"holds other files \(thesis\.txt\)"):
        st.fit(BC, random_log(12), out=tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_below_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    seen = []
    with pytest.raises(RunDirectoryError, match="Choose another --out"):
        st.fit(BC, random_log(12), out=tmp_path / "file" / "x", callbacks=[lambda *a: seen.append(a)], **SETTINGS)
    assert seen == []


def bounded_log(high: float, names: tuple[str, ...] | None = None) -> st.Dataset:
    from stitchrl.data.schema import Schema

    rng = np.random.default_rng(0)
    columns = {
        "episode": np.arange(40) // 4,
        "observation": rng.normal(size=(40, 2)).astype(np.float32),
        "action": rng.uniform(0, 2, 40).astype(np.float32) if names is None else np.array(["treat", "wait"] * 20),
        "reward": rng.normal(size=40).astype(np.float32),
        "terminated": np.arange(40) % 4 == 3,
    }
    if names is not None and names[0] == "wait":
        columns["action"] = np.array(["wait", "treat"] * 20)
    roles = {role: role for role in columns}
    if names is not None:
        return st.read(columns, Schema(roles, action_categories=names))
    return st.read(columns, Schema(roles, action_low=(0.0,), action_high=(high,)))


def test_a_run_is_not_continued_where_its_actions_mean_something_else(tmp_path: Path) -> None:
    settings = {"updates": 5, "batch_size": 8, "log_every_updates": 5}
    algorithm = st.BC(hidden_sizes=(8,))
    run = st.fit(algorithm, bounded_log(2.0), out=tmp_path / "dose", **settings)
    with pytest.raises(RunDirectoryError, match=r"with meaning\.\S+"):
        st.fit(algorithm, bounded_log(200.0), out=tmp_path / "dose", **settings)
    again = st.fit(algorithm, bounded_log(2.0), out=tmp_path / "dose", **settings)
    obs = bounded_log(2.0).observation[:4]
    np.testing.assert_array_equal(again.policy.mode(obs), run.policy.mode(obs))
    # The same numbers under swapped names.
    st.fit(algorithm, bounded_log(0, ("treat", "wait")), out=tmp_path / "named", **settings)
    assert bounded_log(0, ("treat", "wait")).content_hash == bounded_log(0, ("wait", "treat")).content_hash
    with pytest.raises(RunDirectoryError, match=r"with meaning\.\S+"):
        st.fit(algorithm, bounded_log(0, ("wait", "treat")), out=tmp_path / "named", **settings)


def test_a_run_keeps_the_scaling_it_began_with(tmp_path: Path) -> None:
    settings = {"batch_size": 8, "log_every_updates": 5, "save_every_updates": 5}
    st.fit(st.BC(hidden_sizes=(8,)), bounded_log(2.0), updates=5, out=tmp_path / "a", **settings)
    file = tmp_path / "a" / "config.json"
    content = json.loads(file.read_text())
    content["scaling"]["mean"] = [5.0, 5.0]  # as another version might have fitted it
    file.write_text(json.dumps(content))
    run = st.fit(st.BC(hidden_sizes=(8,)), bounded_log(2.0), updates=5, out=tmp_path / "a", **settings)
    assert run.scaling.mean.tolist() == [5.0, 5.0]


def test_the_checkpoint_says_what_it_is_of(tmp_path: Path) -> None:
    log = random_log(12)
    st.fit(st.IQL(**TINY), log, out=tmp_path, **SETTINGS | {"updates": 45})
    meta = read_meta(tmp_path / "checkpoint.safetensors")
    assert meta["format"] == 3
    assert meta["update"] == 45
    assert meta["config"]["log"] == log.content_hash
    assert meta["config"]["settings"]["expectile"] == 0.7
    assert len(meta["config"]["scaling"]["mean"]) == 3
    assert meta["schema"] == log.schema.to_dict()
    assert meta["versions"]["jax"] == jax.__version__
    assert json.loads((tmp_path / "config.json").read_text())["log"] == log.content_hash
