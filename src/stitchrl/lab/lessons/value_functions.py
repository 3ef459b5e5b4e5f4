"""Value functions: what a state, a move and a better move are worth, and three ways to learn it from a log."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.lab.figures import COLORS, INK, PAPER, RULE, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.gridworld import ACTION_NAMES, GridWorld
from stitchrl.types import NumpyArray

__all__ = [
    "GRID",
    "Log",
    "behavior",
    "first_visit",
    "lesson",
    "logs",
    "one_pass",
    "settled",
    "swept",
    "target_variances",
]

GRID = GridWorld(
    ("S...G", ".#.#.", "....X", "S.#.."), slip=0.2, gamma=0.95, step_reward=-1.0, goal_reward=10.0, pit_reward=-10.0
)
UPPER, RARE = GRID.state_of(0, 0), GRID.state_of(2, 3)
"""A cell where every second episode starts, and one that few episodes reach."""
LEFT = ACTION_NAMES.index("left")
GAMMAS = (0.5, 0.8, 0.9, 0.95, 0.99)
SWEEPS = (*range(13), 15, 20, 30, 50)
EPISODES = (5, 10, 20, 50, 100, 200)
LOGS, SHOWN = 400, 40
"""Logs that are drawn, and how many of them are shown as dots."""
RATE = 0.1
"""Step size of TD in one pass."""
METHODS = ("Monte Carlo", "TD, one pass", "TD, settled")


def lesson() -> Lesson:
    """The page."""
    found = _estimates()
    whole, first = target_variances(behavior())
    exact = GRID.state_values(behavior())[UPPER]
    every, once = _single_episodes()
    return Lesson(
        title="Value functions, and learning them from a log",
        question="What is a state worth, what is a move worth, and how can a list of past episodes tell?",
        figures=[_cells(), _backups(), _logs()],
        values={
            "whole": whole[UPPER],
            "first": first[UPPER],
            "exact": exact,
            "every_bias": every.mean() - exact,
            "every_error": every.std() / np.sqrt(len(every)),
            "once_bias": once.mean() - exact,
            "once_error": once.std() / np.sqrt(len(once)),
            "singles": f"{len(once):,}",
            "step": GRID.step_reward,
            "goal": GRID.goal_reward,
            "cells": GRID.num_states,
            "slip": GRID.slip,
            "gamma": GRID.gamma,
            "logs": LOGS,
            "rate": RATE,
        }
        | {
            f"{what}_{short}_{n}": error(found[aim][n][:, k], _exact(aim))
            for (aim, short_aim), n, (k, short_method) in itertools.product(
                (("upper", "upper"), ("rare", "rare")), (5, 200), enumerate(("mc", "pass", "settled"))
            )
            for what, error in (("bias", _bias), ("sd", _spread), ("rmse", _rmse))
            for short in (f"{short_aim}_{short_method}",)
        },
    )


@cache
def behavior() -> Float[NumpyArray, "S A"]:
    """(S, 4) the policy that writes the logs: the best move half of the time, else any move alike."""
    best: np.ndarray = GRID.optimal_policy()
    return 0.5 * best + 0.5 / len(ACTION_NAMES)


# --- what is exact -----------------------------------------------------------------------------------------------------


def target_variances(probs: Float[NumpyArray, "S A"]) -> tuple[Float[NumpyArray, " S"], Float[NumpyArray, " S"]]:
    """(S,), (S,): the variance of the return from each state, and of the one-step target r + gamma V(s') with the exact V.

    By the law of total variance the first solves Var G(s) = Var(r + gamma V(s')) + gamma^2 E[Var G(s')].
    """
    mdp, gamma, live = GRID.mdp, GRID.gamma, ~GRID.mdp.terminal
    v = GRID.state_values(probs)
    target = mdp.reward + gamma * np.where(mdp.terminal, 0.0, v)
    second = np.einsum("sa,sat,sat->s", probs, mdp.transition, target**2)
    one_step = np.where(live, second - v**2, 0.0)
    following = np.einsum("sa,sat->st", probs, mdp.transition)[np.ix_(live, live)]
    whole = np.zeros_like(v)
    whole[live] = np.linalg.solve(np.eye(int(live.sum())) - gamma**2 * following, one_step[live])
    return whole, one_step


def swept(sweeps: int, *, best: bool) -> Float[NumpyArray, " S"]:
    """(S,) V after so many sweeps from 0 of V <- r + gamma P V, with the behaviour's moves or with the best ones."""
    mdp, value = GRID.mdp, np.zeros(GRID.num_states)
    for _ in range(sweeps):
        q = mdp.expected_reward + GRID.gamma * mdp.transition @ value
        value = np.where(mdp.terminal, 0.0, q.max(1) if best else (behavior() * q).sum(1))
    return value


# --- what is learned from a log ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Log:
    """The transitions of a log, ordered by episode and step; episodes count from 0."""

    episode: Int[NumpyArray, " N"]
    state: Int[NumpyArray, " N"]
    action: Int[NumpyArray, " N"]
    reward: Float[NumpyArray, " N"]
    next_state: Int[NumpyArray, " N"]
    terminated: Bool[NumpyArray, " N"]

    def first(self, episodes: int) -> Log:
        """Its first episodes."""
        n = int(np.searchsorted(self.episode, episodes))
        return Log(*(getattr(self, field.name)[:n] for field in dataclasses.fields(self)))


@cache
def logs() -> tuple[Log, ...]:
    """`LOGS` logs of as many episodes as the largest of `EPISODES`, all drawn from the behaviour."""
    each = max(EPISODES)
    drawn = GRID.mdp.draw(behavior(), LOGS * each, seed=0)
    bounds = np.searchsorted(drawn.episode, np.arange(LOGS + 1) * each)
    names = [field.name for field in dataclasses.fields(Log)]
    parts = []
    for k, (low, high) in enumerate(itertools.pairwise(bounds)):
        columns = {name: getattr(drawn, name)[low:high] for name in names}
        parts.append(Log(**(columns | {"episode": columns["episode"] - k * each})))
    return tuple(parts)


def _returns(log: Log) -> Float[NumpyArray, " N"]:
    """The discounted return from each transition to the end of its episode."""
    found, after = np.zeros(len(log.reward)), 0.0
    for t in range(len(found) - 1, -1, -1):
        after = log.reward[t] + (0.0 if log.terminated[t] else GRID.gamma * after)
        found[t] = after
    return found


def first_visit(log: Log, state: int, action: int | None) -> float:
    """Monte Carlo: the mean return from the first time in each episode that the state, with this action, occurs."""
    at = np.flatnonzero((log.state == state) & ((log.action == action) if action is not None else True))
    _, firsts = np.unique(log.episode[at], return_index=True)
    return float(_returns(log)[at[firsts]].mean()) if len(at) else float("nan")


def _single_episodes() -> tuple[Float[NumpyArray, " E"], Float[NumpyArray, " E"]]:
    """What each episode that visits the upper start says of it: the mean return over every visit, and that from the first."""
    every, once = [], []
    for log in logs():
        at = np.flatnonzero(log.state == UPPER)
        returns, episode = _returns(log)[at], log.episode[at]
        _, firsts, times = np.unique(episode, return_index=True, return_counts=True)
        once.append(returns[firsts])
        every.append(np.add.reduceat(returns, firsts) / times)
    return np.concatenate(every), np.concatenate(once)


def one_pass(some: list[Log], rate: float) -> tuple[Float[NumpyArray, "L S"], Float[NumpyArray, "L S A"]]:
    """TD(0) and SARSA, once through each log from values of 0.

    V(s) += rate (r + gamma V(s') - V(s)), and Q alike with the next logged action.
    """
    count, longest = GRID.num_states, max(len(log.reward) for log in some)
    columns = ("state", "action", "reward", "next_state", "terminated")
    state, action, reward, following, ends = (
        np.array([np.pad(getattr(log, name), (0, longest + 1 - len(log.reward))) for log in some]) for name in columns
    )
    lengths = np.array([len(log.reward) for log in some])
    v, q = np.zeros((len(some), count)), np.zeros((len(some), count, len(ACTION_NAMES)))
    for t in range(longest):
        who = np.flatnonzero(lengths > t)
        s, a, r, s2 = state[who, t], action[who, t], reward[who, t], following[who, t]
        go_on = GRID.gamma * ~ends[who, t]
        v[who, s] += rate * (r + go_on * v[who, s2] - v[who, s])
        q[who, s, a] += rate * (r + go_on * q[who, s2, action[who, t + 1]] - q[who, s, a])
    return v, q


def settled(log: Log, *, moves: bool) -> Float[NumpyArray, " S"] | Float[NumpyArray, "S A"]:
    """What TD(0) (or SARSA, where `moves`) settles at, pass after pass over the log; NaN where the log says nothing.

    It is the value in the world whose probabilities are the log's shares (Sutton 1988): one linear system.
    """
    actions = len(ACTION_NAMES) if moves else 1
    count = GRID.num_states * actions
    here = log.state * actions + (log.action if moves else 0)
    then = log.next_state * actions + (np.append(log.action[1:], 0) if moves else 0)
    times = np.bincount(here, minlength=count)
    shares = np.zeros((count, count))
    np.add.at(shares, (here[~log.terminated], then[~log.terminated]), 1.0)
    weight = 1.0 / np.maximum(times, 1)
    reward = np.bincount(here, log.reward, minlength=count) * weight
    value = np.linalg.solve(np.eye(count) - GRID.gamma * shares * weight[:, None], reward)
    value[times == 0] = np.nan
    return value.reshape(GRID.num_states, actions) if moves else value


AIMS = {"upper": "V of the upper start", "rare": "V of the cell beside the pit", "move": "Q of going left there"}
"""What is estimated, and its name."""


def _exact(aim: str) -> float:
    probs = behavior()
    if aim == "move":
        return float(GRID.action_values(probs)[RARE, LEFT])
    return float(GRID.state_values(probs)[UPPER if aim == "upper" else RARE])


@cache
def _estimates() -> dict[str, dict[int, np.ndarray]]:
    """What is estimated -> episodes -> (LOGS, 3) the estimates of each log by the three methods; NaN where it never occurred."""
    found: dict[str, dict[int, np.ndarray]] = {aim: {} for aim in AIMS}
    for n in EPISODES:
        some = [log.first(n) for log in logs()]
        v, q = one_pass(some, RATE)
        of_states, of_moves = (np.array([settled(log, moves=moves) for log in some]) for moves in (False, True))
        for aim, state in (("upper", UPPER), ("rare", RARE), ("move", RARE)):
            action = LEFT if aim == "move" else None
            returns = np.array([first_visit(log, state, action) for log in some])
            td, end = (
                (v[:, state], of_states[:, state])
                if action is None
                else (q[:, state, action], of_moves[:, state, action])
            )
            found[aim][n] = np.stack([returns, np.where(np.isnan(returns), np.nan, td), end], axis=1)
    return found


def _bias(estimates: np.ndarray, exact: float) -> float:
    return float(np.nanmean(estimates) - exact)


def _spread(estimates: np.ndarray, exact: float) -> float:
    return float(np.nanstd(estimates))


def _rmse(estimates: np.ndarray, exact: float) -> float:
    return float(np.sqrt(np.nanmean((estimates - exact) ** 2)))


# --- figures -----------------------------------------------------------------------------------------------------------

SIDE = 300


def _grid_rows(values: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row for each cell: where it is, what it is, and its number."""
    sign_names = {"S": "start", "G": "goal", "X": "pit"}
    for state, (row, column) in enumerate(GRID.cells):
        sign = GRID.rows[row][column]
        yield {
            "state": state,
            "row": row,
            "column": column,
            "what": sign_names.get(sign, ""),
            "v": round(float(values[state]), 2),
            "ends": bool(GRID.mdp.terminal[state]),
        }


def _axes() -> dict[str, Any]:
    count = {"row": len(GRID.rows), "column": len(GRID.rows[0])}
    return {
        "x": alt.X("column:O", axis=None, scale=alt.Scale(domain=list(range(count["column"])))),
        "y": alt.Y("row:O", axis=None, scale=alt.Scale(domain=list(range(count["row"])))),
    }


def _heat(base: alt.Chart, domain: tuple[float, float]) -> tuple[alt.Chart, ...]:
    """Cells coloured by value, with the value and the name of special cells written in; walls are drawn by the caller."""
    scale = alt.Scale(scheme="viridis", domain=list(domain), clamp=True)
    box = base.mark_rect(stroke=PAPER, strokeWidth=3).encode(
        color=alt.condition("datum.ends", alt.value(RULE), alt.Color("v:Q", scale=scale, legend=None))
    )
    ink = alt.condition(f"datum.v > {sum(domain) / 2}", alt.value("black"), alt.value("white"))
    inside = base.transform_filter("!datum.ends")
    number = inside.mark_text(fontSize=14).encode(text=alt.Text("v:Q", format=".2f"), color=ink)
    name = inside.transform_filter("datum.what !== ''").mark_text(fontSize=11, dy=-17).encode(text="what:N", color=ink)
    end = base.transform_filter("datum.ends").mark_text(fontSize=13, fontWeight=600, color=INK).encode(text="what:N")
    return box, number, name, end


def _cells() -> Figure:
    """V of every cell; Q and the advantage of every move in the cell that is pointed at."""
    policy = Choice("policy", "Policy", ("behaviour", "best"), "behaviour", names=("half at random", "best"))
    gamma = Slider("gamma", "Discount", GAMMAS, 0.95)
    cells, moves, frames = [], [], []
    for name, discount in itertools.product(policy.values, gamma.values):
        grid = dataclasses.replace(GRID, gamma=float(discount))
        probs = behavior() if name == "behaviour" else grid.optimal_policy()
        v, q = grid.state_values(probs), grid.action_values(probs)
        at = {"policy": name, "gamma": discount}
        cells += [row | at for row in _grid_rows(v)]
        for state in np.flatnonzero(~grid.mdp.terminal).tolist():
            for a, move in enumerate(ACTION_NAMES):
                text = f"{q[state, a] - v[state]:+.2f}".replace("-", "\N{MINUS SIGN}")
                worth = {"q": round(float(q[state, a]), 2), "here": round(float(v[state]), 2), "gap": text}
                moves.append(at | {"state": state, "move": move} | worth)
        frames.append(at | {"start": grid.mdp.initial @ v, "upper": v[UPPER], "beside": v[RARE]})
    chosen = alt.selection_point(
        name="cell", fields=["state"], on="pointerover", clear=False, empty=False, value=[{"state": RARE}]
    )
    keep = follows("policy", "gamma")
    base = alt.Chart(rows(cells)).transform_filter(keep).encode(**_axes())
    box, *written = _heat(base, (-10.0, 9.0))
    ring = base.mark_rect(filled=False, strokeWidth=4).encode(
        stroke=alt.condition(chosen, alt.value(COLORS[1]), alt.value("transparent"))
    )
    left = alt.layer(box, *written, ring.add_params(chosen)).properties(width=SIDE, height=240, title="V of each cell")
    at_cell = alt.Chart(rows(moves)).transform_filter(keep).transform_filter(chosen)
    y = alt.Y("move:N", sort=list(ACTION_NAMES), title=None)
    x = alt.X(
        "q:Q", title="Q of the move", scale=alt.Scale(domain=[-12, 13]), axis=alt.Axis(values=[-10, -5, 0, 5, 10])
    )
    bars = at_cell.mark_bar(height=22).encode(x, y, tooltip=["move:N", "q:Q", "here:Q"])
    value = at_cell.mark_rule(color=COLORS[1], strokeWidth=2.5, strokeDash=[6, 3]).encode(alt.X("here:Q"))
    gaps = at_cell.mark_text(align="left", fontSize=13).encode(alt.X(datum=9.2), y, text="gap:N")
    right = alt.layer(bars, value, gaps).properties(
        width=210, height=240, title="Its moves: Q, and the advantage in numbers"
    )
    return Figure(
        name="cells",
        title="Point at a cell, or touch it. Its four moves stand on the right.",
        chart=alt.hconcat(left, right, spacing=26).add_params(*parameters([policy, gamma])),
        description="Left: V of each cell, brighter is higher; grey cells end the episode, gaps are walls. Right: "
        "Q of each move in the ringed cell as a bar, its V as "
        "the dashed line, and how far each bar lies from the line, the advantage, as a number.",
        controls=[policy, gamma],
        numbers=[
            Number("start", "Mean V of the two starts"),
            Number("upper", "V of the upper start"),
            Number("beside", "V of the cell beside the pit"),
        ],
        frames=frames,
    )


def _backups() -> Figure:
    """Values that spread from the goal and the pit, a sweep at a time."""
    way = Choice("way", "Each sweep takes", ("mean", "best"), "best", names=("the behaviour's moves", "the best moves"))
    sweep = Slider("sweep", "Sweeps", SWEEPS, 1, play=True)
    cells, frames = [], []
    for name in way.values:
        end = swept(2000, best=name == "best")
        for k in SWEEPS:
            v = swept(k, best=name == "best")
            at = {"way": name, "sweep": k}
            cells += [row | at for row in _grid_rows(v)]
            error = float(np.abs(v - end).max())
            frames.append(at | {"error": error, "bound": GRID.gamma**k * float(np.abs(end).max()), "upper": v[UPPER]})
    base = alt.Chart(rows(cells)).transform_filter(follows("way", "sweep")).encode(**_axes())
    chart = alt.layer(*_heat(base, (-10.0, 9.0))).properties(height=300, width=480)
    return Figure(
        name="backups",
        title="Press play: what the goal and the pit pay travels one cell a sweep.",
        chart=chart.add_params(*parameters([way, sweep])),
        description="V of each cell after so many sweeps, from 0 everywhere; brighter is higher. The error is the "
        "largest over the cells, "
        "and the bound is what the derivation above promises for it.",
        controls=[way, sweep],
        numbers=[
            Number("upper", "V of the upper start"),
            Number("error", "Largest error of a cell", 3),
            Number("bound", "Its bound", 3),
        ],
        frames=frames,
    )


def _logs() -> Figure:
    """What many logs of one size say, by three methods."""
    aim = Choice("aim", "What is estimated", tuple(AIMS), "rare", names=tuple(AIMS.values()))
    count = Slider("count", "Episodes in a log", EPISODES, 20)
    found, dots, means, frames = _estimates(), [], [], []
    for what, n in itertools.product(AIMS, EPISODES):
        exact, at = _exact(what), {"aim": what, "count": n}
        estimates = found[what][n][~np.isnan(found[what][n]).any(1)]
        frame: dict[str, Any] = at | {"said": f"{len(estimates)} of {LOGS}"}
        for k, method in enumerate(METHODS):
            of = estimates[:, k]
            for j, value in enumerate(of[:SHOWN]):
                dots.append(at | {"m": method, "v": round(float(value), 2), "j": round((j * 0.618) % 1 - 0.5, 2)})
            low, high = np.quantile(of, [0.1, 0.9])
            middle = {"mean": float(of.mean()), "low": float(low), "high": float(high), "exact": exact}
            means.append(at | {"m": method} | {name: round(value, 3) for name, value in middle.items()})
            said = f"{round(_bias(of, exact), 2) + 0.0:+.2f}, {_spread(of, exact):.2f}"
            frame[f"method{k}"] = said.replace("-", "\N{MINUS SIGN}")
        frames.append(frame)
    numbers = [Number(f"method{k}", f"{method}: bias, standard deviation") for k, method in enumerate(METHODS)]
    keep = follows("aim", "count")
    y = alt.Y("m:N", sort=list(METHODS), title=None)
    scale = alt.Scale(domain=[-16, 6], nice=False)
    points = (
        alt.Chart(rows(dots))
        .transform_filter(keep)
        .mark_point(size=26, opacity=0.55, clip=True)
        .encode(
            alt.X("v:Q", title="Estimate", scale=scale),
            y,
            alt.YOffset("j:Q", scale=alt.Scale(domain=[-1, 1])),
            color=alt.Color("m:N", sort=list(METHODS), legend=None),
        )
    )
    over = alt.Chart(rows(means)).transform_filter(keep)
    truth = over.mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1.5).encode(alt.X("exact:Q", scale=scale))
    band = over.mark_rule(strokeWidth=2.5, color=INK).encode(alt.X("low:Q", scale=scale), alt.X2("high:Q"), y)
    mean = over.mark_point(shape="diamond", size=150, color=INK, opacity=1).encode(alt.X("mean:Q", scale=scale), y)
    return Figure(
        name="logs",
        title="Each dot is what one log says. How far is their mean from the truth, and how far are they from one "
        "another?",
        chart=alt.layer(points, truth, band, mean).properties(height=290).add_params(*parameters([aim, count])),
        description=f"Dots: the first {SHOWN} of {LOGS} logs. Diamond: the mean over all of them; the bar through "
        f"it holds the middle 80 in 100. "
        "Dashed: the exact value. The distance of the diamond from the dashed line is the bias. Logs in which the "
        "cell or the move never occurs are left out.",
        controls=[aim, count],
        numbers=[Number("said", "Logs in which it occurs"), *numbers],
        frames=frames,
    )
