"""The hour that clocks show twice: rows of an episode stay in the order in which they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stitchrl as st

NIGHT = ["01:30", "02:10", "02:50", "02:20", "02:40", "03:00"]
"""Clock times of 26 October 2025 in Berlin, where 03:00 of summer time became 02:00."""
IN_UTC = [f"2025-10-{when}" for when in ("25T23:30", "26T00:10", "26T00:50", "26T01:20", "26T01:40", "26T02:00")]


def night(folder: Path, clocks: list[str], written: str) -> st.Dataset:
    """Two episodes with the same clock times, whose rows alternate in the file."""
    rows = [
        f"{episode},{written.format(clock)},{row},{row % 2},1,{int(row == len(clocks) - 1)}"
        for row, clock in enumerate(clocks)
        for episode in range(2)
    ]
    (folder / "x.csv").write_text("episode,time,observation,action,reward,terminated\n" + "\n".join(rows) + "\n")
    columns = {name: name for name in ("episode", "time", "observation", "action", "reward", "terminated")}
    content = {"columns": columns, "action": {"count": 2}, "file": {"timezone": "Europe/Berlin"}}
    return st.read(folder / "x.csv", st.Schema.from_dict(content))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("written", ["26.10.2025 {}", "2025-10-26 {}:00"], ids=["text", "dates"])
def test_the_second_reading_keeps_the_order(written: str, tmp_path: Path) -> None:
    log = night(tmp_path, NIGHT, written)
    assert log.observation[:, 0].tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert log.time is not None
    assert log.time.astype("M8[m]").tolist() == np.array(IN_UTC * 2, "M8[m]").tolist()
    assert (
        "4 times in the hour that clocks show twice stand after a later one: for these the second is taken."
        in log.notes
    )


@pytest.mark.parametrize(
    ("clocks", "order"),
    [
        (["01:30", "02:10", "02:50", "03:00"], [0, 1, 2, 3]),  # nothing goes back
        (["02:10", "02:50", "02:20", "02:40", "02:30", "03:00"], [0, 2, 4, 3, 1, 5]),  # out of order in any reading
        (["03:00", "02:10"], [1, 0]),
    ],
)
def test_the_first_reading_is_kept_where_the_second_orders_nothing(
    clocks: list[str], order: list[int], tmp_path: Path
) -> None:
    if clocks[-1] == "02:10":
        clocks, order = [*clocks, "04:00"], [*order, 2]  # the row that ends the episode is the last
    log = night(tmp_path, clocks, "26.10.2025 {}")
    assert log.observation[:, 0].tolist() == order * 2
    assert not any("the second is taken" in note for note in log.notes)


def test_times_with_zones_are_what_they_say(tmp_path: Path) -> None:
    clocks = ["02:10+02:00", "02:50+02:00", "02:20+02:00", "03:10+01:00"]
    log = night(tmp_path, clocks, "26.10.2025 {}")
    assert log.observation[:, 0].tolist() == [0, 2, 1, 3] * 2
