"""Logs converted to another format stay the same, and `stitchrl schema` proposes schemas that a person can correct."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from worlds import full_columns, next_observations, tiny_columns

import stitchrl as st
from stitchrl import cli
from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import ROLES, Schema
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.reading import propose as proposing
from stitchrl.reading.propose import propose
from stitchrl.reading.read import open_log
from stitchrl.reading.sources import text as text_reader

LOGS = {
    "plain": tiny_columns(),
    "everything": full_columns() | {"group": np.array([1, 1, 1, 2, 2, 1])},
    "continuous": tiny_columns() | {"action": np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)},
    "ends known": tiny_columns() | {"next_observation": next_observations()},
    "some ends unknown": tiny_columns()
    | {"next_observation": np.where(np.arange(6)[:, None] == 4, np.nan, next_observations()).astype(np.float32)},
    "a gap": tiny_columns()
    | {"next_observation": np.where(np.arange(6)[:, None] == 0, 50, next_observations()).astype(np.float32)},
    "text": tiny_columns() | {"episode": np.array(list("aaabbc"))},
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("target", ["log.parquet", "store", "log-v0"])
@pytest.mark.filterwarnings("ignore::stitchrl.errors.StitchRLWarning")
def test_a_converted_log_is_the_same_log(tmp_path: Path, name: str, target: str) -> None:
    if target == "log-v0":
        pytest.importorskip("h5py")
    if target == "log-v0" and name == "a gap":
        pytest.skip("Minari has no gaps: an episode is cut in two there")
    log = st.read(LOGS[name])
    made = st.convert(LOGS[name], tmp_path / target, to="minari" if target == "log-v0" else None)
    again = st.read(made)
    np.testing.assert_array_equal(again.observation, log.observation)
    np.testing.assert_array_equal(again.next_observation_index == -1, log.next_observation_index == -1)
    np.testing.assert_array_equal(again.next_observation, log.next_observation)
    for column in ("action", "reward", "terminated", "truncated", "episode_start"):
        np.testing.assert_array_equal(getattr(again, column), getattr(log, column), err_msg=column)
    assert again.num_actions == log.num_actions
    if target != "log-v0":  # Minari numbers episodes anew and has no place for text
        assert again.content_hash == log.content_hash
        # The converted log can be converted again to the other format.
        other = st.convert(made, tmp_path / "other", to="store" if target == "log.parquet" else "parquet")
        assert st.read(other).content_hash == log.content_hash


def test_a_log_with_names_keeps_them_through_parquet(tmp_path: Path) -> None:
    columns = tiny_columns()
    columns |= {"age": columns["observation"][:, 0], "heart rate": columns.pop("observation")[:, 1]}
    roles = {role: role for role in columns if role not in ("age", "heart rate")}
    schema = Schema(roles | {"observation": ("age", "heart rate")}, num_actions=3, gamma=0.5, name="ward")
    again = st.read(st.convert(columns, tmp_path / "x.parquet", schema=schema))
    assert again.observation_names == ("age", "heart rate")
    assert (again.schema.gamma, again.schema.name, again.num_actions) == (0.5, "ward", 3)


def through_parquet(folder: Path, columns: dict[str, Any], **settings: Any) -> tuple[st.Dataset, st.Dataset]:
    """Assert that a log and the log it was converted to have the same content."""
    named: dict[str, Any] = {role: role for role in columns if role in ROLES}
    schema = Schema(named | settings.pop("roles", {}), **settings)
    log = st.read(columns, schema)
    again = st.read(st.convert(columns, folder / "x.parquet", schema=schema))
    assert again.content_hash == log.content_hash
    np.testing.assert_array_equal(again.action, log.action)
    assert again.observation_names == log.observation_names
    # The source can be gone through a second time.
    assert st.read(st.convert(folder / "x.parquet", folder / "y.parquet")).schema == again.schema
    return log, again


def test_named_actions_keep_their_names_through_parquet(tmp_path: Path) -> None:
    columns = tiny_columns() | {"action": np.array(["none", "low", "high", "none", "none", "low"])}
    log, again = through_parquet(tmp_path, columns, action_categories=("none", "low", "high", "never"))
    assert again.schema.action_categories == log.schema.action_categories
    assert pq.read_table(tmp_path / "x.parquet")["action"].to_pylist() == columns["action"].tolist()


@pytest.mark.parametrize("names", [(), ("vasopressor", "fluids"), ("reward", "fluids")])
def test_parts_of_actions_stay_apart_through_parquet(tmp_path: Path, names: tuple[str, ...]) -> None:
    parts = np.array([[0, 2], [1, 0], [1, 3], [0, 0], [0, 1], [1, 2]])
    columns: dict[str, Any] = tiny_columns() | {"action": parts}
    roles: dict[str, Any] = {}
    if names == ("vasopressor", "fluids"):
        columns = {role: column for role, column in columns.items() if role != "action"}
        columns |= {name: parts[:, i] for i, name in enumerate(names)}
        roles = {"action": names}
    elif names:  # the reward of the log is called otherwise, and an action like a role
        columns = {role: column for role, column in columns.items() if role != "action"}
        columns |= {"reward": parts[:, 0], "fluids": parts[:, 1], "paid": columns["reward"]}
        roles = {"action": names, "reward": "paid"}
    log, again = through_parquet(tmp_path, columns, action_counts=(2, 4), roles=roles)
    assert again.schema.action_counts == (2, 4)
    np.testing.assert_array_equal(again.schema.action_components(again.action), parts)
    assert again.schema.columns["action"] == (names if names[:1] == ("vasopressor",) else "action")
    assert log.num_actions == again.num_actions == 8


@pytest.mark.parametrize(
    ("bins", "low", "high"),
    [
        (((0.1, 0.7), (-5.0, 0.0, 3.0)), None, None),
        (((0.1, 0.7), (-5.0, 0.0, 3.0)), (0.05, -9.0), (2.0, 2.5)),
        (((1e30, 2e30), (-3e38, 0.0, 1e-40)), None, None),
    ],
)
def test_edges_of_doses_are_kept_through_parquet(tmp_path: Path, bins: Any, low: Any, high: Any) -> None:
    doses = np.array([[0.05, -9], [0.1, -5], [0.7, 0], [0.69999, -0.001], [2, 2.5], [0.5, 1]], np.float64)
    if bins[0][0] > 1:
        doses = np.array([[0, -3.1e38], [1e30, 0], [3e30, 1], [-1, 1e-41], [0, -2], [0, 0]], np.float64)
    log, again = through_parquet(
        tmp_path,
        tiny_columns() | {"action": doses},
        action_bins=bins,
        action_low=low,
        action_high=high,
        action_unit="mg",
    )
    assert again.schema.action_bins == bins
    assert (again.schema.action_low, again.schema.action_high, again.schema.action_unit) == (low, high, "mg")
    np.testing.assert_array_equal(
        again.schema.action_components(again.action), log.schema.action_components(log.action)
    )


def test_doses_stand_for_their_bins(tmp_path: Path) -> None:
    columns = tiny_columns() | {"action": np.array([0.2, 0.5, 1, 7, 0, 3])}
    through_parquet(tmp_path, columns, action_bins=((0.5, 2.0),))
    written = pq.read_table(tmp_path / "x.parquet")["action"].to_pylist()
    assert written == [[0.0], [0.5], [0.5], [2.0], [0.0], [2.0]]


def test_units_and_bounds_are_kept_through_parquet(tmp_path: Path) -> None:
    columns: dict[str, Any] = tiny_columns()
    del columns["observation"]
    heart = np.array([60, np.nan, 80, 90, np.nan, 70])
    columns |= {"age": np.arange(20.0, 26), "heart": heart, "lactate": heart, "ward": np.array(list("abaaba"))}
    rules = {
        "age": ColumnRule(low=18.0, high=120.0, unit="years"),
        "heart": ColumnRule(missing="value", fill=0.0, low=20.0, high=250.0, unit="1/min"),
        "lactate": ColumnRule(missing="previous", indicator=True, unit="mmol/l"),
        "ward": ColumnRule(("a", "b")),
    }
    roles = {"observation": ("age", "heart", "lactate", "ward")}
    _, again = through_parquet(
        tmp_path, columns, num_actions=3, observations=rules, roles=roles, reward_low=-5.0, reward_high=5.0
    )
    assert again.schema.observations == {
        "age": rules["age"],
        "heart": ColumnRule(high=250.0, unit="1/min"),  # the filled gaps are below its lower bound
    }
    assert (again.schema.reward_low, again.schema.reward_high) == (-5, 5)


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    for target in ("x.parquet", "store"):
        made = st.convert(tiny_columns(), tmp_path / target)
        before = made.stat().st_mtime_ns
        with pytest.raises(RunDirectoryError, match="exists; nothing is overwritten"):
            st.convert(tiny_columns(), made)
        assert made.stat().st_mtime_ns == before
    (tmp_path / "y.toml").write_text("# the schema of y.csv\n")
    with pytest.raises(RunDirectoryError, match=r"y.toml' exists, where the schema of y.parquet is written"):
        st.convert(tiny_columns(), tmp_path / "y.parquet")
    assert (tmp_path / "y.toml").read_text() == "# the schema of y.csv\n"


def test_a_bad_log_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tiny_columns()
    bad["reward"] = np.full(6, np.nan, np.float32)
    for target in ("x.parquet", "store"):
        with pytest.raises(DataError, match="must be finite"):
            st.convert(bad, tmp_path / target)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="`to` of convert must be one of store, parquet, minari"):
        st.convert(tiny_columns(), tmp_path / "x", to="csv")


CSV = """stay,hour,age,heart,ward,note,treatment,outcome,died
1,0,61,80,ICU,a,0,0,0
1,1,61,,ICU,b,2,1,1
2,0,47,71,ER,c,1,0,1
"""


def test_a_first_schema_names_what_is_plain_and_asks_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "stays.csv"
    path.write_text(CSV)
    text = propose(open_log(path), "stays")
    assert "# stays.csv: CSV, 9 columns." in text
    assert "# Is 'treatment' what was decided? It was taken for its name." in text
    assert "# Does 'died' mark ends of the task itself" in text
    assert 'terminated = "died"' in text
    assert 'episode = "stay"' in text
    assert 'reward = "outcome"' in text
    assert 'categories = [\n    "ER",\n    "ICU",\n]' in text
    (tmp_path / "stays.toml").write_text(text)
    log = st.read(path)
    assert log.action.tolist() == [0, 2, 1]
    assert log.reward.tolist() == [0, 1, 0]
    assert "heart missing" in log.observation_names


def proposed(folder: Path, content: str) -> tuple[str, Schema]:
    (folder / "x.csv").write_text(content)
    text = propose(open_log(folder / "x.csv"), "x")
    return text, Schema.load(_written(folder, text))


def test_outcomes_are_not_proposed_as_observations(tmp_path: Path) -> None:
    text, schema = proposed(
        tmp_path,
        "episode,action,reward,terminated,age,hospital_death,Died,costly,label_30d\n"
        "1,0,0.5,1,60,1,1,1,0\n2,1,0,1,50,0,0,2,1\n",
    )
    assert schema.observation_columns == ("age", "costly")
    assert "# Not offered as observations: 'hospital_death', 'Died', 'label_30d' (named like an outcome)." in text


def test_integer_doses_are_not_counted(tmp_path: Path) -> None:
    head = "episode,observation,action,reward,terminated\n"
    text, schema = proposed(tmp_path, head + "".join(f"{i},1.5,{dose},1,1\n" for i, dose in enumerate((1000, 0, 250))))
    assert "# Column 'action' looks like doses: it holds 3 different integers up to 1,000. Under [action]," in text
    assert (schema.action_categories, schema.num_actions) == (("0", "250", "1000"), 3)
    text, schema = proposed(tmp_path, head + "".join(f"{i},1.5,{i * 10},1,1\n" for i in range(60)))
    assert "holds 60 different integers up to 590" in text
    assert schema.num_actions is None
    text, schema = proposed(tmp_path, head + "".join(f"{i},1.5,{dose},1,1\n" for i, dose in enumerate((0, 2, 5, 5))))
    assert "doses" not in text
    assert schema.num_actions == 6


def test_a_gap_is_proposed_to_be_filled_by_the_median(tmp_path: Path) -> None:
    _, schema = proposed(
        tmp_path, "episode,action,reward,terminated,heart,empty\n1,0,1,1,80,\n2,1,1,1,,\n3,1,1,1,60,\n4,0,1,1,90,\n"
    )
    assert schema.observations["heart"] == ColumnRule(missing="previous", fill=80.0, indicator=True)


def test_a_longer_log_than_was_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reader, "BLOCK_BYTES", 64)
    monkeypatch.setattr("stitchrl.reading.sources.compressed.PIECE_BYTES", 60)
    monkeypatch.setattr(proposing, "ROWS_LOOKED_AT", 10)
    rows = [f"{i},{i}.5,{i % 2},1,1\n" for i in range(30)]
    text, _ = proposed(tmp_path, "episode,observation,action,reward,terminated\n" + "".join(rows))
    assert "are those of the first 10 rows or so; the log is longer." in text
    text, _ = proposed(tmp_path, "episode,observation,action,reward,terminated\n" + "".join(rows[:6]))
    assert "the log is longer" not in text


def test_a_schema_the_format_gives_is_shown(tmp_path: Path) -> None:
    made = st.convert(tiny_columns(), tmp_path / "x.parquet")
    text = propose(open_log(made), "x")
    assert Schema.load(_written(tmp_path, text)).columns["reward"] == "reward"
    assert "count = 3" in text


def _written(folder: Path, text: str) -> Path:
    path = folder / "proposed.toml"
    path.write_text(text)
    return path


def test_the_commands_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command in a process of its own, the others in this one: each process would import everything anew."""
    st.convert(full_columns(), tmp_path / "log.parquet")
    made = subprocess.run(
        [sys.executable, "-m", "stitchrl.cli", "convert", "log.parquet", "store"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout.strip()) == (0, "store")
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `stitchrl words...`."""
        monkeypatch.setattr(sys, "argv", ["stitchrl", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    status, out, _ = command("schema", "store")
    assert status == 0
    assert "[columns]" in out
    assert '"verdict"' in command("audit", "store", "--json")[1]
    for words, message in (
        (("convert", "log.parquet", "store"), "exists; nothing is overwritten"),
        (("convert", "nowhere.csv", "x"), "There is no log 'nowhere.csv'"),
        (("schema", "log.toml"), "log.toml"),
        (("audit", "log.parquet", "--format", "excel"), "There is no format 'excel'"),
    ):
        status, _, error = command(*words)
        assert status == 2
        assert message in error
