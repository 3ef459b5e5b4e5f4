"""Rungs between a policy and the behaviour over continuous actions, against their formulas and a count by drawing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float
from scipy import stats

from stitchrl.jax_types import Array
from stitchrl.nn.continuous_ladder import continuous_rung
from stitchrl.nn.continuous_policy import ContinuousPolicy, GaussianPolicy, MixturePolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.units import RescaledPolicy

DRAWS = 40_000
CENTER, HALF = np.array([2.0, -1.0]), np.array([3.0, 0.5])
MEANS, STDS = np.array([[0.2, -0.4], [-0.5, 0.3]]), np.array([[0.3, 0.1], [0.2, 0.4]])
WEIGHTS = np.array([0.7, 0.3])


class Aim(ContinuousPolicy):
    """The same action everywhere, in logged units."""

    action: Float[Array, " action"]

    def mode(self, obs, *, action_mask=None):
        return jnp.broadcast_to(self.action, (len(obs), len(self.action)))

    def sample(self, obs, *, key, action_mask=None):
        return self.mode(obs)

    def log_prob(self, obs, action, *, action_mask=None):
        raise TypeError


def behaviour(kind: str = "plain", broad: float = 0.0) -> RescaledPolicy:
    """A mixture of two normals that does not look at the observation."""
    soft = np.log(STDS)  # far inside the soft bounds of the deviations, which change them a little
    bias = np.concatenate(
        [np.log(WEIGHTS), (np.arctanh(MEANS) if kind == "truncated" else MEANS).ravel(), soft.ravel()]
    )
    network = MLP((jnp.zeros((3, len(bias))),), (jnp.asarray(bias, jnp.float32),))
    inner = MixturePolicy(network, jnp.zeros(()), 2, kind, broad)
    return RescaledPolicy(jnp.ones(3), 2 * jnp.ones(3), *(jnp.asarray(x, jnp.float32) for x in (CENTER, HALF)), inner)


OBS = np.zeros((1, 3), np.float32)


@pytest.mark.parametrize(("reach", "spread"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.8), (100.0, 0.8)])
def test_is_its_formula(reach: float, spread: float) -> None:
    b, action = behaviour(), np.array([1.1, -0.7])
    rung = continuous_rung(Aim(jnp.asarray(action, jnp.float32)), b, reach, spread)
    law = b.policy(OBS)
    std = np.asarray(jnp.exp(law.log_std))[0]
    aim = (action - CENTER) / HALF
    z = (aim - MEANS) / std
    share = np.minimum(1.0, reach / np.linalg.norm(z, axis=1))[:, None]
    means = MEANS + share * (aim - MEANS)
    at = np.array([1.5, -1.2])
    inner = (at - CENTER) / HALF
    each = stats.norm.pdf(inner, means, spread * std).prod(1)
    assert float(rung.log_prob(OBS, at[None].astype(np.float32))[0]) == pytest.approx(
        np.log((WEIGHTS * each).sum()) - np.log(HALF).sum(), abs=1e-3
    )
    if reach > 10:  # every normal has arrived
        assert np.asarray(rung.mode(OBS))[0] == pytest.approx(action, abs=1e-5)


@pytest.mark.parametrize("kind", ["plain", "squashed", "clipped"])
@pytest.mark.parametrize(("reach", "spread"), [(0.5, 1.0), (1.0, 0.8)])
def test_the_second_moment_of_the_ratio_is_at_most_what_is_said(kind: str, reach: float, spread: float) -> None:
    b = behaviour(kind)
    rung = continuous_rung(Aim(jnp.asarray([4.0, -0.8])), b, reach, spread)
    obs = np.zeros((DRAWS, 3), np.float32)
    drawn = b.sample(obs, key=jax.random.key(0))
    ratio = np.exp(np.asarray(rung.log_prob(obs, drawn) - b.log_prob(obs, drawn), np.float64))
    bound = np.exp(reach**2 / (2 - spread**2)) / (spread * np.sqrt(2 - spread**2)) ** 2
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)
    error = (ratio**2).std() / DRAWS**0.5
    assert 1.02 < (ratio**2).mean() < bound + 4 * error
    if kind == "plain":  # two components move by the whole reach, so that little is lost
        assert (ratio**2).mean() > 0.5 * bound


def test_a_rung_of_reach_0_and_full_spread_is_the_behaviour_without_its_broad_share() -> None:
    own = behaviour("squashed", broad=0.01)
    rung = continuous_rung(Aim(jnp.asarray([1.0, -1.0])), own, 0.0, 1.0)
    at = np.array([[1.2, -0.8]], np.float32)
    assert float(rung.log_prob(OBS, at)[0]) == pytest.approx(
        float(behaviour("squashed").log_prob(OBS, at)[0]), abs=1e-5
    )


def test_it_goes_to_the_edge_of_the_box_of_a_truncated_behaviour_and_not_beyond() -> None:
    rung = continuous_rung(Aim(jnp.asarray([99.0, 99.0])), behaviour("truncated"), 100.0, 1.0)
    found = np.asarray(rung.sample(OBS.repeat(500, 0), key=jax.random.key(1)))
    assert (found <= CENTER + HALF + 1e-5).all()
    assert (found.mean(0) > CENTER + 0.5 * HALF).all()
    assert np.isfinite(np.asarray(rung.log_prob(OBS.repeat(500, 0), found))).all()


def test_a_clipped_behaviour_beyond_its_bound_is_not_moved_back_by_a_policy_on_the_bound() -> None:
    """A normal about 1.5 that is clipped to 1 is on the bound in 84% of draws; moved to 1 it would be there in half of them."""
    bias = jnp.asarray([0.0, 1.5, -0.2, float(np.log(0.5)), float(np.log(0.5))])
    network = MLP((jnp.zeros((3, 5)),), (bias,))
    scale = (jnp.ones(3), jnp.ones(3), jnp.zeros(2), jnp.ones(2))
    own = RescaledPolicy(*scale, MixturePolicy(network, jnp.zeros(()), 1, "clipped", 0.0))
    at = np.array([[1.0, -0.2]], np.float32)
    rung = continuous_rung(Aim(jnp.asarray([1.0, 0.4])), own, 1.0, 1.0)
    inner = rung.policy(OBS).mean[0, 0]
    assert float(inner[0]) == pytest.approx(1.5)
    assert -0.2 < float(inner[1]) < 0.41
    assert float(rung.log_prob(OBS, at)[0] - own.log_prob(OBS, at)[0]) < 0  # the second number has left -0.2
    back = continuous_rung(Aim(jnp.asarray([0.9, -0.2])), own, 100.0, 1.0).policy(OBS).mean[0, 0]
    assert float(back[0]) == pytest.approx(0.9)  # inside the bounds a policy is followed
    low, high = rung.clipped_to
    assert (np.asarray(low), np.asarray(high)) == (pytest.approx(-np.ones(2)), pytest.approx(np.ones(2)))


def test_another_model_of_the_behaviour_is_refused() -> None:
    normal = GaussianPolicy(MLP.create(3, Network((4,)), 2, key=jax.random.key(0)), jnp.zeros(2))
    other = RescaledPolicy(jnp.zeros(3), jnp.ones(3), jnp.zeros(2), jnp.ones(2), normal)
    with pytest.raises(TypeError, match="mixture of normals; got a GaussianPolicy"):
        continuous_rung(Aim(jnp.zeros(2)), other, 0.5, 1.0)


def test_is_saved_and_loaded(tmp_path) -> None:
    learned = RescaledPolicy(
        jnp.zeros(3), jnp.ones(3), jnp.zeros(2), jnp.ones(2),
        GaussianPolicy(MLP.create(3, Network((4,)), 2, key=jax.random.key(0)), jnp.zeros(2)),
    )  # fmt: skip
    made = continuous_rung(learned, behaviour("squashed", 0.001), 0.5, 0.8)
    save_policy_file(tmp_path / "policy.safetensors", made)
    loaded = load_policy_file(tmp_path / "policy.safetensors")
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.asarray(loaded.mode(obs)) == pytest.approx(np.asarray(made.mode(obs)))
    at = np.asarray(made.sample(obs, key=jax.random.key(2)))
    assert np.asarray(loaded.log_prob(obs, at)) == pytest.approx(np.asarray(made.log_prob(obs, at)))
