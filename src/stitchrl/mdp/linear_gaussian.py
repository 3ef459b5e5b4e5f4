"""Linear systems with Gaussian noise and quadratic costs: continuous actions with exact values, and logs by simulation.

    s_{t+1} = A s_t + B a_t + w_t,   w_t ~ N(0, noise^2),   r_t = -(s_t^T Q s_t + a_t^T R a_t)

Under a policy a ~ N(K s, std^2) the value is quadratic (Bertsekas 2012, Dynamic Programming and Optimal Control, section 3.1):

    (1)  V(s) = -(s^T P s + c),   P = Q + K^T R K + gamma (A + B K)^T P (A + B K)
    (2)  c = (tr(R S) + gamma tr(P (B S B^T + noise^2 I))) / (1 - gamma),   S = diag(std^2)
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import linalg

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["LinearGaussian"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearGaussian:
    """A linear system with observations of D numbers and actions of U numbers.

    Attributes:
        transition: (D, D) A.
        control: (D, U) B.
        state_cost: (D, D) Q, symmetric.
        action_cost: (U, U) R, symmetric.
        noise: standard deviation of each next observation about its mean.
        initial: standard deviation of each first observation about 0.
    """

    transition: Float[NumpyArray, "D D"]
    control: Float[NumpyArray, "D U"]
    state_cost: Float[NumpyArray, "D D"]
    action_cost: Float[NumpyArray, "U U"]
    noise: float = 0.1
    initial: float = 1.0

    def value(self, gain: Float[NumpyArray, "U D"], std: Float[NumpyArray, " U"], *, gamma: float) -> float:
        """Exact expected discounted sum of rewards over infinitely many steps, from random first observations; `gamma` below 1.

        Raises:
            ConfigurationError: the policy lets the costs grow faster than the discount shrinks them.
        """
        closed = self.transition + self.control @ gain
        if np.abs(np.linalg.eigvals(closed)).max() * np.sqrt(gamma) >= 1:
            raise ConfigurationError(
                f"The costs of this policy grow faster than gamma {gamma:g} discounts them, so its value is not finite. Give a "
                "`gain` that stabilises the system, or a smaller gamma."
            )
        cost = self.state_cost + gain.T @ self.action_cost @ gain
        p = linalg.solve_discrete_lyapunov(np.sqrt(gamma) * closed.T, cost)
        spread = np.diag(std**2)
        next_spread = self.control @ spread @ self.control.T + self.noise**2 * np.eye(len(p))
        c = (np.trace(self.action_cost @ spread) + gamma * np.trace(p @ next_spread)) / (1.0 - gamma)
        return -float(self.initial**2 * np.trace(p) + c)

    def log(
        self, gain: Float[NumpyArray, "U D"], std: Float[NumpyArray, " U"], *, episodes: int, steps: int, seed: int
    ) -> dict[str, NumpyArray]:
        """Columns of episodes under a policy, every one cut after `steps`, with the density of each action logged."""
        rng = np.random.default_rng(seed)
        size, actions = self.control.shape
        state = self.initial * rng.normal(size=(episodes, size))
        obs = np.empty((episodes, steps, size), np.float32)
        following, action = np.empty_like(obs), np.empty((episodes, steps, actions), np.float32)
        reward, log_prob = np.empty((episodes, steps), np.float32), np.empty((episodes, steps))
        for t in range(steps):
            noise = rng.normal(size=(episodes, actions))
            act = state @ gain.T + std * noise
            obs[:, t], action[:, t] = state, act
            reward[:, t] = -np.einsum("ni,ij,nj->n", state, self.state_cost, state)
            reward[:, t] -= np.einsum("ni,ij,nj->n", act, self.action_cost, act)
            log_prob[:, t] = -(0.5 * noise**2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(1)
            state = state @ self.transition.T + act @ self.control.T + self.noise * rng.normal(size=(episodes, size))
            following[:, t] = state
        truncated = np.zeros((episodes, steps), bool)
        truncated[:, -1] = True
        return {
            "episode": np.repeat(np.arange(episodes), steps),
            "observation": obs.reshape(-1, size),
            "action": action.reshape(-1, actions),
            "reward": reward.reshape(-1),
            "next_observation": following.reshape(-1, size),
            "terminated": np.zeros(episodes * steps, bool),
            "truncated": truncated.reshape(-1),
            "behavior_log_prob": log_prob.reshape(-1).astype(np.float32),
        }
