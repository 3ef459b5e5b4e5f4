"""The documentation site: links and docstrings are turned into what Sphinx reads, and the whole is built without a warning."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://example.org/project"


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "wanted"),
    [
        ("running", "[a](data.md#audit)", "[a](data.md#audit)"),
        ("running", "[a](../benchmarks/results/race.md)", "[a](benchmarks/race.md)"),
        ("algorithms/iql", "[a](../../benchmarks/results/race.md#x)", "[a](../benchmarks/race.md#x)"),
        ("algorithms/iql", "[a](../../src/stitchrl/cli.py)", f"[a]({REPOSITORY}/blob/main/src/stitchrl/cli.py)"),
        ("running", "[a](../benchmarks)", f"[a]({REPOSITORY}/tree/main/benchmarks)"),
        ("running", "[a](../README.md)", "[a](index.md)"),
        ("running", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("running", "[`a`](../CHANGELOG.md), `[b](../CHANGELOG.md)`", "[`a`](changelog.md), `[b](../CHANGELOG.md)`"),
        ("running", "```\n[a](../CHANGELOG.md)\n```\n", "```\n[a](../CHANGELOG.md)\n```\n"),
        ("running", "[a](https://a.org), [b](#c)", "[a](https://a.org), [b](#c)"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(page: str, link: str, wanted: str) -> None:
    outside = extension("outside_pages")
    assert outside.rewritten(link, DOCS / f"{page}.md", page, ROOT, DOCS, REPOSITORY) == wanted


def test_links_and_pictures_of_a_page_outside_docs_are_relative_to_its_file() -> None:
    outside, file = extension("outside_pages"), ROOT / "benchmarks" / "results" / "throughput.md"
    text = "[a](race.md), [b](../../docs/training.md), ![c](growth.svg)"
    found = outside.rewritten(text, file, "benchmarks/throughput", ROOT, DOCS, REPOSITORY)
    assert found == "[a](race.md), [b](../training.md), ![c](../../benchmarks/results/growth.svg)"


def test_every_table_of_the_benchmarks_is_a_page() -> None:
    pages = extension("outside_pages").outside_pages(ROOT)
    results = {f"benchmarks/{file.stem}" for file in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert results
    assert results | {"changelog", "contributing"} <= pages.keys()


def test_docstrings_become_restructured_text() -> None:
    converted = extension("docstrings").converted(
        ["A `name` of *args, | and x_ here.", "", "    y = a * b", "", "Args:", "    low: `x` or 2 * 3."]
    )
    assert converted == [
        "A ``name`` of \\*args, \\| and x\\_ here.",
        "",
        "::",
        "",
        "    y = a * b",
        "",
        "Args:",
        "    low: ``x`` or 2 \\* 3.",
    ]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "dummy",
        "-n",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "trees"),
    ]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
