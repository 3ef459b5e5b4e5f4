"""Gymnasium environments: copies that step side by side, with their observations in the form in which a log holds them.

An observation is a vector of numbers, or an image: bytes of (height, width, channels). Images of truth values, as in MinAtar,
and of numbers between 0 and 1 become bytes from 0 to 255; a network divides bytes by 255 and so gets the original numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.types import NumpyArray

__all__ = ["Observations", "image_scale", "make_copies"]

INSTALLS = {
    "mujoco": 'pip install "stitchrl[mujoco]"',
    "box2d": 'pip install swig && pip install "gymnasium[box2d]"',
}
"""A word in Gymnasium's message about a missing package -> what installs it."""
NAMESPACES = {"ALE": ("run `pip install ale-py`", "ale_py")}
"""The namespace of an id -> how its package is installed, and its module, which registers the environments."""
MOST_CHANNELS_FIRST, LEAST_SIDE = 4, 16
"""An image with at most so many rows, and at least so many entries on its last axis, has its channels first."""


@dataclasses.dataclass(frozen=True)
class Observations:
    """The observations of an environment, and their conversion to those of a log.

    Attributes:
        shape: (D,) of vectors, (height, width, channels) of images.
        dtype: "float32" of vectors, "uint8" of images.
        scale: what an image is multiplied by: 255 where its numbers are from 0 to 1, 1 where they are bytes.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: int = 1

    @classmethod
    def of(cls, space: gym.Space[Any], *, whose: str) -> Observations:
        """The observations of an environment with this observation space.

        Args:
            space: of one copy.
            whose: the function that uses the environment, for the message.

        Raises:
            ConfigurationError: it is neither a vector nor an image.
        """
        shape = tuple(map(int, space.shape or ()))
        if isinstance(space, gym.spaces.Box) and len(shape) == 1:
            return cls(shape)
        scale = image_scale(space) if len(shape) in (2, 3) else None
        if scale is None:
            raise ConfigurationError(
                f"{whose} needs an environment whose observation is a vector or an image of (height, width, channels) that holds "
                f"bytes, truth values or numbers from 0 to 1; this one's is {space}. Wrap it: "
                "`gymnasium.wrappers.FlattenObservation` makes a vector of it."
            )
        shape = (*shape, 1)[:3]
        if shape[0] <= MOST_CHANNELS_FIRST and shape[2] >= LEAST_SIDE:
            raise ConfigurationError(
                f"{whose} needs images whose channels come last; those of this environment are {shape}. Move them in a wrapper: "
                "`gymnasium.wrappers.TransformObservation` with `np.moveaxis(obs, 0, -1)`."
            )
        return cls(shape, "uint8", scale)

    @property
    def image(self) -> bool:
        """Whether observations are images."""
        return self.dtype == "uint8"

    def __str__(self) -> str:
        return f"images of {' x '.join(map(str, self.shape))}" if self.image else f"{self.shape[0]} numbers each"

    def __call__(self, obs: Any) -> Shaped[NumpyArray, "n ..."]:
        """Observations of several copies -> (n, *shape), always a copy of its own."""
        if not self.image:
            return np.array(obs, np.float32)
        given = np.asarray(obs).reshape(-1, *self.shape)
        return np.array(given if self.scale == 1 else np.rint(given * np.float32(self.scale)), np.uint8)


def image_scale(space: gym.Space[Any]) -> int | None:
    """The factor that turns the numbers of an image into bytes; None where there is none."""
    if isinstance(space, gym.spaces.MultiBinary):
        return 255
    if not isinstance(space, gym.spaces.Box):
        return None
    if space.dtype == np.uint8:
        return 1
    unit = bool((np.asarray(space.low) == 0).all() and (np.asarray(space.high) == 1).all())
    return 255 if space.dtype == np.bool_ or (unit and np.issubdtype(space.dtype, np.floating)) else None


def make_copies(environment: str | Callable[[], gym.Env[Any, Any]], copies: int) -> SyncVectorEnv:
    """Copies of an environment that step side by side and are reset by hand.

    Raises:
        ConfigurationError: an unknown environment, or one that needs a package that is not installed.
    """

    def make() -> gym.Env[Any, Any]:
        return gym.make(environment) if isinstance(environment, str) else environment()

    try:
        return SyncVectorEnv([make] * copies, autoreset_mode=AutoresetMode.DISABLED)
    except gym.error.DependencyNotInstalled as error:
        said = str(error).rstrip(".")
        command = next((command for name, command in INSTALLS.items() if name in said.lower()), None)
        raise ConfigurationError(
            f"Environment {environment!r} needs a package that is not installed"
            + (f". Run: {command}" if command else f": {said}. Install it and try again.")
        ) from error
    except gym.error.NamespaceNotFound as error:
        name = str(environment)
        space = name.partition("/")[0]
        install, module = NAMESPACES.get(space, ("install it", "module"))
        raise ConfigurationError(
            f"Environment {name!r} could not be made because the namespace {space} belongs to a package that is not installed "
            f"or not imported: {install}, and put its module before the id, as in '{module}:{name}' (`--env` on the command "
            "line)."
        ) from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        said = str(error).strip()
        raise ConfigurationError(
            f"`environment` (`--env` on the command line) must be the id of a registered Gymnasium environment or a function "
            f"that makes one; {environment!r} could not be made: {said}{'' if said.endswith(('.', '?', '!')) else '.'} "
            "`gymnasium.pprint_registry()` lists the ids; an environment of another package is registered by importing that "
            "package."
        ) from error
