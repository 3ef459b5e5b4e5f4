"""The probe of the main job: it measures the values and the policy of a state on fixed rows, seen and held-out ones.

On rows that are learned from (`probe/...`):

    q_logged, q_policy        mean claimed Q of the logged actions, and of those that the policy takes
    q_gap                     mean of Q(s, pi(s)) - Q(s, a), a logged
    q_highest, q_lowest       the most extreme claimed Q, of logged and of the policy's actions
    q_states                  standard deviation of Q(s, a) over the rows
    spread_logged, spread_policy   mean standard deviation over critics, at the same actions
    dead_units                largest share of dead units in the last hidden layer of a network

On both kinds of rows (`probe/...` and `held_out/...`):

    td_error                  root mean square of r + gamma (1 - terminated) V(s') - Q(s, a)
    log_prob                  mean log-probability, or log-density, of the logged action under the policy

Where preferences are held out, `held_out/` has the metrics of `diagnosis/preference_probe.py` instead.

All in the units of training: scaled observations, actions and rewards. What an algorithm does not have is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.dead_units import dead_share
from stitchrl.diagnosis.preference_probe import HELD_OUT, held_out_pairs, measure_pairs
from stitchrl.diagnosis.probed_rows import probed_rows
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Metrics
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.training.probe import Measure
from stitchrl.types import NumpyArray, PyTree

__all__ = ["HELD_OUT", "SEEN", "Probe"]

SEEN = "probe"
"""Prefix of metrics on rows that are learned from; those on rows that are not have `HELD_OUT`."""
LEAST_LOG_PROB = -20.0
"""Lower log-probabilities count as this one: an action that a greedy policy never takes has minus infinity."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Measures a run on fixed rows.

    Args:
        held_out: a log that the run does not learn from, such as the validation part, or preferences where it learns from these;
            None measures on seen rows alone.
        rows: how many rows of each kind it measures, at least 1; of preferences, how many pairs.

    Raises:
        ConfigurationError: `rows` below 1.
    """

    held_out: Dataset | Preferences | None = None
    rows: int = 256

    def __post_init__(self) -> None:
        if self.held_out is not None and not isinstance(self.held_out, Dataset | Preferences):
            raise ConfigurationError(
                f"`held_out` of a probe must be a log, as `st.read` or `log.split` gives it, or preferences; got "
                f"{self.held_out!r:.60}."
            )
        if self.rows < 1:
            raise ConfigurationError(f"`rows` of a probe must be at least 1; got {self.rows}. 256 suit most logs.")

    def arrays(self, log: Dataset, scaling: Scaling) -> dict[str, dict[str, NumpyArray]]:
        """The rows, as batches. Raises ConfigurationError where the held-out log has other actions or observations."""
        found = {SEEN: probed_rows(log, scaling, self.rows)}
        if self.held_out is None:
            return found
        if isinstance(self.held_out, Preferences):
            self._check_alike(log, self.held_out.segments)
            return found | {HELD_OUT: held_out_pairs(self.held_out, scaling, self.rows)}
        self._check_alike(log, self.held_out)
        return found | {HELD_OUT: probed_rows(self.held_out, scaling, self.rows)}

    def _check_alike(self, log: Dataset, other: Dataset) -> None:
        if (other.num_actions, other.observation_shape) != (log.num_actions, log.observation_shape):
            raise ConfigurationError(
                "The held-out log of a probe must have the observations and actions of the log that is learned from: shape "
                f"{log.observation_shape} and {_actions(log)}; got {other.observation_shape} and {_actions(other)}."
            )

    @property
    def measure(self) -> Measure:
        """The function that measures, the same for every probe of this kind."""
        return measure_preferences if isinstance(self.held_out, Preferences) else measure


def measure_preferences(algorithm: Algorithm, state: PyTree, given: PyTree, arrays: Mapping[str, Batch]) -> Metrics:
    """The metrics named above on the decisions that are learned from, and those of the pairs that are held out."""
    seen = measure(algorithm, state, given, {SEEN: arrays[SEEN]})
    return seen | measure_pairs(algorithm, state, given, arrays[HELD_OUT])


def measure(algorithm: Algorithm, state: PyTree, given: PyTree, arrays: Mapping[str, Batch]) -> Metrics:
    """The metrics named above."""
    policy, value = algorithm.policy(state, given), algorithm.value(state, given)
    metrics: Metrics = {}
    for part, batch in arrays.items():
        if not isinstance(policy, MemoryPolicy):
            metrics |= _named(part, _likelihood(policy, batch))
        if value is not None:
            metrics |= _named(part, _td_error(algorithm, value, batch))
    batch = arrays[SEEN]
    if value is not None:
        metrics |= _named(SEEN, _values(value, None if isinstance(policy, MemoryPolicy) else policy, batch))
    dead = dead_share((policy, value), batch)
    return metrics | ({} if dead is None else {f"{SEEN}/dead_units": dead})


def _named(part: str, metrics: Mapping[str, Array]) -> Metrics:
    return {f"{part}/{name}": metric for name, metric in metrics.items()}


def _likelihood(policy: Any, batch: Batch) -> Metrics:
    """How probable the logged actions are under the policy; empty where it has no density, or always takes one action."""
    if not policy.has_density or not getattr(policy, "leaves_chance", True):
        return {}
    found = policy.log_prob(batch["obs"], batch["action"], action_mask=batch.get("action_mask"))
    return {"log_prob": jnp.mean(jnp.maximum(found, LEAST_LOG_PROB))}


def _td_error(algorithm: Algorithm, value: DiscreteValue | ContinuousValue, batch: Batch) -> Metrics:
    """How far the claimed values are from one step of reward and the claimed value of what followed."""
    if not hasattr(algorithm, "gamma"):
        return {}
    reward, discount = algorithm.td_return(batch)
    after = value.v(batch["next_obs"], action_mask=batch.get("next_action_mask"))
    error = reward + discount * after - value.q(batch["obs"], batch["action"])
    counted = batch["td_weight"]
    return {"td_error": jnp.sqrt(jnp.sum(counted * error**2) / jnp.maximum(jnp.sum(counted), 1.0))}


def _values(value: DiscreteValue | ContinuousValue, policy: Any, batch: Batch) -> Metrics:
    """Claimed values of logged actions and, where the policy acts without memory, of those that it takes."""
    obs, mask = batch["obs"], batch.get("action_mask")
    logged = value.q(obs, batch["action"])
    found = {"q_logged": jnp.mean(logged), "q_states": jnp.std(logged)} | _spread("logged", value, obs, batch["action"])
    if policy is None:
        return found | {"q_highest": jnp.max(logged), "q_lowest": jnp.min(logged)}
    action = policy.mode(obs, action_mask=mask)
    taken = value.q(obs, action)
    both = jnp.concatenate([logged, taken])
    return (
        found
        | {"q_policy": jnp.mean(taken), "q_gap": jnp.mean(taken - logged)}
        | {"q_highest": jnp.max(both), "q_lowest": jnp.min(both)}
        | _spread("policy", value, obs, action)
    )


def _spread(of: str, value: DiscreteValue | ContinuousValue, obs: Array, action: Array) -> Metrics:
    """How far critics disagree about actions; empty where there are no several critics."""
    try:
        spread: Float[Array, " B"] = value.spread(obs, action)
    except TypeError:
        return {}
    return {f"spread_{of}": jnp.mean(spread)}


def _actions(log: Dataset) -> str:
    return "continuous actions" if log.num_actions is None else f"{log.num_actions} actions"
