"""Worlds whose answers are known, and what every algorithm for discrete actions learns in them.

All logs have as many rows, actions and numbers in an observation, and no network has hidden layers, so that an algorithm
compiles once for all worlds, and what it learns is a table wherever an observation is 1 at the number of the state.

- The stitching world (`stitchrl.mdp.stitching`): does an algorithm join pieces of different episodes?
- The loop: one state, from which an episode ends with probability 0.1. Action 0 costs 0.8 and action 1 costs 0.2; the others,
  which cost 2, are not in the log. The best of the logged ones is worth -2 in all. A critic starts near 0, so that an action
  that nobody took looks best: does an algorithm choose it, or believe in it?
- The overestimation world (`stitchrl.mdp.overestimation`): does an error about such an action feed on itself?
- Random worlds and a grid: how much of the way from the behaviour to the best policy among the logged actions is gone?
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from algorithm_cases import ALL, fitted
from worlds import schema_of

import stitchrl as st
from stitchrl.algorithms.base import Algorithm
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.gridworld import GridWorld
from stitchrl.mdp.overestimation import overestimation_columns, overestimation_world
from stitchrl.mdp.stitching import STATES, stitching_columns, stitching_world
from stitchrl.nn.distributions import Categorical
from stitchrl.nn.memory import MemoryPolicy, nothing_yet

__all__ = [
    "DISAGREEMENT", "GAMMAS", "GRID", "KINDS", "LEARNED", "LOOP_VALUE", "NOTHING", "WAY", "World", "grows",
    "improved", "kind_of", "learner", "looped", "names", "overestimated", "stitched", "stitching_log",
    "takes_unlogged", "world_named",
]  # fmt: skip

UPDATES = 1000
ROWS, SIZE, ACTIONS = 1536, 16, 4
LOOP_VALUE = -2.0
"""The value of always taking action 1 in the loop."""
GAMMAS = (0.5, 0.9, 0.99)
"""The discounts of the overestimation world."""
WAY = 0.7
"""Share of the way from the behaviour to the best policy among the logged actions that a learner of values goes at least."""


class Kind(NamedTuple):
    """What an algorithm is by its equations, in the words of the comparison; tests hold each word to what was learned.

    Attributes:
        constraint: what keeps the policy to the log.
        values: what its values are learned from.
        asks: the actions at the next state whose Q its targets ask for.
    """

    constraint: str
    values: str
    asks: str


IMITATION, WEIGHTS, LIKELY = "imitates the log", "weights the log's actions", "only actions that are likely in the log"
TOLD, ASKED = "imitates the log, told which actions were good", "imitates the log, told the return to reach"
DOWN, DISAGREEMENT, NOTHING = "none: values are held down", "none: critics that disagree", "none"
OF_POLICY = "the policy's"
KINDS = {
    "BC": Kind(IMITATION, "none", "none"),
    "FilteredBC": Kind(IMITATION, "none", "none"),
    "AWR": Kind(WEIGHTS, "returns", "none"),
    "AdvantageBC": Kind(TOLD, "returns", "none"),
    "DecisionTransformer": Kind(ASKED, "returns", "none"),
    "AWAC": Kind(WEIGHTS, "TD, the policy's actions", OF_POLICY),
    "IQL": Kind(WEIGHTS, "TD, an expectile of the logged actions", "none"),
    "SQL": Kind(WEIGHTS, "TD, a soft maximum of the logged actions", "none"),
    "EQL": Kind(WEIGHTS, "TD, a soft maximum of the logged actions", "none"),
    "XQL": Kind(WEIGHTS, "TD, a soft maximum of the logged actions", "none"),
    "BCQ": Kind(LIKELY, "TD, the best of the likely actions", "likely"),
    "BCQIQL": Kind(LIKELY, "TD, an expectile of the likely logged actions", "none"),
    "CQL": Kind(DOWN, "TD, the best action", "all"),
    "SACN": Kind(DISAGREEMENT, "TD, the policy's actions", OF_POLICY),
    "SAC": Kind(NOTHING, "TD, the policy's actions", OF_POLICY),
    "DQN": Kind(NOTHING, "TD, the best action", "all"),
}
LEARNED: dict[str, tuple[dict[str, Any], str]] = {
    "BC": ({}, "splits"),
    "FilteredBC": ({"top_fraction": 2 / 3}, "s8"),
    "AWR": ({"returns_every_updates": 100}, "s8"),
    # the bit that it is told has to meet the state, which takes a hidden layer
    "AdvantageBC": ({"returns_every_updates": 100, "learning_rate": 1e-2, "hidden_sizes": (32,)}, "s8"),
    "DecisionTransformer": (
        {"length": 4, "positions": 4, "learning_rate": 3e-3, "hidden_sizes": (32,)},
        "s8",
    ),
    "IQL, expectile 0.5": ({"expectile": 0.5}, "s8"),
    "IQL": ({"expectile": 0.7}, "s9"),
    "IQL, expectile 0.9": ({"expectile": 0.9}, "s9"),
    "SQL": ({}, "s9"),
    "EQL": ({}, "s9"),
    "XQL": ({}, "s9"),
    "AWAC": ({}, "s9"),
    "CQL": ({}, "s9"),
    "BCQ": ({"threshold": 0.1}, "s9"),
    "BCQIQL": ({"threshold": 0.1}, "s9"),
    "SACN": ({"num_critics": 10}, "s9"),
    "SAC": ({"entropy_share": 0.3}, "s9"),
    "CQL, penalty behavior": ({"penalty": "behavior", "behavior_updates": 300}, "s9"),
    "DQN": ({}, "s9"),
}
"""Algorithm, with what is set -> the settings, and where it arrives from s1."""
FOOLED = ("SACN",)
"""Algorithms without a `caution` that still take the action that nobody took: critics have nothing to disagree about there."""


def names() -> list[str]:
    """The algorithms of the comparison."""
    return list(LEARNED)


def kind_of(name: str) -> str:
    """The algorithm's name, without what is set."""
    return name.partition(",")[0]


def takes_unlogged(name: str) -> bool:
    """Whether an algorithm takes, and believes in, an action of the loop that nobody took."""
    return bool(ALL[kind_of(name)].caution) or kind_of(name) in FOOLED


def grows(name: str) -> bool:
    """Whether an error eps about an action that nobody took grows to eps / (1 - gamma)."""
    return kind_of(name) == "DQN"


def learner(name: str, gamma: float, **changes: Any) -> Algorithm:
    """An algorithm as the comparison trains it."""
    algorithm = ALL[kind_of(name)]
    settings = {"learning_rate": 0.1, "hidden_sizes": (), "decay_updates": UPDATES, "gamma": gamma}
    settings |= LEARNED[name][0] | changes
    return dataclasses.replace(
        algorithm, **{k: v for k, v in settings.items() if hasattr(algorithm, k) or k == "hidden_sizes"}
    )


def log_of(columns: dict[str, Any]) -> st.Dataset:
    """The first `ROWS` rows of a log, its observations widened with zeros; the last row is cut where its episode goes on."""
    rows = {name: np.asarray(column)[:ROWS] for name, column in columns.items()}
    assert len(rows["action"]) == ROWS, len(rows["action"])
    seen = rows["observation"]
    rows["observation"] = np.pad(seen, ((0, 0), (0, SIZE - seen.shape[1]))).astype(np.float32)
    rows["truncated"] = (np.arange(ROWS) == ROWS - 1) & ~rows["terminated"]
    return st.read(rows, schema_of(rows, ACTIONS))


def trained(algorithm: Algorithm, log: st.Dataset, seed: int = 0) -> Any:
    """A run of `UPDATES` updates."""
    return fitted(algorithm, log, seeds=[seed], updates=UPDATES, log_every_updates=UPDATES, standardize=False)


# --- the stitching world -------------------------------------------------------------------------------------------------


class Stitched(NamedTuple):
    """What was learned in the stitching world.

    Attributes:
        route: where the policy's mode leads from s1: "s7", "s8" or "s9".
        splits: whether the policy as trained still divides itself at s1 and at s3, as the log does.
        q: Q of the way from s1 to s3, by the algorithm's own critic; NaN where it has none.
    """

    route: str
    splits: bool
    q: float


@cache
def stitching_log() -> st.Dataset:
    """Each of the three routes equally often."""
    return log_of(stitching_columns(ROWS // 8))


@cache
def stitched(name: str) -> Stitched:
    """What an algorithm learns in the stitching world."""
    run, obs = trained(learner(name, 1.0), stitching_log()), np.eye(SIZE, dtype=np.float32)[: len(STATES)]
    if isinstance(run.policy, MemoryPolicy):
        return _stitched_by_memory(run.policy)
    probs, mode = np.asarray(run.policy.probs(obs)), np.asarray(run.policy.greedy().probs(obs))
    end = {3.0: "s7", 7.0: "s8", 10.0: "s9"}
    joined = stitching_world().policy_value(mode[:, :2] / np.maximum(mode[:, :2].sum(1, keepdims=True), 1e-9))
    q = float("nan") if run.values[0] is None else float(np.asarray(run.values[0].q_all(obs))[0, 0])
    return Stitched(end[joined], bool((np.abs(probs[[0, 2], 0] - 0.5) < 0.15).all()), q)


def _stitched_by_memory(policy: MemoryPolicy) -> Stitched:
    """Where a policy with memory goes from s1, step by step."""
    world, eye = stitching_world(), np.eye(SIZE, dtype=np.float32)
    state, carry = 0, policy.initial_carry(1)
    last: tuple[Any, Any] = nothing_yet(policy, 1)
    while not world.terminal[state]:
        action, carry = policy.step(carry, eye[[state]], *last)
        then = int(world.transition[state, int(action[0])].argmax())
        last, state = (action, np.float32([world.reward[state, int(action[0]), then]])), then
    splits = all(abs(float(_first_probs(policy, eye[[s]])[0]) - 0.5) < 0.15 for s in (0, 2))
    return Stitched(STATES[state], splits, float("nan"))


def _first_probs(policy: MemoryPolicy, obs: np.ndarray) -> np.ndarray:
    """The probabilities of the first action of an episode."""
    found, _ = policy.respond(policy.initial_carry(1), obs, *nothing_yet(policy, 1))
    assert isinstance(found, Categorical)
    return np.exp(np.asarray(found.log_probs))[0]


# --- the loop --------------------------------------------------------------------------------------------------------------


class Looped(NamedTuple):
    """What was learned in the loop.

    Attributes:
        probability: of the unlogged actions, by the policy as trained.
        chosen: whether the mode is an unlogged action.
        claimed: the value of the state by the algorithm's own critic; NaN where it has none.
    """

    probability: float
    chosen: bool
    claimed: float


@cache
def loop_log() -> st.Dataset:
    """Episodes of the loop; the last one ends where the rows end."""
    rng = np.random.default_rng(0)
    ends = rng.random(ROWS) < 0.1
    ends[-1] = True
    action = (rng.random(ROWS) < 0.3).astype(np.int64)
    return log_of(
        {
            "episode": np.cumsum(ends) - ends,
            "observation": np.ones((ROWS, 1)),
            "action": action,
            "reward": np.array([-0.8, -0.2])[action],
            "terminated": ends,
        }
    )


@cache
def looped(name: str) -> Looped:
    """What an algorithm learns in the loop."""
    run, obs = trained(learner(name, 1.0), loop_log()), np.eye(SIZE, dtype=np.float32)[:1]
    if isinstance(run.policy, MemoryPolicy):
        first = _first_probs(run.policy, obs)
        return Looped(float(first[2:].sum()), int(first.argmax()) >= 2, float("nan"))
    probs = np.asarray(run.policy.probs(obs))[0]
    claimed = float("nan") if run.values[0] is None else float(np.asarray(run.values[0].v(obs))[0])
    return Looped(float(probs[2:].sum()), int(np.asarray(run.policy.greedy().mode(obs))[0]) >= 2, claimed)


# --- the overestimation world -----------------------------------------------------------------------------------------------


class Overestimated(NamedTuple):
    """What was learned in the overestimation world.

    Attributes:
        eps: Q(B, 1) - Q(A, 1), the error with which the critic extrapolates.
        error: the claimed value of B less the exact one, of the policy that was learned.
    """

    eps: float
    error: float


@cache
def overestimation_log() -> st.Dataset:
    """The log of the overestimation world."""
    return log_of(overestimation_columns(ROWS // 8))


@cache
def overestimated(name: str, gamma: float, seed: int) -> Overestimated:
    """What an algorithm with critics learns in the overestimation world, whose targets are those of the last update."""
    run = trained(learner(name, gamma, target_rate=1.0), overestimation_log(), seed)
    obs = np.zeros((2, SIZE), np.float32)
    obs[1, 0] = 1.0
    q, claimed = np.asarray(run.values[0].q_all(obs), float), np.asarray(run.values[0].v(obs), float)
    probs = np.append(np.asarray(run.policy.probs(obs), float), np.full((1, ACTIONS), 1 / ACTIONS), axis=0)
    return Overestimated(q[1, 1] - q[0, 1], claimed[1] - overestimation_world().state_values(probs, gamma=gamma)[1])


# --- actions of two components ---------------------------------------------------------------------------------------------

PAIRS = (0.4, 0.1, 0.2, 0.3)
"""How often the behaviour takes the components (0, 0), (0, 1), (1, 0) and (1, 1)."""


@cache
def paired_log() -> st.Dataset:
    """One-step episodes of one state, whose action is a choice of 0 or 1 twice: (1, 1) pays 2, (0, 0) pays 1, others nothing."""
    joint = np.random.default_rng(0).choice(ACTIONS, ROWS, p=PAIRS)
    columns = {
        "episode": np.arange(ROWS),
        "observation": np.eye(SIZE, dtype=np.float32)[np.zeros(ROWS, int)],
        "action": np.stack(np.divmod(joint, 2), axis=1),
        "reward": np.array([1.0, 0.0, 0.0, 2.0])[joint],
        "terminated": np.ones(ROWS, bool),
    }
    return st.read(columns, st.Schema({name: name for name in columns}, action_counts=(2, 2)))


@cache
def paired(name: str) -> Any:
    """The run of an algorithm on actions of two components."""
    return trained(learner(name, 1.0), paired_log())


# --- random worlds and a grid -----------------------------------------------------------------------------------------------


class World(NamedTuple):
    """A finite world of at most 16 states, and what is known of its log.

    Attributes:
        mdp: exact.
        gamma: its discount.
        logged: (S, A) the actions that the behaviour takes.
        behavior: (S, A) its probabilities.
    """

    mdp: FiniteMDP
    gamma: float
    logged: np.ndarray
    behavior: np.ndarray

    def value(self, probs: np.ndarray) -> float:
        """The exact value of a policy."""
        return self.mdp.policy_value(probs, gamma=self.gamma)

    def way(self, value: float) -> float:
        """A value as a share of the way from the behaviour's to that of the best policy among the logged actions."""
        least = self.value(self.behavior)
        return (value - least) / (self.value(self.mdp.optimal_policy(gamma=self.gamma, allowed=self.logged)) - least)


GRID = GridWorld(
    ("S...", ".#..", "..#X", "S..G"), slip=0.1, gamma=0.9, step_reward=-1.0, goal_reward=10.0, pit_reward=-10.0
)


@cache
def world_named(name: str) -> World:
    """ "grid", or "random" and a number. The behaviour takes the worst of its actions seven times in ten."""
    mdp, logged = (GRID.mdp, _logged_in_grid()) if name == "grid" else _random(int(name.split()[1]))
    q = mdp.action_values(mdp.optimal_policy(gamma=GRID.gamma, allowed=logged), gamma=GRID.gamma)
    worst = np.eye(ACTIONS, dtype=bool)[np.where(logged, q, np.inf).argmin(1)]
    others = logged & ~worst
    behavior = 0.3 * others / np.maximum(others.sum(1, keepdims=True), 1)
    behavior += worst * (1 - behavior.sum(1, keepdims=True))
    return World(mdp, GRID.gamma, logged, behavior)


def _logged_in_grid() -> np.ndarray:
    """Nobody ever goes left; in every third cell nobody goes up either."""
    logged = np.ones((GRID.num_states, ACTIONS), bool)
    logged[:, 3] = False
    logged[::3, 0] = False
    return logged


def _random(number: int) -> tuple[FiniteMDP, np.ndarray]:
    """Eight states and the end, four actions, of which two are taken in each state; the others cost 3 more."""
    rng = np.random.default_rng(number)
    transition, live = np.zeros((9, ACTIONS, 9)), np.arange(8)
    for state in live:
        for action in range(ACTIONS):
            transition[state, action, 8] = end = rng.uniform(0.05, 0.2)
            transition[state, action, rng.choice(8, 3, replace=False)] = (1 - end) * rng.dirichlet(np.ones(3))
    logged = np.ones((9, ACTIONS), bool)
    logged[:8] = rng.permuted(np.tile([True, True, False, False], (8, 1)), axis=1)
    reward = np.zeros((9, ACTIONS, 9))
    reward[:8] = -1 + rng.normal(size=(8, ACTIONS, 1)) - 3.0 * ~logged[:8, :, None]
    return FiniteMDP(transition, reward, np.append(np.ones(8) / 8, 0), np.arange(9) == 8), logged


@cache
def world_log(name: str) -> st.Dataset:
    """The log of a world, under its behaviour."""
    world = world_named(name)
    drawn = world.mdp.draw(world.behavior, ROWS // 2, seed=0)
    states = np.eye(world.mdp.num_states)[drawn.state]
    names = ("episode", "step", "action", "reward", "terminated")
    return log_of({name: getattr(drawn, name) for name in names} | {"observation": states})


class Improved(NamedTuple):
    """What was learned in a world.

    Attributes:
        gone: share of the way from the behaviour to the best policy among the logged actions, by the exact value of the
            policy as it is meant to act.
        claimed: the same of the value that the critic claims; NaN where it has none.
        unlogged: the probability that it gives to actions that are not in the log, on average over states.
    """

    gone: float
    claimed: float
    unlogged: float


@cache
def improved(name: str, world: str) -> Improved:
    """What an algorithm learns in a world."""
    found, algorithm = world_named(world), learner(name, GRID.gamma)
    run = trained(algorithm, world_log(world))
    live = ~found.mdp.terminal
    obs = np.eye(SIZE, dtype=np.float32)[: len(live)]
    acts = run.policy.greedy() if algorithm.acts == "greedy" else run.policy
    probs, trained_probs = (np.asarray(policy.probs(obs), float) for policy in (acts, run.policy))
    probs /= probs.sum(1, keepdims=True)
    claimed = (
        float("nan") if run.values[0] is None else float(found.mdp.initial @ np.asarray(run.values[0].v(obs), float))
    )
    unlogged = (trained_probs * ~found.logged).sum(1)[live].mean()
    return Improved(found.way(found.value(probs)), found.way(claimed), float(unlogged))
