"""Bins of time: each trace is found in a log that was binned, and none in logs of decisions on a clock."""

from __future__ import annotations

import dataclasses
from typing import Any

import audit_corpus as corpus
import numpy as np
import pytest
from evaluation_worlds import QUICK, small_world
from timed_worlds import timed_log

import stitchrl as st
from stitchrl.auditing.binning import binning_of
from stitchrl.data.schema import Schema
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.reading.read import read

EPISODES, LENGTH = 60, 20
ROWS = EPISODES * LENGTH


def log_of(**changes: Any) -> st.Dataset:
    """Measured numbers every hour, and amounts that are given; decisions by the clock, and no trace of bins."""
    rng = np.random.default_rng(0)
    step = np.tile(np.arange(LENGTH), EPISODES)
    columns: dict[str, Any] = {
        "episode": np.repeat(np.arange(EPISODES), LENGTH),
        "step": step,
        "time": np.datetime64("2026-01-01") + (step * 3600).astype("timedelta64[s]"),
        "observation": rng.normal(size=(ROWS, 3)),
        "action": np.where(rng.random((ROWS, 1)) < 0.4, 0.0, rng.uniform(1, 3, (ROWS, 1))),
        "reward": rng.normal(size=ROWS),
        "terminated": step == LENGTH - 1,
    }
    columns |= {name: change(columns, rng) for name, change in changes.items()}
    return read(columns, Schema({name: name for name in columns}))


def carried(columns: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Column 1 is measured in 70% of the hours, and carried forward to the others."""
    found = columns["observation"].copy()
    for row in np.flatnonzero((rng.random(ROWS) < 0.3) & (columns["step"] > 0)):
        found[row, 1] = found[row - 1, 1]
    return found


def empty_bins_dropped(columns: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """10% of the hours had no event, and no row."""
    more = np.cumsum(rng.random((EPISODES, LENGTH)) < 0.1, axis=1).reshape(-1)
    return columns["time"] + (more * 3600).astype("timedelta64[s]")


def several_in_a_bin(columns: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Events at random moments, by the hour they fell into: two in a row may be of the same hour."""
    fewer = np.cumsum(rng.random((EPISODES, LENGTH)) < 0.1, axis=1).reshape(-1)
    return columns["time"] - (fewer * 3600).astype("timedelta64[s]")


def summed(columns: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Doses of 2.5, none to four of them in an hour."""
    return 2.5 * rng.binomial(4, 0.4, (ROWS, 1))


@pytest.mark.parametrize(
    ("changes", "says", "where"),
    [
        ({"observation": carried}, "repeats its last number to the digit in", "observation[1]"),
        ({"time": empty_bins_dropped}, "of the steps leave out one bin or more", "time"),
        ({"time": several_in_a_bin}, "of the rows stand at the time of the row before", "time"),
        ({"action": summed}, "as if doses had been summed", "action"),
    ],
)
def test_each_trace_is_found(changes: dict[str, Any], says: str, where: str) -> None:
    found = binning_of(log_of(**changes))
    assert found is not None
    assert found.where == (where,)
    assert "bins of 1 hour" in found.sentence
    assert says in found.sentence


def test_a_clock_alone_is_no_trace() -> None:
    assert binning_of(log_of()) is None


def test_numbers_at_a_bound_and_constants_are_not_carried_forward() -> None:
    def plain(columns: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        bounded = np.maximum(rng.normal(size=ROWS), 0.3)
        age = np.repeat(rng.normal(size=EPISODES), LENGTH)
        count = rng.integers(0, 5, ROWS)
        return np.stack([bounded, age, count], axis=1)

    assert binning_of(log_of(observation=plain)) is None


def test_carried_forward_is_seen_without_times_and_not_between_irregular_ones() -> None:
    log = log_of(observation=carried)
    found = binning_of(dataclasses.replace(log, time=None))
    assert found is not None
    assert found.sentence.startswith("rows look like bins of time: column observation[1]")
    irregular = np.sort(np.random.default_rng(1).uniform(0, 1e5, (EPISODES, LENGTH)), axis=1).reshape(-1)
    assert binning_of(dataclasses.replace(log, time=irregular)) is None


def test_logs_of_decisions_show_no_bins() -> None:
    for name, log in corpus.clean_logs().items():
        assert binning_of(log) is None, name
        assert binning_of(dataclasses.replace(log, time=log.position.astype(float))) is None, name
    assert binning_of(timed_log(0, 500)) is None


def test_the_audit_and_the_verdict_say_so() -> None:
    log = log_of(observation=carried)
    (finding,) = [one for one in st.audit(log).findings if one.code == "steps-binned"]
    assert (finding.severity, finding.where) == ("warning", "observation[1]")
    whole = timed_log(1, 400, time_unit=None)
    _, _, policy = small_world()

    class Known:
        def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
            return policy[np.asarray(obs)[:, :5].argmax(1)]

    # A measurement beside the state, which is carried forward in a third of the steps.
    rng = np.random.default_rng(2)
    measured = rng.normal(size=whole.num_transitions)
    for row in np.flatnonzero((rng.random(whole.num_transitions) < 0.35) & (whole.position > 0)):
        measured[row] = measured[row - 1]
    rowwise = corpus.rowwise(whole)
    spare = np.zeros(len(rowwise.observation_table) - whole.num_transitions)
    table = np.column_stack([rowwise.observation_table, np.concatenate([measured, spare])]).astype(np.float32)
    binned = dataclasses.replace(rowwise, observation_table=table, time=whole.position.astype(float))
    for judged, expected in ((binned, 1), (whole, 0)):
        found = evaluate(Known(), judged, estimators=("wis",), settings=QUICK)
        caveats = [one for one in found.verdict.caveats if one.startswith("Steps may be bins of time")]
        assert len(caveats) == expected
    assert "estimates are too good" in str(evaluate(Known(), binned, estimators=("wis",), settings=QUICK))
