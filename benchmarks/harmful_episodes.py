"""How many of the episodes that harm was planted in stand near the top of `st.rank_episodes`, and what it says of sound logs.

    python benchmarks/harmful_episodes.py [--draws 5] [--stays 3000] [--out benchmarks/results/harmful_episodes.md]

The harm is that of `tests/support/planted_episodes.py`: in 2% of the episodes rewards of the other sign, or actions of other
rows; in 0.3% rewards, or a column, of another unit. Sound logs are `--draws` of each world of
`tests/support/sound_worlds.py`. The time is that of the embedded log of 20,000 stays.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.drop_curve import halves_of
from stitchrl.evaluation.episode_scores import EpisodeScores, score_episodes
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.evaluation.log_models import chosen_ridges

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import audit_corpus
import exact_worlds
import planted_episodes as planted
import sound_worlds

ORDERS = ("harm", "value", "fit")


def scored(log: Dataset) -> EpisodeScores:
    """The scores of a log, without a drop curve."""
    log = log.compact()
    features = chosen_ridges(log, LogFeatures.of(log), halves_of(log, 0), gamma_of(log))
    return score_episodes(log, features, gamma_of(log))


def gamma_of(log: Dataset) -> float:
    """The schema's discount, below 1 where no episode ends."""
    return log.schema.gamma if log.terminated.any() else min(log.schema.gamma, 0.95)


def worlds(stays: int) -> dict[str, Callable[[int], Dataset]]:
    """Name -> a log by seed. Stays and swings are the same for every seed, and the harm is drawn anew."""
    hospital = st.demo_log(propensities=False).head(stays)
    return {
        f"hospital, {stays:,} stays": lambda seed: hospital,
        "pendulum, 60 swings": lambda seed: audit_corpus.control_log(60),
        "push, vectors, 300 episodes": lambda seed: planted.vector_log(300, seed),
        "push, 5 numbered actions, 300": lambda seed: planted.vector_log(300, seed, actions=5),
        "100 states, 750 episodes": lambda seed: exact_worlds.world_named("tabular, 100 states").log(750, seed),
    }


def recalls(draws: int, stays: int) -> list[list[str]]:
    """A line for each log and harm: recall among as many as were harmed by each order, chance, and what stands apart."""
    rows = []
    for name, log_of in worlds(stays).items():
        for harm, (plant, share) in planted.HARMS.items():
            found: list[list[float]] = []
            for seed in range(draws):
                log, harmed = plant(log_of(seed), share, seed)
                scores, count = scored(log), int(harmed.sum())
                apart = np.isin(np.arange(len(harmed)), scores.apart)
                shares = [harmed[scores.order(by)[:count]].mean() for by in ORDERS]
                twenty = harmed[scores.order("harm")[:20]].sum() / min(20, count)
                found.append([*shares, twenty, harmed.mean(), count, (apart & harmed).sum(), (apart & ~harmed).sum()])
            mean = np.mean(found, axis=0)
            rows.append(
                [name, harm, *(f"{one:.2f}" for one in mean[:4]), f"{mean[4]:.3f}", *(f"{one:.1f}" for one in mean[5:])]
            )
            print(" | ".join(rows[-1]), flush=True)
    return rows


def sound(draws: int) -> list[list[str]]:
    """A line for each sound world: in how many draws episodes stand apart, and in how many some are recommended for dropping."""
    rows = []
    for name, draw in sound_worlds.SOUND_WORLDS.items():
        apart, recommended, episodes = [], 0, 0
        for seed in range(draws):
            log = draw(sound_worlds.EPISODES[name], 300 + seed)
            try:
                found = st.rank_episodes(log, gamma=gamma_of(log))
            except st.errors.StitchRLError as refusal:
                rows.append([name, f"{log.num_episodes:,}", f"refused: {refusal}", "", ""])
                break
            episodes = log.num_episodes
            apart.append(len(found.apart))
            recommended += found.recommended > 0
        else:
            some = sum(one > 0 for one in apart)
            rows.append(
                [name, f"{episodes:,}", f"{some} of {draws}", f"{np.mean(apart):.1f}", f"{recommended} of {draws}"]
            )
        print(" | ".join(rows[-1]), flush=True)
    return rows


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run, print, and write the page."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--stays", type=int, default=3_000)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    planted_rows, sound_rows = recalls(given.draws, given.stays), sound(given.draws)
    log = st.demo_log(propensities=False)
    began, cpu = time.perf_counter(), time.process_time()
    st.rank_episodes(log)
    seconds, worked = time.perf_counter() - began, time.process_time() - cpu
    print(f"{log.num_episodes:,} stays: {seconds:.0f} s, {worked:.0f} s of processor time", flush=True)
    heads = [
        "log",
        "planted",
        "recall",
        "by value",
        "by fit",
        "first 20",
        "chance",
        "planted episodes",
        "apart, planted",
    ]
    command = f"python benchmarks/harmful_episodes.py --draws {given.draws} --stays {given.stays}"
    page = f"""# Harmful episodes

Means over {given.draws} draws of the harm. Recall: the share of the planted episodes among the worst k by `harm`, k being how
many were planted; beside it the recall of the orders by influence on the value and on the fit, which are not made to find
errors. First 20: among the worst 20, of as many as there can be. Chance: the share of planted episodes in the log.

{table([*heads, "apart, sound"], planted_rows)}

What cannot be seen is not found: a stay that ends in death has rewards of 0 with either sign, and the actions of other rows
are hardly odd where the behaviour is random.

## Sound logs

In how many draws some episode stands apart, how many do on average, and in how many draws some are recommended for dropping.

{table(["world", "episodes", "draws with some apart", "apart", "recommended"], sound_rows)}

## Time

{log.num_episodes:,} stays of {log.num_transitions:,} rows, ranked with a drop curve of five lists: {seconds:.0f} s, of which
{worked:.0f} s of processor time; the machine had other work beside it.

{describe(command)}
"""
    if given.out is not None:
        given.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
