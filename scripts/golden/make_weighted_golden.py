"""Make the golden numbers of the algorithms by weighted imitation, and of CQL(rho), as make_golden.py does.

That file describes the environment, the batches and the format, and its parts are used here:

    ENVIRONMENT/bin/python scripts/golden/make_weighted_golden.py --corl FOLDER --ivr FOLDER --xql FOLDER --cql FOLDER

    AWAC       github.com/tinkoff-ai/CORL            6afec90484bbf47dee05fdf525e26a3ebe028e9b
    SQL, EQL   github.com/ryanxhr/IVR                58edd26d9253152f120def474fabed01cae47814
    XQL        github.com/Div99/XQL                 dff09afb893fe782be259c2420903f8dfb50ef2c
    CQL(rho)   github.com/aviralkumar2907/CQL        d67dbe9cf5d2b96e3b462b6146f249b3d6569796

A folder that is left out leaves the numbers of its algorithms as they are. `weighted.json` holds commits and settings.

The official update functions run as they are. Around them, this is what is not theirs:

- CORL's file imports packages for environments and for logging, which its update does not use; empty modules stand for
  them. Its actor gets a tanh on its mean, which the authors' own code has. It has three hidden layers, here of 16.
- SQL, EQL and XQL run without layer normalisation of V, which their constructors take, because flax adds 1e-6 to the
  variance where this library adds 1e-5, and without the decay of the actor's step size.
- CQL(rho) is the official `min_q_version` 2, run as the first run of make_golden.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple
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
    Draws,
    Layers,
    make_network,
    named,
    put_flax,
    put_torch,
    rounded,
    taken_from_flax,
    torch_layers,
)

SOURCES = {
    "corl": "tinkoff-ai/CORL",
    "ivr": "ryanxhr/IVR",
    "xql": "Div99/XQL",
    "cql": "aviralkumar2907/CQL",
}
"""Option -> official repository."""
DEEP = (16, 16, 16)
"""Hidden layers of AWAC."""


def main() -> None:
    """Make the numbers of the checkouts that are given and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, repository in SOURCES.items():
        parser.add_argument(f"--{name}", type=Path, help=f"folder of a checkout of {repository}")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    makers = {
        "awac": ("corl", run_awac),
        "sql": ("ivr", run_sql),
        "xql": ("xql", run_xql),
        "cql_rho": ("cql", run_cql_rho),
    }
    told, batches = arguments.to / "weighted.json", shared.make_batches()
    about = json.loads(told.read_text()) if told.exists() else {"sources": {}, "runs": {}}
    for file, (source, make) in makers.items():
        folder = getattr(arguments, source)
        if folder is not None:
            np.savez_compressed(arguments.to / f"{file}.npz", **make(folder.resolve(), batches, about["runs"]))
            about["sources"][source] = shared.about_source(SOURCES[source], folder)
    made = {"made_by": "scripts/golden/make_weighted_golden.py", "versions": shared.versions()}
    told.write_text(json.dumps({**made, **about}, indent=2) + "\n")


# --- AWAC ------------------------------------------------------------------------------------------------------------


def run_awac(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """AWAC as CORL has it, with tanh on the mean."""
    import torch

    empty = {name: types.ModuleType(name) for name in ("d4rl", "gym", "pyrallis", "tqdm", "wandb")}
    empty["gym"].Env = object
    empty["tqdm"].trange = range
    empty["pyrallis"].wrap = lambda: lambda function: function
    folder = str(checkout / "algorithms" / "offline")
    with mock.patch.dict(sys.modules, empty), mock.patch.object(sys, "path", [folder, *sys.path]):
        official = importlib.import_module("awac")

    def network(inputs: int, outputs: int) -> Layers:
        return [
            (rounded(rng.standard_normal((a, b)) * (1.5 / a) ** 0.5), rounded(0.1 * rng.standard_normal(b)))
            for a, b in itertools.pairwise([inputs, *DEEP, outputs])
        ]

    rng = np.random.default_rng(11)
    start = {"actor": network(OBSERVATION, ACTION)}
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = network(OBSERVATION + ACTION, 1)
    log_std = rounded(rng.uniform(-1.0, 0.5, ACTION))
    noise = {name: rounded(rng.standard_normal((UPDATES, ROWS, ACTION))) for name in ("target", "actor")}
    settings = {"gamma": 0.99, "tau": 0.005, "awac_lambda": 0.3333}
    runs["awac"] = {"learning_rate": LEARNING_RATE, "hidden_sizes": DEEP, **settings}

    actor = official.Actor(OBSERVATION, ACTION, DEEP[0])
    actor._mlp.append(torch.nn.Tanh())
    critics = [official.Critic(OBSERVATION, ACTION, DEEP[0]) for _ in range(2)]
    adams = [torch.optim.Adam(network.parameters(), lr=LEARNING_RATE) for network in (actor, *critics)]
    agent = official.AdvantageWeightedActorCritic(
        actor, adams[0], critics[0], adams[1], critics[1], adams[2], **settings
    )
    modules = {
        "actor": actor,
        "critic.0": agent._critic_1,
        "critic.1": agent._critic_2,
        "target_critic.0": agent._target_critic_1,
        "target_critic.1": agent._target_critic_2,
    }
    linear = {name: [m for m in module._mlp if isinstance(m, torch.nn.Linear)] for name, module in modules.items()}
    for name, layers in start.items():
        put_torch(linear[name], layers)
    actor._log_std.data.copy_(torch.from_numpy(log_std))

    arrays = {**named(start, "start"), "start/log_std": log_std}
    arrays |= {f"draws/{name}": draw for name, draw in noise.items()}
    draws = Draws()
    with mock.patch.object(torch.distributions.normal, "_standard_normal", lambda shape, **_: draws.next(shape)):
        for update in range(UPDATES):
            draws.fill([noise["target"][update], noise["actor"][update]])
            columns = [batches[name][update] for name in ("obs", "action", "reward", "next_obs", "terminated")]
            columns = [column[:, None] if column.ndim == 1 else column for column in columns]
            agent.update([torch.from_numpy(column) for column in columns])
            if update + 1 in KEPT:
                at = f"awac/after_{update + 1}"
                arrays.update(named({name: torch_layers(layers) for name, layers in linear.items()}, at))
                arrays[f"{at}/log_std"] = actor._log_std.detach().numpy().copy()
    return arrays


# --- SQL, EQL and XQL ------------------------------------------------------------------------------------------------


def in_sample_start(seed: int) -> tuple[dict[str, Layers], np.ndarray]:
    """First parameters of V, actor, critics and their slow copies, and the log standard deviations."""
    rng = np.random.default_rng(seed)
    start = {"value": make_network(rng, OBSERVATION, 1), "actor": make_network(rng, OBSERVATION, ACTION)}
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = make_network(rng, OBSERVATION + ACTION, 1)
    return start, rounded(rng.uniform(-1.0, 0.5, ACTION))


def official_learner(checkout: Path) -> tuple[Any, Any]:
    """The modules `learner` and `common` of one of the repositories that grew from IQL's, all of whose files share names."""
    import jax

    jax.tree_multimap = jax.tree_util.tree_map
    for name in ("learner", "common", "actor", "critic", "policy", "value_net"):
        sys.modules.pop(name, None)
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module("learner"), importlib.import_module("common")


def trained(agent: Any, common: Any, batches: Arrays, run: str) -> Arrays:
    """Parameters after 20 updates of an agent that has IQL's networks."""
    arrays: Arrays = {}
    for update in range(UPDATES):
        fields = {
            "observations": batches["obs"][update],
            "actions": batches["action"][update],
            "rewards": batches["reward"][update],
            "masks": 1.0 - batches["terminated"][update],
            "next_observations": batches["next_obs"][update],
        }
        agent.update(common.Batch(**{name: fields.get(name) for name in common.Batch._fields}))
        if update + 1 in KEPT:
            networks, log_stds = taken_from_flax(agent)
            arrays.update(named(networks, f"{run}/after_{update + 1}"))
            arrays[f"{run}/after_{update + 1}/log_std"] = log_stds
    return arrays


def step_sizes() -> dict:
    """What the constructors of these agents have in common."""
    rates = dict.fromkeys(("actor_lr", "value_lr", "critic_lr"), LEARNING_RATE)
    return {**rates, "hidden_dims": HIDDEN, "opt_decay_schedule": "none", "layernorm": False}


def run_sql(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """SQL and EQL from one start."""
    learner, common = official_learner(checkout)
    start, log_std = in_sample_start(12)
    arrays = {**named(start, "start"), "start/log_std": log_std}
    for run, alpha in (("sql", 1.0), ("sql_sparse", 0.1), ("eql", 2.0)):
        settings = {"discount": 0.99, "tau": 0.005, "alpha": alpha}
        runs[run] = {"learning_rate": LEARNING_RATE, **settings}
        agent = learner.Learner(
            0, batches["obs"][0], batches["action"][0], alg=run[:3].upper(), **settings, **step_sizes()
        )
        put_flax(agent, start, log_std)
        arrays.update(trained(agent, common, batches, run))
    return arrays


class XQLArguments(NamedTuple):
    """The command-line settings that the official update of XQL reads."""

    sample_random_times: int = 0
    grad_pen: bool = False
    lambda_gp: float = 1.0
    noise: bool = False
    max_clip: float = 7.0
    num_v_updates: int = 1
    log_loss: bool = False
    noise_std: float = 0.1


def run_xql(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """XQL; in the second run some exponents are above their cap and some errors beyond the Huber threshold."""
    learner, common = official_learner(checkout / "offline")
    start, log_std = in_sample_start(13)
    arrays = {**named(start, "start"), "start/log_std": log_std}
    for run, temp, clip, scale in (("xql", 1.0, 7.0, 1.0), ("xql_clipped", 0.3, 2.0, 30.0)):
        settings = {"discount": 0.99, "tau": 0.005, "temperature": 3.0, "loss_temp": temp}
        runs[run] = {"learning_rate": LEARNING_RATE, "max_clip": clip, "reward_scale": scale, **settings}
        agent = learner.Learner(
            0,
            batches["obs"][0],
            batches["action"][0],
            vanilla=False,
            args=XQLArguments(max_clip=clip),
            **settings,
            **step_sizes(),
        )
        put_flax(agent, start, log_std)
        scaled = batches | {"reward": np.float32(scale) * batches["reward"]}
        arrays.update(trained(agent, common, scaled, run))
    return arrays


# --- CQL(rho) --------------------------------------------------------------------------------------------------------


def run_cql_rho(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """CQL(rho), from the start and with the draws of make_golden.py, without and with the Lagrange multiplier."""
    import torch

    start, draws = shared.cql_inputs()
    arrays: Arrays = {}
    for run, changed in (("cql_rho", {"with_lagrange": False}), ("cql_rho_lagrange", {"with_lagrange": True})):
        runs[run] = {**shared.cql_settings(), "min_q_version": 2, "lagrange_thresh": 1.0, **changed}
        kept = torch.autograd.graph.allow_mutation_on_saved_tensors
        inputs = (checkout / "d4rl", batches, start, draws, run, runs[run], torch.optim.Adam, kept)
        arrays.update(shared.train_cql(*inputs))
    return arrays


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
