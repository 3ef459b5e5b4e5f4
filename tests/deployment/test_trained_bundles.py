"""What `stitchrl train` leaves over continuous actions and for images, and logs with other columns of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import Command

import stitchrl as st
from stitchrl.data.same_meaning import difference_of_meaning, with_meaning_of
from stitchrl.errors import DataError, EvaluationError, SchemaError
from stitchrl.evaluation.log_of_policy import notes_on_policies
from stitchrl.pipeline.bundling import save_trained


def knobs(observation: Any, action: Any, *, action_names: Any = "action", names: Any = "observation") -> st.Dataset:
    """Continuous decisions whose observation and action stand in one column each, or in several with names."""
    steps = np.arange(len(observation))
    columns: dict[str, Any] = {"e": steps // 4, "r": np.zeros(len(steps)), "t": steps % 4 == 3}
    for name, numbers in ((names, observation), (action_names, action)):
        if isinstance(name, str):
            columns[name] = list(numbers)
        else:
            columns |= dict(zip(name, numbers.T, strict=True))
    roles = {"episode": "e", "observation": names, "action": action_names, "reward": "r", "terminated": "t"}
    return st.read(pa.table(columns), st.Schema.from_dict({"columns": roles, "action": {"kind": "continuous"}}))


def test_named_columns_and_one_column_of_numbers_are_compared() -> None:
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(40, 3)), rng.uniform(-1, 1, (40, 2))
    named = {"names": ["a", "b", "c"], "action_names": ["steer", "gas"]}
    one, several = knobs(x, u), knobs(x, u, **named)
    for ours, theirs, short in (
        (one, several, knobs(x[:, :2], u, names=["a", "b"])),
        (several, one, knobs(x[:, :2], u, action_names=["steer", "gas"])),
    ):
        policy = st.fit(st.BC(hidden_sizes=(4,)), ours, updates=0, progress=False).policy
        assert notes_on_policies([policy], ours, unseen=0, force=False) == ()
        notes = notes_on_policies([policy], theirs, unseen=0, force=False)
        assert [note.split(" have")[0] for note in notes] == [
            "The numbers of the observation",
            "The numbers of the action",
        ]
        assert "make sure that their order is a, b, c." in notes[0]
        assert "make sure that their order is steer, gas." in notes[1]
        with pytest.raises(EvaluationError, match=r"it observes 3 numbers in .*, and this log gives 2 numbers in "):
            notes_on_policies([policy], short, unseen=0, force=False)
    with pytest.raises(
        EvaluationError, match="its action has 2 numbers in steer, gas, and this log's 3 numbers in action"
    ):
        notes_on_policies([policy], knobs(x, rng.uniform(-1, 1, (40, 3)), names=["a", "b", "c"]), unseen=0, force=False)
    ruled = st.Schema.from_dict(several.schema.to_dict() | {"observation": {"a": {"missing": "previous"}}})
    assert difference_of_meaning(one.schema, ruled) == "it observes observation, and this log gives a, b, c"
    with pytest.raises(
        SchemaError, match="of one column, 'observation', which have no names, and this log names a, b, c"
    ):
        with_meaning_of(one.schema, several.schema, ["e", "a", "b", "c", "steer", "gas", "r", "t"])


CONTINUOUS = (
    st.BC(hidden_sizes=(4,)),
    st.TD3BC(hidden_sizes=(4,)),
    st.CQL(hidden_sizes=(4,)),
    st.IQL(hidden_sizes=(4,)),
    st.AWR(hidden_sizes=(4,)),
    st.FilteredBC(hidden_sizes=(4,)),
)


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(one, marks=[] if one.name in ("BC", "TD3BC") else [pytest.mark.slow]) for one in CONTINUOUS],
    ids=lambda algorithm: algorithm.name,
)
def test_the_bundle_of_a_continuous_policy_acts_and_has_its_guard_on(algorithm: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    log = knobs(x, rng.uniform(-1, 1, (40, 2)), names=["a", "b", "c"], action_names=["steer", "gas"])
    run = st.fit(algorithm, log, updates=0, progress=False)
    where = save_trained(run, log, tmp_path, label=algorithm.name)
    assert where == tmp_path / "policy"
    expected = np.asarray(run.policy.mode(log.observation))
    assert np.ptp(expected, axis=0).min() > 0  # it looks at what it sees
    for backend in ("jax", "numpy"):
        bundle: Any = st.load_policy(where, backend=backend)
        np.testing.assert_allclose(bundle.predict(log.observation)[0], expected, atol=1e-6)
        named = dict(zip("abc", log.observation[5].tolist(), strict=True))
        np.testing.assert_allclose(bundle.predict(named)[0], expected[5], atol=1e-6)
        with pytest.raises(DataError, match="b is 49"):
            bundle.predict(log.observation[5] + np.array([0, 50, 0], np.float32))
        assert bundle.knows(log).all()
    with pytest.raises(EvaluationError, match="learned from this very log"):
        st.evaluate(bundle, log, estimators=("fqe",))


@pytest.mark.slow
def test_train_says_what_becomes_of_images(tmp_path: Path, stitchrl: Command) -> None:
    rng, rows = np.random.default_rng(0), 8
    log = tmp_path / "frames.npz"
    np.savez(
        log, episode=np.arange(rows) // 4, observation=rng.integers(0, 255, (rows, 36, 36, 1)).astype(np.uint8),
        action=np.arange(rows) % 3, reward=rng.normal(size=rows), terminated=np.arange(rows) % 4 == 3,
    )  # fmt: skip
    out = tmp_path / "run"
    done = stitchrl("train", log, "--out", out, "--algorithm", "BC", "--updates", 0)
    assert done.status == 0, done.err
    assert "The observations are images, which a bundle does not hold" in done.out
    assert not (out / "policy").exists()
    policy = st.load(out).policy  # the way out that it names
    images = st.read(log)
    assert policy.mode(images.observation).shape == (rows,)
    assert notes_on_policies([policy], images, unseen=0, force=False) == ()
