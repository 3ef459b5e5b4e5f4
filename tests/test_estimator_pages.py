"""The pages of the estimators are what scripts/estimator_pages.py writes: one for each registered estimator."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from page_scripts import page_script

from stitchrl.evaluation.registry import ESTIMATORS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "estimators"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return page_script("estimator_pages")


def test_the_pages_are_up_to_date(writer: ModuleType) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    wanted = writer.pages()
    assert sorted(kept) == sorted(wanted) == sorted([*(f"{name}.md" for name in ESTIMATORS), "README.md"])
    stale = [name for name in wanted if kept[name] != wanted[name]]
    assert not stale, f"{stale} are not up to date: run `python scripts/estimator_pages.py`."


def test_a_page_gives_the_formula_of_its_own_estimator(writer: ModuleType) -> None:
    pages = writer.pages()
    for name in ESTIMATORS:
        _, _, formula = pages[f"{name}.md"].partition("## Formula and source\n")
        assert re.search(rf"\b{name}\b", formula), name
        assert "\n    " in formula, name


def test_links_of_the_pages_point_somewhere(writer: ModuleType) -> None:
    for content in writer.pages().values():
        for target in re.findall(r"\]\(([^)#]+)\)", content):
            assert (FOLDER / target).exists(), target
