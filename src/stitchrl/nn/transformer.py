"""A causal transformer (Radford and others 2019, GPT-2): blocks of attention and perceptron, normalised before each.

Arrays are leaves and all else is static, as in `nn/networks.py`; Equinox's own attention keeps its dropout rate as a leaf.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from stitchrl.jax_types import Array, Key
from stitchrl.nn.networks import ACTIVATIONS, VARIANCE_FLOOR
from stitchrl.nn.precision import product

__all__ = ["Affine", "CausalTransformer", "Norm", "TransformerBlock", "dropped"]

FIRST_SPREAD = 0.02
"""Standard deviation of fresh weights inside blocks (GPT-2)."""
UNSEEN = -1e4
"""Score of a token that must not be attended to, as in the official code: its weight underflows to exactly 0."""
WIDER = 4
"""Width of a block's perceptron, in widths of its tokens."""


class Affine(eqx.Module):
    """x W + b on the last axis."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    @classmethod
    def uniform(cls, inputs: int, outputs: int, *, key: Key) -> Affine:
        """Both within 1 / sqrt(inputs) of zero, PyTorch's default."""
        weight_key, bias_key = jax.random.split(key)
        most = inputs**-0.5
        return cls(
            jax.random.uniform(weight_key, (inputs, outputs), jnp.float32, -most, most),
            jax.random.uniform(bias_key, (outputs,), jnp.float32, -most, most),
        )

    @classmethod
    def normal(cls, inputs: int, outputs: int, *, key: Key) -> Affine:
        """Small normal weights and no bias."""
        return cls(FIRST_SPREAD * jax.random.normal(key, (inputs, outputs), jnp.float32), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        y = product(x, self.weight)
        return y + jnp.broadcast_to(self.bias, y.shape)


class Norm(eqx.Module):
    """Layer normalisation of the last axis."""

    scale: Float[Array, " size"]
    offset: Float[Array, " size"]

    @classmethod
    def create(cls, size: int) -> Norm:
        """Scale 1 and offset 0."""
        return cls(jnp.ones(size), jnp.zeros(size))

    def __call__(self, x: Float[Array, "*b size"]) -> Float[Array, "*b size"]:
        y = jax.nn.standardize(x, axis=-1, epsilon=VARIANCE_FLOOR)
        return y * jnp.broadcast_to(self.scale, x.shape) + jnp.broadcast_to(self.offset, x.shape)


class TransformerBlock(eqx.Module):
    """x + attention(norm x), then x + perceptron(norm x)."""

    attention_norm: Norm
    attention_in: Affine
    attention_out: Affine
    inner_norm: Norm
    inner: Affine
    outer: Affine

    @classmethod
    def create(cls, width: int, *, key: Key) -> TransformerBlock:
        """A fresh block."""
        keys = jax.random.split(key, 4)
        return cls(
            Norm.create(width),
            Affine.normal(width, 3 * width, key=keys[0]),
            Affine.normal(width, width, key=keys[1]),
            Norm.create(width),
            Affine.normal(width, WIDER * width, key=keys[2]),
            Affine.normal(WIDER * width, width, key=keys[3]),
        )


class CausalTransformer(eqx.Module):
    """Tokens in, tokens out; each attends to itself and to the tokens before it that are not padding."""

    blocks: tuple[TransformerBlock, ...]
    norm: Norm
    heads: int = eqx.field(static=True)
    activation: str = eqx.field(static=True, default="relu")
    dropout: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(
        cls, width: int, blocks: int, *, heads: int, activation: str, dropout: float, key: Key
    ) -> CausalTransformer:
        """Fresh blocks; `heads` divides `width`."""
        made = tuple(TransformerBlock.create(width, key=one) for one in jax.random.split(key, blocks))
        return cls(made, Norm.create(width), heads, activation, dropout)

    def __call__(
        self, tokens: Float[Array, "B T width"], there: Bool[Array, "B T"], *, key: Key | None = None
    ) -> Float[Array, "B T width"]:
        """(B, T, width) the tokens after all blocks.

        Args:
            tokens: embedded.
            there: False for padding, which nothing attends to.
            key: for dropout; None leaves it off.
        """
        count = tokens.shape[1]
        seen = jnp.tril(jnp.ones((count, count), jnp.bool_))[None, None] & there[:, None, None, :]
        keys = (
            [None] * (1 + 3 * len(self.blocks))
            if key is None
            else list(jax.random.split(key, 1 + 3 * len(self.blocks)))
        )
        x = dropped(tokens, self.dropout, keys[0])
        for i, block in enumerate(self.blocks):
            of_shares, of_attention, of_inner = keys[1 + 3 * i : 4 + 3 * i]
            mixed = block.attention_out(self._attended(block.attention_in(block.attention_norm(x)), seen, of_shares))
            x = x + dropped(mixed, self.dropout, of_attention)
            inner = ACTIVATIONS[self.activation](block.inner(block.inner_norm(x)))
            x = x + dropped(block.outer(inner), self.dropout, of_inner)
        return self.norm(x)

    def _attended(
        self, joined: Float[Array, "B T three_widths"], seen: Bool[Array, "B _ T T"], key: Key | None
    ) -> Float[Array, "B T width"]:
        batch, count, wide = joined.shape
        query, keys, value = (
            part.reshape(batch, count, self.heads, wide // 3 // self.heads) for part in jnp.split(joined, 3, axis=-1)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) / query.shape[-1] ** 0.5
        shares = dropped(jax.nn.softmax(jnp.where(seen, scores, UNSEEN), axis=-1), self.dropout, key)
        return jnp.einsum("bhqk,bkhd->bqhd", shares, value).reshape(batch, count, wide // 3)


def dropped(x: Array, share: float, key: Key | None) -> Array:
    """x with a share of its numbers set to 0 and the others scaled up, so that the mean stays; without a key, x itself."""
    if key is None or not share:
        return x
    kept = jax.random.bernoulli(key, 1.0 - share, x.shape)
    return jnp.where(kept, x / (1.0 - share), 0.0)
