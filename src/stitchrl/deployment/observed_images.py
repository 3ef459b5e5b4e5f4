"""The input of a policy that sees images: bytes of (height, width, channels), as the log of the policy has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.deployment.guard import Guard
from stitchrl.deployment.observed import Observed
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import Bool, NumpyArray

__all__ = ["observed_images", "refusal_of_image"]


def observed_images(obs: Any, guard: Guard) -> Observed:
    """(B, height, width, channels) the images in what a caller gave.

    Truth values become 0 and 255 where the log has more than 0 and 1, as `st.collect` writes them.

    Args:
        obs: one image, or several; whole numbers from 0 to 255, or truth values.
        guard: of the policy, which knows the shape of its images.

    Raises:
        DataError: another shape, values that are masked, numbers that are no bytes, or numbers from 0 to 1 that are no bytes by
            their type, where the log has larger ones.
    """
    shape, brightest = guard.low.shape, float(guard.high.max())
    try:
        images = np.asarray(obs)
    except (TypeError, ValueError):
        raise DataError(f"The policy takes images of shape {shape}; got {shown(obs)}.") from None
    if images.shape == (0,):
        return Observed(np.empty((0, *shape), np.uint8), False)
    single = images.ndim == 3
    rows = images[None] if single else images
    if rows.shape[1:] != shape:
        what = f"shape {images.shape}" if images.ndim else shown(obs)
        raise DataError(f"The policy takes images of shape {shape}, or several of them; got {what}.")
    if np.ma.is_masked(obs):
        raise DataError("An image must be whole, and some of its values are masked. Fill them in.")
    if rows.dtype == np.uint8:
        return Observed(rows, single)
    if rows.dtype == np.bool_:
        return Observed(rows.astype(np.uint8) * np.uint8(255 if brightest > 1 else 1), single)
    if rows.dtype.kind not in "iuf":
        raise DataError(f"An image must hold whole numbers from 0 to 255; got values of type {rows.dtype}.")
    if brightest > 1 and rows.size and rows.min() >= 0 and 0 < rows.max() <= 1:
        raise DataError(
            f"The images hold numbers from 0 to 1, and those of the policy's log go up to {brightest:.6g}. Multiply them by "
            "255, or give bytes (uint8) where they are as dark as that."
        )
    with np.errstate(invalid="ignore"):
        made = rows.astype(np.uint8)
    if not (made == rows).all():
        odd = rows[made != rows].reshape(-1)[0]
        raise DataError(
            f"An image must hold whole numbers from 0 to 255, as the log of the policy does; got {odd}. Undo any scaling."
        )
    return Observed(made, single)


def refusal_of_image(images: NumpyArray, outside: Bool[NumpyArray, "B H W C"], guard: Guard) -> DataError:
    """The error for the first image with a value that the guard does not admit."""
    row, height, width, channel = np.argwhere(outside)[0]
    count = int(outside.reshape(len(outside), -1).any(1).sum())
    more = f" ({count:,} such images of {len(images):,})" if count > 1 else ""
    low, high = float(guard.low[height, width, channel]), float(guard.high[height, width, channel])
    return DataError(
        f"Channel {channel} of image {row} has a {images[row, height, width, channel]}{more}, and the policy learned from values "
        f"of {low:.6g} to {high:.6g} there. Give images on the scale of its log, or say what to do with others: "
        '`policy.guarded(...)` with "clip" or an action.'
    )
