"""Online against offline: the loop between acting and learning, closed and open."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Bool, Float

from stitchrl.lab.figures import COLORS, DASHES, INK, MUTED, PAPER, RULE, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.types import NumpyArray

__all__ = ["CLIFF", "Round", "first_log", "learned", "lesson", "rounds"]

CLIFF = GridWorld(
    (".....", ".....", "SXXXG"), slip=0.0, gamma=0.95, step_reward=-1.0, goal_reward=10.0, pit_reward=-10.0
)
START = CLIFF.state_of(2, 0)
ROUNDS, EPISODES, LONGEST = 26, 6, 60
LOGS = {"careful": "a careful operator", "random": "random moves"}
LEARNERS = {
    "average": "every move, average guess",
    "hopeful": "every move, hopeful guess",
    "tried": "tried moves only",
}
LOOPS = {"online": "Online: what it tries is added", "offline": "Offline: the log stays as it is"}
ARROWS = ("\N{UPWARDS ARROW}", "\N{RIGHTWARDS ARROW}", "\N{DOWNWARDS ARROW}", "\N{LEFTWARDS ARROW}")


def first_log(kind: str) -> Bool[NumpyArray, "S A"]:
    """Which moves a first log holds.

    "careful": `EPISODES` episodes along the upper edge nine times in ten, else any move that does not end in the pit.
    "random": five times as many, of any move alike.
    """
    mdp = CLIFF.mdp
    allowed = np.ones((mdp.num_states, mdp.num_actions), bool)
    if kind == "careful":
        allowed = ~((mdp.transition * mdp.terminal).sum(2).astype(bool) & (mdp.expected_reward < 0))
    probs = allowed / allowed.sum(1, keepdims=True)
    if kind == "careful":
        way = np.array([_along_the_edge(*cell) for cell in CLIFF.cells])
        probs = 0.9 * np.eye(mdp.num_actions)[way] + 0.1 * probs
    drawn = mdp.draw(probs, EPISODES if kind == "careful" else 5 * EPISODES, seed=1, max_steps=LONGEST)
    tried = np.zeros_like(allowed)
    tried[drawn.state, drawn.action] = True
    return tried


def _along_the_edge(row: int, column: int) -> int:
    """The operator's move: up, then right, then down to the goal."""
    if column == len(CLIFF.rows[0]) - 1:
        return 2
    return 0 if row > 0 else 1


def learned(tried: Bool[NumpyArray, "S A"], learner: str) -> Float[NumpyArray, "S A"]:
    """Q of the learner, settled: a table for the moves that were tried, and a guess for the others.

    The guess of "average" is what the same move is worth on average in the cells where it was tried, as a critic extrapolates
    that has learned which moves are good; that of "hopeful" is the best that any tried move is worth. Their targets take the
    best of all moves, guessed ones too. "tried" neither asks for nor takes a move that was not tried where any was. The
    world is deterministic: one try tells all.
    """
    mdp = CLIFF.mdp
    q = np.zeros(tried.shape)
    for _ in range(500):
        value = np.where(mdp.terminal, 0.0, _asked(q, tried, learner).max(1))
        after = mdp.expected_reward + CLIFF.gamma * mdp.transition @ value
        known = tried.sum(0)
        guess = np.where(known > 0, (after * tried).sum(0) / np.maximum(known, 1), 0.0)
        if learner == "hopeful":
            guess = np.full_like(guess, after[tried].max())
        after = np.where(tried, after, guess)
        settled, q = np.abs(after - q).max() < 1e-10, after
        if settled:
            break
    return np.where(mdp.terminal[:, None], 0.0, q)


def _asked(q: Float[NumpyArray, "S A"], tried: Bool[NumpyArray, "S A"], learner: str) -> Float[NumpyArray, "S A"]:
    """Q of the moves that the learner may take; minus infinity for the others."""
    may = tried | ~tried.any(1, keepdims=True) if learner == "tried" else np.ones_like(tried)
    return np.where(may, q, -np.inf)


@dataclasses.dataclass(frozen=True)
class Round:
    """The learner at the start of a round.

    Attributes:
        tried: (S, A) moves in its data.
        choice: (S,) its greedy moves.
        claimed: what it says that the start is worth.
        true: what its greedy policy earns from there, exactly.
        path: states that the greedy policy passes from the start, at most `LONGEST`.
    """

    tried: Bool[NumpyArray, "S A"]
    choice: NumpyArray
    claimed: float
    true: float
    path: tuple[int, ...]


@cache
def rounds(kind: str, learner: str, loop: str) -> tuple[Round, ...]:
    """`ROUNDS` rounds of learning from the data and, where the loop is "online", acting greedily and adding that to the data."""
    mdp, tried, found = CLIFF.mdp, first_log(kind), []
    for _ in range(ROUNDS):
        q = learned(tried, learner)
        choice = _asked(q, tried, learner).argmax(1)
        path = [START]
        while not mdp.terminal[path[-1]] and len(path) <= LONGEST:
            path.append(int(mdp.transition[path[-1], choice[path[-1]]].argmax()))
        true = mdp.policy_value(np.eye(mdp.num_actions)[choice], gamma=CLIFF.gamma)
        claimed = float(_asked(q, tried, learner)[START].max())
        found.append(Round(tried, choice, claimed, true, tuple(path)))
        if loop == "online":
            tried = tried.copy()
            tried[path[:-1], choice[path[:-1]]] = True
    return tuple(found)


# --- figures -----------------------------------------------------------------------------------------------------------


def lesson() -> Lesson:
    """The page."""
    offline, online = (rounds("careful", "average", loop) for loop in ("offline", "online"))
    modest, covered = rounds("careful", "tried", "offline")[0], rounds("random", "average", "offline")[0]
    mdp, best = CLIFF.mdp, CLIFF.mdp.policy_value(CLIFF.optimal_policy(), gamma=CLIFF.gamma)
    hopeful = [rounds("careful", "hopeful", loop) for loop in ("offline", "online")]
    closed = next(k for k in range(ROUNDS) if all(abs(r.claimed - r.true) < 1e-6 for r in online[k:]))
    return Lesson(
        title="Online and offline: the loop that closes, and the one that does not",
        question="Why do methods that learn well while acting fail on a log that somebody else wrote?",
        figures=[_maps(), _courses()],
        values={
            "moves": int((~mdp.terminal).sum()) * mdp.num_actions,
            "logged": int(offline[0].tried.sum()),
            "covering": int(covered.tried.sum()),
            "claimed": offline[0].claimed,
            "earned": offline[0].true,
            "last": ROUNDS - 1,
            "claimed_online": online[-1].claimed,
            "true_online": online[-1].true,
            "tried_online": int(online[-1].tried.sum()),
            "closed": closed,
            "modest": modest.true,
            "modest_claimed": modest.claimed,
            "covered": covered.true,
            "covered_claimed": covered.claimed,
            "best": best,
            "step": CLIFF.step_reward,
            "goal": CLIFF.goal_reward,
            "gamma": CLIFF.gamma,
            "hopeful_claimed": hopeful[0][0].claimed,
            "hopeful_true": hopeful[0][0].true,
            "hopeful_online": hopeful[1][-1].true,
            "hopeful_round": next(k for k, r in enumerate(hopeful[1]) if r.true > best - 1e-6),
            "weight": 2**10,
            "share": 10_000 / 2**10,
        },
    )


def _controls(start: int) -> tuple[Choice, Choice, Slider]:
    return (
        Choice("log", "The first log is by", tuple(LOGS), "careful", names=tuple(LOGS.values())),
        Choice(
            "learner", "The learner asks for, and may take", tuple(LEARNERS), "average", names=tuple(LEARNERS.values())
        ),
        Slider("round", "Round", tuple(range(ROUNDS)), start, play=True),
    )


def _every() -> list[tuple[dict[str, Any], str, Round]]:
    """Each position of the controls, with the loop and what is true there."""
    return [
        ({"log": kind, "learner": learner, "round": k}, loop, one)
        for kind, learner, loop in itertools.product(LOGS, LEARNERS, LOOPS)
        for k, one in enumerate(rounds(kind, learner, loop))
    ]


def _frames() -> list[dict[str, Any]]:
    frames: dict[tuple[Any, ...], dict[str, Any]] = {}
    for at, loop, one in _every():
        frame = frames.setdefault(tuple(at.values()), dict(at))
        frame |= {f"{loop}_claimed": one.claimed, f"{loop}_true": one.true, f"{loop}_tried": int(one.tried.sum())}
    return list(frames.values())


def _maps() -> Figure:
    """What is in the data, and what the learner would do."""
    controls = _controls(0)
    cells: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for at, loop, one in _every():
        on_path = set(one.path)
        for state, (row, column) in enumerate(CLIFF.cells):
            if CLIFF.mdp.terminal[state]:
                continue
            move = int(one.choice[state])
            arrow = ARROWS[move] + ("" if one.tried[state, move] else " ?")
            cell = {"r": row, "c": column, "n": int(one.tried[state].sum()), "m": arrow, "p": int(state in on_path)}
            if loop == "online":
                cells[loop].append(at | cell)
            elif at["round"] == 0:  # the same in every round
                cells[loop].append({"log": at["log"], "learner": at["learner"]} | cell)
    names = {"G": "goal", "X": "pit"}
    ends = [
        {"r": row, "c": column, "m": names[CLIFF.rows[row][column]]}
        for state, (row, column) in enumerate(CLIFF.cells)
        if CLIFF.mdp.terminal[state]
    ]
    where: dict[str, Any] = {
        "x": alt.X("c:O", axis=None, scale=alt.Scale(domain=list(range(len(CLIFF.rows[0]))))),
        "y": alt.Y("r:O", axis=None, scale=alt.Scale(domain=list(range(len(CLIFF.rows))))),
    }
    count = alt.Color(
        "n:Q",
        title="Its moves in the data",
        scale=alt.Scale(scheme="cividis", domain=[0, 4]),
        legend=alt.Legend(orient="bottom", tickCount=4, format="d", gradientLength=220),
    )

    def board(loop: str) -> Any:
        keep = follows("log", "learner") if loop == "offline" else follows("log", "learner", "round")
        base = alt.Chart(rows(cells[loop])).transform_filter(keep).encode(**where)
        ink = alt.condition("datum.n > 2", alt.value("black"), alt.value("white"))
        box = base.mark_rect(stroke=PAPER, strokeWidth=3).encode(color=count)
        way = base.transform_filter("datum.p").mark_rect(filled=False, stroke=COLORS[1], strokeWidth=4)
        move = base.mark_text(fontSize=19, fontWeight=600).encode(text="m:N", color=ink)
        fixed = alt.Chart(rows(ends)).encode(**where)
        over = (
            fixed.mark_rect(stroke=PAPER, strokeWidth=3, color=RULE),
            fixed.mark_text(fontSize=13, fontWeight=600, color=INK).encode(text="m:N"),
        )
        return alt.layer(box, *over, way, move).properties(width=285, height=175, title=LOOPS[loop])

    return Figure(
        name="maps",
        title="Press play. On the left nothing changes; on the right each mistake is made once.",
        chart=alt.hconcat(board("offline"), board("online"), spacing=30).add_params(*parameters(controls)),
        description="The start is the lower left cell. Brighter: more of a cell's four moves are in the data. Arrow: what the "
        "learner would do; with a question mark it is a guess, as that move is not in the data. Ringed in orange: where its "
        "policy leads from the start.",
        controls=controls,
        numbers=[
            Number("offline_claimed", "Offline, it claims"),
            Number("offline_true", "Offline, it earns"),
            Number("online_claimed", "Online, it claims"),
            Number("online_true", "Online, it earns"),
            Number("online_tried", "Moves in the data online", 0),
        ],
        frames=_frames(),
    )


def _courses() -> Figure:
    """Claimed and true value, round by round."""
    controls = _controls(ROUNDS - 1)
    points: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for at, loop, one in _every():
        place = {"log": at["log"], "learner": at["learner"], "k": at["round"]}
        points[loop] += [
            place | {"of": "claimed", "v": round(one.claimed, 2)},
            place | {"of": "true", "v": round(one.true, 2)},
        ]
    names = ["claimed", "true"]
    stroke = alt.Legend(symbolType="stroke", symbolSize=300)
    color = alt.Color("of:N", title=None, legend=stroke, scale=alt.Scale(domain=names, range=[COLORS[1], COLORS[0]]))
    dash = alt.StrokeDash(
        "of:N", title=None, legend=stroke, scale=alt.Scale(domain=names, range=[DASHES[1], DASHES[0]])
    )
    x = alt.X("k:Q", title="Round", scale=alt.Scale(domain=[0, ROUNDS - 1], nice=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("v:Q", title="Value of the start", scale=alt.Scale(domain=[-22, 10], nice=False))
    best = CLIFF.mdp.policy_value(CLIFF.optimal_policy(), gamma=CLIFF.gamma)

    def panel(loop: str) -> Any:
        base = (
            alt.Chart(rows(points[loop]))
            .transform_filter(follows("log", "learner"))
            .transform_filter("datum.k <= round")
        )
        lines = base.mark_line().encode(x, y, color, dash)
        now = base.transform_filter("datum.k == round").mark_point(size=100, opacity=1).encode(x, y, color)
        top = alt.Chart(rows([{"v": best}])).mark_rule(color=MUTED, strokeDash=[2, 4]).encode(y)
        return alt.layer(top, lines, now).properties(width=255, height=230, title=LOOPS[loop])

    return Figure(
        name="courses",
        title="What the learner claims against what it earns, round after round.",
        chart=alt.hconcat(panel("offline"), panel("online"), spacing=30).add_params(*parameters(controls)),
        description="Claimed: the value of the start by the learner's own table. True: what its greedy policy earns from there, "
        "exactly. The dotted line is the best that any policy earns.",
        controls=controls,
        numbers=[
            Number("offline_claimed", "Offline, it claims"),
            Number("offline_true", "Offline, it earns"),
            Number("online_claimed", "Online, it claims"),
            Number("online_true", "Online, it earns"),
        ],
        frames=_frames(),
    )
