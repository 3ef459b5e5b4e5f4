"""A run directory belongs to one run: it is taken, found again, and refused with the difference named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stitchrl.errors import RunDirectoryError
from stitchrl.storage.run_directory import claim, load_json

IDENTITY: dict[str, Any] = {
    "content_hash": "abc",
    "candidates": [{"label": "IQL", "settings": {"expectile": 0.7}}, {"label": "BC", "settings": {}}],
    "updates": 10,
    "command": "run",
}


def changed(**changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(IDENTITY)) | changes


def test_a_directory_is_taken_and_found_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "run" / "run.json"
    assert claim(file, IDENTITY) == IDENTITY
    before = (file.stat().st_mtime_ns, file.read_bytes())
    assert claim(file, changed(command="again"), free=("command",)) == IDENTITY
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (changed(updates=11), "holds another run, with updates 10 where yours has 11"),
        (changed(content_hash="xyz"), "holds a run on another log"),
        (changed(command="other"), "with command 'run' where yours has 'other'"),
        (changed(more=1), "with more None where yours has 1"),
        ({key: value for key, value in IDENTITY.items() if key != "updates"}, "with updates 10 where yours has None"),
        (changed(candidates=IDENTITY["candidates"][:1]), "with candidates 'IQL, BC' where yours has 'IQL'"),
        (
            changed(candidates=[{"label": "IQL", "settings": {"expectile": 0.9}}, IDENTITY["candidates"][1]]),
            "with candidate 'IQL'.settings.expectile 0.7 where yours has 0.9",
        ),
    ],
)
def test_another_run_is_refused_and_the_difference_named(tmp_path: Path, other: dict[str, Any], sentence: str) -> None:
    claim(tmp_path / "run.json", IDENTITY)
    with pytest.raises(RunDirectoryError) as refused:
        claim(tmp_path / "run.json", other)
    assert sentence in str(refused.value)
    assert load_json(tmp_path / "run.json") == IDENTITY


def test_a_run_that_has_not_begun_is_replaced(tmp_path: Path) -> None:
    claim(tmp_path / "run.json", IDENTITY)
    assert claim(tmp_path / "run.json", changed(updates=11), begun=False)["updates"] == 11
    assert load_json(tmp_path / "run.json")["updates"] == 11


def test_what_an_older_version_wrote_is_brought_up_to_date(tmp_path: Path) -> None:
    claim(tmp_path / "run.json", {"steps": 10})
    found = claim(tmp_path / "run.json", {"updates": 10}, upgrade=lambda old: {"updates": old["steps"]})
    assert found == {"updates": 10}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(
        RunDirectoryError,
        match=r"holds other files \(thesis\.txt\), and a run of `stitchrl run` is written to a new or an empty folder",
    ):
        claim(tmp_path / "run.json", IDENTITY, alone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert claim(tmp_path / "run.json", IDENTITY) == IDENTITY  # a run beside other files, where that is allowed


@pytest.mark.parametrize(
    ("there", "wanted", "sentence"),
    [
        ("race.json", "run.json", "holds a race of `stitchrl race`, and a run of `stitchrl run` is written to"),
        ("run.json", "race.json", "holds a run of `stitchrl run`, and a race of `stitchrl race` is written to"),
        ("run.json", "config.json", "holds a run of `stitchrl run`, and a training of `stitchrl train` or `st.fit` is"),
    ],
)
def test_a_folder_of_another_command_is_named(tmp_path: Path, there: str, wanted: str, sentence: str) -> None:
    claim(tmp_path / there, IDENTITY)
    with pytest.raises(RunDirectoryError, match=sentence):
        claim(tmp_path / wanted, IDENTITY, alone=True)
    assert [path.name for path in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("content", ["{", "[1, 2]", "null", '{"a": 1'])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"run\.json is damaged\. Choose another --out"):
        claim(tmp_path / "run.json", IDENTITY)
    assert (tmp_path / "run.json").read_text() == content
