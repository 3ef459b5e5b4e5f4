"""Advice in the terminal, as wide as the terminal is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

__all__ = ["print_advice", "render_advice"]

HEADLINES = {
    "needed": "offline learning is needed",
    "worth it": "offline learning is worth it",
    "not needed": "offline learning is not needed",
    "unknown": "whether offline learning is needed depends on your answers",
}
"""What the first line says of each answer to the first question."""


def print_advice(content: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the plain content of advice (`Advice.to_dict`), to standard output unless a console is given."""
    (console or Console()).print(render_advice(content), soft_wrap=False)
    if content["command"]:
        print(f"To run it:\n{content['command']}")  # in one line whatever the width, so that it can be pasted


def render_advice(content: Mapping[str, Any]) -> RenderableType:
    """The plain content of advice as Rich draws it: a headline, then each part with its sentences and what they rest on."""
    first = Text(f"{headline(content)}\n", "bold")
    parts: list[RenderableType] = [first]
    for part in content["parts"].values():
        parts.append(Text(part["title"], "bold cyan"))
        for each in part["statements"]:
            text = Text(f"- {each['statement']}\n")
            text.append(f"Because: {each['number']}. Rule: {each['rule']} ({each['source']}).", "dim")
            parts.append(Padding(text, (0, 0, 0, 2)))
        parts.append(Text(""))
    return Group(*parts)


def headline(content: Mapping[str, Any]) -> str:
    """The advice in one line."""
    names = ", then ".join(each["label"] for each in content["algorithms"]) or "nothing before the log is corrected"
    return f"advice: {HEADLINES[content['needed']]}; the log is {content['usable']}; try {names}"
