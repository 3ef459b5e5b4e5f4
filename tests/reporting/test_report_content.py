"""What a report gathers from the stage files of a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Page

from stitchrl.errors import RunDirectoryError
from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stage files of a run with two settings of IQL, whose primary estimate is not FQE."""
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
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "checkpoints" / "IQL").mkdir(parents=True)
    metrics = {"update": [5, 5, 10, 10], "seed": [0, 1, 0, 1], "loss/actor": [1.0, 2.0, 0.5, 0.7]}
    pq.write_table(pa.table(metrics), tmp_path / "checkpoints" / "IQL" / "metrics.parquet")
    return tmp_path


def changed(folder: Path, name: str, **more: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | more), encoding="utf-8")


def test_the_primary_estimate_is_the_verdicts_and_has_its_title(folder: Path) -> None:
    content = build_report(folder, MEANINGS)
    assert content["estimators"] == [
        {"name": "wdr", "title": "weighted doubly robust"},
        {"name": "fqe", "title": "fqe"},
    ]
    assert {claim["estimated"]["estimator"] for claim in content["claims"]} == {"wdr"}
    assert content["verdict"]["primary"]["estimator"] == "wdr"
    text = Page(render(content)).text
    assert "The primary estimate is wdr (weighted doubly robust)." in text
    assert "Its interval assumes the following: episodes are independent." in text
    assert "FQE" not in text


def test_a_claim_stands_beside_the_first_estimate_with_a_value(folder: Path) -> None:
    ranking = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    ranking["candidates"][0]["evaluation"]["estimates"]["wdr"] |= estimate(None)
    for name in ("wdr", "fqe"):
        ranking["candidates"][1]["evaluation"]["estimates"][name] |= estimate(None)
    changed(folder, "ranking.json", **ranking)
    first, second, *_ = build_report(folder, MEANINGS)["claims"]
    assert first["estimated"]["estimator"] == "fqe"
    assert second["estimated"] is None


def test_labels_are_those_of_the_stage_files(folder: Path) -> None:
    content = build_report(folder, MEANINGS)
    labels = ["IQL seed 0, greedy", "IQL seed 1, greedy", "IQL-2 seed 0, greedy", "IQL-2 seed 1, greedy"]
    assert [claim["label"] for claim in content["claims"]] == labels
    assert [row["label"] for row in content["ranking"]] == [labels[2], labels[0]]
    assert {row["label"] for row in content["estimates"]["validation"] if row["selected"]} == {labels[2]}
    assert content["verdict"]["candidate"] == labels[2]
    titled = candidate("IQL-2", 0, 0.8, title="IQL-2 at seed 0")  # a label for the settings, and a title for each seed
    changed(folder, "ranking.json", candidates=[titled], order=[{"index": 0, "estimator": "wdr"}])
    changed(folder, "estimates.json", selected=titled)
    content = build_report(folder, MEANINGS)
    assert (content["claims"][0]["label"], content["claims"][0]["algorithm"]) == ("IQL-2 at seed 0", "IQL-2")
    assert content["verdict"]["candidate"] == "IQL-2 at seed 0"


def test_words_of_the_audit_and_caveats_are_drawn(folder: Path) -> None:
    text = Page(render(build_report(folder, MEANINGS))).text
    for said in (
        "No check found anything. 2 checks found nothing to report.",
        "The log is not usable, but the run was forced to go on.",
        "gives the logged action a probability of 0.60 on average, and the behaviour itself gives it 0.50",
        "IQL loss/actor",
    ):
        assert said in text


def test_a_horizon_is_said_wherever_a_value_is_shown(folder: Path) -> None:
    whole = Page(render(build_report(folder, MEANINGS))).text
    assert "gamma 1, until an episode terminates" in whole
    assert "the first" not in whole
    changed(folder, "run.json", horizon=20)
    ranking = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    changed(folder, "ranking.json", candidates=[one | {"claimed": None} for one in ranking["candidates"]])
    text = Page(render(build_report(folder, MEANINGS))).text
    for said in (
        "better than the baseline (behaviour) in the first 20 steps of an episode, and how sure is that?",
        "gain in return of the first 20 steps over behaviour",
        "The estimates are of the first 20 steps of an episode. An algorithm's own value function speaks of everything",
        "gain over behaviour, in return of the first 20 steps",
        "The behaviour's value on test, the return of the first 20 steps: 0.700",
        "The behaviour's value on validation, the return of the first 20 steps: 0.700",
        "Every value, gain and interval on this page, the behaviour's too, is of the first 20 steps of an episode.",
        "gamma 1, of the first 20 steps of an episode",
    ):
        assert said in text, said
    assert "learns no value function" not in text


def test_an_audit_of_an_older_version_and_a_run_without_a_primary(folder: Path) -> None:
    changed(folder, "verdict.json", primary=None, decision="CANNOT TELL")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    (folder / "audit.json").write_text(json.dumps({key: audit[key] for key in ("verdict", "findings", "numbers")}))
    text = Page(render(build_report(folder, MEANINGS))).text
    assert "The primary estimate" not in text
    assert "CANNOT TELL is not NO-GO" in text
    assert build_report(folder, MEANINGS)["verdict"]["tone"] == "unsure"
    changed(folder, "verdict.json", tone="bad", note="Said by the verdict itself.")
    content = build_report(folder, MEANINGS)
    assert (content["verdict"]["tone"], content["explain"][-1]) == ("bad", "Said by the verdict itself.")
    assert "Audit: usable" in text


def test_a_missing_stage_is_named(folder: Path) -> None:
    (folder / "ranking.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"ranking\.json"):
        build_report(folder, MEANINGS)
