"""How often fresh logs are mistaken for one that a policy learned from, and which changes of that log hide it.

    python benchmarks/known_episodes.py [--draws 20] [--open-bandit FOLDER] [--mujoco FILE ...]
        [--out benchmarks/results/known_episodes.md]

Worlds of few observations, in which different episodes are equal by coincidence, and worlds of real numbers, in which none are.
For each draw one log is learned from. Two fresh logs, one of the same size and one of a tenth, must pass; the log itself and
what ordinary changes make of it must not. Real logs (`--open-bandit`, `--mujoco`) are halved at random instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.evaluation.seen_episodes import overlap_of
from stitchrl.storage.learned_from import EPISODES, write_learned_from

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from recurring_worlds import CHANGES, bandit, columns_of, customers, grid, mixed, read
from sound_worlds import SOUND_WORLDS

WORLDS: dict[str, tuple[Callable[[int, int], Dataset], int]] = {
    **{f"bandit, {k:,} contexts": (bandit(k), 2000) for k in (10, 50, 100, 200, 1000, 2000, 20_000)},
    "the same 2,000 customers": (customers, 2000),
    "grid of 5 x 5": (grid, 1000),
    "hospital, 716 states": (SOUND_WORLDS["hospital"], 2000),
    "100 states": (SOUND_WORLDS["100 states"], 750),
    "4 states": (SOUND_WORLDS["4 states"], 1500),
    "linear-Gaussian": (SOUND_WORLDS["linear-Gaussian"], 200),
    "forty fresh numbers": (SOUND_WORLDS["forty fresh numbers"], 500),
}
ONE_ROW = {"first rows dropped", "last rows dropped", "two episodes joined"}


def refused(memory: EpisodeMemory, log: Dataset) -> bool:
    return bool(overlap_of(memory, log).seen)


def row_of(name: str, draws: int) -> list[str]:
    """The cells of one world: false alarms in both sizes, then what was recognised."""
    draw, episodes = WORLDS[name]
    found: Counter[str] = Counter()
    for seed in range(draws):
        columns = columns_of(draw(episodes, 10 * seed))
        memory = EpisodeMemory.of(read(columns))
        fresh = columns_of(draw(episodes, 10 * seed + 1))
        found["fresh"] += refused(memory, read(fresh))
        found["tenth"] += refused(memory, read(columns_of(draw(max(episodes // 10, 20), 10 * seed + 2))))
        found["bigger"] += refused(EpisodeMemory.of(draw(max(episodes // 10, 20), 10 * seed + 3)), read(fresh))
        for change, made in CHANGES.items():
            if not (change in ONE_ROW and len(columns["reward"]) == episodes):
                found[change] += refused(memory, read(made(columns)))
        found["a tenth known"] += refused(memory, read(mixed(columns, fresh, 0.1)))
        found["a third known"] += refused(memory, read(mixed(columns, fresh, 1 / 3)))
    one_row = len(columns["reward"]) == episodes
    cells = [
        "-" if one_row and key in ONE_ROW else str(found[key]) for key in (*CHANGES, "a third known", "a tenth known")
    ]
    return [name, f"{found['fresh']} + {found['tenth']} + {found['bigger']}", *cells]


def halves(name: str, log: Dataset, draws: int) -> str:
    """How often one half of a real log is mistaken for the other, and how many of its episodes are equal to some there."""
    alarms, known = 0, 0
    for seed in range(draws):
        chosen = np.random.default_rng(seed).permutation(log.num_episodes) % 2 == 0
        found = overlap_of(EpisodeMemory.of(log.select_episodes(chosen)), log.select_episodes(~chosen))
        alarms, known = alarms + bool(found.seen), known + found.known
    return f"| {name} | {log.num_episodes:,} | {known / draws / (log.num_episodes // 2):.0%} | {alarms} |"


def real_logs(given: argparse.Namespace) -> list[str]:
    """The table of real logs; nothing where there are none."""
    logs = {"hospital, all 20,000 stays": st.demo_log()}
    if given.open_bandit:
        from audit_faults import open_bandit

        logs |= {
            f"Open Bandit, {name}": open_bandit(given.open_bandit / name / "all.csv") for name in ("bts", "random")
        }
    logs |= {path.stem: st.read(path) for path in given.mujoco}
    return [halves(name, log, given.draws) for name, log in logs.items()]


def cost(rows: int, episodes: int) -> str:
    """Seconds and bytes of a long log."""
    rng, each = np.random.default_rng(0), rows // episodes
    log = read(
        {
            "episode": np.repeat(np.arange(episodes), each),
            "observation": rng.normal(size=(rows, 8)).astype(np.float32),
            "action": rng.integers(0, 4, rows),
            "reward": rng.normal(size=rows),
            "terminated": np.tile(np.arange(each) == each - 1, episodes),
        }
    )
    start = time.perf_counter()
    memory = EpisodeMemory.of(log)
    learned = time.perf_counter() - start
    tracemalloc.start()
    EpisodeMemory.of(log)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        write_learned_from(Path(folder), memory.arrays())
        size = (Path(folder) / EPISODES).stat().st_size
    start = time.perf_counter()
    assert refused(memory, log)
    compared = time.perf_counter() - start
    return f"| {rows:,} | {episodes:,} | {learned:.1f} | {compared:.1f} | {peak / 1e6:.0f} | {size / 1e6:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--open-bandit", type=Path)
    parser.add_argument("--mujoco", type=Path, nargs="*", default=[])
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    given = parser.parse_args()
    rows = []
    for name in given.worlds:
        rows.append(row_of(name, given.draws))
        print(" | ".join(rows[-1]), flush=True)
    names = [*CHANGES, "a third known", "a tenth known"]
    lines = [
        "# Which logs are known\n",
        describe(
            f"python benchmarks/known_episodes.py --draws {given.draws}"
            + (" --open-bandit FOLDER" if given.open_bandit else "")
            + (" --mujoco FILES" if given.mujoco else "")
        ),
        f"\nOf {given.draws} draws of each world, how many were refused. Fresh logs must pass: of the size of the log that was "
        "learned from, of a tenth, and of ten times. All other columns should be refused: the log itself, what ordinary changes "
        "make of it, and a fresh log of which a third or a tenth of the episodes is known. Worlds of one row an episode have no "
        "rows to drop or join. A column that is rounded hides a log of real numbers; whole numbers are not changed by it.\n",
        f"| world | fresh | {' | '.join(names)} |",
        "|" + "---|" * (len(names) + 2),
        *(f"| {' | '.join(cells)} |" for cells in rows),
        f"\nWhole logs, halved at random {given.draws} times: the share of episodes that equal one of the other half, "
        "and how often the one half was refused for a policy of the other.\n",
        "| log | episodes | equal | refused |",
        "|---|---|---|---|",
        *real_logs(given),
        "\nWhat remembering costs: seconds to remember a log, seconds to compare it with one as long, the memory "
        "that remembering takes beside the log, and the file.\n",
        "| rows | episodes | remember, s | compare, s | memory, MB | file, MB |",
        "|---|---|---|---|---|---|",
        *(cost(1_000_000, episodes) for episodes in (100_000, 1_000_000)),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
