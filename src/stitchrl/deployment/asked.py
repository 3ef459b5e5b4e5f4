"""Checks of the input of a bundle (rows, masks and actions), and outputs in the shape of the input."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["Asked", "allowed", "answer", "given_actions"]


class Asked(NamedTuple):
    """The input rows of the policy inside, after the guard.

    Attributes:
        rows: (B, D) numbers, all admitted by the guard unless it is set to "answer" everywhere.
        action_mask: (B, A) allowed actions, or None.
        outside: (B,) the rows in which not the policy acts, but what the guard says; None where there is no such row.
        single: whether the caller gave a single row.
    """

    rows: NumpyArray
    action_mask: NumpyArray | None
    outside: NumpyArray | None
    single: bool


def allowed(action_mask: Any, schema: Schema, count: int, *, single: bool) -> NumpyArray:
    """(B, A) the mask that a caller gave, checked. Raises DataError where it does not fit, or allows nothing."""
    if schema.num_actions is None:
        raise DataError("A policy over continuous actions takes no `action_mask`; got one. Leave it out.")
    mask = _true_or_false(action_mask)
    mask = mask[None] if single and mask.ndim == 1 else mask
    if mask.ndim != 2 or mask.shape[1] != schema.num_actions:
        raise DataError(
            f"`action_mask` must have a value for each of the policy's {schema.num_actions} actions; got shape {mask.shape}."
        )
    if len(mask) != count:
        raise DataError(f"`action_mask` must have one row for each of the {count} observations; got {len(mask)}.")
    if not mask.any(1).all():
        raise DataError(f"`action_mask` must allow some action; in row {int(np.argmin(mask.any(1)))} it allows none.")
    return mask


def _true_or_false(action_mask: Any) -> NumpyArray:
    """A mask as bools. Raises DataError for anything but booleans, or 0 and 1."""
    wrong = "`action_mask` must hold True for allowed actions and False for others, or 1 and 0; got {}."
    if np.ma.is_masked(action_mask):
        raise DataError(wrong.format("a masked array whose values are not all known"))
    try:
        mask = np.asarray(action_mask)
        if mask.dtype == object:  # as of a row of a frame with columns of several kinds
            mask = np.array(
                [one if isinstance(one, bool | np.bool_ | int | float) else np.nan for one in mask.flat], float
            )
            mask = mask.reshape(np.shape(action_mask))
    except (TypeError, ValueError):
        raise DataError(wrong.format(shown(action_mask))) from None
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf" or not ((mask == 0) | (mask == 1)).all():
        odd = mask if mask.dtype.kind not in "iuf" else mask[(mask != 0) & (mask != 1)]
        raise DataError(wrong.format(shown(odd.reshape(-1)[0])))
    return mask.astype(bool)


def given_actions(action: Any, asked: Asked, schema: Schema, size: int, *, called: str = "action") -> NumpyArray:
    """(B,) or (B, action) the actions that a caller asks about, checked.

    Args:
        action: what the caller gave.
        asked: the rows that it belongs to.
        schema: of the policy.
        size: how many numbers a continuous action has.
        called: the name of the argument.

    Raises:
        DataError: another number of rows or of numbers, text, a missing value, or no action of the policy.
    """
    discrete = schema.num_actions is not None
    try:
        given = np.asarray(action)
    except ValueError:
        raise DataError(f"`{called}` must hold one action per row; got {shown(action)}.") from None
    given = given[None] if asked.single and given.ndim == (0 if discrete else 1) else given
    if given.ndim != (1 if discrete else 2) or len(given) != len(asked.rows):
        raise DataError(f"`{called}` must hold one action per row; got shape {given.shape} for {len(asked.rows)} rows.")
    if not discrete:
        if given.shape[1] != size:
            raise DataError(
                f"An action of the policy has {size} numbers; got {given.shape[1]} in each row of `{called}`."
            )
        if given.dtype.kind not in "iuf" or np.ma.is_masked(action) or not np.isfinite(given).all():
            odd = given.reshape(-1) if given.dtype.kind not in "iuf" else given[~np.isfinite(given)]
            raise DataError(
                f"`{called}` must hold finite numbers; got {shown(odd[0]) if len(odd) else 'a masked value'}."
            )
        return given if given.dtype.kind == "f" else given.astype(np.float32)
    count = schema.num_actions or 0
    whole = given.dtype.kind in "iub" and not np.ma.is_masked(action)
    if not whole or (len(given) and not 0 <= given.min() <= given.max() < count):
        raise DataError(f"Actions must be whole numbers from 0 to {count - 1}; got {shown(given.tolist())}.")
    return given.astype(np.int64)


def answer(found: NumpyArray, asked: Asked) -> NumpyArray:
    """The output: for a single row without the axis of rows."""
    return found.squeeze(0) if asked.single else found
