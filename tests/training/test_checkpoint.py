"""Checkpoints: bit for bit there and back, and refused where damaged or of another structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from worlds import assert_trees_equal

from stitchrl.errors import CheckpointError
from stitchrl.nn.networks import MLP, Network
from stitchrl.training.checkpoint import load_checkpoint, save_checkpoint
from stitchrl.training.history import History
from stitchrl.training.metrics_file import MetricsFile


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class State(NamedTuple):
    network: MLP
    count: jax.Array  # type: ignore[assignment]
    others: dict[str, jax.Array]


def state_of(seed: int = 0) -> State:
    return State(
        MLP.create(3, Network((4,)), 2, key=jax.random.key(seed)),
        jnp.asarray([7 + seed], jnp.int32),
        {"flag": jnp.asarray([True, False]), "nothing": jnp.zeros((0, 2), jnp.float32)},
    )


def test_checkpoints_round_trip_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    odd = state_of()._replace(others={"flag": jnp.asarray([True, False]), "nothing": jnp.zeros((0, 2), jnp.float32)})
    odd = odd._replace(network=jax.tree.map(lambda x: x.at[..., 0].set(jnp.float32(1e-42)), odd.network))
    meta = {"update": 3, "config": {"x": [1, 2.5, None]}}
    rows = [
        {"update": 3, "member": 0, "loss": 0.1},
        {"update": 3, "member": 1, "loss": 1e-300, "online/return": -2.0},
    ]
    MetricsFile(tmp_path / "metrics.arrows").save(History.of_rows(rows))
    save_checkpoint(path, odd, meta, rows=2)
    loaded, history, found = load_checkpoint(path, state_of(1))
    assert_trees_equal(loaded, odd)
    assert history.rows() == rows
    assert {key: found[key] for key in meta} == meta
    assert names(tmp_path) == ["c.safetensors", "metrics.arrows"]


def test_shapes_are_enough_to_load(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, state_of(), {"update": 0})
    loaded, history, _ = load_checkpoint(path, jax.eval_shape(state_of))
    assert len(history) == 0
    assert_trees_equal(loaded, state_of())


def bigger(state: State) -> State:
    return state._replace(network=MLP.create(3, Network((5,)), 2, key=jax.random.key(0)))


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
    save_checkpoint(path, state_of(), {"update": 0})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, change(state_of()))


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "folder"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.safetensors"
    if kind == "cut":
        save_checkpoint(path, state_of(), {"update": 0})
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
    with pytest.raises(CheckpointError, match=r"must have a format from 1 to 3; got 99. Update stitchrl"):
        load_checkpoint(path, state_of())
    save_file({"x": np.zeros(2, np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"must have a format from 1 to 3; got None. Delete it"):
        load_checkpoint(path, state_of())
