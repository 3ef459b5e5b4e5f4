"""CQL: push down what was not logged, in the loss, and see what too much of it does."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from jaxtyping import Bool, Float
from scipy.special import wrightomega

from stitchrl.lab.figures import COLORS, INK, MUTED, RULE, SHAPES, follows, parameters, rows
from stitchrl.lab.lesson import Figure, Lesson, Number, Slider
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.types import NumpyArray

__all__ = ["Solved", "conservative_q", "descended", "lesson", "logged_actions", "solved", "subtracted_from_target"]

# --- one state ---------------------------------------------------------------------------------------------------------

ACTIONS = ("A, logged 80%", "B, logged 20%", "C, never logged")
SHARES = np.array([0.8, 0.2, 0.0])
WORTH = np.array([4.0, 6.0, 1.0])
FIRST = np.array([0.0, 0.0, 9.0])
"""What the critic believes before it learns."""
STEP_SIZE = 0.05
SHOWN_UPDATES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SMALL_WEIGHTS = (0.0, 0.5, 2.0, 8.0)

# --- the grid ----------------------------------------------------------------------------------------------------------

GAMMA = 0.9
GRID = GridWorld(
    ("S...", ".#..", "..#X", "...G"), slip=0.1, gamma=GAMMA, step_reward=-1.0, goal_reward=10.0, pit_reward=-10.0
)
BEST_SHARE = (0.35, 0.2, 0.1, 0.05)
"""How often the best action was taken, in the cells in turn; the second-best was taken otherwise, and no other."""
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
ARROWS = ("↑", "→", "↓", "←")
BEST, OTHER, UNLOGGED = "best logged", "other logged", "never logged"


def lesson() -> Lesson:
    """The page."""
    answers = {weight: solved(weight) for weight in WEIGHTS}
    wrong = subtracted_from_target(1.0)
    bandit = conservative_q(WORTH[None, :2], SHARES[None, :2], 2.0)[0]
    policy = _softmax(bandit[None])[0]
    extreme = conservative_q(WORTH[None, :2], SHARES[None, :2], 1000.0)[0]
    rare = _rare_case()
    return Lesson(
        title="CQL: pessimism in the loss",
        question="Can a learner ask for the value of every action, and still not be fooled by those that nobody took?",
        figures=[_push_and_pull(), _weights(answers)],
        values={
            "bandit_a": bandit[0],
            "bandit_b": bandit[1],
            "bandit_p": policy[1],
            "bandit_log_mean": float(SHARES[:2] @ bandit),
            "bandit_policy_q": float(policy @ bandit),
            "bandit_policy_true": float(policy @ WORTH[:2]),
            "bandit_chi": float((policy**2 / SHARES[:2]).sum() - 1),
            "extreme_a": extreme[0],
            "extreme_b": extreme[1],
            "extreme_p": _softmax(extreme[None])[0, 0],
            "behavior": GRID.mdp.policy_value(behavior(), gamma=GAMMA),
            "mode": GRID.mdp.policy_value(np.eye(4)[behavior().argmax(1)], gamma=GAMMA),
            "soft_1000": GRID.mdp.policy_value(_softmax(answers[1000.0].q), gamma=GAMMA),
            "cells": int((~GRID.mdp.terminal).sum()),
            "naive": answers[0.0],
            "wrong": wrong,
            "at_001": answers[0.01],
            "at_01": answers[0.1],
            "at_1": answers[1.0],
            "at_10": answers[10.0],
        }
        | rare,
    )


def conservative_q(
    target: Float[NumpyArray, "S A"], behavior: Float[NumpyArray, "S A"], weight: float
) -> Float[NumpyArray, "S A"]:
    """The table Q that minimises CQL's loss for fixed targets y, exactly.

    The loss of a state is sum_a b(a) (Q(a) - y(a))^2 + weight (log sum_a exp Q(a) - sum_a b(a) Q(a)), equations (1) of
    `stitchrl.algorithms.cql` and (4) of Kumar et al. (2020). With k = weight / 2 and Z = log sum exp Q its slope is zero where

        Q(a) = y(a) + k - k exp(Q(a) - Z) / b(a),  so that  Q(a) = y(a) + k - omega(log(k / b(a)) + y(a) + k - Z)

    with omega(x) the Wright function, omega + log omega = x. The one number left, Z, solves sum_a b(a) omega = k: Newton's
    method climbs to it, since the sum falls with Z and is convex.

    Args:
        target: (S, A) y, finite where b > 0.
        behavior: (S, A) b, the shares of the actions in the log; rows sum to 1.
        weight: of the penalty, at least 0.

    Returns:
        (S, A) Q; minus infinity where b = 0, where nothing holds Q against the penalty.
    """
    logged = behavior > 0
    if weight == 0:
        return np.where(logged, target, -np.inf)
    k, share = weight / 2, np.where(logged, behavior, 1.0)
    base = np.where(logged, np.log(k) - np.log(share) + np.where(logged, target, 0.0) + k, np.inf)
    z = base.min(1) - k - np.log(k)
    for _ in range(200):
        omega = np.where(logged, wrightomega(np.where(logged, base - z[:, None], 0.0)), 0.0)
        step = ((behavior * omega).sum(1) - k) / (behavior * omega / (1 + omega)).sum(1)
        z = z + step
        if np.abs(step).max() < 1e-13 * max(1.0, k):
            break
    omega = wrightomega(np.where(logged, base - z[:, None], 0.0))
    return np.where(logged, np.where(logged, target, 0.0) + k - omega, -np.inf)


def descended(weight: float, updates: int) -> Float[NumpyArray, "updates A"]:
    """(updates + 1, 3) the Q of the one-state example before each step of gradient descent and after the last one."""
    q, seen = FIRST.copy(), [FIRST.copy()]
    for _ in range(updates):
        q = q + STEP_SIZE * sum(_forces(q, weight))
        seen.append(q)
    return np.stack(seen)


def _forces(q: Float[NumpyArray, " A"], weight: float) -> tuple[Float[NumpyArray, " A"], Float[NumpyArray, " A"]]:
    """Minus the slopes of the squared error and of the weighted penalty."""
    return 2 * SHARES * (WORTH - q), weight * (SHARES - _softmax(q[None])[0])


def _softmax(q: Float[NumpyArray, "S A"]) -> Float[NumpyArray, "S A"]:
    shifted = np.exp(q - q.max(1, keepdims=True))
    made: Float[NumpyArray, "S A"] = shifted / shifted.sum(1, keepdims=True)
    return made


# --- the grid, solved ----------------------------------------------------------------------------------------------------


class Solved(NamedTuple):
    """What a learner ends with in the grid.

    Attributes:
        q: (S, A) its table.
        claimed: its value of the first cell.
        true: the exact value of its greedy policy there.
        kept: cells in which it takes the best of the logged actions.
        unlogged: cells in which it takes an action that was never logged.
        choice: (S,) its actions.
    """

    q: Float[NumpyArray, "S A"]
    claimed: float
    true: float
    kept: int
    unlogged: int
    choice: Any


def behavior() -> Float[NumpyArray, "S A"]:
    """(S, A) who made the log of the grid: of the two best actions in each cell the second-best was taken more often."""
    order = np.argsort(-GRID.action_values(GRID.optimal_policy()), axis=1, kind="stable")
    at = np.arange(GRID.num_states)
    share = np.array(BEST_SHARE)[at % len(BEST_SHARE)]
    made = np.zeros((GRID.num_states, 4))
    made[at, order[:, 0]], made[at, order[:, 1]] = share, 1 - share
    return made


def logged_actions() -> Bool[NumpyArray, "S A"]:
    """(S, A) the actions that the log of the grid has."""
    return behavior() > 0


def solved(weight: float) -> Solved:
    """CQL's fixed point: Q is the minimiser for y = r + gamma max Q. Weight 0 is Q-learning: what was not logged stays at 0."""
    b, q = behavior(), np.zeros((GRID.num_states, 4))
    logged = b > 0
    for _ in range(2000):
        made = np.where(logged, conservative_q(_targets(q.max(1)), b, weight), -np.inf if weight else 0.0)
        change = np.abs(made[logged] - q[logged]).max()
        q = made
        if change < 1e-11:
            break
    return _answer(q)


def subtracted_from_target(weight: float) -> Solved:
    """The wrong recipe, 500 times over: y = r + gamma (max Q - weight log sum exp Q) of the next state, and no penalty."""
    logged, q = logged_actions(), np.zeros((GRID.num_states, 4))
    for _ in range(500):
        top = q.max(1)
        soft = top + np.log(np.exp(q - top[:, None]).sum(1))
        q = np.where(logged, _targets(top - weight * soft), 0.0)
    return _answer(q)


def _targets(value: Float[NumpyArray, " S"]) -> Float[NumpyArray, "S A"]:
    """r + gamma E[value of the next state], with nothing after the end."""
    found: Float[NumpyArray, "S A"] = GRID.mdp.expected_reward + GAMMA * GRID.mdp.transition @ np.where(
        GRID.mdp.terminal, 0.0, value
    )
    return found


def _answer(q: Float[NumpyArray, "S A"]) -> Solved:
    choice, live, logged = q.argmax(1), ~GRID.mdp.terminal, logged_actions()
    best = GRID.optimal_policy(logged).argmax(1)
    return Solved(
        q,
        float(GRID.mdp.initial @ q.max(1)),
        GRID.mdp.policy_value(np.eye(4)[choice], gamma=GAMMA),
        int((choice == best)[live].sum()),
        int((~logged[np.arange(len(q)), choice])[live].sum()),
        choice,
    )


# --- figures -------------------------------------------------------------------------------------------------------------


def _push_and_pull() -> Figure:
    """Gradient descent on the loss in one state, and the two forces on each action's value."""
    weight = Slider("weight", "Weight of the penalty", SMALL_WEIGHTS, 2.0)
    updates = Slider("updates", "Gradient steps", SHOWN_UPDATES, 0, play=True)
    bars: list[dict[str, Any]] = []
    pulls: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for w in SMALL_WEIGHTS:
        course = descended(w, SHOWN_UPDATES[-1])
        for n in SHOWN_UPDATES:
            q, at = course[n], {"weight": w, "updates": n}
            squared, penalty = _forces(q, w)
            for a, name in enumerate(ACTIONS):
                bars.append(at | {"action": name, "q": round(float(q[a]), 3)})
                for force, size in (("squared error", squared[a]), ("penalty", penalty[a])):
                    pulls.append(at | {"action": name, "force": force, "size": round(float(size), 3)})
            chosen = int(q.argmax())
            frames.append(
                at | {"choice": ACTIONS[chosen][0], "claimed": float(q[chosen]), "true": float(WORTH[chosen])}
            )
    y = alt.Y("action:N", title=None, sort=None)
    ticks = alt.Axis(values=[-8, -4, 0, 4, 8])
    x = alt.X("q:Q", title="Q (bar) and worth (line)", scale=alt.Scale(domain=[-10, 10], clamp=True), axis=ticks)
    shown = alt.Chart(rows(bars)).transform_filter(follows("weight", "updates"))
    value = shown.mark_bar(height=26, color=COLORS[3]).encode(x, y)
    truth = alt.Chart(rows([{"action": n, "worth": float(w)} for n, w in zip(ACTIONS, WORTH, strict=True)])).mark_tick(
        color=INK, thickness=3, size=38
    )
    left = alt.layer(value, truth.encode(x="worth:Q", y=y)).properties(width=250, height=170)
    right = (
        alt.Chart(rows(pulls))
        .transform_filter(follows("weight", "updates"))
        .mark_bar(height=11)
        .encode(
            alt.X("size:Q", title="Force on Q (minus the slope)", scale=alt.Scale(domain=[-8, 8], clamp=True)),
            alt.Y("action:N", title=None, sort=None, axis=alt.Axis(labelExpr='slice(datum.label, 0, 1)')),
            alt.Color("force:N", title=None, scale=alt.Scale(domain=["squared error", "penalty"], range=list(COLORS[:2]))),
            yOffset=alt.YOffset("force:N", sort=["squared error", "penalty"]),
        )
        .properties(width=200, height=170)
    )  # fmt: skip
    return Figure(
        name="push",
        title="One state: play the gradient steps at weight 0, then at weight 2, and watch C, which nobody ever took.",
        chart=alt.hconcat(left, right).resolve_scale(color="independent").add_params(*parameters([weight, updates])),
        description="Left: the learned value of three actions as bars, with what each is worth as a line across. Right: how hard "
        "the squared error and the penalty move each value; to the right is up. Bars beyond an axis are cut at its end.",
        controls=[weight, updates],
        numbers=[
            Number("choice", "Action of highest Q"),
            Number("claimed", "Its claimed value"),
            Number("true", "What it is worth"),
        ],
        frames=frames,
    )


def _weights(answers: dict[float, Solved]) -> Figure:
    """Claim and truth in the grid against the weight, with the policy drawn."""
    slider = Slider("weight", "Weight of the penalty", WEIGHTS, 0.1)
    best, logged, live = GRID.optimal_policy(logged_actions()).argmax(1), logged_actions(), ~GRID.mdp.terminal
    cells: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for weight, found in answers.items():
        for what, value in (("claimed", found.claimed), ("exact value", found.true)):
            lines.append({"at": f"{weight:g}", "weight": weight, "what": what, "value": round(value, 3)})
        for s in np.flatnonzero(live):
            a = int(found.choice[s])
            kind = BEST if a == best[s] else OTHER if logged[s, a] else UNLOGGED
            row, column = GRID.cells[s]
            cells.append({"weight": weight, "row": row, "column": column, "arrow": ARROWS[a], "kind": kind})
    start = int(GRID.mdp.initial.argmax())
    rare, common = int(best[start]), int(behavior()[start].argmax())
    return Figure(
        name="weight",
        title="A grid whose log took the best action seldom. Raise the weight: first the claim sinks below the truth, then the "
        "policy changes.",
        chart=alt.hconcat(_map(cells), _curves(lines))
        .resolve_scale(color="independent", shape="independent", strokeDash="independent")
        .add_params(*parameters([slider])),
        description="Left: the greedy policy; S is the start, G the goal (it pays 10), X a pit (it costs 10), filled cells are "
        "walls; each move costs 1 and slips sideways one time in ten. Right: the claimed and the exact value of the start, at "
        "each weight; the vertical line is the slider.",
        controls=[slider],
        numbers=[
            Number("claimed", "Claimed value of the start"),
            Number("true", "Exact value of the policy"),
            Number("rare", "Q of the best action there (logged 35%)"),
            Number("common", "Q of the commoner action there (logged 65%)"),
            Number("kept", f"Cells, of {int(live.sum())}, with the best logged action", 0),
            Number("unlogged", "Cells with an action never logged", 0),
        ],
        frames=[
            {
                "weight": weight,
                "claimed": found.claimed,
                "true": found.true,
                "rare": float(found.q[start, rare]),
                "common": float(found.q[start, common]),
                "kept": found.kept,
                "unlogged": found.unlogged,
            }
            for weight, found in answers.items()
        ],
    )


def _map(cells: list[dict[str, Any]]) -> Any:
    """The grid with the arrows of the policy."""
    x = alt.X("column:O", axis=None, scale=alt.Scale(domain=list(range(len(GRID.rows[0])))))
    y = alt.Y("row:O", axis=None, scale=alt.Scale(domain=list(range(len(GRID.rows)))))
    ground = [
        {"row": i, "column": j, "sign": sign if sign in "SGX" else "", "wall": sign == "#"}
        for i, signs in enumerate(GRID.rows)
        for j, sign in enumerate(signs)
    ]
    tiles = alt.Chart(rows(ground)).mark_rect(stroke=RULE, strokeWidth=1.5).encode(
        x, y, color=alt.condition(alt.datum.wall, alt.value(MUTED), alt.value("transparent"))
    )  # fmt: skip
    goals = [row for row in ground if row["sign"] in ("G", "X")]
    ends = alt.Chart(rows(goals)).mark_text(fontSize=20, fontWeight="bold").encode(x, y, text="sign:N")
    starts = alt.Chart(rows([row for row in ground if row["sign"] == "S"]))
    start = starts.mark_text(dx=-20, dy=-18, color=MUTED).encode(x, y, text="sign:N")
    kinds = [BEST, OTHER, UNLOGGED]
    shown = alt.Chart(rows(cells)).transform_filter(follows("weight"))
    color = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=kinds, range=list(COLORS[:3])), legend=alt.Legend(columns=1)
    )
    arrows = shown.mark_text(fontSize=24, fontWeight="bold").encode(x, y, color, text="arrow:N")
    marks = shown.mark_point(size=36, xOffset=18, yOffset=16).encode(
        x, y, color, shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=list(SHAPES[:3])))
    )  # fmt: skip
    return alt.layer(tiles, ends, start, arrows, marks).properties(width=230, height=230)


def _curves(lines: list[dict[str, Any]]) -> Any:
    """Claim and truth against the weight."""
    order = [f"{weight:g}" for weight in WEIGHTS]
    x = alt.X("at:O", sort=order, title="Weight of the penalty (steps of a list)", axis=alt.Axis(labelAngle=-60))
    kinds = ["claimed", "exact value"]
    base = alt.Chart(rows(lines))
    curve = base.mark_line(point=False).encode(
        x,
        alt.Y("value:Q", title="Value of the start", scale=alt.Scale(domain=[-11, 4])),
        alt.Color("what:N", title=None, scale=alt.Scale(domain=kinds, range=[COLORS[1], COLORS[0]])),
        alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=kinds, range=[[6, 3], [1, 0]])),
    )
    rule = base.transform_filter(follows("weight")).mark_rule(color=MUTED).encode(x)
    named = {"best of the logged actions": GRID.optimal_policy(logged_actions()), "behaviour": behavior()}
    levels = [{"name": name, "value": GRID.mdp.policy_value(probs, gamma=GAMMA)} for name, probs in named.items()]
    level = alt.Chart(rows(levels)).mark_rule(strokeDash=[2, 3]).encode(y="value:Q")
    label = alt.Chart(rows(levels)).mark_text(align="right", dy=-8, color=MUTED, fontSize=12).encode(
        x=alt.value(290), y="value:Q", text="name:N"
    )  # fmt: skip
    return alt.layer(level, curve, rule, label).properties(width=290, height=230)


# --- the importance-weighted form, with the wrong sign --------------------------------------------------------------------


def _rare_case() -> dict[str, float]:
    """One state, three logged actions: the loss -weight E[omega Q] + E[Q - y] after 1,000 steps, and the right form."""
    shares, worth, weight = np.array([0.7, 0.25, 0.05]), np.array([4.0, 6.0, 1.0]), 5.0
    rarity = (1 - shares) / (1 + shares)
    slope = shares * (1 - weight * rarity)
    wrong = -STEP_SIZE * 1000 * slope
    q = np.zeros(3)
    for _ in range(20_000):
        weighted = rarity * np.exp(q - q.max())
        q = q - STEP_SIZE * (2 * shares * (q - worth) + 1.0 * (weighted / weighted.sum() - shares))
    named = itertools.chain(
        ((f"wrong_{a}", float(wrong[a])) for a in range(3)),
        ((f"right_{a}", float(q[a])) for a in range(3)),
        ((f"rarity_{a}", float(rarity[a])) for a in range(3)),
    )
    return dict(named)
