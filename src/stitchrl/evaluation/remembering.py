"""A policy with memory on a log: the probability of every logged action given the history of its own episode.

Importance sampling weighs an episode by the product of pi(a_t | history_t) / b(a_t | s_t). The policy's probabilities are
exact, since the history is the logged one. With logged propensities, the estimates have the properties that they have for any
policy (Precup, Sutton and Singh 2000, section 3, holds for any policy of histories). A behaviour that is fitted to single
observations does not describe a logging policy that itself remembered. Estimators that fit a value of observations, or weigh by
ratios of visits to them, take the policy to be a function of the observation and refuse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.jax_types import Array
from stitchrl.nn.memory import REMEMBERS, MemoryPolicy
from stitchrl.types import NumpyArray

__all__ = ["RememberingPolicy", "check_followable"]

STEPS_AT_ONCE = 65_536
"""About how many steps, padded to one length, are computed at once; that many episodes are followed side by side."""


@dataclasses.dataclass(frozen=True)
class RememberingPolicy(LoggedPolicy):
    """A policy with memory as estimates ask it: by the logged actions of whole episodes, and nowhere else.

    Attributes:
        policy: the policy, which takes raw observations and rewards and acts in logged units.
    """

    policy: MemoryPolicy

    @property
    def schema(self) -> Any:
        """The schema of the log that the policy learned from."""
        return self.policy.schema

    @property
    def guard(self) -> Any:
        """The guard that holds the range of the observations in that log."""
        return self.policy.guard

    def knows_every_action(self, log: Dataset) -> bool:
        """False: the policy depends on histories, and estimators that need more than logged actions assume that it depends on the
        observation alone."""
        return False

    def refusal(self, name: str, log: Dataset, remain: str) -> str:
        """Why an estimator that asks for more does not apply."""
        return (
            f"{name} takes the policy to be a function of the observation, and {REMEMBERS}. "
            f"{remain} weigh whole logged histories and apply."
        )

    def probs_on(self, log: Dataset, rows: slice = slice(None)) -> Float[NumpyArray, "n A"]:
        """Raises EvaluationError; see `knows_every_action`."""
        raise EvaluationError(self.refusal("This", log, "is, pdis, wis and pdwis"))

    def log_prob_on(self, log: Dataset) -> Float[NumpyArray, " N"]:
        """(N,) float64 log-probability, or log-density, of each logged action, given what came before it in its episode.

        Raises:
            EvaluationError: rows are missing inside an episode, there is no density, or a log-probability is not a number.
        """
        check_followable(self.policy, log)
        found = np.zeros(log.num_transitions)
        lengths, start = log.episode_lengths, log.episode_start[:-1]
        order = np.argsort(lengths, kind="stable")
        while len(order):
            longest = _padded(int(lengths[order[-1]]))  # the longest episodes first, those of like lengths together
            count = max(1, STEPS_AT_ONCE // longest)
            part, order = order[-count:], order[:-count]
            at = start[part][:, None] + np.minimum(np.arange(longest), lengths[part][:, None] - 1)
            inside = np.arange(longest) < lengths[part][:, None]
            mask = None if log.action_mask is None else log.action_mask[at]
            obs = log.observation_table[log.observation_index[at]]
            reward = log.reward[at].astype(np.float32)
            found[at[inside]] = np.asarray(_along(self.policy, obs, log.action[at], reward, mask), np.float64)[inside]
        if np.isnan(found).any() or (found == np.inf).any():
            raise EvaluationError(
                f"The policy gives {int((~(found < np.inf)).sum()):,} logged actions no log-probability that "
                "is a number or minus infinity."
            )
        return found


def check_followable(policy: MemoryPolicy, log: Dataset) -> None:
    """Raise EvaluationError where a policy with memory has no density, or where rows are missing inside episodes of the log, so
    that it is not known what the policy would have remembered."""
    if not policy.has_density:
        raise EvaluationError(
            "The policy remembers its episode and its actions have no density, so that no estimator can weigh "
            "the logged actions or ask it at single observations. `st.rollout` plays it where there is an environment."
        )
    if log.num_gaps:
        raise EvaluationError(
            f"The policy remembers its episode, and in {log.num_gaps:,} places of this log rows are missing inside "
            "an episode: what it would have remembered is not known. Give it the episodes without such gaps."
        )


@eqx.filter_jit
def _along(policy: MemoryPolicy, obs: Any, action: Any, reward: Any, action_mask: Any) -> Array:
    return policy.log_probs_along(obs, action, reward, action_mask=action_mask)


def _padded(length: int) -> int:
    """The next power of two, so that few lengths compile."""
    return 1 << max(0, length - 1).bit_length()
