"""Actions that the log never tried: no GO, however few they are and however well everything else fits."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.reading.read import read

BEHAVIOR = np.array([0.5, 0.5, 0.0])
EPISODES = 600


class Everywhere:
    """The same probabilities in every state."""

    def __init__(self, row: np.ndarray) -> None:
        self.row = row.astype(np.float32)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.tile(self.row, (len(obs), 1))


def log_of(steps: int) -> Dataset:
    """Two actions, of which the second pays twice as often; a third, which is never taken, would be deadly."""
    rng = np.random.default_rng(0)
    action = rng.choice(3, p=BEHAVIOR, size=EPISODES * steps)
    episode, step = np.divmod(np.arange(EPISODES * steps), steps)
    columns = {
        "episode": episode,
        "step": step,
        "observation": np.stack([step / steps, rng.normal(size=len(step))], 1).astype(np.float32),
        "action": action,
        "reward": (rng.random(len(step)) < np.where(action == 1, 0.4, 0.2)).astype(float),
        "terminated": step == steps - 1,
        "behavior_probs": np.tile(BEHAVIOR, (len(step), 1)),
    }
    return read(columns, Schema.infer(list(columns), num_actions=3, gamma=1.0))


@pytest.mark.parametrize("share", [0.0, 0.005, 0.02])
def test_a_few_deadly_decisions_cost_the_go(share: float) -> None:
    """The policy dies in a share of its decisions, and then loses all that was to come: nothing in the log says so."""
    steps = 10
    policy = Everywhere(np.array([0.2 - share, 0.8, share]))
    found = evaluate(
        policy, log_of(steps), settings=FitSettings(updates=100, hidden_sizes=(16,)), estimators=("wdr", "fqe")
    )
    assert found.verdict.primary == "fqe"
    gain = found.gain["fqe"]
    if share == 0:
        assert found.verdict.decision == "GO"
        return
    assert found.verdict.decision == "CANNOT TELL"
    assert gain.lower is not None
    tried = next(check for check in gain.checks if check.key == "never-tried")
    assert tried.seen == pytest.approx(share * steps, rel=0.05)
    assert not tried.passed
    # The interval holds what would be if every episode with such a decision were lost from its first step on.
    survived = (1 - share) ** steps
    assert gain.lower < survived * 0.36 * steps - 0.3 * steps


def test_the_policy_that_is_the_behaviour_gains_nothing_by_rounding() -> None:
    found = evaluate(Everywhere(BEHAVIOR), log_of(4), estimators=("is", "wis"))
    for gain in found.gain.values():
        assert gain.lower is not None
        assert gain.upper is not None
        assert gain.lower < 0 < gain.upper
