"""Comparing methods: what joins episodes, what believes in the unseen, and that these are two questions."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.losses import MAX_WEIGHT
from stitchrl.lab.figures import COLORS, INK, MUTED, SHAPES, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.lab.two_worlds import ALGORITHMS, DAYS, LENGTHS, NOISES, SCALES, SEEDS, joining_world, learned, trap_world
from stitchrl.types import NumpyArray

__all__ = ["Measured", "extracted", "lesson", "measured"]

SIZES = ("short", "long")
LOUD = ("none", "coin tosses")
KINDS = ("imitates", "learns from returns", "learns from values", "no caution")
KIND = {
    "BC": KINDS[0], "FilteredBC": KINDS[0], "AWR": KINDS[1], "AWAC": KINDS[2], "IQL": KINDS[2], "CQL": KINDS[2],
    "BCQ": KINDS[2], "DQN": KINDS[3],
}  # fmt: skip
CAREFUL = tuple(name for name, kind in KIND.items() if kind == KINDS[2])
HEIGHT, ROOM = 300, 19
"""Height of the inside of the scatter, and the least distance between two of its names, in pixels."""
LOWEST, HIGHEST = -6.0, 45.0
"""Ends of the scatter's axis of errors."""

# --- one state, two heaps of actions ------------------------------------------------------------------------------------------

BETAS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
GAPS = (0.1, 0.3, 1.0, 3.0)
RIGHT, EXPECTILE = 0.4, 0.7


class Measured(NamedTuple):
    """An algorithm in both worlds, means over seeds.

    Attributes:
        joined: exact value of its policy in the joining world.
        trapped: the same in the trap.
        error: its claim in the trap less that; None where it claims nothing.
        unlogged: probability of treatments that nobody gave, in the trap.
        spread: least and most of `joined`, and of `error` (both 0 where it claims nothing), over the seeds.
    """

    joined: float
    trapped: float
    error: float | None
    unlogged: float
    spread: tuple[float, float, float, float]


@cache
def measured(name: str, size: str, noise: str) -> Measured:
    """What was measured of an algorithm: `size` is one of `SIZES`, `noise` one of `LOUD`."""
    at, loud = SIZES.index(size), NOISES[LOUD.index(noise)]
    joining, trap = learned(name, "joining", LENGTHS[at], loud), learned(name, "trap", DAYS[at], loud)
    joined = [seed.reached for seed in joining]
    errors = [0.0 if math.isnan(seed.claimed) else seed.claimed - seed.reached for seed in trap]
    return Measured(
        float(np.mean(joined)),
        float(np.mean([seed.reached for seed in trap])),
        None if math.isnan(trap[0].claimed) else float(np.mean(errors)),
        float(np.mean([seed.unlogged for seed in trap])),
        (min(joined), max(joined), min(errors), max(errors)),
    )


def lesson() -> Lesson:
    """The page."""
    short, long = ({name: measured(name, size, LOUD[0]) for name in ALGORITHMS} for size in SIZES)
    noisy = {name: measured(name, SIZES[1], LOUD[1]) for name in ALGORITHMS}
    noisy_short = {name: measured(name, SIZES[0], LOUD[1]) for name in ALGORITHMS}
    action, weights = extracted(1.0, 1.0)
    alike, _ = extracted(10.0, 0.1)
    return Lesson(
        title="Comparing methods: joining and believing",
        question="Must a method that joins the good parts of episodes also believe in what nobody did?",
        figures=[_scatter(), _extraction()],
        values={
            "short": short,
            "long": long,
            "noisy": noisy,
            "noisy_short": noisy_short,
            "noisy_most": max(found[name].error or 0.0 for found in (noisy, noisy_short) for name in CAREFUL),
            "seeds": SEEDS,
            "shrunk": 1 / SCALES["BCQ"],
            "best_trap": trap_world(DAYS[1], 0.0).policy_value(_best_logged(DAYS[1])),
            "best_joined": joining_world(1, 0.0).policy_value(joining_world(1, 0.0).optimal_policy()),
            "days": DAYS[1],
            "action": action,
            "worth": float(_worth(action, 1.0)),
            "away": _away(action),
            "weights": weights,
            "alike": alike,
            "alike_worth": float(_worth(alike, 0.1)),
        },
    )


def _best_logged(days: int) -> Float[NumpyArray, "S A"]:
    states = trap_world(days, 0.0).num_states
    return np.tile([0.0, 1.0, 0.0, 0.0], (states, 1))


# --- the scatter ---------------------------------------------------------------------------------------------------------------


def _squeezed(error: float) -> float:
    """Position of an error on the axis, as the scale "symlog" puts it."""
    return math.copysign(math.log1p(abs(error)), error)


def _apart(errors: list[float]) -> list[float]:
    """Where to write names beside points of these errors so that none covers another: same order, `ROOM` pixels apart."""
    span = (_squeezed(HIGHEST) - _squeezed(LOWEST)) / HEIGHT
    order = sorted(range(len(errors)), key=lambda k: errors[k])
    at = [_squeezed(errors[k]) for k in order]
    for _ in range(200):
        for low in range(len(at) - 1):
            missing = ROOM * span - (at[low + 1] - at[low])
            if missing > 0:
                at[low], at[low + 1] = at[low] - missing / 2, at[low + 1] + missing / 2
        if at:
            at[0] = max(at[0], _squeezed(LOWEST) + 8 * span)
    placed = dict(zip(order, at, strict=True))
    return [math.copysign(math.expm1(abs(placed[k])), placed[k]) for k in range(len(errors))]


def _scatter() -> Figure:
    """Value reached in the joining world against the error of the claim in the trap."""
    size = Choice("size", "Worlds", SIZES, "short")
    noise = Choice("noise", "Noise in what is paid", LOUD, "none")
    who = Choice("algorithm", "Numbers of", tuple(ALGORITHMS), "IQL")
    points: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for s, n in itertools.product(SIZES, LOUD):
        found = {name: measured(name, s, n) for name in ALGORITHMS}
        for side in (True, False):  # left and right of the scatter, each with a column of names
            names = [name for name in reversed(ALGORITHMS) if (found[name].joined < 8.5) == side]
            heights = _apart(
                [(found[name].error or 0.0) + 1.5 * side for name in names]
            )  # on the left above the line of 0
            for name, height in zip(names, heights, strict=True):
                one, spread = found[name], found[name].spread
                points.append(
                    {"size": s, "noise": n, "name": name, "kind": KIND[name], "claims": one.error is not None,
                     "x": round(one.joined, 3), "x0": round(spread[0], 3), "x1": round(spread[1], 3),
                     "y": round(one.error or 0.0, 3), "y0": round(spread[2], 3), "y1": round(spread[3], 3),
                     "from": 8.35 if side else 10.65, "at": round(height, 3)}
                )  # fmt: skip
        frames += [
            {"size": s, "noise": n, "algorithm": name, "joined": one.joined, "trapped": one.trapped, "unlogged": one.unlogged,
             "error": "claims nothing" if one.error is None else f"{one.error:+.2f}".replace("-", "\N{MINUS SIGN}")}
            for name, one in found.items()
        ]  # fmt: skip
    return Figure(
        name="scatter",
        title="Eight methods in two worlds. To the right: it joins episodes. Away from 0: its claim is not the truth.",
        chart=_picture(points).add_params(*parameters([size, noise, who])),
        description="Across: the exact value of the learned policy in the joining world, where 7 is the best single episode "
        "from the start and 10 the best that joining gives. Up: what the method claims in the trap, less the exact value of its "
        f"policy there; hollow marks claim nothing and stand at 0. Means over {SEEDS} seeds, whose range is drawn as thin bars. "
        "Steps of the upward axis grow.",
        controls=[size, noise, who],
        numbers=[
            Number("joined", "Reached in the joining world"),
            Number("trapped", "Reached in the trap"),
            Number("error", "Claimed minus reached there"),
            Number("unlogged", "Treatments nobody gave", 0, percent=True),
        ],
        frames=frames,
    )


def _picture(points: list[dict[str, Any]]) -> Any:
    base = alt.Chart(rows(points)).transform_filter(follows("size", "noise"))
    across_axis = alt.Axis(values=[6, 7, 8, 9, 10], format="d")
    x = alt.X(
        "x:Q", title="Exact value reached in the joining world", scale=alt.Scale(domain=[6, 12]), axis=across_axis
    )
    up = alt.Scale(type="symlog", constant=1, domain=[LOWEST, HIGHEST])
    up_axis = alt.Axis(values=[-5, -2, 0, 2, 5, 10, 20, 40], format="d", labelOverlap=False)
    y = alt.Y("y:Q", title="Claimed minus exact value in the trap", scale=up, axis=up_axis)
    hues = alt.Scale(domain=list(KINDS), range=[COLORS[0], COLORS[4], COLORS[2], COLORS[1]])
    color = alt.Color("kind:N", title=None, scale=hues, legend=alt.Legend(columns=2))
    shape = alt.Shape("kind:N", title=None, scale=alt.Scale(domain=list(KINDS), range=list(SHAPES[:4])))
    zero = alt.Chart(rows([{"y": 0.0}])).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=y)
    leader = base.mark_rule(color=MUTED, strokeWidth=0.8, opacity=0.7).encode(x, y, x2="from:Q", y2="at:Q")
    across = base.mark_rule(strokeWidth=2).encode(alt.X("x0:Q"), y, color, x2="x1:Q")
    upward = base.mark_rule(strokeWidth=2).encode(x, alt.Y("y0:Q"), color, y2="y1:Q")
    full = base.transform_filter("datum.claims").mark_point(size=120, opacity=1).encode(x, y, color, shape)
    hollow = base.transform_filter("!datum.claims").mark_point(size=120, filled=False, strokeWidth=2, opacity=1)
    ring = base.transform_filter("datum.name == algorithm").mark_point(
        size=420, filled=False, color=INK, strokeWidth=1.5
    )
    name = base.mark_text(align="left", dx=4).encode(x="from:Q", y="at:Q", text="name:N")
    chosen = base.transform_filter("datum.name == algorithm").mark_text(align="left", dx=4, fontWeight="bold")
    return alt.layer(
        zero, leader, across, upward, full, hollow.encode(x, y, color, shape), ring.encode(x, y),
        name.transform_filter("datum.name != algorithm"), chosen.encode(x="from:Q", y="at:Q", text="name:N"),
    ).properties(height=HEIGHT + 100)  # fmt: skip


# --- a policy that leaves the log although its critic asked for nothing else ----------------------------------------------------


@cache
def _logged() -> tuple[Float[NumpyArray, " N"], Any]:
    """(N,) logged actions, three in five to the left and two in five to the right, and which are right."""
    rng = np.random.default_rng(2)
    right = np.arange(50) < 50 * RIGHT
    return np.where(right, 0.5, -0.5) + rng.normal(0.0, 0.07, 50), right


def extracted(inverse_temperature: float, gap: float) -> tuple[float, tuple[float, float]]:
    """IQL's policy in one state, exactly: the mean of the normal that maximises E[w log pi(a|s)], and the weights of both sides.

    The left actions are worth 0 and the right ones `gap`; V is their expectile, and the weights are
    w = min(exp(inverse_temperature (Q - V)), 100) (Kostrikov, Nair and Levine 2022, eq. 5 and 7). The best mean is the weighted
    mean of the logged actions.
    """
    action, right = _logged()
    high, low = EXPECTILE * RIGHT, (1 - EXPECTILE) * (1 - RIGHT)
    value = gap * high / (high + low)
    weights = [min(math.exp(min(inverse_temperature * (q - value), 50.0)), MAX_WEIGHT) for q in (0.0, gap)]
    each = np.where(right, weights[1], weights[0])
    return float((each * action).sum() / each.sum()), (weights[0], weights[1])


def _worth(action: Any, gap: float) -> Any:
    """What an action is worth: 0 on the left, `gap` on the right, and an obstacle between them that costs 5."""
    a = np.asarray(action)
    return gap / (1 + np.exp(-20 * a)) - 5 * np.exp(-((a / 0.2) ** 2))


def _away(action: float) -> float:
    return float(np.abs(_logged()[0] - action).min())


def _extraction() -> Figure:
    """The policy that weighted imitation gives."""
    beta = Slider("beta", "Inverse temperature", BETAS, 1.0)
    better = Slider("gap", "How much better right is", GAPS, 1.0)
    action, right = _logged()
    curves = [
        {"gap": gap, "a": round(float(a), 3), "q": round(float(_worth(a, gap)), 3)}
        for gap in GAPS
        for a in np.linspace(-1, 1, 161)
    ]
    ticks: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for b, gap in itertools.product(BETAS, GAPS):
        mean, weights = extracted(b, gap)
        share = np.where(right, weights[1], weights[0])
        share = share / share.max()
        at = {"beta": b, "gap": gap}
        ticks += [
            at | {"a": round(float(a), 3), "q": -6.1, "w": round(float(w), 3)}
            for a, w in zip(action, share, strict=True)
        ]
        frames.append(at | {"action": mean, "worth": float(_worth(mean, gap)), "away": _away(mean), "best": gap})
    x = alt.X("a:Q", title="Action: steer left or right", scale=alt.Scale(domain=[-1, 1]))
    curve = alt.Chart(rows(curves)).transform_filter(follows("gap")).mark_line(color=COLORS[0])
    y = alt.Y("q:Q", title="What the action is worth", scale=alt.Scale(domain=[-6.5, 3.5]))
    logged = (
        alt.Chart(rows(ticks)).transform_filter(follows("beta", "gap")).mark_tick(color=INK, thickness=1.5, height=16)
    )
    faint = alt.Opacity("w:Q", scale=alt.Scale(domain=[0, 1], range=[0.08, 1]), legend=None)
    strip = logged.encode(x, y, opacity=faint)
    drawn = [{"beta": f["beta"], "gap": f["gap"], "a": f["action"], "q": f["worth"], "text": "policy"} for f in frames]
    policy = alt.Chart(rows(drawn)).transform_filter(follows("beta", "gap"))
    drop = policy.mark_rule(color=COLORS[1], strokeDash=[5, 3]).encode(x)
    dot = policy.mark_point(shape="diamond", size=190, color=COLORS[1], opacity=1).encode(x, y)
    label = policy.mark_text(dx=10, dy=-13, align="left", color=COLORS[1], fontWeight="bold").encode(
        x, y, text="text:N"
    )
    return Figure(
        name="extraction",
        title="IQL's critic asked only for logged actions. Its policy, one normal distribution, stands between them.",
        chart=alt.layer(curve.encode(x, y), strip, drop, dot, label)
        .properties(height=300)
        .add_params(*parameters([beta, better])),
        description="The curve is what an action is worth; an obstacle is straight ahead. Ticks at the foot are the 50 logged "
        "actions, the fainter the less weight IQL gives them. The diamond is the mean of the policy, the weighted mean of the "
        "logged actions.",
        controls=[beta, better],
        numbers=[
            Number("action", "Action of the policy"),
            Number("worth", "What it is worth"),
            Number("best", "Best logged actions"),
            Number("away", "Distance to the nearest logged one"),
        ],
        frames=frames,
    )
