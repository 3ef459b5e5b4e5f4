"""Scaling of observations, actions and rewards for learning.

It is fitted on the training log only, saved with the model, and undone by policies and values, which speak logged
units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.types import Float, NumpyArray, Shaped

__all__ = ["Scaling", "unit_return_scale"]

MINIMUM_STD = 1e-3
"""Added to every standard deviation, so that a constant column stays finite."""
ROWS_AT_ONCE = 2**16
"""Rows of observations that are read at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """(obs - mean) / std, (reward + reward_shift) * reward_scale, and continuous actions brought into [-1, 1].

    Attributes:
        mean: (D,) float32; (0,) if observations stay as they are, whatever their shape.
        std: (D,) float32, above 0; (0,) if observations stay as they are.
        reward_scale: factor on rewards, above 0. Learned values are divided by it again.
        reward_shift: added to every reward before it is scaled, in the units of the log. Learned values contain it.
        action_center, action_half_width: (action,) float32, half-widths above 0; None if actions are discrete.
    """

    mean: Float[NumpyArray, " D"]
    std: Float[NumpyArray, " D"]
    reward_scale: float = 1.0
    action_center: Float[NumpyArray, " action"] | None = None
    action_half_width: Float[NumpyArray, " action"] | None = None
    reward_shift: float = 0.0

    @classmethod
    def identity(cls, observation_size: int, *, reward_scale: float = 1.0) -> Scaling:
        """A scaling that leaves observations as they are. Size 0 stands for observations of any shape."""
        return cls(np.zeros(observation_size, np.float32), np.ones(observation_size, np.float32), reward_scale)

    @classmethod
    def of(cls, log: Dataset, *, standardize: bool | str = True, reward_scale: float = 1.0) -> Scaling:
        """The scaling that a log needs: of its observations by `fit` (True), by `fit_range` ("min-max") or not at all
        (False), and of its continuous actions into [-1, 1].

        Bounds of the action that the schema declares are always used. Undeclared bounds are the range of each dimension
        in the log; but where every logged action lies in [-1, 1], such actions stay as they are. Images stay as they
        are: their network scales pixels.
        """
        if log.observation_table.ndim != 2:
            scaling = cls.identity(0, reward_scale=reward_scale)
        elif standardize == "min-max":
            scaling = cls.fit_range(log, reward_scale=reward_scale)
        elif standardize:
            scaling = cls.fit(log, reward_scale=reward_scale)
        else:
            scaling = cls.identity(log.observation_size, reward_scale=reward_scale)
        if log.num_actions is not None:
            return scaling
        low, high = log.action.min(axis=0), log.action.max(axis=0)
        if low.min() >= -1.0 and high.max() <= 1.0:
            low, high = np.full_like(low, -1.0), np.full_like(high, 1.0)
        if log.schema.action_low is not None:
            low = np.asarray(log.schema.action_low, np.float32)
        if log.schema.action_high is not None:
            high = np.asarray(log.schema.action_high, np.float32)
        center = (low + high) / 2
        half_width = np.where(high > low, (high - low) / 2, 1)
        return dataclasses.replace(
            scaling, action_center=center.astype(np.float32), action_half_width=half_width.astype(np.float32)
        )

    @classmethod
    def fit(cls, log: Dataset, *, reward_scale: float = 1.0) -> Scaling:
        """The scaling to mean 0 and standard deviation 1, over the observations of all transitions of a log."""
        mean = sum(block.sum(0, dtype=np.float64) for block in _seen(log)) / log.num_transitions
        squares = sum(((block - mean) ** 2).sum(0) for block in _seen(log))
        std = np.sqrt(squares / log.num_transitions) + MINIMUM_STD
        return cls(mean.astype(np.float32), std.astype(np.float32), reward_scale)

    @classmethod
    def fit_range(cls, log: Dataset, *, reward_scale: float = 1.0) -> Scaling:
        """The scaling that maps the smallest and the largest value of each observation column in a log to -1 and 1."""
        low = np.min([block.min(0) for block in _seen(log)], axis=0)
        high = np.max([block.max(0) for block in _seen(log)], axis=0)
        center, half_width = (low + high) / 2, np.where(high > low, (high - low) / 2, 1)
        return cls(center.astype(np.float32), half_width.astype(np.float32), reward_scale)

    def observations(self, raw: Shaped[NumpyArray, "..."]) -> Shaped[NumpyArray, "..."]:
        """The observations as networks see them: scaled, or as they are if they are images."""
        if not self.mean.size:
            return raw
        scaled = raw - self.mean
        scaled /= self.std  # in place, because the buffers of a stream are large and allocating memory is slow
        return scaled

    def actions(self, raw: Shaped[NumpyArray, "N ..."]) -> Shaped[NumpyArray, "N ..."]:
        """The actions as networks see them: in [-1, 1] if continuous, as they are if discrete."""
        if self.action_center is None:
            return raw
        scaled = raw - self.action_center
        scaled /= self.action_half_width
        return scaled

    def rewards(self, raw: Float[NumpyArray, "N ..."]) -> Float[NumpyArray, "N ..."]:
        """The rewards as losses see them: shifted, then scaled."""
        shifted = raw + np.float32(self.reward_shift) if self.reward_shift else raw
        return shifted * np.float32(self.reward_scale)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON; `from_dict` reads it back."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Scaling:
        """The scaling that plain content describes; the inverse of `to_dict`.

        Raises:
            TypeError, ValueError: the content does not describe a scaling.
        """
        fields: dict[str, Any] = {
            k: np.asarray(v, np.float32) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**fields)


def _seen(log: Dataset) -> Iterator[Float[NumpyArray, "R D"]]:
    """The observation of every transition, block by block, because the log may be larger than memory."""
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        yield log.observation_table[log.observation_index[start : start + ROWS_AT_ONCE]]


def unit_return_scale(log: Dataset, *, gamma: float = 1.0) -> float:
    """The factor on rewards that gives episode returns a standard deviation of 1; 1 if all returns are equal."""
    spread = float(log.episode_returns(gamma).std())
    return 1.0 / spread if spread > 0 else 1.0
