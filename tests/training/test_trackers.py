"""Experiment trackers: the calls each makes to its package, what a missing package says, and that none stops training."""

from __future__ import annotations

import math
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from stitchrl.errors import ConfigurationError, StitchRLWarning
from stitchrl.training.trackers.base import SafeTracker, Tracker, guarded
from stitchrl.training.trackers.mlflow import MLflowTracker
from stitchrl.training.trackers.tensorboard import TensorBoardTracker
from stitchrl.training.trackers.trackio import TrackioTracker
from stitchrl.training.trackers.wandb import WandbTracker

CONFIG = {"algorithm": "IQL", "settings": {"expectile": 0.7, "hidden_sizes": [64, 64]}, "updates": 200}
MEMBERS = ["seed 0", "seed 3"]
CHUNKS = {
    100: {"loss/critic": [1.0, 3.0], "q/data_mean": [5.0, 7.0]},
    200: {"loss/critic": [0.5, 1.5], "q/data_mean": [6.0, 8.0]},
}


def feed(tracker: Tracker, chunks: dict[int, dict[str, list[float]]] = CHUNKS) -> None:
    tracker.start(CONFIG)
    for update, metrics in chunks.items():
        tracker.log(update, metrics, MEMBERS)
    tracker.finish()


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A fake package."""
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


class Calls(list[tuple[Any, ...]]):
    """Functions and objects that write down how they are called."""

    def record(self, *name: str, result: Any = None) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            self.append((*name, *args, settings) if settings else (*name, *args))
            return result

        return call


# --- a missing package -------------------------------------------------------

MAKERS = {
    "tensorboardX": ("TensorBoardTracker", "tensorboard", lambda: TensorBoardTracker("runs")),
    "wandb": ("WandbTracker", "wandb", lambda: WandbTracker("project")),
    "mlflow": ("MLflowTracker", "mlflow", lambda: MLflowTracker("experiment")),
    "trackio": ("TrackioTracker", "trackio", lambda: TrackioTracker("project")),
}


@pytest.mark.parametrize("package", MAKERS)
def test_a_missing_package_is_named_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    who, extra, make = MAKERS[package]
    sentence = f'`{who}` needs the package {package}; install it with `pip install "stitchrl[{extra}]"`.'
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as error:
        make()
    assert str(error.value) == sentence
    install(monkeypatch, package)  # what importing a mere folder of that name gives
    with pytest.raises(ConfigurationError) as error:
        make()
    assert str(error.value) == sentence


def test_an_installed_package_that_does_not_import_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(ConfigurationError, match=r"cannot import the installed trackio: No module .* --upgrade"):
        TrackioTracker("project")


def test_no_package_is_imported_before_its_tracker_is_made() -> None:
    code = f"import sys, stitchrl.training.trackers.base; print([n for n in {list(MAKERS)} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- the calls ---------------------------------------------------------------


def test_wandb_gets_one_run_with_members_and_means(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    run = SimpleNamespace(log=calls.record("log"), finish=calls.record("finish"))
    install(monkeypatch, "wandb", init=calls.record("init", result=run))
    tracker = WandbTracker("project", group="g", dir="there")
    assert calls == []
    feed(tracker)
    assert calls == [
        ("init", {"config": CONFIG, "project": "project", "group": "g", "dir": "there"}),
        (
            "log",
            {
                "loss/critic/mean": 2.0, "loss/critic/seed 0": 1.0, "loss/critic/seed 3": 3.0,
                "q/data_mean/mean": 6.0, "q/data_mean/seed 0": 5.0, "q/data_mean/seed 3": 7.0,
            },
            {"step": 100},
        ),
        (
            "log",
            {
                "loss/critic/mean": 1.0, "loss/critic/seed 0": 0.5, "loss/critic/seed 3": 1.5,
                "q/data_mean/mean": 7.0, "q/data_mean/seed 0": 6.0, "q/data_mean/seed 3": 8.0,
            },
            {"step": 200},
        ),
        ("finish",),
    ]  # fmt: skip


def test_means_are_over_the_members_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    run = SimpleNamespace(log=calls.record("log"), finish=calls.record("finish"))
    install(monkeypatch, "wandb", init=calls.record("init", result=run))
    tracker = WandbTracker("project")
    tracker.start({})
    tracker.log(100, {"loss": [math.nan, 2.0, 4.0]}, ["seed 0", "seed 1", "seed 2"])
    logged = calls[-1][1]
    assert logged["loss/mean"] == 3.0
    assert math.isnan(logged["loss/seed 0"])


class FakeMLflow:
    """A store: run -> its name, tags, settings, and metrics by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: dict[str, str] | None = None) -> None:
        self.experiments = dict(known or {})
        self.runs: list[dict[str, Any]] = []
        self.requests: list[int] = []
        self.uri: Any = "unset"
        entities = SimpleNamespace(Metric=lambda *number: number, Param=lambda *setting: setting)
        install(monkeypatch, "mlflow", MlflowClient=self._client, entities=entities)

    def _client(self, *, tracking_uri: str | None) -> FakeMLflow:
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = f"made {name}"
        return self.experiments[name]

    def create_run(self, experiment: str, *, run_name: str, tags: dict[str, str] | None = None) -> Any:
        run = {
            "experiment": experiment,
            "name": run_name,
            "tags": tags or {},
            "settings": {},
            "metrics": {},
            "open": True,
        }
        self.runs.append(run)
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.runs) - 1)))

    def log_batch(self, run: str, *, metrics: Any = (), params: Any = ()) -> None:
        self.requests.append(len(params))
        self.runs[int(run)]["settings"] |= dict(params)
        for name, value, milliseconds, step in metrics:
            assert milliseconds > 1_700_000_000_000
            self.runs[int(run)]["metrics"].setdefault(name, []).append((step, value))

    def set_terminated(self, run: str) -> None:
        self.runs[int(run)]["open"] = False


def test_mlflow_gets_a_run_of_means_and_one_below_it_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeMLflow(monkeypatch)
    feed(MLflowTracker("hospital", "sqlite:///x.db"))
    assert store.uri == "sqlite:///x.db"
    mean, first, second = store.runs
    assert [run["experiment"] for run in store.runs] == ["made hospital"] * 3
    assert [run["name"] for run in store.runs] == ["IQL", *MEMBERS]
    assert mean["tags"] == {}
    assert first["tags"] == second["tags"] == {"mlflow.parentRunId": "0"}
    assert mean["settings"] == {
        "algorithm": "IQL", "settings.expectile": "0.7", "settings.hidden_sizes": "[64, 64]", "updates": "200",
    }  # fmt: skip
    assert mean["metrics"] == {"loss/critic": [(100, 2.0), (200, 1.0)], "q/data_mean": [(100, 6.0), (200, 7.0)]}
    assert first["metrics"] == {"loss/critic": [(100, 1.0), (200, 0.5)], "q/data_mean": [(100, 5.0), (200, 6.0)]}
    assert second["metrics"] == {"loss/critic": [(100, 3.0), (200, 1.5)], "q/data_mean": [(100, 7.0), (200, 8.0)]}
    assert not any(run["open"] for run in store.runs)


def test_mlflow_uses_the_experiment_there_and_keeps_to_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeMLflow(monkeypatch, {"hospital": "7"})
    MLflowTracker("hospital").start({f"setting {k}": "x" * 10_000 for k in range(150)})
    assert store.uri is None
    assert store.runs[0]["experiment"] == "7"
    assert store.runs[0]["name"] == "training"
    assert store.requests == [100, 50]
    assert set(store.runs[0]["settings"].values()) == {"x" * 500}


def test_trackio_gets_one_run_a_member_in_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, current = Calls(), ContextVar("current", default="none")

    def init(project: str, *, name: str, group: str, config: dict[str, Any]) -> Any:
        assert current.get() == "none", "the real one finishes the run that is open in its context"
        current.set(name)
        member = name.removeprefix(f"{group}, ")
        calls.append(("init", project, member, config))
        return SimpleNamespace(log=calls.record("log", member), finish=calls.record("finish", member))

    install(monkeypatch, "trackio", init=init)
    feed(TrackioTracker("project"))
    assert calls == [
        ("init", "project", "seed 0", CONFIG),
        ("log", "seed 0", {"loss/critic": 1.0, "q/data_mean": 5.0}, {"step": 100}),
        ("init", "project", "seed 3", CONFIG),
        ("log", "seed 3", {"loss/critic": 3.0, "q/data_mean": 7.0}, {"step": 100}),
        ("log", "seed 0", {"loss/critic": 0.5, "q/data_mean": 6.0}, {"step": 200}),
        ("log", "seed 3", {"loss/critic": 1.5, "q/data_mean": 8.0}, {"step": 200}),
        ("finish", "seed 0"),
        ("finish", "seed 3"),
    ]


class Event:
    """A fake protocol buffer: "serialised", it is what it was made of."""

    def __init__(self, *, wall_time: float, step: int, **content: Any) -> None:
        self._content = (step, *content.items())

    def SerializeToString(self) -> Any:  # noqa: N802 - the real one's name
        return self._content


class SessionLog(NamedTuple):
    status: str
    START = "start"


class FakeTensorBoard:
    """Files: path -> what was written; a full disk refuses to flush."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[Path, list[Any]] = {}
        self.closed: list[Path] = []
        self.full = False
        proto = {"Event": Event, "SessionLog": SessionLog}
        install(monkeypatch, "tensorboardX", RecordWriter=self._open)
        install(monkeypatch, "tensorboardX.summary", scalar=lambda *pair: pair, text=lambda *pair: pair)
        install(monkeypatch, "tensorboardX.proto")
        install(monkeypatch, "tensorboardX.proto.event_pb2", **proto)

    def _open(self, name: str) -> Any:
        path = Path(name)
        assert path not in self.files
        written = self.files[path] = []
        return SimpleNamespace(write=written.append, flush=self._flush, close=lambda: self.closed.append(path))

    def _flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")

    def scalars(self, member: str) -> list[list[Any]]:
        """Of each of the member's files, in the order of their names: (update, metric, value)."""
        return [
            [(step, *pair) for step, (kind, pair) in self.files[path] if kind == "summary" and pair[0] != "config"]
            for path in sorted(self.files)
            if path.parent.name == member
        ]


def test_tensorboard_gets_one_folder_a_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = FakeTensorBoard(monkeypatch)
    feed(TensorBoardTracker(tmp_path / "board"))
    assert board.scalars("seed 0") == [
        [(100, "loss/critic", 1.0), (100, "q/data_mean", 5.0), (200, "loss/critic", 0.5), (200, "q/data_mean", 6.0)]
    ]
    assert board.scalars("seed 3") == [
        [(100, "loss/critic", 3.0), (100, "q/data_mean", 7.0), (200, "loss/critic", 1.5), (200, "q/data_mean", 8.0)]
    ]
    path, written = next(iter(board.files.items()))
    assert path.parent == tmp_path / "board" / "seed 0"
    assert path.parent.is_dir()
    assert path.name.startswith("events.out.tfevents.")
    assert written[:2] == [(100, ("file_version", "brain.Event:2")), (100, ("session_log", SessionLog("start")))]
    assert '"expectile": 0.7' in written[2][1][1][1]
    assert sorted(board.closed) == sorted(board.files)


def test_tensorboard_opens_new_files_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = FakeTensorBoard(monkeypatch)
    tracker = guarded(TensorBoardTracker(tmp_path))
    tracker.start(CONFIG)
    tracker.log(100, {"loss": [1.0, 2.0]}, MEMBERS)
    board.full = True
    with pytest.warns(StitchRLWarning, match="TensorBoardTracker could not log update 200: OSError"):
        tracker.log(200, {"loss": [1.0, 2.0]}, MEMBERS)
    board.full = False
    tracker.log(300, {"loss": [3.0, 4.0]}, MEMBERS)
    assert board.scalars("seed 0") == [[(100, "loss", 1.0), (200, "loss", 1.0)], [(300, "loss", 3.0)]]
    assert board.scalars("seed 3") == [[(100, "loss", 2.0), (300, "loss", 4.0)]]


# --- the real TensorBoard ----------------------------------------------------


def test_tensorboard_round_trip_and_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def curve(member: str, metric: str) -> list[tuple[int, float]]:
        events = reader.EventAccumulator(str(tmp_path / member))
        events.Reload()
        assert events.Tags()["tensors"] == ["config/text_summary"]
        return [(point.step, point.value) for point in events.Scalars(metric)]

    feed(TensorBoardTracker(tmp_path))
    assert curve("seed 0", "loss/critic") == [(100, 1.0), (200, 0.5)]
    assert curve("seed 3", "q/data_mean") == [(100, 7.0), (200, 8.0)]
    feed(TensorBoardTracker(tmp_path), {200: {"loss/critic": [9.0, 9.0]}, 300: {"loss/critic": [0.25, 0.75]}})
    assert curve("seed 0", "loss/critic") == [(100, 1.0), (200, 9.0), (300, 0.25)]


# --- guarded -----------------------------------------------------------------


class Flaky:
    """Fails to log the updates given, and to finish if told so."""

    def __init__(self, *bad: int, finishes: bool = True) -> None:
        self.bad, self.finishes, self.seen = bad, finishes, []

    def start(self, config: dict[str, Any]) -> None:
        if not config:
            raise ValueError("no config")

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        self.seen.append(update)
        if update in self.bad:
            raise ConnectionError("the network is down")

    def finish(self) -> None:
        self.seen.append("finish")
        if not self.finishes:
            raise OSError("the disk is full")


def test_a_tracker_that_works_is_only_passed_on_to() -> None:
    tracker = Flaky()
    feed(guarded(tracker))
    assert tracker.seen == [100, 200, "finish"]
    safe = guarded(tracker)
    assert isinstance(safe, SafeTracker)
    assert guarded(safe) is safe


def test_a_failure_warns_once_and_is_silent_afterwards() -> None:
    tracker = Flaky(2, 3, 5, finishes=False)
    safe = guarded(tracker)
    safe.start(CONFIG)
    safe.log(1, {}, [])
    with pytest.warns(
        StitchRLWarning, match=r"Flaky could not log update 2: ConnectionError.* Training goes on"
    ) as seen:
        safe.log(2, {}, [])
    assert len(seen) == 1
    for update in (3, 4, 5, 6):  # warnings are errors here
        safe.log(update, {}, [])
    safe.finish()
    assert tracker.seen == [1, 2, 3, 4, 5, 6, "finish"]


def test_after_three_failures_in_a_row_nothing_more_is_sent() -> None:
    tracker = Flaky(1, 2, 4, 5, 6)
    safe = guarded(tracker)
    with pytest.warns(StitchRLWarning):
        safe.log(1, {}, [])
    for update in range(2, 10):
        safe.log(update, {}, [])
    safe.finish()
    assert tracker.seen == [1, 2, 3, 4, 5, 6, "finish"]


def test_a_failure_to_finish_warns_too() -> None:
    with pytest.warns(StitchRLWarning, match="Flaky could not finish its run: OSError"):
        guarded(Flaky(finishes=False)).finish()


def test_start_may_raise_and_ctrl_c_passes() -> None:
    with pytest.raises(ValueError, match="no config"):
        guarded(Flaky()).start({})

    class Interrupted(Flaky):
        def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Interrupted()).log(1, {}, [])
