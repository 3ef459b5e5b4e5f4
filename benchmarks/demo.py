"""The demo's promises: time, memory, start-up, and what it finds beside the exact truth.

    python benchmarks/demo.py [--clone] [--out benchmarks/results/demo.md]

Cold: an empty HOME, so nothing is compiled beforehand. Warm: the same HOME, a new directory. `--clone` also times
`make demo` in a fresh clone with an empty HOME, install included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import describe

ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).parent / "stitchrl"


def timed(words: list[str], home: Path, cwd: Path) -> tuple[float, float]:
    """Wall seconds, and the largest resident size of the process in MB."""
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    environment["STITCHRL_STATE"] = str(home / "state")  # as users have it: with a ledger, and a fresh one
    began = time.monotonic()
    process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed with status {status}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def start_up(runs: int = 15) -> tuple[float, float]:
    """Median seconds of a bare interpreter and of `stitchrl --help`, in turn."""
    bare, full = [], []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(runs):
            bare.append(timed([sys.executable, "-c", "pass"], Path(home), ROOT)[0])
            full.append(timed([str(PROGRAM), "--help"], Path(home), ROOT)[0])
    return statistics.median(bare), statistics.median(full)


def table_of(run: Path) -> list[str]:
    """Every candidate: claimed, estimated on validation, exact."""
    ranking: dict[str, Any] = json.loads((run / "ranking.json").read_text())
    estimates: dict[str, Any] = json.loads((run / "estimates.json").read_text())
    verdict: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    base = ranking["behavior_exact"]
    lines = [
        f"\nClinicians: exact {base:.4f}, on test {estimates['behavior']['value']:.4f}. "
        f"Verdict: **{verdict['decision']}**, {verdict['headline']}\n",
        "| rank | candidate | claimed | FQE on validation [95%] | healthy | exact | exact gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, row in enumerate(ranking["order"], 1):
        candidate = ranking["candidates"][row["index"]]
        fqe = candidate["evaluation"]["estimates"]["fqe"]
        claimed = "-" if candidate["claimed"] is None else f"{candidate['claimed']:.3f}"
        lines.append(
            f"| {place} | {candidate['title']} | {claimed} | {fqe['value']:.3f} [{fqe['lower']:.3f}, {fqe['upper']:.3f}] "
            f"| {'yes' if fqe['healthy'] else 'no'} | {candidate['exact']:.4f} | {candidate['exact'] - base:+.4f} |"
        )
    iql = [c["exact"] for c in ranking["candidates"] if c["algorithm"] == "IQL"]
    dqn = [(c["claimed"], c["exact"]) for c in ranking["candidates"] if c["algorithm"] == "DQN"]
    lines.append(
        f"\nIQL, mean exact survival over {len(iql)} seeds: {statistics.mean(iql):.4f} (clinicians {base:.4f})."
    )
    lines.append(
        f"DQN: claims {statistics.mean(c for c, _ in dqn):.3f} on average, truly gets {statistics.mean(e for _, e in dqn):.3f}."
    )
    chosen = estimates["selected"]
    lines += [
        f"\nOn test, {chosen['title']} (exact gain {chosen['exact'] - base:+.4f}):\n",
        "| estimator | gain [95%] | ESS of 8,000 | healthy |",
        "|---|---|---|---|",
    ]
    for name, gain in chosen["evaluation"]["gain"].items():
        lines.append(
            f"| {name} | {gain['value']:+.4f} [{gain['lower']:+.4f}, {gain['upper']:+.4f}] | {gain['ess']:,.0f} "
            f"| {'yes' if gain['healthy'] else 'no'} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "demo.md")
    args = parser.parse_args()
    bare, full = start_up()
    rows = [("`stitchrl --help` beyond a bare interpreter", f"{full - bare:.3f} s", "0.2 s")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        cold = timed([str(PROGRAM), "demo", "--out", "cold"], home, folder)
        warm = [timed([str(PROGRAM), "demo", "--out", f"warm{k}"], home, folder) for k in range(3)]
        same = {(folder / d / "run" / "estimates.json").read_text() for d in ("cold", "warm0", "warm1", "warm2")}
        seconds = sorted(t for t, _ in warm)
        rows += [
            ("`stitchrl demo`, empty HOME", f"{cold[0]:.0f} s", "-"),
            (
                "`stitchrl demo`, warm, median of 3",
                f"{seconds[1]:.0f} s ({seconds[0]:.0f} to {seconds[2]:.0f})",
                "150 s",
            ),
            ("largest resident size", f"{max(m for _, m in [cold, *warm]):,.0f} MB", "2,000 MB"),
            ("estimates.json of the four runs", "identical" if len(same) == 1 else "DIFFERENT", "identical"),
        ]
        if args.clone:
            fresh = folder / "fresh"
            fresh.mkdir()
            began = time.monotonic()
            subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
            timed(["make", "demo"], fresh, folder / "clone")
            rows.append(
                (
                    "clone and `make demo`, empty HOME, install included",
                    f"{time.monotonic() - began:.0f} s",
                    "360 s",
                )
            )
        found = table_of(folder / "warm0" / "run")
    command = "python benchmarks/demo.py" + (" --clone" if args.clone else "")
    lines = ["# The demo\n", describe(command), "\n| what | measured | bar |", "|---|---|---|"]
    lines += [f"| {what} | {measured} | {bar} |" for what, measured, bar in rows]
    args.out.write_text("\n".join(lines + found) + "\n", encoding="utf-8")
    print("\n".join(lines + found))


if __name__ == "__main__":
    main()
