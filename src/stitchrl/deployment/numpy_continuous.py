"""Saved policies over continuous actions in NumPy alone; each class computes what the class of its name in `nn/` computes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.deployment.numpy_laws import (
    HALF_LOG_TWO_PI,
    NumpyMixture,
    NumpyNormal,
    NumpyTanhNormal,
    bounds_of,
    clipped_log_prob,
    log_mass,
    on_bounds,
    truncated,
)
from stitchrl.deployment.numpy_networks import log_softmax, softplus, standardized
from stitchrl.types import NumpyArray

__all__ = [
    "NumpyClippedPolicy",
    "NumpyContinuousPolicy",
    "NumpyDeterministicPolicy",
    "NumpyGaussianPolicy",
    "NumpyMixturePolicy",
    "NumpyModePolicy",
    "NumpyPolicyOfLaw",
    "NumpyRescaledPolicy",
    "NumpySmoothedPolicy",
    "NumpySquashedGaussianPolicy",
]

LEAST_LOG_STD, MOST_LOG_STD = np.float32(math.log(0.01)), np.float32(1.0)
"""Ends of the log standard deviations of mixtures."""
FURTHEST = np.float32(9.0)
"""Standard deviations from the mode beyond which a smoothed policy has density 0."""
BEYOND = 1e-3
"""An action beyond a bound by more than this share of the box is impossible."""


class NumpyContinuousPolicy:
    """A policy over vectors of numbers. Observations are (B, D), actions (B, action); there are no masks."""

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` gives a density."""
        return True

    @property
    def clipped_to(self) -> tuple[NumpyArray, NumpyArray] | None:
        """The bounds to which actions are clipped; None where they are not."""
        return None

    def normal(self, obs: NumpyArray) -> NumpyNormal:
        """The normal that actions are drawn from, where they are normal."""
        raise TypeError(f"The actions of a {type(self).__name__} are not normal.")

    @abstractmethod
    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        """(B, action) the deterministic action."""

    @abstractmethod
    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        """(B, action) one action drawn per row."""

    @abstractmethod
    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        """(B,) log-density of the given actions."""

    def greedy(self) -> NumpyModePolicy:
        """The policy that always takes the mode of this one."""
        return NumpyModePolicy(self)


class NumpyPolicyOfLaw(NumpyContinuousPolicy):
    """A policy that gives a distribution for every observation."""

    @abstractmethod
    def law(self, obs: NumpyArray) -> Any:
        """The distribution of actions at each observation."""

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        found: NumpyArray = self.law(obs).mode()
        return found

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        drawn: NumpyArray = self.law(obs).sample(rng)
        return drawn

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        found: NumpyArray = self.law(obs).log_prob(action)
        return found


class NumpyGaussianPolicy(NumpyPolicyOfLaw):
    """Normal, with tanh on its mean, and one standard deviation for all observations."""

    def __init__(self, network: Any, log_std: NumpyArray) -> None:
        self.network, self.log_std = network, np.clip(log_std, np.float32(-5), np.float32(2))

    def law(self, obs: NumpyArray) -> NumpyNormal:
        mean = self.mode(obs)
        return NumpyNormal(mean, np.broadcast_to(self.log_std, mean.shape))

    def normal(self, obs: NumpyArray) -> NumpyNormal:
        return self.law(obs)

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return np.tanh(self.network(obs))


class NumpySquashedGaussianPolicy(NumpyPolicyOfLaw):
    """tanh of a normal whose mean and log standard deviation are the two halves of one network's output."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def law(self, obs: NumpyArray) -> NumpyTanhNormal:
        mean, log_std = np.split(self.network(obs), 2, -1)
        return NumpyTanhNormal(mean, np.clip(log_std, np.float32(-20), np.float32(2)))

    def candidates(self, obs: NumpyArray, noise: NumpyArray) -> NumpyArray:
        """(K, B, action) the actions that standard normal noise becomes."""
        law = self.law(obs)
        return np.tanh(law.mean + np.exp(law.log_std) * noise)


class NumpyMixturePolicy(NumpyPolicyOfLaw):
    """A mixture of normals from one network: K logits, then K means and K log standard deviations for each number."""

    def __init__(
        self,
        network: Any,
        log_scale: NumpyArray,
        components: int,
        kind: str,
        broad_share: float,
        ends: Sequence[Sequence[bool]] = (),
    ) -> None:
        self.network, self.log_scale, self.components = network, log_scale, components
        self.kind, self.broad_share, self.ends = kind, broad_share, ends

    @property
    def clipped_to(self) -> tuple[NumpyArray, NumpyArray] | None:
        return bounds_of(self.ends) if self.kind == "clipped" else None

    def law(self, obs: NumpyArray) -> NumpyMixture:
        outputs, k = self.network(obs), self.components
        rest = outputs[:, k:].reshape(len(outputs), 2, k, -1)
        mean = np.tanh(rest[:, 0]) if self.kind == "truncated" else rest[:, 0]
        log_std = MOST_LOG_STD - softplus(MOST_LOG_STD - (rest[:, 1] + self.log_scale))
        log_std = LEAST_LOG_STD + softplus(log_std - LEAST_LOG_STD)
        return NumpyMixture(log_softmax(outputs[:, :k]), mean, log_std, self.kind, self.broad_share, self.ends)


class _WithoutChance(NumpyContinuousPolicy):
    """A policy that always takes its mode."""

    @property
    def has_density(self) -> bool:
        return False

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return self.mode(obs)

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        raise TypeError("A deterministic policy over continuous actions has no density (`has_density` is False).")


class NumpyDeterministicPolicy(_WithoutChance):
    """tanh of a network."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return np.tanh(self.network(obs))


class NumpyModePolicy(_WithoutChance):
    """Takes the mode of another policy."""

    def __init__(self, policy: NumpyContinuousPolicy) -> None:
        self.policy = policy

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return self.policy.mode(obs)


class NumpyRescaledPolicy(NumpyContinuousPolicy):
    """Standardised observations into another policy, and its actions from [-1, 1] into logged units."""

    def __init__(
        self,
        mean: NumpyArray,
        std: NumpyArray,
        action_center: NumpyArray,
        action_half_width: NumpyArray,
        policy: NumpyContinuousPolicy,
    ) -> None:
        self.mean, self.std, self.policy = mean, std, policy
        self.center, self.half_width = action_center, action_half_width

    @property
    def has_density(self) -> bool:
        return self.policy.has_density

    @property
    def clipped_to(self) -> tuple[NumpyArray, NumpyArray] | None:
        inner = self.policy.clipped_to
        return None if inner is None else (self._outside(inner[0]), self._outside(inner[1]))

    def normal(self, obs: NumpyArray) -> NumpyNormal:
        inner = self.policy.normal(self._inside(obs))
        return NumpyNormal(self._outside(inner.mean), inner.log_std + np.log(self.half_width))

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return self._outside(self.policy.mode(self._inside(obs)))

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return self._outside(self.policy.sample(self._inside(obs), rng=rng))

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        inner = (action - self.center) / self.half_width
        found, log_width = self.policy.log_prob(self._inside(obs), inner), np.log(self.half_width)
        bounds = self.policy.clipped_to
        if bounds is not None:  # what lies on a bound has a probability, which has no unit
            below, above = on_bounds(inner, *bounds)
            log_width = np.where(below | above, np.float32(0), log_width)
        return found - log_width.sum(-1)

    def _inside(self, obs: NumpyArray) -> NumpyArray:
        return standardized(obs, self.mean, self.std)

    def _outside(self, action: NumpyArray) -> NumpyArray:
        return self.center + self.half_width * action


class NumpySmoothedPolicy(NumpyContinuousPolicy):
    """Normal noise about the mode of another policy, truncated to the bounds of the action."""

    def __init__(self, policy: NumpyContinuousPolicy, std: NumpyArray, low: NumpyArray, high: NumpyArray) -> None:
        self.policy, self.std, self.low, self.high = policy, std, low, high

    def normal(self, obs: NumpyArray) -> NumpyNormal:
        mode = self.policy.mode(obs)
        return NumpyNormal(mode, np.broadcast_to(np.log(self.std), mode.shape))

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return np.clip(self.policy.mode(obs), self.low, self.high)

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        mode, lowest, highest = self._law(obs)
        return mode + self.std * truncated(rng, lowest, highest)

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        mode, lowest, highest = self._law(obs)
        z = (action - mode) / self.std
        each = np.float32(-0.5) * z**2 - HALF_LOG_TWO_PI - np.log(self.std) - log_mass(lowest, highest)
        summed: NumpyArray = np.where((z < lowest) | (z > highest), -np.inf, each).sum(-1)
        return summed

    def _law(self, obs: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """The mode, and the bounds in standard deviations from it, (B, action) each."""
        mode = self.mode(obs)
        lowest, highest = (self.low - mode) / self.std, (self.high - mode) / self.std
        return mode, np.maximum(lowest, -FURTHEST), np.minimum(highest, FURTHEST)


class NumpyClippedPolicy(NumpyContinuousPolicy):
    """The actions of a policy whose distribution is normal, clipped to bounds, on which they have a probability."""

    def __init__(self, policy: NumpyContinuousPolicy, low: NumpyArray, high: NumpyArray) -> None:
        self.policy, self.low, self.high = policy, low, high

    @property
    def clipped_to(self) -> tuple[NumpyArray, NumpyArray]:
        return self.low, self.high

    def mode(self, obs: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        return np.clip(self.policy.mode(obs), self.low, self.high)

    def sample(self, obs: NumpyArray, *, rng: np.random.Generator, action_mask: None = None) -> NumpyArray:
        return np.clip(self.policy.sample(obs, rng=rng), self.low, self.high)

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: None = None) -> NumpyArray:
        law = self.policy.normal(obs)
        width, std = self.high - self.low, np.exp(law.log_std)
        each = clipped_log_prob(action, law.mean, law.log_std, self.low, self.high, spread=std)
        beyond = BEYOND * np.where(np.isfinite(width), width, std)
        possible = ((action >= self.low - beyond) & (action <= self.high + beyond)).all(-1)
        return np.where(possible, each.sum(-1), -np.inf)
