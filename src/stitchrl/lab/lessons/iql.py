"""IQL: a maximum over what was logged, learned without asking for anything else."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np

from stitchrl.lab.figures import COLORS, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Figure, Lesson, Number, Slider
from stitchrl.mdp.stitching import NEXT, PAYS, STATES, stitching_columns

__all__ = ["expectile_of", "lesson", "stitched_values"]

EXAMPLE = (3.0, 5.0, 8.0)
EXPECTILES = tuple(round(0.02 * k, 2) for k in range(1, 50))
SWEPT = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Expectiles of the second figure."""


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="IQL: the best of what was logged",
        question="Can a learner find the best logged action without ever asking what an unlogged action is worth?",
        figures=[_three_values(), _stitching()],
        values={f"at_{round(100 * e)}": expectile_of(EXAMPLE, e) for e in (0.5, 0.7, 0.9, 0.919)}
        | {"squares_70": _root_of_squares(EXAMPLE, 0.7)},
    )


def expectile_of(values: Any, expectile: float) -> float:
    """The expectile of equally likely values: the root m of e mean (x - m)+ = (1 - e) mean (m - x)+ (Newey and Powell 1987).

    The expectile m is the mean of the values weighted by e where they exceed m and by 1 - e elsewhere, so the mean is
    taken again until it stands.
    """
    x = np.asarray(values, np.float64)
    at = x.mean()
    for _ in range(10_000):
        weight = np.where(x > at, expectile, 1 - expectile)
        following = float((weight * x).sum() / weight.sum())
        if abs(following - at) < 1e-14:
            break
        at = following
    return float(at)


def _root_of_squares(values: Any, expectile: float) -> float:
    """Where e mean ((x - m)+)^2 = (1 - e) mean ((m - x)+)^2, by bisection: the condition that is often stated and is not the expectile."""
    x = np.asarray(values, np.float64)
    low, high = float(x.min()), float(x.max())
    for _ in range(200):
        m = (low + high) / 2
        gap = expectile * (np.maximum(x - m, 0) ** 2).mean() - (1 - expectile) * (np.maximum(m - x, 0) ** 2).mean()
        low, high = (m, high) if gap > 0 else (low, m)
    return low


def _three_values() -> Figure:
    """The loss of IQL's value over three logged action values, live."""
    slider = Slider("expectile", "Expectile", EXPECTILES, 0.7)
    base = alt.Chart(rows([], "curve"))
    curve = base.mark_line(color=COLORS[0]).encode(
        alt.X("m:Q", title="Candidate value V(s)", scale=alt.Scale(domain=[2, 9])),
        alt.Y("loss:Q", title="Mean loss", scale=alt.Scale(domain=[0, 12])),
    )
    logged = (
        alt.Chart(rows([{"m": value, "loss": 0.0, "name": f"Q = {value:g}"} for value in EXAMPLE]))
        .mark_point(shape="triangle-up", color=MUTED, size=110, yOffset=-6)
        .encode(x="m:Q", y="loss:Q", tooltip=["name:N"])
    )
    minimum = alt.Chart(rows([], "minimum"))
    point = minimum.mark_point(color=COLORS[1], size=130).encode(x="m:Q", y="loss:Q")
    rule = minimum.mark_rule(color=COLORS[1], strokeDash=[4, 3]).encode(x="m:Q")
    chart = alt.layer(curve, logged, rule, point).properties(height=260).add_params(*parameters([slider]))
    return Figure(
        name="expectile",
        title="Three actions were logged in one state, worth 3, 5 and 8. Move the expectile, and watch where the loss is least.",
        chart=chart,
        description="The curve is the asymmetric squared loss of a value V(s); the orange dot is where it is least. "
        "The triangles are the three logged action values.",
        controls=[slider],
        numbers=[Number("value", "V(s), the expectile", 3), Number("mean", "Mean of the logged values", 3), Number("highest", "Highest logged value", 3)],
        live="expectile",
        given={"values": list(EXAMPLE)},
    )  # fmt: skip


def stitched_values(expectile: float) -> np.ndarray:
    """(9,) V of the stitching world by IQL's two equations on its log, iterated to the end: Q(s, a) = r + V(s') (gamma 1), and
    V(s) the expectile of Q over the logged actions (Kostrikov, Nair and Levine 2022, eq. 5 and 6)."""
    columns = stitching_columns(1)
    state, action = columns["observation"].argmax(1), columns["action"]
    value = np.zeros(len(STATES))
    for _ in range(len(STATES)):
        for s in set(state.tolist()):
            taken = [NEXT[s][a] for a in action[state == s]]
            value[s] = expectile_of([PAYS.get(t, 0.0) + value[t] for t in taken], expectile)
    return value


def _stitching() -> Figure:
    """What the expectile does to the value that travels back to s1."""
    slider = Slider("expectile", "Expectile", SWEPT, 0.5)
    values = {e: stitched_values(e) for e in SWEPT}
    shown = [
        {"expectile": e, "way": way, "value": float(value)}
        for e, (way, value) in itertools.chain.from_iterable(
            ((e, pair) for pair in (("s1 to s3 (then on)", values[e][2]), ("s1 to s2 (pays 7)", values[e][1])))
            for e in SWEPT
        )
    ]
    bars = (
        alt.Chart(rows(shown))
        .transform_filter(follows("expectile"))
        .mark_bar(height=34)
        .encode(
            alt.X("value:Q", title="Learned value of the move", scale=alt.Scale(domain=[0, 10])),
            alt.Y("way:N", title=None, sort=None),
            alt.Color("way:N", legend=None),
        )
    )
    chart = bars.properties(height=130).add_params(*parameters([slider]))
    return Figure(
        name="stitching",
        title="In the stitching world the expectile decides whether IQL joins the two halves.",
        chart=chart,
        description="The learned values of the two moves from s1. Moving to s3 is worth 10 to a learner that goes on through s6, and 3 or "
        "10 were seen there; moving to s2 pays 7 for sure.",
        controls=[slider],
        numbers=[Number("value", "Value of moving to s3"), Number("choice", "IQL goes from s1 to")],
        frames=[
            {"expectile": e, "value": float(values[e][2]), "choice": "s3" if values[e][2] > values[e][1] else "s2"}
            for e in SWEPT
        ],
    )
