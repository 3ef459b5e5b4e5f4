"""What lessons do at the edges: texts that look like HTML, names that clash, broken caches, and files of somebody else."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from commands import Command
from lesson_pages import drive, live_answers
from pages import CHROMIUM, Page

import stitchrl as package
from stitchrl.command_line import lessons
from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.lab import build
from stitchrl.lab.figures import follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.lab.page import body_of, figure_html, lesson_page, linked
from stitchrl.lab.text import filled, rounded

NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
HOSTILE = '</script><!--<script>&amp; "it\'s" <b>bold</b>'


def hostile_figure() -> Figure:
    """A figure whose every text looks like HTML, and whose width is given in steps."""
    choice = Choice("side", HOSTILE, ("a", HOSTILE), "a", names=("plain", HOSTILE))
    shown = [{"side": side, "kind": kind, "y": y} for y, side in enumerate(choice.values) for kind in "uvwxyz"]
    chart = alt.Chart(rows(shown)).transform_filter(follows("side")).mark_bar()
    chart = chart.encode(alt.X("kind:N"), alt.Y("y:Q", title=HOSTILE)).properties(width=alt.Step(30))
    frames = [{"side": side, "text": HOSTILE, "y": 2.5} for side in choice.values]
    return Figure(
        "hostile",
        HOSTILE,
        chart.add_params(*parameters([choice])),
        HOSTILE,
        [choice],
        [Number("text", HOSTILE), Number("y", "Y", 0)],
        frames,
    )


def test_texts_of_a_figure_stay_texts() -> None:
    figure = hostile_figure()
    made = figure_html(figure)
    held = re.findall(r"<script[^>]*>(.*?)</script>", made, re.DOTALL)
    assert len(held) == 1
    assert "<" not in held[0]
    content = json.loads(held[0])
    assert content["frames"] == [dict(frame) for frame in figure.frames]
    page = Page(made.replace(held[0], ""))
    assert page.text.count(HOSTILE) == 6  # title, control, its second value, number, its label, caption
    assert "<b>bold" not in made.replace(held[0], "")


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_single_page_with_such_texts_works_under_its_policy_of_content(tmp_path: Path) -> None:
    figure = hostile_figure()
    lesson = Lesson(HOSTILE, HOSTILE, [figure])
    order = [{"name": "one", "title": HOSTILE, "question": HOSTILE, "stage": "s", "number": 1}]
    text = lesson_page("one", HOSTILE, HOSTILE, body_of(lesson, '[[ figure("hostile") ]]'), order, single=True)
    (tmp_path / "one.html").write_text(text, encoding="utf-8")
    report = drive(tmp_path / "one.html")
    assert report["trouble"] == []
    seen = report["figures"]["hostile"]
    assert seen["controls"]["side"]["changed"] == 1
    assert [shown["told"] for shown in seen["shown"]] == [{"text": HOSTILE, "y": "3"}] * 2
    assert seen["chart"] <= seen["room"]


def test_a_tie_goes_away_from_zero_and_zero_has_no_sign() -> None:
    said = [rounded(value, places) for value, places in ((2.5, 0), (-2.5, 0), (0.125, 2), (-0.001, 2), (1e30, 0))]
    assert said == ["3", "\N{MINUS SIGN}3", "0.13", "0.00", "1000000000000000019884624838656"]
    assert filled("[[ x | percent(1) ]] [[ y | fixed(0) ]]", {"x": -0.125, "y": 2.5}, str) == "\N{MINUS SIGN}12.5% 3"


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_number_is_written_as_the_page_writes_it(tmp_path: Path) -> None:
    cases = [(0.125, 2), (2.5, 0), (-2.5, 0), (1.005, 2), (0.5, 0), (80 / 13, 3), (123456.75, 1), (1e20, 2), (7, 1)]
    script = "window.stitchrlLive = { fixed({ value }, { places }) { return value.toFixed(places); } };"
    asked: Any = [("fixed", {"value": value}, {"places": places}) for value, places in cases]
    answers = live_answers(script, asked, tmp_path)
    assert [rounded(value, places) for value, places in cases] == [
        text.replace("-", "\N{MINUS SIGN}") for text in answers
    ]


def test_names_that_a_page_cannot_tell_apart_are_refused() -> None:
    one, two = Slider("x", "X", (1, 2), 1, play=True), Slider("y", "Y", (1, 2), 1, play=True)
    frames = [{"x": x, "n": 0.0} for x in (1, 2)]
    for name, controls, numbers, positions, sentence in (
        ('a"b', [one], [], [], r"name of a figure must be of letters, digits, _ and -; got 'a\"b'"),
        ("f", [one, one], [], [], r"controls of figure 'f' must have names of their own, .* got \['x', 'x'\]"),
        ("f", [one], [Number("n", "N")] * 2, frames, r"so must its numbers; got \['x'\] and \['n', 'n'\]"),
        ("f", [one, two], [], [], "at most three controls and one play button; 'f' has 2 and 2"),
        ("f", [one], [Number("n", "N")], [*frames, frames[0]], "0 are missing, 0 fit none and 1 come twice"),
        ("f", [one], [Number("n", "N")], [{"n": 0.0}], "2 are missing, 1 fit none"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            Figure(name, "T", None, "D", controls, numbers, positions)
    with pytest.raises(ConfigurationError, match="at least two different values"):
        Slider("x", "X", (1, 1), 1)


def test_a_lesson_that_is_named_by_its_number_is_a_link_where_its_page_is_there() -> None:
    def of(name: str, text: str) -> str:
        return f'<a href="{name}.html">{text}</a>'

    awr, awac, iql = of("awr", "6"), of("awac", "7"), of("iql", "8")
    there = ["awr", "awac", "iql"]
    for text, expected in (
        ("<p>(lesson 8).</p>", f"<p>({of('iql', 'lesson 8')}).</p>"),
        ("<p>Lessons 6 and 7</p>", f"<p>Lessons {awr} and {awac}</p>"),
        ("<li>lessons 5, 6 and 8, 7 rows</li>", f"<li>lessons 5, {awr} and {iql}, 7 rows</li>"),
        ("<p>lesson 12, lesson 0, lesson 99, 8 lessons</p>", None),
    ):
        assert linked(text, there) == (text if expected is None else expected)
    for held in ("<pre>lesson 8</pre>", '<figure title="lesson 8">lesson 8</figure>', '<p title="lesson 8"></p>'):
        assert linked(held, there) == held
    assert linked('<a href="x">lesson 8</a> lesson 8', there) == f'<a href="x">lesson 8</a> {of("iql", "lesson 8")}'


# --- the cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which has two lessons."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("awr", "iql"):
        place = build._place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(dataclasses.asdict(build.Built(name, f"Title of {name}", "Why?", "<p>text</p>"))))
    return build._place("iql")


def test_a_broken_entry_of_the_cache_is_built_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept.read_text()
    assert build.build(["iql"])[0].title == "Title of iql"
    again = build.Built("iql", "again", "", "")
    monkeypatch.setattr(build, "_build_one", lambda name: again)
    wrong = json.loads(whole)
    for text in (
        whole[:30],
        "",
        "[1, 2]",
        "null",
        json.dumps(wrong | {"title": None}),
        json.dumps(wrong | {"name": "awr"}),
    ):
        kept.write_text(text)
        assert build.build(["iql"]) == [again]
    kept.unlink()
    kept.mkdir()
    assert build.build(["iql"]) == [again]


def test_what_old_versions_of_the_code_kept_is_removed_after_a_month(kept: Path) -> None:
    folder = build.cache_folder()
    for name, days in (("old", 31), ("recent", 29)):
        (folder / name).mkdir()
        (folder / name / "iql.json").write_text("{}")
        os.utime(folder / name, (time.time() - 86_400 * days,) * 2)
    os.utime(kept.parent, (0, 0))  # this version's own, however old
    build._forget_old_versions()
    assert {place.name for place in folder.iterdir()} == {"recent", kept.parent.name}
    assert kept.exists()


def test_what_the_cache_is_named_by_holds_every_kind_of_file_that_numbers_come_from() -> None:
    root = Path(package.__file__).parent
    kinds = {file.suffix for file in root.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert set(build.SOURCES) <= kinds
    assert kinds - set(build.SOURCES) <= {
        ".css",
        ".js",
        ".woff2",
        ".txt",
        ".pyi",
        ".typed",
    }  # none of these is computed from


@pytest.mark.slow
def test_a_stopped_build_does_not_wait_for_the_other_lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "WORKERS", 1)

    def stop(_done: int, _total: int) -> None:
        if build._place("iql").exists():
            build._place("iql").unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(["iql"] * 4, done=stop)
    assert not build._place("iql").exists()


# --- the folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exporting_some_lessons_leaves_the_others_in_the_path(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    assert [page.name for page in build.export(folder, ["awr"])] == ["index.html", "awr.html"]
    pages = build.export(folder, ["iql"])
    assert [page.name for page in pages] == ["index.html", "iql.html"]
    index = pages[0].read_text()
    assert "Title of awr" in index
    assert "Title of iql" in index
    assert 'rel="next" href="iql.html"' in (folder / "awr.html").read_text()
    assert "lesson 8 of 15" in pages[1].read_text()


def test_no_file_of_somebody_else_is_overwritten(kept: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("index.html", "iql.html", "assets/lab.css")):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        with pytest.raises(
            RunDirectoryError, match=f"holds {name}, which is not of stitchrl's lessons and would be lost"
        ):
            build.export(folder, ["iql"])
        assert (folder / name).read_text() == "mine"
        assert [file for file in folder.rglob("*") if file.is_file()] == [folder / name]
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"holds index\.html, which is not"):
        build.export(tmp_path / "folder", ["iql"])
    other = tmp_path / "2"  # a page alone needs no assets
    assert build.export(other, ["iql"], single=True)
    assert (other / "assets" / "lab.css").read_text() == "mine"


def test_a_program_is_told_the_address_of_the_served_pages(
    stitchrl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, served = tmp_path / "index.html", []
    monkeypatch.setattr(lessons, "_built", lambda *_, **__: [page])
    monkeypatch.setattr(lessons, "_serve", lambda server, first, *, quiet: served.append((server, first)))
    bound = lessons._bound(0)
    monkeypatch.setattr(lessons, "_bound", lambda _port: bound)
    try:
        said = json.loads(stitchrl("lab", "--json", "--port", "8000").out)
    finally:
        bound.server_close()
    assert said == {"pages": [str(page)], "address": f"http://127.0.0.1:{bound.server_port}/index.html"}
    assert served == [(bound, page)]
