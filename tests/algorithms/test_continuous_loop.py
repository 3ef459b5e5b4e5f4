"""An error about untried continuous actions: grown by the failures, not by what keeps to the log (support/continuous_loop.py)."""

from __future__ import annotations

import pytest
from continuous_loop import share_of_growth

SEEDS = (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_the_error_of_naive_ddpg_grows_to_eps_over_one_less_gamma(gamma: float) -> None:
    for seed in SEEDS:
        assert share_of_growth("DDPG", gamma, seed) == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_the_smaller_of_two_critics_grows_part_of_it() -> None:
    for seed in SEEDS:
        assert 0.1 < share_of_growth("TD3", 0.9, seed) < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TD3BC", "FQL"])
def test_a_term_of_imitation_lets_less_of_it_grow(name: str) -> None:
    for seed in SEEDS:
        assert 0.1 < share_of_growth(name, 0.9, seed) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL", "AWAC", "BEAR", "IDQL", "EQL", "XQL"])
def test_no_error_grows_where_actions_are_the_logs(name: str) -> None:
    for seed in SEEDS:
        assert abs(share_of_growth(name, 0.9, seed)) < 0.02
