"""The loop: members, devices, streams, compilations, stopping, interrupts, resuming; all against plain runs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from worlds import assert_trees_equal, random_continuous_log, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, RunDirectoryError, StitchRLWarning
from stitchrl.feeds.feed import StreamSource, shuffled_source, transition_source
from stitchrl.feeds.shuffling import ShuffledRows
from stitchrl.feeds.streaming import prefetched
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.training import program
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.loop import train
from stitchrl.training.run import Grid, spec_of

TINY: dict[str, Any] = {"hidden_sizes": (8,), "learning_rate": 1e-2}
EVERY: dict[str, tuple[Algorithm, str]] = {
    "BC discrete": (st.BC(**TINY), "discrete"),
    "FilteredBC discrete": (st.FilteredBC(**TINY), "discrete"),
    "IQL discrete": (st.IQL(actor_decay_updates=50, **TINY), "discrete"),
    "CQL discrete": (st.CQL(**TINY), "discrete"),
    "DQN discrete": (st.DQN(**TINY), "discrete"),
    "BC continuous": (st.BC(average_rate=0.1, **TINY), "continuous"),
    "FilteredBC continuous": (st.FilteredBC(**TINY), "continuous"),
    "IQL continuous": (st.IQL(warmup_updates=5, decay_updates=50, max_gradient_norm=1.0, **TINY), "continuous"),
    "CQL continuous": (st.CQL(samples=2, lagrange_gap=1.0, **TINY), "continuous"),
    "TD3BC continuous": (st.TD3BC(**TINY), "continuous"),
    "IQL continuous bfloat16": (st.IQL(hidden_sizes=(32, 32), precision="bfloat16"), "continuous"),
}
SETTINGS: dict[str, Any] = {"updates": 45, "batch_size": 8, "log_every_updates": 10, "progress": False}


def log_of(kind: str) -> st.Dataset:
    return random_log(12) if kind == "discrete" else random_continuous_log(12)


@pytest.fixture(params=EVERY)
def case(request: pytest.FixtureRequest) -> tuple[Algorithm, st.Dataset]:
    algorithm, kind = EVERY[request.param]
    return algorithm, log_of(kind)


def test_every_algorithm_of_the_face_is_here_for_every_kind_of_action() -> None:
    named = {f"{name} {kind}" for name in st.ALGORITHMS for kind in getattr(st, name).actions}
    assert named == {" ".join(name.split()[:2]) for name in EVERY}


# --- one compilation -----------------------------------------------------------------------------------------------


class Compilations:
    """Programs compiled since it was made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **details: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


COMPILATIONS = Compilations()


def test_nothing_compiles_after_the_first_chunk(case: tuple[Algorithm, st.Dataset]) -> None:
    algorithm, log = case
    counts = []
    st.fit(algorithm, log, callbacks=[lambda *_: counts.append(COMPILATIONS.count)], **SETTINGS | {"batch_size": 7})
    assert len(counts) == 5  # the last chunk is shorter
    assert counts[0] == counts[-1]


def test_the_count_sees_a_compilation() -> None:
    before = COMPILATIONS.count
    jax.jit(lambda x: x * 3 + 11)(jnp.arange(17))
    assert COMPILATIONS.count > before


def test_another_setting_other_seeds_more_of_them_and_another_length_compile_nothing() -> None:
    log = random_log(12)
    st.fit(st.IQL(**TINY), log, **SETTINGS)
    before = COMPILATIONS.count
    other = st.IQL(
        gamma=0.5, expectile=0.9, inverse_temperature=1.0, target_rate=0.1, hidden_sizes=(8,), learning_rate=1e-3
    )
    st.fit(other, log, **SETTINGS | {"updates": 33, "seeds": [5], "log_every_updates": 11})
    st.fit(other, log, **SETTINGS | {"seeds": [5, 6, 7]})
    assert COMPILATIONS.count == before


# --- members -----------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    rows: jax.Array
    noise: jax.Array
    updates: jax.Array


@dataclasses.dataclass(frozen=True)
class Recorder(Algorithm):
    """Learns nothing: sums, in whole numbers, what it was given and what it drew."""

    needs: ClassVar[tuple[str, ...]] = ("obs", "reward", "update")

    def init(self, key: Any, spec: Spec) -> Drawn:
        bits = jax.random.bits(key, (1,), jnp.uint32)
        return Drawn(bits, bits, jnp.uint32(0))

    def update(self, state: Drawn, batch: Any, key: Any) -> tuple[Drawn, dict[str, jax.Array]]:
        seen = jnp.sum(jax.lax.bitcast_convert_type(batch["obs"], jnp.uint32))
        noise = jax.random.bits(key, (1,), jnp.uint32)
        count = state.updates * jnp.uint32(31) + batch["update"].astype(jnp.uint32)
        return Drawn(state.rows * jnp.uint32(31) + seen, state.noise * jnp.uint32(31) + noise, count), {
            "loss": jnp.float32(0)
        }

    def policy(self, state: Drawn) -> CategoricalPolicy:
        raise TypeError("none")


def test_what_a_member_draws_is_bit_identical_alone_and_among_others() -> None:
    log = random_log(12)
    source, spec = transition_source(log, Scaling.identity(3)), spec_of(log)
    settings: dict[str, Any] = {"updates": 25, "batch_size": 8, "log_every_updates": 10}
    together = train(Recorder(), source, spec, seeds=[4, 2, 9], **settings)
    for k, seed in enumerate([4, 2, 9]):
        alone = train(Recorder(), source, spec, seeds=[seed], **settings)
        assert_trees_equal(together.member(k), alone.member(0))
    assert (np.asarray(together.member(0).algorithm.rows) != np.asarray(together.member(1).algorithm.rows)).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a batch axis rounds otherwise")
def test_on_a_cpu_seeds_end_with_the_bits_they_have_alone(case: tuple[Algorithm, st.Dataset]) -> None:
    algorithm, log = case
    together = st.fit(algorithm, log, **SETTINGS | {"seeds": [3, 1, 4]})
    for k, seed in enumerate([3, 1, 4]):
        alone = st.fit(algorithm, log, **SETTINGS | {"seeds": [seed]})
        assert_trees_equal(together.states[k], alone.states[0])


@pytest.mark.parametrize("name", ["IQL discrete", "TD3BC continuous", "IQL continuous bfloat16"])
def test_the_batch_axis_of_an_accelerator_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, log = EVERY[name][0], log_of(EVERY[name][1])
    apart = st.fit(algorithm, log, **SETTINGS | {"seeds": [3, 1, 4]})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delattr(program, "_at_once")  # members apart would need it
    together = st.fit(algorithm, log, **SETTINGS | {"seeds": [3, 1, 4]})
    assert_trees_equal(together.states, apart.states, rtol=2e-3, atol=2e-5)


def test_without_compilation_it_trains_too() -> None:
    log = random_log(12)
    settings = SETTINGS | {"updates": 2, "log_every_updates": 2, "seeds": 2}
    with jax.disable_jit():
        plain = st.fit(st.BC(**TINY), log, **settings)
    assert_trees_equal(plain.states, st.fit(st.BC(**TINY), log, **settings).states, rtol=2e-3, atol=2e-5)


ON_FOUR_DEVICES = """
    import jax, numpy as np
    import stitchrl as st
    from stitchrl.training import program
    from worlds import random_log

    assert jax.local_device_count() == 4
    log, iql = random_log(12), st.IQL(hidden_sizes=(8,), learning_rate=1e-2)
    settings = dict(updates=45, batch_size=8, log_every_updates=10, progress=False)
    for seeds, devices in ((4, 4), (6, 3), (2, 2), (1, 1), (5, 1)):
        mesh = program.mesh_of(seeds)
        assert (1 if mesh is None else mesh.size) == devices, (seeds, mesh)
    for seeds in ([3, 1, 4, 5], [3, 1, 4, 5, 9, 2]):
        together = st.fit(iql, log, seeds=seeds, **settings)
        assert len(jax.tree.leaves(together.states)[0].devices()) == 1
        for k, seed in enumerate(seeds):
            alone = st.fit(iql, log, seeds=[seed], **settings)
            for a, b in zip(jax.tree.leaves(together.states[k]), jax.tree.leaves(alone.states[0]), strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    print("equal")
"""


def test_members_are_split_over_four_devices() -> None:
    done = python(ON_FOUR_DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parent.parent
    paths = os.pathsep.join([str(tests / "support"), str(tests.parent / "src")])
    own = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=False, timeout=300, env=own | {"PYTHONPATH": paths} | environment,
    )  # fmt: skip


# --- grids -------------------------------------------------------------------------------------------------------------


def test_a_grid_is_its_points_trained_apart(tmp_path: Path) -> None:
    log, grid = random_log(12), {"expectile": [0.6, 0.9], "learning_rate": [1e-2, 1e-3]}
    found = st.fit_grid(st.IQL(**TINY), log, grid, seeds=[3, 1], out=tmp_path, **SETTINGS)
    assert found.points == [{"expectile": e, "learning_rate": r} for e in (0.6, 0.9) for r in (1e-2, 1e-3)]
    assert len(found) == 4
    for point, run in found:
        apart = st.fit(dataclasses.replace(st.IQL(**TINY), **point), log, seeds=[3, 1], **SETTINGS)
        assert run.algorithm == apart.algorithm
        assert run.seeds == (3, 1)
        assert_trees_equal(run.states, apart.states, rtol=2e-3, atol=2e-5)
        assert [row["update"] for row in run.history] == [row["update"] for row in apart.history]
    assert any(a != b for a, b in zip(found.runs[0].history, found.runs[2].history, strict=True))
    again = st.load(tmp_path)
    assert again.points == found.points
    for one, two in zip(found.runs, again.runs, strict=True):
        assert_trees_equal(one.states, two.states)
        assert one.history == two.history
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names[:4] == ["update", "seed", "expectile", "learning_rate"]
    assert table["expectile"].to_pylist()[:8] == [0.6] * 4 + [0.9] * 4
    assert table["seed"].to_pylist()[:8] == [3, 1] * 4


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"hidden_sizes": [(8,), (16,)]}, r"runs over its number settings gamma, expectile.*got 'hidden_sizes'"),
        ({"num_critics": [2, 3]}, "got 'num_critics'"),
        ({"max_gradient_norm": [1.0]}, "got 'max_gradient_norm'"),
        ({"nonsense": [1.0]}, "got 'nonsense'"),
        ({"expectile": []}, "`expectile` of the grid must have at least one value; got none"),
        ({"expectile": [0.5, 1.5]}, r"`expectile` of IQL must be in \(0, 1\); got 1.5"),
    ],
)
def test_grids_that_cannot_be(grid: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.fit_grid(st.IQL(**TINY), random_log(12), grid, **SETTINGS)


def test_a_grid_in_another_order_and_a_run_where_a_grid_is_are_refused(tmp_path: Path) -> None:
    log, iql = random_log(12), st.IQL(**TINY)
    st.fit_grid(iql, log, {"expectile": [0.6, 0.9], "gamma": [0.5, 0.99]}, out=tmp_path, **SETTINGS)
    with pytest.raises(RunDirectoryError, match="holds another run: its grid is"):
        st.fit_grid(iql, log, {"gamma": [0.5, 0.99], "expectile": [0.6, 0.9]}, out=tmp_path, **SETTINGS)
    with pytest.raises(RunDirectoryError, match=r"holds another run: its grid is .*, yours None"):
        st.fit(iql, log, out=tmp_path, **SETTINGS)
    with pytest.raises(ConfigurationError, match="A grid needs at least one setting; IQL has gamma, expectile"):
        st.fit_grid(iql, log, {}, **SETTINGS)


def test_only_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    log = random_log(12)
    st.fit(st.IQL(**TINY), log, out=tmp_path, **SETTINGS)
    with pytest.raises(
        RunDirectoryError, match=r"its settings is \{'expectile': 0.7\}, yours \{'expectile': 0.8\}\. Choose"
    ):
        st.fit(st.IQL(expectile=0.8, **TINY), log, out=tmp_path, **SETTINGS)


def test_a_directory_where_nothing_was_learned_yet_is_free(tmp_path: Path) -> None:
    log = random_log(12)
    with pytest.raises(ConfigurationError, match="EarlyStop watches 'loss/critc'"):
        st.fit(st.IQL(**TINY), log, out=tmp_path, stop=st.EarlyStop("loss/critc", 10), **SETTINGS)
    run = st.fit(st.IQL(**TINY), log, out=tmp_path, stop=st.EarlyStop("loss/critic", 1000), **SETTINGS)
    assert run.updates == 45


# --- streams -----------------------------------------------------------------------------------------------------------


def test_a_pass_visits_every_row_once_in_another_order_each_time() -> None:
    order = ShuffledRows(5000, seed=3)
    first, second = order.rows(0, 5000), order.rows(5000, 10_000)
    assert sorted(first) == sorted(second) == list(range(5000))
    assert (first != second).any()
    assert (ShuffledRows(5000, seed=4).rows(0, 5000) != first).any()
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.05


def test_rows_are_a_function_of_their_position_alone() -> None:
    order = ShuffledRows(700_001, seed=1)  # three buffers, a last block that is not full
    assert len(np.unique(order.rows(0, 700_001))) == 700_001
    whole = order.rows(0, 1_500_000)
    for start, stop in ((0, 10), (262_140, 262_150), (524_288, 700_001), (699_990, 700_020), (1_400_000, 1_400_500)):
        np.testing.assert_array_equal(order.rows(start, stop), whole[start:stop])


def test_a_buffer_holds_whole_blocks() -> None:
    rows, first = ShuffledRows(600_000).buffer(0)
    blocks, counts = np.unique(rows // 1024, return_counts=True)
    assert (first, len(blocks)) == (0, 2**18 // 1024)
    assert set(counts.tolist()) <= {1024, 600_000 % 1024}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "`count` of a shuffle must be at least 1; got 0"),
        ({"count": 9, "block_rows": 1000}, "`block_rows` of a shuffle must be at least 1024; got 1000"),
        ({"count": 9, "buffer_rows": 2**17}, "`buffer_rows` of a shuffle must be at least 262144; got 131072"),
    ],
)
def test_shuffles_that_cannot_be(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ShuffledRows(**settings)


def test_a_streamed_log_gives_the_numbers_of_the_log_in_memory(case: tuple[Algorithm, st.Dataset]) -> None:
    algorithm, log = case
    runs = [
        st.fit(algorithm, log, seeds=[3, 1], **SETTINGS | chosen)
        for chosen in ({"sampling": "shuffled"}, {"stream": True}, {"stream": True})
    ]
    for run in runs[1:]:
        assert_trees_equal(run.states, runs[0].states)
        assert run.history == runs[0].history


def test_a_streamed_batch_is_the_batch_in_memory_with_masks_and_ends() -> None:
    log, scaling = random_log(900), Scaling.fit(random_log(900), reward_scale=0.5)
    key, zero = jax.random.key(0), jnp.int32(0)
    feeds = [StreamSource.of(log, scaling, seed=5), shuffled_source(log, scaling, seed=5)]
    batches = []
    for feed in feeds:
        with feed.open(iter([(0, 3), (3, 5)]), 16, 3) as take:
            take(0, 3)
            batches.append(feed.draw(take(3, 5), key, jnp.int32(1), zero, 16))
    assert batches[0].keys() == batches[1].keys() >= {"action_mask", "next_action_mask", "td_weight", "truncated"}
    for name, column in batches[0].items():
        np.testing.assert_allclose(column, batches[1][name], rtol=1e-6, err_msg=name)
    rows = ShuffledRows(log.num_transitions, 5).rows(64, 80)
    np.testing.assert_array_equal(batches[0]["action"], log.action[rows])


def test_a_streamed_log_without_masks_gives_the_numbers_of_the_log_in_memory() -> None:
    log = random_log(12, with_masks=False)
    runs = [st.fit(st.CQL(**TINY), log, **SETTINGS | how) for how in ({"sampling": "shuffled"}, {"stream": True})]
    assert_trees_equal(runs[1].states, runs[0].states)


def test_a_stream_continues_where_it_was(tmp_path: Path) -> None:
    log, bc = random_log(12), st.BC(**TINY)
    settings = SETTINGS | {"stream": True, "save_every_updates": 20}
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_after(3)], **settings)
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert_trees_equal(resumed.states, st.fit(bc, log, **settings).states)


def test_a_memory_mapped_log_streams(tmp_path: Path) -> None:
    log = random_continuous_log(300)
    np.save(tmp_path / "obs.npy", log.observation_table)
    mapped = dataclasses.replace(log, observation_table=np.load(tmp_path / "obs.npy", mmap_mode="r"))
    runs = [st.fit(st.TD3BC(**TINY), each, **SETTINGS | {"stream": True}) for each in (log, mapped)]
    assert_trees_equal(runs[0].states, runs[1].states)


def test_an_exception_of_the_prefetcher_is_raised_where_its_result_is_asked_for() -> None:
    def produce(first: int, end: int) -> int:
        if first == 2:
            raise OSError("the disk is gone")
        return first

    with prefetched(produce, iter([(0, 1), (1, 2), (2, 3)])) as take:
        assert int(take(0, 1)) == 0
        assert int(take(1, 2)) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            take(2, 3)


def test_leaving_early_ends_the_prefetcher() -> None:
    made: list[int] = []
    with prefetched(lambda first, end: made.append(first) or first, iter((i, i + 1) for i in range(10**9))) as take:
        take(0, 1)
    count = len(made)
    assert count < 10
    assert not [t for t in __import__("threading").enumerate() if t.name == "stitchrl-prefetch"]


@pytest.mark.parametrize("chosen", [{"sampling": "sorted"}, {"sampling": ""}])
def test_unknown_sampling_is_refused(chosen: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="`sampling` of fit must be 'uniform', 'shuffled' or a rule"):
        st.fit(st.BC(**TINY), random_log(4), **SETTINGS | chosen)


# --- stopping early ----------------------------------------------------------------------------------------------------


def falling(values: list[float], name: str = "loss") -> list[dict[str, Any]]:
    return [{"update": 10 * (i + 1), "member": k, name: v} for i, v in enumerate(values) for k in range(2)]


def test_early_stop_by_hand() -> None:
    rule = st.EarlyStop("loss", patience_updates=20)
    assert rule(falling([5, 4, 3])) is None
    assert rule(falling([5, 4, 4])) is None  # best at 20, now 30
    assert rule(falling([5, 4, 4, 4.5])) == "loss has not improved on 4 since update 20"
    assert rule(falling([5, 4, 4, 3.9])) is None
    assert st.EarlyStop("loss", 20, least_change=0.5)(falling([5, 4, 3.9, 3.8])) is not None
    assert st.EarlyStop("loss", 20, rising=True)(falling([5, 4, 4, 3])) == "loss has not improved on 5 since update 10"
    assert st.EarlyStop("online/return", 20)(falling([5, 4, 4])) is None  # not played yet


def test_early_stop_of_a_metric_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match=r"EarlyStop watches 'loss/critic'; this run has loss/actor, policy"):
        st.fit(st.BC(**TINY), random_log(4), stop=st.EarlyStop("loss/critic", 10), **SETTINGS)
    with pytest.raises(ConfigurationError, match="`patience_updates` of EarlyStop must be at least 1; got 0"):
        st.EarlyStop("loss", 0)
    with pytest.raises(ConfigurationError, match="`least_change` of EarlyStop must be at least 0; got -1"):
        st.EarlyStop("loss", 1, least_change=-1.0)


def test_early_stop_by_play_waits_for_the_next_play_and_needs_an_environment() -> None:
    rule = st.EarlyStop("online/return", 20, rising=True)
    rows = [{"update": u, "member": 0} | ({"online/return": 5.0} if u in (30, 60) else {}) for u in range(10, 70, 10)]
    assert [rule(rows[:n]) is None for n in range(1, 7)] == [True] * 5 + [False]
    with pytest.raises(ConfigurationError, match="EarlyStop watches 'online/return', which only `environment` of fit"):
        st.fit(st.BC(**TINY), random_log(4), stop=rule, **SETTINGS)


def plain_rule(history: list[dict[str, Any]]) -> str | None:
    return "enough" if history[-1]["update"] >= 20 else None


def test_a_rule_that_is_a_plain_function_resumes(tmp_path: Path) -> None:
    settings = SETTINGS | {"stop": plain_rule, "save_every_updates": 10}
    with pytest.raises(StopHereError):
        st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[stop_after(1)], **settings)
    resumed = st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings)
    assert (resumed.updates, resumed.stopped) == (20, "enough")
    with pytest.raises(RunDirectoryError, match=r"its stop is .*plain_rule., yours .EarlyStop"):
        st.fit(st.BC(**TINY), random_log(12), out=tmp_path, **settings | {"stop": st.EarlyStop("loss/actor", 5)})


def test_a_stopped_run_stays_stopped_and_a_resumed_one_stops_where_a_whole_one_does(tmp_path: Path) -> None:
    log, bc = random_log(12), st.BC(learning_rate=0.5, hidden_sizes=(8,))
    settings = SETTINGS | {"updates": 2000, "stop": st.EarlyStop("loss/actor", 60), "save_every_updates": 20}
    whole = st.fit(bc, log, **settings)
    assert 60 <= whole.updates < 2000
    assert whole.stopped.startswith("loss/actor has not improved on ")
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_after(4)], **settings)
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert (resumed.updates, resumed.stopped) == (whole.updates, whole.stopped)
    assert_trees_equal(resumed.states, whole.states)
    calls: list[int] = []
    again = st.fit(bc, log, out=tmp_path, callbacks=[lambda done, *_: calls.append(done)], **settings)
    assert (again.stopped, calls) == (whole.stopped, [])
    assert st.load(tmp_path).stopped == whole.stopped


# --- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting_name", ["decay_updates", "warmup_updates"])
def test_a_schedule_shorter_than_a_turn_of_the_actor_is_not_off(setting_name: str) -> None:
    log, plain = random_continuous_log(12), st.TD3BC(**TINY)
    runs = [st.fit(a, log, **SETTINGS) for a in (plain, dataclasses.replace(plain, **{setting_name: 1}))]
    counts = [len(jax.tree.leaves(run.states[0].actor_optimizer)) for run in runs]
    assert counts[1] == counts[0] + 1  # the schedule's own count


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
        moved[updates] = np.asarray(run.states[0].actor.network.weights[0])
    assert np.abs(moved[40] - moved[38]).max() < 0.05 * np.abs(moved[2] - moved[0]).max()


# --- running averages --------------------------------------------------------------------------------------------------


def test_the_average_policy_follows_the_trained_one() -> None:
    log, bc = random_log(12), st.BC(average_rate=0.25, **TINY)
    average = None
    for updates in range(4):
        run = st.fit(bc, log, **SETTINGS | {"updates": updates, "log_every_updates": 1})
        trained = run.states[0].actor.network.weights[0]
        average = trained if average is None else average + 0.25 * (trained - average)
        np.testing.assert_allclose(run.members[0].average.network.weights[0], average, rtol=1e-5, atol=1e-6)
    plain = st.fit(st.BC(**TINY), log, **SETTINGS | {"updates": 3})
    assert_trees_equal(plain.states, run.states, rtol=1e-5, atol=1e-6)  # training itself is as without
    assert plain.members[0].average is None
    acts = np.asarray(run.policy.probs(log.observation[:4])) - np.asarray(plain.policy.probs(log.observation[:4]))
    assert np.abs(acts).max() > 1e-6


# --- ends and interrupts -------------------------------------------------------------------------------------------------


class StopHereError(Exception):
    pass


def stop_after(chunks: int) -> Any:
    seen: list[int] = []

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        seen.append(done)
        if len(seen) == chunks:
            raise StopHereError

    return stop


def test_every_algorithm_resumes_bit_for_bit(case: tuple[Algorithm, st.Dataset], tmp_path: Path) -> None:
    algorithm, log = case
    settings = SETTINGS | {"save_every_updates": 10, "seeds": [3, 1]}
    whole = st.fit(algorithm, log, **settings)
    for chunks in (1, 2):  # interrupted at 10, then at 30
        with pytest.raises(StopHereError):
            st.fit(algorithm, log, out=tmp_path, callbacks=[stop_after(chunks)], **settings)
    resumed = st.fit(algorithm, log, out=tmp_path, **settings)
    assert_trees_equal(resumed.members, whole.members)
    assert resumed.history == whole.history


@pytest.fixture
def listening() -> Iterator[None]:
    """A process started in the background ignores Ctrl-C: for the test, it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_finishes_the_chunk_and_saves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bc, log = st.BC(**TINY), random_log(12)
    settings = SETTINGS | {"save_every_updates": 1000}

    def press(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if done == 20:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        st.fit(bc, log, out=tmp_path, callbacks=[press], **settings)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Stopping after this chunk" in capsys.readouterr().err
    assert st.load(tmp_path).updates == 20
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert_trees_equal(resumed.states, st.fit(bc, log, **settings).states)


@pytest.mark.usefixtures("listening")
def test_a_second_ctrl_c_acts_at_once(tmp_path: Path) -> None:
    def press(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        st.fit(st.BC(**TINY), random_log(12), out=tmp_path, callbacks=[press], **SETTINGS)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_diverging_run_says_so_and_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    wild = st.IQL(learning_rate=1e30, hidden_sizes=(8,))
    with pytest.raises(DivergenceError, match=r"of IQL must stay finite; got .* Lower the learning rate"):
        st.fit(
            wild,
            random_log(12),
            out=tmp_path,
            **SETTINGS | {"updates": 400, "log_every_updates": 1, "save_every_updates": 1},
        )
    for file in tmp_path.glob("checkpoint*"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(st.load(file.parent).states))


def test_a_diverging_point_of_a_grid_leaves_the_others_alone(tmp_path: Path) -> None:
    log, iql = random_log(12), st.IQL(hidden_sizes=(8,))
    grid = {"learning_rate": [1e30, 3e-4]}
    settings: dict[str, Any] = SETTINGS | {"updates": 40, "log_every_updates": 2, "seeds": (3, 5)}
    with pytest.warns(
        StitchRLWarning, match=r"with seed \d, learning_rate 1e\+30 \(member [01] of 4\).* The others go on"
    ):
        whole = st.fit_grid(iql, log, grid, out=tmp_path / "whole", **settings)
    lost, kept = whole.runs
    assert (lost.seeds, lost.members, lost.policies, lost.history) == ((), [], [], [])
    assert set(lost.diverged) == {3, 5}
    assert kept.diverged == {}
    with pytest.raises(DivergenceError, match="must stay finite"):
        _ = lost.policy
    alone = st.fit(iql, log, **settings)
    assert kept.seeds == alone.seeds
    assert_trees_equal(kept.states, alone.states, rtol=1e-4, atol=1e-5)
    assert {row["member"] for row in kept.history} == {0, 1}
    assert kept.history[-1]["update"] == 40
    # Saved and read back, and continued after an interruption that came later than the divergence.
    read = st.load(tmp_path / "whole")
    assert isinstance(read, Grid)
    assert read.runs[0].diverged == lost.diverged
    assert_trees_equal(read.runs[1].states, kept.states)

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if done == 30:
            raise RuntimeError

    cut = settings | {"out": tmp_path / "cut", "save_every_updates": 10}
    with pytest.warns(StitchRLWarning, match="The others go on"), pytest.raises(RuntimeError):
        st.fit_grid(iql, log, grid, callbacks=[stop], **cut)
    resumed = st.fit_grid(iql, log, grid, **cut)  # and warns no more
    assert resumed.runs[0].diverged == lost.diverged
    assert_trees_equal(resumed.runs[1].states, kept.states)


def test_a_diverging_member_does_not_stop_the_others_early() -> None:
    """Its loss, finite for a while, must not count as the best the others have to beat; nor may its end be a rise."""
    log, settings = random_log(12), SETTINGS | {"updates": 400, "log_every_updates": 5}
    stop = st.EarlyStop("loss/actor", patience_updates=60)
    alone = st.fit(st.BC(hidden_sizes=(8,), learning_rate=1e-3), log, stop=stop, **settings)
    with pytest.warns(StitchRLWarning, match=r"with seed 0, learning_rate 1e\+30 \(member 0 of 2\)"):
        grid = st.fit_grid(
            st.BC(hidden_sizes=(8,)), log, {"learning_rate": [1e30, 1e-3]}, stop=stop, **settings
        )  # fmt: skip
    assert grid.runs[0].diverged
    assert (grid.runs[1].updates, grid.runs[1].stopped) == (alone.updates, alone.stopped)


def test_a_grid_whose_every_member_diverges_says_so() -> None:
    wild = {"learning_rate": [1e30, 1e31]}
    with (
        pytest.warns(StitchRLWarning, match="The others go on"),
        pytest.raises(DivergenceError, match=r"All 2 members diverged; the last: .* learning_rate 1e\+3"),
    ):
        st.fit_grid(st.IQL(hidden_sizes=(8,)), random_log(12), wild, **SETTINGS | {"updates": 400})


@dataclasses.dataclass(frozen=True)
class Breaker(Recorder):
    """Breaks in its third update, with metrics that are fine."""

    def init(self, key: Any, spec: Spec) -> Any:
        return {"x": jnp.zeros(3, jnp.float32)}

    def update(self, state: Any, batch: Any, key: Any) -> Any:
        return {"x": state["x"] + jnp.where(batch["update"] == 2, jnp.inf, 0.0)}, {"loss": jnp.float32(0)}


def test_a_state_that_is_not_finite_is_neither_saved_nor_given_back(tmp_path: Path) -> None:
    # Metrics are of the state before an update: the state itself is looked at too.
    log, path = random_log(12), tmp_path / "c.safetensors"
    source = transition_source(log, Scaling.identity(3))
    with pytest.raises(DivergenceError, match=r"\['x'\] of Breaker must stay finite; it is not after update 3"):
        train(
            Breaker(), source, spec_of(log), seeds=[0], updates=3, batch_size=4, log_every_updates=1,
            save_every_updates=1, checkpoint=path,
        )  # fmt: skip
    with safe_open(path, framework="np") as file:
        assert np.isfinite(file.get_tensor(".algorithm['x']")).all()


def test_a_log_smaller_than_a_batch_and_a_batch_of_one(case: tuple[Algorithm, st.Dataset]) -> None:
    algorithm, log = case
    for chosen in ({"batch_size": 64}, {"batch_size": 1}):
        part = log.select_episodes([1]) if chosen["batch_size"] == 64 else log
        run = st.fit(algorithm, part, **SETTINGS | chosen | {"updates": 5})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.states))


def test_the_checkpoint_says_what_it_is_of(tmp_path: Path) -> None:
    from stitchrl.training.checkpoint import read_meta

    log = random_log(12)
    st.fit(st.IQL(**TINY), log, out=tmp_path, **SETTINGS)
    meta = read_meta(tmp_path / "checkpoint.safetensors")
    assert meta["format"] == 2
    assert meta["update"] == 45
    assert meta["config"]["log"] == log.content_hash
    assert meta["config"]["settings"]["expectile"] == 0.7
    assert len(meta["config"]["scaling"]["mean"]) == 3
    assert meta["schema"] == log.schema.to_dict()
    assert meta["versions"]["jax"] == jax.__version__
    assert json.loads((tmp_path / "config.json").read_text())["log"] == log.content_hash


# --- watching ------------------------------------------------------------------------------------------------------------


class Noted:
    """A tracker that keeps what it is told, and fails from its second chunk on if asked to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.calls, self.config, self.finished = fails, [], {}, 0

    def start(self, config: dict[str, Any]) -> None:
        self.config = config

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        self.calls.append((update, metrics, members))
        if self.fails and len(self.calls) > 1:
            raise OSError("the network is gone")

    def finish(self) -> None:
        self.finished += 1


def test_trackers_are_told_every_chunk_by_the_name_of_its_members() -> None:
    noted = Noted()
    run = st.fit(st.BC(**TINY), random_log(12), seeds=[3, 1], trackers=[noted], **SETTINGS)
    assert [update for update, _, _ in noted.calls] == [10, 20, 30, 40, 45]
    assert noted.calls[0][2] == ["seed 3", "seed 1"]
    assert noted.calls[-1][1]["loss/actor"] == [row["loss/actor"] for row in run.history[-2:]]
    assert noted.config["algorithm"] == "BC"
    assert noted.finished == 1
    st.fit_grid(st.IQL(**TINY), random_log(12), {"expectile": [0.6, 0.9]}, trackers=[noted], **SETTINGS)
    assert noted.calls[-1][2] == ["seed 0, expectile 0.6", "seed 0, expectile 0.9"]


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_closed() -> None:
    noted, log = Noted(fails=True), random_log(12)
    with pytest.warns(StitchRLWarning, match="the network is gone"):
        run = st.fit(st.BC(**TINY), log, trackers=[noted], **SETTINGS)
    assert_trees_equal(run.states, st.fit(st.BC(**TINY), log, **SETTINGS).states)
    assert noted.finished == 1


def test_red_flags_are_told_as_they_appear_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    log = random_log(12, constant_reward=0.0)
    zero = st.IQL(learning_rate=1e-9, hidden_sizes=(8,), gamma=0.9)
    fine = st.fit(st.BC(**TINY), log, **SETTINGS)
    assert fine.red_flags == ()
    wild = st.fit(zero, random_log(12), **SETTINGS | {"reward_scale": 1e-9, "updates": 60, "progress": True})
    assert [flag.code for flag in wild.red_flags] == ["impossible-value"]
    assert "red flag, seed 0, update 10: The mean value of logged actions is" in capsys.readouterr().err


def test_red_flags_outlive_the_process(tmp_path: Path) -> None:
    settings = SETTINGS | {"reward_scale": 1e-9}
    zero = st.IQL(learning_rate=1e-9, hidden_sizes=(8,), gamma=0.9)
    first = st.fit(zero, random_log(12), out=tmp_path, **settings)
    assert [flag.code for flag in first.red_flags] == ["impossible-value"]
    assert st.fit(zero, random_log(12), out=tmp_path, **settings).red_flags == first.red_flags
    assert st.load(tmp_path).red_flags == first.red_flags


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """Three steps; reward 1 where the action is 0."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(3, np.float32), float(action == 0), self.steps == 3, False, {}


def test_play_in_an_environment_is_logged_when_due_and_resumes(tmp_path: Path) -> None:
    log, bc = random_log(12, with_masks=False), st.BC(**TINY)
    settings = SETTINGS | {
        "seeds": [3, 1], "environment": Counting, "evaluate_every_updates": 20, "evaluation_episodes": 2,
        "save_every_updates": 10,
    }  # fmt: skip
    whole = st.fit(bc, log, **settings)
    played = {row["update"]: row["online/return"] for row in whole.history if "online/return" in row}
    assert list(played) == [20, 40, 45]
    assert set(played.values()) <= {0.0, 3.0}
    for k, policy in enumerate(whole.policies):
        mode = int(policy.mode(jnp.zeros((1, 3), jnp.float32))[0])
        assert whole.history[-2 + k]["online/return"] == (3.0 if mode == 0 else 0.0)
    with pytest.raises(StopHereError):
        st.fit(bc, log, out=tmp_path, callbacks=[stop_after(3)], **settings)
    resumed = st.fit(bc, log, out=tmp_path, **settings)
    assert resumed.history == whole.history
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table["online/return"].null_count == len(whole.history) - 6
