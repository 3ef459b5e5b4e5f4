"""How strong a hidden cause in every decision does a gain withstand, and what would a condition on it cost?

    python benchmarks/hidden_strength.py [--draws 3] [--stays 20000] [--out benchmarks/results/hidden_strength.md]

Draws of the hospital log; rungs of the ladders that the demo tends to select, evaluated as `stitchrl run` does: Q from
train and validation, the rest on test. The fall of the policy's value under a hidden cause is estimated beside the exact fall
in the known world (`stitchrl.mdp.hidden_cause`). Last, the largest gain that any policy keeps at each strength, exactly: no
log, however long, shows more.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from environment import describe
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.spibb import SPIBB
from stitchrl.algorithms.vilcb import VILCB
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation import sensitivity
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.registry import chosen_estimators
from stitchrl.evaluation.robust_values import GRID, RobustValues
from stitchrl.evaluation.settings import FitSettings
from stitchrl.mdp.hidden_cause import robust_policy_value, robust_state_values, worst_transition
from stitchrl.mdp.icu_sepsis import DEATH, ExactValues, compact_table, demo_log, draw_log, icu_sepsis
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.tabular import TabularPolicy
from stitchrl.training.fit import fit

SHOWN = (1.02, 1.05, 1.1, 1.2, 1.5, 2.0)
"""Strengths in the table."""
BEST = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0)
"""Strengths at which the best policy is sought."""


def on_ladder(algorithm: Algorithm, log: Dataset) -> LadderPolicy:
    """The policy that a closed-form algorithm learns, on actions that the clinicians take with at least 10%."""
    world = icu_sepsis()
    learned = fit(algorithm, log, updates=0).policy
    with np.errstate(divide="ignore"):
        usual = np.maximum(np.log(world.clinicians[:DEATH]), -1e30).astype(np.float32)
    clinicians = TabularPolicy(jnp.asarray(world.features[:DEATH], jnp.float32), jnp.asarray(usual))
    return LadderPolicy(learned, clinicians, jnp.float32(1.0), jnp.float32(0.1))


def without_propensities(log: Dataset) -> Dataset:
    """The same log with a behaviour that has to be fitted."""
    return dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None)


def evaluated(policy: Any, test: Dataset, others: Dataset) -> tuple[Evaluation, RobustValues, float]:
    """The evaluation, the robust values, and the processor seconds that they took."""
    taken: list[float] = []
    compute = sensitivity.robust_values

    def timed(*given: Any, **kwargs: Any) -> RobustValues:
        start = time.process_time()
        found = compute(*given, **kwargs)
        taken.append(time.process_time() - start)
        return found

    sensitivity.robust_values = timed
    try:
        fits = Fits([policy], test, others, estimand=Estimand(1.0), settings=FitSettings())
        (found,) = evaluate_fits(fits, chosen_estimators(("fqe",)))
        outcomes = fits.of(0).get(sensitivity.Outcomes("falls"))
    finally:
        sensitivity.robust_values = compute
    return found, outcomes.robust, sum(taken)


def crossing(world: Any, table: np.ndarray, base: float) -> float:
    """The strength at which the exact gain is 0."""
    low, high = 1.0, 5.0
    for _ in range(14):
        middle = float(np.sqrt(low * high))
        above = robust_policy_value(world.mdp, table, world.clinicians, middle) > base
        low, high = (middle, high) if above else (low, middle)
    return low


def best_values(odds_ratio: float) -> np.ndarray:
    """(S,) the largest robust values that any policy on the clinicians' actions has, by policy iteration."""
    world = icu_sepsis()
    live = np.flatnonzero(~world.mdp.terminal)
    policy = world.mdp.optimal_policy(allowed=world.mask)
    while True:
        values = robust_state_values(world.mdp, policy, world.clinicians, odds_ratio)
        q = np.full(policy.shape, -np.inf)
        for s in live:
            actions = np.flatnonzero(world.mask[s])
            outcome = world.mdp.reward[s, actions] + np.where(world.mdp.terminal, 0.0, values)
            chance = world.mdp.transition[s, actions]
            worst = worst_transition(outcome, chance, world.clinicians[s, actions], odds_ratio)
            q[s, actions] = (worst * outcome).sum(1)
        better = (q[live].max(1) > values[live] + 1e-9).any()
        if not better:
            return values
        policy[live] = np.eye(policy.shape[1])[q[live].argmax(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--stays", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hidden_strength.md")
    args = parser.parse_args()
    world, exact = icu_sepsis(), ExactValues()
    base = exact.behavior()
    origin = describe(f"python benchmarks/hidden_strength.py --draws {args.draws}")
    columns = [GRID.index(odds) for odds in SHOWN]
    falls, strengths, seconds, ratios = [], [], [], []
    for draw in range(args.draws):
        log = demo_log(compact_table(draw_log(args.stays, seed=draw)))
        train, validation, test = log.split((0.5, 0.1, 0.4), seed=0)
        others = log.select_episodes(
            np.flatnonzero(np.isin(log.episode_id, [*train.episode_id, *validation.episode_id]))
        )
        for name, algorithm in (("SPIBB", SPIBB(gamma=1.0)), ("VILCB", VILCB(gamma=1.0))):
            policy = on_ladder(algorithm, train)
            table = exact.table(policy)
            value = world.mdp.policy_value(table)
            at = [value - robust_policy_value(world.mdp, table, world.clinicians, odds) for odds in SHOWN]
            withstands = crossing(world, table, base)
            for fitted in (False, True)[: 2 if draw == 0 else 1]:
                parts = [without_propensities(part) for part in (test, others)] if fitted else [test, others]
                found, robust, took = evaluated(policy, *parts)
                gain = found.gain["fqe"]
                seconds.append(took)
                fall = -robust.change.mean(0)[columns]
                error = robust.change.std(0)[columns] / np.sqrt(len(robust.change))
                ratios.append(fall / at)
                told = " | ".join(f"{e:.4f} / {f:.4f} ± {s:.4f}" for e, f, s in zip(at, fall, error, strict=True))
                which = f"| {draw} | {name}{', behaviour fitted' if fitted else ''} "
                falls.append(f"{which}| {told} |")
                assert found.confirmation is not None
                kept = found.confirmation.sensitivity
                assert kept is not None
                strengths.append(
                    f"{which}| {gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}] | {value - base:+.4f} "
                    f"| {kept.odds_ratio:.2f} | {kept.every_decision:.3f} | {withstands:.3f} |"
                )
                print(falls[-1], strengths[-1], f"{took:.1f} s", sep="\n", flush=True)
    best = [float(world.mdp.initial @ best_values(odds)) - base for odds in BEST]
    share = np.mean(ratios, axis=0)
    lines = [
        "# The strength of a hidden cause in every decision that a gain withstands\n",
        origin,
        f"- robust values: {np.median(seconds):.1f} processor seconds in the median, {max(seconds):.1f} at most, for "
        f"{len(GRID)} strengths on {test.num_episodes:,} stays; nothing is compiled for them",
        f"\n{args.stays:,} stays a draw, half of them for training and two fifths for test; policies are the rungs of power 1 "
        "from 10% of the named algorithm's ladder. Causes have no memory.\n",
        "## Fall of the policy's value: exact / estimated ± standard error\n",
        "| draw | policy | " + " | ".join(f"{odds:g}" for odds in SHOWN) + " |",
        "|---" * (len(SHOWN) + 2) + "|",
        *falls,
        "| | estimated / exact, mean | " + " | ".join(f"{one:.3f}" for one in share) + " |",
        "\n## What the gain withstands\n",
        "The last column is the strength at which the exact gain is 0; the one before it is where the lower end of the estimated "
        "gain is.\n",
        "| draw | policy | gain [95%] | exact gain | one decision | every decision | every decision, exact gain |",
        "|---|---|---|---|---|---|---|",
        *strengths,
        "\n## The largest gain that any policy keeps\n",
        "Exactly, over all policies on actions that the clinicians take: what an endless log could show.\n",
        "| strength | " + " | ".join(f"{odds:g}" for odds in BEST) + " |",
        "|---" * (len(BEST) + 1) + "|",
        "| gain | " + " | ".join(f"{one:+.4f}" for one in best) + " |",
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
