"""The spread of the weights that a run keeps for its report, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import by_hand

from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import Weights
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.weight_profile import MOST_STEPS, weight_profile


def weights_of(now: np.ndarray) -> Weights:
    return Weights(now, np.ones_like(now), 0.0, np.zeros(now.shape[1]))


def test_effective_units_and_shares_by_hand() -> None:
    # After the first step four equal weights; after the second 6, 3, 1, 0: effective 10^2 / (36 + 9 + 1).
    profile = weight_profile(weights_of(np.array([[1.0, 6.0], [1.0, 3.0], [1.0, 1.0], [1.0, 0.0]])), Units(4))
    assert profile is not None
    assert profile.steps == (1, 2)
    assert profile.effective == pytest.approx((4.0, 100 / 46))
    assert profile.shares == pytest.approx((0.6, 0.3, 0.1, 0.0))
    assert (profile.half, profile.none, profile.count, profile.noun) == (1, 1, 4, "episode")


def test_groups_are_the_units() -> None:
    profile = weight_profile(weights_of(np.array([[6.0], [3.0], [1.0]])), Units(3, np.array(["a", "b", "b"])))
    assert profile is not None
    assert profile.shares == pytest.approx((0.6, 0.4))
    assert profile.effective == pytest.approx((100 / 52,))
    assert profile.noun == "group"


def test_the_last_step_of_long_episodes_is_listed() -> None:
    profile = weight_profile(weights_of(np.ones((3, 1000))), Units(3))
    assert profile is not None
    assert len(profile.steps) == MOST_STEPS
    assert (profile.steps[0], profile.steps[-1]) == (1, 1000)


def test_weights_that_are_all_zero_have_no_profile() -> None:
    assert weight_profile(weights_of(np.zeros((3, 2))), Units(3)) is None
    assert weight_profile(by_hand()[1], Units(len(by_hand()[1].now))) is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tail": 1.5, "distribution": True}, r"must be in \(0, 1\)"),
        ({"tail": 0.05}, "which was not asked for; got 0.05"),
    ],
)
def test_a_share_of_worst_episodes_is_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        PipelineSettings(**settings)
    assert PipelineSettings(distribution=True, tail=0.05).tail == 0.05
