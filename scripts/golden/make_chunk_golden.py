"""Make the golden numbers of Q-chunking: what its official implementation computes in 20 updates on fixed batches.

tests/algorithms/test_golden_chunk.py holds this library's algorithm to the numbers. They are made in the environment of
make_flow_golden.py, from its parts and those of make_golden.py:

    ENVIRONMENT/bin/python scripts/golden/make_chunk_golden.py --qc FOLDER

    Q-chunking    github.com/ColinQiyangLi/qc    48283b4f662bd1c127ec9fa80647b49759f10653

Written to tests/golden: `q_chunking.npz`, and `chunk.json` with the commit, versions and settings.

The official update function runs as it is, outside of a compiled program. What is not theirs is what make_flow_golden.py says,
and this:

- Chunks are of two actions: that of the row, and that of the next row of the batch; rewards likewise. The log has all of every
  chunk, because the official code leaves out the others. One row in five terminates with its last action.
- An empty module stands for the package's own `__init__` file, which imports the other algorithms.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import make_flow_golden as flow
import make_golden as shared
import numpy as np
from make_golden import ACTION, HIDDEN, KEPT, OBSERVATION, ROWS, UPDATES, Arrays, flax_mlp, make_network, named, rounded

LENGTH, CANDIDATES = 2, 3
RUNS: dict[str, dict[str, Any]] = {
    "one_step": {"alpha": 3.0, "q_agg": "mean", "flow_steps": 4, "actor_type": "distill-ddpg"},
    "best_of": {"q_agg": "min", "flow_steps": 3, "actor_type": "best-of-n", "actor_num_samples": CANDIDATES},
}
SHARED = {**flow.SHARED, "horizon_length": LENGTH}


def main() -> None:
    """Make all numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--qc", type=Path, required=True, help="folder of the official checkout")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    np.savez_compressed(arguments.to / "q_chunking.npz", **run_chunks(arguments.qc.resolve(), shared.make_batches()))
    about = {
        "made_by": "scripts/golden/make_chunk_golden.py",
        "sources": {"qc": shared.about_source("ColinQiyangLi/qc", arguments.qc)},
        "versions": flow.versions(),
        "runs": {run: {**SHARED, **settings} for run, settings in RUNS.items()},
    }
    (arguments.to / "chunk.json").write_text(json.dumps(about, indent=2) + "\n")


def run_chunks(checkout: Path, batches: Arrays) -> Arrays:
    """Both runs, from one start and with the same draws."""
    rng, numbers = np.random.default_rng(23), LENGTH * ACTION
    inputs = OBSERVATION + numbers
    start = {"behavior": make_network(rng, inputs + 1, numbers), "actor": make_network(rng, inputs, numbers)}
    for name in flow.CRITICS:
        for i in range(2):
            start[f"{name}.{i}"] = make_network(rng, inputs, 1)
            start[f"{name}_norm.{i}"] = [
                (rounded(rng.uniform(0.8, 1.2, width)), rounded(0.1 * rng.standard_normal(width))) for width in HIDDEN
            ]
    draws = {
        f"draws/{name}": rounded(rng.standard_normal((UPDATES, ROWS, numbers))) for name in ("next", "start", "noise")
    }
    draws["draws/candidates"] = rounded(rng.standard_normal((UPDATES, CANDIDATES, ROWS, numbers)))
    draws["draws/time"] = rounded(rng.random((UPDATES, ROWS, 1)))
    arrays = {**named(start, "start"), **draws}

    package = types.ModuleType("agents")
    package.__path__ = [str(checkout / "agents")]
    sys.modules["agents"] = package
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        official = importlib.import_module("agents.acfql")
        networks = importlib.import_module("utils.networks")
    networks.nn.LayerNorm = functools.partial(networks.nn.LayerNorm, epsilon=1e-5)
    followed = official.ACFQLAgent.target_update

    def target_update(self: Any, network: Any, name: str) -> None:
        followed(self.replace(network=network), network, name)

    for run, settings in RUNS.items():
        agent = fresh_agent(official, batches, start, settings)
        with mock.patch.object(official.ACFQLAgent, "target_update", target_update):
            for update in range(UPDATES):
                agent = updated(agent, {name: column[update] for name, column in {**batches, **draws}.items()}, run)
                if update + 1 in KEPT:
                    arrays.update(named(flow.taken(agent), f"{run}/after_{update + 1}"))
    return arrays


def fresh_agent(official: Any, batches: Arrays, start: Arrays, settings: dict[str, Any]) -> Any:
    """The official agent with the first parameters that both runs share."""
    import jax

    config = official.get_config()
    config.update({**SHARED, **settings, "actor_hidden_dims": HIDDEN, "value_hidden_dims": HIDDEN})
    agent = official.ACFQLAgent.create(0, batches["obs"][0, 0], batches["action"][0, 0], config)
    parameters = {f"modules_{theirs}": {"mlp": flax_mlp(start[ours])} for ours, theirs in flow.POLICIES.items()}
    for ours, theirs in flow.CRITICS.items():
        members = []
        for i in range(2):
            norms = enumerate(start[f"{ours}_norm.{i}"])
            norms = {f"LayerNorm_{j}": {"scale": scale, "bias": offset} for j, (scale, offset) in norms}
            members.append(flax_mlp(start[f"{ours}.{i}"]) | norms)
        parameters[f"modules_{theirs}"] = {"value_net": jax.tree_util.tree_map(lambda *pair: np.stack(pair), *members)}
    parameters = jax.tree_util.tree_map(jax.numpy.asarray, parameters)
    shapes = [jax.tree_util.tree_map(np.shape, tree) for tree in (parameters, agent.network.params)]
    assert shapes[0] == shapes[1], shapes
    return agent.replace(network=agent.network.replace(params=parameters))


def updated(agent: Any, row: Arrays, run: str) -> Any:
    """The agent after one update with these rows and draws."""
    import jax

    gamma, last = np.float32(SHARED["discount"]), np.float32(1.0) - row["terminated"]
    both = np.stack([row["reward"], row["reward"] + gamma * np.roll(row["reward"], -1)], axis=1)
    batch = {
        "observations": row["obs"],
        "actions": np.stack([row["action"], np.roll(row["action"], -1, 0)], axis=1),
        "rewards": both.astype(np.float32),
        "next_observations": np.stack([np.zeros_like(row["next_obs"]), row["next_obs"]], axis=1),
        "masks": np.stack([np.ones_like(last), last], axis=1),
        "valid": np.ones((ROWS, LENGTH), np.float32),
    }
    if run == "one_step":
        waiting = [row["draws/next"], row["draws/start"], row["draws/noise"]]
    else:
        waiting = [np.moveaxis(row["draws/candidates"], 0, 1), row["draws/start"]]
    times = [row["draws/time"]]

    def give(left: list) -> Any:
        def next_of(key: Any, shape: tuple[int, ...]) -> Any:
            assert left[0].shape == tuple(shape), (left[0].shape, shape)
            return jax.numpy.asarray(left.pop(0))

        return next_of

    with (
        jax.disable_jit(),
        mock.patch.object(jax.random, "normal", give(waiting)),
        mock.patch.object(jax.random, "uniform", give(times)),
    ):
        agent, _ = agent.update(batch)
    assert not waiting
    assert not times
    return agent


if __name__ == "__main__":
    main()
