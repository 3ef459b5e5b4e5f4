"""A small run of the main job that tests share, also as a program of its own, which can kill itself at a chosen moment.

python tests/support/main_job.py LOG OUT NAME COUNT

kills itself, as kill -9 does, when a file whose path ends in NAME is about to be put in its place for the COUNT-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import stitchrl as st
from stitchrl.algorithms.base import Algorithm
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, draw_log, log_table
from stitchrl.pipeline.pipeline import run_stages
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.workspace import Workspace

SMALL = PipelineSettings(updates=600, evaluation_updates=40, seeds=2, batch_size=64)
"""Checkpoints are written every 500 updates: a run of 600 has one in the middle."""


def small_algorithms() -> list[Algorithm]:
    """Two settings of one class, which are one program, and one algorithm without critics; narrow networks compile fast."""
    value: dict[str, Any] = {"gamma": 1.0, "hidden_sizes": (16,)}
    return [
        st.BC(hidden_sizes=(16,)),
        st.IQL(inverse_temperature=10.0, **value),
        st.IQL(inverse_temperature=1.0, **value),
    ]


def write_small_log(folder: Path, *, propensities: bool = True, stays: int = 400, seed: int = 3) -> Path:
    """A small draw of hospital stays as stays.parquet and stays.toml."""
    log = demo_log(compact_table(draw_log(stays, seed=seed)), propensities=propensities)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(log_table(log), folder / "stays.parquet")
    (folder / "stays.toml").write_text(log.schema.to_toml())
    return folder / "stays.parquet"


def small_job(log: Path, out: Path, **changes: Any) -> Workspace:
    """The shared small run, with some arguments changed."""
    arguments: dict[str, Any] = {
        "algorithms": small_algorithms(),
        "settings": SMALL,
        "truth": ExactValues(),
        "progress": False,
    }
    return Workspace(log, out, **(arguments | changes))


def _die_at(name: str, count: int) -> None:
    """Arrange for kill -9 just before a file is renamed into its place."""
    replace, left = os.replace, count

    def replace_or_die(source: Any, target: Any, **options: Any) -> None:
        nonlocal left
        left -= str(target).endswith(name)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **options)

    setattr(os, "replace", replace_or_die)  # noqa: B010 - a plain assignment is another type


if __name__ == "__main__":
    _die_at(sys.argv[3], int(sys.argv[4]))
    run_stages(small_job(Path(sys.argv[1]), Path(sys.argv[2])))
