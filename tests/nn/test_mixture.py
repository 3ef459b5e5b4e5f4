"""Mixtures of normals over continuous actions: against SciPy, by quadrature, and at the ends of the box."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stitchrl.nn.continuous_policy import MixturePolicy
from stitchrl.nn.mixture import MIXTURE_KINDS, UNIFORM_BROAD, NormalMixture
from stitchrl.nn.networks import MLP
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.units import RescaledPolicy

WEIGHT = np.array([[0.5, 0.3, 0.2]])
MEAN = np.array([[[-1.0, 0.3], [0.2, 1.0], [0.97, -0.6]]])
STD = np.array([[[0.01, 0.4], [2.5, 0.05], [0.1, 1.5]]])
"""One component at an end of the box with the least spread there is, others inside it or wider than it."""


def std_of(kind: str) -> np.ndarray:
    """Before tanh nothing is so wide that float32 would round it to the bounds."""
    return np.minimum(STD, 1.0) if kind == "squashed" else STD


def mixture(*, kind: str, share: float = 0.01, rows: int = 1) -> NormalMixture:
    def many(values: np.ndarray) -> jax.Array:
        return jnp.asarray(np.repeat(values, rows, 0), jnp.float32)

    return NormalMixture(many(np.log(WEIGHT)), many(MEAN), many(np.log(std_of(kind))), kind, share)


@jax.jit
def density(of: NormalMixture, action: jax.Array) -> jax.Array:
    return jnp.exp(jax.vmap(lambda a: of.log_prob(a[None])[0])(action))


@jax.jit
def sample(of: NormalMixture, key: jax.Array) -> jax.Array:
    return of.sample(key=key)


@jax.jit
def marginal_cdf(of: NormalMixture, action: jax.Array) -> jax.Array:
    return of.marginal_cdf(action)


@jax.jit
def marginal_below(of: NormalMixture, action: jax.Array) -> jax.Array:
    return of.marginal_cdf(action, below=True)


class Exact:
    """One dimension of one component, by SciPy."""

    def __init__(self, kind: str, j: int, k: int) -> None:
        mean, std = MEAN[0, k, j], std_of(kind)[0, k, j]
        box = stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
        self._normal, self._squashed = box if kind == "truncated" else stats.norm(mean, std), kind == "squashed"
        self._clipped = kind == "clipped"

    def cdf(self, action: Any) -> Any:
        below = self._normal.cdf(np.arctanh(action) if self._squashed else action)
        return np.where(np.asarray(action) >= 1, 1.0, below) if self._clipped else below

    def pdf(self, action: Any) -> Any:
        if self._squashed:
            return self._normal.pdf(np.arctanh(action)) / (1 - np.asarray(action, np.float64) ** 2)
        density = self._normal.pdf(action)
        if self._clipped:  # the probability of a tail on a bound
            density = np.where(action >= 1, self._normal.sf(1), density)
            density = np.where(action <= -1, self._normal.cdf(-1), density)
        return density


def grid(low: float) -> np.ndarray:
    """Edges of cells of [-1, 1], narrow from `low` on, where the narrowest component is."""
    return np.unique(np.concatenate([np.linspace(-1, 1, 301), np.linspace(low, low + 0.2, 301)]))


@pytest.mark.parametrize("kind", ["truncated", "squashed"])
def test_the_density_in_the_box_integrates_to_one_over_it_and_is_none_outside(kind: str) -> None:
    of = mixture(kind=kind)
    edges = grid(-1.0 if kind == "truncated" else -0.85), np.linspace(-1, 1, 401)
    points = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"), -1).reshape(-1, 2)
    cells = np.outer(np.diff(edges[0]), np.diff(edges[1])).reshape(-1)
    found = np.asarray(density(of, jnp.asarray(points, jnp.float32)), np.float64)
    assert found @ cells == pytest.approx(1.0, abs=1e-3)
    outside = density(of, jnp.asarray([[1.01, 0.0], [0.0, -1.5]], jnp.float32))
    np.testing.assert_array_equal(outside, 0.0)
    # What rounding puts a hair outside counts as at the end.
    ends = density(of, jnp.asarray([[1.0, 0.0], [1.0 + 1e-4, 0.0]], jnp.float32))
    assert float(ends[0]) == float(ends[1]) > 0
    # Plain normals lose the half of the first component that lies outside: the truncation is what makes it 1.
    plain = np.asarray(density(mixture(kind="plain"), jnp.asarray(points, jnp.float32)), np.float64)
    assert plain @ cells < 0.6


@pytest.mark.parametrize("kind", MIXTURE_KINDS)
def test_the_density_and_the_marginals_are_those_of_scipy(kind: str) -> None:
    of, share = mixture(kind=kind, rows=200), 0.01
    rng = np.random.default_rng(1)
    action = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    action[:50, 0] = -1 + 0.03 * rng.random(50)
    if kind == "clipped":
        action[50:90, 0], action[70:110, 1] = 1, -1
    normals = [[Exact(kind, j, k) for j in range(2)] for k in range(3)]
    exact = sum(WEIGHT[0, k] * normals[k][0].pdf(action[:, 0]) * normals[k][1].pdf(action[:, 1]) for k in range(3))
    broad = np.full(200, 0.25) if kind in UNIFORM_BROAD else stats.norm.pdf(action).prod(1)
    if kind == "clipped":
        broad = np.where(np.abs(action) >= 1, stats.norm.sf(1), stats.norm.pdf(action)).prod(1)
    log_prob = np.asarray(jax.jit(NormalMixture.log_prob)(of, action))
    np.testing.assert_allclose(log_prob, np.log((1 - share) * exact + share * broad), rtol=2e-5, atol=2e-5)
    below = marginal_cdf(of, action)
    for j in range(2):
        cdf = sum(WEIGHT[0, k] * normals[k][j].cdf(action[:, j]) for k in range(3))
        wide = (action[:, j] + 1) / 2 if kind in UNIFORM_BROAD else stats.norm.cdf(action[:, j])
        wide = np.where(action[:, j] >= 1, 1.0, wide) if kind == "clipped" else wide
        np.testing.assert_allclose(below[:, j], (1 - share) * cdf + share * wide, atol=2e-6)
    if kind != "plain":
        np.testing.assert_allclose(marginal_cdf(of, np.full((200, 2), 1.0, np.float32)), 1.0, atol=1e-6)
        at_low = marginal_below(of, np.full((200, 2), -1.0, np.float32))
        np.testing.assert_allclose(at_low, 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", MIXTURE_KINDS)
def test_samples_follow_the_distribution(kind: str) -> None:
    """The transform of a sample is uniform, by a Kolmogorov-Smirnov test; that of a wrong mixture is not."""
    of = mixture(kind=kind, share=0.1, rows=20_000)
    drawn = sample(of, jax.random.key(2))
    if kind != "plain":
        assert float(jnp.max(jnp.abs(drawn))) <= 1.0
    chance = np.random.default_rng(4).random((20_000, 2))

    def transform(of: NormalMixture) -> np.ndarray:
        below = np.asarray(marginal_below(of, drawn))
        return below + chance * (np.asarray(marginal_cdf(of, drawn)) - below)

    values = transform(of)
    for j in range(2):
        assert stats.kstest(values[:, j], "uniform").pvalue > 1e-3
    wrong = transform(mixture(kind=kind, share=0.05, rows=20_000))
    assert min(stats.kstest(wrong[:, j], "uniform").pvalue for j in range(2)) < 1e-6
    # Both dimensions come from one component: the share of a corner is the exact one, not the product of the margins.
    normals = [[Exact(kind, j, k) for j in range(2)] for k in range(3)]
    low, high = (-0.7, 0.7) if kind == "squashed" else (-0.9, 0.8)
    corner = ((np.asarray(drawn)[:, 0] < low) & (np.asarray(drawn)[:, 1] > high)).mean()
    wide = [(1 + low) / 2, (1 - high) / 2] if kind in UNIFORM_BROAD else [stats.norm.cdf(low), stats.norm.sf(high)]
    ends = [[normals[k][0].cdf(low), 1 - normals[k][1].cdf(high)] for k in range(3)]
    exact = 0.9 * sum(WEIGHT[0, k] * ends[k][0] * ends[k][1] for k in range(3)) + 0.1 * wide[0] * wide[1]
    margins = [0.9 * sum(WEIGHT[0, k] * ends[k][j] for k in range(3)) + 0.1 * wide[j] for j in range(2)]
    error = (exact * (1 - exact) / 20_000) ** 0.5
    assert abs(corner - exact) < 4 * error
    assert abs(corner - margins[0] * margins[1]) > 10 * error


@pytest.mark.parametrize("kind", MIXTURE_KINDS)
def test_the_mode_is_the_mean_at_which_the_density_is_largest(kind: str) -> None:
    of = mixture(kind=kind)
    inner = dataclasses.replace(of, kind="plain") if kind in ("squashed", "clipped") else of
    at_means = [float(density(inner, jnp.asarray(MEAN[0, k : k + 1], jnp.float32))[0]) for k in range(3)]
    best = MEAN[0, int(np.argmax(at_means))]
    np.testing.assert_allclose(of.mode()[0], np.tanh(best) if kind == "squashed" else best, atol=1e-6)


@pytest.mark.parametrize("kind", ["truncated", "squashed", "clipped"])
def test_gradients_stay_finite_at_the_ends_of_the_box(kind: str) -> None:
    network = MLP((jnp.zeros((1, 5), jnp.float32),), (jnp.asarray([0, 30, -30, -50, 50], jnp.float32),))

    @jax.jit
    def slopes(bias: jax.Array) -> jax.Array:
        def total(b: jax.Array) -> jax.Array:
            policy = MixturePolicy(network, jnp.float32(0.0), 1, kind, 0.01)
            action = jnp.asarray([[1.0, -1.0], [-1.0, 1.0]], jnp.float32)
            return jnp.sum(policy.of_outputs(jnp.broadcast_to(b, (2, 5))).log_prob(action))

        return jax.grad(total)(bias)

    assert np.isfinite(slopes(network.biases[0])).all()


def rescaled(*, half_width: float, kind: str = "truncated") -> RescaledPolicy:
    network = MLP.create(2, (4,), 2 * (1 + 2 * 1), key=jax.random.key(0), final_gain=1.0)
    inner = MixturePolicy(network, jnp.float32(0.2), 2, kind, 0.01)
    scale = jnp.asarray([half_width], jnp.float32)
    return RescaledPolicy(jnp.zeros(2), jnp.ones(2), 0 * scale, scale, inner)


def test_the_policy_speaks_logged_units_and_is_saved(tmp_path: Path) -> None:
    obs = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    action = np.linspace(-0.9, 0.9, 6, dtype=np.float32)[:, None]
    one, eight = rescaled(half_width=1.0), rescaled(half_width=8.0)
    near, far = answers(one, obs, action), answers(eight, obs, 8 * action)
    np.testing.assert_allclose(near[0] - far[0], np.log(8.0), rtol=1e-6)
    np.testing.assert_allclose(8 * near[1], far[1], rtol=1e-6)
    np.testing.assert_allclose(near[2], far[2], rtol=1e-6)
    with pytest.raises(TypeError, match="takes no `action_mask`"):
        one.mode(obs, action_mask=np.ones((6, 2), bool))
    save_policy_file(tmp_path / "policy.safetensors", eight)
    loaded = load_policy_file(tmp_path / "policy.safetensors")
    assert isinstance(loaded, RescaledPolicy)
    for kept, again in zip(far, answers(loaded, obs, 8 * action), strict=True):
        np.testing.assert_array_equal(kept, again)


@jax.jit
def answers(policy: RescaledPolicy, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
    drawn = policy.sample(obs, key=jax.random.key(1))
    return policy.log_prob(obs, action), policy.mode(obs), policy.marginal_cdf(obs, action), drawn
