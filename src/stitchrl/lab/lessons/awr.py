"""AWR: imitation in which the better actions count for more, and how much more is a temperature."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from stitchrl.lab.figures import COLORS, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.icu_sepsis import demo_log
from stitchrl.mdp.stitching import STATES, stitching_columns, stitching_world
from stitchrl.types import NumpyArray

__all__ = ["divergence", "effective_number", "gamble_share", "lesson", "monte_carlo_policy", "shares"]

EXAMPLE = (3.0, 7.0, 1.0)
"""Returns of three actions that were logged in one state, once each."""
TEMPERATURES = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)
WIDE = tuple(float(f"{t:.2g}") for t in np.geomspace(0.01, 100, 33))
SCALES = {1: "survival pays 1", 15: "survival pays 15", 100: "survival pays 100"}
"""Ways of writing the same hospital log: what a stay that the patient survives is paid; death is paid 0."""
CAP = 20.0
PERCENT = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
S1, S3 = STATES.index("s1"), STATES.index("s3")


def lesson() -> Lesson:
    """The page."""
    mean = sum(EXAMPLE) / len(EXAMPLE)
    values: dict[str, Any] = {"mean": mean} | {f"adv_{k + 1}": r - mean for k, r in enumerate(EXAMPLE)}
    for temperature in (1, 5):
        weight = np.exp((np.array(EXAMPLE) - mean) / temperature)
        values |= {f"weight_{k + 1}_at_{temperature}": w for k, w in enumerate(weight)}
        values |= {f"share_{k + 1}_at_{temperature}": s for k, s in enumerate(shares(EXAMPLE, temperature))}
        values[f"effective_at_{temperature}"] = effective_number(shares(EXAMPLE, temperature))
    values |= {"divided_by_3": shares(EXAMPLE, 3.0)[1], "effective_divided": effective_number(shares(EXAMPLE, 3.0))}
    values |= {"times_3": shares(EXAMPLE, 1 / 3)[1], "effective_times": effective_number(shares(EXAMPLE, 1 / 3))}
    values |= {"even": brentq(lambda t: gamble_share(t) - 0.5, 2.0, 20.0), "gamble_at_1": gamble_share(1.0)}
    values |= {"gamble_at_30": gamble_share(30.0)}
    hospital = _hospital_advantages()
    values |= {f"hospital_at_1_{scale}": _effective_share(hospital * scale, 1.0, capped=False) for scale in SCALES}
    values["rows_at_1_100"] = len(hospital) * values["hospital_at_1_100"]
    values["rows"] = f"{len(hospital):,}"
    values["better_rows"] = float((hospital > 0).mean())
    found = {t: monte_carlo_policy(t) for t in WIDE}
    worth = {t: stitching_world().policy_value(probs) for t, probs in found.items()}
    best = max(worth, key=lambda t: worth[t])
    values |= {"best_temperature": best, "best_worth": worth[best], "cold_worth": worth[WIDE[0]]}
    return Lesson(
        title="AWR: imitate, and let the better actions count for more",
        question="How much more should a good action count than a bad one, and what does it cost to count only the best?",
        figures=[_weights(), _scales(hospital), _stitching(found, worth)],
        values=values,
    )


# --- what the lesson computes -------------------------------------------------------------------------------------


def shares(returns: Any, temperature: float) -> Float[NumpyArray, " n"]:
    """(n,) the weights exp(return / temperature) of equally frequent rows, divided by their sum.

    The average return, which the advantage subtracts, cancels in the division.
    """
    scaled = np.asarray(returns, np.float64) / temperature
    weight = np.exp(scaled - scaled.max())
    return np.asarray(weight / weight.sum())


def effective_number(weight: Any) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rows a weighted average is as steady as (Kish 1965)."""
    w = np.asarray(weight, np.float64)
    return float(w.sum() ** 2 / (w**2).sum())


def divergence(probs: Any, behavior: Any) -> float:
    """KL(probs || behavior) in nats; an action of probability 0 adds nothing."""
    p, b = np.asarray(probs, np.float64), np.asarray(behavior, np.float64)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / b[p > 0])))


def gamble_share(temperature: float) -> float:
    """Weight of a gamble that pays 10 one time in ten beside a sure 2, both logged equally often and endlessly many times.

    Each row is weighted by its own return, so an action's weight is the mean of exp(return / temperature).
    """
    gamble = 0.9 * np.exp(-2.0 / temperature) + 0.1 * np.exp((10.0 - 2.0) / temperature)
    return float(gamble / (1.0 + gamble))


def monte_carlo_policy(temperature: float) -> Float[NumpyArray, "S A"]:
    """(9, 2) what AWR learns in the stitching world with td_lambda 1, in full: the shares of the logged actions in each state,
    times exp(advantage / temperature), the advantage being the return that followed minus the state's mean of it."""
    columns = stitching_columns(1)
    state, action, episode = columns["observation"].argmax(1), columns["action"], columns["episode"]
    paid = np.bincount(episode, columns["reward"])[
        episode
    ]  # rewards come at the end, so all of an episode's are still to come
    probs = np.full((len(STATES), 2), 0.5)
    for s in np.unique(state):
        here = state == s
        weight = np.zeros(2)
        np.add.at(weight, action[here], shares(paid[here], temperature))
        probs[s] = weight
    return probs


def _hospital_advantages() -> Float[NumpyArray, " N"]:
    """(N,) of each row of the hospital log: whether its stay ended in survival, minus the mean of that in its state."""
    log = demo_log()
    assert log.observation_id is not None  # the log that ships with the package numbers its states
    survived = log.episode_returns()[log.episode_of_transition]
    _, state = np.unique(log.observation_id, return_inverse=True)
    return np.asarray(survived - (np.bincount(state, survived) / np.bincount(state))[state])


def _effective_share(adv: Float[NumpyArray, " N"], temperature: float, *, capped: bool) -> float:
    """Effective number of rows over the number of rows, the weights capped at 20 (Peng et al. 2019, code) or not."""
    scaled = adv / temperature
    weight = np.minimum(np.exp(np.minimum(scaled, 50.0)), CAP) if capped else np.exp(scaled - scaled.max())
    return effective_number(weight) / len(adv)


def _counted(number: float) -> str:
    """An effective number of rows as a text."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


# --- figures ------------------------------------------------------------------------------------------------------


def _weights() -> Figure:
    """The three weights, and where they stand among all policies."""
    slider = Slider("temperature", "Temperature, in units of the return", TEMPERATURES, 5.0)
    names = [f"a{k + 1}, paid {r:g}" for k, r in enumerate(EXAMPLE)]
    uniform = np.full(3, 1 / 3)
    found = {t: shares(EXAMPLE, t) for t in TEMPERATURES}
    bars = [
        {"temperature": t, "action": name, "share": float(share), "text": f"{100 * share:.1f}%"}
        for t in TEMPERATURES
        for name, share in zip(names, found[t], strict=True)
    ]
    bar = (
        alt.Chart(rows(bars)).transform_filter(follows("temperature"))
        .encode(alt.X("action:N", title="Logged action", sort=None, axis=alt.Axis(labelAngle=0)),
                alt.Y("share:Q", title="Share of all weight", scale=alt.Scale(domain=[0, 1.08]), axis=PERCENT))
    )  # fmt: skip
    left = alt.layer(
        bar.mark_bar(color=COLORS[0], width=46),
        bar.mark_text(dy=-9).encode(text="text:N"),
    ).properties(width=250, height=270)

    def point(probs: Any, **more: Any) -> dict[str, Any]:
        return {"kl": round(divergence(probs, uniform), 4), "mean": round(float(probs @ np.array(EXAMPLE)), 4), **more}

    steps = range(21)
    others = [point(np.array([i, j, 20 - i - j]) / 20) for i, j in itertools.product(steps, steps) if i + j <= 20]
    line = [point(shares(EXAMPLE, t), at=float(t)) for t in np.geomspace(0.15, 500, 60)]
    x = alt.X("kl:Q", title="KL divergence from the log's policy (nats)", scale=alt.Scale(domain=[0, 1.15]))
    y = alt.Y("mean:Q", title="Mean return of the policy", scale=alt.Scale(domain=[0.8, 7.2]))
    right = alt.layer(
        alt.Chart(rows(others)).mark_point(color=MUTED, opacity=0.45, size=16, shape="cross").encode(x, y),
        alt.Chart(rows(line)).mark_line(color=COLORS[1]).encode(x, y, alt.Order("at:Q")),
        alt.Chart(rows([point(found[t], temperature=t) for t in TEMPERATURES]))
        .transform_filter(follows("temperature")).mark_point(color=COLORS[1], size=150, stroke=INK).encode(x, y),
    ).properties(width=250, height=270)  # fmt: skip
    return Figure(
        name="weights",
        title="Three actions, three weights. Lower the temperature: the best action takes over, "
        "and the dot climbs the edge of what is possible.",
        chart=alt.hconcat(left, right, spacing=34).add_params(*parameters([slider])),
        description="Left: the share of the total weight that each logged action gets. Right: each grey cross is a policy "
        "over the three actions, by its distance from the log and by its mean return; the orange line is exponential "
        "weighting at every temperature, and the dot is the present one. No policy lies above the line.",
        controls=[slider],
        numbers=[
            Number("effective", "Effective number of rows, of 3"), Number("best", "Share of the best action", 1, percent=True),
            Number("mean", "Mean return"), Number("kl", "KL divergence, nats", 3),
        ],
        frames=[
            {"temperature": t, "effective": effective_number(found[t]), "best": float(found[t].max()),
             "mean": float(found[t] @ np.array(EXAMPLE)), "kl": divergence(found[t], uniform)}
            for t in TEMPERATURES
        ],
    )  # fmt: skip


def _scales(hospital: Float[NumpyArray, " N"]) -> Figure:
    """Effective share of the hospital log's rows by temperature, for three units of the reward."""
    slider = Slider("temperature", "Temperature", WIDE, 1.0)
    choice = Choice("cap", "Weights", ("free", "capped"), "free", ("as they are", "at most 20"))
    share = {
        (cap, scale, t): _effective_share(hospital * scale, t, capped=cap == "capped")
        for cap, scale, t in itertools.product(("free", "capped"), SCALES, WIDE)
    }
    data = [
        {"cap": cap, "scale": SCALES[scale], "temperature_x": t, "share": round(value, 6)}
        for (cap, scale, t), value in share.items()
    ]
    names = list(SCALES.values())
    labels = []
    for cap, (scale, name) in itertools.product(("free", "capped"), SCALES.items()):
        of = {t: share[cap, scale, t] for t in WIDE}
        aim = min(of.values()) if cap == "capped" else 0.5
        at = WIDE[int(np.argmin([abs(of[t] - aim) for t in WIDE]))]
        labels.append({"cap": cap, "scale": name, "temperature_x": at, "share": of[at], "text": f"pays {scale}"})

    def encoded(data: list[dict[str, Any]]) -> Any:
        return alt.Chart(rows(data)).transform_filter(follows("cap")).encode(
            alt.X("temperature_x:Q", title="Temperature (logarithmic)", scale=alt.Scale(type="log", domain=[0.01, 100]),
                  axis=alt.Axis(values=[0.01, 0.1, 1, 10, 100], format="~g", grid=False)),
            alt.Y("share:Q", title="Effective share of the log's rows", scale=alt.Scale(domain=[0, 1]), axis=PERCENT),
            alt.Color("scale:N", legend=None, sort=names),
        )  # fmt: skip

    now = encoded(data).transform_filter("datum.temperature_x == temperature")
    rule = now.mark_rule(strokeDash=[3, 3]).encode(y=alt.value(0), y2=alt.value("height"), color=alt.value(MUTED))
    line = encoded(data).mark_line().encode(alt.StrokeDash("scale:N", sort=names, legend=None))
    dots = now.mark_point(size=110).encode(alt.Shape("scale:N", sort=names, legend=None))
    label = encoded(labels).encode(text="text:N")
    beside = label.transform_filter("datum.cap == 'free'").mark_text(align="right", dx=-10, fontWeight="bold")
    below = label.transform_filter("datum.cap == 'capped'").mark_text(dy=18, fontWeight="bold")
    return Figure(
        name="scales",
        title="One hospital log, written in three units of reward. The same temperature means three different things.",
        chart=alt.layer(rule, line, dots, beside, below)
        .properties(height=280)
        .add_params(*parameters([slider, choice])),
        description="The share of the hospital log's rows that effectively counts under the weights "
        "exp(advantage / temperature), the advantage being the end of the stay minus the mean end from the same state. "
        f"The log has {len(hospital):,} rows.",
        controls=[slider, choice],
        numbers=[Number(f"at_{scale}", f"Effective rows where {name}") for scale, name in SCALES.items()],
        frames=[
            {"temperature": t, "cap": cap}
            | {f"at_{scale}": _counted(len(hospital) * share[cap, scale, t]) for scale in SCALES}
            for t, cap in itertools.product(WIDE, ("free", "capped"))
        ],
    )


def _stitching(found: dict[float, Float[NumpyArray, "S A"]], worth: dict[float, float]) -> Figure:
    """AWR in the stitching world at every temperature, exactly."""
    slider = Slider("temperature", "Temperature", WIDE, 3.2, play=True)
    moves = ("from s1 to s3", "from s3 to s6")
    bars = [
        {"temperature": t, "move": move, "probability": float(p), "text": f"{100 * p:.0f}%"}
        for t, probs in found.items()
        for move, p in zip(moves, (probs[S1, 0], probs[S3, 1]), strict=True)
    ]
    bar = alt.Chart(rows(bars)).transform_filter(follows("temperature")).encode(
        alt.X("move:N", title="Move on the best route", sort=None, axis=alt.Axis(labelAngle=0)),
        alt.Y("probability:Q", title="Probability under AWR", scale=alt.Scale(domain=[0, 1.08]), axis=PERCENT),
    )  # fmt: skip
    left = alt.layer(
        bar.mark_bar(width=60).encode(alt.Color("move:N", legend=None, sort=None)), bar.mark_text(dy=-9).encode(text="text:N")
    ).properties(width=220, height=250)  # fmt: skip
    line = alt.Chart(rows([{"x": t, "value": v} for t, v in worth.items()])).encode(
        alt.X("x:Q", title="Temperature (logarithmic)", scale=alt.Scale(type="log", domain=[0.01, 100]),
              axis=alt.Axis(values=[0.01, 0.1, 1, 10, 100], format="~g", grid=False)),
        alt.Y("value:Q", title="Exact value from s1", scale=alt.Scale(domain=[6, 10.4])),
    )  # fmt: skip
    known = [{"value": 10.0, "text": "best route there is: 10"}, {"value": 7.0, "text": "best route logged from s1: 7"}]
    marks = alt.Chart(rows(known)).encode(
        alt.Y("value:Q", scale=alt.Scale(domain=[6, 10.4]))
    )  # fmt: skip
    right = alt.layer(
        marks.mark_rule(strokeDash=[4, 4]), marks.mark_text(align="left", x=6, dy=12, color=MUTED).encode(text="text:N"),
        line.mark_line(color=COLORS[2]),
        line.transform_filter("datum.x == temperature").mark_point(color=COLORS[2], size=140, stroke=INK),
    ).properties(width=280, height=250)  # fmt: skip
    return Figure(
        name="stitching",
        title="In the stitching world a colder AWR is surer of the right move at s3, "
        "and of the wrong move at s1.",
        chart=alt.hconcat(left, right, spacing=30).resolve_scale(color="independent").add_params(*parameters([slider])),
        description="Left: the probabilities of the two moves that make the best route, s1 to s3 and then s6. "
        "Right: the exact value of the policy from s1 at every temperature; the dot is the present one.",
        controls=[slider],
        numbers=[
            Number("first", "s1 to s3", 1, percent=True), Number("second", "s3 to s6", 1, percent=True),
            Number("value", "Exact value from s1"),
        ],
        frames=[
            {"temperature": t, "first": float(probs[S1, 0]), "second": float(probs[S3, 1]), "value": worth[t]}
            for t, probs in found.items()
        ],
    )  # fmt: skip
