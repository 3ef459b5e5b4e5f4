"""Trees of arrays in files: what is read back is what was written, in structure and in every bit."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from equinox import tree_equal

from stitchrl.errors import CheckpointError
from stitchrl.nn.saving import load_tree_file, save_tree_file


class Pair(NamedTuple):
    """Two arrays with names."""

    mean: np.ndarray
    scale: np.ndarray


def test_dicts_and_tuples_come_back_as_they_were(tmp_path: Path) -> None:
    tree = {"table": jnp.arange(3.0), "pair": (jnp.int32(1), {"none": None})}
    save_tree_file(tmp_path / "tree", tree)
    assert tree_equal(load_tree_file(tmp_path / "tree"), tree)


def test_a_named_tuple_is_refused_for_its_names_would_be_lost(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save_tree_file(tmp_path / "tree", {"pair": Pair(np.zeros(2), np.ones(2))})
    assert str(caught.value) == (
        "A Pair cannot be saved, for it would be loaded as a plain tuple without its names mean, scale. "
        "Put a dict in its place."
    )
    assert not (tmp_path / "tree").exists()
