"""Schemas: what TOML may hold, what is refused and why, and that everything round-trips."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_tables import COLUMNS

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import REQUIRED_ROLES, Schema
from stitchrl.errors import DataError, SchemaError


def test_schema_loads_what_the_toml_says(tmp_path: Path) -> None:
    file = tmp_path / "log.toml"
    file.write_text(COLUMNS + '[action]\nkind = "discrete"\ncount = 4\n[task]\ngamma = 1\nname = "ward"\n')
    schema = Schema.load(file)
    assert schema.columns["observation"] == ("heart", "lung")
    assert schema.columns["episode"] == "stay"
    assert (schema.num_actions, schema.gamma, schema.name) == (4, 1.0, "ward")


def test_schema_defaults_are_continuous_actions_and_gamma_099() -> None:
    schema = Schema.from_dict({"columns": {role: role for role in REQUIRED_ROLES}})
    assert (schema.num_actions, schema.gamma, schema.name) == (None, 0.99, "log")


@pytest.mark.parametrize("num_actions", [None, 2, 25])
def test_schema_round_trips_through_toml(tmp_path: Path, num_actions: int | None) -> None:
    columns = {role: role for role in REQUIRED_ROLES} | {"observation": ("a b", 'c"d', "é")}
    schema = Schema(columns, num_actions=num_actions, gamma=0.5, name='a "name" = 1')
    file = tmp_path / "s.toml"
    file.write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.load(file) == schema
    assert Schema.from_dict(schema.to_dict()) == schema


DISCRETE = COLUMNS + '[action]\nkind = "discrete"\n'


SECTIONS = "has the sections [columns], [observation], [action], [reward], [episodes], [task], [file]; got "


NO_NAME = "must be a name or a list of names; got "


COUNT = "A discrete action needs `count`, the number of actions"


LISTED = COUNT + ", or a list of them; got "


GAMMA = "`gamma` of [task] must be a number in [0, 1]; got "


BAD_TOML = {
    "unknown section": (COLUMNS + "[colums]\n", SECTIONS + "'colums'."),
    "section is no table": ("columns = 3\n", SECTIONS + "'columns'."),
    "unknown role": (COLUMNS + 'obs = "x"\n', "[columns] of the schema may have episode, step, observation"),
    "unknown role, named": (COLUMNS + 'obs = "x"\n', "got 'obs'."),
    "misspelt role": (COLUMNS + 'truncted = "x"\n', "got 'truncted'. Did you mean truncated?"),
    "unknown action key": (
        COLUMNS + "[action]\nsize = 3\n",
        "[action] of the schema may have kind, count, bins, categories, low, high, unit; got 'size'.",
    ),
    "unknown task key": (
        COLUMNS + "[task]\nsize = 3\n",
        "[task] of the schema may have gamma, name, time_unit; got 'size'.",
    ),
    "column is a number": (COLUMNS + "step = 3\n", "The column of 'step' " + NO_NAME + "3."),
    "column list of numbers": (COLUMNS + "action_mask = [1, 2]\n", NO_NAME + "[1, 2]."),
    "scalar role, two columns": (
        COLUMNS + 'step = ["a", "b"]\n',
        "The role 'step' takes one column; got 2: a, b. Only observation, next_observation",
    ),
    "unknown kind": (
        COLUMNS + '[action]\nkind = "box"\n',
        "`kind` of [action] must be discrete or continuous; got 'box'.",
    ),
    "no count": (DISCRETE, COUNT + "; got None."),
    "count true": (DISCRETE + "count = true\n", LISTED + "True."),
    "count 2.5": (DISCRETE + "count = 2.5\n", LISTED + "2.5."),
    "count 1": (DISCRETE + "count = 1\n", "`num_actions` must be at least 2; got 1."),
    "gamma is text": (COLUMNS + '[task]\ngamma = "0.9"\n', GAMMA + "'0.9'."),
    "gamma true": (COLUMNS + "[task]\ngamma = true\n", GAMMA + "True."),
    "gamma 1.5": (COLUMNS + "[task]\ngamma = 1.5\n", "`gamma` must be in [0, 1]; got 1.5."),
    "gamma negative": (COLUMNS + "[task]\ngamma = -0.1\n", "`gamma` must be in [0, 1]; got -0.1."),
    "gamma nan": (COLUMNS + "[task]\ngamma = nan\n", "`gamma` must be in [0, 1]; got nan."),
    "not TOML": ("[columns\n", "is not TOML"),
    "empty": (
        "",
        "names no column for 'episode', which every log needs. Add `episode = \"your_column\"` under [columns], or",
    ),
}


@pytest.mark.parametrize(("text", "fragment"), BAD_TOML.values(), ids=BAD_TOML.keys())
def test_bad_schema_is_refused_with_its_reason(tmp_path: Path, text: str, fragment: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SchemaError) as caught:
        Schema.load(file)
    assert fragment in str(caught.value)
    assert issubclass(SchemaError, DataError)


@pytest.mark.parametrize("role", REQUIRED_ROLES)
def test_every_required_role_must_have_a_column(role: str) -> None:
    columns = {name: name for name in REQUIRED_ROLES if name != role}
    if role == "episode":  # could be told from the ends
        del columns["terminated"]
    with pytest.raises(SchemaError, match=f"names no column for '{role}'"):
        Schema(columns)


def test_schema_of_an_unknown_role_is_refused() -> None:
    with pytest.raises(SchemaError, match="gives a role 'obs'; roles are: episode, step"):
        Schema({role: role for role in REQUIRED_ROLES} | {"obs": "x"})


def test_missing_undecodable_and_unreadable_schema_files(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"There is no schema file .*nowhere.toml"):
        Schema.load(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SchemaError, match="is not TOML"):
        Schema.load(binary)
    with pytest.raises(SchemaError, match="cannot be read"):
        Schema.load(tmp_path)


FULL = Schema(
    {
        "episode": "stay",
        "step": "t",
        "observation": ("age", "ward", "labs"),
        "action": ("dose a", "dose b"),
        "terminated": "died",
        "truncated": "left",
        "propensity": "p",
        "time": "at",
        "group": "patient",
        "action_mask": "allowed",
    },
    gamma=1.0,
    name='ward "3"\n',
    observations={
        "age": ColumnRule(missing="previous", fill=40.0, indicator=True, low=0.0, high=120.0, unit="years"),
        "ward": ColumnRule(("ICU", "ER"), encoding="code", missing="value"),
    },
    action_bins=((0.5, 1.0), (2.0,)),
    action_low=(0.0, 0.0),
    action_high=(5.0, 5.0),
    action_unit="mg",
    reward_expression="10 * alive - `total cost` / 3",
    reward_low=-5.0,
    reward_high=5.0,
    end="truncated",
    gap=3600.0,
    files="separate",
)


@pytest.mark.parametrize(
    "schema",
    [
        FULL,
        dataclasses.replace(FULL, action_bins=None, num_actions=None, action_counts=None),
        Schema({r: r for r in REQUIRED_ROLES}, action_counts=(3, 4)),
        Schema({r: r for r in REQUIRED_ROLES}, action_categories=("up", "down", "7")),
        Schema({"observation": "x", "action": "a", "reward": "r"}, num_actions=10_000, bandit=True),
        Schema({r: r for r in REQUIRED_ROLES}, action_low=(-1.0,), reward_high=0.0),
    ],
)
def test_everything_a_schema_says_round_trips(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "s.toml").write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.load(tmp_path / "s.toml") == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
