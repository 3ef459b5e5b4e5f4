"""A ranking of episodes in the terminal: the worst ones with the reason, and what leaving them out changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from stitchrl.reporting.numbers import short
from stitchrl.reporting.ranking_view import MODEL_ERRORS, expected_in_words, relative

__all__ = ["print_ranking", "render"]

SHOWN = 20


def print_ranking(ranking: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the plain content of a ranking (`EpisodeRanking.to_dict`), to standard output unless a console is given."""
    (console or Console()).print(render(ranking))


def render(ranking: Mapping[str, Any]) -> RenderableType:
    """The plain content of a ranking as Rich draws it."""
    parts: list[RenderableType] = [
        Rule("episodes", style="dim"),
        Text(ranking["headline"], "bold"),
        Text(""),
        _episodes(ranking),
        Text(_legend(ranking), "dim"),
    ]
    if len(ranking["curve"]) > 1:
        parts += [Text(""), _curve(ranking), Text(_curve_legend(ranking), "dim")]
    return Group(*parts, Text(""), Text(ranking["warning"], "yellow"))


def _episodes(ranking: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("episode", no_wrap=True)
    for name in ("steps", "return", "by chance", "value", "pull"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why it stands out", ratio=1, overflow="fold")
    for one in ranking["worst"][:SHOWN]:
        table.add_row(
            Text(str(one["episode"]), "bold red" if one["apart"] else ""),
            f"{one['steps']:,}",
            short(one["total"]),
            expected_in_words(one["expected"]),
            short(one["value_change"]) if one["value_change"] < 0 else f"+{short(one['value_change'])}",
            f"{one['pull']:.3g}x",
            f"{one['reason'][:1].upper()}{one['reason'][1:]}",
        )
    return table


def _legend(ranking: Mapping[str, Any]) -> str:
    return (
        f"Ranked by {ranking['meaning']}. by chance: how many of {ranking['episodes']:,} episodes are expected to be this far "
        "out; red: fewer than 0.05. value: what leaving the episode out adds to the fitted value of what is done now. pull: how "
        "far it moves the fitted values, as a multiple of an average episode."
    )


def _curve(ranking: Mapping[str, Any]) -> Table:
    low = round(100 * ranking["confidence"])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("without the worst", justify="right")
    table.add_column("fitted value", justify="right")
    table.add_column(f"{low}% interval")
    names = [error["model"] for error in ranking["curve"][1]["errors"]]
    for name in names:
        table.add_column(f"error of {MODEL_ERRORS[name]}", justify="right")
    for one in ranking["curve"]:
        chosen = one["dropped"] and one["dropped"] == ranking["recommended"]
        table.add_row(
            f"{one['dropped']:,}" if one["dropped"] else "none",
            short(one["value"]),
            f"[{short(one['lower'])}, {short(one['upper'])}]",
            *(relative(error) for error in one["errors"]),
            style="bold" if chosen else None,
        )
    return table


def _curve_legend(ranking: Mapping[str, Any]) -> str:
    return (
        "fitted value: of what is done now, by the remaining episodes. error: change of the squared error on the half of the "
        "episodes that neither the fit nor the choice has seen, and its standard error; below 0 the fit is better without them."
    )
