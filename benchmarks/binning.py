"""How much too good an estimate is when decisions are sorted into bins of time, against the exact gain.

    python benchmarks/binning.py [--out benchmarks/results/binning.md]

A patient is poor, fair or well, and moves by chance from moment to moment. The behaviour treats readily when the patient is
well (as one gives a drug by mouth to those who can swallow); the treatment only hampers recovery. In the log a row is a bin
of some moments: the state at its beginning, whether there was any treatment within it, and the time that was spent well. The
policy treats at the beginning of every bin. Its true gain over the behaviour is a linear solve over moments; the estimates
read the binned log, whose propensities are right for the bin. With bins of one moment nothing is lost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from environment import describe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from binned_worlds import WIDTHS, Treat, binned_log, gain_in_the_bins, true_gain

from stitchrl.auditing.binning import binning_of
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.settings import FitSettings


def evaluated(width: int, episodes: int, seed: int, settings: FitSettings) -> Evaluation:
    """The policy on a fresh binned log; Q is fitted on another one."""
    log, other = (binned_log(width, episodes, s) for s in (seed, seed + 1000))
    return evaluate(Treat(), log, estimators=("pdis", "wdr", "fqe"), fit_on=other, settings=settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "binning.md")
    parser.add_argument("--replicates", type=int, default=2)
    args = parser.parse_args()
    settings = FitSettings(updates=1000, hidden_sizes=(32, 32))
    lines = [
        "# What bins of time do to an estimate\n",
        describe("python benchmarks/binning.py"),
        f"\nGain of a policy that treats in nearly every bin, {args.replicates} logs of 2,000 stays a width; the treatment only "
        "harms. The gain in the bins is what a perfect estimator finds in an endless log that takes bins for decisions; both "
        "gains are exact. Then means of the estimates, with the mean standard error of the first in brackets, how many verdicts "
        "said what, and whether the audit sees traces of bins.\n",
        "| moments a bin | true gain | gain in the bins | fqe | wdr | pdis | verdicts | traces seen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for width in WIDTHS:
        found = [evaluated(width, 2000, seed, settings) for seed in range(args.replicates)]
        means = {name: np.mean([one.gain[name].value for one in found]) for name in ("fqe", "wdr", "pdis")}
        error = np.mean([one.gain["fqe"].standard_error for one in found])
        said = [one.verdict.decision for one in found]
        counts = ", ".join(f"{said.count(word)} {word}" for word in dict.fromkeys(said))
        seen = binning_of(binned_log(width, 2000, 0)) is not None
        exact = f"{true_gain(width):+.2f} | {gain_in_the_bins(width):+.2f}"
        estimated = f"{means['fqe']:+.2f} ({error:.2f}) | {means['wdr']:+.2f} | {means['pdis']:+.2f}"
        lines.append(f"| {width} | {exact} | {estimated} | {counts} | {'yes' if seen else 'no'} |")
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
