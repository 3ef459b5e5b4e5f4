"""A policy with memory on a log: the probability of every logged action given the history of its own episode.

Importance sampling weighs an episode by the product of pi(a_t | history_t) / b(a_t | s_t). The policy's probabilities are
exact, for the history is the logged one, and it is known; given logged propensities, the estimates have the properties that
they have for any policy (Precup, Sutton and Singh 2000, section 3, holds for any policy of histories). Where the behaviour is
fitted from single observations, it does not describe a logging policy that itself remembered. What fits a value of
observations, or weighs by ratios of visits to them, takes the policy to be a function of the observation and is refused.
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
"""Episodes are followed side by side, so many that their steps, padded to one length, come to about this."""


@dataclasses.dataclass(frozen=True)
class RememberingPolicy(LoggedPolicy):
    """A policy with memory as estimates ask it: by the logged actions of whole episodes, and nowhere else.

    Attributes:
        policy: on raw observations and rewards, in logged units of action.
    """

    policy: MemoryPolicy

    @property
    def schema(self) -> Any:
        """That of the log that the policy learned from."""
        return self.policy.schema

    @property
    def guard(self) -> Any:
        """The range of the observations in that log."""
        return self.policy.guard

    def knows_every_action(self, log: Dataset) -> bool:
        """False: it is a function of histories, and estimators that ask for more than logged actions take it to be one of
        observations."""
        return False

    def refusal(self, name: str, log: Dataset, remain: str) -> str:
        """Why an estimator that asks for more does not apply."""
        return (
            f"{name} takes the policy to be a function of the observation, and {REMEMBERS}. "
            f"{remain} weigh whole logged histories and apply."
        )

    def probs_on(self, log: Dataset, rows: slice = slice(None)) -> Float[NumpyArray, "n A"]:
        """Refuses: see `knows_every_action`."""
        raise EvaluationError(self.refusal("This", log, "is, pdis, wis and pdwis"))

    def log_prob_on(self, log: Dataset) -> Float[NumpyArray, " N"]:
        """(N,) float64 log-probability, or log-density, of each logged action, given what came before it in its episode.

        Raises:
            EvaluationError: rows are missing inside an episode, or there is no density.
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
    """Raise EvaluationError where what a policy with memory would have remembered in a log is not known, or has no density."""
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
