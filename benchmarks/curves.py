"""Shares against the size of a log, as one SVG file: panels side by side, a line for each candidate, 95% intervals."""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

from scipy import stats

__all__ = ["Line", "Panel", "drawn"]

COLORS = ("#8a1c1c", "#c9622b", "#8a8f98", "#7fb0d8", "#2f78b7", "#123f6d")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 380, 230, 44, 34, 34, 96


class Line(NamedTuple):
    """Counts of one candidate at sizes.

    Attributes:
        label: of the line.
        counts: size -> how often, and of how many.
    """

    label: str
    counts: dict[int, tuple[int, int]]


class Panel(NamedTuple):
    """One picture of a row."""

    title: str
    lines: list[Line]


def drawn(panels: list[Panel], sizes: list[int]) -> str:
    """The SVG text."""
    width, height = len(panels) * (WIDTH + GAP) + LEFT, TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="12" role="img"><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for place, panel in enumerate(panels):
        parts += _panel(panel, sizes, LEFT + place * (WIDTH + GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, sizes: list[int], left: int) -> list[str]:
    """Axes and lines of one picture."""
    found = [f'<text x="{left}" y="18" font-weight="600" fill="#1f2933">{escape(panel.title)}</text>']
    for share in (0, 25, 50, 75, 100):
        y = _y(share / 100)
        found.append(f'<line x1="{left}" x2="{left + WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e7eb"/>')
        found.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#616e7c">{share}%</text>')
    for k, size in enumerate(sizes):
        x = _x(k, len(sizes), left)
        found.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle" fill="#616e7c">{size:,}</text>')
    ends: list[tuple[float, str, str]] = []
    for number, line in enumerate(panel.lines):
        color, shift = COLORS[number % len(COLORS)], 3 * (number - len(panel.lines) / 2)
        points = []
        for k, size in enumerate(sizes):
            count, n = line.counts.get(size, (0, 0))
            if not n:
                continue
            x, y = _x(k, len(sizes), left) + shift, _y(count / n)
            low = stats.beta.ppf(0.025, count, n - count + 1) if count else 0.0
            high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
            points.append((x, y))
            found.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low):.1f}" y2="{_y(high):.1f}" stroke="{color}" opacity=".35"/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{escape(line.label)}, {size:,}: '
                f"{count} of {n}</title></circle>"
            )
        if points:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            found.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
            ends.append((points[-1][1], line.label, color))
    lowest = -1e9
    for y, label, color in sorted(ends):  # labels are moved down until none covers another
        lowest = max(y, lowest + 14)
        found.append(f'<text x="{left + WIDTH - 14}" y="{lowest + 4:.1f}" fill="{color}">{escape(label)}</text>')
    return found


def _x(place: int, count: int, left: int) -> float:
    return left + 24 + place * (WIDTH - 70) / max(count - 1, 1)


def _y(share: float) -> float:
    return TOP + HEIGHT * (1 - share)
