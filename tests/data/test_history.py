"""Logs whose observations hold the last ones too, by hand, and what learns from them where a bit is seen once only."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import fitted, plain
from worlds import full_columns, random_continuous_log, random_log, schema_of, tiny_log

import stitchrl as st
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.history import without_history
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.evaluation.policy_actions import log_densities
from stitchrl.evaluation.probabilities import probabilities_on, taken
from stitchrl.evaluation.remembering import RememberingPolicy
from stitchrl.nn.origin import remember_origin
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import StandardizedPolicy


def test_each_row_holds_the_last_observations_of_its_episode() -> None:
    log = tiny_log(**full_columns())
    found = st.with_history(log, 3)
    before = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [5, 5, 5]])
    np.testing.assert_array_equal(found.observation, log.observation[before].reshape(6, -1))
    np.testing.assert_array_equal(found.continues, log.continues)
    np.testing.assert_array_equal(found.can_bootstrap, log.can_bootstrap)
    after = found.observation_table[found.next_observation_index]
    np.testing.assert_array_equal(after[0], found.observation[1])
    for row in (2, 4, 5):  # ends whose next observation is in the log
        np.testing.assert_array_equal(after[row, :4], found.observation[row, 2:])
        np.testing.assert_array_equal(after[row, 4:], log.observation_table[log.next_observation_index[row]])
    assert st.with_history(log, 1) is log
    assert found.num_episodes == log.num_episodes
    assert found.content_hash != log.content_hash


def test_missing_rows_begin_anew_and_unknown_ends_stay_unknown() -> None:
    log = tiny_log()
    broken = log.next_observation_index.copy()
    broken[[0, 4]] = -1
    found = st.with_history(dataclasses.replace(log, next_observation_index=broken), 2)
    before = np.array([[0, 0], [1, 1], [1, 2], [3, 3], [3, 4], [5, 5]])
    np.testing.assert_array_equal(found.observation, log.observation[before].reshape(6, -1))
    assert found.next_observation_index.tolist()[0] == found.next_observation_index.tolist()[4] == -1


def test_named_columns_are_named_anew_and_back() -> None:
    schema = Schema(
        {"episode": "stay", "observation": ("pulse", "unit"), "action": "a", "reward": "r", "terminated": "end"},
        num_actions=3,
        observations={"unit": ColumnRule(categories=("x", "y"))},
    )
    columns = {
        "stay": [1, 1],
        "pulse": [60.0, 80.0],
        "unit": ["x", "y"],
        "a": [0, 1],
        "r": [0.0, 1.0],
        "end": [False, True],
    }
    log = st.read(columns, schema)
    found = st.with_history(log, 2)
    assert found.schema.columns["observation"] == ("pulse (1 before)", "unit (1 before)", "pulse", "unit")
    assert set(found.schema.observations) == {"unit", "unit (1 before)"}
    assert len(found.observation_names) == found.observation_size == 2 * log.observation_size
    assert without_history(found.schema, 2) == dataclasses.replace(log.schema)
    with pytest.warns(StitchRLWarning, match="is 4, and the longest episode of this log has 2 steps"):
        four = st.with_history(log, 4)
    for trained_on, history, fits in (
        (found, 2, True),
        (log, 1, True),
        (log, 3, False),
        (four, 2, False),
    ):
        size = trained_on.observation_size
        inner = CategoricalPolicy(plain(weights=np.zeros((size, 3)), biases=np.zeros(3)))
        policy = StandardizedPolicy(jnp.zeros(size), jnp.ones(size), inner)
        remember_origin(policy, trained_on.schema, None)
        if fits:
            assert st.HistoryPolicy(policy, history).history == history
        else:
            with pytest.raises(
                ConfigurationError, match=rf"on whose log the policy was trained; got {history}, and.* are pulse"
            ):
                st.HistoryPolicy(policy, history)


def test_what_cannot_be_stacked_is_refused() -> None:
    for wrong in (0, True):
        with pytest.raises(
            ConfigurationError, match="`history` of with_history must be a whole number of at least 1; got"
        ):
            st.with_history(tiny_log(), wrong)
    with pytest.raises(ConfigurationError, match="got a str"):
        st.HistoryPolicy("mine", 2)
    run = fitted(st.BC(hidden_sizes=(4,)), tiny_log(), updates=0)
    with pytest.raises(
        ConfigurationError, match="got 3, and the policy takes 2 numbers at once, which are not 3 observations"
    ):
        st.HistoryPolicy(run.policy, 3)
    with pytest.raises(ConfigurationError, match="`history` of HistoryPolicy must be at least 1"):
        st.HistoryPolicy(run.policy, 0)


def test_more_observations_than_the_longest_episode_has_steps_are_warned_of() -> None:
    log = tiny_log()
    assert log.episode_lengths.tolist() == [3, 2, 1]
    with pytest.warns(
        StitchRLWarning, match="is 4, and the longest episode of this log has 3 steps: .* At most 3 is of use"
    ):
        found = st.with_history(log, 4)
    oldest = found.observation[:, : log.observation_size]
    np.testing.assert_array_equal(oldest, found.observation[:, log.observation_size : 2 * log.observation_size])
    st.with_history(log, 3)  # says nothing: a warning would be an error here


def test_what_is_no_log_is_refused_with_the_way_to_one() -> None:
    for function, name in ((st.with_history, "st.with_history"), (st.audit, "st.audit")):
        with pytest.raises(ConfigurationError, match=rf"`{name}` takes a log .* Give `st.read\('stays.parquet'\)`"):
            inspect.unwrap(function)(Path("stays.parquet"), 2)
    with pytest.raises(ConfigurationError, match=r"a Dataset as `st.read` gives it; got an object of the class dict"):
        inspect.unwrap(st.evaluate)(None, {"reward": [1.0]})


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_remembering_is_what_was_learned_side_by_side(kind: str) -> None:
    log = random_log(20) if kind == "discrete" else random_continuous_log(20)
    stacked = st.with_history(log, 3)
    policy = fitted(st.BC(learning_rate=1e-2, hidden_sizes=(4,)), stacked).policy
    remembers = st.HistoryPolicy(policy, 3)
    assert remembers.schema is not None
    assert remembers.schema.observation_columns == log.schema.observation_columns
    found = RememberingPolicy(remembers).log_prob_on(log)
    if kind == "discrete":
        expected = np.log(taken(probabilities_on(policy, stacked), stacked))
    else:
        expected = log_densities(policy, stacked.observation, stacked.action)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- a bit that is seen once -----------------------------------------------------------------------------------------


@cache
def bits(expert: bool) -> st.Dataset:
    """Two steps: first a bit is seen, then nothing; the second action pays 1 if it is the bit. Experts know, others guess."""
    rng = np.random.default_rng(0)
    bit = rng.integers(0, 2, 200)
    second = bit if expert else rng.integers(0, 2, 200)
    columns = {
        "episode": np.repeat(np.arange(200), 2),
        "observation": np.stack([2.0 * bit - 1.0, np.zeros(200)], axis=1).reshape(-1, 1).astype(np.float32),
        "action": np.stack([rng.integers(0, 2, 200), second], axis=1).reshape(-1),
        "reward": np.stack([np.zeros(200), second == bit], axis=1).reshape(-1).astype(np.float32),
        "terminated": np.tile([False, True], 200),
        "behavior_probs": np.full((400, 2), 0.5),
    }
    return st.read(columns, schema_of(columns, 2, 1.0))


def value(policy: Any) -> float:
    """The exact value of a policy: the probability that its second action is the bit, over both bits."""
    obs = jnp.array([[[1.0], [0.0]], [[-1.0], [0.0]]])
    if isinstance(policy, st.MemoryPolicy):
        action = jnp.array([[0, 1], [0, 0]])
        return float(jnp.exp(policy.log_probs_along(obs, action, jnp.zeros((2, 2))))[:, 1].mean())
    probs = np.asarray(policy.probs(obs[:, 1]))
    return float((probs[0, 1] + probs[1, 0]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BC", pytest.param("IQL", marks=pytest.mark.slow)])
def test_a_bit_seen_before_is_of_use_to_who_remembers(name: str) -> None:
    expert = name == "BC"
    more = {} if expert else {"gamma": 1.0, "target_rate": 0.1, "inverse_temperature": 10.0}
    algorithm = getattr(st, name)(learning_rate=1e-2, hidden_sizes=(16,), **more)
    settings = {"updates": 300, "log_every_updates": 300}
    forgets = fitted(algorithm, bits(expert), **settings).policy
    assert value(forgets) == pytest.approx(0.5, abs=1e-5)  # it does the same whatever the bit was
    run = fitted(algorithm, st.with_history(bits(expert), 2), **settings)
    remembers = st.HistoryPolicy(run.policy, 2)
    assert value(remembers) > 0.9
    if name == "IQL":  # the guessers' log judges both forms alike: by whole histories, and side by side
        one = st.evaluate(remembers, bits(False), estimators=("pdis",)).estimates["pdis"]
        two = st.evaluate(run.policy, st.with_history(bits(False), 2), estimators=("pdis",)).estimates["pdis"]
        assert one.value == pytest.approx(two.value, rel=1e-4)
        assert abs(one.value - value(remembers)) < 4 * one.standard_error
