"""Time and memory of an audit of a large log.

    python benchmarks/audit_speed.py [--transitions 10000000] [--folder FOLDER] [--out benchmarks/results/audit_speed.md]

The log: 17 float32 numbers seen, 6 of action, episodes of 1 to 1,000 steps, written to disk once as plain arrays and read
as memory maps, as a log larger than memory is. The audit runs in a process of its own; its memory is the peak of what is
not backed by a file (RssAnon of Linux), above what it was before the audit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from environment import describe

OBSERVATION, ACTION = 17, 6
CHUNK = 2**18


def write_log(folder: Path, transitions: int) -> None:
    """The arrays of the log: a random walk that forgets, actions that follow it, a reward of both."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lengths = rng.integers(1, 1001, 2 * transitions // 500 + 1)
    start = np.concatenate([[0], np.cumsum(lengths)])
    start = np.append(start[start < transitions], transitions)
    shapes = {
        "observation_table": (transitions, OBSERVATION),
        "action": (transitions, ACTION),
        "reward": (transitions,),
    }
    arrays = {n: np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.float32, s) for n, s in shapes.items()}
    weight = rng.normal(size=(OBSERVATION, ACTION)) / OBSERVATION
    state = np.zeros(OBSERVATION)
    for begin in range(0, transitions, CHUNK):
        rows = slice(begin, min(begin + CHUNK, transitions))
        noise = rng.normal(size=(rows.stop - begin, OBSERVATION)).cumsum(0) * 0.1
        seen = np.sin(state + noise) + 0.01 * rng.normal(size=noise.shape)
        state = state + noise[-1]
        action = np.tanh(seen @ weight + 0.3 * rng.normal(size=(len(seen), ACTION)))
        arrays["observation_table"][rows] = seen
        arrays["action"][rows] = action
        arrays["reward"][rows] = seen[:, 0] - (action**2).sum(1)
    index = np.lib.format.open_memmap(folder / "observation_index.npy", "w+", np.int32, (transitions,))
    index[:] = np.arange(transitions)
    following = np.lib.format.open_memmap(folder / "next_observation_index.npy", "w+", np.int32, (transitions,))
    following[:] = np.arange(1, transitions + 1)
    following[start[1:] - 1] = -1
    ended = np.zeros(transitions, bool)
    ended[start[1:] - 1] = True
    np.save(folder / "terminated.npy", ended)
    np.save(folder / "truncated.npy", np.zeros(transitions, bool))
    np.save(folder / "step.npy", np.arange(transitions) - np.repeat(start[:-1], np.diff(start)))
    np.save(folder / "episode_start.npy", start.astype(np.int64))


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(folder: Path) -> None:
    """The audit of the log in a folder; one line of JSON."""
    import stitchrl as st
    from stitchrl.data.dataset import Dataset
    from stitchrl.data.schema import Schema

    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    roles = ("episode", "observation", "action", "reward", "terminated", "truncated")
    schema = Schema({role: role for role in roles}, name="large")
    log = Dataset(**arrays, episode_id=np.arange(len(arrays["episode_start"]) - 1), schema=schema)
    st.audit(log.select_episodes(range(50)))  # imports and first calls are not the audit
    before, peak, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    found = st.audit(log)
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    codes = [finding.code for finding in found.findings]
    print(json.dumps({"seconds": seconds, "megabytes": (peak[0] - before) / 1e6, "codes": codes}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to put the log; a temporary folder by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        for transitions in (given.transitions // 10, given.transitions):
            folder = Path(temporary) / str(transitions)
            write_log(folder, transitions)
            size = sum(path.stat().st_size for path in folder.glob("*.npy"))
            words = [sys.executable, __file__, "--measure", str(folder)]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                f"| {transitions:,} | {size / 1e6:,.0f} | {found['seconds']:.1f} | {found['megabytes']:.0f} | "
                f"{', '.join(found['codes'])} |"
            )
            print(rows[-1], flush=True)
    lines = [
        "# Speed of the audit",
        "",
        f"{OBSERVATION} float32 numbers seen, {ACTION} of action, arrays on disk read as memory maps. Memory is what the audit "
        "added that no file backs, at its peak. Bar: 10 million transitions within 60 s on 2 cores.",
        "",
        "| transitions | MB on disk | seconds | MB added | findings |",
        "|---|---|---|---|---|",
        *rows,
        "",
        describe(f"python benchmarks/audit_speed.py --transitions {given.transitions}"),
        "- threads of the linear algebra: " + os.environ.get("OMP_NUM_THREADS", "as many as cores"),
    ]
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
