"""Stage files of a small run that nobody ran, for what a report gathers from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["candidate", "changed", "estimate", "write_stage_files"]

HISTOGRAM = {"edges": [0.0, 0.5, 1.0], "counts": [2, 8]}
NUMBERS = {
    "episodes": 10,
    "transitions": 40,
    "observation_size": 3,
    "num_actions": 2,
    "mean_return": 0.8,
    "mean_length": 4.0,
    "return_hist": HISTOGRAM,
    "length_hist": HISTOGRAM,
    "action_counts": [30, 10],
    "action_allowed_share": None,
    "behavior_source": "logged",
}


def estimate(value: float | None, **more: Any) -> dict[str, Any]:
    spread = {"lower": None, "upper": None} if value is None else {"lower": value - 0.01, "upper": value + 0.01}
    rest = {"standard_error": 0.005, "ess": None, "max_weight_share": None, "healthy": True, "reasons": []}
    return {"value": value, "assumptions": []} | spread | rest | more


def candidate(label: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    estimates = {
        "wdr": estimate(value, title="weighted doubly robust", assumptions=["episodes are independent."]),
        "fqe": estimate(value + 0.1),
    }
    gain = {name: estimate(each["value"] - 0.7) for name, each in estimates.items()}
    return {
        "label": label,
        "algorithm": "IQL",
        "seed": seed,
        "acts": "greedy",
        "caution": False,
        "claimed": 0.9,
        "exact": None,
        "evaluation": {"estimates": estimates, "gain": gain},
    } | more


def write_stage_files(folder: Path) -> Path:
    """The stage files of a run with two settings of IQL, whose primary estimate is not FQE, as older versions wrote them."""
    candidates = [candidate(f"{label} seed {seed}, greedy", seed, 0.8) for label in ("IQL", "IQL-2") for seed in (0, 1)]
    behavior = estimate(0.7)
    stages: dict[str, dict[str, Any]] = {
        "run.json": {
            "name": "a log",
            "algorithms": [{"algorithm": "IQL", "settings": {"expectile": 0.8}, "acts": "greedy", "caution": ""}],
            **dict.fromkeys(("command", "content_hash", "truth"), "none"),
            "versions": {"stitchrl": "1"},
            "seed": 0,
            "seeds": [0, 1],
            "updates": 10,
            "batch_size": 4,
            "gamma": 1.0,
        },
        "audit.json": {
            "verdict": "usable",
            "meaning": "No check found anything.",
            "worst": None,
            "summary": "2 checks found nothing to report.",
            "checks": ["a", "b"],
            "findings": [],
            "numbers": NUMBERS,
        },
        "split.json": {
            "parts": {"train": {"episodes": 5, "transitions": 20}, "test": {"episodes": 5, "transitions": 20}}
        },
        "ranking.json": {
            "behavior": behavior,
            "behavior_exact": None,
            "candidates": candidates,
            "order": [{"index": 2, "estimator": "wdr"}, {"index": 0, "estimator": "wdr"}],
        },
        "estimates.json": {
            "selected": candidates[2],
            "behavior": behavior,
            "disagreement": {
                "label": "IQL-2 seed 0, greedy",
                "agreement": 0.6,
                "agreement_behavior": 0.5,
                "supported": None,
                "matrix": [[0.5, 0.1], [0.1, 0.3]],
                "actions": [0, 1],
                "action_names": ["wait", "treat"],
            },
        },
        "verdict.json": {
            "decision": "GO",
            "headline": "the policy is better.",
            "lines": [],
            "caveats": ["The log is not usable, but the run was forced to go on."],
            "primary": "wdr",
            "margin": 0.0,
            "confidence": 0.95,
        },
    }
    for name, content in stages.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "checkpoints" / "IQL").mkdir(parents=True)
    metrics = {"update": [5, 5, 10, 10], "seed": [0, 1, 0, 1], "loss/actor": [1.0, 2.0, 0.5, 0.7]}
    pq.write_table(pa.table(metrics), folder / "checkpoints" / "IQL" / "metrics.parquet")
    return folder


def changed(folder: Path, name: str, **more: Any) -> None:
    """Give keys of a stage file other values."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | more), encoding="utf-8")
