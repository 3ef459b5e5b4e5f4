"""What a report gathers from the stage files of a run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pages import Page
from stage_files import candidate, changed, estimate, write_stage_files

from stitchrl.errors import RunDirectoryError
from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_stage_files(tmp_path)


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


def test_a_candidate_that_a_verdict_could_not_confirm_is_marked_where_it_stands_behind_a_lower_end(
    folder: Path,
) -> None:
    text = Page(render(build_report(folder, MEANINGS))).text
    assert "cannot be confirmed" not in text
    order = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))["order"]
    changed(folder, "ranking.json", order=[order[0], order[1] | {"passed_over": True}])
    text = Page(render(build_report(folder, MEANINGS))).text
    assert text.count("healthy, cannot be confirmed") == 1
    assert "Gains that a verdict could confirm come before others" in text


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
