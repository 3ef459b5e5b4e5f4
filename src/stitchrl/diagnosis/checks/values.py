"""Checks of claimed values: against what rewards allow, against the returns of the log, and against an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.returns import returns_to_go
from stitchrl.auditing.finding import Finding
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.evaluation.attainable import attainable_range
from stitchrl.evaluation.contributions import Estimand
from stitchrl.types import NumpyArray

__all__ = [
    "claim_against_estimate",
    "value_constant",
    "value_impossible",
    "value_numbers",
    "value_too_low",
]

SLACK = 0.1
"""Share of the attainable range by which a mean value may lie outside of it: critics are approximate."""
CONSTANT = 0.01
"""Spread of the claimed values over states, as a share of the spread of the logged returns, below which nothing is told apart."""


class Claims(NamedTuple):
    """Claimed values of one policy, in the log's reward units.

    Attributes:
        logged, policy: (N,) of the logged action and of the policy's own, at each row.
        low, high: the least and the largest value that logged rewards can add up to; infinite where nobody knows.
        seen: the largest logged return from any step on, by the discount of the claims; cut episodes count as they are.
    """

    logged: Float[NumpyArray, " N"]
    policy: Float[NumpyArray, " N"]
    low: float
    high: float
    seen: float


def claims(subject: Subject) -> Claims:
    """The claims of a subject. Raises `NotLookedAtError` where it claims none."""
    logged, policy = subject.q_logged, subject.q_policy
    if logged is None:
        raise NotLookedAtError("There are no critics, so that no values are claimed that could be checked.")
    low, high = attainable_range(subject.shared.log, _estimand(subject))
    seen = float(subject.once(_returns_to_go).max())
    return Claims(logged, logged if policy is None else policy, low, high, seen)


def value_numbers(subject: Subject) -> dict[str, Any]:
    """The claims as plain numbers."""
    found = subject.once(claims)
    return {
        "logged_mean": float(found.logged.mean()),
        "policy_mean": float(found.policy.mean()),
        "lowest": float(min(found.logged.min(), found.policy.min())),
        "highest": float(max(found.logged.max(), found.policy.max())),
        "attainable": [found.low, found.high],
        "largest_return_seen": found.seen,
    }


def value_impossible(subject: Subject) -> Iterator[Finding]:
    """The mean claimed value is larger than rewards can add up to."""
    found = subject.once(claims)
    claimed = max(found.logged.mean(), found.policy.mean())
    if np.isfinite(found.high) and claimed > found.high + _slack(found):
        yield Finding(
            "impossible-value",
            "error",
            "claimed values",
            f"the critics claim a value of {claimed:.4g} on average, where logged rewards add up to {found.high:.4g} at most "
            f"(the largest return in the log is {found.seen:.4g})",
            f"a mean value of at most {found.high:.4g}",
            "The critics feed on their own overestimates of actions that the log does not show. Use an algorithm that stays "
            "nearer to the log (IQL, BCQ, or CQL with a larger `cql_weight`), or lower the learning rate or the target rate.",
        )


def value_too_low(subject: Subject) -> Iterator[Finding]:
    """The mean claimed value is smaller than rewards can add up to: pessimism without measure."""
    found = subject.once(claims)
    claimed = min(found.logged.mean(), found.policy.mean())
    if np.isfinite(found.low) and claimed < found.low - _slack(found):
        yield Finding(
            "pessimistic-value",
            "warning",
            "claimed values",
            f"the critics claim a value of {claimed:.4g} on average, where logged rewards add up to {found.low:.4g} at least",
            f"a mean value of at least {found.low:.4g}",
            "The penalty on values outweighs the rewards, so that the order of actions is the penalty's and not theirs: lower "
            "`cql_weight` (or the pessimism of the ensemble), or scale rewards up.",
        )


def value_constant(subject: Subject) -> Iterator[Finding]:
    """Claimed values hardly differ between states, although returns do."""
    found = subject.once(claims)
    spread, returns = float(found.logged.std()), float(subject.once(_returns_to_go).std())
    if returns > 0 and spread < CONSTANT * returns:
        yield Finding(
            "constant-value",
            "error",
            "claimed values",
            f"the claimed values of the logged actions have a standard deviation of {spread:.3g} over {len(found.logged):,} "
            f"decisions, where the returns that followed them have one of {returns:.3g}",
            f"a standard deviation of at least {CONSTANT * returns:.3g}",
            "The critics tell no state from another: they have not learned (too few updates, a step size that is too small, "
            "dead units), or the observations say nothing about what follows.",
        )


def claim_against_estimate(subject: Subject) -> Iterator[Finding]:
    """The value that the policy claims for itself at the start lies outside the interval of its evaluation."""
    estimate = subject.member.estimate
    if estimate is None or estimate.value is None or estimate.lower is None or estimate.upper is None:
        raise NotLookedAtError(
            "There is no estimate with an interval to hold the claimed values against; `st.evaluate` makes one."
        )
    if estimate.estimand != _estimand(subject):
        raise NotLookedAtError(
            f"The evaluation is of {estimate.estimand}, and the claimed values are of {_estimand(subject)}."
        )
    claimed = float(subject.once(claims).policy[subject.rows.episode_start[:-1]].mean())
    wide = estimate.upper - estimate.lower
    if not estimate.lower - wide <= claimed <= estimate.upper + wide:
        above = claimed > estimate.upper
        yield Finding(
            "claim-above-estimate" if above else "claim-below-estimate",
            "warning",
            "first steps of episodes",
            f"the critics claim {claimed:.4g} for the policy, where its evaluation estimates {estimate.value:.4g} "
            f"({estimate.lower:.4g} to {estimate.upper:.4g})",
            "a claim within one width of that interval",
            "Believe the evaluation. The policy prefers actions whose value is overestimated: hold it nearer to the log."
            if above
            else "Believe the evaluation. The critics are more pessimistic than the policy deserves: a smaller penalty may "
            "find a better one.",
        )


def _estimand(subject: Subject) -> Estimand:
    """What the critics speak about: the discount of training, until the end of an episode."""
    gamma = getattr(subject.member.algorithm, "gamma", None)
    return Estimand.of(subject.shared.log, gamma=gamma)


def _slack(found: Claims) -> float:
    """How far a mean value may lie outside of the attainable range: a share of its width (or of what is finite of it), and where
    every return is the same, of that. Where all rewards are 0 they have no unit to measure an error in, and nothing is said."""
    ends = [end for end in (found.low, found.high, found.seen) if np.isfinite(end)]
    return SLACK * (max(ends) - min(ends) or max(map(abs, ends))) or np.inf


def _returns_to_go(subject: Subject) -> Float[NumpyArray, " N"]:
    """(N,) the discounted sum of logged rewards from each step on, by the discount that the critics speak about."""
    log = subject.shared.log
    return returns_to_go(log, Scaling.identity(0), _estimand(subject).gamma).astype(np.float64)
