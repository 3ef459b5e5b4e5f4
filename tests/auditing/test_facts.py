"""The facts that checks share: the pass over the rows, hashes, and what is computed once."""

from __future__ import annotations

import dataclasses

import audit_corpus as corpus
import numpy as np
import pytest
from small_faults import counted
from worlds import random_log, schema_of

import stitchrl as st
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.checks.drift import _sides_of_actions
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.wording import listed, rows_from, share_of

BY_NAME = {check.__name__: check for check in CHECKS}


def test_the_scan_by_blocks_agrees_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(300, with_masks=True)
    whole = Facts(log).scan
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", 7)
    scan = Facts(log).scan
    seen, returns = log.observation.astype(float), log.episode_returns()
    assert scan.observation is not None
    np.testing.assert_allclose(scan.observation.mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scan.observation.spread, seen.std(0), rtol=1e-6)
    np.testing.assert_array_equal(scan.observation.low, seen.min(0))
    np.testing.assert_array_equal(scan.observation.high, seen.max(0))
    np.testing.assert_allclose(scan.returns, returns, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(scan.action_counts.sum(0), np.bincount(log.action, minlength=3))
    assert scan.cut == int((~log.can_bootstrap).sum())
    assert scan.gaps == whole.gaps == 0
    np.testing.assert_array_equal(scan.episode_hash, whole.episode_hash)
    np.testing.assert_array_equal(scan.row_hash, whole.row_hash)
    tenth = np.arange(len(seen)) * 10 // len(seen)
    np.testing.assert_allclose(scan.observation.part_mean[3], seen[tenth == 3].mean(0), rtol=1e-6)
    assert len(np.unique(scan.episode_hash)) == log.num_episodes


@pytest.mark.parametrize("rows", [2, 2**16])
def test_last_observations_are_looked_at_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("stitchrl.auditing.moments.BLOCK_ROWS", rows)
    table = np.zeros((4, 3), np.float32)
    table[1] = [0, np.nan, 0]  # row 2 saw it: counted by the scan
    table[2] = [np.nan, np.inf, 0]  # followed rows 4 and 8
    log = counted(list(range(9)))
    seen, following = np.zeros(9, np.int32), np.zeros(9, np.int32)
    seen[2] = 1
    following[[1, 6]], following[[4, 8]] = 1, 2
    log = dataclasses.replace(log, observation_table=table, observation_index=seen, next_observation_index=following)
    last = Facts(log).last_observations
    assert last is not None
    assert last.missing.tolist() == [1, 0, 0]
    assert last.infinite.tolist() == [0, 1, 0]
    assert (last.first_missing, last.first_infinite) == (4, 4)
    inside, after = BY_NAME["missing_values"](log, Facts(log))
    assert (inside.where, inside.seen) == ("observation: column 1, first in row 2", "1 value is NaN")
    assert (after.where, after.seen) == ("next_observation: column 0, first in row 4", "1 value is NaN")


def test_copies_are_counted_in_a_sample_of_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one row in so many is kept, copies are kept together, so their share stays right."""
    log = corpus.copied_episodes(corpus.clean_logs()["control"], 0.2)
    monkeypatch.setattr("stitchrl.auditing.scan.KEPT_HASHES", 2000)
    facts = Facts(log)
    assert facts.scan.every == 9
    share = 1 - len(np.unique(facts.scan.row_hash)) / len(facts.scan.row_hash)
    assert share == pytest.approx(0.2, abs=0.04)


def test_change_of_actions_by_hand() -> None:
    """Forty episodes of two rows: the first twenty take action 3, of the others every second takes 3, the rest 9."""
    action = np.repeat([3] * 20 + [3, 9] * 10, 2)
    columns = {
        "episode": np.repeat(np.arange(40), 2),
        "observation": np.arange(80, dtype=np.float32)[:, None],
        "action": action.astype(np.int32),
        "reward": np.arange(80, dtype=np.float32),
        "terminated": np.tile([False, True], 40),
    }
    log = st.read(columns, schema_of(columns, num_actions=1000))
    facts = Facts(log)
    ((cut, before, after, error),) = _sides_of_actions(facts, facts.sample, (action == 9).astype(np.int64))
    assert cut == 5
    np.testing.assert_allclose(before, [1, 0])
    np.testing.assert_allclose(after, [0.5, 0.5])
    np.testing.assert_allclose(error, 20 * (2 - 0.5 * 2) ** 2 / 40**2)


def test_an_audit_reads_large_arrays_in_blocks(clean: st.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: st.Dataset) -> None:
        raise AssertionError("an N x D array was made")

    for name in ("observation", "next_observation", "can_bootstrap", "episode_of_transition", "position"):
        monkeypatch.setattr(type(clean), name, property(whole))
    st.audit(clean)


def test_what_checks_share_is_computed_once() -> None:
    calls: list[int] = []

    def count(facts: Facts) -> int | None:
        calls.append(facts.log.num_transitions)
        return None  # None is an answer as well

    facts, others = Facts(random_log(3)), Facts(random_log(4))
    assert [facts.once(count), facts.once(count), others.once(count)] == [None, None, None]
    assert calls == [facts.log.num_transitions, others.log.num_transitions]


def test_findings_name_rows_columns_and_shares() -> None:
    assert [rows_from(3, 1), rows_from(3, 1301)] == ["row 3", "row 3 and 1,300 more"]
    assert [listed("column", [4]), listed("column", range(12), 3)] == ["column 4", "columns 0, 1, 2 ..."]
    assert [share_of(1, 10_000), share_of(1, 1000), share_of(0, 5), share_of(0, 0)] == ["<0.1%", "0.1%", "0.0%", "0.0%"]
