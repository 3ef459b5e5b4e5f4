"""Reading .npz files, and files made to harm."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from format_files import Runs, flat, opened, read, same

from stitchrl.errors import DataError
from stitchrl.reading.formats import (
    npz,
)


def test_npz_of_role_names_and_of_d4rl_names(tmp_path: Path) -> None:
    arrays = flat(discrete=True)
    np.savez_compressed(tmp_path / "flat.npz", **arrays, seed=np.array(3))
    log = read(tmp_path / "flat.npz")
    same(log, observation=arrays["observations"], action=arrays["actions"][:, 0], terminated=arrays["terminals"] > 0)
    roles = {
        "episode": np.repeat([0, 1], 6),
        "observation": np.ones((12, 2)),
        "action": np.zeros(12, int),
        "reward": np.ones(12),
    }
    np.savez(tmp_path / "roles.npz", **roles, terminated=np.arange(12) % 6 == 5)
    plain = opened(tmp_path / "roles.npz")
    assert plain.schema is None
    assert set(plain.names) == {*roles, "terminated"}
    (block,) = plain.blocks(["observation", "episode"])
    np.testing.assert_array_equal(block["episode"], roles["episode"])


def npz_with(path: Path, header: bytes, body: bytes = b"", name: str = "observations.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 3), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 3), }\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n",
        b"{'descr': " + b"(" * 3000 + b"\n",
        b"__import__('os').system('true')\n",
        b"",
    ],
)
def test_hostile_npz_is_one_sentence(tmp_path: Path, header: bytes) -> None:
    path = npz_with(tmp_path / "hostile.npz", header)
    with pytest.raises(DataError, match=r"hostile\.npz"):
        list(npz.FORMAT.open(path).blocks(["observations"]))


def test_npz_never_unpickles(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    np.savez(tmp_path / "objects.npz", observation=np.array([Runs(os.mkdir, str(marker))], object))
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "objects.npz")
    assert not marker.exists()


def test_npz_names_columns_that_differ_in_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "ragged.npz", observation=np.zeros((5, 2)), reward=np.zeros(5), action=np.zeros(4))
    with pytest.raises(DataError, match=r"ragged\.npz must have one row a transition; observation has 5, but action 4"):
        opened(tmp_path / "ragged.npz")
