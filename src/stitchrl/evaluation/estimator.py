"""The contract of an estimator: what it is given (`Case`), what it returns (`Draft`), and what it must say.

An estimator is an object without state, one family a file in `estimators/`, listed in `registry.py`. To write one of
your own, give it the members of `Estimator`, check it with `stitchrl.testing.check_estimator`, and pass it to
`st.evaluate(..., estimators=("wdr", YourEstimator()))`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from stitchrl.data.atoms import action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import attainable_range, what_follows
from stitchrl.evaluation.balance import calibration_test, unseen_spread
from stitchrl.evaluation.balance_checks import (
    check_calibration,
    check_clipping,
    check_density_at_atoms,
    check_untested_calibration,
    check_untested_clipping,
)
from stitchrl.evaluation.behavior import BehaviorProbabilities
from stitchrl.evaluation.clipping import clipping_test, on_atoms
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.decisions import of_decisions
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.fits import PolicyFits
from stitchrl.evaluation.health import (
    Check,
    check_influence,
    check_lost_weight,
    check_mean_weight,
    check_possible_influence,
    check_range,
    check_spread,
    not_applicable,
    of_baseline,
    uses_episode_weights,
)
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.predictable import Ratios, expected_square, variance_of_difference, variance_of_value
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.statistic import Statistic, minus
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import ByWeight, Weights, behavior_gradient, cumulative_weights, final_weights
from stitchrl.types import NumpyArray

__all__ = [
    "FITTED_IS_RIGHT",
    "Case",
    "Draft",
    "Estimator",
    "behavior_variances",
    "episode_weight_draft",
    "expected_variance",
    "influence_checks",
    "refusal_of_products",
    "shared_assumptions",
    "weighted",
]

FITTED_IS_RIGHT = "the fitted behaviour model is right"
"""What is assumed where propensities were not logged."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One policy on one log, as an estimator sees it.

    Attributes:
        log: the episodes that the estimate is made on; with a horizon only their first steps.
        episodes: the same, padded.
        estimand: which quantity is asked for.
        behavior: the behaviour's probabilities, logged or fitted.
        policy: the policy itself, for whatever `fits` does not hold.
        fits: the policy's probabilities and whatever was fitted for it; ask with a request that `requests()` names.
        units: which episodes are independent.
        baseline: the case of the policy that gains are taken over; None: the behaviour.
    """

    log: Dataset
    episodes: Episodes
    estimand: Estimand
    behavior: BehaviorProbabilities
    policy: PolicyLike
    fits: PolicyFits
    units: Units
    baseline: Case | None = None

    @cached_property
    def weights(self) -> Weights:
        """Cumulative importance weights of the policy."""
        return cumulative_weights(self.episodes, self.fits.log_ratio)

    @cached_property
    def calibration(self) -> Check:
        """Whether the ratios of the logged actions are calibrated.

        A policy without a density has no ratios; the check then fails and says so.
        """
        if self.log.num_actions is None and not has_density(self.policy):
            return check_untested_calibration()
        log_ratio = self.fits.log_ratio
        with np.errstate(over="ignore"):
            ratio = np.minimum(np.exp(log_ratio), 1e300)
        regions = self.fits.fits.regions
        found = check_calibration(
            calibration_test(regions, ratio, self.units),
            fitted=self.behavior.fitted,
            densities=self.log.num_actions is None,
        )
        if found.passed:
            return found
        if not self.behavior.fitted:
            if not self._rare_ratios_are_known:
                return found
            # Rare large ratios that happened not to be drawn are no reason to call propensities wrong: the spread that they
            # would have added is added here. Over longer episodes the test must also notice that the log does not go where
            # the policy goes, so there it stays strict.
            square = expected_square(self.fits.choices, self.fits.fits.behavior_probs)
            return check_calibration(
                calibration_test(regions, ratio, self.units, unseen_spread(regions, ratio, square)), fitted=False
            )
        # A fit is never exact: what its own noise explains is no reason to call it wrong.
        gradient = np.zeros((self.log.num_transitions, regions.count))
        gradient[np.arange(self.log.num_transitions), regions.here] = -ratio
        noise = self.fits.fits.behavior_covariance(gradient)
        return check_calibration(calibration_test(regions, ratio, self.units, noise), fitted=True)

    @cached_property
    def clipping(self) -> tuple[Check, ...]:
        """Whether the ratios are right where logged actions lie on bounds; nothing where none do, or there are no ratios."""
        atoms = action_atoms(self.log)
        if atoms is None or not has_density(self.policy):
            return ()
        if not self.fits.fits.every_action_known:
            return (check_untested_clipping(atoms.share),)
        on = on_atoms(atoms, self.log.action, self.fits.choices)
        if on.seldom:
            return (check_density_at_atoms(on.weight(self.fits.log_ratio), atoms.share),)
        with np.errstate(over="ignore"):
            ratio = np.minimum(np.exp(self.fits.log_ratio), 1e300)
        noise = None
        if self.behavior.fitted:
            noise = self.fits.fits.behavior_covariance(-ratio[:, None] * on.logged)
        test = clipping_test(on, ratio, self.log.episode_start[:-1], self.units, noise)
        return (check_clipping(test, atoms.share, fitted=self.behavior.fitted),)

    @property
    def _rare_ratios_are_known(self) -> bool:
        """Whether the calibration test can count what rare ratios that were not drawn would have added to the spread."""
        alone = of_decisions(self.log, self.estimand.horizon)
        return alone and self.log.num_actions is not None and self.fits.fits.whole and self.fits.fits.every_action_known

    @cached_property
    def attainable(self) -> tuple[float, float]:
        """The least and the largest return that the logged rewards can add up to."""
        return attainable_range(self.log, self.estimand)


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """An estimate before its interval.

    Attributes:
        statistic: the estimate as a function of the episodes; None where there is none, and a check says why.
        checks: its health checks; each key occurs once.
        assumptions: what must hold for the estimate to mean what it says.
        unit_weight: (n,) weight of each episode, at least 0, on any common scale; None where no weights are involved.
        ratios: the ratios behind it, from which its expected variance, and that of its gains, is computed
            (`evaluation/predictable.py`); None where an estimator cannot say.
        predictable_variance: the expected variance, where an estimator computes it in a way of its own.
        behavior: the behaviour's own value by the same estimator, to take gains over; None: its mean logged return is on
            the same assumptions.
        unknown: by how much the true value may lie below and above what the log can say, as where episodes were cut; an
            interval is widened by it.
        behavior_gradient: (N,) derivative of the estimate by the logarithm of the behaviour's probability of each logged
            action, from which the error is computed that a fitted behaviour brings; None where an estimator cannot say.
        by_network: the value by each of several networks, of which the statistic is the average; what they disagree by is
            part of the standard error.
        jointly: whether the networks are corrected together, so that `by_network` holds the jackknife's pseudo-value of each.
        moved: by how much the traces of `evaluation/joint_correction.py` move the value, which hints at the error that they
            leave; part of the standard error too.
        weighs_actions: whether the logged actions are weighed by their propensities.
        trusts_values: whether the estimate is wrong wherever the fitted values are, even with the right ratios.
        interval: whether the spread over episodes says how wrong it may be; False gives a value without an interval.
        possible: the least and the largest possible value. Where the estimate lies between them, its interval is cut off there.
    """

    statistic: Statistic | None
    checks: tuple[Check, ...] = ()
    assumptions: tuple[str, ...] = ()
    unit_weight: Float[NumpyArray, " n"] | None = None
    ratios: Ratios | None = None
    predictable_variance: float | None = None
    behavior: Draft | None = None
    unknown: tuple[float, float] = (0.0, 0.0)
    behavior_gradient: Float[NumpyArray, " N"] | None = None
    by_network: tuple[float, ...] = ()
    jointly: bool = False
    moved: float = 0.0
    possible: tuple[float, float] = (-np.inf, np.inf)
    weighs_actions: bool = True
    trusts_values: bool = False
    interval: bool = True

    @property
    def model_variance(self) -> float:
        """The variance that comes from the networks; 0 where there is but one.

        Where K networks are averaged it is the variance of one further network about their average, (1 + 1/K) times their
        own. It does not shrink with K, since all may be wrong in the same way, which their disagreement only hints at. Where
        they are corrected together it is the jackknife's, 1/K times that of the pseudo-values, and `moved` hints at what they
        all miss.
        """
        count = len(self.by_network)
        if count < 2:
            return 0.0
        return float(np.var(self.by_network, ddof=1)) * (1 / count if self.jointly else 1 + 1 / count)

    @property
    def variance_of_models(self) -> float:
        """The variance that fitted networks add to that of sampling episodes: what they disagree by, and what traces move."""
        return self.model_variance + float(self.moved) ** 2

    @classmethod
    def refused(cls, sentence: str, case: Case) -> Draft:
        """The draft of an estimator that does not apply to a case."""
        return cls(None, (not_applicable(sentence),), shared_assumptions(case))

    @property
    def weight_based(self) -> bool:
        """Whether products of probability ratios over whole episodes are involved."""
        return uses_episode_weights(self.checks)

    def over(self, other: Draft) -> Draft:
        """The gain over another draft: as healthy as both, and only where both have an estimate."""
        paired = None
        if self.statistic is not None and other.statistic is not None:
            paired = minus(self.statistic, other.statistic)
        checks = self.checks + of_baseline(other.checks)
        # The variance of a difference is not the difference of the variances, so it is computed for the pair.
        expected = None
        if paired is not None and self.ratios is not None and other.ratios is not None:
            expected = variance_of_difference(self.ratios, other.ratios, paired.n)
        unknown = (self.unknown[0] - other.unknown[1], self.unknown[1] - other.unknown[0])
        gradient = None
        if self.behavior_gradient is not None and other.behavior_gradient is not None:
            gradient = self.behavior_gradient - other.behavior_gradient
        by_network = self.by_network
        if len(by_network) == len(other.by_network):
            by_network = tuple(np.subtract(by_network, other.by_network).tolist())
        return dataclasses.replace(
            self,
            statistic=paired,
            checks=checks,
            predictable_variance=expected,
            behavior=None,
            unknown=unknown,
            behavior_gradient=gradient,
            by_network=by_network,
            moved=self.moved - other.moved,
            possible=(-np.inf, np.inf),
            interval=self.interval and other.interval,
        )


@runtime_checkable
class Estimator(Protocol):
    """Estimates the value of a policy from a log. It keeps no state: equal cases give equal drafts.

    An estimator may also have these attributes, each of which counts as False where it is absent:

        irregular_time: it applies to logs whose schema has a `time_unit`, by which rewards are discounted.
        logged_actions_suffice: it needs the policy's probability of the logged action alone, not of every action.
        row_by_row: it needs no array of all rows by all actions, so that the log may be larger than such an array allows.
    """

    @property
    def name(self) -> str:
        """What it is called in arguments and results; short, and unlike any other."""

    @property
    def title(self) -> str:
        """What it is called in reports, in words."""

    @property
    def primary_rank(self) -> int | None:
        """Its place among the estimators a verdict may rest on, the least first; None: it only confirms or contradicts."""

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """Why it does not apply, as one sentence; None where it does."""

    def requests(self) -> tuple[FitRequest, ...]:
        """What must be fitted for it."""

    def estimate(self, case: Case) -> Draft:
        """The estimate, its health, and what it assumes."""


def shared_assumptions(case: Case) -> tuple[str, ...]:
    """What every estimate from logged actions assumes."""
    found = ["no unmeasured confounding", "every action of the policy has been tried in like states"]
    if case.behavior.fitted:
        found.append(FITTED_IS_RIGHT)
    if case.log.group is not None:
        found.append(f"the {case.units.count:,} groups are independent")
    cut = int((~case.episodes.terminated).sum())
    if cut:
        found.append(f"{cut} cut episodes would have gone on as the episodes that ran past those steps")
    return tuple(found)


def expected_variance(draft: Draft) -> float | None:
    """The expected variance of a draft's statistic (`evaluation/predictable.py`); None where it is not known."""
    if draft.predictable_variance is not None or draft.ratios is None or draft.statistic is None:
        return draft.predictable_variance
    return variance_of_value(draft.ratios, draft.statistic.n)


def behavior_variances(case: Case, drafts: Sequence[Draft]) -> list[float | None]:
    """The variance that the fit of the behaviour brings to the statistic of each draft; None where it is not known.

    Numbers that depend on the fit in the same way, such as a value and its gain over the logged returns, are computed once.
    """
    if not case.behavior.fitted:
        return [0.0] * len(drafts)
    known = [draft.behavior_gradient for draft in drafts]
    distinct: dict[bytes, tuple[int, NumpyArray]] = {}
    for gradient in known:
        if gradient is not None:
            distinct.setdefault(gradient.tobytes(), (len(distinct), gradient))
    if not distinct:
        return [None] * len(drafts)
    covariance = case.fits.fits.behavior_covariance(np.stack([one for _, one in distinct.values()], axis=1))
    if covariance is None:
        return [None] * len(drafts)
    return [None if one is None else float(covariance[(k := distinct[one.tobytes()][0]), k]) for one in known]


def influence_checks(draft: Draft, standard_error: float, units: Units) -> tuple[Check, ...]:
    """Whether one unit carries too much of an estimate's variance, or one logged action could.

    Args:
        draft: the draft of a value or a gain; it has a statistic.
        standard_error: its standard error, which is at least the one to be expected from the ratios.
        units: which episodes are independent.
    """
    assert draft.statistic is not None
    found = [check_influence(units, draft.statistic.influence(), draft.variance_of_models)]
    ratios = draft.ratios
    if ratios is not None and ratios.residual is not None and standard_error > 0:
        largest = float(ratios.largest().max(initial=0.0))
        error = float(np.sqrt((ratios.residual**2).mean()))
        share = float((largest * error / (draft.statistic.n * standard_error)) ** 2)
        found.append(check_possible_influence(share, largest))
    return tuple(found)


def episode_weight_draft(
    case: Case,
    contributions: Callable[[], Statistic],
    by_weight: Callable[[], ByWeight] | None = None,
    *,
    normalised: bool,
    weight: Weights | None = None,
    assumes: tuple[str, ...] = (),
) -> Draft:
    """The draft of an estimator that weights whole episodes.

    Args:
        case: what is estimated.
        contributions: computes the statistic; called only where some episode has weight.
        by_weight: computes the derivatives of the estimate by the logarithms of the weights; None where they are not known.
        normalised: whether the statistic divides by the weights, so that their scale does not matter.
        weight: the weights, where they are not those of the case.
        assumes: further assumptions.
    """
    weight = case.weights if weight is None else weight
    of_episode = final_weights(case.episodes, weight)
    lost = max(weight.lost, weight.lost_of_policy)
    unknown = what_follows(case.log, case.estimand, lost, case.episodes.longest)
    checks: tuple[Check, ...] = (
        *check_spread(case.units, of_episode),
        check_lost_weight(lost, longest=case.episodes.longest, unknown=unknown),
        check_mean_weight(of_episode, float(weight.log_scale[-1])),
    )
    statistic, gradient = None, None
    if not (normalised or weight.representable):
        largest = weight.log_scale.max() / np.log(10)
        checks += (
            not_applicable(
                f"The weights reach 10^{largest:,.0f}, and their average cannot be represented; self-normalised "
                "estimators divide by them and remain."
            ),
        )
    elif of_episode.any():
        statistic = contributions()
        checks += (check_range(statistic.value(), case.attainable),)
        if by_weight is not None and case.behavior.fitted:
            gradient = behavior_gradient(case.episodes, by_weight())
    assumptions = (*shared_assumptions(case), *assumes)
    return Draft(statistic, checks, assumptions, of_episode, unknown=unknown, behavior_gradient=gradient)


def refusal_of_products(name: str, log: Dataset, estimand: Estimand) -> str | None:
    """Why products of ratios over whole episodes do not apply to a log; None where they do."""
    longest = int(log.episode_lengths.max())
    complete = estimand.horizon is not None and longest >= estimand.horizon
    if complete or log.terminated.any():
        return None
    return (
        f"{name} weighs whole episodes, and every episode of this log was cut: what came after the cuts has no weight. fqe goes "
        f"on past cuts; with `horizon` at most {longest} {name} applies."
    )


def weighted(episodes: Episodes, weight: Weights) -> Contributions:
    """Weighted (self-normalised) importance sampling over whole episodes."""
    final = final_weights(episodes, weight)
    return Contributions((final * episodes.returns)[:, None], final[:, None])
