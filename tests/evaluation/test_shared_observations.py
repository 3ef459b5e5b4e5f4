"""Where rows share observations, networks are asked once for each: the numbers are those of asking for every row."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import stitchrl as st
from stitchrl.data import shared_observations
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation import fitted_q, probabilities
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy

ROWS, STATES, ACTIONS, SIZE = 60, 6, 3, 2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> st.Dataset:
    """Few states and many rows, some of the same state under other masks, the last one cut without a next observation."""
    rng = np.random.default_rng(0)
    state = rng.integers(STATES, size=ROWS)
    table = rng.normal(size=(STATES, SIZE)).astype(np.float32)
    mask = rng.random((ROWS, ACTIONS)) < 0.6
    mask[np.arange(ROWS), rng.integers(ACTIONS, size=ROWS)] = True
    ended = np.arange(ROWS) % 10 == 9
    columns = {
        "episode": np.arange(ROWS) // 10,
        "observation": table[state],
        "action": np.array([rng.choice(np.flatnonzero(row)) for row in mask]),
        "reward": rng.normal(size=ROWS),
        "terminated": ended & (np.arange(ROWS) < ROWS - 1),
        "truncated": np.arange(ROWS) == ROWS - 1,
        "action_mask": mask,
    }
    schema = st.Schema({name: name for name in columns}, num_actions=ACTIONS)
    own = st.read(columns, schema)
    monkeypatch.setattr(shared_observations, "SAMPLE", ROWS)
    found = st.read(columns, schema)
    assert len(own.observation_table) == ROWS
    assert len(found.observation_table) == STATES
    assert found.content_hash == own.content_hash
    for name in ("observation", "next_observation", "continues"):
        np.testing.assert_array_equal(getattr(found, name), getattr(own, name))
    return found


def test_different_observations_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_observations, "SAMPLE", 4)
    table = np.array([[0.0], [-0.0], [2.0], [1.0]], np.float32)
    columns = {"observation": table, "action": np.zeros(4, int), "reward": np.zeros(4), "terminated": np.ones(4, bool)}
    found = st.read(columns | {"episode": np.arange(4)})
    assert len(found.observation_table) == 4
    monkeypatch.setattr(shared_observations, "SAMPLE", 20)
    columns = {name: np.tile(column, (5, *[1] * (column.ndim - 1))) for name, column in columns.items()}
    found = st.read(columns | {"episode": np.arange(20)})
    np.testing.assert_array_equal(found.observation_table.view(np.uint32), table.view(np.uint32))


def policy() -> CategoricalPolicy:
    return CategoricalPolicy(MLP.create(SIZE, Network((8,)), ACTIONS, key=jax.random.key(1)))


def test_probabilities_are_those_of_every_row(seen: st.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    once = probabilities.action_probabilities(policy(), seen)
    pieces = list(probabilities.probability_pieces(policy(), seen))
    monkeypatch.setattr(probabilities, "SHARED", ROWS + 1)
    for found, wanted in zip(once, probabilities.action_probabilities(policy(), seen), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([found for _, found in pieces]), once[0])


def test_averages_of_features_are_those_of_every_row(seen: st.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = MLP.create(SIZE + ACTIONS, Network((8, 8)), 1, key=jax.random.key(2))
    fitted = fitted_q.FittedQ(critic, Scaling.identity(SIZE), ACTIONS)
    choices = probabilities.action_probabilities(policy(), seen)
    once = fitted.on(seen, *choices, logged=True)
    monkeypatch.setattr(fitted_q, "CELLS_AT_ONCE", ACTIONS * (STATES - 1))
    by_row = fitted.on(seen, *choices, logged=True)
    assert set(once) == set(by_row) == {"q", "v", "next_v", "psi", "next_psi", "phi"}
    for name, found in once.items():
        np.testing.assert_allclose(found, by_row[name], atol=1e-5, err_msg=name)
