"""Fixtures shared by the tests of formats."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from format_files import FIXTURES

from stitchrl.reading.formats import arrow_ipc, parquet
from stitchrl.reading.sources import source, text


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file() -> None:
    """Replaces the fixture that clears JAX's caches after each file: these tests compile nothing."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of every format, each made by the format's own library. Tests must not change it."""
    folder = tmp_path_factory.mktemp("formats")
    with zipfile.ZipFile(FIXTURES) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Any:
    """Gives a copy of a log in `made`, which a test may spoil."""

    def copied(name: str) -> Path:
        target = tmp_path / Path(name).name
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, target)
        return target

    return copied


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes blocks so small (three rows, or few bytes) that their edges fall inside episodes."""
    for module in (source, parquet, arrow_ipc):
        monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    monkeypatch.setattr("stitchrl.reading.sources.compressed.PIECE_BYTES", 60)
