"""IQL: a maximum over what was logged, learned without asking for anything else."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float
from scipy.special import gammaln
from scipy.stats import binom

from stitchrl.lab.figures import COLORS, DASHES, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.lab.route_graph import route_graph
from stitchrl.mdp.stitching import NEXT, PAYS, STATES, stitching_columns, stitching_world
from stitchrl.types import NumpyArray

__all__ = ["EXAMPLE", "EXPECTILES", "expectile_of", "iql_policy", "lesson", "luck", "pull_up", "stitched_values"]

EXAMPLE = (3.0, 5.0, 8.0)
EXPECTILES = tuple(round(0.02 * k, 2) for k in range(1, 50))
SWEPT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Expectiles of the second and the third figure."""
INVERSE_TEMPERATURES = (0.3, 1.0, 3.0)
S1, S2, S3 = (STATES.index(name) for name in ("s1", "s2", "s3"))

LEAVE, SURE, WIN, CHANCE, DOUBTFUL = 2.5, 2.0, 10.0, 0.1, 5
"""The ward: leaving at once pays 2.5; inside, one sure action pays 2 and five doubtful ones pay 10 one time in ten."""
ROWS = {3: "3", 10: "10", 30: "30", 0: "endless"}
"""Rows of the log for each action in the ward; 0 stands for endlessly many."""
RARE = 1e-8
FIFTHS = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1])


def lesson() -> Lesson:
    """The page."""
    stitched = {e: stitched_values(e) for e in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)}
    found = {(n, e): luck(n, e) for n in ROWS for e in SWEPT}
    values: dict[str, Any] = {f"at_{round(1000 * e)}": expectile_of(EXAMPLE, e) for e in (0.5, 0.7, 0.9, 0.919)}
    values |= {"squares_70": _root_of_squares(EXAMPLE, 0.7)}
    values |= {f"s3_at_{round(100 * e)}": float(v[S3]) for e, v in stitched.items()}
    values |= {f"s1_at_{round(100 * e)}": float(v[S1]) for e, v in stitched.items()}
    for (n, e), one in found.items():
        values |= {f"ward_{k}_{n}_at_{round(100 * e)}": v for k, v in dataclasses.asdict(one).items()}
    values["outcomes_90"] = _without_q(0.9)
    return Lesson(
        title="IQL: the best of what was logged",
        question="Can a learner find the best logged action without ever asking what an unlogged action is worth?",
        figures=[_three_values(), _stitching(), _luck(found)],
        values=values,
    )


# --- expectiles ---------------------------------------------------------------------------------------------------


def expectile_of(values: Any, expectile: float, weights: Any = None) -> float:
    """The expectile of some values: the root m of e mean (x - m)+ = (1 - e) mean (m - x)+ (Newey and Powell 1987).

    The expectile m is the mean of the values weighted by e where they exceed m and by 1 - e elsewhere, so the mean is
    taken again until it stands.

    Args:
        values: numbers.
        expectile: e, in (0, 1).
        weights: how likely each value is; equally by default.
    """
    x = np.asarray(values, np.float64)
    likely = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    at = float((likely * x).sum() / likely.sum())
    for _ in range(10_000):
        weight = likely * np.where(x > at, expectile, 1 - expectile)
        following = float((weight * x).sum() / weight.sum())
        if abs(following - at) < 1e-14:
            break
        at = following
    return float(at)


def pull_up(values: Any, expectile: float) -> float:
    """e mean (x - m)+ at the expectile m, which equals (1 - e) mean (m - x)+ there."""
    return float(expectile * np.maximum(np.asarray(values) - expectile_of(values, expectile), 0).mean())


def _root_of_squares(values: Any, expectile: float) -> float:
    """Where e mean ((x - m)+)^2 = (1 - e) mean ((m - x)+)^2, by bisection: often stated, and not the expectile."""
    x = np.asarray(values, np.float64)
    low, high = float(x.min()), float(x.max())
    for _ in range(200):
        m = (low + high) / 2
        gap = expectile * (np.maximum(x - m, 0) ** 2).mean() - (1 - expectile) * (np.maximum(m - x, 0) ** 2).mean()
        low, high = (m, high) if gap > 0 else (low, m)
    return low


def _three_values() -> Figure:
    """The loss of IQL's value over three logged action values, and the two pulls on it, live."""
    slider = Slider("expectile", "Expectile", EXPECTILES, 0.7)
    x = alt.X("m:Q", title="Candidate value V(s)", scale=alt.Scale(domain=[2, 9], nice=False))
    loss = alt.Y("loss:Q", title="Mean loss", scale=alt.Scale(domain=[0, 12]))
    pull = alt.Y("pull:Q", title="Pull (half of the slope)", scale=alt.Scale(domain=[0, 2.5]))
    logged = alt.Chart(rows([{"m": v, "loss": 0.0, "pull": 0.0, "name": f"Q = {v:g}"} for v in EXAMPLE])).mark_point(
        shape="triangle-up", color=MUTED, size=110, yOffset=-6
    )
    minimum = alt.Chart(rows([], "minimum"))
    rule = minimum.mark_rule(color=COLORS[1], strokeDash=[4, 3]).encode(x)
    dot = minimum.mark_point(color=COLORS[1], size=130)
    left = alt.layer(
        alt.Chart(rows([], "curve")).mark_line(color=COLORS[0], clip=True).encode(x, loss),
        logged.encode(x, loss, tooltip=["name:N"]), rule, dot.encode(x, loss),
    ).properties(width=255, height=250)  # fmt: skip
    sides = alt.Scale(domain=["up", "down"], range=[COLORS[2], COLORS[3]])
    names = {"up": "up, from above", "down": "down, from below"}
    right = alt.layer(
        alt.Chart(rows([], "pulls")).mark_line(clip=True).encode(
            x, pull, alt.Color("side:N", scale=sides, legend=None),
            alt.StrokeDash("side:N", scale=alt.Scale(domain=["up", "down"], range=list(DASHES[:2])), legend=None),
        ),
        alt.Chart(rows([{"m": 3.1, "pull": 2.3, "side": "up", "text": names["up"]},
                        {"m": 5.7, "pull": 1.9, "side": "down", "text": names["down"]}]))
        .mark_text(align="left").encode(x, pull, alt.Color("side:N", scale=sides, legend=None), text="text:N"),
        logged.encode(x, pull), rule, dot.encode(x, pull),
    ).properties(width=255, height=250)  # fmt: skip
    return Figure(
        name="expectile",
        title="Three actions were logged in one state, worth 3, 5 and 8. Move the expectile: the loss is least where "
        "two pulls balance.",
        chart=alt.hconcat(left, right, spacing=26).resolve_scale(color="independent").add_params(*parameters([slider])),
        description="Left: the asymmetric squared loss of a value V(s); the orange dot is where it is least. Right: the logged "
        "values above V(s) pull it up, those below pull it down; the dot is where both are alike. Triangles: the logged values.",
        controls=[slider],
        numbers=[
            Number("value", "V(s), the expectile", 3), Number("pull", "Each of the two pulls there", 3),
            Number("mean", "Mean of the logged values", 3), Number("highest", "Highest logged value", 3),
        ],
        live="expectile",
        given={"values": list(EXAMPLE)},
    )  # fmt: skip


# --- over a learned value -----------------------------------------------------------------------------------------


def stitched_values(expectile: float) -> Float[NumpyArray, " S"]:
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


def _action_values(value: Float[NumpyArray, " S"]) -> Float[NumpyArray, "S A"]:
    """(9, 2) Q = r + V(s') of every action; 0 where an episode has ended."""
    q = np.zeros((len(STATES), 2))
    for state, following in enumerate(NEXT):
        q[state] = [PAYS.get(t, 0.0) + value[t] for t in following]
    return q


def iql_policy(expectile: float, inverse_temperature: float) -> Float[NumpyArray, "S A"]:
    """(9, 2) the logged actions of the stitching world, weighted by exp(inverse_temperature (Q - V)) (eq. 7)."""
    value = stitched_values(expectile)
    q = _action_values(value)
    columns = stitching_columns(1)
    probs = np.zeros((len(STATES), 2))
    for s, a in zip(columns["observation"].argmax(1), columns["action"], strict=True):
        probs[s, a] += np.exp(inverse_temperature * (q[s, a] - value[s]))
    total = probs.sum(1, keepdims=True)
    return np.where(total > 0, probs / np.where(total > 0, total, 1.0), 0.5)


def _stitching() -> Figure:
    """What the expectile does to every value, and to the route."""
    slider = Slider("expectile", "Expectile", SWEPT, 0.5, play=True)
    names = [f"{b:g}" for b in INVERSE_TEMPERATURES]
    choice = Choice("beta", "Inverse temperature of the policy", INVERSE_TEMPERATURES, 3.0, names)
    positions: list[dict[str, Any]] = [{"expectile": e, "beta": b} for e in SWEPT for b in INVERSE_TEMPERATURES]
    values = {e: stitched_values(e) for e in SWEPT}
    probs = [iql_policy(p["expectile"], p["beta"]) for p in positions]
    graph = route_graph(positions, probs, [values[p["expectile"]].tolist() for p in positions], width=330, height=270)
    lines = [
        {"at": e, "move": move, "q": float(q)}
        for e in sorted({*SWEPT, *np.linspace(0.02, 0.98, 25).round(2).tolist()})
        for move, q in zip(("s1 to s3", "s1 to s2"), _action_values(stitched_values(e))[S1], strict=True)
    ]
    order = ["s1 to s3", "s1 to s2"]
    x = alt.X("at:Q", title="Expectile", scale=alt.Scale(domain=[0, 1]), axis=FIFTHS)
    y = alt.Y("q:Q", title="Q of the two moves at s1", scale=alt.Scale(domain=[3, 10.4], nice=False))
    color = alt.Color("move:N", sort=order, scale=alt.Scale(domain=order, range=[COLORS[0], COLORS[2]]), legend=None)
    dashes = alt.StrokeDash("move:N", sort=order, scale=alt.Scale(domain=order, range=list(DASHES[:2])), legend=None)
    base = alt.Chart(rows(lines)).encode(x, y, color)
    labels = [{"at": 0.72, "q": 9.4, "move": "s1 to s3"}, {"at": 0.04, "q": 7.3, "move": "s1 to s2"}]
    right = alt.layer(
        base.mark_line().encode(dashes),
        alt.Chart(rows([labels[0]])).mark_text(align="right", fontWeight="bold").encode(x, y, color, text="move:N"),
        alt.Chart(rows([labels[1]])).mark_text(align="left", fontWeight="bold").encode(x, y, color, text="move:N"),
        base.transform_filter("datum.at == expectile").mark_point(size=130, stroke=INK),
    ).properties(width=200, height=270)  # fmt: skip
    world = stitching_world()
    return Figure(
        name="stitching",
        title="The expectile decides how much of the better branch at s3 travels back to s1, and so which way IQL goes.",
        chart=alt.hconcat(graph, right, spacing=20).resolve_scale(color="independent").add_params(*parameters([slider, choice])),
        description="Left: the stitching world. Below each state its learned V; a line is a logged move, the thicker the "
        "likelier under the policy, orange where it is likelier than not. Right: Q of the two moves at s1 by the expectile.",
        controls=[slider, choice],
        numbers=[
            Number("s3", "V(s3)"), Number("s1", "V(s1)"), Number("first", "Probability of s1 to s3", 1, percent=True),
            Number("worth", "Exact value of the policy from s1"),
        ],
        frames=[
            {**at, "s3": float(values[at["expectile"]][S3]), "s1": float(values[at["expectile"]][S1]),
             "first": float(one[S1, 0]), "worth": world.policy_value(one)}
            for at, one in zip(positions, probs, strict=True)
        ],
    )  # fmt: skip


# --- luck ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Luck:
    """IQL at the door of the ward, averaged exactly over all logs of one size.

    Attributes:
        claim: mean of the learned V of the ward.
        enters: probability that a log makes IQL enter: that it makes V of the ward exceed what leaving pays.
        worth: mean of what its plan is truly worth, if inside it takes the action of highest Q.
    """

    claim: float
    enters: float
    worth: float


def luck(rows_each: int, expectile: float) -> Luck:
    """Everything about logs with so many rows for each action in the ward (0: endlessly many), by summing over all of them.

    Q of a doubtful action is the mean of its outcomes, so 10 wins / rows. The five are alike: only how often each number of wins
    occurs among them matters, with multinomial probabilities.
    """
    q, chance = _logs(rows_each)
    claim = _expectiles(q, expectile)
    top = q.max(1, keepdims=True)
    true = np.append(SURE, np.full(DOUBTFUL, CHANCE * WIN))
    best = np.abs(q - top) < 1e-12
    inside = (best * true).sum(1) / best.sum(1)
    enters = claim > LEAVE
    return Luck(float(chance @ claim), float(chance @ enters), float(chance @ np.where(enters, inside, LEAVE)))


def _logs(rows_each: int) -> tuple[Float[NumpyArray, "L A"], Float[NumpyArray, " L"]]:
    """The Q that each possible log gives, the sure action first, and how likely the log is."""
    if rows_each == 0:
        return np.append(SURE, np.full(DOUBTFUL, CHANCE * WIN))[None], np.ones(1)
    likely = binom.pmf(np.arange(rows_each + 1), rows_each, CHANCE)
    wins = np.array(list(itertools.combinations_with_replacement(np.flatnonzero(likely > RARE), DOUBTFUL)))
    same = (wins[:, :, None] == np.arange(rows_each + 1)).sum(1)
    ways = np.exp(gammaln(DOUBTFUL + 1) - gammaln(same + 1).sum(1))
    chance = ways * likely[wins].prod(1)
    q = np.column_stack([np.full(len(wins), SURE), WIN * wins / rows_each])
    return q, chance / chance.sum()


def _expectiles(values: Float[NumpyArray, "L A"], expectile: float) -> Float[NumpyArray, " L"]:
    """(L,) the expectile of each row. On so few values the iteration of `expectile_of` stands after a handful of rounds."""
    at = values.mean(1)
    for _ in range(2 * values.shape[1]):
        weight = np.where(values > at[:, None], expectile, 1 - expectile)
        at = (weight * values).sum(1) / weight.sum(1)
    return np.asarray(at)


def _without_q(expectile: float) -> float:
    """V of the ward if the expectile is taken over single outcomes, without a Q that averages them first."""
    others = DOUBTFUL / (DOUBTFUL + 1)
    return expectile_of([SURE, WIN, 0.0], expectile, [1 - others, others * CHANCE, others * (1 - CHANCE)])


def _luck(found: dict[tuple[int, float], Luck]) -> Figure:
    """What is claimed of the ward, and what the plan is worth, by the expectile."""
    slider = Slider("expectile", "Expectile", SWEPT, 0.9, play=True)
    choice = Choice("rows", "Rows of the log for each action", tuple(ROWS), 3, tuple(ROWS.values()))
    data = [{"rows": n, "at": e, "claim": one.claim, "worth": one.worth} for (n, e), one in found.items()]
    single = [{"at": e, "claim": _without_q(e)} for e in SWEPT]
    x = alt.X("at:Q", title="Expectile", scale=alt.Scale(domain=[0, 1]), axis=FIFTHS)
    claim = alt.Y("claim:Q", title="Claimed value of the ward", scale=alt.Scale(domain=[0, 9.5], nice=False))
    worth = alt.Y("worth:Q", title="Exact value of the plan", scale=alt.Scale(domain=[1, 2.7], nice=False))
    base = alt.Chart(rows(data)).transform_filter(follows("rows"))
    now = base.transform_filter("datum.at == expectile")

    def mark(at: float, value: float, axis: alt.Y, name: str, text: str, *, dy: int = -8) -> list[Any]:
        of = alt.Chart(rows([{"at": at, name: value, "text": text}]))
        return [of.mark_rule(strokeDash=[4, 4]).encode(axis),
                of.mark_text(align="left", color=MUTED, dy=dy).encode(x, axis, text="text:N")]  # fmt: skip

    left = alt.layer(
        *mark(0.03, SURE, claim, "claim", "best inside: 2", dy=10),
        *mark(0.03, LEAVE, claim, "claim", "leaving: 2.5"),
        alt.Chart(rows(single)).mark_line(color=COLORS[3], strokeDash=DASHES[2]).encode(x, claim),
        alt.Chart(rows([{"at": 0.84, "claim": 5.6, "text": "without a Q"}])).mark_text(align="right", color=COLORS[3])
        .encode(x, claim, text="text:N"),
        base.mark_line(color=COLORS[1]).encode(x, claim),
        now.mark_point(color=COLORS[1], size=130, stroke=INK).encode(x, claim),
    ).properties(width=255, height=250)  # fmt: skip
    right = alt.layer(
        *mark(0.03, LEAVE, worth, "worth", "leaving: 2.5"),
        base.mark_line(color=COLORS[2]).encode(x, worth),
        now.mark_point(color=COLORS[2], size=130, stroke=INK).encode(x, worth),
    ).properties(width=255, height=250)  # fmt: skip
    return Figure(
        name="luck",
        title="Enter the ward, or leave for 2.5? A high expectile on few rows takes the luckiest action for the best one.",
        chart=alt.hconcat(left, right, spacing=26).add_params(*parameters([slider, choice])),
        description="Left: what IQL claims the ward to be worth, on average over all logs (orange), and what the claim would be "
        "if V were fitted to single outcomes (dotted). Right: what its plan is truly worth, on average over all logs.",
        controls=[slider, choice],
        numbers=[
            Number("claim", "Claimed value of the ward"), Number("enters", "Logs that make it enter", 1, percent=True),
            Number("worth", "Exact value of its plan"),
        ],
        frames=[{"rows": n, "expectile": e, **dataclasses.asdict(one)} for (n, e), one in found.items()],
    )  # fmt: skip
