"""CSV: types of the whole file, identifiers with leading zeros, missing values and odd names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pytest
from tables import FILES, FLAT, expected, schema, table
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, SchemaError

HEAD = "episode,observation,action,reward,terminated\n"


def csv_log(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "x.csv"
    path.write_text(head + "\n".join(rows) + "\n")
    return path


@pytest.mark.usefixtures("small_blocks")
def test_types_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """Columns that are integers in the first block only, empty in a block, or text after blocks of numbers."""
    rows = [f"{i},{i},{i % 2},{i},true" for i in range(40)]
    rows[38] = "38,2.5,0,.25,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.observation[38, 0] == 2.5
    assert log.reward[38] == 0.25
    assert log.num_actions == 2
    rows[39] = "x39,39,1,39,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.episode_id.tolist() == [*map(str, range(39)), "x39"]
    rows[39] = "39,39,1,later,true"
    with pytest.raises(DataError, match=r"reward of x\.csv must be numbers; got text\."):
        st.read(csv_log(tmp_path, *rows))
    lines = [{"episode": i, "observation": [i], "action": 0.5, "reward": i, "terminated": True} for i in range(40)]
    lines[38] |= {"observation": [2.5], "reward": 0.25}
    lines[39]["note"] = "a column that the first lines lack"
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    log = st.read(tmp_path / "x.jsonl")
    assert (log.observation[38, 0], log.reward[38], log.episode_id[39]) == (2.5, 0.25, 39)
    lines[39]["reward"] = "later"
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"Column 'reward' of x\.jsonl must be of one type in all rows"):
        st.read(tmp_path / "x.jsonl")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first", [0, 39])
@pytest.mark.parametrize("quote", ["", '"'])
def test_identifiers_with_leading_zeros_are_text(tmp_path: Path, first: int, quote: str) -> None:
    """1 and 01 are two episodes, whether the leading zero is in the first block or the last."""
    rows = [f"{i + 1},0.{i},{i % 2},{i},true" for i in range(40)]
    rows[first] = f"{quote}01{quote},0,0,0.5,true" if first else f"{quote}007{quote},0,1,0,true"
    log = st.read(csv_log(tmp_path, *rows))
    assert log.num_episodes == 40
    assert log.episode_id[first] == ("01" if first else "007")
    assert log.episode_id[5] == "6"
    assert log.num_actions == 2
    assert log.reward[first] == (0.5 if first else 0)


def test_zeros_alone_are_numbers(tmp_path: Path) -> None:
    log = st.read(csv_log(tmp_path, "0,0.05,0,-0.5,true", "10,0,1,0,true", "100,1e-05,1,0e0,true"))
    assert log.episode_id.tolist() == [0, 10, 100]
    np.testing.assert_allclose(log.observation[:, 0], [0.05, 0, 1e-5])


@pytest.mark.usefixtures("small_blocks")
def test_a_row_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    rows = [f"{i},{i},{i % 2},{i},true" for i in range(40)]
    rows[37] += ",more"
    with pytest.raises(DataError, match=r"x\.csv cannot be read as CSV: row 37: Expected 5 columns, got 6"):
        st.read(csv_log(tmp_path, *rows))
    lines = [json.dumps({"episode": i, "reward": i}) for i in range(40)]
    lines[37] = lines[37][:-1]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"x\.jsonl cannot be read as JSON Lines: JSON parse error: .* in row 37\."):
        st.read(tmp_path / "x.jsonl")


def test_what_a_cell_may_say_for_missing(tmp_path: Path) -> None:
    for said in ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"):
        with pytest.raises(DataError, match=r"Column 'reward' \(reward\) of x\.csv .* found 1, the first in row 1"):
            st.read(csv_log(tmp_path, "1,1,1,1,true", f"2,2,0,{said},true"))


def test_identifiers_beyond_int64_are_not_merged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"episode of x\.csv must have identifiers that differ"):
        st.read(csv_log(tmp_path, "18446744073709551617,1,1,1,true", "18446744073709551618,1,1,1,true"))
    log = st.read(csv_log(tmp_path, "9223372036854775806,1,1,1,true", "9223372036854775807,1,1,1,true"))
    assert log.num_episodes == 2


def test_names_from_pandas_and_odd_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(tiny_columns() | {"observation": list(tiny_columns()["observation"])})
    frame[3] = 1  # a name that is no text
    assert st.read(frame).num_transitions == 6
    columns = table("flat").to_pydict()
    names = {"seen_a": "seen.a", "seen_b": "seen", "next_a": "next a\n", "next_b": "ÄÖ\t\"'"}
    odd = pa.table({names.get(name, name): column for name, column in columns.items()})
    given = Schema(
        FLAT | {"observation": ("seen.a", "seen"), "next_observation": ("next a\n", "ÄÖ\t\"'")}, num_actions=3
    )
    for name in ("log.parquet", "log.arrow", "log.jsonl"):
        (tmp_path / name).write_bytes(FILES[name](odd))
        assert st.read(tmp_path / name, given).content_hash == expected().content_hash
    with pytest.raises(SchemaError) as caught:
        st.read(odd, schema("flat"))
    first, *others = str(caught.value).split("\n")
    assert first == "the table has 4 problems:"
    assert all(line.startswith("- The schema says ") for line in others)  # no name breaks a line


@pytest.mark.usefixtures("small_blocks")
def test_columns_without_a_name_at_the_end(tmp_path: Path) -> None:
    """Those without a value are left out; the others are called by their number, and may have a role."""
    head = HEAD.replace("\n", ",,,\n")
    log = st.read(csv_log(tmp_path, *(f"{i},{i},{i % 2},{i},true,,," for i in range(30)), head=head))
    assert log.observation_names == ("observation",)
    assert "3 columns at the end have no name and no values, and were left out." in log.notes
    given = {
        "columns": {name: name for name in HEAD.strip().split(",")} | {"observation": ["observation", "6"]},
        "action": {"count": 2},
    }
    rows = [f"{i},{i},{i % 2},{i},true,,{'7' if i > 28 else '2'}," for i in range(30)]
    log = st.read(csv_log(tmp_path, *rows, head=head), Schema.from_dict(given))
    assert log.observation[[0, 29]].tolist() == [[0, 2], [29, 7]]
    assert "2 columns at the end have no name and no values, and were left out." in log.notes
    assert any("no name for a column at its end, which is called '6' here, by number" in note for note in log.notes)
    with pytest.raises(DataError, match="'' stands twice"):  # not at the end
        st.read(csv_log(tmp_path, "1,2,3,4,5", head="episode,,,reward,terminated\n"))


def test_readers_with_threads_never_hold_python_s_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that lets go of Python's memory while the interpreter ends aborts the process, once in about 50 runs."""
    given: list[pa.Buffer] = []
    for module, name in ((pyarrow.csv, "read_csv"), (pyarrow.json, "read_json")):
        real = getattr(module, name)

        def watched(buffer: pa.Buffer, *rest: Any, real: Any = real) -> pa.Table:
            given.append(buffer)
            return real(buffer, *rest)

        monkeypatch.setattr(module, name, watched)
    (tmp_path / "x.csv").write_text("episode,observation,action,reward,terminated\n01,0.5,1,0,1\n02,0.5,1,0,1\n")
    (tmp_path / "x.jsonl").write_text(
        '{"episode": 1, "observation": [0.5], "action": 0, "reward": 1, "terminated": true}\n'
    )
    for file in ("x.csv", "x.jsonl"):
        st.read(tmp_path / file)
    assert len(given) >= 4
    assert all(buffer.is_mutable for buffer in given)  # bytes that Python owns are not


@pytest.mark.usefixtures("small_blocks")
def test_identifiers_keep_leading_zeros_between_any_signs(tmp_path: Path) -> None:
    for sign in ";|#^":
        rows = [f"{i:02d}{sign}{i}{sign}0{sign}1{sign}true" for i in range(8, 12)]
        (tmp_path / "x.csv").write_text("\n".join([HEAD.strip().replace(",", sign), *rows]))
        (tmp_path / "x.toml").write_text(
            "[columns]\n"
            + "".join(f'{n} = "{n}"\n' for n in HEAD.strip().split(","))
            + f'[file]\ndelimiter = "{sign}"\n'
        )
        assert st.read(tmp_path / "x.csv").episode_id.tolist() == ["08", "09", "10", "11"]


def test_what_the_schema_says_of_the_file(tmp_path: Path) -> None:
    """Each setting against what would be found, or refused, without it."""
    names = HEAD.strip().split(",")
    path = tmp_path / "x.csv"

    def read(text: str, **rules: object) -> st.Dataset:
        path.write_text(text)
        return st.read(path, Schema.from_dict({"columns": {role: role for role in names}, "file": rules}))

    other = "a,b,c,d,e\n1,0.5,0,1,true\n"
    log = read(other, names=names)
    assert (log.num_transitions, log.observation[0, 0]) == (1, 0.5)
    assert "The first line was taken for names, which `names` of the schema replaces." in log.notes
    assert read(other.split("\n")[1], names=names).num_transitions == 1
    with pytest.raises(DataError, match=r"must be numbers; got 'b' in row 0"):
        read(other, names=names, header=False)
    with pytest.raises(DataError, match=r"`names` under \[file\] .* it names 2, and x\.csv has 5: a, b, c, d, e"):
        read(other, names=["a", "b"])
    with pytest.raises(
        DataError, match=r"Column 'observation' \(observation\) of x\.csv must have no missing values; found 1"
    ):
        read(HEAD + "1,-,0,1,true\n", na_values=["-"])
    assert read(HEAD + '1,"1,250",0,1,true\n', decimal=",").observation[0, 0] == 1.25
    assert read(HEAD + '1,"1,250",0,1,true\n', thousands=",").observation[0, 0] == 1250
    with pytest.raises(DataError, match="must be numbers; got '1 250' in row 0"):
        read(HEAD + "1,1 250,0,1,true\n", thousands="")
    log = read(HEAD + "1,1,0,1,true\n", sheet=0)
    assert "`sheet` under [file] of the schema was not needed for CSV." in log.notes
