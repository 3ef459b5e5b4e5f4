"""Reading the replay buffers of Stable-Baselines3, in memory and pickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from format_files import assemble_any, expected, opened, read, recognised, same

from stitchrl.errors import DataError, StitchRLError
from stitchrl.reading.formats import (
    stable_baselines3,
)


@pytest.mark.parametrize("name", ["discrete_full", "box", "dict", "n_step", "shared_full"])
def test_sb3_pickle_is_what_the_buffer_held(made: Path, name: str) -> None:
    log, known = read(made / f"sb3_{name}.pkl"), expected(made, f"sb3_{name}")
    following = known.pop("next_observation")
    same(log, **known)
    if name == "shared_full":  # what follows a cut was overwritten
        assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()
        assert any("optimize_memory_usage" in note for note in log.notes)
        assert any("every done counts as terminated" in note for note in log.notes)
    else:
        assert log.can_bootstrap.all()
        same(log, next_observation=following)
        assert known["truncated"].any()
    assert known["terminated"].any()
    assert log.num_actions == {"box": None, "dict": 6}.get(name, 4)
    assert any("scale a policy's output back" in note for note in log.notes) == (name == "box")


def ring(*, full: bool = True, pos: int = 2, size: int = 5, streams: int = 2, **changes: Any) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "observations": rng.normal(size=(size, streams, 3)).astype(np.float32),
        "next_observations": rng.normal(size=(size, streams, 3)).astype(np.float32),
        "actions": np.arange(size * streams).reshape(size, streams, 1) % 4,
        "rewards": np.arange(size * streams, dtype=np.float32).reshape(size, streams),
        "dones": np.zeros((size, streams), np.float32),
        "timeouts": np.zeros((size, streams), np.float32),
        "pos": pos,
        "full": full,
    }
    return SimpleNamespace(**(fields | changes))


def test_sb3_ring_in_memory_starts_at_its_oldest_row() -> None:
    buffer = ring()
    log = assemble_any(stable_baselines3.source_of_buffer(buffer))
    oldest_first = [2, 3, 4, 0, 1]
    assert log.reward.tolist() == [*buffer.rewards[oldest_first, 0], *buffer.rewards[oldest_first, 1]]
    assert np.flatnonzero(log.truncated).tolist() == [4, 9]
    assert log.num_actions == 4
    half = assemble_any(stable_baselines3.source_of_buffer(ring(full=False, pos=3)))
    assert half.reward.tolist() == [0, 2, 4, 1, 3, 5]


def test_sb3_images_become_channels_last() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 3, 36, 40)).astype(np.uint8)
    log = assemble_any(
        stable_baselines3.source_of_buffer(ring(streams=1, observations=pixels, next_observations=pixels))
    )
    assert log.observation_table.shape[1:] == (36, 40, 3)
    np.testing.assert_array_equal(log.observation_table[0], pixels[2, 0].transpose(1, 2, 0))
    assert any("(height, width, channels)" in note for note in log.notes)


def test_sb3_two_lines_convert_what_is_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps(Mine()))
    with pytest.raises(DataError, match="these two lines convert it") as caught:
        opened(path)
    lines = str(caught.value).splitlines()[-2:]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    assert recognised(tmp_path / "mine.npz")[0] == "Stable-Baselines3"
    log, direct = read(tmp_path / "mine.npz"), assemble_any(stable_baselines3.source_of_buffer(Mine()))
    assert log.content_hash == direct.content_hash
    assert log.num_transitions == 10


class Mine:
    """A buffer whose class is the user's own."""

    def __init__(self) -> None:
        vars(self).update(vars(ring()))
        seen, following = self.__dict__["observations"], self.__dict__["next_observations"]
        self.observations, self.next_observations = {"a": seen}, {"a": following}
        self.device = "cpu"
        self.obs_shape = {"a": (3,)}


@pytest.mark.parametrize(
    "changes",
    [
        {"dones": np.zeros((4, 2))},
        {"dones": np.full((5, 2), 0.5)},
        {"rewards": np.zeros(5)},
        {"rewards": np.array([["a"] * 2] * 5)},
        {"observations": np.full((5, 2, 3), np.nan)},
        {"pos": 99},
        {"pos": 0, "full": False},
        {"actions": np.zeros((5, 2, 1), int) - 1},
        {"observations": None},
    ],
)
def test_spoiled_sb3_buffer_is_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(StitchRLError, match="the replay buffer"):
        assemble_any(stable_baselines3.source_of_buffer(ring(**changes)))
    assert not stable_baselines3.is_buffer(SimpleNamespace(observations=1))
