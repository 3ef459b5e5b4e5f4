"""Reading a log of 10 million transitions: time against PyArrow alone, and memory against what is read.

    cd benchmarks && python reading.py [--rows 10_000_000] [--rounds 3]

The log: 17 float32 observations and 6 float32 actions, episodes of 1,000 steps, as one Parquet file; once with a column
a number ("columns"), once with a list column each ("lists"). PyArrow's side reads the same observation and action columns
into one (N, 17) and one (N, 6) array, and does nothing else: no order, ends, rewards or checks. Every measurement is a
process of its own, the sides alternating. Also the native store: conversion, opening, one pass over its observations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from environment import describe

OBSERVATION, ACTION, LENGTH = 17, 6, 1000
RESULTS = Path(__file__).resolve().parent / "results"
ONE = """
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
import stitchrl as st
import stitchrl.reading.read
side, path = sys.argv[1:3]
def memory(key):  # of this process, in bytes; getrusage would count what its parent held
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
before, start = memory("VmRSS"), time.perf_counter()
if side == "pyarrow columns":
    table = pq.read_table(path, columns=[*(f"obs_{i}" for i in range(17)), *(f"action_{i}" for i in range(6))])
    arrays = [np.column_stack([table[f"{n}_{i}"].to_numpy() for i in range(k)]) for n, k in (("obs", 17), ("action", 6))]
elif side == "pyarrow lists":
    table = pq.read_table(path, columns=["observation", "action"])
    arrays = [table[n].combine_chunks().flatten().to_numpy().reshape(-1, k) for n, k in (("observation", 17), ("action", 6))]
elif side == "convert":
    st.convert(path, sys.argv[3]); arrays = []
else:
    log = st.read(path)
    arrays = [v for v in vars(log).values() if isinstance(v, np.ndarray)]
seconds = time.perf_counter() - start
if side == "pass":
    total = sum(float(log.observation_table[a:a + 65536].sum()) for a in range(0, len(log.observation_table), 65536))
    seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "bytes": sum(a.nbytes for a in arrays), "peak": memory("VmHWM") - before}))
"""


def write_log(path: Path, rows: int, lists: bool) -> None:
    """The log, a million rows at a time."""
    rng, writer = np.random.default_rng(0), None
    for start in range(0, rows, 1_000_000):
        at = np.arange(start, min(start + 1_000_000, rows))
        obs = rng.standard_normal((len(at), OBSERVATION), dtype=np.float32)
        action = rng.uniform(-1, 1, (len(at), ACTION)).astype(np.float32)
        columns = {"episode": at // LENGTH, "step": (at % LENGTH).astype(np.int32)}
        for name, values in (("observation", obs), ("action", action)):
            if lists:
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            else:
                short = "obs" if name == "observation" else name
                columns |= {f"{short}_{i}": np.ascontiguousarray(values[:, i]) for i in range(values.shape[1])}
        columns["reward"] = rng.standard_normal(len(at), dtype=np.float32)
        columns["terminated"] = np.zeros(len(at), bool)
        columns["truncated"] = (at % LENGTH == LENGTH - 1) | (at == rows - 1)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def one(*arguments: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    done = subprocess.run([sys.executable, "-c", ONE, *arguments], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    lines = [
        "# Reading",
        "",
        "What PyArrow's side does, and what it leaves out, stands in `benchmarks/reading.py`.",
        "",
        f"{args.rows:,} transitions; {args.rounds} rounds, sides alternating; medians, ranges in brackets.",
        "",
        "| Parquet | PyArrow alone | `st.read` | time ratio (bar 1.5) | arrays | peak growth | memory ratio (bar 1.3) |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("columns", "lists"):
            path = Path(folder) / f"{kind}.parquet"
            write_log(path, args.rows, kind == "lists")
            one("stitchrl", str(path))  # the file into the page cache, once for both
            found: dict[str, list[dict[str, float]]] = {"pyarrow": [], "stitchrl": []}
            for _ in range(args.rounds):
                found["pyarrow"].append(one(f"pyarrow {kind}", str(path)))
                found["stitchrl"].append(one("stitchrl", str(path)))
            theirs, ours = (sorted(r["seconds"] for r in found[side]) for side in ("pyarrow", "stitchrl"))
            ratio = statistics.median(ours) / statistics.median(theirs)
            memory = [r["peak"] / r["bytes"] for r in found["stitchrl"]]
            peak, size = statistics.median(r["peak"] for r in found["stitchrl"]), found["stitchrl"][0]["bytes"]
            lines.append(
                f"| {kind} | {_seconds(theirs)} | {_seconds(ours)} | {ratio:.2f} | {size / 1e6:,.0f} MB | "
                f"{peak / 1e6:,.0f} MB | {statistics.median(memory):.2f} |"
            )
            print(lines[-1], flush=True)
        store = str(Path(folder) / "store")
        made = one("convert", str(Path(folder) / "lists.parquet"), store)
        opened, passed = one("open", store), one("pass", store)
        lines += [
            "",
            "| native store | seconds | peak growth |",
            "|---|---|---|",
            f"| conversion from Parquet, content hash included | {made['seconds']:.1f} | {made['peak'] / 1e6:,.0f} MB |",
            f"| opening ({opened['bytes'] / 1e6:,.0f} MB of arrays) | {opened['seconds']:.3f} | "
            f"{opened['peak'] / 1e6:,.0f} MB |",
            f"| opening and one pass over the observations | {passed['seconds']:.2f} | (page cache) |",
        ]
    lines += ["", describe(" ".join(["python reading.py", *sys.argv[1:]])), ""]
    (RESULTS / "reading.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s [{values[0]:.2f}, {values[-1]:.2f}]"


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")
