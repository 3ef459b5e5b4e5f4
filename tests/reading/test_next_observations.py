"""Next observations that a log gives, lacks, or gives where rows are missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from tables import schema, table
from worlds import next_observations

import stitchrl as st
from stitchrl.errors import DataError


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("form", ["lists", "flat"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_next_observation_that_is_not_known(form: str, shuffled: bool) -> None:
    rows = table(form).to_pylist()
    for row in (0, 4):  # inside an episode, and at a cut
        for name in ("next_observation",) if form == "lists" else ("next_a", "next_b"):
            rows[row][name] = None
    content = pa.Table.from_pylist(rows)
    log = st.read(content.take([4, 1, 5, 0, 2, 3]) if shuffled else content, schema(form))
    log = log.select_episodes([list(log.episode_id).index(e) for e in (7, 8, 9)])
    assert log.can_bootstrap.tolist() == [True, True, True, True, False, True]
    np.testing.assert_array_equal(log.next_observation[0], [1, 2])  # the next row's
    np.testing.assert_array_equal(log.next_observation[[2, 5]], [[10, 11], [14, 15]])
    nothing = content.set_column(content.column_names.index("weight"), "weight", content["weight"])
    for name in ("next_observation",) if form == "lists" else ("next_a", "next_b"):
        nothing = nothing.set_column(nothing.column_names.index(name), name, pa.nulls(6))
    bare = st.read(nothing, schema(form))
    assert bare.can_bootstrap.tolist() == [True, True, True, True, False, True]
    assert len(bare.observation_table) == 6


def test_half_a_next_observation_and_an_infinite_one() -> None:
    rows = table("flat").to_pylist()
    rows[2]["next_b"] = None
    with pytest.raises(DataError, match="next_observation of the table must be finite; found NaN in row 2"):
        st.read(pa.Table.from_pylist(rows), schema("flat"))
    rows[2]["next_b"] = float("inf")
    with pytest.raises(DataError, match=r"next_observation \(column 'next_b'\) of the table .* infinity in row 2"):
        st.read(pa.Table.from_pylist(rows), schema("flat"))


@pytest.mark.usefixtures("small_blocks")
def test_rows_missing_inside_an_episode_keep_their_next_observation() -> None:
    content = table("lists").filter(pa.array([True, False, True, True, True, True]))  # step 1 of episode 7 is lost
    log = st.read(content, schema("lists"))
    np.testing.assert_array_equal(log.next_observation, next_observations()[[0, 2, 3, 4, 5]])
    assert not log.continues[0]
    assert len(log.observation_table) == 9  # 5 rows, 3 ends, and what followed row 0
