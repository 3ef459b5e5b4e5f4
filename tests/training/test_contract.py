"""What an algorithm may do beside updates: columns and models made by `prepare`, refreshes, closed forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import SETTINGS, StopHereError, stop_after
from worlds import assert_trees_equal, full_columns, random_log, tiny_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.settings import setting
from stitchrl.data.scaling import Scaling
from stitchrl.errors import CheckpointError, ConfigurationError, DataError, StitchRLWarning
from stitchrl.feeds.batches import FIELDS, fields_of
from stitchrl.feeds.feed import shuffled_source, transition_source
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.training.fit import load

FED: dict[str, dict[str, Any]] = {"in memory": {}, "shuffled": {"sampling": "shuffled"}, "streamed": {"stream": True}}


class Sums(NamedTuple):
    """Whole numbers that betray every difference in what an algorithm was handed.

    Attributes:
        wrong: rows whose prepared columns were not those of the row.
        rows: a hash of the rows seen, in their order.
        refreshed: a hash of the updates before which `refresh` was called.
        noise: a hash of what `refresh` and `update` drew from their keys.
        net: the policy, so that there is something to act with.
    """

    wrong: jax.Array
    rows: jax.Array
    refreshed: jax.Array
    noise: jax.Array
    net: MLP


@dataclasses.dataclass(frozen=True)
class Witness(Algorithm):
    """Learns nothing; sums up what it is handed: columns, given arrays, refreshes."""

    refresh_after: int = setting(0, "at least 0", "Updates from one refresh to the next.")

    @property
    def refresh_every_updates(self) -> int:
        return self.refresh_after

    def prepare(self, log: st.Dataset, scaling: Scaling, *, key: Any) -> Prepared:
        rows = np.arange(log.num_transitions)
        columns = {
            "seven_times_row": (7 * rows).astype(np.int32),
            "pair": np.stack([rows, -rows], axis=1).astype(np.float32),
        }
        model = MLP.create(log.observation_size, Network((4,)), 3, key=key)
        return Prepared(log, columns, {"sum": np.float32(log.reward.sum()), "models": (model, None)})

    def init(self, key: Any, spec: Spec, given: Any) -> Sums:
        zero = jnp.uint32(0)
        return Sums(jnp.int32(0), zero, zero, jax.random.bits(key, (), jnp.uint32), given["models"][0])

    def update(self, state: Sums, batch: Any, given: Any, key: Any, step: Step) -> tuple[Sums, dict[str, jax.Array]]:
        row = batch["row"]
        wrong = jnp.sum(batch["seven_times_row"] != 7 * row) + jnp.sum(batch["pair"][:, 1] != -row.astype(jnp.float32))
        seen = state._replace(
            wrong=state.wrong + wrong,
            rows=state.rows * jnp.uint32(31) + jnp.sum(row.astype(jnp.uint32)),
            noise=state.noise * jnp.uint32(31) + jax.random.bits(key, (), jnp.uint32),
        )
        return seen, {"loss": given["sum"], "step/updates": step.updates.astype(jnp.float32)}

    def refresh(self, state: Sums, arrays: Any, given: Any, key: Any) -> Sums:
        rows = arrays["prepared/seven_times_row"]
        whole = jnp.sum(rows == 7 * jnp.arange(rows.shape[0]))  # all of the log, in its order
        return state._replace(
            refreshed=state.refreshed * jnp.uint32(31) + whole.astype(jnp.uint32) + state.rows,
            noise=state.noise * jnp.uint32(31) + jax.random.bits(key, (), jnp.uint32),
        )

    def policy(self, state: Sums, given: Any) -> CategoricalPolicy:
        return CategoricalPolicy(state.net)


# --- columns and given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fed", FED)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_prepared_columns_come_with_their_rows(fed: str, n_steps: int) -> None:
    run = st.fit(Witness(), random_log(12), n_steps=n_steps, **SETTINGS | FED[fed])
    assert int(run.states[0].wrong) == 0
    assert int(run.states[0].rows) != 0
    np.testing.assert_allclose([row["loss"] for row in run.history], random_log(12).reward.sum(), rtol=1e-5)
    assert {row["step/updates"] for row in run.history} == {45.0}


def test_a_column_of_a_name_that_every_batch_has_is_refused() -> None:
    log = random_log(12)
    for name in ("reward", "obs", "next_obs", "row"):
        for make in (transition_source, shuffled_source):
            with pytest.raises(DataError, match=f"A prepared column must have a name of its own; '{name}' is a field"):
                make(log, Scaling.identity(3), columns={name: log.reward})


def test_batch_fields_are_named_once() -> None:
    log = tiny_log(**full_columns())
    source = transition_source(log, Scaling.identity(2))
    batch = source.sample(source.arrays, jnp.arange(6), jnp.int32(0))
    timeless = set(FIELDS) - {"elapsed"}  # which a log has that is discounted by time
    assert set(batch) == {*timeless, "obs", "next_obs", "row"}
    assert set(fields_of(log)) == timeless


def loaded(folder: Path) -> Any:
    return load(folder, {"Witness": Witness, "Counted": Counted})


def test_given_is_saved_and_read_back(tmp_path: Path) -> None:
    log = random_log(12)
    run = st.fit(Witness(), log, seeds=[3, 1], out=tmp_path, **SETTINGS)
    read = loaded(tmp_path)
    assert_trees_equal(read.given, run.given)
    assert isinstance(read.given["models"], tuple)
    assert isinstance(read.given["models"][0], MLP)
    assert_trees_equal(read.members, run.members)
    np.testing.assert_array_equal(read.policy.probs(log.observation), run.policy.probs(log.observation))
    (tmp_path / "given.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"given\.safetensors cannot be read: .* Delete the run to start over"):
        loaded(tmp_path)


# --- refreshes ---------------------------------------------------------------------------------------------------------


def refreshes(history: list[dict[str, Any]], updates: int, every: int, log_every: int) -> list[int]:
    """Where a hand-made loop refreshes: before update 0, and before every multiple."""
    return [u for u in range(updates) if u % every == 0]


@pytest.mark.parametrize("every", [1, 7, 10, 100])
def test_a_refresh_comes_before_every_multiple(every: int) -> None:
    log = random_log(12)
    run = st.fit(Witness(refresh_after=every), log, **SETTINGS | {"updates": 23, "log_every_updates": 5})
    plain = st.fit(Witness(), log, **SETTINGS | {"updates": 23, "log_every_updates": 5})
    assert int(run.states[0].rows) == int(plain.states[0].rows)  # the updates themselves draw as without
    prefixes = {
        u: 0 if u == 0 else int(st.fit(Witness(), log, **SETTINGS | {"updates": u}).states[0].rows)
        for u in range(0, 23, every)
    }
    expected = 0
    for u in range(0, 23, every):  # the state's own sum of rows tells before which update it was called
        expected = (expected * 31 + log.num_transitions + prefixes[u]) % 2**32
    assert int(run.states[0].refreshed) == expected


@pytest.mark.parametrize("sampling", ["uniform", "shuffled"])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_run_resumes_bit_for_bit_across_refreshes(chunks: int, sampling: str, tmp_path: Path) -> None:
    log, witness = random_log(12), Witness(refresh_after=20)
    settings = SETTINGS | {"save_every_updates": 10, "seeds": [3, 1], "sampling": sampling}
    whole = st.fit(witness, log, **settings)
    assert len({int(state.noise) for state in whole.states}) == 2
    with pytest.raises(StopHereError):
        st.fit(witness, log, out=tmp_path, callbacks=[stop_after(chunks)], **settings)
    resumed = st.fit(witness, log, out=tmp_path, **settings)  # at 10, 20 (a multiple, refreshed after it) and 40
    assert_trees_equal(resumed.members, whole.members)
    assert resumed.history == whole.history


def test_a_finished_run_is_trained_further_across_a_refresh(tmp_path: Path) -> None:
    log, witness = random_log(12), Witness(refresh_after=20)
    whole = st.fit(witness, log, **SETTINGS)
    st.fit(witness, log, out=tmp_path, **SETTINGS | {"updates": 20})
    assert_trees_equal(st.fit(witness, log, out=tmp_path, **SETTINGS).members, whole.members)


def test_a_streamed_log_cannot_be_looked_at_whole() -> None:
    with pytest.raises(ConfigurationError, match="Witness reads the whole log every 20 updates, which a streamed log"):
        st.fit(Witness(refresh_after=20), random_log(12), **SETTINGS | {"stream": True})


# --- closed forms ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Counted(Algorithm):
    """Solves everything in `prepare`: a network whose bias is the share of each action."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    closed_form: ClassVar[bool] = True
    least: float = setting(1.0, "(0, inf)", "Added to every count.", static=True)

    def prepare(self, log: st.Dataset, scaling: Scaling, *, key: Any) -> Prepared:
        counts = np.bincount(log.action, minlength=log.num_actions) + self.least
        net = MLP.create(log.observation_size, Network(()), log.num_actions, key=key)
        flat = jax.tree.map(jnp.zeros_like, net)
        bias = jnp.asarray(np.log(counts / counts.sum()), jnp.float32)
        return Prepared(log, given=dataclasses.replace(flat, biases=(bias,)))

    def init(self, key: Any, spec: Spec, given: Any) -> tuple[()]:
        return ()

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Step) -> Any:
        raise AssertionError("no update is to be made")

    def policy(self, state: Any, given: Any) -> CategoricalPolicy:
        return CategoricalPolicy(given)


@pytest.mark.parametrize("updates", [0, 45])
@pytest.mark.parametrize("fed", FED)
def test_a_closed_form_makes_no_update_however_many_are_asked_for(fed: str, updates: int, tmp_path: Path) -> None:
    log = random_log(12, with_masks=False)
    settings = SETTINGS | FED[fed] | {"updates": updates, "seeds": [3, 1]}
    with pytest.warns(StitchRLWarning, match=r"so its 2 seeds have the same policy: .* One seed is enough\."):
        run, again = (st.fit(Counted(least=2.0), log, out=tmp_path, **settings) for _ in range(2))
    assert (run.updates, run.history, run.stopped, run.red_flags) == (0, [], "", ())
    counts = np.bincount(log.action, minlength=3) + 2.0
    for each in (run, again, loaded(tmp_path)):
        assert each.seeds == (3, 1)
        assert len(each.policies) == 2
        np.testing.assert_allclose(each.policy.probs(log.observation[:1]), [counts / counts.sum()], rtol=1e-6)
    names = {
        "checkpoint.safetensors",
        "config.json",
        "episodes.safetensors",
        "given.safetensors",
        "metrics.arrows",
        "metrics.parquet",
    }
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    ("settings", "arguments", "sentence"),
    [
        ({}, {"n_steps": 3}, "`n_steps` of fit, 3, does nothing for Counted"),
        ({}, {"sampling": st.TopFractionSampling(0.5)}, "give `fit` a log of only the rows to learn from"),
        ({}, {"stop": st.EarlyStop("loss/actor", patience_updates=5)}, "`stop` of fit, EarlyStop"),
        ({}, {"environment": "CartPole-v1"}, "play the policy with `st.rollout` afterwards"),
        ({"average_rate": 0.1}, {}, "`average_rate` of Counted, 0.1, does nothing for Counted, which makes no updates"),
        ({"precision": "bfloat16"}, {}, "`precision` of Counted, 'bfloat16', does nothing"),
    ],
)
def test_what_does_nothing_for_a_closed_form_is_refused(settings: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        st.fit(Counted(**settings), random_log(12), updates=0, **arguments)
    assert sentence in str(caught.value)


def test_too_many_joint_actions_are_refused() -> None:
    action = np.array([[0, 199], [7, 3]])
    columns = {"episode": np.arange(2), "observation": np.ones((2, 1)), "action": action, "reward": np.ones(2)}
    columns |= {"terminated": np.ones(2, bool)}
    log = st.read(columns, st.Schema({name: name for name in columns}, action_counts=(200, 200)))
    with pytest.raises(ConfigurationError, match=r"2 components, 200 x 200: 40,000 joint actions.* at most 10,000"):
        st.fit(st.IQL(), log, updates=1)


def tabular_log() -> st.Dataset:
    rng = np.random.default_rng(0)
    state = rng.integers(0, 4, 200)
    columns = {
        "episode": np.arange(200) // 4, "observation": np.eye(4, dtype=np.float32)[state],
        "observation_id": state.astype(np.int32), "action": rng.integers(0, 2, 200).astype(np.int32),
        "reward": rng.normal(size=200).astype(np.float32), "terminated": np.arange(200) % 4 == 3,
    }  # fmt: skip
    return st.read(columns)


@pytest.mark.parametrize("algorithm", [st.SPIBB(), st.VILCB()], ids=lambda a: a.name)
def test_the_closed_forms_of_the_face_are_saved_returned_and_read(algorithm: Algorithm, tmp_path: Path) -> None:
    log = tabular_log()
    run = st.fit(algorithm, log, updates=0, out=tmp_path)
    read, again = st.load(tmp_path), st.fit(algorithm, log, updates=100, out=tmp_path)
    for other in (read, again):
        assert other.updates == 0
        np.testing.assert_array_equal(other.policy.probs(log.observation), run.policy.probs(log.observation))
        np.testing.assert_array_equal(other.values[0].v(log.observation), run.values[0].v(log.observation))


# --- the algorithm's own rule of drawing -------------------------------------------------------------------------------


def test_observations_are_scaled_by_the_rows_that_an_algorithm_learns_from() -> None:
    log = random_log(40)
    best = np.sort(np.argsort(-log.episode_returns(1.0), kind="stable")[:4])
    run = st.fit(st.FilteredBC(top_fraction=0.1, hidden_sizes=(4,)), log, updates=0)
    expected = Scaling.of(log.select_episodes(best))
    np.testing.assert_allclose(run.scaling.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.scaling.std, expected.std, rtol=1e-5)
    assert np.abs(run.scaling.mean - Scaling.of(log).mean).max() > 1e-2


def test_two_rules_of_drawing_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"FilteredBC draws rows by its own rule, .*`sampling` of fit gives another"
    ):
        st.fit(st.FilteredBC(), random_log(12), updates=0, sampling=st.EpisodeSampling())
