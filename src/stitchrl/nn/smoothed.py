"""Gives a density to a policy without one: normal noise about its actions, cut off at the bounds of the action.

The result is another policy than the one it smooths, with a value of its own; an estimate of the one is not an estimate of the
other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import truncnorm
from jaxtyping import Bool, Float, Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.messages import shown
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.distributions import Normal

__all__ = ["SmoothedPolicy"]


FURTHEST = 9.0
"""Standard deviations from the mode beyond which an action has density 0, where the bounds are further away."""


class SmoothedPolicy(ContinuousPolicy):
    """N(mode, std^2) in logged units, truncated to [low, high], about the mode of another policy.

    Attributes:
        policy: what is smoothed.
        std: (action,) or () standard deviation before the truncation, above 0.
        low, high: (action,) or () bounds of the action; infinite where there is none.

    Raises:
        ConfigurationError: a policy that is no native one, a standard deviation that is not above 0, or bounds that leave
            no room.
    """

    policy: ContinuousPolicy
    std: Float[Array, "..."]
    low: Float[Array, "..."]
    high: Float[Array, "..."]

    def __init__(
        self,
        policy: ContinuousPolicy,
        std: float | AnyArray,
        low: float | AnyArray,
        high: float | AnyArray,
    ) -> None:
        if not isinstance(policy, ContinuousPolicy):
            raise ConfigurationError(
                f"SmoothedPolicy smooths a native policy over continuous actions; got a {type(policy).__name__}. A "
                "loaded bundle has `bundle.smoothed(std, low, high)`."
            )
        self.policy = policy
        if not (np.asarray(std) > 0).all():
            raise ConfigurationError(
                f"`std` of SmoothedPolicy must be above 0; got {shown(std)}. Without noise there is no density: leave the policy "
                "as it is."
            )
        if not (np.asarray(low) < np.asarray(high)).all():
            raise ConfigurationError(
                f"`low` of SmoothedPolicy must be below `high`; got {shown(low)} and {shown(high)}."
            )
        self.std, self.low, self.high = (jnp.asarray(one, jnp.float32) for one in (std, low, high))

    @property
    def draws_share_networks(self) -> bool:
        """True: every draw is made about the same mode."""
        return True

    @property
    def described(self) -> str:
        """What was done to the policy, in words, to be shown beside its value."""
        return f"smoothed by normal noise of {', '.join(f'{one:g}' for one in np.atleast_1d(np.asarray(self.std)))}"

    @property
    def is_normal(self) -> bool:
        """Whether no bound cuts the noise off."""
        return bool(np.isneginf(np.asarray(self.low)).all() and np.isposinf(np.asarray(self.high)).all())

    def normal(self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Normal:
        mode = self.policy.mode(obs, action_mask=action_mask)
        return Normal(mode, jnp.broadcast_to(jnp.log(self.std), mode.shape))

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        mode = self.policy.mode(obs, action_mask=action_mask)
        return jnp.clip(mode, *(jnp.broadcast_to(end, mode.shape) for end in (self.low, self.high)))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        mode, std, lowest, highest = self._law(obs, action_mask)
        return mode + std * jax.random.truncated_normal(key, lowest, highest)

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        mode, std, lowest, highest = self._law(obs, action_mask)
        return jnp.sum(truncnorm.logpdf(action, lowest, highest, loc=mode, scale=std), axis=-1)

    def _law(self, obs: AnyArray, action_mask: AnyArray | None) -> tuple[Array, Array, Array, Array]:
        """Mode, standard deviation, and the bounds in standard deviations from the mode, all (B, action)."""
        mode = self.mode(obs, action_mask=action_mask)
        std, low, high = (jnp.broadcast_to(one, mode.shape) for one in (self.std, self.low, self.high))
        # Beyond 9 standard deviations there is nothing to cut off, and float32 draws infinities.
        return mode, std, jnp.maximum((low - mode) / std, -FURTHEST), jnp.minimum((high - mode) / std, FURTHEST)
