"""Outputs for each choice of a component: their sums, what a policy and a Q learn with them, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stitchrl as st
from stitchrl.errors import ConfigurationError
from stitchrl.nn.factored import joint_outputs

COUNTS = (2, 3)
PAYS = [np.array([0.0, 1.0]), np.array([0.0, 0.5, 2.0])]
ROWS = 1_200
FACTORED = st.Network((), outputs="factored")


def log(**schema: Any) -> st.Dataset:
    """One-step episodes of one state; a choice pays the sum of its components', and nobody chose (1, 2)."""
    shares = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.0]])
    joint = np.random.default_rng(0).choice(6, ROWS, p=shares.ravel())
    parts = np.stack(np.unravel_index(joint, COUNTS), axis=1)
    columns = {
        "episode": np.arange(ROWS),
        "observation": np.ones((ROWS, 1), np.float32),
        "action": parts,
        "reward": PAYS[0][parts[:, 0]] + PAYS[1][parts[:, 1]],
        "terminated": np.ones(ROWS, bool),
    }
    if "num_actions" in schema:
        columns["action"] = joint
    return st.read(columns, st.Schema({name: name for name in columns}, **(schema or {"action_counts": COUNTS})))


def fit(algorithm: st.Algorithm, updates: int = 600) -> Any:
    return st.fit(algorithm, log(), updates=updates, progress=False, standardize=False)


def test_a_combination_has_the_sum_of_its_choices() -> None:
    counts = (2, 3, 2)
    outputs = jax.random.normal(jax.random.key(0), (4, 5, sum(counts)))
    found = np.asarray(joint_outputs(outputs, counts))
    assert found.shape == (4, 5, 12)
    for place, (i, j, k) in enumerate(itertools.product(*map(range, counts))):
        wanted = outputs[..., i] + outputs[..., 2 + j] + outputs[..., 5 + k]
        np.testing.assert_allclose(found[..., place], wanted, rtol=1e-5)


def test_a_factored_policy_imitates_the_components_as_if_they_were_independent() -> None:
    learned = fit(st.BC(network=FACTORED, learning_rate=0.05)).policy
    seen = log()
    parts = seen.schema.action_components(seen.action)
    shares = [np.bincount(parts[:, k], minlength=n) / ROWS for k, n in enumerate(COUNTS)]
    probs = np.asarray(learned.probs(np.ones((1, 1), np.float32)))[0]
    np.testing.assert_allclose(probs, np.outer(*shares).ravel(), atol=0.02)
    mask = np.array([[True, True, True, True, True, False]])  # a mask forbids combinations, not choices
    masked = np.asarray(learned.probs(np.ones((1, 1), np.float32), action_mask=mask))[0]
    np.testing.assert_allclose(masked, np.r_[probs[:5], 0.0] / probs[:5].sum(), atol=1e-5)


def test_a_factored_value_knows_a_combination_that_nobody_chose() -> None:
    seen = np.ones((1, 1), np.float32)
    factored, joint = (
        np.asarray(fit(st.DQN(network=shape, learning_rate=0.05, target_rate=1.0)).values[0].q_all(seen))[0]
        for shape in (FACTORED, st.Network(()))
    )
    wanted = np.add.outer(*PAYS).ravel()
    np.testing.assert_allclose(factored, wanted, atol=0.1)
    np.testing.assert_allclose(joint[:5], wanted[:5], atol=0.1)
    assert abs(joint[5] - wanted[5]) > 1.0


@pytest.mark.parametrize(
    "name",
    ["BCQ", "IQL", *(pytest.param(n, marks=pytest.mark.slow) for n in ("AdvantageBC", "AWAC", "BCQIQL", "CQL", "SAC"))],
)
def test_algorithms_learn_and_save_with_factored_outputs(name: str, tmp_path: Any) -> None:
    asked = getattr(st, name)(network=st.Network((8,), outputs="factored"))
    run = st.fit(asked, log(), updates=5, progress=False, out=tmp_path / "run")
    again = st.load(tmp_path / "run")
    seen = jnp.ones((1, 1))
    np.testing.assert_array_equal(run.policy.probs(seen), again.policy.probs(seen))


def test_factored_outputs_need_several_components() -> None:
    with pytest.raises(ConfigurationError, match=r"needs discrete actions of several components"):
        st.fit(st.IQL(network=FACTORED), log(num_actions=6), updates=1, progress=False)
    with pytest.raises(ConfigurationError, match=r'`outputs` of the network of DecisionTransformer must be "joint"'):
        st.DecisionTransformer(network=st.Network((64,), outputs="factored"))
    with pytest.raises(ConfigurationError, match=r'`outputs` of Network must be one of "joint", "factored"'):
        st.Network(outputs="sum")
