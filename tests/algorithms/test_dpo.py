"""DPO: its loss by hand, the optimum that it is for, what tells it from AWR, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import KEY, last_bias, plain
from training_cases import StopHereError, stop_after
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.algorithms.awr import weighted_imitation_loss
from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.dpo import preference_loss
from stitchrl.diagnosis.preference_probe import measure_pairs
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.mdp.preferences import every_preference
from stitchrl.mdp.stitching import stitching_columns, stitching_world
from stitchrl.nn.distributions import Normal
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.testing import check_algorithm
from stitchrl.training.fit import fit_members

QUICK: dict[str, Any] = {"updates": 20, "batch_size": 8, "log_every_updates": 10, "progress": False}
TINY: dict[str, Any] = {"hidden_sizes": (8,), "behavior_updates": 5, "learning_rate": 1e-2}


# --- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradient_by_hand() -> None:
    # m = log 3 and 0, so that sigma(m) = 3/4 and 1/2; each slope is halved, for there are two pairs.
    beta, preferred, rejected = math.log(3), jnp.asarray([1.5, -0.2]), jnp.asarray([0.5, -0.2])
    gradient = jax.jit(jax.value_and_grad(preference_loss, argnums=(0, 1), has_aux=True))
    for smoothing, losses, slopes in (
        (0.0, [math.log(4 / 3), math.log(2)], [1 / 4, 1 / 2]),
        (0.1, [0.9 * math.log(4 / 3) + 0.1 * math.log(4), math.log(2)], [0.9 / 4 - 0.1 * 3 / 4, 0.9 / 2 - 0.1 / 2]),
    ):
        (_, metrics), (up, down) = gradient(preferred, rejected, np.float32(beta), np.float32(smoothing))
        np.testing.assert_allclose(up, -beta * np.asarray(slopes) / 2, rtol=1e-6)
        np.testing.assert_allclose(down, -up, rtol=1e-6)  # what was rejected becomes less likely
        assert (np.asarray(down) > 0).all()
        expected = {"preference/accuracy": 0.75, "preference/margin": beta / 2}  # the tie counts one half
        expected |= {"loss/actor": np.mean(losses), "log_ratio/preferred": 0.65, "log_ratio/rejected": 0.15}
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-5)


def test_no_term_of_awr_lowers_anything() -> None:
    weights = jnp.asarray([-3.0, 0.0, 2.0])
    gradient = jax.jit(jax.grad(lambda log_prob: weighted_imitation_loss(log_prob, weights, 1.0)[0]))
    assert (np.asarray(gradient(jnp.asarray([-1.0, -2.0, -0.5]))) < 0).all()  # a step down the loss raises each of them


def test_an_update_by_hand_of_segments_of_different_lengths() -> None:
    # pi = (1/2, 1/2), pi_ref = (3/4, 1/4). One decision is preferred to two; what stands in the second place does not count.
    algorithm = st.DPO(kl_weight=2.0, hidden_sizes=(), learning_rate=0.1)
    reference = CategoricalPolicy(plain(weights=[[0, 0]], biases=[math.log(3), 0]))
    state = algorithm.init(
        KEY, Spec.vectors(1, 2), {"start": CategoricalPolicy(plain(weights=[[0, 0]], biases=[0, 0]))}
    )
    batch = {
        "obs": jnp.zeros((2, 1, 2, 1)),
        "action": jnp.asarray([[[0, 1]], [[1, 1]]], jnp.int32),
        "valid": jnp.asarray([[[1.0, 0.0]], [[1.0, 1.0]]]),
    }
    step = Step(jnp.int32(0), jnp.int32(1))
    after, metrics = jax.jit(algorithm.update)(state, batch, {"start": reference}, KEY, step)
    up, down = math.log(2 / 3), 2 * math.log(2)
    margin = 2.0 * (up - down)
    expected = {
        "loss/actor": math.log(1 + math.exp(-margin)),
        "preference/accuracy": 0.0,
        "preference/margin": margin,
        "log_ratio/preferred": up,
        "log_ratio/rejected": down,
        "reference/kl": 0.5 * math.log(4 / 3),
    }
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, -0.1], rtol=1e-4)


def test_the_divergence_of_normals() -> None:
    far, near = (
        Normal(jnp.asarray([[1.0, 0.0]]), jnp.zeros((1, 2))),
        Normal(jnp.zeros((1, 2)), jnp.full((1, 2), math.log(2))),
    )
    expected = [2 * (math.log(2) + 1 / 8 - 1 / 2) + 1 / 8]
    np.testing.assert_allclose(jax.jit(lambda p, q: p.kl(q))(far, near), expected, rtol=1e-6)


# --- what it learns ----------------------------------------------------------------------------------------------------


def test_from_endless_exact_labels_it_learns_the_optimum_that_the_reference_holds_back() -> None:
    # Worths are logarithms of 1, 2 and 4, so that the judge prefers by thirds and fifths: 45 pairs say it exactly, and a
    # batch of all of them in their order is the loss over endless pairs.
    odds, reference = np.array([[1.0, 2.0, 4.0], [4.0, 1.0, 2.0]]), np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    pairs = []
    for state, of_state in enumerate(odds):
        for one in range(3):
            for other in set(range(3)) - {one}:
                times = 15 * of_state[one] / (of_state[one] + of_state[other])
                assert abs(times - round(times)) < 1e-9
                pairs += [(3 * state + one, 3 * state + other)] * round(times)
    columns = {
        "episode": np.arange(6),
        "observation": np.eye(2, dtype=np.float32)[np.repeat([0, 1], 3)],
        "action": np.tile(np.arange(3), 2),
        "reward": np.zeros(6),
        "terminated": np.ones(6, bool),
        "behavior_log_prob": np.log(reference).reshape(-1),
    }
    log = st.read(columns, st.Schema({name: name for name in columns}, num_actions=3))
    preferred, rejected = np.array(pairs).T
    beta, updates = 0.5, 500
    algorithm = st.DPO(
        kl_weight=beta,
        reference="logged",
        behavior_updates=0,
        hidden_sizes=(),
        learning_rate=0.05,
        decay_updates=updates,
    )
    settings: dict[str, Any] = {"sampling": "shuffled", "standardize": False, "progress": False}
    run = st.fit(
        algorithm, st.Preferences(log, preferred, rejected), updates=updates, batch_size=len(pairs), **settings
    )
    best = reference * odds ** (1 / beta)
    best /= best.sum(1, keepdims=True)
    probs = np.asarray(run.policy.probs(np.eye(2, dtype=np.float32)))
    np.testing.assert_allclose(probs, best, atol=1e-3)
    assert np.abs(best - reference).max() > 0.4
    # No policy has a smaller loss than the judge's own uncertainty.
    sure = odds[:, :, None] / (odds[:, :, None] + odds[:, None, :])
    off = ~np.eye(3, dtype=bool)
    least = -(sure * np.log(sure))[:, off].sum() / sure[:, off].sum()
    assert run.history[-1]["loss/actor"] == pytest.approx(least, rel=1e-4)


def test_the_mean_moves_beyond_the_preferred_action_and_an_interrupted_run_ends_there_too(tmp_path: Path) -> None:
    columns = {
        "observation": np.zeros((1, 1), np.float32),
        "preferred_action": np.full((1, 1), 0.2),
        "rejected_action": np.zeros((1, 1)),
    }
    pair, algorithm = st.read_preferences(columns), st.DPO(behavior_updates=100, hidden_sizes=(), learning_rate=0.02)
    settings: dict[str, Any] = {
        "updates": 100,
        "batch_size": 4,
        "seeds": [3, 1],
        "log_every_updates": 50,
        "progress": False,
    }
    run = st.fit(algorithm, pair, **settings)
    action, row = run.policy.mode(np.zeros((1, 1), np.float32)), run.history[-1]
    assert float(action[0, 0]) > 0.25  # a weighted mean of the two actions, as AWR's, would lie between them
    assert row["log_ratio/rejected"] < 0
    assert row["reference/kl"] > 0
    settings |= {"out": tmp_path, "save_every_updates": 50}
    with pytest.raises(StopHereError):
        st.fit(algorithm, pair, callbacks=[stop_after(1)], **settings)
    resumed = st.fit(algorithm, pair, **settings)
    assert_trees_equal(resumed.states, run.states)
    assert resumed.history == run.history
    loaded = st.load(tmp_path)
    assert isinstance(loaded, st.Run)
    assert_trees_equal(loaded.states, run.states)
    with pytest.raises(RunDirectoryError, match="log"):
        st.fit(algorithm, st.Preferences(pair.segments, pair.rejected, pair.preferred), **settings)


@pytest.mark.slow
def test_it_stitches_what_the_judge_knew_and_nothing_else() -> None:
    world, columns = stitching_world(), stitching_columns(1)
    log = st.read(columns, st.Schema({name: name for name in columns}, num_actions=2, gamma=1.0))
    a, b, c = 0, 1, 2  # the routes, which pay 3, 10 and 7
    routes = st.Preferences(log, np.array([c, b, b]), np.array([a, a, c]))
    best = world.action_values(world.optimal_policy())
    single = every_preference(world, np.full((9, 2), 0.5), best)
    algorithm = st.DPO(kl_weight=0.3, hidden_sizes=(), learning_rate=0.05, behavior_updates=200)
    arrives = {}
    for name, pairs in (("returns of routes", routes), ("worth of single actions", single)):
        run = st.fit(algorithm, pairs, updates=300, batch_size=64, standardize=False, progress=False)
        probs = np.asarray(run.policy.probs(np.eye(9, dtype=np.float32)), np.float64)
        arrives[name] = world.policy_value(np.eye(2)[probs.argmax(1)])
    assert arrives == {"returns of routes": 7.0, "worth of single actions": 10.0}


# --- in the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["behavior", "logged"])
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_it_passes_the_check_that_people_run_on_their_own(reference: str, kind: str) -> None:
    check_algorithm(st.DPO(reference=reference, **TINY), kinds=[kind])


@pytest.mark.slow
def test_the_check_sees_padding_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = st.DPO.measured
    algorithm = st.DPO(reference="logged", behavior_updates=5, hidden_sizes=(4,))  # no program of another test is used
    monkeypatch.setattr(
        st.DPO,
        "measured",
        lambda self, actor, batch, given: counts(self, actor, batch | {"valid": batch["valid"] + 1}, given),
    )
    with pytest.raises(AssertionError, match=r"rows beyond the end of an episode \(`valid` 0\) must not count"):
        check_algorithm(algorithm, kinds=["discrete"])


def test_what_it_refuses() -> None:
    log = random_log(8)
    pairs = st.Preferences(log, np.array([0, 1]), np.array([2, 3]))
    for algorithm, given, settings, sentence in (
        (st.DPO(), log, {}, r"DPO learns from preferences, not from a log: .* Got an object of the class Dataset\."),
        (st.IQL(), pairs, {}, r"IQL learns from a log with rewards, and was given preferences\. st\.DPO learns"),
        (st.DPO(), pairs, {"n_steps": 3}, r"`n_steps` of fit, 3, does nothing for DPO"),
        (st.DPO(), pairs, {"stream": True}, r"`stream` of fit, True, does nothing for DPO"),
        (st.DPO(), pairs, {"reward_scale": 2.0}, r"`reward_scale` of fit, 2\.0, does nothing for DPO"),
        (st.DPO(), pairs, {"sampling": st.EpisodeSampling()}, r"draws rows of a log, and DPO learns from pairs"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            st.fit(algorithm, given, updates=1, progress=False, **settings)
    with pytest.raises(ConfigurationError, match=r"DPO learns from preferences, not from a log: `st.read_preferences`"):
        fit_members([st.DPO()], log, updates=1, seeds=[0])  # as the main job and a race train their candidates
    with pytest.raises(DataError, match=r"needs the column `behavior_log_prob` in the segments; these have none\."):
        st.fit(st.DPO(reference="logged"), pairs, updates=1, progress=False)
    with pytest.raises(ConfigurationError, match=r"`label_smoothing` of DPO must be in \[0, 0\.5\); got 0\.5"):
        st.DPO(label_smoothing=0.5)


def test_a_probe_holds_out_pairs_only_for_what_learns_from_pairs() -> None:
    with pytest.raises(ConfigurationError, match="A probe with preferences measures runs of DPO; BC learns from a log"):
        measure_pairs(st.BC(), None, None, {})
    with pytest.raises(ConfigurationError, match="must have `behavior_log_prob`; these do not"):
        measure_pairs(st.DPO(reference="logged"), None, None, {})
