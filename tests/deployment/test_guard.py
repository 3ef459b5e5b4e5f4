"""The guard notices another unit by the place of a column's values and by how widely they spread."""

from __future__ import annotations

import json

import numpy as np
import pytest
from jaxtyping import Float

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.types import NumpyArray


def columns(seed: int, rows: int = 4000) -> Float[NumpyArray, "rows 3"]:
    """An angle about 0 in radians, a temperature, and a dose that nine of ten rows do not get."""
    rng = np.random.default_rng(seed)
    dose = np.where(rng.random(rows) < 0.9, 0.0, rng.gamma(2.0, 5.0, rows))
    return np.stack([rng.normal(0, 0.3, rows), rng.normal(37, 0.7, rows), dose], 1).astype(np.float32)


@pytest.fixture(scope="module")
def guard() -> Guard:
    """As it is after it was saved and loaded."""
    seen = columns(0)
    content = {
        "episode": np.arange(len(seen)), "observation": seen, "action": np.zeros(len(seen), int),
        "reward": np.zeros(len(seen)), "terminated": np.ones(len(seen), bool),
    }  # fmt: skip
    log = st.read(content, Schema.infer(list(content), num_actions=2, gamma=1.0))
    return Guard.from_dict(json.loads(json.dumps(Guard.fit(log).to_dict())))


@pytest.mark.parametrize(
    ("column", "factor", "by_width"),
    [(0, 180 / np.pi, True), (0, np.pi / 180, True), (0, -1000.0, True), (2, 1000.0, False), (2, 0.001, False)],
)
def test_another_unit_is_noticed_about_zero_and_among_zeros(
    guard: Guard, column: int, factor: float, by_width: bool
) -> None:
    rows = columns(1)
    rows[:, column] *= factor
    (found,) = guard.other_ranges(rows)
    assert found.column == column
    if by_width:
        assert found.times == pytest.approx(abs(factor), rel=0.1)
    else:
        assert found.times is None
        assert found.here[0] > 0  # the zeros say nothing of the unit


def test_sound_shifts_of_population_are_not_refused(guard: Guard) -> None:
    for factor in (0.2, 0.5, 3.0):
        for shift in (-0.3, 0.0, 0.3):
            rows = columns(2)
            rows[:, 0] = rows[:, 0] * factor + shift
            assert guard.other_ranges(rows) == []
    fewer = columns(3)
    fewer[np.arange(4000) % 10 != 0, 2] = 0  # a tenth as many get the dose
    assert guard.other_ranges(fewer) == []
    nobody = columns(3) * np.array([1, 1, 0], np.float32)
    assert guard.other_ranges(nobody) == []


def test_a_guard_of_before_still_knows_places_and_widths(guard: Guard) -> None:
    content = guard.to_dict()
    content["quantiles"] = np.quantile(columns(0), (0.01, 0.25, 0.75, 0.99), axis=0).tolist()
    del content["of_nonzero"]
    old = Guard.from_dict(content)
    assert [one.column for one in old.other_ranges(columns(1) * np.array([57.3, 2.0, 1000.0]))] == [0, 1]
