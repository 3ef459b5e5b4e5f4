"""Policies over continuous actions: vectors in [-1, 1]; `units` puts them into logged units."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.distributions import Distribution, Normal, TanhNormal
from stitchrl.nn.mixture import Ends, NormalMixture, as_ends, bounds_of_ends
from stitchrl.nn.networks import MLP, ImageNetwork
from stitchrl.nn.origin import WithOrigin

__all__ = [
    "ContinuousPolicy",
    "DeterministicPolicy",
    "GaussianPolicy",
    "MixturePolicy",
    "ModePolicy",
    "PolicyOfDistribution",
    "SquashedGaussianPolicy",
    "refuse_mask",
]

LEAST_LOG_STD, MOST_LOG_STD = math.log(0.01), 1.0
"""Ends of the log standard deviations of `MixturePolicy`, in actions scaled to [-1, 1], or before tanh. The lower end keeps
the density finite where the same action is logged again and again, as it is at the bounds of clipped actions."""


class ContinuousPolicy(WithOrigin, eqx.Module):
    """A policy over vectors. Observations are (B, D), actions (B, action); `action_mask` must be None."""

    has_density: ClassVar[bool] = True
    """False where actions have no density, so that weight-based estimators do not apply."""

    @property
    def is_normal(self) -> bool:
        """Whether the actions at each observation are normal, so that `normal` gives their law."""
        return False

    @property
    def passes_per_action(self) -> int:
        """How often the network that proposes actions is evaluated for one action: a measure of what an action costs."""
        return int(getattr(getattr(self, "policy", None), "passes_per_action", 1))

    @property
    def draws_share_networks(self) -> bool:
        """Whether the networks compute the same for every draw of an action, so that many draws cost little more than one."""
        return False

    @property
    def clipped_to(self) -> tuple[Array, Array] | None:
        """(action,) or () bounds to which actions are clipped, infinite where there is none: on them `log_prob` is the
        logarithm of a probability. None where actions are not clipped."""
        return None

    def normal(self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Normal:
        """The normal that actions are drawn from. Raises TypeError where they are not normal (`is_normal` False)."""
        raise TypeError(f"The actions of a {type(self).__name__} are not normal (`is_normal` is False).")

    @abstractmethod
    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        """(B, action) the deterministic action."""

    @abstractmethod
    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        """(B, action) one action drawn per row."""

    @abstractmethod
    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        """(B,) log-density of the given actions. Raises TypeError where there is none (`has_density` False)."""

    def greedy(self) -> ModePolicy:
        """The policy that always takes the mode of this one. Another object: evaluate the one you deploy."""
        return ModePolicy(self)


class PolicyOfDistribution(ContinuousPolicy):
    """The methods of a policy that gives a distribution for every observation."""

    @property
    def draws_share_networks(self) -> bool:
        """True: a draw is made from the distribution, which the networks give without a key."""
        return True

    @abstractmethod
    def __call__(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Distribution:
        """The distribution of actions at each observation."""

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self(obs, action_mask=action_mask).mode()

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self(obs, action_mask=action_mask).sample(key=key)

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        return self(obs, action_mask=action_mask).log_prob(action)


class GaussianPolicy(PolicyOfDistribution):
    """Normal with tanh on its MEAN only and a standard deviation that does not depend on the observation.

    The log standard deviation is kept in [-5, 2] (Kostrikov et al. 2021, official code).
    """

    network: MLP | ImageNetwork
    log_std: Float[Array, " action"]

    @property
    def is_normal(self) -> bool:
        return True

    def normal(self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None) -> Normal:
        return self(obs, action_mask=action_mask)

    def __call__(
        self,
        obs: Shaped[AnyArray, "B ..."],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
        key: Key | None = None,
    ) -> Normal:
        """The distribution of actions at each observation; with a key, the network's dropout is on."""
        refuse_mask(action_mask)
        mean = jnp.tanh(self.network(obs, key=key))
        log_std = jnp.clip(self.log_std, -5.0, 2.0)
        return Normal(mean, jnp.broadcast_to(log_std, mean.shape))


class SquashedGaussianPolicy(PolicyOfDistribution):
    """tanh of a normal whose mean and log standard deviation, kept in [-20, 2], come from one network (SAC)."""

    network: MLP | ImageNetwork

    def __call__(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> TanhNormal:
        refuse_mask(action_mask)
        mean, log_std = jnp.split(self.network(obs), 2, axis=-1)
        return TanhNormal(mean, jnp.clip(log_std, -20.0, 2.0))

    def candidates(
        self, obs: Shaped[AnyArray, "B ..."], noise: Float[Array, "K B action"]
    ) -> Float[Array, "K B action"]:
        """(K, B, action) the actions that standard normal noise becomes."""
        pi = self(obs)
        return jnp.tanh(pi.mean[None] + jnp.exp(pi.log_std)[None] * noise)


class MixturePolicy(PolicyOfDistribution):
    """A mixture density network (Bishop 1994): one network gives weights, means and log standard deviations of normals.

    Normals that are truncated to the box of actions have their means in it. The log standard deviations
    are kept in [-4.6, 1] by two soft bounds, which let gradients through (Chua and others 2018, arXiv 1805.12114).

    Attributes:
        network: its outputs are, for `components` K and d action dimensions, K logits, K d means and K d log deviations.
        log_scale: () added to every log standard deviation: one number that calibrates a trained network.
        components: K.
        kind: whether the normals are plain, truncated to [-1, 1], squashed into it by tanh or clipped to it, see
            `nn/mixture.py`.
        broad_share: share of a broad density, see `nn/mixture.py`.
        ends: for each dimension of the action, whether it is clipped below and above; empty: both, where normals are clipped.
    """

    network: MLP | ImageNetwork
    log_scale: Float[Array, ""]
    components: int = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    broad_share: float = eqx.field(static=True)
    ends: Ends = eqx.field(static=True, default=(), converter=as_ends)

    @property
    def clipped_to(self) -> tuple[Array, Array] | None:
        return bounds_of_ends(self.ends) if self.kind == "clipped" else None

    def __call__(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> NormalMixture:
        refuse_mask(action_mask)
        return self.of_outputs(self.network(obs))

    def of_outputs(self, outputs: Float[Array, "B out"]) -> NormalMixture:
        """The distribution whose parameters are these outputs of the network."""
        k = self.components
        rest = outputs[:, k:].reshape(outputs.shape[0], 2, k, -1)
        mean = jnp.tanh(rest[:, 0]) if self.kind == "truncated" else rest[:, 0]
        log_std = rest[:, 1] + self.log_scale
        log_std = MOST_LOG_STD - jax.nn.softplus(MOST_LOG_STD - log_std)
        log_std = LEAST_LOG_STD + jax.nn.softplus(log_std - LEAST_LOG_STD)
        log_weight = jax.nn.log_softmax(outputs[:, :k], axis=-1)
        return NormalMixture(log_weight, mean, log_std, self.kind, self.broad_share, self.ends)

    def marginal_cdf(
        self, obs: Shaped[AnyArray, "B ..."], action: Float[AnyArray, "B action"], *, below: bool = False
    ) -> Float[Array, "B action"]:
        """(B, action) the probability that each dimension of the action is at most the given number; with `below`, less."""
        return self(obs).marginal_cdf(action, below=below)


class _WithoutChance(ContinuousPolicy):
    """The methods of a policy that always takes its mode."""

    has_density: ClassVar[bool] = False

    @property
    def draws_share_networks(self) -> bool:
        """True: every draw is the mode."""
        return True

    def sample(
        self, obs: Shaped[AnyArray, "B ..."], *, key: Key, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        del key
        return self.mode(obs, action_mask=action_mask)

    def log_prob(
        self,
        obs: Shaped[AnyArray, "B ..."],
        action: Float[AnyArray, "B action"],
        *,
        action_mask: Bool[AnyArray, "B _"] | None = None,
    ) -> Float[Array, " B"]:
        raise TypeError("A deterministic policy over continuous actions has no density (`has_density` is False).")


class DeterministicPolicy(_WithoutChance):
    """tanh of a network: one action per observation, no density."""

    network: MLP | ImageNetwork

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        refuse_mask(action_mask)
        return jnp.tanh(self.network(obs))


class ModePolicy(_WithoutChance):
    """Takes the mode of another policy; no density."""

    policy: ContinuousPolicy

    def mode(
        self, obs: Shaped[AnyArray, "B ..."], *, action_mask: Bool[AnyArray, "B _"] | None = None
    ) -> Float[Array, "B action"]:
        return self.policy.mode(obs, action_mask=action_mask)


def refuse_mask(action_mask: Bool[AnyArray, "B _"] | None) -> None:
    """Raise TypeError where a mask of discrete actions was given."""
    if action_mask is not None:
        raise TypeError("A policy over continuous actions takes no `action_mask`; got one.")
