"""The policy of a d3rlpy algorithm, by the methods that its algorithms have; the library itself is not imported.

`predict` takes the preferred action and `sample_action` draws one. Neither gives a probability, so what is known is

    discrete       `predict`: the action that it takes has probability 1
    continuous     `predict`, or draws of `sample_action`: no density
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from stitchrl.deployment.outside_policy import OutsidePolicy, generator_of, one_hot
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.jax_types import Key
from stitchrl.types import NumpyArray

__all__ = ["D3RLPyPolicy"]

ROWS_AT_ONCE = 16384


class D3RLPyPolicy(OutsidePolicy):
    """A d3rlpy algorithm that was built or loaded, as a policy to be evaluated.

    Attributes:
        algo: the algorithm, such as `d3rlpy.load_learnable("model.d3")`.
        deterministic: whether `predict` acts, as where it is deployed, or `sample_action`.

    Raises:
        ConfigurationError: draws of discrete actions, whose probabilities d3rlpy does not give; an algorithm that was not built.
    """

    def __init__(self, algo: Any, *, deterministic: bool = True) -> None:
        self.algo, self.deterministic = algo, deterministic
        self._discrete = algo.get_action_type().name == "DISCRETE"
        if getattr(algo, "impl", None) is None:
            raise ConfigurationError(
                f"{type(algo).__name__} has no network yet: load it, or train it, before it is judged as a policy."
            )
        if self._discrete and not deterministic:
            raise ConfigurationError(
                "d3rlpy draws discrete actions without giving their probabilities, so a policy that draws cannot be judged. "
                "Judge it with `deterministic=True`, as `predict` acts."
            )
        self.num_actions = int(algo.action_size) if self._discrete else None

    def __str__(self) -> str:
        return f"the {type(self.algo).__name__} of d3rlpy"

    @property
    def discrete(self) -> bool:
        """Whether its actions are the integers 0, 1, ..."""
        return self._discrete

    def _probs(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        assert self.num_actions is not None
        return one_hot(self._mode(obs).reshape(len(obs)).astype(np.int64), self.num_actions, str(self))

    def _mode(self, obs: NumpyArray) -> NumpyArray:
        return self._asked(self.algo.predict, obs)

    def _sample(self, obs: NumpyArray, key: Key) -> NumpyArray:
        if self.deterministic:
            return self._mode(obs)
        with _torch_seeded(int(generator_of(key).integers(2**31))):
            return self._asked(self.algo.sample_action, obs)

    def _asked(self, ask: Any, obs: NumpyArray) -> NumpyArray:
        wanted = getattr(self.algo, "observation_shape", None)
        if wanted is not None and tuple(wanted) != obs.shape[1:]:
            raise DataError(f"{self} takes observations of shape {tuple(wanted)}; the log's have {obs.shape[1:]}.")
        starts = range(0, max(len(obs), 1), ROWS_AT_ONCE)
        return np.concatenate([np.asarray(ask(obs[start : start + ROWS_AT_ONCE])) for start in starts])


@contextlib.contextmanager
def _torch_seeded(seed: int) -> Any:
    """Let PyTorch draw from a seed, and restore its state afterwards. Where PyTorch is not loaded, nothing draws from it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
