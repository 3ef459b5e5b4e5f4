"""Choosing in practice: the hospital log from end to end, every claim beside its estimate and the exact value."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import altair as alt
import numpy as np

from stitchrl.lab.figures import COLORS, INK, follows, parameters, rows
from stitchrl.lab.hospital import (
    GROUPS,
    Judged,
    Learned,
    best_possible,
    clinicians_value,
    grouped,
    implicit,
    judged,
    parts,
    safe,
)
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider

__all__ = ["lesson"]

COUNTS = (1, 5, 10, 20, 50, 100)
"""Least counts of safe policy improvement; 1 is the policy that is greedy in whatever the log shows."""
EXPECTILES, TEMPERATURES = (0.5, 0.7, 0.9), (10.0, 100.0)


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="Choosing in practice: a hospital log from end to end",
        question="Which algorithm, how conservative, with which actions, and how does one know before the first "
        "patient is treated?",
        figures=[_conservative(), _actions(), _settings(), _validation()],
        values=_values(),
    )


@cache
def _on_validation(kind: str, first: float, second: float) -> Judged:
    learned = safe(int(first), int(second)) if kind == "safe" else implicit(first, second)
    return judged(learned, 1)


def _three(at: dict[str, Any], learned: Learned, seen: Judged) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and a frame of a candidate: what it claims, what is estimated, what is true."""
    exact, own = learned.exact, clinicians_value()
    estimate = own + seen.value
    ends = {"low": own + seen.lower, "high": own + seen.upper}
    shown = [
        {**at, "what": "claimed", "value": learned.claim, "low": learned.claim, "high": learned.claim},
        {**at, "what": "estimated", "value": estimate, **ends},
        {**at, "what": "true", "value": exact, "low": exact, "high": exact},
    ]
    return shown, {**at, "claimed": learned.claim, "estimated": estimate, "true": exact, "word": seen.word}


def _bars(shown: list[dict[str, Any]], controls: list[Any], extra: list[Any] | None = None) -> Any:
    """The three numbers of a candidate on one axis, with the clinicians' survival as a dashed line."""
    base = alt.Chart(rows(shown)).transform_filter(follows(*(control.name for control in controls)))
    x: dict[str, Any] = {
        "title": "Survival, share of patients",
        "scale": alt.Scale(domain=[0.7, 1.0]),
        "axis": alt.Axis(format="%"),
    }
    y = alt.Y("what:N", title=None, sort=["claimed", "estimated", "true"])
    names = ["claimed", "estimated", "true"]
    color = alt.Color("what:N", legend=None, scale=alt.Scale(domain=names, range=[COLORS[1], COLORS[0], COLORS[2]]))
    shape = alt.Shape("what:N", legend=None, scale=alt.Scale(domain=names, range=["square", "circle", "diamond"]))
    line = alt.Chart(rows([{"own": clinicians_value()}])).mark_rule(color=INK, strokeDash=[5, 3])
    layers = [
        line.encode(alt.X("own:Q", **x)),
        base.mark_bar(height=10, opacity=0.4, clip=True).encode(alt.X("low:Q", **x), alt.X2("high:Q"), y, color),
        base.mark_point(size=150, clip=True).encode(alt.X("value:Q", **x), y, color, shape),
    ]
    return alt.layer(*layers, *(extra or [])).properties(height=150).add_params(*parameters(controls))


NUMBERS = (
    Number("claimed", "Claimed by the learner", 1, percent=True),
    Number("estimated", "Estimated on stays it never saw", 1, percent=True),
    Number("true", "True", 1, percent=True),
    Number("word", "A gain over the clinicians is"),
)


def _conservative() -> Figure:
    """Claimed, estimated and true survival of safe policy improvement, from the greedy policy to a careful one."""
    slider = Slider(
        "least",
        "A pair of a state and an action must have been seen",
        COUNTS,
        1,
        ["once", *(f"{k} times" for k in COUNTS[1:])],
    )
    learning, comparing, _ = (part.num_episodes for part in parts())
    shown, frames = [], []
    for count in COUNTS:
        found, frame = _three({"least": count}, safe(count), _on_validation("safe", count, 25))
        shown += found
        frames.append(frame)
    return Figure(
        name="conservative",
        title="At 1 the policy believes whatever it saw once. Make it more careful: the claim falls; the truth rises, "
        "then falls.",
        chart=_bars(shown, [slider]),
        description=f"Safe policy improvement, learned from {learning:,} stays. Dashed: the clinicians' survival. The bar "
        f"about the estimate is its 95% interval on {comparing:,} other stays; it may reach beyond the axis.",
        controls=[slider],
        numbers=NUMBERS,
        frames=frames,
    )


def _actions() -> Figure:
    """How many actions the learner may tell apart."""
    choice = Choice("actions", "Actions told apart", tuple(GROUPS), 25)
    seen = Choice("least", "A pair must have been seen", (5, 20), 20, ["5 times", "20 times"])
    shown, frames = [], []
    for actions, count in itertools.product(GROUPS, seen.values):
        found, frame = _three(
            {"actions": actions, "least": count},
            safe(int(count), actions),
            _on_validation("safe", count, actions),
        )
        model, _ = grouped(actions)
        certain = model.count >= count
        shown += found
        frames.append(
            {**frame, "best": best_possible(actions), "certain": float(model.count[certain].sum() / model.count.sum())}
        )
    return Figure(
        name="actions",
        title="Fewer actions: each is seen more often, and less can be chosen.",
        chart=_bars(shown, [choice, seen]),
        description="25 actions are 5 doses of fluids times 5 of vasopressors. With 9 the doses are none, low or "
        "high; with 4, none or some. Inside a "
        "group the policy doses as the clinicians do.",
        controls=[choice, seen],
        numbers=[
            *NUMBERS,
            Number("best", "Best possible with these actions", 1, percent=True),
            Number("certain", "Decisions on pairs seen often enough", 0, percent=True),
        ],
        frames=frames,
    )  # fmt: skip


def _settings() -> Figure:
    """Expectile and inverse temperature of IQL."""
    expectile = Choice("expectile", "Expectile", EXPECTILES, 0.7)
    temperature = Choice("temperature", "Inverse temperature", TEMPERATURES, 10.0)
    shown, frames = [], []
    for e, t in itertools.product(EXPECTILES, TEMPERATURES):
        found, frame = _three({"expectile": e, "temperature": t}, implicit(e, t), _on_validation("implicit", e, t))
        shown += found
        frames.append(frame)
    return Figure(
        name="settings",
        title="IQL on the same stays. Which of the two settings moves the claim, and which the truth?",
        chart=_bars(shown, [expectile, temperature]),
        description="IQL with a table for each state and action in place of networks, iterated until nothing "
        "changes. The inverse temperature "
        "multiplies an advantage in units of survival, which is at most 1.",
        controls=[expectile, temperature],
        numbers=NUMBERS,
        frames=frames,
    )


@cache
def _candidates() -> dict[str, tuple[Learned, Judged]]:
    """Name -> what was learned and how validation judges it."""
    found = {f"SPIBB at {k}": (safe(k), _on_validation("safe", k, 25)) for k in COUNTS}
    for e, t in itertools.product(EXPECTILES, TEMPERATURES):
        found[f"IQL {e:g}, {t:g}"] = (implicit(e, t), _on_validation("implicit", e, t))
    return found


def _validation() -> Figure:
    """Claims and estimates of all candidates against the truth."""
    choice = Choice(
        "by",
        "Judge the candidates by",
        ("claims", "estimates"),
        "claims",
        names=("their claims", "estimates on other stays"),
    )
    own = clinicians_value()
    shown: list[dict[str, Any]] = []
    for name, (learned, seen) in _candidates().items():
        exact = learned.exact
        at = {"name": name, "kind": name.split()[0], "count": name.split()[-1], "true": exact}
        shown.append(at | {"by": "claims", "said": learned.claim, "healthy": "healthy"})
        healthy = "healthy" if seen.healthy else "fails a check"
        shown.append(at | {"by": "estimates", "said": own + seen.value, "healthy": healthy})
    frames = []
    for by in choice.values:
        of = [row for row in shown if row["by"] == by and row["healthy"] == "healthy"]
        best = max(of, key=lambda row: row["said"])
        error = float(np.sqrt(np.mean([(row["said"] - row["true"]) ** 2 for row in of])))
        frames.append({"by": by, "chosen": best["name"], "its": best["true"], "error": error, "count": len(of)})
    base = alt.Chart(rows(shown)).transform_filter(follows("by"))
    line = alt.Chart(rows([{"true": 0.77, "said": 0.77}, {"true": 0.83, "said": 0.83}])).mark_line(
        color=INK, strokeDash=[5, 3], strokeWidth=1
    )
    x = alt.X(
        "true:Q",
        title="True survival, share of patients",
        scale=alt.Scale(domain=[0.77, 0.83]),
        axis=alt.Axis(format=".0%", values=[0.77, 0.78, 0.79, 0.8, 0.81, 0.82, 0.83]),
    )
    y = alt.Y("said:Q", title="Claimed, or estimated", scale=alt.Scale(domain=[0.75, 1.0]), axis=alt.Axis(format="%"))
    named = base.transform_filter("datum.kind == 'SPIBB'").mark_text(dx=11, align="left").encode(x, y, text="count:N")
    points = base.mark_point(size=110).encode(
        x,
        y,
        alt.Color("kind:N", title=None),
        alt.Shape("kind:N", title=None),
        alt.Opacity(
            "healthy:O",
            title=None,
            sort=["healthy", "fails a check"],
            scale=alt.Scale(domain=["healthy", "fails a check"], range=[1.0, 0.3]),
        ),
        tooltip=["name:N", "said:Q", "true:Q"],
    )
    return Figure(
        name="validation",
        title="Twelve candidates. On the dashed line a number would be true.",
        chart=alt.layer(line.encode(x, y), points, named).properties(height=300).add_params(*parameters([choice])),
        description="Each mark is a policy of the other figures, named when it is pointed at. The number beside a square is "
        "how often a pair must have been seen. Faint marks are estimates that fail a check. Dashed: what is said is true.",
        controls=[choice],
        numbers=[
            Number("chosen", "Best of those that are healthy"),
            Number("its", "Its true survival", 1, percent=True),
            Number("error", "Error of the numbers, root mean square", 1, percent=True),
            Number("count", "Candidates judged", 0),
        ],
        frames=frames,
    )  # fmt: skip


def _values() -> dict[str, Any]:
    """Numbers of the prose: the candidate that validation chooses by its lower end, judged once on the last part."""
    own, candidates = clinicians_value(), _candidates()
    name, (learned, seen) = max(
        ((name, pair) for name, pair in candidates.items() if pair[1].healthy), key=lambda one: one[1][1].lower
    )
    last = judged(learned, 2)
    greedy, greedy_seen = candidates["SPIBB at 1"]
    learning, comparing, deciding = (part.num_episodes for part in parts())
    return {
        "stays": f"{learning + comparing + deciding:,}",
        "decisions": f"{sum(part.num_transitions for part in parts()):,}",
        "measurements": parts()[0].observation.shape[1],
        "learning": f"{learning:,}",
        "comparing": f"{comparing:,}",
        "deciding": f"{deciding:,}",
        "clinicians": own,
        "greedy_claim": greedy.claim,
        "greedy_true": greedy.exact,
        "greedy_reason": greedy_seen.sentence,
        "chosen": name,
        "chosen_claim": learned.claim,
        "chosen_seen": seen.value,
        "chosen_gain": last.value,
        "chosen_lower": last.lower,
        "chosen_upper": last.upper,
        "chosen_word": last.word,
        "chosen_true": learned.exact - own,
        "best": best_possible(25),
    }
