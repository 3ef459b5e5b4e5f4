"""Metrics to TensorBoard event files."""

from __future__ import annotations

import importlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from stitchrl.training.trackers.base import by_member, optional_package

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """TensorBoard event files: one sub-folder per member, so that seeds are curves of one chart.

    Args:
        folder: where to write them; made if absent. A run found there is continued.
    """

    # Written without the package's SummaryWriter: its thread dies on a full disk, and what waits for it then hangs.

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._package = optional_package(self, "tensorboardX", "RecordWriter", extra="tensorboard")
        self._summary = importlib.import_module("tensorboardX.summary")
        self._proto = importlib.import_module("tensorboardX.proto.event_pb2")
        self._folder = Path(folder)
        self._config: dict[str, Any] = {}
        self._files: dict[str, Any] = {}

    def start(self, config: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config = config

    def log(self, update: int, metrics: dict[str, list[float]], members: list[str]) -> None:
        for member, values in by_member(metrics, members):
            if member not in self._files:
                self._files[member] = self._open(member, update)
            try:
                for name, value in values.items():
                    self._write(self._files[member], update, summary=self._summary.scalar(name, value))
                self._files[member].flush()
            except Exception:
                del self._files[member]  # it may end in half a record: the next call opens a new one
                raise

    def finish(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _open(self, member: str, update: int) -> Any:
        """A new file, which says that what older files of the member have from this update on is void."""
        folder = self._folder / member
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # files are read in the order of their names
        file = self._package.RecordWriter(
            str(folder / f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}")
        )
        self._write(file, update, file_version="brain.Event:2")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._write(file, update, session_log=start)
        text = f"```json\n{json.dumps(self._config, indent=2, default=str)}\n```"
        self._write(file, update, summary=self._summary.text("config", text))
        return file

    def _write(self, file: Any, update: int, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=update, **content)
        file.write(event.SerializeToString())
