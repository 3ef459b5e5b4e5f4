"""Scaling of observations, actions and rewards: fitted on the training log only, undone at the edge, saved with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["Scaling", "unit_return_scale"]

MINIMUM_STD = 1e-3
"""Added to every standard deviation, so that a constant column stays finite."""
ROWS_AT_ONCE = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """(obs - mean) / std, (reward + reward_shift) * reward_scale, and continuous actions brought into [-1, 1].

    Attributes:
        mean: (D,) float32; (0,) where observations stay as they are, whatever their shape.
        std: (D,) float32, above 0; (0,) likewise.
        reward_scale: factor on rewards, above 0; learned values are divided by it again.
        reward_shift: added to every reward before that, in the log's units; learned values keep it.
        action_center, action_half_width: (action,) float32, half-widths above 0; None where actions are discrete.
    """

    mean: Float[NumpyArray, " D"]
    std: Float[NumpyArray, " D"]
    reward_scale: float = 1.0
    action_center: Float[NumpyArray, " action"] | None = None
    action_half_width: Float[NumpyArray, " action"] | None = None
    reward_shift: float = 0.0

    @classmethod
    def identity(cls, observation_size: int, *, reward_scale: float = 1.0) -> Scaling:
        """Leaves observations as they are; with size 0 whatever their shape."""
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
        """Standardise by the mean and standard deviation of the log's observations, one weight a transition."""
        mean = sum(block.sum(0, dtype=np.float64) for block in _seen(log)) / log.num_transitions
        squares = sum(((block - mean) ** 2).sum(0) for block in _seen(log))
        std = np.sqrt(squares / log.num_transitions) + MINIMUM_STD
        return cls(mean.astype(np.float32), std.astype(np.float32), reward_scale)

    @classmethod
    def fit_range(cls, log: Dataset, *, reward_scale: float = 1.0) -> Scaling:
        """Bring every observation column into [-1, 1] by its smallest and largest value in the log."""
        low = np.min([block.min(0) for block in _seen(log)], axis=0)
        high = np.max([block.max(0) for block in _seen(log)], axis=0)
        center, half_width = (low + high) / 2, np.where(high > low, (high - low) / 2, 1)
        return cls(center.astype(np.float32), half_width.astype(np.float32), reward_scale)

    def observations(self, raw: Shaped[NumpyArray, "..."]) -> Shaped[NumpyArray, "..."]:
        """Standardised observations; images as they are."""
        if not self.mean.size:
            return raw
        scaled = raw - self.mean
        scaled /= self.std  # in place: a buffer of a stream is large, and fresh memory is what costs
        return scaled

    def actions(self, raw: Shaped[NumpyArray, "N ..."]) -> Shaped[NumpyArray, "N ..."]:
        """Actions as networks see them: in [-1, 1] where continuous, as they are where discrete."""
        if self.action_center is None:
            return raw
        scaled = raw - self.action_center
        scaled /= self.action_half_width
        return scaled

    def rewards(self, raw: Float[NumpyArray, "N ..."]) -> Float[NumpyArray, "N ..."]:
        """Rewards as they are learned from."""
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
        """Inverse of `to_dict`. Raises TypeError or ValueError on other content."""
        fields: dict[str, Any] = {
            k: np.asarray(v, np.float32) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**fields)


def _seen(log: Dataset) -> Iterator[Float[NumpyArray, "R D"]]:
    """The observation of every transition, block by block: the log may be memory-mapped."""
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        yield log.observation_table[log.observation_index[start : start + ROWS_AT_ONCE]]


def unit_return_scale(log: Dataset, *, gamma: float = 1.0) -> float:
    """The factor that gives episode returns a standard deviation of 1; 1 where all returns are equal."""
    spread = float(log.episode_returns(gamma).std())
    return 1.0 / spread if spread > 0 else 1.0
