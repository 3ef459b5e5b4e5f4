"""Columns that overlap with the treatment, habits, times and left-out causes: hits, misses, false alarms, and sail-leakage.

    python benchmarks/treatment_leaks.py [--sail-python SAIL/bin/python] [--draws 5] [--false-alarm-draws 10]
        [--out benchmarks/results/treatment_leaks.md]

The faults are those of `tests/support/treatment_faults.py`, planted in as many fresh logs as `--draws` says; the sound worlds are
those of `tests/support/sound_worlds.py`. SAIL is a virtual environment of its own: `python -m venv SAIL`,
`SAIL/bin/pip install sail-leakage`. That package is told what it needs (which column holds the score, which one the signal and
which one the dose, or two areas under the ROC curve); the audit is told nothing but, for removed columns, their names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

import stitchrl as st
from environment import describe
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.behavior_rows import behavior_rows
from stitchrl.auditing.facts import Facts
from stitchrl.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import audit_corpus as corpus
import hidden_worlds
import sound_worlds
import treatment_faults as treatment

HERE = Path(__file__).parent
NEW = {
    "column_made_of_action": "observation-made-of-action",
    "column_decides_action": "column-decides-action",
    "action_repeats": "action-repeats",
    "reward_repeats": "reward-repeats",
    "time_irregular": "time-irregular",
    "time_broken_off": "time-broken-off",
    "left_out_common_cause": "left-out-common-cause",
    "common_cause_hinted": "hidden-common-cause",
}
"""The checks that are counted here, and the code of each."""
BY_NAME = {check.__name__: check for check in CHECKS}
STAYS = 1500


def fresh(name: str, seed: int) -> Dataset:
    """A clean log of the corpus that no other seed gives."""
    if name == "hospital":
        return corpus.rowwise(st.demo_log().select_episodes(range(seed * STAYS, (seed + 1) * STAYS)))
    return corpus.bandit_log(seed=seed) if name == "bandit" else corpus.control_log(seed=seed)


def codes(log: Dataset, names: tuple[str, ...] = tuple(NEW), removed: dict[str, np.ndarray] | None = None) -> set[str]:
    """The codes that some checks find in a log."""
    facts = Facts(log, None, removed)
    with np.errstate(over="ignore", invalid="ignore"):
        return {finding.code for name in names for finding in BY_NAME[name](log, facts)}


def planted(draws: int) -> list[list[str]]:
    """A line for each fault: at which strengths it was found, and in how many of the draws."""
    rows = []
    for fault in treatment.FAULTS:
        names = treatment.CHECKS_OF_CODE[fault.code]
        hits: Counter[float] = Counter()
        before = 0
        for seed in range(draws):
            clean = fresh(fault.log, seed)
            before += fault.code in codes(clean, names)
            for strength in fault.strengths:
                hits[strength] += fault.code in codes(fault.spoiled(clean, strength)[0], names)
        found = ", ".join(f"{strength:g}: {hits[strength]}" for strength in fault.strengths)
        rows.append([fault.name, fault.log, fault.code, fault.unit, found, str(before)])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def causes(draws: int) -> list[list[str]]:
    """A line for each world with a hidden cause: in how many draws the hint was given, hidden and shown."""
    worlds: dict[str, tuple[str, Callable[..., Dataset], int]] = {
        "severity that lasts": ("decides actions and rewards", hidden_worlds.severity, 400),
        "a number that drifts": ("decides actions, rewards and what is seen next", hidden_worlds.drift, 400),
        "sepsis, glucose and diabetes": ("decide actions and what is seen next", hidden_worlds.sepsis, 1000),
        "a clinician's preference": ("decides actions alone", hidden_worlds.preference, 400),
        "a target": ("decides actions and rewards, moved at times", hidden_worlds.target, 200),
        "a cause without memory": ("decides actions and rewards of one row", hidden_worlds.unseen_noise, 400),
    }
    rows = []
    for name, (what, draw, episodes) in worlds.items():
        counts = Counter(
            (shown, code)
            for seed in range(draws)
            for shown in (False, True)
            for code in codes(draw(episodes, seed, shown), ("common_cause_hinted",))
        )
        rows.append([name, what, *(str(counts[shown, "hidden-common-cause"]) for shown in (False, True))])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def false_alarms(draws: int) -> list[list[str]]:
    """A line for each sound world: in how many draws each of the new codes was found."""
    rows = []
    for name, draw in sound_worlds.SOUND_WORLDS.items():
        found: Counter[str] = Counter()
        for seed in range(draws):
            found.update(codes(draw(sound_worlds.EPISODES[name], 100 + seed)))
        rows.append([name, ", ".join(f"{code} {count}" for code, count in found.items()) or "-"])
        print(" | ".join(rows[-1]), flush=True)
    return rows


# --- beside sail-leakage ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One leak, as both packages get it.

    Attributes:
        name: what leaks.
        told: what sail-leakage has to be told, in words.
        plant: a clean log -> the spoiled log.
        code: of the audit's finding.
        arguments: the log (clean or spoiled), its frame -> arguments of `sail.check`.
        removed: the log -> columns that the audit is told were removed.
    """

    name: str
    told: str
    plant: Callable[[Dataset], Dataset]
    code: str
    arguments: Callable[[Dataset, dict[str, np.ndarray]], dict[str, Any]]
    removed: Callable[[Dataset], dict[str, np.ndarray]] = lambda log: {}


def construction(told: dict[str, Any], signal: str) -> Callable[..., dict[str, Any]]:
    spec = {"scoring": told, "signal_col": signal, "treatment_cols": ["dose"]}
    return lambda log, frame: {"construction_spec": spec}


def reconstruction(log: Dataset, frame: dict[str, np.ndarray]) -> dict[str, Any]:
    frame["heart"] = heart(log)
    spec = {"total_col": "c0", "component_cols": ["c1", "c2"], "target_col": "heart", "tolerance": 1e-4}
    return {"reconstruction_spec": spec}


def heart(log: Dataset) -> np.ndarray:
    """A number of each row that the observation leaves out."""
    found: np.ndarray = np.random.default_rng(log.num_transitions).normal(size=log.num_transitions).astype(np.float32)
    return found


def total_of_parts(noise: float) -> Callable[[Dataset], Dataset]:
    def plant(log: Dataset) -> Dataset:
        error = noise * np.random.default_rng(7).normal(size=log.num_transitions)
        return corpus.column(log, log.observation[:, 1] + log.observation[:, 2] + heart(log) + error, 0)

    return plant


def areas(log: Dataset, frame: dict[str, np.ndarray]) -> dict[str, Any]:
    """The two areas that sail-leakage compares: of the last treatment, and of a model of the whole observation, for whether
    anything is given in a row."""
    rows = behavior_rows(Facts(log))
    assert rows is not None
    later = rows.sample.position > 0
    given = rows.common % 5 > 0
    truth = log.action[rows.sample.rows[later]] % 5 > 0
    last = (log.action[rows.sample.rows[later] - 1] % 5 > 0).astype(float)
    model = rows.probabilities[later][:, :-1][:, given].sum(1)

    def area(score: np.ndarray) -> float:
        ranks, positive = stats.rankdata(score), int(truth.sum())
        below = ranks[truth].sum() - positive * (positive + 1) / 2
        return float(below / (positive * (len(truth) - positive)))

    return {"persistence_auroc": area(last), "full_state_auroc": area(model)}


def strong(name: str) -> Callable[[Dataset], Dataset]:
    fault = next(fault for fault in treatment.FAULTS if fault.name == name and fault.log == "hospital")
    return lambda log: fault.spoiled(log)[0]


SCORE = {"own": "c4", "dose": "dose", "weight": 3.0}
MADE = "observation-made-of-action"
CASES = (
    Case("a score that a dose raises, formula known", "the formula", strong("a score that a dose raises"), MADE,
         construction(SCORE, "c4")),
    Case("a score that a dose raises, as a column", "the column, its signal", strong("a score that a dose raises"), MADE,
         construction({"column": "c3"}, "c4")),
    Case("a drug's code", "the column, some signal", strong("a drug's code"), MADE, construction({"column": "c0"}, "c5")),
    Case("any treatment in this window", "the column, some signal", strong("any treatment in this window"), MADE,
         construction({"column": "c0"}, "c5")),
    Case("a running total of doses", "the column, some signal", strong("a running total of doses"), MADE,
         construction({"column": "c0"}, "c5")),
    Case("a removed part, total exact", "total, parts, tolerance", total_of_parts(0.0), "removed-column-revealed",
         reconstruction, lambda log: {"heart": heart(log)}),
    Case("a removed part, total rounded", "total, parts, tolerance", total_of_parts(0.05), "removed-column-revealed",
         reconstruction, lambda log: {"heart": heart(log)}),
    Case("actions that go on as before", "both areas", strong("actions that go on as before"), "action-repeats", areas),
)  # fmt: skip


def beside_sail(python: str, draws: int) -> tuple[list[list[str]], str]:
    """A line for each case: in how many draws each package finds it, planted and clean; and sail-leakage's version."""
    ours: Counter[tuple[str, bool]] = Counter()
    theirs: Counter[tuple[str, bool]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(draws):
            clean = fresh("hospital", seed)
            for k, case in enumerate(CASES):
                for spoiled in (False, True):
                    log = case.plant(clean) if spoiled else clean
                    names = (*NEW, "removed_column_revealed")
                    ours[case.name, spoiled] += case.code in codes(log, names, case.removed(log))
                    frame = {f"c{j}": np.round(log.observation[:, j].astype(float), 6) for j in range(8)}
                    frame |= {"action": log.action, "dose": (log.action % 5).astype(float)}
                    given = case.arguments(log, frame)
                    spec = given.get("construction_spec", {})
                    if not spoiled and "own" in spec.get("scoring", {}):  # without the leak the score is its signal
                        given["construction_spec"] = spec | {"scoring": {"column": "c4"}}
                    path = Path(folder) / f"{k}-{int(spoiled)}-{seed}"
                    pl.DataFrame(frame).write_csv(path.with_suffix(".csv"))
                    path.with_suffix(".json").write_text(
                        json.dumps({"state_cols": [f"c{j}" for j in range(8)], "action_col": "action"} | given)
                    )
        words = [python, str(HERE / "sail_worker.py"), folder]
        done = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    for name, flags in done["found"].items():
        k, spoiled, _ = name.split("-")
        theirs[CASES[int(k)].name, spoiled == "1"] += any(flags.values())
    rows = [
        [case.name, case.told, *(f"{count[case.name, True]} / {count[case.name, False]}" for count in (theirs, ours))]
        for case in CASES
    ]
    return rows, done["version"]


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sail-python", help="the Python of an environment that has sail-leakage")
    parser.add_argument("--draws", type=int, default=5, help="fresh logs of each fault")
    parser.add_argument("--false-alarm-draws", type=int, default=10, help="fresh logs of each sound world")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    draws = given.draws
    faults = planted(draws)
    hidden = causes(draws)
    alarms = false_alarms(given.false_alarm_draws)
    lines = [
        "# Overlap with the treatment, habits, times and left-out causes",
        "",
        f"Each fault was planted in {draws} logs that share no row. Strengths go from what one meets to what is hardly there.",
        "",
        "| fault | log | finding | strength is | found, at each strength | in the clean logs |",
        "| --- | --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in faults),
        "",
        "A score that a dose raises by less than about three of its deviations, and a column with one wrong entry in a hundred, "
        "are not seen: what else moves them is then more than a twentieth.",
        "",
        "## The hint of a hidden common cause",
        "",
        f"`hidden-common-cause` in {draws} logs of each world, with its cause hidden and shown. It is given for a cause of "
        "actions and rewards that lasts. Where a cause decides the actions alone it is rightly not given; where the observation "
        "soon takes the cause up, or the cause has no memory, it is missed.",
        "",
        "| cause | it | hidden | shown |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in hidden),
        "",
        "## False alarms",
        "",
        f"{given.false_alarm_draws} fresh logs of each of {len(alarms)} worlds without a fault; the number behind a code is in "
        "how many of them it was found.",
        "",
        "| world | found |",
        "| --- | --- |",
        *(f"| {' | '.join(row)} |" for row in alarms),
        "",
    ]
    if given.sail_python:
        rows, version = beside_sail(given.sail_python, draws)
        lines += [
            "## Beside sail-leakage",
            "",
            f"sail-leakage {version} on the same {draws} hospital logs in the same run: how many it flags with the leak / "
            "without it. It looks where it is told to look: at a score with its formula (or its column) and the signal that it "
            "should measure, at a total with its parts, or at two areas under the ROC curve, which it compares. Its check of "
            "scores is made for a formula; given a column, and another column as its signal, it flags most logs without the "
            "leak too. Parts must add up to the total within a tolerance that the user states, here 1e-4. The audit is told the "
            "names of removed columns and nothing else. Two categories of sail-leakage need what a log does not hold: "
            "the intervals of treatment (overlap in time), and a second time for each row, that of the action (violation of "
            "timing).",
            "",
            "| leak | sail-leakage is told | sail-leakage, with / without | audit, with / without |",
            "| --- | --- | --- | --- |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    lines.append(
        describe(
            f"python benchmarks/treatment_leaks.py --draws {draws} --false-alarm-draws {given.false_alarm_draws}"
            + (" --sail-python SAIL/bin/python" if given.sail_python else "")
        )
    )
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
