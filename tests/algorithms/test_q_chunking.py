"""Q-chunking: its columns, targets and weights by hand, FQL for chunks of one, and values of chunks in an exact world."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, KEY, SPECS, fitted
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.flow_losses import flow_matching_loss
from stitchrl.algorithms.q_chunking import QChunking, target_weight
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.chunk import ChunkPolicy
from stitchrl.nn.one_step import OneStepPolicy


def log_of(columns: dict[str, np.ndarray], size: int = 1) -> st.Dataset:
    """A log with actions in [-1, 1]."""
    schema = schema_of(columns, num_actions=None)
    return st.read(columns, dataclasses.replace(schema, action_low=(-1.0,) * size, action_high=(1.0,) * size))


@cache
def three_ends() -> st.Dataset:
    """Five rows that terminate, then four that are cut where what followed is known, then three where it is not."""
    lengths = (5, 4, 3)
    count = sum(lengths)
    last = np.cumsum(lengths) - 1
    seen = np.arange(count, dtype=np.float32)[:, None]
    after = seen + 1
    after[last[2]] = np.nan
    return log_of(
        {
            "episode": np.repeat(np.arange(3), lengths),
            "observation": seen,
            "next_observation": after,
            "action": (0.01 * seen).astype(np.float32),
            "reward": 10.0 + np.arange(count, dtype=np.float32),
            "terminated": np.isin(np.arange(count), last[:1]),
            "truncated": np.isin(np.arange(count), last[1:]),
        }
    )


def test_columns_targets_and_weights_by_hand() -> None:
    log = three_ends()
    algorithm = QChunking(chunk=3, gamma=0.5)
    scaling = Scaling.of(log, standardize=False)
    columns = algorithm.prepare(log, scaling, key=KEY).columns
    np.testing.assert_array_equal(columns["chunk_length"], [3, 3, 3, 2, 1, 3, 3, 2, 1, 3, 2, 1])
    np.testing.assert_allclose(columns["chunk"][[0, 3, 8], :, 0], [[0, 0.01, 0.02], [0.03, 0.04, 0], [0.08, 0, 0]])
    source = transition_source(log, scaling, columns=columns, n_steps=algorithm.target_steps)
    batch = dict(source.sample(source.arrays, jnp.arange(12), jnp.int32(0)))
    found = target_weight(batch["td_weight"], batch["terminated"], batch["steps"], 3)
    # Rows 2, 3 and 4 end with the episode, which terminated. Rows 7 and 8 are cut within the chunk. What followed the last row
    # is not known, so that no chunk from row 9 on is known to have been carried out.
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    reward, discount = algorithm.td_return(batch)
    wanted = [10 + 5.5 + 3, 11 + 6 + 3.25, 12 + 6.5 + 3.5, 13 + 7, 14, 15 + 8 + 4.25, 16 + 8.5 + 4.5]
    np.testing.assert_allclose(reward[:7], wanted)
    np.testing.assert_allclose(discount[:7], [0.125, 0.125, 0, 0, 0, 0.125, 0.125])
    np.testing.assert_allclose(batch["next_obs"][[0, 1, 5, 6], 0], [3, 4, 8, 9])


def test_actions_beyond_the_end_are_not_imitated() -> None:
    # Actions less noise (0, 1.5) and (-1, -1); velocities miss by (1, -0.5) and (0, 1), of which the last does not count.
    velocity = jnp.asarray([[1.0, 1.0], [-1.0, 0.0]])
    noise, action = jnp.asarray([[0.5, -1.0], [0.0, 2.0]]), jnp.asarray([[0.5, 0.5], [-1.0, 1.0]])
    weight = jnp.asarray([[1.0, 1.0], [1.0, 0.0]])
    loss, gradient = jax.value_and_grad(flow_matching_loss)(velocity, noise, action, weight)
    assert float(loss) == pytest.approx((1 + 0.25) / 4)
    np.testing.assert_allclose(gradient, [[0.5, -0.25], [0.0, 0.0]])


def test_chunks_of_one_are_fql() -> None:
    fql, chunks = CASES["FQL continuous"], CASES["QChunking continuous"].with_settings(chunk=1)
    assert isinstance(chunks.algorithm.policy(chunks.state(), None), OneStepPolicy)
    batch = fql.batch()
    one, two = fql.state(), chunks.state()
    assert_trees_equal(one.critics, two.critics)
    for update in range(3):
        one, found = fql.update(one, batch, jax.random.key(update))
        two, others = chunks.update(two, batch, jax.random.key(update))
    for name in one._fields:
        assert_trees_equal(getattr(one, name), getattr(two, name), rtol=1e-6, atol=1e-7)
    assert {name: float(value) for name, value in others.items() if name in found} == pytest.approx(
        {name: float(value) for name, value in found.items()}, rel=1e-5
    )


@pytest.mark.slow
def test_what_the_log_does_not_have_of_a_chunk_changes_nothing() -> None:
    case = CASES["QChunking continuous"]
    batch = case.batch()
    beyond = batch["chunk_length"] < 2
    assert beyond.any()
    other = jnp.where(beyond[:, None, None] & (jnp.arange(2) == 1)[None, :, None], 0.77, batch["chunk"])
    assert (np.asarray(other) != np.asarray(batch["chunk"])).any()
    assert_trees_equal(case.update(case.state(), batch)[0], case.update(case.state(), batch | {"chunk": other})[0])


# --- an exact world --------------------------------------------------------------------------------------------------

GAMMA = 0.9


@cache
def chancy_world() -> st.Dataset:
    """At 0 an action a pays a / 2, and half of the episodes end there. The others go on to 1, where an action pays itself, and
    then to 2 and 3, where each step pays 1 and the second ends. Actions are normal around 0, which a flow learns at once."""
    rng = np.random.default_rng(0)
    rows: list[tuple[int, float, float, float, bool]] = []
    for number in range(600):
        one, two, three, four = np.clip(0.35 * rng.standard_normal(4), -1.0, 1.0)
        stops = bool(rng.random() < 0.5)
        rows.append((number, 0.0, one, one / 2, stops))
        if not stops:
            rows += [
                (number, 1.0, two, two, False),
                (number, 2.0, three, 1.0, False),
                (number, 3.0, four, 1.0, True),
            ]
    episode, seen, action, reward, ended = map(np.asarray, zip(*rows, strict=True))
    return log_of(
        {
            "episode": episode,
            "observation": np.eye(4, dtype=np.float32)[seen.astype(int)],
            "action": action[:, None].astype(np.float32),
            "reward": reward.astype(np.float32),
            "terminated": ended,
        }
    )


@cache
def chancy_run(acting: Any) -> Any:
    """Q-chunking, two actions a chunk."""
    algorithm = QChunking(
        gamma=GAMMA, chunk=2, acting=acting, acting_candidates=4, flow_steps=20, distill_weight=10.0, learning_rate=1e-2,
        target_rate=0.05, network=st.Network((32,), activation="gelu"), decay_updates=1000,
    )  # fmt: skip
    return fitted(algorithm, chancy_world(), updates=1000, log_every_updates=1000, batch_size=128)


@pytest.mark.slow
def test_the_value_of_a_chunk_counts_the_episodes_that_end_within_it() -> None:
    run = chancy_run("one step")
    critics, scaling = run.states[0].critics.model, run.scaling
    grid = jnp.asarray(np.stack(np.meshgrid([-0.4, 0.0, 0.4], [-0.4, 0.0, 0.4]), -1).reshape(9, 2), jnp.float32)
    obs = jnp.asarray(scaling.observations(np.repeat(np.eye(4, dtype=np.float32), 9, 0)))
    q = np.mean(np.asarray(critics(obs, jnp.tile(grid, (4, 1)))), 0).reshape(4, 9)
    one, two = np.asarray(grid).T
    beyond = 1 + GAMMA
    # Were rows left out whose episode ends within the chunk, the first would be of those that go on alone: 0.6 to 1 larger.
    np.testing.assert_allclose(q[0], one / 2 + 0.5 * (GAMMA * two + GAMMA**2 * beyond), atol=0.2)
    np.testing.assert_allclose(q[1], one + GAMMA + GAMMA**2, atol=0.2)
    np.testing.assert_allclose(q[2:], np.broadcast_to([[1 + GAMMA], [1.0]], (2, 9)), atol=0.1)


@pytest.mark.slow
def test_the_policy_chooses_a_chunk_and_the_best_of_draws_needs_no_actor() -> None:
    run = chancy_run("one step")
    assert isinstance(run.policy.policy, ChunkPolicy)
    assert not run.policy.has_density
    state = QChunking(chunk=2, acting="best of", hidden_sizes=(4,), flow_steps=1)
    held = state.init(KEY, SPECS["continuous"], None)
    assert held.actor is None
    policy = state.policy(held, None)
    assert isinstance(policy.planner, BestOfPolicy)
    assert policy.planner.joined == "mean"
    assert policy.planner.noise.shape == (32, 4)


def test_settings_and_refusals() -> None:
    assert not QChunking(chunk=1).has_memory
    assert QChunking(chunk=2).has_memory
    with pytest.raises(ConfigurationError, match=r"QChunking needs continuous actions; .* IQL or CQL learn from it\."):
        QChunking().init(KEY, SPECS["discrete"], None)
    message = r"QChunking has 2 steps of reward in its targets by its own settings; `n_steps` of fit gives .* 3\. Leave it out"
    with pytest.raises(ConfigurationError, match=message):
        fitted(ALL["QChunking"], three_ends(), n_steps=3)
    assert QChunking.preset("cube-triple one step") == QChunking()


def test_a_chunk_that_no_episode_can_fill_is_refused() -> None:
    log = three_ends()
    columns = {
        "episode": np.repeat(np.arange(2), (4, 3)),
        "observation": log.observation[5:],
        "next_observation": np.where(np.arange(7)[:, None] == 6, np.nan, log.next_observation[5:]),
        "action": log.action[5:],
        "reward": log.reward[5:],
        "terminated": np.zeros(7, bool),
        "truncated": np.isin(np.arange(7), (3, 6)),
    }
    cut = log_of(columns)
    scaling = Scaling.of(cut, standardize=False)
    message = (
        r"`chunk` of QChunking is 5, and the longest episode of this log has 4 rows in sequence .*; use at most 4\."
    )
    with pytest.raises(ConfigurationError, match=message):
        QChunking(chunk=5).prepare(cut, scaling, key=KEY)
    QChunking(chunk=4).prepare(cut, scaling, key=KEY)
    # An episode that terminates has TD targets however short it is.
    QChunking(chunk=50).prepare(log, Scaling.of(log, standardize=False), key=KEY)
