"""What every algorithm inherits: the shapes of a log, and the return before the bootstrap."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import random_continuous_log, random_log, schema_of, tiny_columns

import stitchrl as st
from stitchrl.algorithms.base import ArraySpec, BoxAction, DiscreteAction, Spec
from stitchrl.errors import ConfigurationError


def f32(values: object) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def test_the_return_of_one_step_by_hand() -> None:
    batch = {"reward": f32([1, 2]), "terminated": f32([0, 1]), "truncated": f32([1, 0])}
    reward, discount = st.IQL(gamma=0.9).td_return(batch)
    np.testing.assert_allclose(reward, [1, 2])
    np.testing.assert_allclose(discount, [0.9, 0.0])


def test_the_return_of_several_steps_by_hand() -> None:
    # Windows of 3, 2 and 1 rows; the second ends for good.
    batch = {
        "reward": f32([1, 1, 7]),
        "rewards": f32([[1, 2, 4], [1, 2, 0], [7, 0, 0]]),
        "steps": f32([3, 2, 1]),
        "terminated": f32([0, 1, 0]),
    }
    reward, discount = st.IQL(gamma=0.5).td_return(batch)
    np.testing.assert_allclose(reward, [1 + 1 + 1, 1 + 1, 7])
    np.testing.assert_allclose(discount, [0.125, 0.0, 0.5])


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_return_of_several_steps_keeps_its_digits_whatever_products_are_rounded_to(precision: str) -> None:
    rewards = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    batch = {"rewards": f32(rewards), "steps": jnp.full(8, 5.0, jnp.float32), "terminated": jnp.zeros(8, jnp.float32)}
    with jax.default_matmul_precision(precision):
        traced = jax.make_jaxpr(st.IQL(gamma=0.97).td_return)(batch)
        reward, _ = jax.jit(st.IQL(gamma=0.97).td_return)(batch)
    np.testing.assert_allclose(reward, (rewards.astype(float) * 0.97 ** np.arange(5)).sum(1), rtol=2e-6, atol=1e-6)
    # This processor may not round what an accelerator would: no product is asked for at all.
    assert "dot_general" not in str(traced)


def test_the_shapes_of_logs() -> None:
    assert Spec.of(random_log(4)) == Spec.vectors(3, 3)
    assert Spec.of(random_continuous_log(4)) == Spec.vectors(3, None, 2)
    columns = tiny_columns() | {"action": np.full((6, 2), 0.5, np.float32)}
    schema = schema_of(columns, num_actions=None)
    bounded = st.Schema(schema.columns, action_low=(0.0, -1.0), action_high=(1.0, 2.0))
    assert Spec.of(st.read(columns, bounded)).action == BoxAction(2, (0.0, -1.0), (1.0, 2.0))
    images = tiny_columns() | {"observation": np.zeros((6, 4, 5, 1), np.uint8)}
    assert Spec.of(st.read(images, schema_of(images))).observation == ArraySpec((4, 5, 1), "uint8")


@pytest.mark.parametrize(
    "spec",
    [
        Spec.vectors(3, 4),
        Spec.vectors(3, None, 2),
        Spec(ArraySpec((4, 5, 1), "uint8"), DiscreteAction((3, 2))),
        Spec(ArraySpec((3,)), BoxAction(2, (0.0, -1.0), (1.0, 2.0))),
    ],
)
def test_shapes_survive_their_json(spec: Spec) -> None:
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.num_actions in (4, None, 6)
    assert spec.action_size in (0, 2)


def test_what_an_algorithm_cannot_use_is_said() -> None:
    assert Spec(ArraySpec((3,)), DiscreteAction((3, 2))).discrete_actions == 6
    with pytest.raises(ConfigurationError, match="needs discrete actions; the log's are continuous"):
        _ = Spec.vectors(3, None, 2).discrete_actions
    with pytest.raises(
        ConfigurationError, match=r"learns from vectors; the log's observations are images of shape \(4, 5, 1\)"
    ):
        _ = Spec(ArraySpec((4, 5, 1)), DiscreteAction((3,))).vector_size


def test_presets_are_published_settings_that_may_be_changed() -> None:
    assert st.IQL.preset("antmaze", gamma=0.999) == st.IQL(
        expectile=0.9, inverse_temperature=10.0, actor_decay_updates=1_000_000, gamma=0.999
    )
    with pytest.raises(ConfigurationError, match="IQL has no preset 'atari'; it has 'mujoco', 'antmaze'"):
        st.IQL.preset("atari")
    with pytest.raises(ConfigurationError, match=r"BC has no presets; `st.BC\(\)` has its default settings"):
        st.BC.preset("x")
    with pytest.raises(ConfigurationError, match="IQL needs the name of a preset; it has 'mujoco', 'antmaze'"):
        st.IQL.preset()


def test_every_preset_can_be_made_and_names_its_source() -> None:
    for name in st.ALGORITHMS:
        for preset in (kind := getattr(st, name)).presets:
            assert isinstance(kind.preset(preset), kind)
            assert kind.presets[preset].source
