"""Updates a second of FQE, against its own matrix products and against the training loop with the same network.

    python benchmarks/fqe_rate.py [--rounds 5] [--out results/fqe_rate.md]

FQE is fitted by the loop that trains algorithms (`training/loop.py`). What is compared, on one log, network and batch size:

- FQE of one policy and of several at once, as `fit_q` runs it: one seed, the policy's next action drawn in the program.
- an algorithm of the same network in the same loop: DQN over discrete actions, TD3+BC over continuous ones.
- of each the floor: a program that does nothing but the matrix products of the update (`floor.py`).

They take turns in short rounds. The share of a round is the rate over the floor measured beside it, so that a machine that
slows down slows both; medians are given, with the least and the largest round. Compiling is done before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import describe
from floor import floor_rates, products_of
from throughput import one_update, random_log

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
import numpy as np  # isort: skip

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.fitted_q import FQE, evaluation_source
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.precision import products_in
from stitchrl.training.loop import train
from stitchrl.training.program import initial_state

ROWS, BATCH, HIDDEN = 20_000, 256, (128, 128)
"""Rows of the log; the batch size and the network are the evaluation's defaults."""
UPDATES = 1500
"""Timed updates a round of one program, after the first log row."""


def fqe_source(log: Any, policies: int) -> Any:
    """The transitions with what random policies would do next."""
    random = np.random.default_rng(1)
    if log.num_actions is None:
        draws = np.tanh(random.normal(size=(log.num_transitions, 8, log.action.shape[1]))).astype(np.float32)
        choices = [draws] * policies
    else:
        choices = [random.dirichlet(np.ones(log.num_actions), log.num_transitions).astype(np.float32)] * policies
    return evaluation_source(log, Scaling.of(log), choices, policies)


def rate_of(algorithm: Any, source: Any, log: Any, members: int) -> Callable[[], float]:
    """Measures updates a second, of all members together."""

    def measure() -> float:
        stamps: list[tuple[int, float]] = []
        train(
            algorithm, source, Spec.of(log), updates=UPDATES, seeds=[0] * members, batch_size=BATCH,
            monitors=[lambda done, *_: stamps.append((done, time.perf_counter()))],
        )  # fmt: skip
        (first, begun), (last, ended) = stamps[0], stamps[-1]
        return members * (last - first) / (ended - begun)

    return measure


def floor_of(algorithm: Any, source: Any, log: Any) -> Callable[[], float]:
    """Measures how many updates a second the matrix products alone allow, one member at a time."""
    state = jax.tree.map(lambda leaf: leaf[0], initial_state(algorithm, Spec.of(log), [0])).algorithm
    batch = dict(source.sample(source.arrays, jnp.arange(BATCH), jnp.int32(0)))
    with products_in("float32"):
        products = products_of(one_update(algorithm), state, batch, jax.random.key(0), jnp.int32(1), branch_share=0.5)
    return lambda: statistics.median(floor_rates(products, seconds=0.3, repeats=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fqe_rate.md")
    asked = parser.parse_args()
    lines = ["| actions | program | updates/s | floor, updates/s | share of the floor |", "|---|---|---|---|---|"]
    for kind in ("discrete", "continuous"):
        log = random_log(ROWS, discrete=kind == "discrete")
        fqe = FQE(gamma=0.99)
        other: Any = (st.DQN if kind == "discrete" else st.TD3BC)(hidden_sizes=HIDDEN)
        one, several, plain = fqe_source(log, 1), fqe_source(log, 6), transition_source(log, Scaling.of(log))
        programs = {
            "FQE, one policy": (rate_of(fqe, one, log, 1), floor_of(fqe, one, log)),
            "FQE, six policies": (rate_of(fqe, several, log, 6), floor_of(fqe, several, log)),
            type(other).__name__: (rate_of(other, plain, log, 1), floor_of(other, plain, log)),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for number in range(asked.rounds + 1):
            for name, (rate, floor) in programs.items():
                pair = (rate(), floor())
                if number:  # the first round compiles
                    found[name].append(pair)
        for name, pairs in found.items():
            rates, floors, shares = [p[0] for p in pairs], [p[1] for p in pairs], [p[0] / p[1] for p in pairs]
            lines.append(f"| {kind} | {name} | {_spread(rates)} | {_spread(floors)} | {_spread(shares, 2)} |")
            print(lines[-1], flush=True)
    text = "\n".join(
        [
            "# FQE at the training loop's rate", "", describe(f"python benchmarks/fqe_rate.py --rounds {asked.rounds}"), "",
            f"Two hidden layers of {HIDDEN[0]}, batch {BATCH}, {ROWS:,} transitions of 17 numbers an observation and 6 actions "
            "(continuous: 6 numbers an action). Medians, with the least and the largest round.", "", *lines, "",
        ]
    )  # fmt: skip
    asked.out.write_text(text)


def _spread(values: list[float], decimals: int = 0) -> str:
    return f"{statistics.median(values):,.{decimals}f} ({min(values):,.{decimals}f} to {max(values):,.{decimals}f})"


if __name__ == "__main__":
    main()
