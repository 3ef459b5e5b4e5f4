"""What an algorithm is: a frozen dataclass of settings with four pure functions. The loop knows no more."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue
from stitchrl.types import Batch, Key, Metrics, PyTree

__all__ = ["Algorithm", "Spec", "setting"]

INTERVALS = {
    "(0, 1)": lambda x: 0 < x < 1,
    "(0, 1]": lambda x: 0 < x <= 1,
    "[0, 1]": lambda x: 0 <= x <= 1,
    "(0, inf)": lambda x: 0 < x < float("inf"),
    "[0, inf)": lambda x: 0 <= x < float("inf"),
    "at least 1": lambda x: isinstance(x, int) and x >= 1,
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes an algorithm needs to build its networks.

    Attributes:
        observation_size: D.
        num_actions: A, or None when the action is continuous.
    """

    observation_size: int
    num_actions: int | None

    @property
    def discrete_actions(self) -> int:
        """A. Raises ConfigurationError where the action is continuous."""
        if self.num_actions is None:
            raise ConfigurationError("This algorithm needs discrete actions; the log's are continuous.")
        return self.num_actions


def setting(default: Any, interval: str, meaning: str) -> Any:
    """A dataclass field with its allowed range and meaning, checked when the algorithm is made.

    Args:
        default: value when not given.
        interval: a key of `INTERVALS`; for tuples every entry must lie in it.
        meaning: one sentence; it ends the error message, so say what larger does.
    """
    return dataclasses.field(default=default, metadata={"interval": interval, "meaning": meaning})


@dataclasses.dataclass(frozen=True)
class Algorithm(ABC):
    """Base of every algorithm. Subclasses are final frozen dataclasses; their states are pytrees of arrays.

    Raises:
        ConfigurationError: a setting outside its range.
    """

    needs: ClassVar[tuple[str, ...]] = ("obs", "action", "action_mask")
    """Batch fields `update` reads."""
    acts: ClassVar[str] = "as trained"
    """How its policy is meant to act: "as trained", or "greedy" where the paper evaluates the mode."""
    caution: ClassVar[str] = ""
    """Set where the algorithm is kept as a warning: why it must not be deployed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "interval" not in field.metadata:
                continue
            value, interval = getattr(self, field.name), field.metadata["interval"]
            values = value if isinstance(value, tuple) else (value,)
            if not all(
                isinstance(v, int | float) and not isinstance(v, bool) and INTERVALS[interval](v) for v in values
            ):
                rule = interval if interval.startswith("at") else f"in {interval}"
                raise ConfigurationError(
                    f"`{field.name}` of {self.name} must be {rule}; got {value!r}. {field.metadata['meaning']}"
                )

    @property
    def name(self) -> str:
        """The class name, as shown in tables and files."""
        return type(self).__name__

    def prepare(self, log: Dataset) -> Dataset:
        """The part of the log to learn from; by default all of it."""
        return log

    @abstractmethod
    def init(self, key: Key, spec: Spec) -> PyTree:
        """A fresh state: everything a resume needs, arrays only."""

    @abstractmethod
    def update(self, state: PyTree, batch: Batch, key: Key) -> tuple[PyTree, Metrics]:
        """One gradient update and its metrics, each a scalar."""

    @abstractmethod
    def policy(self, state: PyTree) -> DiscretePolicy:
        """The policy of a state, as trained."""

    def value(self, state: PyTree) -> DiscreteValue | None:
        """The value functions of a state, where the algorithm has any."""
        return None
