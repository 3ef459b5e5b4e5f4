"""No check of what a policy does raises on a small log: it finds, finds nothing, or says why it cannot look."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hand_policies import Numbers, NumbersValue, TableValue, two_states
from worlds import bandit_log, continuous_bandit_log, random_continuous_log, random_log, tiny_log

from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.checks import attention, divergence, extrapolation, uncertainty
from stitchrl.diagnosis.subject import Member, NotLookedAtError, Shared, Subject
from stitchrl.nn.policy import DiscretePolicy

CHECKS = (
    divergence.takes_forbidden_actions,
    divergence.far_from_behavior,
    divergence.actions_without_support,
    extrapolation.claims_without_support,
    uncertainty.critics_disagree,
    attention.repeats_last_action,
    attention.follows_one_column,
)
NUMBERS = (
    divergence.divergence_numbers,
    extrapolation.extrapolation_numbers,
    uncertainty.uncertainty_numbers,
    attention.attention_numbers,
    attention.departure_numbers,
)
DISCRETE: dict[str, Callable[[], Dataset]] = {
    "tiny": tiny_log,
    "masks": lambda: random_log(20),
    "one row": lambda: random_log(1),
    "one episode": lambda: random_log(5).select_episodes([4]),
    "decisions": lambda: bandit_log(30),
    "two episodes": lambda: two_states(2, propensities=False),
}
CONTINUOUS: dict[str, Callable[[], Dataset]] = {
    "decisions": lambda: continuous_bandit_log(20),
    "episodes": lambda: random_continuous_log(20),
    "one row": lambda: random_continuous_log(1),
    "one episode": lambda: random_continuous_log(5).select_episodes([4]),
}


class Evenly:
    """Every allowed action alike; it serves as the behaviour as well."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def probs(self, obs: Any, *, action_mask: Any = None) -> np.ndarray:
        allowed = np.ones((len(obs), self.actions)) if action_mask is None else action_mask.astype(float)
        return allowed / allowed.sum(1, keepdims=True)


def looked_at(subject: Subject) -> list[str]:
    """The harmful findings; all numbers must be writable."""
    found, unseen = [], []
    for check in CHECKS:
        try:
            found += [finding.code for finding in check(subject) if finding.severity != "info"]
        except NotLookedAtError as why:
            unseen.append(str(why))
    for numbers in NUMBERS:
        try:
            json.dumps(numbers(subject), allow_nan=False)
        except NotLookedAtError:
            continue
    assert all(why[0].isalnum() and why.endswith(".") for why in unseen)
    return found


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_actions(name: str) -> None:
    log = DISCRETE[name]()
    shared = Shared(log)
    shared.__dict__["behavior_model"] = Evenly(log.num_actions or 0)
    table = jnp.ones((50, log.num_actions or 0))
    assert looked_at(Subject(Member("seed 0", Evenly(log.num_actions or 0), TableValue(table, table)), shared)) == []


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_actions(name: str) -> None:
    """Nothing is fitted where the policy has no density."""
    log = CONTINUOUS[name]()
    rng = np.random.default_rng(0)
    drawn = log.action[rng.permutation(log.num_transitions)]
    subject = Subject(Member("seed 0", Numbers(lambda obs: drawn), NumbersValue(0.1)), Shared(log))
    assert looked_at(subject) == []
    assert not subject.shared.has_behavior_model


def test_a_log_whose_behaviour_cannot_be_fitted_is_said() -> None:
    subject = Subject(Member("seed 0", Evenly(4)), Shared(two_states(2, propensities=False)))
    with pytest.raises(NotLookedAtError, match="cannot be split"):
        list(divergence.far_from_behavior(subject))


def test_policies_of_jax_are_asked_as_well() -> None:
    class Uniform(DiscretePolicy):
        def logits(self, obs: Any, *, action_mask: Any = None) -> Any:
            return jnp.zeros((len(obs), 2))

    subject = Subject(Member("seed 0", Uniform()), Shared(bandit_log(30)))
    subject.shared.__dict__["behavior_model"] = Evenly(2)
    assert looked_at(subject) == []
