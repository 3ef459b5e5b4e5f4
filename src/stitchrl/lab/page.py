"""A lesson, or the index of lessons, as HTML."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from stitchrl.errors import ConfigurationError
from stitchrl.lab.figures import WIDTH, specification
from stitchrl.lab.lesson import Control, Figure, Lesson, Slider
from stitchrl.lab.registry import LESSONS
from stitchrl.lab.text import filled, rounded, to_html

__all__ = ["asset", "assets", "body_of", "index_page", "lesson_page", "linked"]

HERE = Path(__file__).parent
NO_PROSE = re.compile(r"<(script|pre|figure|a)\b.*?</\1>|<[^>]+>", re.DOTALL)
"""Markup, and what is between tags that hold no prose, or a link already."""
SHARED_STYLE = HERE.parent / "reporting" / "templates" / "report.css"


def body_of(lesson: Lesson, prose: str) -> str:
    """The HTML of a lesson's prose with its figures in place.

    Raises:
        ConfigurationError: the prose leaves out a figure or names one that the lesson lacks.
    """
    figures = {figure.name: figure for figure in lesson.figures}
    placed: list[str] = []

    def place(name: str) -> str:
        placed.append(name)
        return f'<div data-place="{name}"></div>'

    body = to_html(filled(prose, lesson.values, place))
    if sorted(placed) != sorted(figures):
        raise ConfigurationError(
            f"The prose of lesson {lesson.title!r} must place each of its figures {sorted(figures)} once; "
            f"it places {sorted(placed)}."
        )
    for name, figure in figures.items():
        body = body.replace(f'<div data-place="{name}"></div>', figure_html(figure))
    return body


def figure_html(figure: Figure) -> str:
    """A figure: its sentence, controls, chart, numbers, and the JSON that they are drawn from."""
    made = specification(figure.chart)
    made.setdefault("usermeta", {})["width"] = made["width"] if isinstance(made.get("width"), int) else WIDTH
    signals = [param["name"] for param in made.get("params", []) if "select" not in param]
    controls = [_control(control) for control in figure.controls]
    start = {control.name: control.start for control in figure.controls}
    frame = next((row for row in figure.frames if all(row[key] == value for key, value in start.items())), {})
    content = {
        "specification": made,
        "controls": controls,
        "signals": signals,
        "numbers": [{"name": n.name, "label": n.label, "decimals": n.decimals, "percent": n.percent} for n in figure.numbers],
        "frames": [dict(row) for row in figure.frames],
        "live": figure.live,
        "given": dict(figure.given),
    }  # fmt: skip
    return _environment().get_template("figure.html.j2").render(
        figure=figure,
        controls=controls,
        numbers=[(number, _written(frame.get(number.name), number.decimals, number.percent)) for number in figure.numbers],
        # Nothing in the JSON may end the script element, or begin a comment in it.
        content=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip


def lesson_page(
    name: str, title: str, question: str, body: str, order: Sequence[Mapping[str, Any]], *, single: bool
) -> str:
    """A whole page. `single`: styles, scripts and fonts stand inside it; else it reads them from a folder `assets`."""
    names = [entry["name"] for entry in order]
    at = names.index(name)
    return _environment().get_template("lesson.html.j2").render(
        title=title, question=question, body=linked(body, [other for other in names if other != name]),
        number=order[at]["number"], count=len(LESSONS), single=single, asset=asset,
        before=order[at - 1] if at else None, after=order[at + 1] if at + 1 < len(order) else None,
    )  # fmt: skip


def linked(body: str, names: Sequence[str]) -> str:
    """The body, in which "lesson 8" and "lessons 6 and 7" link to the pages of these lessons where they are among `names`."""

    def link(match: re.Match[str]) -> str:
        number = int(match["number"])
        name = LESSONS[number - 1] if 0 < number <= len(LESSONS) else None
        return f'<a href="{name}.html">{match[0]}</a>' if name in names else match[0]

    def links(match: re.Match[str]) -> str:
        return re.sub(r"(?P<number>\d+)" if match["more"] else r"\w+\s(?P<number>\d+)", link, match[0])

    def prose(text: str) -> str:
        # A lesson is named by its number alone; what else is counted does not follow the word "lesson".
        return re.sub(r"\b[Ll]essons?\s\d+(?P<more>(,\s\d+)*,?\s(and|to)\s\d+)?", links, text)

    parts, done = [], 0
    for markup in NO_PROSE.finditer(body):
        parts += [prose(body[done : markup.start()]), markup[0]]
        done = markup.end()
    return "".join([*parts, prose(body[done:])])


def index_page(order: Sequence[Mapping[str, Any]], *, headings: Sequence[str], single: bool) -> str:
    """The page with the path through the lessons; `order` has the name, title, question, stage and number of each."""
    return (
        _environment().get_template("index.html.j2").render(order=order, headings=headings, single=single, asset=asset)
    )


def assets() -> dict[str, bytes]:
    """File name -> content of what exported pages share."""
    return {
        "lab.css": asset("lab.css").encode(),
        "vega.js": asset("vega.js").encode(),
        "lab.js": (asset("live.js") + asset("lab.js")).encode(),
        "math.woff2": (HERE / "assets" / "math.woff2").read_bytes(),
        "math-LICENSE.txt": (HERE / "assets" / "math-LICENSE.txt").read_bytes(),
    }


@cache
def asset(name: str) -> str:
    """The text of a style or script; `math.woff2` comes as a data address."""
    if name == "math.woff2":
        return "data:font/woff2;base64," + base64.b64encode((HERE / "assets" / name).read_bytes()).decode()
    if name == "vega.js":
        import vl_convert

        return "(() => {" + vl_convert.javascript_bundle() + "})();\n"  # type: ignore[call-arg]
    if name == "lab.css":
        # Only the part of the report's style that lays out a page is taken: its rules for charts would overrule Vega's.
        shared, _, _ = SHARED_STYLE.read_text(encoding="utf-8").partition("/* verdict */")
        return shared + (HERE / "assets" / name).read_text(encoding="utf-8")
    return (HERE / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _control(control: Control) -> dict[str, Any]:
    values = list(control.values)
    names = list(control.names) if control.names is not None else [_plain(value) for value in values]
    return {
        "name": control.name,
        "label": control.label,
        "values": values,
        "names": names,
        "start": control.start,
        "at": values.index(control.start),
        "kind": "slider" if isinstance(control, Slider) else "choice",
        "play": isinstance(control, Slider) and control.play,
    }


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _written(value: Any, decimals: int, percent: bool) -> str:
    """A number as `assets/lab.js` writes it."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    return rounded(100 * value, decimals) + "%" if percent else rounded(value, decimals)
