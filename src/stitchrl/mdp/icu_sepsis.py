"""The ICU-Sepsis world (Choudhary et al. 2024, MIT licence), its clinicians, and the hospital log drawn from it.

716 states and 25 actions (5 doses of fluids x 5 of vasopressors), estimated by its authors from MIMIC-III.
An episode is an ICU stay; it ends in survival (reward 1 by default) or death (0). gamma is 1 throughout.
The package ships the world and a log of 20,000 stays; `scripts/build_icu_log.py` makes the log again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.finite import FiniteEpisodes, FiniteMDP
from stitchrl.types import NumpyArray

__all__ = [
    "ExactValues",
    "ICUSepsis",
    "compact_table",
    "demo_log",
    "draw_log",
    "icu_sepsis",
    "log_table",
]

FOLDER = Path(__file__).parent / "icu_data"
DEATH, SURVIVAL, ABSORBING = 713, 714, 715
NUM_STAYS = 20_000


class ICUSepsis(NamedTuple):
    """The world, its clinicians and its features; S = 716 states (713 of them live), A = 25 actions.

    Attributes:
        mdp: transition, reward (1 on survival), initial distribution, terminal states.
        clinicians: (S, A) the clinicians' policy; zero in the terminal states.
        features: (S, 47) float32 standardised patient features of each state.
        sofa: (S,) severity score.
    """

    mdp: FiniteMDP
    clinicians: Float[NumpyArray, "S A"]
    features: Float[NumpyArray, "S D"]
    sofa: Float[NumpyArray, " S"]

    @property
    def mask(self) -> Bool[NumpyArray, "S A"]:
        """(S, A) actions the clinicians ever take: the ones a policy may choose."""
        return self.clinicians > 0


@cache
def icu_sepsis() -> ICUSepsis:
    """The shipped world."""
    with np.load(FOLDER / "icu_sepsis.npz") as arrays:
        transition, initial = arrays["transition"], arrays["initial"]
        clinicians, features, sofa = arrays["clinicians"], arrays["features"], arrays["sofa"]
    terminal = np.zeros(len(initial), bool)
    terminal[[DEATH, SURVIVAL, ABSORBING]] = True
    # Every live state pays 1 on the way to survival; a broadcast view keeps it small.
    reward = np.broadcast_to((np.arange(len(initial)) == SURVIVAL).astype(float), transition.shape)
    return ICUSepsis(FiniteMDP(transition, reward, initial, terminal), clinicians, features, sofa)


def draw_log(stays: int = NUM_STAYS, *, seed: int = 0) -> FiniteEpisodes:
    """Stays under the clinicians' own policy; each runs until survival or death."""
    world = icu_sepsis()
    return world.mdp.draw(world.clinicians, stays, seed=seed)


def compact_table(episodes: FiniteEpisodes) -> pa.Table:
    """The log as it is shipped, with only the columns that differ from row to row; reading adds features and probabilities."""
    return pa.table(
        {
            "episode": pa.array(episodes.episode, pa.int32()),
            "step": pa.array(episodes.step, pa.int16()),
            "observation_id": pa.array(episodes.state, pa.int16()),
            "action": pa.array(episodes.action, pa.int8()),
            "survived": pa.array(episodes.next_state == SURVIVAL, pa.bool_()),
            "terminated": pa.array(episodes.terminated, pa.bool_()),
            "truncated": pa.array(episodes.truncated, pa.bool_()),
        }
    )


SCHEMA = Schema.infer(
    [
        "episode",
        "step",
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "behavior_log_prob",
        "behavior_probs",
        "action_mask",
        "observation_id",
    ],
    num_actions=25,
    gamma=1.0,
    name="hospital stays (ICU-Sepsis)",
)


def demo_log(
    table: pa.Table | None = None,
    *,
    survival_reward: float = 1.0,
    death_reward: float = 0.0,
    propensities: bool = True,
) -> Dataset:
    """The embedded hospital log: 20,000 simulated ICU stays, 185,235 treatment decisions.

    Args:
        table: another draw, as `compact_table` gives it; by default the shipped one.
        survival_reward: reward of the last step of a stay that ends in survival.
        death_reward: reward of the last step of a stay that ends in death.
        propensities: False drops the clinicians' probabilities (not the mask), as most real logs lack them.
    """
    table = pq.read_table(FOLDER / "stays.parquet") if table is None else table
    columns = {name: table[name].to_numpy() for name in table.column_names}
    world = icu_sepsis()
    state, action = columns["observation_id"].astype(np.int32), columns["action"].astype(np.int32)
    survived, terminated = columns["survived"], columns["terminated"]
    start = np.concatenate([np.flatnonzero(columns["step"] == 0), [len(state)]]).astype(np.int64)
    following = np.append(state[1:], 0).astype(np.int32)
    following[start[1:] - 1] = NO_OBSERVATION
    probs = world.clinicians[state].astype(np.float32)
    names = SCHEMA.columns if propensities else [c for c in SCHEMA.columns if not c.startswith("behavior")]
    return Dataset(
        observation_table=world.features[:DEATH].astype(np.float32),
        observation_index=state,
        next_observation_index=following,
        action=action,
        reward=np.where(terminated, np.where(survived, survival_reward, death_reward), 0.0).astype(np.float32),
        terminated=terminated,
        truncated=columns["truncated"],
        step=columns["step"].astype(np.int64),
        episode_start=start,
        episode_id=columns["episode"][start[:-1]],
        schema=Schema({c: c for c in names}, SCHEMA.num_actions, SCHEMA.gamma, SCHEMA.name),
        behavior_log_prob=np.log(probs[np.arange(len(state)), action]) if propensities else None,
        behavior_probs=probs if propensities else None,
        action_mask=world.mask[state],
        observation_id=state,
    )


class ExactValues:
    """The truth about policies in this world, at gamma 1 and with the clinicians' actions as the mask.

    With a horizon it is survival within that many steps: the reward is given where a stay ends in survival.
    """

    name = "exact values from the known ICU-Sepsis MDP (linear solve, gamma 1)"

    def behavior(self, horizon: int | None = None) -> float:
        """Exact value of the clinicians' own policy: 0.7818 survival, less within a horizon."""
        world = icu_sepsis()
        return world.mdp.policy_value(world.clinicians, horizon=horizon)

    def table(self, policy: Any) -> Float[NumpyArray, "S A"]:
        """(S, A) probabilities of a policy as it acts, mask included."""
        world = icu_sepsis()
        probs = np.zeros(world.clinicians.shape)
        obs, mask = world.features[:DEATH].astype(np.float32), world.mask[:DEATH]
        live = np.asarray(policy.probs(obs, action_mask=mask), np.float64)
        probs[:DEATH] = live / live.sum(1, keepdims=True)
        return probs

    def value(self, policy: Any, horizon: int | None = None) -> float:
        """Exact survival under a policy, within `horizon` steps where given."""
        return icu_sepsis().mdp.policy_value(self.table(policy), horizon=horizon)


def log_table(log: Dataset) -> pa.Table:
    """A discrete log as an ordinary wide table, columns named by their roles, list columns for vectors."""
    plain = {
        "episode": np.repeat(log.episode_id, log.episode_lengths),
        "step": log.step,
        "action": log.action,
        "reward": log.reward,
        "terminated": log.terminated,
        "truncated": log.truncated,
        "behavior_log_prob": log.behavior_log_prob,
        "observation_id": log.observation_id,
    }
    vectors = {
        "observation": log.observation,
        "behavior_probs": log.behavior_probs,
        "action_mask": log.action_mask,
    }
    columns = {name: pa.array(values) for name, values in plain.items() if values is not None}
    for name, values in vectors.items():
        if values is not None:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table(columns)
