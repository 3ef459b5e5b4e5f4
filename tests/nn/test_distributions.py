"""Distributions over actions: against SciPy, by hand, by quadrature, and where floating point is thin."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stitchrl.nn.distributions import (
    LARGEST_TANH,
    Categorical,
    Distribution,
    Normal,
    TanhNormal,
    mask_logits,
    masked_log_softmax,
    take_action,
)

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(5, 2)).astype(np.float32)
LOG_STD = RNG.uniform(-1.5, 0.5, size=(5, 2)).astype(np.float32)
LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


def f32(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def pair(kind: Any, mean: Any = MEAN, log_std: Any = LOG_STD) -> Any:
    return kind(f32(mean), f32(log_std))


@partial(jax.jit, static_argnames="count")
def draw(distribution: TanhNormal, count: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
    return distribution.sample_with_log_prob(key=KEY, count=count)


@jax.jit
def density(distribution: Distribution, action: jax.Array) -> jax.Array:
    """Log-density; compiled, since many small operations one by one cost more."""
    return distribution.log_prob(action)


# --- normal ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "action", "log_density"),
    [
        # -error^2 / 2 std^2 - log std - log(2 pi) / 2, summed over dimensions.
        ([0.0], [1.0], [0.0], -LOG_ROOT_TWO_PI),
        ([0.0], [1.0], [2.0], -2 - LOG_ROOT_TWO_PI),
        ([1.0], [2.0], [3.0], -0.5 - math.log(2) - LOG_ROOT_TWO_PI),
        ([0.5], [0.1], [0.5], math.log(10) - LOG_ROOT_TWO_PI),
        ([0.0, 1.0], [1.0, 0.5], [1.0, 2.0], -0.5 - 2 + math.log(2) - 2 * LOG_ROOT_TWO_PI),
    ],
)
def test_log_density_of_a_normal_by_hand(mean: list, std: list, action: list, log_density: float) -> None:
    found = pair(Normal, [mean], np.log([std])).log_prob(f32([action]))
    np.testing.assert_allclose(found, [log_density], rtol=1e-5)


def test_log_density_of_a_normal_is_scipys() -> None:
    action = RNG.normal(size=(5, 2)).astype(np.float32) * 3
    expected = stats.norm.logpdf(action.astype(float), MEAN.astype(float), np.exp(LOG_STD.astype(float))).sum(1)
    np.testing.assert_allclose(pair(Normal).log_prob(f32(action)), expected, rtol=1e-5, atol=1e-5)


def test_metrics_of_a_normal() -> None:
    entropy = stats.norm.entropy(scale=np.exp(LOG_STD.astype(float))).sum(1).mean()
    assert float(pair(Normal).metrics(f32(MEAN))["policy/entropy"]) == pytest.approx(entropy, rel=1e-5)
    # Standard deviations 1 and e: log(2 pi e) / 2 each, and 1 more.
    metrics = pair(Normal, [[0, 0], [1, 1]], [[0, 1], [0, 1]]).metrics(f32([[3, 4], [1, 1]]))
    assert float(metrics["policy/entropy"]) == pytest.approx(2 * (0.5 + LOG_ROOT_TWO_PI) + 1, rel=1e-5)
    # Squared distances 9, 16, 0, 0: the root of their mean.
    assert float(metrics["policy/mode_error"]) == pytest.approx(2.5)
    assert set(metrics) == {"policy/mode_error", "policy/entropy"}


def test_the_mode_of_a_normal_is_its_mean_and_samples_are_spread_about_it() -> None:
    np.testing.assert_array_equal(pair(Normal).mode(), MEAN)
    many = pair(Normal, np.repeat(MEAN[:1], 20000, 0), np.repeat(LOG_STD[:1], 20000, 0))
    drawn = np.asarray(many.sample(key=KEY), float)
    for dimension in range(2):
        standard = (drawn[:, dimension] - MEAN[0, dimension]) / math.exp(LOG_STD[0, dimension])
        assert stats.kstest(standard, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4.5 / math.sqrt(20000)


# --- tanh of a normal --------------------------------------------------------


def exact_log_density(action: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """By change of variables in float64: log N(atanh a) - log(1 - a^2)."""
    action, mean, log_std = (np.asarray(x, np.float64) for x in (action, mean, log_std))
    inner = stats.norm.logpdf(np.arctanh(action), mean, np.exp(log_std))
    return (inner - np.log1p(-(action**2))).sum(-1)


def test_log_density_of_a_tanh_normal_by_hand() -> None:
    # At 0 the tanh is the identity. At tanh(1), N(1) and 1 - tanh(1)^2 = 1 / cosh(1)^2.
    distribution = pair(TanhNormal, [[0.0], [0.0]], [[0.0], [0.0]])
    found = distribution.log_prob(f32([[0.0], [math.tanh(1)]]))
    np.testing.assert_allclose(
        found, [-LOG_ROOT_TWO_PI, -0.5 - LOG_ROOT_TWO_PI + 2 * math.log(math.cosh(1))], rtol=1e-5
    )


def test_log_density_of_a_tanh_normal_is_scipys_with_a_change_of_variables() -> None:
    action = RNG.uniform(-0.99, 0.99, size=(5, 2)).astype(np.float32)
    np.testing.assert_allclose(
        pair(TanhNormal).log_prob(f32(action)), exact_log_density(action, MEAN, LOG_STD), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.5), (-1.0, 0.8), (0.0, 2.5), (1.5, 0.1)])
def test_the_density_of_a_tanh_normal_integrates_to_one(mean: float, std: float) -> None:
    # On a grid of actions even in atanh, as far as float32 can undo tanh; what lies beyond is counted exactly.
    inner = np.linspace(-5.5, 5.5, 20001)
    action = np.tanh(inner)
    rows = [np.full((len(inner), 1), value) for value in (mean, math.log(std))]
    height = np.exp(np.asarray(density(pair(TanhNormal, *rows), f32(action[:, None])), np.float64))
    beyond = 1 - (stats.norm.cdf(5.5, mean, std) - stats.norm.cdf(-5.5, mean, std))
    assert np.trapezoid(height, action) + beyond == pytest.approx(1.0, abs=2e-3)


@cache
def many() -> tuple[np.ndarray, np.ndarray]:
    """4000 actions of each row, and their log-densities."""
    actions, log_prob = draw(pair(TanhNormal), count=(4000,))
    return np.asarray(actions, np.float64), np.asarray(log_prob, np.float64)


def test_sampled_actions_carry_their_own_log_density() -> None:
    actions, log_prob = many()
    inside = np.abs(actions).max(-1) < 0.99
    assert inside.mean() > 0.5
    exact = exact_log_density(np.where(inside[..., None], actions, 0), MEAN, LOG_STD)
    np.testing.assert_allclose(log_prob[inside], exact[inside], rtol=1e-4, atol=5e-4)
    wide = (jnp.broadcast_to(f32(leaf), actions.shape) for leaf in (MEAN, LOG_STD))
    undone = np.asarray(density(TanhNormal(*wide), f32(actions)))
    np.testing.assert_allclose(log_prob[inside], undone[inside], rtol=1e-4, atol=5e-4)


def test_samples_of_a_tanh_normal_are_tanh_of_normal_ones() -> None:
    standard = (np.arctanh(many()[0]) - MEAN) / np.exp(LOG_STD)
    for row in range(5):
        for dimension in range(2):
            assert stats.kstest(standard[:, row, dimension], "norm").pvalue > 1e-4
    # Rows and dimensions are drawn apart.
    together = np.corrcoef(standard.reshape(4000, 10).T) - np.eye(10)
    assert np.abs(together).max() < 5 / math.sqrt(4000)


def test_the_mean_log_density_of_samples_is_the_entropy_of_the_inner_normal_and_the_jacobian() -> None:
    # -E log pi = entropy of the normal + E sum log(1 - a^2), the last by quadrature in float64.
    log_prob = many()[1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    inner = MEAN.astype(float)[..., None] + np.exp(LOG_STD.astype(float))[..., None] * nodes
    jacobian = (2 * (math.log(2) - inner - np.logaddexp(0, -2 * inner))) @ weights
    entropy = (stats.norm.entropy(scale=np.exp(LOG_STD.astype(float))) + jacobian).sum(-1)
    assert (np.abs(-log_prob.mean(0) - entropy) < 4.5 * log_prob.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize("count", [(), (1,), (2, 3)])
def test_shapes_of_samples(count: tuple[int, ...]) -> None:
    actions, log_prob = draw(pair(TanhNormal), count=count)
    assert actions.shape == (*count, 5, 2)
    assert log_prob.shape == (*count, 5)
    assert actions.dtype == log_prob.dtype == jnp.float32
    flat = np.asarray(actions).reshape(-1, 2)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_a_sample_is_the_action_of_sample_with_log_prob() -> None:
    np.testing.assert_allclose(pair(TanhNormal).sample(key=KEY), draw(pair(TanhNormal))[0], rtol=1e-5)


def test_a_tanh_normal_may_have_no_batch_axis_or_several() -> None:
    single = TanhNormal(f32(MEAN[0]), f32(LOG_STD[0]))
    several = TanhNormal(f32(np.stack([MEAN] * 3)), f32(np.stack([LOG_STD] * 3)))
    for distribution, batch in ((single, ()), (several, (3, 5))):
        action, log_prob = jax.eval_shape(partial(draw, count=(7,)), distribution)
        assert (action.shape, log_prob.shape) == ((7, *batch, 2), (7, *batch))
        assert jax.eval_shape(density, distribution, jnp.zeros((*batch, 2), jnp.float32)).shape == batch


def test_the_mode_of_a_tanh_normal_is_the_median() -> None:
    mode = np.asarray(pair(TanhNormal).mode())
    np.testing.assert_allclose(mode, np.tanh(MEAN), rtol=1e-6)
    below = (many()[0] < mode).mean(0)
    assert (np.abs(below - 0.5) < 4.5 * 0.5 / math.sqrt(4000)).all()
    metrics = pair(TanhNormal, [[0.0, 0.0]], [[0.0, 0.0]]).metrics(f32([[0.6, 0.8]]))
    assert float(metrics["policy/mode_error"]) == pytest.approx(math.sqrt(0.5))
    assert set(metrics) == {"policy/mode_error"}


NOISE = np.asarray(jax.random.normal(KEY, (5, 2)), np.float64)
"""What `draw` draws for one action a row."""
gradient_of_actions = jax.jit(jax.grad(lambda distribution: jnp.sum(draw(distribution)[0])))
gradient_of_their_log_prob = jax.jit(jax.grad(lambda distribution: jnp.sum(draw(distribution)[1])))
gradients_of_log_prob = jax.jit(jax.grad(lambda *arguments: jnp.sum(density(*arguments)), argnums=(0, 1)))


def assert_finite(tree: Any) -> None:
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("inner", [-200.0, -20.0, 20.0, 200.0])
@pytest.mark.parametrize("log_std", [-20.0, 0.0, 2.0])
def test_far_out_everything_stays_finite(inner: float, log_std: float) -> None:
    distribution = pair(TanhNormal, np.full((5, 2), inner), np.full((5, 2), log_std))
    actions, log_prob = draw(distribution)
    assert_finite(log_prob)
    # The density of the inner normal over 4 exp(-2 |inner|), which 1 - tanh^2 is to float precision.
    at = inner + np.exp(log_std) * NOISE
    exact = (-0.5 * NOISE**2 - log_std - LOG_ROOT_TWO_PI + 2 * np.abs(at) - 2 * math.log(2)).sum(-1)
    if log_std < 2.0:
        np.testing.assert_allclose(log_prob, exact, rtol=1e-4)
    assert_finite(density(distribution, actions))
    assert_finite(gradient_of_actions(distribution))
    assert_finite(gradient_of_their_log_prob(distribution))


@pytest.mark.parametrize("edge", [-1.0, 1.0, LARGEST_TANH, -0.9999999])
def test_actions_at_the_bounds_have_a_finite_density_and_gradient(edge: float) -> None:
    actions = jnp.full((5, 2), edge, jnp.float32)
    np.testing.assert_allclose(
        density(pair(TanhNormal), actions),
        exact_log_density(np.full((5, 2), np.sign(edge) * np.float32(LARGEST_TANH)), MEAN, LOG_STD),
        rtol=1e-4,
    )
    assert_finite(gradients_of_log_prob(pair(TanhNormal), actions))


def test_gradients_of_a_sampled_action_by_hand() -> None:
    # a = tanh(mean + std noise): da/dmean = 1 - a^2, da/dlog std = (1 - a^2) std noise.
    slope = 1 - np.asarray(draw(pair(TanhNormal))[0], float) ** 2
    found = gradient_of_actions(pair(TanhNormal))
    np.testing.assert_allclose(found.mean, slope, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.log_std, slope * np.exp(LOG_STD) * NOISE, rtol=1e-3, atol=1e-6)


def test_gradients_of_a_samples_log_density_by_hand() -> None:
    # The noise is fixed: log pi = -log std - sum log(1 - a^2) + constant. By the mean, 2 a; by log std, 2 a std noise - 1.
    action = np.asarray(draw(pair(TanhNormal))[0], float)
    found = gradient_of_their_log_prob(pair(TanhNormal))
    np.testing.assert_allclose(found.mean, 2 * action, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_std, 2 * action * np.exp(LOG_STD) * NOISE - 1, rtol=1e-4, atol=1e-5)


# --- categorical -------------------------------------------------------------

WEIGHTS = np.array([[1, 2, 3, 4], [1, 1, 6, 2], [5, 1, 1, 3]], np.float32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]], bool)
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0, 0.5], [0, 0, 1, 0]])


def masked() -> Categorical:
    return Categorical(masked_log_softmax(f32(np.log(WEIGHTS)), jnp.asarray(MASK)))


def test_categorical_log_probabilities_by_hand() -> None:
    for action, expected in (([0, 1, 2], [0.1, 0.25, 1.0]), ([3, 3, 2], [0.4, 0.5, 1.0])):
        found = masked().log_prob(jnp.asarray(action, jnp.int32))
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)
    assert np.exp(np.asarray(masked().log_prob(jnp.asarray([0, 2, 0], jnp.int32)), float))[1:].tolist() == [0.0, 0.0]


def test_categorical_mode_is_the_best_allowed_action() -> None:
    # Of row 1, action 2 would be best and is forbidden.
    np.testing.assert_array_equal(masked().mode(), [3, 3, 2])
    assert masked().mode().dtype == jnp.int32


def test_categorical_samples_are_as_frequent_as_their_probabilities_and_never_forbidden() -> None:
    copies = 5000
    many = Categorical(jnp.repeat(masked().log_probs, copies, axis=0))
    drawn = np.asarray(many.sample(key=KEY)).reshape(3, copies)
    shares = np.stack([np.bincount(row, minlength=4) for row in drawn]) / copies
    assert (shares[PROBS == 0] == 0).all()
    assert (np.abs(shares - PROBS) <= 4.5 * np.sqrt(PROBS * (1 - PROBS) / copies)).all()


def test_categorical_metrics_by_hand() -> None:
    metrics = masked().metrics(jnp.asarray([3, 0, 2], jnp.int32))
    assert float(metrics["policy/agreement"]) == pytest.approx(2 / 3)
    # 0 log 0 counts as 0.
    entropy = sum(-p * math.log(p) for p in PROBS.ravel() if p > 0) / 3
    assert float(metrics["policy/entropy"]) == pytest.approx(entropy, rel=1e-5)
    assert set(metrics) == {"policy/agreement", "policy/entropy"}


def test_masks_push_logits_down_and_none_leaves_them() -> None:
    logits = f32(np.log(WEIGHTS))
    np.testing.assert_array_equal(mask_logits(logits, None), logits)
    found = np.asarray(mask_logits(logits, jnp.asarray(MASK)))
    np.testing.assert_array_equal(found[MASK], np.asarray(logits)[MASK])
    assert (found[~MASK] == -1e9).all()
    np.testing.assert_array_equal(
        take_action(logits, jnp.asarray([0, 3, 1], jnp.int32)), np.log(WEIGHTS)[[0, 1, 2], [0, 3, 1]]
    )


# --- what they share ---------------------------------------------------------

EACH = {
    "categorical": (masked, lambda: jnp.asarray([0, 1, 2], jnp.int32)),
    "normal": (partial(pair, Normal), lambda: f32(MEAN) * 0.5),
    "tanh normal": (partial(pair, TanhNormal), lambda: f32(np.tanh(MEAN)) * 0.5),
}


@pytest.mark.parametrize("name", EACH)
def test_one_loss_serves_every_distribution(name: str) -> None:
    make, make_action = EACH[name]
    distribution, action = make(), make_action()
    rows = len(action)
    assert isinstance(distribution, Distribution)
    assert distribution.log_prob(action).shape == (rows,)
    assert distribution.mode().shape == distribution.sample(key=KEY).shape == action.shape
    assert distribution.mode().dtype == action.dtype
    np.testing.assert_array_equal(distribution.sample(key=KEY), distribution.sample(key=jax.random.key(3)))
    for name, value in distribution.metrics(action).items():
        assert name.startswith("policy/")
        assert value.shape == ()
        assert np.isfinite(float(value))


@pytest.mark.parametrize("name", EACH)
def test_gradients_of_the_likelihood_are_finite(name: str) -> None:
    make, make_action = EACH[name]
    action = make_action()
    gradients = jax.jit(jax.grad(lambda distribution: jnp.sum(distribution.log_prob(action))))(make())
    assert_finite(gradients)
