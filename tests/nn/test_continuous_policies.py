"""Policies, critics and values over continuous actions, their files, and the scaling around them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats
from worlds import assert_trees_equal, random_continuous_log, random_log, schema_of, tiny_columns

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.heads import create_actor, create_critics, critic_value
from stitchrl.data.scaling import Scaling
from stitchrl.errors import CheckpointError
from stitchrl.nn.continuous_policy import (
    ContinuousPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    ModePolicy,
    SquashedGaussianPolicy,
)
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy, Policy
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.units import RescaledPolicy, RescaledValue
from stitchrl.nn.value import ContinuousCriticValue, CriticValue

KEY = jax.random.key(0)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
ACTIONS = jnp.asarray(np.random.default_rng(1).uniform(-0.9, 0.9, size=(6, 2)), jnp.float32)
MEAN, STD = np.array([1.0, -2.0, 0.5], np.float32), np.array([2.0, 0.5, 3.0], np.float32)
CENTER, HALF_WIDTH = np.array([10.0, -1.0], np.float32), np.array([4.0, 0.25], np.float32)


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def network(out: int = 2, seed: int = 0) -> MLP:
    return MLP.create(3, (5,), out, key=jax.random.key(seed))


def gaussian() -> GaussianPolicy:
    return GaussianPolicy(network(), f32([-0.5, 0.3]))


def squashed() -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy(network(4))


def rescaled(inner: ContinuousPolicy) -> RescaledPolicy:
    return RescaledPolicy(f32(MEAN), f32(STD), f32(CENTER), f32(HALF_WIDTH), inner)


POLICIES: dict[str, Callable[[], ContinuousPolicy]] = {
    "gaussian": gaussian,
    "squashed": squashed,
    "deterministic": lambda: DeterministicPolicy(network()),
    "greedy gaussian": lambda: gaussian().greedy(),
    "rescaled gaussian": lambda: rescaled(gaussian()),
    "rescaled squashed": lambda: rescaled(squashed()),
    "rescaled deterministic": lambda: rescaled(DeterministicPolicy(network())),
    "greedy rescaled squashed": lambda: rescaled(squashed()).greedy(),
    "rescaled greedy squashed": lambda: rescaled(squashed().greedy()),
}
WITH_DENSITY = ["gaussian", "squashed", "rescaled gaussian", "rescaled squashed"]
RESCALED = [name for name in POLICIES if "rescaled" in name]


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> ContinuousPolicy:
    return POLICIES[request.param]()


def repeated(rows: int) -> jax.Array:
    return jnp.repeat(OBS[:1], rows, axis=0)


# --- every policy ------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_actions_are_vectors_within_their_bounds(name: str) -> None:
    policy = POLICIES[name]()
    mode, sample = policy.mode(OBS), policy.sample(OBS, key=KEY)
    assert mode.shape == sample.shape == (6, 2)
    assert mode.dtype == sample.dtype == jnp.float32
    inner = (np.asarray(mode) - CENTER) / HALF_WIDTH if name in RESCALED else np.asarray(mode)
    assert (np.abs(inner) < 1).all()
    assert len(np.unique(inner, axis=0)) == 6  # it looks at the observation
    assert isinstance(policy, Policy)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_take_numpy_and_are_functions_of_observation_and_key(name: str) -> None:
    policy = POLICIES[name]()
    np.testing.assert_array_equal(policy.mode(OBS), policy.mode(np.asarray(OBS)))
    np.testing.assert_array_equal(policy.sample(OBS, key=KEY), policy.sample(np.asarray(OBS), key=jax.random.key(0)))
    other = np.asarray(policy.sample(OBS, key=jax.random.key(1)))
    assert policy.has_density is (name in WITH_DENSITY)
    if policy.has_density:
        assert (np.asarray(policy.sample(OBS, key=KEY)) != other).any()
        assert (np.asarray(policy.mode(OBS)) != other).any()
        assert policy.log_prob(np.asarray(OBS), np.asarray(ACTIONS)).shape == (6,)
    else:
        np.testing.assert_array_equal(policy.mode(OBS), other)


def test_a_policy_without_density_has_no_log_prob(policy: ContinuousPolicy) -> None:
    if policy.has_density:
        assert np.isfinite(np.asarray(policy.log_prob(OBS, policy.mode(OBS)))).all()
    else:
        with pytest.raises(TypeError, match="no density"):
            policy.log_prob(OBS, policy.mode(OBS))


def test_masks_are_refused(policy: ContinuousPolicy) -> None:
    mask = jnp.ones((6, 2), jnp.bool_)
    calls: list[Callable[[], Any]] = [
        lambda: policy.mode(OBS, action_mask=mask),
        lambda: policy.sample(OBS, key=KEY, action_mask=mask),
        lambda: policy.log_prob(OBS, ACTIONS, action_mask=mask),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"takes no `action_mask`; got one|has no density"):
            call()


def test_greedy_is_the_mode_without_density(policy: ContinuousPolicy) -> None:
    greedy = policy.greedy()
    assert isinstance(greedy, ModePolicy)
    assert greedy is not policy
    assert greedy.has_density is False
    for actions in (greedy.mode(OBS), greedy.sample(OBS, key=KEY), greedy.greedy().mode(OBS)):
        np.testing.assert_array_equal(actions, policy.mode(OBS))
    with pytest.raises(TypeError, match="no density"):
        greedy.log_prob(OBS, ACTIONS)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_samples_are_as_dense_as_log_prob_says(name: str) -> None:
    # The share of 10,000 samples in a box about the mode is the integral of the density over it.
    policy, rows = POLICIES[name](), 10000
    samples = np.asarray(policy.sample(repeated(rows), key=KEY))
    width = (HALF_WIDTH if name in RESCALED else np.ones(2)) * 0.3
    mode = np.asarray(policy.mode(OBS[:1]))
    inside = (np.abs(samples - mode) < width).all(1).mean()
    share = (np.arange(100) + 0.5) / 100
    grid = np.stack(np.meshgrid(share, share), -1).reshape(-1, 2) * 2 - 1
    height = np.exp(np.asarray(policy.log_prob(repeated(10000), f32(mode + grid * width)), float))
    expected = height.mean() * np.prod(2 * width)
    assert 0.02 < expected < 0.98
    assert abs(inside - expected) < 4.5 * math.sqrt(expected * (1 - expected) / rows)


# --- normal policies ---------------------------------------------------------


def test_gaussian_policy_has_tanh_on_its_mean_only() -> None:
    policy = gaussian()
    mean = np.tanh(np.asarray(policy.network(OBS), float))
    np.testing.assert_allclose(policy.mode(OBS), mean, rtol=1e-5)
    action = np.asarray(ACTIONS, float) * 3  # outside [-1, 1] it has density too
    expected = stats.norm.logpdf(action, mean, np.exp([-0.5, 0.3])).sum(1)
    np.testing.assert_allclose(policy.log_prob(OBS, f32(action)), expected, rtol=1e-4)


@pytest.mark.parametrize(("log_std", "kept"), [(-9.0, -5.0), (-5.0, -5.0), (0.4, 0.4), (2.0, 2.0), (7.0, 2.0)])
def test_gaussian_policy_keeps_its_standard_deviation_in_range(log_std: float, kept: float) -> None:
    found = GaussianPolicy(network(), f32([log_std, log_std]))(OBS).log_std
    np.testing.assert_array_equal(found, np.full((6, 2), kept, np.float32))


def test_squashed_policy_splits_its_outputs_and_keeps_its_standard_deviation_in_range() -> None:
    net = network(4)
    net = MLP(net.weights, (net.biases[0], f32([0.5, -0.5, -100.0, 100.0])))
    policy, out = SquashedGaussianPolicy(net), np.asarray(net(OBS))
    distribution = policy(OBS)
    np.testing.assert_array_equal(distribution.mean, out[:, :2])
    np.testing.assert_array_equal(distribution.log_std, np.tile(np.array([-20.0, 2.0], np.float32), (6, 1)))
    np.testing.assert_allclose(policy.mode(OBS), np.tanh(out[:, :2]), rtol=1e-5)
    assert (np.abs(np.asarray(policy.sample(OBS, key=KEY))) <= 1).all()


def test_deterministic_policy_is_tanh_of_its_network() -> None:
    net = network()
    np.testing.assert_allclose(DeterministicPolicy(net).mode(OBS), np.tanh(np.asarray(net(OBS))), rtol=1e-5)


# --- logged units ------------------------------------------------------------


def test_rescaled_policy_is_the_inner_one_between_two_scalings() -> None:
    for inner in (gaussian(), squashed(), DeterministicPolicy(network())):
        policy, scaled = rescaled(inner), f32((np.asarray(OBS) - MEAN) / STD)
        np.testing.assert_allclose(policy.mode(OBS), CENTER + HALF_WIDTH * np.asarray(inner.mode(scaled)), rtol=1e-5)
        np.testing.assert_allclose(
            policy.sample(OBS, key=KEY), CENTER + HALF_WIDTH * np.asarray(inner.sample(scaled, key=KEY)), rtol=1e-5
        )


@pytest.mark.parametrize("make", [gaussian, squashed])
def test_log_prob_in_logged_units_takes_off_the_log_half_widths(make: Callable[[], ContinuousPolicy]) -> None:
    inner, scaled = make(), f32((np.asarray(OBS) - MEAN) / STD)
    logged = f32(CENTER + HALF_WIDTH * np.asarray(ACTIONS))
    expected = np.asarray(inner.log_prob(scaled, ACTIONS)) - np.log(4.0 * 0.25)
    np.testing.assert_allclose(rescaled(inner).log_prob(OBS, logged), expected, rtol=1e-3, atol=1e-4)
    wide = RescaledPolicy(f32(MEAN), f32(STD), f32(CENTER), f32(2 * HALF_WIDTH), inner)
    logged = f32(CENTER + 2 * HALF_WIDTH * np.asarray(ACTIONS))
    np.testing.assert_allclose(wide.log_prob(OBS, logged), expected - 2 * math.log(2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "squashed"])
def test_density_in_logged_units_integrates_to_one(kind: str) -> None:
    # Actions from 10 to 90 (the normal reaches beyond them).
    net = MLP.create(3, (5,), 1 if kind == "gaussian" else 2, key=KEY, final_gain=0.1)
    inner = GaussianPolicy(net, f32([-0.7])) if kind == "gaussian" else SquashedGaussianPolicy(net)
    policy = RescaledPolicy(f32(MEAN), f32(STD), f32([50.0]), f32([40.0]), inner)
    inside = np.linspace(-5, 5, 10000)
    grid = 50 + 40 * (inside if kind == "gaussian" else np.tanh(inside))
    density = np.exp(np.asarray(policy.log_prob(repeated(10000), f32(grid[:, None])), float))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=5e-3)
    assert density.max() < 1  # in units 40 times as fine it would not be


# --- files -------------------------------------------------------------------


def test_policy_files_round_trip_bit_for_bit(policy: ContinuousPolicy, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy_file(path, policy)
    loaded = load_policy_file(path)
    assert type(loaded) is type(policy)
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)
    assert_trees_equal(loaded, policy)
    assert loaded.has_density is policy.has_density
    np.testing.assert_array_equal(loaded.mode(OBS), policy.mode(OBS))
    np.testing.assert_array_equal(loaded.sample(OBS, key=KEY), policy.sample(OBS, key=KEY))
    if policy.has_density:
        np.testing.assert_array_equal(loaded.log_prob(OBS, ACTIONS), policy.log_prob(OBS, ACTIONS))
    np.testing.assert_array_equal(loaded.greedy().mode(OBS), policy.greedy().mode(OBS))
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]


@pytest.mark.parametrize("kind", ["ContinuousCritics", "DiscreteCritics", "Normal", "ContinuousPolicy"])
def test_a_class_that_is_no_policys_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "policy.safetensors"
    header = {"format": 1, "policy": {"class": kind, "fields": {"ensemble": "policy.network.weights.0"}}}
    save_file({"policy.network.weights.0": np.ones((3, 4), np.float32)}, path, {"stitchrl": json.dumps(header)})
    with pytest.raises(CheckpointError, match="does not describe a policy"):
        load_policy_file(path)


# --- critics and values ------------------------------------------------------


@cache
def critics(hidden_sizes: tuple[int, ...] = (5, 4), count: int = 3) -> ContinuousCritics:
    fresh = ContinuousCritics.create(count, 3, 2, hidden_sizes, key=KEY)
    # Biases are 0 when fresh; give them something to say.
    rng, members = np.random.default_rng(8), fresh.ensemble.members
    biases = tuple(f32(rng.normal(size=bias.shape)) for bias in members.biases)
    return ContinuousCritics(type(fresh.ensemble)(MLP(members.weights, biases)))


@jax.jit
def evaluated(q: ContinuousCritics, action: jax.Array) -> jax.Array:
    return q(OBS, action)


def test_continuous_critics_are_networks_on_observation_and_action() -> None:
    found = evaluated(critics(), ACTIONS)
    assert found.shape == (3, 6)
    x = np.concatenate([np.asarray(OBS, float), np.asarray(ACTIONS, float)], 1)
    for k in range(3):
        h, members = x, critics().ensemble.members
        for i, (weight, bias) in enumerate(zip(members.weights, members.biases, strict=True)):
            h = h @ np.asarray(weight[k], float) + np.asarray(bias[k], float)
            h = np.maximum(h, 0) if i < 2 else h
        np.testing.assert_allclose(found[k], h[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hidden_sizes", "actions"), [((5,), 1), ((5, 4, 3), 4)])
def test_several_actions_at_once_are_those_actions_one_by_one(hidden_sizes: tuple[int, ...], actions: int) -> None:
    q = critics(hidden_sizes)
    candidates = f32(np.random.default_rng(2).uniform(-1, 1, (actions, 6, 2)))
    found = jax.jit(lambda q: q.several(OBS, candidates))(q)
    assert found.shape == (3, actions, 6)
    for k in range(actions):
        np.testing.assert_allclose(found[:, k], evaluated(q, candidates[k]), rtol=1e-4, atol=1e-5)


def test_gradients_of_several_are_those_of_one_by_one() -> None:
    candidates = f32(np.random.default_rng(2).uniform(-1, 1, (2, 6, 2)))

    def together(q: ContinuousCritics, candidates: jax.Array) -> jax.Array:
        return jnp.sum(q.several(OBS, candidates) ** 2)

    def apart(q: ContinuousCritics, candidates: jax.Array) -> jax.Array:
        return jnp.sum(q(OBS, candidates[0]) ** 2) + jnp.sum(q(OBS, candidates[1]) ** 2)

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(critics(), candidates) for f in (together, apart))
    assert_trees_equal(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("index", [0, 2])
def test_a_member_is_that_critic_alone(index: int) -> None:
    alone = critics().member(index)
    assert isinstance(alone, ContinuousCritics)
    found = alone(OBS, ACTIONS)
    assert found.shape == (1, 6)
    np.testing.assert_allclose(found[0], evaluated(critics(), ACTIONS)[index], rtol=1e-5, atol=1e-6)


def test_discrete_critics_take_the_value_of_the_given_action() -> None:
    q = DiscreteCritics.create(2, (3,), 4, Network((5,)), key=KEY)
    every = np.asarray(q.every_action(OBS))
    assert every.shape == (2, 6, 4)
    action = np.array([0, 3, 1, 2, 2, 0])
    np.testing.assert_array_equal(q(OBS, jnp.asarray(action, jnp.int32)), every[:, np.arange(6), action])
    np.testing.assert_array_equal(every, q.ensemble(OBS))


def test_critics_of_an_ensemble_differ() -> None:
    for q in (
        evaluated(critics(), ACTIONS),
        DiscreteCritics.create(2, (3,), 4, Network((5,)), key=KEY).every_action(OBS),
    ):
        assert not np.allclose(q[0], q[1])


def test_continuous_value_is_the_mean_of_the_critics_and_v_is_q_of_the_mode() -> None:
    value = ContinuousCriticValue(critics(), squashed())
    expected = np.asarray(evaluated(critics(), ACTIONS)).mean(0)
    np.testing.assert_allclose(value.q(OBS, ACTIONS), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value.v(OBS), value.q(OBS, squashed().mode(OBS)), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="takes no `action_mask`"):
        value.v(OBS, action_mask=jnp.ones((6, 2), jnp.bool_))


def test_rescaled_value_undoes_the_scaling_of_observations_actions_and_rewards() -> None:
    inner = ContinuousCriticValue(critics(), squashed())
    value = RescaledValue(f32(MEAN), f32(STD), f32(CENTER), f32(HALF_WIDTH), f32(4.0), inner)
    scaled = f32((np.asarray(OBS) - MEAN) / STD)
    logged = f32(CENTER + HALF_WIDTH * np.asarray(ACTIONS))
    np.testing.assert_allclose(value.q(OBS, logged), inner.q(scaled, ACTIONS) / 4, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value.v(OBS), inner.v(scaled) / 4, rtol=1e-4, atol=1e-5)
    # And so the value of what the rescaled policy takes.
    policy = rescaled(squashed())
    np.testing.assert_allclose(value.v(OBS), value.q(OBS, policy.mode(OBS)), rtol=1e-4, atol=1e-5)


# --- networks by the kind of action ------------------------------------------


def test_heads_follow_the_kind_of_action() -> None:
    discrete, continuous = Spec.vectors(3, 4), Spec.vectors(3, None, 2)
    for spec, actor_kind, critics_kind, value_kind, outputs in (
        (discrete, CategoricalPolicy, DiscreteCritics, CriticValue, 4),
        (continuous, GaussianPolicy, ContinuousCritics, ContinuousCriticValue, 2),
    ):
        actor = create_actor(spec, Network((5,)), key=KEY)
        q = create_critics(spec, 3, Network((5,)), key=KEY)
        assert type(actor) is actor_kind
        assert type(q) is critics_kind
        assert [weight.shape for weight in actor.network.weights] == [(3, 5), (5, outputs)]
        last = np.asarray(actor.network.weights[-1])
        np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(outputs), atol=1e-7)
        value = critic_value(q, actor)
        assert type(value) is value_kind
        assert value.v(OBS).shape == (6,)
        assert value.policy is actor


def test_a_fresh_normal_actor_has_standard_deviation_one_and_acts_near_zero() -> None:
    actor = create_actor(Spec.vectors(3, None, 2), Network((5,)), key=KEY)
    np.testing.assert_array_equal(actor(OBS).log_std, np.zeros((6, 2)))
    assert np.abs(np.asarray(actor.mode(OBS))).max() < 0.1


# --- scaling of actions ------------------------------------------------------


def continuous_log(action: Any) -> st.Dataset:
    columns = tiny_columns() | {"action": np.asarray(action, np.float32)}
    return st.read(columns, schema_of(columns, num_actions=None))


def test_actions_inside_the_unit_box_stay_as_they_are() -> None:
    for action in ([[0.5, -1.0]] * 3 + [[-0.2, 1.0]] * 3, [[0.1, 0.1]] * 6):
        log = continuous_log(action)
        scaling = Scaling.of(log)
        np.testing.assert_array_equal(scaling.action_center, [0, 0])
        np.testing.assert_array_equal(scaling.action_half_width, [1, 1])
        np.testing.assert_array_equal(scaling.actions(log.action), log.action)


@pytest.mark.parametrize("largest", [1.01, 30.0])
def test_other_actions_are_mapped_from_their_own_range(largest: float) -> None:
    # One dimension outside is enough: every one is mapped, each from its smallest and largest.
    log = continuous_log([[0, 0.25], [largest, 0.5], [0, 0.75], [0, 0.25], [1, 0.5], [0, 0.25]])
    scaling = Scaling.of(log)
    np.testing.assert_allclose(scaling.action_center, [largest / 2, 0.5], rtol=1e-6)
    np.testing.assert_allclose(scaling.action_half_width, [largest / 2, 0.25], rtol=1e-6)
    scaled = scaling.actions(log.action)
    np.testing.assert_allclose(scaled.min(0), [-1, -1], rtol=1e-6)
    np.testing.assert_allclose(scaled.max(0), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(scaled[:, 1], [-1, 0, 1, -1, 0, -1], atol=1e-6)
    assert scaled.dtype == scaling.action_center.dtype == scaling.action_half_width.dtype == np.float32


def test_a_constant_action_dimension_is_mapped_to_zero() -> None:
    log = continuous_log([[5.0, k] for k in range(6)])
    scaling = Scaling.of(log)
    np.testing.assert_allclose(scaling.action_center, [5, 2.5])
    np.testing.assert_allclose(scaling.action_half_width, [1, 2.5])
    np.testing.assert_array_equal(scaling.actions(log.action)[:, 0], np.zeros(6))


def test_actions_of_another_part_are_mapped_by_the_training_log() -> None:
    scaling = Scaling.of(continuous_log([[0.0], [10.0]] * 3))
    np.testing.assert_allclose(scaling.actions(np.array([[5], [15], [-5]], np.float32)), [[0], [2], [-2]])


def test_discrete_actions_have_no_scaling() -> None:
    log = random_log(6)
    scaling = Scaling.of(log)
    assert scaling.action_center is None
    assert scaling.action_half_width is None
    assert scaling.actions(log.action) is log.action


@pytest.mark.parametrize("make", [random_log, random_continuous_log])
def test_of_scales_observations_as_fit_or_identity_do(make: Callable[..., st.Dataset]) -> None:
    log = make(10)
    for standardize, like in ((True, Scaling.fit(log)), (False, Scaling.identity(3))):
        scaling = Scaling.of(log, standardize=standardize, reward_scale=0.5)
        np.testing.assert_array_equal(scaling.mean, like.mean)
        np.testing.assert_array_equal(scaling.std, like.std)
        assert scaling.reward_scale == 0.5


def test_scaling_survives_json() -> None:
    for log in (random_log(6), random_continuous_log(6), random_continuous_log(6, center=7.3, half_width=0.1)):
        scaling = Scaling.of(log, reward_scale=0.3)
        again = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
        assert again.reward_scale == scaling.reward_scale
        for name in ("mean", "std", "action_center", "action_half_width"):
            before, after = getattr(scaling, name), getattr(again, name)
            assert (before is None) == (after is None)
            if before is not None:
                assert after.dtype == np.float32
                np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("content", [{}, {"mean": [0.0]}, {"mean": [0.0], "std": [1.0], "color": 3}])
def test_scaling_of_other_content_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Scaling.from_dict(content)
