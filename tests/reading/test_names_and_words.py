"""Names that look like numbers or like missing values, misspelled words for ends, and patterns of times: what a schema says
of a column holds, whatever its values look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spreadsheets import write_xlsx

import stitchrl as st
from stitchrl.errors import DataError

ROLES = ("episode", "observation", "action", "reward", "terminated")


def read(folder: Path, *rows: str, columns: dict[str, str] | None = None, **sections: Any) -> st.Dataset:
    """The log of a CSV file with the columns of `ROLES`, then `columns`, by a schema of these sections."""
    columns = columns or {}
    (folder / "x.csv").write_text("\n".join([",".join([*ROLES, *columns.values()]), *rows]) + "\n")
    content = {"columns": {role: role for role in ROLES} | columns, "action": {"count": 2}}
    return st.read(folder / "x.csv", st.Schema.from_dict(content | sections))


@pytest.mark.parametrize("named", ["action", "observation", "next observation"])
@pytest.mark.parametrize(
    ("words", "written"),
    [(["1.1", "1.10", "2"], ["1.1", "1.10", "2"]), (["1,2", "1,20", "3"], ['"1,2"', '"1,20"', "3"])],
)
def test_categories_that_are_equal_as_numbers_stay_apart(
    named: str, words: list[str], written: list[str], tmp_path: Path
) -> None:
    if named == "action":
        rows = [f"{k},{k}.5,{word},1,1" for k, word in enumerate(written)]
        assert read(tmp_path, *rows, action={"categories": words}).action.tolist() == [0, 1, 2]
        return
    rule = {"observation": {"observation": {"categories": words, "encoding": "code"}}}
    if named == "observation":
        log = read(tmp_path, *(f"{k},{word},{k % 2},1,1" for k, word in enumerate(written)), **rule)
        assert log.observation[:, 0].tolist() == [0, 1, 2]
        return
    rows = [f"{k},{written[0]},{k % 2},1,1,{word}" for k, word in enumerate(written)]
    log = read(tmp_path, *rows, columns={"next_observation": "after"}, **rule)
    assert log.next_observation[:, 0].tolist() == [0, 1, 2]


def test_words_for_ends_of_two_numbers(tmp_path: Path) -> None:
    """A decimal comma elsewhere does not turn them into numbers."""
    rows = [f'{k // 2},"{k},25",{k % 2},1,"{("3,50", "1,2")[k % 2]}"' for k in range(4)]
    log = read(tmp_path, *rows, episodes={"terminated_values": ["1,2"], "end": "truncated"})
    assert log.observation[:, 0].tolist() == [0.25, 1.25, 2.25, 3.25]
    assert log.terminated.tolist() == [False, True, False, True]


def test_misspelled_words_for_ends_are_refused(tmp_path: Path) -> None:
    """Otherwise every death would count as a truncation. Where no word is near, a note says that none of them occurs."""
    rows = [f"{k // 3},{k}.5,{k % 2},1,{('in', 'in', 'died')[k % 3]}" for k in range(6)]
    with pytest.raises(DataError) as caught:
        read(tmp_path, *rows, episodes={"terminated_values": ["dyed"], "end": "truncated"})
    assert str(caught.value).startswith(
        "None of `terminated_values` occurs in terminated of x.csv, which holds 'in', 'died'; got 'dyed'. Did you mean 'died'?"
    )
    with pytest.raises(
        DataError, match=r"'died' stands there in as few rows as an end does; got 'deceased'. List 'died' too"
    ):
        read(tmp_path, *rows, episodes={"terminated_values": ["deceased"], "end": "truncated"})
    survived = [row.replace("died", "in") for row in rows]
    log = read(tmp_path, *survived, episodes={"terminated_values": ["died"], "end": "truncated"})
    assert (log.terminated.sum(), log.truncated.tolist()) == (0, [False, False, True] * 2)
    assert log.notes[-2:] == (
        "2 episodes had no end marked and count as truncated.",
        "No episode ends with 'died' of `terminated_values`: what has no end marked counts as truncated. If a word of terminated "
        "of x.csv, which holds 'in', marks an end that is terminated, add it to `terminated_values` under [episodes].",
    )
    # Nothing is lost where the rule for unmarked ends says the same as the words, or where one of the words is found.
    log = read(tmp_path, *rows, episodes={"terminated_values": ["deceased"], "end": "terminated"})
    assert log.terminated.tolist() == [False, False, True] * 2
    log = read(tmp_path, *rows, episodes={"terminated_values": ["deceased", "DIED"], "end": "truncated"})
    assert log.terminated.tolist() == [False, False, True] * 2


def test_whole_numbers_are_times_by_the_pattern_in_arrays_too() -> None:
    columns = {role: np.array([0, 1]) for role in ROLES} | {"time": np.array([202401312359, 202402010000])}
    columns["episode"] = np.array([0, 0])
    content = {"columns": {name: name for name in columns}, "action": {"count": 2}, "file": {"dates": "%Y%m%d%H%M"}}
    log = st.read(columns, st.Schema.from_dict(content))
    assert log.time is not None
    assert np.diff(log.time).tolist() == [np.timedelta64(1, "m")]


@pytest.mark.usefixtures("small_blocks")
def test_a_listed_word_is_no_missing_value(tmp_path: Path) -> None:
    """Not even where it first stands after many rows; in other columns it goes on to mean one."""
    given = ["drug"] * 30 + ["None", "NA", "drug", "None"]
    rows = [f"{k},{'None' if k == 3 else k},{word},1,1" for k, word in enumerate(given)]
    rule = {"observation": {"observation": {"missing": "value", "fill": -1.0}}}
    log = read(tmp_path, *rows, action={"categories": ["None", "drug", "NA"]}, **rule)
    assert log.action.tolist() == [1] * 30 + [0, 2, 1, 0]
    assert log.observation[[2, 3, 4], 0].tolist() == [2, -1, 4]
    with pytest.raises(
        DataError, match=r"found 1, the first in row 31\. In text files and .* the words NA, .* unless `cat"
    ):
        read(tmp_path, *rows, action={"categories": ["None", "drug"]}, **rule)
    rows[32] = "32,32,,1,1"
    with pytest.raises(DataError, match=r"found 1, the first in row 32\. In text files"):  # an empty cell is no word
        read(tmp_path, *rows, action={"categories": ["None", "drug", "NA"]}, **rule)


def test_listed_words_and_numbers_for_missing_values_in_spreadsheets(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    given = [["None", 1.5], ["drug", 999], ["None", 2]]
    rows = [[k, value, word, 1, True] for k, (word, value) in enumerate(given)]
    path = write_xlsx(tmp_path / "x.xlsx", {"log": [list(ROLES), *rows]})
    content = {
        "columns": {role: role for role in ROLES},
        "action": {"categories": ["drug", "None"]},
        "observation": {"observation": {"missing": "value", "fill": -1.0}},
        "file": {"na_values": ["999"]},
    }
    log = st.read(path, st.Schema.from_dict(content))
    assert log.action.tolist() == [1, 0, 1]
    assert log.observation[:, 0].tolist() == [1.5, -1, 2]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ("NFNNNNNNNNNN", False),
        ("N" * 100 + "F", False),  # in a later block
        ("YNYN", True),
        ("TFFT", True),
        ("JNJN", True),
        ("0N10", True),
        ("TN", False),
    ],
)
def test_letters_are_true_and_false_only_in_pairs(written: str, accepted: bool, tmp_path: Path) -> None:
    """N and F may be north and far; both would become zeros."""
    rows = [f"{k},{letter},{k % 2},1,1" for k, letter in enumerate(written)]
    if accepted:
        assert read(tmp_path, *rows).observation[:, 0].tolist() == [letter in "YTJ1" for letter in written]
        return
    with pytest.raises(
        DataError, match=r"must be numbers; got .* list them: `categories` under \[observation\.observation\]"
    ):
        read(tmp_path, *rows)
    rows = [f"{k},{k},{k % 2},1,{letter}" for k, letter in enumerate(written)]
    with pytest.raises(DataError, match=r"terminated of x\.csv must be true or false"):
        read(tmp_path, *rows)
