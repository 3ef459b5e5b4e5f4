"""Which observation columns equal the action of their own row, or one number of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.regression import same_up_to_unit
from stitchrl.types import NumpyArray

__all__ = ["EqualToAction", "columns_equal_to_action", "equal_to_action"]

LEAST_ROWS = 200


class EqualToAction(NamedTuple):
    """The columns that equal one number of the action.

    Attributes:
        number: which number of the action; 0 for discrete actions.
        columns: the columns, ascending.
        exactly: whether some of them equal it as it stands, and not only up to unit and offset.
    """

    number: int
    columns: NumpyArray
    exactly: bool


def equal_to_action(facts: Facts) -> list[EqualToAction]:
    """The columns that equal the action, for each number of it that some column equals."""
    return facts.once(_equal_to_action)


def columns_equal_to_action(facts: Facts) -> NumpyArray:
    """All columns that equal some number of the action."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(found.columns for found in equal_to_action(facts))]))


def _equal_to_action(facts: Facts) -> list[EqualToAction]:
    sample = facts.sample
    if len(sample) < LEAST_ROWS:
        return []
    actions = sample.action[:, None] if facts.log.num_actions is not None else sample.action
    found = []
    for j, action in enumerate(actions.T.astype(np.float64)):
        if len(np.unique(action)) < 3:
            continue  # with two actions, a behaviour that follows a threshold on one column looks the same
        same = (sample.observation == action[:, None]).all(0)
        columns = np.flatnonzero(same | same_up_to_unit(sample.observation, action))
        if len(columns):
            found.append(EqualToAction(j, columns, bool(same[columns].any())))
    return found
