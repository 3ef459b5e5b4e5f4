"""Policies between a learned one and the behaviour, in NumPy alone; what `nn/continuous_ladder.py` computes."""

from __future__ import annotations

import numpy as np

from stitchrl.deployment.numpy_continuous import (
    NumpyContinuousPolicy,
    NumpyMixturePolicy,
    NumpyPolicyOfLaw,
    NumpyRescaledPolicy,
)
from stitchrl.deployment.numpy_laws import LARGEST_TANH, NumpyMixture
from stitchrl.deployment.numpy_networks import standardized
from stitchrl.types import NumpyArray

__all__ = ["NumpyContinuousLadderPolicy"]

SHORTEST = np.float32(1e-6)
"""A distance of fewer standard deviations than this is none."""
ON_BOUND = np.float32(1e-5)
"""An action this near to the bound that actions are clipped to is on it."""


class NumpyContinuousLadderPolicy(NumpyPolicyOfLaw):
    """The normals of a model of the behaviour, moved towards the action of another policy."""

    def __init__(
        self, policy: NumpyContinuousPolicy, behavior: NumpyRescaledPolicy, reach: NumpyArray, spread: NumpyArray
    ) -> None:
        if not isinstance(behavior, NumpyRescaledPolicy) or not isinstance(behavior.policy, NumpyMixturePolicy):
            raise TypeError("the behaviour of a rung of the ladder must be a mixture of normals in logged units")
        self.policy, self.behavior, self.model = policy, behavior, behavior.policy
        self.reach, self.spread = reach, spread

    @property
    def clipped_to(self) -> tuple[NumpyArray, NumpyArray] | None:
        return self.model.clipped_to

    def law(self, obs: NumpyArray) -> NumpyMixture:
        own = self.model.law(standardized(obs, self.behavior.mean, self.behavior.std))
        aim = (self.policy.mode(obs) - self.behavior.center) / self.behavior.half_width
        if own.kind == "squashed":
            aim = np.arctanh(np.clip(aim, -LARGEST_TANH, LARGEST_TANH))
        elif own.kind == "truncated":
            aim = np.clip(aim, np.float32(-1), np.float32(1))
        aims = np.broadcast_to(aim[:, None, :], own.mean.shape)
        if own.kind == "clipped":
            aims = np.where(aims >= own.high - ON_BOUND, np.maximum(aims, own.mean), aims)
            aims = np.where(aims <= own.low + ON_BOUND, np.minimum(aims, own.mean), aims)
        way = aims - own.mean
        distance = np.sqrt(((way * np.exp(-own.log_std)) ** 2).sum(-1, keepdims=True))
        share = np.minimum(np.float32(1), self.reach / np.maximum(distance, SHORTEST))
        log_std = own.log_std + np.log(self.spread)
        return NumpyMixture(own.log_weight, own.mean + share * way, log_std, own.kind, 0.0, self.model.ends)
