"""Is the advice right? `st.advise` on logs of varied quality, held against what every candidate is truly worth.

    python benchmarks/advice.py [--only WORDS] [--table] [--updates 1500] [--out results/advice.md] [--state results/advice.jsonl]

On every log of `advice_worlds.py` a fixed set of candidates (each algorithm at a few settings) is trained with the same budget,
as the main job trains them, and each is valued truly: exactly where the world is known, otherwise by playing. Then
`st.advise(log)` names its first candidate. Regret is (best candidate - advised) / (best candidate - behaviour): 0 is the best
choice that there was, 1 is no better than going on as before. Where the best candidate is hardly better than the behaviour, the
denominator is `LEAST` of the world's span, so that noise does not count as regret. Every line of the state file is one
trained candidate, so a benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from advice_worlds import DEVELOPMENT, HELD_OUT, SPAN, Case
from environment import describe
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.pipeline.candidates import job_algorithm

SEEDS = 2
LEAST = 0.01
"""Least denominator of a regret, as a share of the world's span."""
RESULTS = Path(__file__).parent / "results"


def candidates(log: Dataset) -> dict[str, Algorithm]:
    """The fixed set: each algorithm with the main job's settings, and a few values of its first knob."""
    continuous = log.num_actions is None

    def of(kind: Any, **settings: Any) -> Algorithm:
        return dataclasses.replace(job_algorithm(kind, log.schema.gamma, continuous=continuous), **settings)

    small: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    found = {"BC": of(st.BC)} | {f"FilteredBC {top:g}": of(st.FilteredBC, top_fraction=top) for top in (0.1, 0.3)}
    if continuous:
        found |= {
            f"IQL {expectile:g}, {heat:g}": of(st.IQL, expectile=expectile, inverse_temperature=heat)
            for expectile, heat in ((0.7, 3.0), (0.9, 3.0), (0.7, 10.0), (0.9, 10.0))
        }
        found |= {f"TD3BC {weight:g}": of(st.TD3BC, q_weight=weight) for weight in (1.0, 2.5, 10.0)}
        found |= {f"CQL {weight:g}": of(st.CQL, cql_weight=weight) for weight in (1.0, 5.0)}
        fast: dict[str, Any] = {"learning_rate": 1e-3, "target_rate": 0.02}
        found |= {f"TD3BC {weight:g}, fast": of(st.TD3BC, q_weight=weight, **fast) for weight in (2.5, 10.0)}
        found |= {"IQL 0.7, 3, fast": of(st.IQL, **fast)}
        return found
    found |= {f"IQL {expectile:g}": of(st.IQL, expectile=expectile) for expectile in (0.6, 0.8, 0.95)}
    found |= {"IQL 0.8, 3": of(st.IQL, inverse_temperature=3.0)}
    found |= {f"CQL {weight:g}": of(st.CQL, cql_weight=weight) for weight in (0.05, 0.2, 1.0, 5.0)}
    value = small | {"target_rate": 0.02}
    found |= {f"BCQ {share:g}": of(st.BCQ, threshold=share, **value) for share in (0.1, 0.3, 0.6)}
    if numbers_states(log):
        found |= {"SPIBB": of(st.SPIBB), "VILCB": of(st.VILCB)}
    return found | {"DQN": of(st.DQN)}


KNOBS = ("expectile", "inverse_temperature", "cql_weight", "threshold", "q_weight", "top_fraction", "least_count")


def named(label: str, algorithm: Algorithm, fixed: Mapping[str, Algorithm]) -> str:
    """What an advised candidate is called: as the same one of the fixed set, else by its label and knobs."""
    same = next((name for name, other in fixed.items() if other == algorithm), None)
    knobs = ", ".join(f"{getattr(algorithm, knob):g}" for knob in KNOBS if hasattr(algorithm, knob))
    return same or f"{label} {knobs} (advised)"


def true_values(case: Case, algorithm: Algorithm, updates: int) -> list[float]:
    """What each seed of a candidate is truly worth, trained and acting as in the main job."""
    seeds = 1 if algorithm.closed_form else SEEDS
    scale = unit_return_scale(case.log)
    run = st.fit(algorithm, case.log, updates=updates, seeds=seeds, reward_scale=scale, progress=False)
    greedy = case.log.num_actions is None or algorithm.acts == "greedy"
    return [case.value(policy, greedy) for policy in run.policies]


@dataclasses.dataclass
class State:
    """The file of what was trained: one line a candidate of a log."""

    file: Path

    def __post_init__(self) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, log: str, label: str) -> dict[str, Any] | None:
        """The line of a candidate; None where it was not trained."""
        return next((row for row in self.rows if row["log"] == log and row["label"] == label), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a line."""
        self.rows.append(row)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def train(state: State, case: Case, found: Mapping[str, Algorithm], updates: int) -> dict[str, float]:
    """Label -> true value, the mean of its seeds; trained where the state file does not have it."""
    values = {}
    for label, algorithm in found.items():
        row = state.find(case.name, label)
        if row is None:
            begun = time.perf_counter()
            row = {"log": case.name, "label": label, "values": true_values(case, algorithm, updates)}
            row |= {"behavior": case.behavior, "world": case.world, "seconds": round(time.perf_counter() - begun, 1)}
            state.add(row)
            print(f"{case.name}: {label} {np.mean(row['values']):.4g} ({row['seconds']} s)", flush=True)
        values[label] = float(np.mean(row["values"]))
    return values


ALWAYS = {"IQL": ("IQL 0.8", "IQL 0.7, 3"), "CQL": ("CQL 0.2", "CQL 5")}
"""What "always IQL" and "always CQL" are: the main job's own, over discrete and over continuous actions."""


def complete(state: State, case: Case, updates: int) -> None:
    """Train what is not trained of a log, and ask for the advice where that was not asked for."""
    fixed = candidates(case.log)
    train(state, case, fixed, updates)
    if state.find(case.name, ADVISED) is None:
        begun = time.perf_counter()
        found = st.advise(case.log).algorithms
        seconds = round(time.perf_counter() - begun, 1)
        labels = {named(label, each, fixed): each for label, each in found.items()}
        train(state, case, {label: each for label, each in labels.items() if label not in fixed}, updates)
        state.add({"log": case.name, "label": ADVISED, "chosen": list(labels), "seconds": seconds, "rules": rules()})


def rules() -> str:
    """What tells one version of the rules from another: Git's hash of the file that holds them."""
    content = (Path(st.__file__).parent / "diagnosis" / "choice.py").read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()[:10]


def judged(state: State, log: str) -> dict[str, Any] | None:
    """The regrets of a log: of the advised candidate, of the best of the three advised, and of always the same algorithm; None
    where the state file does not hold all of it yet."""
    answer = state.find(log, ADVISED)
    if answer is None:
        return None
    rows = [row for row in state.rows if row["log"] == log and row["label"] != ADVISED]
    values = {row["label"]: float(np.mean(row["values"])) for row in rows}
    behavior, world, chosen = rows[0]["behavior"], rows[0]["world"], answer["chosen"]
    best = max(values, key=values.__getitem__)
    if not chosen:  # the audit called the log not usable, and without advice the behaviour goes on
        chosen, values = [NOTHING], values | {NOTHING: behavior}
    gain = max(values[best] - behavior, LEAST * SPAN[world])
    regret = {label: (values[best] - value) / gain for label, value in values.items()}
    same = {
        name: labels["TD3BC 1" in values] for name, labels in ALWAYS.items()
    }  # which is a candidate of continuous actions
    found = {
        "advised": regret[chosen[0]],
        "of three": min(regret[label] for label in chosen),
        **{f"always {name}": regret[label] for name, label in same.items()},
        "median candidate": float(np.median([regret[label] for label in regret if "advised" not in label])),
    }
    return {
        "log": log,
        "behavior": behavior,
        "best": best,
        "best_value": values[best],
        "chosen": chosen,
        "chosen_value": values[chosen[0]],
        "counts": values[best] > behavior,
        "rules": answer["rules"],
        **found,
    }


ADVISED = "the advice"
"""The label under which the state file keeps what was advised."""
NOTHING = "nothing advised"
"""The label of what goes on where nothing is advised."""
RULES_COMMIT, RULES_HASH, HELD_OUT_COMMIT = "4aba536", "2940ec2b7c", "d1c3f23"
COLUMNS = ("advised", "of three", "always IQL", "always CQL", "median candidate")


def table(title: str, rows: list[dict[str, Any]]) -> list[str]:
    """A table of regrets, with the medians and means below it."""
    lines = [f"\n## {title}\n"]
    lines.append("| log | behaviour | best candidate | first advised | then | " + " | ".join(COLUMNS) + " |")
    lines.append("|---" * (5 + len(COLUMNS)) + "|")
    for row in rows:
        cells = [row["log"], f"{row['behavior']:.4g}", f"{row['best']}: {row['best_value']:.4g}"]
        cells += [f"{row['chosen'][0]}: {row['chosen_value']:.4g}", "; ".join(row["chosen"][1:])]
        numbers = [f"{row[name]:.2f}" if row["counts"] else "-" for name in COLUMNS]
        lines.append("| " + " | ".join([*cells, *numbers]) + " |")
    return [*lines, *summary(rows)]


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Median and mean of the regrets, over the logs of which some candidate is better than the behaviour; and the median in which
    the others count as 1, so that leaving them out can flatter nobody."""
    counted = [row for row in rows if row["counts"]]
    lost = len(rows) - len(counted)
    lines = {
        f"median of {len(counted)}": [np.median([row[name] for row in counted]) for name in COLUMNS],
        f"mean of {len(counted)}": [np.mean([row[name] for row in counted]) for name in COLUMNS],
    }
    if lost:
        with_lost = [np.median([row[name] for row in counted] + [1.0] * lost) for name in COLUMNS]
        lines[f"median of {len(rows)}, rows with - as 1"] = with_lost
    return [
        f"| {name} | | | | | " + " | ".join(f"**{number:.2f}**" for number in numbers) + " |"
        for name, numbers in lines.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--only", default="", help="Train only on logs with these words in their name.")
    parser.add_argument(
        "--table", action="store_true", help="Train nothing: write the table of what the state file holds."
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "advice.md")
    parser.add_argument("--state", type=Path, default=RESULTS / "advice.jsonl")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    state, found = State(args.state), []
    for group in (DEVELOPMENT, HELD_OUT):
        for name, make in group.items():
            if args.only in name and not args.table and judged(state, name) is None:
                complete(state, make(name), args.updates)
        found.append([row for row in (judged(state, name) for name in group) if row is not None])
    development, held_out = found
    missing = [name for name in (*DEVELOPMENT, *HELD_OUT) if judged(state, name) is None]
    lines = ["# Is the advice right?\n", describe(f"python benchmarks/advice.py --updates {args.updates}")]
    lines.append(
        f"- rules: Git's hash of `diagnosis/choice.py` was {', '.join(sorted({row['rules'] for row in held_out}))}"
    )
    lines.append(INTRODUCTION)
    if missing:
        lines.append(f"\nNot finished yet, and in no number below: {'; '.join(missing)}.")
    lines += table("Logs made after the rules were fixed", held_out) + table(
        "Logs on which the rules were found", development
    )
    head = table("All logs", [])[1:3]
    lines += ["\n## All logs\n", *head, *summary([*development, *held_out])]
    lines.append(READING)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


INTRODUCTION = f"""
Regret is (best candidate - chosen) / (best candidate - behaviour), of true values: 0 is the best choice that there was, 1 is no
better than the behaviour, above 1 is worse. The denominator is at least {LEAST:.0%} of the world's span. Every candidate was
trained for the same number of updates with {SEEDS} seeds, whose mean counts; "of three" is the best of the three advised
candidates, which is what an oracle that chooses among them would have; "median candidate" is a candidate drawn blindly. Where
every candidate is worse than the behaviour there was nothing to advise: the row has no regrets (-) and does not count.

The rules were fixed in commit {RULES_COMMIT} (`diagnosis/choice.py` {RULES_HASH}); the logs held out came into being in commit
{HELD_OUT_COMMIT}, after it. Nothing was changed in the rules since but two guards that concern none of these logs (images, and
worlds without a discount whose episodes are cut)."""


READING = """
## Reading

The bar was a median regret of at most 0.25. On the logs of development, to which the rules were fitted, and over all logs it
is met; the medians above say whether it is on those held out alone, which are the ones that count. Where the first advice was
poor there:

- The hospital near random: VILCB, which comes second where most pairs of a state and an action are rare, would have been the
  better first. The threshold of 30% was drawn between logs of 4,000 stays.
- CartPole, medium-replay: the behaviour changes from random to less random while it learns. As a whole it looks nearly
  uniform, and the milder IQL that this calls for is the worse one there.
- CartPole, expert alone: BCQ with a threshold of 0.1 found a policy far better than the "expert", and so did no other
  candidate. No rule that was tried on the logs of development would have named it.
- Grid of a corridor, random alone: every walk returned the same, so the audit called the log not usable and nothing was
  advised. Only the discount told walks apart, and with it some candidates were better than the behaviour.
- Where the behaviour is better than every candidate (rows with -), the right advice is to keep it. No rule says so: it cannot
  be seen before something was trained and evaluated, and is what NO-GO and CANNOT TELL are for. FilteredBC and TD3+BC were
  advised.

The steps of the candidates called fast were added to the fixed set after the first results on the logs of development with
continuous actions, and before the rules were fixed. The values of games carry the noise of 60 played episodes, and of two
seeds."""


if __name__ == "__main__":
    main()
