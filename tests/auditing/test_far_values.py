"""Single values far away from all others: named with their row, and not among the heavy tails of sound columns."""

from __future__ import annotations

import numpy as np
import pytest

import stitchrl as st
from stitchrl.auditing.checks.far_values import observation_far_out
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding

ROWS, STEPS = 2000, 10


def found_in(values: np.ndarray) -> list[Finding]:
    """What the check says of a log with this column beside one of noise."""
    noise = np.random.default_rng(1).normal(size=ROWS)
    log = st.read(
        {
            "episode": np.repeat(np.arange(ROWS // STEPS), STEPS),
            "observation": np.stack([noise, values], axis=1).astype(np.float32),
            "action": np.arange(ROWS) % 3,
            "reward": noise.astype(np.float32),
            "terminated": np.arange(ROWS) % STEPS == STEPS - 1,
        }
    )
    return list(observation_far_out(log, Facts(log)))


def near_two() -> np.ndarray:
    return 2 + 0.3 * np.random.default_rng(0).normal(size=ROWS)


def test_one_mistyped_value_is_named_with_its_row() -> None:
    lactate = near_two()
    assert found_in(lactate) == []
    lactate[1234] = 62
    (finding,) = found_in(lactate)
    assert (finding.code, finding.severity, finding.where) == ("observation-far-out", "info", "observation: column 1")
    assert "1 single value lies far away" in finding.seen
    assert "is 62 in row 1,234 (episode 123)" in finding.seen
    lactate[20] = -58  # on the other side as well
    assert "2 single values lie far away" in found_in(lactate)[0].seen


def test_many_of_them_are_a_warning_and_one_in_fifty_is_a_part_of_the_column() -> None:
    values = near_two()
    values[::150] *= 100
    assert [(f.code, f.severity) for f in found_in(values)] == [("observation-far-out", "warning")]
    part = near_two()
    part[::50] *= 100  # 2% of the rows are no single ones
    assert found_in(part) == []
    repeated = near_two()
    repeated[::150] = -999  # a placeholder, which has a check of its own
    assert found_in(repeated) == []


@pytest.mark.parametrize("kind", ["lognormal", "exponential", "counts", "mostly zero", "flag"])
def test_sound_columns_with_heavy_tails(kind: str) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = {
            "lognormal": rng.lognormal(0, 1, ROWS),
            "exponential": rng.exponential(size=ROWS),
            "counts": rng.negative_binomial(0.5, 0.05, ROWS).astype(float),
            "mostly zero": rng.lognormal(0, 1, ROWS) * (rng.random(ROWS) < 0.05),
            "flag": (rng.random(ROWS) < 0.001).astype(float),
        }[kind]
        assert found_in(values) == []


def test_a_value_that_the_sample_of_rows_may_miss() -> None:
    """The extremes are of all rows: 40,000 of them are more than the sample holds."""
    rows = 40_000
    values = np.tile(near_two(), rows // ROWS)[:, None].astype(np.float32)
    log = st.read(
        {
            "episode": np.arange(rows) // STEPS,
            "observation": values,
            "action": np.arange(rows) % 3,
            "reward": np.zeros(rows, np.float32),
            "terminated": np.arange(rows) % STEPS == STEPS - 1,
        }
    )
    missed = int(np.setdiff1d(np.arange(rows), Facts(log).sample.rows)[5])
    values[missed] = 62
    log = st.read(
        {name: getattr(log, name) for name in ("action", "reward", "terminated")}
        | {
            "episode": np.arange(rows) // STEPS,
            "observation": values,
        }
    )
    (finding,) = observation_far_out(log, Facts(log))
    assert f"row {missed:,}" in finding.seen
