"""A policy that draws several candidates and takes the one that critics value most (BCQ, BEAR, IDQL)."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy, SquashedGaussianPolicy, refuse_mask
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.from_noise import FromNoisePolicy
from stitchrl.nn.networks import MLP, Ensemble

__all__ = ["BestOfPolicy"]

AT_ONCE = 2**15
"""The most candidates that are computed at once. Where there are more, each turn computes one candidate of every row, so that
memory stays small."""


Proposal = FromNoisePolicy | SquashedGaussianPolicy
"""Policies that can give candidates."""


class BestOfPolicy(ContinuousPolicy):
    """The best of K candidates of another policy, by one critic or several. Its actions have no density.

    `sample` draws the candidates of every row. `mode` is deterministic: its candidates come from noise that is a part of the
    policy, the same for every observation.

    Attributes:
        proposal: gives the candidates.
        critic: network of (observation, action) with one output, or an ensemble of such networks.
        noise: (K, size) standard normal, for the candidates of `mode`; `sample` draws K candidates as well.
        joined: how several critics are joined: "min", the smallest, or "mean".
    """

    has_density: ClassVar[bool] = False

    proposal: Proposal
    critic: MLP | Ensemble
    noise: Float[AnyArray, "K size"]
    joined: Literal["min", "mean"] = eqx.field(static=True, default="min")

    @classmethod
    def create(
        cls,
        proposal: Proposal,
        critic: MLP | Ensemble,
        count: int,
        noise_size: int,
        *,
        joined: Literal["min", "mean"] = "min",
    ) -> BestOfPolicy:
        """A policy with `count` candidates; the noise of `mode` is the same in every policy of these sizes."""
        noise = np.random.default_rng(0).standard_normal((count, noise_size), np.float32)
        return cls(proposal, critic, jnp.asarray(noise), joined)

    @property
    def passes_per_action(self) -> int:
        return int(self.noise.shape[0]) * self.proposal.passes_per_action

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        refuse_mask(action_mask)
        count, size = self.noise.shape
        return self._best(obs, jnp.broadcast_to(jnp.asarray(self.noise)[:, None, :], (count, obs.shape[0], size)))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        refuse_mask(action_mask)
        count, size = self.noise.shape
        return self._best(obs, jax.random.normal(key, (count, obs.shape[0], size)))

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        raise TypeError("The best of several candidates has no density in closed form (`has_density` is False).")

    def _values(self, obs: Shaped[AnyArray, "B ..."], action: Float[Array, "k B action"]) -> Float[Array, "k B"]:
        if isinstance(self.critic, MLP):
            return self.critic.several(obs, action)[..., 0]
        q = ContinuousCritics(self.critic).several(obs, action)
        return jnp.min(q, axis=0) if self.joined == "min" else jnp.mean(q, axis=0)

    def _best(self, obs: Shaped[AnyArray, "B ..."], noise: Float[Array, "K B size"]) -> Float[Array, "B action"]:
        def valued(noise: Float[Array, "k B size"]) -> tuple[Float[Array, "k B"], Float[Array, "k B action"]]:
            action = self.proposal.candidates(obs, noise)
            return self._values(obs, action), action

        if noise.shape[0] * noise.shape[1] <= AT_ONCE:
            q, action = valued(noise)
        else:
            q, action = (each[:, 0] for each in jax.lax.map(valued, noise[:, None]))
        best = jnp.argmax(q, axis=0)
        return jnp.take_along_axis(action, best[None, :, None], axis=0)[0]
