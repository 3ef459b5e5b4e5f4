"""A policy that draws several candidates and takes the one that a critic values most (BCQ, BEAR)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy, SquashedGaussianPolicy
from stitchrl.nn.networks import MLP
from stitchrl.nn.vae import PerturbedPolicy

__all__ = ["BestOfPolicy"]

AT_ONCE = 2**15
"""Candidates that are computed at once; of more, one for every row after another, so that memory stays small."""


class BestOfPolicy(ContinuousPolicy):
    """The best of K candidates of another policy, by one critic; without a density.

    `sample` draws the candidates of every row. `mode` is without chance: its candidates come from noise that is a part of
    the policy, the same for every observation.

    Attributes:
        proposal: where candidates come from.
        critic: network of (observation, action) with one output.
        noise: (K, size) standard normal, of the candidates of `mode`; K counts for `sample` as well.
    """

    has_density: ClassVar[bool] = False

    proposal: PerturbedPolicy | SquashedGaussianPolicy
    critic: MLP
    noise: Float[AnyArray, "K size"]

    @classmethod
    def create(
        cls, proposal: PerturbedPolicy | SquashedGaussianPolicy, critic: MLP, count: int, noise_size: int
    ) -> BestOfPolicy:
        """The same policy with so many candidates; the noise of `mode` is the same in every policy of these sizes."""
        noise = np.random.default_rng(0).standard_normal((count, noise_size), np.float32)
        return cls(proposal, critic, jnp.asarray(noise))

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
        count, size = self.noise.shape
        return self._best(obs, jnp.broadcast_to(jnp.asarray(self.noise)[:, None, :], (count, obs.shape[0], size)))

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        _refuse_mask(action_mask)
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

    def _best(self, obs: Shaped[AnyArray, "B ..."], noise: Float[Array, "K B size"]) -> Float[Array, "B action"]:
        def valued(noise: Float[Array, "k B size"]) -> tuple[Float[Array, "k B"], Float[Array, "k B action"]]:
            action = self.proposal.candidates(obs, noise)
            return self.critic.several(obs, action)[..., 0], action

        if noise.shape[0] * noise.shape[1] <= AT_ONCE:
            q, action = valued(noise)
        else:
            q, action = (each[:, 0] for each in jax.lax.map(valued, noise[:, None]))
        best = jnp.argmax(q, axis=0)
        return jnp.take_along_axis(action, best[None, :, None], axis=0)[0]


def _refuse_mask(action_mask: Bool[AnyArray, "B _"] | None) -> None:
    if action_mask is not None:
        raise TypeError("A policy over continuous actions takes no `action_mask`; got one.")
