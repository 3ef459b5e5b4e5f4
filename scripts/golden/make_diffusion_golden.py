"""Make the golden numbers of IDQL: what its official implementation computes in 20 updates on fixed batches.

tests/algorithms/test_golden_diffusion.py holds this library's algorithm to the numbers. They are made in the environment of
make_flow_golden.py, from the parts of make_golden.py:

    ENVIRONMENT/bin/python scripts/golden/make_diffusion_golden.py --idql FOLDER

    IDQL     github.com/philippe-eecs/IDQL    7582571ce686c77b4ee0f592dd639ab8151295fa

Written to tests/golden: `idql.npz`, and `diffusion.json` with the commit, versions and settings.

The official update function runs as it is, outside of a compiled program. Around it, this is what is not theirs:

- The critics' networks have two hidden layers of 16; the diffusion has two residual blocks of width 16, and no dropout. First
  parameters are fixed. Targets start with other parameters than what they follow, so that one taken for the other is seen.
- Random numbers are drawn here, from NumPy, and handed out where the official code asks JAX for some.
- Layer normalisation adds 1e-5 to the variance, as PyTorch does, instead of flax's 1e-6. V's network has none.
- The weight decay of the diffusion, which is Optax's default in the official code, is 0.1 in one run, so that it is seen.
- Empty modules stand for Gym, and for the packages' own `__init__` files, which import every other algorithm.
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

WIDTH, BLOCKS, FREQUENCIES = 16, 2, 4
CRITICS = {"critic": "critic", "target_critic": "target_critic"}
ACTORS = {"actor": "score_model", "target_actor": "target_score_model"}
"""Our name of a network -> its official one."""
RUNS: dict[str, dict[str, Any]] = {
    "idql": {"critic_hyperparam": 0.7, "T": 5, "decay_steps": None, "weight_decay": 1e-4},
    "idql_decayed": {"critic_hyperparam": 0.9, "T": 3, "decay_steps": 2 * UPDATES, "weight_decay": 0.1},
}
SHARED = {"learning_rate": LEARNING_RATE, "discount": 0.99, "tau": 0.005, "actor_tau": 0.01}
LEARNER = "jaxrl5.agents.ddpm_iql_simple.ddpm_iql_learner"


def main() -> None:
    """Make all numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--idql", type=Path, required=True, help="folder of the official checkout")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    np.savez_compressed(arguments.to / "idql.npz", **run_idql(arguments.idql.resolve(), shared.make_batches()))
    about = {
        "made_by": "scripts/golden/make_diffusion_golden.py",
        "sources": {"idql": shared.about_source("philippe-eecs/IDQL", arguments.idql)},
        "versions": flow.versions(),
        "runs": {run: {**SHARED, **settings} for run, settings in RUNS.items()},
    }
    (arguments.to / "diffusion.json").write_text(json.dumps(about, indent=2) + "\n")


def run_idql(checkout: Path, batches: Arrays) -> Arrays:
    """Both runs, from one start."""
    rng, inputs = np.random.default_rng(17), OBSERVATION + ACTION
    start: Arrays = {}
    for name in ACTORS:
        start[f"{name}_frequencies"] = [(rounded(0.2 * rng.standard_normal((FREQUENCIES, 1))), np.zeros(0, np.float32))]
        start[f"{name}_condition"] = make_network(rng, 2 * FREQUENCIES, WIDTH, (WIDTH,))
        start[f"{name}_first"] = make_network(rng, inputs + WIDTH, WIDTH, ())
        for i in range(BLOCKS):
            start[f"{name}_block_{i}"] = make_network(rng, WIDTH, WIDTH, (4 * WIDTH,))
        start[f"{name}_norm"] = [
            (rounded(rng.uniform(0.8, 1.2, WIDTH)), rounded(0.1 * rng.standard_normal(WIDTH))) for _ in range(BLOCKS)
        ]
        start[f"{name}_last"] = make_network(rng, WIDTH, ACTION, ())
    start["value"] = make_network(rng, OBSERVATION, 1)
    for name in CRITICS:
        for i in range(2):
            start[f"{name}.{i}"] = make_network(rng, inputs, 1)
    arrays = named(start, "start")
    arrays["draws/noise"] = rounded(rng.standard_normal((UPDATES, ROWS, ACTION)))
    learner = imported(checkout)
    for run, settings in RUNS.items():
        steps = rng.integers(settings["T"], size=(UPDATES, ROWS)).astype(np.int32)
        arrays[f"{run}/draws/step"] = steps
        agent = fresh_agent(learner, start, settings)
        for update in range(UPDATES):
            row = {name: column[update] for name, column in batches.items()}
            agent = updated(agent, row, steps[update], arrays["draws/noise"][update])
            if update + 1 in KEPT:
                arrays.update(named(taken(agent), f"{run}/after_{update + 1}"))
    return arrays


def imported(checkout: Path) -> Any:
    """The module of the official learner."""
    modules = {name: types.ModuleType(name) for name in ("gym", "gym.spaces", "gym.utils", "gym.utils.seeding")}
    modules["gym.spaces"].__dict__.update(Space=object, Box=object)
    modules["gym"].__dict__["spaces"] = modules["gym.spaces"]
    modules["gym.utils"].__dict__["seeding"] = modules["gym.utils.seeding"]
    for name in ("jaxrl5", "jaxrl5.agents", "jaxrl5.agents.ddpm_iql_simple", "jaxrl5.data"):
        modules[name] = types.ModuleType(name)
        modules[name].__path__ = [str(checkout.joinpath(*name.split(".")))]
    sys.modules.update(modules)
    learner, resnet = importlib.import_module(LEARNER), importlib.import_module("jaxrl5.networks.resnet")
    resnet.nn.LayerNorm = functools.partial(resnet.nn.LayerNorm, epsilon=1e-5)
    learner.MLPResNet = functools.partial(learner.MLPResNet, hidden_dim=WIDTH)
    return learner


class Box:
    """What the official code asks of a space."""

    def __init__(self, size: int) -> None:
        self.shape = (size,)

    def sample(self) -> np.ndarray:
        """Any point."""
        return np.zeros(self.shape, np.float32)


def fresh_agent(learner: Any, start: Arrays, settings: dict[str, Any]) -> Any:
    """The official agent with the first parameters that both runs share."""
    import jax

    given = {name: value for name, value in settings.items() if name != "weight_decay"}
    adamw = functools.partial(learner.optax.adamw, weight_decay=settings["weight_decay"])
    with mock.patch.object(learner.optax, "adamw", adamw):
        agent = learner.DDPMIQLLearner.create(
            0, Box(OBSERVATION), Box(ACTION), **given,
            **{name: SHARED[name] for name in ("discount", "tau", "actor_tau")},
            **dict.fromkeys(("actor_lr", "critic_lr", "value_lr"), LEARNING_RATE),
            critic_hidden_dims=HIDDEN, actor_num_blocks=BLOCKS, value_layer_norm=False, time_dim=2 * FREQUENCIES,
        )  # fmt: skip
    trees = {theirs: actor_tree(start, ours) for ours, theirs in ACTORS.items()}
    value = start["value"]
    trees["value"] = {"MLP_0": flax_mlp(value[:-1]), "OutputVDense": flax_mlp(value[-1:])["Dense_0"]}
    for ours, theirs in CRITICS.items():
        members = [start[f"{ours}.{i}"] for i in range(2)]
        members = [{"MLP_0": flax_mlp(m[:-1]), "Dense_0": flax_mlp(m[-1:])["Dense_0"]} for m in members]
        stacked = jax.tree_util.tree_map(lambda *pair: np.stack(pair), *members)
        trees[theirs] = {"VmapStateActionValue_0": stacked}
    for name, tree in trees.items():
        model = getattr(agent, name)
        parameters = jax.tree_util.tree_map(jax.numpy.asarray, tree)
        shapes = [jax.tree_util.tree_map(np.shape, p) for p in (parameters, model.params)]
        assert shapes[0] == shapes[1], shapes
        agent = agent.replace(**{name: model.replace(params=parameters)})
    return agent


def swapped(weight: np.ndarray, first: int, second: int) -> np.ndarray:
    """The rows of two inputs that stand first, the other way round: the official code has the action before the observation."""
    return np.concatenate([weight[first : first + second], weight[:first], weight[first + second :]])


def actor_tree(start: Arrays, name: str) -> dict:
    """The parameters of a diffusion as flax names them."""
    (weight, bias), (scales, offsets) = start[f"{name}_first"][0], zip(*start[f"{name}_norm"], strict=True)
    network = {"Dense_0": {"kernel": swapped(weight, OBSERVATION, ACTION), "bias": bias}}
    network["Dense_1"] = flax_mlp(start[f"{name}_last"])["Dense_0"]
    for i in range(BLOCKS):
        norm = {"LayerNorm_0": {"scale": scales[i], "bias": offsets[i]}}
        network[f"MLPResNetBlock_{i}"] = flax_mlp(start[f"{name}_block_{i}"]) | norm
    return {
        "FourierFeatures_0": {"kernel": start[f"{name}_frequencies"][0][0]},
        "MLP_0": flax_mlp(start[f"{name}_condition"]),
        "MLPResNet_0": network,
    }


def updated(agent: Any, row: Arrays, step: np.ndarray, noise: np.ndarray) -> Any:
    """The agent after one update with these rows and draws."""
    import jax

    batch = {
        "observations": row["obs"],
        "actions": row["action"],
        "rewards": row["reward"],
        "next_observations": row["next_obs"],
        "masks": np.float32(1.0) - row["terminated"],
    }
    waiting = {"randint": [step], "normal": [noise]}

    def give(kind: str) -> Any:
        def next_of(key: Any, shape: tuple[int, ...], *_: Any) -> Any:
            assert waiting[kind][0].shape == tuple(shape)
            return jax.numpy.asarray(waiting[kind].pop(0))

        return next_of

    with (
        jax.disable_jit(),
        mock.patch.object(jax.random, "randint", give("randint")),
        mock.patch.object(jax.random, "normal", give("normal")),
    ):
        agent, _ = agent.update(batch)
    assert not any(waiting.values())
    return agent


def taken(agent: Any) -> Arrays:
    """The parameters of the official networks by our names."""
    networks: Arrays = {}
    for ours, theirs in ACTORS.items():
        tree = getattr(agent, theirs).params
        network = tree["MLPResNet_0"]
        blocks = [network[f"MLPResNetBlock_{i}"] for i in range(BLOCKS)]
        weight, bias = flax_layers(network, 1)[0]
        networks[f"{ours}_frequencies"] = [(np.asarray(tree["FourierFeatures_0"]["kernel"]), np.zeros(0, np.float32))]
        networks[f"{ours}_condition"] = flax_layers(tree["MLP_0"], 2)
        networks[f"{ours}_first"] = [(swapped(weight, ACTION, OBSERVATION), bias)]
        networks[f"{ours}_last"] = flax_layers({"Dense_0": network["Dense_1"]}, 1)
        networks |= {f"{ours}_block_{i}": flax_layers(block, 2) for i, block in enumerate(blocks)}
        networks[f"{ours}_norm"] = [
            (np.asarray(b["LayerNorm_0"]["scale"]), np.asarray(b["LayerNorm_0"]["bias"])) for b in blocks
        ]
    value = agent.value.params
    networks["value"] = flax_layers(value["MLP_0"], 2) + flax_layers({"Dense_0": value["OutputVDense"]}, 1)
    for ours, theirs in CRITICS.items():
        tree = getattr(agent, theirs).params["VmapStateActionValue_0"]
        layers = flax_layers(tree["MLP_0"], 2) + flax_layers({"Dense_0": tree["Dense_0"]}, 1)
        for i in range(2):
            networks[f"{ours}.{i}"] = [(weight[i], bias[i]) for weight, bias in layers]
    return networks


if __name__ == "__main__":
    main()
