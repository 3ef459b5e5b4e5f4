"""Distribution shift and overestimation: an error about an action that nobody took, and how it feeds on itself."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Bool, Float

from stitchrl.algorithms.dqn import DQN
from stitchrl.data.schema import Schema
from stitchrl.lab.figures import COLORS, DASHES, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.overestimation import overestimation_columns
from stitchrl.nn.networks import Network
from stitchrl.reading.read import read
from stitchrl.training.fit import fit_grid
from stitchrl.types import NumpyArray

__all__ = ["GRID", "Course", "amplified", "course", "in_the_end", "lesson", "trained"]

GAMMAS = (0.5, 0.9, 0.99)
BACKUPS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
SIZES = (0.1, 0.3, 1.0, 3.0)
SEEDS, UPDATES = 30, 3000
GRID = GridWorld(
    ("S...G", ".#.#.", "....X", "S.#.."), slip=0.2, gamma=0.95, step_reward=-1.0, goal_reward=10.0, pit_reward=-10.0
)
DRAWS = 20
"""Draws of the log and of the errors in the grid, over which its figure averages."""
STEPS = 20
"""Most steps of the episode that is played after each backup where the learner may act."""
LONGEST = 80
ERRORS = (0.5, 1.0, 2.0, 3.0)
STROKE = alt.Legend(symbolType="stroke", symbolSize=300)
MODES = {"fixed": "a fixed log", "acting": "what it tries by acting"}


def lesson() -> Lesson:
    """The page."""
    two, grid = _two_states(), _grids()
    fixed = {e: course(e, online=False, backups=LONGEST) for e in ERRORS}
    acting = course(2.0, online=True, backups=LONGEST)
    at_99 = [row for row in two if row["gamma"] == 0.99]
    ups = [row["final"] / row["eps"] * 0.01 for row in at_99 if row["kind"] == "too high"]
    peak = int(fixed[2.0].true.argmax())
    return Lesson(
        title="Distribution shift and overestimation",
        question="Why does a method that learns well by acting believe in nonsense when it learns from a log?",
        figures=[_growth(), _bound(), _training()],
        values={
            "ups": len(ups),
            "share_ups": float(np.mean(ups)),
            "downs": len(at_99) - len(ups),
            "worst_down": max(row["final"] for row in at_99 if row["kind"] == "too low"),
            "grid_share": {
                g: float(np.mean([r["scaled"] / r["eps"] for r in grid if r["gamma"] == g])) for g in GAMMAS
            },
            "best": GRID.mdp.policy_value(GRID.optimal_policy(), gamma=GRID.gamma),
            "peak": peak,
            "true_peak": fixed[2.0].true[peak],
            "claimed_peak": fixed[2.0].claimed[peak],
            "true_end": fixed[2.0].true[-1],
            "claimed_end": fixed[2.0].claimed[-1],
            "true_small": fixed[0.5].true[-1],
            "true_acting": acting.true[-1],
            "claimed_acting": acting.claimed[-1],
            "longest": LONGEST,
            "largest_300": amplified(3.0, 0.99, 10_000),
            "seeds": SEEDS,
            "draws": DRAWS,
        }
        | {
            f"grid_{round(100 * g)}": float(np.mean([row["scaled"] / row["eps"] for row in grid if row["gamma"] == g]))
            for g in GAMMAS
        },
    )


# --- what is computed ------------------------------------------------------------------------------------------------


def amplified(eps: float, gamma: float, backups: int) -> float:
    """E_k = eps (1 - gamma^k) / (1 - gamma), where an error eps is made anew in each of k backups."""
    return eps * (1 - gamma**backups) / (1 - gamma)


@cache
def trained() -> list[tuple[float, float, float]]:
    """(gamma, eps, claimed) of real DQN critics without hidden layers, trained on the log of the overestimation world.

    eps is Q(B, 1) - Q(A, 1), by which the critic extrapolates to an action that was never taken in B, as its first weights happen
    to have it; claimed is max_a Q(B, a), whose true value is 0.
    """
    columns = overestimation_columns(32)
    log = read(columns, Schema({name: name for name in columns}, num_actions=4))
    algorithm = DQN(learning_rate=0.1, target_rate=1.0, network=Network(hidden_sizes=()))
    grid = fit_grid(
        algorithm, log, {"gamma": GAMMAS}, updates=UPDATES, seeds=SEEDS, batch_size=64, log_every_updates=UPDATES,
        standardize=False, progress=False,
    )  # fmt: skip
    both = np.array([[0.0], [1.0]], np.float32)
    found = []
    for run in grid.runs:
        for value in run.values:
            assert value is not None
            q = np.asarray(value.q_all(both), np.float64)  # type: ignore[union-attr]
            found.append((float(getattr(run.algorithm, "gamma")), float(q[1, 1] - q[0, 1]), float(q[1].max())))  # noqa: B009
    return found


def backed_up(q: Float[NumpyArray, "D S A"], gamma: float) -> Float[NumpyArray, "D S A"]:
    """The Bellman optimality backup of the grid, for several tables at once."""
    mdp = GRID.mdp
    value = np.where(mdp.terminal, 0.0, q.max(2))
    after = mdp.expected_reward + gamma * np.einsum("sat,dt->dsa", mdp.transition, value)
    return np.where(mdp.terminal[:, None], 0.0, after)


def drawn(draws: int, gamma: float, seed: int) -> tuple[Bool[NumpyArray, "D S A"], Float[NumpyArray, "D S A"]]:
    """Which moves are logged, in each cell the best one and two at random, and errors of -1 to 1 about the others."""
    rng, mdp = np.random.default_rng(seed), GRID.mdp
    best = dataclasses.replace(GRID, gamma=gamma).optimal_policy().argmax(1)
    order = rng.random((draws, mdp.num_states, mdp.num_actions)).argsort(2).argsort(2)
    logged = (order < 2) | (np.arange(mdp.num_actions) == best[:, None])
    errors = rng.uniform(-1, 1, logged.shape) * ~logged * ~mdp.terminal[:, None]
    return logged, errors


def in_the_end(eps: Float[NumpyArray, " D"], gamma: float, seed: int) -> Float[NumpyArray, " D"]:
    """The largest error of a cell's value when Q(s, a) <- (T Q)(s, a) + e(s, a) has settled; the largest e of a draw is eps."""
    _, errors = drawn(len(eps), gamma, seed)
    errors *= (eps / np.abs(errors).max((1, 2)))[:, None, None]
    q = np.zeros_like(errors)
    for _ in range(int(np.ceil(np.log(1e-6) / np.log(gamma)))):
        q = backed_up(q, gamma) + errors
    world = dataclasses.replace(GRID, gamma=gamma)
    exact = world.state_values(world.optimal_policy())
    found: np.ndarray = np.abs(q.max(2) - exact).max(1)
    return found


@dataclasses.dataclass(frozen=True)
class Course:
    """After 0, 1, 2, ... backups, averaged over the draws.

    Attributes:
        claimed: the value of the starts by the learner's own table.
        true: what its greedy policy is worth there, exactly.
        unlogged: share of the cells in which the greedy move is not in the log.
    """

    claimed: Float[NumpyArray, " K"]
    true: Float[NumpyArray, " K"]
    unlogged: Float[NumpyArray, " K"]


@cache
def course(eps: float, *, online: bool, backups: int) -> Course:
    """Q-learning in the grid whose backups err by up to eps about moves that are not logged.

    `online`: after each backup the greedy policy plays an episode, and what it tried is logged from then on, so that its error
    ends.
    """
    mdp, gamma = GRID.mdp, GRID.gamma
    logged, errors = drawn(DRAWS, gamma, 0)
    rng = np.random.default_rng(1)
    q = np.zeros_like(errors)
    each, live = np.arange(DRAWS), ~mdp.terminal
    found = []
    for _ in range(backups + 1):
        greedy = q.argmax(2)
        true = [mdp.policy_value(np.eye(mdp.num_actions)[choice], gamma=gamma) for choice in greedy]
        outside = ~np.take_along_axis(logged, greedy[:, :, None], 2)[:, live, 0]
        found.append(((q.max(2) @ mdp.initial).mean(), np.mean(true), outside.mean()))
        q = backed_up(q, gamma) + eps * errors * ~logged
        if online:
            state = rng.choice(mdp.num_states, DRAWS, p=mdp.initial)
            for _ in range(STEPS):
                action = q.argmax(2)[each, state]
                logged[each, state, action] = True
                cumulative = mdp.transition[state, action].cumsum(1)
                following = (cumulative <= rng.random(DRAWS)[:, None] * cumulative[:, -1:]).sum(1)
                state = np.where(mdp.terminal[state], state, following)
    return Course(*np.array(found).T)


def _two_states() -> list[dict[str, Any]]:
    """A row for each trained critic."""
    return [
        {"gamma": gamma, "eps": abs(eps), "final": claimed, "scaled": claimed * (1 - gamma), "kind": "too high" if eps > 0 else
        "too low"} for gamma, eps, claimed in trained()
    ]  # fmt: skip


@cache
def _grids() -> list[dict[str, Any]]:
    """A row for each draw of log and errors in the grid."""
    sizes = np.linspace(0.1, 3.0, SEEDS)
    return [
        {"gamma": gamma, "eps": float(eps), "final": float(final), "scaled": float(final) * (1 - gamma), "kind": "both"}
        for gamma in GAMMAS
        for eps, final in zip(sizes, in_the_end(sizes, gamma, 2), strict=True)
    ]


# --- figures -----------------------------------------------------------------------------------------------------------


def _growth() -> Figure:
    """The error in the two-state world, backup by backup."""
    size = Choice("size", "Error about the action that nobody took", SIZES, 1.0)
    step = Slider("step", "Backups", BACKUPS, 1, play=True)
    points, ends, frames = [], [], []
    for eps in SIZES:
        for gamma in GAMMAS:
            name = f"{gamma:g}"
            points += [
                {"size": eps, "k": k, "gamma": name, "error": round(amplified(eps, gamma, k), 4)} for k in BACKUPS
            ]
            ends.append({"size": eps, "gamma": name, "error": round(eps / (1 - gamma), 4)})
        for k in BACKUPS:
            frames.append({"size": eps, "step": k} | {f"g{round(100 * g)}": amplified(eps, g, k) for g in GAMMAS})
    names = [f"{gamma:g}" for gamma in GAMMAS]
    color = alt.Color("gamma:N", title="Discount", legend=STROKE, scale=alt.Scale(domain=names, range=list(COLORS[:3])))
    dash = alt.StrokeDash("gamma:N", title="Discount", legend=STROKE, scale=alt.Scale(domain=names, range=DASHES[:3]))
    y = alt.Y(
        "error:Q",
        title="Claimed value of B (true: 0)",
        scale=alt.Scale(type="log", domain=[0.08, 400]),
        axis=alt.Axis(values=[0.1, 1, 10, 100, 300], format="~g"),
    )
    x = alt.X(
        "k:Q",
        title="Backups",
        scale=alt.Scale(type="log", domain=[1, 500], nice=False),
        axis=alt.Axis(values=[1, 2, 5, 10, 20, 50, 100, 200, 500]),
    )
    base = alt.Chart(rows(points)).transform_filter(follows("size")).transform_filter("datum.k <= step")
    lines = base.mark_line().encode(x, y, color, dash)
    now = base.transform_filter("datum.k == step").mark_point(size=120, opacity=1)
    now = now.encode(x, y, color, tooltip=["gamma:N", "k:Q", "error:Q"])
    limits = alt.Chart(rows(ends)).transform_filter(follows("size"))
    bound = limits.mark_rule(strokeDash=[2, 5], strokeWidth=1.5).encode(y, color)
    return Figure(
        name="growth",
        title="Press play. The same error, asked for again and again, under three discounts.",
        chart=alt.layer(bound, lines, now).properties(height=300).add_params(*parameters([size, step])),
        description="What the critic claims for state B of the two-state world after so many backups, on logarithmic axes. "
        "The thin dotted lines are the error divided by 1 - discount, which the curves approach.",
        controls=[size, step],
        numbers=[Number(f"g{round(100 * g)}", f"Claimed at discount {g:g}") for g in GAMMAS],
        frames=frames,
    )


def _bound() -> Figure:
    """The error in the end, measured beside its bound."""
    world = Choice("world", "World", ("two", "grid"), "two", names=("two states, a trained DQN", "the grid"))
    gamma = Choice("gamma", "Discount", GAMMAS, 0.9)
    measured = {"two": _two_states(), "grid": _grids()}
    kinds = {"too high": "too much", "too low": "too little", "both": "some of each"}
    points, frames = [], []
    for name, found in measured.items():
        for row in found:
            shown = {key: round(row[key], 4) for key in ("gamma", "eps", "scaled", "final")}
            points.append(shown | {"world": name, "kind": kinds[row["kind"]]})
        for g in GAMMAS:
            of = [row for row in found if row["gamma"] == g]
            share = float(np.mean([row["scaled"] / row["eps"] for row in of]))
            most = max(row["final"] for row in of)
            frames.append({"world": name, "gamma": g, "horizon": 1 / (1 - g), "most": most, "share": share})
    widest = {"two": 1.2, "grid": 3.2}
    widest_now = alt.ExprRef(f"world == 'two' ? {widest['two']} : {widest['grid']}")
    scale = alt.Scale(domainMin=0, domainMax=widest_now, nice=False)
    x = alt.X("eps:Q", title="Largest error in one backup, eps", scale=scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("scaled:Q", title="Error in the end, times (1 - discount)", scale=scale)
    corners = [{"world": name, "eps": at, "scaled": at} for name, most in widest.items() for at in (0.0, most)]
    ends = alt.Chart(rows(corners)).transform_filter(follows("world"))
    line = ends.mark_line(color=INK, strokeDash=[6, 4], strokeWidth=1.5).encode(x, y)
    named = [
        {"world": name, "eps": 0.86 * most, "scaled": 0.93 * most, "text": "the bound"} for name, most in widest.items()
    ]
    label = alt.Chart(rows(named)).transform_filter(follows("world")).mark_text(align="right", color=INK)
    title, order = "Says of untried moves", list(kinds.values())
    dots = alt.Chart(rows(points)).transform_filter(follows("world", "gamma")).mark_point(size=75, opacity=0.85)
    dots = dots.encode(
        x,
        y,
        color=alt.Color("kind:N", title=title, scale=alt.Scale(domain=order, range=list(COLORS[:3]))),
        shape=alt.Shape(
            "kind:N", title=title, scale=alt.Scale(domain=order, range=["circle", "triangle-down", "diamond"])
        ),
        tooltip=["eps:Q", alt.Tooltip("final:Q", title="error in the end")],
    )
    return Figure(
        name="bound",
        title="Measured beside the bound: who lies on the line, and who below it?",
        chart=alt.layer(line, label.encode(x, y, text="text:N"), dots)
        .properties(height=330)
        .add_params(*parameters([world, gamma])),
        description=f"Each mark is a learner: {SEEDS} trained DQN critics whose random first weights set the error, or {SEEDS} "
        "draws of a log and of errors in the grid. Across: its largest error in one backup. Up: the largest error of a "
        "state's value once it has settled, on a scale on which the bound is the diagonal.",
        controls=[world, gamma],
        numbers=[
            Number("horizon", "Factor 1 / (1 - discount)", 0),
            Number("most", "Largest error in the end"),
            Number("share", "Mean share of the bound that is reached", 0, percent=True),
        ],
        frames=frames,
    )


def _training() -> Figure:
    """Claimed and true value as training goes on, on a fixed log and with new data."""
    mode = Choice("mode", "The learner has", tuple(MODES), "fixed", names=tuple(MODES.values()))
    eps = Choice("eps", "Largest error in one backup", ERRORS, 2.0)
    shown = (*range(21), *range(22, 41, 2), *range(45, LONGEST + 1, 5))
    step = Slider("step", "Backups", shown, LONGEST, play=True)
    best = GRID.mdp.policy_value(GRID.optimal_policy(), gamma=GRID.gamma)
    lines, frames = [], []
    for name, size in itertools.product(MODES, ERRORS):
        of = course(size, online=name == "acting", backups=LONGEST)
        for k in shown:
            at = {"mode": name, "eps": size}
            lines.append(at | {"k": k, "line": "claimed", "value": round(float(of.claimed[k]), 2)})
            lines.append(at | {"k": k, "line": "true", "value": round(float(of.true[k]), 2)})
            frames.append(at | {"step": k, "claimed": of.claimed[k], "true": of.true[k], "unlogged": of.unlogged[k]})
    names = ["claimed", "true"]
    x = alt.X("k:Q", title="Backups", scale=alt.Scale(domain=[0, LONGEST], nice=False))
    y = alt.Y("value:Q", title="Value of the starts", scale=alt.Scale(domain=[-20, 20]))
    color = alt.Color("line:N", title=None, legend=STROKE, scale=alt.Scale(domain=names, range=[COLORS[1], COLORS[0]]))
    dash = alt.StrokeDash(
        "line:N", title=None, legend=STROKE, scale=alt.Scale(domain=names, range=[DASHES[1], DASHES[0]])
    )
    base = alt.Chart(rows(lines)).transform_filter(follows("mode", "eps")).transform_filter("datum.k <= step")
    course_lines = base.mark_line().encode(x, y, color, dash)
    now = base.transform_filter("datum.k == step").mark_point(size=110, opacity=1).encode(x, y, color)
    top = alt.Chart(rows([{"value": best, "k": LONGEST, "text": "the best there is"}]))
    rule = top.mark_rule(color=MUTED, strokeDash=[2, 4]).encode(y)
    text = top.mark_text(align="right", dy=-9, color=MUTED, fontSize=12).encode(x, y, text="text:N")
    return Figure(
        name="training",
        title="On a fixed log, longer training makes it worse. Let the learner act, and the loop closes.",
        chart=alt.layer(rule, text, course_lines, now)
        .properties(height=310)
        .add_params(*parameters([mode, eps, step])),
        description=f"The grid of lesson 1, averaged over {DRAWS} draws of which moves are logged (the best one always is) and "
        "of the errors about the others. Claimed: by the learner's own table. True: what its greedy policy earns, exactly.",
        controls=[mode, eps, step],
        numbers=[
            Number("claimed", "Claimed"),
            Number("true", "True"),
            Number("unlogged", "Cells where the greedy move is not in the log", 0, percent=True),
        ],
        frames=frames,
    )
