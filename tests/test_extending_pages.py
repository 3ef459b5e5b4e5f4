"""The worked examples of the pages on extending run as they stand on the page, and end with the checks that users run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "extending"
QUICK = ("reader",)
"""Pages that take less than a second; the others are for the slow suite."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in sorted(FOLDER.glob("*.md"))
    ],
)
def test_the_example_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / f"{page}.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)


@pytest.mark.parametrize(
    ("page", "suite"), [("algorithm", "check_algorithm"), ("estimator", "check_estimator"), ("reader", "check_format")]
)
def test_a_page_ends_with_its_suite(page: str, suite: str) -> None:
    assert f"from stitchrl.testing import {suite}" in (FOLDER / f"{page}.md").read_text(encoding="utf-8")
