"""The probe: it measures what it says on fixed rows, and changes nothing of what is learned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import CASES, Case, log_of
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.diagnosis.dead_units import dead_share
from stitchrl.diagnosis.probe import HELD_OUT, SEEN, Probe, measure
from stitchrl.diagnosis.probed_rows import probed_rows
from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import MLP


def run_of(probe: Any, **settings: Any) -> st.Run:
    algorithm = st.IQL(gamma=0.9, hidden_sizes=(8,))
    return st.fit(
        algorithm, random_log(), updates=8, log_every_updates=4, batch_size=16, seeds=2, probe=probe, **settings
    )


@pytest.fixture(scope="module")
def probed() -> st.Run:
    return run_of(st.Probe(random_log(seed=1), rows=20))


def test_a_probe_changes_no_bit_of_what_is_learned(probed: st.Run) -> None:
    plain = run_of(None)
    assert_trees_equal(plain.states, probed.states)
    for alone, beside in zip(plain.history, probed.history, strict=True):
        assert alone == {name: beside[name] for name in alone}
        assert {name.split("/")[0] for name in beside.keys() - alone.keys()} == {SEEN, HELD_OUT}


def test_what_is_measured_is_of_the_state_at_the_end_of_the_row(probed: st.Run) -> None:
    for member, (policy, value) in enumerate(zip(probed.policies, probed.values, strict=True)):
        row = next(r for r in reversed(probed.history) if r["member"] == member)
        for part, log in ((SEEN, random_log()), (HELD_OUT, random_log(seed=1))):
            identity = Scaling.identity(0)  # policies and values of a run speak about raw observations
            rows = probed_rows(log, identity, 20)
            obs, action, mask = rows["obs"], rows["action"], rows["action_mask"]
            log_prob = policy.log_prob(obs, action, action_mask=mask)
            assert row[f"{part}/log_prob"] == pytest.approx(float(np.mean(log_prob)), rel=1e-4)
            q = np.asarray(value.q(obs, action))
            after = np.asarray(value.v(rows["next_obs"], action_mask=rows["next_action_mask"]))
            error = rows["reward"] + 0.9 * (1 - rows["terminated"]) * after - q
            assert row[f"{part}/td_error"] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-4)
            if part == SEEN:
                taken = np.asarray(value.q(obs, policy.mode(obs, action_mask=mask)))
                spread = float(np.mean(value.spread(obs, action)))
                assert row["probe/q_logged"] == pytest.approx(float(q.mean()), rel=1e-4)
                assert row["probe/q_gap"] == pytest.approx(float((taken - q).mean()), abs=1e-4)
                assert row["probe/q_states"] == pytest.approx(float(q.std()), rel=1e-3)
                assert row["probe/q_highest"] == pytest.approx(float(max(q.max(), taken.max())), rel=1e-4)
                assert row["probe/spread_logged"] == pytest.approx(spread, rel=1e-3)


def test_a_run_goes_on_with_a_probe_that_began_without(tmp_path: Any) -> None:
    plain = run_of(None, out=tmp_path / "run")
    longer = st.fit(
        plain.algorithm, random_log(), updates=12, log_every_updates=4, batch_size=16, seeds=2, out=tmp_path / "run",
        probe=st.Probe(rows=5),
    )  # fmt: skip
    assert "probe/q_gap" in longer.history[-1]
    assert "probe/q_gap" not in longer.history[0]


USUAL = (
    "BC discrete",
    "IQL discrete",
    "CQL continuous",
    "BCQ continuous",
    "SACN continuous",
    "DecisionTransformer discrete",
)
"""Cases of the default suite: without critics, with V, with penalties, with drawn candidates, with many critics, with memory."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=[] if name in USUAL else [pytest.mark.slow]) for name, case in CASES.items()],
)
def test_every_algorithm_can_be_measured(case: Case) -> None:
    log = log_of(case.kind)
    arrays = Probe(log, rows=4).arrays(log, Scaling.of(log, standardize=False))
    shapes = jax.eval_shape(lambda s, g, a: measure(case.algorithm, s, g, a), case.state(), case.given, arrays)
    assert all(shape.shape == () for shape in shapes.values())
    if case.algorithm.has_critics and not case.algorithm.has_memory:
        assert {"probe/q_gap", "held_out/td_error"} <= set(shapes)


def test_dead_units_are_counted() -> None:
    # Of four units the first two never rise above 0: biases of -9 on inputs within 1.
    weights = (jnp.ones((2, 4)), jnp.ones((4, 1)))
    biases = (jnp.array([-9.0, -9.0, 1.0, 1.0]), jnp.zeros(1))
    batch = {"obs": jnp.array([[0.5, 1.0], [1.0, -0.5]]), "action": jnp.array([0, 1])}
    assert float(dead_share(MLP(weights, biases), batch)) == 0.5
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.abs(leaf)]), MLP(weights, biases))  # the second has none
    assert float(dead_share({"critics": pair}, batch)) == 0.25
    assert dead_share(MLP(weights, biases, activation="tanh"), batch) is None
    assert dead_share(MLP((jnp.ones((3, 4)), jnp.ones((4, 1))), biases), batch) is None  # of other inputs


def test_rows_without_a_target_are_left_out() -> None:
    log = random_log()
    rows = probed_rows(log, Scaling.identity(0), 10**6)
    assert len(rows["obs"]) == log.can_bootstrap.sum() < log.num_transitions
    assert set(rows["td_weight"]) == {1.0}


def test_what_cannot_be_probed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="`rows` of a probe must be at least 1; got 0"):
        st.Probe(rows=0)
    path = st.Probe()
    object.__setattr__(path, "held_out", "valid.csv")  # a user has no checks of types
    with pytest.raises(ConfigurationError, match=r"`held_out` of a probe must be a log.*got 'valid\.csv'"):
        path.__post_init__()
    with pytest.raises(
        ConfigurationError, match="must have the observations and actions of the log that is learned from"
    ):
        run_of(st.Probe(log_of("continuous")))
