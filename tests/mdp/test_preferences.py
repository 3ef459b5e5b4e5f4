"""Preferences of an exact world: who wins how often, where pairs start, and what endless pairs weigh."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.data.preferences import Preferences
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.preferences import draw_preferences, every_preference
from stitchrl.mdp.stitching import STATES, stitching_world

WORLD = stitching_world()
UNIFORM = np.full((9, 2), 0.5)


def first_states(pairs: Preferences) -> tuple[np.ndarray, np.ndarray]:
    """The state in which each side of each pair starts."""
    state = pairs.segments.observation.argmax(1)[pairs.segments.episode_start[:-1]]
    return state[pairs.preferred], state[pairs.rejected]


def test_both_sides_start_in_one_state_and_are_as_long_as_asked() -> None:
    for length, longest in ((1, 1), (2, 2), (None, 3)):
        pairs = draw_preferences(WORLD, UNIFORM, 200, seed=1, length=length)
        one, other = first_states(pairs)
        np.testing.assert_array_equal(one, other)
        assert (pairs.num_pairs, pairs.longest) == (200, longest)
        # Whole episodes start where the world starts, parts of them in every state that is visited and goes on.
        assert {STATES[s] for s in one} == ({"s1"} if length is None else {"s1", "s2", "s3", "s5", "s6"})
    assert pairs.content_hash == draw_preferences(WORLD, UNIFORM, 200, seed=1, length=None).content_hash
    assert pairs.content_hash != draw_preferences(WORLD, UNIFORM, 200, seed=2, length=None).content_hash


def test_the_judge_prefers_as_often_as_the_model_says() -> None:
    # Whole episodes pay 3, 7 or 10. At an inverse temperature of 0.2 the judge errs often enough to be counted.
    pairs = draw_preferences(WORLD, UNIFORM, 4000, seed=0, length=None, inverse_temperature=0.2)
    returns = pairs.segments.episode_returns()
    won, lost = returns[pairs.preferred], returns[pairs.rejected]
    for high, low in ((10.0, 7.0), (10.0, 3.0), (7.0, 3.0)):
        right, wrong = int(((won == high) & (lost == low)).sum()), int(((won == low) & (lost == high)).sum())
        share = 1 / (1 + np.exp(-0.2 * (high - low)))
        assert abs(right / (right + wrong) - share) < 4 * np.sqrt(share * (1 - share) / (right + wrong))


def test_the_judge_goes_by_values_where_they_are_given_and_by_the_discount() -> None:
    values = np.zeros((9, 2))
    values[:, 1] = 100.0
    pairs = draw_preferences(WORLD, UNIFORM, 300, seed=0, values=values)
    action = pairs.segments.action[pairs.segments.episode_start[:-1]]
    won, lost = action[pairs.preferred], action[pairs.rejected]
    assert (won >= lost).all()
    assert (won > lost).any()
    later = draw_preferences(WORLD, UNIFORM, 300, seed=0, length=None, gamma=0.0, inverse_temperature=100.0)
    returns = later.segments.episode_returns()
    assert (returns[later.preferred] < returns[later.rejected]).any()  # no first step pays, so that all look alike


def test_the_policy_is_logged_and_rewards_are_kept() -> None:
    probs = np.tile([0.2, 0.8], (9, 1))
    log = draw_preferences(WORLD, probs, 50, seed=0, length=None).segments
    assert log.behavior_log_prob is not None
    np.testing.assert_allclose(log.behavior_log_prob, np.log(probs[0])[log.action], rtol=1e-6)
    assert set(log.episode_returns()) <= {3.0, 7.0, 10.0}
    assert log.terminated.sum() == 100


def test_endless_pairs_are_every_pair_with_its_weight() -> None:
    rng = np.random.default_rng(0)
    probs, values = rng.dirichlet(np.ones(2), size=9), rng.normal(size=(9, 2))
    pairs = every_preference(WORLD, probs, values, inverse_temperature=2.0)
    assert (pairs.num_pairs, pairs.segments.num_episodes) == (12, 12)  # six states that go on, both ways round
    action = pairs.segments.action
    one, other = first_states(pairs)
    np.testing.assert_array_equal(one, other)
    up, down = action[pairs.preferred], action[pairs.rejected]
    share = 1 / (1 + np.exp(-2.0 * (values[one, up] - values[one, down])))
    np.testing.assert_allclose(pairs.weight, probs[one, up] * probs[one, down] * share, rtol=1e-12)


def test_numbers_outside_their_range_are_refused() -> None:
    for changed in ({"pairs": 0}, {"length": 0}, {"gamma": 1.5}):
        settings = {"pairs": 10, "seed": 0} | changed
        with pytest.raises(ConfigurationError, match="`pairs` and `length` of draw_preferences must be at least 1"):
            draw_preferences(WORLD, UNIFORM, **settings)
    for wrong in (-1.0, np.inf, np.nan):  # of a tie, a judge who is infinitely sure could say nothing
        with pytest.raises(ConfigurationError, match="of a judge must be finite and at least 0"):
            draw_preferences(WORLD, UNIFORM, 10, seed=0, inverse_temperature=wrong)
        with pytest.raises(ConfigurationError, match="of a judge must be finite and at least 0"):
            every_preference(WORLD, UNIFORM, UNIFORM, inverse_temperature=wrong)
    with pytest.raises(ConfigurationError, match="one finite number for each of the 9 states and 2 actions"):
        draw_preferences(WORLD, UNIFORM, 10, seed=0, values=np.full((9, 2), np.nan))


def test_actions_that_are_never_taken_are_in_no_pair() -> None:
    probs = UNIFORM.copy()
    probs[0] = [1.0, 0.0]  # s1: one action alone, which is compared with nothing
    pairs = every_preference(WORLD, probs, UNIFORM)
    assert (pairs.num_pairs, pairs.segments.num_episodes) == (10, 11)
    assert {STATES[s] for s in first_states(pairs)[0]} == {"s2", "s3", "s4", "s5", "s6"}
