"""The verdicts of commit cbe9abc on the logs of `false_go.py`, which starts this program with that version's sources.

It reads one line a task, and answers with one line: the decision on each policy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from hidden_candidates import columns_of, hidden_cases
from stitchrl.data.schema import Schema
from stitchrl.evaluation import evaluate as evaluation
from stitchrl.evaluation import evidence

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from exact_worlds import TablePolicy, TableQ, world_named

AS_FITTED = evidence.fit_q


def decisions(policies: list[Any], log: Any, rest: Any, models: list[TableQ] | None) -> list[str]:
    """What that version says; its audit is left out, which can only turn a decision into CANNOT TELL."""
    evidence.fit_q = AS_FITTED if models is None else lambda *args, **kwargs: models
    found = evaluation.evaluate_all(policies, log, fit_on=rest, audit_verdict="usable")
    return [one.verdict.decision for one in found]


def answer(task: dict[str, Any]) -> list[str]:
    """The decisions of one task."""
    if task["kind"] == "hidden":
        case = hidden_cases()[task["world"]]
        columns = columns_of(case.draw(task["episodes"], task["seed"]))
        schema = Schema.infer(list(columns), num_actions=task["actions"], gamma=1.0)
        whole = st.read(columns, schema)
        policies, models = [case.policy], None
    else:
        world = world_named(task["world"])
        whole = world.log(task["episodes"], task["seed"], propensities=task["known"])
        with np.load(task["policies"]) as arrays:
            policies = [TablePolicy(world.features, arrays[name]) for name in arrays.files]
        with np.load(task["models"]) as arrays:
            models = [TableQ(arrays[f"phi{k}"], arrays[f"q{k}"]) for k in range(len(policies))]
    cut = task["test"]
    log, rest = whole.select_episodes(np.arange(cut)), whole.select_episodes(np.arange(cut, whole.num_episodes))
    return decisions(policies, log, rest, models)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
