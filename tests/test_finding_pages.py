"""Every code that the source can raise has a page, whose facts and example are what the source says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from page_scripts import page_script

from stitchrl.training.flag_rules import RULES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "findings"
PAGES = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"
}
PARTS = ("**Why it harms.** ", "**What to do.** ", "For example:")


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return page_script("finding_pages")


def example(page: str) -> str:
    """The message of the example, in one line."""
    return " ".join(line.removeprefix("> ") for line in page.splitlines() if line.startswith("> "))


def test_every_code_has_a_page_and_no_page_is_without_a_code(writer: ModuleType) -> None:
    assert set(PAGES) == set(writer.codes())
    assert set(RULES) <= set(PAGES)


def test_codes_that_stand_in_tests_and_documents_are_found_in_the_source(writer: ModuleType) -> None:
    """What is read from the syntax of the source is held against what was written by hand elsewhere."""
    table = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE))
    assert len(listed) > 40
    assert listed <= set(writer.codes())


def test_the_pages_are_up_to_date(writer: ModuleType) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    wanted = writer.wanted()
    stale = [name for name in wanted if kept.get(name) != wanted[name]]
    assert not stale, f"{stale} are not up to date: run `python scripts/finding_pages.py`."


def test_every_page_says_what_why_and_what_to_do(writer: ModuleType) -> None:
    for name, page in PAGES.items():
        assert page.startswith(f"# {name}\n"), name
        assert writer.lead(page), name
        assert all(page.count(part) == 1 for part in PARTS), name
        prose = page.partition(writer.END)[2].partition(PARTS[-1])[0]
        assert 50 < len(prose.split()) < 250, name


def test_links_of_the_pages_point_somewhere() -> None:
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page):
            assert (FOLDER / target).exists(), (name, target)


def test_no_two_pages_share_a_paragraph() -> None:
    paragraphs = [
        paragraph
        for page in PAGES.values()
        for paragraph in page.split("\n\n")
        if len(paragraph.split()) > 12 and not paragraph.startswith(("<!--", "> ", "**Error", "**Warning", "**Note"))
    ]
    assert len(paragraphs) == len(set(paragraphs))


def test_an_example_has_a_severity_of_its_code_and_words_of_its_rule(writer: ModuleType) -> None:
    found = writer.codes()
    checked = 0
    for name, page in PAGES.items():
        text, code = example(page), found[name]
        assert text.startswith(tuple(f"**{writer.WORDS[severity]}** · " for severity in code.severities)), name
        if code.seen:
            checked += 1
            assert any(re.search(f"{pattern}; expected ", text) for pattern in code.seen), name
    assert checked > 90
