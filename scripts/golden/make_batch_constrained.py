"""Make the golden numbers of BCQ and BEAR: what their official implementations compute in 20 updates on fixed batches.

tests/algorithms/test_golden_batch_constrained.py holds this library's algorithms to the numbers. They are made as those
of make_golden.py are, in the same environment and from the same batches:

    ENVIRONMENT/bin/python scripts/golden/make_batch_constrained.py --bcq FOLDER --bear FOLDER

    BCQ      github.com/sfujim/BCQ               4876f7e5afa9eb2981feec5daf67202514477518
    BEAR     github.com/aviralkumar2907/BEAR     f2e31c1b5f81c4fb0e692a34949c7d8b48582d8f

Written to tests/golden: `discrete_bcq.npz`, `bcq.npz`, `bear.npz`, and `batch_constrained.json` with the commits,
versions and settings.

The official update functions run as they are. Around them, this is what is not theirs:

- The widths are in their code; every hidden layer is narrowed to 16 while the networks are built. Step sizes of
  optimisers are set after they were built.
- First parameters are fixed, also of the logarithm of BEAR's multiplier, which the official code draws at random.
- Random numbers are drawn here and handed out where the official code asks PyTorch or NumPy for some. Those of
  candidates are multiples of 1/16, so that the files are small.
- BEAR changes the actor before it takes the gradient of the multiplier's loss through the same graph, which
  later releases of PyTorch refuse. The weights from before the change are kept for it
  (`torch.autograd.graph.allow_mutation_on_saved_tensors`); the part of that gradient which is used does not depend on them.
- BEAR counts the warm start in calls of its training function, which is told to make one update a call. Its logger
  writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from make_golden import (
    ACTION,
    CHOICES,
    KEPT,
    LEARNING_RATE,
    OBSERVATION,
    ROWS,
    UPDATES,
    Arrays,
    Draws,
    Layers,
    about_source,
    make_batches,
    make_network,
    named,
    put_torch,
    rounded,
    torch_layers,
    versions,
)

LATENT, CANDIDATES, MATCHED = 2 * ACTION, 10, 4
WIDTHS = (256, 300, 400, 750)
"""Of hidden layers in the official code."""
WARM_START = 5
"""Updates of BEAR before its actor heeds the critics; the official code has 20 calls."""


def main() -> None:
    """Make all numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("bcq", "bear"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder of the official checkout")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    batches, runs = make_batches(), {}
    files = {
        "discrete_bcq": run_discrete_bcq(arguments.bcq.resolve() / "discrete_BCQ", batches, runs),
        "bcq": run_bcq(arguments.bcq.resolve() / "continuous_BCQ", batches, runs),
        "bear": run_bear(arguments.bear.resolve(), batches, runs),
    }
    for name, arrays in files.items():
        np.savez_compressed(arguments.to / f"{name}.npz", **arrays)
    about = {
        "made_by": "scripts/golden/make_batch_constrained.py",
        "sources": {
            "bcq": about_source("sfujim/BCQ", arguments.bcq),
            "bear": about_source("aviralkumar2907/BEAR", arguments.bear),
        },
        "versions": versions(),
        "runs": runs,
    }
    (arguments.to / "batch_constrained.json").write_text(json.dumps(about, indent=2) + "\n")


def official(checkout: Path, module: str) -> Any:
    """A module of an official checkout."""
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module(module)


@contextlib.contextmanager
def narrowed() -> Iterator[None]:
    """While it lasts, hidden layers of PyTorch have 16 outputs."""
    import torch

    wide = torch.nn.Linear

    def narrow(inputs: int, outputs: int) -> Any:
        return wide(16 if inputs in WIDTHS else inputs, 16 if outputs in WIDTHS else outputs)

    with mock.patch.object(torch.nn, "Linear", narrow):
        yield


def set_step_sizes(agent: Any) -> None:
    """Give every optimiser of an agent the step size of all runs."""
    import torch

    for optimizer in vars(agent).values():
        if isinstance(optimizer, torch.optim.Optimizer):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE


def put_split(modules: list, layers: Layers) -> None:
    """As `put_torch`, where the last layer here is the last two there, side by side."""
    *rest, (weight, bias) = layers
    half = len(bias) // 2
    put_torch(modules, [*rest, (weight[:, :half], bias[:half].copy()), (weight[:, half:], bias[half:].copy())])


def joined_layers(modules: list) -> Layers:
    """The other way round."""
    *rest, one, two = torch_layers(modules)
    return [*rest, tuple(np.concatenate(pair, axis=-1) for pair in zip(one, two))]  # noqa: B905 - Python 3.8


def coarse(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers, rounded to multiples of 1/16."""
    return (np.round(rng.standard_normal(shape) * 16.0) / 16.0).astype(np.float32)


def beside(draw: np.ndarray) -> np.ndarray:
    """(K, B, D) candidates -> (B K, D), those of an observation beside one another, as the official code repeats rows."""
    return draw.transpose(1, 0, 2).reshape(-1, draw.shape[-1])


def generator_networks(rng: np.random.Generator) -> dict[str, Layers]:
    """First parameters of the autoencoder; the encoder's last layer has means, then log standard deviations."""
    encoder = make_network(rng, OBSERVATION + ACTION, 2 * LATENT)
    encoder[-1] = tuple(rounded(0.5 * array) for array in encoder[-1])
    return {"encoder": encoder, "decoder": make_network(rng, OBSERVATION + LATENT, ACTION)}


def generator_modules(vae: Any) -> tuple[list, list]:
    """The layers of the official encoder and decoder."""
    return [vae.e1, vae.e2, vae.mean, vae.log_std], [vae.d1, vae.d2, vae.d3]


def critic_modules(critic: Any) -> tuple[list, list]:
    """The layers of the two official critics."""
    return [critic.l1, critic.l2, critic.l3], [critic.l4, critic.l5, critic.l6]


# --- BCQ, discrete ---------------------------------------------------------------------------------------------------


def run_discrete_bcq(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """Discrete BCQ as the official code has it for other tasks than Atari."""
    import torch

    module, rng = official(checkout, "discrete_BCQ"), np.random.default_rng(6)
    names = ("critic.0", "behavior", "target_critic.0")
    start = {name: make_network(rng, OBSERVATION, CHOICES) for name in names}
    settings = {"BCQ_threshold": 0.3, "discount": 0.99, "tau": 0.005, "polyak_target_update": True}
    runs["discrete_bcq"] = {"learning_rate": LEARNING_RATE, **settings}
    with narrowed():
        agent = module.discrete_BCQ(
            False, CHOICES, OBSERVATION, torch.device("cpu"), optimizer_parameters={"lr": LEARNING_RATE}, **settings
        )
    q, target = agent.Q, agent.Q_target
    modules = {
        "critic.0": [q.q1, q.q2, q.q3],
        "behavior": [q.i1, q.i2, q.i3],
        "target_critic.0": [target.q1, target.q2, target.q3],
    }
    for name, layers in start.items():
        put_torch(modules[name], layers)
    arrays = named(start, "start")
    for update in range(UPDATES):
        columns = [batches["obs"][update], batches["choice"][update][:, None].astype(np.int64)]
        columns += [batches["next_obs"][update], batches["reward"][update][:, None]]
        columns.append(1.0 - batches["terminated"][update][:, None])  # its `done` is whether it goes on
        tensors = tuple(torch.from_numpy(column) for column in columns)
        agent.train(types.SimpleNamespace(sample=lambda tensors=tensors: tensors))
        if update + 1 in KEPT:
            networks = {name: torch_layers(linear) for name, linear in modules.items()}
            arrays.update(named(networks, f"discrete_bcq/after_{update + 1}"))
    return arrays


# --- BCQ, continuous -------------------------------------------------------------------------------------------------


def run_bcq(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """BCQ for continuous actions."""
    import torch

    module, rng = official(checkout, "BCQ"), np.random.default_rng(7)
    inputs = OBSERVATION + ACTION
    start = {**generator_networks(rng)}
    for name in ("perturbation", "target_perturbation"):
        start[name] = make_network(rng, inputs, ACTION)
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = make_network(rng, inputs, 1)
    draws = {
        "draws/encoder": rounded(rng.standard_normal((UPDATES, ROWS, LATENT))),
        "draws/next": coarse(rng, UPDATES, CANDIDATES, ROWS, LATENT),
        "draws/actor": rounded(rng.standard_normal((UPDATES, ROWS, LATENT))),
    }
    settings = {"discount": 0.99, "tau": 0.005, "lmbda": 0.75, "phi": 0.05}
    runs["bcq"] = {"learning_rate": LEARNING_RATE, "candidates": CANDIDATES, **settings}
    with narrowed():
        agent = module.BCQ(OBSERVATION, ACTION, 1.0, torch.device("cpu"), **settings)
    set_step_sizes(agent)
    modules = {
        "perturbation": [agent.actor.l1, agent.actor.l2, agent.actor.l3],
        "target_perturbation": [agent.actor_target.l1, agent.actor_target.l2, agent.actor_target.l3],
    }
    for name, critic in (("critic", agent.critic), ("target_critic", agent.critic_target)):
        modules[f"{name}.0"], modules[f"{name}.1"] = critic_modules(critic)
    encoder, modules["decoder"] = generator_modules(agent.vae)
    put_split(encoder, start["encoder"])
    for name, linear in modules.items():
        put_torch(linear, start[name])

    arrays, waiting = {**named(start, "start"), **draws}, Draws()
    patches = (
        mock.patch.object(torch, "randn_like", lambda like: waiting.next(like.shape)),
        mock.patch.object(torch, "randn", lambda shape: waiting.next(shape)),
    )
    with patches[0], patches[1]:
        for update in range(UPDATES):
            waiting.fill(
                [draws["draws/encoder"][update], beside(draws["draws/next"][update]), draws["draws/actor"][update]]
            )
            columns = [batches[n][update] for n in ("obs", "action", "next_obs")]
            columns += [batches["reward"][update][:, None], 1.0 - batches["terminated"][update][:, None]]
            tensors = tuple(torch.from_numpy(column) for column in columns)
            agent.train(types.SimpleNamespace(sample=lambda size, tensors=tensors: tensors), 1, batch_size=ROWS)
            if update + 1 in KEPT:
                networks = {name: torch_layers(linear) for name, linear in modules.items()}
                networks["encoder"] = joined_layers(encoder)
                arrays.update(named(networks, f"bcq/after_{update + 1}"))
    return arrays


# --- BEAR ------------------------------------------------------------------------------------------------------------


def run_bear(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """BEAR with both kernels, its multiplier learned; the first updates are its warm start."""
    rng, inputs = np.random.default_rng(8), OBSERVATION + ACTION
    start = {**generator_networks(rng)}
    for name in ("actor", "target_actor"):
        start[name] = make_network(rng, OBSERVATION, 2 * ACTION)
        weight, bias = start[name][-1]
        weight[...] = rounded(np.repeat([0.5, 0.1], ACTION) * weight)
        bias[ACTION:] = rounded(rng.uniform(-1.0, -0.5, ACTION))
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = make_network(rng, inputs, 1)
    draws = {
        "draws/encoder": rounded(rng.standard_normal((UPDATES, ROWS, LATENT))),
        "draws/next": coarse(rng, UPDATES, CANDIDATES, ROWS, ACTION),
        "draws/latent": coarse(rng, UPDATES, MATCHED, ROWS, LATENT),
        "draws/actor": coarse(rng, UPDATES, MATCHED, ROWS, ACTION),
    }
    arrays = {**named(start, "start"), **draws, "start/log_multiplier": np.float32(0.5)}
    for kernel, sigma in (("laplacian", 10.0), ("gaussian", 20.0)):
        run = f"bear_{kernel}"
        runs[run] = {
            "mode": "auto", "version": "0", "lambda_": 0.0, "use_bootstrap": False, "use_ensemble": False, "use_kl": False,
            "num_samples_match": MATCHED, "mmd_sigma": sigma, "kernel_type": kernel, "lagrange_thresh": 10.0,
        }  # fmt: skip
        arrays.update(train_bear(checkout, batches, start, draws, run, runs[run]))
        runs[run] |= {
            "learning_rate": LEARNING_RATE, "discount": 0.99, "tau": 0.005, "candidates": CANDIDATES,
            "warm_start": WARM_START,
        }  # fmt: skip
    return arrays


def train_bear(
    checkout: Path, batches: Arrays, start: dict[str, Layers], draws: Arrays, run: str, settings: dict
) -> Arrays:
    """Parameters after the updates of one run of BEAR."""
    import torch

    quiet = types.SimpleNamespace(record_dict=lambda *_: None, record_tabular=lambda *_: None)
    shim = types.ModuleType("logger")
    shim.logger, shim.create_stats_ordered_dict = quiet, lambda *_: {}  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"logger": shim}):
        module = official(checkout, "algos")
    with narrowed():
        agent = module.BEAR(2, OBSERVATION, ACTION, 1.0, **settings)
    set_step_sizes(agent)
    agent.log_lagrange2.data.fill_(0.5)
    agent.epoch = 20 - WARM_START
    encoder, decoder = generator_modules(agent.vae)
    actors = {
        name: [actor.l1, actor.l2, actor.mean, actor.log_std]
        for name, actor in (("actor", agent.actor), ("target_actor", agent.actor_target))
    }
    modules = {"decoder": decoder}
    for name, critic in (("critic", agent.critic), ("target_critic", agent.critic_target)):
        modules[f"{name}.0"], modules[f"{name}.1"] = critic_modules(critic)
    for name, linear in modules.items():
        put_torch(linear, start[name])
    for name, linear in {"encoder": encoder, **actors}.items():
        put_split(linear, start[name])

    arrays, waiting = {}, Draws()

    def normal(mean: int, std: int, size: Any) -> np.ndarray:
        assert (mean, std) == (0, 1)
        return waiting.next(size).numpy()

    with mock.patch.object(module.np.random, "normal", normal):
        for update in range(UPDATES):
            several = [draws[f"draws/{name}"][update].transpose(1, 0, 2) for name in ("latent", "actor")]
            waiting.fill([draws["draws/encoder"][update], beside(draws["draws/next"][update]), *several])
            columns = [batches[n][update] for n in ("obs", "next_obs", "action")]
            columns += [batches[n][update][:, None] for n in ("reward", "terminated")]
            columns.append(np.ones((ROWS, 2), np.float32))
            buffer = types.SimpleNamespace(sample=lambda size, columns=columns: tuple(columns))
            with torch.autograd.graph.allow_mutation_on_saved_tensors():
                agent.train(buffer, 1, batch_size=ROWS)
            if update + 1 in KEPT:
                networks = {name: torch_layers(linear) for name, linear in modules.items()}
                networks |= {name: joined_layers(linear) for name, linear in {"encoder": encoder, **actors}.items()}
                arrays.update(named(networks, f"{run}/after_{update + 1}"))
                arrays[f"{run}/after_{update + 1}/log_multiplier"] = agent.log_lagrange2.detach().numpy().copy()
    return arrays


if __name__ == "__main__":
    main()
