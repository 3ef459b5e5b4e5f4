"""The blocks of Python in the documentation, made small enough to run: what stands before them, and what is put in their place.

A block that cannot be run says why in the line above it: `<!-- not run: it needs a simulator -->`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bundles import discrete

import stitchrl as st
from stitchrl.deployment.bundle import save_bundle
from stitchrl.mdp.icu_sepsis import compact_table, draw_log

__all__ = ["PREPARED", "Block", "blocks_of", "pages", "small_log", "smaller"]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```python\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
GENERATED = ("docs/api/", "docs/benchmarks/", "docs/_build/")
"""Folders that a build writes."""


class Block(NamedTuple):
    """A block: its text, and why it is not run ("" where it is)."""

    text: str
    reason: str


def pages() -> dict[str, list[Block]]:
    """Path of each page that has blocks, from the root of the repository -> its blocks."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {file.relative_to(ROOT).as_posix(): blocks_of(file.read_text(encoding="utf-8")) for file in files}
    return {name: blocks for name, blocks in found.items() if blocks and not name.startswith(GENERATED)}


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(match["text"], match["reason"] or "") for match in BLOCK.finditer(text)]


def smaller(text: str) -> str:
    """A block with the small log in place of the demo's, narrow networks, and a few updates."""
    text = text.replace("st.demo_log()", "small_log()")
    few = "seeds=1, evaluation_updates=20, updates=20" if "st.run(" in text else "updates=20"
    text = re.sub(r"\bupdates=[\d_]+", few, text)
    text = re.sub(r"\bbudget=[\d_]+", "budget=240", text)
    return text.replace("(128, 128)", "(16,)")


def small_log() -> st.Dataset:
    """400 stays."""
    return st.demo_log(compact_table(draw_log(400, seed=3)))


# --- what pages take for granted -------------------------------------------------------------------------------------


def a_log() -> dict[str, Any]:
    """`log` and `stays.parquet`."""
    log = small_log()
    st.convert(log, "stays.parquet")
    return {"st": st, "np": np, "log": log}


def two_logs() -> dict[str, Any]:
    """`stays.parquet` with the time of each row, and `other`, a log of other stays."""
    log = small_log()
    schema = dataclasses.replace(log.schema, columns={**log.schema.columns, "time": "time"})
    log = dataclasses.replace(log, time=np.arange(log.num_transitions), schema=schema)
    st.convert(log.head(200), "stays.parquet")
    st.convert(log.select_episodes(range(200, 400)), "others.parquet")
    return {"st": st, "other": st.read("others.parquet")}


def a_policy() -> dict[str, Any]:
    """Besides, a policy of an algorithm, and the part that it did not learn from."""
    names = a_log()
    train, test = names["log"].split((0.5, 0.5), seed=0)
    return names | {"policy": st.fit(st.BC(hidden_sizes=(8,)), train, updates=20).policy, "test": test}


def a_bundle() -> dict[str, Any]:
    """A bundle over the columns pulse, ward and lactate in run/policy."""
    save_bundle(Path("run") / "policy", discrete())
    return {"st": st}


PREPARED: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/bundle.md": a_bundle,
    "docs/data.md": two_logs,
    "docs/diagnosis.md": a_log,
    "docs/race.md": a_log,
    "docs/returns.md": a_policy,
    "docs/running.md": a_log,
    "docs/training.md": a_log,
}
"""Page -> what stands in its namespace and its folder before the first block; other pages stand by themselves."""
