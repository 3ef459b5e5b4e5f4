"""Saved policies over discrete actions in NumPy alone; each class computes what the class of its name in `nn/` computes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from stitchrl.deployment.numpy_networks import NumpyEnsemble, log_softmax, standardized
from stitchrl.types import NumpyArray

__all__ = [
    "NumpyCategoricalPolicy",
    "NumpyConstrainedGreedyPolicy",
    "NumpyDiscretePolicy",
    "NumpyFlooredPolicy",
    "NumpyGreedyPolicy",
    "NumpyLadderPolicy",
    "NumpyStandardizedPolicy",
    "NumpyTabularPolicy",
    "NumpyValueGreedyPolicy",
    "masked",
]

FORBIDDEN = np.float32(-1e9)
"""Logit of a forbidden action, whose probability is then 0."""
IMPOSSIBLE = np.float32(-1e30)
"""Logarithm of a probability that is 0 in float32."""
LEAST_LOG = np.log(np.finfo(np.float32).tiny)


class NumpyDiscretePolicy:
    """A policy over actions 0 to A - 1. Observations are (B, D), masks (B, A) with True for allowed."""

    has_density = True

    @abstractmethod
    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        """(B, A) unnormalised log-probabilities, before masking."""

    def log_probs(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        """(B, A) log-probability of every action, renormalised over the allowed ones."""
        return log_softmax(masked(self.logits(obs, action_mask), action_mask))

    def probs(self, obs: NumpyArray, *, action_mask: NumpyArray | None = None) -> NumpyArray:
        """(B, A) probability of every action."""
        return np.exp(self.log_probs(obs, action_mask))

    def log_prob(self, obs: NumpyArray, action: NumpyArray, *, action_mask: NumpyArray | None = None) -> NumpyArray:
        """(B,) log-probability of the given actions."""
        return np.take_along_axis(self.log_probs(obs, action_mask), np.asarray(action)[:, None], 1)[:, 0]

    def mode(self, obs: NumpyArray, *, action_mask: NumpyArray | None = None) -> NumpyArray:
        """(B,) most probable allowed action; the first of equally probable ones."""
        best: NumpyArray = self.log_probs(obs, action_mask).argmax(1)
        return best

    def greedy(self) -> NumpyGreedyPolicy:
        """The policy that always takes the mode of this one."""
        return NumpyGreedyPolicy(self)


class NumpyCategoricalPolicy(NumpyDiscretePolicy):
    """Softmax over the outputs of a network."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        outputs: NumpyArray = self.network(obs)
        return outputs


class NumpyValueGreedyPolicy(NumpyDiscretePolicy):
    """Takes the allowed action of highest mean value over the critics."""

    def __init__(self, critics: NumpyEnsemble) -> None:
        self.critics = critics

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        return _point_mass(self.critics(obs).mean(0), action_mask)


class NumpyConstrainedGreedyPolicy(NumpyDiscretePolicy):
    """Takes the action of highest mean value over the critics among those that the behaviour finds likely."""

    def __init__(self, critics: NumpyEnsemble, behavior: NumpyDiscretePolicy, threshold: NumpyArray) -> None:
        self.critics, self.behavior, self.threshold = critics, behavior, threshold

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        log_probs = self.behavior.log_probs(obs, action_mask)
        likely = np.exp(log_probs - log_probs.max(-1, keepdims=True)) > self.threshold
        return _point_mass(self.critics(obs).mean(0), likely)


class NumpyGreedyPolicy(NumpyDiscretePolicy):
    """Takes the mode of another policy."""

    def __init__(self, policy: NumpyDiscretePolicy) -> None:
        self.policy = policy

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        return _point_mass(self.policy.logits(obs, action_mask), action_mask)


class NumpyStandardizedPolicy(NumpyDiscretePolicy):
    """Hands (obs - mean) / std to another policy."""

    def __init__(self, mean: NumpyArray, std: NumpyArray, policy: NumpyDiscretePolicy) -> None:
        self.mean, self.std, self.policy = mean, std, policy

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        return self.policy.logits(standardized(obs, self.mean, self.std), action_mask)


class NumpyTabularPolicy(NumpyDiscretePolicy):
    """Probabilities of known observations; any other observation counts as the nearest of them."""

    def __init__(self, table: NumpyArray, log_probabilities: NumpyArray) -> None:
        self.center, self.log_probabilities = table.mean(0), log_probabilities
        rows = table - self.center
        self.squares, self.doubled = (rows**2).sum(1), np.ascontiguousarray((2 * rows).T)

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        distance = self.squares - (obs - self.center) @ self.doubled
        found: NumpyArray = self.log_probabilities[distance.argmin(1)]
        return found


class NumpyFlooredPolicy(NumpyDiscretePolicy):
    """(1 - share) policy + share uniform over the allowed actions."""

    def __init__(self, policy: NumpyDiscretePolicy, share: float) -> None:
        self.policy, self.share = policy, np.float32(share)
        self.rest = np.float32(1.0 - share)

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        probs = self.policy.probs(obs, action_mask=action_mask)
        allowed = np.ones_like(probs) if action_mask is None else action_mask.astype(probs.dtype)
        uniform = allowed / np.maximum(allowed.sum(-1, keepdims=True), np.float32(1))
        return np.log(self.rest * probs + self.share * np.maximum(uniform, np.float32(1e-30)))


class NumpyLadderPolicy(NumpyDiscretePolicy):
    """b (pi / b)^power among the actions that the behaviour b takes with at least the floor; else as the behaviour."""

    def __init__(
        self, policy: NumpyDiscretePolicy, behavior: NumpyDiscretePolicy, power: NumpyArray, floor: NumpyArray
    ) -> None:
        self.policy, self.behavior, self.power, self.floor = policy, behavior, power, floor

    def logits(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        learned = np.maximum(self.policy.log_probs(obs, action_mask), IMPOSSIBLE)
        usual = np.maximum(self.behavior.log_probs(obs, action_mask), IMPOSSIBLE)
        reached = np.exp(usual) >= self.floor
        if self.power > 0:
            reached &= learned > LEAST_LOG
        towards = np.where(reached, usual + self.power * (learned - usual), IMPOSSIBLE)
        return np.where(reached.any(-1, keepdims=True), towards, usual)


def masked(logits: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
    """Logits in which those of forbidden actions are so low that these have no probability."""
    return logits if action_mask is None else np.where(action_mask, logits, FORBIDDEN)


def _point_mass(scores: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
    """Logits with all mass on the best allowed action; the first of equally good ones."""
    made = np.full(scores.shape, FORBIDDEN, np.float32)
    made[np.arange(len(scores)), masked(scores, action_mask).argmax(-1)] = 0
    return made
