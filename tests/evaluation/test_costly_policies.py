"""How often a policy that computes long is asked for actions when it is evaluated."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from stitchrl.evaluation import policy_actions
from stitchrl.evaluation.policy_actions import COSTLY_DRAWS, DRAWS, MANY_PASSES, drawn_actions


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
