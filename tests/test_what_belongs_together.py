"""A policy and the log it is judged on: columns, categories, actions, units and episodes, each planted wrong and found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Command
from recurring_worlds import bandit, columns_of

import stitchrl as st
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.data.same_meaning import difference_of_meaning, with_meaning_of
from stitchrl.deployment.guard import Guard
from stitchrl.errors import ConfigurationError, EvaluationError, SchemaError
from stitchrl.pipeline.baseline import Baseline
from stitchrl.pipeline.bundling import save_trained

ACTIONS = ("wait", "pills", "drip")
WARDS = ("a", "b")
SCHEMA: dict[str, Any] = {
    "columns": {
        "episode": "stay",
        "observation": ["pulse", "warmth", "ward"],
        "action": "given",
        "reward": "reward",
        "terminated": "end",
        "behavior_probs": ["p_wait", "p_pills", "p_drip"],
    },
    "observation": {"ward": {"categories": list(WARDS)}, "warmth": {"unit": "C"}},
    "action": {"categories": list(ACTIONS)},
    "task": {"name": "ward", "gamma": 1.0},
}


def table(episodes: int, seed: int) -> dict[str, Any]:
    """Stays of 4 rows, in which each of three actions is given by the pulse."""
    rng, rows = np.random.default_rng(seed), 4 * episodes
    pulse = rng.normal(80, 10, rows)
    logits = np.stack([np.zeros(rows), (pulse - 80) / 20, (80 - pulse) / 20], 1)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    action = np.array([rng.choice(3, p=p) for p in probs])
    return {
        "stay": np.repeat(np.arange(episodes), 4),
        "pulse": pulse,
        "warmth": rng.normal(37, 0.5, rows),
        "ward": np.array(WARDS)[rng.integers(0, 2, rows)],
        "given": np.array(ACTIONS)[action],
        "reward": (action == 1) * (pulse > 80) + rng.normal(0, 0.1, rows),
        "end": np.tile([False, False, False, True], episodes),
        **{f"p_{name}": probs[:, k] for k, name in enumerate(ACTIONS)},
    }


def write(folder: Path, columns: dict[str, Any], schema: dict[str, Any] | None = SCHEMA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "log.parquet")
    if schema is not None:
        (folder / "log.toml").write_text(st.Schema.from_dict(schema).to_toml())
    return folder / "log.parquet"


def changed(section: str, **entries: Any) -> dict[str, Any]:
    """The schema with other entries in one section."""
    return SCHEMA | {section: SCHEMA[section] | entries}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log, and what `stitchrl train` leaves of it."""
    folder = tmp_path_factory.mktemp("trained")
    log = st.read(write(folder, table(40, 0)))
    run = st.fit(st.BC(hidden_sizes=(8,), learning_rate=0.01), log, updates=60, out=folder / "run", progress=False)
    save_trained(run, log, folder / "run", label="BC")
    return folder / "log.parquet", folder / "run"


def value(done: Any) -> float:
    assert done.status == 0, done.err
    return float(json.loads(done.out)["estimates"]["wis"]["value"])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fresh"), table(40, 1))


WIS = ("--estimators", "wis", "--json")


@pytest.mark.parametrize(
    "schema",
    [
        None,
        changed("columns", observation=["ward", "pulse", "warmth"]),
        changed("action", categories=["drip", "wait", "pills"])
        | {"columns": SCHEMA["columns"] | {"behavior_probs": ["p_drip", "p_wait", "p_pills"]}},
        changed("observation", ward={"categories": ["b", "a"]}),
    ],
    ids=["no schema of its own", "columns in another order", "actions in another order", "categories in another order"],
)
def test_what_stands_in_another_order_is_put_right(
    schema: dict[str, Any] | None, trained: tuple[Path, Path], fresh: Path, tmp_path: Path, stitchrl: Command
) -> None:
    own = value(stitchrl("evaluate", trained[1], fresh, *WIS))
    other = write(tmp_path, table(40, 1), schema)
    assert value(stitchrl("evaluate", trained[1], other, *WIS)) == pytest.approx(own, rel=1e-6)
    policy = st.load_policy(trained[1] / "policy")
    assert st.read(other, policy=policy).notes[-1] != st.read(fresh, policy=policy).notes[-1]
    if schema is not None:  # and by its own schema it is another log, which the policy must not be judged on
        with pytest.raises(
            EvaluationError, match=r"another meaning than this log has: .* `st.read\(path, policy=policy\)`"
        ):
            st.evaluate(policy, st.read(other), estimators=("wis",))


@pytest.mark.parametrize(
    ("columns", "schema", "sentence"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "warmth"},
            changed("columns", observation=["pulse", "ward"]) | {"observation": {"ward": {"categories": list(WARDS)}}},
            "no column warmth",
        ),
        (lambda t: t | {"warmth": t["warmth"] * 1.8 + 32}, SCHEMA, "'warmth' lies from 98"),
        (lambda t: t | {"pulse": (t["pulse"] - 80) * 57 + 80}, SCHEMA, "times as widely: it looks like another unit"),
        (
            lambda t: t,
            changed("observation", warmth={"unit": "F"}),
            "learned from 'warmth' in 'C', and this log has it in 'F'",
        ),
        (
            lambda t: t | {"ward": np.where(t["ward"] == "a", "c", "b")},
            None,
            "must hold one of its 2 categories; got 'c'",
        ),
        (
            lambda t: t | {"given": np.unique(t["given"], return_inverse=True)[1]},
            SCHEMA | {"action": {"count": 3}},
            "The policy names its actions, wait, pills, drip, and this log counts them",
        ),
        (lambda t: t, changed("action", categories=[*ACTIONS, "surgery"]), "this log also has surgery"),
    ],
    ids=[
        "column gone",
        "another unit",
        "another width",
        "unit said",
        "category unseen",
        "actions unnamed",
        "action unseen",
    ],
)
def test_what_cannot_be_put_right_is_refused(
    columns: Callable[[dict[str, Any]], dict[str, Any]],
    schema: dict[str, Any] | None,
    sentence: str,
    trained: tuple[Path, Path],
    tmp_path: Path,
    stitchrl: Command,
) -> None:
    content = columns(table(40, 1))
    if schema is not None and len(schema["action"].get("categories", ())) == 4:
        content |= {"p_surgery": np.zeros(160)}
        schema = schema | {
            "columns": schema["columns"] | {"behavior_probs": [*SCHEMA["columns"]["behavior_probs"], "p_surgery"]}
        }
    log = write(tmp_path, content, schema)
    done = stitchrl("evaluate", trained[1], log, *WIS)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert done.err.count("\n") == 1
    if "another unit" in done.err:
        forced = stitchrl("evaluate", trained[1], log, *WIS, "--force")
        assert forced.status == 0
        assert "The evaluation was forced." in forced.out


def less_a_row(t: dict[str, Any]) -> dict[str, Any]:
    gone = {name: np.delete(column, 1) for name, column in t.items()}
    return gone


def reversed_rows(t: dict[str, Any]) -> dict[str, Any]:
    """Every row in the opposite order, and ends marked where stays now end."""
    return {name: column[::-1] for name, column in t.items()} | {"end": t["end"]}


@pytest.mark.parametrize(
    ("change", "known"),
    [(lambda t: t, 40), (less_a_row, 40), (reversed_rows, 40), (lambda t: t | {"stay": t["stay"] + 900}, 40)],
    ids=["resaved", "a row less", "rows reversed", "other identifiers"],
)
def test_episodes_that_were_learned_from_are_recognised(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    known: int,
    trained: tuple[Path, Path],
    tmp_path: Path,
    stitchrl: Command,
) -> None:
    log = write(tmp_path / "known", change(table(40, 0)))
    done = stitchrl("evaluate", trained[1], log, *WIS)
    assert done.status == 2
    assert f"learned from {known} of the 40 episodes" in done.err or "from this very log" in done.err
    assert "`--leave-out-known`" in done.err
    with pytest.raises(EvaluationError, match=f"learned from ({known} of the 40 episodes|this very log)"):
        st.evaluate(st.load_policy(trained[1] / "policy"), st.read(log), estimators=("wis",))


def test_known_episodes_can_be_left_out(
    trained: tuple[Path, Path], fresh: Path, tmp_path: Path, stitchrl: Command
) -> None:
    old, new = table(40, 0), table(40, 1)
    joined = {name: np.concatenate([old[name][:40], new[name]]) for name in old}
    joined["stay"] = np.repeat(np.arange(50), 4)
    log = write(tmp_path, joined)
    refused = stitchrl("evaluate", trained[1], log, *WIS)
    assert (refused.status, "learned from 10 of the 50 episodes" in refused.err) == (2, True)
    done = stitchrl("evaluate", trained[1], log, *WIS, "--leave-out-known")
    assert "10 of 50 episodes are left out" in done.err
    assert value(done) == pytest.approx(value(stitchrl("evaluate", trained[1], fresh, *WIS)), rel=1e-6)
    nothing = stitchrl("evaluate", trained[1], trained[0], *WIS, "--leave-out-known")
    assert (nothing.status, "too few are left" in nothing.err) == (2, True)
    bare = without_bundle(trained[1], tmp_path / "bare")  # a folder of `st.fit` knows its episodes as well
    refused = stitchrl("evaluate", bare, log, *WIS)
    assert (refused.status, "learned from 10 of the 50 episodes" in refused.err) == (2, True)


@pytest.fixture(scope="module")
def bandit_policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, st.Dataset]:
    """A bundle that learned from 400 decisions in 400 possible contexts, and that log."""
    from stitchrl.pipeline.bundling import save_trained

    folder, log = tmp_path_factory.mktemp("bandit"), bandit(400)(400, 0)
    run = st.fit(st.BC(hidden_sizes=(8,), learning_rate=0.01), log, updates=60, progress=False)
    save_trained(run, log, folder, label="BC")
    return folder, log


def test_decisions_that_are_equal_by_coincidence_are_no_leak_and_are_not_left_out(
    bandit_policy: tuple[Path, st.Dataset], tmp_path: Path, stitchrl: Command
) -> None:
    policy: Any = st.load_policy(bandit_policy[0] / "policy")
    fresh = bandit(400)(400, 1)
    assert policy.knows(fresh).mean() > 0.3
    found = st.evaluate(policy, fresh, estimators=("is",))
    assert any("no more than coincidence explains" in caveat for caveat in found.verdict.caveats)
    with pytest.raises(
        EvaluationError, match=r"from this very log, .* a log of a later time, or split the log by time"
    ):
        st.evaluate(policy, bandit_policy[1], estimators=("is",))
    np.savez(tmp_path / "fresh.npz", **columns_of(fresh), behavior_probs=fresh.behavior_probs)
    words = ("evaluate", bandit_policy[0], tmp_path / "fresh.npz", "--estimators", "is", "--json", "--leave-out-known")
    done = stitchrl(*words)
    assert done.status == 0, done.err
    assert "None of 400 episodes is left out" in done.err
    assert json.loads(done.out)["estimates"]["is"]["value"] == pytest.approx(found.estimates["is"].value)
    known = {name: column[:300] for name, column in columns_of(bandit_policy[1]).items()}
    np.savez(tmp_path / "fresh.npz", **known, behavior_probs=np.full((300, 2), 0.5))
    done = stitchrl(*words)
    assert (done.status, "Leaving equal episodes out would select episodes by what happened" in done.err) == (2, True)


def test_a_log_that_holds_copies_hides_no_leak(trained: tuple[Path, Path]) -> None:
    """Half of the log was exported twice; coincidence explains none of that."""
    log = st.read(trained[0])
    twice = log.concat(log.select_episodes(np.arange(20)))
    assert EpisodeMemory.of(twice).copies
    policy: Any = st.load_policy(trained[1] / "policy")
    policy = dataclasses.replace(policy, learned_from=EpisodeMemory.of(twice))
    fresh_rows = st.read(pa.table(table(20, 9)), policy.schema)
    with pytest.raises(EvaluationError, match="learned from 5 of the 25 episodes"):
        st.evaluate(policy, log.select_episodes(np.arange(5)).concat(fresh_rows), estimators=("is",), force=True)


def test_train_writes_a_bundle_that_says_nobody_judged_it(tmp_path: Path, stitchrl: Command) -> None:
    log = write(tmp_path / "log", table(10, 3))
    words: Sequence[Any] = (
        "--algorithm",
        "BC",
        "--updates",
        3,
        "--seeds",
        2,
        "--set",
        "BC.hidden_sizes=[4]",
    )
    done = stitchrl("train", log, "--out", tmp_path / "run", *words)
    assert done.status == 0, done.err
    assert f"The policy of seed 0 is a bundle: {tmp_path / 'run' / 'policy'}" in done.out
    bundle = st.load_policy(tmp_path / "run" / "policy")
    assert bundle.provenance["verdict"]["decision"] == "NOT JUDGED"
    assert bundle.knows(st.read(log)).all()
    np.testing.assert_allclose(
        bundle.probs(st.read(log).observation), st.load(tmp_path / "run").policy.probs(st.read(log).observation)
    )


def test_the_next_observation_follows_the_order_of_the_observation() -> None:
    policy = st.Schema.from_dict(SCHEMA)
    columns = SCHEMA["columns"] | {
        "observation": ["ward", "pulse", "warmth"],
        "next_observation": ["ward'", "pulse'", "warmth'"],
    }
    own = st.Schema.from_dict(SCHEMA | {"columns": columns})
    names = [n for c in columns.values() for n in ([c] if isinstance(c, str) else c)]
    merged, notes = with_meaning_of(policy, own, names)
    assert merged.columns["next_observation"] == ("pulse'", "warmth'", "ward'")
    assert notes == ("The observation columns stand in another order than the policy's, and are read in the policy's.",)
    assert difference_of_meaning(policy, merged) == ""
    lists = {role: column for role, column in columns.items() if role != "next_observation"} | {"behavior_probs": "p"}
    mixed = SCHEMA | {"columns": lists, "action": {"categories": ["drip", "wait", "pills"]}}
    with pytest.raises(SchemaError, match="behavior_probs has one number for each and cannot be put in order"):
        with_meaning_of(policy, st.Schema.from_dict(mixed), names)


def test_a_folder_of_fit_reads_a_log_by_the_schema_it_learned(
    trained: tuple[Path, Path], fresh: Path, tmp_path: Path, stitchrl: Command
) -> None:
    bare = without_bundle(trained[1], tmp_path / "bare")
    without = write(tmp_path / "without", table(40, 1), None)
    expected = value(stitchrl("evaluate", bare, fresh, *WIS))
    assert value(stitchrl("evaluate", bare, without, *WIS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("inner", ["", "policy", "gone"])
def test_a_report_names_what_it_looked_for(inner: str, trained: tuple[Path, Path], stitchrl: Command) -> None:
    done = stitchrl("report", trained[1] / inner)
    assert (done.status, done.out) == (2, "")
    assert "There is no run to report on in" in done.err
    assert ("There is no such folder." if inner == "gone" else "`stitchrl evaluate` says how good it is") in done.err


def two_knobs(columns: Sequence[str], **more: Any) -> st.Schema:
    """A schema with an action of two columns."""
    roles = {"episode": "e", "observation": ["x", "y"], "action": list(columns), "reward": "r", "terminated": "t"}
    return st.Schema.from_dict({"columns": roles | more.pop("columns", {}), "action": {"kind": "continuous"} | more})


def test_parts_of_an_action_are_told_by_their_names() -> None:
    names = ["e", "x", "y", "steer", "gas", "r", "t"]
    policy, own = two_knobs(["steer", "gas"], low=[-1.0, 0.0]), two_knobs(["gas", "steer"], low=[0.0, -1.0])
    merged, notes = with_meaning_of(policy, own, names)
    assert (merged.columns["action"], merged.action_low) == (("steer", "gas"), (-1.0, 0.0))
    assert notes == (
        "The columns of the action stand in another order than the policy's, and are read in the policy's.",
    )
    assert "its action is steer, gas" in difference_of_meaning(policy, own)
    with pytest.raises(SchemaError, match="it cannot be told which is which"):
        with_meaning_of(policy, two_knobs(["gas", "brake"]), [*names, "brake"])
    counted = {"kind": "discrete", "count": 2}
    one = st.Schema.from_dict({"columns": {**SCHEMA["columns"], "behavior_probs": ["up", "down"]}, "action": counted})
    other = st.Schema.from_dict({"columns": {**SCHEMA["columns"], "behavior_probs": ["down", "up"]}, "action": counted})
    with pytest.raises(SchemaError, match="numbers alone do not say which action is which"):
        with_meaning_of(one, other, [*SCHEMA["columns"]["observation"], "up", "down"])


def test_the_only_observation_is_taken_by_its_name_where_it_is_there() -> None:
    roles = {"episode": "e", "action": "a", "reward": "r", "terminated": "t"}
    policy, own = (
        st.Schema.from_dict({"columns": roles | {"observation": name}, "action": {"count": 2}})
        for name in ("glucose", "age")
    )
    merged, _ = with_meaning_of(policy, own, ["e", "a", "r", "t", "glucose", "age"])
    assert merged.columns["observation"] == "glucose"
    merged, notes = with_meaning_of(policy, own, ["e", "a", "r", "t", "age"])
    assert merged.columns["observation"] == "age"
    assert notes == ("The observation is 'age' here and was 'glucose' in the policy's log: make sure it is the same.",)


def test_a_log_without_a_schema_keeps_its_episodes_or_is_refused(trained: tuple[Path, Path]) -> None:
    policy = st.load_policy(trained[1] / "policy")
    content = table(10, 1)
    interleaved = np.arange(40).reshape(10, 4).T.ravel()
    mixed = {name: column[interleaved] for name, column in content.items()}
    renamed = {"stay_id" if name == "stay" else name: column for name, column in mixed.items()}
    found = st.read(pa.table(renamed), policy=policy)
    assert found.episode_lengths.tolist() == [4] * 10
    with pytest.raises(SchemaError, match="no column stay, which was the episode of the policy's log"):
        st.read(
            pa.table({"whose" if name == "stay" else name: column for name, column in mixed.items()}), policy=policy
        )
    bare = {name: column for name, column in mixed.items() if not name.startswith("p_")}
    assert "also had behavior_probs, which this log has no column for." in " ".join(
        st.read(pa.table(bare), policy=policy).notes
    )


def test_train_never_replaces_a_policy_that_it_did_not_train(tmp_path: Path, stitchrl: Command) -> None:
    log = write(tmp_path / "log", table(10, 3))
    for name, content in (("run.json", "{}"), ("policy/policy.json", '{"precious": true}')):
        out = tmp_path / name.split(".")[0].replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text(content)
        done = stitchrl("train", log, "--out", out, "--algorithm", "BC", "--updates", 3)
        assert (done.status, "Choose another --out." in done.err) == (2, True)
        assert (out / name).read_text() == content


def held(policy: Any, columns: dict[str, Any], schema: dict[str, Any] = SCHEMA, **how: Any) -> tuple[float | None, str]:
    """What a policy in memory is worth on a table, and what its verdict says beside."""
    found = st.evaluate(policy, st.read(pa.table(columns), st.Schema.from_dict(schema)), estimators=("wis",), **how)
    return found.estimates["wis"].value, " ".join(found.verdict.caveats)


@pytest.mark.parametrize("greedy", [False, True])
def test_a_policy_in_memory_is_held_to_the_log_it_learned_from(
    greedy: bool, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    policy: Any = st.load(trained[1]).policy
    policy = policy.greedy() if greedy else policy
    new = table(40, 1)
    own, said = held(policy, new)
    assert "forced" not in said
    orders = [
        changed("columns", observation=["ward", "pulse", "warmth"]),
        changed("observation", ward={"categories": ["b", "a"]}),
        changed("action", categories=["drip", "wait", "pills"])
        | {"columns": SCHEMA["columns"] | {"behavior_probs": ["p_drip", "p_wait", "p_pills"]}},
    ]
    for schema in orders:
        with pytest.raises(EvaluationError, match=r"another meaning than this log has: .* `st.read\(path, policy=pol"):
            held(policy, new, schema)
        with pytest.raises(
            EvaluationError, match="another meaning than this log has"
        ):  # as a baseline it is no less a policy
            st.evaluate(
                Always(0), st.read(pa.table(new), st.Schema.from_dict(schema)), estimators=("wis",), baseline=policy
            )
    put_right = st.read(write(tmp_path, new, orders[0]), policy=policy)
    assert st.evaluate(policy, put_right, estimators=("wis",)).estimates["wis"].value == pytest.approx(own)
    fahrenheit = new | {"warmth": new["warmth"] * 1.8 + 32}
    said_so = changed("observation", warmth={"unit": "F"})
    for columns, schema, sentence in (
        (fahrenheit, SCHEMA, "'warmth' lies from 98"),
        (new, said_so, "learned from 'warmth' in 'C', and this log has it in 'F'"),
    ):
        with pytest.raises(EvaluationError, match=sentence) as refused:
            held(policy, columns, schema)
        assert "`force`" in str(refused.value)
        forced = held(policy, columns, schema, force=True)[1]
        assert sentence in forced
        assert "The evaluation was forced." in forced
    unsaid = {k: v for k, v in SCHEMA.items() if k != "observation"} | {
        "observation": {"ward": {"categories": list(WARDS)}}
    }
    assert held(policy, new, unsaid)[0] == pytest.approx(own)  # a schema that names no unit names no other one


class Always:
    """A user's own policy, which carries nothing: it always takes one action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def probs(self, obs: Any, *, action_mask: Any = None) -> Any:
        return np.eye(3)[np.full(len(obs), self.action)]


def test_what_fit_gives_and_what_load_gives_remember_the_same(trained: tuple[Path, Path]) -> None:
    log = st.read(trained[0])
    fitted: Any = st.fit(st.BC(hidden_sizes=(8,)), log, updates=0, progress=False).policy
    loaded: Any = st.load(trained[1]).policy
    assert fitted.schema == loaded.schema == log.schema
    for policy in (fitted, loaded):
        np.testing.assert_array_equal(policy.guard.quantiles, Guard.fit(log).quantiles)
        np.testing.assert_allclose(policy.guard.high, log.observation.max(0))
        assert policy.guard.on_outside == "answer"  # it is looked at and forbids nothing
    few = Guard.fit(log, most_rows=40)
    assert (few.low >= fitted.guard.low).all()
    assert few.low[0] == log.observation[::4, 0].min() > fitted.guard.low[0]


def without_bundle(run: Path, to: Path) -> Path:
    """A folder of `st.fit` without the bundle that `train` puts in it."""
    to.mkdir(parents=True)
    for file in run.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    return to


def test_folders_of_fit_are_held_to_their_log_as_policy_and_as_baseline(
    trained: tuple[Path, Path], fresh: Path, tmp_path: Path, stitchrl: Command
) -> None:
    bare = without_bundle(trained[1], tmp_path / "bare")
    new = table(40, 1)
    other = write(tmp_path / "order", new, changed("columns", observation=["ward", "pulse", "warmth"]))
    hot = write(tmp_path / "hot", new | {"warmth": new["warmth"] * 1.8 + 32})
    columns = ("--policy-columns", "p_wait,p_pills,p_drip")

    def gain(*words: Any) -> float:
        done = stitchrl("evaluate", *words, *WIS, "--baseline", bare)
        assert done.status == 0, done.err
        return float(json.loads(done.out)["gain"]["wis"]["value"])

    assert value(stitchrl("evaluate", bare, other, *WIS)) == pytest.approx(
        value(stitchrl("evaluate", bare, fresh, *WIS)), rel=1e-6
    )
    assert gain(other, *columns) == pytest.approx(gain(fresh, *columns), rel=1e-6)
    for words in ((bare, hot), (hot, *columns, "--baseline", bare)):
        refused = stitchrl("evaluate", *words, *WIS)
        assert (refused.status, "it looks like another unit" in refused.err) == (2, True)
        forced = stitchrl("evaluate", *words, *WIS, "--force")
        assert (forced.status, "The evaluation was forced." in forced.out) == (0, True)
    learned_other = tmp_path / "other"
    st.fit(st.BC(hidden_sizes=(8,)), st.read(other), updates=0, out=learned_other, progress=False)
    refused = stitchrl("evaluate", bare, fresh, *WIS, "--baseline", learned_other)
    assert refused.status == 2
    assert "it observes ward, pulse, warmth, and this log gives pulse, warmth, ward" in refused.err


def test_the_baseline_of_a_run_is_held_to_the_log_before_the_run_begins(trained: tuple[Path, Path]) -> None:
    policy = st.load(trained[1]).policy
    new = table(40, 1)
    turned = st.read(pa.table(new), st.Schema.from_dict(changed("columns", observation=["ward", "pulse", "warmth"])))
    hot = st.read(pa.table(new | {"warmth": new["warmth"] * 1.8 + 32}), st.Schema.from_dict(SCHEMA))
    for log, sentence in ((turned, "another meaning than this log has"), (hot, "it looks like another unit")):
        with pytest.raises(ConfigurationError, match=f"The baseline 'old' does not fit this log: .*{sentence}"):
            Baseline(policy, "old").identity(log)
    assert Baseline(policy, "old", force=True).identity(hot)["baseline"] == "old"


def test_columns_of_numbered_actions_in_another_order_are_another_meaning() -> None:
    each = {"columns": {**SCHEMA["columns"], "behavior_probs": ["up", "down"]}, "action": {"count": 2}}
    turned = each | {"columns": each["columns"] | {"behavior_probs": ["down", "up"]}}
    one, other = st.Schema.from_dict(each), st.Schema.from_dict(turned)
    assert difference_of_meaning(one, one) == ""
    assert difference_of_meaning(one, other) == "its behavior_probs are up, down, and this log's down, up"
