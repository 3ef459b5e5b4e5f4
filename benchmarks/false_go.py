"""How often is GO said of policies that are no better, and of policies that are? Whole verdicts on fresh logs.

    python benchmarks/false_go.py [--minutes 45] [--before SOURCES] [--work runs/false_go] [--out benchmarks/results/false_go.md]

The candidates are fixed, and their gains known: exactly in finite worlds, by simulation in worlds whose log hides a cause. Of
each log .6 fit the models and .4 make the verdict, as in the main job. `--before` names the `src` folder of an older version
(commit cbe9abc), which then judges the same logs in a process of its own. Replicates are kept in the folder `--work`, and
the same command continues them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import stats

import stitchrl as st
from coverage import ESTIMATE, FITTING, RARE, STOPPED, rows_for, subject_of, table
from curves import Line, Panel, drawn
from environment import describe
from hidden_candidates import columns_of, hidden_cases
from stitchrl.auditing.audit import audit
from stitchrl.auditing.history import ENOUGH_DECISIONS, HistoryCheck, HistoryGain, history_check
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evaluate import evaluate_all, evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.judge import Judge
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.registry import DEFAULT, chosen_estimators
from stitchrl.evaluation.sensitivity import Sensitivity
from stitchrl.evaluation.settings import FitSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from exact_worlds import HOSPITAL, TableQ, World, of_rows, tilted, world_named
from known_fits import KnownFits, fit_tables

SMALL = "tabular, 12 states"
SIZES = (500, 2000, 8000, 20_000)
NEAR, LARGE = "ratios at most 20", "rare large ratios"
GAINS = {NEAR: (-0.02, -0.01, 0.0, 0.01, 0.02, 0.04), LARGE: (-0.01, 0.0, 0.02)}
"""True gains of the candidates in the hospital; in other worlds they are scaled by the spread of the returns."""
KNOWN, FITTED, HIDDEN = "known", "fitted", "hidden"
TARGET = {
    (HOSPITAL, KNOWN): (10, 100, 60, 8),
    (HOSPITAL, FITTED): (4, 10, 12, 8),
    (SMALL, KNOWN): (10, 60, 30, 5),
    (SMALL, FITTED): (10, 30, 30, 10),
    HIDDEN: (8, 12, 12, 0),
}
"""Logs of a cell, by size."""
BEFORE_EVERY = 2
"""The older version judges every second log."""
AUDITED = 2
"""Replicates of a cell in which GO is also held against the audit of the whole log."""
RESAMPLES = 1000
"""Resamples of the weighted estimates, which only confirm; the product takes 10,000. The primary needs none."""
ACTIONS = {"sepsis, glucose and diabetes hidden": 8}
PASSED = HistoryCheck(True, "Not looked at.", (HistoryGain("action", 0.0, 0.0, 0.0, ENOUGH_DECISIONS, (), True),))
"""Stands in for the history check until nothing else rules out GO; `finished` then makes the check itself."""
SENSITIVITY = Judge._sensitivity


# --- candidates ---------------------------------------------------------------------------------------------------


def with_gain(world: World, score: np.ndarray, gain: float, **how: float) -> np.ndarray:
    """The tilt of the behaviour by a score and the exact advantages that has this exact gain."""
    b = world.behavior[: world.live]
    q = world.mdp.action_values(world.behavior)[: world.live]
    advantage = q - (b * q).sum(1, keepdims=True)
    unit = 1.0 / np.sqrt((b * advantage**2).sum(1).mean())
    low, high = -40.0, 40.0
    for _ in range(30):
        middle = (low + high) / 2
        found = tilted(b, score + middle * unit * advantage, **how)
        low, high = (middle, high) if world.gain(found) < gain else (low, middle)
    return found


def candidates_of(name: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Tables and true gains, by name."""
    subject = subject_of(name)
    world, b = subject.world, subject.world.behavior[: subject.world.live]
    noise = 0.5 * np.random.default_rng(0).normal(size=b.shape)
    preferred = np.log(np.maximum(subject.tables[RARE], 1e-12) / np.maximum(b, 1e-12))
    scale = world.log(4000, 2).episode_returns().std() / world_named(HOSPITAL).log(4000, 2).episode_returns().std()
    tables = {}
    for family, gains in GAINS.items():
        for gain in gains:
            score, how = (noise, {"floor": 0.05}) if family == NEAR else (preferred, {})
            tables[f"{gain:+.2f}, {family}"] = with_gain(world, score, gain * scale, **how)
    return tables, {key: world.gain(found) for key, found in tables.items()}


def prepared(name: str, work: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The candidates of a world, made once and kept."""
    path = work / f"{_stem(name)}.npz"
    if not path.exists():
        tables, _ = candidates_of(name)
        np.savez(path, **tables)
    with np.load(path) as arrays:
        tables = {key: arrays[key] for key in arrays.files}
    return tables, {key: world_named(name).gain(found) for key, found in tables.items()}


def _stem(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def models_path(name: str, tables: dict[str, np.ndarray], episodes: int, work: Path) -> Path:
    """Where the Q of all candidates are kept, fitted on a log of that size."""
    path = work / f"{_stem(name)}-{episodes}-0.npz"
    if not path.exists():
        world, size = world_named(name), int(FITTING * episodes)
        log = of_rows(world.log(size, 600_000), rows_for(name, size))
        found = fit_tables(world, log, list(tables.values()), FitSettings())
        np.savez(path, **{f"{part}{k}": getattr(q, part) for k, q in enumerate(found) for part in ("phi", "q")})
    return path


# --- verdicts -----------------------------------------------------------------------------------------------------


def _sensitivity_where_it_decides(judge: Judge, k: int, gain: Any) -> Sensitivity | None:
    """The product's, where nothing else rules out GO; elsewhere it changes no decision and is not computed."""
    name = choose_primary(gain)
    if not judge._fits.behavior.fitted or name is None:
        return None
    if not (gain[name].healthy and gain[name].lower > judge._rule.margin):
        return Sensitivity(1.0, 0)
    return SENSITIVITY(judge, k, gain)


def finished(found: Evaluation, whole: Dataset, looked: dict[str, Any], audited: bool) -> tuple[str, str]:
    """The decision once history and audit are looked at, and the lines that failed; they can only take back a GO."""
    lines = "".join(line.key for line in found.verdict.lines if line.passed is False)
    decision = found.verdict.decision
    if decision != "GO":
        return decision, lines
    if found.behavior_fitted:
        if "history" not in looked:
            history = history_check(whole)
            looked["history"] = history.passed if history.passed is not True or history.enough else None
        if looked["history"] is not True:
            return "CANNOT TELL", "e, history"
    if audited:
        if "audit" not in looked:
            looked["audit"] = audit(whole).verdict
        if looked["audit"] == "not usable":
            return "CANNOT TELL", "d"
    return decision, lines


def halves(whole: Dataset) -> tuple[Dataset, Dataset]:
    """The test part, and the rest; episodes of a simulation are in no order."""
    cut = int(ESTIMATE * whole.num_episodes)
    return whole.select_episodes(np.arange(cut)), whole.select_episodes(np.arange(cut, whole.num_episodes))


def in_known_world(
    name: str, tables: dict[str, np.ndarray], models: Path, episodes: int, known: bool, replicate: int
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Verdicts on all candidates on one log, and what audit and history said."""
    world = world_named(name)
    whole = world.log(episodes, 30_000 + replicate, propensities=known)
    log, rest = halves(whole)
    with np.load(models) as arrays:
        q = [TableQ(arrays[f"phi{k}"], arrays[f"q{k}"]) for k in range(len(tables))]
    rows = rows_for(name, rest.num_episodes)
    fits = KnownFits(world, list(tables.values()), log, rest, models=q, rows=rows, settings=FitSettings())
    with mock.patch.object(Judge, "_sensitivity", _sensitivity_where_it_decides):
        found = evaluate_fits(
            fits, chosen_estimators(DEFAULT), audit_verdict="usable", history=PASSED, resamples=RESAMPLES
        )
    looked: dict[str, Any] = {}
    return [finished(one, whole, looked, replicate < AUDITED) for one in found], looked


def in_hidden_world(name: str, episodes: int, replicate: int) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The verdict on the candidate on one log whose cause is hidden; every model is fitted anew."""
    case = hidden_cases()[name]
    columns = columns_of(case.draw(episodes, 40_000 + replicate))
    whole = st.read(columns, st.Schema.infer(list(columns), num_actions=ACTIONS.get(name, 3), gamma=1.0))
    log, rest = halves(whole)
    found = evaluate_all([case.policy], log, fit_on=rest, audit_verdict="usable", history=PASSED, resamples=RESAMPLES)
    looked: dict[str, Any] = {}
    return [finished(found[0], whole, looked, replicate < AUDITED)], looked


class Before:
    """The older version in a process of its own; None where it fails."""

    def __init__(self, sources: Path | None) -> None:
        self._sources, self._process = sources, None

    def decisions(self, **task: Any) -> list[str] | None:
        """Its decisions."""
        if self._sources is None:
            return None
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "false_go_before.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(self._sources)},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else None

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()


def one_replicate(world: str, mode: str, episodes: int, replicate: int, work: Path, before: Before) -> dict[str, Any]:
    """Decisions of both versions on one log."""
    if mode == HIDDEN:
        now, looked = in_hidden_world(world, episodes, replicate)
        task: dict[str, Any] = {"kind": "hidden", "seed": 40_000 + replicate, "actions": ACTIONS.get(world, 3)}
        names: Sequence[str] = [world]
    else:
        tables, _ = prepared(world, work)
        models = models_path(world, tables, episodes, work)
        now, looked = in_known_world(world, tables, models, episodes, mode == KNOWN, replicate)
        task = {"kind": "known", "seed": 30_000 + replicate, "known": mode == KNOWN, "models": str(models.resolve()),
                "policies": str((work / f"{_stem(world)}.npz").resolve())}  # fmt: skip
        names = list(tables)
    old = None
    if replicate % BEFORE_EVERY == 0:
        old = before.decisions(world=world, episodes=episodes, test=int(ESTIMATE * episodes), **task)
    return {"now": dict(zip(names, now, strict=True)), "looked": looked,
            "before": None if old is None else dict(zip(names, old, strict=True))}  # fmt: skip


# --- the tables ---------------------------------------------------------------------------------------------------


Kept = dict[tuple[str, str, int], list[dict[str, Any]]]


def counted(rows: list[dict[str, Any]], name: str, version: str) -> tuple[int, int]:
    """How often GO, and of how many."""
    found = [row[version][name] for row in rows if row[version] is not None]
    return sum((one[0] if isinstance(one, list | tuple) else one) == "GO" for one in found), len(found)


def cell(count: int, n: int) -> str:
    """GO of how many logs, with a 95% interval of the rate."""
    if n == 0:
        return "-"
    low = stats.beta.ppf(0.025, count, n - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return f"{count} of {n}: {count / n:.0%} ({low:.0%} to {high:.0%})"


def curves(kept: Kept, truths: dict[str, dict[str, float]], worlds: Sequence[str], mode: str) -> list[str]:
    """A line for each candidate of the worlds, a pair of columns for each size."""
    sizes = [size for size in SIZES if any(kept.get((world, mode, size)) for world in worlds)]
    heads = ["true gain, candidate", *(f"{size:,}: now" for size in sizes), *(f"{size:,}: before" for size in sizes)]
    rows = []
    for world in worlds:
        for name, truth in truths[world].items():
            cells = [
                cell(*counted(kept.get((world, mode, size), []), name, version))
                for version in ("now", "before")
                for size in sizes
            ]
            rows.append(f"| {truth + 0.0:+.3f}: {name} | {' | '.join(cells)} |")
    return table(tuple(heads), rows)


def pictures(kept: Kept, truths: dict[str, dict[str, float]], folder: Path) -> list[str]:
    """Curves of GO rates against the size of the log, now and before, a file for each world and source of propensities."""
    found = []
    for mode in (KNOWN, FITTED):
        for world in (HOSPITAL, SMALL):
            sizes = [size for size in SIZES if kept.get((world, mode, size))]
            if not sizes:
                continue
            panels = [
                Panel(
                    f"{title}: GO, by episodes of the log",
                    [
                        Line(
                            f"{gain + 0.0:+.3f}",
                            {size: counted(kept[world, mode, size], name, version) for size in sizes},
                        )
                        for name, gain in truths[world].items()
                        if NEAR in name
                    ],
                )
                for version, title in (("now", "now"), ("before", "commit cbe9abc"))
            ]
            name = f"false_go_{_stem(world)}_{mode}.svg"
            (folder / name).write_text(drawn(panels, sizes), encoding="utf-8")
            found += [f"![GO rates, {world}, propensities {mode}]({name})", ""]
    return found


def why(kept: Kept, truths: dict[str, dict[str, float]], world: str, mode: str, *, better: bool) -> list[str]:
    """Which lines kept GO from the candidates that are truly better, or worse, at each size."""
    rows = []
    for size in SIZES:
        lines: dict[str, int] = {}
        for row in kept.get((world, mode, size), []):
            for name, (decision, failed) in row["now"].items():
                if (truths[world][name] > 1e-6) == better and decision != "GO":
                    lines[failed] = lines.get(failed, 0) + 1
        if lines:
            shown = ", ".join(f"({k}) {v}" for k, v in sorted(lines.items(), key=lambda kv: -kv[1])[:4])
            rows.append(f"- {world}, {size:,} episodes: {shown}")
    return rows


def summary(kept: Kept, truths: dict[str, dict[str, float]]) -> list[str]:
    """False GO pooled over candidates of gain 0 or less, by world, propensities and size."""
    rows = []
    for (world, mode, size), found in sorted(kept.items(), key=lambda item: (item[0][1], item[0][0], item[0][2])):
        cells = []
        for version in ("now", "before"):
            for worse in (lambda g: abs(g) < 1e-6, lambda g: g < -1e-6):
                pairs = [counted(found, name, version) for name, gain in truths[world].items() if worse(gain)]
                cells.append(f"{sum(a for a, _ in pairs)} of {sum(n for _, n in pairs)}" if pairs else "-")
        rows.append(f"| {world} | {mode} | {size:,} | {len(found)} | {' | '.join(cells)} |")
    heads = ("world", "propensities", "episodes", "logs", "now: GO at gain 0", "now: GO when worse", "before: GO at gain 0",
             "before: GO when worse")  # fmt: skip
    return table(heads, rows)


def failures(kept: Kept, truths: dict[str, dict[str, float]]) -> list[str]:
    """Every candidate and cell with a false GO, and whether it is more than is allowed beyond doubt."""
    rows = []
    for (world, mode, size), found in sorted(kept.items(), key=lambda item: (item[0][1], item[0][0], item[0][2])):
        for name, gain in truths[world].items():
            count, n = counted(found, name, "now")
            if count and gain < 1e-6:
                allowed = 0.025 if abs(gain) < 1e-6 else 0.05
                doubt = stats.binom.sf(count - 1, n, allowed)
                rows.append(
                    f"| {world} | {mode} | {size:,} | {name} | {gain:+.4f} | {count} of {n} | {allowed:.1%} | {doubt:.2g} |"
                )
    if not rows:
        return ["No candidate that is no better got GO in any log.\n"]
    heads = (
        "world",
        "propensities",
        "episodes",
        "candidate",
        "true gain",
        "GO",
        "allowed",
        "chance of so many if allowed",
    )
    return table(heads, rows)


INTRODUCTION = (
    "Whole verdicts: the default estimators, all lines (a) to (e), Q and behaviour from the other .6 of the log, whose .4 make "
    "the verdict. *Wanted*: at a gain of 0, GO in at most 2.5% of logs; when worse, in at most 5% for any reason.",
    "",
    "Shortcuts, none of which lets a GO pass: Q networks of the finite worlds come from one log of each size and are "
    f"tabled; the weighted estimates, which only confirm, have {RESAMPLES:,} resamples; the sensitivity, the history check (on "
    f"the whole log) and the audit are computed where they would decide, the audit in the first {AUDITED} logs of a cell. Where "
    "a cause is hidden every model is fitted anew. *Before* is commit cbe9abc on every second of these logs, without its audit.",
    "",
    "Candidates tilt the behaviour by noise and by exact advantages until the gain is as wanted: *ratios at most 20* among "
    "actions of behaviour probability .05 or more; *rare large ratios* start from pi^1.5 b^-.5. In the random world gains are "
    "scaled by the spread of the returns, so that a row is as hard as in the hospital.",
    "",
)


def report(kept: Kept, truths: dict[str, dict[str, float]], command: str, folder: Path) -> str:
    """Everything as Markdown; curves beside it in `folder`."""
    lines = ["# False GO, and GO when it is due\n", describe(command), "", STOPPED, "", *INTRODUCTION]
    lines += ["## Failures first\n", *failures(kept, truths)]
    lines += ["## Curves\n", f"Candidates with {NEAR}, by their true gain; bars are 95% intervals.\n"]
    lines += pictures(kept, truths, folder)
    lines += ["## GO for policies that are no better\n"]
    lines += ["Candidates together; those on one log are not independent of each other.\n", *summary(kept, truths)]
    for mode in (KNOWN, FITTED):
        for world in (HOSPITAL, SMALL):
            if any(kept.get((world, mode, size)) for size in SIZES):
                lines += [f"## GO rates: {world}, propensities {mode}\n", *curves(kept, truths, [world], mode)]
                lines += ["Lines that kept GO from truly better candidates (several letters: all of them failed):\n"]
                lines += [*why(kept, truths, world, mode, better=True), ""]
    hidden = [world for world, mode, _ in kept if mode == HIDDEN]
    if hidden:
        lines += ["## GO rates where a cause is hidden and propensities are fitted\n"]
        lines += ["The candidate looks better in the log, and is truly worse; its gain is simulated.\n"]
        names = list(dict.fromkeys(hidden))
        lines += curves(kept, truths, names, HIDDEN)
        lines += ["Lines that kept GO from them:\n"]
        lines += [line for world in names for line in why(kept, truths, world, HIDDEN, better=False)] + [""]
    looked = [row["looked"] for rows in kept.values() for row in rows]
    audits = [one["audit"] for one in looked if "audit" in one]
    history = [one["history"] for one in looked if "history" in one]
    lines += [
        f"The audit decided about {len(audits)} logs ({audits.count('not usable')} not usable), the history check about "
        f"{len(history)} ({history.count(False)} failed, {history.count(None)} could not tell)."
    ]
    return "\n".join(lines) + "\n"


def load(path: Path) -> Kept:
    """The replicates that an earlier run left; a last line that was cut is left out."""
    found: Kept = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            world, mode, size, row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.setdefault((world, mode, size), []).append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--before", type=Path, help="the `src` folder of the older version")
    parser.add_argument("--work", type=Path, default=Path("runs/false_go"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "false_go.md")
    parser.add_argument("--modes", nargs="*", default=[KNOWN, FITTED, HIDDEN], help="of the propensities")
    args = parser.parse_args()
    began = time.monotonic()
    args.work.mkdir(parents=True, exist_ok=True)
    kept = load(args.work / "replicates.jsonl")
    truths = {name: prepared(name, args.work)[1] for name in (HOSPITAL, SMALL)}
    truths |= {name: {name: case.gain} for name, case in hidden_cases().items()}
    worlds = [(w, m) for m in (KNOWN, FITTED) for w in (HOSPITAL, SMALL)] + [(w, HIDDEN) for w in hidden_cases()]
    worlds = [(world, mode) for world, mode in worlds if mode in args.modes]
    before = Before(args.before)
    command = "python benchmarks/false_go.py" + (" --before SOURCES" if args.before else "")
    rounds = 20
    with (args.work / "replicates.jsonl").open("a") as out:
        for turn in range(1, rounds + 1):
            for place, size in enumerate(SIZES):
                for world, mode in worlds:
                    target = TARGET[HIDDEN if mode == HIDDEN else (world, mode)][place]
                    found = kept.setdefault((world, mode, size), [])
                    while len(found) < int(np.ceil(target * turn / rounds)):
                        if time.monotonic() - began > 60 * args.minutes:
                            break
                        row = one_replicate(world, mode, size, len(found), args.work, before)
                        found.append(row)
                        out.write(json.dumps([world, mode, size, row]) + "\n")
                        out.flush()
            done = {key: rows for key, rows in kept.items() if rows}
            args.out.write_text(report(done, truths, command, args.out.parent), encoding="utf-8")
            print(f"round {turn} of {rounds}, {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() - began > 60 * args.minutes:
                break
    before.close()


if __name__ == "__main__":
    main()
