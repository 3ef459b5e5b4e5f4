"""Hidden confounding: a log in which everything fits, an estimate that is wrong, and how strong a cause it would take."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from scipy import stats

from stitchrl.evaluation.settings import MINIMUM_ODDS_RATIO
from stitchrl.lab.figures import COLORS, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.hidden_cause import robust_policy_value, worst_transition
from stitchrl.types import NumpyArray

__all__ = ["FAIR", "gains", "least_mean", "lesson", "one_decision", "treats", "turning_point", "ward"]

DAYS = np.arange(11)
"""Outcomes of the one-decision world: days at home, of the next 10."""
LOOKS = {"well": (0.85, 0.80), "ill": (0.45, 0.44)}
"""How a patient looks -> chance of each day at home where one waits, and where one treats. Half of the patients look well."""
STRENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
ODDS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
LENGTHS = (1, 5, 20)
MOVES = {0: (0.25, 0.40, 0.35), 1: (0.55, 0.30, 0.15)}
"""In the ward: action (0 waits, 1 treats) -> chance that the patient is better, the same, worse on the next day."""
FAIR = np.array([0.5, 0.5])


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="Hidden confounding: what the log cannot show",
        question="If something that nobody recorded decided who was treated, how wrong can an estimate be?",
        figures=[_fits(), _worst(), _turning()],
        values=_values(),
    )


class OneDecision(NamedTuple):
    """A log without end of one decision, with a hidden cause; the last axis of the arrays is days at home, 0 to 10.

    Attributes:
        logged: (2, 11) distribution of the outcomes of those who waited, and of those who were treated, in the log.
        true: (2, 11) distribution if all waited, and if all were treated.
        behavior: value of what was done, in days.
    """

    logged: NumpyArray
    true: NumpyArray
    behavior: float


def one_decision(strength: float) -> OneDecision:
    """The world in which physicians treat those who look well more often, and the record does not hold how a patient looks.

    Half of all patients are treated. The odds of a treatment are `strength` among those who look well, and 1 / `strength` among
    the others, where they are 1 on average.
    """
    outcomes = np.array([[stats.binom.pmf(DAYS, 10, chance) for chance in LOOKS[look]] for look in ("well", "ill")])
    treated = np.array([strength, 1.0]) / (1.0 + strength)  # of those who look well, of those who look ill
    looks_given_action = np.stack([1 - treated, treated])  # half are treated, and half look well
    logged = np.einsum("al,lax->ax", looks_given_action, outcomes)
    return OneDecision(logged, outcomes.mean(0), float((logged @ DAYS).mean()))


def least_mean(distribution: NumpyArray, odds_ratio: float, behavior: float = 0.5) -> float:
    """The least mean of an action's outcome that a hidden cause of this strength permits, in days."""
    outcome, chance = DAYS[None].astype(float), distribution[None]
    return float((worst_transition(outcome, chance, np.array([behavior]), odds_ratio) @ DAYS)[0])


def turning_point(gain: Callable[[float], float], largest: float = 20.0) -> float:
    """The odds ratio at which a gain that falls with it meets 0, by bisection; `largest` where it stays above."""
    low, high = 1.0, largest
    if gain(high) > 0:
        return largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return low


def _fits() -> Figure:
    """What the log says of each action, and what is true, as the cause grows stronger."""
    slider = Slider(
        "strength", "The cause changes the odds of a treatment by", STRENGTHS, 2.0, [f"{x:g} times" for x in STRENGTHS]
    )
    shown, frames = [], []
    for strength in STRENGTHS:
        world = one_decision(strength)
        said, true = world.logged @ DAYS, world.true @ DAYS
        for action, name in enumerate(("wait", "treat")):
            shown += [
                {"strength": strength, "action": name, "of": "mean in the log", "days": float(said[action])},
                {"strength": strength, "action": name, "of": "mean if all were given it", "days": float(true[action])},
            ]
        frames.append(
            {
                "strength": strength,
                "claimed": float(said[1] - world.behavior),
                "true": float(true[1] - world.behavior),
                "share": 0.5,
            }
        )
    base = alt.Chart(rows(shown)).transform_filter(follows("strength"))
    domain = ["mean in the log", "mean if all were given it"]
    x = alt.X("days:Q", title="Days at home, of 10", scale=alt.Scale(domain=[4, 8]), axis=alt.Axis(tickCount=8))
    y = alt.Y("action:N", title=None, sort=["treat", "wait"])
    color = alt.Color("of:N", title=None, scale=alt.Scale(domain=domain, range=[COLORS[0], COLORS[1]]))
    shape = alt.Shape("of:N", title=None, scale=alt.Scale(domain=domain, range=["circle", "diamond"]))
    return Figure(
        name="fits",
        title="The stronger the hidden cause, the better the treatment looks, and the worse the log tells the truth.",
        chart=base.mark_point(size=170).encode(x, y, color, shape).properties(height=180).add_params(*parameters([slider])),
        description="Physicians give the treatment more often to patients who look well, which no column "
        "records. Circles: mean outcome of "
        "those who were treated, or not, in the log. Diamonds: the mean if all patients were treated, or none.",
        controls=[slider],
        numbers=[
            Number("claimed", "Gain of treating all, claimed, days"),
            Number("true", "Gain of treating all, true, days"),
            Number("share", "Treated in the log, and by the fitted behaviour", 0, percent=True),
        ],
        frames=frames,
    )  # fmt: skip


def _worst() -> Figure:
    """The logged outcomes of the treated, and the worst reweighting of them."""
    slider = Slider("odds", "Lambda: the odds may have been changed up to", ODDS, 1.5, [f"{x:g} times" for x in ODDS])
    world = one_decision(2.0)
    logged = world.logged[1]
    shown, frames = [], []
    for odds in ODDS:
        worst = worst_transition(DAYS[None].astype(float), logged[None], np.array([0.5]), odds)[0]
        shown += [
            {"odds": odds, "of": name, "days": int(day), "share": round(float(share), 4)}
            for name, values in (("logged", logged), ("worst reweighting", worst))
            for day, share in zip(DAYS, values, strict=True)
        ]
        least = float(worst @ DAYS)
        most = 10 - least_mean(logged[::-1], odds)
        frames.append(
            {
                "odds": odds,
                "alpha": 0.5 + 0.5 / odds,
                "beta": 0.5 + 0.5 * odds,
                "least": least,
                "most": most,
                "verdict": "a gain" if least > world.behavior else "no gain shown",
            }
        )
    base = alt.Chart(rows(shown)).transform_filter(follows("odds"))
    domain = ["logged", "worst reweighting"]
    x = alt.X("days:Q", title="Days at home after the treatment", scale=alt.Scale(domain=[-0.6, 10.6], nice=False))
    y = alt.Y("share:Q", title="Share of patients", scale=alt.Scale(domain=[0, 0.3]), axis=alt.Axis(format="%"))
    color = alt.Color("of:N", title=None, scale=alt.Scale(domain=domain, range=[MUTED, COLORS[1]]))
    bars = base.transform_filter("datum.of == 'logged'").mark_bar(size=26, opacity=0.45).encode(x, y, color)
    line = base.transform_filter("datum.of != 'logged'").encode(x, y, color)
    chart = alt.layer(bars, line.mark_line(), line.mark_point(shape="square", size=60))
    return Figure(
        name="worst",
        title="The worst hidden cause of strength Lambda: below a quantile all outcomes weigh the most, above it the least.",
        chart=chart.properties(height=260).add_params(*parameters([slider])),
        description="Bars: logged outcomes of the treated. Line: the same outcomes, reweighted as unfavourably "
        "as Lambda permits. In the log "
        f"patients have {world.behavior:.2f} days on average; treating all is shown to gain while the least mean "
        "stays above that. "
        f"The truth, which no log shows, is {world.true[1] @ DAYS:.2f}.",
        controls=[slider],
        numbers=[
            Number("alpha", "Least weight"),
            Number("beta", "Largest weight"),
            Number("least", "Least mean, days"),
            Number("most", "Largest mean, days"),
            Number("verdict", "For treating all the log shows"),
        ],
        frames=frames,
    )  # fmt: skip


def ward(days: int) -> FiniteMDP:
    """A ward of four states of health over so many days, each day with its own copy of the states. A day that ends in
    one of the two better states pays 1. Actions: 0 waits, 1 treats."""
    count = 4 * (days + 1)
    transition, reward = np.zeros((count, 2, count)), np.zeros((count, 2, count))
    for at, (action, chances) in itertools.product(range(4 * days), MOVES.items()):
        day, health = divmod(at, 4)
        for change, chance in zip((1, 0, -1), chances, strict=True):
            transition[at, action, 4 * (day + 1) + min(max(health + change, 0), 3)] += chance
    reward[:, :, np.arange(count) % 4 >= 2] = 1.0
    initial = np.zeros(count)
    initial[:4] = (0.0, 0.8, 0.2, 0.0)
    return FiniteMDP(transition, reward, initial, np.arange(count) >= 4 * days)


def treats(days: int, chance: float) -> NumpyArray:
    """(4 (days + 1), 2) the policy of that ward that treats with this chance."""
    return np.tile([1 - chance, chance], (4 * (days + 1), 1))


def _falls_by_day(days: int, odds_ratio: float) -> NumpyArray:
    """(days,) by how much the policy's value falls where the worst cause acts on that day alone."""
    world, policy, behavior = ward(days), treats(days, 0.75), treats(days, 0.5)
    outcome = world.reward + np.where(world.terminal, 0.0, world.state_values(policy))
    step, at, visited = np.einsum("sa,sat->st", policy, world.transition), world.initial, np.zeros(world.num_states)
    for _ in range(days):
        visited, at = visited + at, at @ step
    fall = np.zeros(world.num_states)
    for action in range(2):
        chance = world.transition[:, action]
        worst = worst_transition(outcome[:, action], chance, behavior[:, action], odds_ratio)
        fall += policy[:, action] * ((chance - worst) * outcome[:, action]).sum(1)
    found: NumpyArray = (visited * fall)[: 4 * days].reshape(days, 4).sum(1)
    return found


@cache
def gains(days: int, odds_ratio: float) -> dict[str, float]:
    """The least gain of treating with chance 0.75 over the log's fair coin, per day, where a cause acts in every
    decision, or in the worst one alone."""
    world, policy, behavior = ward(days), treats(days, 0.75), treats(days, 0.5)
    logged = world.policy_value(behavior)
    every = robust_policy_value(world, policy, behavior, odds_ratio) - logged
    single = world.policy_value(policy) - logged - float(_falls_by_day(days, odds_ratio).max())
    return {"in every decision": every / days, "in the worst one": single / days}


def _turning() -> Figure:
    """The least gain against Lambda, of a cause in every decision and of one in the worst."""
    slider = Slider("odds", "Lambda: the odds may have been changed up to", ODDS, 1.5, [f"{x:g} times" for x in ODDS])
    length = Choice("days", "Days in an episode", LENGTHS, 5)
    shown, frames = [], []
    for days in LENGTHS:
        turns = {
            of: turning_point(lambda odds, of=of, days=days: gains(days, odds)[of])  # type: ignore[misc]
            for of in gains(days, 1.0)
        }
        words = {of: f"{at:.2f}" if at < 20 else "above 20" for of, at in turns.items()}
        for odds in ODDS:
            found = gains(days, odds)
            shown += [{"days": days, "at": odds, "of": of, "gain": round(gain, 4)} for of, gain in found.items()]
            every, single = found.values()
            frames.append(
                {
                    "days": days,
                    "odds": odds,
                    "every": every,
                    "single": single,
                    "turn_every": words["in every decision"],
                    "turn_single": words["in the worst one"],
                }
            )
    base = alt.Chart(rows(shown)).transform_filter(follows("days"))
    x = alt.X("at:Q", title="Lambda (times)", scale=alt.Scale(domain=[1, 4]))
    y = alt.Y(
        "gain:Q", title="Gain at least, share of days", scale=alt.Scale(domain=[-0.35, 0.15]), axis=alt.Axis(format="%")
    )
    color, dash = alt.Color("of:N", title=None), alt.StrokeDash("of:N", legend=None)
    now = base.transform_filter("datum.at == odds")
    chart = alt.layer(
        alt.Chart(rows([{"zero": 0}])).mark_rule(color=INK, strokeDash=[5, 3]).encode(y="zero:Q"),
        base.mark_line().encode(x, y, color, dash),
        now.mark_rule(color=MUTED).encode(x),
        now.mark_point(size=110).encode(x, y, color, alt.Shape("of:N", legend=None)),
    )
    return Figure(
        name="turning",
        title="Where a line crosses zero the verdict turns. Lengthen the episodes: only one of the two lines gains by it.",
        chart=chart.properties(height=270).add_params(*parameters([slider, length])),
        description="The least gain, over the log's fair coin, of treating with chance 0.75 in the ward of four "
        "states. Exact, of a log "
        "without end: there is no sampling error in it.",
        controls=[slider, length],
        numbers=[
            Number("every", "Gain at least, cause in every decision", 1, percent=True),
            Number("single", "Gain at least, cause in one", 1, percent=True),
            Number("turn_every", "Turns at, in every decision"),
            Number("turn_single", "Turns at, in one"),
        ],
        frames=frames,
    )  # fmt: skip


def _values() -> dict[str, Any]:
    """Numbers of the prose."""
    world = one_decision(2.0)
    said, true = world.logged @ DAYS, world.true @ DAYS
    turn = turning_point(lambda odds: least_mean(world.logged[1], odds) - world.behavior)
    names = {"in every decision": "every", "in the worst one": "single"}
    turns = {
        f"{short}_{days}": turning_point(lambda odds, of=of, days=days: gains(days, odds)[of])  # type: ignore[misc]
        for days in (1, 5, 20)
        for of, short in names.items()
    }
    return {
        "said_treat": float(said[1]),
        "said_wait": float(said[0]),
        "true_treat": float(true[1]),
        "true_wait": float(true[0]),
        "behavior": world.behavior,
        "claimed": float(said[1] - world.behavior),
        "truly": float(true[1] - world.behavior),
        "turn": turn,
        "as_severity": float(np.log(turn) / np.log(3)),
        "needed": MINIMUM_ODDS_RATIO,
        "least_at_2": least_mean(world.logged[1], 2.0) - world.behavior,
        **turns,
    }
