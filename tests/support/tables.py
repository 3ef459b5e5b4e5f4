"""One log as tables, files and objects of every tabular format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from worlds import full_columns

import stitchrl as st
from stitchrl.data.schema import Schema

FLAT = {
    "episode": "episode",
    "step": "step",
    "observation": ("seen_a", "seen_b"),
    "next_observation": ("next_a", "next_b"),
    "action": "action",
    "reward": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "source": "source",
    "weight": "weight",
    "time": "time",
    "behavior_log_prob": "behavior_log_prob",
}
LISTS = FLAT | {"observation": "observation", "next_observation": "next_observation"}


def table(form: str) -> pa.Table:
    """`full_columns` as an Arrow table, whose vectors are lists ("lists") or spread over columns ("flat")."""
    columns = full_columns()
    made = {role: pa.array(columns[role].tolist()) for role in FLAT if columns[role].ndim == 1}
    for role, name in (("observation", "seen"), ("next_observation", "next")):
        if form == "lists":
            made[role] = pa.array(columns[role].tolist())
        else:
            made |= {f"{name}_{c}": pa.array(columns[role][:, i].tolist()) for i, c in enumerate("ab")}
    return pa.table(made)


def schema(form: str) -> Schema:
    """The schema of `table`."""
    return Schema(LISTS if form == "lists" else FLAT, num_actions=3)


def as_json(content: pa.Table) -> bytes:
    """A table as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in content.to_pylist()).encode()


def as_csv(content: pa.Table, delimiter: str = ",") -> bytes:
    """A table as delimited text."""
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(content, sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


def zst(content: bytes) -> bytes:
    """Bytes compressed by Zstandard."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


def arrow_bytes(content: pa.Table, new: Callable[..., Any]) -> bytes:
    """A table as Arrow IPC in batches of four rows; `new` opens a file or a stream."""
    sink = pa.BufferOutputStream()
    with new(sink, content.schema) as writer:
        for start in range(0, len(content), 4):
            writer.write_table(content.slice(start, 4))
    return sink.getvalue().to_pybytes()


def parquet_bytes(content: pa.Table, **options: Any) -> bytes:
    """A table as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink, **options)
    return sink.getvalue().to_pybytes()


FILES: dict[str, Callable[[pa.Table], bytes]] = {
    "log.parquet": parquet_bytes,
    "groups.parquet": lambda t: parquet_bytes(t, row_group_size=2),
    "log.arrow": lambda t: arrow_bytes(t, pa.ipc.new_file),
    "log.arrows": lambda t: arrow_bytes(t, pa.ipc.new_stream),
    "log.jsonl": as_json,
    "log.jsonl.gz": lambda t: gzip.compress(as_json(t)),
    "log.csv": as_csv,
    "log.tsv": lambda t: as_csv(t, "\t"),
    "tabs.csv": lambda t: as_csv(t, "\t"),
    "log.csv.gz": lambda t: gzip.compress(as_csv(t)),
    "two.csv.gz": lambda t: gzip.compress(as_csv(t)[:90]) + gzip.compress(as_csv(t)[90:]),
    "log.csv.zst": lambda t: zst(as_csv(t)),
    "log.tsv.gz": lambda t: gzip.compress(as_csv(t, "\t")),
    "marked.csv": lambda t: b"\xef\xbb\xbf" + as_csv(t).replace(b"\n", b"\r\n"),
    "spaced.csv": lambda t: b"\n" + as_csv(t).replace(b"\n", b"\n\n"),
}


@cache
def expected() -> st.Dataset:
    """The log that every format must give."""
    columns = full_columns()
    return st.read({role: columns[role] for role in LISTS}, Schema({role: role for role in LISTS}, num_actions=3))
