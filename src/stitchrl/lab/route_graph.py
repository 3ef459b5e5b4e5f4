"""The stitching world as a picture: states from left to right, logged moves as lines that are thick where they are likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from stitchrl.lab.figures import COLORS, INK, MUTED, PAPER, follows, rows
from stitchrl.mdp.stitching import NEXT, PAYS, ROUTES, STATES

__all__ = ["MOVES", "route_graph"]

PLACES = ((0.0, 1.2), (1.0, 2.0), (1.0, 0.6), (0.0, 0.0), (2.0, 1.1), (2.0, 0.1), (3.0, 1.1), (3.0, 2.0), (3.0, 0.1))
"""State -> where it stands."""
MOVES = tuple(sorted({pair for route in ROUTES.values() for pair in route}))
"""The logged pairs of a state and an action."""
LIKELY = 0.5


def route_graph(
    settings: Sequence[Mapping[str, Any]],
    probs: Sequence[Any],
    values: Sequence[Sequence[float]],
    *,
    width: int,
    height: int,
) -> Any:
    """A layered chart of the world under a policy, for each position of a figure's controls.

    Args:
        settings: one mapping a position: control name -> value; the chart shows the rows at the controls' present values.
        probs: one (9, 2) policy a position; a move that it makes with a probability of more than one half is drawn in orange.
        values: nine numbers a position, V of each state; of terminal states what they pay is shown instead.
        width, height: of the chart, in pixels.
    """
    lines, marks = [], []
    for at, policy, value in zip(settings, probs, values, strict=True):
        for state, action in MOVES:
            (x, y), (x2, y2) = PLACES[state], PLACES[NEXT[state][action]]
            probability = float(sum(policy[state][a] for a in (0, 1) if NEXT[state][a] == NEXT[state][action]))
            forked = len({a for s, a in MOVES if s == state}) > 1
            lines.append({**at, "x": x, "y": y, "x2": x2, "y2": y2, "p": round(probability, 4),
                          "likely": "yes" if probability > LIKELY else "no",
                          "tx": x + 0.42 * (x2 - x), "ty": y + 0.42 * (y2 - y),
                          "text": f"{100 * probability:.0f}%" if forked else ""})  # fmt: skip
        for state, (x, y) in enumerate(PLACES):
            told = f"pays {PAYS[state]:g}" if state in PAYS else f"{value[state]:.2f}"
            marks.append({**at, "x": x, "y": y, "name": STATES[state], "told": told})
    keep = follows(*settings[0])
    x_axis = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.25, 3.3], nice=False))
    y_axis = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.45, 2.3], nice=False))
    move = alt.Chart(rows(lines)).transform_filter(keep)
    node = alt.Chart(rows(marks)).transform_filter(keep).encode(x_axis, y_axis)
    label = move.encode(alt.X("tx:Q", axis=None), alt.Y("ty:Q", axis=None), text="text:N")
    return alt.layer(
        move.mark_rule().encode(
            x_axis, y_axis, alt.X2("x2:Q"), alt.Y2("y2:Q"),
            alt.StrokeWidth("p:Q", scale=alt.Scale(domain=[0, 1], range=[1, 8]), legend=None),
            alt.Color("likely:N", scale=alt.Scale(domain=["yes", "no"], range=[COLORS[1], MUTED]), legend=None),
        ),
        label.transform_filter("datum.y2 > datum.y").mark_text(dx=-14, dy=-9, fontSize=12),
        label.transform_filter("datum.y2 < datum.y").mark_text(dx=20, dy=-8, fontSize=12),
        node.mark_point(shape="circle", size=520, fill=PAPER, stroke=INK, strokeWidth=1.4, opacity=1),
        node.mark_text(fontSize=12).encode(text="name:N"),
        node.mark_text(dy=23, fontSize=12, fontWeight="bold").encode(text="told:N"),
    ).properties(width=width, height=height)  # fmt: skip
