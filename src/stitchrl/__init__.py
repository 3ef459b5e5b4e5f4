"""stitchrl: from a log file to a policy you can defend.

    import stitchrl as st

    log = st.demo_log()
    train, valid, test = log.split((0.5, 0.1, 0.4), seed=0)
    run = st.fit(st.IQL(gamma=1.0, expectile=0.8), train, updates=2_000)
    print(st.evaluate(run.policy.greedy(), test).verdict)

Everything here is imported when first used, so that `import stitchrl` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitchrl.algorithms.awr import AWR as AWR
    from stitchrl.algorithms.behavior import BC as BC
    from stitchrl.algorithms.cql import CQL as CQL
    from stitchrl.algorithms.dqn import DQN as DQN
    from stitchrl.algorithms.filtered_bc import FilteredBC as FilteredBC
    from stitchrl.algorithms.iql import IQL as IQL
    from stitchrl.algorithms.spibb import SPIBB as SPIBB
    from stitchrl.algorithms.td3bc import TD3BC as TD3BC
    from stitchrl.algorithms.vilcb import VILCB as VILCB
    from stitchrl.auditing.audit import audit as audit
    from stitchrl.data.dataset import Dataset as Dataset
    from stitchrl.data.schema import Schema as Schema
    from stitchrl.deployment.bundle import load_bundle as load_policy  # noqa: F401
    from stitchrl.evaluation.evaluate import evaluate as evaluate
    from stitchrl.evaluation.settings import FitSettings as FitSettings
    from stitchrl.mdp.icu_sepsis import demo_log as demo_log
    from stitchrl.nn.networks import Network as Network
    from stitchrl.reading.read import read as read
    from stitchrl.training.fit import fit as fit
    from stitchrl.training.fit import fit_grid as fit_grid
    from stitchrl.training.stopping import EarlyStop as EarlyStop
    from stitchrl.training.trackers.mlflow import MLflowTracker as MLflowTracker
    from stitchrl.training.trackers.tensorboard import TensorBoardTracker as TensorBoardTracker
    from stitchrl.training.trackers.trackio import TrackioTracker as TrackioTracker
    from stitchrl.training.trackers.wandb import WandbTracker as WandbTracker

__version__ = "0.1.0"

ALGORITHMS: dict[str, str] = {
    "BC": "stitchrl.algorithms.behavior",
    "FilteredBC": "stitchrl.algorithms.filtered_bc",
    "IQL": "stitchrl.algorithms.iql",
    "CQL": "stitchrl.algorithms.cql",
    "TD3BC": "stitchrl.algorithms.td3bc",
    "AWR": "stitchrl.algorithms.awr",
    "SPIBB": "stitchrl.algorithms.spibb",
    "VILCB": "stitchrl.algorithms.vilcb",
    "DQN": "stitchrl.algorithms.dqn",
}
"""Algorithm name -> defining module."""

_FACE: dict[str, tuple[str, str]] = {name: (module, name) for name, module in ALGORITHMS.items()} | {
    "Network": ("stitchrl.nn.networks", "Network"),
    "Dataset": ("stitchrl.data.dataset", "Dataset"),
    "FitSettings": ("stitchrl.evaluation.settings", "FitSettings"),
    "Schema": ("stitchrl.data.schema", "Schema"),
    "TensorBoardTracker": ("stitchrl.training.trackers.tensorboard", "TensorBoardTracker"),
    "WandbTracker": ("stitchrl.training.trackers.wandb", "WandbTracker"),
    "MLflowTracker": ("stitchrl.training.trackers.mlflow", "MLflowTracker"),
    "TrackioTracker": ("stitchrl.training.trackers.trackio", "TrackioTracker"),
    "audit": ("stitchrl.auditing.audit", "audit"),
    "demo_log": ("stitchrl.mdp.icu_sepsis", "demo_log"),
    "EarlyStop": ("stitchrl.training.stopping", "EarlyStop"),
    "evaluate": ("stitchrl.evaluation.evaluate", "evaluate"),
    "fit": ("stitchrl.training.fit", "fit"),
    "fit_grid": ("stitchrl.training.fit", "fit_grid"),
    "load_policy": ("stitchrl.deployment.bundle", "load_bundle"),
    "read": ("stitchrl.reading.read", "read"),
    "convert": ("stitchrl.reading.convert", "convert"),
    "EpisodeSampling": ("stitchrl.data.sampling", "EpisodeSampling"),
    "StratifiedSampling": ("stitchrl.data.sampling", "StratifiedSampling"),
    "TopFractionSampling": ("stitchrl.data.sampling", "TopFractionSampling"),
    "UniformSampling": ("stitchrl.data.sampling", "UniformSampling"),
    "WeightedSampling": ("stitchrl.data.sampling", "WeightedSampling"),
}

__all__ = sorted([*_FACE, "load", "report", "run"])


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'stitchrl' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _FACE[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load(folder: str | os.PathLike[str]) -> Any:
    """The run that `fit(..., out=folder)` saved, as far as its last checkpoint."""
    from stitchrl.training.fit import load as load_run

    classes = {name: getattr(importlib.import_module(module), name) for name, module in ALGORITHMS.items()}
    return load_run(folder, classes)


def run(log: str | os.PathLike[str], out: str | os.PathLike[str], **settings: Any) -> dict[str, Any]:
    """The main job on a Parquet log: audit, split, train, select, evaluate, verdict, report, bundle, all in `out`.

    Args:
        log: path of the log; its schema is the TOML of the same name beside it, unless `schema` is given.
        out: the run directory; a run found there continues.
        settings: fields of `PipelineSettings`, and `schema`, `algorithms`, `truth` of `Pipeline`.

    Returns:
        The verdict, as in verdict.json.
    """
    from pathlib import Path

    from stitchrl.pipeline.pipeline import Pipeline
    from stitchrl.pipeline.settings import PipelineSettings

    for_pipeline = {key: settings.pop(key) for key in ("schema", "algorithms", "truth") if key in settings}
    job = Pipeline(log, Path(out), settings=PipelineSettings(**settings), progress=False, **for_pipeline)
    return job.run()


def report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> str:
    """Render the report of a finished run directory anew; returns the path written (`report.html` in it by default)."""
    from pathlib import Path

    from stitchrl.reporting.render import render
    from stitchrl.reporting.report import build_report
    from stitchrl.storage.files import write_text

    where = Path(folder)
    target = where / "report.html" if out is None else Path(out)
    write_text(target, render(build_report(where)))
    return str(target)
