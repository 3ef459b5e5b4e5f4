"""Logs of a finite world as Datasets, with exact propensities and numbered states."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read
from stitchrl.types import NumpyArray

__all__ = ["draw_log"]


def draw_log(
    mdp: FiniteMDP,
    behavior: Float[NumpyArray, "S A"],
    episodes: int,
    *,
    seed: int,
    gamma: float = 1.0,
    max_steps: int = 1000,
    observations: Float[NumpyArray, "S D"] | None = None,
) -> Dataset:
    """Simulate episodes under a policy and read them as a log.

    Args:
        mdp: the world.
        behavior: (S, A) probabilities of the actions; they are logged.
        episodes: how many; those that still run after `max_steps` are truncated, and what followed them is logged.
        seed: of the simulation.
        gamma: the discount that the log states.
        max_steps: in one episode.
        observations: what is seen of each state; by default 1 at the number of the state and 0 elsewhere.
    """
    seen = np.eye(mdp.num_states) if observations is None else observations
    drawn = mdp.draw(behavior, episodes, seed=seed, max_steps=max_steps)
    probs = behavior[drawn.state]
    columns = {
        "episode": drawn.episode,
        "step": drawn.step,
        "observation": seen[drawn.state].astype(np.float32),
        "next_observation": seen[drawn.next_state].astype(np.float32),
        "observation_id": drawn.state,
        "action": drawn.action,
        "reward": drawn.reward,
        "terminated": drawn.terminated,
        "truncated": drawn.truncated,
        "behavior_probs": probs.astype(np.float32),
        "behavior_log_prob": np.log(probs[np.arange(len(probs)), drawn.action]),
    }
    return read(columns, Schema({name: name for name in columns}, num_actions=mdp.num_actions, gamma=gamma))
