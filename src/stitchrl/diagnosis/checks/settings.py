"""Checks of settings that cannot serve their purpose on this log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stitchrl.auditing.finding import Finding
from stitchrl.auditing.wording import listed
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.subject import NO_RUN, NotLookedAtError, Subject
from stitchrl.training.run import Run

__all__ = ["actions_scaled", "expectile_low", "shift_changes_order", "threshold_off", "threshold_strict"]

ALL, ONE = 0.95, 1.1
"""A threshold that more than the first share of allowed actions pass forbids nothing; one that fewer than the second number of
actions pass leaves no choice."""
PAIRS, FLIPPED = 20_000, 0.05
"""Pairs of episodes that are drawn, and the share of them whose order a reward shift may reverse."""
SLIVER, TRIMMED = 0.1, 0.01
"""The smallest share of [-1, 1] that the actions of a dimension should span, without 1% at either end."""
USUAL = 0.3
"""The usual threshold. Where the behaviour takes nearly every allowed action so often that it forbids nothing either, as in a log
of random actions, there is nothing to forbid."""
OUTSIDE = 0.01
"""Share of actions that may lie outside of the bounds that actions were scaled by."""


def expectile_low(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """An expectile at which values are those of the behaviour, or lower."""
    expectile = _setting(subjects, "expectile")
    if expectile is not None and expectile <= 0.5:
        whose = "the mean over logged actions" if expectile == 0.5 else "below the mean over logged actions"
        yield Finding(
            "expectile-low",
            "warning",
            "`expectile`",
            f"an expectile of {expectile:g} makes the value of a state {whose}: the critics learn how good the behaviour is "
            "(SARSA)",
            "an expectile above 0.5",
            "Good pieces of different episodes are then not joined; only the last step of the policy goes beyond the log. Use "
            "0.7, or 0.9 where rewards are sparse and outcomes owe little to chance.",
        )


def threshold_off(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """A threshold on the behaviour's probability that forbids next to nothing."""
    threshold, likely = _setting(subjects, "threshold"), _last(subjects, "behavior/likely")
    if threshold is None or subjects[0].shared.log.num_actions is None:
        return
    if threshold == 0 or (likely > ALL and _something_to_forbid(subjects[0])):
        seen = "" if np.isnan(likely) else f": {likely:.0%} of the allowed actions pass it"
        yield Finding(
            "threshold-off",
            "warning",
            "`threshold`",
            f"a threshold of {threshold:g} forbids next to nothing{seen}",
            f"a threshold above 0, which at most {ALL:.0%} of the allowed actions pass",
            "The constraint on the policy is off, and what is left is plain Q-learning, which overestimates actions that the log "
            "hardly shows. Use 0.3, or more on a small log.",
        )


def threshold_strict(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """A threshold on the behaviour's probability that leaves one action in nearly every state."""
    threshold, likely = _setting(subjects, "threshold"), _last(subjects, "behavior/likely")
    log = subjects[0].shared.log
    if threshold is None or log.num_actions is None or np.isnan(likely):
        return
    mask = subjects[0].mask
    allowed = log.num_actions if mask is None else float(mask.sum(1).mean())
    if likely * allowed < ONE < allowed:
        yield Finding(
            "threshold-strict",
            "warning",
            "`threshold`",
            f"a threshold of {threshold:g} leaves {likely * allowed:.2f} of {allowed:.1f} allowed actions on average",
            f"at least {ONE:g} actions to choose among",
            "The policy can only do what the behaviour does most (BC with extra steps): lower the threshold, to 0.3 for a start. "
            "Where the log itself shows nearly one action per state, no threshold helps: log more variety.",
        )


def shift_changes_order(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """A reward shift that, because episodes end, changes which of them are the better ones."""
    run, log = _run(subjects), subjects[0].shared.log
    shift = run.scaling.reward_shift
    if shift == 0 or not log.terminated.any():
        return
    flipped = _flipped(log, shift, float(getattr(run.algorithm, "gamma", log.schema.gamma)))
    if flipped <= FLIPPED:
        return
    kind = "costs" if shift < 0 else "pays"
    yield Finding(
        "reward-shift-changes-order",
        "warning",
        "`reward_shift`",
        f"each step {kind} {abs(shift):g} by the reward shift, and episodes end by themselves: of two episodes with different "
        f"returns, the other is the better one in {flipped:.0%} of cases",
        f"at most {FLIPPED:.0%}",
        f"The policy learns to {'end episodes early' if shift < 0 else 'draw episodes out'}, whatever the log's rewards say. "
        "Drop the shift, or scale rewards (`reward_scale`), which changes no order.",
    )


def actions_scaled(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Continuous actions that, brought into [-1, 1] for learning, fill a sliver of it, or lie outside."""
    run, log = _run(subjects), subjects[0].rows
    if log.num_actions is not None:
        return
    scaled = run.scaling.actions(np.asarray(log.action, np.float64))
    low, high = np.quantile(scaled, [TRIMMED, 1 - TRIMMED], axis=0)
    filled = (high - low) / 2
    thin = np.flatnonzero((filled < SLIVER) & (scaled.std(0) > 0))
    outside = (np.abs(scaled) > 1 + 1e-3).mean(0)
    beyond = np.flatnonzero(outside > OUTSIDE)
    if len(beyond):
        worst = int(outside.argmax())
        yield Finding(
            "actions-outside-scale",
            "warning",
            listed("action dimension", beyond.tolist()),
            f"{outside[worst]:.0%} of the actions of dimension {worst} lie outside of the bounds that the policy was trained "
            f"with ({_bounds(run, worst)})",
            f"at most {OUTSIDE:.0%}",
            "The policy cannot take such actions. See whether this log has another unit than the one it was trained on, or "
            "correct `action_low` and `action_high` of the schema and train again.",
        )
    if len(thin):
        worst = int(thin[filled[thin].argmin()])
        ends = np.quantile(log.action[:, worst], [TRIMMED, 1 - TRIMMED])
        yield Finding(
            "actions-in-a-sliver",
            "warning",
            listed("action dimension", thin.tolist()),
            f"98% of the actions of dimension {worst} lie between {ends[0]:.4g} and {ends[1]:.4g}, {filled[worst]:.1%} of the "
            f"bounds that they are scaled by ({_bounds(run, worst)})",
            f"at least {SLIVER:.0%}",
            "To the networks all of them look alike, and a small step of the policy leaves everything the log shows. Correct "
            "`action_low` and `action_high` of the schema to the range in use, or drop outliers among the actions, and train "
            "again.",
        )


def _run(subjects: Sequence[Subject]) -> Run:
    run = subjects[0].member.run
    if run is None:
        raise NotLookedAtError(NO_RUN)
    return run


def _setting(subjects: Sequence[Subject], name: str) -> Any:
    """A setting of the algorithm; None where it has none of that name."""
    return getattr(subjects[0].member.algorithm, name, None)


def _last(subjects: Sequence[Subject], name: str) -> float:
    """The last value of a metric, mean over seeds; NaN where there is none."""
    run = subjects[0].member.run
    if run is None or name not in run.metrics.metrics:
        return float("nan")
    columns = run.metrics.columns()
    return float(columns[name][columns["update"] == columns["update"].max()].mean())


def _something_to_forbid(subject: Subject) -> bool:
    """Whether the usual threshold would forbid some of the allowed actions; True where the behaviour is not known."""
    try:
        probs = subject.shared.behavior.probs
    except NotLookedAtError:
        return True
    if probs is None:
        return True
    allowed = np.ones_like(probs, bool) if subject.mask is None else subject.mask
    likely = allowed & (probs >= USUAL * probs.max(1, keepdims=True))
    return bool(likely.sum() <= ALL * allowed.sum())


def _bounds(run: Run, dimension: int) -> str:
    center, half = run.scaling.action_center, run.scaling.action_half_width
    assert center is not None
    assert half is not None
    return f"{center[dimension] - half[dimension]:.4g} to {center[dimension] + half[dimension]:.4g}"


def _flipped(log: Dataset, shift: float, gamma: float) -> float:
    """The share of random pairs of episodes with different returns in which the shift makes the worse one the better."""
    returns = log.episode_returns(gamma)
    shifted = returns + shift * np.add.reduceat(log.reward_discount(gamma), log.episode_start[:-1])
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, log.num_episodes, (2, PAIRS))
    before, after = returns[one] - returns[other], shifted[one] - shifted[other]
    different = np.abs(before) > 1e-9 * max(np.abs(returns).max(), 1e-300)
    return float((before * after < 0)[different].mean()) if different.any() else 0.0
