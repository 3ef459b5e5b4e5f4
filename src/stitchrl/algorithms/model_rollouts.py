"""Rollouts of a policy in a learned model: rows that were never logged, in a buffer that forgets the oldest.

Rollouts of k steps begin at observations of the log. In each step the policy draws an action, an elite member of the
model, drawn at random for the step, gives the distribution of what follows, and the rollout ends with the probability
that this member predicts; no rows follow an end. A row holds the reward as the model drew it and the model's
uncertainty (see `dynamics_fit`).

The buffer has a fixed size and is part of an algorithm's state, so that a run that is resumed has the same rows. Before the
first rollouts it is empty, and batches consist of logged rows alone.

Source: MOPO (Yu and others 2020, arXiv 2005.13239), whose rollouts begin in states of the log as those of MBPO (Janner and
others 2019, arXiv 1906.08253).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.dynamics_fit import predicted, uncertainty
from stitchrl.jax_types import Array, Batch, Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.types import PyTree

__all__ = ["ModelRows", "RolloutBuffer", "added", "drawn_rows", "empty_buffer", "mixed", "rollouts", "with_rollouts"]

STARTS_AT_ONCE = 8192
"""Rollouts whose predictions are made in one call."""


class ModelRows(NamedTuple):
    """Rows that a model made, as batches have them, in scaled units.

    Attributes:
        penalty: the model's uncertainty u, which is not yet taken from the reward.
    """

    obs: Float[Array, "*b D"]
    action: Float[Array, "*b U"]
    reward: Float[Array, "*b"]
    penalty: Float[Array, "*b"]
    terminated: Float[Array, "*b"]
    next_obs: Float[Array, "*b D"]


class RolloutBuffer(NamedTuple):
    """The last M rows that were made.

    Attributes:
        rows: (M, ...) of which the first `held` are filled.
        held: how many rows there are.
        place: where the next row goes.
    """

    rows: ModelRows
    held: Int[Array, ""]
    place: Int[Array, ""]


def empty_buffer(spec: Spec, size: int) -> RolloutBuffer:
    """An empty buffer for `size` rows."""

    def zeros(*shape: int) -> Array:
        return jnp.zeros((size, *shape), jnp.float32)

    seen, done = spec.vector_size, spec.action_size
    rows = ModelRows(zeros(seen), zeros(done), zeros(), zeros(), zeros(), zeros(seen))
    return RolloutBuffer(rows, jnp.int32(0), jnp.int32(0))


def rollouts(
    model: PyTree, policy: ContinuousPolicy, obs: Float[Array, "B D"], steps: int, elites: int, *, key: Key
) -> tuple[ModelRows, Bool[Array, "k B"]]:
    """(k, B) rows of rollouts from B observations, and which of them count: those after an end do not.

    Args:
        model: what `fitted_dynamics` gives.
        policy: chooses the actions.
        obs: where rollouts begin, scaled.
        steps: k.
        elites: how many members, from the first on, what follows is drawn from.
        key: of actions, members, noise and ends.
    """

    def step(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], tuple[ModelRows, Array]]:
        here, alive = carry
        action_key, member_key, noise_key, end_key = jax.random.split(key, 4)
        action = policy.sample(here, key=action_key)
        found = predicted(model["ensemble"], here, action)
        member, row = jax.random.randint(member_key, here.shape[:1], 0, elites), jnp.arange(len(here))
        noise = jax.random.normal(noise_key, found.mean.shape[1:])
        drawn = found.mean[member, row] + jnp.exp(found.log_std[member, row]) * noise
        change = model["offset"][None, :] + model["unit"][None, :] * drawn
        chance = model["ends"] * jax.nn.sigmoid(found.end[member, row])
        ended = jax.random.uniform(end_key, chance.shape) < chance
        following, penalty = here + change[:, :-1], uncertainty(found.log_std, model["penalty_unit"])
        rows = ModelRows(here, action, change[:, -1], penalty, ended.astype(jnp.float32), following)
        return (following, alive & ~ended), (rows, alive)

    begin = (obs, jnp.ones(len(obs), jnp.bool_))
    return jax.lax.scan(step, begin, jax.random.split(key, steps))[1]


def added(buffer: RolloutBuffer, rows: ModelRows, made: Bool[Array, " N"]) -> RolloutBuffer:
    """The buffer after those of N rows that count, at most as many as it holds, replaced its oldest rows."""
    size, number = len(buffer.rows.reward), jnp.sum(made, dtype=jnp.int32)
    slot = (buffer.place + jnp.cumsum(made, dtype=jnp.int32) - 1) % size
    slot = jnp.where(made, slot, size)  # which is out of range, and dropped
    kept = jax.tree.map(lambda old, new: old.at[slot].set(new, mode="drop"), buffer.rows, rows)
    return RolloutBuffer(kept, jnp.minimum(buffer.held + number, size), (buffer.place + number) % size)


def with_rollouts(
    buffer: RolloutBuffer,
    model: PyTree,
    policy: ContinuousPolicy,
    arrays: PyTree,
    *,
    starts: int,
    steps: int,
    elites: int,
    key: Key,
) -> RolloutBuffer:
    """The buffer with fresh rollouts of a policy, from observations of logged rows that are drawn with replacement.

    Args:
        buffer: of at least `starts` times `steps` rows.
        model, policy, steps, elites: as for `rollouts`.
        arrays: columns of the log, as `transition_arrays` makes them.
        starts: how many rollouts.
        key: of rows and rollouts.
    """
    rows_key, roll_key = jax.random.split(key)
    row = jax.random.randint(rows_key, (starts,), 0, len(arrays["observation_index"]))
    table, index = arrays["observations"], arrays["observation_index"][row]

    def one(start: tuple[Array, Key]) -> tuple[ModelRows, Array]:
        return rollouts(model, policy, table[start[0]][None], steps, elites, key=start[1])

    each = (index, jax.random.split(roll_key, starts))
    rows, made = jax.lax.map(one, each, batch_size=STARTS_AT_ONCE)
    flat = jax.tree.map(lambda leaf: leaf.reshape(starts * steps, *leaf.shape[3:]), rows)
    return added(buffer, flat, made.reshape(-1))


def drawn_rows(buffer: RolloutBuffer, count: int, *, key: Key) -> tuple[ModelRows, Int[Array, " n"]]:
    """`count` rows of the buffer, drawn with replacement, and their places in it."""
    slot = jax.random.randint(key, (count,), 0, jnp.maximum(buffer.held, 1))
    return jax.tree.map(lambda column: column[slot], buffer.rows), slot


def mixed(batch: Batch, td_return: tuple[Array, Array], made: Batch, real_rows: int, any_made: Array) -> Batch:
    """The first rows of a batch and, in place of the others, rows that a model made.

    Fields: obs, action, reward, discount, next_obs, td_weight, row; a made row has a td_weight of 1.

    Args:
        batch: logged rows.
        td_return: their reward and discount, as `Algorithm.td_return` gives them.
        made: fields of the same names for the rows after the first.
        real_rows: logged rows that stay.
        any_made: False keeps every logged row, because the model has made none yet.
    """
    reward, discount = td_return
    fields: dict[str, Any] = {
        name: batch[name] for name in ("obs", "action", "next_obs", "td_weight", "row") if name in batch
    }
    fields |= {"reward": reward, "discount": discount}

    def joined(name: str, real: Array) -> Array:
        rest = jnp.where(any_made, made[name], real[real_rows:])
        return jnp.concatenate([real[:real_rows], rest])

    return {name: joined(name, real) for name, real in fields.items()}
