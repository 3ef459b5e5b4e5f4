"""The peer's side of `gpu.py`: updates a second of Unifloral's own IQL train step, scanned. None of its code is here.

    python benchmarks/unifloral_worker.py CHECKOUT [--plain]     # a checkout of github.com/EmptyJackson/unifloral

Reads one JSON job a line on standard input and answers each with one JSON line. Needs jax, flax, optax and distrax, and
nothing of stitchrl. `algorithms/iql.py` of the checkout is imported as it is; what only its command line needs (d4rl,
gym, tyro, wandb) may be missing. Without distrax its normal distribution is the few lines below, and the answer says so.
It sets an option of XLA when it is imported; `--plain` takes that back, for a jaxlib that no longer has the option.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Normal:
    """What the train step asks of `distrax.Normal`."""

    def __init__(self, loc: Any, scale: Any) -> None:
        self.loc, self.scale = loc, scale

    def log_prob(self, value: Any) -> Any:
        return -0.5 * ((value - self.loc) / self.scale) ** 2 - jnp.log(self.scale) - 0.5 * math.log(2.0 * math.pi)


def their_module(checkout: Path, name: str = "iql") -> Any:
    """`algorithms/NAME.py` of the checkout."""
    for needed in ("d4rl", "gym", "tyro", "wandb"):
        if importlib.util.find_spec(needed) is None:
            sys.modules[needed] = ModuleType(needed)
    if importlib.util.find_spec("distrax") is None:
        sys.modules["distrax"] = SimpleNamespace(Normal=Normal)  # type: ignore[assignment]
    spec = importlib.util.spec_from_file_location(f"unifloral_{name}", checkout / "algorithms" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"unifloral_{name}"] = module
    spec.loader.exec_module(module)
    return module


def prepared(module: Any, job: dict[str, Any]) -> tuple[Any, Any]:
    """(a call that makes the job's updates of all seeds, the state it begins with), as their script makes them."""
    rows, size, actions, seeds = job["rows"], job["observation"], job["actions"], job["seeds"]
    random = np.random.default_rng(0)
    dataset = module.Transition(
        obs=jnp.asarray(random.normal(size=(rows, size)), jnp.float32),
        action=jnp.asarray(np.tanh(random.normal(size=(rows, actions))), jnp.float32),
        reward=jnp.asarray(random.normal(size=rows), jnp.float32),
        next_obs=jnp.asarray(random.normal(size=(rows, size)), jnp.float32),
        done=jnp.zeros(rows, jnp.float32),
    )
    args = module.Args(batch_size=job["batch"])
    mean, std = dataset.obs.mean(axis=0), dataset.obs.std(axis=0)
    actor, critics, value = (
        module.TanhGaussianActor(actions, mean, std),
        module.DualQNetwork(mean, std),
        module.StateValueFunction(mean, std),
    )
    obs, action = jnp.zeros(size), jnp.zeros(actions)

    def fresh(seed: Any) -> Any:
        rng, a, q, v = jax.random.split(jax.random.PRNGKey(seed), 4)
        return rng, module.AgentTrainState(
            actor=module.create_train_state(args, a, actor, [obs]),
            dual_q=module.create_train_state(args, q, critics, [obs, action]),
            dual_q_target=module.create_train_state(args, q, critics, [obs, action]),
            value=module.create_train_state(args, v, value, [obs]),
        )

    def run(state: Any, dataset: Any) -> Any:
        step = module.make_train_step(args, actor.apply, critics.apply, value.apply, dataset)
        return jax.lax.scan(step, state, None, job["updates"], unroll=job["unroll"])

    if seeds == 1:
        call, state = jax.jit(run, donate_argnums=0), jax.jit(fresh)(0)
    else:
        call = jax.jit(jax.vmap(run, in_axes=(0, None)), donate_argnums=0)
        state = jax.jit(jax.vmap(fresh))(jnp.arange(seeds))
    return lambda state: call(state, dataset), state


def rates(call: Any, state: Any, job: dict[str, Any]) -> tuple[Any, list[float]]:
    """The state after the job's calls, and updates a second of all seeds in each."""
    found = []
    for _ in range(job["repeats"]):
        began = time.perf_counter()
        state, losses = call(state)
        np.asarray(losses["value_loss"])
        found.append(job["seeds"] * job["updates"] / (time.perf_counter() - began))
    return state, found


def main() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    module, ready = their_module(Path(sys.argv[1])), {}
    if "--plain" in sys.argv:
        os.environ["XLA_FLAGS"] = flags
    for line in sys.stdin:
        job = json.loads(line)
        known = json.dumps(job, sort_keys=True)
        if known not in ready:
            call, state = prepared(module, job)
            ready = {known: (call, rates(call, state, job | {"repeats": 1})[0])}  # compiles
        call, state = ready[known]
        state, found = rates(call, state, job)
        ready[known] = call, state
        versions = {name: _version(name) for name in ("jax", "flax", "optax", "distrax")}
        print(json.dumps({"rates": found, "versions": versions, "device": jax.devices()[0].device_kind}), flush=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
