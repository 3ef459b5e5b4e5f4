"""The policy of a Stable-Baselines3 model, by the methods that its models have; the library itself is not imported.

The policy is what `model.predict` does, and `deterministic` has the same meaning as there. What is known of its actions:

    discrete       PPO, A2C and the like: the probabilities; DQN: its exploration, (1 - e) greedy + e uniform
    continuous     SAC and the like: the density of the squashed normal, in units of the action
                   PPO, A2C: a normal that `predict` clips to the bounds, with densities inside and probabilities on a bound
                   (the law of `st.ClippedPolicy`); `clip=False` has the density of the normal itself
                   TD3, DDPG, and `deterministic=True`: a deterministic action, and no density

Images of a log are bytes of (height, width, channels). A model that was trained on truth values or numbers from 0 to 1 gets the
bytes divided by 255, and one whose observation space has its channels first gets them first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from stitchrl.deployment.numpy_continuous import BEYOND
from stitchrl.deployment.numpy_laws import clipped_log_prob
from stitchrl.deployment.outside_policy import OutsidePolicy, generator_of, one_hot
from stitchrl.environments import image_scale
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.jax_types import Key
from stitchrl.nn.distributions import TanhNormal
from stitchrl.types import NumpyArray

__all__ = ["SB3Policy"]

ROWS_AT_ONCE = 16384


class SB3Policy(OutsidePolicy):
    """A Stable-Baselines3 model as a policy to be evaluated.

    Attributes:
        model: the model, such as `PPO.load("model.zip")`.
        deterministic: whether it always takes its preferred action, as with `model.predict(obs, deterministic=True)`.
        normalize: what is done to observations before the model sees them, such as `vec_env.normalize_obs` where it was
            trained in a `VecNormalize`; None: nothing.
        clip: whether normal actions are clipped to the bounds of the action, as `predict` does. False means the normal itself,
            whose actions are in `rollout_buffer.actions`; a log of executed actions holds clipped ones.

    Raises:
        ConfigurationError: actions that are neither discrete, multi-discrete nor a box; a policy with memory; exploration that
            depends on the state (`use_sde=True`), whose draws depend on each other from step to step.
    """

    def __init__(
        self,
        model: Any,
        *,
        deterministic: bool = False,
        normalize: Callable[[NumpyArray], NumpyArray] | None = None,
        clip: bool = True,
    ) -> None:
        self.model, self.deterministic, self.normalize, self.clip = model, deterministic, normalize, clip
        self._scale: int | None = image_scale(model.observation_space)
        space = model.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
            raise ConfigurationError(
                f"SB3Policy takes models whose actions are Discrete, MultiDiscrete or a Box; got {type(space).__name__}."
            )
        if hasattr(model.policy, "lstm_actor"):
            raise ConfigurationError(
                "SB3Policy takes models without memory; this one has an LSTM, whose action depends on what came before. Write "
                "its probabilities into the log while it runs along, and judge `st.LoggedPolicy()`."
            )
        if getattr(model, "use_sde", False) and not deterministic:
            raise ConfigurationError(
                "With `use_sde=True` the noise of a model depends on earlier steps, so its single actions have no known density. "
                "Judge it with `deterministic=True`."
            )
        counts = [space.n] if isinstance(space, spaces.Discrete) else getattr(space, "nvec", [])
        self.num_actions = math.prod(int(count) for count in counts) if len(counts) else None

    def __str__(self) -> str:
        return f"the {type(self.model).__name__} model"

    @property
    def discrete(self) -> bool:
        """Whether its actions are the integers 0, 1, ...; those of several components count with the last changing fastest."""
        return self.num_actions is not None

    @property
    def has_density(self) -> bool:
        """Whether the probability, or density, of the executed action is known."""
        if self.discrete:
            return True
        return not self.deterministic and (self._squashed or self._normal)

    # --- discrete ----------------------------------------------------------------------------------------------------

    def _probs(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        assert self.num_actions is not None
        if self.deterministic or not hasattr(self.model.policy, "get_distribution"):
            greedy = one_hot(self._numbered(self._predicted(obs)), self.num_actions, str(self))
            rate = 0.0 if self.deterministic else float(getattr(self.model, "exploration_rate", 0.0))
            return (1.0 - rate) * greedy + rate / self.num_actions
        return np.concatenate([self._categorical(rows) for rows in _pieces(obs)])

    def _categorical(self, obs: NumpyArray) -> NumpyArray:
        """(rows, A) probabilities; of several components their product, the last of them changing fastest."""
        found = self._distribution(obs)
        joint = np.ones((len(obs), 1))
        for one in found if isinstance(found, list | tuple) else [found]:
            joint = (joint[:, :, None] * _array(one.probs)[:, None, :]).reshape(len(obs), -1)
        return joint

    def _numbered(self, action: NumpyArray) -> NumpyArray:
        space = self.model.action_space
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(
                np.ravel_multi_index(tuple(action.reshape(len(action), -1).T), tuple(space.nvec)), np.int64
            )
        return action.reshape(len(action)).astype(np.int64)

    # --- continuous --------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """What continuous actions are drawn from: a normal that is "squashed" or not ("normal"), or "none" (no chance)."""
        return "squashed" if self._squashed else "normal" if self._normal else "none"

    @property
    def _squashed(self) -> bool:
        return hasattr(getattr(self.model.policy, "actor", None), "get_action_dist_params")

    @property
    def _normal(self) -> bool:
        return hasattr(self.model.policy, "get_distribution")

    @property
    def _clips(self) -> bool:
        space = self.model.action_space
        return self.clip and bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())

    def _mode(self, obs: NumpyArray) -> NumpyArray:
        if self._normal and not self._squashed and not self.clip:
            return np.concatenate([self.normal(rows)[0] for rows in _pieces(obs)])
        return self._flat(self._predicted(obs))

    def _sample(self, obs: NumpyArray, key: Key) -> NumpyArray:
        if self.deterministic or not (self._squashed or self._normal):
            return self._mode(obs)
        space = self.model.action_space
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        rng, parts = generator_of(key), []
        for rows in _pieces(obs):
            mean, std = self.normal(rows)
            drawn = mean + std * rng.standard_normal(mean.shape)
            if self._squashed:
                drawn = low + 0.5 * (np.tanh(drawn) + 1.0) * (high - low)
            parts.append(np.clip(drawn, low, high) if self._clips else drawn)
        return np.concatenate(parts)

    def _log_density(self, obs: NumpyArray, action: NumpyArray) -> NumpyArray:
        space, parts, start = self.model.action_space, [], 0
        low, high = (np.asarray(end, np.float64).reshape(-1) for end in (space.low, space.high))
        for rows in _pieces(obs):
            mean, std = self.normal(rows)
            given = action[start : start + len(rows)].astype(np.float64)
            start += len(rows)
            if self._squashed:
                unit = 2.0 * (given - low) / (high - low) - 1.0
                law = TanhNormal(jnp.asarray(mean, jnp.float32), jnp.asarray(np.log(std), jnp.float32))
                inside = np.asarray(law.log_prob(jnp.asarray(unit, jnp.float32)), np.float64)
                parts.append(inside - np.log(0.5 * (high - low)).sum())
            elif self._clips:
                each = clipped_log_prob(given, mean, np.log(std), low, high, spread=std)
                beyond = BEYOND * np.where(np.isfinite(high - low), high - low, std)
                possible = ((given >= low - beyond) & (given <= high + beyond)).all(1)
                parts.append(np.where(possible, each.sum(1), -np.inf))
            else:
                each = -0.5 * ((given - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
                parts.append(each.sum(1))
        return np.concatenate(parts)

    def normal(self, obs: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        """(rows, D) mean and standard deviation of the normal, before it is squashed or clipped; `kind` must not be "none"."""
        if self._squashed:
            mean, log_std, _ = self.model.policy.actor.get_action_dist_params(self._tensor(obs))
            return _array(mean), np.exp(_array(log_std))
        found = self._distribution(obs)
        return _array(found.mean), _array(found.stddev)

    # --- the model ---------------------------------------------------------------------------------------------------

    def _distribution(self, obs: NumpyArray) -> Any:
        return self.model.policy.get_distribution(self._tensor(obs)).distribution

    def _tensor(self, obs: NumpyArray) -> Any:
        self.model.policy.set_training_mode(False)
        return self.model.policy.obs_to_tensor(self._seen(obs))[0]

    def _predicted(self, obs: NumpyArray) -> NumpyArray:
        pieces = [self.model.predict(self._seen(rows), deterministic=True)[0] for rows in _pieces(obs)]
        return np.concatenate([np.asarray(one) for one in pieces])

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the model takes observations that a log holds in this shape, that of one observation."""
        wanted = self._wanted
        return wanted is None or wanted == shape or _channels_moved(shape, wanted)

    def acting_on(self, scale: int) -> SB3Policy:
        """The policy where the environment shows images that a log holds multiplied by `scale`, 1 or 255.

        Raises:
            ConfigurationError: the model's own observation space is of images on the other scale.
        """
        if self._scale not in (None, scale) and len(self._wanted or ()) > 1:
            shows = "bytes" if scale == 1 else "truth values or numbers from 0 to 1"
            raise ConfigurationError(
                f"{self} takes images of {self.model.observation_space}; this environment shows {shows}. Give the environment, "
                "in its wrappers, that the model was trained in."
            )
        found = copy.copy(self)
        found._scale = scale
        return found

    @property
    def _wanted(self) -> tuple[int, ...] | None:
        shape = getattr(self.model.observation_space, "shape", None)
        return None if shape is None else tuple(shape)

    def _seen(self, obs: NumpyArray) -> NumpyArray:
        """What the model sees of observations: on its own scale, of its own type, and in its own order of the axes."""
        wanted = self._wanted
        if not self.takes(obs.shape[1:]):
            raise DataError(f"{self} takes observations of shape {wanted}; the log's have {obs.shape[1:]}.")
        if obs.dtype == np.uint8 and self._scale not in (None, 1):
            dtype = self.model.observation_space.dtype
            obs = (obs / np.float32(self._scale)).astype(dtype if self.normalize is None else np.float32)
        if self.normalize is not None:
            obs = np.asarray(self.normalize(obs), np.float32)
        if wanted is None or wanted == obs.shape[1:]:
            return obs
        return obs[..., 0] if len(wanted) == 2 else np.moveaxis(obs, -1, 1)

    def _flat(self, action: NumpyArray) -> NumpyArray:
        return action.reshape(len(action), -1)


def _array(tensor: Any) -> NumpyArray:
    return np.asarray(tensor.detach().cpu().numpy(), np.float64)


def _channels_moved(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether images of (height, width, channels) fit after the channels are moved first, or a single one is left out."""
    return len(shape) == 3 and wanted in ((shape[2], *shape[:2]), (*shape[:2],) if shape[2] == 1 else ())


def _pieces(obs: NumpyArray) -> list[NumpyArray]:
    """Observations some rows at a time."""
    return [obs[start : start + ROWS_AT_ONCE] for start in range(0, max(len(obs), 1), ROWS_AT_ONCE)]
