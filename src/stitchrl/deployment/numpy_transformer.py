"""The transformer of saved policies that act towards a return, in NumPy alone; `nn/transformer.py` and
`nn/return_conditioned.py` compute the same. Dropout is off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stitchrl.deployment.numpy_networks import ACTIVATIONS, layer_normed
from stitchrl.types import NumpyArray

__all__ = [
    "NumpyAffine",
    "NumpyCausalTransformer",
    "NumpyNorm",
    "NumpyReturnConditionedNetwork",
    "NumpyTransformerBlock",
]

UNSEEN = np.float32(-1e4)
"""Score of a token that must not be attended to."""


class NumpyAffine:
    """x @ weight + bias on the last axis."""

    def __init__(self, weight: NumpyArray, bias: NumpyArray) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: NumpyArray) -> NumpyArray:
        made: NumpyArray = x @ self.weight + self.bias
        return made


class NumpyNorm:
    """Layer normalisation of the last axis."""

    def __init__(self, scale: NumpyArray, offset: NumpyArray) -> None:
        self.scale, self.offset = scale, offset

    def __call__(self, x: NumpyArray) -> NumpyArray:
        return layer_normed(x, self.scale, self.offset)


class NumpyTransformerBlock:
    """The parts of x + attention(norm x), then x + perceptron(norm x)."""

    def __init__(
        self,
        attention_norm: NumpyNorm,
        attention_in: NumpyAffine,
        attention_out: NumpyAffine,
        inner_norm: NumpyNorm,
        inner: NumpyAffine,
        outer: NumpyAffine,
    ) -> None:
        self.attention_norm, self.attention_in, self.attention_out = attention_norm, attention_in, attention_out
        self.inner_norm, self.inner, self.outer = inner_norm, inner, outer


class NumpyCausalTransformer:
    """Tokens in, tokens out; each attends to itself and to the tokens before it that are not padding."""

    def __init__(
        self,
        blocks: Sequence[NumpyTransformerBlock],
        norm: NumpyNorm,
        heads: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        del dropout
        self.blocks, self.norm, self.heads, self.activation = blocks, norm, heads, ACTIVATIONS[activation]

    def __call__(self, tokens: NumpyArray, there: NumpyArray) -> NumpyArray:
        """(B, T, width) the tokens after all blocks; `there` (B, T) is False for padding."""
        count = tokens.shape[1]
        seen = np.tril(np.ones((count, count), bool))[None, None] & there[:, None, None, :]
        x = tokens
        for block in self.blocks:
            x = x + block.attention_out(self._attended(block.attention_in(block.attention_norm(x)), seen))
            x = x + block.outer(self.activation(block.inner(block.inner_norm(x))))
        return self.norm(x)

    def _attended(self, joined: NumpyArray, seen: NumpyArray) -> NumpyArray:
        batch, count, wide = joined.shape
        parts = joined.reshape(batch, count, 3, self.heads, wide // 3 // self.heads)
        query, keys, value = parts.transpose(2, 0, 3, 1, 4)
        scores = np.where(seen, query @ keys.swapaxes(2, 3) / np.sqrt(np.float32(query.shape[-1])), UNSEEN)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = shares / shares.sum(-1, keepdims=True) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(batch, count, wide // 3)


class NumpyReturnConditionedNetwork:
    """Three tokens a step: return to go, observation and action; the output is read off the second."""

    def __init__(
        self,
        embed_return: NumpyAffine,
        embed_obs: NumpyAffine,
        embed_action: NumpyAffine,
        embed_position: NumpyArray,
        embed_norm: NumpyNorm,
        transformer: NumpyCausalTransformer,
        head: NumpyAffine,
        numbered: bool,
    ) -> None:
        if len(embed_action.weight) != len(head.bias):
            raise ValueError(f"it sees {len(embed_action.weight)} actions and gives {len(head.bias)}")
        self.embed_return, self.embed_obs, self.embed_action = embed_return, embed_obs, embed_action
        self.embed_position, self.embed_norm = embed_position, embed_norm
        self.transformer, self.head, self.numbered = transformer, head, numbered

    def __call__(
        self, returns: NumpyArray, obs: NumpyArray, action: NumpyArray, position: NumpyArray, there: NumpyArray
    ) -> NumpyArray:
        """(B, K, outputs) the output for each step, from that step without its action and from the steps before."""
        if self.numbered:
            action = np.eye(len(self.embed_action.weight), dtype=np.float32)[action]
        at = self.embed_position[np.clip(position, 0, len(self.embed_position) - 1)]
        kinds = [self.embed_return(returns[..., None]), self.embed_obs(obs), self.embed_action(action)]
        tokens = np.stack([kind + at for kind in kinds], axis=2)
        batch, length, _, width = tokens.shape
        tokens = self.embed_norm(tokens.reshape(batch, 3 * length, width))
        out = self.transformer(tokens, np.repeat(there, 3, axis=1))
        return self.head(out.reshape(batch, length, 3, width)[:, :, 1])
