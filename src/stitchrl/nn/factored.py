"""Networks for actions of several components, with an output for each choice of a component in place of each combination.

Tang and others 2022, "Leveraging Factored Action Spaces for Efficient Offline Reinforcement Learning in Healthcare"
(arXiv 2305.01738), for values; the same sum of logits is a policy whose components are drawn independently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.networks import MLP, ImageNetwork, Network

__all__ = ["FactoredNetwork", "joint_outputs", "num_outputs", "with_joint_outputs"]


def joint_outputs(
    outputs: Float[Array, "*batch choices"], counts: Sequence[int]
) -> Float[Array, "*batch combinations"]:
    """For each combination, the sum of the outputs of the choices that it makes; the last component changes fastest.

    Of logits it gives pi(a | s) = prod_k pi_k(a_k | s), of values Q(s, a) = sum_k Q_k(s, a_k).

    Args:
        outputs: one number for each choice, component after component; sum(counts) of them.
        counts: choices of each component.
    """
    first, *others = jnp.split(outputs, np.cumsum(counts)[:-1].tolist(), axis=-1)
    joint = first
    for part in others:
        joint = (joint[..., :, None] + part[..., None, :]).reshape(*outputs.shape[:-1], -1)
    return joint


class FactoredNetwork(eqx.Module):
    """A network with an output for each choice of each component, as one with an output for each combination.

    Attributes:
        body: the network; sum(counts) outputs.
        counts: choices of each component.
    """

    body: MLP | ImageNetwork
    counts: tuple[int, ...] = eqx.field(static=True, converter=tuple)  # a file holds a list, which cannot be hashed

    def __call__(
        self, x: Shaped[AnyArray, "*batch_and_inputs"], *, key: Key | None = None
    ) -> Float[Array, "*batch combinations"]:
        return joint_outputs(self.body(x, key=key), self.counts)


def num_outputs(counts: Sequence[int], network: Network) -> int:
    """Outputs of a network over discrete actions: as many as combinations, or, factored, as choices of all components."""
    return math.prod(counts) if network.outputs == "joint" else sum(counts)


def with_joint_outputs(
    body: MLP | ImageNetwork, counts: Sequence[int], network: Network
) -> MLP | ImageNetwork | FactoredNetwork:
    """A network that was made with `num_outputs` outputs, as one with an output for each combination."""
    return body if network.outputs == "joint" else FactoredNetwork(body, tuple(counts))
