"""Products in bfloat16: against operands rounded by hand, where they are used, and what every algorithm makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stitchrl as st
from stitchrl.algorithms.base import Spec, Step
from stitchrl.checking.subject import small_log
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import sequence_source, transition_source
from stitchrl.nn import precision as products
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.precision import BLOCK, NARROWEST, product, products_in

KEYS = jax.random.split(jax.random.key(0), 3)
MODELS = ("MOPO", "COMBO")
USUAL = ("BC", "IQL", "FQL")
"""In the default suite: a policy alone, one with V and critics, and one by several steps of a network."""
SHAPES = [(256, 64, 32), (16, 33, 64), (100, 40, 48), (3, 32, 32), (1, 64, 64)]


def rounded(x: Any) -> np.ndarray:
    """To bfloat16, that is to a float32 whose last 16 bits are zero, nearest and ties to even, by its bits."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


def products_of(x: jax.Array, weight: jax.Array, gradient: jax.Array, precision: str) -> tuple[jax.Array, ...]:
    """(output, gradient by x, gradient by weight)."""

    def run(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(product, x, weight)
        return y, *back(gradient)

    with products_in(precision):
        return tuple(jax.jit(run)(x, weight))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_the_three_products_are_of_rounded_operands_and_summed_in_float32(rows: int, inputs: int, outputs: int) -> None:
    x, weight, gradient = (
        jax.random.normal(key, shape)
        for key, shape in zip(KEYS, [(rows, inputs), (inputs, outputs), (rows, outputs)], strict=True)
    )
    found = products_of(x, weight, gradient, "bfloat16")
    a, b, g = rounded(x), rounded(weight), rounded(gradient)
    for one, expected in zip(found, [a @ b, g @ b.T, a.T @ g], strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)
    # Had nothing been rounded, the same comparison would fail.
    exact = np.asarray(x, np.float64) @ np.asarray(weight, np.float64)
    assert np.abs(np.asarray(found[0]) - exact).max() > 1e-3


@pytest.mark.parametrize(
    ("lead", "count", "sizes"),
    [((5, 4), 3, (40, 33)), ((2, 16), 3, (48, 64)), ((7,), 1, (40, 33)), ((32,), 3, (48, 64)), ((2, 16), 1, (40, 33))],
)
def test_leading_axes_and_several_critics_are_the_same_products(
    lead: tuple[int, ...], count: int, sizes: tuple[int, int]
) -> None:
    x, weight = jax.random.normal(KEYS[0], (*lead, sizes[0])), jax.random.normal(KEYS[1], (count, *sizes))

    def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jax.vmap(lambda w: product(x, w))(weight)))

    with products_in("bfloat16"):
        by_x, by_weight = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, weight)
    a, b = rounded(x).reshape(-1, sizes[0]), rounded(weight)
    gradient = rounded(np.cos(a @ b))  # (C, B, out)
    expected = (gradient @ b.swapaxes(1, 2)).sum(0)
    np.testing.assert_allclose(np.asarray(by_x).reshape(expected.shape), expected, atol=0.05)
    np.testing.assert_allclose(by_weight, a.T @ gradient, atol=0.05)


@pytest.mark.parametrize("shape", [(NARROWEST - 1, 64), (64, NARROWEST - 1)])
def test_narrow_layers_keep_their_digits(shape: tuple[int, int]) -> None:
    x, weight = jax.random.normal(KEYS[0], (16, shape[0])), jax.random.normal(KEYS[1], shape)
    gradient = jax.random.normal(KEYS[2], (16, shape[1]))
    pairs = zip(products_of(x, weight, gradient, "bfloat16"), products_of(x, weight, gradient, "float32"), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_only_what_is_traced_inside_is_rounded() -> None:
    network, x = MLP.create(40, (64,), 40, key=KEYS[0]), jax.random.normal(KEYS[1], (8, 40))
    outside = network(x)
    with products_in("bfloat16"):
        inside = network(x)
        with products_in("float32"):  # leaves what is around it
            assert (network(x) == inside).all()
    assert (network(x) == outside).all()
    assert (inside != outside).any()
    np.testing.assert_allclose(inside, outside, atol=0.05)


@pytest.mark.slow
def test_several_actions_an_observation_are_rounded_too() -> None:
    # Neither part of the first layer is wide, together they are; the layers after it are narrow.
    critics = ContinuousCritics(Ensemble.create(2, 27 + 8, (48, 16), 1, key=KEYS[0]))
    obs, action = jax.random.normal(KEYS[1], (6, 27)), jax.random.normal(KEYS[2], (3, 6, 8))
    plain = critics.several(obs, action)
    with products_in("bfloat16"):
        found, one = critics.several(obs, action), critics(obs, action[1])
    assert (found != plain).any()
    np.testing.assert_allclose(found, plain, atol=0.05)
    np.testing.assert_allclose(found[:, 1], one, atol=1e-5)


def matrix_products(jaxpr: Any) -> Iterator[tuple[Any, Any]]:
    """Both sides of every product in it, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(atom.aval for atom in equation.invars)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from matrix_products(inner)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(n, kind, marks=[] if n in USUAL else [pytest.mark.slow])
        for n in st.ALGORITHMS
        if not getattr(st, n).closed_form
        for kind in getattr(st, n).actions
    ],
)
def test_all_wide_products_of_every_algorithm_are_rounded_and_no_other(name: str, kind: str) -> None:
    # 36 tokens of a sequence make its layers wide; attention, by heads of 16, is narrow and is not rounded
    shape: dict[str, Any] = (
        {"hidden_sizes": (32, 32), "length": 12, "heads": 2}
        if name == "DecisionTransformer"
        else {"hidden_sizes": (32, 48)}
    )
    if name in MODELS:
        # half of a batch of 64 are logged rows, which are wide; the model itself is not what is looked at
        shape |= {"real_share": 0.5, "model_updates": 1, "model_network": st.Network((8, 8)), "rollouts": 8}
    algorithm = getattr(st, name)(**shape)
    log = small_log(kind)
    ready = algorithm.prepare(log, Scaling.of(log), key=KEYS[0])
    given = jax.tree.map(jnp.asarray, ready.given)
    if length := algorithm.sequence_length:
        source = sequence_source(ready.log, Scaling.of(log), length, columns=ready.columns)
    else:
        source = transition_source(
            ready.log, Scaling.of(log), columns=ready.columns, n_steps=algorithm.target_steps or 1
        )
    batch = dict(source.sample(source.arrays, jnp.arange(64) % 33, jnp.int32(0)))
    step = Step(jnp.int32(1), jnp.int32(100))
    state = jax.eval_shape(lambda: algorithm.init(KEYS[0], Spec.of(log), given))
    for precision in ("float32", "bfloat16"):
        with products_in(precision):
            traced = jax.make_jaxpr(lambda s, b: algorithm.update(s, b, given, KEYS[1], step))(state, batch)
        found = list(matrix_products(traced.jaxpr))
        wide = [all(size >= 32 for side in sides for size in side.shape[-2:]) for sides in found]
        assert any(wide)
        assert not all(wide)
        for sides, rounds in zip(found, wide, strict=True):
            if name == "EDAC" and len({side.dtype for side in sides}) > 1:
                continue  # in the gradient of a gradient a rounded factor meets one that is not
            if rounds and any(size % BLOCK for size in sides[0].shape[-2:]):
                continue  # a gradient by a weight whose inputs are no multiple of a block is computed in float32
            expected = jnp.bfloat16 if rounds and precision == "bfloat16" else jnp.float32
            assert all(side.dtype == expected for side in sides), sides


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("IQL", "discrete"), ("CQL", "continuous")])
def test_it_learns_nearly_the_same(name: str, kind: str) -> None:
    algorithm = getattr(st, name)(hidden_sizes=(32, 32), learning_rate=1e-3)
    half = dataclasses.replace(algorithm, precision="bfloat16")
    settings: dict[str, Any] = {"batch_size": 32, "log_every_updates": 1, "updates": 3, "progress": False}
    plain, found = (st.fit(a, small_log(kind), **settings) for a in (algorithm, half))
    losses = [metric for metric in plain.history[0] if metric.startswith("loss/")]
    assert losses
    differences = []
    for row, other in zip(plain.history, found.history, strict=True):
        for loss in losses:
            assert abs(row[loss] - other[loss]) <= 0.03 * abs(row[loss]) + 0.01, loss
            differences.append(row[loss] != other[loss])
    assert any(differences)  # it was used
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(found.states))


def test_a_processor_without_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such product")

    monkeypatch.setattr(products, "_dot", lambda *arguments, **settings: refuse())
    with pytest.raises(
        ConfigurationError, match=r'must be "float32" on this processor; got "bfloat16".*no such product'
    ):
        products.check_supported.__wrapped__("bfloat16")
    products.check_supported.__wrapped__("float32")


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r'`precision` of IQL must be "float32" or "bfloat16"; got \'half\''):
        st.IQL(precision="half")  # type: ignore[arg-type]
