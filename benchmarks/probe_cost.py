"""What does a probe cost? Updates a second with and without `st.Probe`, taking turns in one process.

    python benchmarks/probe_cost.py [--turns 5] [--updates 1000] [--out benchmarks/results/probe_cost.md]

A log of 100,000 random transitions (17 numbers an observation, 6 an action; or 10 numbered actions), two hidden layers of 256,
batches of 256, a log row every 100 updates, one seed; the probe has 256 seen and 256 held-out rows. Each turn trains the same
run anew; programs are compiled before. The ratio is that of the medians, with the smallest and the largest of the paired turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import stitchrl as st
from environment import describe

CASES = {True: {"BC": st.BC, "IQL": st.IQL, "CQL": st.CQL}, False: {"BC": st.BC, "IQL": st.IQL}}
"""Whether actions are numbered -> the algorithms; CQL over vectors takes many times as long."""


def random_log(rows: int, *, discrete: bool) -> st.Dataset:
    """Transitions of episodes of 100 steps, drawn at random."""
    rng = np.random.default_rng(0)
    action = (
        rng.integers(0, 10, rows).astype(np.int32) if discrete else rng.uniform(-1, 1, (rows, 6)).astype(np.float32)
    )
    columns = {
        "episode": np.arange(rows) // 100,
        "step": np.arange(rows) % 100,
        "observation": rng.normal(size=(rows, 17)).astype(np.float32),
        "action": action,
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminated": np.arange(rows) % 100 == 99,
        "truncated": np.zeros(rows, bool),
    }
    schema = st.Schema({name: name for name in columns}, num_actions=10 if discrete else None, gamma=0.99)
    return st.read(columns, schema)


def seconds(algorithm: object, log: st.Dataset, updates: int, probe: st.Probe | None) -> float:
    """How long a run takes whose program is compiled."""
    begun = time.perf_counter()
    st.fit(algorithm, log, updates=updates, probe=probe, progress=False)  # type: ignore[arg-type]
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "probe_cost.md")
    options = parser.parse_args()
    lines = [
        "# What a probe costs", "", describe("python benchmarks/probe_cost.py"), "", (__doc__ or "").split("\n\n", 2)[2],
        "| algorithm | actions | updates a second without | with | time with / without | smallest and largest of the turns |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for discrete in (True, False):
        log = random_log(100_000, discrete=discrete)
        train, held_out = log.split((0.9, 0.1), seed=0)
        probe = st.Probe(held_out)
        for name, kind in CASES[discrete].items():
            algorithm = kind() if name == "BC" else kind(gamma=0.99)
            for one in (None, probe):
                seconds(algorithm, train, 200, one)
            pairs = [
                (seconds(algorithm, train, options.updates, None), seconds(algorithm, train, options.updates, probe))
                for _ in range(options.turns)
            ]
            plain, probed = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratios = [b / a for a, b in pairs]
            lines.append(
                f"| {name} | {'numbered' if discrete else 'vectors'} | {options.updates / plain:,.0f} | "
                f"{options.updates / probed:,.0f} | {probed / plain:.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
            )
            print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
