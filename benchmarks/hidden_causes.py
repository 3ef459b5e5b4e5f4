"""Does the history check see hidden causes, and does it stay silent where nothing is hidden?

    python benchmarks/hidden_causes.py [--draws 30] [--minutes 60] [--mujoco FOLDER] [--out benchmarks/results/hidden_causes.md]

Every world of `tests/support/hidden_worlds.py` is drawn afresh with its cause hidden and with it shown, at several sizes. It
stops after the given minutes, and the table says how many draws each line has. `--mujoco` adds halves of the episodes of each
Parquet file in a folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.auditing.history import HistoryCheck, history_check

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import hidden_worlds as worlds

Draw = Callable[[int], st.Dataset]


class Line:
    """The answers of the check on the draws of one world, one side and one size."""

    def __init__(self, world: str, side: str, episodes: int, draw: Draw) -> None:
        self.world, self.side, self.episodes, self.draw = world, side, episodes, draw
        self.answers: list[HistoryCheck] = []
        self.rows = 0
        self.seconds = 0.0

    def run(self, seed: int) -> tuple[HistoryCheck, int, float]:
        """The answer for one draw, its number of decisions, and the CPU seconds of the check."""
        log = self.draw(seed)
        began = time.process_time()
        return history_check(log), log.num_transitions, time.process_time() - began

    def add(self, answer: HistoryCheck, rows: int, seconds: float) -> None:
        """Count an answer."""
        self.answers.append(answer)
        self.rows = rows
        self.seconds += seconds

    def cells(self) -> list[str]:
        """The line of the table: how many logs of how many were flagged, for which target, and the mean gain."""
        count = len(self.answers)

        def flagged(target: str, passed: bool | None = False) -> int:
            return sum(g.passed is passed for a in self.answers for g in a.targets if g.target == target)

        gains = [g.gain for a in self.answers for g in a.targets if g.target == "action"]
        return [
            self.world,
            self.side,
            f"{self.episodes:,}",
            f"{self.rows:,}",
            f"**{sum(a.passed is False for a in self.answers)} of {count}**",
            *(str(flagged(target)) for target in ("action", "reward", "next observation")),
            str(sum(a.passed is None for a in self.answers)),
            f"{np.mean(gains):+.4f}" if gains else "-",
            f"{self.seconds / max(count, 1):.1f}",
        ]


def all_lines(sizes: list[int]) -> list[Line]:
    """Every world, side and size."""
    lines = []
    for size in sizes:
        for name, world in (worlds.HIDING | worlds.MEMORYLESS).items():
            for shown in (False, True):
                side = "cause shown" if shown else "cause hidden"
                lines.append(Line(name, side, size, lambda seed, w=world, n=size, s=shown: w(n, seed, s)))
        for name, world in worlds.SOUND.items():
            lines.append(Line(name, "nothing hidden", size, lambda seed, w=world, n=size: w(n, seed, True)))
    return lines


def mujoco_lines(folder: Path) -> list[Line]:
    """Random halves of the episodes of each log."""
    lines = []
    for path in sorted(folder.glob("*.parquet")):
        log = st.read(path)

        def half(seed: int, log: st.Dataset = log) -> st.Dataset:
            order = np.random.default_rng(seed).permutation(log.num_episodes)
            return log.select_episodes(np.sort(order[: log.num_episodes // 2]))

        lines.append(Line(path.stem, "MuJoCo", log.num_episodes // 2, half))
    return lines


def report(lines: list[Line], command: str) -> str:
    """The table as Markdown."""
    heads = ["world", "side", "episodes", "decisions", "flagged", "by action", "by reward", "by next observation",
             "cannot tell", "mean gain for the action, nats", "CPU seconds"]  # fmt: skip
    done = [line for line in lines if line.answers]
    silent = [a for line in done if line.side in ("cause shown", "nothing hidden") for a in line.answers]
    false = sum(answer.passed is False for answer in silent)
    doubtful = sum(answer.passed is None for answer in silent)

    def table(chosen: list[Line]) -> list[str]:
        rows = [heads, ["---"] * len(heads), *(line.cells() for line in chosen)]
        return [f"| {' | '.join(cells)} |" for cells in rows]

    return "\n".join(
        [
            "# Hidden causes: what the history check sees and what it misses",
            "",
            f"**False alarms: {false} of {len(silent)} simulated logs that hide nothing**; in {doubtful} more it says that "
            "it cannot tell. A miss is a log with a hidden cause that is not flagged.",
            "",
            "The gain of held-out log-likelihood counts from .003 nats a decision on, when its 99% interval lies above 0 and the "
            "gain is not explained by what better models of the observation gain. Thresholds were set while looking at the first "
            "three draws of each world, and these draws are among those counted.",
            "",
            "- The **preference** of a clinician who affects no outcome is flagged too: it does decide actions beyond the "
            "observation. The log alone cannot say that such a cause is harmless.",
            "- A cause **without memory** leaves no trace in the past. Nobody can see it there, and it is missed every time.",
            "- Few decisions, and causes that decide little or that the observation itself betrays, are missed as well.",
            "",
            *table([line for line in done if line.side == "cause hidden"]),
            "",
            "## Nothing hidden",
            "",
            *table([line for line in done if line.side in ("cause shown", "nothing hidden")]),
            "",
            "## MuJoCo logs",
            "",
            "Random halves of the episodes. Nothing was hidden on purpose, but contact forces are not observed, Hopper's "
            "velocities are cut at 10, and a replay buffer holds the actions of a policy that changed all the time.",
            "",
            *table([line for line in done if line.side == "MuJoCo"]),
            "",
            describe(command),
        ]
    ) + "\n"  # fmt: skip


LINES: list[Line] = []
"""The lines in a worker process."""


def start(sizes: list[int], folder: Path | None) -> None:
    """Make the lines of a worker process."""
    LINES[:] = all_lines(sizes) + (mujoco_lines(folder) if folder else [])


def work(task: tuple[int, int]) -> tuple[int, tuple[HistoryCheck, int, float]]:
    """The answer for one line and one seed."""
    line, seed = task
    return line, LINES[line].run(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--episodes", type=int, nargs="*", default=[300, 1500, 5000])
    parser.add_argument("--mujoco", type=Path)
    parser.add_argument("--mujoco-draws", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    lines = all_lines(given.episodes)
    robots = mujoco_lines(given.mujoco) if given.mujoco else []
    command = (
        f"python benchmarks/hidden_causes.py --draws {given.draws} --episodes {' '.join(map(str, given.episodes))}"
    )
    command += f" --minutes {given.minutes:g} --workers {given.workers}"
    command += f" --mujoco FOLDER --mujoco-draws {given.mujoco_draws}" if given.mujoco else ""
    every = [*lines, *robots]
    tasks = [
        (k, seed)
        for k, line in enumerate(every)
        for seed in range(given.mujoco_draws if line.side == "MuJoCo" else given.draws)
    ]
    # Small logs first, then robots, so that a run that is stopped has whole lines.
    tasks.sort(key=lambda task: (every[task[0]].episodes > given.episodes[0], task[1]))
    with multiprocessing.get_context("spawn").Pool(given.workers, start, (given.episodes, given.mujoco)) as pool:
        for count, (k, answer) in enumerate(pool.imap_unordered(work, tasks)):
            every[k].add(*answer)
            if (count + 1) % len(every) == 0 or count + 1 == len(tasks):
                text = report(every, command)
                if given.out:
                    given.out.write_text(text, encoding="utf-8")
                print(f"{count + 1} of {len(tasks)} logs, {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() - began > 60 * given.minutes:
                break
    text = report(every, command)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
