"""Fitted models of an evaluation: each fitted once, when first asked for, for all policies together.

No episode is judged by a model that it helped to fit. Either other episodes are given for the fits, or each half of the log
is judged by models that were fitted on the other half (cross-fitting; Chernozhukov and others 2018, section 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.balance import RegionIndex
from stitchrl.evaluation.behavior import (
    BehaviorProbabilities,
    join_behavior,
    logged_propensities,
)
from stitchrl.evaluation.behavior_model import FittedBehavior
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.clock import first_steps, with_clock
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fit_data import FitData, FitRequest, Fold, ManyPolicies, Order
from stitchrl.evaluation.logged_policy import LoggedPolicy, knows_every_action, without_unknown_ends
from stitchrl.evaluation.policy_actions import drawn_actions, following_actions, has_density, log_densities_on
from stitchrl.evaluation.probabilities import (
    PolicyLike,
    next_probabilities,
    of_actions,
    policy_probabilities,
    probabilities_on,
    probability_pieces,
)
from stitchrl.evaluation.remembering import RememberingPolicy
from stitchrl.evaluation.requirements import check_size, held_whole
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.progress import LoopMonitor
from stitchrl.types import NumpyArray

__all__ = ["Fits", "PolicyFits"]


class Fits:
    """What one evaluation knows about its policies on its log: probabilities, ratios, and fitted models.

    Args:
        policies: what is evaluated.
        log: the episodes that estimates are made on; with a horizon only their first steps are used.
        fit_on: other episodes, for the fits; None cross-fits two halves of `log`.
        estimand: which quantity is estimated.
        settings: how models are fitted.
        monitors: shown the progress of long fits.
        served_by: for each policy, the number of the policy whose models it uses; None: each has models of its own. An
            estimate that corrects a Q remains right with the Q of a similar policy.
    """

    def __init__(
        self,
        policies: Sequence[PolicyLike],
        log: Dataset,
        fit_on: Dataset | None = None,
        *,
        estimand: Estimand,
        settings: FitSettings,
        monitors: Sequence[LoopMonitor] = (),
        served_by: Sequence[int] | None = None,
    ) -> None:
        self.policies, self.estimand = policies, estimand
        served = list(range(len(policies))) if served_by is None else list(served_by)
        self._fitted = sorted(set(served))
        self._model_of = [self._fitted.index(k) for k in served]
        self.log = without_unknown_ends(policies, first_steps(log, estimand.horizon))
        self._fit_on = None if fit_on is None else without_unknown_ends(policies, first_steps(fit_on, estimand.horizon))
        self.settings, self._monitors = settings, monitors
        self._choices: dict[int, NumpyArray] = {}
        self._next_choices: dict[int, NumpyArray] = {}
        self._log_policy: dict[int, NumpyArray] = {}
        self._found: dict[FitRequest, list[Any]] = {}

    def of(self, policy: int) -> PolicyFits:
        """The view of one policy, by its number."""
        return PolicyFits(self, policy)

    def on(self, log: Dataset) -> Fits:
        """The same fitted models on other episodes.

        Raises:
            EvaluationError: the models were cross-fitted, without `fit_on`.
        """
        if self._fit_on is None:
            raise EvaluationError(
                "Models that were cross-fitted on a log serve that log only; give `fit_on` to use them on other episodes."
            )
        other = Fits(self.policies, log, self._fit_on, estimand=self.estimand, settings=self.settings)
        other._data_of_others = self._data_of_others
        return other

    def with_policies(self, policies: Sequence[PolicyLike], served_by: Sequence[int]) -> Fits:
        """The same models for other policies on the same log.

        Args:
            policies: the other policies.
            served_by: for each of them, the number of the policy of this object whose models it uses.

        Raises:
            EvaluationError: the models were cross-fitted, without `fit_on`.
        """
        if self._fit_on is None:
            raise EvaluationError(
                "Models that were cross-fitted serve the policies that they were fitted for; give `fit_on`."
            )
        other = Fits(policies, self.log, self._fit_on, estimand=self.estimand, settings=self.settings)
        other._fitted, other._model_of = self._fitted, [self._model_of[k] for k in served_by]
        other._data_of_others = self._data_of_others
        return other

    def with_reward(self, reward: Callable[[Dataset], NumpyArray]) -> Fits:
        """The same policies on the same episodes with other rewards.

        Args:
            reward: gives the (N,) new rewards of the rows of a log.
        """
        for k, policy in enumerate(self.policies):
            if isinstance(policy, RememberingPolicy):
                self.log_policy(k)  # it remembers the rewards of the log, not these numbers
        log = dataclasses.replace(self.log, reward=reward(self.log))
        fit_on = None if self._fit_on is None else dataclasses.replace(self._fit_on, reward=reward(self._fit_on))
        other = Fits(
            self.policies, log, fit_on, estimand=self.estimand, settings=self.settings, monitors=self._monitors
        )
        other._choices, other._next_choices, other._log_policy = self._choices, self._next_choices, self._log_policy
        return other

    def get(self, request: FitRequest) -> list[Any]:
        """What a request asks for, one result a policy, on the whole log; fitted at the first call."""
        if request not in self._found:
            parts = [self._applied(request, fold) for fold in self._folds]
            self._found[request] = [request.join(of_policy, self._order) for of_policy in zip(*parts, strict=True)]
        return self._found[request]

    def _applied(self, request: FitRequest, fold: Fold) -> list[Any]:
        """What was asked for, for each policy, on the episodes of a fold."""
        models = fold.data.models(request)
        if not isinstance(request, ManyPolicies):
            return [request.apply(models[model], fold, k) for k, model in enumerate(self._model_of)]
        found: dict[int, Any] = {}
        for model in sorted(set(self._model_of)):
            served = [k for k, of in enumerate(self._model_of) if of == model]
            found |= dict(zip(served, request.apply_many(models[model], fold, served), strict=True))
        return [found[k] for k in range(len(self.policies))]

    def choices(self, policy: int) -> Float[NumpyArray, "N ..."]:
        """What a policy does at the logged states: (N, A) probabilities; (N, K, D) drawn actions where they are continuous."""
        if policy not in self._choices:
            check_size(self.log, *self._rows)
            self._choices[policy] = self._asked(policy, self.log)
        return self._choices[policy]

    def next_choices(self, policy: int) -> Float[NumpyArray, "N ..."]:
        """What a policy does at the next states, in the form of `choices`."""
        if policy not in self._next_choices:
            self._next_choices[policy] = self._asked_next(policy, self.log, self.choices(policy))
        return self._next_choices[policy]

    def log_policy(self, policy: int) -> Float[NumpyArray, " N"]:
        """(N,) logarithm of a policy's probability, or density, of the logged action; minus infinity where it is 0."""
        if policy not in self._log_policy:
            log, one = self.log, self.policies[policy]
            if log.num_actions is None or isinstance(one, LoggedPolicy):
                self._log_policy[policy] = log_densities_on(one, log)
            else:
                self._log_policy[policy] = _log_of_actions(self.pieces(policy), log)
        return self._log_policy[policy]

    def _known_log_policy(self, policy: int) -> NumpyArray | None:
        return self.log_policy(policy) if has_density(self.policies[policy]) else None

    def pieces(self, policy: int) -> Iterator[tuple[slice, NumpyArray]]:
        """A policy's (N, A) probabilities some rows at a time; all at once where they are held anyway."""
        if self.whole:
            return iter([(slice(0, self.log.num_transitions), self.choices(policy))])
        return probability_pieces(self.policies[policy], self.log)

    @cached_property
    def every_action_known(self) -> bool:
        """Whether it is known what each of the policies would do with every action, and not with the logged one alone."""
        return all(knows_every_action(policy, self.log) for policy in self.policies)

    @cached_property
    def whole(self) -> bool:
        """Whether what is held of the policies fits in memory."""
        return held_whole(self.log, *self._rows)

    @property
    def _rows(self) -> tuple[int, int | None, int]:
        fit_on = None if self._fit_on is None else self._fit_on.num_transitions
        return self.log.num_transitions, fit_on, len(self.policies)

    def _asked(self, policy: int, log: Dataset) -> Float[NumpyArray, "N ..."]:
        """What a policy does at the states of any log."""
        if log.num_actions is None:
            size, seed = log.action.shape[1], self.settings.seed
            return drawn_actions(self.policies[policy], log.observation, size, seed=seed)
        return probabilities_on(self.policies[policy], log)

    def _asked_next(self, policy: int, log: Dataset, here: Float[NumpyArray, "N ..."]) -> Float[NumpyArray, "N ..."]:
        """What a policy does at the next states of any log, given what it does at its states."""
        if log.num_actions is None:
            return following_actions(self.policies[policy], log, here, seed=self.settings.seed)
        return next_probabilities(self.policies[policy], log, here)

    @cached_property
    def behavior(self) -> BehaviorProbabilities:
        """The behaviour's probabilities on the whole log; fitted only where the log has none."""
        logged = logged_propensities(self.log)
        return join_behavior([fold.behavior for fold in self._folds], self._order.rows) if logged is None else logged

    @cached_property
    def behavior_probs(self) -> Float[NumpyArray, "N A"]:
        """The behaviour's probability of every discrete action; a fitted model's where the log gives the taken action's only."""
        known = self.behavior.probs
        if known is not None:
            return known
        return self._order.per_row(
            [
                policy_probabilities(fold.data.behavior.policy, fold.log.observation, fold.log.action_mask)
                for fold in self._folds
            ]
        )

    @property
    def fitted_behaviors(self) -> list[FittedBehavior]:
        """The fitted behaviour of each fold; none where the log has propensities."""
        return [fold.data.behavior for fold in self._folds] if self.behavior.fitted else []

    @property
    def behavior_and_episodes(self) -> list[tuple[FittedBehavior, Dataset]]:
        """Each fitted behaviour with the episodes that it serves, none of which it was fitted to."""
        return [(fold.data.behavior, fold.log) for fold in self._folds] if self.behavior.fitted else []

    @cached_property
    def own_behavior(self) -> FittedBehavior:
        """The behaviour, fitted by maximum likelihood to the very episodes that estimates are made on, whatever propensities
        the log has."""
        return fit_behavior(self.log, self.settings, maximum_likelihood=True)

    def behavior_covariance(self, gradient: Float[NumpyArray, "N K"]) -> Float[NumpyArray, "K K"] | None:
        """Covariance of K numbers that comes from the fit of the behaviour; None where it is not known.

        The episodes of the fit show one covariance and the fitted model expects another; for each number the larger variance
        counts, since a rare action may be absent from the fit by luck. With cross-fitting the two fits are taken to be
        independent of the estimates.

        Args:
            gradient: (N, K) derivative of each number by the logarithm of the behaviour's probability of each logged action.
        """
        numbers = gradient.shape[1]
        total = np.zeros((numbers, numbers))
        if not self.behavior.fitted:
            return total
        parts = [np.arange(self.log.num_transitions)]
        if self._fit_on is None:
            parts = [_rows_of(self.log, half) for half in self._halves]
        for fold, rows in zip(self._folds, parts, strict=True):
            noise = fold.data.behavior.noise
            if noise is None:
                return None
            effect = noise.effect(fold.log, gradient[rows])
            moved = Units(fold.data.log.num_episodes, fold.data.log.group).sums(effect.episodes)
            seen = moved.T @ moved
            scale = np.sqrt(np.maximum(np.diag(seen), np.diag(effect.expected)))
            larger = seen if np.trace(seen) >= np.trace(effect.expected) else effect.expected
            known = np.sqrt(np.maximum(np.diag(larger), 1e-300))
            total += larger * np.outer(scale / known, scale / known)
        return total

    @cached_property
    def timed_log(self) -> Dataset:
        """The log on which models of value are read: with a horizon its last steps are terminated."""
        return with_clock(self.log, self.estimand.horizon)

    @cached_property
    def regions(self) -> RegionIndex:
        """The region of each observation of the log, for tests of ratios."""
        return RegionIndex(self.log)

    @cached_property
    def _halves(self) -> tuple[NumpyArray, NumpyArray]:
        """Positions of the episodes of the two halves of cross-fitting."""
        one, other = self.log.split_episodes((0.5, 0.5), seed=self.settings.seed)
        return one, other

    @cached_property
    def _order(self) -> Order:
        if self._fit_on is not None:
            return Order(np.arange(self.log.num_transitions), np.arange(self.log.num_episodes))
        rows = np.concatenate([_rows_of(self.log, half) for half in self._halves])
        return Order(np.argsort(rows), np.argsort(np.concatenate(self._halves)))

    @cached_property
    def _data_of_others(self) -> FitData:
        fit_on = self._fit_on
        assert fit_on is not None
        return self._data(
            fit_on,
            lambda: (self._asked_next(k, fit_on, self._asked(k, fit_on)) for k in self._fitted),
            lambda k: self._log_policy_on(self._fitted[k], fit_on),
            lambda: (self._asked(k, fit_on) for k in self._fitted),
        )

    @cached_property
    def _folds(self) -> list[Fold]:
        if self._fit_on is not None:
            parts = self.choices, self.next_choices, self._known_log_policy, self.pieces
            return [Fold(self.log, self._data_of_others, *parts, self.log.num_episodes, self.policies)]
        return [self._half(here, other) for here, other in (self._halves, self._halves[::-1])]

    def _half(self, here: NumpyArray, other: NumpyArray) -> Fold:
        rows, other_rows = _rows_of(self.log, here), _rows_of(self.log, other)
        data = self._data(
            self.log.select_episodes(other),
            lambda: (self.next_choices(k)[other_rows] for k in self._fitted),
            lambda k: None if (found := self._known_log_policy(self._fitted[k])) is None else found[other_rows],
            lambda: (self.choices(k)[other_rows] for k in self._fitted),
        )
        log = self.log.select_episodes(here)

        def pieces(k: int) -> Iterator[tuple[slice, NumpyArray]]:
            if self.whole:
                return iter([(slice(0, log.num_transitions), self.choices(k)[rows])])
            return probability_pieces(self.policies[k], log)

        return Fold(
            log,
            data,
            lambda k: self.choices(k)[rows],
            lambda k: self.next_choices(k)[rows],
            lambda k: None if (found := self._known_log_policy(k)) is None else found[rows],
            pieces,
            self.log.num_episodes,
            self.policies,
        )

    def _log_policy_on(self, policy: int, log: Dataset) -> Float[NumpyArray, " N"] | None:
        """`log_policy` on any log; None where the policy has no density."""
        if isinstance(one := self.policies[policy], LoggedPolicy):
            return one.log_prob_on(log)
        if log.num_actions is None:
            return log_densities_on(one, log) if has_density(one) else None
        return _log_of_actions(probability_pieces(self.policies[policy], log), log)

    def _data(
        self,
        log: Dataset,
        next_choices: Callable[[], Iterable[NumpyArray]],
        log_policy: Callable[[int], NumpyArray | None],
        choices: Callable[[], Iterable[NumpyArray]],
    ) -> FitData:
        count, known = len(self._fitted), (self.estimand, self.settings, self._monitors)
        return FitData(log, next_choices, count, *known, log_policy, choices)


class PolicyFits:
    """What `Fits` knows about one policy.

    Args:
        fits: what is known about all of them.
        policy: the number of this one.
    """

    def __init__(self, fits: Fits, policy: int) -> None:
        self.fits, self.policy = fits, policy

    def get(self, request: FitRequest) -> Any:
        """What was asked for, for this policy."""
        return self.fits.get(request)[self.policy]

    @property
    def choices(self) -> Float[NumpyArray, "N ..."]:
        """What the policy does at the logged states: (N, A) probabilities; (N, K, D) drawn actions where continuous."""
        return self.fits.choices(self.policy)

    @property
    def log_policy(self) -> Float[NumpyArray, " N"]:
        """(N,) logarithm of the policy's probability, or density, of the logged action."""
        return self.fits.log_policy(self.policy)

    @cached_property
    def log_ratio(self) -> Float[NumpyArray, " N"]:
        """(N,) log policy - log behaviour probability of the logged action."""
        return self.log_policy - self.fits.behavior.log_prob


def _log_of_actions(pieces: Iterable[tuple[slice, NumpyArray]], log: Dataset) -> Float[NumpyArray, " N"]:
    """(N,) logarithm of the probability of each logged action; minus infinity where it is 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.concatenate([of_actions(probs, log.action[rows]) for rows, probs in pieces]))


def _rows_of(log: Dataset, episodes: NumpyArray) -> NumpyArray:
    return np.concatenate([np.arange(log.episode_start[e], log.episode_start[e + 1]) for e in episodes])
