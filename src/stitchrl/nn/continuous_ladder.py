"""Policies over continuous actions between a learned one and the behaviour, of which a bound on the ratios is known.

The behaviour is a mixture of normals with means m_k, standard deviations s_k and weights w_k (`nn/mixture.py`), d numbers to an
action. With the learned policy's action a* (before tanh, where the normals are squashed),

    (1)  m'_k = m_k + min(1, reach / |z_k|) (a* - m_k),    z_k = (a* - m_k) / s_k
    (2)  s'_k = spread s_k
    (3)  E_b[ratio^2] <= exp(reach^2 / (2 - spread^2)) / (spread sqrt(2 - spread^2))^d

(3) is the second moment of the ratio of two normals that are `reach` standard deviations apart. It holds for mixtures, since it
is convex in both laws together, and for squashed and clipped normals, since no map of the actions makes it larger; for
truncated ones only about. It is of the ratio to the model b: to logged densities the ratio is larger where the model is off.

The mean of a clipped normal may lie beyond the bound; where a* is on that bound, such a mean stays where it is in (1). The broad
share of the model is left out, since nobody would act by it; the model with its share e makes (3) larger by 1 / (1 - e).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.continuous_policy import ContinuousPolicy, MixturePolicy, PolicyOfDistribution, refuse_mask
from stitchrl.nn.distributions import LARGEST_TANH
from stitchrl.nn.mixture import NormalMixture, bounds_of_ends
from stitchrl.nn.networks import standardized
from stitchrl.nn.units import RescaledPolicy

__all__ = ["ContinuousLadderPolicy", "continuous_rung"]

SHORTEST = 1e-6
"""A distance of fewer standard deviations than this is none."""
ON_BOUND = 1e-5
"""An action this near to the bound that actions are clipped to is on it; scaled actions have bounds of -1 and 1."""


class ContinuousLadderPolicy(PolicyOfDistribution):
    """Moves the behaviour's normals towards the action of a policy, by equations (1) and (2).

    Observations are raw; actions are scaled as those of the model of the behaviour are.

    Attributes:
        policy: the learned policy, in logged units; its mode is what the normals move towards.
        behavior: the model of the behaviour, around a `MixturePolicy`.
        reach: () the most standard deviations that a mean moves, at least 0; 0 moves none.
        spread: () factor of the standard deviations, in (0, 1].
    """

    policy: ContinuousPolicy
    behavior: RescaledPolicy
    reach: Float[AnyArray, ""]
    spread: Float[AnyArray, ""]

    @property
    def clipped_to(self) -> tuple[Array, Array] | None:
        """The bounds to which the model of the behaviour clips."""
        return self.behavior.policy.clipped_to

    def __call__(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> NormalMixture:
        """The distribution of actions at each observation."""
        refuse_mask(action_mask)
        model = self.behavior.policy
        assert isinstance(model, MixturePolicy)
        law = model(standardized(obs, self.behavior.mean, self.behavior.std))
        aim = standardized(self.policy.mode(obs), self.behavior.action_center, self.behavior.action_half_width)
        if law.kind == "squashed":
            aim = jnp.arctanh(jnp.clip(aim, -LARGEST_TANH, LARGEST_TANH))
        elif law.kind == "truncated":
            aim = jnp.clip(aim, -1.0, 1.0)
        aims = jnp.broadcast_to(aim[:, None, :], law.mean.shape)
        if law.kind == "clipped":
            low, high = (jnp.broadcast_to(end, aims.shape) for end in bounds_of_ends(law.ends))
            aims = jnp.where(aims >= high - ON_BOUND, jnp.maximum(aims, law.mean), aims)
            aims = jnp.where(aims <= low + ON_BOUND, jnp.minimum(aims, law.mean), aims)
        way = aims - law.mean
        distance = jnp.linalg.norm(way * jnp.exp(-law.log_std), axis=-1, keepdims=True)
        share = jnp.minimum(1.0, self.reach / jnp.maximum(distance, SHORTEST))
        narrower = law.log_std + jnp.log(self.spread)
        return dataclasses.replace(law, mean=law.mean + share * way, log_std=narrower, broad_share=0.0)


def continuous_rung(policy: ContinuousPolicy, behavior: RescaledPolicy, reach: float, spread: float) -> RescaledPolicy:
    """The policy between a learned one and the behaviour, with raw observations and logged units of action.

    Args:
        policy: the learned policy, in logged units.
        behavior: the model of the behaviour, a mixture of normals.
        reach, spread: as in `ContinuousLadderPolicy`.

    Raises:
        TypeError: the behaviour is not a mixture of normals.
    """
    if not isinstance(behavior.policy, MixturePolicy):
        raise TypeError(
            f"A rung needs a behaviour that is a mixture of normals; got a {type(behavior.policy).__name__}."
        )
    inner = ContinuousLadderPolicy(policy, behavior, jnp.float32(reach), jnp.float32(spread))
    as_it_is = jnp.zeros(0, jnp.float32)  # observations are raw inside
    return RescaledPolicy(as_it_is, as_it_is, behavior.action_center, behavior.action_half_width, inner)
