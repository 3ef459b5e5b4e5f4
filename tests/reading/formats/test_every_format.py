"""Properties of every format: damage gives one sentence, and the size of blocks changes nothing."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import FIXTURE_FORMATS, FORMATS, assemble_any, flat, hdf5, opened, read, recognised

from stitchrl.errors import DataError, SchemaError, StitchRLError
from stitchrl.reading.formats import (
    d3rlpy_buffer,
    d4rl,
    lerobot,
    minari,
    npz,
    ogbench,
    stable_baselines3,
)
from stitchrl.reading.sources import arrays


@pytest.mark.parametrize("name", [n for n in FIXTURE_FORMATS if Path(n).suffix])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_truncated_files_are_one_sentence(copy: Any, name: str, share: float) -> None:
    path = copy(name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    with pytest.raises(StitchRLError, match=path.stem):
        assemble_any(known.open(path))


@pytest.mark.parametrize("name", ["sb3_dict.pkl", "ogbench_regular.npz", "minari/toy-arrow-v0", "lerobot_rewarded"])
def test_damaged_bytes_raise_nothing_else(copy: Any, name: str) -> None:
    folder = copy(name)
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    rng = np.random.default_rng(0)
    for _ in range(25):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        spoiled = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            spoiled[rng.integers(len(spoiled))] = rng.integers(256)
        path.write_bytes(bytes(spoiled))
        with contextlib.suppress(StitchRLError):
            log = known.open(folder)
            if log.schema is not None:
                assemble_any(log)
        path.write_bytes(content)


@pytest.mark.parametrize("name", [n for n in FIXTURE_FORMATS if "pixels" not in n])
def test_the_size_of_blocks_changes_nothing(made: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = read(made / name)
    for module in (d3rlpy_buffer, d4rl, lerobot, minari, npz, ogbench, arrays, stable_baselines3):
        monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    log = opened(made / name)
    columns = [name for role in log.schema.columns.values() for name in ([role] if isinstance(role, str) else role)]
    sizes = [len(next(iter(block.values()))) for block in log.blocks(columns)]
    assert max(sizes) <= 3
    assert sum(sizes) == whole.num_transitions
    assert read(made / name).content_hash == whole.content_hash


def test_blocks_join_and_cut_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 4)
    pieces = [{"a": np.arange(n)} for n in (2, 2, 1, 9, 0, 3)]
    blocks = [block["a"] for block in arrays.in_blocks(pieces, "x")]
    assert [len(b) for b in blocks] == [4, 1, 4, 4, 1, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate([p["a"] for p in pieces]))
    with pytest.raises(DataError, match="one shape in all episodes"):
        list(arrays.in_blocks([{"a": np.zeros((1, 2))}, {"a": np.zeros((1, 3))}], "x"))


@pytest.mark.parametrize("name", ["d4rl_full.hdf5", "d3rlpy_discrete.h5", "minari/cartpole-v0"])
def test_without_h5py_the_message_names_the_extra(made: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = next(known for known in FORMATS if known.name == FIXTURE_FORMATS[name])
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "stitchrl\[hdf5\]"'):
        assemble_any(known.open(made / name))
    assert recognised(made / "d4rl_full.hdf5")  # a file of HDF5 is still known to be one


def test_schema_errors_name_the_file(tmp_path: Path) -> None:
    arrays = flat(discrete=True) | {"actions": np.full(12, 2**17)}
    with pytest.raises(SchemaError, match=r"many\.hdf5: A log may have up to"):
        opened(hdf5(tmp_path / "many.hdf5", arrays))


def test_memory_buffers_of_npz_are_not_files(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.savez(held, a=np.zeros(3))
    path = tmp_path / "a.npz"
    path.write_bytes(held.getvalue())
    assert opened(path).names == ("a",)
