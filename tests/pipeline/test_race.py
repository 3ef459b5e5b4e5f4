"""The race: its plan and its knobs, what it spends, what it never looks at, and that an interrupted one ends the same."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import linear_worlds as lw
import numpy as np
import pytest
from commands import Command
from main_job import write_small_log
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.data.scaling import unit_return_scale
from stitchrl.errors import CheckpointError, ConfigurationError, EvaluationError, RunDirectoryError
from stitchrl.evaluation.ranking import Ranked
from stitchrl.pipeline.candidates import job_algorithm
from stitchrl.pipeline.knobs import BCQ_KNOBS, KNOBS, Entrant, entrants_of
from stitchrl.pipeline.race_judging import Jury
from stitchrl.pipeline.race_places import Judged, place_candidates
from stitchrl.pipeline.race_result import Race, Round
from stitchrl.pipeline.race_settings import RaceSettings, check_budget, round_sizes, updates_each
from stitchrl.pipeline.race_training import Group, groups_of
from stitchrl.pipeline.rungs import ContinuousRung
from stitchrl.progress import ProgressDisplay
from stitchrl.reporting.race_table import _remarks
from stitchrl.training import program

SMALL: dict[str, Any] = {
    "budget": 431, "evaluation_updates": 20, "batch_size": 64, "fractions": (0.4, 0.3, 0.3), "ladder": False,
}  # fmt: skip
WORDS = [
    "--budget", "431", "--evaluation-updates", "20", "--batch-size", "64", "--fractions", "0.4,0.3,0.3", "--no-ladder",
]  # fmt: skip
GRID: dict[str, Any] = {"IQL.expectile": [0.6, 0.9], "wild.learning_rate": [1e30]}


def small(kind: Any) -> Any:
    return dataclasses.replace(job_algorithm(kind, 1.0), hidden_sizes=(16,))


def algorithms() -> dict[str, Any]:
    """Two settings of IQL, which are one program, beside BC; and one of so large a step that it diverges."""
    return {"BC": small(st.BC), "IQL": small(st.IQL), "wild": small(st.IQL)}


@pytest.fixture(scope="module")
def stays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_log(tmp_path_factory.mktemp("stays"), stays=300)


@pytest.fixture(scope="module")
def log(stays: Path) -> st.Dataset:
    return st.read(stays)


@pytest.fixture(scope="module")
def raced(log: st.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Race:
    return st.race(log, algorithms=algorithms(), grid=GRID, out=tmp_path_factory.mktemp("race") / "race", **SMALL)


def content(race: Race) -> dict[str, Any]:
    """Everything that a race says, but for where it is kept."""
    return race.to_dict() | {"folder": None}


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "eta", "sizes"),
    [(1, 3, [1]), (3, 3, [3]), (4, 3, [4, 2]), (12, 3, [12, 4, 2]), (27, 3, [27, 9, 3]), (16, 2, [16, 8, 4, 2])],
)
def test_one_of_eta_goes_on_until_three_are_left(candidates: int, eta: int, sizes: list[int]) -> None:
    assert round_sizes(candidates, eta) == sizes


def test_rounds_share_the_budget_and_never_exceed_it() -> None:
    # 12 candidates and 30,000 updates: 12 x 833, then 4 x 2,500, then 2 x 5,002 with what was left over.
    spent, each = 0, []
    for rounds, learners in ((3, 12), (2, 4), (1, 2)):
        each.append(updates_each(30_000 - spent, rounds, learners))
        spent += each[-1] * learners
    assert (each, spent) == ([833, 2500, 5002], 30_000)
    assert updates_each(10, 1, 0) == 0


def test_a_budget_that_gives_nobody_an_update_is_refused() -> None:
    check_budget(36, 3, 12)
    with pytest.raises(ConfigurationError, match=r"must be at least 36 updates, one for each of 12 .* got 35\."):
        check_budget(35, 3, 12)


# --- the knobs -----------------------------------------------------------------------------------------------------


def test_every_algorithm_that_may_win_has_a_knob_whose_values_it_takes() -> None:
    classes = {name: getattr(st, name) for name in st.ALGORITHMS}
    may_win = {name for name, kind in classes.items() if not kind.caution and not kind().has_memory}
    assert set(KNOBS) | {"BC", "BCQ"} == may_win
    for name, knob in [*KNOBS.items(), *(("BCQ", knob) for knob in BCQ_KNOBS.values())]:
        default = getattr(classes[name](), knob.setting)
        assert default in knob.values, name
        for value in knob.values:
            assert getattr(classes[name](**{knob.setting: value}), knob.setting) == value


def test_candidates_are_the_values_of_the_knob_with_every_seed() -> None:
    found = entrants_of(
        {"IQL": st.IQL(), "BC": st.BC()}, {"iql.expectile": ["0.6", 0.9, 0.6]}, continuous=False, seeds=2
    )
    assert [one.title for one in found] == [
        "IQL expectile 0.6 seed 0", "IQL expectile 0.6 seed 1", "IQL expectile 0.9 seed 0", "IQL expectile 0.9 seed 1",
        "BC seed 0", "BC seed 1",
    ]  # fmt: skip
    assert len(entrants_of({"SPIBB": st.SPIBB()}, {}, continuous=False, seeds=4)) == 3  # solved, not trained


# --- a race --------------------------------------------------------------------------------------------------------


def test_the_race_spends_its_budget_on_those_that_go_on(raced: Race) -> None:
    first, final = raced.rounds
    assert [len(first.rows), len(final.rows)] == [4, 2]
    assert (first.updates, first.spent) == (53, 212)  # 431 // (2 rounds x 4)
    assert (final.updates, final.spent) == (109, 430)  # (431 - 212) // 2
    assert raced.spent == 430 <= raced.budget == 431
    assert {row.updates for row in final.rows} == {162}
    assert [row.fate for row in first.rows] == ["goes on"] * 2 + ["dropped"] * 2
    assert [row.fate for row in final.rows] == ["wins", "loses the final"]
    judged = [row for row in first.rows if row.place is not None]
    # Candidates whose checks hold stand first, and each of both kinds is in the order of its bound.
    keys = [(not row.healthy, -(row.bound if row.bound is not None else -np.inf)) for row in judged]
    assert keys == sorted(keys)
    assert all(row.upper is not None and row.lower is not None and row.lower < row.upper for row in judged)


def test_a_candidate_that_diverges_is_dropped_with_its_reason(raced: Race) -> None:
    last = raced.rounds[0].rows[-1]
    assert (last.title, last.place, last.fate) == ("wild learning_rate 1e+30", None, "dropped")
    assert "must stay finite" in last.why
    assert f"{last.title}: {last.why}" in str(raced)


def test_the_winner_has_learned_on_as_if_it_had_trained_alone(raced: Race) -> None:
    assert raced.winner.seed == 0
    alone = st.fit(
        raced.winner.algorithm,
        raced.train,
        updates=162,
        batch_size=64,
        reward_scale=unit_return_scale(raced.train),
    )
    assert_trees_equal(alone.states, raced.run.states)
    assert [row["update"] for row in raced.run.history][-1] == raced.run.updates == 162


@pytest.mark.slow
def test_the_best_rung_of_the_ladder_stands_for_a_candidate(raced: Race) -> None:
    settings = RaceSettings(431, evaluation_updates=20, batch_size=64, fractions=(0.4, 0.3, 0.3))
    jury = Jury(raced.train, raced.validation, test_units=90, validation_units=90, settings=settings)
    entrant = Entrant("a", raced.winner.algorithm, "", 0)
    found = jury.judge(jury.candidates(entrant, raced.run), ProgressDisplay(enabled=False))
    assert sorted(one.candidate.rung is None for one in found) == [False, True]
    (row,) = place_candidates(found, {entrant.title: 162}, 0)
    obs, mask = raced.test.observation[:5], raced.test.action_mask
    assert mask is not None
    deployed = jury.deployed(entrant, raced.run, row).policy.probs(obs, action_mask=mask[:5])
    np.testing.assert_array_equal(deployed, found[0].candidate.policy.probs(obs, action_mask=mask[:5]))
    assert (row.power, row.bound) == (
        None if found[0].candidate.rung is None else found[0].candidate.rung.power,
        found[0].ranked.predicted_lower,
    )


def test_settings_of_one_algorithm_are_one_program(log: st.Dataset) -> None:
    (group,) = groups_of(entrants_of({"IQL": small(st.IQL)}, {}, continuous=False))
    assert len(group.entrants) == len(KNOBS["IQL"].values)
    program._compiled_one.cache_clear()
    for updates in (1, 2):  # and of one round after another
        assert group.learn(log, updates=updates, batch_size=64, folder=None, show=lambda *_: None) == {}
        group.keep([one.title for one in group.entrants[:2]])
    assert program._compiled_one.cache_info().misses == 1


def with_another_test_part(log: st.Dataset) -> st.Dataset:
    """The same log with other rewards in the episodes of the test part."""
    *_, test = log.split_episodes(SMALL["fractions"], seed=0)
    mine = np.isin(np.repeat(np.arange(log.num_episodes), log.episode_lengths), test)
    return dataclasses.replace(log, reward=np.where(mine, 1e6, log.reward).astype(np.float32))


@pytest.mark.slow
def test_an_interrupted_race_goes_on_and_ends_the_same_whatever_the_test_part_holds(
    raced: Race, log: st.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_another_test_part(log)
    assert other.content_hash != log.content_hash
    arguments: dict[str, Any] = {"algorithms": algorithms(), "grid": GRID, "out": tmp_path / "race", **SMALL}
    learn, judge, done = Group.learn, Jury.judge, list[str]()

    def learned(self: Group, *parts: Any, **how: Any) -> Any:
        if not (tmp_path / "race" / "round-1.json").exists() or stop == 0:
            return learn(self, *parts, **how)
        raise KeyboardInterrupt  # at the first program of the second round

    def counted(*parts: Any) -> Any:
        done.append("judged")
        return judge(*parts)

    stop = 1
    monkeypatch.setattr(Group, "learn", learned)
    monkeypatch.setattr(Jury, "judge", counted)
    with pytest.raises(KeyboardInterrupt):
        st.race(other, **arguments)
    assert not (tmp_path / "race" / "round-2.json").exists()
    stop = 0
    found = st.race(other, **arguments)
    assert len(done) == 2  # the first round was not judged again
    assert content(found) == content(raced)
    assert_trees_equal(found.run.states, raced.run.states)
    assert raced.folder is not None
    for name in ("round-1.json", "round-2.json"):
        assert (tmp_path / "race" / name).read_bytes() == (raced.folder / name).read_bytes()
    parts = [set(part.episode_id.tolist()) for part in (found.train, found.validation, found.test)]
    assert set.union(*parts) == set(log.episode_id.tolist())
    assert sum(map(len, parts)) == log.num_episodes


def test_a_finished_race_is_returned_and_another_one_refused(
    raced: Race, log: st.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jury, "judge", lambda *_: pytest.fail("judged again"))
    arguments: dict[str, Any] = {"algorithms": algorithms(), "grid": GRID, "out": raced.folder, **SMALL}
    assert content(st.race(log, **arguments)) == content(raced)
    with pytest.raises(RunDirectoryError, match="holds another run, with budget 431 where yours has 432"):
        st.race(log, **arguments | {"budget": 432})
    assert raced.folder is not None
    with pytest.raises(CheckpointError, match="candidates of a race while they learn"):
        st.load(raced.folder / "checkpoints" / "round-1" / "IQL")


@pytest.mark.slow
def test_vectors_of_actions_race_as_well() -> None:
    plant = lw.log(60, 12, 1)
    bc, td3bc = st.BC(hidden_sizes=(8,)), st.TD3BC(hidden_sizes=(8,))
    found = st.race(plant, algorithms=[bc, td3bc], grid={"TD3BC.q_weight": [1.0, 4.0]}, budget=60, evaluation_updates=4)
    (final,) = found.rounds
    assert {row.title for row in final.rows} == {"BC", "TD3BC q_weight 1", "TD3BC q_weight 4"}
    assert found.winner.policy is found.policy
    # A row that names a rung is enough to build its policy again, also after a file.
    settings = RaceSettings(60, evaluation_updates=4)
    jury = Jury(found.train, found.validation, test_units=20, validation_units=6, settings=settings)
    row = dataclasses.replace(final.rows[0], acts="as trained", reach=0.5, spread=0.8)
    (again,) = Round.from_dict(dataclasses.replace(final, rows=(row,)).to_dict()).rows
    run = st.fit(bc, found.train, updates=3, progress=False)
    judged_all = jury.judge(jury.candidates(Entrant("BC", bc, "", 0), run), ProgressDisplay(enabled=False))
    assert {type(one.candidate.rung) for one in judged_all} == {type(None), ContinuousRung}
    deployed = jury.deployed(Entrant("BC", bc, "", 0), run, again)
    assert deployed.title == "BC seed 0, ladder 0.5 sd with 80% of the noise"
    obs = plant.observation[:50]
    aim, rung, own = (np.asarray(one.mode(obs)) for one in (run.policy, deployed.policy, jury._behavior))
    assert (np.abs(rung - own) <= np.abs(aim - own) + 1e-5).all()
    assert not np.allclose(rung, own)
    assert "not counting the error of the model" in str(found)


# --- places --------------------------------------------------------------------------------------------------------


def judged(title: str, gain: float, error: float, *, healthy: bool = True, confirmable: bool = True) -> Judged:
    """A policy with these numbers."""
    estimate = SimpleNamespace(
        value=gain, standard_error=error, lower=gain - error, upper=gain + error, reasons=("weak.",)
    )
    made: Any = Judged(
        SimpleNamespace(label=title, acts="greedy", rung=None),  # type: ignore[arg-type]
        SimpleNamespace(estimates={"fqe": estimate}, gain={"fqe": estimate}),  # type: ignore[arg-type]
        Ranked(0, "fqe", True, healthy, gain - error, confirmable),
    )
    return made  # type: ignore[no-any-return]


def test_twins_take_nobodys_place_and_a_candidate_has_the_place_of_its_best_policy() -> None:
    order = [
        judged("a", 0.3, 0.1), judged("a", 0.2, 0.1), judged("twin of a", 0.3, 0.1), judged("b", 0.1, 0.1),
        judged("c", 0.9, 0.1, healthy=False),
    ]  # fmt: skip
    rows = place_candidates(order, dict.fromkeys(("a", "twin of a", "b", "c"), 7), 2)
    assert [(row.title, row.fate) for row in rows] == [
        ("a", "goes on"), ("twin of a", "dropped"), ("b", "goes on"), ("c", "dropped"),
    ]  # fmt: skip
    assert rows[1].why == "the same policy as a, with the same estimates to the last digit"
    assert rows[3].why == "place 4 of 4; the best 2 go on; checks fail: weak."
    assert rows[0].bound == pytest.approx(0.2)


def test_a_candidate_that_stands_behind_a_lower_bound_says_why() -> None:
    order = [judged("rung", 0.3, 0.1), judged("greedy", 0.9, 0.1, confirmable=False), judged("less", 0.1, 0.1)]
    rows = place_candidates(order, dict.fromkeys(("rung", "greedy", "less"), 7), 2)
    assert [row.why for row in rows] == [
        "place 1 of 3; the best 2 go on",
        "place 2 of 3; the best 2 go on; a verdict could not confirm its gain",
        "place 3 of 3; the best 2 go on",
    ]
    assert _remarks([dataclasses.asdict(row) for row in rows]) == [f"  greedy: {rows[1].why}."]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": 0}, "`budget` must be a whole number of gradient updates, at least 1; got 0"),
        ({"budget": 5}, "`budget` must be at least 8 updates, one for each of 4 candidates where 2 rounds share them"),
        ({"eta": 1}, "`eta` must be a whole number of at least 2"),
        ({"fractions": (0.5, 0.5, 0.5)}, "`fractions` must be three shares above 0 that sum to 1"),
        ({"algorithms": [st.DQN(), st.IQL()]}, "DQN is only a warning example, which must not win a race"),
        ({"algorithms": [st.TD3BC()]}, "TD3BC learns from continuous actions; this log's are discrete. Leave it out"),
        ({"algorithms": [st.DecisionTransformer()]}, "DecisionTransformer gives a policy that remembers its episode"),
        ({"grid": {"expectile": [0.5]}}, "A grid must be named LABEL.setting, such as IQL.expectile"),
        ({"grid": {"CQL.cql_weight": [1.0]}}, "The candidates are IQL"),
        ({"grid": {"IQL.expectile": []}}, "The grid IQL.expectile needs at least one value"),
        ({"grid": {"IQL.expectile": [1.5]}}, r"`expectile` of IQL must be in \(0, 1\); got 1.5"),
        ({"grid": {"IQL.nonsense": [1.5]}}, "IQL has no setting 'nonsense'"),
        ({"grid": {"IQL.precision": ["float32"]}}, "A race tries settings that are numbers; IQL.precision is"),
        ({"grid": {"IQL.expectile": [0.5], "iql.gamma": [1.0]}}, "IQL has the grids expectile and gamma"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str, log: st.Dataset) -> None:
    arguments: dict[str, Any] = {"algorithms": [small(st.IQL)], **SMALL} | changes
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        st.race(log, **arguments)
    assert "\n" not in str(refused.value)


def test_a_validation_part_that_cannot_judge_is_refused_before_anything_is_trained(log: st.Dataset) -> None:
    with pytest.raises(
        EvaluationError, match=r"validation part needs at least 2 episodes.* It has 1\..*`fractions`; now 0.5, 0.1, 0.4"
    ):
        st.race(log.head(10), algorithms=[small(st.IQL)], **SMALL | {"fractions": (0.5, 0.1, 0.4)})


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stitchrl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    from commands import command_runner

    return command_runner(monkeypatch, capsys)


def test_the_command_prints_the_table_and_a_command_that_judges_the_winner(
    raced: Race, stays: Path, tmp_path: Path, stitchrl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "race.toml").write_text(
        '[[candidate]]\nalgorithm = "BC"\nhidden_sizes = [16]\n'
        '[[candidate]]\nalgorithm = "IQL"\nhidden_sizes = [16]\n'
        '[[candidate]]\nalgorithm = "IQL"\nlabel = "wild"\nhidden_sizes = [16]\n'
    )
    words = ["race", stays, "--out", raced.folder, "--config", tmp_path / "race.toml", *WORDS]
    grids = ["--grid", "IQL.expectile=0.6,0.9", "--grid", "wild.learning_rate=1e30"]
    audited = SimpleNamespace(verdict="not usable")
    monkeypatch.setattr(st, "audit", lambda *_: audited)
    done = stitchrl(*words, *grids)
    assert done.status == 5
    assert "no race was run" in done.out
    audited.verdict = "usable"
    done = stitchrl(*words, *grids)  # the race is finished, so that this prints it
    assert (done.status, done.err) == (0, "")
    for one in raced.rounds:
        assert f"round {one.number} of 2: {len(one.rows)} candidates" in done.out
    assert "optimistic" in done.out
    command = done.out.splitlines()[-1].strip()
    assert command.startswith("stitchrl evaluate ")
    told = json.loads(stitchrl(*words, *grids, "--json").out)
    assert told["evaluate"] == command
    assert {key: told[key] for key in ("winner", "spent", "budget")} == {
        key: raced.to_dict()[key] for key in ("winner", "spent", "budget")
    }
    card = json.loads((Path(told["policy"]) / "policy.json").read_text(encoding="utf-8"))
    assert card["provenance"]["verdict"]["decision"] == "NOT JUDGED"
    evaluated = stitchrl(*shlex.split(command)[1:], "--estimators", "wis", "--json")
    assert evaluated.status in (0, 3, 4)
    estimate = json.loads(evaluated.out)["behavior"]
    returns = np.add.reduceat(raced.test.reward, raced.test.episode_start[:-1])
    assert estimate["value"] == pytest.approx(
        float(returns.mean())
    )  # of the test part, the whole of it and nothing else


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--grid", "IQL.expectile"], "`--grid` must be LABEL.setting=values, with the values separated by commas"),
        (["--grid", "CQL.nothing=1", "--algorithms", "IQL"], "The candidates are IQL"),
    ],
)
def test_bad_options(words: list[str], sentence: str, stays: Path, tmp_path: Path, stitchrl: Command) -> None:
    done = stitchrl("race", stays, "--out", tmp_path / "race", *words)
    assert done.status == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "race").exists()
