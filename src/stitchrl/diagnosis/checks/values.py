"""Checks of claimed values: against what rewards allow, against the returns of the log, and against an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from stitchrl.algorithms.returns import returns_to_go
from stitchrl.auditing.finding import Finding
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.subject import NO_CRITICS, NotLookedAtError, Subject
from stitchrl.evaluation.contributions import Estimand
from stitchrl.types import NumpyArray

__all__ = [
    "claim_against_estimate",
    "value_constant",
    "value_impossible",
    "value_numbers",
    "value_too_low",
]


class Claims(NamedTuple):
    """Claimed values of one policy, in the log's reward units.

    Attributes:
        logged, policy: (N,) of the logged action and of the policy's own, at each row.
        seen: the largest return from any step on in the log looked at, by the discount of the claims; what would have followed
            a cut does not count.
    """

    logged: Float[NumpyArray, " N"]
    policy: Float[NumpyArray, " N"]
    seen: float


def claims(subject: Subject) -> Claims:
    """The claims of a subject. Raises `NotLookedAtError` where it claims none."""
    logged, policy = subject.q_logged, subject.q_policy
    if logged is None:
        raise NotLookedAtError(NO_CRITICS)
    seen = returns_to_go(subject.shared.log, Scaling.identity(0), subject.gamma).max()
    return Claims(logged, logged if policy is None else policy, float(seen))


def value_numbers(subject: Subject) -> dict[str, Any]:
    """The claims as plain numbers."""
    found, limits = subject.once(claims), subject.limits
    lost, gained = subject.entropy_reach
    return {
        "logged_mean": float(found.logged.mean()),
        "policy_mean": float(found.policy.mean()),
        "lowest": float(min(found.logged.min(), found.policy.min())),
        "highest": float(max(found.logged.max(), found.policy.max())),
        "attainable": [limits.low, limits.high],
        "attainable_from": subject.limits_from,
        "entropy_reach": [-lost, gained],
        "largest_return_seen": found.seen,
    }


def value_impossible(subject: Subject) -> Iterator[Finding]:
    """The mean claimed value is larger than rewards can add up to."""
    found, limits, bonus = subject.once(claims), subject.limits, subject.entropy_reach[1]
    claimed = float(max(found.logged.mean(), found.policy.mean()))
    if claimed > limits.highest(bonus):
        possible = limits.high + bonus
        yield Finding(
            "impossible-value",
            "error",
            "claimed values",
            f"the critics claim a value of {claimed:.4g} on average, where {subject.limits_from}"
            f"{' and an entropy bonus' if bonus else ''} add up to {possible:.4g} at most "
            f"(the largest return in the log looked at is {found.seen:.4g})",
            f"a mean value of at most {possible:.4g}",
            "The critics feed on their own overestimates of actions that the log does not show. Use an algorithm that stays "
            "nearer to the log (IQL, BCQ, or CQL with a larger `cql_weight`), or lower the learning rate or the target rate.",
        )


def value_too_low(subject: Subject) -> Iterator[Finding]:
    """The mean claimed value is smaller than rewards can add up to: the critics are too pessimistic."""
    found, limits, loss = subject.once(claims), subject.limits, subject.entropy_reach[0]
    claimed = float(min(found.logged.mean(), found.policy.mean()))
    if claimed < limits.lowest(loss):
        possible = limits.low - loss
        yield Finding(
            "pessimistic-value",
            "warning",
            "claimed values",
            f"the critics claim a value of {claimed:.4g} on average, where {subject.limits_from} add up to {possible:.4g} at "
            "least",
            f"a mean value of at least {possible:.4g}",
            "The penalty on values outweighs the rewards, so that the order of actions is the penalty's and not theirs: lower "
            "`cql_weight` (or the pessimism of the ensemble), or scale rewards up. Without a penalty the critics are running "
            "away: lower the learning rate.",
        )


def value_constant(subject: Subject) -> Iterator[Finding]:
    """Claimed values hardly differ between states, although returns do."""
    found, limits = subject.once(claims), subject.limits
    spread = float(found.logged.std())
    if spread < limits.least_spread:
        yield Finding(
            "constant-value",
            "error",
            "claimed values",
            f"the claimed values of the logged actions have a standard deviation of {spread:.3g} over {len(found.logged):,} "
            f"decisions, where the returns that follow a decision have one of {limits.spread:.3g} by {subject.limits_from}",
            f"a standard deviation of at least {limits.least_spread:.3g}",
            "The critics give all states nearly the same value: they have not learned (too few updates, a step size that is too "
            "small, dead units), or the observations say nothing about what follows.",
        )


def claim_against_estimate(subject: Subject) -> Iterator[Finding]:
    """The value that the policy claims for itself at the start lies outside the interval of its evaluation."""
    estimate = subject.member.estimate
    if estimate is None or estimate.value is None or estimate.lower is None or estimate.upper is None:
        raise NotLookedAtError(
            "There is no estimate with an interval to compare the claimed values with; `st.evaluate` makes one."
        )
    if estimate.estimand != _estimand(subject):
        raise NotLookedAtError(
            f"The evaluation is of {estimate.estimand}, and the claimed values are of {_estimand(subject)}."
        )
    starts = subject.once(claims).policy[subject.rows.episode_start[:-1]]
    claimed, error = float(starts.mean()), standard_error(starts)
    # The claim is a mean over the first states of a sample of episodes, which may start better or worse than others.
    wide = estimate.upper - estimate.lower + float(norm.ppf(0.5 + estimate.confidence / 2)) * error
    lost, gained = subject.entropy_reach
    if not estimate.lower - wide - lost <= claimed <= estimate.upper + wide + gained:
        above = claimed > estimate.upper
        yield Finding(
            "claim-above-estimate" if above else "claim-below-estimate",
            "warning",
            "first steps of episodes",
            f"the critics claim {claimed:.4g} for the policy (with a standard error of {error:.2g}, over {len(starts):,} first "
            f"states), where its evaluation estimates {estimate.value:.4g} ({estimate.lower:.4g} to {estimate.upper:.4g})",
            "a claim within one width of that interval, and the error of its own mean",
            "Trust the evaluation. The policy prefers actions whose value is overestimated: hold it nearer to the log."
            if above
            else "Trust the evaluation. The critics are more pessimistic than the policy deserves: a smaller penalty may "
            "find a better one.",
        )


def _estimand(subject: Subject) -> Estimand:
    """The estimand of the critics: the discount of training, until the end of an episode."""
    return Estimand.of(subject.shared.log, gamma=subject.gamma)


def standard_error(values: Float[NumpyArray, " n"]) -> float:
    """Standard error of the mean of independent values; 0 for a single value, whose spread is not known."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
