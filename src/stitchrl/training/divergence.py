"""Divergence: a member whose numbers are no longer finite ends the run, or, where others can go on, is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.errors import StitchRLError, StitchRLWarning
from stitchrl.types import PyTree

__all__ = ["Diverged", "DivergenceError"]


class DivergenceError(StitchRLError):
    """A loss became NaN or infinite."""


class Diverged:
    """Which members diverged, each with the sentence that says where.

    Args:
        name: of the algorithm.
        labels: what to call each member.
        spare: True lets the others go on, with a StitchRLWarning, as long as there are any.
        known: members that had diverged before.
    """

    def __init__(self, name: str, labels: Sequence[str], *, spare: bool, known: Mapping[int, str]) -> None:
        self._name, self._labels, self._spare = name, labels, spare
        self.members: dict[int, str] = dict(known)

    def see_metrics(self, means: Mapping[str, Sequence[float]], update: int) -> None:
        """Look at a chunk's metrics. Raises DivergenceError."""
        for name, values in means.items():
            for k in np.flatnonzero(~np.isfinite(values)).tolist():
                self._found(k, f"{name} of {self._name} must stay finite; got {values[k]} by update {update}")

    def see_state(self, state: PyTree, update: int) -> None:
        """Look at a state that is saved or returned, since metrics describe the one before the last update.

        Raises DivergenceError.
        """
        for where, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                finite = np.isfinite(np.asarray(leaf)).reshape(len(self._labels), -1).all(1)
                for k in np.flatnonzero(~finite).tolist():
                    name = jax.tree_util.keystr(where)
                    self._found(k, f"{name} of {self._name} must stay finite; it is not after update {update}")

    def _found(self, member: int, what: str) -> None:
        if member in self.members:
            return
        count = len(self._labels)
        sentence = (
            f"{what} with {self._labels[member]} (member {member} of {count}). "
            "Lower the learning rate or the reward scale."
        )
        self.members[member] = sentence
        if not self._spare or count == 1:
            raise DivergenceError(sentence)
        if len(self.members) == count:
            raise DivergenceError(f"All {count} members diverged; the last: {sentence}")
        warnings.warn(f"{sentence} The others go on.", StitchRLWarning, stacklevel=3)
