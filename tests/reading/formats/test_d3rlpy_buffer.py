"""Reading the replay buffers of d3rlpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import expected, flat, hdf5, put, read, recognised, same

from stitchrl.errors import StitchRLError


@pytest.mark.parametrize("name", ["discrete", "continuous", "parts"])
def test_d3rlpy_is_what_d3rlpy_dumped(made: Path, name: str) -> None:
    log, known = read(made / f"d3rlpy_{name}.h5"), expected(made, f"d3rlpy_{name}")
    same(log, **{key: values for key, values in known.items() if key != "length"})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.num_actions == (4 if name == "discrete" else None)
    # d3rlpy never stores what follows a cut: that row has no target, as in d3rlpy itself
    assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()


def test_d3rlpy_version_1(tmp_path: Path) -> None:
    arrays = flat(discrete=True)
    del arrays["timeouts"]
    ends = arrays["terminals"].copy()
    ends[[5, 11]] = 1
    path = hdf5(tmp_path / "old.h5", arrays | {"episode_terminals": ends, "discrete_action": True, "version": "1.0"})
    assert recognised(path)[0] == "d3rlpy buffer"
    log = read(path)
    same(log, observation=arrays["observations"], action=arrays["actions"][:, 0], terminated=arrays["terminals"] > 0)
    assert np.flatnonzero(log.truncated).tolist() == [5]
    assert log.num_actions == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.pop("rewards_1"),
        lambda f: f.pop("observations_0"),
        lambda f: f.pop("terminated_2"),
        lambda f: put(f, "actions_1", np.zeros((2, 1), np.int64)),
        lambda f: put(f, "observations_1", np.zeros((3, 7), np.float32)),
        lambda f: put(f, "observations_1", np.full((3, 3), np.nan, np.float32)),
        lambda f: put(f, "num_episodes", 10**15),
        lambda f: put(f, "num_episodes", 0),
        lambda f: put(f, "num_episodes", "three"),
        lambda f: put(f, "terminated_1", 5),
        lambda f: put(f, "rewards_1", np.array([b"a"] * 3)),
    ],
)
def test_spoiled_d3rlpy_is_one_sentence(copy: Any, spoil: Any) -> None:
    path = copy("d3rlpy_discrete.h5")
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(StitchRLError, match="d3rlpy_discrete"):
        read(path)
