"""Health checks: each limit from both sides, and the return that logged rewards can add up to."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import Table, draw, long_episodes
from worlds import schema_of

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.attainable import attainable_range
from stitchrl.evaluation.balance_checks import check_balance
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimators.importance_sampling import importance_sampling, weighted
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.health import (
    check_lost_weight,
    check_mean_weight,
    check_range,
    check_spread,
    of_baseline,
    uses_episode_weights,
)
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import cumulative_weights
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read


def weights_worth(effective: int, episodes: int) -> np.ndarray:
    """Equal weights on so many episodes, 0 on the others."""
    return (np.arange(episodes) < effective).astype(float)


@pytest.mark.parametrize(
    ("effective", "episodes", "enough", "even"),
    [
        (50_000, 1_000_000, True, True),  # a share of 5%, and more than enough
        (5, 40, False, False),  # a share of 12.5%, and next to nothing
        (1000, 50_000, True, True),  # 1,000 are enough for any size
        (999, 50_000, False, True),
        (800, 8_000, True, True),  # 10% in between
        (799, 8_000, False, True),
        (100, 150, True, True),  # 100 are needed for any size
        (99, 150, False, True),
        (49, 60, False, False),  # 1/49 is above 2%
    ],
)
def test_enough_units_carry_the_estimate(effective: int, episodes: int, enough: bool, even: bool) -> None:
    units_check, share_check = check_spread(Units(episodes), weights_worth(effective, episodes))
    assert (units_check.passed, share_check.passed) == (enough, even)
    assert units_check.seen == pytest.approx(effective)
    assert share_check.seen == pytest.approx(1 / effective)


def test_units_are_groups_where_there_are_groups() -> None:
    """Four hundred episodes of 80 groups: as many as 80."""
    weight, group = np.ones(400), np.arange(400) // 5
    assert check_spread(Units(400), weight)[0].passed
    found, share = check_spread(Units(400, group), weight)
    assert not found.passed
    assert found.seen == pytest.approx(80)
    assert "80 of 80 groups is below 100" in found.sentence
    assert share.sentence == "No group has more than 1.2% of all weight, at most 2%."


def test_one_unit_with_too_much_weight() -> None:
    weight = np.ones(1000)
    weight[0] = 25.0
    enough, share = check_spread(Units(1000), weight)
    assert enough.passed
    assert not share.passed
    assert share.sentence == "One episode has 2.4% of all weight, above 2%."


@pytest.mark.parametrize(
    ("check", "passed"),
    [
        (check_mean_weight(np.full(3, 1.25)), True),
        (check_mean_weight(np.full(3, 1.3)), False),
        (check_mean_weight(np.full(3, 0.7)), False),
        (check_mean_weight(np.full(3, 0.5), np.log(2.0)), True),
        (check_mean_weight(np.full(3, 0.5), 5000.0), False),
        (check_balance(0.2), True),
        (check_balance(0.21), False),
        (check_lost_weight(0.01, longest=5, unknown=(-np.inf, np.inf)), True),
        (check_lost_weight(0.011, longest=5, unknown=(-np.inf, np.inf)), False),
        (check_range(1.0, (0.0, 1.0)), True),
        (check_range(1.0 + 1e-7, (0.0, 1.0)), True),
        (check_range(1.001, (0.0, 1.0)), False),
        (check_range(-0.001, (0.0, 1.0)), False),
    ],
)
def test_each_limit_from_both_sides(check, passed: bool) -> None:
    assert check.passed is passed
    assert check.sentence.endswith(".")
    assert np.isfinite([check.seen, check.limit]).all()
    (other,) = of_baseline([check])
    assert (other.key, other.passed) == (f"baseline-{check.key}", passed)
    assert other.sentence == f"For the baseline: {check.sentence}"
    assert uses_episode_weights([check]) is (check.key == "mean-weight")
    assert not uses_episode_weights([other])


def log_of(rewards: list[list[float]], terminated: list[bool]) -> Dataset:
    """Episodes by their rewards; those that did not terminate were cut."""
    lengths = [len(one) for one in rewards]
    last = np.cumsum(lengths) - 1
    ends = np.zeros(sum(lengths), bool)
    ends[last] = terminated
    columns = {
        "episode": np.repeat(np.arange(len(rewards)), lengths),
        "observation": np.zeros((sum(lengths), 1), np.float32),
        "action": np.zeros(sum(lengths), np.int32),
        "reward": np.concatenate(rewards).astype(np.float32),
        "terminated": ends,
        "truncated": np.isin(np.arange(sum(lengths)), last) & ~ends,
    }
    return read(columns, schema_of(columns, num_actions=2))


@pytest.mark.parametrize(
    ("rewards", "terminated", "estimand", "expected"),
    [
        # Nothing on the way, 0 or 1 at the end: no return is outside 0 to 1, however long.
        ([[0, 0, 1], [0, 0], [0, 0, 0, 1]], [True] * 3, Estimand(1.0), (0, 1)),
        # Up to 2 going-on steps of 1 and an end of 5: 1 + 1 + 5. The least: -2 twice and an end of 0.
        ([[1, -2, 5], [1, 0]], [True] * 2, Estimand(1.0), (-4, 7)),
        # The same with gamma .5: ending at once is best (5), going on for ever worst (-2 / (1 - .5)).
        ([[1, -2, 5], [1, 0]], [True] * 2, Estimand(0.5), (-4, 5)),
        # A horizon of 4 where some are cut. At most three steps of 1 and an end of 2; at least an end of 2 at once.
        ([[1, 1], [1, 2]], [False, True], Estimand(1.0, 4), (2, 5)),
        # One step each.
        ([[3], [-1]], [True] * 2, Estimand(0.9), (-1, 3)),
        # No end at all, gamma .5.
        ([[1, 1], [-1, 1]], [False] * 2, Estimand(0.5), (-2, 2)),
    ],
)
def test_attainable_returns_by_hand(rewards, terminated, estimand, expected) -> None:
    assert attainable_range(log_of(rewards, terminated), estimand) == pytest.approx(expected)


def test_a_stitched_return_above_every_logged_one_is_healthy() -> None:
    """Two halves, each done well by the log with small chance, never both: the policy does both well.

    Two steps, reward 1 for action 1 in either; the behaviour takes action 1 in exactly one of them.
    """
    transition = np.zeros((4, 2, 4))
    transition[0, 0, 1], transition[0, 1, 2] = 1.0, 1.0
    transition[1, :, 3] = transition[2, :, 3] = transition[3, :, 3] = 1.0
    reward = np.zeros((4, 2, 4))
    reward[0, 1, 2] = reward[1, 1, 3] = reward[2, 1, 3] = 1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0, 0]), np.arange(4) == 3)
    behavior = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    log = draw(world, behavior, 2000, 0)
    never_both = log.select_episodes(np.flatnonzero(log.episode_returns(1.0) < 2))
    assert attainable_range(never_both, Estimand(1.0)) == (0.0, 2.0)
    assert check_range(1.9, attainable_range(never_both, Estimand(1.0))).passed
    assert not check_range(2.1, attainable_range(never_both, Estimand(1.0))).passed
    # In an evaluation: the policy that always does well is worth 2, and no more was ever logged.
    found = evaluate(Table(np.tile([0.0, 1.0], (4, 1))), log, estimators=("wis",)).estimates["wis"]
    assert found.healthy, found.reasons
    assert found.value == pytest.approx(2.0)


def test_weights_that_cannot_be_averaged_are_refused_and_normalised_ones_remain() -> None:
    """Episodes of 1,100 steps, ratios near 2 (policy .9, behaviour .45 of the logged action), by `st.evaluate`."""
    steps, episodes = 1100, 8
    rng = np.random.default_rng(0)
    count = steps * episodes
    columns = {
        "episode": np.repeat(np.arange(episodes), steps),
        "observation": np.zeros((count, 1), np.float32),
        "action": np.zeros(count, np.int32),
        "reward": rng.normal(size=count).astype(np.float32) / steps,
        "terminated": np.tile(np.arange(steps) == steps - 1, episodes),
        "behavior_log_prob": np.log(rng.uniform(0.44, 0.46, count)).astype(np.float32),
    }
    log = read(columns, schema_of(columns, num_actions=2, gamma=1.0))
    found = evaluate(Table(np.array([[0.9, 0.1]])), log, estimators=("is", "pdis", "wis", "pdwis"))
    for name in ("is", "pdis"):
        assert found.estimates[name].value is None
        assert "cannot be represented" in " ".join(found.estimates[name].reasons)
    for name in ("wis", "pdwis"):
        estimate = found.estimates[name]
        assert np.isfinite([estimate.value, estimate.lower, estimate.upper, estimate.ess]).all()
        assert not estimate.healthy
    assert found.verdict.decision == "CANNOT TELL"
    # Large and representable: nothing changes.
    padded = long_episodes(500)
    weight = cumulative_weights(padded, np.full(2000, np.log(2.0)))
    assert importance_sampling(padded, weight).value() == pytest.approx(2.0**500 * 2.5)
    assert weighted(padded, weight).value() == pytest.approx(2.5)
