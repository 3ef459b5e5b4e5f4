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


def observed_images(obs: Any, shape: tuple[int, ...]) -> Observed:
    """(B, height, width, channels) the images in what a caller gave.

    Args:
        obs: one image of `shape`, or several; whole numbers from 0 to 255, or truth values.
        shape: (height, width, channels) of the images that the policy learned from.

    Raises:
        DataError: another shape, or numbers that are no bytes.
    """
    try:
        images = np.asarray(obs)
    except (TypeError, ValueError):
        raise DataError(f"The policy takes images of shape {shape}; got {shown(obs)}.") from None
    single = images.ndim == 3
    rows = images[None] if single else images
    if rows.shape[1:] != shape:
        raise DataError(f"The policy takes images of shape {shape}, or several of them; got shape {images.shape}.")
    if rows.dtype == np.uint8:
        return Observed(rows, single)
    if rows.dtype.kind not in "biuf" or np.ma.is_masked(obs):
        raise DataError(f"An image must hold whole numbers from 0 to 255; got values of type {rows.dtype}.")
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
