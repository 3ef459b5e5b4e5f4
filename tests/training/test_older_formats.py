"""Runs of older formats continue, and their policies and values are what the code that wrote them computed."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from training_cases import SETTINGS
from worlds import schema_of

import stitchrl as st
from stitchrl.errors import CheckpointError, RunDirectoryError, StitchRLWarning
from stitchrl.training import checkpoint as checkpoint_module
from stitchrl.training.checkpoint import load_checkpoint, read_meta, save_checkpoint
from stitchrl.types import NumpyArray

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.npz"))
ALGORITHMS: dict[str, Any] = {
    "format_1_bc": st.BC(learning_rate=1e-2, hidden_sizes=(4,)),
    "format_1_iql": st.IQL(learning_rate=1e-2, hidden_sizes=(4,)),
    "format_1_cql": st.CQL(learning_rate=1e-2, hidden_sizes=(4,)),
    "format_1_dqn": st.DQN(learning_rate=1e-2, hidden_sizes=(4,)),
    "format_2_bc": st.BC(average_rate=0.1, learning_rate=1e-2, hidden_sizes=(4,)),
    "format_2_iql": st.IQL(actor_decay_updates=50, warmup_updates=5, learning_rate=1e-2, hidden_sizes=(4,)),
    "format_2_cql_continuous": st.CQL(samples=2, lagrange_gap=1.0, learning_rate=1e-2, hidden_sizes=(4,)),
    "format_2_td3bc": st.TD3BC(decay_updates=60, learning_rate=1e-2, hidden_sizes=(4,)),
}
WHOLE: dict[str, Any] = SETTINGS | {"updates": 40, "save_every_updates": 10}


def copied(name: str, folder: Path) -> tuple[Path, dict[str, NumpyArray]]:
    """A run directory of the fixture that may be written to, and the numbers that its own code computed."""
    out = folder / name
    shutil.copytree(FIXTURES / name, out)
    (out / "expected.npz").unlink()
    with np.load(FIXTURES / name / "expected.npz") as file:
        return out, dict(file)


def log_of_fixture(expected: dict[str, NumpyArray]) -> st.Dataset:
    columns = {key.removeprefix("log/"): value for key, value in expected.items() if key.startswith("log/")}
    return st.read(columns, schema_of(columns, num_actions=3 if columns["action"].ndim == 1 else None))


def compare(run: Any, log: st.Dataset, expected: dict[str, NumpyArray], updates: int, **tolerance: float) -> None:
    """Compare policies and values of a run with what the older code computed after so many updates."""
    obs, discrete = log.observation, log.num_actions is not None
    policies = np.asarray([p.probs(obs) if discrete else p.mode(obs) for p in run.policies])
    close = np.isclose(policies, expected[f"{updates}/policy"], **tolerance).all(axis=-1)  # type: ignore[call-overload]
    assert close.mean() >= (0.9 if isinstance(run.algorithm, st.CQL | st.DQN) and discrete else 1.0)  # greedy: ties
    assert (run.values[0] is None) == (f"{updates}/q" not in expected)
    if run.values[0] is not None:
        q = np.asarray([value.q(obs, log.action) for value in run.values])
        np.testing.assert_allclose(q, expected[f"{updates}/q"], **tolerance)  # type: ignore[call-overload]


def test_every_fixture_is_tested() -> None:
    assert sorted(ALGORITHMS) == NAMES
    formats = {read_meta(FIXTURES / name / "checkpoint.safetensors")["format"] for name in NAMES}
    assert formats == set(range(1, checkpoint_module.FORMAT_VERSION))


QUICK = ("format_1_iql", "format_2_cql_continuous", "format_2_bc")
"""Read in the default suite."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES])
def test_an_older_run_is_read_with_its_numbers_and_continues(name: str, tmp_path: Path) -> None:
    out, expected = copied(name, tmp_path)
    log = log_of_fixture(expected)
    read = st.load(out)
    assert (read.updates, len(read.history)) == (20, 2 * len(read.seeds))
    compare(read, log, expected, 20, rtol=1e-5, atol=1e-6)
    resumed = st.fit(ALGORITHMS[name], log, seeds=read.seeds, out=out, **WHOLE)
    assert resumed.updates == 40
    # The optimiser's memory came along: without it these numbers are wrong in the first digit.
    compare(resumed, log, expected, 40, rtol=1e-3, atol=1e-4)
    assert resumed.history[: len(read.history)] == read.history
    assert [row["update"] for row in resumed.history] == [u for u in (10, 20, 30, 40) for _ in read.seeds]
    meta = read_meta(out / "checkpoint.safetensors")
    assert (meta["format"], meta["rows"]) == (checkpoint_module.FORMAT_VERSION, len(resumed.history))
    again = st.load(out)
    assert again.history == resumed.history
    compare(again, log, expected, 40, rtol=1e-3, atol=1e-4)


def test_an_older_run_whose_optimiser_forgot_ends_elsewhere(tmp_path: Path) -> None:
    # What makes the comparison above able to fail.
    out, expected = copied("format_2_iql", tmp_path)
    path = out / "checkpoint.safetensors"
    with safe_open(path, framework="np") as file:
        meta, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    forgotten = {name: np.zeros_like(a) if "_optimizer" in name else a for name, a in arrays.items()}
    assert any("_optimizer" in name for name in arrays)
    save_file(forgotten, path, metadata=meta)
    log = log_of_fixture(expected)
    resumed = st.fit(ALGORITHMS["format_2_iql"], log, seeds=[3, 1], out=out, **WHOLE)
    with pytest.raises(AssertionError, match=r"^assert .*0\.0.* >= 1\.0"):
        compare(resumed, log, expected, 40, rtol=1e-3, atol=1e-4)


def test_an_older_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    out, expected = copied("format_2_iql", tmp_path)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    other = st.IQL(actor_decay_updates=50, warmup_updates=6, learning_rate=1e-2, hidden_sizes=(4,))
    with pytest.raises(RunDirectoryError, match=r"with settings\.warmup_updates 5 where yours has 6"):
        st.fit(other, log_of_fixture(expected), seeds=[3, 1], out=out, **WHOLE)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_an_older_checkpoint_with_an_array_too_many_or_too_few_is_refused_by_name(tmp_path: Path) -> None:
    for change, message in (
        ("add", r"holds \.algorithm\.surplus, which"),
        ("drop", r"\.algorithm.* must be .*; got nothing"),
    ):
        out, _ = copied("format_2_td3bc", tmp_path / change)
        path = out / "checkpoint.safetensors"
        with safe_open(path, framework="np") as file:
            meta, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if change == "add":
            arrays[".algorithm.surplus"] = np.zeros(2, np.float32)
        else:
            del arrays[next(name for name in arrays if "critic_optimizer" in name)]
        save_file(arrays, path, metadata=meta)
        with pytest.raises(CheckpointError, match=message):
            st.load(out)


def test_there_is_a_migration_from_every_older_format() -> None:
    assert sorted(checkpoint_module.MIGRATIONS) == list(range(1, checkpoint_module.FORMAT_VERSION))


def test_another_version_is_read_with_a_warning_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = tmp_path / "c.safetensors", checkpoint_module.versions()
    state = {"x": np.zeros(2, np.float32)}
    monkeypatch.setattr(checkpoint_module, "versions", lambda: now | {"jax": "0.1.0", "numpy": "1.2.3"})
    save_checkpoint(path, state, {"update": 0})
    monkeypatch.setattr(checkpoint_module, "versions", lambda: now)
    with pytest.warns(StitchRLWarning, match=rf"written with jax 0\.1\.0 \(now {now['jax']}\), numpy 1\.2\.3"):
        load_checkpoint(path, state)
    save_checkpoint(path, state, {"update": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(path, state)
