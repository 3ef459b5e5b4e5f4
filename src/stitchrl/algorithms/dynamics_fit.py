"""A model of the world that an algorithm needs before it learns: the ensemble of `dynamics`, fitted in `Algorithm.prepare`.

Some episodes are held out. Every `LOOK_EVERY` updates each member is judged on their rows by its squared error, in units of the
spread over the log; a member keeps the parameters that it had when it was last better than before by more than 1%, and the fit
ends when no member has become better for five looks, or after `updates`. Members are ordered by that error: the first ones are
the elites, of which rollouts draw what follows.

    (1)  next observation = s + offset + unit (mean_m(s, a) + std_m(s, a) noise),   and the reward likewise
    (2)  u(s, a) = max_m | penalty_unit std_m(s, a) |

over all members m in (2), and an elite in (1), where units are those in which the algorithm learns: of scaled observations and
rewards. In (2) the standard deviations of scaled observations and of the logged reward stand side by side, and all are scaled as
the reward is, so that a weight of u means the same whatever `reward_scale` is. Where no episode of the log terminated, none ends
in the model either.

Deviations from MOPO (Yu and others 2020, arXiv 2005.13239; tianheyu927/mopo), beside those of `dynamics`: episodes are
held out, not rows, for rows of one episode resemble each other; the error is computed every `LOOK_EVERY` updates, not
after each pass over the log; errors of columns are in units of their spread; weights do not decay.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.dynamics import Changes, Dynamics, DynamicsState, Prediction, model_inputs, prediction_of
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import transition_source
from stitchrl.jax_types import Array, Key
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.progress import shown_display
from stitchrl.types import PyTree

__all__ = ["fitted_dynamics", "model_remarks", "parts_of", "predicted", "uncertainty"]

HELD_OUT = 0.1
"""Share of the episodes that only say how well the model predicts."""
MOST_HELD_OUT = 5000
"""The most rows of these episodes that are used."""
BATCH_SIZE = 256
LOOK_EVERY = 500
"""Updates between two looks at the held-out rows."""
PATIENCE = 5
"""The fit ends after so many looks in a row at which no member became better (official code: passes over the log)."""
LEAST_GAIN = 0.01
"""Share by which an error must fall to count as better (official code)."""
SAYS_LITTLE = 0.9
"""Share of the variance of changes left unexplained above which a remark warns of the model."""


class HeldOut(NamedTuple):
    """What is known of held-out rows, and what members predict for them.

    Attributes:
        found: what C members predict for N rows.
        target: (N, D + 1) changes and rewards, in units of their spread.
        shown: (N,) 1 where the log shows the change of the observation.
        known: (N,) 0 where it is not known what followed.
        ended: (N,) 1 at a true end.
    """

    found: Prediction
    target: Float[Array, "N D1"]
    shown: Float[Array, " N"]
    known: Float[Array, " N"]
    ended: Float[Array, " N"]


def parts_of(log: Dataset, seed: int, share: float = HELD_OUT) -> tuple[Dataset, Dataset]:
    """Episodes to fit on, and others, at least one, to judge the fit by; all of them twice where there is only one."""
    units = log.num_episodes if log.group is None else len(np.unique(log.group))
    if units < 2:
        return log, log
    share = min(0.5, max(share, 1.5 / units))
    held, kept = log.split_episodes((share, 1 - share), seed=seed)
    return log.select_episodes(kept), log.select_episodes(held)


def predicted(ensemble: Ensemble, obs: Float[Array, "B D"], action: Array) -> Prediction:
    """What every member predicts for scaled rows."""
    members = ensemble.members
    assert isinstance(members, MLP)
    return prediction_of(ensemble(model_inputs(obs, action, members.weights[0].shape[-2])))


def uncertainty(log_std: Float[Array, "C B D1"], unit: Float[Array, " D1"]) -> Float[Array, " B"]:
    """(B,) equation (2), in which `unit` is `penalty_unit`."""
    return jnp.max(jnp.linalg.norm(unit[None, None, :] * jnp.exp(log_std), axis=-1), axis=0)


def fitted_dynamics(
    log: Dataset, scaling: Scaling, dynamics: Dynamics, updates: int, elites: int, *, key: Key
) -> dict[str, PyTree]:
    """The fitted model as `prepare` returns it: its networks, units, and errors on held-out rows.

    Args:
        log: the training part.
        scaling: of the batches that the algorithm itself learns from.
        dynamics: the settings of the ensemble.
        updates: of Adam, at most.
        elites: how many of the best members the reported errors are of.
        key: of the first weights and of the rows.

    Returns:
        `ensemble`, best members first; `offset`, `unit` and `penalty_unit` (D + 1,); `ends`, 0 where no episode terminated;
        `error`: `change` and `reward`, shares of the variance that the elites' mean leaves unexplained, `ends_expected`,
        `ends_seen`, `rows` and `updates`.
    """
    train_log, held_log = parts_of(log, seed=0)
    spread, center = float(train_log.reward.std()) or 1.0, float(train_log.reward.mean())
    own = dataclasses.replace(scaling, reward_scale=1.0 / spread, reward_shift=-center)
    changes: Changes = dynamics.prepare(train_log, own, key=key).given
    source, held = transition_source(train_log, own), transition_source(held_log, own)
    looked_at = jnp.asarray(np.linspace(0, held.count - 1, min(held.count, MOST_HELD_OUT)).astype(np.int32))
    init_key, loop_key = jax.random.split(key)
    state = dynamics.init(init_key, Spec.of(log), changes)
    bar = shown_display().track("model of the world", note_metric="held-out error")
    kept, best = state.model.model, jnp.full(dynamics.members, jnp.inf, jnp.float32)
    done, idle = 0, 0
    while done < updates and idle < PATIENCE:
        end = min(done + LOOK_EVERY, updates)
        rows, span = (source.arrays, jnp.int32(source.count)), (jnp.int32(done), jnp.int32(end))
        state = _trained(dynamics, state, changes, rows, loop_key, span)
        kept, best, better = _kept(state.model.model, changes, held.arrays, looked_at, kept, best)
        done, idle = end, 0 if bool(better) else idle + 1
        bar(done, updates, {"held-out error": [float(jnp.min(best))]})
    kept = jax.tree.map(lambda leaf: leaf[jnp.argsort(best)], kept)
    scale, shift = scaling.reward_scale, scaling.reward_shift
    ends = jnp.float32(log.terminated.any())
    return {
        "ensemble": kept,
        "offset": jnp.append(changes.mean, jnp.float32((center + shift) * scale)),
        "unit": jnp.append(changes.spread, jnp.float32(spread * scale)),
        "penalty_unit": scale * jnp.append(changes.spread, jnp.float32(spread)),
        "ends": ends,
        "error": _errors(kept, changes, held.arrays, looked_at, ends, elites) | {"updates": jnp.float32(done)},
    }


@partial(jax.jit, static_argnums=0)
def _trained(
    dynamics: Dynamics,
    state: DynamicsState,
    changes: Changes,
    rows: tuple[PyTree, Array],
    key: Key,
    span: tuple[Array, Array],
) -> DynamicsState:
    """The updates of a span, each on rows drawn with replacement."""
    arrays, count = rows

    def one(number: Array, state: DynamicsState) -> DynamicsState:
        rows_key, update_key = jax.random.split(jax.random.fold_in(key, number))
        batch = sample_transitions(arrays, jax.random.randint(rows_key, (BATCH_SIZE,), 0, count), jnp.int32(0))
        return dynamics.update(state, batch, changes, update_key, Step(number, span[1]))[0]

    return jax.lax.fori_loop(*span, one, state)


def _held_out(ensemble: Ensemble, changes: Changes, arrays: PyTree, rows: Int[Array, " N"]) -> HeldOut:
    batch = sample_transitions(arrays, rows, jnp.int32(0))
    known, ended = batch["td_weight"], batch["terminated"]
    shown = known * (1.0 - ended)
    change = (batch["next_obs"] - batch["obs"] - changes.mean[None, :]) / changes.spread[None, :]
    target = jnp.concatenate([jnp.where(shown[:, None] > 0, change, 0.0), batch["reward"][:, None]], axis=1)
    return HeldOut(predicted(ensemble, batch["obs"], batch["action"]), target, shown, known, ended)


def _mean_squares(mean: Float[Array, "C N D1"], rows: HeldOut) -> Float[Array, "C D1"]:
    """Mean squared error of each column over the rows that show it."""
    seen = jnp.broadcast_to(rows.shown[:, None], rows.target.shape).at[:, -1].set(1.0)
    squares = jnp.sum(seen[None] * (mean - rows.target[None]) ** 2, axis=1)
    return squares / jnp.maximum(jnp.sum(seen, axis=0), 1.0)[None]


@jax.jit
def _kept(
    ensemble: Ensemble, changes: Changes, arrays: PyTree, rows: Array, kept: Ensemble, best: Float[Array, " C"]
) -> tuple[Ensemble, Float[Array, " C"], Array]:
    """(the best parameters of each member so far, their errors, whether any has become better)."""
    held = _held_out(ensemble, changes, arrays, rows)
    error = jnp.mean(_mean_squares(held.found.mean, held), axis=-1)
    better = error < (1.0 - LEAST_GAIN) * best

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, ensemble, kept), jnp.where(better, error, best), jnp.any(better)


@partial(jax.jit, static_argnums=5)
def _errors(
    ensemble: Ensemble, changes: Changes, arrays: PyTree, rows: Array, ends: Array, elites: int
) -> dict[str, Array]:
    held = _held_out(ensemble, changes, arrays, rows)
    of_elites = jnp.mean(held.found.mean[:elites], axis=0)
    squares, of_mean = _mean_squares(jnp.stack([of_elites, jnp.zeros_like(of_elites)]), held)
    end = ends * jnp.mean(jax.nn.sigmoid(held.found.end[:elites]), axis=0)
    varies = (of_mean > 0).astype(jnp.float32)
    share = squares * varies / jnp.where(of_mean > 0, of_mean, 1.0)
    return {
        "change": jnp.sum(share[:-1]) / jnp.maximum(jnp.sum(varies[:-1]), 1.0),
        "reward": share[-1],
        "ends_expected": jnp.sum(held.known * end),
        "ends_seen": jnp.sum(held.known * held.ended),
        "rows": jnp.float32(len(rows)),
    }


def model_remarks(given: Any) -> tuple[str, ...]:
    """What a person should know of a model before trusting what was learned in it."""
    error = {name: float(value) for name, value in given["error"].items()}
    found = (
        f"The model of the world, after {error['updates']:,.0f} updates: on {error['rows']:,.0f} held-out rows it leaves "
        f"{error['change']:.0%} of the variance of the observation's changes and {error['reward']:.0%} of the reward's "
        f"unexplained, and it expects {error['ends_expected']:.1f} ends where {error['ends_seen']:.0f} were seen."
    )
    if error["change"] < SAYS_LITTLE:
        return (found,)
    return (
        found,
        "It predicts hardly better than the average change, so its rollouts say little about the world.",
    )
