"""Filtered BC: imitate the episodes that ended best, and what that keeps, loses and mistakes."""

from __future__ import annotations

import dataclasses
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import TopFractionSampling
from stitchrl.lab.figures import COLORS, INK, MUTED, RULE, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.return_distribution import return_distribution
from stitchrl.types import NumpyArray

__all__ = ["Imitator", "crossing_world", "imitate", "lesson", "rounds_filtered", "rounds_world"]

MAP = ("S.....", ".##.#.", "....#.", ".#....", ".#.##.", "...X.G")
OPERATORS = (0.1, 0.3, 0.5, 0.7)
"""Share of the moves that each of the four people who made the log leaves to chance."""
EPISODES = 60
"""How many episodes each of the four people contributed to the log."""
SLIPS = {"sure": 0.0, "slips": 0.2}
KEPT = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01)
ARROWS = "↑→↓←"

ROUNDS, SURE, WIN = 3, 2.0, 10.0
CHANCES = {"bad": 0.1, "good": 0.25}
BARS = (0.0, 2.0, 4.0, 6.0, 10.0, 12.0, 14.0, 20.0, 22.0, 30.0)
"""The returns that three rounds can have, each a least return to be kept."""


def lesson() -> Lesson:
    """The page."""
    worlds = {name: _grid(slip) for name, slip in SLIPS.items()}
    logs = {name: _log(world) for name, world in worlds.items()}
    found = {(name, k): imitate(worlds[name], logs[name], k) for name in SLIPS for k in KEPT}
    rounds = {(name, g): rounds_filtered(chance, g) for name, chance in CHANCES.items() for g in BARS}
    crossing = crossing_world()
    half = np.full((crossing.num_states, 2), 0.5)
    seen, chance = return_distribution(crossing, half)
    always = np.eye(2)[np.ones(rounds_world(0.1).num_states, int)]
    values: dict[str, Any] = {
        "log_mean": found["sure", 1.0].kept_mean, "log_worth": found["sure", 1.0].worth,
        "tenth_mean": found["sure", 0.1].kept_mean, "tenth_unseen": found["sure", 0.1].unseen,
        "slips_mean": found["slips", 0.02].kept_mean, "slips_worth": found["slips", 0.02].worth,
        "crossing_best": float(seen.max()), "crossing_chance": float(chance[seen.argmax()]),
        "crossing_worth": crossing.policy_value(half),
        "no_win": (1 - CHANCES["bad"]) ** (ROUNDS * 5), "gambles_worth": rounds_world(CHANCES["bad"]).policy_value(always),
    }  # fmt: skip
    for least in (0, 4, 30):
        values |= {f"bad_{k}_at_{least}": v for k, v in dataclasses.asdict(rounds["bad", least]).items()}
    values["good_gambles_at_4"] = rounds["good", 4.0].gambles
    return Lesson(
        title="Filtered BC: imitate what ended well",
        question="Keep only the best episodes and imitate them: how good can that be, and what does it mistake?",
        figures=[_figure_grid(worlds, logs, found), _figure_luck(rounds)],
        values=values,
    )


# --- a filter on a grid -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Imitator:
    """What a filter keeps of a log, and the policy that imitates it.

    Attributes:
        episodes: how many are kept.
        least: the smallest return kept.
        kept_mean: mean return of the kept episodes.
        worth: exact expected return of the imitator in the world.
        unseen: states, no terminal ones, that no kept episode visits.
        strays: probability that an episode of the imitator meets one of these.
        visits: (S,) visits of a state by kept episodes.
        probs: (S, A) the imitator: shares of the kept actions, all alike in states never seen.
    """

    episodes: int
    least: float
    kept_mean: float
    worth: float
    unseen: int
    strays: float
    visits: Float[NumpyArray, " S"]
    probs: Float[NumpyArray, "S A"]


def imitate(world: GridWorld, log: Dataset, fraction: float) -> Imitator:
    """Keep the best share of the episodes, as `FilteredBC` does, and imitate them by a table.

    Args:
        world: that the log is from; it tells what the imitator is worth.
        log: has the numbers of the states as `observation_id`.
        fraction: of the episodes, in (0, 1]; those tied with the last are kept too.
    """
    rows_kept = TopFractionSampling(fraction).weights(log) > 0
    kept = rows_kept[log.episode_start[:-1]]
    returns = log.episode_returns()[kept]
    count = np.zeros((world.num_states, 4))
    np.add.at(count, (np.asarray(log.observation_id)[rows_kept], log.action[rows_kept]), 1.0)
    visits = count.sum(1)
    probs = np.where(visits[:, None] > 0, count / np.maximum(visits, 1)[:, None], 0.25)
    unseen = (visits == 0) & ~world.mdp.terminal
    return Imitator(
        len(returns), float(returns.min()), float(returns.mean()), world.mdp.policy_value(probs),
        int(unseen.sum()), _meets(world.mdp, probs, unseen), visits, probs,
    )  # fmt: skip


def _meets(mdp: FiniteMDP, probs: Float[NumpyArray, "S A"], where: Bool[NumpyArray, " S"]) -> float:
    """The exact probability that an episode meets one of some states: the value where arriving there pays 1 and ends it."""
    reward = np.broadcast_to(where.astype(np.float64), mdp.transition.shape)
    return FiniteMDP(mdp.transition, reward, mdp.initial, mdp.terminal | where).policy_value(probs)


def _grid(slip: float) -> GridWorld:
    return GridWorld(MAP, slip=slip, gamma=1.0, step_reward=-1.0, goal_reward=30.0, pit_reward=-10.0)


def _log(world: GridWorld) -> Dataset:
    """Episodes of four people of different skill, all complete."""
    best = world.optimal_policy()
    parts = [
        world.draw((1 - chance) * best + chance / 4, EPISODES, seed=seed, max_steps=5000)
        for seed, chance in enumerate(OPERATORS)
    ]
    return parts[0].concat(*parts[1:])


def _figure_grid(
    worlds: dict[str, GridWorld], logs: dict[str, Dataset], found: dict[tuple[str, float], Imitator]
) -> Figure:
    """What the filter keeps: returns on the left, visits and the imitator's choice on the right."""
    slider = Slider("kept", "Keep the best", KEPT, 0.4, [f"{100 * k:g}%" for k in KEPT], play=True)
    choice = Choice("world", "Moves", tuple(SLIPS), "sure", ("always succeed", "slip one time in five"))
    bars, edges = [], np.arange(-42, 22, 3)
    for (name, k), one in found.items():
        returns = np.maximum(logs[name].episode_returns(), -40.0)
        stay, go = (np.histogram(returns[(returns >= one.least) == is_kept], edges)[0] for is_kept in (True, False))
        for state, low, high in (("kept", 0 * stay, stay), ("dropped", stay, stay + go)):
            bars += [
                {"world": name, "kept": k, "from": int(at), "to": int(at) + 3, "low": int(y), "high": int(y2), "state": state}
                for at, y, y2 in zip(edges[:-1], low, high, strict=True) if y2 > y
            ]  # fmt: skip
    left = (
        alt.Chart(rows(bars)).transform_filter(follows("world", "kept")).mark_bar(stroke=INK, strokeWidth=0.5)
        .encode(
            alt.X("from:Q", title="Return of the episode (\N{MINUS SIGN}40: that or less)",
                  scale=alt.Scale(domain=[-42, 21], nice=False)),
            alt.X2("to:Q"),
            alt.Y("low:Q", title="Episodes", scale=alt.Scale(domain=[0, 90])),
            alt.Y2("high:Q"),
            alt.Color("state:N", title=None, sort=["kept", "dropped"], scale=alt.Scale(range=[COLORS[0], RULE])),
        ).properties(width=270, height=250)
    )  # fmt: skip
    return Figure(
        name="grid",
        title="Keep fewer episodes. The returns that stay are better, the map that stays is smaller.",
        chart=alt.hconcat(left, _map(worlds, found), spacing=26)
        .resolve_scale(color="independent")
        .add_params(*parameters([slider, choice])),
        description="Left: returns of the 240 logged episodes, the kept ones in blue. Right: the grid; the bluer a cell, "
        "the more often the kept episodes were there, the arrow is the imitator's most likely move, and a question mark is "
        "a cell that no kept episode has seen. S start, G goal (+30), X pit (\N{MINUS SIGN}10), every move \N{MINUS SIGN}1.",
        controls=[slider, choice],
        numbers=[
            Number("mean", "Mean return of the kept episodes"), Number("worth", "Exact value of the imitator"),
            Number("episodes", "Episodes kept", 0), Number("unseen", "Cells never seen", 0),
            Number("strays", "Chance that the imitator meets one", 1, percent=True),
        ],
        frames=[
            {"world": name, "kept": k, "mean": one.kept_mean, "worth": one.worth, "episodes": one.episodes,
             "unseen": one.unseen, "strays": one.strays}
            for (name, k), one in found.items()
        ],
    )  # fmt: skip


def _map(worlds: dict[str, GridWorld], found: dict[tuple[str, float], Imitator]) -> Any:
    """The grid with the visits of the kept episodes and the imitator's choices."""
    cells = []
    for (name, k), one in found.items():
        world = worlds[name]
        for state, (row, column) in enumerate(world.cells):
            sign = MAP[row][column]
            arrow = sign if sign in "GX" else "?" if one.visits[state] == 0 else ARROWS[int(one.probs[state].argmax())]
            share = float(one.visits[state] / one.episodes) if sign not in "GX" else 0.0
            cells.append(
                {"world": name, "kept": k, "row": row, "column": column, "sign": arrow, "visits": round(share, 3)}
            )
    walls = [{"row": i, "column": j} for i, row in enumerate(MAP) for j, sign in enumerate(row) if sign == "#"]
    place = (
        alt.X("column:O", title="Column", axis=alt.Axis(labelAngle=0, ticks=False, domain=False)),
        alt.Y("row:O", title="Row", axis=alt.Axis(ticks=False, domain=False)),
    )
    shown = alt.Chart(rows(cells)).transform_filter(follows("world", "kept")).encode(*place)
    return alt.layer(
        shown.mark_rect(stroke=RULE, fill=COLORS[0]).encode(
            alt.FillOpacity("visits:Q", scale=alt.Scale(domain=[0, 1.5], range=[0, 0.75], clamp=True), legend=None),
            tooltip=[alt.Tooltip("visits:Q", title="visits an episode"), alt.Tooltip("sign:N", title="imitator")],
        ),
        alt.Chart(rows(walls)).mark_rect(fill=MUTED, stroke=MUTED).encode(*place),
        alt.Chart(rows([{"row": 0, "column": 0, "text": "S"}]))
        .mark_text(fontSize=11, dx=-13, dy=-12, fontWeight="bold").encode(*place, text="text:N"),
        shown.mark_text(fontSize=15).encode(text="sign:N"),
    ).properties(width=250, height=250)  # fmt: skip


# --- skill and luck -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Filtered:
    """The filter on endlessly many episodes of the rounds.

    Attributes:
        share: of all episodes that is kept.
        kept_mean: mean return of these.
        gambles: probability with which the imitator gambles in a round.
        worth: its exact expected return.
    """

    share: float
    kept_mean: float
    gambles: float
    worth: float


def rounds_world(chance: float) -> FiniteMDP:
    """Three rounds. Action 0 pays 2 for sure; action 1 pays 10 with a chance, else nothing.

    State 0 starts; state 2 t - 1 follows round t without a win and state 2 t with one, and the last two end the episode.
    """
    count = 2 * ROUNDS + 1
    transition, reward = np.zeros((count, 2, count)), np.zeros((count, 2, count))
    for state in range(count - 2):
        lost = 2 * ((state + 1) // 2) + 1
        transition[state, 0, lost] = 1.0
        transition[state, 1, [lost, lost + 1]] = 1 - chance, chance
        reward[state, 0, lost], reward[state, 1, lost + 1] = SURE, WIN
    return FiniteMDP(transition, reward, np.eye(count)[0], np.arange(count) >= count - 2)


def rounds_filtered(chance: float, least: float) -> Filtered:
    """The episodes of at least this return, made by a policy that tosses a coin in every round, and their imitator.

    The imitator knows the round only. By Bayes' rule it gambles with the probability P(gamble | return at least g) =
    P(gamble) P(return at least g | gamble) / P(return at least g). The rounds are alike, so the first stands for all.
    """
    mdp = rounds_world(chance)
    coin = np.full((mdp.num_states, 2), 0.5)
    first = coin.copy()
    first[0] = 0.0, 1.0
    returned, probability = return_distribution(mdp, coin)
    kept = returned >= least
    after, likely = return_distribution(mdp, first)
    share = float(probability[kept].sum())
    gambles = float(0.5 * likely[after >= least].sum() / share)
    policy = np.tile([1 - gambles, gambles], (mdp.num_states, 1))
    kept_mean = float(returned[kept] @ probability[kept] / share)
    return Filtered(share, kept_mean, gambles, mdp.policy_value(policy))


def crossing_world() -> FiniteMDP:
    """Two legs that meet in the middle: in each, action 0 pays 5 and action 1 pays nothing."""
    transition, reward = np.zeros((3, 2, 3)), np.zeros((3, 2, 3))
    for leg in (0, 1):
        transition[leg, :, leg + 1] = 1.0
        reward[leg, 0, leg + 1] = 5.0
    return FiniteMDP(transition, reward, np.eye(3)[0], np.arange(3) == 2)


def _figure_luck(rounds: dict[tuple[str, float], Filtered]) -> Figure:
    """Returns of the rounds with what is kept, and the imitator's exact value by the share kept."""
    slider = Slider("least", "Keep returns of at least", BARS, 4.0, play=True)
    choice = Choice("gamble", "The gamble wins 10", tuple(CHANCES), "bad", ("1 in 10 (worth 1)", "1 in 4 (worth 2.5)"))
    bars, lines = [], []
    for (name, least), one in rounds.items():
        mdp = rounds_world(CHANCES[name])
        for g, p in zip(*return_distribution(mdp, np.full((mdp.num_states, 2), 0.5)), strict=True):
            state = "kept" if g >= least else "dropped"
            bars.append({"gamble": name, "least": least, "return": g, "p": round(float(p), 5), "state": state})
        lines.append({"gamble": name, "at": least, "share": one.share, "worth": one.worth})
    left = (
        alt.Chart(rows(bars)).transform_filter(follows("gamble", "least")).mark_bar(width=7, stroke=INK, strokeWidth=0.5)
        .encode(
            alt.X("return:Q", title="Return of three rounds", scale=alt.Scale(domain=[-1, 31], nice=False)),
            alt.Y("p:Q", title="Share of the log's episodes", scale=alt.Scale(domain=[0, 0.4]), axis=alt.Axis(format="%")),
            alt.Color("state:N", title=None, sort=["kept", "dropped"], scale=alt.Scale(range=[COLORS[0], RULE])),
        ).properties(width=255, height=250)
    )  # fmt: skip
    line = alt.Chart(rows(lines)).transform_filter(follows("gamble")).encode(
        alt.X("share:Q", title="Share of the episodes kept", scale=alt.Scale(type="log", domain=[0.0001, 1], reverse=True),
              axis=alt.Axis(values=[1, 0.1, 0.01, 0.001, 0.0001], format="~%", grid=False)),
        alt.Y("worth:Q", title="Exact value of the imitator", scale=alt.Scale(domain=[2.5, 8])),
    )  # fmt: skip
    known = [{"worth": ROUNDS * SURE, "gamble": name, "text": f"never gamble: {ROUNDS * SURE:g}"} for name in CHANCES]
    known += [{"worth": ROUNDS * p * WIN, "gamble": name, "text": f"always gamble: {ROUNDS * p * WIN:g}"}
              for name, p in CHANCES.items()]  # fmt: skip
    marks = (
        alt.Chart(rows(known))
        .transform_filter(follows("gamble"))
        .encode(alt.Y("worth:Q", scale=alt.Scale(domain=[2.5, 8])))
    )
    right = alt.layer(
        marks.mark_rule(strokeDash=[4, 4]), marks.mark_text(align="left", x=6, dy=-8, color=MUTED).encode(text="text:N"),
        line.mark_line(color=COLORS[1], point=alt.OverlayMarkDef(color=COLORS[1], size=30)),
        line.transform_filter("datum.at == least").mark_point(color=COLORS[1], size=140, stroke=INK),
    ).properties(width=255, height=250)  # fmt: skip
    return Figure(
        name="luck",
        title="Three rounds, a sure 2 or a gamble for 10. "
        "Raise the bar: what was earned climbs, what is learned does not.",
        chart=alt.hconcat(left, right, spacing=26).resolve_scale(color="independent").add_params(*parameters([slider, choice])),
        description="Left: the returns of endlessly many episodes in which a coin chose between the sure 2 and the gamble, the "
        "kept ones in blue. Right: what the imitator of the kept episodes is truly worth, exactly, by the share that is kept.",
        controls=[slider, choice],
        numbers=[
            Number("mean", "Mean return of the kept episodes"), Number("worth", "Exact value of the imitator"),
            Number("gambles", "The imitator gambles", 1, percent=True),
            Number("share", "Episodes kept", 2, percent=True),
        ],
        frames=[
            {"gamble": name, "least": least, "mean": one.kept_mean, "worth": one.worth, "gambles": one.gambles,
             "share": one.share}
            for (name, least), one in rounds.items()
        ],
    )  # fmt: skip
