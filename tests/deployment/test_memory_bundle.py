"""Bundles of policies that remember their episode: they act step by step as the trained policy does, by JAX and by NumPy."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from commands import Command

import stitchrl as st
from stitchrl.deployment.memory_bundle import EpisodeState, MemoryBundle
from stitchrl.errors import CheckpointError, ConfigurationError, DataError, EvaluationError
from stitchrl.nn.memory import restarted
from stitchrl.pipeline.bundling import save_trained

EPISODES, STEPS, ACTIONS = 12, 7, 3
SMALL: dict[str, Any] = {"hidden_sizes": (16, 16), "heads": 2, "length": 4}
KINDS = ("decision transformer", "decision transformer of vectors", "chunks")


def stays(*, discrete: bool, seed: int = 0) -> st.Dataset:
    """Episodes with two named columns, a mask where actions are numbered, and rewards that differ."""
    rng, rows = np.random.default_rng(seed), EPISODES * STEPS
    columns: dict[str, Any] = {
        "stay": np.arange(rows) // STEPS,
        "pulse": rng.normal(70, 10, rows),
        "lactate": rng.normal(2, 0.5, rows),
        "reward": rng.normal(1, 2, rows),
        "end": np.arange(rows) % STEPS == STEPS - 1,
    }
    roles: dict[str, Any] = {
        "episode": "stay",
        "observation": ["pulse", "lactate"],
        "reward": "reward",
        "terminated": "end",
    }
    if discrete:
        columns["dose"] = rng.integers(0, ACTIONS, rows)
        described: dict[str, Any] = {"columns": roles | {"action": "dose"}, "action": {"count": ACTIONS}}
        described["columns"]["behavior_log_prob"] = "logp"
        columns["logp"] = np.full(rows, -np.log(ACTIONS))
    else:
        columns |= {"gas": rng.uniform(-1, 1, rows), "steer": rng.uniform(2, 4, rows)}
        described = {"columns": roles | {"action": ["gas", "steer"]}, "action": {"kind": "continuous"}}
    return st.read(pa.table(columns), st.Schema.from_dict(described))


def trained(kind: str) -> tuple[st.Run, st.Dataset]:
    log = stays(discrete=kind == "decision transformer")
    algorithm: Any = (
        st.QChunking(hidden_sizes=(8,), chunk=3)
        if kind == "chunks"
        else st.DecisionTransformer(**SMALL, target_return=9.0)
    )
    return st.fit(algorithm, log, updates=3, batch_size=8, progress=False), log


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[st.Run, st.Dataset, Path]]:
    found = {}
    for kind in KINDS:
        run, log = trained(kind)
        where = save_trained(run, log, tmp_path_factory.mktemp("trained"), label=kind)
        assert where is not None
        found[kind] = run, log, where
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_it_acts_as_the_trained_policy_does_whenever_episodes_begin(
    made: dict[str, tuple[st.Run, st.Dataset, Path]], kind: str, backend: str
) -> None:
    run, log, where = made[kind]
    bundle: Any = st.load_policy(where, backend=backend)
    assert isinstance(bundle, MemoryBundle)
    policy: Any = run.policy
    count, rng, state, answered = 3, np.random.default_rng(1), None, []
    carry = policy.initial_carry(count)
    last: Any = jnp.zeros((count, *policy.action_shape), jnp.float32 if policy.action_shape else jnp.int32)
    paid = np.zeros(count)
    for step in range(9):
        rows = log.observation[rng.integers(0, log.num_transitions, count)]
        begins = np.zeros(count, bool) if step != 5 else np.array([False, True, False])
        if begins.any():
            carry = restarted(policy, carry, begins)
        wanted, carry = policy.step(carry, rows, last, jnp.asarray(paid, jnp.float32))
        told = {} if step == 0 else {"last_reward": paid, "episode_start": begins}
        action, state = bundle.predict(rows, state, **told)
        np.testing.assert_allclose(action, wanted, atol=2e-6 * max(1.0, float(np.abs(wanted).max())))
        answered.append(action)
        executed = np.asarray(wanted)
        if step == 3:  # something else was done than what the policy answered
            executed = (executed + 1) % ACTIONS if bundle.discrete else executed * 0.5
            action, state = action, dataclasses.replace(state, last_action=executed)
        last, paid = jnp.asarray(executed), rng.normal(1, 2, count)
        state = pickle.loads(pickle.dumps(state))  # a service may keep it between two calls
    assert np.ptp(np.stack(answered).reshape(9 * count, -1), axis=0).min() > 0  # it does not do the same always


@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_named_rows_rewards_and_executed_actions_count(
    made: dict[str, tuple[st.Run, st.Dataset, Path]], backend: str
) -> None:
    where = made["decision transformer of vectors"][2]
    bundle: Any = st.load_policy(where, backend=backend)
    row, after = {"pulse": 70.0, "lactate": 2.0}, {"pulse": 75.0, "lactate": 2.5}
    first, state = bundle.predict(row)
    assert first.shape == (2,)
    assert repr(state) == "EpisodeState(1 episode, steps so far: 1)"
    plain, later = bundle.predict(after, state, last_reward=1.0)
    again, _ = bundle.predict(after, state, last_reward=1.0)
    np.testing.assert_array_equal(plain, again)  # the state that was given is not changed
    assert repr(later) == "EpisodeState(1 episode, steps so far: 2)"
    richer, _ = bundle.predict(after, state, last_reward=8.0)
    other, _ = bundle.predict(after, state, last_reward=1.0, last_action=[0.9, 2.1])
    new, _ = bundle.predict(after, state, True, last_reward=8.0)
    alone, _ = bundle.predict(after)
    assert np.abs(richer - plain).max() > 1e-6
    assert np.abs(other - plain).max() > 1e-6
    np.testing.assert_array_equal(new, alone)
    if backend == "jax":
        assert np.abs(bundle.towards(30.0).predict(row)[0] - first).max() > 1e-6
    else:
        with pytest.raises(ConfigurationError, match="A policy of NumPy cannot be told another return"):
            bundle.towards(30.0)


def test_draws_and_masks_of_numbered_actions(made: dict[str, tuple[st.Run, st.Dataset, Path]]) -> None:
    _, log, where = made["decision transformer"]
    rows = log.observation[:60]
    ours, theirs = (st.load_policy(where, backend=backend) for backend in ("jax", "numpy"))
    drawn = [bundle.predict(rows, deterministic=False, seed=4)[0] for bundle in (ours, theirs)]
    np.testing.assert_array_equal(*drawn)
    assert set(drawn[0].tolist()) == {0, 1, 2}
    mask = np.tile([True, False, True], (60, 1))
    for bundle in (ours, theirs):
        assert 1 not in bundle.predict(rows, deterministic=False, seed=4, action_mask=mask)[0]
        greedy = bundle.greedy()
        np.testing.assert_array_equal(greedy.predict(rows, deterministic=False)[0], bundle.predict(rows)[0])


def test_the_guard_refuses_or_clips(made: dict[str, tuple[st.Run, st.Dataset, Path]], tmp_path: Path) -> None:
    _, log, where = made["decision transformer"]
    bundle: Any = st.load_policy(where, backend="numpy")
    rows = log.observation[:2].copy()
    rows[1, 0] = 900.0
    with pytest.raises(DataError, match="pulse is 900 in row 1"):
        bundle.predict(rows)
    clipped, _ = bundle.guarded("clip").predict(rows)
    np.testing.assert_array_equal(clipped, bundle.predict(bundle.guard.clipped(rows))[0])
    np.testing.assert_array_equal(bundle.guarded("clip").guarded().predict(rows[:1])[0], clipped[:1])
    for other in ("behavior", 2):
        with pytest.raises(ConfigurationError, match=r'must "refuse" or "clip"; got .* act by other means'):
            bundle.guarded(other)
    # A file that was changed by hand says it at once, and not in the middle of an episode.
    shutil.copytree(where, tmp_path / "policy")
    card = json.loads((tmp_path / "policy" / "policy.json").read_text())
    card["guard"]["on_outside"] = 2
    (tmp_path / "policy" / "policy.json").write_text(json.dumps(card))
    with pytest.raises(
        CheckpointError, match="must be refuse, clip, answer, since the policy remembers its episode; got 2"
    ):
        st.load_policy(tmp_path / "policy")


def test_an_episode_that_begins_ignores_what_was_before(made: dict[str, tuple[st.Run, st.Dataset, Path]]) -> None:
    _, log, where = made["decision transformer"]
    bundle: Any = st.load_policy(where, backend="numpy")
    rows = log.observation[:2]
    first, state = bundle.predict(rows, last_reward=[np.nan, np.inf], last_action=[9, 9])
    np.testing.assert_array_equal(first, bundle.predict(rows)[0])
    told: dict[str, Any] = {"last_reward": [np.nan, 1.0], "last_action": [99, 2]}
    action, after = bundle.predict(rows, state, [True, False], **told)
    assert action[0] == first[0]
    assert after.steps.tolist() == [1, 2]
    with pytest.raises(DataError, match="`last_reward` must be one finite number"):
        bundle.predict(rows, state, [False, True], last_reward=[np.nan, 1.0])
    # What the caller does to its action is not what was answered, unless it says so.
    kept = state.last_action.copy()
    first[:] = 7
    np.testing.assert_array_equal(state.last_action, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_no_episodes_at_all(made: dict[str, tuple[st.Run, st.Dataset, Path]], kind: str) -> None:
    bundle: Any = st.load_policy(made[kind][2], backend="numpy")
    action, state = bundle.predict([])
    assert len(action) == len(state) == 0
    assert repr(state) == "EpisodeState(0 episodes, steps so far: 0)"


def test_what_is_refused_and_how_it_is_said(made: dict[str, tuple[st.Run, st.Dataset, Path]]) -> None:
    _, log, where = made["decision transformer"]
    bundle: Any = st.load_policy(where, backend="numpy")
    _, state = bundle.predict(log.observation[:2])
    assert isinstance(state, EpisodeState)
    two = log.observation[:2]
    strange = st.load_policy(made["chunks"][2], backend="numpy").predict(two)[1]  # type: ignore[union-attr]
    of_jax = st.load_policy(where).predict(two)[1]  # type: ignore[union-attr]
    for error, words, ask in (
        (DataError, "`last_reward` is missing: give what the step before paid", lambda: bundle.predict(two, state)),
        (DataError, "`state` is of 2 episodes, and the observation has 1 rows", lambda: bundle.predict(two[0], state)),
        (DataError, "`state` must be what the step before gave back", lambda: bundle.predict(two, (1, 2))),
        (
            DataError,
            "`last_reward` must be one finite number",
            lambda: bundle.predict(two, state, last_reward=[1, np.nan]),
        ),
        (DataError, "`last_reward` must be a number for each", lambda: bundle.predict(two, state, last_reward="much")),
        (DataError, "`episode_start` must be True or False", lambda: bundle.predict(two, state, [True])),
        (DataError, "Actions must be whole numbers from 0", lambda: bundle.predict(two, state, last_action=[0, 7])),
        (DataError, "`last_action` must hold one action per row", lambda: bundle.predict(two, state, last_action=[0])),
        (DataError, "`state` is of another policy, or of this one with another", lambda: bundle.predict(two, strange)),
        (DataError, "`state` is of another policy, or of this one with another", lambda: bundle.predict(two, of_jax)),
        (DataError, "an observation alone does not say what it does", lambda: bundle.probs(two)),
        (DataError, "an observation alone does not say what it does", lambda: bundle.mode(two)),
        (DataError, "an observation alone does not say what it does", lambda: bundle.sample(two)),
        (DataError, "an observation alone does not say what it does", lambda: bundle.log_prob(two, [0, 1])),
        (ConfigurationError, "remembers its episode cannot be clipped", lambda: bundle.clipped(0, 1)),
        (ConfigurationError, "remembers its episode cannot be smoothed", lambda: bundle.smoothed(1, 0, 1)),
        (
            ConfigurationError,
            "is a bundle, whose guard cannot act",
            lambda: st.rollout(bundle, "CartPole-v1", episodes=1),
        ),
    ):
        with pytest.raises(error, match=words):
            ask()
    # Chunks do not ask for rewards.
    chunks: Any = st.load_policy(made["chunks"][2], backend="numpy")
    assert not chunks.uses_reward
    _, state = chunks.predict(two)
    chunks.predict(two, state)


def test_it_is_judged_as_the_policy_of_its_run(made: dict[str, tuple[st.Run, st.Dataset, Path]]) -> None:
    run, log, where = made["decision transformer"]
    fresh = stays(discrete=True, seed=9)
    bundle: Any = st.load_policy(where)
    estimates = [
        st.evaluate(one, fresh, estimators=("wis",), force=True).estimates["wis"] for one in (bundle, run.policy)
    ]
    assert estimates[0].value == estimates[1].value
    with pytest.raises(EvaluationError, match="learned from this very log"):
        st.evaluate(bundle, log, estimators=("wis",))
    moved = fresh.observation_table + np.where(np.arange(len(fresh.observation_table)) % 5, 0.0, 90.0)[:, None]
    far = dataclasses.replace(fresh, observation_table=moved.astype(np.float32))
    caveats = st.evaluate(bundle, far, estimators=("wis",), force=True).verdict.caveats
    (outside,) = [one for one in caveats if "outside the range that the policy learned from" in one]
    assert outside.endswith("the estimates are of the policy without its guard.")  # `guarded` would be refused here
    with pytest.raises(EvaluationError, match="is judged without its guard"):
        st.evaluate(bundle.guarded("clip"), fresh, estimators=("wis",))
    with pytest.raises(EvaluationError, match="load the bundle with JAX"):
        st.evaluate(st.load_policy(where, backend="numpy"), fresh, estimators=("wis",))


def test_a_damaged_file_is_refused(made: dict[str, tuple[st.Run, st.Dataset, Path]], tmp_path: Path) -> None:
    from stitchrl.storage.tensors import read_tensors, write_tensors

    shutil.copytree(made["decision transformer"][2], tmp_path / "policy")
    file = tmp_path / "policy" / "policy.safetensors"
    arrays, header = read_tensors(file)
    name = next(name for name in arrays if name.endswith("embed_action.weight"))
    write_tensors(file, arrays | {name: arrays[name][:2]}, header)
    with pytest.raises(CheckpointError, match="does not describe a policy: it sees 2 actions and gives 3"):
        st.load_policy(tmp_path / "policy")
    name = next(name for name in arrays if name.endswith("inner.weight"))
    write_tensors(file, arrays | {name: arrays[name][:2]}, header)
    with pytest.raises(CheckpointError, match="the tensors of its policy do not fit each other"):
        st.load_policy(tmp_path / "policy")


@pytest.mark.slow
def test_the_command_that_trains_leaves_it(tmp_path: Path, stitchrl: Command) -> None:
    log = st.convert(stays(discrete=True), tmp_path / "log")
    out = tmp_path / "run"
    done = stitchrl("train", log, "--out", out, "--algorithm", "DecisionTransformer", "--updates", 0)
    assert done.status == 0, done.err
    assert "The policy of seed 0 is a bundle" in done.out
    assert json.loads((out / "policy" / "policy.json").read_text())["provenance"]["algorithm"] == "DecisionTransformer"
    fresh = st.convert(stays(discrete=True, seed=9), tmp_path / "fresh")
    assert stitchrl("evaluate", out, fresh, "--estimators", "wis").status == 0
    done = stitchrl("predict", out / "policy", fresh, "--out", tmp_path / "actions.csv")
    assert done.status == 2
    assert "asks a policy row by row, and this one remembers its episode" in done.err
