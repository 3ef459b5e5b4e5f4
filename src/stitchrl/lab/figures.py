"""How figures look: colours that follow the page in light, dark and print, and a size that fits a desk and a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from stitchrl.lab.lesson import Control

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "PAPER",
    "RULE",
    "SHAPES",
    "WIDTH",
    "follows",
    "parameters",
    "rows",
    "specification",
]

COLORS = ("var(--s0)", "var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)")
"""Blue, orange, green, purple, olive: told apart by the colour-blind, and in grey by a second channel (shape or dashes)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4])
INK, MUTED, RULE, PAPER = "var(--ink)", "var(--muted)", "var(--rule)", "var(--paper)"
WIDTH = 640
"""Width of a chart in pixels; the page shrinks it to a phone."""


def rows(data: Sequence[Mapping[str, Any]], name: str | None = None) -> Any:
    """Data of a chart: embedded rows. Name it where a live function fills it."""
    if name is not None:
        return alt.InlineData(values=[dict(row) for row in data], name=name)
    return alt.InlineData(values=[dict(row) for row in data])


def parameters(controls: Sequence[Control]) -> list[Any]:
    """The chart's parameters, one for each control: hand them to `chart.add_params(*parameters(controls))`, once, at the top."""
    return [alt.param(name=control.name, value=control.start) for control in controls]


def follows(*names: str) -> str:
    """The filter that keeps the rows at the controls' present values: `chart.transform_filter(follows("temperature"))`."""
    return " && ".join(f"datum.{name} == {name}" for name in names)


def specification(chart: Any) -> dict[str, Any]:
    """The chart as Vega-Lite, in the house's colours and type."""
    text: Any = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    made: dict[str, Any] = chart.configure(
        background="transparent",
        font="var(--sans)",
        view=alt.ViewConfig(stroke="transparent", continuousWidth=WIDTH, continuousHeight=300),
        axis=alt.AxisConfig(
            gridColor=RULE, domainColor=MUTED, tickColor=MUTED, labelPadding=6, titlePadding=10, labelLimit=220, **text
        ),
        legend=alt.LegendConfig(
            orient="top",
            symbolSize=110,
            labelFontSize=13,
            labelColor=INK,
            titleColor=MUTED,
            titleFontWeight="normal",
            labelLimit=300,
        ),
        header=alt.HeaderConfig(labelColor=INK, titleColor=MUTED, labelFontSize=13, titleFontWeight="normal"),
        range=alt.RangeConfig(category=list(COLORS), symbol=list(SHAPES)),
        line=alt.LineConfig(strokeWidth=2.2),
        rule=alt.MarkConfig(color=MUTED),
        text=alt.MarkConfig(color=INK, fontSize=13),
        bar=alt.BarConfig(color=COLORS[0]),
        point=alt.MarkConfig(filled=True, size=70, color=COLORS[0]),
        title=alt.TitleConfig(color=INK, fontSize=13, fontWeight="normal", anchor="start"),
    ).to_dict()
    return made
