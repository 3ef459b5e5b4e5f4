"""The guard: on which observations a deployed policy must not act."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.errors import DataError
from stitchrl.types import Bool, Float, NumpyArray, Shaped

__all__ = ["ANSWER", "BEHAVIOR", "CLIP", "REFUSE", "Guard", "OnOutside", "OtherRange"]

QUANTILES = (0.01, 0.25, 0.75, 0.99)
REFUSE, CLIP, BEHAVIOR, ANSWER = "refuse", "clip", "behavior", "answer"
OnOutside: TypeAlias = str | int | tuple[float, ...]
"""What a guard does outside the range: one of the words above, or an action to take."""
FEWEST_ROWS = 20
"""With fewer rows their middle half is too uncertain."""
MOST_TIMES = 4.0
"""A column whose middle half is wider, or narrower, by more than this factor may have another unit."""
MOST_BEYOND = 0.5
"""A wider column has another unit only if more than this share of its values lies outside the middle 98% of the log's."""
FAR_NARROWER = 0.1
"""A narrower column has another unit only if the middle 98% of its values is within this share of the log's middle half."""
IMAGES_AT_ONCE = 1024
"""Images that are read at once, so that a log larger than memory stays on the disk."""
MOSTLY_ZERO = 0.5
"""A column with at least this share of zeros, such as a drug that few get, is described by its other values."""


class OtherRange(NamedTuple):
    """A column that looks like another unit: its number, its middle half, and the middle half that the policy learned from.

    `times` is how many times as widely it spreads, where the spread shows it; None where its place alone does.
    """

    column: int
    here: tuple[float, float]
    there: tuple[float, float]
    times: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
    """Knows which observations are not finite, or lie outside the range of the training log by more than a margin.

    Attributes:
        low, high: (D,) smallest and largest value of each observation column in the training log; of images (height, width,
            channels), the smallest and largest value of each channel anywhere.
        margin: the share of that range by which a value may lie outside of it.
        quantiles: (4, D) the values below which 1, 25, 75 and 99% of the rows of each column lie, which reveal another unit;
            None where they are not known, as in bundles of older versions.
        on_outside: what a bundle does with such observations: "refuse" them; "clip" them to what is admitted; act as the
            "behavior" does; take an action, a number or a tuple of numbers; or "answer" as if there were no guard.
        of_nonzero: (D,) in which columns, since most of their values are 0, the quantiles are those of the others; None for
            none.
    """

    low: Float[NumpyArray, " *D"]
    high: Float[NumpyArray, " *D"]
    margin: float = 0.1
    quantiles: Float[NumpyArray, "4 *D"] | None = None
    on_outside: OnOutside = REFUSE
    of_nonzero: Bool[NumpyArray, " *D"] | None = None

    @cached_property
    def least(self) -> Float[NumpyArray, " *D"]:
        """(D,) the smallest values that are admitted."""
        return np.asarray(self.low - self.margin * (self.high - self.low))

    @cached_property
    def most(self) -> Float[NumpyArray, " *D"]:
        """(D,) the largest values that are admitted."""
        return np.asarray(self.high + self.margin * (self.high - self.low))

    @classmethod
    def fit(cls, log: Dataset, *, margin: float = 0.1, most_rows: int | None = None) -> Guard:
        """The guard of a policy that was trained on this log.

        Args:
            log: what it learned from.
            margin: see the class.
            most_rows: read at most this many rows, evenly spaced, where all of them take too long; None reads all.
        """
        stride = 1 if most_rows is None else max(1, -(-len(log.observation_index) // most_rows))
        used = np.unique(log.observation_index[::stride])
        if log.observation_table.ndim != 2:
            blocks = [used[i : i + IMAGES_AT_ONCE] for i in range(0, len(used), IMAGES_AT_ONCE)]
            ends = [(seen.min(0), seen.max(0)) for seen in (log.observation_table[block] for block in blocks)]
            low, high = (np.stack(end) for end in zip(*ends, strict=True))
            return cls(*_of_channels(low, high), margin)
        seen = log.observation_table[used]
        # A column of two values, as of a category, has no unit: it keeps the quantiles of all of its values.
        rest = np.where(seen == 0, np.nan, seen)
        least, most = np.nanmin(rest, 0, initial=np.inf), np.nanmax(rest, 0, initial=-np.inf)
        mostly = ((seen == 0).mean(0) >= MOSTLY_ZERO) & (most > least)
        quantiles = np.quantile(seen, QUANTILES, axis=0)
        if not mostly.any():
            return cls(seen.min(0), seen.max(0), margin, quantiles)
        quantiles[:, mostly] = np.nanquantile(rest[:, mostly], QUANTILES, axis=0)
        return cls(seen.min(0), seen.max(0), margin, quantiles, of_nonzero=mostly)

    def admits(self, obs: Shaped[NumpyArray, "B *D"]) -> Bool[NumpyArray, " B"]:
        """(B,) True where the policy may act.

        Raises:
            DataError: the rows have another width, or the images another shape, than those of the training log.
        """
        if obs.shape[1:] != self.low.shape:
            wanted = f"rows of {len(self.low)} numbers" if self.low.ndim == 1 else f"images of shape {self.low.shape}"
            raise DataError(f"Observations must be {wanted}; got shape {obs.shape}.")
        return np.asarray(self.inside(obs).all(axis=tuple(range(1, obs.ndim))))

    def inside(self, obs: Shaped[NumpyArray, "B *D"]) -> Bool[NumpyArray, "B *D"]:
        """(B, D) which numbers are finite and not outside; NaN compares as outside."""
        return np.logical_and((obs >= self.least) & (obs <= self.most), np.isfinite(obs))

    def clipped(self, obs: Shaped[NumpyArray, "B *D"]) -> Shaped[NumpyArray, "B *D"]:
        """(B, D) the nearest numbers that are admitted; of whole numbers, the nearest whole ones."""
        least, most = self.least, self.most
        if obs.dtype.kind in "ui":
            least, most = np.ceil(least), np.floor(most)
        return np.clip(obs, least, most).astype(obs.dtype)

    def other_ranges(self, rows: Float[NumpyArray, "B D"]) -> list[OtherRange]:
        """The columns of some rows that look like another unit, by the place or by the width of their values.

        By the place: the middle half lies apart from the middle 98% of the training log's. By the width: the middle half is
        more than four times as wide and most values lie outside the middle 98% of the training log's, or it is less than a
        quarter as wide and nearly all values lie close together within a tenth of the training log's middle half.

        Args:
            rows: observations of another log, as many as it has.
        """
        if self.quantiles is None:
            return []
        found = []
        for column in range(rows.shape[1]):
            values = rows[:, column]
            if self.of_nonzero is not None and self.of_nonzero[column]:
                values = values[values != 0]
            if len(values) >= FEWEST_ROWS:
                least, first, third, most = self.quantiles[:, column].tolist()
                # A column that hardly varies, as of a rare category, has no unit to mistake.
                if third > first and (other := _other_range(column, values, (least, first, third, most))):
                    found.append(other)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        content = {"low": self.low.tolist(), "high": self.high.tolist(), "margin": self.margin}
        if self.on_outside != REFUSE:
            content["on_outside"] = list(self.on_outside) if isinstance(self.on_outside, tuple) else self.on_outside
        if self.of_nonzero is not None:
            content["of_nonzero"] = self.of_nonzero.tolist()
        return content if self.quantiles is None else content | {"quantiles": self.quantiles.tolist()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Guard:
        """The guard that `to_dict` described."""
        quantiles = None if "quantiles" not in content else np.asarray(content["quantiles"], np.float64)
        low, high = (np.asarray(content[name], np.float32) for name in ("low", "high"))
        if low.ndim == 3:  # of older versions the range of each pixel
            low, high = _of_channels(low[None], high[None])
        of_nonzero = None if "of_nonzero" not in content else np.asarray(content["of_nonzero"], bool)
        on_outside = content.get("on_outside", REFUSE)
        told = tuple(on_outside) if isinstance(on_outside, list) else on_outside
        return cls(low, high, content["margin"], quantiles, told, of_nonzero)


def _of_channels(
    low: Shaped[NumpyArray, "B H W C"], high: Shaped[NumpyArray, "B H W C"]
) -> tuple[Float[NumpyArray, "H W C"], Float[NumpyArray, "H W C"]]:
    """The smallest and the largest value of each channel, at each pixel: one that never changed in the log may do so in use."""
    shape = low.shape[1:]
    least, most = (np.broadcast_to(end, shape).astype(np.float32) for end in (low.min((0, 1, 2)), high.max((0, 1, 2))))
    return least, most


def _other_range(
    column: int, values: Float[NumpyArray, " n"], known: tuple[float, float, float, float]
) -> OtherRange | None:
    """Whether the values of a column look like another unit than those with the `known` quantiles."""
    least, first, third, most = known
    bottom, low, high, top = np.quantile(values, QUANTILES).tolist()
    if low > most or high < least:
        return OtherRange(column, (low, high), (first, third), None)
    times = (high - low) / (third - first)
    beyond = float(((values < least) | (values > most)).mean())
    wider = times > MOST_TIMES and beyond > MOST_BEYOND
    narrower = 0 < times < 1 / MOST_TIMES and top - bottom < FAR_NARROWER * (third - first)
    return OtherRange(column, (low, high), (first, third), times) if wider or narrower else None
