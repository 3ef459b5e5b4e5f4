"""The check of the values that critics claim for actions that the log does not show, with what an error of a step adds up to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.returns import returns_to_go
from stitchrl.auditing.finding import Finding
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.extrapolation_error import OneStepError, one_step_error
from stitchrl.diagnosis.knobs import nearer_to_log
from stitchrl.diagnosis.similar_states import distance_to_nearest
from stitchrl.diagnosis.subject import NO_CRITICS, NotLookedAtError, Subject
from stitchrl.diagnosis.support import check_acts_alone, states_of, support_of
from stitchrl.evaluation.agreement import SUPPORT
from stitchrl.nn.value import DiscreteValue
from stitchrl.types import NumpyArray

__all__ = ["claims_without_support", "extrapolation_numbers"]

LEAST_GAP = 0.1
"""Claimed improvement of one decision, in standard deviations of the logged returns, below which there is no finding."""
WITHOUT_SUPPORT = 0.5
"""Share of that improvement on actions without support above which it is a finding."""


class Gap(NamedTuple):
    """What the critics claim for the policy's actions above the behaviour's, row by row.

    Attributes:
        whole: (n,) Q(s, pi(s)) - Q(s, a); between discrete actions with the expectation over both.
        unseen: (n,) the part of it that is for actions without support.
    """

    whole: Float[NumpyArray, " n"]
    unseen: Float[NumpyArray, " n"]


def gap_of(subject: Subject) -> Gap:
    """The gap. Raises `NotLookedAtError` where nothing is claimed."""
    check_acts_alone(subject)
    value = subject.member.value
    if value is None or subject.q_logged is None or subject.q_policy is None:
        raise NotLookedAtError(NO_CRITICS)
    if isinstance(value, DiscreteValue):
        behavior = subject.shared.behavior.probs
        if behavior is None:
            raise NotLookedAtError("It is not known how probable the behaviour's other actions were.")
        q = np.asarray(value.q_all(subject.obs), np.float64)
        above = subject.probs * (q - (behavior * q).sum(1, keepdims=True))
        return Gap(above.sum(1), (above * (behavior < SUPPORT)).sum(1))
    states, usual = subject.shared.once(states_of), subject.once(support_of).usual
    off = distance_to_nearest(states, states.of_rows(subject.actions)) > (np.inf if usual is None else usual)
    whole = (subject.q_policy - subject.q_logged)[states.rows]
    return Gap(whole, whole * off)


def extrapolation_numbers(subject: Subject) -> dict[str, Any]:
    """The gap and the error of one step as plain numbers."""
    gap = subject.once(gap_of)
    found: dict[str, Any] = {"gap": float(gap.whole.mean()), "gap_without_support": float(gap.unseen.mean())}
    try:
        error = subject.once(one_step_error)
    except NotLookedAtError as why:
        return found | {"error_missing": str(why)}
    return found | {
        "one_step_excess": error.policy,
        "one_step_excess_logged": error.logged,
        "one_step_noise": error.noise,
        "steps": error.steps,
        "bound": error.bound,
        "meaning": "The excess of one step is the mean of Q(s, pi(s)) less a regression of r + gamma V(s') on the logged rows; "
        "the noise is the standard error of that regression; the bound is what the excess adds up to if every step makes it.",
    }


def claims_without_support(subject: Subject) -> Iterator[Finding]:
    """Most of what the critics claim for the policy above the behaviour is for actions that the log does not show."""
    gap = subject.once(gap_of)
    whole, unseen = float(gap.whole.mean()), float(gap.unseen.mean())
    if whole <= LEAST_GAP * _scale(subject) or unseen <= WITHOUT_SUPPORT * whole:
        return
    yield Finding(
        "claims-without-support",
        "warning",
        "claimed values",
        f"the critics claim {whole:.3g} more for the policy's actions than for the behaviour's, and "
        f"{min(unseen / whole, 1):.0%} of that is for actions which the log does not show in such states{_amplified(subject)}",
        f"at most {WITHOUT_SUPPORT:.0%} of a claimed improvement on such actions",
        "No reward in the log can correct these claims, and choosing the highest picks their errors. "
        f"{nearer_to_log(subject.member.algorithm)}",
    )


def _amplified(subject: Subject) -> str:
    try:
        error: OneStepError = subject.once(one_step_error)
    except NotLookedAtError:
        return ""
    if error.policy <= max(error.noise, error.logged):
        return ""
    return (
        f". They lie {error.policy:.2g} above what a regression on the logged rows predicts there from the reward and the next "
        f"value (at logged actions {error.logged:.2g}); {_added_up(error)}"
    )


def _added_up(error: OneStepError) -> str:
    if math.isinf(error.steps):
        return (
            "made in every step, such an error adds up without end, since nothing is discounted and episodes were cut"
        )
    return f"made in each of {error.steps:.3g} steps, such an error adds up to {error.bound:.2g}"


def _scale(subject: Subject) -> float:
    """The scale of values: the standard deviation of the logged returns, or their size where they do not vary."""
    log = subject.shared.log
    returns = returns_to_go(log, Scaling.identity(0), subject.gamma).astype(np.float64)
    return float(returns.std()) or float(np.abs(returns).mean()) or 1.0
