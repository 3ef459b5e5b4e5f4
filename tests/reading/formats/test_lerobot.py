"""Reading LeRobot datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from format_files import assemble_any, expected, opened, read, same

from stitchrl.errors import StitchRLError
from stitchrl.reading.formats import (
    lerobot,
)


@pytest.mark.parametrize("name", ["lerobot_rewarded", "lerobot_plain"])
def test_lerobot_is_what_lerobot_wrote(made: Path, name: str) -> None:
    log, known = read(made / name), expected(made, name)
    same(log, **{key: values for key, values in known.items() if key != "length"})
    assert log.episode_lengths.tolist() == known["length"].tolist()
    assert log.can_bootstrap.tolist() == (~known["truncated"]).tolist()  # no frame follows the last action
    said = " ".join(log.notes)
    assert ("only imitation" in said) == ("does not say how episodes end" in said) == (name == "lerobot_plain")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "meta/info.json").write_text("{}"),
        lambda f: (f / "meta/info.json").write_text("{"),
        lambda f: (f / "meta/info.json").write_text("[]"),
        lambda f: tell(f, codebase_version="v1.6"),
        lambda f: tell(f, total_frames=99),
        lambda f: tell(f, features={}),
        lambda f: tell(f, features={"observation.state": {"dtype": "video", "shape": [3]}}),
        lambda f: next(f.glob("data/*/*")).unlink(),
        lambda f: next(f.glob("data/*/*")).write_bytes(b"PAR1"),
        lambda f: recolumn(f, lambda t: t.drop_columns(["action"])),
        lambda f: recolumn(f, lambda t: t.drop_columns(["episode_index"])),
        lambda f: recolumn(f, lambda t: t.slice(0, 0)),
        lambda f: recolumn(f, lambda t: t.set_column(t.column_names.index("next.success"), "next.success", [[7] * 12])),
        lambda f: recolumn(f, lambda t: t.set_column(0, t.column_names[0], [[[float("nan")] * 2] * 12])),
        lambda f: recolumn(
            f, lambda t: t.set_column(t.column_names.index("action"), "action", [[[1.0]] + [[1.0, 2.0]] * 11])
        ),
    ],
)
def test_spoiled_lerobot_is_one_sentence(copy: Any, spoil: Any) -> None:
    folder = copy("lerobot_rewarded")
    spoil(folder)
    with pytest.raises(StitchRLError, match="lerobot_rewarded"):
        assemble_any(lerobot.FORMAT.open(folder))


def tell(folder: Path, **entries: Any) -> None:
    info = json.loads((folder / "meta/info.json").read_text()) | entries
    (folder / "meta/info.json").write_text(json.dumps(info))


def recolumn(folder: Path, change: Any) -> None:
    file = next(folder.glob("data/*/*"))
    table = change(pq.read_table(file))
    pq.write_table(table, file)


def test_lerobot_names_what_it_leaves_out(copy: Any) -> None:
    folder = copy("lerobot_rewarded")
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"] = {"dtype": "video", "shape": [3, 64, 64]}
    tell(folder, features=info["features"], total_tasks=3)
    said = " ".join(opened(folder).notes)
    assert "observation.images.top (videos, images) were left out" in said
    assert "3 tasks" in said
