"""Speed of the loop's program against another checkout's, call by call: for machines that are shared and noisy.

    python benchmarks/against.py OTHER [--turns 30] [--only IQL,...] [--out results/loop.md]

OTHER is a checkout of another commit (`git worktree add OTHER COMMIT`). Two processes, one a checkout, have the same
program compiled and take turns, in changing order: each makes the updates of one log row and brings its metrics to the
host. What is printed are medians of the ratios turn by turn, of wall time and of the processor time of the process,
which other people's work disturbs less. Setting: 17 numbers an observation, 6 an action, 256x256, batch 256, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from environment import describe

HERE = Path(__file__).resolve().parent
CASES: dict[str, dict[str, Any]] = {
    "BC": {"algorithm": "BC", "updates": 400},
    "IQL": {"algorithm": "IQL", "updates": 100},
    "TD3BC": {"algorithm": "TD3BC", "updates": 120},
    "CQL": {"algorithm": "CQL", "updates": 6},
    "IQL, 8 seeds": {"algorithm": "IQL", "updates": 16, "seeds": 8},
    "IQL, 10 updates a row": {"algorithm": "IQL", "updates": 10},
    "BC, 64 wide, batch 64": {"algorithm": "BC", "updates": 3000, "batch": 64, "settings": {"hidden_sizes": [64, 64]}},
}


def worker(job: dict[str, Any]) -> None:
    """Make a row of updates for every line on standard input: [wall seconds, processor seconds]."""
    import stitchrl as st
    from stitchrl.training import program
    from stitchrl.training.compilation import enable_compilation_cache

    assert Path(str(st.__file__)).is_relative_to(job["checkout"]), st.__file__
    try:
        from stitchrl.algorithms.base import Spec
        from stitchrl.data.scaling import Scaling
        from stitchrl.feeds.feed import transition_source

        spec_of: Any = Spec.of
    except ImportError:  # commit cbe9abc and before
        from stitchrl.data.sample import transition_source  # type: ignore[no-redef,import-not-found]
        from stitchrl.data.transform import Scaling  # type: ignore[no-redef,import-not-found]

        from stitchrl.training.run import spec_of  # type: ignore[no-redef,attr-defined]

    from throughput import algorithm_of, random_log

    enable_compilation_cache()
    log, algorithm = random_log(100_000), algorithm_of(job["algorithm"], **job.get("settings", {}))
    source, seeds, batch = (
        transition_source(log, Scaling.of(log)),
        list(range(job.get("seeds", 1))),
        job.get("batch", 256),
    )
    algorithms, updates = [algorithm] * len(seeds), job["updates"]
    if hasattr(program, "program_of"):
        made = program.program_of(algorithms, seeds, source.draw, batch, updates=10**6, log_every_updates=updates)
    else:
        made = program.Program(algorithms, seeds, source.draw, batch)  # type: ignore[misc,call-arg,unused-ignore]
    placed, done = made.place(program.initial_state(algorithms, spec_of(log), seeds)), 0

    def row(feed: Any) -> None:
        nonlocal placed, done
        arrays, end = feed(done, done + updates), done + updates
        if hasattr(made, "start"):
            placed, fetch = made.start(placed, arrays, [(done, end)])
            fetch()
        else:
            placed, _ = made(placed, arrays, done, end)
        done = end

    with source.open(iter(()), batch, updates) as feed:
        row(feed)
        row(feed)
        print("ready", flush=True)
        for _ in sys.stdin:
            wall, processor = time.perf_counter(), time.process_time()
            row(feed)
            print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)


def in_turns(job: dict[str, Any], checkouts: dict[str, Path], turns: int) -> dict[str, list[list[float]]]:
    """Side -> (wall, processor seconds) of each turn."""
    processes = {}
    for side, checkout in checkouts.items():
        words = [sys.executable, str(HERE / "against.py"), "--worker", json.dumps(job | {"checkout": str(checkout)})]
        paths = os.pathsep.join([str(checkout / "src"), str(HERE)])
        processes[side] = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
    found: dict[str, list[list[float]]] = {side: [] for side in checkouts}

    def ask(process: Any) -> list[float]:
        process.stdin.write("go\n")
        process.stdin.flush()
        return list(json.loads(process.stdout.readline()))

    for process in processes.values():
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise SystemExit("A worker failed; what it said stands above.")
    for turn in range(turns):
        for side in list(processes)[:: 1 if turn % 2 == 0 else -1]:
            found[side].append(ask(processes[side]))
    for process in processes.values():
        process.communicate()
    return found


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--only", default=";".join(CASES), help="cases, with a semicolon between them")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    if arguments.other is None:
        parser.error("the other checkout is missing")
    checkouts = {"ours": HERE.parent, "theirs": arguments.other.resolve()}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=arguments.other
    ).stdout.strip()
    lines = [
        f"Against commit {commit}, {arguments.turns} turns; above 1 this commit is faster. Medians (quartiles).\n",
        f"| case | updates/s | at {commit} | ratio by wall time | processor ms an update | at {commit} "
        "| ratio by processor time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.only.split(";"):
        job = CASES[name]
        count = job["updates"] * job.get("seeds", 1)
        found = in_turns(job, checkouts, arguments.turns)
        middle = {side: [statistics.median(turn[k] for turn in turns) for k in (0, 1)] for side, turns in found.items()}
        ratios = [
            [b[k] / a[k] for a, b in zip(found["ours"], found["theirs"], strict=True)] for k in (0, 1)
        ]  # fmt: skip
        cells = [
            name,
            *(f"{count / middle[side][0]:,.0f}" for side in found), spread(ratios[0]),
            *(f"{1e3 * middle[side][1] / count:.3f}" for side in found), spread(ratios[1]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, "", describe(f"python benchmarks/against.py OTHER --turns {arguments.turns}")]) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
