"""A diagnosis in the terminal, in colour, as wide as the terminal is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from stitchrl.reporting.diagnosis import columns_and_departures
from stitchrl.reporting.findings_terminal import STYLES, findings_table

__all__ = ["print_diagnosis", "render_diagnosis"]

WORDS = {
    "error": "must not be used",
    "warning": "something may be wrong",
    "info": "no failure found",
    None: "no failure found",
}
"""What is said of a run, by the severity of its most harmful finding."""


def print_diagnosis(diagnosis: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the plain content of a diagnosis (`Diagnosis.to_dict`), to standard output unless a console is given."""
    (console or Console()).print(render_diagnosis(diagnosis))


def render_diagnosis(diagnosis: Mapping[str, Any]) -> RenderableType:
    """The plain content of a diagnosis as Rich draws it: what it amounts to, and a row for each finding."""
    head = Text(f"{diagnosis['title']}: ")
    head.append(WORDS[diagnosis["worst"]], STYLES[diagnosis["worst"]] if diagnosis["worst"] != "info" else "bold green")
    head.append(f"  {diagnosis['summary']}", "dim")
    parts: list[RenderableType] = [head, Text(diagnosis["meaning"])]
    if diagnosis.get("notes"):  # diagnoses of older versions have none
        parts.append(Text("How the log was read: " + " ".join(diagnosis["notes"]), "yellow"))
    if diagnosis["findings"]:
        parts += [Rule(style="dim"), findings_table(diagnosis["findings"])]
    looks_at = columns_and_departures(diagnosis)
    if looks_at["columns"]:
        parts.append(
            Text(
                "The policy looks at: " + ", ".join(f"{name} ({share})" for name, _, share in looks_at["columns"]),
                "dim",
            )
        )
    if looks_at["departures"]:
        commonest = ", ".join(f"{usual} -> {taken} ({share})" for usual, taken, share, _ in looks_at["departures"][:3])
        parts.append(
            Text(f"The policy departs from the behaviour in {looks_at['share']} of the decisions: {commonest}.", "dim")
        )
    if diagnosis["skipped"]:
        parts.append(Text("Not looked at: " + " ".join(dict.fromkeys(diagnosis["skipped"].values())), "dim"))
    return Group(*parts)
