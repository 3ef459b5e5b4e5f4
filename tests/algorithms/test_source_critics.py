"""Critics of each source: weights by hand, a log in which two sources speak differently of one action, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, CASES, CRITICS, KEY, LEARNERS, fitted, updated
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.source_critics import MOST_SOURCES, SourceCriticSettings
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError

PAYS = {"day": (1.0, 0.5), "night": (0.2, 0.5)}
"""Source -> what the two actions pay in its rows. Three rows in four are of the day."""


def log(**changes: Any) -> st.Dataset:
    """160 one-step episodes of one state; either source takes both actions equally often."""
    source = np.tile(["day", "day", "day", "night"], 40)
    action = np.repeat([0, 1], 80)
    columns = {
        "episode": np.arange(160),
        "observation": np.ones((160, 1), np.float32),
        "action": action,
        "reward": np.array([PAYS[s][a] for s, a in zip(source, action, strict=True)]),
        "terminated": np.ones(160, bool),
        "source": source,
    } | changes
    columns = {name: column for name, column in columns.items() if column is not None}
    return st.read(columns, schema_of(columns, 2 if action.ndim == 1 else None))


def trained(name: str, out: Path | None = None, **settings: Any) -> Any:
    algorithm = type(ALL[name])(
        gamma=0.9, learning_rate=0.05, hidden_sizes=(), num_critics=2, target_rate=0.1, **settings
    )
    return fitted(algorithm, log(), updates=400, log_every_updates=400, standardize=False, out=out)


def test_the_weight_of_a_row_in_each_critic_by_hand() -> None:
    algorithm = st.IQL(critic_per_source=True)
    given = {"source_share": jnp.asarray([0.75, 0.25], jnp.float32)}
    batch = {
        "td_weight": jnp.asarray([1.0, 1.0, 0.0], jnp.float32),
        "source_number": jnp.asarray([0, 1, 1], jnp.int32),
    }
    weight = algorithm.critic_weight(batch, given, 2)
    np.testing.assert_allclose(weight, [[4 / 3, 0, 0], [4 / 3, 0, 0], [0, 4, 0], [0, 4, 0]], rtol=1e-6)
    assert algorithm.count_critics(given, 2) == 4
    q = jnp.asarray([[1.0, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]], jnp.float32)
    # errors 1 and 2 of the first row, 3 and 4 of the second, against targets of 0 and 1
    loss = td_loss(q, jnp.asarray([0.0, 1.0, 9.0], jnp.float32), weight)
    assert float(loss) == pytest.approx((4 / 3 * (1 + 4) + 4 * (9 + 16)) / 3)


def test_the_share_of_a_source_is_that_of_its_rows_with_a_target() -> None:
    # Of 120 rows of the day and 40 of the night, the last 20 of the day and 20 of the night are cut: nothing follows them.
    source = np.repeat(["day", "night"], [120, 40])
    ended = np.ones(160, bool)
    ended[100:140] = False
    rows = log(source=source, terminated=ended, truncated=~ended)
    prepared = st.IQL(critic_per_source=True).prepare(rows, Scaling.of(rows), key=jax.random.key(0))
    np.testing.assert_allclose(prepared.given["source_share"], [100 / 160, 20 / 160])
    batch = {
        "td_weight": jnp.asarray(rows.can_bootstrap, jnp.float32),
        "source_number": jnp.asarray(prepared.columns["source_number"]),
    }
    weight = st.IQL(critic_per_source=True).critic_weight(batch, prepared.given, 1)
    np.testing.assert_allclose(jnp.mean(weight, axis=1), [1.0, 1.0], rtol=1e-6)
    ended[120:] = False
    with pytest.raises(DataError, match=r"every source that terminated .*; the source .night. has none"):
        fitted(st.IQL(critic_per_source=True), log(source=source, terminated=ended, truncated=~ended))


@pytest.mark.parametrize("sampling", [st.EpisodeSampling(), st.StratifiedSampling(), st.WeightedSampling()])
def test_rows_drawn_by_another_rule_are_refused(sampling: Any) -> None:
    message = rf"`critic_per_source` of IQL weights rows .* `sampling` of fit, {type(sampling).__name__}\(.*Leave one of them out"
    with pytest.raises(ConfigurationError, match=message):
        fitted(st.IQL(critic_per_source=True), log(), sampling=sampling)


@pytest.mark.parametrize("name", ["IQL", pytest.param("AWAC", marks=pytest.mark.slow)])
def test_each_critic_learns_what_its_source_saw(name: str, tmp_path: Path) -> None:
    plain, apart = trained(name), trained(name, tmp_path / "run", critic_per_source=True)
    obs, both = np.ones((2, 1), np.float32), jnp.asarray([0, 1])
    q = np.asarray(apart.states[0].critics.model(jnp.asarray(obs), both))
    np.testing.assert_allclose(q, [PAYS["day"]] * 2 + [PAYS["night"]] * 2, atol=0.05)
    # by the mean of all rows action 0 pays 0.8; by the source that speaks worst of it 0.2
    np.testing.assert_allclose(np.asarray(plain.values[0].q_all(obs))[0], [0.8, 0.5], atol=0.1)
    assert [int(run.policy.greedy().mode(obs)[0]) for run in (plain, apart)] == [0, 1]
    again = st.load(tmp_path / "run")
    np.testing.assert_array_equal(again.policy.probs(obs), apart.policy.probs(obs))


HAVE = [name for name in LEARNERS if isinstance(CASES[name].algorithm, SourceCriticSettings)]
USUAL = ("CQL discrete", "TD3BC continuous")


def test_who_has_the_setting() -> None:
    # Without it: those that join critics by a rule of their own, the naive ones, and those that learn from made-up rows.
    others = {"BCQ", "BEAR", "FQL", "QChunking", "EDAC", "MOPO", "COMBO", "SAC", "TD3", "DDPG", "DQN"}
    assert {name.split()[0] for name in HAVE} == {name.split()[0] for name in CRITICS} - others


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in USUAL else [pytest.mark.slow]) for n in HAVE])
def test_critics_of_a_source_learn_what_they_would_from_its_rows_alone(name: str) -> None:
    """At gamma 0, where no target is of other critics: by the gradient, which Adam's first moment holds."""
    case = CASES[name].with_settings(gamma=0.0, num_critics=2)
    batch = case.batch(td_weight=1.0)
    number = jnp.asarray([0, 1, 0, 0, 0, 1, 0, 0], jnp.int32)
    given = {"source_share": jnp.asarray([0.75, 0.25], jnp.float32)}
    together = dataclasses.replace(case.algorithm, critic_per_source=True)
    state = together.init(KEY, case.spec, given)
    after, _ = updated(together, state, batch | {"source_number": number}, given, KEY, 1)

    def part(tree: Any, source: int) -> Any:
        own = slice(2 * source, 2 * source + 2)
        return jax.tree.map(lambda leaf: leaf[own] if jnp.ndim(leaf) and len(leaf) == 4 else leaf, tree)

    for source in (0, 1):
        alone = state._replace(critics=part(state.critics, source), target_critics=part(state.target_critics, source))
        rows = {field: column[number == source] for field, column in batch.items()}
        if (
            name == "CQL continuous"
        ):  # draws its actions row by row: all rows are there, those of the other source count nothing
            rows = batch | {"td_weight": jnp.where(number == source, 1 / given["source_share"][source], 0.0)}
        learned, _ = updated(case.algorithm, alone, rows, None, KEY, 1)
        moved = part(after.critics.optimizer_state[0].mu, source)
        if name == "IDQL continuous":  # its loss is the mean over critics, of which there are twice as many
            moved = jax.tree.map(lambda leaf: 2 * leaf, moved)
        assert_trees_equal(moved, learned.critics.optimizer_state[0].mu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("penalty", ["H", "behavior"])
def test_cql_on_a_log_of_two_sources_with_a_fitted_behaviour(penalty: str) -> None:
    algorithm = st.CQL(
        gamma=0.0, cql_weight=0.0, penalty=penalty, behavior_updates=5, learning_rate=0.05, hidden_sizes=(),
        critic_per_source=True,
    )  # fmt: skip
    run = fitted(algorithm, log(), updates=400, log_every_updates=400, standardize=False)
    q = np.asarray(run.states[0].critics.model(jnp.ones((1, 1))))[:, 0]
    np.testing.assert_allclose(q, [PAYS["day"]] * 2 + [PAYS["night"]] * 2, atol=0.05)


@pytest.mark.slow
def test_by_the_mean_of_the_sources() -> None:
    # (1 + 0.2) / 2 is more than 0.5
    policy = trained("IQL", critic_per_source=True, deviations=0.0).policy
    assert int(policy.greedy().mode(np.ones((1, 1), np.float32))[0]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL", "AWAC"])
def test_continuous_actions(name: str) -> None:
    action = np.random.default_rng(0).uniform(-1, 1, (160, 2)).astype(np.float32)
    columns = log(action=np.zeros(160, int))
    table = {field: getattr(columns, field) for field in ("observation", "reward", "terminated", "source")}
    table |= {"episode": np.arange(160), "action": action}
    settings = {"critic_per_source": True, "hidden_sizes": (8,)}
    run = fitted(type(ALL[name])(**settings), st.read(table, schema_of(table, None)))  # type: ignore[arg-type]
    assert run.states[0].critics.model(jnp.ones((1, 1)), jnp.zeros((1, 2))).shape == (4, 1)


def test_a_log_without_sources_is_refused() -> None:
    with pytest.raises(DataError, match=r"`critic_per_source` of IQL needs the column `source`, .* the log has none"):
        fitted(st.IQL(critic_per_source=True), log(source=None))


def test_a_single_source_is_refused() -> None:
    alone = np.repeat("day", 160)
    with pytest.raises(
        ConfigurationError, match=r"all 160 rows have one value, 'day': the critics would be .* Leave it off"
    ):
        fitted(st.AWAC(critic_per_source=True), log(source=alone))
    assert st.AWAC().prepare(log(source=alone), Scaling.of(log()), key=jax.random.key(0)).given is None


def test_too_many_sources_are_refused() -> None:
    many = np.array([f"person {number}" for number in range(160)])
    with pytest.raises(DataError, match=f"at most {MOST_SOURCES} sources; the column `source` has 160 values"):
        fitted(st.IQL(critic_per_source=True), log(source=many))
