"""Does a race find a better policy than the same updates spent evenly, or on IQL alone? In two worlds whose values are known.

    cd benchmarks && python race.py [--worlds hospital linear] [--seeds 4]       # under 30 minutes of one core

For each seed a fresh log is drawn and three ways of spending the same number of gradient updates get it, with the same split:

- the race: every candidate learns a little, the better third goes on, and so on (`st.race`);
- even: every candidate learns to the end of an equal share of the budget, and the same ranking on the same validation part
  chooses;
- IQL: all updates go to IQL with the main job's own settings, deployed as it is trained.

What is reported is the true value of the policy that each would deploy, and its regret: how much of the way from the behaviour
to the best policy that any of the three learned it leaves, (best - chosen) / (best - behaviour). The hospital's values are exact
(a linear solve). Those of the linear system are exact for linear policies alone; networks are rolled out in it from common
starts with common noise, which is held to the exact solve of the behaviour. A finished seed is kept in race.jsonl and not done
again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.data.scaling import unit_return_scale
from stitchrl.evaluation.units import Units
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, draw_log
from stitchrl.pipeline.candidates import job_algorithm
from stitchrl.pipeline.race import race_entrants
from stitchrl.pipeline.race_judging import Jury
from stitchrl.pipeline.race_places import place_candidates
from stitchrl.pipeline.race_settings import RaceSettings
from stitchrl.pipeline.race_training import groups_of
from stitchrl.progress import ProgressDisplay

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import linear_worlds as lw

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = {"hospital": (st.BC, st.IQL, st.CQL), "linear": (st.BC, st.IQL, st.TD3BC)}
STEPS, STARTS = 150, 2000
"""Of a rollout in the linear system, where .95^150 is .0005, and how many of them."""


class World(NamedTuple):
    """What is raced on, and what is known of it.

    Attributes:
        draw: seed -> a log.
        truth: of a policy.
        behavior: the true value of the policy that logged.
        budget: gradient updates of each way of spending them.
        evaluation_updates: of the models that judge.
        fractions: of the split.
    """

    draw: Callable[[int], st.Dataset]
    truth: Callable[[Any], float]
    behavior: float
    budget: int
    evaluation_updates: int
    fractions: tuple[float, float, float]


def worlds(args: argparse.Namespace) -> dict[str, World]:
    exact = ExactValues()
    return {
        "hospital": World(
            lambda seed: demo_log(compact_table(draw_log(args.stays, seed=1000 + seed))),
            exact.value,
            exact.behavior(),
            args.budget,
            200,
            (0.4, 0.3, 0.3),
        ),
        "linear": World(
            lambda seed: lw.log(200, 30, 1000 + seed),
            rolled_out,
            rolled_out(lw.policy(lw.BEHAVIOR, lw.STD)),
            args.budget,
            30,
            (0.4, 0.3, 0.3),
        ),
    }


def rolled_out(policy: Any) -> float:
    """The discounted return of a policy in the linear system, over common starts and common noise."""
    world, rng = lw.WORLD, np.random.default_rng(0)
    state = world.initial * rng.normal(size=(STARTS, 2))
    total, act = np.zeros(STARTS), jax.jit(lambda obs, key: policy.sample(obs, key=key))
    for t in range(STEPS):
        action = np.asarray(act(state.astype(np.float32), jax.random.key(t)), np.float64)
        cost = np.einsum("ni,ij,nj->n", state, world.state_cost, state)
        cost += np.einsum("ni,ij,nj->n", action, world.action_cost, action)
        total -= lw.GAMMA**t * cost
        state = state @ world.transition.T + action @ world.control.T + world.noise * rng.normal(size=state.shape)
    return float(total.mean())


def algorithms(name: str, gamma: float) -> list[st.Algorithm]:
    """The main job's settings with narrower networks."""
    continuous = name == "linear"
    return [
        dataclasses.replace(job_algorithm(kind, gamma, continuous=continuous), hidden_sizes=(32, 32))
        for kind in KINDS[name]
    ]


def evenly(log: st.Dataset, candidates: Sequence[st.Algorithm], world: World) -> tuple[Any, int, list[Any]]:
    """(the policy that the ranking chooses, updates spent, the policy of every candidate) of equal shares of the budget."""
    settings = RaceSettings(world.budget, evaluation_updates=world.evaluation_updates, fractions=world.fractions)
    train, valid, test = log.split(world.fractions, seed=0)
    units = [Units(part.num_episodes, part.group).count for part in (valid, test)]
    jury = Jury(train, valid, test_units=units[1], validation_units=units[0], settings=settings)
    entrants = race_entrants(log, candidates)
    each, made = world.budget // len(entrants), []
    for group in groups_of(entrants):
        failed = group.learn(train, updates=each, batch_size=256, folder=None, show=lambda *_: None)
        made += [(one, group.run(one)) for one in group.entrants if one not in failed]
    judged = jury.judge([c for one, run in made for c in jury.candidates(one, run)], ProgressDisplay(enabled=False))
    won = place_candidates(judged, {one.title: each for one, _ in made}, 0)[0]
    chosen = next(jury.deployed(one, run, won).policy for one, run in made if one.title == won.title)
    plain = [jury.candidates(one, run)[0].policy for one, run in made]
    return chosen, each * len(entrants), plain


def trial(name: str, world: World, seed: int) -> dict[str, Any]:
    """All three on one log."""
    log, began = world.draw(seed), time.monotonic()
    log = dataclasses.replace(
        log, schema=dataclasses.replace(log.schema, gamma=1.0 if name == "hospital" else lw.GAMMA)
    )
    candidates = algorithms(name, log.schema.gamma)
    raced = st.race(
        log,
        algorithms=candidates,
        budget=world.budget,
        evaluation_updates=world.evaluation_updates,
        fractions=world.fractions,
    )
    seconds = {"race": time.monotonic() - began}
    began = time.monotonic()
    chosen, spent, plain = evenly(log, candidates, world)
    seconds["even"] = time.monotonic() - began
    began = time.monotonic()
    alone = next(one for one in candidates if one.name == "IQL")
    iql = st.fit(alone, raced.train, updates=world.budget, reward_scale=unit_return_scale(raced.train), progress=False)
    seconds["IQL"] = time.monotonic() - began
    found = {"race": raced.policy, "even": chosen, "IQL": iql.policy.greedy()}
    values = {way: world.truth(policy) for way, policy in found.items()}
    # The best that was there to be chosen: what the three would deploy, and every candidate as it acts.
    best = max(*values.values(), *(world.truth(policy) for policy in plain), world.truth(raced.run.policy.greedy()))
    final = raced.rounds[-1].rows[0]
    return {
        "world": name,
        "seed": seed,
        "behavior": world.behavior,
        "best": best,
        "values": values,
        "spent": {"race": raced.spent, "even": spent, "IQL": world.budget},
        "seconds": {way: round(value, 1) for way, value in seconds.items()},
        "winner": final.title,
        "bound": final.bound,
        "gain_on_validation": final.gain,
    }


def regret(row: dict[str, Any], way: str) -> float:
    return float((row["best"] - row["values"][way]) / (row["best"] - row["behavior"]))


def report(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """The results as Markdown."""
    ways = ("race", "even", "IQL")
    lines = [
        "# A race against the same updates spent evenly, and on IQL alone\n",
        describe(f"cd benchmarks && python race.py --worlds {' '.join(args.worlds)} --seeds {args.seeds}"),
        f"- budget: {args.budget:,} gradient updates each way; networks 32x32; {args.stays:,} stays, and 200 episodes of the "
        "linear system, split .4, .3, .3; seconds are of a machine that did much else at the same time\n",
        "Regret is (best - chosen) / (best - behaviour) in true values, with the best of all policies that were learned on that "
        "log: 0 is the best, 1 is no better than the behaviour, above 1 is worse than it.\n",
        "| world | seeds | "
        + " | ".join(f"{way}: mean gain, worst | {way}: median regret, worst" for way in ways)
        + " |",
        "|---" * (2 + 2 * len(ways)) + "|",
    ]
    for name in args.worlds:
        mine = [row for row in rows if row["world"] == name]
        cells = []
        for way in ways:
            gains = np.array([row["values"][way] - row["behavior"] for row in mine])
            regrets = np.array([regret(row, way) for row in mine])
            cells.append(f"{gains.mean():+.4f}, {gains.min():+.4f} | {np.median(regrets):.2f}, {regrets.max():.2f}")
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")
    lines += [
        "\nEvery log:\n",
        "| world | seed | behaviour | best | race | even | IQL | winner of the race | its gain on validation | its true gain "
        "| updates | seconds |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        if row["world"] in args.worlds:
            values = " | ".join(f"{row['values'][way]:.4f}" for way in ways)
            spent = ", ".join(f"{row['spent'][way]:,}" for way in ways)
            seconds = ", ".join(f"{row['seconds'][way]:.0f}" for way in ways)
            lines.append(
                f"| {row['world']} | {row['seed']} | {row['behavior']:.4f} | {row['best']:.4f} | {values} | {row['winner']} | "
                f"{row['gain_on_validation']:+.4f} | {row['values']['race'] - row['behavior']:+.4f} | {spent} | {seconds} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--budget", type=int, default=6_000)
    parser.add_argument("--stays", type=int, default=2500)
    args = parser.parse_args()
    kept = RESULTS / "race.jsonl"

    def finished() -> list[dict[str, Any]]:
        """The trials that were made, of this budget."""
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
        return [row for row in map(json.loads, lines) if row["spent"]["IQL"] == args.budget]

    simulated = rolled_out(lw.policy(lw.BEHAVIOR, lw.STD))
    print(
        f"behaviour of the linear system: {simulated:.4f} by rollouts, {lw.value(lw.BEHAVIOR, lw.STD):.4f} exactly",
        flush=True,
    )
    found = worlds(args)
    for seed in range(args.seeds):
        for name in args.worlds:
            if any((row["world"], row["seed"]) == (name, seed) for row in finished()):
                continue
            row = trial(name, found[name], seed)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    rows = sorted(finished(), key=lambda row: (list(KINDS).index(row["world"]), row["seed"]))
    (RESULTS / "race.md").write_text(report(rows, args), encoding="utf-8")


if __name__ == "__main__":
    main()
