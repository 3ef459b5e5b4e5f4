"""Stopping early: by hand, by plain functions, across interruptions, with members that diverge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_cases import SETTINGS, TINY, StopHereError, stop_after
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, RunDirectoryError, StitchRLWarning


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
    with pytest.raises(RunDirectoryError, match=r"with stop .*plain_rule. where yours has .EarlyStop"):
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
