"""Every lesson has its parts; one is built and driven in a browser here, all of them in the slow suite."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from lesson_pages import drive, live_answers
from live_cases import live_cases
from pages import CHROMIUM, Page

from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.lab.build import export
from stitchrl.lab.lesson import Figure, Number, Slider
from stitchrl.lab.page import asset
from stitchrl.lab.registry import LESSONS, prose_of
from stitchrl.lab.text import parts_of, snippets, to_html

QUICK = ("stitching",)
"""The lesson that is built and looked at in the default suite."""
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
SLOWLY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LESSONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lessons")


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_its_parts(name: str) -> None:
    prose = prose_of(name)
    parts = parts_of(prose)
    assert parts.count("outcome") == 1
    assert parts.count("step") >= 3
    assert parts.count("exercise") >= 1
    assert parts.count("answer") == parts.count("exercise")
    assert parts.count("wrong") >= 1
    assert "[[ figure(" in prose
    assert any(snippet.output for snippet in snippets(prose))


@pytest.mark.parametrize("name", SLOWLY)
def test_what_a_lesson_prints_is_what_its_python_prints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for snippet in snippets(prose_of(name)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(snippet.code, f"{name}.md", "exec"), {"__name__": "__main__"})
        assert snippet.output in (None, said.getvalue())


@pytest.mark.parametrize("name", SLOWLY)
def test_a_page_is_whole_and_asks_for_nothing_outside(name: str, folder: Path) -> None:
    text = export(folder, [name])[1].read_text(encoding="utf-8")
    page = Page(re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert len(set(page.ids)) == len(page.ids)
    assert ":::" not in page.text
    assert "$" not in page.text  # a formula that was not read
    fetched = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"([^\"]*)\"", text)
    assert fetched
    assert all(address.startswith("assets/") for address in fetched)


@NEEDS_BROWSER
@pytest.mark.parametrize("width", [1000, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SLOWLY)
def test_every_control_changes_its_figure_and_the_numbers_are_those_of_the_json(
    name: str, width: int, folder: Path
) -> None:
    report = drive(export(folder, [name])[1], width=width)
    assert report["trouble"] == []
    assert report["width"] <= report["window"]
    assert any(seen["controls"] for seen in report["figures"].values())
    for title, seen in report["figures"].items():
        assert seen["marks"] > 5, title
        assert seen["chart"] <= seen["room"] + 1, title
        for control, moved in seen["controls"].items():
            assert moved["changed"] > 0, (title, control)
    given = {figure.name: figure for figure in _lesson(name).figures}
    for title, seen in report["figures"].items():
        check_numbers(given[title], seen["shown"])


def check_numbers(figure: Figure, shown: list[dict[str, Any]]) -> None:
    """The texts beside a figure are the numbers of its frame, or of its live function."""
    for position in shown:
        numbers = position["numbers"]
        if figure.live is None and figure.numbers:
            keys = [control.name for control in figure.controls]
            numbers = next(f for f in figure.frames if all(f[key] == position["settings"][key] for key in keys))
        for number in figure.numbers:
            value, text = numbers[number.name], position["told"][number.name]
            if isinstance(value, str):
                assert text == value
            elif value is None:
                assert text == "\N{EN DASH}"
            else:
                read = float(text.replace("\N{MINUS SIGN}", "-").rstrip("%")) / (100 if number.percent else 1)
                assert read == pytest.approx(value, abs=0.51 * 10.0 ** -(number.decimals + 2 * number.percent))


def _lesson(name: str) -> Any:
    return importlib.import_module(f"stitchrl.lab.lessons.{name}").lesson()


@NEEDS_BROWSER
def test_live_functions_equal_their_python_twins(tmp_path: Path) -> None:
    cases = live_cases()
    answers = live_answers(asset("live.js"), [case[:3] for case in cases], tmp_path)
    for (name, settings, _, wanted), answer in zip(cases, answers, strict=True):
        for key, value in wanted.items():
            assert answer["numbers"][key] == pytest.approx(value, rel=1e-9), (name, settings, key)


def test_every_live_function_has_a_case() -> None:
    functions = re.findall(r"^  (\w+)\(\{", asset("live.js"), re.MULTILINE)
    assert set(functions) == {case[0] for case in live_cases()}


def test_a_figure_without_a_frame_for_each_position_is_refused() -> None:
    slider = Slider("x", "X", (1, 2), 1)
    with pytest.raises(ConfigurationError, match=r"needs a frame for each of the 2 positions .* 1 are missing"):
        Figure("f", "T", None, "D", [slider], [Number("y", "Y")], [{"x": 1, "y": 0.5}])
    with pytest.raises(ConfigurationError, match="shows the number 'y', which its frames lack"):
        Figure("f", "T", None, "D", [slider], [Number("y", "Y")], [{"x": 1}, {"x": 2}])


def test_a_folder_with_an_index_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"holds index\.html, which is not of stitchrl's lessons"):
        export(tmp_path, ["iql"])
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_single_page_holds_all_it_needs(tmp_path: Path) -> None:
    page = export(tmp_path, ["iql"], single=True)[1]
    text = page.read_text(encoding="utf-8")
    assert "assets/" not in text
    assert text.count("<script src") == 0
    assert "default-src 'none'" in text


def test_formulas_become_mathml_and_keep_their_comma() -> None:
    made = to_html("the root $x^2 = 2$, which is so")
    assert "<math" in made
    assert '<span class="nowrap"><span class="math inline">' in made
    assert "</span>,</span> which" in made
