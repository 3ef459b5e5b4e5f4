"""`st.evaluate`: every estimate of a policy on a log, its gain over the behaviour, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stitchrl.auditing.audit import audit
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.agreement import Agreement, agreement
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.estimators.doubly_robust import doubly_robust, weighted_doubly_robust
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    logged_return,
    per_decision,
    weighted,
    weighted_per_decision,
)
from stitchrl.evaluation.evidence import Evidence, FitSettings, gather_evidence
from stitchrl.evaluation.intervals import Interval, Resampler, effective_sample_size, minus
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.verdict import MAXIMUM_WEIGHT_SHARE, MINIMUM_ESS_SHARE, Verdict, decide
from stitchrl.evaluation.weights import Weights, cumulative_weights, final_weights
from stitchrl.messages import shown
from stitchrl.progress import LoopMonitor

__all__ = ["ESTIMATORS", "Evaluation", "check_size", "evaluate", "evaluate_all"]

Estimator = Callable[[Episodes, Weights, Evidence], Contributions]
ESTIMATORS: dict[str, Estimator] = {
    "is": lambda episodes, weight, evidence: importance_sampling(episodes, weight),
    "pdis": lambda episodes, weight, evidence: per_decision(episodes, weight),
    "wis": lambda episodes, weight, evidence: weighted(episodes, weight),
    "pdwis": lambda episodes, weight, evidence: weighted_per_decision(episodes, weight),
    "dr": lambda episodes, weight, evidence: doubly_robust(episodes, weight, evidence.values),
    "wdr": lambda episodes, weight, evidence: weighted_doubly_robust(episodes, weight, evidence.values),
    "fqe": lambda episodes, weight, evidence: Contributions.average(evidence.refit.contributions),
}
"""Estimator name -> its per-episode contributions."""
MEAN_WEIGHT_SLACK = 0.25
"""By how much whole-episode weights may average away from 1."""
MAXIMUM_IMBALANCE = 0.2
"""Largest `Refit.imbalance` at which the refitted FQE is trusted."""
MAXIMUM_LOST = 0.01
"""Largest share of weight that may end in cuts no other episode runs past."""
MOST_PROBABILITIES = 2**32
"""Probabilities an evaluation may hold at once, 16 GiB of them."""
DEFAULT = ("wis", "pdwis", "wdr", "fqe")
MODEL_BASED = ("dr", "wdr", "fqe")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        estimates: estimator -> value of the policy.
        gain: estimator -> gain over the behaviour (or the baseline) on the same episodes, paired.
        behavior: the behaviour's own value: the mean logged return.
        verdict: GO, NO-GO or CANNOT TELL, with its checklist.
        behavior_fitted: True where the behaviour's probabilities come from a model.
        agreement: how the policy's decisions differ from the logged ones.
    """

    estimates: dict[str, Estimate]
    gain: dict[str, Estimate]
    behavior: Estimate
    verdict: Verdict
    behavior_fitted: bool
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
            "gain": {name: estimate.to_dict() for name, estimate in self.gain.items()},
            "behavior": self.behavior.to_dict(),
            "verdict": self.verdict.to_dict(),
            "behavior_fitted": self.behavior_fitted,
            "agreement": self.agreement.to_dict(),
        }


def evaluate(
    policy: PolicyLike,
    log: Dataset,
    gamma: float | None = None,
    horizon: int | None = None,
    estimators: Sequence[str] = DEFAULT,
    baseline: PolicyLike | None = None,
    *,
    fit_on: Dataset | None = None,
    settings: FitSettings | None = None,
    confidence: float = 0.95,
    margin: float = 0.0,
    audit_verdict: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Estimate how good a policy is from a log it did not learn from.

    Intervals resample episodes; whole groups where the log has the role `group`, whose episodes are then not taken to be
    independent.

    Args:
        policy: anything with `probs(obs, action_mask=...)` giving (B, A) NumPy or JAX rows. Exactly this object is
            judged: pass `policy.greedy()` if that is what will be deployed.
        log: episodes the policy never saw.
        gamma: discount; the log's own by default.
        horizon: count only the first so many steps; None counts until terminated. FQE needs None.
        estimators: names from `ESTIMATORS`.
        baseline: what the gain is over; None is the behaviour, by its logged returns.
        fit_on: other episodes for the fitted parts (Q, and the behaviour where propensities are missing), for
            instance training and validation together; None fits on one half of `log` for the other, both ways.
        settings: of those fits.
        confidence: two-sided coverage the intervals aim at.
        margin: the least gain worth having, in return units.
        audit_verdict: of `st.audit`, where it has been run on the whole log already; None runs it on `log`. "not
            usable" rules out GO.
        seed: of the fits and the bootstrap.

    Raises:
        ConfigurationError: an unknown estimator, or a number outside its range.
        EvaluationError: a continuous log, fewer than 2 episodes or groups, more rows and actions than fit, or a policy
            whose `probs` are not probabilities.
    """
    settings = FitSettings(seed=seed) if settings is None else settings
    policies = [policy] if baseline is None else [policy, baseline]
    found = evaluate_all(
        policies,
        log,
        gamma=gamma,
        horizon=horizon,
        estimators=estimators,
        fit_on=fit_on,
        settings=settings,
        confidence=confidence,
        margin=margin,
        audit_verdict=audit_verdict,
        over_last=baseline is not None,
    )
    return found[0]


def evaluate_all(
    policies: Sequence[PolicyLike],
    log: Dataset,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    estimators: Sequence[str] = DEFAULT,
    fit_on: Dataset | None = None,
    settings: FitSettings | None = None,
    confidence: float = 0.95,
    margin: float = 0.0,
    audit_verdict: str | None = None,
    over_last: bool = False,
    monitors: Sequence[LoopMonitor] = (),
) -> list[Evaluation]:
    """`evaluate` for several policies: one program fits the FQE of all, one set of resamples serves all.

    Arguments as `evaluate`; `over_last=True` takes the last policy as the baseline of the others' gains.
    """
    settings = FitSettings() if settings is None else settings
    _check(log, gamma, estimators, policies)
    check_size(log, log.num_transitions, None if fit_on is None else fit_on.num_transitions, len(policies))
    audit_verdict = audit(log).verdict if audit_verdict is None else audit_verdict
    estimand = Estimand(log.schema.gamma if gamma is None else float(gamma), horizon)
    evidence, behavior = gather_evidence(
        policies, log, fit_on, gamma=estimand.gamma, settings=settings, monitors=monitors
    )
    episodes = Episodes.of(log, estimand)
    resampler = Resampler(log.num_episodes, group=log.group, confidence=confidence, seed=settings.seed)
    logged = logged_return(episodes)
    context = _Context(log, episodes, estimand, resampler, behavior.fitted)
    drafts = [{name: context.draft(name, one) for name in estimators} for one in evidence]
    called = "the baseline" if over_last else "the behaviour"
    every = [d for draft in drafts for d in draft.values()]
    values = context.estimates(every)
    others = [drafts[-1][name] if over_last else context.logged(logged) for name in estimators] * len(drafts)
    gains = context.estimates([one.over(other) for one, other in zip(every, others, strict=True)])
    (own,) = resampler.intervals([logged])
    found = []
    for k, one in enumerate(evidence):
        rows = slice(k * len(estimators), (k + 1) * len(estimators))
        gain = dict(zip(estimators, gains[rows], strict=True))
        found.append(
            Evaluation(
                estimates=dict(zip(estimators, values[rows], strict=True)),
                gain=gain,
                behavior=context.behavior(own),
                verdict=decide(
                    gain,
                    episodes=log.num_episodes,
                    audit_verdict=audit_verdict,
                    margin=margin,
                    behavior_fitted=behavior.fitted,
                    baseline=called,
                    unit="episode" if log.group is None else "group",
                ),
                behavior_fitted=behavior.fitted,
                agreement=agreement(log, one.probs, behavior.log_prob, behavior.probs),
            )
        )
    return found


class _Draft(NamedTuple):
    """An estimator's contributions and the health of its weights; contributions None: not applicable."""

    name: str
    contributions: Contributions | None
    ess: float | None
    max_weight_share: float | None
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...]

    def over(self, other: _Draft) -> _Draft:
        """The gain over another draft: as healthy as both, and only where both have an estimate."""
        paired = None
        if self.contributions is not None and other.contributions is not None:
            paired = minus(self.contributions, other.contributions)
        more = tuple(f"Of the baseline: {reason}" for reason in other.reasons)
        return self._replace(contributions=paired, reasons=self.reasons + more)


@dataclasses.dataclass(frozen=True, eq=False)
class _Context:
    """What the estimates on one log share."""

    log: Dataset
    episodes: Episodes
    estimand: Estimand
    resampler: Resampler
    behavior_fitted: bool

    def draft(self, name: str, evidence: Evidence) -> _Draft:
        """Contributions and health of one estimator."""
        assumptions = [
            "no unmeasured confounding",
            "every action of the policy has been tried in like states",
        ]
        if self.behavior_fitted:
            assumptions.append("the fitted behaviour model is right")
        if self.log.group is not None:
            assumptions.append(f"the {self.resampler.units:,} groups are independent")
        cut = int((~self.episodes.terminated).sum())
        if cut:
            assumptions.append(f"{cut} cut episodes would have gone on as the episodes that ran past those steps")
        if name in MODEL_BASED and self.estimand.horizon is not None:
            reason = f"{name} has no time in its Q and needs horizon=None; got {self.estimand.horizon}."
            return _Draft(name, None, None, None, (reason,), tuple(assumptions))
        weight = cumulative_weights(self.episodes, evidence.log_ratio)
        if name == "fqe":
            per_transition = evidence.refit.weights
            per_episode = np.add.reduceat(np.abs(per_transition), self.log.episode_start[:-1])
            # Marginal weights are a transition's; the effective share of transitions is put in episodes.
            ess = effective_sample_size(per_transition) / self.log.num_transitions * self.log.num_episodes
            assumptions.append("Q or the ratio of state visits is well fitted")
        else:
            per_episode = final_weights(self.episodes, weight)
            # Of independent units, put in episodes.
            share_of_unit = self.log.num_episodes / self.resampler.units
            ess = effective_sample_size(self.resampler.per_unit(per_episode)) * share_of_unit
        per_unit = self.resampler.per_unit(np.abs(per_episode))
        share = float(per_unit.max() / max(per_unit.sum(), 1e-300))
        contributions = None
        reasons = self._weight_reasons(ess, share)
        if name == "fqe":
            reasons += _imbalance_reasons(evidence.refit.imbalance)
        else:
            reasons += _lost_reasons(weight.lost) + _mean_weight_reasons(float(per_episode.mean()))
        if ess > 0:
            contributions = ESTIMATORS[name](self.episodes, weight, evidence)
            reasons += self._range_reasons(contributions.value)
        return _Draft(name, contributions, ess, share, reasons, tuple(assumptions))

    def logged(self, contributions: Contributions) -> _Draft:
        """The behaviour's own value as a draft, to take gains over."""
        lost = cumulative_weights(self.episodes, np.zeros(self.log.num_transitions)).lost
        return _Draft("logged", contributions, None, None, _lost_reasons(lost), ())

    def estimates(self, drafts: Sequence[_Draft]) -> list[Estimate]:
        """The estimate of each draft; one pass of resamples for all."""
        intervals = iter(self.resampler.intervals([d.contributions for d in drafts if d.contributions is not None]))
        found = []
        for draft in drafts:
            interval = None if draft.contributions is None else next(intervals)
            found.append(
                Estimate(
                    name=draft.name,
                    value=None if interval is None else interval.value,
                    lower=None if interval is None else interval.lower,
                    upper=None if interval is None else interval.upper,
                    standard_error=None if interval is None else interval.standard_error,
                    confidence=self.resampler.confidence,
                    estimand=self.estimand,
                    ess=draft.ess,
                    max_weight_share=draft.max_weight_share,
                    healthy=not draft.reasons,
                    reasons=draft.reasons,
                    assumptions=draft.assumptions,
                    weight_based=draft.name != "fqe",
                )
            )
        return found

    def behavior(self, interval: Interval) -> Estimate:
        """The behaviour's own value: the mean logged return, cut episodes completed by the others."""
        return Estimate(
            "logged",
            interval.value,
            interval.lower,
            interval.upper,
            interval.standard_error,
            self.resampler.confidence,
            self.estimand,
            assumptions=("episodes are independent" if self.log.group is None else "groups are independent",),
        )

    def _weight_reasons(self, ess: float, share: float) -> tuple[str, ...]:
        reasons = []
        if ess < MINIMUM_ESS_SHARE * self.log.num_episodes:
            reasons.append(
                f"ESS {ess:,.0f} is below {MINIMUM_ESS_SHARE:.0%} of {self.log.num_episodes:,} episodes: "
                "too little of the log speaks about this policy."
            )
        if share > MAXIMUM_WEIGHT_SHARE:
            one = "episode" if self.log.group is None else "group"
            reasons.append(f"One {one} has {share:.1%} of all weight, above {MAXIMUM_WEIGHT_SHARE:.0%}.")
        return tuple(reasons)

    def _range_reasons(self, value: float) -> tuple[str, ...]:
        """An estimate outside the returns ever seen is extrapolation."""
        low, high = float(self.episodes.returns.min()), float(self.episodes.returns.max())
        if low <= value <= high:
            return ()
        return (f"The value {value:.4g} is outside the returns seen, {low:.4g} to {high:.4g}.",)


def _mean_weight_reasons(mean: float) -> tuple[str, ...]:
    """Whole-episode weights average 1 in expectation; far below, the episodes that matter most are missing."""
    if abs(mean - 1.0) <= MEAN_WEIGHT_SLACK:
        return ()
    return (f"The weights average {mean:.2f} where 1 is expected: the log lacks the policy's likeliest episodes.",)


def _imbalance_reasons(imbalance: float) -> tuple[str, ...]:
    """Where no logged decisions lead the policy's way, no weights can carry the correction there."""
    if imbalance <= MAXIMUM_IMBALANCE:
        return ()
    return (
        f"The weights leave {imbalance:.0%} of the first states' features unbalanced, above {MAXIMUM_IMBALANCE:.0%}: "
        "the log does not go where the policy goes.",
    )


def _lost_reasons(lost: float) -> tuple[str, ...]:
    if lost <= MAXIMUM_LOST:
        return ()
    return (
        f"{lost:.1%} of the episodes' weight ends in cuts that no other episode runs past: what comes after is not in "
        "the log. Give a `horizon`.",
    )


def check_size(log: Dataset, rows: int, fit_rows: int | None, policies: int) -> None:
    """Raise EvaluationError where the probabilities of an evaluation would not fit in memory.

    Args:
        log: for its number of actions.
        rows, fit_rows: of the episodes of the estimates, and of those fitted on (None: halves of the same).
        policies: evaluated together.
    """
    # Here and at the next state; what FQE draws from, twice. Halves are held beside the whole.
    held = 6 * rows if fit_rows is None else 2 * rows + 3 * fit_rows
    cells = held * (log.num_actions or 0) * policies
    if cells > MOST_PROBABILITIES:
        raise EvaluationError(
            f"An evaluation holds the probability of every action in every row: {policies:,} policies, {rows:,} rows and "
            f"{log.num_actions:,} actions come to {cells:,} numbers, above {MOST_PROBABILITIES:,}. Give it a part of the "
            "log (`log.head`), fewer candidates, or grouped actions."
        )


def _check(log: Dataset, gamma: float | None, estimators: Sequence[str], policies: Sequence[PolicyLike]) -> None:
    if log.num_actions is None:
        raise EvaluationError("Evaluation needs discrete actions so far; this log's are continuous.")
    if log.num_episodes < 2:
        raise EvaluationError(f"Evaluation needs at least 2 episodes; got {log.num_episodes}.")
    if log.group is not None and (log.group == log.group[0]).all():
        what = "`group`" if "group" in log.schema.columns else "`gap`, whose pieces are a group,"
        raise EvaluationError(
            f"Evaluation needs episodes of at least 2 groups: intervals resample groups; all {log.num_episodes:,} are of "
            f"{shown(log.group[0])}. Leave {what} out of the schema if its episodes are independent."
        )
    if log.action_mask is not None and not log.action_mask.any(1).all():
        row = int(np.flatnonzero(~log.action_mask.any(1))[0])
        raise EvaluationError(
            f"Every row must allow at least one action; the mask of row {row} allows none. Correct it."
        )
    for policy in policies:
        if not getattr(policy, "has_density", True):
            raise EvaluationError(
                f"{type(policy).__name__} has no action probabilities (has_density is False), and every estimator here "
                "weighs logged actions by them. Evaluate a policy that has."
            )
    if gamma is not None and not 0 <= gamma <= 1:
        raise ConfigurationError(f"`gamma` must be in [0, 1]; got {gamma}.")
    unknown = [name for name in estimators if name not in ESTIMATORS]
    if unknown or not estimators:
        raise ConfigurationError(
            f"`estimators` must be names from {', '.join(ESTIMATORS)}; got {', '.join(unknown) or 'none'}."
        )
