"""What estimators ask to have fitted, the episodes that models are fitted on, and the episodes that they are used on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behavior import (
    BehaviorProbabilities,
    fitted_propensities,
    logged_propensities,
)
from stitchrl.evaluation.behavior_model import FittedBehavior
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.clock import with_clock
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.probabilities import (
    PolicyLike,
)
from stitchrl.evaluation.settings import FitSettings
from stitchrl.progress import LoopMonitor
from stitchrl.types import NumpyArray

__all__ = ["FitData", "FitRequest", "Fold", "Order"]


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """How arrays of the folds, one after the other, are put in the order of the log.

    Attributes:
        rows: (N,) the place of each row of the log among the rows of the folds.
        episodes: (n,) the place of each episode of the log among the episodes of the folds.
    """

    rows: Int[NumpyArray, " N"]
    episodes: Int[NumpyArray, " n"]

    def per_row(self, parts: Sequence[Shaped[NumpyArray, "_ ..."]]) -> Shaped[NumpyArray, "N ..."]:
        """One array of all transitions from those of the folds."""
        return np.concatenate(parts)[self.rows]

    def per_episode(self, parts: Sequence[Shaped[NumpyArray, "_ ..."]]) -> Shaped[NumpyArray, "n ..."]:
        """One array of all episodes from those of the folds."""
        return np.concatenate(parts)[self.episodes]


@runtime_checkable
class FitRequest(Hashable, Protocol):
    """What an estimator wants fitted. Equal requests are fitted once: write it as a frozen dataclass."""

    def fit(self, data: FitData) -> Sequence[Any]:
        """Fit the models, one a policy, on the episodes of `data`, which are not those of the estimates."""

    def apply(self, model: Any, fold: Fold, policy: int) -> Any:
        """What one policy's model says on the episodes of a fold; `policy` is the policy's number."""

    def join(self, parts: Sequence[Any], order: Order) -> Any:
        """What `apply` gave for each fold, joined to that of the whole log."""


@runtime_checkable
class ManyPolicies(Protocol):
    """A request whose models are applied for several policies at once, which costs less than one by one."""

    def apply_many(self, model: Any, fold: Fold, policies: Sequence[int]) -> list[Any]:
        """As `apply`, for each of the policies that one model serves."""


@dataclasses.dataclass(eq=False)
class FitData:
    """The episodes that models are fitted on.

    Attributes:
        log: those episodes.
        next_choices: gives what each policy does at the next states of `log`, one policy after another: (N, A) probabilities,
            or (N, K, D) drawn actions where actions are continuous.
        policies: how many policies there are.
        estimand: which quantity is estimated.
        settings: how models are fitted.
        monitors: shown the progress of long fits.
        log_policy: gives the (N,) logarithm of a policy's probability, or density, of the logged action, by its number, or None
            where the policy has no density; None where no fit asks for it.
        choices: gives what each policy does at the states of `log`, as `next_choices` does; None where no fit asks for it.
    """

    log: Dataset
    next_choices: Callable[[], Iterable[NumpyArray]]
    policies: int
    estimand: Estimand
    settings: FitSettings
    monitors: Sequence[LoopMonitor] = ()
    log_policy: Callable[[int], NumpyArray | None] | None = None
    choices: Callable[[], Iterable[NumpyArray]] | None = None

    def __post_init__(self) -> None:
        self._models: dict[FitRequest, Sequence[Any]] = {}

    def models(self, request: FitRequest) -> Sequence[Any]:
        """One model a policy; fitted at the first call."""
        if request not in self._models:
            self._models[request] = request.fit(self)
        return self._models[request]

    @property
    def gamma(self) -> float:
        """Discount."""
        return self.estimand.gamma

    @cached_property
    def timed_log(self) -> Dataset:
        """The log on which models of the value are fitted: with a horizon its observations tell the step."""
        return with_clock(self.log, self.estimand.horizon)

    @cached_property
    def behavior(self) -> FittedBehavior:
        """The behaviour, fitted to these episodes."""
        return fit_behavior(self.log, self.settings)

    def log_ratio(self, policy: int) -> Float[NumpyArray, " N"] | None:
        """(N,) log policy - log behaviour probability of the logged actions of these episodes; None without a density."""
        assert self.log_policy is not None
        if (found := self.log_policy(policy)) is None:
            return None
        logged = logged_propensities(self.log)
        known = fitted_propensities(self.behavior.policy, self.log) if logged is None else logged
        return found - known.log_prob


@dataclasses.dataclass(eq=False)
class Fold:
    """Episodes that estimates are made on, and what is fitted on others.

    Attributes:
        log: the episodes.
        data: the other episodes, and what is fitted on them.
        choices: gives what a policy does at the states of `log`, by its number: (N, A) probabilities, or (N, K, D) drawn
            actions where actions are continuous.
        next_choices: gives what a policy does at the next states, in the same form.
        log_policy: gives the (N,) logarithm of a policy's probability, or density, of the logged action; None where the policy
            has no density.
        pieces: gives the (N, A) probabilities some rows at a time, where all would not fit in memory.
        episodes: how many episodes all folds have together.
        policies: the policies themselves, to be asked at states that were not logged.
    """

    log: Dataset
    data: FitData
    choices: Callable[[int], NumpyArray]
    next_choices: Callable[[int], NumpyArray]
    log_policy: Callable[[int], NumpyArray | None]
    pieces: Callable[[int], Iterator[tuple[slice, NumpyArray]]]
    episodes: int
    policies: Sequence[PolicyLike] = ()

    @cached_property
    def timed_log(self) -> Dataset:
        """The log on which models of the value are read: with a horizon its observations tell the step."""
        return with_clock(self.log, self.data.estimand.horizon)

    @cached_property
    def behavior(self) -> BehaviorProbabilities:
        """The log's own propensities where it has them, else a fitted model's."""
        logged = logged_propensities(self.log)
        return fitted_propensities(self.data.behavior.policy, self.log) if logged is None else logged

    def log_ratio(self, policy: int) -> Float[NumpyArray, " N"] | None:
        """(N,) log policy - log behaviour probability of the logged action; None where the policy has no density."""
        log_policy = self.log_policy(policy)
        return None if log_policy is None else log_policy - self.behavior.log_prob
