"""Small pictures as SVG files that stand alone: rows of intervals, curves and bars, legible in a light and in a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from stitchrl.reporting.charts import Axis, fit_axis

__all__ = ["Picture", "Row", "rows_picture"]

WIDTH = 680
STYLE = """
svg { font: 13px -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; background: #fcfcfa; }
text { fill: #1c2226; } .muted { fill: #5a646b; } .title { font-weight: 600; font-size: 15px; } .strong { font-weight: 600; }
.grid { stroke: #dfe1dc; } .base { stroke: #6b757b; } .true { stroke: #0d6b4a; stroke-width: 2; } .behavior { stroke: #c2470f;
stroke-width: 1.5; stroke-dasharray: 5 3; } .text-true { fill: #0d6b4a; font-weight: 600; } .text-behavior { fill: #c2470f; }
.est { stroke: #1f63a8; fill: #1f63a8; stroke-width: 2; } .bad { stroke: #6b757b; fill: #fcfcfa; stroke-width: 1.5; }
.claim { stroke: #a8291e; fill: #a8291e; stroke-width: 2; }
line.bad { stroke-dasharray: 4 3; } .line { fill: none; stroke-width: 2; }
rect.est { stroke: none; fill-opacity: .75; } .backing { fill: #fcfcfa; }
@media (prefers-color-scheme: dark) {
svg { background: #14181a; } text { fill: #e4e7e5; } .muted { fill: #9ca6ab; }
.grid { stroke: #2c3337; } .base { stroke: #98a2a7; }
.true { stroke: #5fc79d; } .behavior { stroke: #f59d66; } .text-true { fill: #5fc79d; } .text-behavior { fill: #f59d66; }
.est { stroke: #7ab5ea; fill: #7ab5ea; } .bad { stroke: #98a2a7; fill: #14181a; } .claim { stroke: #f38d82; fill: #f38d82; }
.line { fill: none; } .backing { fill: #14181a; } }
"""


class Row(NamedTuple):
    """One number of a picture of rows.

    Attributes:
        label: what it is.
        value: the number.
        lower, upper: its interval; None where it has none.
        kind: "est" (healthy), "bad" (not healthy) or "claim" (no evidence).
        note: said at the right.
    """

    label: str
    value: float
    lower: float | None = None
    upper: float | None = None
    kind: str = "est"
    note: str = ""


class Picture:
    """An SVG drawing that grows by elements, with a title and, as its description, the caption of the documents."""

    def __init__(self, title: str, caption: str, height: int) -> None:
        self.caption, self.height = caption, height
        self._title, self._parts = title, [f'<text class="title" x="16" y="26">{escape(title)}</text>']

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        """Some words."""
        self._parts.append(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._parts.append(f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dot(self, x: float, y: float, css: str) -> None:
        """A point."""
        self._parts.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')

    def box(self, x: float, y: float, width: float, height: float, css: str) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{max(height, 0):.1f}"/>'
        )

    def curve(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line through points."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path class="line {css}" d="M{path}"/>')

    def svg(self) -> str:
        """The file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" role="img">\n<title>{escape(self._title)}</title>\n<desc>{escape(self.caption)}</desc>\n'
            f"<style>{STYLE}</style>\n" + "\n".join(self._parts) + "\n</svg>\n"
        )


def across(axis: Axis, value: float, left: float, right: float) -> float:
    """The place of a value on a track from `left` to `right`."""
    return left + axis.at(value) / 100.0 * (right - left)


def rows_picture(
    title: str,
    caption: str,
    rows: Sequence[Row],
    true: float,
    behavior: float | None = None,
    axis_title: str = "survival",
) -> Picture:
    """Rows of numbers with intervals, and vertical lines at the true value and, where given, the behaviour's."""
    left, right, top, step = 160.0, 440.0, 74.0, 40.0
    bottom = top + step * len(rows)
    drawn = Picture(title, caption, int(bottom + 52))
    core = [true, *(row.value for row in rows)] + ([] if behavior is None else [behavior])
    ends = [end for row in rows for end in (row.lower, row.upper)]
    axis = fit_axis(core, ends, reach=1.2)
    ticks = axis.ticks(4)
    for tick in ticks:
        x = left + tick["x"] / 100.0 * (right - left)
        drawn.line(x, top - 8, x, bottom, "grid")
        drawn.text(x, bottom + 18, tick["text"], "muted", "middle")
    drawn.text((left + right) / 2, bottom + 38, axis_title, "muted", "middle")
    marks = [("true", true, "true")] + ([] if behavior is None else [("behavior", behavior, "behaviour")])
    marks.sort(key=lambda entry: entry[1])
    for place, (css, value, name) in enumerate(marks):
        x = across(axis, value, left, right)
        drawn.line(x, top - 8, x, bottom, css)
        anchor = "middle" if len(marks) == 1 else ("end", "start")[place]
        drawn.text(
            x + (0 if len(marks) == 1 else (-3, 3)[place]), top - 14, f"{name} {value:.3f}", f"text-{css}", anchor
        )
    for place, row in enumerate(rows):
        y = top + step * place + step / 2
        drawn.text(16, y + 4.5, row.label)
        x = across(axis, row.value, left, right)
        if row.lower is not None and row.upper is not None:
            ends_x = [across(axis, end, left, right) for end in (row.lower, row.upper)]
            drawn.line(ends_x[0], y, ends_x[1], y, row.kind)
            for end_x, end in zip(ends_x, (row.lower, row.upper), strict=True):
                if not axis.side(end):  # an end that lies off the axis has no tick
                    drawn.line(end_x, y - 5, end_x, y + 5, row.kind)
        drawn.dot(x, y, row.kind)
        interval = "" if row.lower is None or row.upper is None else f" [{row.lower:.3f}, {row.upper:.3f}]"
        drawn.text(right + 14, y - 2 if row.note else y + 4.5, f"{row.value:.3f}{interval}", "strong")
        if row.note:
            drawn.text(right + 14, y + 14, row.note, "muted")
    return drawn
