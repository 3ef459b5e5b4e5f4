"""Make the golden numbers: what the official implementations compute in 20 updates on fixed batches.

tests/algorithms/test_golden.py holds this library's algorithms to the numbers. They are made once, in an environment of
their own, on Python 3.11:

    python -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install -r scripts/golden/requirements.txt
    ENVIRONMENT/bin/python scripts/golden/make_golden.py --iql FOLDER --cql FOLDER --td3bc FOLDER --corl FOLDER \
        --td3 FOLDER

A folder that is left out leaves the numbers of its algorithms as they are.

Each FOLDER is a Git checkout of an official repository; none of their code is kept here:

    IQL      github.com/ikostrikov/implicit_q_learning  09d700248117881a75cb21f0adb95c6c8a694cb2
    CQL      github.com/aviralkumar2907/CQL             d67dbe9cf5d2b96e3b462b6146f249b3d6569796
    TD3+BC   github.com/sfujim/TD3_BC                   8791ad7d7656cb8396f1b3ac8c37f170b2a2dd5f
    TD3      github.com/sfujim/TD3                      34770ccdcb51df6f6c7d85c1ba7e40d71b940d16
    ReBRAC, SAC-N and EDAC  github.com/tinkoff-ai/CORL  6afec90484bbf47dee05fdf525e26a3ebe028e9b

Written to tests/golden: `batches.npz`, which all runs share; one .npz file for each algorithm with its first
parameters, the random numbers it was given, and its parameters after 1 and after 20 updates; and `golden.json`, the
commits, versions and settings. The parameters of a network are one vector, layer by layer: the weight, (inputs,
outputs), row by row, then the bias. First parameters, batches and draws are multiples of 1/1024, so that the files are
small.

The official update functions run as they are. Around them, this is what is not theirs:

- Networks have two hidden layers of 16 and fixed first parameters. Target networks start with other parameters than the
  networks they follow, so that one taken for the other is seen. TD3 and TD3+BC have their width and step size in their code: the
  width is narrowed while its networks are built, the step size is set in its optimisers.
- Random numbers are drawn here, from NumPy, and handed out where the official code asks PyTorch for some. IQL asks for
  none.
- `jax.tree_multimap`, which JAX no longer has, is `tree_map` under another name.
- Continuous CQL changes the critics before it takes the gradient of the policy's loss, whose graph holds their weights.
  PyTorch up to 1.4 lets this pass, and the gradient then mixes activations from before the change with weights from
  after it. Later releases stop with an error. So there are two kinds of run. "cql" and "cql_lagrange" keep the weights
  from before the change for the gradient (`torch.autograd.graph.allow_mutation_on_saved_tensors`). "cql_in_place"
  repeats what PyTorch 1.4 did: the unchanged code was once run under PyTorch 1.4.0 from the same start, and its
  parameters after 20 updates differed from the stored ones by less than 1e-7.
- Discrete CQL is written for TensorFlow 1 and on quantiles. The functions it takes from TensorFlow are replaced by
  PyTorch's. It runs on one quantile and with a Huber threshold that no error reaches, both of which its constructor
  takes; then its temporal-difference loss is a quarter of the squared error.
- CORL's files import packages for environments and for logging, which its update functions do not use; empty modules
  stand for them. ReBRAC's layer normalisation adds 1e-5 to the variance, as PyTorch does, instead of flax's 1e-6; its
  target actor is made to follow the actor after its step instead of before it; and the update of the actor is the
  second of each pair.
- SAC-N and EDAC have three hidden layers of 16. Their temperature and their actor are handed the same random numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

UPDATES, ROWS = 20, 32
OBSERVATION, ACTION, CHOICES = 5, 3, 4
HIDDEN = (16, 16)
SAMPLES = 2
LEARNING_RATE = 1e-3
KEPT = (1, UPDATES)
"""The updates after which parameters are stored."""

SOURCES = {
    "iql": "ikostrikov/implicit_q_learning",
    "cql": "aviralkumar2907/CQL",
    "td3bc": "sfujim/TD3_BC",
    "corl": "tinkoff-ai/CORL",
    "td3": "sfujim/TD3",
}
"""Option -> official repository."""
Layers = list
"""Of one network: (weight, bias) of each layer, the weight as (inputs, outputs)."""
Arrays = dict


def main() -> None:
    """Make all numbers and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in SOURCES:
        parser.add_argument(f"--{name}", type=Path, help=f"folder of a checkout of {SOURCES[name]}")
    default = Path(__file__).resolve().parents[2] / "tests" / "golden"
    parser.add_argument("--to", type=Path, default=default, help="folder to write to")
    arguments = parser.parse_args()

    checkouts = {name: folder.resolve() for name in SOURCES if (folder := getattr(arguments, name)) is not None}
    makers = {
        "iql": ("iql", run_iql),
        "td3bc": ("td3bc", run_td3bc),
        "cql": ("cql", lambda checkout, *rest: run_cql(checkout / "d4rl", *rest)),
        "discrete_cql": ("cql", lambda checkout, *rest: run_discrete_cql(checkout / "atari", *rest)),
        "rebrac": ("corl", run_rebrac),
        "sac_n": ("corl", run_sac_n),
        "td3": ("td3", lambda *rest: run_td3bc(*rest, kind="td3")),
    }
    arguments.to.mkdir(parents=True, exist_ok=True)
    batches, told = make_batches(), arguments.to / "golden.json"
    np.savez_compressed(arguments.to / "batches.npz", **batches)
    about = json.loads(told.read_text()) if told.exists() else {"sources": {}, "runs": {}}
    for file, (source, make) in makers.items():
        if source in checkouts:
            np.savez_compressed(arguments.to / f"{file}.npz", **make(checkouts[source], batches, about["runs"]))
    sources = {name: about_source(SOURCES[name], checkout) for name, checkout in checkouts.items()}
    about = {
        "made_by": "scripts/golden/make_golden.py",
        "sources": about["sources"] | sources,
        "versions": versions(),
        "hidden_sizes": HIDDEN,
        "runs": about["runs"],
    }
    told.write_text(json.dumps(about, indent=2) + "\n")


# --- inputs ----------------------------------------------------------------------------------------------------------


def rounded(array: np.ndarray) -> np.ndarray:
    """The nearest multiples of 1/1024, which float32 has exactly."""
    return (np.round(array * 1024.0) / 1024.0).astype(np.float32)


def make_batches() -> Arrays:
    """20 batches: updates first, then rows. One row in five is the last of an episode."""
    rng = np.random.default_rng(0)
    return {
        "obs": rounded(rng.standard_normal((UPDATES, ROWS, OBSERVATION))),
        "action": rounded(rng.uniform(-0.95, 0.95, (UPDATES, ROWS, ACTION))),
        "choice": rng.integers(CHOICES, size=(UPDATES, ROWS)).astype(np.int32),
        "reward": rounded(rng.standard_normal((UPDATES, ROWS))),
        "next_obs": rounded(rng.standard_normal((UPDATES, ROWS, OBSERVATION))),
        "terminated": (rng.random((UPDATES, ROWS)) < 0.2).astype(np.float32),
    }


def make_network(rng: np.random.Generator, inputs: int, outputs: int, hidden: tuple = HIDDEN) -> Layers:
    """First parameters; biases are not zero, so that what becomes of them is seen."""
    sizes = [inputs, *hidden, outputs]
    return [
        (rounded(rng.standard_normal((a, b)) * (1.5 / a) ** 0.5), rounded(0.1 * rng.standard_normal(b)))
        for a, b in itertools.pairwise(sizes)
    ]


def named(networks: dict[str, Layers], prefix: str) -> Arrays:
    """The parameters of networks by name, such as "start/critic.0", each network as one vector."""
    return {
        f"{prefix}/{name}": np.concatenate([np.ravel(array) for layer in layers for array in layer])
        for name, layers in networks.items()
    }


# --- IQL -------------------------------------------------------------------------------------------------------------


def run_iql(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """IQL for continuous actions, with the step size of its actor constant and, as it is by default, a cosine."""
    import jax

    jax.tree_multimap = jax.tree_util.tree_map
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        learner, common = importlib.import_module("learner"), importlib.import_module("common")

    rng = np.random.default_rng(1)
    inputs = OBSERVATION + ACTION
    start = {
        "value": make_network(rng, OBSERVATION, 1),
        "actor": make_network(rng, OBSERVATION, ACTION),
        "critic.0": make_network(rng, inputs, 1),
        "critic.1": make_network(rng, inputs, 1),
        "target_critic.0": make_network(rng, inputs, 1),
        "target_critic.1": make_network(rng, inputs, 1),
    }
    log_std = rounded(rng.uniform(-1.0, 0.5, ACTION))
    arrays = named(start, "start")
    arrays["start/log_std"] = log_std

    settings = {
        "learning_rate": LEARNING_RATE, "discount": 0.99, "tau": 0.005, "expectile": 0.7, "temperature": 3.0,
    }  # fmt: skip
    for run, schedule in (("iql", {"opt_decay_schedule": "none"}), ("iql_cosine", {"max_steps": 2 * UPDATES})):
        runs[run] = {**settings, **schedule}
        agent = learner.Learner(
            0,
            batches["obs"][0],
            batches["action"][0],
            actor_lr=LEARNING_RATE,
            value_lr=LEARNING_RATE,
            critic_lr=LEARNING_RATE,
            hidden_dims=HIDDEN,
            **{name: settings[name] for name in ("discount", "tau", "expectile", "temperature")},
            **schedule,
        )
        put_flax(agent, start, log_std)
        clipped = []
        for update in range(UPDATES):
            info = agent.update(
                common.Batch(
                    observations=batches["obs"][update],
                    actions=batches["action"][update],
                    rewards=batches["reward"][update],
                    masks=1.0 - batches["terminated"][update],
                    next_observations=batches["next_obs"][update],
                )
            )
            clipped.append(np.mean(np.asarray(info["adv"]) * settings["temperature"] >= np.log(100.0)))
            if update + 1 in KEPT:
                networks, log_stds = taken_from_flax(agent)
                arrays.update(named(networks, f"{run}/after_{update + 1}"))
                arrays[f"{run}/after_{update + 1}/log_std"] = log_stds
        print(f"{run}: {np.mean(clipped):.3f} of the advantage weights were at their cap")
    return arrays


def flax_mlp(layers: Layers) -> dict:
    """Parameters as flax names them."""
    return {f"Dense_{i}": {"kernel": weight, "bias": bias} for i, (weight, bias) in enumerate(layers)}


def flax_layers(parameters: Any, count: int) -> Layers:
    """The other way round."""
    names = [f"Dense_{i}" for i in range(count)]
    return [(np.asarray(parameters[name]["kernel"]), np.asarray(parameters[name]["bias"])) for name in names]


def put_flax(agent: Any, start: dict[str, Layers], log_std: np.ndarray) -> None:
    """Give the official networks of IQL their first parameters."""
    import flax
    import jax

    last = {"kernel": start["actor"][-1][0], "bias": start["actor"][-1][1]}
    trees = {
        "value": {"MLP_0": flax_mlp(start["value"])},
        "actor": {"MLP_0": flax_mlp(start["actor"][:-1]), "Dense_0": last, "log_stds": log_std},
        "critic": {f"Critic_{i}": {"MLP_0": flax_mlp(start[f"critic.{i}"])} for i in range(2)},
        "target_critic": {f"Critic_{i}": {"MLP_0": flax_mlp(start[f"target_critic.{i}"])} for i in range(2)},
    }
    for name, tree in trees.items():
        model = getattr(agent, name)
        parameters = flax.core.freeze(jax.tree_util.tree_map(jax.numpy.asarray, tree))
        shapes = [jax.tree_util.tree_map(np.shape, p) for p in (parameters, model.params)]
        assert shapes[0] == shapes[1], name
        setattr(agent, name, model.replace(params=parameters))


def taken_from_flax(agent: Any) -> tuple[dict[str, Layers], np.ndarray]:
    """The parameters of the official networks of IQL, and its log standard deviations."""
    layers = len(HIDDEN) + 1
    actor = agent.actor.params
    networks = {
        "value": flax_layers(agent.value.params["MLP_0"], layers),
        "actor": [*flax_layers(actor["MLP_0"], layers - 1), *flax_layers({"Dense_0": actor["Dense_0"]}, 1)],
    }
    for name in ("critic", "target_critic"):
        for i in range(2):
            networks[f"{name}.{i}"] = flax_layers(getattr(agent, name).params[f"Critic_{i}"]["MLP_0"], layers)
    return networks, np.asarray(actor["log_stds"])


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def put_torch(modules: list, layers: Layers) -> None:
    """Give linear layers of PyTorch, which keep weights as (outputs, inputs), their first parameters."""
    import torch

    assert len(modules) == len(layers)
    for i, (weight, bias) in enumerate(layers):
        assert modules[i].weight.shape == weight.T.shape
        modules[i].weight.data.copy_(torch.from_numpy(np.ascontiguousarray(weight.T)))
        modules[i].bias.data.copy_(torch.from_numpy(bias))


def torch_layers(modules: list) -> Layers:
    """Copies of the parameters of linear layers."""
    return [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in modules]


class Draws:
    """Stored random numbers, handed out in order where the official code would draw."""

    def __init__(self) -> None:
        self.waiting: list = []

    def fill(self, arrays: list) -> None:
        """What the next update is given."""
        assert not self.waiting, "The official update drew less than expected."
        self.waiting = list(arrays)

    def next(self, shape: tuple) -> Any:
        """The next draw, which must have the shape that is asked for."""
        import torch

        array = self.waiting.pop(0)
        assert tuple(shape) == array.shape, (tuple(shape), array.shape)
        return torch.from_numpy(np.ascontiguousarray(array))


# --- TD3+BC ----------------------------------------------------------------------------------------------------------


def run_td3bc(checkout: Path, batches: Arrays, runs: dict, kind: str = "td3bc") -> Arrays:
    """TD3+BC, or TD3 from the same start, with the same draws: then only what it ends with."""
    import torch

    module = {"td3bc": "TD3_BC", "td3": "TD3"}[kind]
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        official = importlib.import_module(module)

    rng = np.random.default_rng(2)
    inputs = OBSERVATION + ACTION
    start = {"actor": make_network(rng, OBSERVATION, ACTION), "target_actor": make_network(rng, OBSERVATION, ACTION)}
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = make_network(rng, inputs, 1)
    noise = rounded(rng.standard_normal((UPDATES, ROWS, ACTION)))
    settings = {"discount": 0.99, "tau": 0.005, "policy_noise": 0.2, "noise_clip": 0.5, "policy_freq": 2}
    if kind == "td3bc":
        settings["alpha"] = 2.5
    runs[kind] = {"learning_rate": LEARNING_RATE, **settings}

    wide = torch.nn.Linear

    def narrow(inputs: int, outputs: int) -> Any:
        width = HIDDEN[0]
        return wide(width if inputs == 256 else inputs, width if outputs == 256 else outputs)

    with mock.patch.object(torch.nn, "Linear", narrow):
        agent = getattr(official, module)(OBSERVATION, ACTION, 1.0, **settings)
    for optimizer in (agent.actor_optimizer, agent.critic_optimizer):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE
    modules = {
        "actor": [agent.actor.l1, agent.actor.l2, agent.actor.l3],
        "target_actor": [agent.actor_target.l1, agent.actor_target.l2, agent.actor_target.l3],
        "critic.0": [agent.critic.l1, agent.critic.l2, agent.critic.l3],
        "critic.1": [agent.critic.l4, agent.critic.l5, agent.critic.l6],
        "target_critic.0": [agent.critic_target.l1, agent.critic_target.l2, agent.critic_target.l3],
        "target_critic.1": [agent.critic_target.l4, agent.critic_target.l5, agent.critic_target.l6],
    }
    for network, layers in start.items():
        put_torch(modules[network], layers)

    arrays = {**named(start, "start"), "draws/target_noise": noise} if kind == "td3bc" else {}
    draws = Draws()

    class Buffer:
        """Hands out the batch of the present update."""

        update = 0

        def sample(self, size: int) -> tuple:
            assert size == ROWS
            columns = [batches[n][self.update] for n in ("obs", "action", "next_obs")]
            columns += [batches["reward"][self.update][:, None], 1.0 - batches["terminated"][self.update][:, None]]
            return tuple(torch.from_numpy(column) for column in columns)

    buffer = Buffer()
    with mock.patch.object(torch, "randn_like", lambda like: draws.next(like.shape)):
        for update in range(UPDATES):
            buffer.update = update
            draws.fill([noise[update]])
            agent.train(buffer, ROWS)
            if update + 1 in KEPT:
                networks = {network: torch_layers(linear) for network, linear in modules.items()}
                arrays.update(named(networks, f"{kind}/after_{update + 1}"))
    return arrays


# --- ReBRAC ----------------------------------------------------------------------------------------------------------


def corl(checkout: Path, name: str) -> Any:
    """A file of CORL's offline algorithms, without the packages that its update functions do not use."""
    empty = {
        package: types.ModuleType(package) for package in ("d4rl", "gym", "pyrallis", "tqdm", "tqdm.auto", "wandb")
    }
    empty["gym"].Env = object
    empty["tqdm"].trange = empty["tqdm.auto"].trange = range
    empty["pyrallis"].wrap = lambda: lambda function: function
    folder = str(checkout / "algorithms" / "offline")
    with mock.patch.dict(sys.modules, empty), mock.patch.object(sys, "path", [folder, *sys.path]):
        return importlib.import_module(name)


def run_rebrac(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """ReBRAC. Beside the parameters, scales and offsets of layer normalisation; the next actions are drawn."""
    import jax
    import optax

    official = corl(checkout, "rebrac")
    official.nn.LayerNorm = functools.partial(official.nn.LayerNorm, epsilon=1e-5)
    rng = np.random.default_rng(6)
    inputs = OBSERVATION + ACTION
    start = {"actor": make_network(rng, OBSERVATION, ACTION), "target_actor": make_network(rng, OBSERVATION, ACTION)}
    for name in ("critic", "target_critic"):
        for i in range(2):
            start[f"{name}.{i}"] = make_network(rng, inputs, 1)
            start[f"{name}_norm.{i}"] = [
                (rounded(rng.uniform(0.8, 1.2, width)), rounded(0.1 * rng.standard_normal(width))) for width in HIDDEN
            ]
    settings = {
        "gamma": 0.99, "tau": 0.005, "actor_bc_coef": 0.5, "critic_bc_coef": 0.1, "policy_noise": 0.2,
        "noise_clip": 0.5,
    }  # fmt: skip
    runs["rebrac"] = {"learning_rate": LEARNING_RATE, "policy_freq": 2, **settings}
    noise = rounded(rng.standard_normal((UPDATES, ROWS, ACTION)))
    following = rounded(rng.uniform(-0.95, 0.95, (UPDATES, ROWS, ACTION)))
    arrays = {**named(start, "start"), "draws/target_noise": noise, "draws/next_action": following}

    def critic_tree(name: str) -> dict:
        """Parameters of both critics as flax names them, members on axis 0."""
        members = []
        for i in range(2):
            norms = {f"LayerNorm_{j}": {"scale": s, "bias": b} for j, (s, b) in enumerate(start[f"{name}_norm.{i}"])}
            members.append(flax_mlp(start[f"{name}.{i}"]) | norms)
        return {"params": {"VmapCritic_0": jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *members)}}

    def taken(actor: Any, critic: Any) -> dict[str, Layers]:
        """The other way round, from the two training states."""
        networks = {}
        for prefix in ("", "target_"):
            parameters = getattr(actor, f"{prefix}params")["params"]
            networks[f"{prefix}actor"] = flax_layers(parameters, len(HIDDEN) + 1)
            parameters = getattr(critic, f"{prefix}params")["params"]["VmapCritic_0"]
            for i in range(2):
                member = jax.tree_util.tree_map(lambda leaf, i=i: np.asarray(leaf)[i], parameters)
                networks[f"{prefix}critic.{i}"] = flax_layers(member, len(HIDDEN) + 1)
                networks[f"{prefix}critic_norm.{i}"] = [
                    (member[f"LayerNorm_{j}"]["scale"], member[f"LayerNorm_{j}"]["bias"]) for j in range(len(HIDDEN))
                ]
        return networks

    adam = optax.adam(learning_rate=LEARNING_RATE)
    actor = official.ActorTrainState.create(
        apply_fn=official.DetActor(ACTION, HIDDEN[0], layernorm=False, n_hiddens=len(HIDDEN)).apply,
        params={"params": flax_mlp(start["actor"])},
        target_params={"params": flax_mlp(start["target_actor"])},
        tx=adam,
    )
    critic = official.CriticTrainState.create(
        apply_fn=official.EnsembleCritic(HIDDEN[0], num_critics=2, n_hiddens=len(HIDDEN)).apply,
        params=critic_tree("critic"),
        target_params=critic_tree("target_critic"),
        tx=adam,
    )
    metrics = official.Metrics.create(
        ["critic_loss", "q_min", "actor_loss", "bc_mse_policy", "bc_mse_random", "action_mse"]
    )
    shared = {name: value for name, value in settings.items() if name not in ("tau",)}
    for update in range(UPDATES):
        batch = {
            "states": batches["obs"][update],
            "actions": batches["action"][update],
            "rewards": batches["reward"][update],
            "next_states": batches["next_obs"][update],
            "next_actions": following[update],
            "dones": batches["terminated"][update],
        }
        before, key = actor, jax.random.PRNGKey(0)
        with mock.patch.object(official.jax.random, "normal", lambda key, shape, update=update: noise[update]):
            if update % 2:
                _, actor, critic, _ = official.update_td3(
                    key, actor, critic, batch, metrics, tau=settings["tau"], normalize_q=True, **shared
                )
                following_it = optax.incremental_update(actor.params, before.target_params, settings["tau"])
                actor = actor.replace(target_params=following_it)
            else:
                _, actor, critic, _ = official.update_td3_no_targets(
                    key, actor, critic, batch, metrics=metrics, tau=settings["tau"], **shared
                )
        if update + 1 in KEPT:
            arrays.update(named(taken(actor, critic), f"rebrac/after_{update + 1}"))
    return arrays


# --- SAC-N and EDAC --------------------------------------------------------------------------------------------------


def run_sac_n(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """SAC-N and EDAC, with four critics and three hidden layers, from one start and with the same draws."""
    import torch

    critics, hidden, inputs = 4, (*HIDDEN, HIDDEN[0]), OBSERVATION + ACTION
    rng = np.random.default_rng(7)
    start = {"actor": make_network(rng, OBSERVATION, 2 * ACTION, hidden)}
    # As for CQL: no sampled action comes near 1, where the official 1e-6 beside 1 - action^2 would be seen.
    weight, bias = start["actor"][-1]
    weight[...] = rounded(np.repeat([0.3, 0.05], ACTION) * weight)
    bias[ACTION:] = rounded(rng.uniform(-1.5, -1.0, ACTION))
    for name in ("critic", "target_critic"):
        for i in range(critics):
            start[f"{name}.{i}"] = make_network(rng, inputs, 1, hidden)
    noise = {name: rounded(rng.standard_normal((UPDATES, ROWS, ACTION))) for name in ("actor", "target")}
    arrays = {**named(start, "start"), **{f"draws/{name}": array for name, array in noise.items()}}

    settings = {"gamma": 0.99, "tau": 0.005, "alpha_learning_rate": LEARNING_RATE}
    for run, kind, more in (("sac_n", "SACN", {}), ("edac", "EDAC", {"eta": 2.0})):
        official = corl(checkout, run)
        runs[run] = {"learning_rate": LEARNING_RATE, "num_critics": critics, **settings, **more}
        actor = official.Actor(OBSERVATION, ACTION, HIDDEN[0])
        critic = official.VectorizedCritic(OBSERVATION, ACTION, HIDDEN[0], critics)
        adams = [torch.optim.Adam(network.parameters(), lr=LEARNING_RATE) for network in (actor, critic)]
        trainer = getattr(official, kind)(actor, adams[0], critic, adams[1], **settings, **more)
        *layers, (weight, bias) = start["actor"]
        heads = [(weight[:, :ACTION], bias[:ACTION].copy()), (weight[:, ACTION:], bias[ACTION:].copy())]
        linear = [*actor.trunk[::2], actor.mu, actor.log_sigma]
        put_torch(linear, [*layers, *heads])
        vectorized = {"critic": trainer.critic.critic[::2], "target_critic": trainer.target_critic.critic[::2]}
        for name, modules in vectorized.items():
            for depth, module in enumerate(modules):
                for i in range(critics):
                    weight, bias = start[f"{name}.{i}"][depth]
                    module.weight.data[i].copy_(torch.from_numpy(weight))
                    module.bias.data[i, 0].copy_(torch.from_numpy(bias))
        draws = Draws()
        normal = importlib.import_module("torch.distributions.normal")
        with mock.patch.object(normal, "_standard_normal", lambda shape, **_: draws.next(shape)):  # noqa: B023
            for update in range(UPDATES):
                draws.fill([noise[name][update] for name in ("actor", "actor", "target")])
                columns = [batches["obs"][update], batches["action"][update], batches["reward"][update][:, None]]
                columns += [batches["next_obs"][update], batches["terminated"][update][:, None]]
                trainer.update([torch.from_numpy(column) for column in columns])
                if update + 1 not in KEPT:
                    continue
                at, networks = f"{run}/after_{update + 1}", {}
                layers = torch_layers(linear)
                joined = tuple(np.concatenate(pair, axis=-1) for pair in zip(*layers[-2:], strict=True))
                networks["actor"] = [*layers[:-2], joined]
                for name, modules in vectorized.items():
                    for i in range(critics):
                        networks[f"{name}.{i}"] = [
                            (m.weight.detach().numpy()[i].copy(), m.bias.detach().numpy()[i, 0].copy()) for m in modules
                        ]
                arrays.update(named(networks, at))
                arrays[f"{at}/log_temperature"] = trainer.log_alpha.detach().numpy().copy()[0]
    return arrays


# --- CQL, continuous -------------------------------------------------------------------------------------------------


def cql_inputs() -> tuple[dict[str, Layers], Arrays]:
    """First parameters and draws of continuous CQL; the actor's last layer has means, then log standard deviations."""
    rng = np.random.default_rng(3)
    inputs = OBSERVATION + ACTION
    start = {"actor": make_network(rng, OBSERVATION, 2 * ACTION)}
    # Narrow enough that no sampled action comes near 1, where the official 1e-6 beside 1 - action^2 would be seen.
    weight, bias = start["actor"][-1]
    weight[...] = rounded(np.repeat([0.3, 0.05], ACTION) * weight)
    bias[ACTION:] = rounded(rng.uniform(-1.5, -1.0, ACTION))
    for name in ("critic.0", "critic.1", "target_critic.0", "target_critic.1"):
        start[name] = make_network(rng, inputs, 1)
    one, several = (UPDATES, ROWS, ACTION), (UPDATES, SAMPLES, ROWS, ACTION)
    draws = {
        "draws/actor": rounded(rng.standard_normal(one)),
        "draws/target": rounded(rng.standard_normal(one)),
        "draws/uniform": rounded(rng.uniform(-1.0, 1.0, several)),
        "draws/policy": rounded(rng.standard_normal(several)),
        "draws/next_policy": rounded(rng.standard_normal(several)),
    }
    return start, draws


def run_cql(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """CQL(H) for continuous actions: three runs from one start, see the top of this file and `runs`."""
    import torch

    class AdamOnStorage(torch.optim.Adam):
        """Adam that changes parameters without PyTorch's check of saved tensors noticing, as all did up to 1.4."""

        def __init__(self, parameters: Any, **settings: Any) -> None:
            self.watched = list(parameters)
            super().__init__([p.data for p in self.watched], **settings)

        def zero_grad(self, set_to_none: bool = True) -> None:
            for parameter in self.watched:
                parameter.grad = None

        def step(self, closure: Any = None) -> None:
            for i, parameter in enumerate(self.watched):
                self.param_groups[0]["params"][i].grad = parameter.grad
            super().step()

    start, draws = cql_inputs()
    arrays = {**named(start, "start"), **draws}
    kept, fixed = torch.autograd.graph.allow_mutation_on_saved_tensors, {"with_lagrange": False}
    lagrange = {"with_lagrange": True, "lagrange_thresh": 1.0}
    for run, changed, optimizer, guard in (
        ("cql", fixed, torch.optim.Adam, kept),
        ("cql_lagrange", lagrange, torch.optim.Adam, kept),
        ("cql_in_place", fixed, AdamOnStorage, contextlib.nullcontext),
    ):
        runs[run] = {**cql_settings(), **changed}
        arrays.update(train_cql(checkout, batches, start, draws, run, runs[run], optimizer, guard))
    return {**arrays, **densities(checkout)}


def densities(checkout: Path) -> Arrays:
    """The official log-density of actions tanh(x) under tanh of a standard normal, and its derivative by x."""
    import torch

    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        distribution = importlib.import_module("rlkit.torch.distributions").TanhNormal(torch.zeros(1), torch.ones(1))
    inner = torch.arange(-40, 41, dtype=torch.float32)[:, None] / 4.0
    inner.requires_grad_()
    log_prob = distribution.log_prob(torch.tanh(inner), pre_tanh_value=inner)
    log_prob.sum().backward()
    columns = {"inner": inner, "log_prob": log_prob, "derivative": inner.grad}
    return {f"density/{name}": column.detach().numpy()[:, 0].copy() for name, column in columns.items()}


def cql_settings() -> dict:
    """What all runs of continuous CQL have in common: the official ones for gym, but for step sizes and samples."""
    return {
        "discount": 0.99, "soft_target_tau": 0.005, "policy_lr": LEARNING_RATE, "qf_lr": 2 * LEARNING_RATE,
        "reward_scale": 1, "use_automatic_entropy_tuning": True, "policy_eval_start": 0, "num_qs": 2, "temp": 1.0,
        "min_q_version": 3, "min_q_weight": 5.0, "num_random": SAMPLES, "max_q_backup": False,
        "deterministic_backup": True,
    }  # fmt: skip


def train_cql(
    checkout: Path,
    batches: Arrays,
    start: dict[str, Layers],
    draws: Arrays,
    run: str,
    settings: dict,
    optimizer_class: Any,
    guard: Any,
) -> Arrays:
    """Parameters after the updates of one run. `guard` makes a context for each update."""
    import torch

    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        trainer_class = importlib.import_module("rlkit.torch.sac.cql").CQLTrainer
        policy_class = importlib.import_module("rlkit.torch.sac.policies").TanhGaussianPolicy
        critic_class = importlib.import_module("rlkit.torch.networks").FlattenMlp

    policy = policy_class(obs_dim=OBSERVATION, action_dim=ACTION, hidden_sizes=list(HIDDEN))
    names = ("critic.0", "critic.1", "target_critic.0", "target_critic.1")
    critics = {
        name: critic_class(input_size=OBSERVATION + ACTION, output_size=1, hidden_sizes=list(HIDDEN)) for name in names
    }
    for name, critic in critics.items():
        put_torch([*critic.fcs, critic.last_fc], start[name])
    *hidden, (weight, bias) = start["actor"]
    put_torch(
        [*policy.fcs, policy.last_fc, policy.last_fc_log_std],
        [*hidden, (weight[:, :ACTION], bias[:ACTION].copy()), (weight[:, ACTION:], bias[ACTION:].copy())],
    )
    environment = types.SimpleNamespace(action_space=types.SimpleNamespace(shape=(ACTION,)))
    trainer = trainer_class(
        environment, policy, *(critics[name] for name in names), optimizer_class=optimizer_class, **settings
    )

    normal, uniform = Draws(), Draws()

    def many(draw: np.ndarray) -> np.ndarray:
        """Samples of one observation beside one another, as the official code repeats rows."""
        return draw.transpose(1, 0, 2).reshape(-1, ACTION)

    def draw_uniform(tensor: Any, low: float, high: float) -> Any:
        assert (low, high) == (-1, 1)
        return tensor.copy_(uniform.next(tensor.shape))

    arrays: Arrays = {}
    patches = (
        mock.patch.object(torch, "normal", lambda mean, std: mean + std * normal.next(mean.shape)),
        mock.patch.object(torch.Tensor, "uniform_", draw_uniform),
    )
    with patches[0], patches[1]:
        for update in range(UPDATES):
            # The third of them is drawn by the official code and used for nothing.
            one = [draws["draws/actor"][update], draws["draws/target"][update], np.zeros((ROWS, ACTION), np.float32)]
            normal.fill([*one, many(draws["draws/policy"][update]), many(draws["draws/next_policy"][update])])
            uniform.fill([many(draws["draws/uniform"][update])])
            columns = {
                "observations": batches["obs"][update],
                "actions": batches["action"][update],
                "next_observations": batches["next_obs"][update],
                "rewards": batches["reward"][update][:, None],
                "terminals": batches["terminated"][update][:, None],
            }
            with guard():
                trainer.train_from_torch({name: torch.from_numpy(column) for name, column in columns.items()})
            if update + 1 in KEPT:
                networks = {name: torch_layers([*critic.fcs, critic.last_fc]) for name, critic in critics.items()}
                layers = torch_layers([*policy.fcs, policy.last_fc, policy.last_fc_log_std])
                joined = tuple(np.concatenate(pair, axis=-1) for pair in zip(*layers[-2:]))  # noqa: B905 - Python 3.8
                networks["actor"] = [*layers[:-2], joined]
                at = f"{run}/after_{update + 1}"
                arrays.update(named(networks, at))
                arrays[f"{at}/log_temperature"] = trainer.log_alpha.detach().numpy().copy()[0]
                if settings["with_lagrange"]:
                    arrays[f"{at}/log_multiplier"] = trainer.log_alpha_prime.detach().numpy().copy()[0]
    return arrays


# --- CQL, discrete ---------------------------------------------------------------------------------------------------


def tensorflow_by_torch() -> types.ModuleType:
    """The functions that the official loss of discrete CQL takes from TensorFlow, computed by PyTorch."""
    import torch

    def reduce(function: Any) -> Any:
        def reduced(x: Any, axis: Any = None, reduction_indices: Any = None, name: str = "") -> Any:
            axis = reduction_indices if axis is None else axis
            return function(x) if axis is None else function(x, dim=axis)

        return reduced

    def integers_or_floats(stop: Any, dtype: Any = None) -> Any:
        return torch.arange(int(stop), dtype=dtype or torch.int64)

    def one_hot(index: Any, depth: int, on: float, off: float, name: str = "") -> Any:
        assert (on, off) == (1.0, 0.0)
        return torch.nn.functional.one_hot(index, depth).to(torch.float32)

    tf = types.ModuleType("tensorflow.compat.v1")
    functions = {
        "float32": torch.float32,
        "shape": lambda x: torch.tensor(x.shape),
        "cast": lambda x, dtype: x.to(dtype),
        "to_float": lambda x: x.to(torch.float32),
        "to_int64": lambda x: x.to(torch.int64),
        "stop_gradient": lambda x: x.detach(),
        "argmax": lambda x, axis: torch.argmax(x, dim=axis),
        "concat": lambda xs, axis: torch.cat(xs, dim=axis),
        "gather_nd": lambda x, index: x[tuple(index.T)],
        "range": integers_or_floats,
        "one_hot": one_hot,
        "abs": torch.abs,
        "reduce_sum": reduce(torch.sum),
        "reduce_mean": reduce(torch.mean),
        "reduce_logsumexp": reduce(torch.logsumexp),
        "no_op": lambda: None,
        "control_dependencies": lambda _: contextlib.nullcontext(),
        "train": types.SimpleNamespace(AdamOptimizer=lambda **settings: None),
    }
    for name, function in functions.items():
        setattr(tf, name, function)
    return tf


def run_discrete_cql(checkout: Path, batches: Arrays, runs: dict) -> Arrays:
    """The official loss of discrete CQL on one quantile, without the Huber threshold, the target copied each time."""
    import torch

    def module(name: str, **contents: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        for key, value in contents.items():
            setattr(made, key, value)
        return made

    class Rainbow:
        """Stands for the agent of Dopamine that the official one extends; of it, only the losses are used."""

        def __init__(self, **settings: Any) -> None:
            self.min_q_weight = settings["min_q_weight"]
            self.num_actions, self._num_atoms = settings["num_actions"], settings["num_atoms"]
            self.cumulative_gamma = settings["gamma"] ** settings["update_horizon"]
            self._replay_scheme, self.optimizer = settings["replay_scheme"], settings["optimizer"]
            self.summary_writer = None

    class Adam:
        """Adam of PyTorch under TensorFlow's interface. The loss is a quarter of this library's, so epsilon is too."""

        def __init__(self, parameters: Any) -> None:
            self.adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=1e-8 / 4)

        def minimize(self, loss: Any) -> None:
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    tensorflow, dopamine = module("tensorflow"), module("dopamine")
    agents, helpers = module("dopamine.agents"), module("batch_rl.multi_head.atari_helpers", QuantileNetwork=None)
    dqn = module("dqn_agent", linearly_decaying_epsilon=None)
    tf = tensorflow_by_torch()
    shims = {
        "tensorflow": tensorflow,
        "tensorflow.compat": module("tensorflow.compat", v1=tf),
        "tensorflow.compat.v1": tf,
        "gin": module("gin", configurable=lambda kind: kind),
        "dopamine": dopamine,
        "dopamine.agents": agents,
        "dopamine.agents.dqn": module("dopamine.agents.dqn", dqn_agent=dqn),
        "dopamine.agents.rainbow": module("rainbow", rainbow_agent=module("rainbow_agent", RainbowAgent=Rainbow)),
        "batch_rl.multi_head.atari_helpers": helpers,
    }
    with mock.patch.dict(sys.modules, shims), mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        importlib.import_module("batch_rl.multi_head").atari_helpers = helpers
        official = importlib.import_module("batch_rl.multi_head.quantile_agent")

    start = {"critic.0": make_network(np.random.default_rng(4), OBSERVATION, CHOICES)}
    start["target_critic.0"] = make_network(np.random.default_rng(5), OBSERVATION, CHOICES)
    settings = {"gamma": 0.99, "minq_weight": 1.25, "num_atoms": 1, "kappa": 1e9, "update_horizon": 1}
    runs["discrete_cql"] = {"learning_rate": LEARNING_RATE, **settings}

    def network() -> tuple[Any, list]:
        linear = [torch.nn.Linear(a, b) for a, b in ((OBSERVATION, 16), (16, 16), (16, CHOICES))]
        return torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1], torch.nn.ReLU(), linear[2]), linear

    (critic, linear), (target, target_linear) = network(), network()
    put_torch(linear, start["critic.0"])
    put_torch(target_linear, start["target_critic.0"])
    agent = official.QuantileAgent(
        None, CHOICES, replay_scheme="uniform", optimizer=Adam(critic.parameters()), **settings
    )

    def outputs(q: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(q_values=q, logits=q[:, :, None])

    arrays = named(start, "start")
    for update in range(UPDATES):
        agent._replay = types.SimpleNamespace(
            rewards=torch.from_numpy(batches["reward"][update]),
            terminals=torch.from_numpy(batches["terminated"][update]),
            actions=torch.from_numpy(batches["choice"][update]).to(torch.int64),
        )
        agent._replay_net_outputs = outputs(critic(torch.from_numpy(batches["obs"][update])))
        agent._replay_next_target_net_outputs = outputs(target(torch.from_numpy(batches["next_obs"][update])))
        agent._build_train_op()
        target.load_state_dict(critic.state_dict())
        if update + 1 in KEPT:
            arrays.update(named({"critic.0": torch_layers(linear)}, f"discrete_cql/after_{update + 1}"))
    return arrays


# --- what is told about it -------------------------------------------------------------------------------------------


def about_source(repository: str, checkout: Path) -> dict[str, str]:
    """The repository and the commit of a checkout. Raises SystemExit where its files were changed."""
    git = ["git", "-C", str(checkout)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True, text=True
    ).stdout
    if changes:
        raise SystemExit(f"The checkout of {repository} must have no changed files; Git names {changes.strip()}.")
    return {"repository": f"github.com/{repository}", "commit": commit}


def versions() -> dict[str, str]:
    """Of Python and of the packages that computed the numbers."""
    from importlib.metadata import version

    names = ("torch", "numpy", "jax", "jaxlib", "flax", "optax", "tensorflow-probability")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


if __name__ == "__main__":
    main()
