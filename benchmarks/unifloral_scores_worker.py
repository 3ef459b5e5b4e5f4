"""The peer's side of `jax_scores.py`: Unifloral's own train steps on a log, and what the policies earn. None of its code is here.

    echo JOB | python benchmarks/unifloral_scores_worker.py CHECKOUT      # a checkout of github.com/EmptyJackson/unifloral

One JSON job on standard input; one JSON line on standard output for every point of the learning curve, with the returns of each
seed. Needs jax, flax, optax, distrax and `gymnasium[mujoco]`, and nothing of stitchrl. All seeds train in one program, and the
policies act by their mode.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from playing import play
from unifloral_worker import their_module

FILES = {"IQL": "iql", "TD3BC": "td3_bc", "ReBRAC": "rebrac", "CQL": "cql"}


def dataset_of(module: Any, log: Any) -> Any:
    """The log as their scripts hold it; the action that follows is that of the next row, as theirs is."""
    columns = {
        "obs": log["observations"],
        "action": log["actions"],
        "reward": log["rewards"],
        "next_obs": log["next_observations"],
        "next_action": np.roll(log["actions"], -1, axis=0),
        "done": log["terminated"],
    }
    return module.Transition(**{name: jnp.asarray(columns[name], jnp.float32) for name in module.Transition._fields})


def agent_of(module: Any, name: str, args: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """(key -> a fresh agent, dataset -> a train step, (parameters, observations) -> modes), as their script makes them."""
    mean, std = dataset.obs.mean(axis=0), dataset.obs.std(axis=0)
    obs, action = jnp.zeros(dataset.obs.shape[1]), jnp.zeros(dataset.action.shape[1])
    numbers = len(action)
    if name == "ReBRAC":
        actor = module.DeterministicTanhActor(numbers, mean, std, args.actor_ln, args.norm_obs)
        critics = module.DualQNetwork(mean, std, args.critic_ln, args.norm_obs)
    elif name == "CQL":
        actor, critics = module.TanhGaussianActor(numbers), module.VectorQ(args.num_critics)
    else:
        kind = module.TanhGaussianActor if name == "IQL" else module.DeterministicTanhActor
        actor, critics = kind(numbers, mean, std), module.DualQNetwork(mean, std)
    state = module.create_train_state
    if name == "IQL":
        value = module.StateValueFunction(mean, std)

        def fresh(keys: Any) -> dict[str, Any]:
            return {
                "actor": state(args, keys[0], actor, [obs]),
                "dual_q": state(args, keys[1], critics, [obs, action]),
                "dual_q_target": state(args, keys[1], critics, [obs, action]),
                "value": state(args, keys[2], value, [obs]),
            }

        applied = (actor.apply, critics.apply, value.apply)
    elif name == "CQL":
        alpha = module.EntropyCoef()

        def fresh(keys: Any) -> dict[str, Any]:
            return {
                "actor": state(args, keys[0], actor, [obs], args.actor_lr),
                "vec_q": state(args, keys[1], critics, [obs, action]),
                "vec_q_target": state(args, keys[1], critics, [obs, action]),
                "alpha": state(args, keys[2], alpha, []),
            }

        applied = (actor.apply, critics.apply, alpha.apply)
    else:

        def fresh(keys: Any) -> dict[str, Any]:
            return {
                "actor": state(args, keys[0], actor, [obs]),
                "actor_target": state(args, keys[0], actor, [obs]),
                "dual_q": state(args, keys[1], critics, [obs, action]),
                "dual_q_target": state(args, keys[1], critics, [obs, action]),
            }

        applied = (actor.apply, critics.apply)

    def modes(parameters: Any, seen: Any) -> Any:
        if name == "IQL":
            return actor.apply(parameters, seen, eval=True).mode()
        acts = actor.apply(parameters, seen)
        # The mode of a squashed normal is taken to be the squashed mean, as most libraries do.
        return jnp.tanh(acts.distribution.mode()) if name == "CQL" else acts.sample(seed=None)

    return (
        lambda key: (key, module.AgentTrainState(**fresh(jax.random.split(key, 3)))),
        lambda data: module.make_train_step(args, *applied, data),
        jax.jit(modes),
    )


def main() -> None:
    job = json.loads(sys.stdin.read())
    name = job["algorithm"]
    module = their_module(Path(sys.argv[1]), FILES[name])
    args = module.Args(**job["settings"])
    with np.load(job["npz"]) as log:
        dataset = dataset_of(module, log)
    fresh, step_of, modes = agent_of(module, name, args, dataset)
    chunk = job["steps"][0]

    def run(state: Any, data: Any) -> Any:
        return jax.lax.scan(step_of(data), state, None, chunk)[0]

    call = jax.jit(jax.vmap(run, in_axes=(0, None)), donate_argnums=0)
    state = jax.vmap(fresh)(jax.vmap(jax.random.PRNGKey)(jnp.asarray(job["seeds"])))
    seconds, done = 0.0, 0
    for point in job["steps"]:
        began = time.perf_counter()
        while done < point:
            state = jax.block_until_ready(call(state, dataset))
            done += chunk
        seconds += time.perf_counter() - began
        for place, seed in enumerate(job["seeds"]):
            parameters = jax.tree.map(lambda leaf, place=place: leaf[place], state[1].actor.params)
            found = play(
                lambda seen, parameters=parameters: np.asarray(modes(parameters, jnp.asarray(seen, jnp.float32))),
                job["environment"],
                job["episode_seeds"][place],
            )
            print(json.dumps({"seed": seed, "step": point, "returns": found, "seconds": seconds}), flush=True)
    packages = ("jax", "flax", "optax", "distrax", "gymnasium", "mujoco")
    print(json.dumps({"versions": {package: version(package) for package in packages}}), flush=True)


if __name__ == "__main__":
    main()
