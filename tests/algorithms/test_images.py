"""Logs of images: bytes from the log to the network, learned by BC and by discrete IQL; refused where nothing can."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import schema_of

import stitchrl as st
from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import Network

SIDE = 8
SMALL = Network((16,), channels=(4, 4))


def image_log(episodes: int = 200, *, num_actions: int | None = 2, seed: int = 0) -> st.Dataset:
    """One bright square, left or right, on a noisy ground. The behaviour mostly goes away from it; going to it pays 1."""
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, episodes)
    images = rng.integers(0, 60, (episodes, SIDE, SIDE, 1)).astype(np.uint8)
    row = rng.integers(0, SIDE - 2, episodes)
    for k in range(episodes):
        column = side[k] * (SIDE - 3) + rng.integers(0, 2)
        images[k, row[k] : row[k] + 2, column : column + 2] = 255
    towards = rng.random(episodes) < 0.3
    action = np.where(towards, side, 1 - side).astype(np.int32)
    columns = {
        "episode": np.arange(episodes),
        "observation": images,
        "action": action if num_actions else np.stack([action, action], 1).astype(np.float32),
        "reward": towards.astype(np.float32),
        "terminated": np.ones(episodes, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=num_actions))


def agreement(policy: object, log: st.Dataset, towards: bool) -> float:
    """How often the policy goes towards the square (or away from it)."""
    paid = log.reward > 0.5
    side = np.where(paid, log.action, 1 - log.action)
    chosen = np.asarray(policy.mode(log.observation))  # type: ignore[attr-defined]
    return float((chosen == (side if towards else 1 - side)).mean())


@pytest.mark.slow
def test_pixels_stay_bytes_until_the_network_scales_them() -> None:
    log = image_log(20)
    assert log.observation_table.dtype == np.uint8
    run = st.fit(st.BC(network=SMALL), log, updates=1, progress=False)
    assert run.scaling.mean.shape == (0,)
    network = run.states[0].actor.model.network
    dark, bright = np.zeros((1, SIDE, SIDE, 1), np.uint8), np.full((1, SIDE, SIDE, 1), 255, np.uint8)
    # Convolutions without biases are homogeneous: 255 is 1 to them, so half the bytes give half the first layer.
    first = np.asarray(network(bright.astype(np.float32)))
    np.testing.assert_allclose(np.asarray(network(bright)), first, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(network(dark)), np.asarray(network(dark.astype(np.float32))), rtol=1e-5)


@pytest.mark.slow
def test_bc_imitates_and_iql_goes_to_what_paid() -> None:
    train, fresh = image_log(400), image_log(100, seed=1)
    bc = st.fit(st.BC(network=SMALL, learning_rate=3e-3), train, updates=150, batch_size=32, progress=False)
    assert agreement(bc.policy, fresh, towards=False) > 0.9
    iql = st.IQL(network=SMALL, learning_rate=3e-3, inverse_temperature=10.0, target_rate=0.05)
    run = st.fit(iql, train, updates=250, batch_size=32, progress=False)
    assert agreement(run.policy, fresh, towards=True) > 0.9
    value = run.values[0]
    paid = fresh.reward > 0.5
    q = np.asarray(value.q(fresh.observation, fresh.action))
    assert q[paid].mean() > q[~paid].mean() + 0.5


def test_a_policy_of_images_is_saved_and_loaded(tmp_path: object) -> None:
    from stitchrl.nn.saving import load_policy_file, save_policy_file

    log = image_log(20)
    run = st.fit(st.BC(network=SMALL), log, updates=2, out=tmp_path / "run", progress=False)
    save_policy_file(tmp_path / "policy", run.policy)
    expected = np.asarray(run.policy.probs(log.observation))
    np.testing.assert_array_equal(load_policy_file(tmp_path / "policy").probs(log.observation), expected)
    np.testing.assert_array_equal(st.load(tmp_path / "run").policy.probs(log.observation), expected)


@pytest.mark.parametrize("algorithm", [st.TD3BC(), st.CQL(), st.IQL()], ids=lambda a: a.name)
def test_critics_of_continuous_actions_refuse_images(algorithm: object) -> None:
    with pytest.raises(ConfigurationError, match=r"this log's observations are images of shape \(8, 8, 1\)"):
        st.fit(algorithm, image_log(10, num_actions=None), updates=1, progress=False)
    run = st.fit(st.BC(network=SMALL), image_log(10, num_actions=None), updates=1, progress=False)
    assert np.asarray(run.policy.mode(image_log(10, num_actions=None).observation)).shape == (10, 2)
