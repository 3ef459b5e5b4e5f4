"""A German hospital's file, as it was exported: the proposed schema, what it is checked to make, and its audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command

import stitchrl as st
from stitchrl.reading.column_kinds import sort_columns, words_of

TREATMENTS = ("keine", "Tablette", "Infusion")


def hospital(folder: Path) -> dict[str, list[Any]]:
    """Semicolons, decimal commas, Latin-1, day first, ja and nein, a reward at the end only, two columns for a stay."""
    rng = np.random.default_rng(0)
    kept: dict[str, list[Any]] = {name: [] for name in ("pulse", "warmth", "treatment", "reward", "end")}
    lines = ["PatientID;Visit;Zeit;Puls;Temperatur;Geschlecht;Therapie;Ende;Outcome;\u00c4rztin;Zeitlimit"]
    for stay in range(130):
        steps = int(rng.integers(3, 6))
        start = np.datetime64("2025-01-31T08:00", "m") + int(rng.integers(0, 40_000))
        for step in range(steps):
            when = (start + 240 * step).astype(object)
            pulse, warmth, treatment = round(rng.normal(80, 10), 1), round(rng.normal(37, 0.5), 2), rng.integers(0, 3)
            last = step == steps - 1
            reward = int(rng.random() < 0.7) if last else ""
            cells = [
                1000 + stay // 2, stay % 2 + 1, f"{when:%d.%m.%Y %H:%M}",
                f"{pulse}".replace(".", ","), f"{warmth}".replace(".", ","),
                "mw"[stay // 2 % 2], TREATMENTS[treatment], "ja" if last else "nein", reward, "M\u00fcller", 240,
            ]  # fmt: skip
            lines.append(";".join(map(str, cells)))
            for name, value in zip(kept, (pulse, warmth, treatment, reward or 0, last), strict=True):
                kept[name].append(value)
    (folder / "stays.csv").write_bytes("\n".join(lines).encode("latin-1"))
    return kept


def test_a_file_as_exported_reaches_its_audit_in_two_commands(tmp_path: Path, stitchrl: Command) -> None:
    meant = hospital(tmp_path)
    proposed = stitchrl("schema", tmp_path / "stays.csv")
    assert proposed.status == 0
    asked = [line for line in proposed.out.splitlines() if line.startswith("#") and "?" in line]
    assert len(asked) == 5, asked  # the episode, the pair, the action, the end, and the missing rewards
    (tmp_path / "stays.toml").write_text(proposed.out)
    audited = stitchrl("audit", tmp_path / "stays.csv")
    assert (audited.status, audited.err) == (0, "")
    log = st.read(tmp_path / "stays.csv")
    assert log.schema.columns["episode"] == ("PatientID", "Visit")
    assert log.observation_names == ("Puls", "Temperatur", "Geschlecht=m", "Geschlecht=w")
    np.testing.assert_allclose(log.observation[:, 0], np.float32(meant["pulse"]))
    np.testing.assert_allclose(log.observation[:, 1], np.float32(meant["warmth"]))
    names = log.schema.action_names
    assert [names[a] for a in log.action] == [TREATMENTS[a] for a in meant["treatment"]]
    assert log.reward.tolist() == meant["reward"]
    assert log.terminated.tolist() == meant["end"]
    assert (log.num_episodes, len(np.unique(log.group))) == (130, 65)


def test_a_schema_is_checked_on_the_first_rows(
    tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital(tmp_path)
    text = stitchrl("schema", tmp_path / "stays.csv").out
    schema = tmp_path / "x.toml"
    schema.write_text(text)
    done = stitchrl("schema", tmp_path / "stays.csv", "--check", schema)
    assert (done.status, done.err) == (0, "")
    assert "all rows were looked at" in done.out
    assert "in 130 episodes of 3 to 5 steps; 130 terminated, 0 truncated." in done.out
    assert "1000/1" in done.out
    monkeypatch.setattr("stitchrl.reading.check_schema.ROWS_CHECKED", 7)
    monkeypatch.setattr("stitchrl.reading.sources.text.BLOCK_BYTES", 400)
    monkeypatch.setattr("stitchrl.reading.sources.compressed.PIECE_BYTES", 400)
    part = stitchrl("schema", tmp_path / "stays.csv", "--check", schema).out
    assert "the first 7 rows or so were looked at" in part
    assert "the last of them perhaps not whole" in part
    schema.write_text(text.replace('"Puls"', '"Pulse"').replace("fill = 0.0", "low = 0.0").replace('"keine"', '"none"'))
    wrong = stitchrl("schema", tmp_path / "stays.csv", "--check", schema)
    assert wrong.status == 2
    for sentence in ("column 'Pulse'", "`fill = 0.0` under [reward]", "got 'keine'"):
        assert sentence in wrong.out


@pytest.mark.parametrize(
    ("name", "words"),
    [("PatientID", ["patient", "id"]), ("t_MAX", ["t", "max"]), ("HeartRate2", ["heart", "rate"]), ("id", ["id"])],
)
def test_words_of_a_name(name: str, words: list[str]) -> None:
    assert words_of(name) == words


def test_what_is_no_observation_is_said_with_the_reason() -> None:
    rows = 200
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "age": rng.normal(60, 10, rows),
        "account_no": rng.integers(0, 10**6, rows),
        "max_steps": rng.integers(5, 9, rows),
        "counter": np.arange(rows),
        "site": np.full(rows, 3),
        "mortality_30d": rng.integers(0, 2, rows),
        "seen": np.arange(rows).astype("datetime64[h]"),
        "kidney": rng.integers(0, 5, rows),
    }
    found = sort_columns(list(columns), columns, {})
    assert found.observed == ["age", "kidney"]
    assert found.apart == {
        "account_no": "named like an identifier",
        "max_steps": "named like a limit",
        "counter": "a counter of rows",
        "site": "the same in every row",
        "mortality_30d": "named like an outcome",
        "seen": "a time",
    }
    assert found.roles == {}


def test_where_several_columns_may_be_the_action_none_is_chosen_and_none_observed() -> None:
    rows = 60
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "fall_risk": rng.normal(size=rows),
        "sofa_score": rng.integers(0, 20, rows),
        "no_fever": rng.integers(0, 2, rows),
        "last_dose_given": rng.integers(0, 3, rows),
        "treatment": rng.integers(0, 3, rows),
        "survived": rng.integers(0, 2, rows),
    }
    found = sort_columns(list(columns), columns, {})
    assert found.roles == {"reward": "survived"}
    assert found.observed == ["fall_risk", "sofa_score", "no_fever"]
    assert found.questions[0] == "Which of 'last_dose_given', 'treatment' is the action? Their names allow for each."


def test_a_check_of_the_first_rows_sees_that_no_end_is_marked(
    tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"{i // 4},{i % 7}.5,{i % 2},1,{'1' if i % 4 == 3 else '0'},0\n" for i in range(400))
    (tmp_path / "x.csv").write_text("episode,observation,action,reward,terminated,never\n" + rows)
    for name, value in (
        ("stitchrl.reading.check_schema.ROWS_CHECKED", 50),
        ("stitchrl.reading.sources.text.BLOCK_BYTES", 400),
    ):
        monkeypatch.setattr(name, value)
    monkeypatch.setattr("stitchrl.reading.sources.compressed.PIECE_BYTES", 400)
    text = stitchrl("schema", tmp_path / "x.csv").out
    schema = tmp_path / "x.toml"
    schema.write_text(text)
    assert stitchrl("schema", tmp_path / "x.csv", "--check", schema).status == 0
    schema.write_text(text.replace('terminated = "terminated"', 'terminated = "never"'))
    done = stitchrl("schema", tmp_path / "x.csv", "--check", schema)
    assert (done.status, "has a marked end" in done.out) == (2, True)


def test_words_for_how_episodes_ended(tmp_path: Path, stitchrl: Command) -> None:
    """A column with words in its last rows only gives the ends and the reward, and the proposal reads as it is."""
    path = tmp_path / "stays.csv"
    rows = [
        f"{p},1,{60 + p + k},{(p + k) % 2},{'' if k < 2 else 'home' if p % 3 else 'died'}"
        for p in range(30)
        for k in range(3)
    ]
    path.write_text("\n".join(["patient,visit,pulse,treatment,outcome", *rows]) + "\n")
    assert stitchrl("schema", path, "--out", path.with_suffix(".toml")).status == 0
    log = st.read(path)
    assert log.terminated.sum() == 30
    assert log.reward.sum() == 20


def test_what_comes_later_is_never_offered_as_an_observation(tmp_path: Path, stitchrl: Command) -> None:
    rows = [f"{i // 3},{i % 7},{i % 2},1,{int(i % 3 == 2)},{(i + 1) % 7},{i % 5},0.5,7.{i % 4}" for i in range(90)]
    head = "episode,pulse,action,reward,dead,next_pulse,return_,p_none,pH"
    (tmp_path / "x.csv").write_text("\n".join([head, *rows]) + "\n")
    said = stitchrl("schema", tmp_path / "x.csv").out
    (tmp_path / "x.toml").write_text(said)
    log = st.read(tmp_path / "x.csv")
    assert log.observation_names == ("pulse", "pH")
    assert log.terminated.sum() == 30
    assert "Does 'dead' mark ends of the task itself" in said


def test_a_time_limit_is_a_cut_and_columns_with_a_next_one_are_observed(tmp_path: Path, stitchrl: Command) -> None:
    """A robot's table is proposed whole: the force alone has no next column, and a limit is neither a time nor an end."""
    rows = [f"{i // 3},{i % 3},0.{i % 7},0.{(i + 1) % 7},-0.{i % 4},1.{i % 5},{int(i % 3 == 2)}" for i in range(90)]
    path = tmp_path / "robot.csv"
    path.write_text("\n".join(["episode,step,x,next_x,force,reward,time_limit", *rows]) + "\n")
    said = stitchrl("schema", path, "--out", path.with_suffix(".toml")).out
    assert "WHICH COLUMN" not in said
    log = st.read(path)
    assert (log.observation_names, log.action.shape) == (("x",), (90, 1))
    assert (log.truncated.sum(), log.terminated.sum(), log.time) == (30, 0, None)
    np.testing.assert_allclose(log.next_observation[:3, 0], [0.1, 0.2, 0.3], rtol=1e-6)


def test_a_transfer_is_asked_about_as_a_cut(tmp_path: Path, stitchrl: Command) -> None:
    rows = [f"{i // 3},7{i % 4},{i % 2},0.{i % 3},{int(i % 6 == 5)},{int(i % 6 == 2)}" for i in range(90)]
    path = tmp_path / "stays.csv"
    path.write_text("\n".join(["stay,pulse,dose,outcome,died,transferred", *rows]) + "\n")
    assert "Does 'transferred' mark where the recording stopped" in stitchrl("schema", path).out
    assert stitchrl("schema", path, "--out", path.with_suffix(".toml")).status == 0
    log = st.read(path)
    assert (log.observation_names, log.truncated.sum(), log.terminated.sum()) == (("pulse",), 15, 15)
