"""Inputs that are no logs: for each a name, how it is made, and what its error message must say."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
from tables import as_csv as csv
from tables import as_json as json_lines
from tables import parquet_bytes as parquet
from tables import zst
from worlds import tiny_columns

from stitchrl.data.schema import Schema

ROLES = ("episode", "step", "observation", "action", "reward", "terminated", "truncated")
FLAT = {role: role for role in ROLES} | {"observation": ("seen_a", "seen_b")}


class Case(NamedTuple):
    """An input that is no log.

    Attributes:
        make: gives what is read, from a folder to write to.
        says: texts that the error message must contain.
        schema: what it is read by.
    """

    make: Callable[[Path], Any]
    says: tuple[str, ...] = ()
    schema: Schema | str | None = None


@cache
def lists() -> pa.Table:
    """`tiny_columns` with the observation as lists."""
    return pa.table({name: pa.array(column.tolist()) for name, column in tiny_columns().items()})


@cache
def flat() -> pa.Table:
    """The same with the observation in two columns."""
    seen = tiny_columns()["observation"]
    table = lists().drop_columns(["observation"])
    return table.append_column("seen_a", pa.array(seen[:, 0])).append_column("seen_b", pa.array(seen[:, 1]))


def changed(table: pa.Table, column: str, values: Any) -> pa.Table:
    """With another column."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return table.set_column(table.column_names.index(column), column, array)


def arrow(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


JSON_SCHEMA = Schema(
    {role: role for role in ("episode", "observation", "action", "reward", "terminated")}, num_actions=3
)
FLAT_SCHEMA = Schema(FLAT, num_actions=3)
LIST_SCHEMA = Schema({role: role for role in ROLES}, num_actions=3)
SEEDS: Mapping[str, tuple[Callable[[], bytes], Schema]] = {
    "log.parquet": (lambda: parquet(lists()), LIST_SCHEMA),
    "plain.parquet": (lambda: parquet(flat(), compression="none", use_dictionary=False), FLAT_SCHEMA),
    "log.arrow": (lambda: arrow(lists()), LIST_SCHEMA),
    "log.arrows": (lambda: arrow(lists(), stream=True), LIST_SCHEMA),
    "log.csv": (lambda: csv(flat()), FLAT_SCHEMA),
    "log.tsv": (lambda: csv(flat(), "\t"), FLAT_SCHEMA),
    "log.csv.gz": (lambda: gzip.compress(csv(flat()), mtime=0), FLAT_SCHEMA),
    "log.csv.zst": (lambda: zst(csv(flat())), FLAT_SCHEMA),
    "log.jsonl": (lambda: json_lines(lists()), LIST_SCHEMA),
    "log.jsonl.gz": (lambda: gzip.compress(json_lines(lists()), mtime=0), LIST_SCHEMA),
}
"""Valid files, whole: what is cut, turned over and mutated."""


def file(name: str, content: bytes | Callable[[], bytes], *says: str, schema: Any = None, named: bool = True) -> Case:
    """A file of this content; its sentence names it."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        return path

    return Case(make, ((name,) if named else ()) + says, schema)


def csv_file(text: str | bytes, *says: str, name: str = "x.csv", schema: Any = None) -> Case:
    return file(name, text.encode() if isinstance(text, str) else text, *says, schema=schema)


def truncated() -> Iterator[tuple[str, Case]]:
    """Every format at many lengths. Text cut between rows has lost an end, cut elsewhere a value."""
    for name, (make, schema) in SEEDS.items():
        whole = len(make())
        for share in (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
            length = int(whole * share)
            says = () if length == 0 else ("log" if name.startswith("log") else "plain",)
            yield f"{name} cut to {share:.0%}", Case(_cut(name, length), says, schema)
        if "gz" in name or "zst" in name or "parquet" in name or name == "log.arrow":
            yield f"{name} without its last byte", Case(_cut(name, whole - 1), (name,), schema)


def _cut(name: str, length: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(SEEDS[name][0]()[:length])
        return folder / name

    return make


def wrong_values() -> Iterator[tuple[str, Case]]:
    """Whole files whose content is no log, in binary and text formats alike."""
    wrong: dict[str, tuple[str, Any, tuple[str, ...]]] = {
        "text reward": ("reward", list("abcdef"), ("reward", "must be numbers", "'a' in row 0")),
        "late text reward": ("reward", ["1", "2", "3", "4", "5", "x"], ("reward", "'x' in row 5")),
        "null reward": ("reward", [1.0, 2, None, 4, 5, 6], ("'reward'", "no missing values", "row 2")),
        "NaN reward": ("reward", [1.0, 2, 4, float("nan"), 5, 6], ("reward", "row 3")),
        "infinite reward": ("reward", [1.0, 2, 4, float("inf"), 5, 6], ("reward", "infinity in row 3")),
        "reward beyond float32": ("reward", [1.0, 2, 1e200, 4, 5, 6], ("reward", "infinity in row 2")),
        "fractional action": ("action", [0.0, 1, 0.5, 0, 1, 2], ("action", "got 0.5 in row 2")),
        "action too large": ("action", [0, 1, 2, 3, 0, 1], ("action", "got 3 in row 3")),
        "action beyond int32": ("action", [0, 1, 2, 2**40, 0, 1], ("action", "got 1099511627776 in row 3")),
        "negative action": ("action", [0, 1, 2, -1, 0, 1], ("action", "got -1 in row 3")),
        "text action": ("action", ["up", "down", "up", "up", "up", "up"], ("action", "'up' in row 0")),
        "flags as words": ("terminated", ["died", "no", "died", "no", "no", "yes"], ("terminated", "'died' in row 0")),
        "flag of 2": ("terminated", [0, 0, 1, 0, 2, 1], ("terminated", "got 2 in row 4")),
        "no end": ("truncated", [False] * 6, ("episode 8", "no end")),
        "goes on": ("terminated", [True, False, True, False, False, True], ("episode 7", "goes on", "row 0")),
        "fractional step": ("step", [0.0, 0.5, 1, 0, 1, 0], ("step", "got 0.5 in row 1")),
        "step twice": ("step", [0, 1, 1, 0, 1, 0], ("step 1 twice", "row 2")),
        "text step": ("step", list("abcdef"), ("step", "'a' in row 0")),
        "null episode": ("episode", [7, 7, None, 8, 8, 9], ("'episode'", "row 2")),
    }
    for label, (column, values, says) in wrong.items():
        table = changed(flat(), column, values)
        for name, make in (("x.parquet", parquet), ("x.arrow", arrow), ("x.csv", csv), ("x.jsonl", json_lines)):
            yield f"{label} in {name}", file(name, make(table), *says, schema=FLAT_SCHEMA)
    only_lists: dict[str, tuple[str, Any, tuple[str, ...]]] = {
        "ragged lists": ("observation", [[1.0, 2]] * 3 + [[1.0]] + [[1.0, 2]] * 2, ("observation", "same length", "row 3 1")),
        "nested lists": ("observation", [[[1.0]]] * 6, ("observation", "flat lists")),
        "empty lists": ("observation", [[]] * 6, ("observation", "at least one number")),
        "null in a list": ("observation", [[1.0, None]] * 6, ("observation", "missing")),
        "null list": ("observation", [[1.0, 2], None, *[[1.0, 2]] * 4], ("'observation'", "row 1")),
        "text lists": ("observation", [["a", "b"]] * 6, ("observation", "'a' in row 0")),
        "struct observation": ("observation", [{"a": 1.0}] * 6, ("'observation'", "struct")),
        "list reward": ("reward", [[1.0]] * 6, ("'reward'", "one value a row")),
        "struct reward": ("reward", [{"a": 1}] * 6, ("'reward'",)),
        "list episode": ("episode", [[1]] * 6, ("'episode'", "one value a row")),
        "vector action": ("action", [[0, 1]] * 6, ("action", "one integer a row")),
    }  # fmt: skip
    for label, (column, values, says) in only_lists.items():
        table = changed(lists(), column, values)
        for name, make in (
            ("x.parquet", parquet),
            ("x.arrows", lambda t: arrow(t, stream=True)),
            ("x.jsonl", json_lines),
        ):
            yield f"{label} in {name}", file(name, make(table), *says, schema=LIST_SCHEMA)


HEAD = "episode,step,seen_a,seen_b,action,reward,terminated,truncated\n"
ROW = "7,0,1,2,0,1.5,true,false\n"


def text_files() -> Iterator[tuple[str, Case]]:
    good = HEAD + ROW
    yield "empty csv", csv_file("")
    yield "blank csv", csv_file("\n\n\n", "x.csv")
    yield "header only", csv_file(HEAD, "no rows", schema=FLAT_SCHEMA)
    yield "header without its end", csv_file(HEAD.strip(), "no rows", schema=FLAT_SCHEMA)
    yield "no header", csv_file(ROW * 2, schema=FLAT_SCHEMA)
    yield "no header, no schema", csv_file("7,0,1,2\n8,1,2,3\n", "must tell their roles")
    yield "duplicate columns", csv_file("a,b,a\n1,2,3\n", "'a' stands twice")
    yield "too few values", csv_file(good + "1,2\n", "row 1", "Expected 8 columns, got 2")
    yield "too many values", csv_file(good + ROW.strip() + ",9\n", "row 1", "got 9")
    yield "quote not closed", csv_file(good + '"7,1,1,2,0,1,true,false\n' + ROW, "x.csv")
    yield "quote in the header not closed", csv_file('"' + good)
    yield "mixed separators", csv_file(good + ROW.replace(",", ";"), "row 1", "got 1")
    yield "semicolons", csv_file(good.replace(",", ";"), "must tell their roles")
    yield "spaces", csv_file(good.replace(",", " "), "must tell their roles")
    yield (
        "decimal commas",
        csv_file(
            good + ROW.replace("7,0", "8,0").replace("1.5", '"1,5"'), "reward", "'1,5' in row 1", schema=FLAT_SCHEMA
        ),
    )
    yield "UTF-32", csv_file(good.encode("utf-32"))
    yield "Latin 1 in a role", csv_file(good.encode().replace(b"1.5", b"1\xe95"), "reward", "row 0", schema=FLAT_SCHEMA)
    yield "bad UTF-8 names", csv_file(good.encode().replace(b"reward", b"rew\xffard"), schema=FLAT_SCHEMA)
    yield (
        "bad UTF-8 episode",
        csv_file(good.encode().replace(b"7,", b"\x81\xfe,"), "UTF-8", "row 0", schema=FLAT_SCHEMA),
    )
    yield "NUL bytes", csv_file(good.replace("1.5", "1\x005"), "reward", schema=FLAT_SCHEMA)
    yield "all NUL", csv_file(b"\0" * 10_000)
    yield "NUL header", csv_file(b"\0,\0\n1,2\n")
    yield "random bytes", csv_file(np.random.default_rng(0).bytes(5000))
    yield (
        "booleans as text",
        csv_file(good.replace("true", "gewiss"), "terminated", "'gewiss' in row 0", schema=FLAT_SCHEMA),
    )
    yield (
        "dates in reward",
        csv_file(good.replace("1.5", "2026-01-31"), "reward", "must be numbers", schema=FLAT_SCHEMA),
    )
    yield "times of day in reward", csv_file(good.replace("1.5", "10:30:00"), "reward", "numbers", schema=FLAT_SCHEMA)
    yield "thousands", csv_file(good.replace("1.5", '"1,500"'), "reward", "'1,500' in row 0", schema=FLAT_SCHEMA)
    yield "underscores", csv_file(good.replace("1.5", "1_5"), "reward", schema=FLAT_SCHEMA)
    yield "currency", csv_file(good.replace("1.5", "€5"), "reward", "'€5' in row 0", schema=FLAT_SCHEMA)
    yield (
        "int beyond int64 as action",
        csv_file(good.replace(",0,1.5", f",{10**30},1.5"), "action", "row 0", schema=FLAT_SCHEMA),
    )
    yield "number of 10,000 digits", csv_file(good.replace("1.5", "9" * 10_000), "reward", "row 0", schema=FLAT_SCHEMA)
    yield "line of 100 MB", file("x.csv", lambda: good.encode() + b"1" * 10**8, "a line of more than 16,777,216 bytes")
    yield "header of 20 MB", file("x.csv", lambda: b"a" * (20 * 2**20), "x.csv")
    yield (
        "a million columns",
        file("x.csv", lambda: (",".join(map(str, range(10**6))) + "\n").encode(), "more than 32,768 columns"),
    )
    yield "a million empty columns", file("x.csv", lambda: b"," * 10**6 + b"\n", "more than 32,768 columns")
    yield "only carriage returns", csv_file(good.replace("\n", "\r")[:-1] + "\r" + "7")
    yield "quotes only", csv_file('"""""""\n""\n')
    yield "html", csv_file("<!DOCTYPE html>\n<html><body>404, not found</body></html>\n")
    yield "script", csv_file("#!/bin/sh\nrm -rf ~, now\n")
    line = '{"episode": 7, "observation": [1, 2], "action": 0, "reward": 1.5, "terminated": true}\n'

    def lines(text: str | bytes, *says: str) -> Case:
        return file("x.jsonl", text.encode() if isinstance(text, str) else text, *says)

    yield "empty jsonl", lines("")
    yield "blank jsonl", lines("\n \n", "no rows")
    yield (
        "an array instead of lines",
        lines("[" + line.strip() + "," + line.strip() + "]", "one object a line", "row 0"),
    )
    yield "numbers instead of objects", lines("1\n2\n", "row 0")
    yield "text instead of objects", lines('"a"\n', "row 0")
    yield "null instead of objects", lines("null\n", "one object a line", "row 0")
    yield "null after objects", lines(line + "null\n", "row 1")
    yield "empty objects", lines("{}\n{}\n")
    yield "commas between lines", lines(line.strip() + ",\n" + line)
    yield "key twice", lines(line.replace('"action": 0', '"action": 0, "action": 1'), "twice")
    yield "single quotes", lines(line.replace('"', "'"))
    yield "NaN reward in json", lines(line.replace("1.5", "NaN"), "reward", "NaN in row 0")
    yield "Infinity in json", lines(line.replace("1.5", "-Infinity"), "reward", "infinity in row 0")
    yield (
        "int beyond int64 in json",
        file("x.jsonl", line.replace(": 0,", f": {10**25},").encode(), "action", schema=JSON_SCHEMA),
    )
    yield "number of 5,000 digits in json", lines(line.replace("1.5", "9" * 5000), "reward")
    yield "half a line", lines(line + line[:40], "row 1")
    yield "garbage after an object", lines(line.strip() + " x\n")
    yield "bad UTF-8 in a key", lines(line.encode().replace(b"reward", b"rew\xff"))
    yield "bad UTF-8 in an id", lines(line.encode().replace(b"7,", b'"\xff",'), "episode", "UTF-8", "row 0")
    yield "lone surrogates", lines(line.replace("7,", '"\\ud800",'))
    yield "NUL in json", lines(line + "\0\n")
    yield "lists nested 100,000 deep", lines('{"a":' + "[" * 10**5 + "]" * 10**5 + "}\n", "inside each other")
    yield "objects nested 100,000 deep", lines('{"a":' * 10**5 + "1" + "}" * 10**5 + "\n", "inside each other")
    yield "nested late", lines(line + '{"a":' + "[" * 10**4, "inside each other")
    yield "a line of 20 MB", lines(b'{"a": "' + b"x" * (20 * 2**20) + b'"}\n', "a line of more than")
    yield "33,000 keys", lines("{" + ",".join(f'"{i}":1' for i in range(33_000)) + "}\n", "more than 32,768 columns")
    yield "mixed types in json", lines(line + line.replace("1.5", '"a"'), "reward")
    yield "mixed lists in json", lines(line + line.replace("[1, 2]", "3"), "observation")
    yield (
        "ragged in json",
        lines(line.replace("7", "6") + line.replace("[1, 2]", "[1, 2, 3]"), "observation", "row 1 3"),
    )
    yield "objects in reward", lines(line.replace("1.5", '{"a": 1}'), "'reward'")
    yield "dates in json reward", lines(line.replace("1.5", '"2026-01-31"'), "reward", "must be numbers")
    yield "true in json episodes", lines(line * 2)


def archives() -> Iterator[tuple[str, Case]]:
    """Compressed files that unpack into nothing but size, or not at all."""

    def bomb(unit: bytes, times: int) -> Callable[[], bytes]:
        def make() -> bytes:
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            return b"".join([*(packer.compress(unit) for _ in range(times)), packer.flush()])

        return make

    def members(unit: bytes, times: int) -> Callable[[], bytes]:
        """Many members after one another: 10 GB made in a moment."""
        return lambda: gzip.compress(unit, mtime=0) * times

    mebi = 2**20
    yield "10 GB of zeros", file("x.csv.gz", members(b"\0" * 16 * mebi, 640), "x.csv.gz")
    yield "10 GB of commas", file("x.csv.gz", members(b"," * 16 * mebi, 640), "x.csv.gz")
    yield "300 MB of lines", file("x.csv.gz", members(b"\n" * mebi, 300), "unpacks to more than")
    yield "1 GB of zeros in one", file("x.csv.gz", bomb(b"\0" * mebi, 64), "x.csv.gz")
    yield "zeros as json", file("x.jsonl.gz", members(b"\0" * 16 * mebi, 640), "x.jsonl.gz")
    yield "brackets as json", file("x.jsonl.gz", members(b"[" * mebi, 64), "x.jsonl.gz")
    yield "zst of zeros", file("x.csv.zst", lambda: zst(b"\0" * 64 * mebi), "x.csv.zst")
    yield "a gz that is none", file("x.csv.gz", b"\x1f\x8b" + bytes(100), "x.csv.gz")
    yield "a zst that is none", file("x.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(100), "x.csv.zst")
    yield "gz of gz", file("x.csv.gz", gzip.compress(gzip.compress(csv(flat()))), "x.csv.gz")
    yield "gz of nothing", file("x.csv.gz", gzip.compress(b""), "x.csv.gz")
    yield "gz of a Parquet file", file("x.csv.gz", gzip.compress(parquet(lists())), "x.csv.gz")
    yield "gz of a wrong check sum", file("x.csv.gz", _flip(gzip.compress(csv(flat()), mtime=0), -6), "x.csv.gz")
    yield "gz with garbage behind", file("x.csv.gz", gzip.compress(csv(flat()), mtime=0) + b"garbage" * 3, "x.csv.gz")
    yield "Parquet in gz", file("x.parquet.gz", gzip.compress(parquet(lists())), "x.parquet.gz")


def _flip(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0xFF
    return bytes(changed)


def _varint(value: int) -> bytes:
    out = bytearray()
    value <<= 1  # zigzag, of what is not negative
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def declaring(rows: int, *, only_first: bool = False) -> bytes:
    """A Parquet file of 12,345 rows whose footer says it has others: Thrift's numbers are replaced where they stand."""
    table = pa.table({"episode": pa.array([0] * 12_345), "observation": pa.array([0.5] * 12_345)})
    for name in ("action", "reward", "terminated"):
        table = table.append_column(name, pa.array([0.0] * 12_345))
    content = parquet(table, write_statistics=False, compression="none")
    length = struct.unpack("<I", content[-8:-4])[0]
    footer = content[-8 - length : -8].replace(_varint(12_345), _varint(rows), 1 if only_first else -1)
    return content[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def binary_files() -> Iterator[tuple[str, Case]]:
    for rows in (10**15, 2**62, 12_346, 0):
        yield f"Parquet declares {rows} rows", file("x.parquet", lambda rows=rows: declaring(rows), "x.parquet")
        yield (
            f"Parquet's header declares {rows} rows",
            file("x.parquet", lambda rows=rows: declaring(rows, only_first=True), "x.parquet"),
        )
    good = parquet(lists())
    length = struct.unpack("<I", good[-8:-4])[0]
    yield "Parquet of 4 bytes", file("x.parquet", b"PAR1", "x.parquet")
    yield "Parquet of two marks", file("x.parquet", b"PAR1PAR1", "x.parquet")
    yield "encrypted Parquet", file("x.parquet", good[:-4] + b"PARE", "x.parquet")
    yield "footer of 4 GB", file("x.parquet", good[:-8] + b"\xff\xff\xff\xffPAR1", "x.parquet")
    yield "footer of nothing", file("x.parquet", good[:-8] + b"\0\0\0\0PAR1", "x.parquet")
    yield "footer of zeros", file("x.parquet", good[: -8 - length] + bytes(length) + good[-8:], "x.parquet")
    yield (
        "pages of zeros",
        file("x.parquet", b"PAR1" + bytes(len(good) - length - 12) + good[-8 - length :], "x.parquet"),
    )
    yield "Parquet without columns", file("x.parquet", parquet(pa.table({})), "must tell their roles")
    yield "Parquet without rows", file("x.parquet", parquet(lists().slice(0, 0)), "has no rows")
    yield (
        "Parquet with a column twice",
        file("x.parquet", parquet(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])), "'a' stands twice"),
    )
    yield "Parquet of other names", file("x.parquet", parquet(pa.table({"a": [1]})), "must tell their roles")
    yield "Arrow of 6 bytes", file("x.arrow", b"ARROW1", "x.arrow")
    yield "Arrow of zeros", file("x.arrow", b"ARROW1" + bytes(1000), "x.arrow")
    yield "Arrow, footer too long", file("x.arrow", arrow(lists())[:-10] + b"\xff\xff\xff\x7fARROW1", "x.arrow")
    yield "Arrow, footer negative", file("x.arrow", arrow(lists())[:-10] + b"\xff\xff\xff\xffARROW1", "x.arrow")
    yield "Arrow without rows", file("x.arrow", arrow(lists().slice(0, 0)), "has no rows")
    yield (
        "Arrow with a column twice",
        file("x.arrow", arrow(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])), "'a' stands twice"),
    )
    yield "stream of a mark", file("x.arrows", b"\xff\xff\xff\xff", "x.arrows")
    yield "stream, message of 2 GB", file("x.arrows", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), "x.arrows")
    yield "stream that ended at once", file("x.arrows", b"\xff\xff\xff\xff\0\0\0\0", "x.arrows")
    yield "stream without rows", file("x.arrows", arrow(lists().slice(0, 0), stream=True), "has no rows")
    yield "Arrow declares 10^15 rows", file("x.arrow", lambda: _declared(arrow(_marked())), "x.arrow")
    yield "stream declares 10^15 rows", file("x.arrows", lambda: _declared(arrow(_marked(), stream=True)), "x.arrows")
    for name in ("x.parquet", "x.arrow", "x.csv", "x.jsonl", "x.arrows"):
        for label, content in (
            ("zeros", bytes(4096)),
            ("noise", np.random.default_rng(1).bytes(4096)),
            ("nothing", b""),
        ):
            yield f"{name} of {label}", file(name, content)
    for name in ("x.arrow", "x.arrows"):
        content = arrow(wild_codes(), stream=name == "x.arrows")
        yield f"wild codes in {name}", file(name, content, name, "1000000", schema=LIST_SCHEMA)
    yield "PNG", file("x.parquet", b"\x89PNG\r\n\x1a\n" + bytes(100))
    yield "unknown ending", file("x.xyz", b"hello", "format of x.xyz cannot be told")
    yield "a folder of nothing", Case(lambda folder: folder, ("There is no file in",))
    yield "nowhere", Case(lambda folder: folder / "nowhere.parquet", ("There is no log", "nowhere.parquet"))
    yield "a name of 5,000 characters", Case(lambda folder: folder / ("x" * 5000), ("There is no log",))
    yield "a name with NUL", Case(lambda folder: str(folder / "x\0y"), ("There is no log",))
    yield "a name with a line break", file("x\ny.parquet", good[:100], "x\\ny.parquet", named=False)
    yield "a pattern of nothing", Case(lambda folder: folder / "*.parquet", ("There is no file in",))


@cache
def wild_codes() -> pa.Table:
    """Places in a dictionary of two, one of them the millionth."""
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1, 10**6, 0, 0, 1]), pa.array(["a", "b"]), safe=False)
    return changed(lists(), "episode", codes)


def _marked() -> pa.Table:
    """12,345 rows: a number to be found in flatbuffers."""
    return pa.table(
        {name: pa.array([0.5] * 12_345) for name in ("episode", "observation", "action", "reward", "terminated")}
    )


def _declared(content: bytes) -> bytes:
    return content.replace(struct.pack("<q", 12_345), struct.pack("<q", 10**15))


def objects() -> Iterator[tuple[str, Case]]:
    """Dicts and frames."""

    def of(source: Any, *says: str, schema: Any = None) -> Case:
        return Case(lambda folder: source, says, schema)

    tiny = tiny_columns()
    yield "empty dict", of({}, "the dict", "must tell their roles")
    yield "None", of(None, "takes a path")
    yield "a number", of(3.5, "takes a path")
    yield "a list of rows", of([tiny], "takes a path")
    yield "an array", of(np.zeros((3, 3)), "takes a path")
    yield "bytes", of(b"log.csv", "takes a path")
    yield "a scalar column", of(tiny | {"reward": 3}, "reward of the dict")
    yield "a None column", of(tiny | {"reward": None}, "reward of the dict")
    yield "a ragged column", of(tiny | {"observation": [[1.0], [1.0, 2.0], [], [], [], []]}, "observation of the dict")
    yield "an object column", of(tiny | {"reward": np.array([1, "a", None, 2, 3, 4], object)}, "reward of the dict")
    yield "ints beyond 64 bits", of(tiny | {"action": [10**30] * 6}, "action of the dict")
    yield "a generator", of(tiny | {"reward": (x for x in range(6))}, "reward of the dict", "generator")
    yield "a set", of(tiny | {"reward": {1, 2}}, "reward of the dict")
    yield "a dict of dicts", of(tiny | {"reward": {"a": 1}}, "reward of the dict")
    yield "unequal lengths", of(tiny | {"reward": np.zeros(5)}, "the dict", "reward 5")
    yield "no rows", of({k: v[:0] for k, v in tiny.items()}, "the dict has no rows")
    yield "complex rewards", of(tiny | {"reward": np.ones(6, complex)}, "'reward'", "complex128")
    yield "structured rewards", of(tiny | {"reward": np.zeros(6, [("a", "f4")])}, "'reward'")
    yield "two-axis rewards", of(tiny | {"reward": np.zeros((6, 2))}, "reward of the dict", "one value a row")
    yield (
        "three-axis actions",
        of(tiny | {"action": np.zeros((6, 2, 2))}, "action of the dict", "one list of values, a row"),
    )
    yield "two-axis episodes", of(tiny | {"episode": np.zeros((6, 2))}, "episode of the dict", "one value a row")
    yield "dates as rewards", of(tiny | {"reward": np.zeros(6, "M8[s]")}, "reward of the dict must be numbers")
    yield "NaT times", of(tiny | {"time": np.array(["NaT"] * 6, "M8[s]")}, "time of the dict", "row 0")
    yield "NaT episodes", of(tiny | {"episode": np.array(["NaT"] * 6, "M8[s]")}, "episode of the dict", "row 0")
    yield "NaN episodes", of(tiny | {"episode": np.full(6, np.nan)}, "episode of the dict", "row 0")
    yield "NaN steps", of(tiny | {"step": np.full(6, np.nan)}, "step of the dict", "row 0")
    yield "infinite times", of(tiny | {"time": np.full(6, np.inf)}, "time of the dict", "row 0")
    yield "text times", of(tiny | {"time": np.array(list("abcdef"))}, "time of the dict", "'a'")
    yield "observations of no numbers", of(tiny | {"observation": np.zeros((6, 0))}, "observation of the dict")
    yield (
        "text observations",
        of(tiny | {"observation": np.array(list("abcdef"))}, "observation of the dict", "'a' in row 0"),
    )
    yield "bytes that are no text", of(tiny | {"source": np.array([b"\xff"] * 6)}, "'source'")
    yield "text of a mile", of(tiny | {"source": np.array(["a" * 100_000, *"abcde"])}, "source of the dict", "100,000")
    yield "masked", of(tiny | {"reward": np.ma.masked_less(tiny["reward"], 0)}, "reward of the dict", "masked")
    yield (
        "name with control characters",
        of(tiny, "\\n", schema=Schema({role: role for role in ROLES} | {"reward": "a\nb\x1b[31m"}, num_actions=3)),
    )
    frame = pd.DataFrame({k: list(v) for k, v in tiny.items()})
    yield "empty pandas", of(pd.DataFrame(), "the frame")
    yield "pandas without rows", of(frame[:0], "the frame")
    yield "pandas with a column twice", of(pd.concat([frame, frame], axis=1), "the frame")
    yield "pandas of mixed types", of(frame.assign(reward=[1, "a", 2, 3, 4, 5]), "the frame")
    yield "pandas of sets", of(frame.assign(reward=[{1}] * 6), "the frame")
    yield "pandas with NaN", of(frame.assign(reward=np.nan), "'reward'", "row 0")
    yield "pandas with intervals", of(frame.assign(reward=pd.interval_range(0, 6)), "the frame")
    yield "pandas with None lists", of(frame.assign(observation=[None, *[[1.0, 2]] * 5]), "'observation'", "row 0")
    yield "pandas series", of(frame["reward"], "takes a path")
    yield "polars lazy", of(pl.LazyFrame({"a": [1]}), "takes a path")
    polars = pl.DataFrame({k: v.tolist() for k, v in tiny.items()})
    yield "empty polars", of(pl.DataFrame(), "the frame")
    yield "polars with nulls", of(polars.with_columns(reward=pl.lit(None)), "'reward'", "row 0")
    yield "polars of objects", of(polars.with_columns(pl.Series("reward", [object()] * 6)), "the frame")
    yield "polars of structs", of(polars.with_columns(reward=pl.struct("step")), "'reward'", "struct")
    yield "table with a column twice", of(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"]), "'a' stands twice")
    offsets = pa.py_buffer(np.array([0, 2, 10**6, 4, 6, 8, 12], np.int32))
    wild = pa.Array.from_buffers(pa.list_(pa.float64()), 6, [None, offsets], children=[pa.array(np.zeros(12))])
    yield "table with wild offsets", of(changed(lists(), "observation", wild), "the table")
    text = pa.Array.from_buffers(pa.string(), 6, [None, offsets, pa.py_buffer(b"abcdefghijkl")])
    yield "table with wild text", of(changed(lists(), "episode", text), "the table")
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1, 9, 0, 0, 1], pa.int8()), pa.array(["a", "b"]), safe=False)
    yield "table with wild codes", of(changed(lists(), "episode", codes), "the table")


ROLE_LINES = "\n".join(f'{role} = "{role}"' for role in ROLES)
BASE = f"[columns]\n{ROLE_LINES}\n"


def schemas() -> Iterator[tuple[str, Case]]:
    """Hostile schemas, read with a good log."""

    def toml(text: str | bytes, *says: str) -> Case:
        def make(folder: Path) -> Path:
            (folder / "x.parquet").write_bytes(parquet(lists()))
            (folder / "x.toml").write_bytes(text.encode() if isinstance(text, str) else text)
            return folder / "x.parquet"

        return Case(make, says)

    discrete = BASE + "[action]\ncount = 3\n"
    yield "no TOML", toml("]]]", "is not TOML")
    yield "bad UTF-8 TOML", toml(b"\xff\xfe", "is not TOML")
    yield "empty TOML", toml("", "names no column for")
    yield "deep arrays", toml("a = " + "[" * 10**5 + "]" * 10**5, "is not TOML")
    yield "deep tables", toml("[" + ".".join(["a"] * 10**4) + "]\n")
    yield "a number of 10,000 digits", toml(discrete + "[task]\ngamma = " + "9" * 10_000, "is not TOML")
    yield "control characters in TOML", toml('a = "\x01"', "is not TOML")
    yield "a key twice", toml("[columns]\na = 1\na = 2\n", "is not TOML")
    yield "section twice", toml("[columns]\n[columns]\n", "is not TOML")
    yield "columns a list of tables", toml("[[columns]]\n", "'columns'")
    for section in ("columns", "observation", "action", "reward", "episodes", "task"):
        for label, value in (("a number", "1"), ("a list", "[1]"), ("a date", "2026-01-31")):
            yield f"{section} is {label}", toml(f"{section} = {value}\n", f"'{section}'")
        if section != "observation":
            yield f"{section} with a strange key", toml(f'[{section}]\n"a\\nb\\u001b" = 1\n', "may have")
    wrong = {
        "columns/step": ("1", "[[]]", "{}", '["a", 1]', '[""]', '""', "[]", "true", '["step", "step"]'),
        "action/count": ('"3"', "-1", "0", "1", "65537", "1e3", "[]", "[0, 2]", "[300, 300]", "[true]", str(10**30)),
        "action/bins": ("1", "[1.0]", "[[]]", "[]", "[[2.0, 1.0]]", "[[1.0, 1.0]]", "[[nan]]", "[[inf]]", f"[[{10**400}]]"),
        "action/categories": ("[]", '["a"]', '["a", "a"]', "[1.5]", "[true, false]", "[[1]]", '"ab"', '[1, "1"]'),
        "action/kind": ("1", '"box"', '"discrete"'),
        "action/low": ("1", '["a"]', "[]", f"[{10**400}]", "[nan]"),
        "reward/expression": (
            '"reward.real"', '"__import__(\'os\')"', '"reward if reward else 1"', '"lambda: 1"', '"[r for r in reward]"',
            '"reward[0]"', "'\"text\" + reward'", '"reward; 1"', '"exec(1)"', '"abs(reward, reward)"', '"abs(x=1)"',
            '"abs(*reward)"', '""', '" "', '"`reward"', '"1j"', '"reward is 1"', '"1 < reward < 2"', '"reward := 1"',
            f'"{"(" * 10**5}1{")" * 10**5}"', f'"{"-" * 1900}1"', f'"{"1+" * 900}1"', f'"1{"0" * 1000}"', '"absent + 1"',
            '"reward @ reward"', '"~reward"', '"reward << 2"', '"reward // 2"', '"f\'{reward}\'"', '"yield"', '"\\u0000"',
            "1", "[]", '"..."', '"None"', '"reward.__class__"', '"{}"', '"max(reward)"', '"9**9**9**9 * reward"',
        ),
        "reward/low": ('"a"', "nan", f"{10**400}"),
        "episodes/bandit": ("1", '"yes"'),
        "episodes/end": ("1", '"never"', '""', "[]"),
        "episodes/gap": ("0", "-1", "nan", "inf", '"1h"', "1.5", f"{10**400}"),
        "episodes/files": ("1", '"some"', "[]"),
        "task/gamma": ("-0.1", "1.1", "nan", '"1"', "[]", f"{10**400}"),
        "task/name": ("1", "[]"),
        "observation/observation": ("1", '"a"', "[]"),
        "observation/other": ("{fill = 1.0}",),
    }  # fmt: skip
    for path, values in wrong.items():
        section, key = path.split("/")
        for value in values:
            base = BASE if section in ("columns", "action") else discrete
            if section == "columns":
                text = base.replace(f'{key} = "{key}"', f"{key} = {value}")
            elif path == "reward/expression":
                text = base.replace('reward = "reward"\n', "") + f"[reward]\nexpression = {value}\n"
            else:
                text = base + ("" if f"[{section}]" in base else f"[{section}]\n") + f"{key} = {value}\n"
            yield f"{path} = {value[:40]}", toml(text)
    rules = {
        "categories": ("1", "[]", '["a", "a"]', "[1.5]", "[true]"),
        "encoding": ("1", '"hot"'),
        "missing": ("true", '"drop"'),
        "fill": ("nan", "inf", '"0"', f"{10**400}"),
        "indicator": ("1",),
        "low": ("nan", '"0"', f"{10**400}", "1e30"),
        "high": ("-1e30",),
        "unit": ("1",),
        "strange": ("1",),
    }
    for key, values in rules.items():
        for value in values:
            yield (
                f"observation rule {key} = {value[:20]}",
                toml(discrete + f"[observation.observation]\n{key} = {value}\n"),
            )
    many = "[" + ",".join(f'"{i}"' for i in range(10**5)) + "]"
    yield (
        "100,000 categories, one-hot",
        toml(discrete + f"[observation.observation]\ncategories = {many}\n", "4,096"),
    )
    yield "100,000 named actions", toml(BASE + f"[action]\ncategories = {many}\n", "65,536")
    some = "[" + ",".join(f'"{i}"' for i in range(10**4)) + "]"
    yield "10,000 columns in a schema", toml(discrete.replace('"observation"', some), "x.parquet does not have")
    yield "two ways to count", toml(BASE + "[action]\ncount = 2\nbins = [[0.5]]\n", "drop the rest")
    yield "bounds of discrete actions", toml(discrete + "low = [0]\n", "`low` of [action]")
    yield "bounds that cross", toml(BASE + "[action]\nlow = [1]\nhigh = [0]\n", "`low` must not be above")
    yield "bounds of unequal length", toml(BASE + "[action]\nlow = [1]\nhigh = [2, 3]\n", "equally long")
    yield "more bounds than components", toml(BASE + "[action]\nlow = [0, 0]\n", "must have 2 components")
    yield "outside of bounds", toml(BASE + "[action]\nlow = [1]\n", "action[0]", "got 0.0 in row 0")
    yield "gap without time", toml(discrete + "[episodes]\ngap = 5\n", "needs a column with the role `time`")
    yield "reward twice", toml(discrete + '[reward]\nexpression = "1"\n', "Drop one")
    yield "absent column", toml(discrete.replace('"reward"', '"a\\nb"'), "x.parquet does not have")


CASES: dict[str, Case] = {}
for family in (truncated, wrong_values, text_files, archives, binary_files, objects, schemas):
    for label, case in family():
        assert label not in CASES, label
        CASES[label] = case
