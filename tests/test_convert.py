"""Logs written in another format come back the same; the first schema of a log is one that a person can correct."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.propose import propose
from stitchrl.data.read import open_log
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from worlds import full_columns, next_observations, tiny_columns

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
        # And on to the other one.
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


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    for target in ("x.parquet", "store"):
        made = st.convert(tiny_columns(), tmp_path / target)
        before = made.stat().st_mtime_ns
        with pytest.raises(RunDirectoryError, match="exists; nothing is overwritten"):
            st.convert(tiny_columns(), made)
        assert made.stat().st_mtime_ns == before


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
    assert "# No column looks like `action`" in text
    assert "# No column looks like `terminated`" in text
    assert 'episode = "stay"' in text
    assert 'reward = "outcome"' in text
    assert 'categories = [\n    "ER",\n    "ICU",\n]' in text
    # A person puts in what is missing, and it reads.
    corrected = text.replace("WHICH COLUMN IS THE ACTION?", "treatment").replace(
        "WHICH COLUMN IS THE TERMINATED?", "died"
    )
    lines = [line for line in corrected.splitlines() if line not in ('    "treatment",', '    "died",')]
    (tmp_path / "stays.toml").write_text("\n".join(lines).replace('kind = "continuous"', "count = 3"))
    log = st.read(path)
    assert log.action.tolist() == [0, 2, 1]
    assert log.reward.tolist() == [0, 1, 0]
    assert "heart missing" in log.observation_names


def test_a_schema_the_format_gives_is_shown(tmp_path: Path) -> None:
    made = st.convert(tiny_columns(), tmp_path / "x.parquet")
    text = propose(open_log(made), "x")
    assert Schema.load(_written(tmp_path, text)).columns["reward"] == "reward"
    assert "count = 3" in text


def _written(folder: Path, text: str) -> Path:
    path = folder / "proposed.toml"
    path.write_text(text)
    return path


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stitchrl.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_commands_end_to_end(tmp_path: Path) -> None:
    st.convert(full_columns(), tmp_path / "log.parquet")
    made = command("convert", "log.parquet", "store", folder=tmp_path)
    assert (made.returncode, made.stdout.strip()) == (0, "store")
    shown = command("schema", "store", folder=tmp_path)
    assert shown.returncode == 0
    assert "[columns]" in shown.stdout
    audited = command("audit", "store", "--json", folder=tmp_path)
    assert '"verdict"' in audited.stdout
    for words, message in (
        (("convert", "log.parquet", "store"), "exists; nothing is overwritten"),
        (("convert", "nowhere.csv", "x"), "There is no log 'nowhere.csv'"),
        (("schema", "log.toml"), "log.toml"),
        (("audit", "log.parquet", "--format", "excel"), "There is no format 'excel'"),
    ):
        failed = command(*words, folder=tmp_path)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
