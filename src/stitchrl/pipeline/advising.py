"""The advice in the main job: advice.json beside the audit, and the line that a run says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.diagnosis.advice import advise
from stitchrl.pipeline.workspace import Workspace
from stitchrl.storage.files import write_json
from stitchrl.storage.run_directory import load_json

__all__ = ["advised", "advised_algorithms"]


def advised(job: Workspace, audit: Mapping[str, Any]) -> str:
    """Write advice.json where it is not there yet, and say in a line what it advises.

    No later stage rests on it, so a run of an older version, which has none, goes on as it was.

    Args:
        job: the run.
        audit: the plain content of its audit.
    """
    file = job.out / "advice.json"
    if not file.exists():
        write_json(file, advise(job.log, audit=audit).to_dict())
    chosen = load_json(file)["algorithms"]
    texts = [" ".join([each["label"], *(f"{k}={v}" for k, v in each["shown"].items())]) for each in chosen]
    why = f"`stitchrl advise {job.log_path}` says why"
    if not texts:
        return f"advice: no algorithm suits this log yet; {why}"
    return f"advice: try {', then '.join(texts)}; {why}, and `--algorithms advised` takes these"


def advised_algorithms(job: Workspace) -> dict[str, Algorithm] | None:
    """Label -> algorithm, as advised for the log of a run; None, which is the main job's own, where none is advised because the
    log is not usable. The audit stage then does not audit the log again."""
    return advise(job.log, audit=job.audited).algorithms or None
