"""The peer's side of a benchmark: d3rlpy's speed, or the returns of what it learned. Runs where d3rlpy is installed.

    echo '{"mode": "rate", "algorithm": "IQL"}' | python benchmarks/d3rlpy_worker.py

One JSON job on standard input, one JSON result on the last line of standard output. Needs numpy, torch, d3rlpy and
gymnasium, and nothing of stitchrl: peers pin versions that stitchrl does not.

`rate` times `update(sample_transition_batch(batch))`, what d3rlpy's own `fit` repeats, without its bars and files.
`score` trains on a log (.npz) and plays the deterministic policy (`predict`) in a Gymnasium environment, or, where the job names
a file of `states`, tells its action in each of them.

d3rlpy drops the last transition of an episode that was cut short, since it has no place for the observation that
follows. Here that observation is appended as one more row, whose own action and reward are never drawn: so it learns
from exactly the transitions of the log, and scales observations by the same mean and standard deviation.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

warnings.simplefilter("ignore")

import d3rlpy  # noqa: E402 - its imports warn
import numpy as np  # noqa: E402
import structlog  # noqa: E402 - d3rlpy's own logger
import torch  # noqa: E402

from playing import play  # noqa: E402

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

DISCRETE = {"learning_rate": 3e-4, "gamma": 0.99, "n_critics": 1, "target_update_interval": 200}
COMMON = {"gamma": 0.99, "tau": 0.005, "n_critics": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "BC": {"learning_rate": 3e-4},
    "BC discrete": {"learning_rate": 3e-4, "beta": 0.0},
    "CQL discrete": DISCRETE | {"alpha": 1.0},
    "BCQ discrete": DISCRETE | {"action_flexibility": 0.3, "beta": 0.01, "share_encoder": False},
    "IQL": COMMON | {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "expectile": 0.7, "weight_temp": 3.0},
    "TD3BC": COMMON | {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "alpha": 2.5},
    "CQL": COMMON
    | {
        "actor_learning_rate": 1e-4,
        "critic_learning_rate": 3e-4,
        "temp_learning_rate": 1e-4,
        "alpha_learning_rate": 0.0,
        "initial_alpha": 1.0,
        "conservative_weight": 5.0,
        "n_action_samples": 10,
    },
    "AWAC": COMMON | {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "lam": 1.0},
    "ReBRAC": COMMON
    | {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "actor_beta": 0.01, "critic_beta": 0.01},
    "BCQ": COMMON
    | {
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "imitator_learning_rate": 3e-4,
        "n_action_samples": 10,
    },
    "BEAR": COMMON
    | {
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "imitator_learning_rate": 1e-3,
        "alpha_learning_rate": 1e-3,
        "temp_learning_rate": 0.0,
        "initial_temperature": 1e-8,
        "n_action_samples": 10,
        "n_target_samples": 10,
        "n_mmd_action_samples": 5,
        "warmup_steps": 0,
    },
}
"""As stitchrl's defaults: Adam, no decay, no Lagrange term in CQL, no entropy bonus and as many actions in BEAR."""


def create(job: dict[str, Any], *, scaler: Any = None) -> Any:
    """The algorithm of a job; its `settings` replace those above."""
    name = job["algorithm"]
    config = {
        "BC": d3rlpy.algos.BCConfig,
        "BC discrete": d3rlpy.algos.DiscreteBCConfig,
        "CQL discrete": d3rlpy.algos.DiscreteCQLConfig,
        "BCQ discrete": d3rlpy.algos.DiscreteBCQConfig,
        "IQL": d3rlpy.algos.IQLConfig,
        "TD3BC": d3rlpy.algos.TD3PlusBCConfig,
        "CQL": d3rlpy.algos.CQLConfig,
        "AWAC": d3rlpy.algos.AWACConfig,
        "ReBRAC": d3rlpy.algos.ReBRACConfig,
        "BCQ": d3rlpy.algos.BCQConfig,
        "BEAR": d3rlpy.algos.BEARConfig,
    }[name]
    settings = {"batch_size": job.get("batch", 256)} | SETTINGS[name]
    if "critics" in job and "n_critics" in settings:
        settings["n_critics"] = job["critics"]
    settings |= job.get("settings", {})

    def encoder() -> Any:
        if "filters" in job:  # of images: filters, kernel and stride of each convolution, then one hidden layer
            (width,) = job["hidden"]
            return d3rlpy.models.encoders.PixelEncoderFactory(filters=job["filters"], feature_size=width)
        return d3rlpy.models.encoders.VectorEncoderFactory(hidden_units=list(job.get("hidden", [256, 256])))

    roles = [field for field in config.__dataclass_fields__ if field.endswith("encoder_factory")]
    chosen = config(
        **settings,
        **{role: encoder() for role in roles},
        observation_scaler=scaler,
        compile_graph=job.get("compile_graph", False),
    )
    return chosen.create(device=job.get("device", "cpu:0"))


def rate(job: dict[str, Any]) -> dict[str, Any]:
    """Updates a second, once a repeat, batch sampling included."""
    rows, size, actions = job.get("rows", 100_000), job.get("observation", 17), job.get("actions", 6)
    rng = np.random.default_rng(0)
    discrete = job["algorithm"] == "BC discrete"
    cut = np.zeros(rows, np.float32)
    cut[999::1000] = cut[-1] = 1.0
    action = rng.integers(actions, size=(rows, 1)) if discrete else rng.uniform(-1, 1, (rows, actions))
    kind = d3rlpy.ActionSpace.DISCRETE if discrete else d3rlpy.ActionSpace.CONTINUOUS
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(rows, size)).astype(np.float32),
        actions=action.astype(np.int32 if discrete else np.float32),
        rewards=rng.normal(size=(rows, 1)).astype(np.float32),
        terminals=np.zeros(rows, np.float32),
        timeouts=cut,
        action_space=kind,
        action_size=actions,
    )
    algo, batch = create(job), job.get("batch", 256)
    algo.build_with_dataset(dataset)

    def updates(count: int) -> None:
        for _ in range(count):
            algo.update(dataset.sample_transition_batch(batch))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    updates(job.get("warmup", 100))
    rates = []
    for _ in range(job.get("repeats", 3)):
        start = time.perf_counter()
        updates(job.get("timed", 500))
        rates.append(job.get("timed", 500) / (time.perf_counter() - start))
    return {"rates": rates}


def episodes_of(log: Any) -> list[Any]:
    """The log as d3rlpy's episodes; a truncated one carries the observation after its end as one more row."""
    obs, reward = as_seen(log["observations"]), np.asarray(log["rewards"], np.float32)
    action = np.asarray(log["actions"])
    action = action[:, None].astype(np.int32) if action.dtype.kind in "iu" else action.astype(np.float32)
    terminated, truncated = log["terminated"].astype(bool), log["truncated"].astype(bool)
    following = as_seen(log["next_observations"]) if "next_observations" in log else None
    found, start = [], 0
    for end in np.flatnonzero(terminated | truncated) + 1:
        part = [obs[start:end], action[start:end], reward[start:end, None]]
        if not terminated[end - 1] and following is not None:
            rows = (following[end - 1 : end], np.zeros_like(action[:1]), np.zeros((1, 1), np.float32))
            part = [np.concatenate(pair) for pair in zip(part, rows, strict=True)]
        found.append(d3rlpy.dataset.Episode(*part, terminated=bool(terminated[end - 1])))
        start = end
    return found


def as_seen(obs: Any) -> Any:
    """Observations as d3rlpy takes them: vectors of float32, or images of bytes whose channels come first.

    Images get the border of zeros that stitchrl's convolutions of stride 2 put around them. d3rlpy's put none: of 10 rows they
    never see the last, in which a player's paddle may be.
    """
    given = np.asarray(obs)
    if given.ndim < 4:
        return given.astype(np.float32)
    border = [(0, 1) if size % 2 == 0 else (1, 1) for size in given.shape[1:3]]
    bytes_ = given.astype(np.uint8) * 255 if given.dtype == bool else given
    return np.pad(np.moveaxis(bytes_, -1, 1), [(0, 0), (0, 0), *border])


def score(job: dict[str, Any]) -> dict[str, Any]:
    """Train on a log, then play: one return for each of the given reset seeds."""
    d3rlpy.seed(job["seed"])
    with np.load(job["npz"]) as log:
        dataset = d3rlpy.dataset.create_infinite_replay_buffer(episodes_of(log))
        transitions = len(log["rewards"])
    if "filters" in job:
        scaler: Any = d3rlpy.preprocessing.PixelObservationScaler()
    else:
        scaler = d3rlpy.preprocessing.StandardObservationScaler()
        scaler.fit_with_transition_picker(dataset.episodes, dataset.transition_picker)
    algo = create(job, scaler=scaler)
    start = time.perf_counter()
    algo.build_with_dataset(dataset)
    if job["algorithm"] == "AWAC":
        without_entropy(algo)
    for _ in range(job["updates"]):
        algo.update(dataset.sample_transition_batch(job.get("batch", 256)))
    seconds = time.perf_counter() - start
    if "states" in job:
        found: dict[str, Any] = {"actions": algo.predict(as_seen(np.load(job["states"]))).tolist()}
    else:
        found = {"returns": play(lambda obs: algo.predict(as_seen(obs)), job["environment"], job["episode_seeds"])}
    return found | {"seconds": seconds, "transitions": [transitions, dataset.transition_count]}


def without_entropy(algo: Any) -> None:
    """Take the entropy bonus out of the targets of AWAC's critics, of which its paper knows nothing.

    d3rlpy 2.8.1 inherits these targets from SAC, with a logarithm of the temperature that is fixed at 0: a temperature of 1.
    """
    with torch.no_grad():
        d3rlpy.models.torch.get_parameter(algo.impl.modules.log_temp).fill_(-100.0)


def main() -> None:
    job = json.loads(sys.stdin.read())
    result = {"rate": rate, "score": score}[job["mode"]](job)
    packages = ("d3rlpy", "torch", "numpy", "gymnasium", "mujoco")
    result["versions"] = {"Python": platform.python_version()} | {name: _version(name) for name in packages}
    result["threads"] = torch.get_num_threads()
    print(json.dumps(result))


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


if __name__ == "__main__":
    main()
