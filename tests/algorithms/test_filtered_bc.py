"""FilteredBC: which episodes it keeps, and that everything about it is of these alone."""

from __future__ import annotations

import numpy as np
import pytest
from algorithm_cases import ALL, fitted
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.data.sampling import TopFractionSampling, drawn_part, share_of
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError


def outcomes(returns: list[float]) -> st.Dataset:
    """One-step episodes with these returns."""
    count = len(returns)
    columns = {
        "episode": np.arange(count),
        "observation": np.zeros((count, 1), np.float32),
        "action": np.arange(count) % 2,
        "reward": np.array(returns, np.float32),
        "terminated": np.ones(count, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=2))


def kept_of(log: st.Dataset, top_fraction: float) -> st.Dataset:
    """The episodes that FilteredBC learns from."""
    return drawn_part(log, st.FilteredBC(top_fraction=top_fraction).sampling)


def test_filtered_bc_keeps_every_episode_tied_with_the_threshold() -> None:
    log = outcomes([0, 1, 0, 0, 1, 0, 1, 0, 0, 1])
    kept = kept_of(log, 0.1)
    assert kept.episode_id.tolist() == [1, 4, 6, 9]
    assert kept_of(log, 1.0).num_episodes == 10
    assert kept_of(outcomes([2.0] * 5), 0.1).num_episodes == 5


@pytest.mark.parametrize("top_fraction", [0.05, 0.1, 0.5])
def test_filtered_bc_keeps_the_share_asked_for_and_the_best(top_fraction: float) -> None:
    returns = np.random.default_rng(0).permutation(1000).astype(float)
    kept = kept_of(outcomes(returns.tolist()), top_fraction)
    assert kept.num_episodes == round(1000 * top_fraction)
    assert sorted(kept.reward.tolist()) == sorted(returns.tolist())[-kept.num_episodes :]


def test_filtered_bc_goes_by_the_return_of_whole_episodes() -> None:
    columns = {
        "episode": np.array([0, 0, 1]),
        "observation": np.zeros((3, 1), np.float32),
        "action": np.array([0, 1, 0]),
        "reward": np.array([2, 2, 3], np.float32),
        "terminated": np.array([False, True, True]),
    }
    kept = kept_of(st.read(columns).select_episodes([1, 0, 1, 1]), 0.01)
    assert set(kept.episode_id.tolist()) >= {0}
    top = kept_of(st.read(columns).select_episodes([1, 0, 0]), 0.01)
    assert top.episode_id.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("fraction", "count", "kept"),
    # 0.07 * 100 is 7.000000000000001 to a computer, and 0.1 * 3 is 0.30000000000000004.
    [(0.07, 100, 7), (0.1, 10, 1), (0.29, 100, 29), (0.07, 101, 8), (0.001, 100, 1), (1.0, 7, 7), (1 / 3, 3, 1)],
)
def test_a_share_is_the_smallest_whole_number_that_is_enough(fraction: float, count: int, kept: int) -> None:
    assert share_of(fraction, count) == kept
    returns = np.random.default_rng(0).permutation(count).astype(float)
    assert kept_of(outcomes(returns.tolist()), fraction).num_episodes == kept


def test_filtered_bc_draws_only_rows_of_the_kept_episodes() -> None:
    log = outcomes([0, 1, 0, 2])
    weights = TopFractionSampling(0.5).weights(log)
    assert weights.tolist() == [0, 1, 0, 1]
    assert st.FilteredBC(top_fraction=0.5).sampling == TopFractionSampling(0.5)
    assert st.BC().sampling is None


def two_groups() -> st.Dataset:
    """Twenty good episodes with observations about 50, twenty bad ones with observations about 0."""
    rng = np.random.default_rng(0)
    good = np.arange(40) % 2 == 0
    columns = {
        "episode": np.arange(40),
        "observation": (np.where(good, 50.0, 0.0) + rng.normal(size=40)).astype(np.float32)[:, None],
        "action": good.astype(np.int32),
        "reward": good.astype(np.float32),
        "terminated": np.ones(40, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=2))


def test_observations_are_scaled_by_what_the_kept_episodes_show() -> None:
    log = two_groups()
    run = fitted(ALL["FilteredBC"], log, updates=0)
    best = log.select_episodes(np.flatnonzero(log.reward > 0))
    expected = Scaling.of(best)
    np.testing.assert_array_equal(run.scaling.mean, expected.mean)
    np.testing.assert_array_equal(run.scaling.std, expected.std)
    assert abs(float(run.scaling.mean[0]) - 50) < 1
    np.testing.assert_array_equal(fitted(ALL["BC"], log, updates=0).scaling.mean, Scaling.of(log).mean)


def test_filtered_bc_is_bc_with_that_rule() -> None:
    log = two_groups()
    alike = {"learning_rate": 1e-2, "hidden_sizes": ALL["BC"].network.hidden_sizes}
    filtered = fitted(st.FilteredBC(top_fraction=0.5, **alike), log)
    plain = fitted(st.BC(**alike), log, sampling=TopFractionSampling(0.5))
    assert_trees_equal(filtered.states, plain.states)


def test_another_rule_beside_its_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="FilteredBC draws rows by its own rule, TopFractionSampling"):
        fitted(ALL["FilteredBC"], two_groups(), updates=0, sampling=st.EpisodeSampling())
