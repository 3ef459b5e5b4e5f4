"""Finite Markov decision processes known exactly: values by linear solve, logs by simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["FiniteEpisodes", "FiniteMDP"]


@dataclasses.dataclass(frozen=True)
class FiniteEpisodes:
    """Simulated episodes in columns, ordered by episode then step; N transitions, E episodes."""

    episode: Int[NumpyArray, " N"]
    step: Int[NumpyArray, " N"]
    state: Int[NumpyArray, " N"]
    action: Int[NumpyArray, " N"]
    reward: Float[NumpyArray, " N"]
    next_state: Int[NumpyArray, " N"]
    terminated: Bool[NumpyArray, " N"]
    truncated: Bool[NumpyArray, " N"]


@dataclasses.dataclass(frozen=True)
class FiniteMDP:
    """A world with S states and A actions that is known exactly, in float64.

    Attributes:
        transition: (S, A, S) probability of the next state.
        reward: (S, A, S) reward received on the way to the next state.
        initial: (S,) distribution of the first state.
        terminal: (S,) True where an episode ends on arrival; nothing is received afterwards.
    """

    transition: Float[NumpyArray, "S A S"]
    reward: Float[NumpyArray, "S A S"]
    initial: Float[NumpyArray, " S"]
    terminal: Bool[NumpyArray, " S"]

    def __post_init__(self) -> None:
        if not np.allclose(self.transition.sum(-1)[~self.terminal], 1.0) or not np.isclose(self.initial.sum(), 1.0):
            raise ConfigurationError("Transition rows and the initial distribution of a FiniteMDP must sum to 1.")
        if self.initial[self.terminal].sum() > 0:
            raise ConfigurationError("No episode of a FiniteMDP may start in a terminal state.")

    @property
    def num_states(self) -> int:
        """S, terminal states included."""
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    @property
    def expected_reward(self) -> Float[NumpyArray, "S A"]:
        """(S, A) mean reward of each action in each state."""
        return np.einsum("sat,sat->sa", self.transition, self.reward)

    def state_values(
        self, probs: Float[NumpyArray, "S A"], *, gamma: float = 1.0, horizon: int | None = None
    ) -> Float[NumpyArray, " S"]:
        """(S,) exact V of a policy: solves (I - gamma P_pi) V = r_pi over the non-terminal states.

        Args:
            probs: (S, A) the policy; rows of terminal states are ignored.
            gamma: in [0, 1]; at 1, without a horizon, the policy must reach a terminal state from everywhere.
            horizon: how many steps are counted, by as many sweeps V <- r_pi + gamma P_pi V from 0; None counts them all.
        """
        live = ~self.terminal
        step = np.einsum("sa,sat->st", probs[live], self.transition[live])[:, live]
        reward = (probs * self.expected_reward).sum(1)[live]
        values = np.zeros(self.num_states)
        if horizon is not None:
            for _ in range(horizon):
                values[live] = reward + gamma * step @ values[live]
            return values
        try:
            values[live] = np.linalg.solve(np.eye(live.sum()) - gamma * step, reward)
        except np.linalg.LinAlgError:
            raise ConfigurationError(
                f"At gamma {gamma:g} a policy must reach a terminal state from everywhere; this one does not."
            ) from None
        return values

    def action_values(self, probs: Float[NumpyArray, "S A"], *, gamma: float = 1.0) -> Float[NumpyArray, "S A"]:
        """(S, A) exact Q of a policy; 0 in terminal states."""
        q = self.expected_reward + gamma * self.transition @ self.state_values(probs, gamma=gamma)
        return np.where(self.terminal[:, None], 0.0, q)

    def policy_value(self, probs: Float[NumpyArray, "S A"], *, gamma: float = 1.0, horizon: int | None = None) -> float:
        """Exact expected discounted return from the initial distribution, of the first `horizon` steps where given."""
        return float(self.initial @ self.state_values(probs, gamma=gamma, horizon=horizon))

    def optimal_policy(
        self, *, gamma: float = 1.0, allowed: Bool[NumpyArray, "S A"] | None = None
    ) -> Float[NumpyArray, "S A"]:
        """(S, A) a best deterministic policy among the allowed actions, by policy iteration."""
        allowed = np.ones((self.num_states, self.num_actions), bool) if allowed is None else allowed
        # Start from the best reply to the uniform policy, which ends its episodes wherever any policy can.
        uniform = allowed / np.maximum(allowed.sum(1, keepdims=True), 1)
        choice = np.where(allowed, self.action_values(uniform, gamma=gamma), -np.inf).argmax(1)
        while True:
            q = np.where(allowed, self.action_values(np.eye(self.num_actions)[choice], gamma=gamma), -np.inf)
            # Ties keep the present action, so the iteration ends.
            better = q.max(1) > np.take_along_axis(q, choice[:, None], 1)[:, 0] + 1e-12
            if not (better & ~self.terminal).any():
                return np.eye(self.num_actions)[choice]
            choice = np.where(better, q.argmax(1), choice)

    def draw(
        self,
        probs: Float[NumpyArray, "S A"],
        episodes: int,
        *,
        seed: int,
        max_steps: int = 1000,
        starts: Int[NumpyArray, " episodes"] | None = None,
    ) -> FiniteEpisodes:
        """Simulate episodes under a policy, all in lockstep; those still running after max_steps are truncated.

        `starts` are the first states of the episodes, none of them terminal; None draws them from `initial`.
        """
        rng = np.random.default_rng(seed)
        act_cdf, next_cdf = np.cumsum(probs, axis=1), np.cumsum(self.transition, axis=2)
        state = _draw_rows(np.cumsum(self.initial)[None].repeat(episodes, 0), rng) if starts is None else starts
        running, parts = np.arange(episodes), []
        for step in range(max_steps):
            action = _draw_rows(act_cdf[state], rng)
            following = _draw_rows(next_cdf[state, action], rng)
            ended = self.terminal[following]
            cut = ~ended & (step == max_steps - 1)
            reward = self.reward[state, action, following]
            parts.append((running, np.full(len(running), step), state, action, reward, following, ended, cut))
            running, state = running[~ended], following[~ended]
            if len(running) == 0:
                break
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        return FiniteEpisodes(*(column[order] for column in columns))


def _draw_rows(cdf: Float[NumpyArray, "n k"], rng: np.random.Generator) -> Int[NumpyArray, " n"]:
    """One index per row by inverse CDF; the last index with a probability above 0 takes up rounding."""
    uniform = rng.random(len(cdf))[:, None] * cdf[:, -1:]
    return (cdf <= uniform).sum(1)
