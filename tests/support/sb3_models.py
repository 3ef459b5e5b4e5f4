"""Stand-ins for models of Stable-Baselines3, with the methods, the shapes and the conventions of its classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import spaces

OBS = np.array([[0.2, 1.0], [-1.0, 0.3], [2.0, -0.7]], np.float32)
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
WEIGHT = np.array([[1.0, 0.0, -1.0], [0.5, -0.5, 2.0]], np.float32)

IMAGE_WEIGHT = np.linspace(-0.02, 0.03, 36, dtype=np.float32).reshape(12, 3) * np.array([1.0, -1.0, 0.5], np.float32)


class Tensor:
    """A tensor of PyTorch that must be detached and brought home before NumPy sees it."""

    def __init__(self, values: Any, ready: int = 0) -> None:
        self.values, self.ready = np.asarray(values, np.float32), ready

    def detach(self) -> Tensor:
        return Tensor(self.values, 1)

    def cpu(self) -> Tensor:
        return Tensor(self.values, self.ready + 1)

    def numpy(self) -> np.ndarray:
        assert self.ready == 2
        return self.values


class Model:
    """A model of Stable-Baselines3: `predict`, spaces, and a policy that must be told that it is not training."""

    def __init__(self, action_space: Any, **policy: Any) -> None:
        self.action_space, self.observation_space, self.training = action_space, BOX, True
        self.policy = SimpleNamespace(
            obs_to_tensor=lambda obs: (Tensor(obs), True), set_training_mode=self._set_training, **policy
        )

    exploration_rate: float = 0.0
    use_sde: bool = False

    def _set_training(self, training: bool) -> None:
        self.training = training

    def predict(self, obs: np.ndarray, deterministic: bool = False) -> tuple[np.ndarray, None]:
        assert deterministic
        scores = obs @ WEIGHT
        if isinstance(self.action_space, spaces.Discrete):
            return scores.argmax(1), None
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return np.stack([scores[:, :2].argmax(1), scores.argmax(1)], 1), None
        return np.clip(scores[:, :2], self.action_space.low, self.action_space.high), None


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits.astype(np.float64))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def on_policy(action_space: spaces.Space) -> Model:
    """As PPO and A2C: `get_distribution(tensor).distribution`, in evaluation mode alone."""

    def get_distribution(obs: Tensor) -> Any:
        assert not model.training
        scores = obs.values @ WEIGHT
        if isinstance(action_space, spaces.Discrete):
            return SimpleNamespace(distribution=SimpleNamespace(probs=Tensor(softmax(scores))))
        if isinstance(action_space, spaces.MultiDiscrete):
            parts = [SimpleNamespace(probs=Tensor(softmax(part))) for part in (scores[:, :2], scores)]
            return SimpleNamespace(distribution=parts)
        normal = SimpleNamespace(mean=Tensor(scores[:, :2]), stddev=Tensor(np.full((len(scores), 2), 0.5)))
        return SimpleNamespace(distribution=normal)

    model = Model(action_space, get_distribution=get_distribution)
    return model


def seeing(shape: tuple[int, ...], kind: str) -> Model:
    """As PPO of images of 12 numbers: it must be given those of its own space, in their own order and type."""

    def get_distribution(obs: Tensor) -> Any:
        logits = obs.values.reshape(len(obs.values), -1) @ IMAGE_WEIGHT
        return SimpleNamespace(distribution=SimpleNamespace(probs=Tensor(softmax(logits))))

    def obs_to_tensor(obs: np.ndarray) -> tuple[Tensor, bool]:
        assert (obs.shape[1:], obs.dtype) == (shape, np.dtype(kind))
        return Tensor(obs), True

    model = Model(spaces.Discrete(3), get_distribution=get_distribution)
    model.observation_space = spaces.Box(0, 255 if kind == "uint8" else 1, shape, np.dtype(kind).type)
    model.policy.obs_to_tensor = obs_to_tensor
    return model


def off_policy(low: float, high: float) -> Model:
    """As SAC: an actor that gives mean and log standard deviation before tanh."""
    actor = SimpleNamespace(
        get_action_dist_params=lambda obs: (
            Tensor(obs.values @ WEIGHT[:, :1]),
            Tensor(np.full((len(obs.values), 1), -0.5)),
            {},
        )
    )
    return Model(spaces.Box(low, high, (1,), np.float32), actor=actor)
