"""Docstrings as reStructuredText: they are written in plain text with Markdown's single backticks and indented equations.

Before napoleon makes lists of their Google-style sections, code spans get double backticks, signs that reStructuredText would
take for markup are escaped, and indented paragraphs become literal blocks. Signatures are taken from the source text, where
array types read `Float[Array, "B A"]`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that a test needs no Sphinx
    from sphinx.application import Sphinx

SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Warns:", "Yields:", "Example:", "Examples:", "Note:")
NAMES = re.compile(r"^    [a-z_]\w*(?:, [a-z_]\w*)+(?=: )")
COLON = "\ue000"
"""Stands for a colon while napoleon reads, which takes "text: text" of a property for its type and its description."""
SPAN = re.compile(r"`([^`]+)`")
SIGNS = re.compile(r"([*|\\])|(?<=\w)(_)(?=\W|$)")


def inline(text: str) -> str:
    """A paragraph with code spans in double backticks, and everything else without markup."""
    parts = SPAN.split(text)
    return "".join(
        f"``{part}``" if k % 2 else SIGNS.sub(lambda found: f"\\{found[0]}", part) for k, part in enumerate(parts)
    )


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText that napoleon reads."""
    found: list[str] = []
    section = literal = False
    for k, line in enumerate(lines):
        blank = not line.strip()
        indented = line.startswith("    ")
        if not indented and not blank:
            section, literal = line.strip() in SECTIONS, False
        starts = indented and not section and not literal and (k == 0 or not lines[k - 1].strip())
        if starts:
            found += ["::", ""]
            literal = True
        if section and NAMES.match(line):  # entries of one name alone may hold a space
            line = NAMES.sub(lambda found: found[0].replace(", ", ","), line)
        if blank or literal or (section and not indented):
            found.append(line)
        else:
            spaces = len(line) - len(line.lstrip())
            found.append(line[:spaces] + _span_over_lines(line[spaces:], lines, k))
    return found


def _span_over_lines(text: str, lines: list[str], k: int) -> str:
    """A line converted; a code span that goes on in the next line is left to reStructuredText's default role."""
    return inline(text) if text.count("`") % 2 == 0 else SIGNS.sub(lambda found: f"\\{found[0]}", text)


def settings_of(kind: Any) -> list[str]:
    """The settings of an algorithm as a section of its docstring, from what its fields know of their range and meaning."""
    found = []
    for field in dataclasses.fields(kind):
        meaning = field.metadata.get("meaning")
        if meaning:
            choices = field.metadata.get("choices")
            allowed = " or ".join(repr(choice) for choice in choices) if choices else field.metadata.get("interval", "")
            found.append(f"    {field.name}: {meaning}{f' Allowed: {allowed}.' if allowed else ''}")
    return ["", "Attributes:", *found] if found else []


def process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place."""
    if what == "class" and dataclasses.is_dataclass(value) and "Attributes:" not in lines:
        lines.extend(settings_of(value))
    lines[:] = converted(lines)
    if what in ("attribute", "property", "data") and lines:
        lines[0] = lines[0].replace(":", COLON)


def restore(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, text: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Annotations as the source has them, and defaults without the addresses of objects."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    if what not in ("class", "function", "method"):
        return None
    parameters = list(found.parameters.values())
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    parameters = [one.replace(annotation=_shown(one.annotation), default=_default(one.default)) for one in parameters]
    result = "" if what == "class" or found.return_annotation is found.empty else str(_shown(found.return_annotation))
    try:
        shown = str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    except ValueError:
        return None
    return shown, result or None


class _Text(str):
    """A text whose `repr` is itself, as annotations and defaults are printed by theirs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(annotation: Any) -> Any:
    """An annotation without quotes around it, and without the module of the class."""
    if annotation is inspect.Parameter.empty:
        return annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    text = re.sub(r"([\"'])\s+", r"\1", text)  # shapes of one letter have a space before it, for linters
    return _Text(text)


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return value
    text = repr(value)
    return _Text("...") if " object at 0x" in text or "<factory>" in text or len(text) > 60 else value


def tidy(app: Sphinx, document: Any) -> None:
    """Spaces between names that share an entry, and dashes after names."""
    from docutils import nodes
    from sphinx import addnodes

    for name in document.findall(addnodes.literal_strong):
        if "," in name.astext():
            name.children = [nodes.Text(name.astext().replace(",", ", "))]
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above; docstrings before napoleon does."""
    from sphinx.domains.python import PyObject

    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-read", tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
