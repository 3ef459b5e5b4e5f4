"""What a bundle is asked, checked: rows, masks and actions; and answers in the shape of the question."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["Asked", "allowed", "answer", "given_actions"]


class Asked(NamedTuple):
    """Rows that the policy inside is asked about, after the guard.

    Attributes:
        rows: (B, D) numbers, of which the guard admits all but where it is told to answer.
        action_mask: (B, A) allowed actions, or None.
        outside: (B,) the rows in which something else acts; None where there is none.
        single: whether the caller asked about one row.
    """

    rows: NumpyArray
    action_mask: NumpyArray | None
    outside: NumpyArray | None
    single: bool


def allowed(action_mask: Any, schema: Schema, count: int, *, single: bool) -> NumpyArray:
    """(B, A) the mask that a caller gave, checked. Raises DataError where it does not fit, or allows nothing."""
    mask = np.asarray(action_mask, bool)
    if schema.num_actions is None:
        raise DataError("A policy over continuous actions takes no `action_mask`; got one. Leave it out.")
    mask = mask[None] if single and mask.ndim == 1 else mask
    if mask.ndim != 2 or mask.shape[1] != schema.num_actions:
        raise DataError(
            f"The policy has {schema.num_actions} actions; the mask has {mask.shape[-1] if mask.ndim else 'none'}."
        )
    if len(mask) != count:
        raise DataError(f"`action_mask` must have one row for each of the {count} observations; got {len(mask)}.")
    if not mask.any(1).all():
        raise DataError(f"`action_mask` must allow some action; in row {int(np.argmin(mask.any(1)))} it allows none.")
    return mask


def given_actions(action: Any, asked: Asked, schema: Schema) -> NumpyArray:
    """(B,) or (B, action) the actions that a caller asks about, checked. Raises DataError where they are none."""
    discrete, given = schema.num_actions is not None, np.asarray(action)
    given = given[None] if asked.single and given.ndim == (0 if discrete else 1) else given
    if len(given) != len(asked.rows) or given.ndim != (1 if discrete else 2):
        raise DataError(
            f"`action` must hold one action a row; got shape {np.shape(action)} for {len(asked.rows)} rows."
        )
    if not discrete:
        return given
    count = schema.num_actions or 0
    if given.dtype.kind not in "iub" or (len(given) and not 0 <= given.min() <= given.max() < count):
        raise DataError(f"Actions must be whole numbers from 0 to {count - 1}; got {shown(given.tolist())}.")
    return given.astype(np.int64)


def answer(found: NumpyArray, asked: Asked) -> NumpyArray:
    """One answer for one row, as an array without the axis of rows."""
    return found.squeeze(0) if asked.single else found
