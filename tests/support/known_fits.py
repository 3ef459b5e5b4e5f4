"""The product's evaluation with Q networks that were fitted before and tabled, so that thousands of logs can be evaluated.

Everything else is the product's own code: ratios, the correction on the episodes of the estimate, variances, intervals, health
checks, lines of the verdict. A behaviour is fitted to every log anew where it has no propensities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from exact_worlds import TableQ, World, of_rows
from scipy import sparse

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fit_data import FitData, FitRequest, Fold
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.fitted_q import FittedQ, fit_q
from stitchrl.evaluation.linear_system import RIDGE, SHORT
from stitchrl.evaluation.refit import CorrectedQ, FitQ, FittedValues, Refit, refit
from stitchrl.evaluation.settings import FitSettings
from stitchrl.nn.policy import DiscretePolicy

UNDISCOUNTED = Estimand(1.0)


def table_of(world: World, policy: DiscretePolicy) -> np.ndarray:
    """(L, A) probabilities of a policy in the live states of a world."""
    probs = np.asarray(policy.probs(world.features, action_mask=world.mask), np.float64)
    return probs / probs.sum(1, keepdims=True)


def tabled(world: World, fitted: FittedQ) -> TableQ:
    """A fitted Q, asked once about every action of every live state."""
    actions = world.mdp.num_actions
    state, action = np.divmod(np.arange(world.live * actions, dtype=np.int32), actions)
    rows = len(state)
    every = dataclasses.replace(
        world.log(1, 0),
        **dict.fromkeys(("behavior_log_prob", "behavior_probs", "action_mask", "observation_id")),
        observation_table=world.features,
        observation_index=state,
        next_observation_index=state,
        action=action,
        reward=np.zeros(rows, np.float32),
        terminated=np.ones(rows, bool),
        truncated=np.zeros(rows, bool),
        step=np.zeros(rows, np.int64),
        episode_start=np.arange(rows + 1),
        episode_id=np.arange(rows),
    )
    this = np.eye(actions, dtype=np.float32)[action]
    found = fitted.on(every, this, this)
    return TableQ(found["psi"].reshape(world.live, actions, -1), found["q"].reshape(world.live, actions))


def fit_tables(world: World, log: Dataset, tables: Sequence[np.ndarray], settings: FitSettings) -> list[TableQ]:
    """The Q of each policy, fitted on a log as the product does, and tabled."""
    following = np.append(log.observation_id[1:], 0)
    fits = fit_q(log, (t[following].astype(np.float32) for t in tables), len(tables), gamma=1.0, settings=settings)
    return [tabled(world, fitted) for (fitted,) in fits]


def refit_of_tables(log: Dataset, model: TableQ, table: np.ndarray, ratio: np.ndarray) -> Refit:
    """`refit` at gamma 1 where features and values are tables: sums over transitions become sums over states.

    Args:
        log: with the state of each transition as `observation_id`.
        model: the fitted Q.
        table: (L, A) the policy.
        ratio: (N,) policy / behaviour probability of the logged action.
    """
    n, start, state = log.num_episodes, log.episode_start[:-1], log.observation_id
    psi = np.einsum("sa,sah->sh", table.astype(np.float32), model.phi).astype(np.float64)
    v = (table.astype(np.float32).astype(np.float64) * model.q).sum(1)
    following, go_on = np.append(state[1:], 0), 1.0 - log.terminated
    delta = log.reward + go_on * v[following] - model.q[state, log.action]
    rho = ratio * log.can_bootstrap
    live = len(psi)
    stay = np.bincount(state, rho, minlength=live)
    move = sparse.coo_matrix((rho * go_on, (state, following)), (live, live)).tocsr()
    balance = psi.T @ (stay[:, None] * psi - move @ psi) / n
    scale = (np.bincount(state, minlength=live) @ psi**2).sum() / (n * psi.shape[1])
    ridge = RIDGE * min(1.0, float(1.0 - go_on.mean()) / SHORT)
    matrix = balance + ridge * scale * np.eye(psi.shape[1])
    theta = np.linalg.solve(matrix, psi.T @ np.bincount(state, rho * delta, minlength=live) / n)
    first_psi = psi[state[start]].mean(0)
    carry = np.linalg.solve(matrix.T, first_psi)
    visits, more = (psi @ carry)[state], psi @ theta
    imbalance = float(np.linalg.norm(first_psi - balance.T @ carry) / np.linalg.norm(first_psi))
    residual = delta - more[state] + go_on * more[following]
    first = (v + more)[state[start]]
    contributions = first + np.add.reduceat(visits * rho * residual, start)
    return Refit(contributions, float(v[state[start]].mean()), visits, visits * rho, residual, first, imbalance)


class KnownFits(Fits):
    """`Fits` of policies that are tables, with Q models that are known.

    Args:
        world: that the log is of.
        tables: (L, A) probabilities of each policy.
        log: the episodes that the estimates are made on.
        fit_on: other episodes for the behaviour; None fits it on each half of `log` for the other.
        models: Q of the policies, in the order of their numbers.
        rows: how many rows of the episodes for fitting are used.
        served_by: for each policy the number of that whose Q serves it.
        compare: check the sums over states against the product's own sums over transitions.
    """

    def __init__(
        self,
        world: World,
        tables: Sequence[np.ndarray],
        log: Dataset,
        fit_on: Dataset | None,
        *,
        models: Sequence[TableQ],
        rows: int,
        settings: FitSettings,
        served_by: Sequence[int] | None = None,
        compare: bool = False,
    ) -> None:
        policies = [world.policy(table) for table in tables]
        super().__init__(policies, log, fit_on, estimand=UNDISCOUNTED, settings=settings, served_by=served_by)
        self._models, self._fit_rows, self._compare = models, rows, compare

    def _applied(self, request: FitRequest, fold: Fold) -> list[Any]:
        if not isinstance(request, FitQ):
            return super()._applied(request, fold)
        found, log = [], fold.log
        for k, of in enumerate(self._model_of):
            model, table, ratio = self._models[of], self.policies[k].table, np.exp(fold.log_ratio(k))
            corrected = refit_of_tables(log, model, table, ratio)
            if self._compare:
                same = refit(log, model.on(log, fold.choices(k), fold.next_choices(k)), ratio, gamma=1.0)
                np.testing.assert_allclose(corrected.contributions, same.contributions, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(corrected.visits, same.visits, rtol=1e-4, atol=1e-5)
            state = log.observation_id
            v = (table * model.q).sum(1)
            values = FittedValues(model.q[state, log.action], v[state], v[np.append(state[1:], 0)])
            found.append(CorrectedQ(values, corrected))
        return found

    def _data(
        self,
        log: Dataset,
        next_choices: Callable[[], Iterable[np.ndarray]],
        log_policy: Callable[[int], np.ndarray],
        choices: Callable[[], Iterable[np.ndarray]],
    ) -> FitData:
        # A log of unusually short episodes is taken whole, which compiles a program of its own.
        whole = log.behavior_log_prob is not None or log.num_transitions <= self._fit_rows
        part = log if whole else of_rows(log, self._fit_rows)
        data = FitData(part, next_choices, len(self._models), self.estimand, self.settings, (), log_policy, choices)
        data._models[FitQ()] = [[model] for model in self._models]
        return data
