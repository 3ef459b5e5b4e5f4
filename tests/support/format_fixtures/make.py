"""Makes the fixtures of tests/reading/formats, each with the library whose format it is. See README.md for how to run it.

Every fixture comes with the arrays it was made of: `<name>.expected.npz` holds what a reader must give, computed here
without stitchrl.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

PACKED = Path(__file__).parent / "fixtures.zip"
HERE = Path(__file__).parent / "made"


def save(name: str, **arrays: Any) -> None:
    """What a reader must give, beside the fixture."""
    np.savez_compressed(HERE / f"{name}.expected.npz", **{key: np.asarray(value) for key, value in arrays.items()})


def fresh(name: str) -> Path:
    """The place of a fixture, empty."""
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    return path


def flat_episodes(episodes: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of episodes with one observation more than actions."""
    return {
        "observation": np.concatenate([e["observations"][:-1] for e in episodes]),
        "next_observation": np.concatenate([e["observations"][1:] for e in episodes]),
        "action": np.concatenate([e["actions"] for e in episodes]),
        "reward": np.concatenate([e["rewards"] for e in episodes]),
        "terminated": np.concatenate([e["terminations"] for e in episodes]),
        "truncated": np.concatenate([e["truncations"] for e in episodes]),
        "length": [len(e["rewards"]) for e in episodes],
    }


def make_minari() -> None:
    """CartPole-v1, and a toy whose spaces are a Dict, a Tuple in it, a Discrete from 1 and a MultiDiscrete from 1."""
    import gymnasium
    import minari
    from gymnasium import spaces

    class Toy(gymnasium.Env):
        """Ends by itself after `length` steps."""

        def __init__(self, image: bool = False, multi: bool = False) -> None:
            inner: dict[str, spaces.Space] = {
                "position": spaces.Box(-1, 1, (2,), np.float32),
                "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-1, 1, (1,), np.float64))),
                "goal": spaces.Text(8, charset="ab"),
            }
            self.observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8) if image else spaces.Dict(inner)
            self.action_space = spaces.MultiDiscrete([2, 3], start=[1, 0]) if multi else spaces.Discrete(4, start=1)
            self.time = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            self.time = 0
            return self.seen(), {}

        def seen(self) -> Any:
            """Anything; an image of one colour, which packs well."""
            drawn = self.observation_space.sample()
            return np.broadcast_to(drawn[:1, :1], drawn.shape).copy() if isinstance(drawn, np.ndarray) else drawn

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            self.time += 1
            return self.seen(), float(np.sum(action)), self.time == 5, False, {}

    def collect(environment: Any, name: str, storage: str, steps: int | None, **more: Any) -> None:
        shutil.rmtree(root / name, ignore_errors=True)
        collector = minari.DataCollector(environment, data_format=storage)
        collector.action_space.seed(7)
        for episode in range(3):
            collector.reset(seed=episode)
            count = 0
            while True:
                _, _, terminated, truncated, _ = collector.step(collector.action_space.sample())
                count += 1
                # The last episode is cut by `reset`: the collector marks it truncated itself.
                if terminated or truncated or (steps and episode == 1 and count == steps):
                    break
        made = collector.create_dataset(dataset_id=name, **more)
        collector.close()
        episodes = [vars(made[i]) for i in range(made.total_episodes)]
        if isinstance(episodes[0]["observations"], dict):
            for episode in episodes:
                seen = episode["observations"]
                first = seen["pair"][0][:, None]
                hot = np.eye(3, dtype=np.float32)[first[:, 0] - 1]
                episode["observations"] = np.concatenate(
                    [hot, seen["pair"][1].astype(np.float32), seen["position"]], axis=1
                )
        save(name.replace("/", "_"), **flat_episodes(episodes))

    root = HERE / "minari"
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    root.mkdir(exist_ok=True)
    limited = gymnasium.make("CartPole-v1", max_episode_steps=14)
    collect(limited, "cartpole-v0", "hdf5", None)
    for storage in ("hdf5", "arrow", "parquet"):
        collect(Toy(), f"toy-{storage}-v0", storage, 3)
    collect(Toy(multi=True), "multi-v0", "hdf5", 3)
    collect(Toy(image=True), "pixels-v0", "hdf5", 3)
    for leftover in root.rglob("*.png"):
        leftover.unlink()
    (root / "namespace_metadata.json").unlink(missing_ok=True)


def make_d3rlpy() -> None:
    """`ReplayBuffer.dump` of discrete, continuous and several-part observations."""
    import d3rlpy
    from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer

    rng = np.random.default_rng(0)
    for name, discrete, several in (("discrete", True, False), ("continuous", False, False), ("parts", False, True)):
        episodes, rows = [], []
        for length, terminated in ((4, True), (3, False), (5, True)):
            first = rng.normal(size=(length, 3)).astype(np.float32)
            second = rng.normal(size=(length, 2)).astype(np.float32)
            action = rng.integers(0, 4, (length, 1)) if discrete else rng.normal(size=(length, 2)).astype(np.float32)
            reward = rng.normal(size=(length, 1)).astype(np.float32)
            episodes.append(Episode([first, second] if several else first, action, reward, terminated))
            last = np.arange(length) == length - 1
            observed = np.concatenate([first, second], 1) if several else first
            flat = action[:, 0] if discrete else action
            rows.append((observed, flat, reward[:, 0], last & terminated, last & ~np.bool_(terminated)))
        buffer = ReplayBuffer(InfiniteBuffer(), episodes=episodes)
        with open(fresh(f"d3rlpy_{name}.h5"), "w+b") as file:
            buffer.dump(file)
        keys = ("observation", "action", "reward", "terminated", "truncated")
        joined = {key: np.concatenate([r[i] for r in rows]) for i, key in enumerate(keys)}
        save(f"d3rlpy_{name}", **joined, length=[4, 3, 5])
    print("d3rlpy", d3rlpy.__version__)


def make_stable_baselines3() -> None:
    """Buffers filled by `add` as `OffPolicyAlgorithm` does, saved as `save_replay_buffer` saves them."""
    import stable_baselines3
    from gymnasium import spaces
    from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
    from stable_baselines3.common.save_util import save_to_pkl

    box, pair = spaces.Box(-1, 1, (3,), np.float32), spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(5))
    shared = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    cases = {
        "discrete_full": (ReplayBuffer, box, spaces.Discrete(4), 2, 12, {}),
        "box": (ReplayBuffer, box, spaces.Box(-2, 2, (2,)), 1, 100, {}),
        "shared_full": (ReplayBuffer, box, spaces.Discrete(4), 2, 12, shared),
        "dict": (DictReplayBuffer, pair, spaces.MultiDiscrete([2, 3]), 2, 100, {}),
        "n_step": (NStepReplayBuffer, box, spaces.Discrete(4), 1, 100, {}),
    }
    for name, (kind, seen, acts, streams, size, more) in cases.items():
        rng = np.random.default_rng(3)
        seen.seed(1)
        acts.seed(2)
        buffer = kind(size, seen, acts, device="cpu", n_envs=streams, **more)
        rows: list[list[tuple]] = [[] for _ in range(streams)]

        def stacked(values: list[Any]) -> Any:
            if isinstance(values[0], dict):
                return {key: np.stack([v[key] for v in values]) for key in values[0]}
            return np.stack(values)

        now = [seen.sample() for _ in range(streams)]
        for time in range(9):
            after = [seen.sample() for _ in range(streams)]
            action = np.stack([acts.sample() for _ in range(streams)])
            reward = rng.normal(size=streams).astype(np.float32)
            terminated = [time == 3 + i for i in range(streams)]
            truncated = [time == 6 for _ in range(streams)]
            done = np.array([t or u for t, u in zip(terminated, truncated, strict=True)])
            infos = [{"TimeLimit.truncated": u and not t} for t, u in zip(terminated, truncated, strict=True)]
            buffer.add(stacked(now), stacked(after), action, reward, done, infos)
            for i in range(streams):
                rows[i].append((now[i], after[i], action[i], reward[i], terminated[i], truncated[i]))
            now = [seen.sample() if done[i] else after[i] for i in range(streams)]
        path = fresh(f"sb3_{name}.pkl")
        save_to_pkl(str(path), buffer)
        held = buffer.size() - (1 if name == "shared_full" else 0)
        kept = [row for stream in rows for row in stream[-held:]]

        def plain(value: Any) -> np.ndarray:
            if isinstance(value, dict):
                return np.concatenate([value["a"], np.eye(5, dtype=np.float32)[int(value["b"])]])
            return value

        ends = [i % held == held - 1 for i in range(len(kept))]
        timeouts = more.get("handle_timeout_termination", True)
        terminated = np.array([r[4] or (r[5] and not timeouts) for r in kept])  # type: ignore[assignment]
        truncated = np.array([r[5] and timeouts for r in kept]) | (np.array(ends) & ~terminated)
        action = np.stack([r[2] for r in kept])
        save(
            f"sb3_{name}",
            observation=np.stack([plain(r[0]) for r in kept]),
            next_observation=np.stack([plain(r[1]) for r in kept]),
            action=action[:, 0] * 3 + action[:, 1] if name == "dict" else action,
            reward=np.array([r[3] for r in kept]),
            terminated=terminated,
            truncated=truncated & ~terminated,
        )
    print("stable_baselines3", stable_baselines3.__version__)


def make_lerobot() -> None:
    """LeRobot's own writer, without videos; torchvision and accelerate, which numbers do not need, are stood in for."""
    import importlib.machinery
    from unittest.mock import MagicMock

    for name in (
        "accelerate",
        "accelerate.utils",
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.v2",
        "torchvision.transforms.functional",
        "torchvision.transforms.v2.functional",
    ):
        stand_in = MagicMock(name=name)
        stand_in.__spec__, stand_in.__path__ = importlib.machinery.ModuleSpec(name, None), []
        sys.modules.setdefault(name, stand_in)
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    rng = np.random.default_rng(0)
    number = {"shape": (1,), "names": None}
    for name, rewarded in (("lerobot_rewarded", True), ("lerobot_plain", False)):
        features = {
            "observation.environment_state": {"dtype": "float32", "shape": (2,), "names": ["g", "h"]},
            "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
            "action": {"dtype": "float32", "shape": (2,), "names": ["u", "v"]},
        }
        if rewarded:
            features |= {
                "next.reward": {"dtype": "float32", **number},
                "next.done": {"dtype": "bool", **number},
                "next.success": {"dtype": "bool", **number},
            }
        made = LeRobotDataset.create(
            "stitchrl/toy", fps=10, root=fresh(name), robot_type="toy", use_videos=False, features=features
        )
        rows = []
        for length, success in ((5, True), (4, False), (3, True)):
            for time in range(length):
                state, goal = rng.normal(size=3).astype(np.float32), rng.normal(size=2).astype(np.float32)
                action, last = rng.normal(size=2).astype(np.float32), time == length - 1
                frame = {
                    "observation.state": state,
                    "observation.environment_state": goal,
                    "action": action,
                    "task": "push",
                }
                if rewarded:
                    frame |= {
                        "next.reward": np.array([time], np.float32),
                        "next.done": np.array([last]),
                        "next.success": np.array([last and success]),
                    }
                made.add_frame(frame)
                ended = last and success and rewarded
                rows.append((np.concatenate([state, goal]), action, time if rewarded else 0, ended, last and not ended))
            made.save_episode()
        made.finalize()
        shutil.rmtree(HERE / name / "meta" / "episodes")  # 50 kB of statistics
        (HERE / name / "meta" / "stats.json").unlink()
        keys = ("observation", "action", "reward", "terminated", "truncated")
        save(name, **{key: np.stack([r[i] for r in rows]) for i, key in enumerate(keys)}, length=[5, 4, 3])
    print("lerobot", lerobot.__version__)


def make_ogbench() -> None:
    """The three layouts; the last two are made of the first by `load_dataset` of ogbench itself."""
    import importlib.util
    import types

    found = importlib.util.find_spec("ogbench")
    package = types.ModuleType("ogbench")  # its __init__ wants MuJoCo, which arrays do not need
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["ogbench"] = package
    from ogbench.utils import load_dataset

    rng = np.random.default_rng(0)
    lengths = (5, 4, 6)
    count = sum(lengths)
    terminals = np.zeros(count, bool)
    terminals[np.cumsum(lengths) - 1] = True
    stored = {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.normal(size=(count, 2)).astype(np.float32),
        "terminals": terminals,
        "qpos": rng.normal(size=(count, 4)),
    }
    np.savez_compressed(fresh("ogbench_downloaded.npz"), **stored)
    masks = np.ones(count, np.float32)
    masks[[2, 13]] = 0  # the task is done inside the first trajectory and at the end of the last
    for name, compact in (("regular", False), ("compact", True)):
        held = load_dataset(HERE / "ogbench_downloaded.npz", compact_dataset=compact)
        kept = slice(None) if compact else ~terminals
        held |= {"rewards": masks[kept] - 1, "masks": masks[kept]}
        np.savez_compressed(fresh(f"ogbench_{name}.npz"), **held)
    regular = load_dataset(HERE / "ogbench_downloaded.npz")
    save(
        "ogbench",
        observation=regular["observations"],
        next_observation=regular["next_observations"],
        action=regular["actions"],
        end=regular["terminals"] > 0,
        mask=masks[~terminals],
    )


def make_d4rl() -> None:
    """By hand, from D4RL's documented keys: the library is discontinued and does not install."""
    import h5py

    rng = np.random.default_rng(0)
    count = 12
    terminals, timeouts = np.zeros(count, bool), np.zeros(count, bool)
    terminals[[3, 9]], timeouts[[6, 9, 11]] = True, True
    arrays = {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.normal(size=(count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "infos/qpos": rng.normal(size=(count, 4)),
        "next_observations": rng.normal(size=(count, 3)).astype(np.float32),
    }
    following = np.append(arrays["observations"][1:], np.zeros((1, 3), np.float32), axis=0)
    inside = ~(terminals | timeouts)
    arrays["next_observations"][inside] = following[inside]
    for name, left_out in (("d4rl_full", ()), ("d4rl_plain", ("next_observations",)), ("d4rl_untimed", ("timeouts",))):
        with h5py.File(fresh(f"{name}.hdf5"), "w") as file:
            for key, values in arrays.items():
                if key not in left_out:
                    file.create_dataset(key, data=values, compression="gzip")
            file["metadata/algorithm"] = "toy"
            file["metadata/policy/weight"] = np.zeros((4, 5))
    save("d4rl", **{key.replace("/", "_"): values for key, values in arrays.items()})


def make_rlds() -> None:
    """Five episodes as a robot's dataset on TensorFlow Datasets holds them: nested observations, an image, a text."""
    import tensorflow_datasets as tfds

    lengths = {"train": range(3), "val": range(3, 5)}

    def steps(episode: int) -> list[dict[str, Any]]:
        rng = np.random.default_rng(episode)
        count = 4 + episode
        return [
            {
                "observation": {
                    "position": rng.normal(size=2).astype(np.float32),
                    "speed": np.float32(t / 10),
                    "image": np.full((8, 8, 3), t, np.uint8),
                },
                "action": rng.uniform(-1, 1, 1).astype(np.float32),
                "reward": np.float32(t),
                "discount": np.float32(1),
                "is_first": t == 0,
                "is_last": t == count - 1,
                "is_terminal": t == count - 1 and episode % 2 == 0,
                "language_instruction": "put it there",
            }
            for t in range(count)
        ]

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = HERE

        def _info(self) -> Any:
            step = {
                "observation": {
                    "position": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                    "speed": np.float32,
                    "image": tfds.features.Image(shape=(8, 8, 3)),
                },
                "action": tfds.features.Tensor(shape=(1,), dtype=np.float32),
                **dict.fromkeys(("reward", "discount"), np.float32),
                **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
                "language_instruction": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _: Any) -> Any:
            return {split: self._generate_examples(chosen) for split, chosen in lengths.items()}

        def _generate_examples(self, chosen: range) -> Any:
            yield from ((episode, {"steps": steps(episode)}) for episode in chosen)

    fresh("rlds")
    builder = Tiny(data_dir=HERE / "rlds")
    builder.download_and_prepare()
    # A split's own order is shuffled: the one that TensorFlow Datasets gives.
    read = [e for split in lengths for e in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))]
    held = [steps(len(list(e["steps"])) - 4) for e in read]

    def rows(get: Any, last: int | None) -> list[Any]:
        return [get(step) for e in held for step in e[slice(1 if last is None else 0, last)]]

    def observation(step: dict[str, Any]) -> np.ndarray:
        return np.append(step["observation"]["position"], step["observation"]["speed"])

    save(
        "rlds",
        observation=rows(observation, -1),
        next_observation=rows(observation, None),
        action=rows(lambda step: step["action"], -1),
        reward=rows(lambda step: step["reward"], -1),
        terminated=[t == len(e) - 2 and e[-1]["is_terminal"] for e in held for t in range(len(e) - 1)],
        truncated=[t == len(e) - 2 and not e[-1]["is_terminal"] for e in held for t in range(len(e) - 1)],
        length=[len(e) - 1 for e in held],
    )


def make_open_bandit() -> None:
    """The first impressions of both policies in the Open Bandit Dataset (small size), as published."""
    published = Path(os.environ["OPEN_BANDIT_DIR"])
    for policy in ("random", "bts"):
        folder = fresh(f"open_bandit_{policy}")
        folder.mkdir()
        lines = (published / policy / "all.csv").read_text().splitlines(keepends=True)
        (folder / "all.csv").write_text("".join(lines[:201]))
        shutil.copyfile(published / policy / "item_context.csv", folder / "item_context.csv")


def make_pack() -> None:
    """All that was made, in one file: HDF5 of small arrays is mostly padding."""
    with zipfile.ZipFile(PACKED, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(p for p in HERE.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(HERE))
    shutil.rmtree(HERE)
    print(f"{PACKED.name}: {PACKED.stat().st_size:,} bytes")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for chosen in sys.argv[1:]:
        globals()[f"make_{chosen}"]()
        print("made", chosen, json.dumps({"numpy": np.__version__}))
