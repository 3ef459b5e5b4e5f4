"""Permutation importance of observation columns: how much a policy's actions change when a column is shuffled over the rows.

    (1)  discrete actions     mean over rows of the total variation  (1/2) sum_a |pi(a|s) - pi(a|s')|
    (2)  continuous actions   mean over rows of the distance of the actions, in standard deviations of the logged ones and
                              divided by the root of the number of action dimensions

s' is s with the values that the column has in another row. Columns of one category ("sex=f", "sex=m") are shuffled
together. Columns with the same information share their importance, so that each of them may seem to matter less than it
does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.deployment.bundle import Bundle
from stitchrl.diagnosis.first_departures import column_name
from stitchrl.diagnosis.subject import NotLookedAtError, Shared, Subject
from stitchrl.diagnosis.support import check_acts_alone
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.evaluation.probabilities import policy_probabilities
from stitchrl.types import NumpyArray

__all__ = ["Importance", "importance_of", "importance_of_behavior"]

MOST_ROWS = 1024
"""Rows on which a policy is asked again for every column."""
LEAST_ROWS = 64
PASSES = 16
"""A policy that evaluates its network more often than this for one action is asked about proportionally fewer rows."""
MOST_COLUMNS = 256
"""The most columns that are examined: the first ones."""


class Importance(NamedTuple):
    """The importance of each column, or of each group of columns that encode one category.

    Attributes:
        names: of the columns.
        values: equation (1) or (2).
        others: the same where all columns but the most important one are shuffled together.
    """

    names: tuple[str, ...]
    values: Float[NumpyArray, " columns"]
    others: float

    @property
    def top(self) -> int:
        """The most important column."""
        return int(self.values.argmax())

    @property
    def alone(self) -> float:
        """How far the most important column decides alone, 0 to 1: its importance over the sum of it and that of all others."""
        return float(self.values[self.top] / max(float(self.values[self.top]) + self.others, 1e-12))

    @property
    def shares(self) -> Float[NumpyArray, " columns"]:
        """The share of each in the sum; 0 where no column matters."""
        return self.values / max(float(self.values.sum()), 1e-12)


def importance_of(subject: Subject) -> Importance:
    """The importance of the columns for the policy. Raises `NotLookedAtError` where it cannot be asked."""
    check_acts_alone(subject)
    if isinstance(subject.member.policy, LoggedPolicy):
        raise NotLookedAtError(
            "The policy is known at the rows of the log alone, so it cannot be found out which columns it uses."
        )
    return _importance(subject.member.policy, subject.rows, subject.member.name)


def importance_of_behavior(shared: Shared) -> Importance:
    """The importance of the columns for a model of the behaviour, fitted where it was not yet."""
    return _importance(shared.behavior_model, shared.rows_of, "the behaviour")


def _importance(policy: Any, log: Dataset, name: str) -> Importance:
    if log.observation_table.ndim != 2:
        raise NotLookedAtError("The observations are images, which have no columns whose importance could be measured.")
    policy = policy.unguarded() if isinstance(policy, Bundle) else policy
    passes = int(getattr(getattr(policy, "policy", policy), "passes_per_action", 1))
    count = min(log.num_transitions, max(MOST_ROWS * PASSES // max(passes, PASSES), LEAST_ROWS))
    rows = np.unique(np.linspace(0, log.num_transitions - 1, count).astype(np.int64))
    asked = _Asked(policy, log, rows)
    obs = log.observation_table[log.observation_index[rows]]
    names, groups = _groups(log)
    rng = np.random.default_rng(0)
    try:
        before, found = asked.answers(obs), []
        for columns in groups:
            if (obs[:, columns] == obs[:1, columns]).all():
                found.append(0.0)
                continue
            shuffled = obs.copy()
            shuffled[:, columns] = obs[rng.permutation(len(obs))][:, columns]
            found.append(asked.apart(before, asked.answers(shuffled)))
        kept = groups[int(np.argmax(found))]
        shuffled = obs[rng.permutation(len(obs))]
        shuffled[:, kept] = obs[:, kept]
        others = asked.apart(before, asked.answers(shuffled))
    except EvaluationError as why:
        raise NotLookedAtError(f"{name} cannot be asked about other observations than the logged ones: {why}") from None
    return Importance(names, np.array(found), others)


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """A policy with the rows that it is asked about."""

    policy: Any
    log: Dataset
    rows: NumpyArray

    def answers(self, obs: NumpyArray) -> NumpyArray:
        """(n, A) probabilities, or (n, D) actions, drawn with the same key whatever the observation."""
        mask = self.log.action_mask
        if self.log.num_actions is not None:
            return policy_probabilities(self.policy, obs, None if mask is None else mask[self.rows])
        if hasattr(self.policy, "mode"):
            return np.asarray(self.policy.mode(obs), np.float64)
        return np.asarray(self.policy.sample(obs, key=jax.random.key(0)), np.float64)

    def apart(self, before: NumpyArray, after: NumpyArray) -> float:
        """Equation (1) or (2)."""
        if self.log.num_actions is not None:
            return float(np.abs(before - after).sum(1).mean() / 2)
        spread = self.log.action.astype(np.float64).std(0)
        moved = (after - before) / np.where(spread > 0, spread, 1.0)
        return float(np.linalg.norm(moved, axis=1).mean() / np.sqrt(moved.shape[1]))


def _groups(log: Dataset) -> tuple[tuple[str, ...], Sequence[list[int]]]:
    """The names of what is shuffled, and the columns that are shuffled together."""
    found: dict[str, list[int]] = {}
    for j in range(min(log.observation_table.shape[1], MOST_COLUMNS)):
        name = column_name(log, j)
        found.setdefault(name.split("=")[0] if "=" in name else name, []).append(j)
    return tuple(found), list(found.values())
