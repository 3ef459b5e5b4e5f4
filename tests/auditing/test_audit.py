"""An audit as a whole: its verdict, order, numbers and words, on the terminal too."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import audit_corpus as corpus
import numpy as np
import pytest
from rich.console import Console
from small_faults import changed, constant_observation, mask_forbids
from worlds import random_log, schema_of, tiny_log

import stitchrl as st
from stitchrl.auditing import audit as audit_module
from stitchrl.auditing import facts
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.draws import audit_seed, drawn_by
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import SEVERITIES, Audit, Finding
from stitchrl.errors import ConfigurationError
from stitchrl.reporting.audit_terminal import print_audit


def test_the_clean_logs_have_few_findings(clean_audits: dict[str, Audit], clean_codes: dict[str, set[str]]) -> None:
    for audit in clean_audits.values():
        assert audit.verdict != "not usable"
        json.dumps(audit.to_dict(), allow_nan=False)
    assert clean_codes == {
        "hospital": set(),
        "control": set(),
        "bandit": {"reward-sparse", "episodes-of-one-step"},
    }


def test_a_clean_log_has_no_errors(clean: st.Dataset) -> None:
    audit = st.audit(clean)
    assert [finding.code for finding in audit.findings if finding.severity == "error"] == []
    assert audit.verdict != "not usable"
    assert audit.checks == tuple(check.__name__ for check in CHECKS)


def test_a_random_log_with_known_cuts_has_no_errors() -> None:
    audit = st.audit(random_log(120, with_masks=False))
    assert audit.verdict == "usable"
    assert [finding.code for finding in audit.findings] == ["propensities-missing"]


@pytest.mark.parametrize("name", ["infinite rewards", "actions lost"])
def test_a_log_spoiled_by_numbers_is_audited_to_the_end(name: str) -> None:
    fault = next(f for f in corpus.FAULTS if f.name == name)
    log, _ = fault.spoiled(corpus.clean_logs()[fault.log].select_episodes(range(100)))
    audit = st.audit(log)
    assert fault.code in {finding.code for finding in audit.findings}
    json.dumps(audit.to_dict(), allow_nan=False)


def test_the_seed_reaches_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed draws other rows; the same one draws the same, and none is 0."""
    log = random_log(60)
    monkeypatch.setattr(facts, "SAMPLE_ROWS", 50)

    def sampled(seed: int) -> list[int]:
        with drawn_by(seed):
            return Facts(log).sample_rows.tolist()

    assert sampled(0) == sampled(0) == Facts(log).sample_rows.tolist() != sampled(1)
    with pytest.raises(ConfigurationError, match="`seed` must be at least 0; got -1"):
        st.audit(log, seed=-1)
    seeds: list[int] = []

    def check(log: st.Dataset, facts: Facts) -> tuple[()]:
        seeds.append(audit_seed())
        return ()

    monkeypatch.setattr(audit_module, "CHECKS", (check,))
    st.audit(log, seed=3)
    assert (seeds, audit_seed()) == ([3], 0)


def test_no_part_of_the_audit_draws_by_a_seed_of_its_own() -> None:
    folder = Path(audit_module.__file__).parent
    drawing = [path.name for path in sorted(folder.rglob("*.py")) if "default_rng" in path.read_text()]
    assert drawing == ["draws.py"]


def test_facts_of_a_log_by_hand() -> None:
    numbers = st.audit(tiny_log()).numbers
    assert (numbers["episodes"], numbers["transitions"], numbers["observation_size"]) == (3, 6, 2)
    assert numbers["num_actions"] == 3
    assert numbers["mean_return"] == pytest.approx((7 + 2 + 0.5) / 3)
    assert numbers["mean_length"] == 2.0
    assert numbers["action_counts"] == [3, 2, 1]
    assert numbers["truncated_episodes"] == 1
    assert numbers["behavior_source"] == "fitted"
    assert numbers["action_allowed_share"] is None
    lengths = numbers["length_hist"]
    assert sum(lengths["counts"]) == 3
    assert len(lengths["edges"]) == len(lengths["counts"]) + 1
    assert sum(numbers["return_hist"]["counts"]) == 3


def test_numbers_for_pictures(clean_audits: dict[str, Audit]) -> None:
    for name, log in corpus.clean_logs().items():
        numbers = clean_audits[name].numbers
        coverage, drift = numbers["coverage"], numbers["drift"]
        assert len(coverage["matrix"]) == len(coverage["regions"]) == len(coverage["row_share"])
        assert sum(coverage["row_share"]) == pytest.approx(1)
        assert len(drift["reward"]) == len(drift["observation_shift"]) == len(drift["action"]) == 10
        assert sum(drift["rows"]) == log.num_transitions
        assert len(numbers["columns"]) == log.observation_size
        if name == "bandit":
            assert drift["order"] == "time"
            np.testing.assert_allclose(np.sum(coverage["matrix"], 1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 7.0])
def test_histograms_of_equal_returns_hold_every_episode(value: float) -> None:
    log = random_log(10, constant_reward=0.0)
    last = log.episode_start[1:] - 1
    log = changed(log, "reward", lambda reward: reward.__setitem__(last, value))
    histogram = st.audit(log).numbers["return_hist"]
    assert sum(histogram["counts"]) == 10


def catalogue(actions: int, rows: int, *, steps: int = 6) -> st.Dataset:
    """Episodes of `steps` items of a catalogue, drawn evenly but for item 7, which every third row shows."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, actions, rows)
    item[::3] = 7
    columns = {
        "episode": np.arange(rows) // steps,
        "observation": rng.normal(size=(rows, 4)).astype(np.float32),
        "action": item.astype(np.int32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminated": np.arange(rows) % steps == steps - 1,
    }
    return st.read(columns, schema_of(columns, num_actions=actions))


@pytest.mark.slow
def test_very_many_actions_fit_in_memory() -> None:
    actions = 65_536
    log = catalogue(actions, 72_000)  # more than one block of rows
    tracemalloc.start()
    try:
        audit = st.audit(log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e8  # rows of the sample times actions would be 2.1e9
    numbers = audit.numbers
    assert len(numbers["action_counts"]) == actions
    coverage, drift = numbers["coverage"], numbers["drift"]
    assert len(coverage["actions"]) == 100
    assert 7 in coverage["actions"]
    place = coverage["actions"].index(7)
    np.testing.assert_allclose(np.array(coverage["matrix"])[:, place], 1 / 3, atol=0.06)
    assert drift["action"] is None
    assert np.shape(drift["common_actions"]["share"]) == (10, 100)
    # entropy of a third on one item: at least that of the coin, 3^(1/3) * 1.5^(2/3) = 1.89 actions
    assert numbers["randomness"]["effective_actions"] > 1.89
    assert numbers["randomness"]["allowed_actions"] == actions
    json.dumps(audit.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def spoiled(clean: st.Dataset) -> Audit:
    """The audit of a log with an error and a warning."""
    return st.audit(constant_observation(mask_forbids(clean)))


def test_an_audit_is_plain_json(spoiled: Audit) -> None:
    content = json.loads(json.dumps(spoiled.to_dict(), allow_nan=False))
    assert content["verdict"] == "not usable"
    assert content["findings"][0]["code"] == "action-outside-mask"
    assert content["numbers"]["episodes"] == 300


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_finding(spoiled: Audit, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    print_audit(spoiled.to_dict(), console)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "not usable" in text.splitlines()[0]
    for finding in spoiled.findings:
        assert finding.code in text
        assert finding.severity in text


def finding(severity: str) -> Finding:
    return Finding(f"code-{severity}", severity, "column x", "this", "that", "Do it.")


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        ([], "usable"),
        (["info"], "usable"),
        (["info", "warning"], "usable with care"),
        (["warning"], "usable with care"),
        (["error"], "not usable"),
        (["info", "warning", "error"], "not usable"),
    ],
)
def test_verdict_is_that_of_the_worst_finding(severities: list[str], verdict: str) -> None:
    audit = Audit(tuple(finding(severity) for severity in severities), ("a", "b"), {})
    assert audit.verdict == verdict
    content = audit.to_dict()
    assert content["verdict"] == verdict
    assert content["worst"] == next((s for s in SEVERITIES if s in severities), None)
    assert content["counts"] == {severity: severities.count(severity) for severity in SEVERITIES}
    assert list(content["counts"]) == list(SEVERITIES)
    assert content["meaning"].endswith(".")
    text = str(audit)
    assert text.startswith(f"log: {verdict} (2 checks, {len(severities)} finding{'' if len(severities) == 1 else 's'})")
    assert all(f"code-{severity}: column x: this; expected that. Do it." in text for severity in severities)


@pytest.mark.parametrize(
    ("severities", "checks", "summary"),
    [
        ([], 1, "1 check found nothing to report."),
        (["warning"], 2, "2 checks found 1 warning."),
        (["error", "error", "warning", "info", "info"], 60, "60 checks found 2 errors, 1 warning and 2 notes."),
        (["info", "warning"], 60, "60 checks found 1 warning and 1 note."),
    ],
)
def test_an_audit_sums_up_in_a_sentence(severities: list[str], checks: int, summary: str) -> None:
    audit = Audit(tuple(finding(severity) for severity in severities), ("check",) * checks, {})
    assert audit.summary == audit.to_dict()["summary"] == summary


def test_findings_come_most_harmful_first(spoiled: Audit) -> None:
    ranks = [SEVERITIES.index(finding.severity) for finding in spoiled.findings]
    assert ranks == sorted(ranks)
    assert {0, 1} <= set(ranks)
