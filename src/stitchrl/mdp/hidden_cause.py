"""The lowest value that a policy may have where a hidden cause affects every decision, exactly, in a known finite world.

A log shows the behaviour b(a|s) and the outcomes of logged actions, p(s'|s,a). Where a hidden cause u without memory
changed the odds of each action by a factor of at most Lambda in either direction (Tan 2006), the true outcomes of an action
are those of the log reweighted by z = b(a|s) / b(a|s, u), with alpha = b + (1 - b) / Lambda <= z <= b + Lambda (1 - b) and
mean 1. The worst such z gives the largest weight to the lowest outcomes Y = r + gamma V(s'), a share tau = 1 / (Lambda + 1)
of them, and the smallest weight to all others (Dorn and Guo 2023; Bruns-Smith and Zhou 2023):

    (1)  V(s) = sum_a pi(a|s) (alpha E[Y|s,a] + (1 - alpha) CVaR_tau(Y|s,a))

It is solved by policy iteration of the adversary: the worst z for the current values, then the values under that z by a
linear solve. "Without memory" means that the cause of each decision is drawn anew and depends on the state alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.types import NumpyArray

__all__ = ["robust_policy_value", "robust_state_values", "worst_transition"]

ITERATIONS = 100
"""The most policy iterations; a handful are enough."""


def worst_transition(
    outcome: Float[NumpyArray, "n S"],
    chance: Float[NumpyArray, "n S"],
    behavior: Float[NumpyArray, " n"],
    odds_ratio: float,
) -> Float[NumpyArray, "n S"]:
    """Chances of the next states under the worst hidden cause, for n pairs of a state and an action.

    Args:
        outcome: the value of each next state, with the reward on the way to it.
        chance: of each next state in the log.
        behavior: probability of the action in the log.
        odds_ratio: Lambda, at least 1.
    """
    tau = 1.0 / (odds_ratio + 1.0)
    order = np.argsort(outcome, axis=1)
    ascending = np.take_along_axis(chance, order, 1)
    until = np.cumsum(ascending, 1)
    in_tail = np.clip(np.minimum(until, tau) - (until - ascending), 0.0, None)
    free = ((1.0 - behavior) * (1.0 - 1.0 / odds_ratio))[:, None]  # 1 - alpha
    found = np.empty_like(ascending)
    np.put_along_axis(found, order, (1.0 - free) * ascending + free * in_tail / tau, 1)
    return found


def robust_state_values(
    world: FiniteMDP,
    policy: Float[NumpyArray, "S A"],
    behavior: Float[NumpyArray, "S A"],
    odds_ratio: float,
    *,
    gamma: float = 1.0,
) -> Float[NumpyArray, " S"]:
    """(S,) the values of equation (1) for a policy that takes only actions that the behaviour takes as well.

    Args:
        world: what the log shows, by the behaviour's actions.
        policy: (S, A) probabilities; rows of terminal states are ignored.
        behavior: (S, A) probabilities in the log.
        odds_ratio: Lambda, at least 1; 1 gives the policy's own values.
        gamma: discount.

    Raises:
        ConfigurationError: an odds ratio below 1.
    """
    if not odds_ratio >= 1:
        raise ConfigurationError(f"`odds_ratio` must be at least 1, which is no hidden cause; got {odds_ratio}.")
    live = ~world.terminal
    state, action = np.nonzero((policy > 0) & live[:, None])
    chance, reward = world.transition[state, action], world.reward[state, action]
    taken = policy[state, action]
    values = world.state_values(policy, gamma=gamma)
    for _ in range(ITERATIONS):
        outcome = reward + gamma * np.where(world.terminal, 0.0, values)
        worst = worst_transition(outcome, chance, behavior[state, action], odds_ratio)
        received, following = np.zeros(world.num_states), np.zeros((world.num_states, world.num_states))
        np.add.at(received, state, taken * (worst * reward).sum(1))
        np.add.at(following, state, taken[:, None] * worst)
        before, values = values, np.zeros(world.num_states)
        step = following[np.ix_(live, live)]
        values[live] = np.linalg.solve(np.eye(len(step)) - gamma * step, received[live])
        if np.abs(values - before).max() <= 1e-12 * max(1.0, np.abs(values).max()):
            break
    return values


def robust_policy_value(
    world: FiniteMDP,
    policy: Float[NumpyArray, "S A"],
    behavior: Float[NumpyArray, "S A"],
    odds_ratio: float,
    *,
    gamma: float = 1.0,
) -> float:
    """The lowest expected return of a policy from the initial distribution; arguments as for `robust_state_values`."""
    return float(world.initial @ robust_state_values(world, policy, behavior, odds_ratio, gamma=gamma))
