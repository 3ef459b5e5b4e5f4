"""Checks of the seeds of a run beside each other: what one seed learned, another should have learned too.

Seeds differ in their first weights and in the batches that they draw. Where the log shows what to do, that decides little; where
seeds choose different actions, or claim different values, chance chose the policy and not the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.evaluation.results import Estimate

__all__ = ["seed_numbers", "seeds_claim_differently", "seeds_differ_in_actions", "seeds_evaluate_differently"]

DISAGREE = 0.6
"""Share of decisions in which two seeds may choose clearly different actions. Sound runs on 2,000 hospital stays, with 25 actions
of which many are about equally good, came to at most 43%; Q-learning without a constraint came to 80%."""
CLEARLY = 2.0
"""Times as probable as the other seed's choice that a seed's own must be, for the two to differ clearly."""
APART = 0.75
"""Distance of continuous actions, in standard deviations of the logged ones, that two seeds may have on average."""
CLAIMS_APART = 0.5
"""Standard deviation of the seeds' mean claims, in standard deviations of a logged return. Sound runs came to 0.25."""
ERRORS_APART = 4.0
"""Standard errors of a difference between the estimates of two seeds, which chance seldom exceeds even among many seeds."""


def seeds_differ_in_actions(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Two seeds of the run choose different actions in so many decisions that the policy is a matter of chance."""
    subjects = _of_one_form(subjects)
    apart = _apart(subjects)
    discrete = subjects[0].rows.num_actions is not None
    if apart <= (DISAGREE if discrete else APART):
        return
    yield Finding(
        "seeds-disagree",
        "warning",
        f"{len(subjects)} seeds",
        f"two seeds choose clearly different actions in {apart:.0%} of {subjects[0].rows.num_transitions:,} decisions"
        if discrete
        else f"the actions of two seeds lie {apart:.2f} standard deviations of the logged actions apart on average",
        f"at most {DISAGREE:.0%}" if discrete else f"at most {APART:g}",
        "Not the log but the first weights decide what the policy does. Hold it nearer to the log, use a larger log or a smaller "
        "network, and train longer if claimed values still move; do not pick a seed by its estimate alone.",
    )


def seeds_claim_differently(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """The mean claimed values of the seeds differ by more than returns leave room for."""
    subjects = _of_one_form(subjects)
    claims = _claims(subjects)
    spread = float(subjects[0].returns.std())
    if spread > 0 and claims.std() > CLAIMS_APART * spread:
        yield Finding(
            "seeds-claim-differently",
            "warning",
            f"{len(subjects)} seeds",
            f"seeds of the same settings claim values from {claims.min():.4g} to {claims.max():.4g} on average (standard "
            f"deviation {claims.std():.3g}), where logged returns have a standard deviation of {spread:.3g}",
            f"a standard deviation of at most {CLAIMS_APART * spread:.3g}",
            "The values of the critics depend on chance, and those of no seed can be trusted. Lower the learning rate or the "
            "target rate, use more pessimism, or an algorithm that values logged actions only (IQL).",
        )


def seeds_evaluate_differently(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """The evaluations of two seeds differ by more than their noise; with fewer than two evaluations there is no finding."""
    subjects = _of_one_form(subjects)
    found = [(s.member.name, s.member.estimate) for s in subjects if s.member.estimate is not None]
    known = [(name, one) for name, one in found if one.value is not None and one.standard_error is not None]
    if len(known) < 2:
        return
    if len({(one.name, one.estimand) for _, one in known}) > 1:
        raise NotLookedAtError("The evaluations of the seeds are by different estimators or of different quantities.")
    order = np.argsort([float(one.value or 0.0) for _, one in known])
    low, high = known[order[0]], known[order[-1]]
    if _errors_apart(low[1], high[1]) > ERRORS_APART:
        yield Finding(
            "seeds-evaluate-differently",
            "warning",
            f"{low[0]} and {high[0]}",
            f"their estimates are {low[1].value:.4g} and {high[1].value:.4g}, {_errors_apart(low[1], high[1]):.1f} standard "
            "errors apart",
            f"at most {ERRORS_APART:g} standard errors",
            "Training is unstable: the seed decides how good the policy is. Choose on one part of the log and evaluate on "
            "another (as `stitchrl run` does), for the best of several is flattered by chance, and report all seeds.",
        )


def seed_numbers(subjects: Sequence[Subject]) -> dict[str, Any]:
    """How far the seeds are apart, as plain numbers; claims are left out where there are none."""
    subjects = _of_one_form(subjects)
    found: dict[str, Any] = {"seeds": len(subjects), "actions_apart": _apart(subjects)}
    try:
        claims = _claims(subjects)
    except NotLookedAtError:
        return found
    return found | {"claims": claims.tolist(), "return_spread": float(subjects[0].returns.std())}


def _of_one_form(subjects: Sequence[Subject]) -> Sequence[Subject]:
    """The subjects that act in the way of the first one, since one seed that acts in two ways counts once."""
    return [subject for subject in subjects if subject.member.acts == subjects[0].member.acts]


def _several(subjects: Sequence[Subject]) -> None:
    if len(subjects) < 2:
        raise NotLookedAtError("One seed alone cannot be compared with others; train several (`seeds=4`).")


def _apart(subjects: Sequence[Subject]) -> float:
    """The mean over pairs of seeds: of the share of clearly different choices, or of the distance of continuous actions."""
    _several(subjects)
    if not all(subject.acts_alone for subject in subjects):
        raise NotLookedAtError(
            "The seeds are policies with memory, whose actions do not follow from the observation alone."
        )
    rows = subjects[0].rows
    if rows.num_actions is not None:
        return float(np.mean([_clearly_different(one, other) for one, other in combinations(subjects, 2)]))
    spread = np.asarray(rows.action, np.float64).std(0)
    spread = np.where(spread > 0, spread, 1.0)
    actions = [np.asarray(subject.actions, np.float64) / spread for subject in subjects]
    return float(np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in combinations(actions, 2)]))


def _clearly_different(one: Subject, other: Subject) -> float:
    """The share of decisions in which each holds its own choice for at least twice as probable as that of the other."""
    rows = np.arange(len(one.actions))
    a, b = one.actions, other.actions
    sure = one.probs[rows, a] >= CLEARLY * one.probs[rows, b]
    sure &= other.probs[rows, b] >= CLEARLY * other.probs[rows, a]
    return float((sure & (a != b)).mean())


def _claims(subjects: Sequence[Subject]) -> Any:
    """(seeds,) the mean claimed value of the logged actions."""
    _several(subjects)
    found = [subject.q_logged for subject in subjects]
    if any(one is None for one in found):
        raise NotLookedAtError("The seeds have no critics, so they claim no values that could be compared.")
    return np.asarray([one.mean() for one in found if one is not None])


def _errors_apart(one: Estimate, other: Estimate) -> float:
    """The difference in standard errors; those of the same log are dependent, so this is careful."""
    assert one.value is not None
    assert other.value is not None
    error = np.hypot(one.standard_error or 0.0, other.standard_error or 0.0)
    gap = abs(one.value - other.value)
    return float(gap / error) if error > 0 else (np.inf if gap else 0.0)
