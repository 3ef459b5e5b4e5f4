"""Saved policies with memory in NumPy alone; each class computes what the class of its name in `nn/` computes."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from stitchrl.deployment.numpy_candidates import NumpyBestOfPolicy
from stitchrl.deployment.numpy_discrete import masked
from stitchrl.deployment.numpy_flows import NumpyFromNoisePolicy
from stitchrl.deployment.numpy_networks import log_softmax, standardized
from stitchrl.deployment.numpy_transformer import NumpyReturnConditionedNetwork
from stitchrl.types import NumpyArray

__all__ = [
    "NumpyChunkPolicy",
    "NumpyGreedyMemoryPolicy",
    "NumpyMemoryPolicy",
    "NumpyRescaledMemoryPolicy",
    "NumpyReturnConditionedPolicy",
]

Carry = dict[str, NumpyArray]
"""What is remembered of B episodes; axis 0 of every array has the episodes."""


class NumpyMemoryPolicy:
    """A policy whose action depends on what it saw, did and was paid before in the episode.

    Attributes:
        action_shape: () where actions are numbered, (size,) where they are vectors.
    """

    has_memory = True
    uses_reward = True
    action_shape: tuple[int, ...]

    @property
    def has_density(self) -> bool:
        """Whether the probability of an action given its history is known."""
        return not self.action_shape

    @abstractmethod
    def initial_carry(self, count: int) -> Carry:
        """What is remembered at the start of `count` episodes."""

    @abstractmethod
    def answer(
        self,
        carry: Carry,
        obs: NumpyArray,
        last_action: NumpyArray,
        last_reward: NumpyArray,
        *,
        rng: np.random.Generator | None = None,
        action_mask: NumpyArray | None = None,
    ) -> tuple[NumpyArray, Carry]:
        """(B, A) probabilities of numbered actions, or (B, action) vectors, and the carry after seeing `obs`.

        Args:
            carry: from `initial_carry`, or from the step before.
            obs: (B, D) what is seen now.
            last_action, last_reward: what was done in the step before, and what it paid; ignored at the first step.
            rng: of drawn vectors; None takes the mode.
            action_mask: (B, A) True for allowed actions.
        """

    def greedy(self) -> NumpyGreedyMemoryPolicy:
        """The policy that always takes the mode of this one."""
        return NumpyGreedyMemoryPolicy(self)


class NumpyReturnConditionedPolicy(NumpyMemoryPolicy):
    """Acts towards a return: after each step its reward is taken off the return still to reach."""

    def __init__(
        self, network: NumpyReturnConditionedNetwork, target: NumpyArray, scale: NumpyArray, length: int
    ) -> None:
        self.network, self.target, self.scale, self.length = network, target, scale, length
        self.action_shape = () if network.numbered else (len(network.embed_action.weight),)

    def initial_carry(self, count: int) -> Carry:
        many = (count, self.length)
        return {
            "returns": np.zeros(many, np.float32),
            "obs": np.zeros((*many, len(self.network.embed_obs.weight)), np.float32),
            "action": np.zeros((*many, *self.action_shape), np.float32 if self.action_shape else np.int64),
            "position": np.zeros(many, np.int64),
            "there": np.zeros(many, bool),
            "step": np.zeros(count, np.int64),
        }

    def answer(
        self,
        carry: Carry,
        obs: NumpyArray,
        last_action: NumpyArray,
        last_reward: NumpyArray,
        *,
        rng: np.random.Generator | None = None,
        action_mask: NumpyArray | None = None,
    ) -> tuple[NumpyArray, Carry]:
        step = carry["step"]
        left = np.where(step > 0, carry["returns"][:, -1] - last_reward / self.scale, self.target / self.scale)
        action = carry["action"].copy()
        action[:, -1] = last_action
        now = {
            "returns": _pushed(carry["returns"], left),
            "obs": _pushed(carry["obs"], obs),
            "action": _pushed(action, np.zeros_like(action[:, 0])),
            "position": _pushed(carry["position"], step),
            "there": _pushed(carry["there"], np.ones_like(carry["there"][:, 0])),
        }
        out = self.network(**now)[:, -1]
        after = {**now, "step": step + 1}
        return (np.tanh(out) if self.action_shape else np.exp(log_softmax(masked(out, action_mask)))), after


class NumpyChunkPolicy(NumpyMemoryPolicy):
    """Chooses a chunk of actions by one observation, takes all of them, and only then looks again."""

    uses_reward = False

    def __init__(self, planner: NumpyFromNoisePolicy | NumpyBestOfPolicy, length: int, size: int) -> None:
        self.planner, self.length, self.action_shape = planner, length, (size,)

    @property
    def has_density(self) -> bool:
        return False

    def initial_carry(self, count: int) -> Carry:
        return {
            "actions": np.zeros((count, self.length, *self.action_shape), np.float32),
            "left": np.zeros(count, np.int64),
        }

    def answer(
        self,
        carry: Carry,
        obs: NumpyArray,
        last_action: NumpyArray,
        last_reward: NumpyArray,
        *,
        rng: np.random.Generator | None = None,
        action_mask: NumpyArray | None = None,
    ) -> tuple[NumpyArray, Carry]:
        actions, new = carry["actions"].copy(), carry["left"] == 0
        if new.any():
            plan = self.planner.mode(obs[new]) if rng is None else self.planner.sample(obs[new], rng=rng)
            actions[new] = plan.reshape(-1, *actions.shape[1:])
        left = np.where(new, self.length, carry["left"])
        return actions[np.arange(len(obs)), self.length - left], {"actions": actions, "left": left - 1}


class NumpyRescaledMemoryPolicy(NumpyMemoryPolicy):
    """Raw observations and rewards in, logged action units in and out, around a policy with memory trained on scaled ones."""

    def __init__(
        self,
        mean: NumpyArray,
        std: NumpyArray,
        action_center: NumpyArray | None,
        action_half_width: NumpyArray | None,
        reward_shift: NumpyArray,
        reward_scale: NumpyArray,
        policy: NumpyMemoryPolicy,
    ) -> None:
        self.mean, self.std, self.policy = mean, std, policy
        self.center, self.half_width = action_center, action_half_width
        self.reward_shift, self.reward_scale = reward_shift, reward_scale
        self.uses_reward, self.action_shape = policy.uses_reward, policy.action_shape

    @property
    def has_density(self) -> bool:
        return self.policy.has_density

    def initial_carry(self, count: int) -> Carry:
        return self.policy.initial_carry(count)

    def answer(
        self,
        carry: Carry,
        obs: NumpyArray,
        last_action: NumpyArray,
        last_reward: NumpyArray,
        *,
        rng: np.random.Generator | None = None,
        action_mask: NumpyArray | None = None,
    ) -> tuple[NumpyArray, Carry]:
        if self.center is not None and self.half_width is not None:
            last_action = (last_action - self.center) / self.half_width
        reward = (last_reward + self.reward_shift) * self.reward_scale
        seen = standardized(obs, self.mean, self.std)
        found, after = self.policy.answer(carry, seen, last_action, reward, rng=rng, action_mask=action_mask)
        if self.center is not None and self.half_width is not None:
            found = self.center + self.half_width * found
        return found, after


class NumpyGreedyMemoryPolicy(NumpyMemoryPolicy):
    """Takes the mode of another policy with memory."""

    def __init__(self, policy: NumpyMemoryPolicy) -> None:
        self.policy, self.uses_reward, self.action_shape = policy, policy.uses_reward, policy.action_shape

    def initial_carry(self, count: int) -> Carry:
        return self.policy.initial_carry(count)

    def answer(
        self,
        carry: Carry,
        obs: NumpyArray,
        last_action: NumpyArray,
        last_reward: NumpyArray,
        *,
        rng: np.random.Generator | None = None,
        action_mask: NumpyArray | None = None,
    ) -> tuple[NumpyArray, Carry]:
        found, after = self.policy.answer(carry, obs, last_action, last_reward, action_mask=action_mask)
        if not self.action_shape:
            found = (np.arange(found.shape[1]) == found.argmax(1)[:, None]).astype(np.float32)
        return found, after


def _pushed(held: NumpyArray, new: NumpyArray) -> NumpyArray:
    """The held steps without the oldest, and a new one."""
    return np.concatenate([held[:, 1:], new[:, None].astype(held.dtype)], axis=1)
