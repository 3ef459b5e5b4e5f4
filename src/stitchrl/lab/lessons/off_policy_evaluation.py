"""Off-policy evaluation: what a policy that never ran would have earned, and how far to believe the answer."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt
import numpy as np
from scipy import stats

from stitchrl.evaluation.estimators.weights_then_value import weights_then_value
from stitchrl.lab.figures import COLORS, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.lab.ward_logs import (
    EPISODES,
    HORIZONS,
    LOGGED,
    LOGS,
    all_estimates,
    corrections,
    coverage,
    fitted_values,
    logs,
    padded,
    q_by_step,
    treats,
    ward,
    weights_of,
)

__all__ = ["lesson", "second_moment"]

CHANCES = (0.6, 0.75, 0.9)
SHOWN = 8
"""How many of the logs the reader can look at one by one."""
NAMES = ("IS", "PDIS", "WIS", "PDWIS", "DR", "WDR", "model")
SIZES = (50, 100, 200)


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="Off-policy evaluation: the worth of a policy that never ran",
        question="What would a policy have earned that nobody has tried, and how far can an estimate of it be believed?",
        figures=[_weights(), _estimators(), _doubly_robust(), _intervals()],
        values=_values(),
    )


def second_moment(chance: float, steps: int, logged: float = LOGGED) -> float:
    """E[w^2] of a product of ratios over so many steps: (sum_a policy(a)^2 / logged(a)) to their power."""
    return float((chance**2 / logged + (1 - chance) ** 2 / (1 - logged)) ** steps)


def _weights() -> Figure:
    """Where the log's episodes are, and where its weight is."""
    slider = Slider("horizon", "Days in an episode", (1, 2, 3, 5, 8, 12, 20, 30), 3, play=True)
    choice = Choice("chance", "The policy treats with chance", (0.5, *CHANCES), 0.75)
    shown, frames = [], []
    for steps, chance in itertools.product(slider.values, choice.values):
        treated = np.arange(int(steps) + 1)
        series = {"episodes of the log": LOGGED, "weight on them": float(chance)}
        for name, by in series.items():
            mass = stats.binom.pmf(treated, int(steps), by)
            shown += [
                {"horizon": steps, "chance": chance, "of": name, "share": k / int(steps), "mass": round(float(m), 5)}
                for k, m in zip(treated, mass, strict=True)
            ]
        moment = second_moment(float(chance), int(steps))
        frames.append(
            {
                "horizon": steps,
                "chance": chance,
                "largest": (2 * float(chance)) ** int(steps),
                "moment": moment,
                "effective": 1000 / moment,
            }
        )
    base = (
        alt.Chart(rows(shown))
        .transform_filter(follows("horizon", "chance"))
        .encode(
            alt.X("share:Q", title="Share of days on which the patient was treated", axis=alt.Axis(format="%")),
            alt.Y("mass:Q", title="Share of episodes, or of weight", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            alt.Color("of:N", title=None),
        )
    )  # fmt: skip
    lines = base.mark_line().encode(alt.StrokeDash("of:N", legend=None))
    points = base.mark_point(size=60).encode(alt.Shape("of:N", legend=None))
    return Figure(
        name="weights",
        title="As episodes grow longer, the log's episodes and its weight part company.",
        chart=alt.layer(lines, points).properties(height=280).add_params(*parameters([slider, choice])),
        description="Episodes in which every day was treated or not by the toss of a fair coin, and the weight "
        "that they carry in the estimate "
        "of a policy that treats more often. All numbers are exact. Where the curves no longer overlap, the "
        "episodes that the estimate "
        "rests on are hardly in any log.",
        controls=[slider, choice],
        numbers=[
            Number("largest", "Largest possible weight", 1),
            Number("moment", "Mean square of the weight", 1),
            Number("effective", "Of 1,000 episodes, worth", 1),
        ],
        frames=frames,
    )


def _estimators() -> Figure:
    """Seven estimators on the same logs, and their spread over many."""
    days = Choice("days", "Days in an episode", HORIZONS, 10)
    chance = Choice("chance", "The policy treats with chance", CHANCES, 0.9)
    log = Slider("log", "Look at log number", tuple(range(1, SHOWN + 1)), 1, play=True)
    spread, dots, truths, frames = [], [], [], []
    for steps, by in itertools.product(HORIZONS, CHANCES):
        at = {"days": steps, "chance": by}
        found, truth = all_estimates(by, steps), ward().policy_value(treats(by), horizon=steps) / steps
        truths.append({**at, "truth": truth})
        for name in NAMES:
            low, high = np.quantile(found[name] / steps, [0.05, 0.95])
            spread.append({**at, "name": name, "low": round(float(low), 4), "high": round(float(high), 4)})
        for k in range(SHOWN):
            values = {name: float(found[name][k]) / steps for name in NAMES}
            dots += [{**at, "log": k + 1, "name": name, "value": round(value, 4)} for name, value in values.items()]
            frames.append(
                {
                    **at,
                    "log": k + 1,
                    "truth": truth,
                    "ess": float(found["ess"][k]),
                    "apart": max(values.values()) - min(values.values()),
                }
            )
    y = alt.Y("name:N", title=None, sort=list(NAMES))
    x: dict[str, Any] = {
        "title": "Share of days in good health, estimated",
        "scale": alt.Scale(domain=[0, 1.5]),
        "axis": alt.Axis(format="%"),
    }
    bars = (
        alt.Chart(rows(spread)).transform_filter(follows("days", "chance")).mark_bar(height=14, opacity=0.35, clip=True)
    )
    points = alt.Chart(rows(dots)).transform_filter(follows("days", "chance", "log"))
    rule = alt.Chart(rows(truths)).transform_filter(follows("days", "chance")).mark_rule(color=INK, strokeDash=[5, 3])
    chart = alt.layer(
        bars.encode(alt.X("low:Q", **x), alt.X2("high:Q"), y),
        rule.encode(alt.X("truth:Q", **x)),
        points.mark_point(color=COLORS[1], size=110, clip=True).encode(
            alt.X("value:Q", **x), y, tooltip=["name:N", "value:Q"]
        ),
    )
    return Figure(
        name="estimators",
        title="Seven estimates of the same policy. The dashed line is the truth.",
        chart=chart.properties(height=270).add_params(*parameters([days, chance, log])),
        description=f"Bars: the middle 90% of the estimates from {LOGS} logs of {EPISODES} patients each. Dots: "
        "what the chosen log gives. The model, which DR and WDR use too, was fitted to another log of the same size. The "
        "axis ends at 150%: dots and bars may lie beyond it, though no patient has more good days than days.",
        controls=[days, chance, log],
        numbers=[
            Number("truth", "True share of good days", 1, percent=True),
            Number("ess", f"{EPISODES} episodes of this log are worth", 1),
            Number("apart", "Estimates of this log lie apart by", 1, percent=True),
        ],
        frames=frames,
    )


def _doubly_robust() -> Figure:
    """What becomes of three estimates where the model is wrong, where the propensities are, and where both are."""
    model = Slider("model", "The model's Q is the true one times", (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), 0.5)
    claimed = Choice("claimed", "Propensities", ("right", "wrong"), "right")
    truth = ward().policy_value(treats(0.75), horizon=10)
    shown, frames = [], []
    for c, says in itertools.product(model.values, claimed.values):
        found = corrections(LOGGED if says == "right" else 0.6)
        # Doubly robust estimation is linear in Q: 0 gives PDIS.
        estimates = {
            "PDIS": found["PDIS"],
            "model": c * found["model"],
            "DR": found["PDIS"] + c * (found["DR"] - found["PDIS"]),
        }
        for name, values in estimates.items():
            low, high = np.quantile(values, [0.05, 0.95])
            shown.append({"model": c, "claimed": says, "name": name, "low": low, "high": high, "mean": values.mean()})
        made = {
            f"error_{key}": float(np.sqrt(((estimates[name] - truth) ** 2).mean()))
            for key, name in zip("pmd", estimates, strict=True)
        }
        frames.append({"model": c, "claimed": says, **made, "mean_d": float(estimates["DR"].mean())})
    base = alt.Chart(rows(shown)).transform_filter(follows("model", "claimed"))
    y = alt.Y("name:N", title=None, sort=["model", "PDIS", "DR"])
    x: dict[str, Any] = {"title": "Days in good health, of 10", "scale": alt.Scale(domain=[0, 16])}
    color = alt.Color("name:N", legend=None, sort=["model", "PDIS", "DR"])
    rule = alt.Chart(rows([{"truth": truth}])).mark_rule(color=INK, strokeDash=[5, 3]).encode(alt.X("truth:Q", **x))
    chart = alt.layer(
        base.mark_bar(height=16, opacity=0.45, clip=True).encode(alt.X("low:Q", **x), alt.X2("high:Q"), y, color),
        rule,
        base.mark_point(size=110, shape="diamond").encode(alt.X("mean:Q", **x), y, color),
    )
    return Figure(
        name="doubly_robust",
        title="Make the model wrong, then the propensities. The doubly robust estimate fails only with both.",
        chart=chart.properties(height=170).add_params(*parameters([model, claimed])),
        description=f"Bars: the middle 90% of the estimates from {LOGS} logs of {EPISODES} patients; diamonds: "
        "their mean; dashed: the truth. The "
        "policy treats with chance 0.75. Wrong propensities: the log says that it treated with chance 0.6, and it was 0.5.",
        controls=[model, claimed],
        numbers=[
            Number("error_m", "Error of the model alone, root mean square"),
            Number("error_p", "of PDIS"),
            Number("error_d", "of DR"),
            Number("mean_d", f"Mean of DR (truth {truth:.2f})"),
        ],
        frames=frames,
    )


def _intervals() -> Figure:
    """Nominal 95% intervals on the first 50 logs, and how often they hold the truth."""
    ways = {"spread": "spread of V over patients", "refit": "model refitted in each resample"}
    way = Choice("way", "Interval", tuple(ways), "spread", names=tuple(ways.values()))
    size = Choice("size", "Patients in a log", SIZES, 100)
    truth = ward().policy_value(treats(0.75), horizon=10)
    shown, frames = [], []
    for name, episodes in itertools.product(ways, SIZES):
        ends = coverage(episodes)[name]
        holds = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        shown += [
            {
                "way": name,
                "size": episodes,
                "log": k + 1,
                "low": round(float(low), 3),
                "high": round(float(high), 3),
                "holds": "holds the truth" if ok else "misses the truth",
            }
            for k, ((low, high), ok) in enumerate(zip(ends[:50], holds[:50], strict=True))
        ]
        width = float((ends[:, 1] - ends[:, 0]).mean())
        frames.append({"way": name, "size": episodes, "covers": float(holds.mean()), "width": width})
    y: dict[str, Any] = {"title": "Days in good health, of 10", "scale": alt.Scale(domain=[4.5, 9])}
    kinds = alt.Scale(domain=["holds the truth", "misses the truth"], range=[COLORS[0], COLORS[1]])
    bars = (
        alt.Chart(rows(shown))
        .transform_filter(follows("way", "size"))
        .mark_rule()
        .encode(
            alt.X("log:Q", title="Log", scale=alt.Scale(domain=[0, 51], nice=False)),
            alt.Y("low:Q", **y),
            alt.Y2("high:Q"),
            alt.Color("holds:N", title=None, scale=kinds),
            alt.StrokeWidth(
                "holds:O", title=None, sort=kinds.domain, scale=alt.Scale(domain=kinds.domain, range=[6, 2.5])
            ),
        )
    )
    rule = alt.Chart(rows([{"truth": truth}])).mark_rule(color=MUTED, strokeDash=[5, 3]).encode(alt.Y("truth:Q", **y))
    return Figure(
        name="intervals",
        title="Fifty logs of the same ward, each with an interval that is called 95%.",
        chart=alt.layer(bars, rule).properties(height=280).add_params(*parameters([way, size])),
        description="Each bar is the interval of the model's value from one log; the dashed line is the truth. "
        "The share below the chart is of all "
        f"{LOGS} logs. The model is the table of what followed what in the log, so nothing is wrong but the interval.",
        controls=[way, size],
        numbers=[
            Number("covers", "Intervals that hold the truth (should be 95%)", 0, percent=True),
            Number("width", "Mean width, days"),
        ],
        frames=frames,
    )


def _values() -> dict[str, Any]:
    """Numbers of the prose."""
    steps, chance = 10, 0.75
    truth = ward().policy_value(treats(chance), horizon=steps)
    short = all_estimates(chance, 5)
    error = {name: float((short[name] - short[name].mean()).std()) for name in ("WIS", "RIS")}
    drawn, policy = logs(LOGS, EPISODES, max(HORIZONS), 0), treats(chance)
    q, v = q_by_step(ward().transition, policy, steps)
    hybrid: dict[float, list[float]] = {1.0: [], 0.5: []}
    for state, action, reward in zip(drawn.state, drawn.action, drawn.reward, strict=True):
        s, a, episodes = state[:, :steps], action[:, :steps], padded(reward[:, :steps])
        weight = weights_of(episodes, s, a, policy, treats(LOGGED))
        for c, values in hybrid.items():
            values.append(weights_then_value(episodes, weight, fitted_values(c * q, c * v, s, a), 3).value())
    found = corrections(LOGGED)
    covers = {
        name: float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()) for name, ends in coverage(100).items()
    }
    far = all_estimates(0.9, 20)
    return {
        "truth": truth,
        "logged": ward().policy_value(treats(LOGGED), horizon=steps),
        "moment_1": second_moment(0.75, 1),
        "moment_10": second_moment(0.75, 10),
        "moment_20": second_moment(0.9, 20),
        "is_spread": float(far["IS"].std()),
        "wis_mean": float(far["WIS"].mean()),
        "far_truth": ward().policy_value(treats(0.9), horizon=20),
        "wis_error": error["WIS"],
        "ris_error": error["RIS"],
        "ris_mean": float(all_estimates(chance, steps)["RIS"].mean()),
        "hybrid_right": float(np.mean(hybrid[1.0])),
        "hybrid_wrong": float(np.mean(hybrid[0.5])),
        "dr_right": float(found["DR"].mean()),
        "dr_wrong": float((found["PDIS"] + 0.5 * (found["DR"] - found["PDIS"])).mean()),
        "covers_spread": covers["spread"],
        "covers_refit": covers["refit"],
        "logs": LOGS,
        "episodes": EPISODES,
    }
