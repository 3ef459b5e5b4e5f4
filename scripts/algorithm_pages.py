"""Write docs/algorithms: a page for each algorithm from its docstring and its settings, and the page that compares them.

    python scripts/algorithm_pages.py [--check]

tests/test_algorithm_pages.py holds the pages to what this writes. The cells of the comparison are what tests hold every
algorithm to; scripts/algorithms_compared.md is the text around them and names the tests.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import stitchrl as st
from pages_on_disk import bring_up_to_date
from stitchrl.algorithms.base import Algorithm
from stitchrl.nn.networks import Network

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "algorithms"
LABELS = ("Use", "Avoid", "First knob", "Deviations", "Metrics")
"""The paragraphs of a docstring that every page has under headings of their own, in this order."""
HEADINGS = {
    "Use": "When to use it",
    "Avoid": "When not",
    "First knob": "What to turn first",
    "Deviations": "Deviations from the paper and its code",
    "Metrics": "Metrics",
}
SHARED = (
    "network", "max_gradient_norm", "warmup_updates", "decay_updates", "average_rate", "precision", "deviations",
    "reward_noise",
)  # fmt: skip
"""Settings that every algorithm has, or every one with several critics; docs/training.md describes them."""


def pages() -> dict[str, str]:
    """The name of each file -> its content."""
    kinds = {name: getattr(st, name) for name in (*st.ALGORITHMS, *st.PREFERENCE_ALGORITHMS)}
    return {"README.md": comparison(kinds)} | {f"{name.lower()}.md": page(kind) for name, kind in kinds.items()}


# --- a page ----------------------------------------------------------------------------------------------------------


def paragraphs(kind: type[Algorithm]) -> tuple[list[str], dict[str, str]]:
    """The paragraphs of the docstring of an algorithm's module, and those of `LABELS` apart, without their labels."""
    module = importlib.import_module(kind.__module__)
    text = ast.get_docstring(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))) or ""
    plain: list[str] = []
    labelled: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        label, colon, rest = paragraph.partition(":")
        if colon and label in LABELS:
            labelled[label] = rest.strip()
        else:
            plain.append(paragraph)
    return plain, labelled


def page(kind: type[Algorithm]) -> str:
    """The page of an algorithm."""
    plain, labelled = paragraphs(kind)
    title = plain[0].rstrip(".").replace("\n", " ")
    parts = [f"# {title}", facts(kind), *plain[1:]]
    parts += [f"## {HEADINGS[label]}\n\n{upper(labelled[label])}" for label in LABELS if label in labelled]
    parts += [settings(kind), published(kind)]
    module = kind.__module__.replace(".", "/")
    parts.append(f"[Source](../../src/{module}.py) · [All algorithms](README.md)")
    return "\n\n".join(part for part in parts if part) + "\n"


def upper(text: str) -> str:
    """A text that begins with a capital letter, unless it begins with code or with the name of a metric."""
    return text if "/" in text.split(None, 1)[0] else text[:1].upper() + text[1:]


def facts(kind: type[Algorithm]) -> str:
    """What it learns from and how it acts, in one paragraph."""
    name = kind.__name__
    actions = " and ".join(kind.actions)
    seen = " or ".join(kind.observations)
    acts = {
        "as trained": "acts as trained",
        "greedy": "acts by its mode",
        "sample": "acts by choosing among actions that it draws",
    }[kind.acts]
    updates = "is solved in closed form, without updates" if kind.closed_form else f"{acts}"
    warning = f" **{kind.caution}**" if kind.caution else ""
    if kind.learns_from == "preferences":
        actions = f"[preferences](../preferences.md) between {actions}"
    return f"`st.{name}()` learns from {actions} actions and from observations that are {seen}; it {updates}.{warning}"


def settings(kind: type[Algorithm]) -> str:
    """The table of its own settings."""
    rows = ["| setting | default | range | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if field.name in SHARED:
            continue
        choices = field.metadata.get("choices")
        interval = " or ".join(f"`{choice!r}`" for choice in choices) if choices else field.metadata.get("interval", "")
        meaning = field.metadata["meaning"].replace("|", "\\|")
        rows.append(f"| `{field.name}` | {default(field.default)} | {interval} | {meaning} |")
    table = "\n".join(rows) if len(rows) > 2 else "It has no settings of its own."
    network = next(field.default for field in dataclasses.fields(kind) if field.name == "network")
    shape = "" if network == Network() else f" Its networks have {network.hidden_sizes} units unless told otherwise."
    return f"## Settings\n\n{table}\n\nThose that all share are in [training](../training.md).{shape}"


def default(value: Any) -> str:
    """A default as it would be written."""
    return "" if value is None else f"`{written(value)}`"


def written(value: Any) -> str:
    """A value as a person would write it: of a network only what is not usual."""
    if not isinstance(value, Network):
        return repr(value)
    usual = Network()
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return f"Network({', '.join(f'{k}={v!r}' for k, v in given.items() if v != getattr(usual, k))})"


def published(kind: type[Algorithm]) -> str:
    """The table of its presets."""
    if not kind.presets:
        return ""
    rows = ["| `preset(...)` | settings | what else those runs did | source |", "|---|---|---|---|"]
    for name, preset in kind.presets.items():
        given = ", ".join(f"`{key}={written(value)}`" for key, value in preset.settings.items())
        rows.append(f"| `{name!r}` | {given} | {preset.training} | {preset.source} |")
    training = [preset.training for preset in kind.presets.values()]
    note = "`preset` sets these settings of the algorithm and nothing else."
    if any(training):
        plain = any("standardize" in one or "observations as they are" in one for one in training)
        note += f" Pass the rest to `st.fit` yourself{', such as `standardize=False`' if plain else ''}."
    return "## Published settings\n\n" + "\n".join(rows) + f"\n\n{note}"


# --- the comparison --------------------------------------------------------------------------------------------------

ARRIVALS = {"s9": "yes", "s8": "no", "splits": "no: it splits as the log does"}
RISKS = {
    "none": "none: its targets ask for logged actions only",
    "likely": "low: its targets ask for likely actions only",
    "the policy's": "some: its targets ask for the policy's actions",
    "all": "some: its targets ask for every action, and a penalty holds down those that were not taken",
}
"""Which actions the targets of a constrained algorithm ask for -> its risk of believing what the log does not say."""


def comparison(kinds: dict[str, type[Algorithm]]) -> str:
    """The page that compares all algorithms."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from learning_worlds import KINDS

    rows = []
    for name, kind in kinds.items():
        use = re.sub(r"\s+", " ", upper(paragraphs(kind)[1]["Use"]))
        rows.append(f"| [{name}]({name.lower()}.md) | {', '.join(kind.actions)} | {use} |")
    compared = [f"| {' | '.join(compared_row(name))} |" for name in kinds if name in KINDS]
    text = (Path(__file__).parent / "algorithms_compared.md").read_text(encoding="utf-8")
    return text.replace("(use)", "\n".join(rows)).replace("(compared)", "\n".join(compared))


def compared_row(name: str) -> list[str]:
    """The cells of an algorithm in the comparison, each of which a test holds."""
    from learning_worlds import KINDS, LEARNED, grows, takes_unlogged

    constraint, values, asks = KINDS[name]
    entries = {key: arrival for key, (_, arrival) in LEARNED.items() if key.partition(",")[0] == name}
    stitches = "; ".join(
        f"{ARRIVALS[arrival]}{key.removeprefix(name).replace(', ', ' at ')}" for key, arrival in entries.items()
    )
    risk = RISKS[asks] if values.startswith("TD") else "none: it has no Q"
    if takes_unlogged(name):
        risk = "high: an error eps grows to eps / (1 - gamma)" if grows(name) else "high where its critics agree"
    taken = "yes" if takes_unlogged(name) else "no"
    return [f"[{name}]({name.lower()}.md)", constraint, values, stitches, taken, risk]


def main() -> None:
    bring_up_to_date(__doc__, FOLDER, pages)


if __name__ == "__main__":
    main()
