"""How often a policy that computes long is asked for actions when it is evaluated."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from stitchrl.evaluation import policy_actions
from stitchrl.evaluation.policy_actions import COSTLY_DRAWS, DRAWS, MANY_PASSES, drawn_actions
from stitchrl.nn.continuous_policy import ContinuousPolicy

TRACED: list[tuple[int, ...]] = []


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
    """A normal about a mean; `TRACED` holds the shape of the mean each time that it is traced."""

    spread: float = eqx.field(static=True)

    def mode(self, obs: Any, *, action_mask: Any = None) -> Any:
        mean = jax.numpy.tanh(obs[:, :1])
        TRACED.append(mean.shape)
        return mean

    def sample(self, obs: Any, *, key: Any, action_mask: Any = None) -> Any:
        mean = self.mode(obs)
        return mean + self.spread * jax.random.normal(key, mean.shape)

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("spread", "draws"), [(0.3, DRAWS), (0.0, 1)])
def test_draws_in_one_call_are_those_of_one_call_each(spread: float, draws: int) -> None:
    policy, obs = Drifting(spread), np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    TRACED.clear()
    found = drawn_actions(policy, obs, 1, seed=3)
    assert TRACED == [(20, 1)]  # once for all draws, and without an axis for them
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), DRAWS)
    np.testing.assert_allclose(found, np.stack([policy.sample(obs, key=key) for key in keys[:draws]], 1), rtol=1e-5)
