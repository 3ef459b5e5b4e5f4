"""What an evaluation needs of a log and of policies, said before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.policy_actions import DRAWS
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.remembering import RememberingPolicy, check_followable
from stitchrl.messages import shown

__all__ = ["check_requirements", "check_size", "held_whole"]

MOST_PROBABILITIES = 2**32
"""Probabilities an evaluation may hold at once, 16 GiB of them."""


def held_whole(log: Dataset, rows: int, fit_rows: int | None, policies: int) -> bool:
    """Whether what an evaluation holds of its policies fits in memory; arguments as `check_size`."""
    return _held(rows, fit_rows) * _numbers(log) * policies <= MOST_PROBABILITIES


def _held(rows: int, fit_rows: int | None) -> int:
    # Here and at the next state; what FQE draws from, twice. Halves are held beside the whole.
    return 6 * rows if fit_rows is None else 2 * rows + 3 * fit_rows


def _numbers(log: Dataset) -> int:
    """Numbers that are held of one policy for one row."""
    return DRAWS * log.action.shape[1] if log.num_actions is None else log.num_actions


def check_size(log: Dataset, rows: int, fit_rows: int | None, policies: int) -> None:
    """Raise EvaluationError where the probabilities of an evaluation would not fit in memory.

    Args:
        log: gives the number of actions, or the size of a continuous one.
        rows: how many rows the estimates are made on.
        fit_rows: how many rows models are fitted on; None: halves of the same.
        policies: how many policies are evaluated together.
    """
    cells = _held(rows, fit_rows) * _numbers(log) * policies
    if log.num_actions is None:
        if cells > MOST_PROBABILITIES:
            raise EvaluationError(
                f"An evaluation holds {DRAWS} drawn actions for every row: {policies:,} policies, {rows:,} rows and "
                f"{log.action.shape[1]:,} numbers an action come to {cells:,} numbers, above {MOST_PROBABILITIES:,}. Give it "
                "a part of the log (`log.head`), or fewer candidates."
            )
        return
    if cells > MOST_PROBABILITIES:
        raise EvaluationError(
            f"An evaluation holds the probability of every action in every row: {policies:,} policies, {rows:,} rows and "
            f"{log.num_actions:,} actions come to {cells:,} numbers, above {MOST_PROBABILITIES:,}. Give it a part of the "
            "log (`log.head`), fewer candidates, or grouped actions. Where every episode is one decision with a logged "
            "propensity, the estimators snips and reward-dr need no such array."
        )


def check_requirements(log: Dataset, gamma: float | None, policies: Sequence[PolicyLike]) -> None:
    """Raise where a log, a discount or a policy does not permit an evaluation.

    Raises:
        EvaluationError: fewer than 2 episodes or groups, a row that allows no action, or a policy without probabilities of
            discrete actions.
        ConfigurationError: a discount outside [0, 1].
    """
    if log.num_episodes < 2:
        raise EvaluationError(f"Evaluation needs at least 2 episodes; got {log.num_episodes}.")
    if log.group is not None and (log.group == log.group[0]).all():
        what = "`group`" if "group" in log.schema.columns else "`gap`, whose pieces are a group,"
        raise EvaluationError(
            f"Evaluation needs episodes of at least 2 groups: intervals resample groups; all {log.num_episodes:,} are of "
            f"{shown(log.group[0])}. Leave {what} out of the schema if its episodes are independent."
        )
    if log.action_mask is not None and not log.action_mask.any(1).all():
        row = int(np.flatnonzero(~log.action_mask.any(1))[0])
        raise EvaluationError(
            f"Every row must allow at least one action; the mask of row {row} allows none. Correct `action_mask`, or leave it "
            "out of the schema."
        )
    for policy in policies:
        if isinstance(policy, RememberingPolicy):
            check_followable(policy.policy, log)
        if log.num_actions is not None and not getattr(policy, "has_density", True):
            raise EvaluationError(
                f"{type(policy).__name__} has no action probabilities (has_density is False), and every estimator here "
                "weighs logged actions by them. Evaluate a policy that gives action probabilities."
            )
    if gamma is not None and not 0 <= gamma <= 1:
        raise ConfigurationError(f"`gamma` must be in [0, 1]; got {gamma}. Use 1 to count every reward in full.")
