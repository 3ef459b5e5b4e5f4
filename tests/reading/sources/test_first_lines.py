"""What stands before the table of a text file, and what ends its lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from spreadsheets import write_ods, write_xlsx

import stitchrl as st
from stitchrl.reading.sources.first_lines import first_lines

TABLE = "episode,observation,action,reward,terminated\n0,0.5,1,1,true\n1,1.5,0,2,true\n"


def log_of(folder: Path, content: str, encoding: str = "utf-8") -> st.Dataset:
    (folder / "x.csv").write_bytes(content.encode(encoding))
    return st.read(folder / "x.csv")


@pytest.mark.parametrize(
    ("before", "size", "delimiter", "comments", "titles"),
    [
        ("", 0, None, 0, 0),
        ("sep=;\n", 6, ";", 0, 0),
        ('"SEP=|"\r\n', 9, "|", 0, 0),
        ("sep=\t\n", 6, "\t", 0, 0),
        ("sep=a\n", 6, None, 0, 1),
        ("# made by hand\n", 15, None, 1, 0),
        ("# x, y\n#\n", 9, None, 2, 0),
        ("\n# x\n", 5, None, 1, 0),
        ("# x\n#a,b,c\n", 4, None, 1, 0),  # the second line has as many values as the table: it holds the names
        ("#a,b,c\n# x\n", 0, None, 0, 0),
    ],
)
def test_before_the_table(before: str, size: int, delimiter: str | None, comments: int, titles: int) -> None:
    sign = delimiter or ","
    start = (before + "1,2,3\n4,5,6\n".replace(",", sign)).encode()
    assert first_lines(start, None) == (size, delimiter, comments, titles)


def test_a_sign_before_lines_that_are_no_table_is_kept() -> None:
    assert first_lines(b"#a\n1,2\n3\n", None).comments == 0
    assert first_lines(b"#a\n#b\n", None).comments == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "content",
    [
        "sep=,\n" + TABLE,
        "sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n"),
        "# from the ward, by hand\n# twice\n" + TABLE,
        TABLE.replace("\n", "\r"),
        "sep=;\r# once\r" + TABLE.replace(",", ";").replace("\n", "\r"),
    ],
    ids=["sep", "other sep", "comments", "carriage returns", "all"],
)
def test_the_table_is_read_as_if_it_stood_alone(content: str, encoding: str, tmp_path: Path) -> None:
    expected = log_of(tmp_path, TABLE)
    log = log_of(tmp_path, content, encoding)
    assert log.content_hash == expected.content_hash
    said = [note for note in log.notes if "begin with #" in note or "begins with #" in note]
    left = {2: "The first 2 lines begin with # and were left out.", 1: "The first line begins with # and was left out."}
    assert said == ([left[content.count("#")]] if "#" in content else [])


@pytest.mark.usefixtures("small_blocks")
def test_carriage_returns_alone_in_many_blocks(tmp_path: Path) -> None:
    rows = "".join(f"{k},{k}.5,{k % 2},1,true\n" for k in range(40))
    content = TABLE.splitlines(keepends=True)[0] + rows
    assert log_of(tmp_path, content.replace("\n", "\r")).content_hash == log_of(tmp_path, content).content_hash


@pytest.mark.parametrize(("name", "write"), [("x.xlsx", write_xlsx), ("x.ods", write_ods)])
def test_empty_columns_without_a_name_are_left_out_of_spreadsheets(name: str, write: object, tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    assert callable(write)
    rows = [["episode", "observation", "", "action", "reward", "terminated", "", ""]]
    rows += [[str(k), k + 0.5, "", k, 1, True, "", ""] for k in range(2)]  # type: ignore[list-item]
    assert st.read(write(tmp_path / name, {"a": rows})).observation[:, 0].tolist() == [0.5, 1.5]
