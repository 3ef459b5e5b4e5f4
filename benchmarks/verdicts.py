"""Is the verdict right? The main job on fresh draws of the hospital log, each beside the exact truth.

    python benchmarks/verdicts.py [--draws 6] [--stays 20000] [--out benchmarks/results/verdicts.md]

Draw 0 is the shipped log. The product's default settings on every draw; nothing is chosen by the truth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from environment import describe
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, draw_log, log_table
from stitchrl.pipeline.pipeline import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--stays", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "verdicts.md")
    args = parser.parse_args()
    lines = [
        "# Verdicts on fresh draws of the hospital log\n",
        describe(f"python benchmarks/verdicts.py --draws {args.draws}"),
        f"\n{args.stays:,} stays a draw, default settings. Gains are survival over the clinicians'.\n",
        "| draw | selected | validation gain | test gain [95%] | exact gain | covered | verdict | best candidate, exactly |",
        "|---|---|---|---|---|---|---|---|",
    ]
    iql: list[float] = []
    refused: list[str] = []
    for draw in range(args.draws):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            log = demo_log(compact_table(draw_log(args.stays, seed=draw)))
            pq.write_table(log_table(log), folder / "stays.parquet")
            (folder / "stays.toml").write_text(log.schema.to_toml())
            verdict = run(folder / "stays.parquet", folder / "run", truth=ExactValues()).verdict
            assert verdict is not None
            assert verdict.primary is not None
            ranking, estimates = (
                json.loads((folder / "run" / f).read_text()) for f in ("ranking.json", "estimates.json")
            )
        base, chosen = estimates["behavior_exact"], estimates["selected"]
        primary = verdict.primary
        gain = chosen["evaluation"]["gain"][primary]
        first = ranking["order"][0]
        valid = ranking["candidates"][first["index"]]["evaluation"]["gain"][first["estimator"]]
        exact = chosen["exact"] - base
        iql += [c["exact"] - base for c in ranking["candidates"] if c["algorithm"] == "IQL"]
        best = max((c for c in ranking["candidates"] if not c["caution"]), key=lambda c: c["exact"])
        covered = "yes" if gain["lower"] <= exact <= gain["upper"] else "NO"
        lines.append(
            f"| {draw} | {chosen['title']} | {first['estimator']} {valid['value']:+.4f}, from {valid['lower']:+.4f} "
            f"| {primary} {gain['value']:+.4f} "
            f"[{gain['lower']:+.4f}, {gain['upper']:+.4f}] | {exact:+.4f} | {covered} | {verdict.decision} "
            f"| {best['exact'] - base:+.4f} ({best['title']}) |"
        )
        failed = [f"- Draw {draw}: line ({line.key}): {line.seen}" for line in verdict.lines if line.passed is False]
        refused += failed
        print(lines[-1], *failed, sep="\n", flush=True)
    lines += ["", "What failed:", "", *refused] if refused else []
    lines.append(f"\nIQL over all draws and seeds: mean exact gain {np.mean(iql):+.4f}, lowest {np.min(iql):+.4f}.")
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
