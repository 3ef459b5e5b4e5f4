"""What a run's bookkeeping costs: metrics, stop rule, red flags, checkpoints and their files, without any learning.

    python benchmarks/bookkeeping.py [--updates 1000000] [--seeds 8] [--note WORDS]

A program that only hands back ready-made numbers takes the place of the compiled one; all else is `st.fit` as a user
calls it, with 8 seeds, `log_every_updates=100`, `save_every_updates=1000`, an `EarlyStop` that never stops, and a run
directory. Networks are tiny, so that checkpoints measure their metrics and not their weights. A line is added to
results/bookkeeping.md. The script also runs with the code of commit cbe9abc on its path, where the history is
rewritten at every save.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.training import loop

RESULTS = Path(__file__).parent / "results" / "bookkeeping.md"
METRICS = (
    "loss/actor", "loss/critic", "loss/value", "policy/agreement", "policy/entropy", "q/data_mean", "q/policy_mean",
    "v/mean", "weight/clipped", "weight/mean",
)  # fmt: skip


class NoLearning:
    """Stands in for `Program`: hands the state back as it is, with other numbers each time."""

    def __init__(self, algorithms: Any, seeds: Any, *rest: Any, **named: Any) -> None:
        self._numbers = np.random.default_rng(0).random((1000, len(METRICS), len(seeds)))

    def place(self, state: Any) -> Any:
        return state

    def gather(self, placed: Any) -> Any:
        return placed

    def __call__(self, placed: Any, arrays: Any, first: int, end: int) -> Any:
        numbers = self._numbers[first % 997]
        return placed, dict(zip(METRICS, numbers.tolist(), strict=True))

    # A loop that gives a call several log rows asks for these instead.
    most_rows = 64

    def start(self, placed: Any, arrays: Any, rows: list[tuple[int, int]]) -> Any:
        numbers = np.stack([self._numbers[first % 997].T for first, _ in rows], axis=1)  # (members, rows, metrics)
        return placed, lambda: SimpleNamespace(means=numbers, names=METRICS)

    def close(self) -> None:
        pass


def log() -> st.Dataset:
    rng = np.random.default_rng(0)
    return st.read(
        {
            "episode": np.arange(400) // 4,
            "observation": rng.normal(size=(400, 3)).astype(np.float32),
            "action": rng.integers(0, 3, 400).astype(np.int32),
            "reward": rng.normal(size=400).astype(np.float32),
            "terminated": np.arange(400) % 4 == 3,
        }
    )


def seconds(updates: int, seeds: int) -> float:
    """Of one run, by the clock."""
    settings: dict[str, Any] = {
        "batch_size": 8,
        "log_every_updates": 100,
        "save_every_updates": 1000,
        "progress": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = st.fit(
            st.IQL(hidden_sizes=(4,)), log(), updates=updates, seeds=seeds, out=Path(folder) / "run",
            stop=st.EarlyStop("loss/actor", patience_updates=10 * updates), **settings,
        )  # fmt: skip
        taken = time.perf_counter() - start
        assert run.updates == updates
        assert len(run.history) == seeds * updates // 100
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--note", default="", help="what is measured, for the table")
    chosen = parser.parse_args()
    for name in ("Program", "program_of"):  # whichever the loop makes its program by
        if hasattr(loop, name):
            setattr(loop, name, NoLearning)
    seconds(100, chosen.seeds)  # compiles
    nothing = seconds(100, chosen.seeds)  # what a run costs that is over at once: networks, files
    processor = time.process_time()
    taken = seconds(chosen.updates, chosen.seeds)
    processor = time.process_time() - processor
    line = f"| {commit()} | {chosen.updates:,} | {chosen.seeds} | {taken - nothing:.1f} | {processor:.1f} | {chosen.note} |"
    print(line, describe(" ".join(["python", *sys.argv])), sep="\n")
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def commit() -> str:
    """Of the code that was measured, which may not be that of this script."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(st.__file__).parent)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
