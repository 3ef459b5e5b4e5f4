"""Networks and their shapes: activations, layer normalisation, dropout and convolutions against NumPy, and old files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import expit
from scipy.stats import norm
from worlds import assert_trees_equal

from stitchrl.errors import CheckpointError, ConfigurationError
from stitchrl.nn.networks import MLP, Ensemble, ImageNetwork, Network, create_network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.saving import load_policy_file, load_tree_file, save_policy_file, save_tree_file

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
OLD = Path(__file__).parent / "old_policies"


def network(**fields: Any) -> MLP:
    """A network of two hidden layers, its scales, offsets and biases other than when fresh."""
    fresh = MLP.create(3, Network((5, 4), **fields), 2, key=KEY)
    keys = jax.random.split(jax.random.key(1), 3)

    def moved(leaves: Any, key: jax.Array) -> Any:
        return tuple(leaf + jax.random.normal(jax.random.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves))

    parts = (fresh.biases, fresh.norm_scales, fresh.norm_offsets)
    biases, scales, offsets = (moved(leaves, key) for leaves, key in zip(parts, keys, strict=True))
    return MLP(fresh.weights, biases, scales, offsets, fresh.activation, fresh.layer_norm, fresh.dropout)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: x * norm.cdf(x),
}


def normed(x: np.ndarray, scale: Any, offset: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * np.asarray(scale, float) + np.asarray(offset, float)


def by_numpy(net: MLP, x: np.ndarray) -> np.ndarray:
    y = x.astype(float)
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        y = y @ np.asarray(weight, float) + np.asarray(bias, float)
        if i + 1 == len(net.weights):
            return y
        if net.layer_norm == "before":
            y = normed(y, net.norm_scales[i], net.norm_offsets[i])
        y = ACTIVATIONS[net.activation](y)
        if net.layer_norm == "after":
            y = normed(y, net.norm_scales[i], net.norm_offsets[i])
    raise AssertionError


@pytest.mark.parametrize("layer_norm", ["none", "before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_network_is_numpys(activation: str, layer_norm: str) -> None:
    net = network(activation=activation, layer_norm=layer_norm)
    # JAX computes the gelu by its common approximation with a tanh, which is within 1e-3.
    tolerance = 5e-3 if activation == "gelu" else 1e-5
    np.testing.assert_allclose(net(X), by_numpy(net, X), rtol=tolerance, atol=tolerance)


def test_layer_normalisation_by_hand() -> None:
    # The hidden layer is (1, 3) for x = 1, with mean 2 and variance 1; for x = 0 it is (0, 0), of variance 0.
    weights = (jnp.asarray([[1, 3]], jnp.float32), jnp.eye(2, dtype=jnp.float32))
    zeros, scale, offset = (
        jnp.zeros(2, jnp.float32),
        jnp.asarray([2, 4], jnp.float32),
        jnp.asarray([10, 20], jnp.float32),
    )
    x = jnp.asarray([[1], [0]], jnp.float32)
    before, after = (
        MLP(weights, (zeros, zeros), (scale,), (offset,), "relu", where)(x) for where in ("before", "after")
    )
    np.testing.assert_allclose(before, [[8, 24], [10, 20]], atol=1e-3)
    np.testing.assert_allclose(after, [[8, 24], [10, 20]], atol=1e-3)
    # What is negative after normalisation is lost only where the activation comes last.
    plain = (jnp.ones(2, jnp.float32),), (zeros,)
    before, after = (MLP(weights, (zeros, zeros), *plain, "relu", where)(x) for where in ("before", "after"))
    np.testing.assert_allclose(before, [[0, 1], [0, 0]], atol=1e-3)
    np.testing.assert_allclose(after, [[-1, 1], [0, 0]], atol=1e-3)


def test_fresh_layer_normalisation_has_scale_one_and_offset_zero_for_each_hidden_layer() -> None:
    fresh = MLP.create(3, Network((5, 4), layer_norm="before"), 2, key=KEY)
    assert [scale.tolist() for scale in fresh.norm_scales] == [[1.0] * 5, [1.0] * 4]
    assert [offset.tolist() for offset in fresh.norm_offsets] == [[0.0] * 5, [0.0] * 4]
    plain = MLP.create(3, (5, 4), 2, key=KEY)
    assert plain.norm_scales == plain.norm_offsets == ()
    assert_trees_equal((fresh.weights, fresh.biases), (plain.weights, plain.biases))


@pytest.mark.parametrize("layer_norm", ["none", "after"])
def test_a_shared_first_product_gives_the_same(layer_norm: str) -> None:
    net = network(layer_norm=layer_norm)
    first = X @ net.weights[0] + jnp.broadcast_to(net.biases[0], (6, 5))
    np.testing.assert_allclose(net.from_first(first), net(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.hidden_from_first(first), net.hidden(X), rtol=1e-5, atol=1e-6)


# --- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_on_with_a_key_and_off_without() -> None:
    net, still = network(dropout=0.5), network()
    np.testing.assert_array_equal(net(X), still(X))
    one, again, other = (np.asarray(net(X, key=jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert (one != np.asarray(net(X))).any()
    np.testing.assert_array_equal(still(X, key=KEY), still(X))


def test_dropout_keeps_the_expectation_and_loses_its_share() -> None:
    net = MLP.create(3, Network((2000,), dropout=0.25), 2, key=KEY)
    x = jnp.broadcast_to(jnp.asarray(X[0]), (200, 3))
    whole, left = np.asarray(net.hidden(x[:1]))[0], np.asarray(net.hidden(x, key=KEY))
    alive = whole > 1e-3
    # What is kept is kept in full, times 4/3, and rows lose different outputs.
    kept = left[:, alive] != 0
    np.testing.assert_allclose(left[:, alive][kept], np.broadcast_to(whole[alive] / 0.75, kept.shape)[kept], rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 4.5 * np.sqrt(0.25 * 0.75 / kept.size)
    error = left[:, alive].std(0) / np.sqrt(200)
    assert (np.abs(left[:, alive].mean(0) - whole[alive]) < 5.5 * error).all()
    assert (kept[0] != kept[1]).any()


# --- images --------------------------------------------------------------------------------------------------------------


def convolved(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3 x 3 convolution of stride 2, padded with zeros as evenly as may be, and what is above 0 of it."""
    height, width = image.shape[:2]
    out = np.zeros((-(-height // 2), -(-width // 2), kernel.shape[-1]))
    top, left = (max((n - 1) * 2 + 3 - size, 0) // 2 for n, size in zip(out.shape[:2], (height, width), strict=True))
    padded = np.zeros((height + 4, width + 4, image.shape[2]))
    padded[top : top + height, left : left + width] = image
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[i, j] = np.einsum("hwc,hwcf->f", window, kernel) + bias
    return np.maximum(out, 0)


def test_an_image_network_is_convolutions_of_pixels_over_255_and_a_perceptron() -> None:
    net = ImageNetwork.create((7, 6, 2), Network((5,), channels=(3, 4)), 2, key=KEY)
    net = ImageNetwork(net.kernels, tuple(bias + jnp.float32(0.1) for bias in net.biases), net.head)
    images = np.random.default_rng(0).integers(0, 256, (3, 7, 6, 2)).astype(np.uint8)
    assert [kernel.shape for kernel in net.kernels] == [(3, 3, 2, 3), (3, 3, 3, 4)]
    assert net.head.weights[0].shape == (2 * 2 * 4, 5)
    found = net(images)
    assert found.shape == (3, 2)
    for image, row in zip(images, np.asarray(found), strict=True):
        y = image / 255.0
        for kernel, bias in zip(net.kernels, net.biases, strict=True):
            y = convolved(y, np.asarray(kernel, float), np.asarray(bias, float))
        np.testing.assert_allclose(row, by_numpy(net.head, y.reshape(-1)), rtol=1e-4, atol=1e-5)


def test_an_image_network_takes_any_leading_axes_and_its_head_drops_out() -> None:
    net = ImageNetwork.create((5, 4, 1), Network((6,), channels=(2,), dropout=0.5), 3, key=KEY)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 1)), jnp.uint8)
    found = net(images)
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found[1], net(images[1]), rtol=1e-5, atol=1e-6)
    assert (np.asarray(net(images, key=KEY)) != np.asarray(found)).any()
    together = Ensemble.create(2, (5, 4, 1), Network((6,), channels=(2,)), 3, key=KEY)
    assert together(images[0]).shape == (2, 3, 3)


def test_the_shape_of_an_observation_chooses_the_network() -> None:
    assert type(create_network((3,), Network((4,)), 2, key=KEY)) is MLP
    assert type(create_network((5, 4, 1), Network((4,)), 2, key=KEY)) is ImageNetwork
    with pytest.raises(ConfigurationError, match=r"a vector or an image of .*; got shape \(3, 3\)"):
        create_network((3, 3), Network((4,)), 2, key=KEY)


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        network(activation="tanh", layer_norm="after", dropout=0.25),
        ImageNetwork.create((5, 4, 1), Network((6,), "silu", "before", channels=(2,)), 2, key=KEY),
    ],
    ids=["perceptron", "images"],
)
def test_a_network_with_fields_that_are_no_arrays_is_saved_and_loaded(net: Any, tmp_path: Path) -> None:
    save_policy_file(tmp_path / "policy", CategoricalPolicy(net))
    loaded: Any = load_policy_file(tmp_path / "policy")
    assert jax.tree.structure(loaded) == jax.tree.structure(CategoricalPolicy(net))  # activation and all
    assert_trees_equal(loaded.network, net)


def test_trees_of_arrays_and_networks_are_saved_and_loaded(tmp_path: Path) -> None:
    tree = {"table": jnp.arange(3), "nested": (network(), None, {"x": jnp.ones(2, jnp.float32)}), "empty": ()}
    save_tree_file(tmp_path / "tree", tree)
    assert_trees_equal(load_tree_file(tmp_path / "tree"), tree)
    (tmp_path / "tree").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tree_file(tmp_path / "tree")


MEAN, STD = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 3.0])


def perceptron(arrays: dict[str, np.ndarray], name: str, member: int | None = None) -> np.ndarray:
    """The output for X, in units of the network, of the relu network of an old file."""
    y, layer = (X - MEAN) / STD, 0
    while f"{name}.weights.{layer}" in arrays:
        weight, bias = (arrays[f"{name}.{part}.{layer}"].astype(float) for part in ("weights", "biases"))
        weight, bias = (weight, bias) if member is None else (weight[member], bias[member])
        y = (np.maximum(y, 0) if layer else y) @ weight + bias
        layer += 1
    return y


def test_policies_written_before_networks_had_such_fields_act_as_they_did() -> None:
    arrays = load_file(OLD / "discrete.safetensors")
    odds = np.exp(perceptron(arrays, "policy.policy.network"))
    policy: Any = load_policy_file(OLD / "discrete.safetensors")
    np.testing.assert_allclose(policy.probs(X), odds / odds.sum(1, keepdims=True), rtol=1e-4)
    assert (policy.policy.network.activation, policy.policy.network.dropout) == ("relu", 0.0)

    arrays = load_file(OLD / "value_greedy.safetensors")
    q = sum(perceptron(arrays, "policy.policy.critics.members", k) for k in (0, 1))
    greedy: Any = load_policy_file(OLD / "value_greedy.safetensors")
    np.testing.assert_array_equal(greedy.mode(X), q.argmax(1))

    arrays = load_file(OLD / "continuous.safetensors")
    mean = np.tanh(perceptron(arrays, "policy.policy.network"))
    continuous: Any = load_policy_file(OLD / "continuous.safetensors")
    np.testing.assert_allclose(continuous.mode(X), [10, -1] + np.array([4, 0.25]) * mean, rtol=1e-4)
    assert continuous.has_density
