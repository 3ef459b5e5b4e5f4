"""Stitching: the best route was never taken as a whole, and a learner can find it all the same."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from stitchrl.lab.figures import COLORS, DASHES, INK, MUTED, PAPER, RULE, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.stitching import NEXT, PAYS, ROUTES, STATES, stitching_world

__all__ = ["LEARNERS", "Table", "backed_up", "lesson", "monte_carlo", "policies", "route_value"]

Table = dict[tuple[int, int], float]
"""(state, action) -> a number, for the logged pairs."""
MOVES = [(route, state, action) for route, pairs in ROUTES.items() for state, action in pairs]
FIRST = (0, 0)
"""The move from s1 to s3."""
AT = {
    0: (0.0, 0.85), 1: (1.2, 0.0), 2: (1.0, 1.4), 3: (0.0, 2.0), 4: (2.0, 0.95), 5: (2.0, 2.0), 6: (3.0, 0.95), 7: (3.0, 0.0),
    8: (3.0, 2.0),
}  # fmt: skip
"""State -> where it is drawn."""
WIDE, HIGH = (-0.25, 3.25), (-0.4, 2.4)
BEST = ((0, 0), (2, 1), (5, 0))
"""The stitched route."""
EXPECTILES = {"mean": 0.5, "0.7": 0.7, "0.9": 0.9, "best": 1.0}
LEARNERS = ("BC", "AWR", "AWAC", "IQL")
SWEEPS = 4


def lesson() -> Lesson:
    """The page."""
    worth = {f"worth_{name.replace('.', '')}": backed_up(e)[-1][FIRST] for name, e in EXPECTILES.items()}
    probs = policies(1.0, 0.7)
    two = policies(1.0, 0.7, routes=("A", "B"))
    return Lesson(
        title="Stitching: joining pieces of different episodes",
        question="Can a log teach a route that nobody in it ever took?",
        figures=[_routes(), _backups(), _learners()],
        values=worth
        | {"worth_mc": monte_carlo(("A", "B", "C"))[FIRST], "needed": 4 / 7, "pays": PAYS}
        | {f"{name.lower()}_value": route_value(p) for name, p in probs.items()}
        | {f"two_{name.lower()}": route_value(p) for name, p in two.items()}
        | {"two_awr_s6": float(two["AWR"][2, 1]), "awac_worth": _awac_worth(1.0)},
    )


# --- what is computed ------------------------------------------------------------------------------------------------


def monte_carlo(routes: Sequence[str]) -> Table:
    """(state, action) -> the mean of the returns that followed it in these routes of the log, taken equally often; gamma is 1."""
    found: dict[tuple[int, int], list[float]] = {}
    for route in routes:
        pays = PAYS[NEXT[ROUTES[route][-1][0]][ROUTES[route][-1][1]]]
        for pair in ROUTES[route]:
            found.setdefault(pair, []).append(pays)
    return {pair: float(np.mean(returns)) for pair, returns in found.items()}


def joined(values: Sequence[float], expectile: float) -> float:
    """The expectile of one or two equally likely values; at 1 the larger. Of two values it is low + expectile (high - low)."""
    return min(values) + expectile * (max(values) - min(values))


def values_of(q: Table, expectile: float) -> dict[int, float]:
    """State -> V, its logged actions' Q joined by the expectile."""
    return {s: joined([q[pair] for pair in q if pair[0] == s], expectile) for s in {pair[0] for pair in q}}


def backed_up(expectile: float, routes: Sequence[str] = ("A", "B", "C")) -> list[Table]:
    """Q after 0, 1, 2, ... sweeps of Q(s, a) <- r + V(s') over the log, V the expectile of Q over the logged actions of s'.

    At 0.5 this is SARSA on the log (each logged next action equally often), at 1 it is Q-learning that asks for logged
    actions only.
    """
    q: Table = {pair: 0.0 for route in routes for pair in ROUTES[route]}
    tables = [q]
    for _ in range(SWEEPS):
        v = values_of(q, expectile)
        q = {(s, a): PAYS.get(NEXT[s][a], 0.0) + v.get(NEXT[s][a], 0.0) for s, a in q}
        tables.append(q)
    return tables


def policies(
    inverse_temperature: float, expectile: float, routes: Sequence[str] = ("A", "B", "C")
) -> dict[str, np.ndarray]:
    """Learner -> (9, 2) its policy: the solution of its own equations on the table of the log.

    Every learner imitates the logged moves, weighted by exp(inverse_temperature * advantage); BC by 1. The advantage of AWR is
    of the returns, that of AWAC of the Q of AWAC's own policy (found from the ends of the routes backwards), that of IQL of the
    Q whose V is the expectile. Advantages are in units of the reward, not standardised, and weights have no cap.
    """
    found = {}
    q_of = {
        "BC": None,
        "AWR": monte_carlo(routes),
        "AWAC": _awac(inverse_temperature, routes),
        "IQL": backed_up(expectile, routes)[-1],
    }
    for name, q in q_of.items():
        probs = np.full((len(STATES), 2), 0.5)
        for state in {s for s, _ in ((s, a) for r in routes for s, a in ROUTES[r])}:
            probs[state] = _weighted(state, q, inverse_temperature, routes)
        found[name] = probs
    return found


def _weighted(
    state: int, q: Mapping[tuple[int, int], float] | None, inverse_temperature: float, routes: Sequence[str]
) -> np.ndarray:
    """(2,) the logged actions of a state, imitated with weights exp(inverse_temperature Q); what all share cancels."""
    weight = np.zeros(2)
    taken = [a for route in routes for s, a in ROUTES[route] if s == state]
    top = max((q[state, a] for a in taken), default=0.0) if q is not None else 0.0
    for action in taken:
        weight[action] += 1.0 if q is None else np.exp(inverse_temperature * (q[state, action] - top))
    return weight / weight.sum()


def _awac(inverse_temperature: float, routes: Sequence[str]) -> Table:
    """Q of the policy that is proportional to the log's, times exp(inverse_temperature Q).

    It is consistent after as many rounds as a route is long.
    """
    q: Table = {pair: 0.0 for route in routes for pair in ROUTES[route]}
    for _ in range(SWEEPS):
        after = {}
        for s, a in q:
            then = NEXT[s][a]
            value = 0.0
            if then not in PAYS:
                value = sum(p * q[then, b] for b, p in enumerate(_weighted(then, q, inverse_temperature, routes)) if p)
            after[s, a] = PAYS.get(then, 0.0) + value
        q = after
    return q


def _awac_worth(inverse_temperature: float) -> float:
    return _awac(inverse_temperature, ("A", "B", "C"))[FIRST]


def route_value(probs: np.ndarray) -> float:
    """What a policy truly earns from s1, in the exact world."""
    return stitching_world().policy_value(probs)


# --- the graph -------------------------------------------------------------------------------------------------------


def _x() -> alt.X:
    return alt.X("x:Q", axis=None, scale=alt.Scale(domain=list(WIDE), nice=False))


def _y() -> alt.Y:
    return alt.Y("y:Q", axis=None, scale=alt.Scale(domain=list(HIGH), nice=False))


def _edge(route: str, state: int, action: int) -> dict[str, Any]:
    """A move as it is drawn: its ends, and where its arrow and its number stand."""
    (x, y), (x2, y2) = AT[state], AT[NEXT[state][action]]
    return {
        "route": route, "move": f"{STATES[state]} to {STATES[NEXT[state][action]]}", "x": x, "y": y, "x2": x2, "y2": y2,
        "tip_x": x + 0.68 * (x2 - x), "tip_y": y + 0.68 * (y2 - y), "mid_x": x + 0.4 * (x2 - x), "mid_y": y + 0.4 * (y2 - y),
    }  # fmt: skip


def _heading(chart: alt.Chart) -> alt.Chart:
    """Adds the angle of each move as it lies on the screen, whose shape depends on the width."""
    across, up = 1 / (WIDE[1] - WIDE[0]), 1 / (HIGH[1] - HIGH[0])
    return chart.transform_calculate(
        angle=f"atan2((datum.x2 - datum.x) * width * {across}, (datum.y2 - datum.y) * height * {up}) * 180 / PI"
    )


def _arrows(chart: alt.Chart, **encodings: Any) -> alt.Chart:
    return (
        _heading(chart)
        .mark_point(shape="triangle", size=130, opacity=1)
        .encode(
            alt.X("tip_x:Q", scale=alt.Scale(domain=list(WIDE), nice=False), axis=None),
            alt.Y("tip_y:Q", scale=alt.Scale(domain=list(HIGH), nice=False), axis=None),
            alt.Angle("angle:Q", scale=None),
            **encodings,
        )
    )


def _nodes() -> list[alt.Chart]:
    """The states, named, and what the ends pay."""
    where = [
        {"x": x, "y": y, "state": STATES[s], "pays": f"pays {PAYS[s]:g}" if s in PAYS else ""}
        for s, (x, y) in AT.items()
    ]
    base = alt.Chart(rows(where)).encode(_x(), _y())
    return [
        base.mark_point(shape="circle", size=1100, fill=PAPER, stroke=INK, strokeWidth=1.6, opacity=1),
        base.mark_text(fontWeight=600).encode(text="state:N"),
        base.mark_text(dy=27, fontSize=12, color=MUTED).encode(text="pays:N"),
    ]


def _routes() -> Figure:
    """The world and its log."""
    shown = {"The log": None, "A": ROUTES["A"], "B": ROUTES["B"], "C": ROUTES["C"], "Stitched": BEST}
    choice = Choice("shown", "Show", tuple(shown), "The log")
    edges = [
        _edge(route, s, a) | {"shown": name, "on": 1 if only is None or (s, a) in only else 0}
        for name, only in shown.items()
        for route, s, a in MOVES
    ]
    names = list(ROUTES)
    color = alt.Color("route:N", title="Route in the log", scale=alt.Scale(domain=names, range=list(COLORS[:3])))
    strength = alt.Opacity("on:Q", scale=alt.Scale(domain=[0, 1], range=[0.14, 1]), legend=None)
    base = alt.Chart(rows(edges)).transform_filter(follows("shown"))
    lines = base.mark_rule(strokeWidth=4).encode(
        _x(), _y(), alt.X2("x2:Q"), alt.Y2("y2:Q"), color, strength,
        alt.StrokeDash("route:N", scale=alt.Scale(domain=names, range=DASHES[:3]), title="Route in the log"),
    )  # fmt: skip
    chart = alt.layer(lines, _arrows(base, fill=color, opacity=strength), *_nodes())
    return Figure(
        name="routes",
        title="Three routes were logged, equally often. The best one from s1 joins the first move of A to the "
        "rest of B.",
        chart=chart.properties(height=300).add_params(*parameters([choice])),
        description="Nine states and the moves that were logged between them. Every route ends in a state that "
        "pays once. Route A starts in s1 and "
        "pays 3, B starts in s4 and pays 10, C starts in s1 and pays 7.",
        controls=[choice],
        numbers=[Number("route", "Route"), Number("pays", "It pays"), Number("taken", "Taken as a whole in the log")],
        frames=[
            {"shown": "The log", "route": "all three", "pays": "3, 10 and 7", "taken": "a third each"},
            *(
                {"shown": name, "route": _spelled(pairs), "pays": f"{_pay(pairs):g}", "taken": _taken(pairs)}
                for name, pairs in shown.items() if pairs is not None
            ),
        ],
    )  # fmt: skip


def _spelled(pairs: Sequence[tuple[int, int]]) -> str:
    last, action = pairs[-1]
    return " ".join([STATES[s] for s, _ in pairs] + [STATES[NEXT[last][action]]])


def _taken(pairs: Sequence[tuple[int, int]]) -> str:
    return "a third" if tuple(pairs) in ROUTES.values() else "never"


def _pay(pairs: Sequence[tuple[int, int]]) -> float:
    return PAYS[NEXT[pairs[-1][0]][pairs[-1][1]]]


# --- the backup, step by step ------------------------------------------------------------------------------------------

WAYS = {
    "Returns": "Returns only",
    "TD, mean": "Mean (SARSA)",
    "TD, 0.7": "Expectile 0.7",
    "TD, 0.9": "Expectile 0.9",
    "TD, best": "Best logged",
}


def _course(way: str) -> list[tuple[Table, dict[int, float]]]:
    """Q and V after each step: for returns a step is an episode that is read, for TD it is a sweep over the log."""
    if way == "Returns":
        tables = [monte_carlo(tuple(ROUTES)[:k]) for k in range(len(ROUTES) + 1)]
        tables = [{(s, a): table.get((s, a), 0.0) for _, s, a in MOVES} for table in [*tables, tables[-1]]]
        read = [*range(len(ROUTES) + 1), len(ROUTES)]
        course = []
        for table, k in zip(tables, read, strict=True):
            seen = monte_carlo(tuple(ROUTES)[:k])
            course.append(
                (
                    table,
                    {
                        s: joined([q for pair, q in seen.items() if pair[0] == s] or [0.0], 0.5)
                        for s in AT
                        if s not in PAYS
                    },
                )
            )
        return course
    expectile = EXPECTILES[way.removeprefix("TD, ")]
    return [(table, values_of(table, expectile)) for table in backed_up(expectile)]


def _backups() -> Figure:
    """How far a value has travelled."""
    way = Choice("way", "What the next state is worth", tuple(WAYS), "TD, best", names=tuple(WAYS.values()))
    step = Slider("step", "Step", tuple(range(SWEEPS + 1)), 1, play=True)
    edges, values, frames = [], [], []
    for name in WAYS:
        course = _course(name)
        for k, (q, v) in enumerate(course):
            before = course[max(k - 1, 0)]
            at = {"way": name, "step": k}
            for route, s, a in MOVES:
                changed = bool(k and q[s, a] != before[0][s, a])
                edges.append(
                    _edge(route, s, a)
                    | at
                    | {
                        "q": round(q[s, a], 2),
                        "now": "changed in this step" if changed else "as before",
                        "wide": int(changed),
                    }
                )
            values += [at | {"x": AT[s][0], "y": AT[s][1], "v": f"V {v[s]:.4g}"} for s in sorted(v)]
            best = "s3" if q[0, 0] > q[0, 1] else "s2" if q[0, 1] > q[0, 0] else "undecided"
            frames.append(at | {"worth": q[0, 0], "other": q[0, 1], "goes": best})
    keep = follows("way", "step")
    base = alt.Chart(rows(edges)).transform_filter(keep)
    scale = alt.Scale(domain=["as before", "changed in this step"], range=[MUTED, COLORS[1]])
    color, fill, stroke = (of("now:N", scale=scale, legend=None) for of in (alt.Color, alt.Fill, alt.Stroke))
    width = alt.StrokeWidth("wide:Q", scale=alt.Scale(domain=[0, 1], range=[1.5, 4]), legend=None)
    lines = base.mark_rule().encode(_x(), _y(), alt.X2("x2:Q"), alt.Y2("y2:Q"), color, width)
    at_middle = {
        "x": alt.X("mid_x:Q", axis=None, scale=alt.Scale(domain=list(WIDE), nice=False)),
        "y": alt.Y("mid_y:Q", axis=None, scale=alt.Scale(domain=list(HIGH), nice=False)),
    }
    plate = base.mark_point(shape="circle", size=760, fill=PAPER, opacity=1).encode(**at_middle, stroke=stroke)
    number = base.mark_text(fontSize=12).encode(**at_middle, text=alt.Text("q:Q", format=".3~g"))
    below = (
        alt.Chart(rows(values))
        .transform_filter(keep)
        .mark_text(dy=27, fontSize=12, color=INK)
        .encode(_x(), _y(), text="v:N")
    )
    chart = alt.layer(lines, _arrows(base, fill=fill), plate, number, *_nodes(), below)
    return Figure(
        name="backups",
        title="Press play. Which number at the end stands on the move from s1 to s3?",
        chart=chart.properties(height=330).add_params(*parameters([way, step])),
        description="On each move stands its Q, below each state its V; thick and orange is what this step "
        "changed. With returns a step reads one more episode (A, B, then C). With TD a step is a "
        "sweep: every logged move takes its reward plus the value that the next state had a step before.",
        controls=[way, step],
        numbers=[Number("worth", "Q of s1 to s3"), Number("other", "Q of s1 to s2"), Number("goes", "Better move from s1")],
        frames=frames,
    )  # fmt: skip


# --- four learners -----------------------------------------------------------------------------------------------------

TEMPERATURES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0)


def _learners() -> Figure:
    """What BC, AWR, AWAC and IQL do at the two states where there is a choice."""
    beta = Slider("beta", "Inverse temperature, per unit of reward", TEMPERATURES, 1.0)
    expectile = Slider("expectile", "Expectile (IQL alone)", (0.5, 0.6, 0.7, 0.8, 0.9), 0.7)
    dots: list[dict[str, Any]] = []
    frames: list[dict[str, float]] = []
    places = (("at s1, of going to s3", 0, 0), ("at s3, of going to s6", 2, 1))
    for b, e in itertools.product(beta.values, expectile.values):
        found = policies(b, e)
        at = {"beta": b, "expectile": e}
        dots += [
            at
            | {
                "learner": name,
                "where": where,
                "probability": round(float(found[name][s, a]), 4),
                "area": 240 if s else 110,
            }
            for name in LEARNERS
            for where, s, a in reversed(places)
        ]
        frames.append(at | {name: route_value(found[name]) for name in LEARNERS})
    names = [where for where, _, _ in places]
    base = alt.Chart(rows(dots)).transform_filter(follows("beta", "expectile"))
    shared = {
        "y": alt.Y("learner:N", sort=list(LEARNERS), title=None),
        "x": alt.X("probability:Q", title="Probability", scale=alt.Scale(domain=[0, 1])),
    }
    half = alt.Chart(rows([{"p": 0.5}])).mark_rule(color=RULE, strokeDash=[3, 3]).encode(x="p:Q")
    join = base.mark_line(color=MUTED, strokeWidth=1).encode(**shared, detail="learner:N")
    points = base.mark_point(opacity=1).encode(
        **shared,
        color=alt.Color(
            "where:N",
            title="Probability",
            legend=alt.Legend(columns=1),
            scale=alt.Scale(domain=names, range=[COLORS[0], COLORS[1]]),
        ),
        shape=alt.Shape(
            "where:N",
            title="Probability",
            legend=alt.Legend(columns=1),
            scale=alt.Scale(domain=names, range=["circle", "square"]),
        ),
        size=alt.Size("area:Q", scale=None),
        tooltip=["learner:N", "where:N", alt.Tooltip("probability:Q", format=".3f")],
    )
    return Figure(
        name="learners",
        title="Only a learner with both marks on the right goes s1, s3, s6, s9.",
        chart=alt.layer(half, join, points).properties(height=240).add_params(*parameters([beta, expectile])),
        description="The policy of each learner at s1 and at s3, from its own equations solved on the table of "
        "the log. The numbers are what each "
        "policy truly earns from s1 on average; 10 is the most there is.",
        controls=[beta, expectile],
        numbers=[Number(name, f"{name} earns") for name in LEARNERS],
        frames=frames,
    )  # fmt: skip
