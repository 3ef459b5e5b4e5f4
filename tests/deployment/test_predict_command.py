"""`stitchrl predict`: a table of actions for every row of a log, whatever else the log lacks."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from bundles import COLUMNS, LOG, SCHEMA, continuous, discrete
from commands import Command, command_runner

import stitchrl as st
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.errors import DataError
from stitchrl.pipeline.predicting import predict_log
from stitchrl.reading.sources import source

ASKED = ("stay", "ward", "lactate", "pulse")
"""The columns of a log without actions, rewards and ends, in another order."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle over discrete actions, inside a run directory, and one over continuous actions."""
    made = tmp_path_factory.mktemp("bundles")
    save_bundle(made / "run" / "policy", discrete())
    save_bundle(made / "continuous", continuous())
    return made / "run", made / "continuous"


def write(folder: Path, **changed: Any) -> Path:
    columns = {name: COLUMNS[name] for name in ASKED} | changed
    pq.write_table(
        pa.table({name: values for name, values in columns.items() if values is not None}), folder / "asked.parquet"
    )
    return folder / "asked.parquet"


def test_every_row_gets_its_action_and_probability(
    folders: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "actions.parquet"
    done = command("predict", folders[0], write(tmp_path), "--out", out, "--probabilities")
    assert (done.status, done.out, done.err) == (0, f"{out}: 12 rows\n", "")
    found, probs = pq.read_table(out), discrete().probs(LOG.observation)
    assert found.column_names[:3] == ["stay", "policy_action", "policy_probability"]
    names = np.array(["wait", "pills", "drip"])
    assert found["stay"].to_pylist() == COLUMNS["stay"].tolist()
    assert found["policy_action"].to_pylist() == names[probs.argmax(1)].tolist()
    np.testing.assert_allclose(found["policy_probability"], probs.max(1), rtol=1e-5)
    every = np.stack([found[f"policy_probability_{name}"].to_numpy() for name in names], 1)
    np.testing.assert_allclose(every, probs, rtol=1e-5)
    assert set(found["acted"].to_pylist()) == {"policy"}
    assert found["guard_outside"].to_pylist() == [False] * 12
    assert found["guard_columns"].null_count == 12


@pytest.mark.parametrize("kind", [discrete, continuous])
def test_preferred_actions_of_a_policy_that_was_judged_by_drawn_ones_are_named(
    tmp_path: Path, command: Command, kind: Callable[[], Bundle]
) -> None:
    told = "The verdict is about actions that are drawn from the policy"
    for decision, acts, options, said in (
        ("GO", "as trained", (), True),
        ("GO", "as trained", ("--sample",), False),
        ("GO", "greedy", (), kind is continuous),  # it has a density, which no greedy policy has
        ("NOT JUDGED", "as trained", (), False),
    ):
        known = kind().provenance | {"verdict": {"decision": decision}, "acts": acts}
        folder = tmp_path / f"{decision}-{acts}"
        if not folder.exists():
            save_bundle(folder, dataclasses.replace(kind(), provenance=known))
        done = command(
            "predict", folder, write(tmp_path), "--out", tmp_path / f"{len(options)}-{folder.name}.csv", *options
        )
        assert done.status == 0, done.err
        assert (told in done.out + done.err) is said


def test_rows_that_the_guard_refuses_are_marked_and_have_no_action(
    folders: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    pulse, ward = COLUMNS["pulse"].copy(), COLUMNS["ward"].copy()
    pulse[1], pulse[4], ward[7] = 200.0, np.nan, "d"
    log, out = write(tmp_path, pulse=pulse, ward=ward), tmp_path / "actions.csv"
    done = command("predict", folders[0] / "policy", log, "--out", out, "--json")
    assert json.loads(done.out) == {"file": str(out), "rows": 12, "outside": 3, "without_action": 3, "notes": []}
    found = pacsv.read_csv(out).to_pydict()
    bad = [1, 4, 7]
    assert [row for row in range(12) if found["acted"][row] == "nobody"] == bad
    assert [row for row in range(12) if found["policy_probability"][row] is None] == bad
    assert [found["guard_columns"][row] for row in bad] == [
        "pulse: 200",
        "pulse: missing",
        "ward: 'd' is an unseen category",
    ]
    said = command("predict", folders[0], log, "--out", out, "--overwrite")
    assert "3 of them outside the range that the policy learned from, 3 without an action" in said.out
    assert (
        "guard_columns. In place of refusing rows outside the range, `--on-outside` can do something else." in said.out
    )
    for told, acted in (
        ("clip", ["policy, clipped", "nobody", "nobody"]),
        ("behavior", ["behavior", "nobody", "nobody"]),
        ("drip", ["given action"] * 3),
    ):
        assert command("predict", folders[0], log, "--out", out, "--on-outside", told, "--overwrite").status == 0
        found = pacsv.read_csv(out).to_pydict()
        assert [found["acted"][row] for row in bad] == acted
    assert [found["policy_action"][row] for row in bad] == ["drip"] * 3


def test_continuous_actions_have_a_column_each(folders: tuple[Path, Path], tmp_path: Path, command: Command) -> None:
    out = tmp_path / "actions.parquet"
    assert command("predict", folders[1], write(tmp_path, stay=None), "--out", out).status == 0
    found = pq.read_table(out)
    assert found.column_names == [
        "row", "policy_x", "policy_y", "policy_log_density", "guard_outside", "guard_columns", "acted",
    ]  # fmt: skip
    made = continuous()
    action = made.mode(LOG.observation)
    np.testing.assert_allclose(np.stack([found["policy_x"], found["policy_y"]], 1), action, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["policy_log_density"], made.log_prob(LOG.observation, action), rtol=1e-5)
    drawn = []
    for _ in range(2):
        words = ("--out", out, "--overwrite", "--sample", "--seed", "3")
        assert command("predict", folders[1], write(tmp_path), *words).status == 0
        drawn.append(pq.read_table(out)["policy_x"].to_numpy())
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0] != action[:, 0]).any()
    far = write(tmp_path, pulse=COLUMNS["pulse"] * 9)
    told = command("predict", folders[1], far, "--out", out, "--on-outside", "0.5,1", "--overwrite")
    assert told.status == 0
    assert set(pq.read_table(out)["policy_y"].to_pylist()) == {1.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "a.txt"], "`--out` must end in .parquet or .csv; got 'a.txt'"),
        (["--out", "asked.parquet"], "`--out` 'asked.parquet' is the log itself"),
        (["--out", "a.csv", "--on-outside", "jump"], "or an action, wait, pills, drip; got 'jump'"),
        (["--out", "no/such/folder/a.csv"], "there is no folder 'no/such/folder'"),
    ],
)
def test_what_cannot_be_written_is_said_first(
    words: list[str],
    said: str,
    folders: tuple[Path, Path],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = command("predict", folders[0], log, *words)
    assert done.status == 2
    assert said in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["asked.parquet"]


def test_neither_the_log_nor_another_file_is_written_over(
    folders: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs)
    (tmp_path / "same.parquet").hardlink_to(logs / "asked.parquet")
    (tmp_path / "notes.csv").write_text("dear")
    whole = (logs / "asked.parquet").read_bytes()
    for log, out, said in (
        ("logs", "logs/asked.parquet", "lies among the files that 'logs' names"),
        ("logs", "logs/new.parquet", "lies among the files that 'logs' names"),
        ("logs/*.parquet", "logs/asked.parquet", "lies among the files that 'logs/*.parquet' names"),
        ("logs/*.parquet", "logs/new.parquet", "lies among the files that 'logs/*.parquet' names"),
        ("logs/asked.parquet", "same.parquet", "'same.parquet' is the log itself"),
    ):
        done = command("predict", folders[0], log, "--out", out, "--overwrite")
        assert (done.status, said in done.err) == (2, True), (log, out, done.err)
    done = command("predict", folders[0], "logs", "--out", "notes.csv")
    assert done.status == 2
    assert "'notes.csv' exists; nothing is overwritten unless `--overwrite` is given" in done.err
    assert (tmp_path / "notes.csv").read_text() == "dear"
    assert [file.name for file in logs.iterdir()] == ["asked.parquet"]
    assert (logs / "asked.parquet").read_bytes() == whole
    assert command("predict", folders[0], "logs/*.parquet", "--out", "logs/new.csv").status == 0  # no such name is read
    done = command("train", "logs/asked.parquet", "--out", tmp_path)
    assert done.status == 2
    assert "must be new, empty or the folder of a training; it holds logs, notes.csv, same.parquet" in done.err
    for log, out in (("logs", "logs"), ("logs", "logs/run"), ("logs/*.parquet", "logs/run.parquet")):
        done = command("train", log, "--out", out)
        assert (done.status, "lies among the files of the log" in done.err) == (2, True), (log, out, done.err)


def test_a_column_that_is_not_there_is_named(folders: tuple[Path, Path], tmp_path: Path, command: Command) -> None:
    done = command("predict", folders[0], write(tmp_path, ward=None), "--out", tmp_path / "a.csv")
    assert done.status == 2
    assert "The policy observes pulse, ward, lactate, and asked.parquet has no column ward" in done.err


def test_a_cell_that_means_nothing_costs_its_own_row_only(
    folders: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    rows = ["0,a,2.0,70", "1,b,much,71", "2,c,,72", "3,a,1.0,fast", "4,d,2.0,73", "5,a,inf,74", "6,b,3.0,75"]
    for name, sign in (("point.csv", None), ("comma.csv", ",")):  # decimal commas in a column that holds a word as well
        lines = ["stay,ward,lactate,pulse", *rows]
        if sign:
            lines = [
                ";".join(line.replace(".", ",") if n in (2, 3) else line for n, line in enumerate(row.split(",")))
                for row in lines
            ]
            lines[1:] = [line + ";0,5" for line in lines[1:]]
            lines[0] += ";other"
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        out = tmp_path / f"{name}.out.parquet"
        done = command("predict", folders[0], tmp_path / name, "--out", out)
        assert (done.status, done.err) == (0, "")
        assert "7 rows, 4 of them outside the range that the policy learned from, 4 without an action" in done.out
        found = pq.read_table(out).to_pydict()
        assert [found["policy_action"][row] is None for row in range(7)] == [
            False,
            True,
            False,
            True,
            True,
            True,
            False,
        ]
        assert found["guard_columns"] == [
            None, "lactate: 'much' is no number", None, "pulse: 'fast' is no number", "ward: 'd' is an unseen category",
            "lactate: inf", None,
        ]  # fmt: skip
        rest = {"pulse": [70.0, 72.0, 75.0], "ward": ["a", "c", "b"], "lactate": [2.0, None, 3.0]}
        probs = [found["policy_probability"][row] for row in (0, 2, 6)]
        np.testing.assert_allclose(probs, discrete().probs(rest).max(1), rtol=1e-5)


def test_lists_that_are_text_are_read_row_by_row(tmp_path: Path) -> None:
    columns = {"episode": "e", "observation": "o", "action": "a", "reward": "r", "terminated": "t", "action_mask": "m"}
    bundle = dataclasses.replace(discrete(), schema=st.Schema(columns, num_actions=3))
    rows = LOG.observation[:4]
    written = [str(row.tolist()) for row in rows]
    written[1] = written[1].replace("[", "[about ")  # a list of seven, one of which is a word
    masks = ["[1, 1, 0]", "[1, 1, 0]", "[1, 0]", "[0, 1, 1]"]
    pq.write_table(pa.table({"o": written, "m": masks}), tmp_path / "lists.parquet")
    found = predict_log(bundle, tmp_path / "lists.parquet", tmp_path / "out.parquet", progress=False)
    assert (found.rows, found.outside, found.without_action) == (4, 1, 2)
    pq.write_table(pa.table({"o": [[1.0], *rows[1:].tolist()], "m": [[1, 1, 1]] * 4}), tmp_path / "lists.parquet")
    assert predict_log(bundle, tmp_path / "lists.parquet", tmp_path / "o.csv", progress=False).without_action == 1
    assert pacsv.read_csv(tmp_path / "o.csv")["guard_columns"][0].as_py() == "o: a list of 1 where 6 numbers belong"
    made = pq.read_table(tmp_path / "out.parquet").to_pydict()
    mask = np.array([[1, 1, 0], [0, 1, 1]], bool)
    wanted = bundle.probs(rows[[0, 3]], action_mask=mask).max(1)
    np.testing.assert_allclose([made["policy_probability"][row] for row in (0, 3)], wanted, rtol=1e-5)
    assert made["guard_columns"][1].startswith("o: '[about 6")
    assert made["guard_columns"][2] == "action mask: missing, or neither true nor false"


MASKS = {"can wait": [1, 0, 0, 1] * 3, "can pills": [0, 1, 0, 0] * 3, "can drip": pa.array([1, 1, 0, None] * 3)}


def test_masks_are_kept_and_rows_without_one_have_no_action(tmp_path: Path, command: Command) -> None:
    columns = dict(SCHEMA.columns) | {"action_mask": tuple(MASKS)}
    bundle = dataclasses.replace(discrete(), schema=dataclasses.replace(LOG.schema, columns=columns))
    save_bundle(tmp_path / "policy", bundle)
    out = tmp_path / "out.parquet"
    log = write(tmp_path, **MASKS)
    done = command("predict", tmp_path / "policy", log, "--out", out)
    why = "Why a row has no action stands in its column guard_columns."
    assert (done.status, done.out) == (0, f"{out}: 12 rows, 6 without an action\n{why}\n")
    found = pq.read_table(out).to_pydict()
    mask = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]] * 3, bool)
    probs = discrete().probs(LOG.observation, action_mask=mask)
    names = np.array(["wait", "pills", "drip"])[probs.argmax(1)].tolist()
    assert found["policy_action"] == [None if row % 4 > 1 else names[row] for row in range(12)]
    reasons = [None, None, "action mask: no action is allowed", "action mask: missing, or neither true nor false"]
    assert found["guard_columns"] == reasons * 3
    assert found["acted"] == ["policy", "policy", "nobody", "nobody"] * 3
    assert not any(found["guard_outside"])
    far = write(tmp_path, pulse=COLUMNS["pulse"] * 9, **MASKS)
    done = command("predict", tmp_path / "policy", far, "--out", out, "--overwrite", "--on-outside", "pills")
    found = pq.read_table(out).to_pydict()
    assert found["policy_action"] == [None, "pills", None, None] * 3
    assert found["guard_columns"][0].endswith("; action mask: forbids pills")
    for kept in ((), ("can wait", "can pills")):
        log = write(tmp_path, **{name: MASKS[name] for name in kept})
        done = command("predict", tmp_path / "policy", log, "--out", out, "--overwrite")
        assert done.status == 2
        assert (
            "has no column can drip. Add it, or let" if kept else "no column can wait, can pills, can drip. Add"
        ) in done.err
        done = command("predict", tmp_path / "policy", log, "--out", out, "--overwrite", "--without-mask")
        assert done.status == 0
        assert "every action counts as allowed" in done.out
        free = discrete().probs(LOG.observation).max(1)
        np.testing.assert_allclose(pq.read_table(out)["policy_probability"], free, rtol=1e-5)


@pytest.mark.parametrize("name", ["acted", "policy_action", "policy_probability_wait", "policy_given_0"])
def test_a_carried_column_is_never_replaced_by_a_result(
    folders: tuple[Path, Path], tmp_path: Path, command: Command, name: str
) -> None:
    log = write(tmp_path, **{name: COLUMNS["stay"]})
    (tmp_path / "asked.toml").write_text(
        f'[columns]\nepisode = "{name}"\nobservation = ["pulse"]\naction = "given"\nreward = "reward"\nterminated = "end"\n'
    )
    done = command("predict", folders[0], log, "--out", tmp_path / "a.csv", "--probabilities")
    assert done.status == 2
    assert f"has a column '{name}' that is to be carried along. Rename it" in done.err
    assert not (tmp_path / "a.csv").exists()


def test_a_missing_value_is_filled_with_the_one_before_it_in_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = dict(SCHEMA.observations)
    rules["lactate"] = dataclasses.replace(rules["lactate"], missing="previous")
    schema = dataclasses.replace(SCHEMA, columns=dict(SCHEMA.columns) | {"step": "hour"}, observations=rules)
    whole = pa.table(COLUMNS).append_column("hour", pa.array(np.tile([0, 1], 6)))
    log = st.read(whole, schema)
    bundle = dataclasses.replace(discrete(), schema=schema)
    wanted = bundle.probs(log.observation).max(1)
    # Episodes mixed, and the steps of each in order.
    order = np.argsort(np.tile([0, 1], 6), kind="stable")
    pq.write_table(whole.take(order), tmp_path / "mixed.parquet")
    found = predict_log(bundle, tmp_path / "mixed.parquet", tmp_path / "out.parquet", progress=False, overwrite=True)
    assert (found.rows, found.outside) == (12, 0)
    np.testing.assert_allclose(pq.read_table(tmp_path / "out.parquet")["policy_probability"], wanted[order], rtol=1e-5)
    pq.write_table(whole.take(order[::-1]), tmp_path / "mixed.parquet")
    monkeypatch.setattr(source, "BLOCK_ROWS", 5)  # the error comes in the second block
    out = tmp_path / "other.parquet"
    out.write_text("what was there")
    with pytest.raises(DataError, match=r"steps of episode 5 do not rise in row 6\. Sort the log by stay, hour"):
        predict_log(bundle, tmp_path / "mixed.parquet", out, progress=False, overwrite=True)
    assert out.read_text() == "what was there"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mixed.parquet", "other.parquet", "out.parquet"]


def test_the_command_starts_no_jax(folders: tuple[Path, Path], tmp_path: Path) -> None:
    log, out = write(tmp_path), tmp_path / "out.csv"
    code = (
        "import sys; from stitchrl.cli import app\n"
        f"app(['predict', {str(folders[0])!r}, {str(log)!r}, '--out', {str(out)!r}], standalone_mode=False)\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
