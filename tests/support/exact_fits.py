"""Evaluations of tabular policies with exact, or deliberately wrong, models in place of fitted ones.

Everything else is the product's own code: contributions, variances, intervals, health checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from exact_worlds import World, tilted

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.fit_data import FitRequest, Fold
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.marginal import FitMarginal, Marginal
from stitchrl.evaluation.refit import CorrectedQ, FitQ, FittedValues, Refit
from stitchrl.evaluation.registry import chosen_estimators
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.visits import FitVisits


class Models(NamedTuple):
    """What an evaluation would fit.

    Attributes:
        visits: (L,) ratio of state visits, policy over behaviour.
        q: (L, A) values.
    """

    visits: np.ndarray
    q: np.ndarray


def better_policy(world: World) -> np.ndarray:
    """(L, A) the behaviour, tilted towards its own advantages."""
    b = world.behavior[: world.live]
    q = world.mdp.action_values(world.behavior)[: world.live]
    advantage = q - (b * q).sum(1, keepdims=True)
    return tilted(b, 0.75 * advantage / advantage[b > 0].std(), floor=0.02)


def exact_value(world: World, table: np.ndarray) -> float:
    """The value of a policy over the live states."""
    return world.mdp.policy_value(_whole(world, table))


def exact_models(world: World, table: np.ndarray) -> Models:
    """The exact ratio of visits and the exact Q of a policy."""
    mine, logged = visits_of(world, table), visits_of(world, world.behavior[: world.live])
    ratio = np.divide(mine, logged, out=np.zeros_like(mine), where=logged > 0)
    return Models(ratio, world.mdp.action_values(_whole(world, table))[: world.live])


def visits_of(world: World, table: np.ndarray) -> np.ndarray:
    """(L,) how often an episode of a policy comes to each live state."""
    live = world.live
    step = np.einsum("sa,sat->st", table, world.mdp.transition[:live, :, :live])
    found: np.ndarray = np.linalg.solve(np.eye(live) - step.T, world.mdp.initial[:live])
    return found


def expected_drl(world: World, table: np.ndarray, models: Models) -> float:
    """The exact expectation of drl on fresh episodes, given its models."""
    live = world.live
    transition = world.mdp.transition[:live]
    v = (table * models.q).sum(1)
    reward = (transition * world.mdp.reward[:live]).sum(2)
    error = (table * (reward + transition[:, :, :live] @ v - models.q)).sum(1)
    logged = visits_of(world, world.behavior[:live])
    return float(world.mdp.initial[:live] @ v + (logged * models.visits) @ error)


class ExactFits(Fits):
    """`Fits` of one tabular policy with given models."""

    def __init__(self, world: World, table: np.ndarray, log: Dataset, models: Models) -> None:
        super().__init__([world.policy(table)], log, log, estimand=Estimand(1.0), settings=FitSettings())
        b = world.behavior[: world.live]
        self._table, self._models = table, models
        self._pairs = models.visits[:, None] * np.divide(table, b, out=np.zeros_like(table), where=b > 0)

    def _applied(self, request: FitRequest, fold: Fold) -> list[Any]:
        log, state = fold.log, fold.log.observation_id
        assert state is not None
        start = log.episode_start[:-1]
        if isinstance(request, FitQ):
            v = (self._table * self._models.q).sum(1)[state]
            return [CorrectedQ(FittedValues(self._models.q[state, log.action], v, np.append(v[1:], 0.0)), None)]
        if isinstance(request, FitVisits):
            return [self._models.visits[state]]
        assert isinstance(request, FitMarginal)
        weight, none = self._pairs[state, log.action], np.zeros(log.num_transitions)
        carried = np.add.reduceat(weight * log.reward, start)
        ended = np.add.reduceat(weight * log.terminated, start)
        refit = Refit(carried, 0.0, self._models.visits[state], weight, none, np.zeros(len(start)), 0.0)
        return [Marginal(refit, carried, ended, none)]


def estimates_with(
    world: World, table: np.ndarray, log: Dataset, models: Models, names: Sequence[str]
) -> dict[str, Estimate]:
    """What the product says with given models."""
    fits = ExactFits(world, table, log, models)
    (found,) = evaluate_fits(fits, chosen_estimators(names), confirm=False, resamples=1000)
    return dict(found.estimates)


def _whole(world: World, table: np.ndarray) -> np.ndarray:
    """(S, A) the policy over all states, the terminal ones too."""
    whole = np.array(world.behavior)
    whole[: world.live] = table
    return whole
