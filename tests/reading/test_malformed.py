"""Reading anything that is no log raises a StitchRLError of one line, without hanging or crashing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from malformed import CASES, SEEDS, Case
from worlds import tiny_columns

import stitchrl as st
from stitchrl.data.file_rules import FileRules
from stitchrl.data.schema import ROLES, Schema
from stitchrl.errors import SchemaError, StitchRLError

LONGEST_MESSAGE = 1_500
BOUNDED = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def test_there_are_at_least_two_hundred() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_ends_in_one_sentence(tmp_path: Path, case: Case) -> None:
    source = case.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StitchRLError) as caught:
        st.read(source, case.schema)
    message = well_said(caught.value)
    for part in case.says:
        assert part in message, message
    assert sorted(tmp_path.rglob("*")) == before


def well_said(error: StitchRLError) -> str:
    message = str(error)
    lines = message.split("\n")
    assert all(line.isprintable() for line in lines), message
    assert len(lines) == 1 or (lines[0].endswith(":") and all(line.startswith("- ") for line in lines[1:])), message
    assert all(line.endswith(".") for line in lines[1:]), message
    assert all(len(line) < LONGEST_MESSAGE for line in lines)
    assert message.endswith("."), message
    return message


def acceptable(read: Any) -> None:
    """Assert that reading gives a plausible log, or an error of one sentence."""
    try:
        log = read()
    except StitchRLError as error:
        well_said(error)
    else:
        assert np.isfinite(log.reward).all()
        assert log.num_transitions == log.episode_start[-1]
        repr(log), log.observation.sum()


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_files(tmp_path: Path, name: str) -> None:
    make, schema = SEEDS[name]
    content = make()
    places = some.integers(0, len(content) - 1)

    @BOUNDED
    @given(
        flips=some.lists(some.tuples(places, some.integers(0, 255)), min_size=1, max_size=4),
        cut=some.none() | some.tuples(places, some.integers(0, 40)),
        given_schema=some.booleans(),
    )
    def mutated(flips: list[tuple[int, int]], cut: tuple[int, int] | None, given_schema: bool) -> None:
        changed = bytearray(content)
        for place, value in flips:
            changed[place] = value
        if cut is not None:
            del changed[cut[0] : cut[0] + cut[1]]
        path = tmp_path / name
        path.unlink(missing_ok=True)  # the last one may be mapped
        path.write_bytes(bytes(changed))
        acceptable(lambda: st.read(path, schema if given_schema else None))

    mutated()


values = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(max_size=12)
    | some.sampled_from([*ROLES, "one-hot", "previous", "truncated", "a - b", "continuous"]),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SECTION_KEYS = {
    "columns": list(ROLES),
    "observation": ["observation", "a"],
    "action": ["kind", "count", "bins", "categories", "low", "high", "unit"],
    "reward": ["expression", "fill", "low", "high"],
    "episodes": ["bandit", "end", "gap", "files", "terminated_values", "truncated_values"],
    "task": ["gamma", "name"],
    "file": [field.name for field in dataclasses.fields(FileRules)],
}
sections = some.fixed_dictionaries(
    {},
    optional={
        section: values | some.dictionaries(some.sampled_from(keys) | some.text(max_size=4), values, max_size=4)
        for section, keys in SECTION_KEYS.items()
    },
)


@BOUNDED
@given(content=sections, over_good=some.booleans())
def test_random_schemas(content: dict[str, Any], over_good: bool) -> None:
    if over_good:
        good = {role: role for role in tiny_columns()}
        given_columns = content.get("columns", {})
        content = content | {"columns": good | (given_columns if isinstance(given_columns, dict) else {})}
    try:
        schema = Schema.from_dict(content)
    except SchemaError as error:
        well_said(error)
        return
    assert Schema.from_dict(schema.to_dict()) == schema
    acceptable(lambda: st.read(tiny_columns(), schema))


words = [*"ab12.+-*/%()<>=!`, \n_[]'\"", " and ", " or ", "not ", "min(", "log(", "where("]


@BOUNDED
@given(text=some.lists(some.sampled_from(words), max_size=40).map("".join))
def test_random_expressions(text: str) -> None:
    columns = {role: role for role in tiny_columns() if role != "reward"}
    source = tiny_columns() | {"a": np.arange(6.0), "b": np.arange(6.0) - 3}
    try:
        schema = Schema(columns, num_actions=3, reward_expression=text)
    except SchemaError as error:
        well_said(error)
        return
    acceptable(lambda: st.read(source, schema))
