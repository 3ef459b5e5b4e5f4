"""Make the golden numbers of FQL: what its official implementation computes in 20 updates on fixed batches.

tests/algorithms/test_golden_flow.py holds this library's algorithm to the numbers. They are made as those of
make_golden.py are, whose parts are used here, but in another environment, because the official code is for later
releases of JAX:

    python -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install -r scripts/golden/flow_requirements.txt
    ENVIRONMENT/bin/python scripts/golden/make_flow_golden.py --fql FOLDER

    FQL      github.com/seohongpark/fql    719d04417cb0b206deddbc7d761b3e710c3d750c

Written to tests/golden: `fql.npz`, and `flow.json` with the commit, versions and settings.

The official update function runs as it is, outside of a compiled program. Around it, this is what is not theirs:

- Networks have two hidden layers of 16 and fixed first parameters. The target critics start with other parameters than
  the critics, so that one taken for the other is seen.
- Random numbers are drawn here, from NumPy, and handed out where the official code asks JAX for some.
- Layer normalisation adds 1e-5 to the variance, as PyTorch does, instead of flax's 1e-6.
- The target critics follow the critics after their step. The official code reads the parameters of before it.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import make_golden as shared
import numpy as np
from make_golden import (
    ACTION,
    HIDDEN,
    KEPT,
    LEARNING_RATE,
    OBSERVATION,
    ROWS,
    UPDATES,
    Arrays,
    flax_layers,
    flax_mlp,
    make_network,
    named,
    rounded,
)

POLICIES = {"behavior": "actor_bc_flow", "actor": "actor_onestep_flow"}
CRITICS = {"critic": "critic", "target_critic": "target_critic"}
"""Our name of a network -> its official one."""
RUNS: dict[str, dict[str, Any]] = {
    "fql": {"alpha": 10.0, "normalize_q_loss": False, "q_agg": "mean", "flow_steps": 10},
    "fql_normalized": {"alpha": 0.3, "normalize_q_loss": True, "q_agg": "min", "flow_steps": 4},
}
SHARED = {"lr": LEARNING_RATE, "discount": 0.99, "tau": 0.005}


def main() -> None:
    """Make all numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fql", type=Path, required=True, help="folder of the official checkout")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    np.savez_compressed(arguments.to / "fql.npz", **run_fql(arguments.fql.resolve(), shared.make_batches()))
    about = {
        "made_by": "scripts/golden/make_flow_golden.py",
        "sources": {"fql": shared.about_source("seohongpark/fql", arguments.fql)},
        "versions": versions(),
        "runs": {run: {**SHARED, **settings} for run, settings in RUNS.items()},
    }
    (arguments.to / "flow.json").write_text(json.dumps(about, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Of Python and of the packages that computed the numbers."""
    from importlib.metadata import version

    names = ("numpy", "jax", "jaxlib", "flax", "optax", "distrax", "ml_collections")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def run_fql(checkout: Path, batches: Arrays) -> Arrays:
    """Both runs, from one start and with the same draws."""
    rng, inputs = np.random.default_rng(13), OBSERVATION + ACTION
    start = {"behavior": make_network(rng, inputs + 1, ACTION), "actor": make_network(rng, inputs, ACTION)}
    for name in CRITICS:
        for i in range(2):
            start[f"{name}.{i}"] = make_network(rng, inputs, 1)
            start[f"{name}_norm.{i}"] = [
                (rounded(rng.uniform(0.8, 1.2, width)), rounded(0.1 * rng.standard_normal(width))) for width in HIDDEN
            ]
    draws = {
        f"draws/{name}": rounded(rng.standard_normal((UPDATES, ROWS, ACTION))) for name in ("next", "start", "noise")
    }
    draws["draws/time"] = rounded(rng.random((UPDATES, ROWS, 1)))
    arrays = {**named(start, "start"), **draws}

    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        official = importlib.import_module("agents.fql")
        networks = importlib.import_module("utils.networks")
    networks.nn.LayerNorm = functools.partial(networks.nn.LayerNorm, epsilon=1e-5)
    followed = official.FQLAgent.target_update

    for run, settings in RUNS.items():
        agent = fresh_agent(official, batches, start, settings)

        def target_update(self: Any, network: Any, name: str) -> None:
            followed(self.replace(network=network), network, name)

        with mock.patch.object(official.FQLAgent, "target_update", target_update):
            for update in range(UPDATES):
                agent = updated(agent, {name: column[update] for name, column in {**batches, **draws}.items()})
                if update + 1 in KEPT:
                    arrays.update(named(taken(agent), f"{run}/after_{update + 1}"))
    return arrays


def fresh_agent(official: Any, batches: Arrays, start: Arrays, settings: dict[str, Any]) -> Any:
    """The official agent with the first parameters that all runs share."""
    import jax

    config = official.get_config()
    config.update({**SHARED, **settings, "actor_hidden_dims": HIDDEN, "value_hidden_dims": HIDDEN})
    agent = official.FQLAgent.create(0, batches["obs"][0], batches["action"][0], config)
    parameters = {f"modules_{theirs}": {"mlp": flax_mlp(start[ours])} for ours, theirs in POLICIES.items()}
    for ours, theirs in CRITICS.items():
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


def updated(agent: Any, row: Arrays) -> Any:
    """The agent after one update with these rows and draws."""
    import jax

    batch = {
        "observations": row["obs"],
        "actions": row["action"],
        "rewards": row["reward"],
        "next_observations": row["next_obs"],
        "masks": np.float32(1.0) - row["terminated"],
    }
    # The last draw is for a metric.
    waiting = [row["draws/next"], row["draws/start"], row["draws/noise"], np.zeros((ROWS, ACTION), np.float32)]
    times = [row["draws/time"]]

    def give(left: list) -> Any:
        def next_of(key: Any, shape: tuple[int, ...]) -> Any:
            assert left[0].shape == tuple(shape)
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


def taken(agent: Any) -> Arrays:
    """The parameters of the official networks by our names."""
    import jax

    parameters, layers = agent.network.params, len(HIDDEN) + 1
    networks = {ours: flax_layers(parameters[f"modules_{theirs}"]["mlp"], layers) for ours, theirs in POLICIES.items()}
    for ours, theirs in CRITICS.items():
        for i in range(2):
            tree = parameters[f"modules_{theirs}"]["value_net"]
            member = jax.tree_util.tree_map(lambda leaf, i=i: np.asarray(leaf)[i], tree)
            networks[f"{ours}.{i}"] = flax_layers(member, layers)
            networks[f"{ours}_norm.{i}"] = [
                (member[f"LayerNorm_{j}"]["scale"], member[f"LayerNorm_{j}"]["bias"]) for j in range(len(HIDDEN))
            ]
    return networks


if __name__ == "__main__":
    main()
