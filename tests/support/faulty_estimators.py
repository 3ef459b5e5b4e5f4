"""Estimators with one planted fault each, which `stitchrl.testing.check_estimator` must see for that reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Case, Draft
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.weights import final_weights


class Sound:
    """Weighted importance sampling, by the registered estimator; every fault below changes one thing."""

    name: Any = "wis"
    title: Any = "weighted importance sampling"
    primary_rank: Any = None

    def refusal(self, log: Any, estimand: Any, policies: Any) -> Any:
        return None

    def requests(self) -> Any:
        return ()

    def estimate(self, case: Case) -> Any:
        return ESTIMATORS["wis"].estimate(case)


class NoTitle(Sound):
    title = ""


class RankedByWord(Sound):
    primary_rank = "first"


class RequestsAList(Sound):
    def requests(self) -> Any:
        return []


class RefusesWithAWord(Sound):
    def refusal(self, log: Any, estimand: Any, policies: Any) -> Any:
        return None if estimand.horizon is None else "no"


class RefusesEverything(Sound):
    def refusal(self, log: Any, estimand: Any, policies: Any) -> Any:
        return "This estimator never applies."


class AsksForWhatItDidNotName(Sound):
    def estimate(self, case: Case) -> Draft:
        return ESTIMATORS["wdr"].estimate(case)


class ChangesItsCase(Sound):
    def estimate(self, case: Case) -> Draft:
        draft = super().estimate(case)
        case.episodes.reward[:] -= 1.0
        return draft


class SaysNothing(Sound):
    def estimate(self, case: Case) -> Draft:
        draft = super().estimate(case)
        return dataclasses.replace(draft, checks=tuple(dataclasses.replace(c, sentence="") for c in draft.checks))


class AlwaysHealthy(Sound):
    def estimate(self, case: Case) -> Draft:
        return dataclasses.replace(super().estimate(case), checks=())


class WithStatistic(Sound):
    """A fault in the statistic."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        raise NotImplementedError

    def estimate(self, case: Case) -> Draft:
        draft = super().estimate(case)
        return (
            draft
            if draft.statistic is None
            else dataclasses.replace(draft, statistic=self.statistic(draft.statistic, case))
        )


class Altered:
    """A statistic of which one member is replaced."""

    def __init__(self, inner: Any, **members: Callable[..., Any]) -> None:
        self.n, self.value, self.influence, self.replicate = inner.n, inner.value, inner.influence, inner.replicate
        vars(self).update(members)


class InfluenceNotCentred(WithStatistic):
    def statistic(self, statistic: Any, case: Case) -> Any:
        return Altered(statistic, influence=lambda: statistic.influence() + statistic.value())


class ValueBesideItsReplicates(WithStatistic):
    def statistic(self, statistic: Any, case: Case) -> Any:
        return Altered(statistic, value=lambda: statistic.value() + 0.01)


class DividesByTheWholeSample(WithStatistic):
    """The defect of two published packages: the weights of the resample are divided by the sum of all weights."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        final = final_weights(case.episodes, case.weights)
        return Contributions.average(final * case.episodes.returns / final.mean())


class ResamplesNothing(WithStatistic):
    def statistic(self, statistic: Any, case: Case) -> Any:
        return Altered(statistic, replicate=lambda counts: np.full(len(counts), statistic.value()))


class NormalisedByTheWholeInReplicatesOnly(WithStatistic):
    """Half of the way between the resample's own weights and all: influence and spread still look alike."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        final = final_weights(case.episodes, case.weights)
        fixed = Contributions.average(final * case.episodes.returns / final.mean())
        return Altered(
            statistic, replicate=lambda counts: 0.5 * statistic.replicate(counts) + 0.5 * fixed.replicate(counts)
        )


class ForgetsTheDiscount(WithStatistic):
    def statistic(self, statistic: Any, case: Case) -> Any:
        final = final_weights(case.episodes, case.weights)
        return Contributions((final * case.episodes.reward.sum(1))[:, None], final[:, None])


class ForgetsTheLastRatio(WithStatistic):
    """Right for the behaviour's own policy, whose ratios are 1, and wrong for every other."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        final = case.weights.before[:, -1]
        return Contributions((final * case.episodes.returns)[:, None], final[:, None])


class TooSure(WithStatistic):
    """Influence values and replicates of an estimate that shares nothing with its own noise: half of both."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        return Altered(
            statistic,
            influence=lambda: 0.5 * statistic.influence(),
            replicate=lambda counts: 0.5 * statistic.replicate(counts) + 0.5 * statistic.value(),
        )


class IgnoresTheHorizon(WithStatistic):
    """It takes a cut at the horizon for a cut, and adds a value for what follows."""

    def statistic(self, statistic: Any, case: Case) -> Any:
        final, returns = final_weights(case.episodes, case.weights), case.episodes.returns
        follows = case.log.truncated[case.log.episode_start[1:] - 1] * returns.mean()
        return Contributions((final * (returns + follows))[:, None], final[:, None])


class ClaimsTheNetworksValue(Sound):
    """FQE without its refit: the mean of V(s0), whose fitting error no interval sees."""

    def requests(self) -> Any:
        return (FitQ(),)

    def estimate(self, case: Case) -> Draft:
        fitted = case.fits.get(FitQ()).values
        return dataclasses.replace(
            ESTIMATORS["wis"].estimate(case), statistic=Contributions.average(fitted.v[case.log.episode_start[:-1]])
        )


class Remembers(WithStatistic):
    """Every call adds a little to what it says."""

    def __init__(self) -> None:
        self.calls = 0

    def statistic(self, statistic: Any, case: Case) -> Any:
        self.calls += 1
        return Contributions(statistic.numerator + 1e-7 * self.calls * statistic.denominator, statistic.denominator)


class HidesABiasBehindTheUnknown(Sound):
    """Too large by .5 away from the behaviour, and says that the truth may lie higher still."""

    unknown = (0.0, 0.8)

    def refusal(self, log: Any, estimand: Any, policies: Any) -> Any:
        return None if estimand.horizon is None else "This estimator has no horizon."

    def estimate(self, case: Case) -> Draft:
        draft = ESTIMATORS["wis"].estimate(case)
        statistic = draft.statistic
        if not isinstance(statistic, Contributions) or np.abs(case.fits.log_ratio).max() < 1e-6:
            return draft
        moved = Contributions(statistic.numerator + 0.5 * statistic.denominator, statistic.denominator)
        return dataclasses.replace(draft, statistic=moved, unknown=self.unknown)


class HidesItBehindEverything(HidesABiasBehindTheUnknown):
    unknown = (-np.inf, np.inf)
