"""A contextual bandit whose values are exact: kinds of visitors, each seen by a unique vector, and rewards of 0 or 1."""

from __future__ import annotations

from typing import Any

import numpy as np

import stitchrl as st

KINDS, ACTIONS = 30, 4


class ByKind:
    """A policy given by its probabilities for each kind; it may keep count of the rows that it was asked for at once."""

    def __init__(self, features: np.ndarray, table: np.ndarray) -> None:
        self.features, self.table, self.most_rows = features, table, 0

    def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
        rows = np.asarray(obs)
        self.most_rows = max(self.most_rows, len(rows))
        kind = np.abs(rows[:, None, 0] - self.features[None, :, 0]).argmin(1)
        return self.table[kind].astype(np.float32)


class BanditWorld:
    """Kinds are equally frequent; the behaviour and the policy are soft choices that differ.

    Args:
        level: the largest chance of a reward.
        pull: how far the policy is from the behaviour.
    """

    def __init__(self, *, level: float = 0.5, pull: float = 0.8, actions: int = ACTIONS) -> None:
        rng = np.random.default_rng(0)
        self.features = rng.normal(size=(KINDS, 3)).astype(np.float32)
        appeal = self.features @ rng.normal(size=(3, actions)) + rng.normal(size=(KINDS, actions))
        self.rate = level / (1 + np.exp(-appeal))
        self.behavior = _softmax(0.5 * rng.normal(size=(KINDS, actions)))
        self.policy = _softmax(np.log(self.behavior) + pull * appeal)

    def value(self, table: np.ndarray) -> float:
        """The exact mean reward of a policy."""
        return float((table * self.rate).sum(1).mean())

    def acting(self, table: np.ndarray | None = None) -> ByKind:
        """A policy by its table; the world's own policy by default."""
        return ByKind(self.features, self.policy if table is None else table)

    def columns(self, decisions: int, seed: int, behavior: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Logged decisions; `probability` is that of the logged action."""
        rng, table = np.random.default_rng(seed), self.behavior if behavior is None else behavior
        kind = rng.integers(KINDS, size=decisions)
        action = (rng.random((decisions, 1)) > table[kind].cumsum(1)[:, :-1]).sum(1)
        return {
            "seen": self.features[kind],
            "action": action,
            "reward": (rng.random(decisions) < self.rate[kind, action]).astype(np.float32),
            "probability": table[kind, action],
            "every": table[kind],
        }

    def log(self, decisions: int, seed: int, *, every: bool = True, **columns: Any) -> st.Dataset:
        """A log of them, with the probabilities of every action, or of the logged action alone."""
        return self.read(self.columns(decisions, seed) | columns, every=every)

    def read(self, columns: dict[str, np.ndarray], *, every: bool = True, known: bool = True) -> st.Dataset:
        """The columns as a log; without propensities where they are not `known`."""
        roles = {"observation": "seen", "action": "action", "reward": "reward"}
        if known:
            roles |= {"behavior_probs": "every"} if every else {"propensity": "probability"}
        schema = st.Schema(roles, num_actions=self.rate.shape[1], bandit=True, gamma=1.0)
        return st.read({name: columns[name] for name in roles.values()}, schema)


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = odds / odds.sum(1, keepdims=True)
    return found
