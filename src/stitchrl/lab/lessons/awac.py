"""AWAC: the weights of AWR with values that travel, and the question that its target asks."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from stitchrl.lab.figures import COLORS, DASHES, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.lab.route_graph import route_graph
from stitchrl.mdp.stitching import NEXT, PAYS, ROUTES, STATES, stitching_world
from stitchrl.types import NumpyArray

__all__ = ["awac_policy", "claimed", "fitted_normal", "leaving", "lesson", "returns_policy"]

TEMPERATURES = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
S1, S3 = STATES.index("s1"), STATES.index("s3")

SIDES = ((-0.9, -0.3), (0.3, 0.9))
"""The logged steering angles: an equal spread to the left of an obstacle, and one to its right."""
SHARES, WORTH = (0.7, 0.3), (0.0, 1.0)
"""How often each side was taken, and what it is worth."""
CRASH = -5.0
"""What every other angle is worth."""
COLD = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
FAMILIES = {"normal": "one normal distribution", "table": "a table of shares"}

STRAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
GAMMAS = (0.9, 0.95, 0.99)
SWEEPS = 400


def lesson() -> Lesson:
    """The page."""
    td = {t: awac_policy(t) for t in TEMPERATURES}
    observed = {t: returns_policy(t) for t in TEMPERATURES}
    world = stitching_world()
    values: dict[str, Any] = {
        "td_1": world.policy_value(td[1.0]), "returns_1": world.policy_value(observed[1.0]),
        "even": 7 / np.log(4 / 3), "crash": CRASH,
        "leaves_warm": leaving("normal", 100.0), "leaves_cold": leaving("normal", 0.2),
        "says_warm": _expected("normal", 100.0, critic=True), "true_warm": _expected("normal", 100.0, critic=False),
        "claim_5": claimed(0.05, 0.99), "claim_100": claimed(1.0, 0.99),
    }  # fmt: skip
    return Lesson(
        title="AWAC: values that travel, and the question they ask",
        question="What does a learner gain when it bootstraps from its own policy, and what does it have to ask for that?",
        figures=[_figure_stitching(td, observed), _figure_leaving(), _figure_claim()],
        values=values,
    )


# --- the stitching world ------------------------------------------------------------------------------------------


def _behavior() -> Float[NumpyArray, "S A"]:
    """(9, 2) the shares of the logged actions in each state; where nothing was logged, both alike."""
    count = np.zeros((len(STATES), 2))
    for state, action in itertools.chain.from_iterable(ROUTES.values()):
        count[state, action] += 1
    total = count.sum(1, keepdims=True)
    return np.where(total > 0, count / np.maximum(total, 1), 0.5)


def _weighted(q: Float[NumpyArray, "S A"], temperature: float) -> Float[NumpyArray, "S A"]:
    """(9, 2) the behaviour times exp(Q / temperature), normalised in each state."""
    behavior = _behavior()
    top = np.where(behavior > 0, q, -np.inf).max(1, keepdims=True)
    weight = behavior * np.exp(np.minimum(q - top, 0.0) / temperature)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def awac_policy(temperature: float) -> Float[NumpyArray, "S A"]:
    """(9, 2) AWAC's solution: pi is proportional to the behaviour times exp(Q_pi / temperature), and Q_pi is exact.

    The world has no loops, so as many rounds as a route is long make the two agree.
    """
    world, probs = stitching_world(), _behavior()
    for _ in range(len(STATES)):
        probs = _weighted(world.action_values(probs), temperature)
    return probs


def returns_policy(temperature: float) -> Float[NumpyArray, "S A"]:
    """(9, 2) AWR's solution: each logged row is weighted by exp(return that followed / temperature)."""
    total = np.zeros((len(STATES), 2))
    highest = max(PAYS.values())
    for route in ROUTES.values():
        last = route[-1]
        paid = PAYS[NEXT[last[0]][last[1]]]
        for state, action in route:
            total[state, action] += np.exp((paid - highest) / temperature)
    weight = np.where(total.sum(1, keepdims=True) > 0, total, 0.5)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _figure_stitching(
    td: dict[float, Float[NumpyArray, "S A"]], observed: dict[float, Float[NumpyArray, "S A"]]
) -> Figure:
    """The two learners on the graph of the world, and their values at every temperature."""
    world = stitching_world()
    learners = {"awac": td, "awr": observed}
    slider = Slider("temperature", "Temperature, in units of the return", TEMPERATURES, 3.0, play=True)
    choice = Choice("learner", "Advantages from", ("awr", "awac"), "awac", ("observed returns (AWR)", "values (AWAC)"))
    positions: list[dict[str, Any]] = [{"learner": name, "temperature": t} for name in learners for t in TEMPERATURES]
    probs = [learners[p["learner"]][p["temperature"]] for p in positions]
    graph = route_graph(positions, probs, [world.state_values(one).tolist() for one in probs], width=330, height=270)
    names = {"awac": "AWAC", "awr": "AWR"}
    solve = {"awac": awac_policy, "awr": returns_policy}
    line = [
        {"method": names[name], "who": name, "t": t, "value": world.policy_value(solve[name](t))}
        for name in learners
        for t in sorted({*TEMPERATURES, *np.geomspace(0.3, 100, 30).round(2).tolist()})
    ]
    labels = [{"method": "AWAC", "t": 2.4, "value": 9.4}, {"method": "AWR", "t": 0.45, "value": 7.25}]
    method = alt.Color("method:N", sort=["AWAC", "AWR"], legend=None)
    x = alt.X("t:Q", title="Temperature (logarithmic)", scale=alt.Scale(type="log", domain=[0.3, 100]),
              axis=alt.Axis(values=[1, 10, 100], grid=False))  # fmt: skip
    y = alt.Y("value:Q", title="Exact value from s1", scale=alt.Scale(domain=[6, 10.4]))
    base = alt.Chart(rows(line)).encode(x, y, method)
    dashes = alt.StrokeDash("method:N", legend=None, sort=["AWAC", "AWR"], scale=alt.Scale(range=list(DASHES[:2])))
    right = alt.layer(
        base.mark_line().encode(dashes),
        alt.Chart(rows(labels)).mark_text(align="left", fontWeight="bold").encode(x, y, method, text="method:N"),
        base.transform_filter("datum.t == temperature && datum.who == learner").mark_point(size=150, stroke=INK),
    ).properties(width=200, height=270)  # fmt: skip
    return Figure(
        name="stitching",
        title="Press the two kinds of advantages. Returns send s1 to s2; values send it to s3, and on to s6.",
        chart=alt.hconcat(graph, right, spacing=20).resolve_scale(color="independent").add_params(*parameters([slider, choice])),
        description="Left: the stitching world. A line is a logged move, the thicker the likelier, orange where it is likelier "
        "than not; below each state its exact value under the policy. Right: the exact value from s1 of both learners.",
        controls=[slider, choice],
        numbers=[
            Number("first", "s1 to s3", 1, percent=True), Number("second", "s3 to s6", 1, percent=True),
            Number("value", "Exact value from s1"),
        ],
        frames=[
            {**at, "first": float(one[S1, 0]), "second": float(one[S3, 1]), "value": world.policy_value(one)}
            for at, one in zip(positions, probs, strict=True)
        ],
    )  # fmt: skip


# --- where a policy leaves the log ----------------------------------------------------------------------------------


def _side_shares(temperature: float) -> Float[NumpyArray, " 2"]:
    """(2,) the shares of the two sides under the weights exp(worth / temperature)."""
    scaled = np.array(WORTH) / temperature
    weight = np.array(SHARES) * np.exp(scaled - scaled.max())
    return np.asarray(weight / weight.sum())


def fitted_normal(temperature: float) -> tuple[float, float]:
    """Mean and standard deviation of the normal distribution that the weighted log makes most likely: its weighted moments."""
    share = _side_shares(temperature)
    center = np.array([(low + high) / 2 for low, high in SIDES])
    within = np.array([(high - low) ** 2 / 12 for low, high in SIDES])
    mean = float(share @ center)
    return mean, float(np.sqrt(share @ (within + (center - mean) ** 2)))


def leaving(family: str, temperature: float) -> float:
    """The probability that a draw of the fitted policy is an angle at which nothing was logged."""
    if family == "table":
        return 0.0
    policy = norm(*fitted_normal(temperature))
    return float(1 - sum(policy.cdf(high) - policy.cdf(low) for low, high in SIDES))


def _expected(family: str, temperature: float, *, critic: bool) -> float:
    """What the policy is worth: by a critic that is right at every logged angle and draws a straight line between the two sides,
    or in truth."""
    if family == "table":
        return float(_side_shares(temperature) @ np.array(WORTH))
    angle = np.linspace(-4, 4, 160_001)
    density = norm(*fitted_normal(temperature)).pdf(angle)
    if critic:
        worth = np.interp(angle, [SIDES[0][1], SIDES[1][0]], WORTH)
    else:
        worth = np.full_like(angle, CRASH)
        for (low, high), value in zip(SIDES, WORTH, strict=True):
            worth[(angle >= low) & (angle <= high)] = value
    return float((density * worth).sum() / density.sum())


def _outline(family: str, temperature: float) -> list[tuple[float, float]]:
    """Angles and the policy's density there, as a line to be drawn."""
    if family == "normal":
        angle = np.linspace(-1.5, 1.5, 101)
        density = norm(*fitted_normal(temperature)).pdf(angle)
        return [(round(float(a), 2), round(float(p), 3)) for a, p in zip(angle, density, strict=True)]
    line = [(-1.5, 0.0)]
    for (low, high), share in zip(SIDES, _side_shares(temperature), strict=True):
        tall = round(float(share) / (high - low), 3)
        line += [(low, 0.0), (low, tall), (high, tall), (high, 0.0)]
    return [*line, (1.5, 0.0)]


def _figure_leaving() -> Figure:
    """The log's actions and the policy's, and what lies outside."""
    slider = Slider("temperature", "Temperature", COLD, 10.0, play=True)
    choice = Choice("family", "The policy is", tuple(FAMILIES), "normal", tuple(FAMILIES.values()))
    curve = [
        {"temperature": t, "family": family, "i": i, "a": a, "p": p}
        for t, family in itertools.product(COLD, FAMILIES)
        for i, (a, p) in enumerate(_outline(family, t))
    ]
    logged = [
        {"low": low, "high": high, "y": share / (high - low), "at": (low + high) / 2,
         "text": f"{100 * share:.0f}%, worth {worth:g}"}
        for (low, high), share, worth in zip(SIDES, SHARES, WORTH, strict=True)
    ]  # fmt: skip
    x = alt.Scale(domain=[-1.5, 1.5])
    y = alt.Y("p:Q", title="Density", scale=alt.Scale(domain=[0, 2.4]))
    policy = alt.Chart(rows(curve)).transform_filter(follows("temperature", "family"))
    shape = policy.encode(
        alt.X(
            "a:Q", title="Action: steering angle (0 is straight at the obstacle)", scale=x, axis=alt.Axis(tickCount=6)
        ),
        y,
    )
    outside = [(-1.5, SIDES[0][0]), (SIDES[0][1], SIDES[1][0]), (SIDES[1][1], 1.5)]
    beyond = shape.transform_filter("datum.family == 'normal'")
    areas = [
        beyond.transform_filter(f"datum.a >= {low} && datum.a <= {high}").mark_area(color=COLORS[1], opacity=0.45)
        for low, high in outside
    ]
    band = alt.Chart(rows(logged))
    chart = alt.layer(
        band.mark_rect(color=MUTED, opacity=0.25).encode(alt.X("low:Q", scale=x), alt.X2("high:Q"), y="y:Q", y2=alt.datum(0)),
        *areas,
        shape.mark_line(color=COLORS[0]).encode(alt.Order("i:Q")),
        band.mark_text(dy=-4, color=MUTED, baseline="bottom").encode(alt.X("at:Q", scale=x), y=alt.value(14), text="text:N"),
    ).properties(height=270).add_params(*parameters([slider, choice]))  # fmt: skip
    return Figure(
        name="leaving",
        title="An obstacle ahead: the log steers left or right, never straight. Warm the policy up, and watch where "
        "its draws fall.",
        chart=chart,
        description="Grey: the logged angles, with the share and the worth of each side above them. Blue line: the policy "
        "fitted to them with the weights exp(worth / temperature). "
        "Orange: the share of its draws at which nothing was logged; every such angle is in truth worth \N{MINUS SIGN}5.",
        controls=[slider, choice],
        numbers=[
            Number("leaves", "Draws that leave the log", 1, percent=True), Number("says", "What the critic says they are worth"),
            Number("truth", "What they are worth"),
        ],
        frames=[
            {"temperature": t, "family": family, "leaves": leaving(family, t), "says": _expected(family, t, critic=True),
             "truth": _expected(family, t, critic=False)}
            for t, family in itertools.product(COLD, FAMILIES)
        ],
    )  # fmt: skip


# --- what an unlogged answer does to the logged ones -----------------------------------------------------------------


def claimed(strays: float, gamma: float, *, sweeps: int | None = None, error: float = 1.0) -> float:
    """What a logged action that is worth 0 is claimed to be worth, after sweeps of Q <- gamma (Q + strays error), or in the end.

    One state; the logged action stays in it and pays 0. The critic says of the unlogged action the same and an error more, and
    the policy takes it with the probability `strays`.
    """
    grown = 1.0 if sweeps is None else 1.0 - gamma**sweeps
    return gamma * strays * error / (1 - gamma) * grown


def _figure_claim() -> Figure:
    """The claim as it grows over the sweeps."""
    slider = Slider(
        "strays", "Share of unlogged actions in the policy", STRAYS, 0.05, [f"{100 * p:g}%" for p in STRAYS]
    )
    choice = Choice("gamma", "Discount", GAMMAS, 0.99)
    at = sorted({*range(0, 20, 2), *range(20, SWEEPS + 1, 10)})
    curves = [
        {"strays": p, "gamma": g, "sweep": k, "claim": round(claimed(p, g, sweeps=k), 4)}
        for p, g in itertools.product(STRAYS, GAMMAS)
        for k in at
    ]
    base = alt.Chart(rows(curves))
    x = alt.X("sweep:Q", title="Sweeps of the update", scale=alt.Scale(domain=[0, SWEEPS]), axis=alt.Axis(tickCount=8))
    y = alt.Y("claim:Q", title="Claimed value (true value: 0)", scale=alt.Scale(type="symlog", constant=0.1, domain=[0, 100]),
              axis=alt.Axis(values=[0, 0.1, 1, 10, 100], format="~r"))  # fmt: skip
    others = (
        base.transform_filter(follows("gamma"))
        .mark_line(color=MUTED, strokeWidth=1, opacity=0.6)
        .encode(x, y, alt.Detail("strays:N"))
    )
    name = (
        base.transform_filter(f"datum.gamma == gamma && datum.sweep == {SWEEPS}")
        .transform_calculate(text="format(datum.strays, '.0%')")
        .mark_text(align="right", dy=-6, color=MUTED, fontSize=11).encode(x, y, text="text:N")
    )  # fmt: skip
    now = base.transform_filter(follows("strays", "gamma")).mark_line(color=COLORS[1], strokeWidth=3.5).encode(x, y)
    return Figure(
        name="claim",
        title="A policy that strays a little is wrong a little, times the horizon.",
        chart=alt.layer(others, now, name).properties(height=270).add_params(*parameters([slider, choice])),
        description="A logged action is worth 0. The critic overrates the unlogged action by 1 more than the logged one, and the "
        "policy takes it with the share on the slider. The axis is logarithmic above 0.1.",
        controls=[slider, choice],
        numbers=[Number("end", "Claimed in the end"), Number("all", "If it always strayed")],
        frames=[
            {"strays": p, "gamma": g, "end": claimed(p, g), "all": claimed(1.0, g)}
            for p, g in itertools.product(STRAYS, GAMMAS)
        ],
    )
