"""The section [file] of a schema: what it may say, and that it round-trips."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stitchrl.data.file_rules import FileRules
from stitchrl.data.schema import REQUIRED_ROLES, Schema
from stitchrl.errors import SchemaError

FULL = FileRules(
    delimiter=";",
    quotechar="'",
    decimal=",",
    thousands=".",
    encoding="latin-1",
    header=False,
    skiprows=1,
    names=("a", "b"),
    na_values=("-", "999"),
    true_values=("si",),
    false_values=("nunca",),
    dates="day first",
    timezone="Europe/Berlin",
    text_columns=("visit",),
    sheet=1,
)


def test_everything_round_trips(tmp_path: Path) -> None:
    schema = Schema({role: role for role in REQUIRED_ROLES}, file=FULL)
    assert {*FULL.given()} == {field.name for field in dataclasses.fields(FileRules)} - {"vocabularies"}
    (tmp_path / "s.toml").write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.load(tmp_path / "s.toml") == schema
    assert "file" not in dataclasses.replace(schema, file=FileRules()).to_dict()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"delimiter": "ab"}, "`delimiter` of [file] must be the one character that separates values; got 'ab'."),
        ({"quotechar": ""}, "`quotechar` of [file] must be the one character that encloses values; got ''."),
        ({"decimal": ";"}, '`decimal` of [file] must be "." or ","; got \';\'.'),
        ({"thousands": "1"}, "or an empty text if there is none; got '1'."),
        ({"thousands": "."}, "`thousands` and `decimal` of [file] must differ; both are '.'."),
        ({"decimal": ",", "thousands": ","}, "`thousands` and `decimal` of [file] must differ; both are ','."),
        ({"delimiter": '"'}, "`delimiter` and `quotechar` of [file] must differ"),
        ({"encoding": "utf-9"}, "must be one that Python knows, such as utf-8, utf-16 or windows-1252; got 'utf-9'."),
        ({"names": ["a", "a"]}, "`names` of [file] must be different names, at least one; got a, a."),
        ({"dates": "d.m.y"}, '`dates` of [file] must be "day first", "month first" or a pattern such as'),
        (
            {"timezone": "Berlin"},
            "must be a time zone such as Europe/Berlin or UTC that this machine knows; got 'Berlin'.",
        ),
        ({"true_values": ["x"], "false_values": ["X"]}, "A word of [file] cannot be both true and false; got x."),
        ({"header": "no"}, "`header` of [file] must be true or false; got 'no'."),
        ({"sheet": 1.5}, "`sheet` of [file] must be the name or the number of a sheet; got 1.5."),
        (
            {"sep": ";"},
            "[file] of the schema may have delimiter, quotechar, decimal, thousands, encoding, header, skiprows, names",
        ),
    ],
)
def test_what_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.from_dict({"columns": {role: role for role in REQUIRED_ROLES}, "file": given})
    assert says in str(caught.value)
