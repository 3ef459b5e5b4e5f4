"""The command line: options, exit statuses, one sentence for bad input, and a start that waits for nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from commands import Command
from main_job import write_small_log

import stitchrl as st
from stitchrl import cli
from stitchrl.data.scaling import unit_return_scale
from stitchrl.data.schema import Schema


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_log(tmp_path_factory.mktemp("log"), stays=40)


def spoil(path: Path, **columns: object) -> None:
    """Replace columns of a Parquet file; None drops one."""
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)


# --- starting ----------------------------------------------------------------------------------------------------


def test_the_command_line_starts_without_jax() -> None:
    probe = "import sys, stitchrl.cli; print([m for m in ('jax', 'pyarrow', 'numpy', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_help(stitchrl: Command) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for words in (["--version"], ["version"], *([name, "--version"] for name in commands)):
        assert stitchrl(*words) == (0, f"{st.__version__}\n", "")
    assert json.loads(stitchrl("version", "--json").out) == {"version": st.__version__}
    done = stitchrl("run", "--help")
    assert done.status == 0
    assert "ten times as many" in " ".join(done.out.split())  # updates of an evaluation over continuous actions
    for option in (
        "--format",
        "--schema",
        "--config",
        "--set",
        "--gate",
        "--force",
        "--quiet",
        "--json",
        "--confidence",
    ):
        assert option in done.out


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "audit", "schema", "convert"])
def test_every_command_that_reads_a_log_takes_its_format(command: str, stitchrl: Command, log: Path) -> None:
    assert "--format" in stitchrl(command, "--help").out
    assert ("--schema" in stitchrl(command, "--help").out) == (command != "schema")
    first = {"evaluate": [log.parent, log], "convert": [log, log.parent / "x"]}.get(command, [log])
    out = ["--out", log.parent / "x"] if command in ("run", "train") else []
    done = stitchrl(command, *first, *out, "--format", "magic")
    assert done.status == 2
    if command != "evaluate":  # which needs its policy first
        assert "magic" in done.err
    assert not (log.parent / "x").exists()


# --- bad input ---------------------------------------------------------------------------------------------------


def case_missing(log: Path) -> None:
    log.unlink()


def case_not_parquet(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:1000])


def case_column_absent(log: Path) -> None:
    spoil(log, reward=None)


def case_nan_reward(log: Path) -> None:
    reward = pq.read_table(log)["reward"].to_numpy().copy()
    reward[17] = np.nan
    spoil(log, reward=reward)


def case_action_outside(log: Path) -> None:
    action = pq.read_table(log)["action"].to_numpy().copy()
    action[5] = 25
    spoil(log, action=action)


def case_no_end(log: Path) -> None:
    terminated = pq.read_table(log)["terminated"].to_numpy(zero_copy_only=False).copy()
    terminated[np.flatnonzero(terminated)[3]] = False
    spoil(log, terminated=terminated)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (case_missing, "There is no log"),
        (case_not_parquet, "cannot be read as Parquet"),
        (case_column_absent, "The schema says reward is in column 'reward'"),
        (case_nan_reward, "reward of stays.parquet must be finite; found NaN in row 17"),
        (case_action_outside, "must be an integer from 0 to 24; got 25 in row 5"),
        (case_no_end, "Every episode must end with terminated or truncated; episode 3"),
    ],
)
def test_bad_logs(damage: Callable[[Path], None], sentence: str, tmp_path: Path, stitchrl: Command) -> None:
    log = write_small_log(tmp_path, stays=20)
    damage(log)
    done = stitchrl("run", log, "--out", tmp_path / "run")
    assert done.status == 2
    assert sentence in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--algorithms", "IQL,magic"], "There is no algorithm 'magic'; there are AdvantageBC, AWAC"),
        (["--algorithms", "DQN"], "only shown as a warning"),
        (["--until", "magic"], "`until` must be a stage"),
        (["--margin", "nan"], "`margin` must be a finite number"),
        (["--fractions", "0.5,0.5"], "`--fractions` must be three numbers such as 0.5,0.1,0.4; got '0.5,0.5'"),
        (["--split-by", "ward"], "`split_by` must be one of episode, group, time, return; got 'ward'"),
        (["--tail", "0.2"], "`tail` is a share of the distribution of returns, which was not asked for; got 0.2"),
        (["--set", "IQL.expectile=1.5"], "`expectile` of IQL must be in (0, 1); got 1.5"),
        (["--set", "IQL-2.expectile=0.9"], "the candidates are BC, FilteredBC, IQL"),
        (["--group", "magic"], "subgroup is in column 'magic' (or an option such as `--group` does), which"),
        (["--config", "nowhere.toml"], "The configuration 'nowhere.toml' cannot be read: No such file"),
    ],
)
def test_bad_options(words: list[str], sentence: str, log: Path, tmp_path: Path, stitchrl: Command) -> None:
    done = stitchrl("run", log, "--out", tmp_path / "x", *words)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("updates = ", "is not TOML"),
        ("epochs = 3", "`epochs` in "),
        ("log = 'x'", "`log` in "),
        ("[[candidate]]\nlabel = 'a'", "Every [[candidate]] must name its `algorithm`"),
        ("candidate = 3", "each under a line [[candidate]]"),
        ("updates = 2000.5", "Invalid value for '--updates'"),
        ("updates = 'many'", "Invalid value for '--updates'"),
        ("updates = [1, 2]", "Invalid value for '--updates'"),
        ("group = 'ward'", "subgroup is in column 'ward'"),
        ("group = ['ward']", "subgroup is in column 'ward'"),
        ("cost = 'reward<1'", "A limit of a cost must say COLUMN<=LIMIT"),
        ("group = 3", "`group` in "),
        ("cost = ['reward<=1', 2]", "must be a string or a list of strings; got ['reward<=1', 2]"),
    ],
)
def test_a_wrong_configuration(content: str, sentence: str, log: Path, tmp_path: Path, stitchrl: Command) -> None:
    (tmp_path / "config.toml").write_text(content)
    done = stitchrl("run", log, "--out", tmp_path / "x", "--config", tmp_path / "config.toml")
    assert done.status == 2
    assert sentence in done.err
    assert not (tmp_path / "x").exists()


def test_other_bad_commands(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    assert stitchrl("run", log).status == 2
    (tmp_path / "file").write_text("")
    done = stitchrl("run", log, "--out", tmp_path / "file" / "run")
    assert (done.status, "cannot be made or written" in done.err) == (2, True)
    done = stitchrl("train", log, "--out", tmp_path / "x", "--algorithm", "IQL,BC")
    assert (done.status, "`train` takes one algorithm; got IQL, BC" in done.err) == (2, True)
    done = stitchrl("evaluate", tmp_path, log)
    assert (done.status, "no policy to load" in done.err) == (2, True)
    done = stitchrl("demo", "--out", tmp_path / "x", "--set", "magic.expectile=0.9")
    assert (done.status, "the candidates are BC" in done.err) == (2, True)
    assert not (tmp_path / "x").exists()
    for option in ("--out", "--html"):
        done = stitchrl("audit", log, option, tmp_path / "absent" / "audit.json")
        assert (done.status, done.out) == (2, "")  # before the log is read, and without advice on space
        assert done.err == (
            f"error: `{option}` must be a file in a folder that exists; there is no folder {str(tmp_path / 'absent')!r}. Make it "
            "first, or choose another place.\n"
        )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run LOG --out X --algoritms IQL", "There is no option --algoritms; did you mean --algorithms?"),
        (
            "run LOG --out X --evaluation_updates 5",
            "There is no option --evaluation_updates; did you mean --evaluation-up",
        ),
        ("run LOG --out X --zzz", "There is no option --zzz; see `stitchrl run --help`."),
        ("--versoin", "There is no option --versoin; did you mean --version?"),
        ("evalute LOG", "There is no command evalute; did you mean evaluate?"),
        (
            "xyz LOG",
            "There is no command xyz; there are demo, run, audit, advise, schema, convert, collect, train, race, evaluate, dia",
        ),
        ("run --out X", "`stitchrl run` needs LOG, which was not given; see `stitchrl run --help`."),
        ("run LOG", "`stitchrl run` needs --out, which was not given; see `stitchrl run --help`."),
        ("run LOG --out", "Option '--out' requires an argument."),
        ("run LOG more --out X", "Got unexpected extra argument"),
        ("run LOG --out X --updates many", "Invalid value for '--updates'"),
    ],
)
def test_a_misspelt_command_line_is_one_sentence(words: str, sentence: str, tmp_path: Path, stitchrl: Command) -> None:
    done = stitchrl(*words.replace("X", str(tmp_path / "x")).split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_stitchrl_alone_prints_its_help(stitchrl: Command) -> None:
    done = stitchrl()
    assert done.status in (0, 2)  # by the version of Typer, which also chooses the stream
    assert "From a log file to a policy you can defend." in done.out + done.err
    assert "error" not in done.err


def test_a_report_says_where_it_is(tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "report", lambda folder, out: out or folder / "report.html")
    assert stitchrl("report", tmp_path) == (0, f"{tmp_path / 'report.html'}\n", "")
    (tmp_path / "config.toml").write_text(f"out = '{tmp_path / 'x.html'}'\njson = true\n")
    done = stitchrl("report", tmp_path, "--config", tmp_path / "config.toml")
    assert (done.status, json.loads(done.out)) == (0, {"out": str(tmp_path / "x.html")})


def test_a_command_stopped_from_the_keyboard_says_how_to_go_on(
    log: Path, tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(st, "fit", interrupted)
    done = stitchrl("train", log, "--out", tmp_path / "x", "--quiet")
    assert (done.status, done.out) == (130, "")
    assert done.err == "stopped; the same command continues where it was\n"
    monkeypatch.setattr(st, "audit", interrupted)
    assert stitchrl("audit", log).err == "stopped\n"  # it keeps nothing, and begins again


# --- what a log is worth -----------------------------------------------------------------------------------------


def test_audit_and_run_end_with_5_where_the_log_is_not_usable(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    done = stitchrl("audit", log)
    assert (done.status, "log: usable" in done.out) == (0, True)
    broken = write_small_log(tmp_path, stays=40)
    masks = np.zeros((len(pq.read_table(broken)), 25), bool)
    masks[:, 0] = True
    spoil(broken, action_mask=list(masks))
    assert stitchrl("audit", broken).status == 5
    done = stitchrl("audit", broken, "--json", "--seed", 1, "--out", tmp_path / "audit.json")
    assert (done.status, json.loads(done.out)["verdict"]) == (5, "not usable")
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(done.out)
    assert stitchrl("audit", broken, "--seed", -1).err == "error: `seed` must be at least 0; got -1.\n"
    done = stitchrl("run", broken, "--out", tmp_path / "run", "--gate")
    assert done.status == 5
    assert "The audit calls the log not usable (action-outside-mask" in done.out
    assert "go on all the same with --force" in done.out
    assert not (tmp_path / "run" / "split.json").exists()
    done = stitchrl("run", broken, "--out", tmp_path / "run", "--json")
    assert (done.status, json.loads(done.out)["verdict"]) == (5, None)


# --- train -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_learns_in_the_units_of_the_main_job(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    scale = unit_return_scale(st.read(log))
    assert abs(scale - 1) > 0.5
    words = ["train", log, "--out", tmp_path / "iql", "--updates", 3, "--batch-size", 8, "--set", "hidden_sizes=4"]
    done = stitchrl(*words, "--set", "IQL.expectile=0.6")
    assert done.status == 0
    assert f"Rewards were multiplied by {scale:.4g} while learning" in done.out
    assert done.out.splitlines()[-1] == f"IQL: {tmp_path / 'iql'}"
    run = st.load(tmp_path / "iql")
    assert isinstance(run, st.Run)
    assert run.scaling.reward_scale == pytest.approx(scale)
    assert isinstance(run.algorithm, st.IQL)
    assert (run.algorithm.expectile, run.algorithm.inverse_temperature) == (0.6, 10.0)  # the main job's, in those units
    assert run.algorithm.network.hidden_sizes == (4,)
    refused = stitchrl(*words[:3], tmp_path / "dt", *words[4:6], "--algorithm", "TD3BC")
    assert (refused.status, refused.out) == (2, "")
    done = stitchrl(*words, "--quiet", "--set", "expectile=0.6")  # the same run, finished
    assert (done.status, done.out, done.err) == (0, f"IQL: {tmp_path / 'iql'}\n", "")


def test_train_takes_a_configuration(log: Path, tmp_path: Path, stitchrl: Command) -> None:
    (tmp_path / "config.toml").write_text(
        'updates = 3\nbatch_size = 8\nquiet = true\n[[candidate]]\nlabel = "small"\nalgorithm = "BC"\nhidden_sizes = [4]\n'
    )
    done = stitchrl("train", log, "--out", tmp_path / "bc", "--config", tmp_path / "config.toml", "--updates", 2)
    assert (done.status, done.out) == (0, f"small: {tmp_path / 'bc'}\n")
    run = st.load(tmp_path / "bc")
    assert isinstance(run, st.Run)
    assert isinstance(run.algorithm, st.BC)
    assert run.updates == 2


READS_A_LOG = ("run", "race", "audit", "advise", "schema", "convert", "train", "evaluate", "diagnose", "predict")
ESTIMATES = ("demo", "run", "evaluate")
ALL = ("demo", "collect", *READS_A_LOG, "report")
GRAMMAR = {
    "--version": (*ALL, "lab", "version"),
    "--json": (*ALL, "lab", "version"),
    "--config": ALL,
    "--quiet": (*ALL, "lab"),
    "--format": READS_A_LOG,
    "--schema": tuple(name for name in READS_A_LOG if name != "schema"),  # which proposes one, or takes it as --check
    "--out": tuple(name for name in ALL if name != "convert"),  # whose second argument it is
    "--set": ("demo", "run", "race", "train", "evaluate"),
    "--seed": ("demo", "collect", "run", "race", "audit", "train", "evaluate", "predict"),
    **dict.fromkeys(("--horizon", "--confidence"), (*ESTIMATES, "race")),
    **dict.fromkeys(("--estimators", "--baseline"), ESTIMATES),
    **dict.fromkeys(("--budget", "--eta", "--grid"), ("race",)),
    "--gamma": ("run", "audit", "evaluate"),  # the exact values of the demo are of gamma 1
    "--gate": ("run", "evaluate"),
    "--policy-column": ("evaluate",),
}
"""Option -> the commands that take it, and no others do."""


def test_every_command_speaks_one_grammar_and_shows_an_example() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for flag, names in GRAMMAR.items():
        takes = {
            n for n, command in commands.items() if flag in [opt for param in command.params for opt in param.opts]
        }
        assert takes == set(names), flag
    for name, command in commands.items():
        assert command.epilog.startswith(f"Example: stitchrl {name}"), name
        words = shlex.split(command.epilog.removeprefix("Example: stitchrl "))[1:]
        command.make_context(name, words)  # the example can be understood


def test_a_schema_is_written_once_and_never_over_another(tmp_path: Path, stitchrl: Command) -> None:
    (tmp_path / "x.csv").write_text("episode,observation,action,reward,terminated\n1,0.5,1,0,1\n2,0.5,1,0,1\n")
    done = stitchrl("schema", tmp_path / "x.csv", "--out", tmp_path / "x.toml")
    assert (done.status, done.out.strip()) == (0, str(tmp_path / "x.toml"))
    assert Schema.load(tmp_path / "x.toml").columns["action"] == "action"
    plain = stitchrl("schema", tmp_path / "x.csv", "--quiet").out
    assert "#" not in plain
    told = json.loads(stitchrl("schema", tmp_path / "x.csv", "--json").out)
    assert told == {"schema": tomllib.loads(plain)} == {"schema": tomllib.loads((tmp_path / "x.toml").read_text())}
    check = ["schema", tmp_path / "x.csv", "--check", tmp_path / "x.toml"]
    assert stitchrl(*check, "--quiet") == (0, "readable\n", "")
    assert json.loads(stitchrl(*check, "--json").out)["readable"] is True
    done = stitchrl("convert", tmp_path / "x.csv", tmp_path / "y.parquet", "--json")
    assert (done.status, json.loads(done.out)) == (0, {"out": str(tmp_path / "y.parquet")})
    again = stitchrl("schema", tmp_path / "x.csv", "--out", tmp_path / "x.toml")
    assert (again.status, "may hold what a person wrote" in again.err) == (2, True)
    assert stitchrl("audit", tmp_path / "x.csv", "--quiet").out.strip() in ("usable", "usable with care", "not usable")
