"""A residual network: blocks that each add to a running sum, like the blocks of a transformer without attention."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.networks import ACTIVATIONS, MLP, Network, layer_normed

__all__ = ["ResidualNetwork"]

WIDER = 4
"""How many times wider a block is inside (official code of IDQL)."""


class ResidualNetwork(eqx.Module):
    """A linear layer, then blocks x + MLP(layer normalisation of x), then the activation and a linear layer.

    Each block has one hidden layer of four times the width. Any leading axes are batch axes.

    Attributes:
        first, last: linear layers.
        blocks: perceptrons of one hidden layer.
        norm_scales, norm_offsets: of the layer normalisation of each block.
        activation: of the blocks and before the last layer.
        dropout: share of the inputs that a block loses at random where a key is given.
    """

    first: MLP
    blocks: tuple[MLP, ...]
    last: MLP
    norm_scales: tuple[Float[Array, "..."], ...]
    norm_offsets: tuple[Float[Array, "..."], ...]
    activation: str = eqx.field(static=True)
    dropout: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(
        cls,
        in_size: int,
        width: int,
        blocks: int,
        out_size: int,
        *,
        key: Key,
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> ResidualNetwork:
        """Fresh weights: orthogonal, as those of `MLP`."""
        first_key, last_key, *keys = jax.random.split(key, blocks + 2)
        inside = Network((WIDER * width,), activation=activation)
        return cls(
            MLP.create(in_size, (), width, key=first_key),
            tuple(MLP.create(width, inside, width, key=k) for k in keys),
            MLP.create(width, (), out_size, key=last_key),
            tuple(jnp.ones(width, jnp.float32) for _ in keys),
            tuple(jnp.zeros(width, jnp.float32) for _ in keys),
            activation,
            float(dropout),
        )

    def __call__(self, x: Float[AnyArray, "*batch in"], *, key: Key | None = None) -> Float[Array, "*batch out"]:
        x = self.first(x)
        for i, (block, scale, offset) in enumerate(zip(self.blocks, self.norm_scales, self.norm_offsets, strict=True)):
            y = x
            if self.dropout and key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1.0 - self.dropout, y.shape)
                y = jnp.where(kept, y / (1.0 - self.dropout), 0.0)
            x = x + block(layer_normed(y, scale, offset))
        return self.last(ACTIVATIONS[self.activation](x))
