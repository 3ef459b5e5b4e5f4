"""Perceptrons on batches, single and in ensembles, with or without layer normalisation and dropout. Arrays are leaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import AnyArray, Array, Key
from stitchrl.nn.precision import product

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Ensemble",
    "ImageNetwork",
    "Network",
    "Start",
    "create_network",
    "layer_normed",
    "standardized",
]

Start = Literal["orthogonal", "uniform", "small"]
"""The ways of drawing fresh weights, explained at `MLP`."""
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh, "silu": jax.nn.silu}
LAYER_NORMS = ("none", "before", "after")
OUTPUTS = ("joint", "factored")
VARIANCE_FLOOR = 1e-5
"""Added to the variance that layer normalisation divides by (PyTorch's default)."""
KERNEL, STRIDE = 3, 2
MOST_UNROLLED = 8
"""The largest ensemble whose members are initialised one by one; a larger one is initialised in a compiled loop."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The shape of a network: one setting of every algorithm that learns one.

    Attributes:
        hidden_sizes: width of each hidden layer, at least 1 each.
        activation: "relu", "gelu", "tanh" or "silu", after each hidden layer.
        layer_norm: "none"; or layer normalisation "before" or "after" the activation of each hidden layer.
        dropout: share of a hidden layer's outputs that dropout sets to 0 while an actor learns, in [0, 1).
        channels: an image first passes through one 3 x 3 convolution of stride 2 for each entry, with that many filters.
        outputs: for discrete actions of several components, of policies and critics: "joint", one output for each combination;
            or "factored", one for each choice of each component, of which a combination takes the sum (`nn/factored.py`).

    Raises:
        ConfigurationError: a value outside its range.
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    layer_norm: str = "none"
    dropout: float = 0.0
    channels: tuple[int, ...] = (32, 32, 32)
    outputs: str = "joint"

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "channels"):
            sizes = getattr(self, name)
            sizes = tuple(sizes) if isinstance(sizes, list | tuple) else sizes
            object.__setattr__(self, name, sizes)
            whole = isinstance(sizes, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
            if not whole or any(n < 1 for n in sizes):
                raise ConfigurationError(f"`{name}` of Network must be at least 1; got {sizes!r}. Widths are counts.")
        kinds = (("activation", tuple(ACTIVATIONS)), ("layer_norm", LAYER_NORMS), ("outputs", OUTPUTS))
        for name, choices in kinds:
            if getattr(self, name) not in choices:
                allowed = ", ".join(f'"{choice}"' for choice in choices)
                raise ConfigurationError(f"`{name}` of Network must be one of {allowed}; got {getattr(self, name)!r}.")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ConfigurationError(
                f"`dropout` of Network must be in [0, 1); got {self.dropout!r}. 0 is off; 0.1 suits small logs of experts."
            )


def standardized(
    raw: Shaped[AnyArray, "B ..."], mean: Float[Array, " size"], std: Float[Array, " size"]
) -> Shaped[Array, "B ..."]:
    """(raw - mean) / std, column by column: how raw observations and logged actions enter a network.

    An empty `mean` leaves `raw` as it is: images are scaled inside their network.
    """
    if mean.size == 0:
        return jnp.asarray(raw)
    return (jnp.asarray(raw) - mean[None, :]) / std[None, :]


def layer_normed(
    y: Float[Array, "*batch size"], scale: Float[Array, " size"], offset: Float[Array, " size"]
) -> Float[Array, "*batch size"]:
    """Layer normalisation (Ba, Kiros and Hinton 2016, arXiv 1607.06450)."""
    centred = y - jnp.mean(y, axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + VARIANCE_FLOOR)
    scale, offset = (jnp.broadcast_to(p, y.shape) for p in (scale, offset))
    return scaled * scale + offset


class MLP(eqx.Module):
    """Perceptron on the last axis; any leading axes are batch axes.

    Fresh weights are "orthogonal" with gain sqrt(2) (the last layer: `final_gain`) and biases zero; or, "uniform",
    both within 1 / sqrt(inputs) of zero, PyTorch's default for a linear layer; or, "small", hidden weights likewise with
    biases of 0.1, and all of the last layer within `final_gain` of zero (An et al. 2021, official code).
    """

    weights: tuple[Float[Array, "..."], ...]
    biases: tuple[Float[Array, "..."], ...]
    norm_scales: tuple[Float[Array, "..."], ...] = ()
    norm_offsets: tuple[Float[Array, "..."], ...] = ()
    activation: str = eqx.field(static=True, default="relu")
    layer_norm: str = eqx.field(static=True, default="none")
    dropout: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(
        cls,
        in_size: int,
        network: Network | Sequence[int],
        out_size: int,
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> MLP:
        """Fresh weights of the shape that `network` asks for; bare widths stand for `Network(widths)`."""
        shape = network if isinstance(network, Network) else Network(tuple(network))
        sizes = [in_size, *shape.hidden_sizes, out_size]
        keys = jax.random.split(key, len(sizes) - 1)
        if start == "uniform":
            layers = [_uniform(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
            weights, biases = tuple(weight for weight, _ in layers), tuple(bias for _, bias in layers)
        elif start == "small":
            drawn = [_uniform(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
            narrow = final_gain * sizes[-2] ** 0.5
            weights = (*(weight for weight, _ in drawn[:-1]), narrow * drawn[-1][0])
            hidden_biases = (jnp.full(size, 0.1, jnp.float32) for size in shape.hidden_sizes)
            biases = (*hidden_biases, narrow * drawn[-1][1])
        else:
            gains = [2.0**0.5] * len(shape.hidden_sizes) + [final_gain]
            weights = tuple(
                gain * _orthogonal(k, a, b) for k, gain, a, b in zip(keys, gains, sizes[:-1], sizes[1:], strict=True)
            )
            biases = tuple(jnp.zeros(size, jnp.float32) for size in sizes[1:])
        normed = shape.hidden_sizes if shape.layer_norm != "none" else ()
        return cls(
            weights,
            biases,
            tuple(jnp.ones(size, jnp.float32) for size in normed),
            tuple(jnp.zeros(size, jnp.float32) for size in normed),
            shape.activation,
            shape.layer_norm,
            float(shape.dropout),
        )

    def hidden(self, x: Float[AnyArray, "*batch in"], *, key: Key | None = None) -> Float[Array, "*batch width"]:
        """Output of the last hidden layer. With a key, dropout is on."""
        x = jnp.asarray(x)
        if len(self.weights) == 1:
            return x
        return self._after_first(_affine(x, self.weights[0], self.biases[0]), key)

    def __call__(self, x: Float[AnyArray, "*batch in"], *, key: Key | None = None) -> Float[Array, "*batch out"]:
        return _affine(self.hidden(x, key=key), self.weights[-1], self.biases[-1])

    def from_first(self, first: Float[Array, "*batch width"]) -> Float[Array, "*batch out"]:
        """The output, given the first layer's output before its activation: for callers that share that product."""
        if len(self.weights) == 1:
            return first
        return _affine(self._after_first(first, None), self.weights[-1], self.biases[-1])

    def several(self, shared: Float[AnyArray, "B inputs"], own: Float[AnyArray, "K B more"]) -> Float[Array, "K B out"]:
        """The outputs for K completions of every row: inputs are (shared, own) side by side.

        What the shared inputs contribute to the first layer's product is computed once.
        """
        size, weight, bias = shared.shape[1], self.weights[0], self.biases[0]
        narrowest = min(weight.shape)  # as if both were one product
        from_shared = product(jnp.asarray(shared), weight[:size], narrowest=narrowest) + bias[None, :]
        first = product(jnp.asarray(own), weight[size:], narrowest=narrowest) + from_shared[None]
        return self.from_first(first)

    def hidden_from_first(self, first: Float[Array, "*batch width"]) -> Float[Array, "*batch last"]:
        """The output of the last hidden layer, given the first layer's output before its activation."""
        return self._after_first(first, None)

    def _after_first(self, y: Array, key: Key | None) -> Array:
        """The hidden layers from the first one's activation on."""
        for i in range(len(self.weights) - 1):
            if i:
                y = _affine(y, self.weights[i], self.biases[i])
            if self.layer_norm == "before":
                y = self._normed(i, y)
            y = ACTIVATIONS[self.activation](y)
            if self.layer_norm == "after":
                y = self._normed(i, y)
            if self.dropout and key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1.0 - self.dropout, y.shape)
                y = jnp.where(kept, y / (1.0 - self.dropout), 0.0)
        return y

    def _normed(self, layer: int, y: Array) -> Array:
        return layer_normed(y, self.norm_scales[layer], self.norm_offsets[layer])


class ImageNetwork(eqx.Module):
    """Convolutions on images of bytes, then a perceptron; any leading axes are batch axes.

    Pixels are divided by 255 here, in the compiled program, so that images stay one byte a number in memory.
    """

    kernels: tuple[Float[Array, "..."], ...]
    biases: tuple[Float[Array, "..."], ...]
    head: MLP

    @classmethod
    def create(
        cls, shape: Sequence[int], network: Network, out_size: int, *, key: Key, final_gain: float = 1.0
    ) -> ImageNetwork:
        """Fresh weights for images of the given (height, width, channels); orthogonal, with gain sqrt(2)."""
        height, width, channels = shape
        head_key, *keys = jax.random.split(key, len(network.channels) + 1)
        sizes = [channels, *network.channels]
        kernels = tuple(_kernel(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True))
        for _ in network.channels:
            height, width = -(-height // STRIDE), -(-width // STRIDE)
        head = MLP.create(height * width * sizes[-1], network, out_size, key=head_key, final_gain=final_gain)
        return cls(kernels, tuple(jnp.zeros(size, jnp.float32) for size in sizes[1:]), head)

    def __call__(
        self, x: Shaped[AnyArray, "*batch height width channels"], *, key: Key | None = None
    ) -> Float[Array, "*batch out"]:
        x = jnp.asarray(x)
        leading = x.shape[:-3]
        y = x.reshape(-1, *x.shape[-3:]).astype(jnp.float32) / 255.0
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            seen = _patches(y)
            y = product(seen, kernel.reshape(-1, kernel.shape[-1]))
            y = jax.nn.relu(y + jnp.broadcast_to(bias, y.shape))
        out = self.head(y.reshape(y.shape[0], math.prod(y.shape[1:])), key=key)
        return out.reshape(*leading, out.shape[-1])


def _patches(y: Float[Array, "n height width channels"]) -> Float[Array, "n rows columns seen"]:
    """The pixels under the kernel at each place, with which a convolution is a product of matrices.

    With several members or seeds it is then a batched product; XLA would make a grouped convolution, several times as slow.
    """
    rows, columns = (-(-side // STRIDE) for side in y.shape[1:3])
    pads = [
        max((count - 1) * STRIDE + KERNEL - side, 0) for count, side in zip((rows, columns), y.shape[1:3], strict=True)
    ]
    y = jnp.pad(y, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))  # as "SAME"
    shifted = [
        y[:, i : i + STRIDE * (rows - 1) + 1 : STRIDE, j : j + STRIDE * (columns - 1) + 1 : STRIDE]
        for i in range(KERNEL)
        for j in range(KERNEL)
    ]
    return jnp.concatenate(shifted, axis=-1)


def create_network(
    shape: Sequence[int],
    network: Network,
    out_size: int,
    *,
    key: Key,
    final_gain: float = 1.0,
    start: Start = "orthogonal",
) -> MLP | ImageNetwork:
    """A network for observations of the given shape: a perceptron for (D,), convolutions first for (H, W, C).

    Raises:
        ConfigurationError: observations of another number of axes.
    """
    if len(shape) == 1:
        return MLP.create(shape[0], network, out_size, key=key, final_gain=final_gain, start=start)
    if len(shape) != 3:
        raise ConfigurationError(
            f"An observation must be a vector or an image of (height, width, channels); got shape {tuple(shape)}."
        )
    return ImageNetwork.create(shape, network, out_size, key=key, final_gain=final_gain)


@partial(jax.jit, static_argnums=(1, 2))
def _orthogonal(key: Key, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Compiled once per shape. Never call it under vmap: batched QR has been seen to hang XLA's CPU thread pool."""
    return jax.nn.initializers.orthogonal()(key, (rows, columns), jnp.float32)


@partial(jax.jit, static_argnums=(1, 2))
def _kernel(key: Key, channels: int, filters: int) -> Float[Array, "3 3 channels filters"]:
    return jax.nn.initializers.orthogonal(2.0**0.5)(key, (KERNEL, KERNEL, channels, filters), jnp.float32)


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Key, rows: int, columns: int) -> tuple[Float[Array, "rows columns"], Float[Array, " columns"]]:
    weight_key, bias_key = jax.random.split(key)
    most = rows**-0.5
    weight = jax.random.uniform(weight_key, (rows, columns), jnp.float32, -most, most)
    return weight, jax.random.uniform(bias_key, (columns,), jnp.float32, -most, most)


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    y = product(x, weight)
    return y + jnp.broadcast_to(bias, y.shape)


class Ensemble(eqx.Module):
    """C networks of one shape evaluated as one batched network; members on axis 0."""

    members: Any  # an MLP or another module of one call, its arrays with a leading axis of networks

    @classmethod
    def create(
        cls,
        count: int,
        shape: Sequence[int] | int,
        network: Network | Sequence[int],
        out_size: int,
        *,
        key: Key,
        final_gain: float = 1.0,
        start: Start = "orthogonal",
    ) -> Ensemble:
        """Fresh, independent members for observations of the given shape, or with the given number of inputs."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        asked = network if isinstance(network, Network) else Network(tuple(network))

        def member(key: Key) -> MLP | ImageNetwork:
            return create_network(sizes, asked, out_size, key=key, final_gain=final_gain, start=start)

        keys = jax.random.split(key, count)
        if count > MOST_UNROLLED:
            return cls(jax.lax.map(member, keys))
        return cls(jax.tree.map(lambda *leaves: jnp.stack(leaves), *(member(k) for k in keys)))

    def __call__(self, x: Shaped[AnyArray, "..."]) -> Float[Array, "C *batch out"]:
        return jax.vmap(lambda member: member(x))(self.members)
