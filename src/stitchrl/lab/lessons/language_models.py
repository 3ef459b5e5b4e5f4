"""From offline learning to language models: the same optimum, direct preference optimisation, and where the likeness ends."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import altair as alt
import numpy as np

from stitchrl.algorithms.dpo import DPO
from stitchrl.data.preferences import Preferences
from stitchrl.lab.figures import COLORS, INK, MUTED, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.preferences import draw_preferences, every_preference
from stitchrl.mdp.stitching import ROUTES, stitching_columns, stitching_world
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.reading.read import read
from stitchrl.training.fit import fit, fit_grid
from stitchrl.training.run import Run
from stitchrl.types import NumpyArray

__all__ = ["ANSWERS", "JUDGED", "REFERENCE", "lesson", "optimum", "question", "two_answers", "what_is_joined"]

ANSWERS = ("evasive", "terse", "helpful", "wordy", "flattering")
REFERENCE = np.array([0.35, 0.25, 0.20, 0.15, 0.05])
"""How often the model gave each answer before it was tuned."""
JUDGED = np.array([0.0, 1.0, 2.0, 1.0, 3.0])
"""What the judges take each answer to be worth."""
TRUE = np.array([0.0, 1.0, 2.0, 1.0, 0.0])
"""What each is worth to the person who asked."""
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
SETS = (200, 5000)
"""Weights of the KL divergence, and sizes of the sets of pairs, that are trained for."""
START = np.array([0.2, 0.2, 0.6])
UPDATES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400)
"""The second figure shows these updates, and starts from these probabilities of the preferred, rejected and third answer."""


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="From offline learning to language models",
        question="Tuning a language model on preferences starts from the same equation. What else is the same, and what is not?",
        figures=[_learned(), _pushed_down(), _joined()],
        values=_values(),
    )


def optimum(kl_weight: float) -> NumpyArray:
    """(5,) the policy that maximises the judged worth minus kl_weight times KL(policy || reference): reference
    exp(worth / kl_weight) / Z."""
    weight = REFERENCE * np.exp((JUDGED - JUDGED.max()) / kl_weight)
    found: NumpyArray = weight / weight.sum()
    return found


def question() -> tuple[FiniteMDP, NumpyArray, NumpyArray]:
    """A world of one question: state 0 asks, an answer is given, and the conversation ends. With the reference (2, 5),
    and the judged worth (2, 5) of each answer."""
    transition = np.zeros((2, len(ANSWERS), 2))
    transition[:, :, 1] = 1.0
    world = FiniteMDP(transition, np.zeros(transition.shape), np.array([1.0, 0.0]), np.array([False, True]))
    return world, np.tile(REFERENCE, (2, 1)), np.tile(JUDGED, (2, 1))


def _judged(pairs: int) -> Preferences:
    """So many pairs of answers, drawn from the reference and judged."""
    world, reference, worth = question()
    return draw_preferences(world, reference, pairs, seed=1, values=worth)


def _probs(run: Run, obs: NumpyArray) -> NumpyArray:
    """(B, A) what the learned policy does."""
    assert isinstance(run.policy, DiscretePolicy)
    return np.asarray(run.policy.probs(obs), np.float64)


@cache
def _policies(pairs: int) -> dict[float, NumpyArray]:
    """Weight of the KL divergence -> (5,) what DPO learned from so many pairs."""
    algorithm = DPO(hidden_sizes=(), reference="logged", behavior_updates=0, learning_rate=5e-2, decay_updates=800)
    found = fit_grid(
        algorithm,
        _judged(pairs),
        {"kl_weight": list(WEIGHTS)},
        updates=800,
        batch_size=min(pairs, 512),
        standardize=False,
        progress=False,
    )
    asked = np.eye(2, dtype=np.float32)[:1]
    return {point["kl_weight"]: _probs(run, asked)[0] for point, run in found}


def _learned() -> Figure:
    """DPO beside the exact optimum."""
    weight = Slider("weight", "Weight of the KL divergence, beta", WEIGHTS, 1.0)
    pairs = Choice("pairs", "Pairs judged", SETS, 5000, ["200", "5,000"])
    shown, frames = [], []
    for beta, count in itertools.product(WEIGHTS, SETS):
        policy, best = _policies(count)[beta], optimum(beta)
        for k, answer in enumerate(ANSWERS):
            shown += [
                {"weight": beta, "pairs": count, "answer": answer, "of": of, "chance": round(float(values[k]), 4)}
                for of, values in (("reference", REFERENCE), ("exact optimum", best), ("DPO", policy))
            ]
        frames.append(
            {
                "weight": beta,
                "pairs": count,
                "judged": float(policy @ JUDGED),
                "true": float(policy @ TRUE),
                "kl": float((policy * np.log(policy / REFERENCE)).sum()),
                "off": float(np.abs(policy - best).max()),
            }
        )
    base = alt.Chart(rows(shown)).transform_filter(follows("weight", "pairs"))
    domain, colors = ["reference", "exact optimum", "DPO"], [MUTED, COLORS[0], COLORS[1]]
    x = alt.X("chance:Q", title="Probability of the answer", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    y = alt.Y("answer:N", title=None, sort=list(ANSWERS))
    color = alt.Color("of:N", title=None, scale=alt.Scale(domain=domain, range=colors))
    of = {name: base.transform_filter(f"datum.of == '{name}'").encode(x, y, color) for name in domain}
    chart = alt.layer(
        of["exact optimum"].mark_bar(height=20, opacity=0.4),
        of["reference"].mark_tick(thickness=3, height=26),
        of["DPO"].mark_point(size=150, shape="diamond", opacity=1),
    )
    return Figure(
        name="learned",
        title="Five answers to one question. DPO saw only which of two was preferred, and with many pairs comes to the "
        "optimum all the same.",
        chart=chart.properties(height=230).add_params(*parameters([weight, pairs])),
        description="Bars: the exact optimum; upright strokes: the reference; diamonds: DPO. Judges overrate "
        "flattery, which is worth nothing to the person who asked. The two numbers of worth are those of the policy "
        "that DPO learned: one by the judges, one for the person.",
        controls=[weight, pairs],
        numbers=[
            Number("judged", "Worth, by the judges"),
            Number("true", "Worth, in truth"),
            Number("kl", "KL from the reference, nats"),
            Number("off", "Furthest from the optimum", 3),
        ],
        frames=frames,
    )  # fmt: skip


def two_answers(method: str, shares: bool, updates: int, *, kl_weight: float = 1.0, step: float = 0.5) -> NumpyArray:
    """(updates + 1, 3) probabilities of a preferred, a rejected and a third answer, in gradient descent on one pair
    that always comes out the same way.

    Args:
        method: "DPO", with the loss of Rafailov and others 2023; or "AWR", which imitates both answers, weighted by
            exp(1/2 / kl_weight) and exp(-1/2 / kl_weight) (Peng and others 2019).
        shares: whether the two answers share a feature, as similar texts do; else each answer has a parameter of its own.
        updates: steps of gradient descent.
        kl_weight: beta.
        step: its size.
    """
    features = np.array([[1.0, 0.5], [1.0, 1.0], [0.0, -1.0]]) if shares else np.eye(3)
    theta, found = np.zeros(features.shape[1]), []
    weight = np.exp(np.array([0.5, -0.5]) / kl_weight)
    for _ in range(updates + 1):
        logits = np.log(START) + features @ theta
        probs = np.exp(logits - logits.max())
        probs /= probs.sum()
        found.append(probs)
        if method == "DPO":
            ratio = np.log(probs / START)
            margin = kl_weight * (ratio[0] - ratio[1])
            theta = theta + step * kl_weight / (1 + np.exp(margin)) * (features[0] - features[1])
        else:
            pull = features[:2] - probs @ features
            theta = theta + step * (weight @ pull) / weight.sum()
    return np.stack(found)


def _pushed_down() -> Figure:
    """The rejected answer's probability under DPO and under AWR."""
    slider = Slider("update", "After so many updates", UPDATES, 50, play=True)
    share = Choice("share", "The two answers", ("no", "yes"), "no", names=("share nothing", "are alike"))
    names = ("preferred", "rejected", "a third answer")
    shown, frames = [], []
    for says in share.values:
        paths = {method: two_answers(method, says == "yes", UPDATES[-1]) for method in ("DPO", "AWR")}
        for (method, path), at in itertools.product(paths.items(), UPDATES):
            shown += [
                {"share": says, "at": at, "method": method, "answer": name, "chance": round(float(chance), 4)}
                for name, chance in zip(names, path[at], strict=True)
            ]
        for at in UPDATES:
            made = {
                f"{name}_{method}": float(path[at][k])
                for method, path in paths.items()
                for k, name in ((0, "preferred"), (1, "rejected"))
            }
            frames.append({"share": says, "update": at, **made})
    x = alt.X(
        "at:Q",
        title="Updates",
        scale=alt.Scale(type="symlog", domain=[0, UPDATES[-1]]),
        axis=alt.Axis(values=[0, 1, 5, 20, 100, 400]),
    )
    color = alt.Color("answer:N", title=None, sort=list(names))
    charts = []
    for method in ("DPO", "AWR"):
        base = alt.Chart(rows([row for row in shown if row["method"] == method])).transform_filter(follows("share"))
        y = alt.Y(
            "chance:Q", title=f"Probability under {method}", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")
        )
        now = base.transform_filter("datum.at == update")
        charts.append(
            alt.layer(
                alt.Chart(rows([{"start": float(START[1])}]))
                .mark_rule(color=INK, strokeDash=[5, 3])
                .encode(y="start:Q"),
                base.mark_line().encode(x, y, color, alt.StrokeDash("answer:N", legend=None, sort=list(names))),
                now.mark_rule(color=MUTED).encode(x),
                now.mark_point(size=90).encode(x, y, color, alt.Shape("answer:N", legend=None, sort=list(names))),
            ).properties(width=245, height=220)
        )
    return Figure(
        name="pushed_down",
        title="One pair, judged the same way each time. Follow the rejected answer.",
        chart=alt.hconcat(*charts).add_params(*parameters([slider, share])),
        description="Left DPO, right AWR, on the same pair, by gradient descent from the same reference. Dashed: "
        "the probability of the preferred "
        "and of the rejected answer before. The third answer is in no pair. For AWR the preferred answer has an advantage of "
        "one half and the rejected one of minus one half; beta is 1.",
        controls=[slider, share],
        numbers=[
            Number("rejected_DPO", "Rejected, DPO", 1, percent=True),
            Number("rejected_AWR", "Rejected, AWR", 1, percent=True),
            Number("preferred_DPO", "Preferred, DPO", 1, percent=True),
            Number("preferred_AWR", "Preferred, AWR", 1, percent=True),
        ],
        frames=frames,
    )  # fmt: skip


@cache
def what_is_joined(labels: str) -> NumpyArray:
    """(9, 2) the policy that DPO learns in the stitching world.

    Args:
        labels: "routes": the three logged routes are compared as wholes, by what they paid. "moves": single moves are
            compared, by what the best continuation would pay.
    """
    world = stitching_world()
    if labels == "routes":
        names = sorted(ROUTES)
        columns = stitching_columns(1)
        log = read(columns | {"behavior_log_prob": np.full(len(columns["action"]), np.log(0.5))})
        a, b, c = (list(ROUTES).index(name) for name in names)
        preferences = Preferences(log, np.array([c, b, b]), np.array([a, a, c]))
    else:
        best = world.action_values(world.optimal_policy())
        preferences = every_preference(world, np.full((9, 2), 0.5), best)
    algorithm = DPO(kl_weight=0.3, hidden_sizes=(), learning_rate=0.05, reference="logged", behavior_updates=0)
    run = fit(algorithm, preferences, updates=300, batch_size=64, standardize=False, progress=False)
    return _probs(run, np.eye(9, dtype=np.float32))


def _joined() -> Figure:
    """Whether DPO goes the way that no route in the log went."""
    names = {"routes": "whole routes, by what they paid", "moves": "single moves, by what could follow"}
    choice = Choice("labels", "The judges compare", tuple(names), "routes", names=tuple(names.values()))
    moves = {"s1 to s3": (0, 0), "s1 to s2": (0, 1), "s3 to s6": (2, 1), "s3 to s5": (2, 0)}
    world, shown, frames = stitching_world(), [], []
    for labels in names:
        probs = what_is_joined(labels)
        shown += [{"labels": labels, "move": move, "chance": round(float(probs[at]), 4)} for move, at in moves.items()]
        likeliest = np.eye(2)[probs.argmax(1)]
        frames.append(
            {
                "labels": labels,
                "value": world.policy_value(probs),
                "greedy": world.policy_value(likeliest),
                "way": "s1, s2, s8"
                if probs[0].argmax() == 1
                else "s1, s3, s6, s9"
                if probs[2].argmax() == 1
                else "s1, s3, s5, s7",
            }
        )
    base = alt.Chart(rows(shown)).transform_filter(follows("labels"))
    x = alt.X(
        "chance:Q", title="Probability of the move, by DPO", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")
    )
    bars = base.mark_bar(height=24).encode(x, alt.Y("move:N", title=None, sort=list(moves)))
    return Figure(
        name="joined",
        title="The stitching world, learned from preferences. What is joined depends on what the judges knew.",
        chart=bars.properties(height=170).add_params(*parameters([choice])),
        description="The log holds three routes: A, s1 s3 s5 s7, pays 3; B, s4 s3 s6 s9, pays 10; C, s1 s2 s8, "
        "pays 7. The best way from s1 is "
        "s1 s3 s6 s9, which no route took.",
        controls=[choice],
        numbers=[
            Number("way", "The likeliest way from s1"),
            Number("greedy", "It pays", 0),
            Number("value", "Drawing the moves pays"),
        ],
        frames=frames,
    )  # fmt: skip


def _values() -> dict[str, Any]:
    """Numbers of the prose."""
    apart = {method: two_answers(method, False, UPDATES[-1])[-1] for method in ("DPO", "AWR")}
    alike = {method: two_answers(method, True, UPDATES[-1])[-1] for method in ("DPO", "AWR")}
    true = {beta: float(optimum(beta) @ TRUE) for beta in WEIGHTS}
    best = max(true, key=lambda beta: true[beta])
    few = _judged(min(SETS))
    furthest = max(np.abs(policy - optimum(beta)).max() for beta, policy in _policies(max(SETS)).items())
    won, lost = (
        int((few.segments.action[few.segments.episode_start[side]] == ANSWERS.index("flattering")).sum())
        for side in (few.preferred, few.rejected)
    )
    return {
        "furthest": float(furthest),
        "won": won,
        "lost": lost,
        "dpo_rejected": float(apart["DPO"][1]),
        "awr_rejected": float(apart["AWR"][1]),
        "awr_limit": float(np.exp(-0.5) / (np.exp(0.5) + np.exp(-0.5))),
        "start": float(START[1]),
        "alike_third": float(alike["DPO"][2]),
        "alike_awr": float(alike["AWR"][0] + alike["AWR"][1]),
        "true_reference": float(REFERENCE @ TRUE),
        "true_best": true[best],
        "best_weight": best,
        "true_least": true[min(WEIGHTS)],
        "judged_least": float(optimum(min(WEIGHTS)) @ JUDGED),
        "least_weight": min(WEIGHTS),
    }
