"""A ranking of episodes in the terminal and on the audit page, and drop lists from the command line to a log without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Command
from planted_episodes import HARMS, vector_log

import stitchrl as st
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.reading.drop_list import read_drop_list, write_drop_list


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 60 episodes, of which one has rewards of another unit."""
    log, _ = HARMS["rewards of another unit"][0](vector_log(60), 0.01, 1)
    return st.convert(log, tmp_path_factory.mktemp("log") / "stays.parquet")


def test_a_ranking_from_the_command_line_to_a_log_without_the_worst(
    harmed: Path, tmp_path: Path, stitchrl: Command
) -> None:
    worst = st.rank_episodes(st.read(harmed)).worst
    chosen, page = tmp_path / "drop.csv", tmp_path / "audit.html"
    done = stitchrl("audit", harmed, "--rank", "--drop", 2, "--drop-list", chosen, "--html", page)
    words = " ".join(done.out.split())
    assert "1 of 60 episodes stands apart from the others" in words
    assert "Nothing was dropped." in words
    assert f"stitchrl convert LOG NEW --without {chosen}" in words
    assert "95% interval" in words
    assert chosen.read_text().splitlines()[0] == "episode,reason"
    assert len(read_drop_list(chosen)) == 2
    html = page.read_text()
    assert "Which episodes harm most" in html
    assert worst[0].reason[1:] in html
    assert "error of next observations" in html
    assert stitchrl("convert", harmed, tmp_path / "less", "--without", chosen).out.startswith("Left out 2 episodes")
    less = st.read(tmp_path / "less")
    assert less.num_episodes == 58
    assert worst[0].episode not in less.episode_id
    assert st.read(harmed).num_episodes == 60


def test_json_holds_the_ranking_and_options_need_it(harmed: Path, tmp_path: Path, stitchrl: Command) -> None:
    found = json.loads(stitchrl("audit", harmed, "--json", "--rank", "--rank-by", "value", "--gamma", 0.5).out)[
        "ranking"
    ]
    assert found["by"] == "value"
    assert found["gamma"] == 0.5
    assert found["episodes"] == 60
    assert found["curve"][0]["dropped"] == 0
    assert "ranking" not in json.loads(stitchrl("audit", harmed, "--json").out)
    for option, value in (("--drop", 3), ("--drop-list", tmp_path / "x.json"), ("--rank-by", "fit"), ("--gamma", 0.9)):
        done = stitchrl("audit", harmed, option, value)
        assert done.status == 2
        assert done.err == (f"error: `{option}` belongs to a ranking of episodes. Add `--rank`, or leave it out.\n")
    (tmp_path / "there.csv").write_text("")
    for words, sentence in (
        (["--rank", "--rank-by", "size"], "`--rank-by` must be one of harm, value, fit; got 'size'"),
        (["--rank", "--drop", 0], "`--drop` must be at least 1"),
        (["--out", harmed], "must not be what the command reads"),
        (["--html", harmed], "must not be what the command reads"),
        (["--out", tmp_path / "there.csv"], "replaces no file whose name does not end in .json"),
        (["--out", tmp_path], "is a folder"),
    ):
        before = harmed.read_bytes()
        done = stitchrl("audit", harmed, *words)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), words
        assert sentence in done.err
        assert harmed.read_bytes() == before
    for name, sentence in (("there.csv", "nothing is overwritten"), ("list.txt", "ends in .json or .csv")):
        done = stitchrl("audit", harmed, "--rank", "--drop-list", tmp_path / name)
        assert done.status == 2
        assert sentence in done.err
        assert done.out == ""


def test_drop_lists_are_read_as_they_were_written(tmp_path: Path) -> None:
    for name in ("a.json", "a.csv"):
        file = write_drop_list(tmp_path / name, [3, "x,y"], reasons={3: "its reward"}, about={"log": "stays"})
        assert [str(one) for one in read_drop_list(file)] == ["3", "x,y"]
        with pytest.raises(RunDirectoryError, match="nothing is overwritten"):
            write_drop_list(file, [1])
    assert json.loads((tmp_path / "a.json").read_text())["reasons"] == {"3": "its reward", "x,y": ""}
    (tmp_path / "plain.json").write_text("[1, 2]")
    assert read_drop_list(tmp_path / "plain.json") == [1, 2]
    for content, name in (("{}", "b.json"), ("{", "c.json"), ("stay\n1\n", "b.csv"), ('{"episodes": 3}', "d.json")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="is no drop list"):
            read_drop_list(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be read.*audit LOG --rank --drop-list"):
        read_drop_list(tmp_path / "none.csv")


def test_a_log_without_episodes_says_so() -> None:
    log = vector_log(24)
    less = log.without_episodes(["3", 5])
    assert less.num_episodes == 22
    assert not {3, 5} & set(less.episode_id.tolist())
    assert less.notes[-1] == "2 episodes were left out on request: 3, 5"
    assert log.num_episodes == 24
    assert log.without_episodes([]).notes == log.notes
    notes = [finding.seen for finding in st.audit(less).findings if finding.code == "reader-note"]
    assert less.notes[-1] in notes
    for wrong, sentence in (
        ([99], "The log has no episode 99"),
        ("3", "takes a list"),
        (range(24), "needs at least one"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            log.without_episodes(wrong)
