"""Every block of Python in the documentation runs: in one namespace a page, in an empty folder, on small logs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from doc_blocks import PREPARED, ROOT, Block, blocks_of, pages, small_log, smaller

from stitchrl.evaluation.settings import FitSettings

PAGES = pages()
QUICK = {"docs/bundle.md", "docs/collecting.md", "docs/data.md"}
"""Pages whose blocks take a second or two."""


def run(page: str, blocks: list[Block], names: dict[str, Any]) -> None:
    for block in blocks:
        if not block.reason:
            exec(compile(smaller(block.text), page, "exec", dont_inherit=True), names)


@pytest.mark.parametrize(
    "page", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in sorted(PAGES)]
)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Models of an evaluation that names no settings: few updates of narrow networks.
    monkeypatch.setattr(FitSettings.__init__, "__defaults__", (20, 256, (16,), 1e-3, 0, "auto", 2))
    names = PREPARED[page]() if page in PREPARED else {}
    module = ModuleType("page")  # classes look up the module that they are defined in
    monkeypatch.setitem(sys.modules, "page", module)
    vars(module).update({"small_log": small_log} | names)
    run(page, PAGES[page], vars(module))


def test_pages_that_are_prepared_for_have_blocks() -> None:
    assert PREPARED.keys() | QUICK <= PAGES.keys()


def test_a_block_that_fails_is_told_and_one_that_is_not_run_says_why() -> None:
    failing, left_out = blocks_of(
        "```python\n1 / 0\n```\n\ntext\n\n<!-- not run: it needs a robot -->\n```python\nrobot()\n```\n"
    )
    assert left_out == Block("robot()\n", "it needs a robot")
    with pytest.raises(ZeroDivisionError):
        run("page", [failing], {})
    run("page", [left_out], {})


def test_no_block_is_left_out_without_a_reason() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert text.count("```python\n") == len(PAGES[page]), page
