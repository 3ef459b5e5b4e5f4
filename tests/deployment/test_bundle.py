"""The guard, and the bundle that is deployed."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundles import continuous
from safetensors import safe_open
from safetensors.numpy import save_file
from worlds import tiny_log

import stitchrl as st
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.errors import CheckpointError
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.nn.units import StandardizedPolicy


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_guard_admits_what_lies_in_the_range_and_a_tenth_beyond() -> None:
    guard = Guard(np.array([0, -1], np.float32), np.array([10, 1], np.float32), 0.1)
    obs = np.array(
        [[0, -1], [10, 1], [-0.9, 0], [-1.1, 0], [10.9, 0], [11.1, 0], [5, 1.19], [5, 1.21], [5, -1.21]],
        np.float32,
    )
    assert guard.admits(obs).tolist() == [True, True, True, False, True, False, True, False, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_guard_refuses_what_is_not_finite(value: float) -> None:
    guard = Guard(np.array([0, -1], np.float32), np.array([10, 1], np.float32))
    assert guard.admits(np.array([[5, value], [5, 0]], np.float32)).tolist() == [False, True]


def test_guard_of_a_log_knows_its_ranges_and_only_its_own_rows() -> None:
    log = tiny_log()
    guard = Guard.fit(log, margin=0.0)
    assert guard.low.tolist() == [0, 1]
    assert guard.high.tolist() == [5, 32]
    assert guard.admits(log.observation).all()
    part = Guard.fit(log.select_episodes([1]), margin=0.0)
    assert part.low.tolist() == [3, 8]
    assert part.high.tolist() == [4, 16]
    assert part.admits(log.observation).tolist() == [False, False, False, True, True, False]


def bundle() -> Bundle:
    log = tiny_log()
    inner = CategoricalPolicy(MLP.create(2, Network((4,)), 3, key=jax.random.key(0)))
    policy = StandardizedPolicy(jnp.asarray([1.0, 2.0], jnp.float32), jnp.asarray([3.0, 4.0], jnp.float32), inner)
    provenance = {"algorithm": "BC", "seed": 3, "verdict": {"answer": "GO", "value": 0.1}}
    return Bundle(policy, log.schema, Guard.fit(log), provenance)


def test_bundles_round_trip(tmp_path: Path) -> None:
    ours = bundle()
    save_bundle(tmp_path / "policy", ours)
    theirs = st.load_policy(tmp_path / "policy")
    obs, mask = tiny_log().observation, np.array([[1, 0, 1]] * 6, bool)
    for action_mask in (None, mask):
        probs = theirs.probs(obs, action_mask=action_mask)
        assert isinstance(probs, np.ndarray)
        np.testing.assert_array_equal(probs, ours.probs(obs, action_mask=action_mask))
        np.testing.assert_array_equal(theirs.mode(obs, action_mask=action_mask), probs.argmax(1))
        drawn = theirs.sample(obs, key=jax.random.key(1), action_mask=action_mask)
        np.testing.assert_array_equal(drawn, ours.sample(obs, key=jax.random.key(1), action_mask=action_mask))
    assert (theirs.probs(obs, action_mask=mask)[:, 1] == 0).all()
    assert theirs.schema == ours.schema
    assert theirs.provenance == ours.provenance
    np.testing.assert_array_equal(theirs.guard.low, ours.guard.low)
    np.testing.assert_array_equal(theirs.guard.high, ours.guard.high)
    assert theirs.guard.margin == ours.guard.margin
    assert names(tmp_path / "policy") == ["policy.json", "policy.safetensors"]


CARDS = {
    "no JSON": lambda card: None,
    "other format": lambda card: card | {"format": 2},
    "no guard": lambda card: {key: value for key, value in card.items() if key != "guard"},
    "bad schema": lambda card: card | {"schema": {"columns": {"episode": "e"}}},
    "guard of text": lambda card: card | {"guard": {"low": ["a"], "high": [1], "margin": 0.1}},
    "a list": lambda card: [card],
}


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS.keys())
def test_damaged_bundles_are_refused(tmp_path: Path, change: Any) -> None:
    save_bundle(tmp_path, bundle())
    card = change(json.loads((tmp_path / "policy.json").read_text()))
    (tmp_path / "policy.json").write_text("{" if card is None else json.dumps(card))
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded, for its policy.json is damaged|must have format 1; got 2"
    ) as caught:
        st.load_policy(tmp_path)
    assert "Error(" not in str(caught.value)


def test_a_folder_without_a_bundle_is_named_for_what_it_looks_like(tmp_path: Path) -> None:
    save_bundle(tmp_path / "run" / "policy", bundle())
    for name in ("unfinished/run.json", "fitted/config.json", "other/notes.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    fitted = str(tmp_path / "fitted")
    for name, way_out in (
        ("nowhere", "There is no such folder."),
        ("other/notes.txt", "It is a file; give the folder in which a policy was saved, or a file that ends in .onnx."),
        ("run", f"a run directory of `stitchrl run`, whose policy is in {str(tmp_path / 'run' / 'policy')!r}."),
        ("unfinished", "has not come to its end; the same command goes on with it."),
        ("fitted", f"It looks like a folder of `st.fit`, whose policy `st.load({fitted!r}).policy` gives."),
        ("other", "A folder with a policy is the `policy` folder that `stitchrl run` makes in its run directory."),
    ):
        with pytest.raises(CheckpointError) as caught:
            st.load_policy(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(
            f"There is no policy to load in {str(tmp_path / name)!r}, for it has no policy.json. "
        )
        assert message.endswith(way_out)
        assert "Error(" not in message


def test_a_bundle_that_replaces_another_keeps_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = dataclasses.replace(
        bundle(),
        learned_from=EpisodeMemory.from_arrays({"contents": np.arange(3, dtype=np.uint64)}),
        behavior=bundle().policy,
    )
    save_bundle(tmp_path, old)
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(kept) == ["behavior.safetensors", "episodes.safetensors", "policy.json", "policy.safetensors"]

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:  # before the last file is written: the old bundle is whole
        broken.setattr("stitchrl.deployment.bundle.write_json", fail)
        with pytest.raises(OSError, match="No space"):
            save_bundle(tmp_path, bundle())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
    with (
        monkeypatch.context() as broken
    ):  # while the files are put in place: neither bundle is whole, and none is loaded
        broken.setattr(
            os, "replace", lambda one, other: fail() if Path(other).parent == tmp_path else os.rename(one, other)
        )
        with pytest.raises(OSError, match="No space"):
            save_bundle(tmp_path, bundle())
    with pytest.raises(CheckpointError, match=r"it has no policy\.json"):
        st.load_policy(tmp_path)
    save_bundle(tmp_path, bundle())
    assert names(tmp_path) == ["policy.json", "policy.safetensors"]
    found = st.load_policy(tmp_path)
    assert isinstance(found, Bundle)
    assert found.learned_from is None
    assert found.behavior is None


def of_guard(**entries: Any) -> Any:
    return lambda card, _: card["guard"].update(entries)


def of_weights(change: Any) -> Any:
    def changed(_: Any, tensors: dict[str, np.ndarray]) -> None:
        name = next(name for name in tensors if name.endswith("weights.1"))
        tensors[name] = np.ascontiguousarray(change(tensors[name]))

    return changed


def three_actions_of_four(card: Any, _: Any) -> None:
    card["schema"]["action"] = {"kind": "discrete", "count": 4}


UNSOUND: dict[str, tuple[Any, str]] = {
    "NaN": (of_weights(lambda one: one * np.float32(np.nan)), r"weights\.1' holds numbers that are not finite"),
    "infinity": (of_weights(lambda one: one + np.float32(np.inf)), r"weights\.1' holds numbers that are not finite"),
    "weights cut short": (of_weights(lambda one: one[:2]), r"tensors of its policy do not fit each other"),
    "other actions": (three_actions_of_four, r"its schema has 4 actions, and its policy gives 3"),
    "an infinite margin": (of_guard(margin=float("inf")), r"`margin` of its guard must be .*; got inf"),
    "a negative margin": (of_guard(margin=-5), r"`margin` of its guard must be .*; got -5"),
    "a margin in words": (of_guard(margin="x"), r"`margin` of its guard must be .*; got 'x'"),
    "an unknown word": (
        of_guard(on_outside="jump"),
        r"`on_outside` .* refuse, clip, behavior, answer or an action; got 'jump'",
    ),
    "no such action": (of_guard(on_outside=99), r"`on_outside` .*: A guard can be told .*; got 99"),
    "true": (of_guard(on_outside=True), r"`on_outside` .*; got True"),
    "no model of the behaviour": (of_guard(on_outside="behavior"), r"of which the bundle holds no model"),
    "a short guard": (of_guard(low=[0.0]), r"`low` and `high` .*; got shapes \(1,\) and \(2,\)"),
    "a guard of one number": (
        of_guard(low=[0.0], high=[1.0], quantiles=[[0.0]] * 4),
        r"takes observations of shape \(2,\).* those of \(1,\)",
    ),
    "an empty guard": (of_guard(low=[], high=[]), r"got shapes \(0,\) and \(0,\)"),
    "bounds the other way round": (of_guard(low=[9.0, 99.0]), r"nowhere above `high`"),
    "a guard of NaN": (of_guard(low=[float("nan"), 0.0]), r"`low` of its guard must be finite"),
    "other quantiles": (of_guard(quantiles=[[1.0]]), r"`quantiles` of its guard.*; got shape \(1, 1\)"),
    "provenance in a list": (
        lambda card, _: card.update(provenance=[]),
        r"its provenance must be named entries; got \[\]",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_parts_that_do_not_fit_are_refused_when_loaded(name: str, tmp_path: Path) -> None:
    change, said = UNSOUND[name]
    save_bundle(tmp_path, bundle())
    card = json.loads((tmp_path / "policy.json").read_text())
    with safe_open(tmp_path / "policy.safetensors", framework="np") as file:
        tensors = {one: file.get_tensor(one) for one in file.keys()}  # noqa: SIM118 - not a dict
        header = file.metadata()
    change(card, tensors)
    (tmp_path / "policy.json").write_text(json.dumps(card))
    save_file(tensors, tmp_path / "policy.safetensors", metadata=header)
    for backend in ("numpy", "jax"):
        with pytest.raises(CheckpointError, match=said) as caught:
            st.load_policy(tmp_path, backend=backend)
        assert "\n" not in str(caught.value)
        assert "Error(" not in str(caught.value)


def test_what_a_guard_takes_is_in_range_and_nesting_has_an_end(tmp_path: Path) -> None:
    save_bundle(tmp_path, continuous().guarded((0.5, 1.0)))
    card = json.loads((tmp_path / "policy.json").read_text())
    card["guard"]["on_outside"] = [0.5, 77.0]
    (tmp_path / "policy.json").write_text(json.dumps(card))
    for backend in ("numpy", "jax"):
        with pytest.raises(CheckpointError, match=r"number 2 of the action must be in \[0, 2\].*; got 77"):
            st.load_policy(tmp_path, backend=backend)
    (tmp_path / "policy.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"its policy\.json is damaged: "):
        st.load_policy(tmp_path)


@pytest.mark.parametrize("missing", ["policy.json", "policy.safetensors"])
def test_half_a_bundle_is_refused(tmp_path: Path, missing: str) -> None:
    save_bundle(tmp_path, bundle())
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=r"There is no policy to load|cannot be read"):
        st.load_policy(tmp_path)


def test_a_bundle_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle().provenance = {}  # type: ignore[misc]
