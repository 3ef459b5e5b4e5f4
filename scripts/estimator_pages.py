"""Write docs/estimators: a page for each registered estimator from its docstrings, and the page that lists them.

    python scripts/estimator_pages.py [--check]

What an estimator assumes and how it fails is said once, in the tables of docs/evaluation.md and docs/bandits.md, from which the
pages take it. tests/test_estimator_pages.py holds the pages to what this writes.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import stitchrl.evaluation.estimators as package
from pages_on_disk import bring_up_to_date
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.estimators.contextual_bandits import CONTEXTUAL_BANDITS
from stitchrl.evaluation.registry import ESTIMATORS, primary_names

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "estimators"
TABLES = ("evaluation.md", "bandits.md")
OF_CONTINUOUS = (
    "Q, corrected in features of the logged state and action, without any ratio",
    "Q, or the ratio of visits of state and action, is linear in these features",
    "where the features cannot say where the policy goes, it is as wrong as Q is; it misses the loss of a noisier policy",
)
"""The row of `lstdq`, which is for continuous actions and stands in no table of discrete ones."""
HEAD = """\
# Estimators

An estimator says how good a policy is from a log of another one. Each gives a value with an interval, its gain over what
was done before, and checks of its own health. [Which one when, and how each fails](../evaluation.md) chooses for you, and
shows every failure in a picture; `st.evaluate(policy, log)` makes that choice by itself, and takes others by name.

All of them take for granted that nothing hidden decided both the logged actions and the outcome, that the propensities are
right, and that episodes, or groups of them, are independent.

```python
import stitchrl as st

log = st.demo_log()
train, test = log.split((0.5, 0.5), seed=0)
policy = st.fit(st.BC(), train, updates=1_000).policy
result = st.evaluate(policy, test, estimators=("wis", "pdwis"))
print(result.estimates["wis"].value, result.estimates["wis"].lower, result.estimates["wis"].upper)
```
"""


def module_of(estimator: Estimator) -> ModuleType:
    """The file of the estimator's family."""
    for entry in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        held = [one for value in vars(module).values() if isinstance(value, tuple) for one in value]
        if type(estimator).__module__ == module.__name__ or any(one is estimator for one in held):
            return module
    raise LookupError(estimator.name)


def row_of(name: str) -> tuple[str, str, str]:
    """What it computes, what it assumes, and how it fails."""
    if name == "lstdq":
        return OF_CONTINUOUS
    for table in TABLES:
        for line in (ROOT / "docs" / table).read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if len(cells) == 4 and f"`{name}`" in cells[0]:
                return cells[1], cells[2], cells[3].removesuffix(" |")
    raise LookupError(name)


def role(name: str) -> str:
    """Its part in a verdict."""
    for decisions, logs in ((False, "logs of several steps"), (True, "logs of single decisions")):
        names = primary_names(decisions=decisions)
        if name in names:
            before = names[: names.index(name)]
            after = (
                f", after {' and '.join(f'[`{one}`]({one}.md)' for one in before)}" if before else ", and does so first"
            )
            return f"a verdict on {logs} may rest on it{after}"
    if name == "model":
        return "it is a number without an interval, at which no verdict looks"
    return "it confirms or contradicts; no verdict rests on it"


def sentence(function: object) -> str:
    """The first sentence of a docstring, in one line."""
    text = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    return text.rstrip(".")


def page(estimator: Estimator) -> str:
    """The page of an estimator."""
    name, module = estimator.name, module_of(estimator)
    computes, assumes, fails = row_of(name)
    single = any(estimator is one for one in CONTEXTUAL_BANDITS)
    facts = {
        "What it computes": computes,
        "What it assumes": f"{assumes} ([what all assume](README.md) apart)",
        "How it fails": fails,
        "What is fitted for it": lower(sentence(type(estimator).requests)),
        "What it refuses": lower(sentence(type(estimator).refusal)).removeprefix("it refuses "),
        "In a verdict": role(name),
    }
    table = "\n".join(f"- **{key}**: {value}." for key, value in facts.items())
    title = estimator.title[:1].upper() + estimator.title[1:]
    about = (
        "[Single decisions](../bandits.md)"
        if single
        else "[Which estimator when, and how each fails](../evaluation.md)"
    )
    measured = "bandits" if single else "continuous" if name == "lstdq" else "families"
    source = str(module.__name__).replace(".", "/")
    family = inspect.getdoc(module) or ""
    links = (
        f"{about} · [How often its intervals miss](../../benchmarks/results/{measured}.md) · "
        f"[Source](../../src/{source}.py) · [All estimators](README.md)"
    )
    return f"# {name}\n\n{title}.\n\n{table}\n\n## Formula and source\n\n{family}\n\n{links}\n"


def lower(text: str) -> str:
    """A text that begins with a small letter, unless it begins with a symbol such as Q."""
    return text if re.match(r"[A-Z]\b", text) else text[:1].lower() + text[1:]


def pages() -> dict[str, str]:
    """The name of each file -> its content."""
    rows = ["| name | what it is | in a verdict |", "|---|---|---|"]
    rows += [f"| [`{name}`]({name}.md) | {one.title} | {role(name)} |" for name, one in ESTIMATORS.items()]
    end = (
        "An estimator of your own is one object with the members of `st.Estimator`; "
        "`stitchrl.testing.check_estimator` runs it on worlds whose values are known exactly."
    )
    text = HEAD + "\n" + "\n".join(rows) + f"\n\n{end}\n"
    return {"README.md": text} | {f"{name}.md": page(one) for name, one in ESTIMATORS.items()}


def main() -> None:
    bring_up_to_date(__doc__, FOLDER, pages)


if __name__ == "__main__":
    main()
