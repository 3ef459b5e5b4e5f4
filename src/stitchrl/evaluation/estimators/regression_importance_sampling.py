"""Regression importance sampling (Hanna, Niekum and Stone 2019, arXiv 1806.01347): ris, in its weighted form.

Weighted importance sampling with a behaviour b^ that is fitted to the very episodes that the estimate is made on, whether or
not the log has propensities:

    (1)  value = sum_i w_i G_i / sum_i w_i,   w_i = prod_t pi(a_t|s_t) / b^(a_t|s_t)

To an action that was drawn too often by chance b^ gives too large a probability, and the two errors cancel: with a right model
the variance is smaller than with the true b. In the influence values this is a projection: the part of them that the score of
the model explains is taken away,

    (2)  phi_i + n u_i

with phi_i the influence values of (1) for a given b^, and u_i the effect of episode i on the estimate by way of the fit
(`FitNoise.effect`).

The trap: a model that is too rich gives every logged action a probability near 1. All ratios fall to 1 or below, the weights
look even, and the estimate goes to the mean logged return. The health check compares how well b^ predicts the actions it was
fitted to with how well the same model predicts those of episodes that it did not see. The difference, in nats an episode, is
about the number of parameters divided by the number of episodes, which is also the share of the variance that (2) misses.

The model is the one that `FitSettings.behavior` names, of those that are fitted by maximum likelihood to all episodes:
counts or logistic regression. The network stops early and has no such likelihood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behavior_model import LEAST_PROBABILITY, FittedBehavior
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimator import Case, Draft, episode_weight_draft, weighted
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import check_own_fit
from stitchrl.evaluation.probabilities import PolicyLike, policy_probabilities, taken
from stitchrl.evaluation.statistic import Statistic
from stitchrl.evaluation.weights import behavior_gradient, by_final_weight, cumulative_weights
from stitchrl.types import NumpyArray

__all__ = ["RegressionImportanceSampling"]


@dataclasses.dataclass(frozen=True, eq=False)
class WithOwnFit:
    """An estimate whose behaviour is fitted to its own episodes, by equation (2); its resamples are right to first order.

    Attributes:
        given: the estimate with the fitted behaviour taken as given.
        moved: (n,) u_i, the effect of each episode on it by way of the fit.
    """

    given: Statistic
    moved: Float[NumpyArray, " n"]

    @property
    def n(self) -> int:
        """How many episodes it is computed from."""
        return self.given.n

    def value(self) -> float:
        """The estimate."""
        return self.given.value()

    def influence(self) -> Float[NumpyArray, " n"]:
        """Equation (2), centred."""
        return self.given.influence() + self.n * self._centred

    def replicate(self, counts: Float[NumpyArray, "R n"]) -> Float[NumpyArray, " R"]:
        """The estimate of each resample, with what its episodes would have done to the fit."""
        found: NumpyArray = self.given.replicate(counts) + counts @ self._centred
        return found

    @property
    def _centred(self) -> Float[NumpyArray, " n"]:
        found: NumpyArray = self.moved - self.moved.mean()
        return found


@dataclasses.dataclass(frozen=True)
class RegressionImportanceSampling:
    """Weighted importance sampling with the behaviour of the episodes themselves."""

    irregular_time: ClassVar[bool] = True
    logged_actions_suffice: ClassVar[bool] = True

    name: str = "ris"
    title: str = "regression importance sampling: weights from a behaviour fitted to the same episodes"
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses images and continuous actions, to which neither counts nor a logistic regression are fitted."""
        if log.num_actions is None:
            return "ris fits counts or a logistic regression of discrete actions; this log's actions are continuous."
        if log.observation_table.ndim != 2:
            return (
                "ris fits counts or a logistic regression of the actions to vectors; this log's observations are images of "
                f"shape {log.observation_shape}."
            )
        return None

    def requests(self) -> tuple[FitRequest, ...]:
        """Nothing: what it needs is fitted to the episodes of the estimate themselves."""
        return ()

    def estimate(self, case: Case) -> Draft:
        """Equation (1), with the health of its weights and of the fit."""
        fits = case.fits.fits
        if fits.settings.behavior in ("mlp", "knn"):
            return Draft.refused(
                f"ris needs a behaviour that is fitted by maximum likelihood, which {fits.settings.behavior!r} is not. Set "
                "`behavior` of the fit settings to 'counts', 'logistic' or 'auto'.",
                case,
            )
        fitted = fits.own_behavior
        weight = cumulative_weights(case.episodes, self._log_ratio(case, fitted))
        draft = episode_weight_draft(
            case,
            lambda: weighted(case.episodes, weight),
            normalised=True,
            weight=weight,
            assumes=("the behaviour fitted to these episodes is right",),
        )
        if draft.statistic is None:
            return draft
        gradient = behavior_gradient(case.episodes, by_final_weight(draft.statistic.influence(), weight))
        assert fitted.noise is not None
        assert fitted.optimism is not None
        moved = fitted.noise.effect(case.log, gradient[:, None]).episodes[:, 0]
        nats = fitted.optimism * case.log.num_transitions / case.log.num_episodes
        return dataclasses.replace(
            draft,
            statistic=WithOwnFit(draft.statistic, moved),
            checks=(*draft.checks, check_own_fit(nats)),
            # Its noise is in the influence values; whatever else was fitted plays no part.
            behavior_gradient=np.zeros(case.log.num_transitions),
        )

    def _log_ratio(self, case: Case, fitted: FittedBehavior) -> Float[NumpyArray, " N"]:
        probs = policy_probabilities(fitted.policy, case.log.observation, case.log.action_mask)
        return case.fits.log_policy - np.log(np.maximum(taken(probs, case.log), LEAST_PROBABILITY))
