"""How near are fitted densities of continuous actions to the true ones, and is the noise of their fit known?

    python benchmarks/behavior_densities.py [--mujoco FILE ...] [--replicates 40] [--out benchmarks/results/behavior_densities.md]

For each file with propensities, every model of continuous actions is fitted to three tenths of the episodes and asked on others.
"lost" is by how many nats a logged action the exact log-density is above the fitted one: the Kullback-Leibler divergence that
the fit leaves. The wrong bins are of the probability integral transform, in the worst dimension.

The second table draws a linear-Gaussian behaviour anew each time and fits a normal to it. What the fits do to two numbers on
fixed episodes, by their spread over the replicates, stands beside what `FitNoise` says, which counts the last layer alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.behavior_model import log_likelihoods
from stitchrl.evaluation.behavior_registry import BEHAVIOR_MODELS, fit_behavior
from stitchrl.evaluation.probability_transform import probability_transform, transform_curve
from stitchrl.evaluation.settings import FitSettings
from stitchrl.nn.units import RescaledPolicy
from stitchrl.reading.read import read

MODELS = ("gaussian", "squashed", "mixture")
EPISODES, STEPS = 400, 5


def of_file(path: Path) -> list[str]:
    """The rows of one log."""
    log = read(path)
    fit_on, others = log.split((0.3, 0.7), seed=0)
    test, _ = others.split((0.3, 0.7), seed=0)
    rows = []
    for name in MODELS:
        refusal = BEHAVIOR_MODELS[name].refusal(fit_on)
        if refusal is not None:
            rows.append(f"| {path.stem} | {name} | | | {refusal} | | |")
            continue
        start = time.perf_counter()
        found = fit_behavior(fit_on, FitSettings(behavior=name))
        seconds = time.perf_counter() - start
        assert isinstance(found.policy, RescaledPolicy)
        likelihood = log_likelihoods(found.policy, test)
        curve = transform_curve([probability_transform(found.policy, test)], [test])
        known = test.behavior_log_prob
        lost = "not known" if known is None else f"{float((known - likelihood).mean()):.2f}"
        rows.append(
            f"| {path.stem} | {name} | {fit_on.num_transitions:,} | {likelihood.mean():.2f} | {lost} | "
            f"{curve.expected_error:.1%} ({curve.by_chance:.1%}) | {seconds:.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def linear(seed: int) -> Dataset:
    """Actions that are normal about a linear function of the observation."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(EPISODES * STEPS, 2))
    step = np.arange(len(obs)) % STEPS
    columns = {
        "episode": np.arange(len(obs)) // STEPS,
        "observation": obs.astype(np.float32),
        "action": (0.5 * obs[:, :1] - 0.3 * obs[:, 1:] + 0.3 * rng.normal(size=(len(obs), 1))).astype(np.float32),
        "reward": np.ones(len(obs)),
        "terminated": step == STEPS - 1,
        "truncated": np.zeros(len(obs), bool),
    }
    return read(columns, Schema.infer(list(columns), num_actions=None, gamma=1.0))


def noise(replicates: int) -> list[str]:
    """The rows of the second table."""
    test = linear(10_000)
    obs = test.observation.astype(np.float64)
    error = test.action[:, 0] - (0.5 * obs[:, 0] - 0.3 * obs[:, 1])
    numbers = {"mean of observation 0 times error": obs[:, 0] * error, "mean of squared error": error**2}
    gradient = np.stack(list(numbers.values()), axis=1) / test.num_transitions
    settings = dataclasses.replace(FitSettings(updates=500, hidden_sizes=(32,)), behavior="gaussian")
    values, said = [], []
    for seed in range(replicates):
        found = fit_behavior(linear(seed), dataclasses.replace(settings, seed=seed))
        values.append(log_likelihoods(found.policy, test) @ gradient)
        assert found.noise is not None
        effect = found.noise.effect(test, gradient)
        said.append(np.maximum(np.diag(effect.expected), (effect.episodes**2).sum(0)))
    spread, known = np.std(values, axis=0, ddof=1), np.sqrt(np.mean(said, axis=0))
    return [
        f"| {name} times the log-density | {spread[k]:.5f} | {known[k]:.5f} | {known[k] / spread[k]:.2f} |"
        for k, name in enumerate(numbers)
    ]


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mujoco", type=Path, nargs="*", default=[], help="logs of continuous actions")
    parser.add_argument("--replicates", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    command = f"python benchmarks/behavior_densities.py --replicates {given.replicates}"
    lines = [
        "# Fitted densities of continuous actions",
        "",
        "Written by `benchmarks/behavior_densities.py`, which says what the columns are.",
        "",
        describe(command + (" --mujoco FILES" if given.mujoco else "")),
        "",
        "| log | model | rows fitted | log-density, held out | lost | wrong bins (by chance) | seconds |",
        "|---|---|---|---|---|---|---|",
        *(row for path in given.mujoco for row in of_file(path)),
        "",
        f"A linear-Gaussian behaviour, {EPISODES} episodes of {STEPS} steps, {given.replicates} replicates:",
        "",
        "| number | spread over fits | said by the fit | ratio |",
        "|---|---|---|---|",
        *noise(given.replicates),
        "",
    ]
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
