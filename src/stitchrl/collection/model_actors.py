"""Acting by a model of Stable-Baselines3, with the exact probability or density of every executed action.

    DQN          greedy, and with its exploration rate (or `epsilon`) any action alike
    PPO, A2C     numbered actions: drawn by the model's probabilities
                 vectors: a normal, clipped to the bounds of the environment
    SAC          a normal squashed by tanh into the bounds
    TD3, DDPG    the preferred action with normal noise of standard deviation `noise`, clipped to the bounds

Of a clipped normal the logged density is that of the censored normal (`nn/clipped_normal.py`): each number inside the bounds
has its density, each number on a bound the probability of what was clipped to it.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from scipy.special import log_ndtr

from stitchrl.collection.acting import Actor, Choice, Space
from stitchrl.deployment.sb3_policy import SB3Policy
from stitchrl.errors import ConfigurationError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["ClippedNormal", "Drawn", "SquashedNormal", "actor_of_model", "load_model", "model_policy"]

CLASSES = {
    "exploration_rate": "DQN",
    "target_entropy": "SAC",
    "policy_delay": "TD3",
    "clip_range": "PPO",
    "gae_lambda": "A2C",
}
"""A setting of a saved model -> the class that has it; the first setting that is found decides. DDPG is a TD3."""


# --- a file -> a model -------------------------------------------------------------------------------------------


def load_model(path: Path, *, trust_pickle: bool) -> Any:
    """Load the model that Stable-Baselines3 saved in a file, which runs the code that was pickled into it.

    Raises:
        ConfigurationError: the file is no such model, it is not trusted, Stable-Baselines3 is not installed, or it cannot load
            the model.
    """
    name = _class_in(path)
    if not trust_pickle:
        raise ConfigurationError(
            f"{str(path)!r} is a model of Stable-Baselines3 ({name}), and loading it runs whatever code was pickled into the "
            "file. If you trust whoever made it, allow that by `--trust-pickle` (in Python `trust_pickle=True`)."
        )
    try:
        library = importlib.import_module("stable_baselines3")
    except ImportError as error:
        raise ConfigurationError(
            f"Loading {str(path)!r} needs stable-baselines3, which could not be imported ({error}). "
            'Run: pip install "stitchrl[sb3]"'
        ) from error
    try:
        return getattr(library, name).load(path, device="cpu")
    except Exception as error:  # what is raised depends on what was pickled
        raise ConfigurationError(
            f"stable-baselines3 {library.__version__} could not load {str(path)!r} as a {name} model: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')}. Load it in Python, and give "
            "`st.collect(policy=model)`."
        ) from error


def _class_in(path: Path) -> str:
    """The name of the class of a saved model, told by its settings without loading it."""
    if not path.is_file():
        raise ConfigurationError(
            f"There is no file {str(path)!r}; `policy` of collect is a model that `model.save` wrote."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(archive.read("data"))
        found = next((name for setting, name in CLASSES.items() if setting in settings), None)
        module = str(settings.get("policy_class", {}).get("__module__", ""))
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError):
        found, module = None, ""
    if found is None or module.startswith("sb3_contrib"):
        raise ConfigurationError(
            f"{str(path)!r} must be a DQN, PPO, A2C, SAC, TD3 or DDPG model that `model.save` of Stable-Baselines3 wrote, and "
            f"it is {'one of sb3_contrib' if found else 'none'}. Load another kind of model in Python, and give "
            "`st.collect(policy=model)`."
        )
    return found


def model_policy(given: Any, *, trust_pickle: bool) -> SB3Policy:
    """The policy of a model, of a file with one, or the policy itself.

    Raises:
        ConfigurationError: it is neither, or the file cannot be loaded.
    """
    if isinstance(given, SB3Policy):
        return given
    model = load_model(Path(given), trust_pickle=trust_pickle) if isinstance(given, str | Path) else given
    if not all(hasattr(model, name) for name in ("predict", "policy", "action_space", "observation_space")):
        raise ConfigurationError(
            "`policy` of collect must be a Stable-Baselines3 model, the path of a saved one, or an `st.SB3Policy`; "
            f"got {shown(given)}."
        )
    return SB3Policy(model)


# --- a model -> an actor -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Numbered actions drawn by the probabilities of a model, mixed with a share of uniform actions."""

    policy: SB3Policy
    epsilon: float

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        probs = self.policy.probs(obs)
        probs = probs / probs.sum(1, keepdims=True)
        probs = (1.0 - self.epsilon) * probs + self.epsilon / probs.shape[1]
        rising = probs.cumsum(1)
        action = (rng.random((len(obs), 1)) * rising[:, -1:] >= rising).sum(1)
        return Choice(action, np.log(probs[np.arange(len(obs)), action]), probs)


@dataclasses.dataclass(frozen=True)
class SquashedNormal:
    """Draws of a model whose actions are tanh of a normal, scaled to the bounds; tanh is never undone."""

    policy: SB3Policy
    space: Space

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        mean, std = self.policy.normal(obs)
        noise = rng.standard_normal(mean.shape)
        inner = mean + std * noise
        slope = 2.0 * (np.log(2.0) - inner - np.logaddexp(0.0, -2.0 * inner))  # log(1 - tanh^2)
        log_prob = (_log_normal(noise) - np.log(std) - slope).sum(1) - self.space.log_scale
        return Choice(np.tanh(inner), log_prob, np.zeros((len(obs), 0)))


@dataclasses.dataclass(frozen=True)
class ClippedNormal:
    """Draws from a normal about the actions of a model, clipped to the bounds of the environment.

    Attributes:
        policy: gives the normal, or, where it leaves nothing to chance, its mean.
        space: of the environment.
        noise: standard deviation as a share of half of the range of each number, where the policy leaves nothing to chance;
            None where the model has a normal of its own.
    """

    policy: SB3Policy
    space: Space
    noise: float | None = None

    def __call__(self, obs: Shaped[NumpyArray, "n ..."], rng: np.random.Generator) -> Choice:
        low, high = self.space.low, self.space.high
        half = (high - low) / 2
        if self.noise is None:
            mean, std = self.policy.normal(obs)
        else:
            mean = np.asarray(self.policy.mode(obs), np.float64)
            std = np.broadcast_to(self.noise * half, mean.shape)
        drawn = mean + std * rng.standard_normal(mean.shape)
        unit = np.clip((drawn - (low + high) / 2) / half, -1.0, 1.0)
        executed = self.space.to_environment(unit).astype(np.float64)
        inside = _log_normal((executed - mean) / std) - np.log(std)
        each = np.where(executed <= low, log_ndtr((low - mean) / std), inside)
        each = np.where(executed >= high, log_ndtr((mean - high) / std), each)
        return Choice(unit, each.sum(1), np.zeros((len(obs), 0)))


def _log_normal(standard: NumpyArray) -> NumpyArray:
    return np.asarray(-0.5 * standard**2 - 0.5 * np.log(2.0 * np.pi))


def actor_of_model(
    policy: SB3Policy, space: Space, *, environment: str, epsilon: float | None, noise: float | None
) -> Actor:
    """Who decides where a model acts.

    Args:
        policy: of the model.
        space: of the environment.
        environment: its name.
        epsilon: share of uniform actions where actions are numbered; None leaves the chance that the model itself takes,
            which must be some.
        noise: as in `ClippedNormal`, of a model whose actions leave nothing to chance.

    Raises:
        ConfigurationError: the model is for other spaces, nothing is left to chance, or chance is asked for in a way that its
            actions do not take.
    """
    _check_spaces(policy, space, environment)
    if space.observations.image:
        policy = policy.acting_on(space.observations.scale)
    if space.num_actions is not None:
        _refuse(
            noise is not None, f"`noise` is for vectors of actions, and those of {environment} are numbered", "epsilon"
        )
        greedy = epsilon is not None and not hasattr(policy.model.policy, "get_distribution")
        model = policy.model
        by_chance = hasattr(model.policy, "get_distribution") or bool(getattr(model, "exploration_rate", False))
        _refuse_without_chance(
            epsilon is None and (policy.deterministic or not by_chance), policy,
            "`epsilon` (`--epsilon`), the share of actions that are drawn alike",
        )  # fmt: skip
        if greedy:
            policy = copy.copy(policy)
            policy.deterministic = True
        return Drawn(policy, epsilon or 0.0)
    _refuse(epsilon is not None, f"`epsilon` is for numbered actions, and those of {environment} are vectors", "noise")
    by_chance = policy.kind != "none" and not policy.deterministic
    if by_chance and noise is not None:
        raise ConfigurationError(
            f"`noise` of collect is for models whose actions leave nothing to chance, and {policy} draws its own. Leave it out."
        )
    _refuse_without_chance(
        not by_chance and noise is None, policy,
        "`noise` (`--noise`), the standard deviation of normal noise as a share of half of the action's range",
    )  # fmt: skip
    if policy.kind == "squashed" and by_chance:
        return SquashedNormal(policy, space)
    return ClippedNormal(policy, space, noise)


def _refuse(wrong: bool, why: str, other: str) -> None:
    if wrong:
        raise ConfigurationError(f"{why}. Give `{other}` in its place, or leave it out.")


def _refuse_without_chance(without: bool, policy: SB3Policy, setting: str) -> None:
    if without:
        taken = " with `deterministic=True`" if policy.deterministic else ""
        raise ConfigurationError(
            f"The {type(policy.model).__name__} model{taken} leaves nothing to chance, and no other policy can be weighed on "
            f"such a log: give {setting}; 0.1 is usual."
        )


def _check_spaces(policy: SB3Policy, space: Space, environment: str) -> None:
    """Refuse a model that was trained for other observations or actions."""
    model, name = policy.model, type(policy.model).__name__
    if not policy.takes(space.observations.shape):
        observed = getattr(model.observation_space, "shape", None)
        raise ConfigurationError(
            f"The {name} model takes observations of shape {observed}; those of {environment} have "
            f"{space.observations.shape}. Give the environment, in its wrappers, that the model was trained in."
        )
    if policy.num_actions is not None or space.num_actions is not None:
        fits = policy.num_actions == space.num_actions
    else:
        bounds = [np.asarray(end, np.float64).reshape(-1) for end in (model.action_space.low, model.action_space.high)]
        fits = all(np.array_equal(end, own) for end, own in zip(bounds, (space.low, space.high), strict=True))
    if not fits:
        taken = f"{space.num_actions} numbers" if space.num_actions is not None else f"from {space.low} to {space.high}"
        raise ConfigurationError(
            f"The {name} model has actions {model.action_space}; those of {environment} are {taken}. Give the environment, in "
            "its wrappers, that the model was trained in."
        )
