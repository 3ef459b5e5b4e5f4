"""An audit in the terminal, in colour, as wide as the terminal is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from stitchrl.reporting.findings_terminal import STYLES, findings_table

__all__ = ["print_audit", "render"]

Content = Mapping[str, Any]

VERDICT_STYLES = STYLES | {"warning": "bold yellow", "info": "bold green"}
"""Style of the verdict, by the severity of the most harmful finding."""


def print_audit(audit: Content, console: Console | None = None) -> None:
    """Print the plain content of an audit (`Audit.to_dict`), to standard output unless a console is given."""
    (console or Console()).print(render(audit))


def render(audit: Content) -> RenderableType:
    """The plain content of an audit as Rich draws it: the verdict, the log in one line, and a row for each finding."""
    verdict = Text("log: ")
    verdict.append(audit["verdict"], VERDICT_STYLES.get(audit["worst"], "bold") if "worst" in audit else "bold")
    if summary := audit.get("summary"):
        verdict.append(f"  {summary}", "dim")
    parts: list[RenderableType] = [verdict]
    if meaning := audit.get("meaning"):
        parts.append(Text(meaning))
    if audit["numbers"]:
        parts.append(Text(_facts(audit), "dim"))
    if audit["findings"]:
        parts += [Rule(style="dim"), findings_table(audit["findings"])]
    return Group(*parts)


def _facts(audit: Content) -> str:
    numbers = audit["numbers"]
    actions = numbers.get("num_actions")
    alone = numbers["episodes"] == numbers["transitions"]
    each = "reward" if alone else "return"
    counts = [f"{numbers['episodes']:,} episodes", f"{numbers['transitions']:,} transitions"]
    words = [
        *([f"{numbers['transitions']:,} single decisions"] if alone else counts),
        f"{numbers['observation_size']:,} observation columns",
        f"{actions} actions" if actions else "continuous actions",
        f"mean {each} {numbers['mean_return']:.4g}" if numbers["mean_return"] is not None else f"no mean {each}",
    ]
    return ", ".join(words)
