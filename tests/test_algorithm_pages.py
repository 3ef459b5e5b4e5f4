"""The pages of the algorithms are what scripts/algorithm_pages.py writes, and say what a reader needs."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from page_scripts import page_script

import stitchrl as st

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return page_script("algorithm_pages")


def test_the_pages_are_up_to_date(writer: ModuleType) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "algorithms").glob("*.md")}
    wanted = writer.pages()
    assert sorted(kept) == sorted(wanted)
    stale = [name for name in wanted if kept[name] != wanted[name]]
    assert not stale, f"{stale} are not up to date: run `python scripts/algorithm_pages.py`."


@pytest.mark.parametrize("name", [*st.ALGORITHMS, *st.PREFERENCE_ALGORITHMS])
def test_every_algorithm_says_when_to_use_it_and_what_to_turn_first(writer: ModuleType, name: str) -> None:
    _, labelled = writer.paragraphs(getattr(st, name))
    assert set(labelled) == set(writer.LABELS)
    knob = re.match(r"`(\w+)`, from \S+ to \S+", labelled["First knob"])
    assert knob is not None, labelled["First knob"]
    assert hasattr(getattr(st, name)(), knob[1])


def test_links_of_the_pages_point_somewhere(writer: ModuleType) -> None:
    for content in writer.pages().values():
        for target in re.findall(r"\]\(([^)#]+)\)", content):
            assert (ROOT / "docs" / "algorithms" / target).exists(), target
