"""Ends and cuts: tests whether an algorithm bootstraps where it may and nowhere else, by its updates or its closed form."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.checking.subject import Subject, acts, claims, differ, small_log
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.jax_types import Batch
from stitchrl.reading.read import read
from stitchrl.types import PyTree

__all__ = ["check_bootstrap", "check_closed_form", "check_padding", "check_rows_without_target"]

ENDED, CUT = "a row that terminated must not bootstrap", "a truncated row must bootstrap"
TOLERANCE = 1e-5
"""Two solutions that differ by no more than this, which allows for rounding, count as the same."""


def check_bootstrap(subject: Subject) -> None:
    """A row that terminated has no future: neither the discount nor what was seen after it changes an update."""
    ended = subject.with_columns(terminated=1.0, truncated=0.0, td_weight=1.0)
    # Over several steps gamma discounts rewards as well.
    if "gamma" not in subject.algorithm.input_settings() or subject.algorithm.target_steps > 1:
        if differ(subject.after(ended), subject.after(ended | {"next_obs": 3.0 * ended["next_obs"] + 1.0})):
            subject.fail(f"{ENDED}; the next observation changes the update of rows that all terminated.")
        return

    def gamma_matters(batch: Batch) -> bool:
        return differ(*(subject.after(batch, gamma=jnp.float32(gamma)) for gamma in (0.9, 0.3)))

    if gamma_matters(ended):
        subject.fail(f"{ENDED}; `gamma` changes the update of rows that all terminated.")
    inside = subject.with_columns(terminated=0.0, truncated=0.0, td_weight=1.0)
    cut = subject.with_columns(terminated=0.0, truncated=1.0, td_weight=1.0)
    if gamma_matters(inside) and not gamma_matters(cut):
        subject.fail(f"{CUT}; `gamma` does not change the update of rows that all are truncated.")


def check_padding(subject: Subject) -> None:
    """The padding of a piece of an episode, beyond the end of the episode, does not change an update."""
    batch = subject.batch
    missing = batch["valid"] == 0
    other = dict(batch)
    for name in ("obs", "action", "reward", *subject.prepared.columns):
        column = batch[name]
        outside = missing.reshape(*missing.shape, *[1] * (column.ndim - missing.ndim))
        other[name] = jnp.where(outside, (column + 1) % 2 if column.dtype == jnp.int32 else 3.0 * column + 1.0, column)
    if differ(subject.after(batch), subject.after(other)):
        subject.fail(
            "rows beyond the end of an episode (`valid` 0) must not count; what stands there changes the update."
        )


def check_rows_without_target(subject: Subject) -> None:
    """The reward and the next observation of a row of td_weight 0 do not change the critics."""
    if subject.algorithm.closed_form or subject.algorithm.value(subject.state, subject.given) is None:
        return
    batch = subject.with_columns(terminated=0.0, truncated=0.0, td_weight=1.0)
    batch |= {"td_weight": batch["td_weight"].at[0].set(0.0)}
    other = {
        "reward": batch["reward"].at[0].set(100.0),
        "next_obs": batch["next_obs"].at[0].set(3.0),
    }

    def claimed(batch: Batch) -> Any:
        value: Any = subject.algorithm.value(subject.after(batch), subject.given)
        return claims(value, subject.batch["obs"], subject.batch["action"])

    if differ(claimed(batch), claimed(batch | other)):
        subject.fail(
            "a row of `td_weight` 0 must not move the critics; its reward or next observation changes their values."
        )


def check_closed_form(subject: Subject) -> None:
    """The same for an algorithm in closed form, by its solutions of logs whose rows all terminated, or all were cut."""
    algorithm, kind = subject.algorithm, subject.kind
    ended, cut = (_single_steps(kind, terminated=terminated) for terminated in (True, False))
    if differ(_solution(algorithm, ended), _solution(algorithm, _seen_after(ended)), tolerance=TOLERANCE):
        subject.fail(f"{ENDED}; what was seen after rows that all terminated changes what `prepare` makes of them.")
    if "gamma" not in {field.name for field in dataclasses.fields(algorithm)}:
        return

    def gamma_matters(log: Dataset) -> bool:
        settings: list[dict[str, Any]] = [{"gamma": gamma} for gamma in (0.9, 0.3)]
        solved = [_solution(dataclasses.replace(algorithm, **changed), log) for changed in settings]
        return differ(*solved, tolerance=TOLERANCE)

    if gamma_matters(ended):
        subject.fail(f"{ENDED}; `gamma` changes what `prepare` makes of rows that all terminated.")
    if gamma_matters(subject.log) and not gamma_matters(cut):
        subject.fail(f"{CUT}; `gamma` does not change what `prepare` makes of rows that all are truncated.")


def _single_steps(kind: str, *, terminated: bool) -> Dataset:
    """Every action in each of the 8 states of `small_log` once, each in an episode of one step that ends, or is cut.

    What was seen after it is another of these states.
    """
    rng = np.random.default_rng(1)
    count, seen = 24, np.unique(small_log(kind).observation, axis=0)
    state, after = np.repeat(np.arange(8), 3), np.repeat(np.roll(np.arange(8), 1), 3)
    columns: dict[str, np.ndarray] = {
        "episode": np.arange(count),
        "observation": seen[state],
        "next_observation": seen[after],
        "observation_id": state.astype(np.int32),
        "action": np.tile(np.arange(3, dtype=np.int32), 8),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": np.full(count, terminated),
        "truncated": np.full(count, not terminated),
    }
    if kind == "continuous":
        columns["action"] = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return read(columns, Schema({name: name for name in columns}, num_actions=None if kind == "continuous" else 3))


def _seen_after(log: Dataset) -> Dataset:
    """The log with the observations after its rows exchanged among them."""
    return dataclasses.replace(log, next_observation_index=log.next_observation_index[::-1].copy())


def _solution(algorithm: Algorithm, log: Dataset) -> PyTree:
    """The actions and the values of a closed form at the observations of a log, which are not scaled."""
    given = copy.copy(algorithm).prepare(log, Scaling.of(log, standardize=False), key=jax.random.key(0)).given
    given = jax.tree.map(jnp.asarray, given)
    state = algorithm.init(jax.random.key(0), Spec.of(log), given)
    value: Any = algorithm.value(state, given)
    return acts(algorithm.policy(state, given), log), None if value is None else claims(
        value, log.observation, log.action
    )
