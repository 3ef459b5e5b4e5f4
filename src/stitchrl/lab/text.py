"""Prose to HTML: Markdown with formulas in TeX, the parts of a lesson, and Python that a test runs.

    ::: outcome              what the reader will be able to do
    ::: step Title           one step of a derivation; steps open one by one
    ::::: exercise Title     a question; `::: answer` inside it is its worked answer, and five colons close it
    ::: wrong Title          where the popular statement is wrong
    ```python run            "run it yourself"; a ```text block right after it is what it prints, and a test compares the two

Numbers come from the lesson by `[[ name | fixed(2) ]]`, figures by `[[ figure("name") ]]` on a line of its own.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache
from typing import Any

import jinja2
import math_core
from markdown_it import MarkdownIt
from mdit_py_plugins.container import container_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers.python import PythonLexer

__all__ = ["PARTS", "Snippet", "filled", "parts_of", "rounded", "snippets", "to_html"]

PARTS = ("outcome", "step", "exercise", "answer", "wrong")
NAMES = {"outcome": "You will be able to", "wrong": "Often said, and wrong"}


@dataclasses.dataclass(frozen=True)
class Snippet:
    """Python of a lesson, and what it prints (None: it prints nothing that is shown)."""

    code: str
    output: str | None


def filled(text: str, values: Mapping[str, Any], figure: Callable[[str], str]) -> str:
    """The prose with its numbers and figures in place; a name that the lesson lacks is an error."""
    environment = jinja2.Environment(
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["fixed"] = lambda value, places=2: rounded(value, places)
    environment.filters["percent"] = lambda value, places=0: rounded(100 * value, places) + "%"
    return environment.from_string(text).render({**values, "figure": figure})


def rounded(value: float, places: int) -> str:
    """A number as `assets/lab.js` writes it: a tie goes away from zero, as JavaScript's `toFixed` does, and zero has no sign."""
    text = f"{value:f}"
    if math.isfinite(value):
        exactly = Context(prec=1100, rounding=ROUND_HALF_UP)
        text = f"{Decimal(float(value)).quantize(Decimal(1).scaleb(-places), context=exactly):f}"
    if float(text) == 0:
        text = text.replace("-", "")
    return text.replace("-", "\N{MINUS SIGN}")


def to_html(text: str) -> str:
    """HTML of Markdown whose numbers and figures are in place.

    Raises:
        math_core.LatexError: a formula cannot be read.
    """
    rendered: str = _markdown().render(text)
    # A comma after a formula must not start a line.
    return re.sub(
        r'(<span class="math inline">(?:(?!</span>).)*</span>)([,.;:)?]+)',
        r'<span class="nowrap">\1\2</span>',
        rendered,
    )


def parts_of(text: str) -> list[str]:
    """The kinds of the parts that a lesson's prose has, in order."""
    return re.findall(rf"^:{{3,}} *({'|'.join(PARTS)})\b", text, re.MULTILINE)


def snippets(text: str) -> list[Snippet]:
    """The Python of a lesson's prose that is to be run, with what it must print."""
    found = re.finditer(r"^```python run\n(.*?)^```\n(?:\n*```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)
    return [Snippet(match[1], match[2]) for match in found]


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": True, "typographer": False}).enable("table")
    made.use(dollarmath_plugin, allow_space=False, renderer=_formula)
    for part in PARTS:
        made.use(container_plugin, part, validate=_named(part), render=_part(part))
    made.add_render_rule("fence", _fence)
    return made


@cache
def _converter() -> math_core.LatexToMathML:
    return math_core.LatexToMathML()


def _formula(content: str, options: Mapping[str, Any]) -> str:
    """MathML of a formula."""
    block = bool(options.get("display_mode"))
    return _converter().convert_with_local_state(content.strip(), displaystyle=block)


def _named(part: str) -> Callable[[str, str], bool]:
    return lambda info, _markup: info.strip().split(" ", 1)[0] == part


def _part(part: str) -> Callable[..., str]:
    """How a part of a lesson is opened and closed."""

    def render(_self: Any, tokens: Any, index: int, _options: Any, _env: Any) -> str:
        token = tokens[index]
        _, _, title = token.info.strip().partition(" ")
        name = _inline(title)
        if token.nesting < 0:
            return "</div></details>\n" if part in ("step", "answer") else "</section>\n"
        if part == "step":
            return f'<details class="step"><summary>{name}</summary><div>\n'
        if part == "answer":
            return f'<details class="answer"><summary>{name or "The answer, worked"}</summary><div>\n'
        if part == "exercise":
            return f'<section class="exercise"><h3><span class="kind">Exercise</span> {name}</h3>\n'
        if part == "wrong":
            return f'<section class="wrong"><h3><span class="kind">{NAMES[part]}</span> {name}</h3>\n'
        return f'<section class="{part}"><h2>{name or NAMES[part]}</h2>\n'

    return render


def _inline(text: str) -> str:
    rendered: str = _markdown().renderInline(text) if text else ""
    return rendered


def _fence(_self: Any, tokens: Any, index: int, _options: Any, _env: Any) -> str:
    """A block of code, coloured where it is Python; what it prints stands below it."""
    token = tokens[index]
    language, _, kind = token.info.partition(" ")
    if language == "python":
        code = highlight(token.content, PythonLexer(), HtmlFormatter(nowrap=True))
        label = '<p class="kind">Run it yourself</p>' if kind == "run" else ""
        return f'<div class="code">{label}<pre tabindex="0"><code>{code}</code></pre></div>\n'
    return f'<div class="code output"><pre tabindex="0"><code>{html.escape(token.content)}</code></pre></div>\n'
