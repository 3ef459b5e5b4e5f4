"""Learning where the log has a `time_unit`: each algorithm discounts by the time that elapses, or is refused."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL
from evaluation_worlds import small_world
from timed_worlds import GAMMA, hours, timed_log, timed_world

import stitchrl as st
from stitchrl.algorithms.returns import returns_to_go, td_lambda_returns
from stitchrl.algorithms.tabular_model import TabularModel, policy_value
from stitchrl.checking.subject import Subject, differ
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.feed import transition_source
from stitchrl.feeds.streaming import read_transitions

BY_TARGETS = (
    "IQL",
    "SQL",
    "AWAC",
    "CQL",
    "TD3BC",
    "ReBRAC",
    "FQL",
    "IDQL",
    "SACN",
    "EDAC",
    "SAC",
    "TD3",
    "DDPG",
    "DQN",
)
"""Algorithms that bootstrap from row to row; SQL for those that share its update."""


def plain(log: st.Dataset) -> Scaling:
    return Scaling.of(log, standardize=False)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("IQL", "CQL", "TD3BC", "DQN") else [pytest.mark.slow]) for n in BY_TARGETS],
)
def test_a_target_falls_by_the_time_that_elapses(name: str) -> None:
    """One unit is a step; no time at all is gamma 1; two units are gamma squared."""
    algorithm = ALL[name]
    subject = Subject(algorithm, algorithm.actions[0])
    batch = subject.with_columns(terminated=0.0, truncated=0.0, td_weight=1.0)

    def after(elapsed: float | None, gamma: float) -> Any:
        more = {} if elapsed is None else {"elapsed": jnp.full_like(batch["reward"], elapsed)}
        return subject.after(batch | more, gamma=jnp.float32(gamma))

    for elapsed, same in ((1.0, 0.8), (0.0, 1.0), (2.0, 0.64)):
        assert not differ(after(elapsed, 0.8), after(None, same), tolerance=1e-4), elapsed
    assert differ(after(2.0, 0.8), after(None, 0.8), tolerance=1e-4)


def test_every_algorithm_with_a_discount_says_that_it_knows_time_or_counts_steps() -> None:
    """Chunks of actions and rollouts of a learned model have steps, whose times no row tells."""
    for name, algorithm in ALL.items():
        knows = hasattr(algorithm, "gamma") and name not in ("QChunking", "MOPO", "COMBO")
        assert algorithm.irregular_time == knows, name
        assert isinstance(algorithm.has_memory, bool), name


def test_batches_hold_the_times() -> None:
    log = timed_log(1, 40, max_steps=4)
    assert log.elapsed is not None
    source = transition_source(log, plain(log))
    rows = jnp.arange(20)
    batch = source.sample(source.arrays, rows, jnp.int32(0))
    expected = np.nan_to_num(log.elapsed[:20]).astype(np.float32)
    np.testing.assert_array_equal(batch["elapsed"], expected)
    np.testing.assert_array_equal(batch["td_weight"], log.can_bootstrap[:20].astype(np.float32))
    streamed = read_transitions(log, plain(log), np.arange(20))
    np.testing.assert_array_equal(streamed["elapsed"], expected)
    assert "elapsed" not in read_transitions(timed_log(1, 5, time_unit=None), plain(log), np.arange(5))


def test_returns_to_go_by_hand() -> None:
    log = timed_log(2, 30)
    assert log.elapsed is not None
    found = returns_to_go(log, plain(log), GAMMA)
    start = int(np.argmax(log.episode_lengths >= 3))
    row = int(log.episode_start[start])
    first, second, third = found[row : row + 3]
    assert first == pytest.approx(log.reward[row] + GAMMA ** log.elapsed[row] * second, rel=1e-5)
    assert second == pytest.approx(log.reward[row + 1] + GAMMA ** log.elapsed[row + 1] * third, rel=1e-5)
    # The lambda-returns of AWR at lambda 1 are these.
    ends = jnp.asarray(log.terminated, jnp.float32)
    zeros = jnp.zeros(log.num_transitions)
    one = jnp.ones(log.num_transitions)
    elapsed = jnp.asarray(np.nan_to_num(log.elapsed), jnp.float32)
    arguments = (jnp.asarray(log.reward), zeros, zeros, ends, jnp.asarray(log.continues, jnp.float32), one)
    np.testing.assert_allclose(td_lambda_returns(*arguments, GAMMA, 1.0, elapsed), found, atol=1e-4)


def exact(probs: np.ndarray) -> np.ndarray:
    """(S,) the values of the live states by a linear solve."""
    world = timed_world()
    live = ~world.terminal
    falls = 1.0 / (1.0 - hours() * np.log(GAMMA))
    step = np.einsum("sa,sat->st", (probs * falls)[live], world.transition[live])[:, live]
    return np.linalg.solve(np.eye(live.sum()) - step, (probs * world.expected_reward).sum(1)[live])


def test_a_counted_model_has_the_exact_values() -> None:
    """Counting steps in place of time is off by a hundred times the tolerance."""
    _, _, policy = small_world()
    for unit, near in ((1.0, True), (None, False)):
        log = timed_log(3, 30_000, time_unit=unit)
        scaling = Scaling.of(log, standardize=False)
        model = TabularModel.of(log, scaling, gamma=GAMMA, name="test")
        values = policy_value(model, policy[:4], GAMMA) / scaling.reward_scale
        assert (np.abs(values - exact(policy)).max() < 0.05) == near, unit


def test_spibb_promises_nothing_where_gamma_is_of_time() -> None:
    run = st.fit(st.SPIBB(gamma=GAMMA, least_count=2), timed_log(4, 200), updates=0)
    assert any("nor for a gamma per unit of time" in remark for remark in run.remarks)


@dataclasses.dataclass(frozen=True)
class BySteps(st.IQL):
    """A user's algorithm that says nothing about time."""

    irregular_time: ClassVar[bool] = False


def test_what_discounts_by_steps_is_refused() -> None:
    log = timed_log(5, 50)
    with pytest.raises(
        ConfigurationError, match="BySteps discounts by steps, and the schema of this log has a `time_unit`"
    ):
        st.fit(BySteps(gamma=GAMMA), log, updates=1)
    with pytest.raises(ConfigurationError, match="`n_steps` of fit, 3, discounts by steps"):
        st.fit(st.IQL(gamma=GAMMA), log, updates=1, n_steps=3)


def test_a_run_of_another_unit_is_another_run(tmp_path: Any) -> None:
    log = timed_log(6, 60)
    other = dataclasses.replace(log, schema=dataclasses.replace(log.schema, time_unit=2.0))
    algorithm = ALL["VILCB"]
    st.fit(algorithm, log, updates=0, out=tmp_path / "run")
    with pytest.raises(st.errors.RunDirectoryError, match="time_unit"):
        st.fit(algorithm, other, updates=0, out=tmp_path / "run")
