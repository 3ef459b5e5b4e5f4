"""The networks of saved policies in NumPy alone: the same numbers as `nn/networks.py`, for machines without JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from stitchrl.types import NumpyArray

__all__ = [
    "NumpyEnsemble",
    "NumpyFactoredNetwork",
    "NumpyImageNetwork",
    "NumpyMLP",
    "NumpyResidualNetwork",
    "layer_normed",
    "log_softmax",
    "softplus",
    "standardized",
]

VARIANCE_FLOOR = np.float32(1e-5)
"""Added to the variance that layer normalisation divides by."""
KERNEL, STRIDE = 3, 2
"""Size and stride of the convolutions."""


def log_softmax(logits: NumpyArray) -> NumpyArray:
    """Normalised logarithms along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    normalised: NumpyArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def softplus(x: NumpyArray) -> NumpyArray:
    """log(1 + exp(x))."""
    return np.logaddexp(x, np.float32(0))


def standardized(raw: NumpyArray, mean: NumpyArray, std: NumpyArray) -> NumpyArray:
    """(raw - mean) / std, column by column; an empty mean leaves images as they are."""
    return (raw - mean) / std if mean.size else raw


def _relu(x: NumpyArray) -> NumpyArray:
    return np.maximum(x, np.float32(0))


def _gelu(x: NumpyArray) -> NumpyArray:
    """The approximation by tanh, which JAX computes as well."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))


def _silu(x: NumpyArray) -> NumpyArray:
    # As tanh, because exp(-x) overflows far below 0.
    return x * (np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x)))


ACTIVATIONS: dict[str, Callable[[NumpyArray], NumpyArray]] = {
    "relu": _relu,
    "gelu": _gelu,
    "tanh": np.tanh,
    "silu": _silu,
}


class NumpyMLP:
    """A perceptron: x @ weight + bias in every layer, the activation after each but the last. Dropout is off."""

    def __init__(
        self,
        weights: Sequence[NumpyArray],
        biases: Sequence[NumpyArray],
        norm_scales: Sequence[NumpyArray] = (),
        norm_offsets: Sequence[NumpyArray] = (),
        activation: str = "relu",
        layer_norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        del dropout
        self.layers = tuple(zip(weights, biases, strict=True))
        self.norms = tuple(zip(norm_scales, norm_offsets, strict=True))
        self.activation, self.layer_norm = ACTIVATIONS[activation], layer_norm

    def __call__(self, x: NumpyArray) -> NumpyArray:
        if x.ndim > 2:  # one large product in the place of many small ones, at each of which threads would wait
            return self(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        last = len(self.layers) - 1
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight + bias
            if i == last:
                break
            if self.layer_norm == "before":
                x = self._normed(i, x)
            x = self.activation(x)
            if self.layer_norm == "after":
                x = self._normed(i, x)
        return x

    def member(self, index: int) -> NumpyMLP:
        """One of several networks whose arrays are stacked on axis 0."""
        part = NumpyMLP.__new__(NumpyMLP)
        part.layers = tuple((weight[index], bias[index]) for weight, bias in self.layers)
        part.norms = tuple((scale[index], offset[index]) for scale, offset in self.norms)
        part.activation, part.layer_norm = self.activation, self.layer_norm
        return part

    def _normed(self, layer: int, x: NumpyArray) -> NumpyArray:
        return layer_normed(x, *self.norms[layer])


class NumpyResidualNetwork:
    """A linear layer, blocks x + perceptron(layer normalisation of x), the activation and a linear layer. Dropout is off."""

    def __init__(
        self,
        first: NumpyMLP,
        blocks: Sequence[NumpyMLP],
        last: NumpyMLP,
        norm_scales: Sequence[NumpyArray],
        norm_offsets: Sequence[NumpyArray],
        activation: str,
        dropout: float = 0.0,
    ) -> None:
        del dropout
        self.first, self.last, self.activation = first, last, ACTIVATIONS[activation]
        self.blocks = tuple(zip(blocks, norm_scales, norm_offsets, strict=True))

    def __call__(self, x: NumpyArray) -> NumpyArray:
        x = self.first(x)
        for block, scale, offset in self.blocks:
            x = x + block(layer_normed(x, scale, offset))
        return self.last(self.activation(x))


class NumpyImageNetwork:
    """Convolutions of 3 x 3 and stride 2 on pixels divided by 255, each followed by a ReLU, then a perceptron."""

    def __init__(self, kernels: Sequence[NumpyArray], biases: Sequence[NumpyArray], head: NumpyMLP) -> None:
        self.layers, self.head = tuple(zip(kernels, biases, strict=True)), head

    def __call__(self, x: NumpyArray) -> NumpyArray:
        y = x.astype(np.float32) / np.float32(255)
        for kernel, bias in self.layers:
            y = _relu(_convolved(y, kernel) + bias)
        return self.head(y.reshape(len(y), math.prod(y.shape[1:])))

    def member(self, index: int) -> NumpyImageNetwork:
        """One of several networks whose arrays are stacked on axis 0."""
        kernels, biases = ([pair[i][index] for pair in self.layers] for i in (0, 1))
        return NumpyImageNetwork(kernels, biases, self.head.member(index))


class NumpyFactoredNetwork:
    """A network with an output for each choice of each component; a combination takes the sum, the last changing fastest."""

    def __init__(self, body: NumpyMLP | NumpyImageNetwork, counts: Sequence[int]) -> None:
        self.body, self.counts, self.layers = body, counts, body.layers

    def __call__(self, x: NumpyArray) -> NumpyArray:
        first, *others = np.split(self.body(x), np.cumsum(self.counts)[:-1], axis=-1)
        joint: NumpyArray = first
        for part in others:
            joint = (joint[..., :, None] + part[..., None, :]).reshape(*joint.shape[:-1], -1)
        return joint

    def member(self, index: int) -> NumpyFactoredNetwork:
        """One of several networks whose arrays are stacked on axis 0."""
        return NumpyFactoredNetwork(self.body.member(index), self.counts)


class NumpyEnsemble:
    """C networks of one shape, whose outputs are put on axis 0."""

    def __init__(self, members: NumpyMLP | NumpyImageNetwork | NumpyFactoredNetwork) -> None:
        first = members.layers[0][0]
        self.members = [members.member(i) for i in range(len(first))]

    def __call__(self, x: NumpyArray) -> NumpyArray:
        return np.stack([member(x) for member in self.members])


def layer_normed(x: NumpyArray, scale: NumpyArray, offset: NumpyArray) -> NumpyArray:
    """Layer normalisation of the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + VARIANCE_FLOOR)
    normed: NumpyArray = centred / spread * scale + offset
    return normed


def _convolved(images: NumpyArray, kernel: NumpyArray) -> NumpyArray:
    """(B, ceil(H / 2), ceil(W / 2), filters), with zeros around the image as "SAME" puts them."""
    around = [(0, 0)]
    for size in images.shape[1:3]:
        missing = max((-(-size // STRIDE) - 1) * STRIDE + KERNEL - size, 0)
        around.append((missing // 2, missing - missing // 2))
    padded = np.pad(images, [*around, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (KERNEL, KERNEL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel, optimize=True)
