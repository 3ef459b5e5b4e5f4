"""Files written whole or not at all, checkpoints, runs that continue, and the deployed bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from worlds import assert_trees_equal, random_log, tiny_log

import stitchrl as st
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.errors import CheckpointError, RunDirectoryError
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.storage.files import make_directory, write_atomic, write_json, write_text
from stitchrl.training.checkpoint import load_checkpoint, save_checkpoint

# --- files -------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_write_atomic_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunDirectoryError, match=r"a\.txt cannot be written: No space left on device"):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_file_is_written_beside_its_place(tmp_path: Path) -> None:
    seen = []
    write_atomic(tmp_path / "a.txt", lambda beside: seen.append(beside) or (beside.write_text("x") and None))
    assert seen[0].parent == tmp_path
    assert seen[0].name.startswith(".a.txt.")
    assert seen[0].name.endswith(".part")


def test_writing_into_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_json_keeps_order_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1.5, None, "é"]})
    assert list(json.loads(path.read_text(encoding="utf-8")).items()) == [("b", 1), ("a", [1.5, None, "é"])]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1


def test_make_directory_makes_parents_and_accepts_what_is_there(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(RunDirectoryError, match="cannot be made or written"):
            make_directory(path)
    assert (tmp_path / "file").read_text() == "mine"


# --- checkpoints -------------------------------------------------------------


class State(NamedTuple):
    network: MLP
    count: jax.Array
    others: dict[str, jax.Array]


def state_of(seed: int = 0) -> State:
    return State(
        MLP.create(3, (4,), 2, key=jax.random.key(seed)),
        jnp.asarray([7 + seed], jnp.int32),
        {"flag": jnp.asarray([True, False]), "nothing": jnp.zeros((0, 2), jnp.float32)},
    )


def test_checkpoints_round_trip_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    odd = state_of()._replace(others={"flag": jnp.asarray([True, False]), "nothing": jnp.zeros((0, 2), jnp.float32)})
    odd = odd._replace(network=jax.tree.map(lambda x: x.at[..., 0].set(jnp.float32(1e-42)), odd.network))
    meta = {"update": 3, "config": {"x": [1, 2.5, None]}}
    history = [
        {"update": 3, "member": 0, "loss": 0.1},
        {"update": 3, "member": 1, "loss": 1e-300, "online/return": -2.0},
    ]
    save_checkpoint(path, odd, history, meta)
    loaded, rows, found = load_checkpoint(path, state_of(1))
    assert_trees_equal(loaded, odd)
    assert rows == history
    assert {key: found[key] for key in meta} == meta
    assert names(tmp_path) == ["c.safetensors"]


def test_shapes_are_enough_to_load(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state_of(), [], {"update": 0})
    loaded, rows, _ = load_checkpoint(path, jax.eval_shape(state_of))
    assert rows == []
    assert_trees_equal(loaded, state_of())


def bigger(state: State) -> State:
    return state._replace(network=MLP.create(3, (5,), 2, key=jax.random.key(0)))


def retyped(state: State) -> State:
    return state._replace(count=jnp.asarray([7], jnp.float32))


def richer(state: State) -> State:
    return state._replace(others=state.others | {"new": jnp.zeros(1, jnp.float32)})


def poorer(state: State) -> State:
    return state._replace(others={"flag": state.others["flag"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bigger, r"must be float32\[3, 5\]; got float32\[3, 4\]"),
        (retyped, r"\.count of the checkpoint .* must be float32\[1\]; got int32\[1\]"),
        (richer, r"\.others\['new'\] of the checkpoint .* must be float32\[1\]; got nothing"),
        (poorer, r"holds \.others\['nothing'\], which this algorithm does not have"),
    ],
)
def test_a_checkpoint_of_another_structure_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state_of(), [], {"update": 0})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, change(state_of()))


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "folder"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.safetensors"
    if kind == "cut":
        save_checkpoint(path, state_of(), [], {"update": 0})
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"not a checkpoint at all" * 10)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path, state_of())


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"x": np.zeros(2, np.float32)}, path, metadata={"stitchrl": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match=r"must have a format from 1 to 2; got 99. Update stitchrl"):
        load_checkpoint(path, state_of())
    save_file({"x": np.zeros(2, np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"must have a format from 1 to 2; got None. Delete it"):
        load_checkpoint(path, state_of())


# --- runs --------------------------------------------------------------------

BC = st.BC(learning_rate=1e-2, hidden_sizes=(8,))
SETTINGS: dict[str, Any] = {
    "updates": 50,
    "seeds": [3, 8],
    "batch_size": 8,
    "log_every_updates": 10,
    "save_every_updates": 20,
    "progress": False,
}


class StopHereError(Exception):
    pass


def stop_after(chunks: int) -> Any:
    seen = []

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        seen.append(done)
        if len(seen) == chunks:
            raise StopHereError

    return stop


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
    assert names(out) == ["checkpoint.safetensors", "config.json", "metrics.parquet"]


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
    "updates": {"updates": 60},
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
    with pytest.raises(RunDirectoryError, match=f"holds another run: its {key} is "):
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
    for ours, theirs in zip(run.values, loaded.values, strict=True):
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


def test_a_run_below_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    seen = []
    with pytest.raises(RunDirectoryError, match="Choose another --out"):
        st.fit(BC, random_log(12), out=tmp_path / "file" / "x", callbacks=[lambda *a: seen.append(a)], **SETTINGS)
    assert seen == []


# --- the bundle --------------------------------------------------------------


def test_guard_admits_what_lies_in_the_range_and_a_tenth_beyond() -> None:
    guard = Guard(np.array([0, -1], np.float32), np.array([10, 1], np.float32), 0.1)
    obs = np.array(
        [[0, -1], [10, 1], [-0.9, 0], [-1.1, 0], [10.9, 0], [11.1, 0], [5, 1.19], [5, 1.21], [5, -1.21]],
        np.float32,
    )
    assert guard.admits(obs).tolist() == [True, True, True, False, True, False, True, False, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_guard_refuses_what_is_not_finite(value: float) -> None:
    guard = Guard(np.array([0, -1], np.float32), np.array([10, 1], np.float32))
    assert guard.admits(np.array([[5, value], [5, 0]], np.float32)).tolist() == [False, True]


def test_guard_of_a_log_knows_its_ranges_and_only_its_own_rows() -> None:
    log = tiny_log()
    guard = Guard.fit(log, margin=0.0)
    assert guard.low.tolist() == [0, 1]
    assert guard.high.tolist() == [5, 32]
    assert guard.admits(log.observation).all()
    part = Guard.fit(log.select_episodes([1]), margin=0.0)
    assert part.low.tolist() == [3, 8]
    assert part.high.tolist() == [4, 16]
    assert part.admits(log.observation).tolist() == [False, False, False, True, True, False]


def bundle() -> Bundle:
    log = tiny_log()
    inner = CategoricalPolicy(MLP.create(2, (4,), 3, key=jax.random.key(0)))
    policy = StandardizedPolicy(jnp.asarray([1.0, 2.0], jnp.float32), jnp.asarray([3.0, 4.0], jnp.float32), inner)
    provenance = {"algorithm": "BC", "seed": 3, "verdict": {"answer": "GO", "value": 0.1}}
    return Bundle(policy, log.schema, Guard.fit(log), provenance)


def test_bundles_round_trip(tmp_path: Path) -> None:
    ours = bundle()
    save_bundle(tmp_path / "policy", ours)
    theirs = st.load_policy(tmp_path / "policy")
    obs, mask = tiny_log().observation, np.array([[1, 0, 1]] * 6, bool)
    for action_mask in (None, mask):
        probs = theirs.probs(obs, action_mask=action_mask)
        assert isinstance(probs, np.ndarray)
        np.testing.assert_array_equal(probs, ours.probs(obs, action_mask=action_mask))
        np.testing.assert_array_equal(theirs.mode(obs, action_mask=action_mask), probs.argmax(1))
        drawn = theirs.sample(obs, key=jax.random.key(1), action_mask=action_mask)
        np.testing.assert_array_equal(drawn, ours.sample(obs, key=jax.random.key(1), action_mask=action_mask))
    assert (theirs.probs(obs, action_mask=mask)[:, 1] == 0).all()
    assert theirs.schema == ours.schema
    assert theirs.provenance == ours.provenance
    np.testing.assert_array_equal(theirs.guard.low, ours.guard.low)
    np.testing.assert_array_equal(theirs.guard.high, ours.guard.high)
    assert theirs.guard.margin == ours.guard.margin
    assert names(tmp_path / "policy") == ["policy.json", "policy.safetensors"]


CARDS = {
    "no JSON": lambda card: None,
    "other format": lambda card: card | {"format": 2},
    "no guard": lambda card: {key: value for key, value in card.items() if key != "guard"},
    "bad schema": lambda card: card | {"schema": {"columns": {"episode": "e"}}},
    "guard of text": lambda card: card | {"guard": {"low": ["a"], "high": [1], "margin": 0.1}},
    "a list": lambda card: [card],
}


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS.keys())
def test_damaged_bundles_are_refused(tmp_path: Path, change: Any) -> None:
    save_bundle(tmp_path, bundle())
    card = change(json.loads((tmp_path / "policy.json").read_text()))
    (tmp_path / "policy.json").write_text("{" if card is None else json.dumps(card))
    with pytest.raises(CheckpointError, match=r"There is no policy to load|must have format 1; got 2"):
        st.load_policy(tmp_path)


@pytest.mark.parametrize("missing", ["policy.json", "policy.safetensors"])
def test_half_a_bundle_is_refused(tmp_path: Path, missing: str) -> None:
    save_bundle(tmp_path, bundle())
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=r"There is no policy to load|cannot be read"):
        st.load_policy(tmp_path)


def test_a_bundle_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle().provenance = {}  # type: ignore[misc]


# --- what a run's numbers stand for ---------------------------------------------------------------------------


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
    with pytest.raises(RunDirectoryError, match="its meaning is"):
        st.fit(algorithm, bounded_log(200.0), out=tmp_path / "dose", **settings)
    again = st.fit(algorithm, bounded_log(2.0), out=tmp_path / "dose", **settings)
    obs = bounded_log(2.0).observation[:4]
    np.testing.assert_array_equal(again.policy.mode(obs), run.policy.mode(obs))
    # The same numbers under swapped names.
    st.fit(algorithm, bounded_log(0, ("treat", "wait")), out=tmp_path / "named", **settings)
    assert bounded_log(0, ("treat", "wait")).content_hash == bounded_log(0, ("wait", "treat")).content_hash
    with pytest.raises(RunDirectoryError, match="its meaning is"):
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
