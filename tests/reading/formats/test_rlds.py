"""Reading RLDS episodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from format_files import assemble_any, expected, opened, read, recognised, same

from stitchrl.errors import DataError, StitchRLError
from stitchrl.reading.formats import (
    rlds,
)


def episodes(
    *, terminal: tuple[bool, ...] = (True, False), stacked: bool = False, whole: bool = True
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    made = []
    for length, ended in zip((4, 3), terminal, strict=True):
        steps = [
            {
                "observation": {
                    "state": rng.normal(size=2).astype(np.float32),
                    "text": "go",
                    "image": np.zeros((32, 32, 3), np.uint8),
                },
                "action": np.int64(t % 3) if whole else rng.normal(size=2).astype(np.float32),
                "reward": np.float32(t),
                "discount": np.float32(1),
                "is_first": t == 0,
                "is_last": t == length - 1,
                "is_terminal": ended and t == length - 1,
            }
            for t in range(length)
        ]
        if stacked:
            flat_steps = {key: np.stack([s[key] for s in steps]) for key in steps[0] if key != "observation"}
            flat_steps["observation"] = {  # type: ignore[assignment]
                key: np.stack([s["observation"][key] for s in steps]) for key in steps[0]["observation"]
            }
            made.append({"steps": flat_steps})
        else:
            made.append({"steps": steps})
    return made


@pytest.mark.parametrize("stacked", [True, False])
def test_rlds_last_step_is_only_an_observation(stacked: bool) -> None:
    held = episodes(stacked=stacked)
    log = assemble_any(rlds.source_of_episodes(iter(held)))
    assert log.num_transitions == 5
    assert log.episode_lengths.tolist() == [3, 2]
    assert log.terminated.tolist() == [False, False, True, False, False]
    assert log.truncated.tolist() == [False, False, False, False, True]
    assert log.action.tolist() == [0, 1, 2, 0, 1]
    assert log.reward.tolist() == [0, 1, 2, 0, 1]
    states = [[s["observation"]["state"] for s in e["steps"]] for e in episodes()]
    same(
        log,
        observation=np.array([s for e in states for s in e[:-1]]),
        next_observation=np.array([s for e in states for s in e[1:]]),
    )
    assert log.can_bootstrap.all()
    assert any("observation/text" in note and "observation/image" in note for note in log.notes)


def test_rlds_of_continuous_actions_and_eager_values() -> None:
    class Eager:
        def __init__(self, value: Any) -> None:
            self.value = value

        def numpy(self) -> Any:
            return self.value

    held = episodes(whole=False)
    for episode in held:
        for step in episode["steps"]:
            step["reward"] = Eager(step["reward"])
    log = assemble_any(rlds.source_of_episodes(held))
    assert log.num_actions is None
    assert log.action.shape == (5, 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: [],
        lambda e: [{}],
        lambda e: [{"steps": 1}],
        lambda e: [{"steps": []}],
        lambda e: [{"steps": [1, 2]}],
        lambda e: [{"steps": {"observation": 1.0}}],
        lambda e: e[0]["steps"][1].pop("observation") and e,
        lambda e: [{"steps": [{k: v for k, v in s.items() if k != "is_terminal"} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"is_last": True} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"is_terminal": 3} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": "text"} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": np.float32("nan")} for s in e[0]["steps"]]}],
        lambda e: [{"steps": [s | {"observation": np.zeros(i)} for i, s in enumerate(e[0]["steps"])]}],
        lambda e: [e[0], {"steps": [s | {"observation": {"state": np.zeros(5)}} for s in e[1]["steps"]]}],
        lambda e: [{"steps": e[0]["steps"][:1]}],
    ],
)
def test_spoiled_rlds_is_one_sentence(spoil: Any) -> None:
    with pytest.raises(StitchRLError, match="the episodes"):
        assemble_any(rlds.source_of_episodes(spoil(episodes())))


def test_rlds_folder_of_the_real_library(made: Path) -> None:
    """Written by TensorFlow Datasets; read where it is installed (it is too large for the development environment)."""
    pytest.importorskip("tensorflow_datasets")
    log, known = read(made / "rlds" / "tiny" / "1.0.0"), expected(made, "rlds")
    columns = ("observation", "next_observation", "action", "reward", "terminated", "truncated")
    same(log, **{name: known[name] for name in columns})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.observation_names == ("observation/position[0]", "observation/position[1]", "observation/speed")
    assert any("observation/image" in note for note in log.notes)


def test_rlds_folder_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (folder / name).write_text("{}")
    assert recognised(folder) == ["RLDS"]
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r'pip install "stitchrl\[rlds\]"'):
        opened(folder)
    builder = SimpleNamespace(info=SimpleNamespace(splits={"train": 0}), as_dataset=lambda **_: episodes())
    stand_in = SimpleNamespace(builder_from_directory=lambda _: builder, as_numpy=lambda x: x)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", stand_in)
    assert read(folder).num_transitions == 5
