"""BCQ and BEAR: two ways to let a maximum see only what the log supports."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import altair as alt
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.bear import mean_discrepancy
from stitchrl.lab.dosing import DOSES, GIVEN, counted, likely, limited, ward
from stitchrl.lab.figures import COLORS, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.types import NumpyArray

__all__ = ["averages", "discrepancy", "divergence", "lesson", "outside"]

# --- the ward ---------------------------------------------------------------------------------------------------------------

SIZES = (30, 100, 1000)
"""Episodes in a log."""
LOGS = 100
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)

# --- actions on a line --------------------------------------------------------------------------------------------------------

LINE = np.linspace(-3.0, 3.0, 601)
SHAPES_OF_POLICY = ("as logged", "sure, inside", "wide, inside", "shifted", "two peaks outside")
WIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0)
ALLOWED = 0.05
"""BEAR's own threshold of its discrepancy."""
DEGREE = 6
CANDIDATES = (1, 3, 10, 100)
LIMITS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


def lesson() -> Lesson:
    """The page."""
    exact, world = GIVEN / GIVEN.max(), ward()
    true_q = world.action_values(world.optimal_policy())
    inside = np.where((exact > 0.1)[None], true_q, -np.inf)
    soft = np.exp(inside - inside.max(1, keepdims=True))
    return Lesson(
        title="BCQ and BEAR: only what the log supports",
        question="How do you tell a maximum which actions it may look at, and what does it mean to stay close to a log?",
        figures=[_threshold(), _candidates(), _discrepancies()],
        values={
            "relative": ", ".join(str(dose) for dose in np.flatnonzero(exact > 0.3)),
            "absolute": ", ".join(str(dose) for dose in np.flatnonzero(GIVEN > 0.3)),
            "best": world.policy_value(world.optimal_policy()),
            "behavior": world.policy_value(np.tile(GIVEN, (world.num_states, 1))),
            "mode": world.policy_value(np.eye(DOSES)[np.full(world.num_states, GIVEN.argmax())]),
            "argmax": world.policy_value(np.eye(DOSES)[inside.argmax(1)]),
            "softmax": world.policy_value(soft / soft.sum(1, keepdims=True)),
            "at": averages(100),
            "few": max(mean["true"] for mean in averages(30).values()),
            "many": averages(1000),
            "kl_sure": divergence("sure, inside"),
            "wide_20_inside": discrepancy("sure, inside", "gaussian", 20.0),
            "wide_20_outside": discrepancy("two peaks outside", "gaussian", 20.0),
            "narrow_inside": discrepancy("sure, inside", "gaussian", 0.03),
            "narrow_outside": discrepancy("two peaks outside", "gaussian", 0.03),
            "shifted_outside": outside("shifted"),
            "sampled": {shape: _sampled(shape) for shape in SHAPES_OF_POLICY},
        },
    )


@cache
def averages(episodes: int) -> dict[float, dict[str, float]]:
    """Threshold -> means over `LOGS` logs of what is claimed, what is true, and how many doses remain on the first day."""
    made = {}
    for threshold in THRESHOLDS:
        logs = [counted(episodes, seed) for seed in range(LOGS)]
        pairs = np.array([limited(log, threshold)[1:] for log in logs])
        remain = np.mean([likely(log.share, threshold)[0].sum() for log in logs])
        made[threshold] = {"claimed": pairs[:, 0].mean(), "true": pairs[:, 1].mean(), "remain": float(remain)}
    return made


def _threshold() -> Figure:
    """Which doses remain, and claim against truth."""
    slider = Slider("threshold", "Threshold, as a share of the commonest dose", THRESHOLDS, 0.0)
    size = Choice("size", "Episodes in the log", SIZES, 100)
    exact_q = ward().action_values(ward().optimal_policy())[0]
    bars: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for n, threshold in itertools.product(SIZES, THRESHOLDS):
        log, mean = counted(n, 0), averages(n)[threshold]
        q, _, _ = limited(log, threshold)
        for dose in range(DOSES):
            share = float(log.share[0, dose] / log.share[0].max())
            kind = "may be chosen" if share > threshold else "left out"
            bars.append(
                {"size": n, "threshold": threshold, "dose": dose, "share": round(share, 3), "kind": kind,
                 "q": round(float(q[0, dose]), 2), "exact": round(float(exact_q[dose]), 2)}
            )  # fmt: skip
        for what, key in (("claimed", "claimed"), ("exact value", "true")):
            lines.append({"size": n, "threshold": threshold, "what": what, "value": round(mean[key], 3)})
        gap = mean["claimed"] - mean["true"]
        frames.append({"size": n, "threshold": threshold, "gap": gap} | mean)
    left = alt.vconcat(_shares(bars), _values(bars), spacing=14)
    return Figure(
        name="threshold",
        title="Five days of dosing: eight doses, of which 5 is best and rarely given. Move the threshold from 0 to 0.99.",
        chart=alt.hconcat(left, _claims(lines))
        .resolve_scale(color="independent", shape="independent", strokeDash="independent")
        .add_params(*parameters([slider, size])),
        description="Left, of one log: how often each dose was given on the first day as a share of the commonest, with the "
        "threshold as a line; below it the learned values (dots) and the exact ones of the best policy (dashes). Right: claimed "
        f"and exact value of the policy, means over {LOGS} logs.",
        controls=[slider, size],
        numbers=[
            Number("remain", "Doses that remain on the first day", 1),
            Number("claimed", "Claimed value"),
            Number("true", "Exact value of the policy"),
            Number("gap", "Claimed too much"),
        ],
        frames=frames,
    )


KINDS = alt.Scale(domain=["may be chosen", "left out"], range=[COLORS[0], MUTED])


def _shares(bars: list[dict[str, Any]]) -> Any:
    shown = alt.Chart(rows(bars)).transform_filter(follows("threshold", "size"))
    y = alt.Y("share:Q", title="Share / largest", scale=alt.Scale(domain=[0, 1]))
    bar = shown.mark_bar(width=18).encode(
        alt.X("dose:O", title=None, axis=alt.Axis(labelAngle=0)), y, alt.Color("kind:N", title=None, scale=KINDS)
    )
    line = shown.mark_rule(color=COLORS[1], strokeWidth=2, strokeDash=[5, 3]).encode(y="threshold:Q")
    return alt.layer(bar, line).properties(width=240, height=110)


def _values(bars: list[dict[str, Any]]) -> Any:
    shown = alt.Chart(rows(bars)).transform_filter(follows("threshold", "size"))
    x = alt.X("dose:O", title="Dose", axis=alt.Axis(labelAngle=0))
    dot = shown.mark_point(size=80).encode(
        x,
        alt.Y("q:Q", title="Q on the first day", scale=alt.Scale(domain=[-4, 6])),
        alt.Color("kind:N", legend=None, scale=KINDS),
        alt.Shape(
            "kind:N", legend=None, scale=alt.Scale(domain=["may be chosen", "left out"], range=["circle", "cross"])
        ),
    )
    exact = shown.mark_tick(color=INK, thickness=2, width=20).encode(x, alt.Y("exact:Q"))
    return alt.layer(exact, dot).properties(width=240, height=130)


def _claims(lines: list[dict[str, Any]]) -> Any:
    base = alt.Chart(rows(lines)).transform_filter("datum.size == size")
    order = [f"{threshold:g}" for threshold in THRESHOLDS]
    base = base.transform_calculate(at="format(datum.threshold, '')")
    x = alt.X("at:O", sort=order, title="Threshold (steps of a list)", axis=alt.Axis(labelAngle=-60))
    kinds = ["claimed", "exact value"]
    curve = base.mark_line().encode(
        x,
        alt.Y("value:Q", title="Value of the first day", scale=alt.Scale(domain=[-1, 5])),
        alt.Color("what:N", title=None, scale=alt.Scale(domain=kinds, range=[COLORS[1], COLORS[0]])),
        alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=kinds, range=[[6, 3], [1, 0]])),
    )
    rule = base.transform_filter(follows("threshold")).mark_rule(color=MUTED).encode(x)
    best = [{"value": ward().policy_value(ward().optimal_policy()), "name": "best possible"}]
    level = alt.Chart(rows(best)).mark_rule(strokeDash=[2, 3]).encode(y="value:Q")
    label = alt.Chart(rows(best)).mark_text(align="right", dy=-8, color=MUTED, fontSize=12)
    return alt.layer(level, curve, rule, label.encode(x=alt.value(280), y="value:Q", text="name:N")).properties(
        width=280, height=255
    )


# --- continuous BCQ -------------------------------------------------------------------------------------------------------------


def _worth(action: Any) -> Any:
    """What an action on the line is worth."""
    return 1.0 - 2.0 * (np.asarray(action) - 0.35) ** 2


@cache
def _critic() -> tuple[Float[NumpyArray, " N"], np.polynomial.Polynomial]:
    """(N,) logged actions in two heaps, and a polynomial fitted to their noisy rewards."""
    rng = np.random.default_rng(4)
    action = np.concatenate([rng.normal(-0.45, 0.08, 60), rng.normal(0.2, 0.1, 40)])
    reward = _worth(action) + rng.normal(0.0, 0.25, len(action))
    return action, np.polynomial.Polynomial.fit(action, reward, DEGREE, domain=[-1, 1])


def _chosen(candidates: int, limit: float) -> tuple[Float[NumpyArray, " K"], Float[NumpyArray, " K"]]:
    """(K,) candidates from the generator, and where the perturbation moves them: to the highest Q within the limit."""
    action, critic = _critic()
    rng = np.random.default_rng(1)
    start = np.clip(rng.choice(action, candidates) + rng.normal(0.0, 0.03, candidates), -1, 1)
    near = np.clip(start[:, None] + limit * np.linspace(-1, 1, 81)[None], -1, 1)
    return start, np.take_along_axis(near, critic(near).argmax(1)[:, None], 1)[:, 0]


def _candidates() -> Figure:
    """Candidates from a generator, moved a little, and the best of them."""
    count = Slider("candidates", "Candidates", CANDIDATES, 10)
    reach = Slider("limit", "Perturbation limit", LIMITS, 0.0)
    action, critic = _critic()
    grid = np.linspace(-1, 1, 161)
    curves = [
        {"a": round(float(a), 4), "what": what, "q": round(float(f(a)), 3)}
        for what, f in (("critic", critic), ("worth", _worth))
        for a in grid
    ]
    points: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for k, limit in itertools.product(CANDIDATES, LIMITS):
        _, moved = _chosen(k, limit)
        best = float(moved[critic(moved).argmax()])
        at = {"candidates": k, "limit": limit}
        points += [at | {"a": round(float(a), 4), "q": round(float(critic(a)), 3)} for a in moved]
        away = float(np.abs(action - best).min())
        frames.append(at | {"action": best, "claimed": float(critic(best)), "true": float(_worth(best)), "away": away})
    x = alt.X("a:Q", title="Action", scale=alt.Scale(domain=[-1, 1]))
    y = alt.Y("q:Q", title="Value", scale=alt.Scale(domain=[-4, 5], clamp=True))
    kinds = ["critic", "worth"]
    lines = alt.Chart(rows(curves)).mark_line(clip=True).encode(
        x, y,
        alt.Color("what:N", title=None, scale=alt.Scale(domain=kinds, range=[COLORS[1], COLORS[0]])),
        alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=kinds, range=[[6, 3], [1, 0]])),
    )  # fmt: skip
    logged = alt.Chart(rows([{"a": round(float(a), 4), "q": -3.9} for a in action]))
    strip = logged.mark_tick(color=MUTED, height=14, thickness=1, yOffset=-4).encode(x, y)
    shown = alt.Chart(rows(points)).transform_filter(follows("candidates", "limit"))
    marks = shown.mark_point(filled=False, size=60, color=INK).encode(x, y)
    top = [
        {k: frame[k] for k in ("candidates", "limit")} | {"a": frame["action"], "q": frame["claimed"]}
        for frame in frames
    ]
    chosen = alt.Chart(rows(top)).transform_filter(follows("candidates", "limit"))
    star = chosen.mark_point(shape="diamond", size=190, color=COLORS[3]).encode(x, y)
    return Figure(
        name="candidates",
        title="Continuous BCQ in one state: draw candidates where the log has actions, move each a little, take the best.",
        chart=alt.layer(lines, strip, marks, star).properties(height=300).add_params(*parameters([count, reach])),
        description="Grey ticks: 100 logged actions in two heaps. Dashed: a critic fitted to their noisy rewards, a polynomial "
        f"of degree {DEGREE}. Solid: what actions are worth. Circles: candidates after they were moved; the diamond is the one "
        "chosen. Values above 5 are drawn at 5.",
        controls=[count, reach],
        numbers=[
            Number("action", "Chosen action"),
            Number("claimed", "Claimed value"),
            Number("true", "What it is worth"),
            Number("away", "Distance to the nearest logged action", 3),
        ],
        frames=frames,
    )


# --- maximum mean discrepancy ------------------------------------------------------------------------------------------------


@cache
def _density(shape: str) -> Float[NumpyArray, " U"]:
    """(U,) probabilities on the line; the behaviour's are those "as logged", 0 beyond 1 on either side."""
    logged = np.maximum(1 - LINE**2, 0.0)
    made = {
        "as logged": logged,
        "sure, inside": np.exp(-0.5 * ((LINE - 0.6) / 0.1) ** 2) * (np.abs(LINE) < 1),
        "wide, inside": (np.abs(LINE) < 0.995).astype(float),
        "shifted": np.maximum(1 - (LINE - 0.5) ** 2, 0.0),
        "two peaks outside": np.exp(-0.5 * ((np.abs(LINE) - 1.35) / 0.1) ** 2) * (np.abs(LINE) > 1),
    }[shape]
    probabilities: Float[NumpyArray, " U"] = made / made.sum()
    return probabilities


@cache
def _kernel(kernel: str, width: float) -> Float[NumpyArray, "U U"]:
    apart = np.abs(LINE[:, None] - LINE[None])
    made: Float[NumpyArray, "U U"] = np.exp(-(apart if kernel == "laplacian" else apart**2) / (2 * width))
    return made


def discrepancy(shape: str, kernel: str, width: float) -> float:
    """The square root of (p - b)' K (p - b) + 1e-6: BEAR's discrepancy of a policy from the log, of whole distributions."""
    difference = _density(shape) - _density("as logged")
    return math.sqrt(max(float(difference @ _kernel(kernel, width) @ difference), 0.0) + 1e-6)


def divergence(shape: str) -> float:
    """KL(policy || behaviour), infinite where the policy takes what the log has not."""
    p, b = _density(shape), _density("as logged")
    if (b[p > 1e-12] <= 0).any():
        return math.inf
    inside = p > 1e-12
    return float((p[inside] * np.log(p[inside] / b[inside])).sum())


def outside(shape: str) -> float:
    """The policy's share of actions beyond 1 on either side, where the log has none."""
    return float(_density(shape)[np.abs(LINE) > 1].sum())


def _sampled(shape: str) -> float:
    """Mean of what the library's BEAR computes from five actions each, over 2,000 draws; Laplacian kernel of width 10."""
    rng = np.random.default_rng(0)
    x, u = (rng.choice(LINE, (5, 2000, 1), p=_density(s)).astype(np.float32) for s in ("as logged", shape))
    return float(np.mean(np.asarray(mean_discrepancy(jnp.asarray(x), jnp.asarray(u), "laplacian", 10.0))))


def _discrepancies() -> Figure:
    """KL and the discrepancy of five policies from one log."""
    policy = Choice("policy", "Policy", SHAPES_OF_POLICY, "sure, inside")
    width = Slider("width", "Width of the kernel", WIDTHS, 0.1)
    kernel = Choice("kernel", "Kernel", ("gaussian", "laplacian"), "gaussian")
    near = np.abs(LINE) <= 2
    densities = [
        {"policy": shape, "what": what, "u": round(float(u), 3), "p": round(float(p) / (LINE[1] - LINE[0]), 4)}
        for shape in SHAPES_OF_POLICY
        for what, density in (("log", _density("as logged")), ("policy", _density(shape)))
        for u, p in list(zip(LINE[near], density[near], strict=True))[::2]
    ]
    curves: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for shape, w, name in itertools.product(SHAPES_OF_POLICY, WIDTHS, ("gaussian", "laplacian")):
        found, kl = discrepancy(shape, name, w), divergence(shape)
        curves.append({"shape": shape, "at": w, "kernel": name, "mmd": round(found, 4)})
        said = "infinite" if math.isinf(kl) else f"{kl:.2f}"
        frames.append(
            {"policy": shape, "width": w, "kernel": name, "mmd": found, "kl": said, "outside": outside(shape)}
        )
    kinds = ["log", "policy"]
    picture = (
        alt.Chart(rows(densities))
        .transform_filter(follows("policy"))
        .mark_area(opacity=0.35, line=True)
        .encode(
            alt.X("u:Q", title="Action, before tanh", scale=alt.Scale(domain=[-2, 2])),
            alt.Y("p:Q", title="Density", stack=None, scale=alt.Scale(domain=[0, 4.2])),
            alt.Color("what:N", title=None, scale=alt.Scale(domain=kinds, range=[MUTED, COLORS[1]])),
        )
        .properties(width=230, height=240)
    )
    return Figure(
        name="discrepancy",
        title="Which policy is closer to the log? Compare “sure, inside” with “two peaks outside” as the kernel widens.",
        chart=alt.hconcat(picture, _widths(curves))
        .resolve_scale(color="independent")
        .add_params(*parameters([policy, width, kernel])),
        description="Left: the log's actions (grey), which lie between -1 and 1, and the policy's. Right: the discrepancy of "
        "each policy at every kernel width: the chosen one thick, with a dot at the slider; the others thin. The dotted line is "
        "BEAR's threshold of 0.05.",
        controls=[policy, width, kernel],
        numbers=[
            Number("mmd", "Discrepancy (MMD)", 3),
            Number("kl", "KL from the log, in nats"),
            Number("outside", "Policy's share outside the log", 0, percent=True),
        ],
        frames=frames,
    )


def _widths(curves: list[dict[str, Any]]) -> Any:
    base = alt.Chart(rows(curves)).transform_filter("datum.kernel == kernel")
    wide, high = alt.Scale(type="log", domain=[0.01, 20]), alt.Scale(type="log", domain=[0.001, 2])
    x = alt.X("at:Q", title="Width of the kernel", scale=wide, axis=alt.Axis(values=[0.01, 0.1, 1, 10]))
    y = alt.Y("mmd:Q", title="Discrepancy", scale=high, axis=alt.Axis(values=[0.001, 0.01, 0.1, 1]))
    others = base.transform_filter("datum.shape != policy").mark_line(color=MUTED, strokeWidth=1.2, opacity=0.7)
    chosen = base.transform_filter("datum.shape == policy").mark_line(color=COLORS[1], strokeWidth=3)
    here = base.transform_filter("datum.shape == policy && datum.at == width").mark_point(size=140, color=COLORS[1])
    level = alt.Chart(rows([{"mmd": ALLOWED}])).mark_rule(strokeDash=[2, 3]).encode(y=y)
    return alt.layer(
        others.encode(x, y, detail="shape:N", tooltip=["shape:N", "mmd:Q"]),
        level,
        chosen.encode(x, y),
        here.encode(x, y),
    ).properties(width=260, height=240)
