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
from stitchrl.nn.networks import Network
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


def frames(folder: Path, *, seed: int = 0, most: int = 255) -> Path:
    """A log of images whose first row of pixels is always 0."""
    rng, rows = np.random.default_rng(seed), 24
    images = rng.integers(0, most + 1, (rows, 36, 36, 2)).astype(np.uint8)
    images[:, 0] = 0
    log = folder / f"frames{seed}_{most}.npz"
    np.savez(
        log, episode=np.arange(rows) // 4, observation=images,
        action=np.arange(rows) % 3, reward=rng.normal(size=rows), terminated=np.arange(rows) % 4 == 3,
        behavior_log_prob=np.full(rows, -np.log(3)),
    )  # fmt: skip
    return log


def test_the_bundle_of_images_acts_on_images(tmp_path: Path, stitchrl: Command) -> None:
    path, out = frames(tmp_path), tmp_path / "run"
    done = stitchrl("train", path, "--out", out, "--algorithm", "BC", "--updates", 2, "--batch-size", 8)
    assert done.status == 0, done.err
    assert f"The policy of seed 0 is a bundle: {out / 'policy'}" in done.out
    log, policy = st.read(path), st.load(out).policy
    wanted = np.asarray(policy.probs(log.observation))
    assert np.ptp(wanted, axis=0).min() > 0
    for backend in ("jax", "numpy"):
        bundle: Any = st.load_policy(out / "policy", backend=backend)
        np.testing.assert_allclose(bundle.probs(log.observation), wanted, atol=2e-6)
        np.testing.assert_allclose(bundle.probs(log.observation[3]), wanted[3], atol=2e-6)
        np.testing.assert_allclose(bundle.probs(log.observation.astype(float)), wanted, atol=2e-6)
        lit = log.observation[:2] > 100  # as the environment of a collected log may show it
        np.testing.assert_array_equal(bundle.probs(lit), bundle.probs(lit.astype(np.uint8) * np.uint8(255)))
        assert bundle.probs([]).shape == (0, 3)
        other = log.observation.copy()
        other[:, 0] = 9  # pixels that never changed in the log may do so in use
        assert bundle.predict(other)[0].shape == (24,)
        assert bundle.knows(log).all()
    for words, image in (
        (r"takes images of shape \(36, 36, 2\), or several of them; got shape \(36, 36\)", other[0, :, :, 0]),
        ("must hold whole numbers from 0 to 255, as the log of the policy does; got 1.5", other[0] * 0.0 + 1.5),
        ("must hold whole numbers from 0 to 255, as the log of the policy does; got nan", other[0] * np.nan),
        ("must hold whole numbers from 0 to 255; got values of type <U3", other[0].astype("U3")),
        (
            "hold numbers from 0 to 1, and those of the policy's log go up to 255. Multiply them by 255",
            1.0 * (other[0] > 100),
        ),
        ("some of its values are masked", np.ma.masked_equal(other[0], 9)),
        (r"several of them; got \{'a': 1\}", {"a": 1}),
    ):
        with pytest.raises(DataError, match=words):
            bundle.predict(image)
    done = stitchrl("predict", out / "policy", path, "--out", tmp_path / "actions.csv")
    assert (done.status, (tmp_path / "actions.csv").exists()) == (2, False)
    assert "reads tables, and this policy sees images" in done.err
    fresh = st.read(frames(tmp_path, seed=1))
    values = [st.evaluate(one, fresh, estimators=("wis",)).estimates["wis"].value for one in (bundle, policy)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_images_on_another_scale_are_outside_the_guard(tmp_path: Path) -> None:
    log = st.read(frames(tmp_path, most=1))
    run = st.fit(st.BC(network=Network((4,), channels=(2,))), log, updates=0, progress=False)
    bundle: Any = st.load_policy(save_trained(run, log, tmp_path, label="BC"), backend="numpy")
    bright = log.observation[:3].copy()
    bright[1, 5, 7, 1] = 255
    with pytest.raises(
        DataError, match="Channel 1 of image 1 has a 255, and the policy learned from values of 0 to 1 "
    ):
        bundle.predict(bright)
    usual = bundle.predict(log.observation[:3])[0]
    assert bundle.guarded(2).predict(bright)[0].tolist() == [usual[0], 2, usual[2]]
    bright[1, 5, 7, 1] = 1
    assert bundle.guard.admits(bundle.guard.clipped(bright + np.uint8(200))).all()
    assert st.Guard.fit(log).admits(log.observation[:0]).tolist() == []
    beyond = bright.copy()
    beyond[1, 5, 7, 1] = 200
    np.testing.assert_array_equal(bundle.guarded("clip").probs(beyond), bundle.probs(bright))
