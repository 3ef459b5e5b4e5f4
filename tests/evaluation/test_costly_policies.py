"""How often a policy that computes long is asked for actions when it is evaluated."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from stitchrl.evaluation import policy_actions
from stitchrl.evaluation.policy_actions import COSTLY_DRAWS, DRAWS, MANY_PASSES, drawn_actions
from stitchrl.nn.continuous_ladder import continuous_rung
from stitchrl.nn.continuous_policy import ContinuousPolicy, MixturePolicy
from stitchrl.nn.networks import MLP
from stitchrl.nn.units import RescaledPolicy

RUN: list[int] = []


class Counting:
    """A policy that draws from a standard normal, or always acts alike, and counts the rows it was asked about."""

    def __init__(self, passes: int, scale: float = 1.0) -> None:
        self.passes_per_action, self.scale, self.asked = passes, scale, 0

    def sample(self, obs: np.ndarray, *, key: jax.Array) -> np.ndarray:
        self.asked += len(obs)
        return self.scale * np.asarray(jax.random.normal(key, (len(obs), 1)))


@pytest.mark.parametrize(
    ("passes", "scale", "draws", "asked"),
    [
        (MANY_PASSES, 1.0, DRAWS, DRAWS),
        (MANY_PASSES + 1, 1.0, COSTLY_DRAWS, COSTLY_DRAWS),
        (MANY_PASSES + 1, 0.0, 1, 2),  # a second draw tells that there is no chance
    ],
)
def test_a_costly_policy_is_asked_for_few_draws(passes: int, scale: float, draws: int, asked: int) -> None:
    policy = Counting(passes, scale)
    assert drawn_actions(policy, np.zeros((20, 3), np.float32), 1, seed=0).shape == (20, draws, 1)
    assert policy.asked == 20 * asked


def test_no_draw_is_made_twice_to_find_that_there_is_none_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_actions, "COSTLY_ROWS_AT_ONCE", 8)
    policy = Counting(MANY_PASSES + 1, 0.0)
    assert not drawn_actions(policy, np.zeros((24, 3), np.float32), 1, seed=0).any()
    assert policy.asked == 8 * 2 + 8 + 8


class Drifting(ContinuousPolicy):
    """A normal about a mean; `RUN` counts how often the mean is computed."""

    spread: float = eqx.field(static=True)
    shared: bool = eqx.field(static=True)

    @property
    def draws_share_networks(self) -> bool:
        return self.shared

    def mode(self, obs: Any, *, action_mask: Any = None) -> Any:
        def mean(obs: np.ndarray) -> np.ndarray:
            RUN.append(len(obs))
            return np.tanh(obs[:, :1])

        shape = jax.ShapeDtypeStruct((len(obs), 1), np.float32)
        return jax.pure_callback(
            mean, shape, obs, vmap_method="sequential"
        )  # once for each key where it depends on one

    def sample(self, obs: Any, *, key: Any, action_mask: Any = None) -> Any:
        mean = self.mode(obs)
        return mean + self.spread * jax.random.normal(key, mean.shape)

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("spread", "shared", "draws", "times"),
    [(0.3, True, DRAWS, 1), (0.0, True, 1, 1), (0.3, False, DRAWS, DRAWS), (0.0, False, 1, 2)],
)
def test_draws_that_share_networks_run_them_once(spread: float, shared: bool, draws: int, times: int) -> None:
    policy, obs = Drifting(spread, shared), np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    RUN.clear()
    found = drawn_actions(policy, obs, 1, seed=3)
    assert len(RUN) == times
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), DRAWS)
    np.testing.assert_allclose(found, np.stack([policy.sample(obs, key=key) for key in keys[:draws]], 1), atol=1e-6)


def test_the_draws_of_a_rung_share_networks_however_costly_its_policy_is() -> None:
    aim = Drifting(0.3, False)
    law = MixturePolicy(MLP.create(1, (4,), 3, key=jax.random.key(0)), jax.numpy.float32(0.0), 1, "plain", 0.0)
    one = jax.numpy.ones(1)
    behavior = RescaledPolicy(0 * one, one, 0 * one, one, law)
    RUN.clear()
    found = drawn_actions(continuous_rung(aim, behavior, 0.5, 1.0), np.zeros((20, 1), np.float32), 1, seed=0)
    assert found.shape == (20, DRAWS, 1)
    assert len(RUN) == 1
