"""Reading the HDF5 files of D4RL, and HDF5 files made to harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import assemble_any, expected, flat, hdf5, opened, read, same

from stitchrl.errors import DataError, StitchRLError
from stitchrl.reading.formats import (
    d4rl,
)


@pytest.mark.parametrize("name", ["d4rl_full", "d4rl_plain", "d4rl_untimed"])
def test_d4rl_terminals_apart_from_timeouts(made: Path, name: str) -> None:
    log, known = read(made / f"{name}.hdf5"), expected(made, "d4rl")
    terminals, timeouts = known["terminals"], known["timeouts"] & ~known["terminals"]
    if name == "d4rl_untimed":
        timeouts = np.arange(12) == 11
        assert any("no `timeouts`" in note for note in log.notes)
    else:
        assert any("1 rows are terminals and timeouts" in note for note in log.notes)
    same(
        log,
        observation=known["observations"],
        action=known["actions"],
        reward=known["rewards"],
        terminated=terminals,
        truncated=timeouts,
    )
    assert log.num_actions is None
    if name == "d4rl_plain":  # a cut without its next observation has no target
        assert log.can_bootstrap.tolist() == (~timeouts).tolist()
    else:
        assert log.can_bootstrap.all()
        same(log, next_observation=known["next_observations"])


def test_d4rl_infos_are_columns_without_a_role(made: Path) -> None:
    log = opened(made / "d4rl_full.hdf5")
    assert "infos/qpos" in log.names
    assert not any("metadata" in name for name in log.names)
    (block,) = log.blocks(["infos/qpos"])
    np.testing.assert_array_equal(block["infos/qpos"], expected(made, "d4rl")["infos_qpos"])


def test_hdf5_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d4rl, "BLOCK_ROWS", 7)
    arrays = flat(rows=30, discrete=True)
    path = hdf5(tmp_path / "log.hdf5", arrays)
    log = opened(path)
    assert [len(block["actions"]) for block in log.blocks(["actions", "rewards"])] == [7, 7, 7, 7, 2]
    data = assemble_any(log)
    assert data.num_actions == 3
    same(data, observation=arrays["observations"], action=arrays["actions"][:, 0], reward=arrays["rewards"][:, 0])
    following = np.roll(arrays["observations"], -1, axis=0)
    data = assemble_any(opened(hdf5(path, arrays | {"next_observations": following})))
    np.testing.assert_array_equal(data.next_observation, following)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a | {"rewards": a["rewards"][:-1]},
        lambda a: a | {"terminals": np.arange(12)},
        lambda a: a | {"timeouts": np.full(12, np.nan)},
        lambda a: a | {"observations": np.full((12, 3), np.inf)},
        lambda a: a | {"observations": np.array([b"x"] * 12)},
        lambda a: a | {"rewards": np.zeros((12, 2))},
        lambda a: a | {"actions": np.full(12, -1)},
        lambda a: a | {"actions": np.full(12, 10**9)},
        lambda a: {name: values[:0] for name, values in a.items()},
        lambda a: {"group/inner": a["rewards"]},
        lambda a: {},
        lambda a: {"scalar": np.float32(1)},
    ],
)
def test_spoiled_hdf5_is_one_sentence(tmp_path: Path, spoil: Any) -> None:
    path = hdf5(tmp_path / "spoiled.hdf5", spoil(flat()))
    with pytest.raises(StitchRLError, match=r"spoiled\.hdf5"):
        read(path)


def test_hdf5_leads_nowhere_else(tmp_path: Path) -> None:
    other = hdf5(tmp_path / "other.hdf5", {"rewards": np.zeros(12)})
    (tmp_path / "raw.bin").write_bytes(b"\0" * 96)
    kept = {name: values for name, values in flat().items() if name != "rewards"}
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "rewards", (12,))

    def external(file: Any) -> None:
        file["rewards"] = h5py.ExternalLink(str(other), "rewards")

    def virtual(file: Any) -> None:
        file.create_virtual_dataset("rewards", layout)

    def stored_elsewhere(file: Any) -> None:
        file.create_dataset("rewards", (12,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 96)])

    for number, put in enumerate((external, virtual, stored_elsewhere)):
        path = hdf5(tmp_path / f"led{number}.hdf5", kept)
        with h5py.File(path, "a") as file:
            put(file)
        with pytest.raises(DataError, match=rf"led{number}\.hdf5 is (a link|kept in another)|of led{number}\.hdf5"):
            read(path)


@pytest.mark.parametrize("shape", [(10**15, 3), (2**62, 1), (10**11,)])
def test_declared_sizes_are_refused_before_memory_is_taken(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        for name in flat():
            file.create_dataset(name, (shape[0], *shape[1:]), "f4", chunks=(1024, *shape[1:]))
    with pytest.raises(DataError, match=r"huge\.hdf5 declares .* cannot hold"):
        d4rl.FORMAT.open(path)
