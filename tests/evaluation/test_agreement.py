"""How a policy's decisions differ from the logged ones."""

from __future__ import annotations

import numpy as np
import pytest

import stitchrl as st
from stitchrl.evaluation.agreement import MOST_ACTIONS, agreement


def test_of_many_actions_the_commonest_pairs_are_counted() -> None:
    """By hand: 100 actions, of which 2 are logged and 3 are the policy's; the rest together are nothing."""
    log = st.read(
        {
            "episode": np.arange(4),
            "observation": np.zeros((4, 1)),
            "action": np.array([90, 90, 5, 5]),
            "reward": np.zeros(4),
            "terminated": np.ones(4, bool),
        },
        st.Schema.infer(["episode", "observation", "action", "reward", "terminated"], num_actions=100),
    )
    probs = np.zeros((4, 100), np.float32)
    probs[:2, 90], probs[:2, 7], probs[2:, 99] = 0.75, 0.25, 1.0
    found = agreement(log, probs, np.zeros(4), None)
    assert found.matrix.shape == (MOST_ACTIONS + 1, MOST_ACTIONS + 1)
    assert found.matrix.sum() == pytest.approx(1.0)
    place = {int(a): k for k, a in enumerate(found.actions)}
    assert {5, 7, 90, 99} <= set(place)
    assert found.matrix[place[90], place[90]] == pytest.approx(0.375)
    assert found.matrix[place[90], place[7]] == pytest.approx(0.125)
    assert found.matrix[place[5], place[99]] == pytest.approx(0.5)
    # Spread over more actions than are shown, what is not shown is in the last column.
    spread = agreement(log, np.full((4, 100), 0.01, np.float32), np.zeros(4), None)
    assert spread.matrix[:, -1].sum() == pytest.approx((100 - MOST_ACTIONS) / 100)
