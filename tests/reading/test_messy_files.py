"""The files that people really have: each reaches an audit with at most twelve lines of TOML, as its clean twin does."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from spreadsheets import write_ods, write_xlsx

import stitchrl as st
from stitchrl.errors import DataError, SchemaError
from stitchrl.reading.read import open_log
from stitchrl.reading.sources.first_lines import title_rows

HEAD = ["patient", "visit", "hour", "at", "lactate", "pressure", "ward", "action", "reward", "died"]
TOML = """\
[columns]
episode = ["patient", "visit"]
step = "hour"
time = "at"
observation = ["lactate", "pressure", "ward"]
action = "action"
reward = "reward"
terminated = "died"
[observation.ward]
categories = ["Süd", "Nord"]
[action]
count = 2
"""
SHORT = """\
[columns]
episode = ["patient", "visit"]
observation = ["lactate", "pressure"]
action = "action"
reward = "reward"
terminated = "died"
[action]
count = 2
"""
MOST_LINES = 12


@cache
def rows() -> list[list[Any]]:
    """40 stays of three hours in October and November, so that some dates tell days from months."""
    rng = np.random.default_rng(0)
    start = np.datetime64("2025-10-27T22:05", "m")
    made = []
    for stay in range(40):
        for hour in range(3):
            at = start + np.timedelta64(stay * 1440 + hour * 60, "m")
            lactate, pressure = round(float(rng.normal(2, 1)), 2), float(rng.integers(900, 1500))
            last = hour == 2
            reward = float(rng.integers(0, 2)) if last else 0.0
            ward = ("Süd", "Nord")[stay % 2]
            action = int(rng.integers(0, 2))
            made.append([stay // 2 + 1, stay % 2 + 1, hour, str(at), lactate, pressure, ward, action, reward, last])
    return made


def changed(**columns: Callable[[Any], Any]) -> list[list[Any]]:
    """The rows with other values in some columns; None and what a function gives otherwise are written as they are."""
    return [[columns.get(name, lambda v: v)(value) for name, value in zip(HEAD, row, strict=True)] for row in rows()]


def text(content: Sequence[Sequence[Any]], delimiter: str = ",", head: Sequence[str] | None = HEAD) -> str:
    """Delimited text."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([*([head] if head is not None else []), *content])
    return out.getvalue()


def read(folder: Path, content: str | bytes, toml: str = TOML, *, name: str = "stays.csv") -> st.Dataset:
    """The log of a file with its schema beside it, after an audit of it."""
    assert len(toml.strip().splitlines()) <= MOST_LINES
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "stays.toml").write_text(toml, encoding="utf-8")
    log = st.read(folder / name)
    st.audit(log)
    return log


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content hash of the clean twin: one column for the episode, numbers with points, ISO dates, true and false."""
    content = [[f"{row[0]}/{row[1]}", *row[2:]] for row in changed(died=lambda v: str(v).lower())]
    toml = TOML.replace('["patient", "visit"]', '"stay"')
    log = read(tmp_path_factory.mktemp("clean"), text(content, head=["stay", *HEAD[2:]]), toml)
    assert log.notes == ("Read as CSV.",)
    assert log.num_episodes == 40
    return log.content_hash


def comma(value: float) -> str:
    return str(value).replace(".", ",")


def test_episode_of_patient_and_visit(tmp_path: Path, clean: str) -> None:
    log = read(tmp_path, text(rows()))
    assert log.episode_id[:3].tolist() == ["1/1", "1/2", "2/1"]
    assert log.content_hash == clean


@pytest.mark.parametrize(("sign", "called"), [(";", "a semicolon"), ("\t", "a tab"), ("|", "a vertical bar")])
def test_other_delimiters(tmp_path: Path, clean: str, sign: str, called: str) -> None:
    log = read(tmp_path, text(rows(), sign))
    assert log.content_hash == clean
    assert f"Values are separated by {called}." in log.notes


@pytest.mark.usefixtures("small_blocks")
def test_decimal_commas(tmp_path: Path, clean: str) -> None:
    """With thousands: 1.234 is a number above a thousand here, which a reader of points would take for 1.234."""
    content = text(changed(lactate=comma, pressure=lambda v: f"{int(v):,}".replace(",", "."), reward=comma), ";")
    log = read(tmp_path, content)
    assert log.content_hash == clean
    assert {"Numbers were read with a decimal comma.", "Thousands are separated by a point in 'pressure'."} < {
        *log.notes
    }


def test_decimal_commas_between_commas(tmp_path: Path, clean: str) -> None:
    assert read(tmp_path, text(changed(lactate=comma, reward=comma, pressure=comma))).content_hash == clean


@pytest.mark.parametrize(
    ("sign", "note"), [(",", "a comma"), (" ", "a space"), ("'", "an apostrophe"), ("\u00a0", "a space")]
)
def test_thousands(tmp_path: Path, clean: str, sign: str, note: str) -> None:
    log = read(tmp_path, text(changed(pressure=lambda v: f"{int(v):,}".replace(",", sign))))
    assert log.content_hash == clean
    assert f"Thousands are separated by {note} in 'pressure'." in log.notes


def dated(pattern: str) -> Callable[[str], str]:
    return lambda at: np.datetime64(at).item().strftime(pattern)


@pytest.mark.parametrize(
    ("pattern", "order"),
    [
        ("%d.%m.%Y %H:%M", "day"),
        ("%d.%m.%Y %H:%M:%S", "day"),
        ("%d/%m/%Y %H:%M", "day"),
        ("%m/%d/%Y %I:%M %p", "month"),
    ],
)
def test_other_dates(tmp_path: Path, clean: str, pattern: str, order: str) -> None:
    log = read(tmp_path, text(changed(at=dated(pattern))))
    assert log.content_hash == clean
    assert any(note.endswith(f"were read with the {order} first.") for note in log.notes)


def test_dates_of_a_pattern_in_a_time_zone(tmp_path: Path) -> None:
    """Clock times of Berlin, which is an hour ahead of UTC in winter."""

    def local(at: str) -> str:
        return (np.datetime64(at) + np.timedelta64(60, "m")).item().strftime("%y%m%d-%H%M")

    toml = SHORT.replace("action =", 'time = "at"\naction =')
    toml += '[file]\ndates = "%y%m%d-%H%M"\ntimezone = "Europe/Berlin"\n'
    log = read(tmp_path, text(changed(at=local)), toml)
    expected = np.array([row[3] for row in rows()], "M8[us]")
    assert (log.time == expected).all()


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("Y", "N"), ("ja", "nein"), ("oui", "non"), ("T", "F"), (1, 0)])
def test_ends_in_words(tmp_path: Path, clean: str, yes: Any, no: Any) -> None:
    log = read(tmp_path, text(changed(died=lambda v: yes if v else no)))
    assert log.content_hash == clean
    assert ("Words of column 'died' were read as true and false." in log.notes) == isinstance(yes, str)


@pytest.mark.parametrize("before", ["alive", ""])
def test_words_that_mark_ends(tmp_path: Path, before: str) -> None:
    toml = SHORT + '[episodes]\nterminated_values = ["dead", "home"]\n'
    words = iter(("dead", "home") * 20)
    log = read(tmp_path, text(changed(died=lambda v: next(words) if v else before)), toml)
    assert (log.terminated == np.array([row[-1] for row in rows()])).all()


def test_reward_in_the_last_row_only(tmp_path: Path) -> None:
    content = text([[*row[:8], row[8] if row[9] else None, row[9]] for row in rows()])
    with pytest.raises(DataError, match=r"found 80, the first in row 0\. .* say `fill = 0\.0` under \[reward\]"):
        read(tmp_path, content)
    log = read(tmp_path, content, SHORT + "[reward]\nfill = 0.0\n")
    assert log.reward.tolist() == [row[8] for row in rows()]
    assert "80 missing rewards count as 0." in log.notes


def test_a_list_in_a_column(tmp_path: Path) -> None:
    """As JSON writes it and as NumPy prints it, with commas and without."""
    head = ["stay", "seen", "action", "reward", "died"]
    toml = (
        '[columns]\nepisode = "stay"\nobservation = "seen"\naction = "action"\nreward = "reward"\nterminated = "died"\n'
    )
    toml += "[action]\ncount = 2\n"
    flat = toml.replace('"seen"', '["a", "b"]')
    bare = [[f"{r[0]}-{r[1]}", r[4], r[5], *r[7:]] for r in rows()]
    expected = read(tmp_path, text(bare, head=["stay", "a", "b", *head[2:]]), flat)
    for written in ("[{}, {}]", "[{},{}]", "[ {}  {}]"):
        content = [[row[0], written.format(row[1], row[2]), *row[3:]] for row in bare]
        log = read(tmp_path, text(content, head=head), toml)
        assert log.content_hash == expected.content_hash
        assert log.observation_names == ("seen[0]", "seen[1]")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("encoding", "called"),
    [
        ("latin-1", "Windows-1252"),
        ("windows-1252", "Windows-1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-8-sig", None),
    ],
)
def test_other_encodings(tmp_path: Path, clean: str, encoding: str, called: str | None) -> None:
    log = read(tmp_path, text(rows()).encode(encoding))
    assert log.content_hash == clean
    assert (f"The text was read as {called}." in log.notes) == (called is not None)


def test_a_file_without_a_header(tmp_path: Path) -> None:
    toml = SHORT + f"[file]\nnames = {HEAD}\n".replace("'", '"')
    log = read(tmp_path, text(rows(), head=None), toml)
    assert log.num_transitions == 120
    with pytest.raises(DataError, match=r"does not have; it has: 0, 1, 2"):
        read(tmp_path, text(rows(), head=None))


@pytest.mark.parametrize(("name", "write"), [("stays.xlsx", write_xlsx), ("stays.ods", write_ods)])
def test_spreadsheets(tmp_path: Path, clean: str, name: str, write: Callable[..., Path]) -> None:
    pytest.importorskip("python_calamine")
    content = write(tmp_path / name, {"stays": [HEAD, *rows()], "notes": [["made by hand"]]}).read_bytes()
    log = read(tmp_path, content, name=name)
    assert log.content_hash == clean
    assert "Sheet 'stays' was read, one of 2." in log.notes
    with pytest.raises(
        DataError, match=r"must be one of stays\.\w+: 'stays', 'notes', or its number from 0 on; got 'x'"
    ):
        read(
            tmp_path,
            content,
            SHORT + '[file]\nsheet = "x"\n',
            name=name,
        )


def test_a_title_above_the_table_of_a_spreadsheet(tmp_path: Path, clean: str) -> None:
    pytest.importorskip("python_calamine")
    sheet = [["Export of ward 7"], [], HEAD, *rows()]
    log = read(tmp_path, write_xlsx(tmp_path / "stays.xlsx", {"stays": sheet}).read_bytes(), name="stays.xlsx")
    assert log.content_hash == clean
    assert any("above the table" in note for note in log.notes)


def test_spreadsheets_without_their_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    path = write_xlsx(tmp_path / "x.xlsx", {"a": [["b"], [1]]})
    with pytest.raises(DataError, match=r'^Reading x\.xlsx needs python-calamine: pip install "stitchrl\[excel\]"\.$'):
        st.read(path)


def test_several_files_are_written_alike(tmp_path: Path) -> None:
    """The second file alone does not tell what the comma in 1,250 separates; the first one does."""
    head = "episode;observation;action;reward;terminated\n"
    (tmp_path / "0.csv").write_text(head + "1;0,5;0;1;true\n2;0,75;1;2;true\n")
    (tmp_path / "1.csv").write_text(head + "3;1,250;0;1;true\n4;2,500;1;2;true\n")
    log = st.read(tmp_path)
    assert log.observation[:, 0].tolist() == [0.5, 0.75, 1.25, 2.5]
    with pytest.raises(
        DataError, match=r"holds '1,250' in row 0, where the comma may separate thousands or decimals: say"
    ):
        st.read(tmp_path / "1.csv")
    (tmp_path / "1.toml").write_text("[columns]\n" + "".join(f'{n} = "{n}"\n' for n in head.strip().split(";")))
    for said, expected in (('thousands = ","', [1250, 2500]), ('decimal = ","', [1.25, 2.5])):
        toml = (tmp_path / "1.toml").read_text().split("[file]")[0] + f"[file]\n{said}\n"
        (tmp_path / "1.toml").write_text(toml)
        assert st.read(tmp_path / "1.csv").observation[:, 0].tolist() == expected
    (tmp_path / "2.csv").write_text(head + "5;0.5;0;1;true\n")
    with pytest.raises(
        DataError, match=r"must write numbers alike; 0\.csv has decimal commas and 2\.csv decimal points"
    ):
        st.read(tmp_path)


def random_frame(rng: np.random.Generator) -> pd.DataFrame:
    """A table of numbers, text that holds delimiters, and flags, its columns in any order."""
    count = int(rng.integers(3, 60))
    words = ["ä b", "c;d", "e,f", "g|h", "yes", "1,5 mg", "ß"]
    frame = pd.DataFrame(
        {
            "id": [f"p{i:03d}" for i in range(count)],
            "whole": rng.integers(-50, 50, count),
            "large": rng.integers(0, 2_000_000, count),
            "small": rng.normal(size=count).round(int(rng.integers(1, 6))),
            "amount": rng.normal(0, 1000, count).round(2),
            "text": rng.choice(words, count),
            "flag": rng.random(count) < 0.5,
        }
    )
    if rng.random() < 0.3:
        frame.loc[rng.integers(0, count), "amount"] = np.nan
    return frame[rng.permutation(frame.columns)]


@pytest.mark.usefixtures("small_blocks")
def test_what_pandas_writes_is_read_whatever_the_dialect(tmp_path: Path) -> None:
    """In every combination of delimiter and decimal sign, some encoding and thousands; nothing says which."""
    rng = np.random.default_rng(0)
    for delimiter, decimal in itertools.product(",;\t|", ".,"):
        for encoding in ("utf-8", "utf-16", "windows-1252"):
            frame = random_frame(rng)
            sign = str(rng.choice([s for s in ("", ",", ".", " ", "'") if s != decimal]))
            written = frame.assign(large=[f"{value:,}".replace(",", sign) for value in frame["large"]])
            path = tmp_path / "x.csv"
            written.to_csv(path, index=False, sep=delimiter, decimal=decimal, encoding=encoding)
            log = open_log(path)
            assert list(log.names) == list(frame.columns)
            found = pa.concat_tables([pa.table(dict(block)) for block in log.blocks(log.names)]).to_pandas()
            pd.testing.assert_frame_equal(found, frame.reset_index(drop=True), check_dtype=False)


@pytest.mark.parametrize(
    ("identifiers", "episodes"),
    [(('"1,2"', '"1,20"', '"3,4"'), 3), (("1.1", "1.10", "2.5"), 3), (("7", "7", "9"), 2)],
    ids=["two numbers", "points", "whole"],
)
def test_identifiers_are_names_and_no_numbers(identifiers: tuple[str, ...], episodes: int, tmp_path: Path) -> None:
    """The steps of stays are kept apart; whole numbers stay whole numbers."""
    rows = [
        f"{name},{step},{k + 0.5},{k % 2},1,{int(step == last)}"
        for k, name in enumerate(identifiers)
        for step, last in ((2 * k, 2 * k + 1), (2 * k + 1, 2 * k + 1))
    ]
    if episodes == 2:  # the second pair goes on with the first
        rows[1] = rows[1][:-1] + "0"
    (tmp_path / "x.csv").write_text("episode,step,observation,action,reward,terminated\n" + "\n".join(rows) + "\n")
    schema = st.Schema.from_dict(
        {
            "columns": {n: n for n in ("episode", "step", "observation", "action", "reward", "terminated")},
            "action": {"count": 2},
        }
    )
    log = st.read(tmp_path / "x.csv", schema)
    assert log.num_episodes == episodes
    assert not any("decimal comma" in note for note in log.notes)
    assert (log.episode_id.dtype.kind == "i") == (episodes == 2)


def test_actions_named_by_two_numbers_are_names(tmp_path: Path) -> None:
    doses = ["1,2", "1,20", "3,4"]
    rows = [f'{k},{k + 0.5},"{doses[k % 3]}",1,1' for k in range(6)]
    (tmp_path / "x.csv").write_text("episode,observation,action,reward,terminated\n" + "\n".join(rows) + "\n")
    columns = {n: n for n in ("episode", "observation", "action", "reward", "terminated")}
    log = st.read(tmp_path / "x.csv", st.Schema.from_dict({"columns": columns, "action": {"categories": doses}}))
    assert log.action.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("written", "words"),
    [(("True", "False"), ["True"]), (("1.0", "0.0"), ["1.0"]), (("1", "0"), ["1.0"]), (("DIED", "-"), ["died"])],
)
def test_words_for_ends_are_found_however_the_column_writes_them(
    written: tuple[str, str], words: list[str], tmp_path: Path
) -> None:
    rows = [f"{k // 2},{k + 0.5},{k % 2},1,{written[0 if k % 4 == 3 else 1]}" for k in range(8)]
    (tmp_path / "x.csv").write_text("episode,observation,action,reward,how\n" + "\n".join(rows) + "\n")
    columns = {n: n for n in ("episode", "observation", "action", "reward")} | {"terminated": "how"}
    episodes = {"end": "truncated", "terminated_values": words}
    content = {"columns": columns, "action": {"count": 2}, "episodes": episodes}
    log = st.read(tmp_path / "x.csv", st.Schema.from_dict(content))
    assert np.flatnonzero(log.terminated).tolist() == [3, 7]
    assert np.flatnonzero(log.truncated).tolist() == [1, 5]


@pytest.mark.parametrize(
    ("dates", "written"),
    [("%Y-%d-%m", ("2024-01-02", "2024-02-02")), ("%Y%m%d%H%M", ("202401312359", "202402010000"))],
    ids=["day in the middle", "digits alone"],
)
def test_a_pattern_of_dates_overrules_what_they_look_like(dates: str, written: tuple[str, str], tmp_path: Path) -> None:
    rows = [f"{when},{k + 0.5},{k % 2},1,{k}" for k, when in enumerate(written)]
    (tmp_path / "x.csv").write_text("time,observation,action,reward,terminated\n" + "\n".join(rows) + "\n")
    columns = {n: n for n in ("time", "observation", "action", "reward", "terminated")}
    content = {"columns": columns, "action": {"count": 2}, "file": {"dates": dates}}
    log = st.read(tmp_path / "x.csv", st.Schema.from_dict(content))
    assert log.time is not None
    passed = np.diff(log.time)[0] / np.timedelta64(1, "m")
    assert passed == (24 * 60 if dates == "%Y-%d-%m" else 1)


@pytest.mark.parametrize("padding", ["", ",,,,,,,,,"])
def test_lines_above_the_table(tmp_path: Path, clean: str, padding: str) -> None:
    """A title and an empty line above the table are left out with a note, whether they have delimiters or not."""
    content = f'"Export of ward 7, 2026"{padding}\n{padding}\n' + text(rows())
    log = read(tmp_path, content)
    assert log.content_hash == clean
    assert any("The first 2 rows stand above the table and were left out" in note for note in log.notes)


def test_lines_above_the_table_of_a_given_number(tmp_path: Path, clean: str) -> None:
    content = "one line\nanother, with a comma\n" + text(rows())
    assert read(tmp_path, content, SHORT + "[file]\nskiprows = 2\n").num_transitions == 120
    with pytest.raises(SchemaError, match="from 0 to 90"):
        read(tmp_path, content, SHORT + "[file]\nskiprows = -1\n")


def test_a_title_is_one_text_above_a_wider_table() -> None:
    table = [["a", "b", "c"], ["1", "2", "3"]]
    assert title_rows([["Ward", "", ""], [], *table]) == 2
    assert title_rows([["1", "", ""], *table]) == 0, "a row with one number may be data without a header"
    assert title_rows([["Ward"], ["a", "b"], ["1", "2"]]) == 0
    assert title_rows(table) == 0


def test_points_that_may_separate_thousands_are_asked_about(tmp_path: Path) -> None:
    """2.260 beside 965 is never written by a program that writes decimals, so neither meaning is guessed."""
    head = "episode;observation;action;reward;terminated\n"
    written = ["2.260", "1.919", "965", "-1.001"]
    content = head + "".join(f"{i};{value};{i % 2};1;true\n" for i, value in enumerate(written * 5))
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=r"holds '2\.260' in row 0, where the point may separate thousands or decimals"):
        st.read(tmp_path / "x.csv")
    toml = (
        "[columns]\n"
        + "".join(f'{name} = "{name}"\n' for name in head.strip().split(";"))
        + "[action]\ncount = 2\n[file]\n"
    )
    for rule, meant in (('decimal = "."', 2.26), ('decimal = ","\nthousands = "."', 2260.0)):
        (tmp_path / "x.toml").write_text(toml + rule)
        assert st.read(tmp_path / "x.csv", schema=tmp_path / "x.toml").observation[0, 0] == np.float32(meant)
    (tmp_path / "x.toml").unlink()
    for more in ("2.26", "0.123"):  # each is written by programs that write decimals
        (tmp_path / "x.csv").write_text(f"{content}99;{more};0;1;true\n")
        assert st.read(tmp_path / "x.csv").observation[0, 0] == np.float32(2.26)
