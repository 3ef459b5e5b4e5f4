"""Advice: the four questions, the rules of choice, the facts behind them, what to log next, and the command."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command
from scipy import stats

import stitchrl as st
from stitchrl.algorithms.base import Algorithm
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.randomness import randomness_numbers
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.choice import choices_of
from stitchrl.diagnosis.log_facts import LogFacts
from stitchrl.diagnosis.need import Answers, need_of
from stitchrl.diagnosis.next_log import next_log_of, simulated_width
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.assignments import candidates_of, with_assignments

CLASSES: dict[str, type[Algorithm]] = {name: getattr(st, name) for name in st.ALGORITHMS}
FACTS = LogFacts(
    episodes=1_000, transitions=10_000, mean_length=10.0, gamma=0.9, mean_return=1.0, return_spread=0.5, high_return=1.6,
    best_tenth=0.1, return_values=900, continuous=False, images=False, num_actions=4, chance=0.4, certain_share=0.1,
    random_share=0.0, deterministic=False, uniform=False, mixture=False, modes=None, outcome_noise=0.8, transition_noise=0.3,
    rewarded_share=0.5, numbered_states=False, thin_share=None, propensities="logged", truncated_share=0.0,
)  # fmt: skip


def a_log(
    episodes: int = 60, steps: int = 20, *, noise: float = 0.0, seed: int = 0, one_action: bool = False
) -> Dataset:
    """A reward of the observation and the action plus noise; each step stands alone, for gamma is 0.

    With `one_action`, action 2 is never taken where the observation is above 0.
    """
    rng = np.random.default_rng(seed)
    count = episodes * steps
    x = rng.uniform(-1, 1, count).astype(np.float32)
    action = rng.integers(0, 3, count)
    if one_action:
        action = np.where((x > 0) & (action == 2), 0, action)
    last = np.arange(count) % steps == steps - 1
    columns = {
        "episode": np.repeat(np.arange(episodes), steps),
        "step": np.tile(np.arange(steps), episodes),
        "observation": x[:, None],
        "action": action,
        "reward": (x + (action == 1) + noise * rng.normal(size=count)).astype(np.float32),
        "terminated": last,
        "truncated": np.zeros(count, bool),
    }
    return st.read(columns, st.Schema({name: name for name in columns}, num_actions=3, gamma=0.0))


def content_of(log: Dataset) -> dict[str, Any]:
    """The content of an audit as far as advice reads it, without the checks."""
    numbers = {
        "episodes": log.num_episodes,
        "transitions": log.num_transitions,
        "mean_length": float(log.episode_lengths.mean()),
        "randomness": randomness_numbers(Facts(log)),
        "return_modes": None,
        "truncated_episodes": 0,
        "behavior_source": "fitted",
    }
    return {"verdict": "usable", "findings": [], "numbers": numbers}


# --- the four questions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "needed"),
    [
        ({}, "unknown"),
        ({"collect_more": True}, "unknown"),
        ({"collect_more": True, "costly": False}, "unknown"),
        ({"collect_more": True, "costly": False, "dangerous": False}, "not needed"),
        ({"collect_more": True, "costly": True, "dangerous": False}, "worth it"),
        ({"collect_more": True, "costly": False, "dangerous": True}, "needed"),
        ({"collect_more": False}, "needed"),
        ({"collect_more": False, "simulator": True}, "not needed"),
        ({"dangerous": True, "simulator": True}, "not needed"),
    ],
)
def test_whether_offline_learning_is_needed_follows_from_the_answers(answers: dict[str, bool], needed: str) -> None:
    found, statements = need_of(Answers(**answers))
    assert found == needed
    for each in statements:
        assert all(each.__dict__.values())
    for name, answer in answers.items():
        if answer and needed != "unknown" and name != "collect_more":
            assert f"{name}: yes" in "; ".join(each.number for each in statements)


def test_open_questions_are_asked_and_answered_ones_are_not() -> None:
    _, (asked,) = need_of(Answers(collect_more=True, costly=False))
    assert "--dangerous yes/no, --simulator yes/no" in asked.statement
    assert "--costly" not in asked.statement


# --- the rules of choice -----------------------------------------------------------------------------------------------

CASES: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [
    ({}, ["IQL", "CQL", "FilteredBC"], {"expectile": 0.6, "inverse_temperature": 10.0}),
    ({"chance": 0.95}, ["IQL", "CQL", "FilteredBC"], {"expectile": 0.8, "inverse_temperature": 3.0}),
    ({"deterministic": True, "certain_share": 0.9}, ["BCQ", "CQL", "BC"], {"threshold": 0.6}),
    ({"numbered_states": True, "thin_share": 0.1}, ["VILCB", "IQL", "CQL"], {}),
    ({"numbered_states": True, "thin_share": 0.6}, ["IQL", "VILCB", "CQL"], {"expectile": 0.6}),
    (
        {"numbered_states": True, "thin_share": 0.1, "gamma": 1.0, "truncated_share": 0.2},
        ["IQL", "CQL", "FilteredBC"],
        {},
    ),
    ({"return_spread": 0.0}, ["BC"], {}),
    ({"continuous": True, "images": True}, ["FilteredBC", "IQL"], {}),
    ({"continuous": True}, ["TD3BC", "FilteredBC", "IQL"], {"q_weight": 10.0}),
    ({"continuous": True, "modes": ((0.1, 9.0), (0.9, 1.0))}, ["FilteredBC", "TD3BC", "IQL"], {"top_fraction": 0.1}),
    ({"continuous": True, "modes": ((0.5, 9.0), (0.5, 1.0))}, ["FilteredBC", "TD3BC", "IQL"], {"top_fraction": 0.3}),
    (
        {"continuous": True, "modes": ((0.1, 9.0), (0.9, 1.0)), "episodes": 60},
        ["FilteredBC", "TD3BC", "IQL"],
        {"top_fraction": 0.3},
    ),
    ({"continuous": True, "deterministic": True, "certain_share": 0.9}, ["TD3BC", "BC", "IQL"], {"q_weight": 2.5}),
]


@pytest.mark.parametrize(("changed", "labels", "settings"), CASES)
def test_what_is_advised_for_which_facts(changed: dict[str, Any], labels: list[str], settings: dict[str, Any]) -> None:
    facts = dataclasses.replace(FACTS, **changed)
    choices = choices_of(facts)
    assert [choice.label for choice in choices] == labels
    first = choices[0].algorithm
    assert {name: getattr(first, name) for name in settings} == settings
    # The command line gives the same objects as Python.
    words = [text for choice in choices for text in choice.assignments]
    by_command = with_assignments(
        candidates_of(",".join(labels), CLASSES, facts.gamma, continuous=facts.continuous), words
    )
    assert by_command == {choice.label: choice.algorithm for choice in choices}


# --- measured facts ----------------------------------------------------------------------------------------------------


def test_what_filtering_keeps_is_said_with_its_ties() -> None:
    log = a_log(episodes=30, steps=10)
    facts = LogFacts.measure(log, content_of(log)["numbers"], Facts(log))
    assert facts.best_tenth == 0.1  # all returns differ
    survived = np.arange(300) % 10 == 9
    survived[:30] = False  # three die
    alive = dataclasses.replace(log, reward=survived.astype(np.float32))
    tied = LogFacts.measure(alive, content_of(log)["numbers"], Facts(alive))
    assert tied.best_tenth == 0.9
    assert "imitates the best 10% of the episodes" in choices_of(dataclasses.replace(FACTS))[2].statement.statement
    for continuous in (False, True):
        choices = choices_of(dataclasses.replace(FACTS, best_tenth=0.9, continuous=continuous))
        (said,) = [choice.statement.statement for choice in choices if choice.label == "FilteredBC"]
        assert "imitates the 90% of the episodes that tie for the best return" in said


def test_noise_is_what_a_regression_leaves() -> None:
    shares = []
    for noise in (0.0, 1.0, 30.0):
        log = a_log(noise=noise)
        shares.append(LogFacts.measure(log, content_of(log)["numbers"], Facts(log)).outcome_noise)
    # Of the reward, x has variance 1/3 and the indicator of action 1 has 2/9.
    expected = 1 / (1 / 3 + 2 / 9 + 1)
    assert shares[0] == pytest.approx(0, abs=1e-3)
    assert shares[1] == pytest.approx(expected, abs=0.06)
    assert shares[2] == pytest.approx(1, abs=0.02)


def test_thin_pairs_are_counted() -> None:
    log = a_log(episodes=2, steps=20)
    state = np.arange(40) % 2  # both states are seen 20 times
    log = dataclasses.replace(log, observation_id=state, action=np.where(np.arange(40) < 36, 0, 1).astype(np.int32))
    # Action 0 is taken 18 times in each state, action 1 twice: 4 rows of 40 are of rare pairs.
    assert LogFacts.measure(log, content_of(log)["numbers"], Facts(log)).thin_share == pytest.approx(0.1)


# --- what to log next --------------------------------------------------------------------------------------------------


def test_an_action_that_is_missing_in_a_region_is_named_there() -> None:
    whole, gap = (a_log(episodes=100, one_action=one) for one in (False, True))
    for log, missing in ((whole, False), (gap, True)):
        facts = LogFacts.measure(log, content_of(log)["numbers"], Facts(log))
        first = next_log_of(log, facts, Facts(log), None)[0].statement
        assert ("action 2" in first) == missing
        assert ("high observation" in first) == missing


def test_the_episodes_for_a_width_are_those_of_the_normal_interval() -> None:
    log = a_log(episodes=200, noise=1.0)
    returns = np.add.reduceat(log.reward.astype(float), log.episode_start[:-1])
    first = log.reward[log.episode_start[:-1]]  # gamma is 0
    facts = LogFacts.measure(log, content_of(log)["numbers"], Facts(log))
    assert facts.return_spread == pytest.approx(returns.std(), rel=1e-5)
    (asked,) = [s for s in next_log_of(log, facts, Facts(log), 0.1) if "value of the behaviour" in s.statement]
    exact = (2 * stats.norm.ppf(0.975) * first.std() / 0.1) ** 2
    number = int(asked.statement.split("takes about ")[1].split(" ")[0].replace(",", ""))
    assert number == pytest.approx(exact, rel=0.07)  # it is printed with two digits, upwards
    influence = first - first.mean()
    assert simulated_width(influence, 4.0) == pytest.approx(simulated_width(influence, 1.0) / 2, rel=0.03)


# --- the whole ---------------------------------------------------------------------------------------------------------


def test_advice_is_whole_and_refuses_what_does_not_fit() -> None:
    log = a_log(noise=1.0)
    found = st.advise(log, collect_more=False, audit=content_of(log), width=0.2)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["needed"] == "needed"
    assert [part["title"] for part in content["parts"].values()][2] == "Which algorithms, with which settings?"
    for part in content["parts"].values():
        for each in part["statements"]:
            assert all(each.values())
            assert each["statement"].endswith(".")
    words = shlex.split(found.command("my log.csv", "here"))
    assert words[:5] == ["stitchrl", "run", "my log.csv", "--out", "here"]
    assert words[6].split(",") == list(found.algorithms)
    assert "60 episodes, 1,200 decisions" in str(found)
    warned = {
        "code": "x",
        "severity": "warning",
        "where": "action 2",
        "seen": "it is never taken",
        "expected": "all",
        "action": "Mask it.",
    }
    said = str(st.advise(log, audit=content_of(log) | {"verdict": "usable with care", "findings": [warned]}))
    assert "It is never taken. Mask it.\n      because: found in action 2; expected all" in said
    made = warned | {
        "code": "observation-made-of-action",
        "where": "observation: column dose",
        "seen": "it is the action",
    }
    many = content_of(log) | {"findings": [warned | {"where": f"action {k}"} for k in range(9)] + [made]}
    assert "Drop column dose before anything is learned, unless it was known before" in str(st.advise(log, audit=many))
    bad = content_of(log) | {"verdict": "not usable"}
    assert st.advise(log, audit=bad).algorithms == {}
    other = content_of(a_log(episodes=61))
    for arguments, sentence in (
        ({"audit": other}, "it is of one with 61 and 1,220"),
        ({"width": 0.0}, "`width` must be a number above 0"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            st.advise(log, **({"audit": content_of(log)} | arguments))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log in a file, of which commands know the audit without its checks, which are tested elsewhere."""
    log = a_log(episodes=30)
    st.convert(log, tmp_path / "log.parquet")

    class Known:
        def to_dict(self) -> dict[str, Any]:
            return content_of(log)

    for module in ("diagnosis.advice.audit_of", "pipeline.workspace.audit"):
        monkeypatch.setattr(f"stitchrl.{module}", lambda log: Known())
    return tmp_path / "log.parquet"


def test_the_command(stitchrl: Command, written: Path, tmp_path: Path) -> None:
    done = stitchrl("advise", written, "--dangerous", "yes", "--out", tmp_path / "a.json")
    assert done.status == 0
    assert done.out.startswith("advice: offline learning is needed; the log is usable; try IQL")
    assert f"\nstitchrl run {written} --out runs/log --algorithms IQL," in done.out
    printed = stitchrl("advise", written, "--dangerous", "yes", "--json").out
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(printed)
    before = written.read_bytes()
    over = stitchrl("advise", written, "--out", written)
    assert (over.status, over.out, written.read_bytes()) == (2, "", before)
    refused = stitchrl("advise", written, "--costly", "very")
    assert (refused.status, refused.err) == (2, "error: `--costly` must be yes, no or unknown; got 'very'.\n")


def test_a_run_takes_the_advised_candidates(stitchrl: Command, written: Path, tmp_path: Path) -> None:
    words = ["run", written, "--out", tmp_path / "run", "--algorithms", "advised", "--until", "audit"]
    done = stitchrl(*words, "--set", "CQL.cql_weight=2")
    assert done.status == 0
    assert "advice: try IQL expectile=0.6 inverse_temperature=10.0, then CQL cql_weight=1.0" in done.out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    settings = {entry["label"]: entry["settings"] for entry in run["candidates"]}
    assert list(settings) == ["IQL", "CQL", "FilteredBC"]
    assert (settings["IQL"]["expectile"], settings["CQL"]["cql_weight"]) == (0.6, 2.0)
    advice = (tmp_path / "run" / "advice.json").read_text()
    assert stitchrl(*words, "--set", "CQL.cql_weight=2").status == 0  # it continues
    assert (tmp_path / "run" / "advice.json").read_text() == advice
    assert stitchrl("train", written, "--out", tmp_path / "t", "--algorithm", "advised").status == 2
