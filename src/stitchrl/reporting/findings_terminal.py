"""Findings in the terminal, of an audit and of a diagnosis: a row for each, with its severity in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

__all__ = ["STYLES", "findings_table"]

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan", None: "bold green"}
"""Style of a severity; None is the style where there are no findings."""


def findings_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """Findings as `dataclasses.asdict` gives them, one below another."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for k, finding in enumerate(findings):
        if k:
            table.add_row("", "")
        table.add_row(Text(finding["severity"], STYLES.get(finding["severity"], "")), _finding(finding))
    return table


def _finding(finding: Mapping[str, Any]) -> Text:
    text = Text()
    text.append(finding["code"], "bold")
    text.append(f"  {finding['where']}\n", "dim")
    text.append(f"{finding['seen'][:1].upper()}{finding['seen'][1:]}; expected {finding['expected']}.\n")
    text.append("-> ", "dim")
    text.append(finding["action"])
    return text
