"""Grids: their points equal runs trained apart; what cannot be one is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from training_cases import SETTINGS, TINY
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, RunDirectoryError


def test_a_grid_is_its_points_trained_apart(tmp_path: Path) -> None:
    log, grid = random_log(12), {"expectile": [0.6, 0.9], "learning_rate": [1e-2, 1e-3]}
    found = st.fit_grid(st.IQL(**TINY), log, grid, seeds=[3, 1], out=tmp_path, **SETTINGS)
    assert found.points == [{"expectile": e, "learning_rate": r} for e in (0.6, 0.9) for r in (1e-2, 1e-3)]
    assert len(found) == 4
    for point, run in found:
        apart = st.fit(dataclasses.replace(st.IQL(**TINY), **point), log, seeds=[3, 1], **SETTINGS)
        assert run.algorithm == apart.algorithm
        assert run.seeds == (3, 1)
        assert_trees_equal(run.states, apart.states, rtol=2e-3, atol=2e-5)
        assert [row["update"] for row in run.history] == [row["update"] for row in apart.history]
    assert any(a != b for a, b in zip(found.runs[0].history, found.runs[2].history, strict=True))
    again = st.load(tmp_path)
    assert again.points == found.points
    for one, two in zip(found.runs, again.runs, strict=True):
        assert_trees_equal(one.states, two.states)
        assert one.history == two.history
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names[:4] == ["update", "seed", "expectile", "learning_rate"]
    assert table["expectile"].to_pylist()[:8] == [0.6] * 4 + [0.9] * 4
    assert table["seed"].to_pylist()[:8] == [3, 1] * 4


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"hidden_sizes": [(8,), (16,)]}, r"runs over its number settings .*gamma, expectile.*got 'hidden_sizes'"),
        ({"num_critics": [2, 3]}, "got 'num_critics'"),
        ({"max_gradient_norm": [1.0]}, "got 'max_gradient_norm'"),
        ({"nonsense": [1.0]}, "got 'nonsense'"),
        ({"expectile": []}, "`expectile` of the grid must have at least one value; got none"),
        ({"expectile": [0.5, 1.5]}, r"`expectile` of IQL must be in \(0, 1\); got 1.5"),
    ],
)
def test_grids_that_cannot_be(grid: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.fit_grid(st.IQL(**TINY), random_log(12), grid, **SETTINGS)


def test_a_grid_in_another_order_and_a_run_where_a_grid_is_are_refused(tmp_path: Path) -> None:
    log, iql = random_log(12), st.IQL(**TINY)
    st.fit_grid(iql, log, {"expectile": [0.6, 0.9], "gamma": [0.5, 0.99]}, out=tmp_path, **SETTINGS)
    with pytest.raises(RunDirectoryError, match="holds another run, with grid"):
        st.fit_grid(iql, log, {"gamma": [0.5, 0.99], "expectile": [0.6, 0.9]}, out=tmp_path, **SETTINGS)
    with pytest.raises(RunDirectoryError, match=r"holds another run, with grid .* where yours has None"):
        st.fit(iql, log, out=tmp_path, **SETTINGS)
    with pytest.raises(ConfigurationError, match="A grid needs at least one setting; IQL has gamma, expectile"):
        st.fit_grid(iql, log, {}, **SETTINGS)


def test_only_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    log = random_log(12)
    st.fit(st.IQL(**TINY), log, out=tmp_path, **SETTINGS)
    with pytest.raises(RunDirectoryError, match=r"with settings\.expectile 0.7 where yours has 0.8\. Choose"):
        st.fit(st.IQL(expectile=0.8, **TINY), log, out=tmp_path, **SETTINGS)


def test_a_directory_where_nothing_was_learned_yet_is_free(tmp_path: Path) -> None:
    log = random_log(12)
    with pytest.raises(ConfigurationError, match="EarlyStop watches 'loss/critc'"):
        st.fit(st.IQL(**TINY), log, out=tmp_path, stop=st.EarlyStop("loss/critc", 10), **SETTINGS)
    run = st.fit(st.IQL(**TINY), log, out=tmp_path, stop=st.EarlyStop("loss/critic", 1000), **SETTINGS)
    assert run.updates == 45
