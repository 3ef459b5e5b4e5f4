"""The base of policies from other libraries: NumPy in and out, masks, and draws that depend on a key alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.errors import DataError
from stitchrl.jax_types import Key
from stitchrl.types import NumpyArray

__all__ = ["OutsidePolicy", "generator_of", "one_hot"]

ROUNDING = 1e-3
"""How far probabilities may be from a sum of 1."""


class OutsidePolicy(ABC):
    """A policy of another library, over discrete or continuous actions."""

    @property
    @abstractmethod
    def discrete(self) -> bool:
        """Whether its actions are the integers 0, 1, ..."""

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` is a real (log-)probability or density. Probabilities of discrete actions are always known."""
        return self.discrete

    def probs(
        self, obs: Shaped[NumpyArray, "B ..."], *, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Float[NumpyArray, "B A"]:
        """(B, A) probabilities of the actions, renormalised over the allowed ones.

        Raises:
            DataError: the actions are continuous, the numbers are no probabilities, or only forbidden actions have any.
        """
        self._refuse_if(
            not self.discrete, "Continuous actions have no probabilities: use `sample`, `mode` or `log_prob`."
        )
        probs = np.asarray(self._probs(obs, action_mask), np.float64)
        right = (probs >= 0).all(1) & (np.abs(probs.sum(1) - 1) <= ROUNDING)  # NaN is neither
        if not right.all():
            at = int(np.flatnonzero(~right)[0])
            raise DataError(
                f"The probabilities of {self} must be at least 0 and sum to 1; in row {at} they sum to {probs[at].sum():.4g} "
                f"with minimum {probs[at].min():.4g}.{self._hint()}"
            )
        if action_mask is None:
            return probs
        if action_mask.shape != probs.shape:
            raise DataError(f"{self} has {probs.shape[1]} actions; the mask has {action_mask.shape[1]}.")
        allowed = np.where(action_mask, probs, 0.0)
        total = allowed.sum(1, keepdims=True)
        if not total.all():
            raise DataError(
                f"{self} must give some allowed action a probability above 0; in row {int(np.argmin(total[:, 0]))} it takes "
                "only what `action_mask` forbids. Mask its actions where it is made, or leave the mask out of the log."
            )
        return np.asarray(allowed / total)

    def log_prob(
        self,
        obs: Shaped[NumpyArray, "B ..."],
        action: Shaped[NumpyArray, "B ..."],
        *,
        action_mask: Bool[NumpyArray, "B A"] | None = None,
    ) -> Float[NumpyArray, " B"]:
        """(B,) logarithm of the probability, or of the density, of the given actions. Raises DataError where there is none."""
        if not self.discrete:
            self._refuse_if(not self.has_density, f"{self} has no density of its actions (`has_density` is False).")
            return self._log_density(obs, np.asarray(action))
        chosen = np.take_along_axis(self.probs(obs, action_mask=action_mask), np.asarray(action)[:, None], 1)[:, 0]
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(chosen))

    def mode(
        self, obs: Shaped[NumpyArray, "B ..."], *, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Shaped[NumpyArray, "B ..."]:
        """(B,) the most probable allowed action of each row; (B, D) the deterministic action where they are continuous."""
        if self.discrete:
            return self.probs(obs, action_mask=action_mask).argmax(1)
        return self._mode(obs)

    def sample(
        self,
        obs: Shaped[NumpyArray, "B ..."],
        *,
        key: Key,
        action_mask: Bool[NumpyArray, "B A"] | None = None,
    ) -> Shaped[NumpyArray, "B ..."]:
        """(B,) an action drawn for each row; (B, D) where actions are continuous."""
        if not self.discrete:
            return self._sample(obs, key)
        rising = self.probs(obs, action_mask=action_mask).cumsum(1)
        drawn = generator_of(key).random((len(rising), 1)) * rising[:, -1:]
        return np.asarray((drawn >= rising).sum(1))

    # --- what a library has to say ----------------------------------------------------------------------------------

    def _probs(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        """(B, A) probabilities; the mask is for those that take one themselves."""
        raise NotImplementedError

    def _mode(self, obs: NumpyArray) -> NumpyArray:
        """(B, D) deterministic continuous actions."""
        raise NotImplementedError

    def _sample(self, obs: NumpyArray, key: Key) -> NumpyArray:
        """(B, D) continuous actions, drawn; those of a deterministic policy are its mode."""
        del key
        return self._mode(obs)

    def _log_density(self, obs: NumpyArray, action: NumpyArray) -> NumpyArray:
        """(B,) log-density of continuous actions in logged units."""
        raise NotImplementedError

    def _hint(self) -> str:
        """A further sentence for numbers that are no probabilities, after a space."""
        return ""

    def _refuse_if(self, wrong: bool, sentence: str) -> None:
        if wrong:
            raise DataError(sentence)


def one_hot(action: Int[NumpyArray, " B"], count: int, whose: str) -> Float[NumpyArray, "B A"]:
    """(B, A) probabilities of a deterministic policy.

    Raises:
        DataError: an action that is none of the `count`.
    """
    if len(action) and not (action.min() >= 0 and action.max() < count):
        raise DataError(f"The actions of {whose} must be 0 to {count - 1}; got {action.min()} to {action.max()}.")
    return np.asarray(np.eye(count)[action])


def generator_of(key: Key) -> np.random.Generator:
    """A NumPy generator that depends on a JAX key alone."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
