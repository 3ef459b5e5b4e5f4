"""A bundle in use: one row or many, numbers or named columns, and what is refused, clipped or handed to somebody else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from bundles import COLUMNS, LOG, NUMBERS, ROW, SCHEMA, continuous, discrete

import stitchrl as st
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.numpy_policy import load_policy as load_without_jax
from stitchrl.deployment.numpy_saving import KINDS
from stitchrl.deployment.observed import observed
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.nn.saving import CLASSES


@pytest.fixture(scope="module", params=["jax", "numpy"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """A bundle over discrete and one over continuous actions, by each backend."""
    made = []
    for name, bundle in (("discrete", discrete()), ("continuous", continuous())):
        folder = tmp_path_factory.mktemp(name)
        save_bundle(folder, bundle)
        made.append(st.load_policy(folder, backend=request.param))
    return made[0], made[1]  # type: ignore[return-value]


def test_one_row_gives_one_action_and_many_rows_many(both: tuple[Bundle, Bundle]) -> None:
    policy, other = both
    rows = LOG.observation
    action, state = policy.predict(rows)
    assert (action.shape, action.dtype, state) == ((12,), np.int64, None)
    np.testing.assert_array_equal(action, policy.probs(rows).argmax(1))
    one, state = policy.predict(rows[3], "memory", None, True)
    assert (one.shape, int(one), state) == ((), int(action[3]), "memory")
    assert policy.probs(rows[3]).shape == (3,)
    assert policy.log_prob(rows[3], 1).shape == ()
    np.testing.assert_allclose(policy.log_prob(rows, action), np.log(policy.probs(rows).max(1)), rtol=1e-5)
    moved, _ = other.predict(rows)
    assert (moved.shape, moved.dtype) == ((12, 2), np.float32)
    np.testing.assert_allclose(other.predict(rows[3].tolist())[0], moved[3], rtol=1e-4)  # float32, another batch shape
    assert other.log_prob(rows[3], moved[3]).shape == ()
    with pytest.raises(DataError, match="Continuous actions have no probabilities"):
        other.probs(rows)


def test_the_mode_is_that_of_the_policy_inside() -> None:
    bundle = discrete()
    np.testing.assert_array_equal(bundle.predict(LOG.observation)[0], bundle.policy.mode(LOG.observation))
    np.testing.assert_array_equal(bundle.probs(LOG.observation), bundle.policy.probs(LOG.observation))


def test_draws_depend_on_the_seed_alone(both: tuple[Bundle, Bundle]) -> None:
    for policy in both:
        rows = np.repeat(LOG.observation, 300, 0)
        one, two = (policy.sample(rows, seed=7) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(policy.predict(rows, deterministic=False, seed=7)[0], one)
        assert (policy.sample(rows, seed=8) != one).any()
        assert (policy.predict(rows, deterministic=False)[0] != one).any()
        rng = np.random.default_rng(7)
        first, second = (policy.sample(rows, seed=rng) for _ in range(2))
        assert (first != second).any()
        assert policy.sample(rows, key=jax.random.key(1)).shape == one.shape
        with pytest.raises(ConfigurationError, match="both were given"):
            policy.sample(rows, seed=1, key=jax.random.key(1))
        with pytest.raises(ConfigurationError, match="`seed` must be a whole number"):
            policy.sample(rows, seed=-1)
    drawn = np.bincount(both[0].sample(np.repeat(LOG.observation[:1], 30_000, 0), seed=0), minlength=3) / 30_000
    np.testing.assert_allclose(drawn, both[0].probs(LOG.observation[0]), atol=0.01)


def test_named_columns_become_the_numbers_that_reading_makes(both: tuple[Bundle, Bundle]) -> None:
    policy, _ = both
    frame = pa.table({name: COLUMNS[name] for name in ("ward", "given", "lactate", "pulse")})  # another order
    wanted = policy.probs(LOG.observation)
    for given in (frame, frame.to_pandas(), pl.from_arrow(frame), frame.to_pydict(), frame.to_pylist()):
        np.testing.assert_array_equal(policy.probs(given), wanted)
    np.testing.assert_array_equal(policy.probs(ROW), policy.probs(NUMBERS))
    assert policy.predict(ROW)[0].shape == ()
    assert policy.predict(pd.DataFrame([ROW]).iloc[0])[0].shape == ()
    assert policy.predict(pd.DataFrame([ROW]))[0].shape == (1,)
    assert policy.predict([ROW, ROW])[0].shape == (2,)
    mask = [False, True, True]
    np.testing.assert_array_equal(policy.probs(ROW, action_mask=mask)[0], 0)


def test_one_column_of_vectors_can_be_named() -> None:
    schema = st.Schema(
        {"episode": "e", "observation": "o", "action": "a", "reward": "r", "terminated": "t"}, num_actions=3
    )
    bundle = dataclasses.replace(discrete(), schema=schema)
    vector = LOG.observation[0].tolist()
    wanted = bundle.probs(LOG.observation)
    np.testing.assert_allclose(bundle.probs({"o": vector}), wanted[0], rtol=1e-5)
    np.testing.assert_array_equal(bundle.probs({"o": LOG.observation}), wanted)
    np.testing.assert_array_equal(bundle.probs(pa.table({"o": LOG.observation.tolist()})), wanted)


def test_the_action_mask_is_taken_from_named_columns(both: tuple[Bundle, Bundle]) -> None:
    masks = {"can wait": [1, 0], "can pills": [0, 1], "can drip": [1, 1]}
    for columns, given in (
        (tuple(masks), masks),
        ("mask", {"mask": np.array(list(masks.values())).T.tolist()}),
    ):
        schema = dataclasses.replace(LOG.schema, columns=dict(SCHEMA.columns) | {"action_mask": columns})
        policy = dataclasses.replace(both[0], schema=schema)
        rows = {"pulse": [70.0, 71.0], "ward": ["a", "b"], "lactate": [1.0, 2.0]}
        frame = pa.table(rows | given)
        wanted = policy.probs(rows, action_mask=[[True, False, True], [False, True, True]])
        assert wanted[0, 1] == wanted[1, 0] == 0
        for asked in (frame, frame.to_pandas(), pl.from_arrow(frame), frame.to_pydict(), frame.to_pylist()):
            np.testing.assert_array_equal(policy.probs(asked), wanted)
        np.testing.assert_allclose(policy.probs(frame.to_pylist()[1]), wanted[1], rtol=1e-6)
        everything = np.ones((2, 3), bool)
        assert (policy.probs(frame, action_mask=everything) > 0).all()  # what the caller says comes first
        numbers = np.stack([NUMBERS, NUMBERS])
        for bare in (rows, numbers):
            with pytest.raises(
                DataError, match=r"neither these nor `action_mask`\. Give one of them; a mask is True everywhere"
            ):
                policy.predict(bare)
        assert policy.predict(numbers, action_mask=everything)[0].shape == (2,)
        for odd in ([0, 2, 1], [0, None, 1]):
            spoilt = (
                dict(zip(masks, ([1, one] for one in odd), strict=True))
                if len(given) > 1
                else {"mask": [[1, 0, 1], odd]}
            )
            with pytest.raises(DataError, match=r"must be true or false \(or 1 and 0\); in row 1 it is not"):
                policy.predict(rows | spoilt)
    named = dataclasses.replace(LOG.schema, columns=dict(SCHEMA.columns) | {"action_mask": tuple(masks)})
    policy = dataclasses.replace(both[0], schema=named)
    words = {"can wait": ["yes", "no"], "can pills": ["no", "yes"], "can drip": ["yes", "yes"]}
    np.testing.assert_array_equal(policy.probs(rows | words), wanted)
    with pytest.raises(DataError, match="has no column can drip"):
        policy.predict(pa.table(rows | {"can wait": [1, 0], "can pills": [0, 1]}))


def test_no_rows_give_no_answers(both: tuple[Bundle, Bundle]) -> None:
    frame = pa.table({name: COLUMNS[name] for name in ("pulse", "ward", "lactate")}).slice(0, 0)
    empty = (frame, frame.to_pandas(), pl.from_arrow(frame), frame.to_pydict(), [], np.empty((0, 6), np.float32))
    for policy, shape in zip(both, ((0,), (0, 2)), strict=True):
        for asked in empty:
            for told in (policy, policy.guarded("clip"), policy.unguarded()):
                assert told.predict(asked)[0].shape == told.sample(asked, seed=0).shape == shape
            assert policy.log_prob(asked, np.empty(shape, np.int64)).shape == (0,)
    assert both[0].probs(frame).shape == (0, 3)


def test_codes_and_buckets_of_unknown_values_are_categories_too(both: tuple[Bundle, Bundle]) -> None:
    rules = {"ward": dataclasses.replace(SCHEMA.observations["ward"], categories=("a", "b"), unknown=True)}
    columns = dict(SCHEMA.columns) | {"observation": ("pulse", "ward", "unit", "age")}
    rules |= {"unit": dataclasses.replace(rules["ward"], categories=("x", "y"), unknown=False, encoding="code")}
    rules |= {
        "age": dataclasses.replace(SCHEMA.observations["lactate"], missing="error", indicator=False, low=0.0, high=2.0)
    }
    guard = dataclasses.replace(
        both[0].guard, low=np.float32([60, 0, 0, 0, 0, 0]), high=np.float32([90, 1, 1, 1, 1, 2.5])
    )
    policy = dataclasses.replace(
        both[0], schema=dataclasses.replace(LOG.schema, columns=columns, observations=rules), guard=guard
    )
    wanted = policy.probs(np.float32([70, 0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(policy.probs({"pulse": 70.0, "ward": "never seen", "unit": "y", "age": 1.0}), wanted)
    for row, said in (
        ([70, 0, 1, 1, 1, 1], "ward is no category.*a, b, unknown must be 1"),
        ([70, 0, 0, 1, 0.5, 1], "unit is no category in row 0: it must be a whole number from 0 to 1; got 0.5"),
        ([70, 0, 0, 1, 1, 2.25], "age is 2.25 in row 0, and the schema of the policy allows 0 to 2"),
    ):
        with pytest.raises(DataError, match=said):
            policy.predict(np.float32(row))
    assert policy.guarded("drip").predict(np.float32([70, 0, 1, 1, 1, 1]))[0] == 2


BAD: dict[str, tuple[Any, str]] = {
    "width": (
        NUMBERS[:4],
        r"takes observations of 6 numbers, one row each \(pulse, ward=a, ward=b, ward=c \.\.\.\); got shape \(4,\)",
    ),
    "three axes": (NUMBERS[None, None], r"got shape \(1, 1, 6\)"),
    "NaN": (
        NUMBERS * np.array([np.nan, 1, 1, 1, 1, 1]),
        r"pulse is missing \(NaN\) in row 0, and the policy acts on known",
    ),
    "infinity": (NUMBERS + np.array([0, 0, 0, 0, np.inf, 0]), r"lactate is infinite in row 0"),
    "swapped": (NUMBERS[::-1], r"pulse is 1 in row 0, and the policy learned from values of 60 to 82"),
    "another unit": (LOG.observation * np.array([0.1, 1, 1, 1, 1, 1]), r"pulse is 6 in row 0 \(12 such rows of 12\)"),
    "an unseen category": (
        ROW | {"ward": "d"},
        r"Column ward, row 0: 'd' is an unseen category; the policy learned a, b, c\. Correct the value, or say which action",
    ),
    "a missing category": (
        ROW | {"ward": None},
        r"^ward is missing in row 0, and the policy acts on known values only\. Give",
    ),
    "a missing number": (
        ROW | {"pulse": None},
        r"^pulse is missing in row 0, and the policy acts on known values only\. Give",
    ),
    "text": (ROW | {"pulse": "fast"}, r"Column pulse, row 0: 'fast' is no number\. Correct the value"),
    "no such column": ({"pulse": 1.0, "ward": "a"}, r"has no column lactate\. Name the columns as its log did"),
    "other lengths": ({"pulse": [1.0, 2.0], "ward": ["a"], "lactate": [1.0]}, r"must be equally long"),
    "infinity by name": (ROW | {"pulse": np.inf}, r"pulse is infinite in row 0"),
    "a masked value": (np.ma.masked_array(NUMBERS, [1, 0, 0, 0, 0, 0]), r"pulse is missing \(NaN\) in row 0"),
    "a masked value by name": (ROW | {"pulse": np.ma.masked}, r"^pulse is missing in row 0"),
    "a masked column": (
        {"pulse": np.ma.masked_array([70.0, 70.0], [0, 1]), "ward": ["a", "b"], "lactate": [1.0, 1.0]},
        r"^pulse is missing in row 1",
    ),
    "two categories": (
        NUMBERS + np.array([0, 1, 0, 0, 0, 0]),
        r"ward is no category in row 0: exactly one of the numbers for a, b, c must be 1 and the others 0; got 1, 1, 0\.",
    ),
    "no category": (NUMBERS * np.array([1, 1, 0, 1, 1, 1]), r"ward is no category in row 0.*got 0, 0, 0"),
    "halves of categories": (
        np.stack([NUMBERS, [70, 0.5, 0.5, 0, 1.25, 1]]),
        r"ward is no category in row 1.*got 0\.5, 0\.5, 0\.",
    ),
    "a column twice": (
        pa.Table.from_arrays(
            [pa.array([70.0])] * 2 + [pa.array(["a"]), pa.array([1.0])], ["pulse", "pulse", "ward", "lactate"]
        ),
        r"has more than one column pulse\. Leave one",
    ),
    "a lazy frame": (pl.DataFrame([ROW | {"lactate": 1.0}]).lazy(), r"lazy frame of Polars.*give `frame\.collect\(\)`"),
    "words": ("fast", r"must be numbers, or named columns; got 'fast'"),
    "text in an array": (np.array(["a"] * 6), r"Values such as categories need the names"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_one_sentence(name: str, both: tuple[Bundle, Bundle]) -> None:
    given, said = BAD[name]
    for policy in both:
        for ask in (policy.predict, policy.mode, policy.sample):
            with pytest.raises(DataError, match=said) as caught:
                ask(given)
            assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=said):
        both[0].probs(given)


def test_masks_and_actions_that_do_not_fit_are_refused(both: tuple[Bundle, Bundle]) -> None:
    policy, other = both
    for mask, said in (
        ([True, True], r"each of the policy's 3 actions; got shape \(1, 2\)"),
        ([[True] * 3] * 2, "one row for each of the 1 observations; got 2"),
        ([False] * 3, "in row 0 it allows none"),
        (["yes", "no", "no"], "True for allowed actions and False for others, or 1 and 0; got 'yes'"),
        (["1", "0", "0"], "or 1 and 0; got '1'"),
        ([1, np.nan, 0], "or 1 and 0; got nan"),
        ([1, None, 0], "or 1 and 0; got nan"),
        ([-1, 1, 0], "or 1 and 0; got -1"),
        (np.ma.masked_array([True, True, False], [1, 0, 0]), "got a masked array whose values are not all known"),
    ):
        with pytest.raises(DataError, match=said):
            policy.predict(NUMBERS, action_mask=mask)
    with pytest.raises(DataError, match="takes no `action_mask`"):
        other.predict(NUMBERS, action_mask=[True] * 3)
    for action, said in ((3, "whole numbers from 0 to 2"), (0.5, "whole numbers"), ([1, 2], "one action per row")):
        with pytest.raises(DataError, match=said):
            policy.log_prob(NUMBERS, action)
    np.testing.assert_array_equal(
        policy.probs(NUMBERS, action_mask=[1.0, 0, 1]), policy.probs(NUMBERS, action_mask=[True, False, True])
    )
    for moved, said in (
        ([0.5], "has 2 numbers; got 1 in each row of `action`"),
        ([0.5, 1.0, 2.0], "has 2 numbers; got 3"),
        ([0.5, np.nan], "must hold finite numbers; got nan"),
        (["a", "b"], "must hold finite numbers; got 'a'"),
        (np.ma.masked_array([0.5, 1.0], [0, 1]), "must hold finite numbers; got a masked value"),
        ([[0.5, 1.0], [0.5]], "must hold one action per row"),
    ):
        with pytest.raises(DataError, match=said):
            other.log_prob(NUMBERS, moved)


def test_a_guard_clips_hands_over_or_takes_an_action(both: tuple[Bundle, Bundle]) -> None:
    policy, other = both
    far = LOG.observation.copy()
    far[2, 0] = 200.0  # admitted are 57.8 to 84.2
    clipped = far.copy()
    clipped[2, 0] = policy.guard.most[0]
    assert policy.guard.most[0] == pytest.approx(84.2)
    usual = policy.probs(LOG.observation)
    np.testing.assert_array_equal(policy.guarded("clip").probs(far), policy.probs(clipped))
    handed = policy.guarded("behavior").probs(far)
    np.testing.assert_allclose(handed[2], discrete().behavior.probs(far[2:3])[0], rtol=1e-5)
    assert abs(handed[2] - usual[2]).max() > 1e-3
    np.testing.assert_array_equal(np.delete(handed, 2, 0), np.delete(usual, 2, 0))
    for named in (2, "drip"):
        fixed = policy.guarded(named)
        assert fixed.probs(far)[2].tolist() == [0, 0, 1]
        np.testing.assert_array_equal(np.delete(fixed.probs(far), 2, 0), np.delete(usual, 2, 0))
        assert fixed.predict(far)[0][2] == fixed.sample(far, seed=0)[2] == 2
        assert fixed.log_prob(far, np.full(12, 2))[2] == 0
        assert fixed.predict(far[2])[0].shape == ()
    with pytest.raises(DataError, match="`action_mask` forbids it"):
        policy.guarded(2).predict(far, action_mask=[[True, True, False]] * 12)
    moved = other.guarded((0.5, 1.5)).predict(far)[0]
    assert moved[2].tolist() == [0.5, 1.5]
    np.testing.assert_array_equal(np.delete(moved, 2, 0), other.predict(np.delete(far, 2, 0))[0])
    assert not other.guarded((0.5, 1.5)).has_density
    assert other.guarded("clip").has_density
    with pytest.raises(DataError, match="no density"):
        other.guarded((0.5, 1.5)).log_prob(far, moved)
    np.testing.assert_allclose(policy.unguarded().probs(far)[2], policy.unguarded().probs(far[2]), rtol=1e-5)


def test_only_a_given_action_is_taken_where_a_value_is_not_known(both: tuple[Bundle, Bundle]) -> None:
    policy, _ = both
    gone = NUMBERS.copy()
    gone[0] = np.nan
    for told in ("refuse", "clip", "behavior"):
        with pytest.raises(DataError, match=r"pulse is missing"):
            policy.guarded(told).predict(gone)
    assert policy.guarded("drip").predict(gone)[0] == 2
    for value in ({"ward": "d"}, {"ward": None}, {"pulse": None}, {"pulse": 900.0}):
        assert policy.guarded("drip").predict(ROW | value)[0] == 2
    assert policy.guarded("drip").predict(ROW)[0] == policy.predict(ROW)[0]
    with pytest.raises(DataError, match="takes observations of 6 numbers"):
        policy.guarded("drip").predict(NUMBERS[:5])


def test_a_guard_is_told_something_it_can_do(both: tuple[Bundle, Bundle]) -> None:
    policy, other = both
    for told in (3, -1, "wander", True, 0.5):
        with pytest.raises(ConfigurationError, match="or an action, wait, pills, drip; got"):
            policy.guarded(told)
    for wrong in ((1.0,), "drip", (np.nan, 1.0)):
        with pytest.raises(ConfigurationError, match="an action of 2 finite numbers; got"):
            other.guarded(wrong)
    with pytest.raises(ConfigurationError, match=r"number 2 of the action must be in \[0, 2\], .*; got -0\.5"):
        other.guarded((0.5, -0.5))
    bounded = dataclasses.replace(
        other, schema=dataclasses.replace(other.schema, action_low=(0.0, 0.0), action_high=(0.4, 5.0))
    )
    assert bounded.guarded((0.4, 4.0)).guard.on_outside == (0.4, 4.0)
    with pytest.raises(ConfigurationError, match=r"number 1 of the action must be in \[0, 0\.4\].*; got 0\.5"):
        bounded.guarded((0.5, 4.0))
    if type(other.policy).__module__.startswith("stitchrl.deployment.numpy_"):
        for wrap in (lambda: other.clipped(-1, 1), lambda: other.smoothed(0.1, -1, 1)):
            with pytest.raises(ConfigurationError, match=r'`st\.load_policy\(folder, backend="jax"\)`'):
                wrap()
    with pytest.raises(ConfigurationError, match="holds no model of the behaviour"):
        other.guarded("behavior")
    assert "behavior" not in policy.described
    assert "guarded by the behaviour" in policy.guarded("behavior").described


def test_what_a_guard_was_told_is_saved_with_the_bundle(tmp_path: Path) -> None:
    for bundle in (discrete().guarded("behavior"), discrete().guarded(1), continuous().guarded((0.5, 1.0))):
        save_bundle(tmp_path / str(bundle.guard.on_outside), bundle)
        for load in (st.load_policy, load_without_jax):
            assert load(tmp_path / str(bundle.guard.on_outside)).guard.on_outside == bundle.guard.on_outside  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="A policy of NumPy is not written"):
        save_bundle(tmp_path / "again", load_without_jax(tmp_path / "1"))


def test_a_previous_value_is_not_guessed() -> None:
    rules = dict(SCHEMA.observations) | {
        "lactate": dataclasses.replace(SCHEMA.observations["lactate"], missing="previous")
    }
    bundle = dataclasses.replace(discrete(), schema=dataclasses.replace(LOG.schema, observations=rules))
    with pytest.raises(DataError, match=r"lactate is missing in row 0, where the policy learned with the last value"):
        bundle.predict(ROW)
    assert bundle.predict(ROW | {"lactate": 1.5})[0].shape == ()


def test_estimates_are_of_what_acts(both: tuple[Bundle, Bundle]) -> None:
    policy, _ = both
    rng = np.random.default_rng(0)
    columns = {
        "stay": np.arange(300),
        "pulse": rng.uniform(60, 120, 300),  # half of it beyond what the guard admits
        "ward": rng.choice(["a", "b", "c"], 300),
        "lactate": rng.uniform(1, 3, 300),
        "given": rng.choice(["wait", "pills", "drip"], 300),
        "reward": rng.random(300),
        "end": np.ones(300, bool),
        **{f"p{k}": np.full(300, 1 / 3) for k in range(3)},
    }
    schema = dataclasses.replace(SCHEMA, columns=dict(SCHEMA.columns) | {"behavior_probs": ("p0", "p1", "p2")})
    log = st.read(columns, schema)
    weights = {
        name: (of(log.observation)[np.arange(300), log.action] * 3 * log.reward).mean()
        for name, of in {
            "refuse": policy.policy.probs,
            "drip": policy.guarded("drip").probs,
            "clip": policy.guarded("clip").probs,
        }.items()
    }
    found = {
        name: st.evaluate(policy.guarded(name), log, estimators=("is",), force=True).estimates["is"].value
        for name in weights
    }
    for name, value in weights.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name
    assert len({round(value, 6) for value in found.values()}) == 3
    caveats = st.evaluate(policy, log, estimators=("is",), force=True).verdict.caveats
    assert any(
        "estimates are of the policy without its guard" in one or "looks like another unit" in one for one in caveats
    )


def test_the_document_of_bundles_runs_and_names_every_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
    save_bundle(tmp_path / "policy", discrete())
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(example.replace('"run/policy"', repr(str(tmp_path / "policy"))), "bundle.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] in ("wait", "pills", "drip")
    tables = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    assert set(KINDS) <= tables
    for name in KINDS:
        (line,) = re.findall(rf"^\| `{name}` \| .*", text, flags=re.MULTILINE)
        for field in dataclasses.fields(CLASSES[name]):
            assert f"`{field.name}`" in line, (name, field.name)


def test_one_plain_row_with_names_is_read_as_the_encoder_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"episode": "e", "action": "a", "reward": "r", "terminated": "t"}

    def schema(names: Any, rules: Any) -> st.Schema:
        content = {"columns": roles | {"observation": names}, "action": {"count": 2}, "observation": rules}
        return st.Schema.from_dict(content)

    plain = schema(["x", "y"], {"x": {"unit": "C"}})
    vector = schema("v", {})
    rows: list[tuple[st.Schema, int, dict[str, Any]]] = [
        (plain, 2, {"y": 3, "x": 0.1, "other": "unread"}), (plain, 2, {"x": -(2**24), "y": 1e37}),
        (vector, 3, {"v": [0.1, 2.0, -3.5]}),
    ]  # fmt: skip
    quick = [observed(row, of, width) for of, width, row in rows]
    slow: list[tuple[st.Schema, int, dict[str, Any]]] = [
        (plain, 2, {"x": float("nan"), "y": 1.0}), (plain, 2, {"x": None, "y": 1.0}), (plain, 2, {"x": "one", "y": 1.0}),
        (plain, 2, {"x": 1.0}), (vector, 3, {"v": [1.0, 2.0]}),
    ]  # fmt: skip
    for of, width, row in slow:
        with pytest.raises(DataError):
            observed(row, of, width)
    assert np.isinf(observed({"x": 1e39, "y": 1.0}, plain, 2).rows).tolist() == [[True, False]]  # for the guard to see
    monkeypatch.setattr("stitchrl.deployment.observed._plain_row", lambda *_: None)
    for found, (of, width, row) in zip(quick, rows, strict=True):
        expected = observed(row, of, width)
        assert found.single is expected.single is True
        assert found.rows.dtype == expected.rows.dtype
        np.testing.assert_array_equal(found.rows, expected.rows)
