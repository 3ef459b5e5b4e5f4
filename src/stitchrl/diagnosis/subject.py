"""The subject of a check of a diagnosis: one policy of a run on a log, and the numbers that several checks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError, StitchRLError
from stitchrl.evaluation.behavior import BehaviorProbabilities, fitted_propensities, logged_propensities
from stitchrl.evaluation.behavior_model import BehaviorPolicy
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.probabilities import probabilities_on
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.messages import listed
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.training.flag_rules import in_logged_units, temperature_and_entropy
from stitchrl.training.run import Run
from stitchrl.training.value_limits import ValueLimits, largest_entropy
from stitchrl.types import NumpyArray

__all__ = ["MOST_ROWS", "NO_RUN", "Member", "NotLookedAtError", "Shared", "Subject", "drawn_episodes"]

MOST_ROWS = 4096
"""The most rows that are examined: whole episodes drawn at random."""

T = TypeVar("T")


NO_RUN = "A policy without its run has neither settings nor metrics that could be checked."
"""Why a check of a run skips a policy that was given without its run."""


class NotLookedAtError(Exception):
    """Raised by a check that cannot look at a subject; its message is the sentence that says why."""


NO_CRITICS = "There are no critics, so that no values are claimed that could be checked."
"""Why everything that asks about claimed values skips a policy: one sentence, which is shown once."""


def drawn_episodes(log: Dataset, most: int) -> Dataset:
    """Whole episodes of a log, drawn at random, with at most `most` rows together (or one episode); a smaller log unchanged."""
    if log.num_transitions <= most:
        return log
    order = np.random.default_rng(0).permutation(log.num_episodes)
    ends = np.cumsum(log.episode_lengths[order])
    taken = max(int(np.searchsorted(ends, most, side="right")), 1)
    return log.select_episodes(np.sort(order[:taken]))


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One policy to be diagnosed.

    Attributes:
        name: how findings call it, such as "seed 0".
        policy: exactly what would act, on raw observations and in logged units.
        value: its claimed values in the log's reward units; None where it has none.
        algorithm: what it was learned with; None for a policy that was given without its run.
        estimate: of the value of that policy, where there is one.
        with_mask: whether it is known to have learned from a log with action masks; a policy that has its schema shows it.
        deployed: the return of each episode in which that policy acted, or the log of them; None where it was not deployed.
        run: the run that it was learned in; None for a policy that was given alone.
        learned_in: that run, where its settings and metrics are checked elsewhere, so that only the limits that its rewards set
            for values are taken from it.
        acts: how it acts, such as "greedy", where one seed of a run may act in several ways; "" where there is one.
    """

    name: str
    policy: Any
    value: DiscreteValue | ContinuousValue | None = None
    algorithm: Algorithm | None = None
    estimate: Estimate | None = None
    with_mask: bool = False
    deployed: Sequence[float] | NumpyArray | Dataset | None = None
    run: Run | None = None
    acts: str = ""
    learned_in: Run | None = None

    @property
    def origin(self) -> Run | None:
        """The run that the policy was learned in, whether its settings are looked at or not."""
        return self.learned_in if self.run is None else self.run

    @property
    def heading(self) -> str:
        """The name as a sentence begins with it."""
        return self.name[:1].upper() + self.name[1:]


class Shared:
    """What is known of the log, whichever policy is examined.

    Attributes:
        log: as it was given.
        rows_of: up to `MOST_ROWS` rows of it, as whole episodes drawn at random where there are more.
        newer: a log of later data, to compare with; None where there is none.

    Args:
        log: the episodes on which the policies are examined.
        settings: for fitting the behaviour where propensities are missing.
        newer: see above.

    Raises:
        ConfigurationError: newer data with other observations or actions than the log.
    """

    def __init__(self, log: Dataset, settings: FitSettings | None = None, newer: Dataset | None = None) -> None:
        if newer is not None and (_kind(newer) != _kind(log) or _renamed(newer, log)):
            raise ConfigurationError(
                f"Newer data must have the observations and actions of the log, {_meaning(log)}; got {_meaning(newer)}. Read it "
                "by the schema of the log."
            )
        self.log, self.newer = log, newer
        self._settings = FitSettings() if settings is None else settings
        self._computed: dict[Callable[[Shared], Any], Any] = {}

    def once(self, compute: Callable[[Shared], T]) -> T:
        """What `compute` gives, computed at the first call only."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        result: T = self._computed[compute]
        return result

    @cached_property
    def rows_of(self) -> Dataset:
        """See the class."""
        return drawn_episodes(self.log, MOST_ROWS)

    @cached_property
    def behavior(self) -> BehaviorProbabilities:
        """The behaviour on `rows_of`: logged propensities, or a model fitted to the whole log.

        Raises `NotLookedAtError` where neither can be had.
        """
        rows = self.rows_of
        try:
            logged = logged_propensities(rows)
            if logged is not None and (logged.probs is not None or rows.num_actions is None):
                return logged
            return fitted_propensities(self.behavior_model, rows)
        except EvaluationError as why:
            raise NotLookedAtError(str(why)) from None

    @cached_property
    def behavior_model(self) -> BehaviorPolicy:
        """A model of the behaviour fitted to the whole log, which gives probabilities of actions that were not logged too.

        Raises `NotLookedAtError` where none can be fitted.
        """
        try:
            return fit_behavior(self.log, self._settings).policy
        except StitchRLError as why:
            raise NotLookedAtError(str(why)) from None

    @property
    def has_behavior_model(self) -> bool:
        """Whether `behavior_model` is fitted already, so that asking it costs nothing."""
        return "behavior_model" in self.__dict__


def _kind(log: Dataset) -> tuple[object, ...]:
    """The properties that two logs must share to be compared."""
    return log.num_actions, log.observation_shape, log.action.shape[1:]


def _meaning(log: Dataset) -> str:
    """The observations and actions of a log, in words."""
    actions = f"{log.num_actions} actions"
    if log.num_actions is None:
        actions = f"continuous actions of shape {log.action.shape[1:]}"
    names = "" if _numbered(log) else f" ({listed(log.observation_names)})"
    return f"{actions} and observations of shape {log.observation_shape}{names}"


def _renamed(one: Dataset, other: Dataset) -> bool:
    """Whether the observation columns of two logs have names, and other ones."""
    return not (_numbered(one) or _numbered(other)) and one.observation_names != other.observation_names


def _numbered(log: Dataset) -> bool:
    """Whether the observation columns have numbers and no names."""
    return all(name.endswith("]") for name in log.observation_names)


class Subject:
    """One policy with its log: the facts of it that several checks share, each computed when it is first asked for."""

    def __init__(self, member: Member, shared: Shared) -> None:
        self.member, self.shared = member, shared
        self._computed: dict[Callable[[Subject], Any], Any] = {}

    def once(self, compute: Callable[[Subject], T]) -> T:
        """What `compute` gives, computed at the first call only."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        result: T = self._computed[compute]
        return result

    @property
    def rows(self) -> Dataset:
        """The rows that are examined."""
        return self.shared.rows_of

    @property
    def gamma(self) -> float:
        """The discount of the claimed values: that of training, or the schema's where training had none."""
        return float(getattr(self.member.algorithm, "gamma", self.shared.log.schema.gamma))

    @cached_property
    def limits(self) -> ValueLimits:
        """The limits of values that rewards set: those of the training log where they are known, else of the log looked at."""
        run, algorithm = self.member.origin, self.member.algorithm
        if run is not None and run.limits is not None:
            return run.limits
        entropy = 0.0 if algorithm is None else largest_entropy(algorithm, self.shared.log)
        return ValueLimits.of(self.shared.log, self.gamma, entropy=entropy)

    @property
    def limits_from(self) -> str:
        """Which log's rewards set these limits, in words."""
        run = self.member.origin
        return "the rewards of the " + ("log looked at" if run is None or run.limits is None else "training log")

    @cached_property
    def entropy_reach(self) -> tuple[float, float]:
        """How much an entropy bonus may lower a claimed value, and how much it may raise it; (0, 0) where values hold none."""
        run = self.member.origin
        if run is None or not self.limits.entropy:
            return 0.0, 0.0
        rows = in_logged_units(run.metrics.columns(), self.limits.scale)
        temperature, entropy = temperature_and_entropy(rows)
        return self.limits.entropy_loss(temperature, entropy), self.limits.entropy_bonus(temperature)

    @cached_property
    def returns(self) -> Float[NumpyArray, " E"]:
        """(E,) the return of every episode of the whole log by `gamma`; cut ones count as they are."""
        return self.shared.log.episode_returns(self.gamma)

    @property
    def acts_alone(self) -> bool:
        """Whether the policy acts by the observation alone."""
        return not isinstance(self.member.policy, MemoryPolicy)

    @cached_property
    def obs(self) -> NumpyArray:
        """(N, ...) observations of the rows."""
        return self.rows.observation_table[self.rows.observation_index]

    @property
    def mask(self) -> Bool[NumpyArray, "N A"] | None:
        """(N, A) allowed actions of the rows; None without a mask."""
        return self.rows.action_mask

    @cached_property
    def probs(self) -> Float[NumpyArray, "N A"]:
        """(N, A) probabilities of the policy over discrete actions, with the mask of the log.

        Raises `NotLookedAtError` where the policy gives none that can be used.
        """
        try:
            return probabilities_on(self.member.policy, self.rows)
        except EvaluationError as why:
            raise NotLookedAtError(str(why)) from None

    @cached_property
    def actions(self) -> Int[NumpyArray, " N"] | Float[NumpyArray, "N D"]:
        """(N,) or (N, D) the deterministic action of the policy at each row."""
        if self.rows.num_actions is not None:
            return self.probs.argmax(1)
        return np.asarray(self.member.policy.mode(self.obs), np.float64)

    @cached_property
    def drawn(self) -> Float[NumpyArray, "N D"]:
        """(N, D) one draw of the policy over continuous actions at each row; its mode where it is deterministic."""
        if not hasattr(self.member.policy, "sample"):
            return np.asarray(self.actions, np.float64)
        return np.asarray(self.member.policy.sample(self.obs, key=jax.random.key(0)), np.float64)

    @cached_property
    def q_logged(self) -> Float[NumpyArray, " N"] | None:
        """(N,) claimed Q of the logged actions; None where nothing is claimed."""
        value = self.member.value
        return None if value is None else np.asarray(value.q(self.obs, self.rows.action), np.float64)

    @cached_property
    def q_policy(self) -> Float[NumpyArray, " N"] | None:
        """(N,) claimed Q of what the policy does: its expectation over discrete actions, else of its mode."""
        value = self.member.value
        if value is None or not self.acts_alone:
            return None
        if isinstance(value, DiscreteValue):
            return (self.probs * np.asarray(value.q_all(self.obs), np.float64)).sum(1)
        return np.asarray(value.q(self.obs, self.actions.astype(np.float32)), np.float64)
