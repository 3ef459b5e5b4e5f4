"""Columns that the observation leaves out: whether it tells them all the same, and whether they decided actions and outcomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from commands import Command

import stitchrl as st
from stitchrl.auditing.checks.left_out import left_out_common_cause, removed_column_revealed
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.left_out import left_out_columns, revealed
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError

EPISODES, LENGTH = 120, 10
ROWS = EPISODES * LENGTH


def columns_of(seed: int = 0) -> dict[str, np.ndarray]:
    """Four parts of a score and their total, of which one part is removed; a site that decides actions and rewards."""
    rng = np.random.default_rng(seed)
    part = rng.normal(size=(ROWS, 4))
    site = np.repeat(rng.random(EPISODES) < 0.5, LENGTH)
    action = (rng.random(ROWS) < np.where(site, 0.8, 0.3)).astype(np.int32)
    return {
        "episode": np.repeat(np.arange(EPISODES), LENGTH),
        "step": np.tile(np.arange(LENGTH), EPISODES),
        "lungs": part[:, 0],
        "kidneys": part[:, 1],
        "total": part[:, :3].sum(1),
        "heart": part[:, 2],
        "unrelated": part[:, 3],
        "level": np.array(["low", "middle", "high"])[np.digitize(part[:, 0], [-0.5, 0.5])],
        "site": np.where(site, "south", "north"),
        "action": action,
        "reward": part[:, 0] + 0.5 * action - 1.5 * site + 0.3 * rng.normal(size=ROWS),
        "terminated": np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES),
    }


SEEN = ("lungs", "kidneys", "total")


def log_of(columns: dict[str, np.ndarray], **roles: object) -> st.Dataset:
    names = {name: name for name in ("episode", "step", "action", "reward", "terminated")}
    schema = Schema(names | {"observation": SEEN} | roles, num_actions=2, gamma=1.0)  # type: ignore[arg-type]
    return st.read({name: values.copy() for name, values in columns.items()}, schema)


def test_a_removed_part_is_told_by_the_total() -> None:
    columns = columns_of()
    log = log_of(columns)
    removed = {name: columns[name] for name in ("heart", "unrelated", "level")}
    facts = Facts(log, None, removed)
    shares = {column.name: revealed(facts, column) for column in left_out_columns(facts)}
    heart, level, unrelated = shares["heart"], shares["level"], shares["unrelated"]
    assert heart is not None
    assert heart.share > 0.99
    assert set(heart.through) == set(SEEN)  # total - lungs - kidneys
    assert level is not None
    assert level.share > 0.97
    assert level.through == ("lungs",)
    assert unrelated is not None
    assert abs(unrelated.share) < 0.2
    found = {f.where.partition(";")[0]: f for f in removed_column_revealed(log, facts)}
    assert {name: f.severity for name, f in found.items()} == {"heart": "warning", "level": "warning"}
    assert "% of the variance is explained" in found["heart"].seen


def test_text_that_holds_numbers_is_a_number_and_what_is_missing_is_left_out() -> None:
    columns = columns_of()
    text = columns["heart"].astype(str)
    text[::7] = ""
    (column,) = left_out_columns(facts := Facts(log_of(columns), None, {"heart": text}))
    assert column.categories == ()
    assert column.known.sum() == ROWS - len(text[::7])
    found = revealed(facts, column)
    assert found is not None
    assert found.share > 0.99


def test_a_subgroup_that_the_observation_tells_is_a_note() -> None:
    columns = columns_of()
    log = log_of(columns, subgroup=("level", "site"))
    (found,) = removed_column_revealed(log, Facts(log))
    assert (found.code, found.severity) == ("removed-column-revealed", "info")
    assert found.where == "level; observation: column lungs"


def test_a_site_that_decides_both_is_a_common_cause() -> None:
    columns = columns_of()
    log = log_of(columns, source="site")
    (found,) = left_out_common_cause(log, Facts(log))
    assert (found.code, found.severity, found.where) == ("left-out-common-cause", "warning", "site")
    # With the site's effect on the reward taken away, it decides the actions alone, and nothing is confounded.
    columns["reward"] = columns["reward"] + 1.5 * (columns["site"] == "south")
    log = log_of(columns, source="site")
    assert list(left_out_common_cause(log, Facts(log))) == []


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"heart": np.zeros(3)}, r"one value for each of the 1,200 rows of the log; 'heart' has shape \(3,\)"),
        ({"lungs": np.zeros(ROWS)}, "'lungs', which is part of the observation"),
    ],
)
def test_removed_columns_that_do_not_fit_are_refused(removed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        st.audit(log_of(columns_of()), removed=removed)


def test_the_command_reads_removed_columns_in_the_order_of_the_rows(tmp_path: Path, stitchrl: Command) -> None:
    """The rows of the file are shuffled: only values that follow their rows are told by the total."""
    import polars as pl

    columns = columns_of()
    order = np.random.default_rng(1).permutation(ROWS)
    path = tmp_path / "stays.csv"
    pl.DataFrame({name: values[order] for name, values in columns.items()}).write_csv(path)
    schema = dataclasses.replace(log_of(columns).schema, name="stays")
    (tmp_path / "stays.toml").write_text(schema.to_toml())
    done = stitchrl("audit", path, "--removed", "heart,unrelated", "--json")
    assert done.status == 0, done.err
    assert '"removed-column-revealed"' in done.out
    assert "the removed column heart" in done.out
    assert "the removed column unrelated" not in done.out
    done = stitchrl("audit", path, "--removed", "lungs")
    assert (done.status, "which is part of the observation" in done.err) == (2, True)
    done = stitchrl("audit", path, "--removed", "kidney")
    assert (done.status, "kidney" in done.err) == (2, True)
