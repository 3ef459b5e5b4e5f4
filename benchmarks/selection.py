"""Which rule picks, on validation, the candidate that the test part will show to be best? Simulated, so that it is known.

    python benchmarks/selection.py [--draws 3000] [--out benchmarks/results/selection.md]

Candidates have true gains and standard errors; validation shows gain plus noise, and test has four times the episodes.
Reported for each rule: the mean lower end that the selected candidate will have on test (true gain - 1.96 times its error
there), how often that leads to GO, and the mean true gain that goes into use (0 without GO).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.evaluation.ranking import LUCK

RATIO = 4
Z = 1.96


def pulled(gain: np.ndarray, error: np.ndarray, trend: bool) -> np.ndarray:
    """Empirical Bayes: gains pulled towards a common mean, or a line in the error."""
    columns = np.stack([np.ones_like(error), error] if trend else [np.ones_like(error)], axis=1)

    def centre(weight: np.ndarray) -> np.ndarray:
        root = np.sqrt(weight)
        return columns @ np.linalg.lstsq(columns * root[:, None], gain * root, rcond=None)[0]

    weight = 1 / error**2
    inverse = np.linalg.inv((columns * weight[:, None]).T @ columns)
    scale = weight.sum() - np.trace(inverse @ ((columns * weight[:, None] ** 2).T @ columns))
    between = max((weight @ (gain - centre(weight)) ** 2 - len(gain) + columns.shape[1]) / scale, 0.0)
    mean = centre(1 / (error**2 + between))
    return mean + between / (between + error**2) * (gain - mean)


def rules() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    on_test = Z / np.sqrt(RATIO)
    return {
        "lower end on validation (before)": lambda g, s: g - Z * s,
        "predicted, no allowance": lambda g, s: g - on_test * s,
        f"predicted, less {LUCK:g} errors (ours)": lambda g, s: g - (on_test + LUCK) * s,
        "predicted, pulled to the mean": lambda g, s: pulled(g, s, trend=False) - on_test * s,
        "predicted, pulled to a line in the error": lambda g, s: pulled(g, s, trend=True) - on_test * s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "selection.md")
    args = parser.parse_args()
    k = 10
    worlds = {
        "gain and error grow together": (np.linspace(0, 0.03, k), np.linspace(0.002, 0.016, k)),
        "the same, three of each": (np.tile(np.linspace(0, 0.02, k), 3), np.tile(np.linspace(0.002, 0.01, k), 3)),
        "like the hospital log's": (
            np.array([0, 0.0055, 0.02, 0.02, 0.015, 0.012, 0.016, 0.016, 0.035, 0.01]),
            np.array([0.003, 0.005, 0.014, 0.015, 0.02, 0.006, 0.008, 0.008, 0.015, 0.012]),
        ),
        "equal errors": (np.linspace(-0.02, 0.03, k), np.full(k, 0.012)),
        "the noisier the worse": (np.linspace(0.02, -0.02, k), np.linspace(0.004, 0.02, k)),
        "no gain anywhere": (np.zeros(k), np.linspace(0.002, 0.016, k)),
    }
    lines = [
        "# Selection on validation\n",
        describe(f"python benchmarks/selection.py --draws {args.draws}"),
        f"\n{args.draws:,} draws. A cell: mean lower end on test, share of GO, mean true gain in use.\n",
        "| candidates | best possible | " + " | ".join(rules()) + " |",
        "|---" * (len(rules()) + 2) + "|",
    ]
    for name, (true, error) in worlds.items():
        rng = np.random.default_rng(0)
        lower = true - Z * error / np.sqrt(RATIO)
        found: dict[str, list[tuple[float, bool, float]]] = {rule: [] for rule in rules()}
        for _ in range(args.draws):
            seen, on_test = true + error * rng.normal(size=(2, len(true))) / np.array([[1.0], [np.sqrt(RATIO)]])
            for rule, score in rules().items():
                chosen = int(score(seen, error).argmax())
                go = bool(on_test[chosen] - Z * error[chosen] / np.sqrt(RATIO) > 0)
                found[rule].append((float(lower[chosen]), go, float(true[chosen] * go)))
        cells = [np.mean(rows, axis=0) for rows in found.values()]
        lines.append(
            f"| {name} | {lower.max():+.4f} | " + " | ".join(f"{a:+.4f}, {b:.0%}, {c:+.4f}" for a, b, c in cells) + " |"
        )
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
