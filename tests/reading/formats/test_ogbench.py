"""Reading the .npz files of OGBench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import expected, read, same

from stitchrl.errors import StitchRLError


@pytest.mark.parametrize("name", ["downloaded", "regular", "compact"])
def test_ogbench_masks_against_terminals(made: Path, name: str) -> None:
    log, known = read(made / f"ogbench_{name}.npz"), expected(made, "ogbench")
    terminated = (known["mask"] == 0) & (name != "downloaded")
    same(
        log,
        observation=known["observation"],
        next_observation=known["next_observation"],
        action=known["action"],
        reward=known["mask"] - 1 if name != "downloaded" else np.zeros(12),
        terminated=terminated,
        truncated=known["end"] & ~terminated,
    )
    assert log.can_bootstrap.all()
    said = " ".join(log.notes)
    assert ("has no rewards" in said) == ("no `masks`" in said) == (name == "downloaded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.full(12, 0.5)}, "masks"),
        ({"terminals": np.zeros(5)}, "terminals 5"),
        ({"observations": np.zeros((12, 3), "U4")}, "observation"),
        ({"actions": np.full((12, 2), np.nan)}, "finite"),
    ],
)
def test_spoiled_ogbench_is_one_sentence(made: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with np.load(made / "ogbench_regular.npz") as arrays:
        np.savez(tmp_path / "spoiled.npz", **(dict(arrays) | change))
    with pytest.raises(StitchRLError, match=r"spoiled\.npz") as caught:
        read(tmp_path / "spoiled.npz")
    assert message in str(caught.value)
