"""Everything that is wrong with a log comes in one error, a line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError

HEAD = "stay,hour,age,ward,dose,reward,died\n"
COLUMNS = {
    "episode": "stay",
    "step": "hour",
    "observation": ("age", "ward"),
    "action": "dose",
    "reward": "reward",
    "terminated": "died",
}
RULES = {"age": ColumnRule(low=0, high=120), "ward": ColumnRule(("ICU", "ER"))}
SCHEMA = Schema(COLUMNS, num_actions=2, observations=RULES)


def lines_of(folder: Path, *rows: str, schema: Schema = SCHEMA) -> list[str]:
    """The lines of the error that reading these rows raises."""
    (folder / "x.csv").write_text(HEAD + "\n".join(rows) + "\n")
    with pytest.raises(DataError) as caught:
        st.read(folder / "x.csv", schema)
    return str(caught.value).split("\n")


@pytest.mark.usefixtures("small_blocks")
def test_all_problems_at_once(tmp_path: Path) -> None:
    """One of every kind, two of them in one column."""
    rows = [f"{i},0,50,ICU,0,1,true" for i in range(20)]
    rows[3] = "3,0,,ICU,0,1,true"
    rows[7] = "7,0,500,OR,0,1,true"
    rows[11] = "11,0,50,ER,2,much,true"
    rows[13:15] = ["13,0,50,ER,1,1,true", "13,1,50,ER,1,1,false"]
    first, *others = lines_of(tmp_path, *rows)
    assert first == "x.csv has 7 problems:"
    assert sorted(others) == sorted(
        [
            "- Every episode must end with terminated or truncated; episode 13 of x.csv has no end (1 such episode). Mark its "
            'last row truncated if the log was cut there, or say `end = "truncated"` under [episodes].',
            "- No row may follow the end of an episode; episode 13 of x.csv goes on after terminated or truncated in row 13. "
            "Give what follows another episode id.",
            "- reward of x.csv must be numbers; got 'much' in row 11.",
            "- Column 'age' (observation) of x.csv must have no missing values; found 1, the first in row 3. Say what "
            "stands for them: `missing` under [observation.age].",
            "- observation (column 'age') of x.csv must be in [0, 120]; got 500.0 in row 7 (1 such value). Correct the log or "
            "the bounds.",
            "- Column 'ward' (observation) of x.csv must hold one of its 2 categories; got 'OR' in row 7. Add it to "
            "`categories` of the schema, or count all such values as one more category: `unknown = true` under "
            "[observation.ward].",
            "- action (column 'dose') of x.csv must be an integer from 0 to 1; got 2 in row 11 (1 such value). Correct `count` "
            "under [action] or the log.",
        ]
    )


def test_columns_that_are_not_there_come_with_bad_values(tmp_path: Path) -> None:
    schema = Schema(COLUMNS | {"observation": ("age", "pulse"), "group": "patient"}, num_actions=2)
    (tmp_path / "x.csv").write_text(HEAD + "1,0,old,ICU,0,1,true\n2,0,50,ICU,5,1,true\n")
    with pytest.raises(SchemaError) as caught:
        st.read(tmp_path / "x.csv", schema)
    assert str(caught.value).split("\n") == [
        "x.csv has 4 problems:",
        "- The schema says observation is in column 'pulse', which x.csv does not have; it has: stay, hour, age, ward, dose, "
        "reward, died.",
        "- The schema says group is in column 'patient', which x.csv does not have.",
        "- observation (column 'age') of x.csv must be numbers; got 'old' in row 0. If these are names, list them: "
        "`categories` under [observation.age].",
        "- action (column 'dose') of x.csv must be an integer from 0 to 1; got 5 in row 1 (1 such value). Correct `count` under "
        "[action] or the log.",
    ]


def test_one_problem_keeps_its_sentence(tmp_path: Path) -> None:
    assert lines_of(tmp_path, "1,0,50,ICU,0,1,true", "2,0,50,ICU,0,,true") == [
        "Column 'reward' (reward) of x.csv must have no missing values; found 1, the first in row 1. If they stand in some rows "
        "only, such as the last of an episode, say `fill = 0.0` under [reward]."
    ]
    damaged = lines_of(tmp_path, "1,0,old,ICU,0,1,true", "1,0")  # nothing below a row that cannot be read is looked at
    assert len(damaged) == 1


def test_twenty_problems_are_enough() -> None:
    columns = {name: column for name, column in tiny_columns().items() if name != "observation"}
    names = tuple(f"seen_{i}" for i in range(30))
    schema = Schema({role: role for role in columns} | {"observation": names}, num_actions=3)
    with pytest.raises(DataError) as caught:
        st.read(columns | dict.fromkeys(names, columns["reward"] * float("nan")), schema)
    lines = str(caught.value).split("\n")
    assert lines[0] == "the dict has 20 problems or more; the first are:"
    assert len(lines) == 21
    assert "seen_19" in lines[-1]
