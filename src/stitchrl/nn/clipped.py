"""A policy whose actions are drawn from a normal and then clipped to bounds, with the distribution that this gives.

Its actions have a probability at the bounds and a density between them (`nn/clipped_normal.py`), so that a log whose actions
were clipped to the same bounds can be weighted by them. An environment that clips actions itself executes the same actions for
the normal alone, but then the density of the logged, clipped action is not that of the normal.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.messages import shown
from stitchrl.nn.clipped_normal import clipped_log_prob
from stitchrl.nn.continuous_policy import ContinuousPolicy

__all__ = ["ClippedPolicy"]

BEYOND = 1e-3
"""An action beyond a bound by more than this share of the box is impossible: float32 does not round as far. Where the other
bound is infinite it is this share of a standard deviation."""


class ClippedPolicy(ContinuousPolicy):
    """The actions of a policy whose distribution is normal, clipped to [low, high], in logged units.

    Attributes:
        policy: what is clipped: a Gaussian policy, as trained by BC or IQL, or an `st.SmoothedPolicy` with infinite bounds.
        low, high: (action,) or () bounds of the action; infinite where there is none.

    Raises:
        ConfigurationError: a policy whose actions are not normal, or bounds that leave no room.
    """

    policy: ContinuousPolicy
    low: Float[Array, "..."]
    high: Float[Array, "..."]

    def __init__(self, policy: ContinuousPolicy, low: float | AnyArray, high: float | AnyArray) -> None:
        if not isinstance(policy, ContinuousPolicy):
            raise ConfigurationError(
                f"ClippedPolicy clips a native policy over continuous actions; got a {type(policy).__name__}. A "
                "loaded bundle has `bundle.clipped(low, high)`."
            )
        if not policy.is_normal:
            raise ConfigurationError(
                f"ClippedPolicy clips a policy whose actions are normal; those of a {type(policy).__name__} are not. Give it "
                "normal noise first: `st.ClippedPolicy(st.SmoothedPolicy(policy, std, -np.inf, np.inf), low, high)`."
            )
        if not (np.asarray(low) < np.asarray(high)).all():
            raise ConfigurationError(
                f"`low` of ClippedPolicy must be below `high`; got {shown(low)} and {shown(high)}."
            )
        self.policy = policy
        self.low, self.high = (jnp.asarray(one, jnp.float32) for one in (low, high))

    @property
    def draws_share_networks(self) -> bool:
        """True: every draw is made from the same normal."""
        return True

    @property
    def described(self) -> str:
        """What was done to the policy, in words, to be shown beside its value."""
        low, high = np.broadcast_arrays(np.asarray(self.low), np.asarray(self.high))
        ends = dict.fromkeys(f"[{a:g}, {b:g}]" for a, b in zip(np.ravel(low), np.ravel(high), strict=True))
        inner = getattr(self.policy, "described", "")
        return f"{inner}{', then ' if inner else ''}clipped to {' x '.join(ends)}"

    @property
    def clipped_to(self) -> tuple[Array, Array]:
        return self.low, self.high

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self._clip(self.policy.mode(obs, action_mask=action_mask))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self._clip(self.policy.sample(obs, key=key, action_mask=action_mask))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        """(B,) logarithm of the density of the numbers between the bounds times the probability of those on them."""
        law = self.policy.normal(obs, action_mask=action_mask)
        low, high = (jnp.broadcast_to(end, law.mean.shape) for end in self.clipped_to)
        std = jnp.broadcast_to(jnp.exp(law.log_std), law.mean.shape)
        each = clipped_log_prob(jnp.asarray(action), law.mean, law.log_std, low, high, spread=std)
        beyond = BEYOND * jnp.where(jnp.isfinite(high - low), high - low, std)
        possible = jnp.all((action >= low - beyond) & (action <= high + beyond), axis=-1)
        return jnp.where(possible, jnp.sum(each, axis=-1), -jnp.inf)

    def _clip(self, action: Float[Array, "B action"]) -> Float[Array, "B action"]:
        return jnp.clip(action, *(jnp.broadcast_to(end, action.shape) for end in self.clipped_to))
