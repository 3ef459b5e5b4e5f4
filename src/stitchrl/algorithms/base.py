"""What an algorithm is: a frozen dataclass of settings with four pure functions. The loop knows no more."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.settings import INTERVALS, choice, setting
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.policy import Policy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.types import PyTree

__all__ = ["Algorithm", "Spec"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes an algorithm needs to build its networks.

    Attributes:
        observation_size: D.
        num_actions: A, or None when the action is continuous.
        action_size: numbers in one continuous action; 0 when actions are discrete.
    """

    observation_size: int
    num_actions: int | None
    action_size: int = 0

    @property
    def discrete_actions(self) -> int:
        """A. Raises ConfigurationError where the action is continuous."""
        if self.num_actions is None:
            raise ConfigurationError("This algorithm needs discrete actions; the log's are continuous.")
        return self.num_actions


@dataclasses.dataclass(frozen=True)
class Algorithm(ABC):
    """Base of every algorithm. Subclasses are final frozen dataclasses; their states are pytrees of arrays.

    Raises:
        ConfigurationError: a setting outside its range.
    """

    needs: ClassVar[tuple[str, ...]] = ("obs", "action", "action_mask")
    """Batch fields `update` reads. Masks are there when actions are discrete; "update" is the update's number from 0."""
    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    """Kinds of action it can learn from."""
    acts: ClassVar[str] = "as trained"
    """How its policy is meant to act: "as trained", or "greedy" where the paper evaluates the mode."""
    caution: ClassVar[str] = ""
    """Set where the algorithm is kept as a warning: why it must not be deployed."""

    max_gradient_norm: float = setting(
        0.0, "[0, inf)", "Gradients of a network longer than this are shortened to it; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip
    warmup_updates: int = setting(
        0, "at least 0", "The step size rises linearly from 0 over so many updates; 0 is off.", kw_only=True
    )
    decay_updates: int = setting(
        0, "at least 0", "The step size falls to 0 as a cosine over so many updates, warm-up included; 0 is off.",
        kw_only=True,
    )  # fmt: skip

    average_rate: float = setting(
        0.0, "[0, 1]", "Share of the way a running average of the policy moves each update; it then acts instead; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip
    precision: Literal["float32", "bfloat16"] = choice(
        "float32", ("float32", "bfloat16"),
        'Operands of the products of wide layers while learning; "bfloat16" is faster where the processor has it.',
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "choices" in field.metadata and value not in field.metadata["choices"]:
                allowed = " or ".join(f'"{c}"' for c in field.metadata["choices"])
                raise ConfigurationError(
                    f"`{field.name}` of {self.name} must be {allowed}; got {value!r}. {field.metadata['meaning']}"
                )
            if "interval" not in field.metadata:
                continue
            interval = field.metadata["interval"]
            if isinstance(value, list):  # as JSON and people write it; settings are hashed
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            values = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(v, Real) and not isinstance(v, bool) and INTERVALS[interval](v) for v in values):
                rule = interval if interval.startswith("at") else f"in {interval}"
                raise ConfigurationError(
                    f"`{field.name}` of {self.name} must be {rule}; got {value!r}. {field.metadata['meaning']}"
                )

    @property
    def name(self) -> str:
        """The class name, as shown in tables and files."""
        return type(self).__name__

    # --- settings as inputs of a program -----------------------------------------------------------------------

    @classmethod
    def input_settings(cls) -> tuple[str, ...]:
        """Names of the settings whose value does not change the compiled program."""
        return tuple(field.name for field in dataclasses.fields(cls) if field.metadata.get("input"))

    def with_inputs(self, values: Mapping[str, Any]) -> Any:
        """A copy with these settings, unchecked: inside a compiled program they are tracers, not numbers."""
        changed = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed

    def structure(self) -> Any:
        """This algorithm with every input setting at its default: what a compiled program depends on."""
        defaults = {field.name: field.default for field in dataclasses.fields(self) if field.metadata.get("input")}
        return self.with_inputs(defaults)

    def adam(
        self, learning_rate: Scalar, *, warmup_updates: int | None = None, decay_updates: int | None = None
    ) -> optax.GradientTransformation:
        """Adam with the clipping and the schedule that the settings ask for.

        Args:
            learning_rate: of the network at hand.
            warmup_updates, decay_updates: of the schedule, where the network has its own.
        """
        warmup = self.warmup_updates if warmup_updates is None else warmup_updates
        decay = self.decay_updates if decay_updates is None else decay_updates

        def schedule(count: Array) -> Array:
            done = count.astype(jnp.float32)
            rate = jnp.asarray(learning_rate, jnp.float32)
            if warmup:
                rate = rate * jnp.minimum((done + 1.0) / warmup, 1.0)
            if decay:
                rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(done / decay, 1.0)))
            return rate

        optimizer = optax.adam(schedule if warmup or decay else learning_rate)
        if self.max_gradient_norm:
            optimizer = optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optimizer)
        return optimizer

    def td_return(self, batch: Batch) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """What comes before the bootstrap, and the factor on it: r and gamma (1 - terminated).

        Over n steps (`n_steps` of `fit`): sum_k gamma^k r_k and gamma^m (1 - terminated), m <= n the steps that the
        log has before its end. The actions in between are the log's: for another policy n > 1 is biased.
        """
        gamma: Scalar = getattr(self, "gamma")  # noqa: B009 - the base has none
        alive = 1.0 - batch["terminated"]
        if "rewards" not in batch:
            return batch["reward"], gamma * alive
        powers = jnp.asarray(gamma) ** jnp.arange(batch["rewards"].shape[1], dtype=jnp.float32)
        return batch["rewards"] @ powers, jnp.asarray(gamma) ** batch["steps"] * alive

    # --- the contract --------------------------------------------------------------------------------------------

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
    def policy(self, state: PyTree) -> Policy:
        """The policy of a state, as trained."""

    def value(self, state: PyTree) -> DiscreteValue | ContinuousValue | None:
        """The value functions of a state, where the algorithm has any."""
        return None
