"""Checks of settings whose fault shows in the values that were learned: an expectile too high, a penalty too strong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.subject import NO_CRITICS, NotLookedAtError, Subject
from stitchrl.nn.value import DiscreteValue
from stitchrl.types import NumpyArray

__all__ = ["expectile_high", "penalty_decides"]

RECENT = 0.1
"""Share of the updates, the last ones, whose metrics are read."""
USUAL = 0.7
"""An expectile that is never too high: where V lies high all the same, that is because it follows Q with a delay."""
SUPPORTED = 0.05
"""Probability under the behaviour from which an action may determine V, whatever the expectile."""
COUNTED = 0.01
"""Probability from which the values of actions are compared with their log-probabilities."""
ALIKE, SLOPE = 0.9, 0.8
"""Correlation of values with log-probabilities, and the rise of one with the other, at which the penalty decides: CQL with weight
1000 came to 0.96 and 1.0, with weight 1 to 0.89 and 0.5, IQL and BCQ to 0.1 and 0.0."""


def expectile_high(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """V lies above the Q of the best supported action: it counts luck, which no policy can repeat."""
    expectile = getattr(subjects[0].member.algorithm, "expectile", None)
    if expectile is None or expectile <= USUAL:
        return
    over = _value_over_logged(subjects)
    best = float(np.mean([_best_over_logged(subject) for subject in subjects]))
    if over <= max(best, 0.0):
        return
    yield Finding(
        "expectile-high",
        "warning",
        "`expectile`",
        f"at an expectile of {expectile:g} the value of a state lies {over:.3g} above the Q of its logged action on average, "
        f"although even the best action that the log supports lies only {best:.3g} above it",
        "a value of at most that of the best supported action",
        "The expectile picks out errors of the critics and lucky outcomes, and every bootstrap adds to them: claimed values "
        "are too high, and the policy chases noise. Lower `expectile`, to 0.7 or 0.8 where outcomes are mostly chance.",
    )


def penalty_decides(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """The critics order actions by how often the log shows them: the penalty of CQL is all they learned."""
    weight = getattr(subjects[0].member.algorithm, "cql_weight", None)
    if weight is None or subjects[0].rows.num_actions is None:
        return
    alike, slope = np.mean([_against_log_probability(subject) for subject in subjects], axis=0)
    if alike <= ALIKE or slope <= SLOPE:
        return
    yield Finding(
        "penalty-decides",
        "warning",
        "`cql_weight`",
        f"at `cql_weight` {weight:g} the critics' values of actions follow the logarithm of how often the behaviour takes them "
        f"(correlation {alike:.2f}, slope {slope:.2f})",
        f"a correlation of at most {ALIKE:g}, or a slope of at most {SLOPE:g}",
        "The penalty outweighs the rewards, so the policy does what the behaviour does most, as BC does: lower `cql_weight` by a "
        "factor of ten, or scale rewards up (`reward_scale`).",
    )


def _value_over_logged(subjects: Sequence[Subject]) -> float:
    """Mean V - Q(s, a), a logged, over the batches of the last updates, in the log's units of reward.

    V follows target critics, which follow Q with a delay of some 1 / target_rate updates. While Q falls, V therefore lies above
    it for that reason alone; twice the fall of Q in that time is subtracted.
    """
    run = subjects[0].member.run
    if run is None or not {"v/mean", "q/data_mean"} <= set(run.metrics.metrics):
        raise NotLookedAtError("The metrics of the run do not say how V and Q compare.")
    columns = run.metrics.columns()
    update, q = columns["update"], columns["q/data_mean"]
    recent = update > (1 - RECENT) * update.max()
    before = (update > (1 - 2 * RECENT) * update.max()) & ~recent
    falls = 0.0
    if before.any():
        apart = update[recent].mean() - update[before].mean()
        late = 2 / float(getattr(run.algorithm, "target_rate", 1.0))
        falls = max(0.0, float(np.nanmean(q[before]) - np.nanmean(q[recent]))) * late / apart
    return (float(np.nanmean((columns["v/mean"] - q)[recent])) - falls) / run.scaling.reward_scale


def _best_over_logged(subject: Subject) -> float:
    """Mean of max Q over supported actions, less Q(s, a), a logged; over continuous actions, of the better of mode and draw."""
    value, logged = subject.member.value, subject.q_logged
    if value is None:
        raise NotLookedAtError(NO_CRITICS)
    if logged is None or not subject.acts_alone:
        raise NotLookedAtError(f"{subject.member.heading} claims no values of actions that could be compared.")
    if isinstance(value, DiscreteValue):
        probs = _behavior(subject)
        q = np.asarray(value.q_all(subject.obs), np.float64)
        best = np.where(probs >= np.minimum(SUPPORTED, probs.max(1, keepdims=True)), q, -np.inf).max(1)
    else:
        drawn = [np.asarray(value.q(subject.obs, np.asarray(a, np.float32))) for a in (subject.actions, subject.drawn)]
        best = np.maximum(*drawn)
    return float((np.maximum(best, logged) - logged).mean())


def _against_log_probability(subject: Subject) -> tuple[float, float]:
    """Correlation and slope, within states, of Q(s, .) in units of training against log b(. | s)."""
    value, run = subject.member.value, subject.member.run
    if value is None:
        raise NotLookedAtError(NO_CRITICS)
    if not isinstance(value, DiscreteValue) or run is None:
        raise NotLookedAtError(f"{subject.member.heading} claims no values of actions that could be compared.")
    probs = _behavior(subject)
    counted = probs >= COUNTED
    q = _centred(np.asarray(value.q_all(subject.obs), np.float64) * run.scaling.reward_scale, counted)
    log = _centred(np.log(np.maximum(probs, COUNTED)), counted)
    both, spread = float((q * log).sum()), float((log**2).sum())
    if spread == 0:
        return 0.0, 0.0
    return both / np.sqrt(spread * max(float((q**2).sum()), 1e-300)), both / spread


def _behavior(subject: Subject) -> Float[NumpyArray, "N A"]:
    probs = subject.shared.behavior.probs
    if probs is None:
        raise NotLookedAtError("It is not known how probable each action is under the behaviour.")
    return np.asarray(probs, np.float64)


def _centred(values: Float[NumpyArray, "N A"], counted: NumpyArray) -> Float[NumpyArray, "N A"]:
    """The values less their mean over the counted actions of a state; 0 at others."""
    kept = np.where(counted, values, 0.0)
    mean = kept.sum(1, keepdims=True) / np.maximum(counted.sum(1, keepdims=True), 1)
    centred: Float[NumpyArray, "N A"] = np.where(counted, values - mean, 0.0)
    return centred
