"""A policy with memory made from one that takes the last observations side by side: the counterpart of `data/history.py`."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.data.history import has_history, without_history
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key, Metrics
from stitchrl.messages import listed
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.distributions import Categorical, Distribution
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.policy import DiscretePolicy

__all__ = ["HistoryPolicy"]


class Carry(NamedTuple):
    """What is remembered.

    Attributes:
        seen: the last observations, the oldest first.
        step: how many there were so far.
    """

    seen: Float[Array, "B K D"]
    step: Int[Array, " B"]


class HistoryPolicy(MemoryPolicy):
    """Acts by a policy that was trained on a log of `st.with_history`, and remembers the last observations for it.

    Attributes:
        policy: takes the last observations side by side, raw, and gives actions in logged units, as `Run.policy` does.
        history: how many observations these are.
        observation_size: columns of one observation.
        action_size: dimensions of an action; 0 where actions are numbered.

    Raises:
        ConfigurationError: a policy of another kind, or numbers that do not fit it.
    """

    uses_reward: ClassVar[bool] = False

    policy: DiscretePolicy | ContinuousPolicy
    history: int = eqx.field(static=True)
    observation_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __init__(self, policy: Any, history: int) -> None:
        if not isinstance(policy, DiscretePolicy | ContinuousPolicy):
            raise ConfigurationError(
                f"`HistoryPolicy` remembers for a policy that `st.fit` trained on a log of `st.with_history`; got a "
                f"{type(policy).__name__}."
            )
        wide = _size(policy, "mean")
        if history < 1:
            raise ConfigurationError(
                f"`history` of HistoryPolicy must be at least 1, the number that `st.with_history` was given; got {history}."
            )
        if not wide or wide % history:
            raise ConfigurationError(
                f"`history` of HistoryPolicy must be the number that `st.with_history` was given; got {history}, and the policy "
                f"takes {wide} numbers at once, which are not {history} observations of equal size."
            )
        schema = policy.schema
        if schema is not None and has_history(schema, history) is False:
            raise ConfigurationError(
                f"`history` of HistoryPolicy must be that of the `st.with_history` on whose log the policy was trained; got "
                f"{history}, and the policy's observations are {listed(schema.columns['observation'])}. Train it on "
                f"`st.with_history(log, {history})`, or give the number of that log."
            )
        self.policy, self.history, self.observation_size = policy, int(history), wide // history
        self.action_size = _size(policy, "action_center")

    @property
    def schema(self) -> Schema | None:
        """The schema of the log before `st.with_history`."""
        inner = self.policy.schema
        return None if inner is None else without_history(inner, self.history)

    @property
    def guard(self) -> None:
        """None: the known range is that of several observations side by side, not of one."""
        return None

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """Whether the policy inside has a density."""
        return bool(self.policy.has_density)

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (self.action_size,) if self.action_size else ()

    def initial_carry(self, count: int) -> Carry:
        return Carry(jnp.zeros((count, self.history, self.observation_size), jnp.float32), jnp.zeros(count, jnp.int32))

    def respond(
        self,
        carry: Carry,
        obs: Shaped[AnyArray, "B ..."],
        last_action: Shaped[AnyArray, "B ..."],
        last_reward: Float[AnyArray, " B"],
        *,
        action_mask: Bool[AnyArray, "B A"] | None = None,
    ) -> tuple[Distribution, Carry]:
        now = jnp.asarray(obs, jnp.float32)[:, None]
        pushed = jnp.concatenate([carry.seen[:, 1:], now], axis=1)
        seen = jnp.where((carry.step == 0)[:, None, None], jnp.broadcast_to(now, pushed.shape), pushed)
        joined = seen.reshape(len(seen), -1)
        after = Carry(seen, carry.step + 1)
        if isinstance(self.policy, DiscretePolicy):
            return Categorical(self.policy.log_probs(joined, action_mask=action_mask)), after
        return _At(self.policy, joined), after


def _size(policy: Any, name: str) -> int:
    """The size of an array of the policy that knows the units, which may be inside another one; 0 where there is none."""
    while policy is not None and not hasattr(policy, name):
        policy = getattr(policy, "policy", None)
    return 0 if policy is None else int(getattr(policy, name).size)


class _At(Distribution):
    """The distribution of a policy over vectors at given observations."""

    policy: ContinuousPolicy
    obs: Float[Array, "B D"]

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        return self.policy.log_prob(self.obs, jnp.asarray(action))

    def mode(self) -> Float[Array, "B action"]:
        return self.policy.mode(self.obs)

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        return self.policy.sample(self.obs, key=key)

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the mode, per action dimension."""
        return {"policy/mode_error": jnp.sqrt(jnp.mean((self.mode() - action) ** 2))}
