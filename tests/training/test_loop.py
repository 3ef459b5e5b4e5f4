"""The loop: what members draw, devices, schedules, running averages."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import EVERY, SETTINGS, TINY, Compilations, log_of, python
from worlds import assert_trees_equal, random_continuous_log, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.data.scaling import Scaling
from stitchrl.errors import RunDirectoryError
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.training import program
from stitchrl.training.loop import train

COMPILATIONS = Compilations()


def test_the_count_sees_a_compilation() -> None:
    before = COMPILATIONS.count
    jax.jit(lambda x: x * 3 + 11)(jnp.arange(17))
    assert COMPILATIONS.count > before


def test_another_setting_other_seeds_more_of_them_and_another_length_compile_nothing() -> None:
    jax.clear_caches()  # what another test compiled would not be compiled here
    log = random_log(12)
    st.fit(st.IQL(**TINY), log, **SETTINGS)
    before = COMPILATIONS.count
    other = st.IQL(
        gamma=0.5, expectile=0.9, inverse_temperature=1.0, target_rate=0.1, hidden_sizes=(8,), learning_rate=1e-3
    )
    st.fit(other, log, **SETTINGS | {"updates": 33, "seeds": [5], "log_every_updates": 11})
    st.fit(other, log, **SETTINGS | {"seeds": [5, 6, 7]})
    assert COMPILATIONS.count == before


class Drawn(NamedTuple):
    rows: jax.Array
    noise: jax.Array
    updates: jax.Array


@dataclasses.dataclass(frozen=True)
class Recorder(Algorithm):
    """Learns nothing: sums, in whole numbers, what it was given and what it drew."""

    def init(self, key: Any, spec: Spec, given: Any) -> Drawn:
        bits = jax.random.bits(key, (1,), jnp.uint32)
        return Drawn(bits, bits, jnp.uint32(0))

    def update(self, state: Drawn, batch: Any, given: Any, key: Any, step: Step) -> tuple[Drawn, dict[str, jax.Array]]:
        seen = jnp.sum(jax.lax.bitcast_convert_type(batch["obs"], jnp.uint32))
        noise = jax.random.bits(key, (1,), jnp.uint32)
        count = state.updates * jnp.uint32(31) + step.update.astype(jnp.uint32)
        return Drawn(state.rows * jnp.uint32(31) + seen, state.noise * jnp.uint32(31) + noise, count), {
            "loss": jnp.float32(0)
        }

    def policy(self, state: Drawn, given: Any) -> CategoricalPolicy:
        raise TypeError("none")


def test_what_a_member_draws_is_bit_identical_alone_and_among_others() -> None:
    log = random_log(12)
    source, spec = transition_source(log, Scaling.identity(3)), Spec.of(log)
    settings: dict[str, Any] = {"updates": 25, "batch_size": 8, "log_every_updates": 10}
    together = train(Recorder(), source, spec, seeds=[4, 2, 9], **settings)
    for k, seed in enumerate([4, 2, 9]):
        alone = train(Recorder(), source, spec, seeds=[seed], **settings)
        assert_trees_equal(together.member(k), alone.member(0))
    assert (np.asarray(together.member(0).algorithm.rows) != np.asarray(together.member(1).algorithm.rows)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "IQL discrete",
        pytest.param("TD3BC continuous", marks=pytest.mark.slow),
        pytest.param("IQL continuous bfloat16", marks=pytest.mark.slow),
    ],
)
def test_the_batch_axis_of_an_accelerator_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, log = EVERY[name][0], log_of(EVERY[name][1])
    apart = st.fit(algorithm, log, **SETTINGS | {"seeds": [3, 1, 4]})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delattr(program, "Apart")  # members apart would need it
    together = st.fit(algorithm, log, **SETTINGS | {"seeds": [3, 1, 4]})
    assert_trees_equal(together.states, apart.states, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_without_compilation_it_trains_too() -> None:
    log = random_log(12)
    settings = SETTINGS | {"updates": 1, "log_every_updates": 1, "seeds": 2}
    with jax.disable_jit():
        plain = st.fit(st.BC(**TINY), log, **settings)
    assert_trees_equal(plain.states, st.fit(st.BC(**TINY), log, **settings).states, rtol=2e-3, atol=2e-5)


ON_FOUR_DEVICES = """
    import jax, numpy as np
    import stitchrl as st
    from stitchrl.training import program
    from worlds import random_log

    assert jax.local_device_count() == 4
    log, bc = random_log(12), st.BC(hidden_sizes=(8,), learning_rate=1e-2)
    settings = dict(updates=25, batch_size=8, log_every_updates=10, progress=False)
    for seeds, devices in ((4, 4), (6, 3), (2, 2), (1, 1), (5, 1)):
        mesh = program.mesh_of(seeds)
        assert (1 if mesh is None else mesh.size) == devices, (seeds, mesh)
    seeds = [3, 1, 4, 5]
    together = st.fit(bc, log, seeds=seeds, **settings)
    assert len(jax.tree.leaves(together.states)[0].devices()) == 1
    for k, seed in enumerate(seeds):
        alone = st.fit(bc, log, seeds=[seed], **settings)
        for a, b in zip(jax.tree.leaves(together.states[k]), jax.tree.leaves(alone.states[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    print("equal")
"""


@pytest.mark.slow
def test_members_are_split_over_four_devices() -> None:
    # Compiled fast, as here: the numbers are compared within what another order of sums does.
    done = python(ON_FOUR_DEVICES, XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4")
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


@pytest.mark.parametrize("setting_name", ["warmup_updates", pytest.param("decay_updates", marks=pytest.mark.slow)])
def test_a_schedule_shorter_than_a_turn_of_the_actor_is_not_off(setting_name: str) -> None:
    log, plain = random_continuous_log(12), st.TD3BC(**TINY)
    runs = [st.fit(a, log, **SETTINGS) for a in (plain, dataclasses.replace(plain, **{setting_name: 1}))]
    counts = [len(jax.tree.leaves(run.states[0].actor.optimizer_state)) for run in runs]
    assert counts[1] == counts[0] + 1  # the schedule's own count


@pytest.mark.slow
def test_critics_without_hidden_layers_learn() -> None:
    run = st.fit(st.CQL(hidden_sizes=(), learning_rate=1e-2), random_continuous_log(12), **SETTINGS)
    assert all(np.isfinite(value) for row in run.history for value in row.values())


def test_the_schedules_of_the_delayed_actor_count_all_updates() -> None:
    # With the cosine over all 40 updates, the last actor update is as small as the last critic update.
    log = random_continuous_log(12)
    settings = SETTINGS | {"log_every_updates": 2}
    moved = {}
    for updates in (0, 2, 38, 40):
        run = st.fit(st.TD3BC(decay_updates=40, **TINY), log, **settings | {"updates": updates})
        moved[updates] = np.asarray(run.states[0].actor.model.network.weights[0])
    assert np.abs(moved[40] - moved[38]).max() < 0.05 * np.abs(moved[2] - moved[0]).max()


# --- running averages --------------------------------------------------------------------------------------------------


def test_the_average_policy_follows_the_trained_one() -> None:
    log, bc = random_log(12), st.BC(average_rate=0.25, **TINY)
    average = None
    for updates in range(4):
        run = st.fit(bc, log, **SETTINGS | {"updates": updates, "log_every_updates": 1})
        trained = run.states[0].actor.model.network.weights[0]
        average = trained if average is None else average + 0.25 * (trained - average)
        np.testing.assert_allclose(run.members[0].average.network.weights[0], average, rtol=1e-5, atol=1e-6)
    plain = st.fit(st.BC(**TINY), log, **SETTINGS | {"updates": 3})
    assert_trees_equal(plain.states, run.states, rtol=1e-5, atol=1e-6)  # training itself is as without
    assert plain.members[0].average is None
    acts = np.asarray(run.policy.probs(log.observation[:4])) - np.asarray(plain.policy.probs(log.observation[:4]))
    assert np.abs(acts).max() > 1e-6


# --- how far a run goes ------------------------------------------------------------------------------------------------


def test_fewer_updates_than_a_run_has_done_are_refused_and_change_nothing(tmp_path: Path) -> None:
    log, bc = random_log(12), st.BC(**TINY)
    st.fit(bc, log, out=tmp_path, **SETTINGS)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(
        RunDirectoryError, match=r"is of a run of 45 updates; 20 were asked for\. Ask for at least as many"
    ):
        st.fit(bc, log, out=tmp_path, **SETTINGS | {"updates": 20})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_run_that_stopped_by_its_rule_is_not_trained_further(tmp_path: Path) -> None:
    settings = SETTINGS | {"stop": st.EarlyStop("policy/entropy", 10, rising=True, least_change=100.0)}
    first = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    assert (first.updates, first.stopped[:14]) == (20, "policy/entropy")
    again = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings | {"updates": 90})
    assert (again.updates, again.stopped) == (20, first.stopped)
