"""Features of a log for linear fits: an indicator of each state where states are few, else functions of the columns.

Over vectors they are a constant, the standardised columns, their products, and random cosines, which approximate a Gaussian
kernel (Rahimi and Recht 2007). They depend on the observations alone and are computed once, so that they stay the same where an
episode is left out of a fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import sparse

from stitchrl.auditing.regression import features, waves
from stitchrl.data.dataset import Dataset
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["LogFeatures"]

MOST_STATES, VISITS = 1_000, 10
"""Observations count as numbered states where at most so many are different, each seen so often on average."""
LOOKED_AT = 5_000
"""Size of a sample of observations that is searched for too many states before all are compared."""
MOST_COLUMNS = 100
"""The most columns of an observation that are used; a longer one is replaced by as many random projections."""
MOST_PRODUCTS = 12
"""Up to so many columns, all products of two are features; with more, the squares alone."""
COSINES = 100
"""Random cosines."""
MOST_NUMBERS = 2**26
"""The most numbers that the features of all rows may hold together; a larger log gets fewer cosines."""
WIDEST = 10.0
"""Largest distance from the median, in units of the usual spread, that a number enters with; larger ones are cut off."""
NORMAL_IQR = 1.349
"""Distance between the quartiles of a normal variable, in standard deviations."""


@dataclasses.dataclass(frozen=True, eq=False)
class LogFeatures:
    """The features of every stored observation of a log, and of its actions. They serve parts of the log as well.

    Attributes:
        table: (M, H) one row for each row of the observation table; sparse where states are numbered.
        columns: (M, D) the observations, standardised by median and quartiles and clipped.
        numbered: whether states are so few that each has a feature of its own.
        action_mean, action_spread: (action size,) mean and standard deviation of continuous actions; empty where actions are
            discrete.
        ridge: name of a model of the log -> its ridge, as a share of the mean diagonal; `chosen_ridges` chooses them.
    """

    table: Any
    columns: Float[NumpyArray, "M D"]
    numbered: bool
    action_mean: Float[NumpyArray, " A"]
    action_spread: Float[NumpyArray, " A"]
    ridge: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, log: Dataset) -> LogFeatures:
        """The features of a log.

        Raises:
            DataError: observations are images, or some are not finite.
        """
        table = log.observation_table
        if table.ndim != 2:
            raise DataError(
                "Episodes are ranked by fits that are linear in columns of the observation, and this log's observations are "
                f"images of shape {log.observation_shape}: rank a log that describes each image by a few numbers."
            )
        if not np.isfinite(table).all():
            raise DataError(
                f"Episodes are ranked by linear fits, and {int((~np.isfinite(table)).any(1).sum()):,} observations of this log "
                "have missing or infinite numbers: `stitchrl audit` without `--rank` says in which columns, and a schema's "
                "`fill` fills them."
            )
        columns = _standardised(table)
        mean, spread = np.zeros(0), np.zeros(0)
        if log.num_actions is None:
            taken = log.action.astype(np.float64)
            mean, spread = taken.mean(0), taken.std(0)
            spread = np.where(spread > 0, spread, 1.0)
        state = _states(table)
        if state is not None and log.num_transitions >= VISITS * (int(state.max()) + 1):
            cells = (np.ones(len(state)), (np.arange(len(state)), state))
            return cls(sparse.csr_matrix(cells), columns, True, mean, spread)
        parts = [features(columns, full_up_to=MOST_PRODUCTS)]
        if columns.shape[1]:
            spare = MOST_NUMBERS // max(log.num_transitions, 1) - parts[0].shape[1]
            parts.append(waves(columns, count=max(1, min(COSINES, spare))))
        return cls(np.concatenate(parts, axis=1), columns, False, mean, spread)

    def actions(self, log: Dataset) -> Float[NumpyArray, "N K"]:
        """(N, K) the actions of a log: one-hot, or continuous ones less their mean, in standard deviations."""
        if log.num_actions is None:
            return (log.action.astype(np.float64) - self.action_mean) / self.action_spread
        found = np.zeros((log.num_transitions, log.num_actions))
        found[np.arange(len(found)), log.action] = 1.0
        return found


def _states(table: Float[NumpyArray, "M D"]) -> Shaped[NumpyArray, " M"] | None:
    """The number of each row's state; None where there are too many different rows for states."""
    if len(np.unique(table[:: max(1, len(table) // LOOKED_AT)], axis=0)) > MOST_STATES:
        return None
    distinct, state = np.unique(table, axis=0, return_inverse=True)
    return state.reshape(-1) if len(distinct) <= MOST_STATES else None


def _standardised(table: Float[NumpyArray, "M D"]) -> Float[NumpyArray, "M D"]:
    """Columns standardised by their median and quartiles, so that a few wild rows change nothing for the others. Constant
    columns are left out, and very many columns are replaced by projections."""
    low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
    spread = (high - low) / NORMAL_IQR
    spread = np.where(spread > 0, spread, table.std(0, dtype=np.float64))
    moves = spread > 0
    found = np.clip((table[:, moves] - middle[moves]) / spread[moves], -WIDEST, WIDEST)
    if found.shape[1] > MOST_COLUMNS:
        directions = np.random.default_rng(0).normal(size=(found.shape[1], MOST_COLUMNS))
        found = found @ (directions / np.sqrt(found.shape[1]))
    return found.astype(np.float64)
