"""Calls of several log rows, as an accelerator makes them, against calls of one row: the same rows, states and ends."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.algorithms.base import Spec
from stitchrl.data.scaling import Scaling
from stitchrl.errors import StitchRLWarning
from stitchrl.feeds.feed import StreamSource, transition_source
from stitchrl.training import loop, program
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.loop import Trained, train
from stitchrl.training.updates import Layout

LOG = random_log(12)
BC = st.BC(hidden_sizes=(8,), learning_rate=1e-2)
SEEDS = [3, 1]
SETTINGS: dict[str, Any] = {"updates": 125, "seeds": SEEDS, "batch_size": 8, "log_every_updates": 10}
Rows = list[tuple[int, int]]


def learn(algorithm: Any = BC, *, stream: bool = False, **settings: Any) -> Trained:
    scaling = Scaling.identity(3)
    source = StreamSource.of(LOG, scaling) if stream else transition_source(LOG, scaling)
    return train(algorithm, source, Spec.of(LOG), **SETTINGS | {"save_every_updates": 1000} | settings)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """The way of an accelerator, on the devices at hand; the list gets the log rows of each call as it is begun."""
    seen: list[Rows] = []
    start = program.Together.start

    def noted(self: Any, placed: Any, arrays: Any, rows: Rows) -> Any:
        seen.append(rows)
        return start(self, placed, arrays, rows)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(program.Together, "start", noted)
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e6)  # as many rows a call as there may be, however busy the machine is
    return seen


@pytest.fixture(scope="module")
def plain() -> Trained:
    """The run of a CPU: one row a call."""
    return learn()


def test_layouts() -> None:
    assert Layout.of_backend("cpu", 100) == Layout(1, 0, 1)
    assert Layout.of_backend("gpu", 100) == Layout(16, 100, 5)
    assert Layout.of_backend("gpu", 64).block == 4
    assert Layout.of_backend("gpu", 7).block == 1
    assert Layout.of_backend("tpu", 1) == Layout(16, 1, 1)


def test_several_rows_a_call_give_the_history_and_the_states_of_one_row_a_call(
    calls: list[Rows], plain: Trained
) -> None:
    heard: list[tuple[int, int]] = []
    together = learn(monitors=[lambda done, total, means: heard.append((done, len(means["loss/actor"])))])
    assert max(map(len, calls)) > 4
    assert [row for rows in calls for row in rows] == [(a, min(a + 10, 125)) for a in range(0, 125, 10)]
    assert heard == [(end, 2) for end in [*range(10, 121, 10), 125]]
    assert [list(row) for row in together.history.rows()] == [list(row) for row in plain.history.rows()]
    for one, two in zip(together.history.rows(), plain.history.rows(), strict=True):
        assert (one["update"], one["member"]) == (two["update"], two["member"])
        np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=2e-3, atol=2e-4)
    assert_trees_equal(together.state, plain.state, rtol=2e-3, atol=2e-5)


def test_one_member_needs_no_batch_axis(calls: list[Rows], monkeypatch: pytest.MonkeyPatch, plain: Trained) -> None:
    monkeypatch.delattr(program, "_on_a_batch_axis")
    alone = learn(seeds=[1])
    assert_trees_equal(alone.member(0), plain.member(1), rtol=2e-3, atol=2e-5)


def test_the_next_call_is_under_way_before_the_last_one_is_looked_at(calls: list[Rows]) -> None:
    begun: dict[int, int] = {}
    learn(monitors=[lambda done, *_: begun.setdefault(done, calls[-1][-1][1])])
    assert all(last > done for done, last in begun.items() if done < 125)
    # And no more than one: the host may fall behind by one call.
    ends = [rows[-1][1] for rows in calls]
    for done, last in begun.items():
        assert ends.index(last) <= 1 + next(k for k, end in enumerate(ends) if end >= done)


def test_nothing_compiles_after_the_first_call(calls: list[Rows]) -> None:
    jax.clear_caches()  # what another test compiled would not be compiled here
    counts: list[int] = []
    heard: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: heard.append(event) if event.endswith("backend_compile_duration") else None
    )
    learn(monitors=[lambda *_: counts.append(len(heard))], seeds=[5, 6])
    assert 0 < counts[0] == counts[-1]
    assert len(calls[-1]) != len(calls[0])


@dataclasses.dataclass(frozen=True)
class Refreshed(st.BC):
    """BC whose refresh, every 35 updates, leaves its mark on the policy."""

    @property
    def refresh_every_updates(self) -> int:
        return 35

    def refresh(self, state: Any, arrays: Any, given: Any, key: Any) -> Any:
        noise = jax.random.uniform(key, (), minval=0.5, maxval=1.5) + jnp.mean(arrays["reward"])
        return jax.tree.map(lambda leaf: leaf * noise if leaf.dtype == jnp.float32 else leaf, state)


def test_saves_evaluations_and_refreshes_are_of_the_state_at_their_update(calls: list[Rows], tmp_path: Path) -> None:
    bc = Refreshed(hidden_sizes=(8,), learning_rate=1e-2)
    saved: list[int] = []
    played: dict[int, Any] = {}

    def evaluate(state: Callable[[int], Any], left_out: Any) -> dict[str, list[float]]:
        played[len(played)] = jax.tree.map(np.asarray, [state(k) for k in range(2)])
        return {"online/return": [1.0, 2.0]}

    file = tmp_path / "c.safetensors"
    whole = learn(
        bc, checkpoint=file, on_save=lambda history: saved.append(history.rows()[-1]["update"]), save_every_updates=40,
        evaluate=evaluate, evaluate_every_updates=50,
    )  # fmt: skip
    assert saved == [40, 80, 120, 125]
    assert [row["update"] for row in whole.history.rows() if "online/return" in row] == [50, 50, 100, 100, 125, 125]
    edges = sorted({row[-1][1] for row in calls})
    assert {35, 40, 50, 70, 80, 100, 105, 120, 125} <= set(edges)
    # A run that ends at an update has the state that was evaluated, or saved, at that update on the way.
    for place, updates in ((0, 50), (1, 100)):
        short = learn(bc, updates=updates)
        assert_trees_equal([short.member(0), short.member(1)], played[place])
    longer = learn(bc, checkpoint=file, updates=150)
    assert_trees_equal(longer.state, learn(bc, updates=150).state, rtol=1e-5, atol=1e-6)


class StopHereError(Exception):
    """Raised by a monitor."""


def raising_at(update: int) -> Any:
    def monitor(done: int, *_: Any) -> None:
        if done == update:
            raise StopHereError

    return monitor


def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(calls: list[Rows], tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    with pytest.raises(StopHereError):
        learn(checkpoint=file, save_every_updates=40, monitors=[raising_at(110)])
    before = len(calls)
    resumed = learn(checkpoint=file, save_every_updates=40)
    assert calls[before][0] == (80, 90)  # the last checkpoint, whatever was begun beyond it
    whole = learn()
    assert_trees_equal(resumed.state, whole.state)
    assert resumed.history.rows() == whole.history.rows()


def test_a_rule_stops_at_the_update_where_one_row_a_call_stops(calls: list[Rows], plain: Trained) -> None:
    def rule(history: list[dict[str, Any]]) -> str | None:
        return "enough" if history[-1]["update"] >= 70 else None

    stopped = learn(stop=rule)
    assert (stopped.updates, stopped.stopped) == (70, "enough")
    assert {len(rows) for rows in calls} == {1}
    assert_trees_equal(stopped.state, learn(updates=70).state)
    assert [row["update"] for row in stopped.history.rows()] == [u for u in range(10, 71, 10) for _ in SEEDS]


def test_divergence_is_seen_one_call_later_at_most_and_the_last_good_checkpoint_stays(
    calls: list[Rows], tmp_path: Path
) -> None:
    file = tmp_path / "c.safetensors"
    learn(checkpoint=file, updates=40)
    wild = dataclasses.replace(BC, learning_rate=1e30)
    calls.clear()
    with pytest.raises(
        DivergenceError, match=r"must stay finite; got .* by update \d+ with seed \d \(member \d of 2\)"
    ):
        learn(wild, checkpoint=file, updates=400, save_every_updates=400)
    assert len(calls) <= 3
    state = learn(checkpoint=file, updates=40).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_member_that_diverges_leaves_the_others_alone(calls: list[Rows]) -> None:
    wild = dataclasses.replace(BC, learning_rate=1e30)
    with pytest.warns(StitchRLWarning, match="The others go on"):
        both = learn([wild, BC], spare=True)
    assert list(both.diverged) == [0]
    assert [row["update"] for row in both.history.rows() if row["member"] == 1] == [*range(10, 121, 10), 125]
    assert_trees_equal(both.member(1), learn().member(1))


@dataclasses.dataclass(frozen=True)
class Numbered(st.BC):
    """Learns nothing; its metric is the number of the update, and ten times its learning rate."""

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        number = step.update.astype(jnp.float32)
        return state, {"number": number, "another": 10.0 * self.learning_rate + 0.0 * number}


def numbered_rows() -> None:
    members = [Numbered(hidden_sizes=(8,), learning_rate=rate) for rate in (0.5, 2.0)]
    rows = learn(members).history.rows()
    starts = [*range(0, 120, 10), 120]
    ends = [*range(10, 130, 10), 125]
    expected = [
        {"update": end, "member": member, "number": (first + end - 1) / 2, "another": 10.0 * rate}
        for first, end in zip(starts, ends, strict=True)
        for member, rate in enumerate((0.5, 2.0))
    ]
    assert rows == expected


def test_a_row_holds_the_mean_over_its_updates_of_each_member() -> None:
    numbered_rows()


def test_so_does_a_row_of_a_call_of_several(calls: list[Rows]) -> None:
    numbered_rows()
    assert max(map(len, calls)) > 4


@pytest.fixture
def listening() -> Iterator[None]:
    """A process started in the background ignores Ctrl-C: for the test, it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_finishes_the_call_in_hand_and_saves(calls: list[Rows], tmp_path: Path) -> None:
    def press(done: int, *_: Any) -> None:
        if done == 50:
            signal.raise_signal(signal.SIGINT)

    file, heard = tmp_path / "c.safetensors", list[int]()
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoint=file, updates=225, monitors=[press, lambda done, *_: heard.append(done)])
    assert calls[-2:] == [
        [(a, a + 10) for a in range(30, 190, 10)],
        [*((a, a + 10) for a in range(190, 220, 10)), (220, 225)],
    ]
    assert heard[-1] == 190
    begun = len(calls)
    resumed = learn(checkpoint=file, updates=225)
    assert calls[begun][0] == (190, 200)
    assert_trees_equal(resumed.state, learn(updates=225).state)


def test_a_stream_has_one_row_a_call(calls: list[Rows]) -> None:
    learn(st.BC(hidden_sizes=(8,)), stream=True, updates=45)
    assert [len(rows) for rows in calls] == [1] * 5


def test_a_call_takes_as_many_rows_as_fit_in_about_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    pace, rows = loop._Pace(16), []
    for seconds_a_row in (60.0, 0.3, 0.3, 0.3, 0.01, 0.01, 5.0, 5.0):  # the first compiles
        rows.append(pace.rows)
        now[0] += seconds_a_row * pace.rows
        pace.entered(loop._Call([(0, 1)] * pace.rows, None, lambda: program.MetricTable(None, ())))
    assert rows == [1, 1, 3, 3, 3, 16, 16, 1]
