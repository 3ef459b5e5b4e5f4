"""Training from a native store four times larger than the memory allowed, against the same log held in memory.

    cd benchmarks && python streaming.py [--rows 16_000_000] [--rounds 3]

Each training is a process of its own. The streamed one runs under RLIMIT_DATA, which file maps do not count against, set
to what the process needs before it opens the store plus a quarter of the store's size; page cache of the store is
dropped (posix_fadvise) before each. The one in memory has no limit, and is fed the very same rows (`sampling="shuffled"`),
so their parameters must be equal: checked in every round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import describe
from reading import RESULTS, write_log

ONE = """
import hashlib, json, os, resource, sys, time
import jax, numpy as np
import stitchrl as st
side, path, name, updates, quarter = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
algorithm = getattr(st, name)()
# Everything is compiled before the limit is set, on a small log of the same shape.
rng = np.random.default_rng(0)
small = st.read({"episode": np.arange(600_000) // 1000, "observation": rng.standard_normal((600_000, 17), np.float32),
    "action": rng.uniform(-1, 1, (600_000, 6)).astype(np.float32), "reward": rng.standard_normal(600_000, np.float32),
    "terminated": np.zeros(600_000, bool), "truncated": np.arange(600_000) % 1000 == 999})
streamed = {"stream": True} if side == "stream" else {"sampling": "shuffled"}
st.fit(algorithm, small, updates=200, progress=False, **streamed)
del small
def data():  # bytes that RLIMIT_DATA counts
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData")) * 1024
limit = data() + quarter
if side == "stream":
    for file in os.listdir(path):
        handle = os.open(os.path.join(path, file), os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
log = st.read(path)
marks = []
def mark(done, total, metrics):
    marks.append((done, time.perf_counter()))
run = st.fit(algorithm, log, updates=updates, progress=False, callbacks=[mark], **streamed)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(run.states): digest.update(np.asarray(leaf).tobytes())
half = len(marks) // 4  # the first buffer is read before the first update
rate = (marks[-1][0] - marks[half][0]) / (marks[-1][1] - marks[half][1])
print(json.dumps({"rate": rate, "hash": digest.hexdigest(), "data": data(), "limit": limit}))
"""


def one(side: str, path: Path, name: str, updates: int, quarter: int) -> dict[str, object]:
    """One training in a process of its own."""
    command = [sys.executable, "-c", ONE, side, str(path), name, str(updates), str(quarter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=16_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--algorithms", nargs="+", default=["IQL", "BC"])
    parser.add_argument("--seconds", type=int, default=40, help="of a training, about")
    args = parser.parse_args()
    import stitchrl as st

    with tempfile.TemporaryDirectory() as folder:
        parquet, store = Path(folder) / "log.parquet", Path(folder) / "store"
        write_log(parquet, args.rows, lists=True)
        st.convert(parquet, store)
        parquet.unlink()
        size = sum(file.stat().st_size for file in store.iterdir())
        lines = [
            "# Training from a store larger than memory",
            "",
            f"A store of {args.rows:,} transitions, {size / 1e9:.2f} GB; RLIMIT_DATA leaves {size / 4e9:.2f} GB beyond what "
            "the process holds before it opens the store. Both sides get the same rows; equal parameters are required.",
            "",
            f"{args.rounds} rounds, sides alternating; medians, ranges in brackets.",
            "",
            "| algorithm | in memory, updates/s | streamed, limited | share (bar 85%) | data memory used of the limit | "
            "parameters equal |",
            "|---|---|---|---|---|---|",
        ]
        for name in args.algorithms:
            updates = {"IQL": 200, "BC": 800}.get(name, 200) * args.seconds
            found: dict[str, list[dict[str, object]]] = {"memory": [], "stream": []}
            for _ in range(args.rounds):
                for side in found:
                    found[side].append(one(side, store, name, updates, size // 4))
            rates = {side: sorted(float(r["rate"]) for r in runs) for side, runs in found.items()}  # type: ignore[arg-type]
            middle = {side: statistics.median(values) for side, values in rates.items()}
            used = max(float(r["data"]) / float(r["limit"]) for r in found["stream"])  # type: ignore[arg-type]
            equal = len({r["hash"] for runs in found.values() for r in runs}) == 1
            lines.append(
                f"| {name} | {_range(rates['memory'])} | {_range(rates['stream'])} | "
                f"{middle['stream'] / middle['memory']:.0%} | {used:.0%} | {'yes' if equal else 'NO'} |"
            )
            print(lines[-1], flush=True)
    lines += ["", describe(" ".join(["python streaming.py", *sys.argv[1:]])), ""]
    (RESULTS / "streaming.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} [{values[0]:,.0f}, {values[-1]:,.0f}]"


if __name__ == "__main__":
    main()
