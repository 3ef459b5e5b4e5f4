"""Irregular time in a Dataset: the times between decisions, the discounts that follow, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from stitchrl.data.dataset import Dataset
from stitchrl.data.elapsed import name_of_unit
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.read import read

HOUR = 3600.0


def log_of(time: Any, *, time_unit: float | None = 1.0, **more: Any) -> Dataset:
    """Two episodes: three decisions until a true end, and two until a cut whose next observation is known."""
    columns: dict[str, Any] = {
        "episode": np.array([0, 0, 0, 1, 1]),
        "step": np.array([0, 1, 2, 0, 1]),
        "time": time,
        "observation": np.arange(10.0).reshape(5, 2),
        "next_observation": np.array([[2, 3], [4, 5], [9, 9], [8, 9], [7, 7.0]]),
        "action": np.array([0, 1, 0, 1, 0]),
        "reward": np.array([1.0, 2.0, 4.0, 8.0, 16.0]),
        "terminated": np.array([0, 0, 1, 0, 0], bool),
        "truncated": np.array([0, 0, 0, 0, 1], bool),
    } | more
    return read(columns, Schema({name: name for name in columns}, num_actions=2, gamma=0.5, time_unit=time_unit))


TIMES = np.array([10.0, 11.0, 14.0, 3.0, 5.0])


def test_discounts_by_hand() -> None:
    log = log_of(TIMES)
    assert log.elapsed is not None
    np.testing.assert_array_equal(log.elapsed, [1, 3, np.nan, 2, np.nan])
    np.testing.assert_allclose(log.discount(0.5), [0.5, 0.125, 0, 0.25, 0])
    np.testing.assert_allclose(log.reward_discount(0.5), [1, 0.5, 1 / 16, 1, 0.25])
    np.testing.assert_allclose(log.episode_returns(0.5), [1 + 1 + 0.25, 8 + 4])
    assert log.largest_discount(0.5) == 0.5
    # At the cut nobody knows when the next decision would have come: no target there, though the observation is known.
    assert log.can_bootstrap.tolist() == [True, True, True, True, False]


def test_without_a_unit_steps_count() -> None:
    log = log_of(TIMES, time_unit=None)
    assert log.elapsed is None
    np.testing.assert_array_equal(log.discount(0.5), [0.5, 0.5, 0, 0.5, 0.5])
    np.testing.assert_array_equal(log.reward_discount(0.5), [1, 0.5, 0.25, 1, 0.5])
    assert log.largest_discount(0.5) == 0.5
    assert log.can_bootstrap.all()


def test_dates_count_seconds() -> None:
    dates = np.datetime64("2026-03-01T06:00") + (TIMES * 60).astype("timedelta64[m]")
    log = log_of(dates, time_unit=HOUR)
    assert log.elapsed is not None
    np.testing.assert_allclose(log.elapsed, [1, 3, np.nan, 2, np.nan])
    assert name_of_unit(HOUR, dates, "t") == "hour"
    assert name_of_unit(90.0, dates, "t") == "90 seconds"
    assert name_of_unit(1.0, TIMES, "t") == "unit of `t`"
    assert name_of_unit(2.5, TIMES, "t") == "2.5 units of `t`"


def test_unsigned_times_do_not_wrap_around() -> None:
    with pytest.raises(DataError, match="row 1 is at 9, before row 0 at 10"):
        _ = log_of(np.array([10, 9, 14, 3, 5], np.uint32)).elapsed
    np.testing.assert_allclose(log_of(TIMES.astype(np.uint32)).reward_discount(0.5), [1, 0.5, 1 / 16, 1, 0.25])


def test_decisions_at_one_moment_are_not_discounted() -> None:
    log = log_of(np.array([1.0, 1.0, 2.0, 0.0, 0.0]))
    np.testing.assert_allclose(log.discount(0.0), [1, 0, 0, 1, 0])
    np.testing.assert_allclose(log.discount(0.5), [1, 0.5, 0, 1, 0])
    assert log.largest_discount(0.5) == 1.0


def test_episodes_keep_their_times() -> None:
    log = log_of(TIMES).select_episodes([1, 0])
    np.testing.assert_allclose(log.reward_discount(0.5), [1, 0.25, 1, 0.5, 1 / 16])
    np.testing.assert_allclose(log.discount(0.5), [0.25, 0, 0.5, 0.125, 0])


def test_the_unit_is_part_of_the_schema_file(tmp_path: Any) -> None:
    schema = log_of(TIMES, time_unit=HOUR).schema
    (tmp_path / "s.toml").write_text(schema.to_toml())
    assert Schema.load(tmp_path / "s.toml") == schema
    assert "time_unit = 3600.0" in schema.to_toml()
    assert "time_unit" not in log_of(TIMES, time_unit=None).schema.to_toml()


@pytest.mark.parametrize("unit", [0.0, -1.0, np.inf])
def test_a_unit_that_is_none_is_refused(unit: float) -> None:
    with pytest.raises(SchemaError, match=r"`time_unit` of .task. must be a positive number"):
        log_of(TIMES, time_unit=unit)


def test_a_unit_needs_times() -> None:
    columns = {role: role for role in ("episode", "observation", "action", "reward", "terminated")}
    with pytest.raises(SchemaError, match=r"`time_unit` of .task. needs a column with the role `time`"):
        Schema(columns, num_actions=2, time_unit=1.0)
    log = dataclasses.replace(log_of(TIMES), time=None)
    with pytest.raises(DataError, match="has a `time_unit`, and the log has no column `time`"):
        log.discount(0.5)


def test_logs_of_different_units_are_not_joined() -> None:
    with pytest.raises(DataError, match=r"one time_unit to be joined; got 1\.0 and 2\.0"):
        log_of(TIMES).concat(log_of(TIMES, time_unit=2.0))
