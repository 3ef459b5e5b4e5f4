"""The contract of an algorithm: a frozen dataclass of settings with pure functions. The training loop knows no more."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from stitchrl.algorithms.optimizers import adam
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import check_settings, choice, network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import Sampling
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.messages import shown
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.policy import Policy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.types import NumpyArray, PyTree

__all__ = ["Algorithm", "ArraySpec", "BoxAction", "DiscreteAction", "Prepared", "Spec", "Step"]


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one observation: (D,) float32, or (height, width, channels) uint8."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class DiscreteAction:
    """Actions that are numbers. `counts` has one entry, or one for each part of a multi-discrete action."""

    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BoxAction:
    """Actions that are vectors of `size` numbers, in [-1, 1] inside an algorithm.

    `low` and `high` are the bounds of the logged action where the schema declares them, else None.
    """

    size: int
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """The facts about a log that an algorithm needs in order to build its networks.

    Attributes:
        observation: shape and dtype of an observation.
        action: a count of actions, or a box.
    """

    observation: ArraySpec
    action: DiscreteAction | BoxAction

    @classmethod
    def of(cls, log: Dataset) -> Spec:
        """The shapes of a log."""
        table, schema = log.observation_table, log.schema
        observation = ArraySpec(tuple(int(n) for n in table.shape[1:]), str(table.dtype))
        if log.num_actions is not None:
            return cls(observation, DiscreteAction(schema.action_counts or (log.num_actions,)))
        return cls(observation, BoxAction(int(log.action.shape[1]), schema.action_low, schema.action_high))

    @classmethod
    def vectors(cls, observation_size: int, num_actions: int | None = None, action_size: int = 0) -> Spec:
        """Observations are vectors of this size. Give `num_actions` for discrete actions, else `action_size`."""
        action = BoxAction(action_size) if num_actions is None else DiscreteAction((num_actions,))
        return cls(ArraySpec((observation_size,)), action)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON; `from_dict` reads it back."""
        kind = "discrete" if isinstance(self.action, DiscreteAction) else "box"
        return {
            "observation": dataclasses.asdict(self.observation),
            "action": {"kind": kind} | dataclasses.asdict(self.action),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict`. Raises KeyError, TypeError or ValueError on other content."""
        seen, action = content["observation"], dict(content["action"])
        observation = ArraySpec(tuple(int(n) for n in seen["shape"]), seen["dtype"])
        if action.pop("kind") == "discrete":
            return cls(observation, DiscreteAction(tuple(int(n) for n in action["counts"])))
        bounds = (None if action[end] is None else tuple(float(b) for b in action[end]) for end in ("low", "high"))
        return cls(observation, BoxAction(int(action["size"]), *bounds))

    @property
    def num_actions(self) -> int | None:
        """Number of discrete actions; None where the action is continuous."""
        return math.prod(self.action.counts) if isinstance(self.action, DiscreteAction) else None

    @property
    def action_size(self) -> int:
        """Numbers in one continuous action; 0 where actions are discrete."""
        return self.action.size if isinstance(self.action, BoxAction) else 0

    @property
    def discrete_actions(self) -> int:
        """Number of discrete actions. Raises ConfigurationError where the action is continuous."""
        return math.prod(self.action_counts)

    @property
    def action_counts(self) -> tuple[int, ...]:
        """Choices of each component of a discrete action. Raises ConfigurationError where the action is continuous."""
        if isinstance(self.action, BoxAction):
            raise ConfigurationError("This algorithm needs discrete actions; the log's are continuous.")
        return self.action.counts

    @property
    def vector_size(self) -> int:
        """Numbers in an observation. Raises ConfigurationError where it is an image."""
        if len(self.observation.shape) != 1:
            raise ConfigurationError(
                f"This network learns from vectors; the log's observations are images of shape {self.observation.shape}."
            )
        return self.observation.shape[0]


class Prepared(NamedTuple):
    """The result of `Algorithm.prepare`: the rows to learn from, and what was computed from them.

    Attributes:
        log: the rows to learn from.
        columns: further columns of that log, (N, ...): each becomes a field of the batch of the same name. Over n steps it
            is taken from the first row, or from the last where its name begins with `next_`.
        given: arrays that are no training state (a fitted behaviour, a solved table), handed to every function; None,
            or arrays, networks and policies in dicts and tuples.
    """

    log: Dataset
    columns: Mapping[str, NumpyArray] = MappingProxyType({})
    given: PyTree = None


class Step(NamedTuple):
    """Where in the run an update is.

    Attributes:
        update: its number, from 0.
        updates: how many the run was asked for. An algorithm that reads it learns something else where a finished run is
            continued than where all updates are asked for at once.
    """

    update: Int[Array, ""]
    updates: Int[Array, ""]


Kind = TypeVar("Kind", bound="Algorithm")


@dataclasses.dataclass(frozen=True)
class Algorithm(ABC):
    """Base of every algorithm. Subclasses are final frozen dataclasses; their states are pytrees of arrays.

    Raises:
        ConfigurationError: a setting outside its range.
    """

    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    """Kinds of action it can learn from."""
    observations: ClassVar[tuple[str, ...]] = ("vectors",)
    """Kinds of observation it can learn from: "vectors", "images"."""
    learns_from: ClassVar[str] = "logs"
    """What `fit` takes for it: "logs", which are Datasets, or "preferences"."""
    acts: ClassVar[str] = "as trained"
    """How its policy is meant to act: "as trained"; "greedy" where the paper evaluates the mode; "sample" where it
    chooses among candidates that it draws."""
    caution: ClassVar[str] = ""
    """Set where the algorithm is kept as a warning: why it must not be deployed."""
    has_critics: ClassVar[bool] = True
    """Whether it learns Q: critics of continuous actions take vectors only."""
    values_hold_entropy: ClassVar[bool] = False
    """Whether its Q counts the entropy of later decisions as well as their rewards, weighted by the metric "temperature"."""
    closed_form: ClassVar[bool] = False
    """True where `prepare` solves everything: no update is made, whatever number is asked for."""
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType({})
    """Published settings by name."""
    irregular_time: ClassVar[bool] = False
    """Whether it discounts by the time that elapses where the log has a `time_unit`, as `td_return` does."""

    hidden_sizes: dataclasses.InitVar[tuple[int, ...] | None] = dataclasses.field(default=None, kw_only=True)
    """Short for `network` with these widths and its other fields unchanged; only the constructor takes it."""
    network: Network = network_setting(
        Network(),
        "Widths, activation, normalisation, dropout, convolutions of an image, and outputs of several components.",
    )
    max_gradient_norm: float = setting(
        0.0, "[0, inf)", "Gradients of a network longer than this are shortened to it; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip
    warmup_updates: int = setting(
        0, "at least 0", "The step size rises linearly from 0 over this many updates; 0 is off.", kw_only=True
    )
    decay_updates: int = setting(
        0, "at least 0", "The step size falls to 0 as a cosine over this many updates, warm-up included; 0 is off.",
        kw_only=True,
    )  # fmt: skip
    average_rate: float = setting(
        0.0, "[0, 1]",
        "How far a running average of the policy's weights moves towards them in each update; the average then acts in their "
        "place; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip
    precision: Literal["float32", "bfloat16"] = choice(
        "float32", ("float32", "bfloat16"),
        'Number format of what wide layers multiply while learning; "bfloat16" is faster where the processor has it.',
    )  # fmt: skip

    def __post_init__(self, hidden_sizes: tuple[int, ...] | None) -> None:
        if hidden_sizes is not None:
            if isinstance(self.network, Network):
                object.__setattr__(self, "network", dataclasses.replace(self.network, hidden_sizes=hidden_sizes))
            else:
                raise ConfigurationError(
                    f"`hidden_sizes` of {self.name} changes the widths of a st.Network; `network` is {self.network!r}. "
                    "Give one of them."
                )
        check_settings(self)

    @property
    def name(self) -> str:
        """The class name, as shown in tables and files."""
        return type(self).__name__

    @classmethod
    def preset(cls: type[Kind], name: str = "", **settings: Any) -> Kind:
        """The algorithm with published settings: `IQL.preset("antmaze")`.

        Args:
            name: a key of `presets`, which also name their sources.
            settings: those to change, such as `gamma` or `hidden_sizes`.

        Raises:
            ConfigurationError: there is no such preset, or a setting is outside its range.
        """
        if name not in cls.presets:
            if not cls.presets:
                raise ConfigurationError(
                    f"{cls.__name__} has no presets; `st.{cls.__name__}()` has its default settings."
                )
            asked = f"has no preset {shown(name)}" if name else "needs the name of a preset"
            raise ConfigurationError(f"{cls.__name__} {asked}; it has {', '.join(map(repr, cls.presets))}.")
        published = dict(cls.presets[name].settings)
        if "hidden_sizes" in settings:
            published.pop("network", None)
        return cls(**(published | settings))

    @property
    def sampling(self) -> Sampling | None:
        """The rule by which it draws rows where that is part of the algorithm; None leaves the choice to the caller."""
        return None

    @property
    def target_steps(self) -> int:
        """Steps of reward in a TD target where that is part of the algorithm; 0 leaves it to `n_steps` of `fit`."""
        return 0

    @property
    def has_memory(self) -> bool:
        """Whether its policy remembers its episode (`nn/memory.py`)."""
        return False

    @property
    def sequence_length(self) -> int:
        """Rows of the pieces of episodes that it learns from (`feeds.batches.Sequences`); 0 learns from transitions."""
        return 0

    @property
    def refresh_every_updates(self) -> int:
        """Gradient updates between two calls of `refresh`; 0 never calls it."""
        return 0

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
        self,
        learning_rate: Scalar,
        *,
        warmup_updates: int | None = None,
        decay_updates: int | None = None,
        weight_decay: Scalar | None = None,
    ) -> optax.GradientTransformation:
        """Adam with the clipping and the schedule that the settings ask for.

        Args:
            learning_rate: of the network at hand.
            warmup_updates, decay_updates: of the schedule, where the network has its own.
            weight_decay: each step shrinks the network's parameters by this share times the step size; None is off.
        """
        return adam(
            learning_rate,
            warmup_updates=self.warmup_updates if warmup_updates is None else warmup_updates,
            decay_updates=self.decay_updates if decay_updates is None else decay_updates,
            max_gradient_norm=self.max_gradient_norm,
            weight_decay=weight_decay,
        )

    def td_return(self, batch: Batch) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """The two parts of a TD target beside the next value: the reward r, and the discount gamma (1 - terminated).

        Over n steps (`n_steps` of `fit`): sum_k gamma^k r_k and gamma^m (1 - terminated), where m <= n is the number of
        steps that the log has before its end. The actions in between are the log's, so that for another policy n > 1 is
        biased. Where the log has a `time_unit` the discount is gamma^elapsed (1 - terminated), and n is 1.
        """
        gamma: Scalar = getattr(self, "gamma")  # noqa: B009 - the base class has no such field
        alive = 1.0 - batch["terminated"]
        if "elapsed" in batch:
            return batch["reward"], jnp.asarray(gamma) ** batch["elapsed"] * alive
        if "rewards" not in batch:
            return batch["reward"], gamma * alive
        rewards = batch["rewards"]
        powers = jnp.asarray(gamma) ** jnp.arange(rewards.shape[1], dtype=jnp.float32)
        # An elementwise sum: a matrix product would follow an accelerator's reduced precision.
        return jnp.sum(rewards * powers[None, :], axis=1), jnp.asarray(gamma) ** batch["steps"] * alive

    # --- the contract --------------------------------------------------------------------------------------------

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        """Choose and compute what to learn from, once, on the host; by default all of the log.

        Args:
            log: the training part, in logged units.
            scaling: what batches are scaled by; solved tables and fitted models live in scaled units.
            key: the same for every seed of a run; settings that are read here must be static.
        """
        return Prepared(log)

    def prepare_again(self, log: Dataset, scaling: Scaling, given: PyTree, *, key: Key) -> Prepared:
        """The result of `prepare`, where its `given` is known from an earlier call with the same arguments.

        An algorithm whose `prepare` takes long overrides this, so that continuing or inspecting a run does not repeat it.

        Args:
            log, scaling, key: as for `prepare`.
            given: from the earlier call.
        """
        return self.prepare(log, scaling, key=key)._replace(given=given)

    def remarks(self, given: PyTree) -> tuple[str, ...]:
        """Sentences that a person should read about what `prepare` made: `Run.remarks` holds them."""
        return ()

    @abstractmethod
    def init(self, key: Key, spec: Spec, given: PyTree) -> PyTree:
        """A fresh state: everything a resume needs, arrays only."""

    @abstractmethod
    def update(self, state: PyTree, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[PyTree, Metrics]:
        """One gradient update and its metrics, each a scalar."""

    def refresh(self, state: PyTree, arrays: PyTree, given: PyTree, key: Key) -> PyTree:
        """The state after a computation over the whole log, made before every `refresh_every_updates`-th update.

        Args:
            state: after the last update.
            arrays: the log's columns on the device, as `feeds.batches.transition_arrays` makes them.
            given: as prepared.
            key: of this refresh.
        """
        return state

    @abstractmethod
    def policy(self, state: PyTree, given: PyTree) -> Policy | MemoryPolicy:
        """The policy of a state, as trained."""

    def value(self, state: PyTree, given: PyTree) -> DiscreteValue | ContinuousValue | None:
        """The value functions of a state, where the algorithm has any."""
        return None
