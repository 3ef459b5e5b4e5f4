"""Smoothed shares of the actions in each state, for logs whose observations are a finite set that is seen again and again.

Let n_sa be how often action a was taken in state s, n_s their sum, and m_sa the probabilities of a softmax regression on the
observation (`evaluation/softmax_regression.py`) mixed with a small share of a uniform choice among the allowed actions. The
regression carries over what similar states have in common:

    (1)  b(a|s) = (n_sa + k m_sa) / (n_s + k)

The strength k of the smoothing is the least that is within one standard error of the best on held-out episodes; then all
episodes are counted. Smoothing less than the likelihood asks for means less bias and more noise, and the noise is known. An
observation that was never seen counts as the nearest one that was.

What the fit does to a number whose derivative by log b(a|s) sums to G_sa over the rows of the estimate: one more row with
action a in state s moves log b(a|s) by 1 / (n_sa + k m_sa), and log b of every action of s by -1 / (n_s + k). It also moves
the regression, whose share in b(a|s) is k m_sa / (n_sa + k m_sa). So it moves the number by

    (2)  u_sa = G_sa / (n_sa + k m_sa) - G_s / (n_s + k) + <I^{-1} D, phi(s) (1{a} - m_s)^T>,   G_s = sum_a G_sa
    (3)  D = sum_sa k m_sa / (n_sa + k m_sa) G_sa phi(s) (1{a} - m_s)^T

with I the information of the regression (`evaluation/softmax_noise.py`). These are the influence values of the fit. The
variance that the fit is expected to cause is their variance under b, actions that the fit never saw included:

    (4)  sum_s n_s sum_a b(a|s) u_sa^2
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import (
    LEAST_PROBABILITY,
    UNIFORM,
    BehaviorData,
    FitEffect,
    FittedBehavior,
    by_episode,
    first_of_the_best,
)
from stitchrl.evaluation.softmax_noise import solve_information
from stitchrl.evaluation.softmax_regression import action_counts, regress
from stitchrl.nn.tabular import TabularPolicy, nearest_row
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.types import NumpyArray

__all__ = ["Counts"]

MOST_STATES, VISITS = 5_000, 10
"""The most states that are counted, and how often each must be seen on average."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 20.0, 40.0, 80.0, 150.0, 300.0, 1000.0)
"""Strengths k that are tried: the smoothing counts as much as k rows of each state."""
ROWS_LOOKED_AT = 20_000
"""Size of a sample of rows that shows at little cost whether observations repeat."""
PENALTY = 10.0
"""Ridge penalty of the softmax regression that the shares are smoothed towards."""
ROWS_AT_ONCE = 8_192


class Tables(NamedTuple):
    """Equation (1) as tables of S states.

    Attributes:
        taken: (S, A) how often each action was taken.
        everywhere: (S, A) what the regression gives every action, scaled so that the actions that the state allows sum to 1.
        smooth: (S, A) m_sa: `everywhere`, with 0 for actions that the state does not allow.
    """

    taken: Float[NumpyArray, "S A"]
    everywhere: Float[NumpyArray, "S A"]
    smooth: Float[NumpyArray, "S A"]

    def probs(self, strength: float) -> Float[NumpyArray, "S A"]:
        """b(a|s)."""
        return (self.taken + strength * self.smooth) / (self.taken.sum(1, keepdims=True) + strength)

    def scores(self, strength: float) -> Float[NumpyArray, "S A"]:
        """`probs`, also for actions that the state does not allow, for a similar observation that allows them."""
        return (self.taken + strength * self.everywhere) / (self.taken.sum(1, keepdims=True) + strength)


class States:
    """The distinct observations of a log, and the state of any observation: the nearest of them, in standardised units."""

    def __init__(self, log: Dataset) -> None:
        self.scaling = Scaling.fit(log)
        self.table = self.scaling.observations(_distinct(log)).astype(np.float32)

    @property
    def phi(self) -> Float[NumpyArray, "S D"]:
        """Features of each state for the softmax regression."""
        return np.concatenate([np.ones((len(self.table), 1)), self.table], axis=1)

    def of(self, log: Dataset) -> Int[NumpyArray, " N"]:
        """(N,) the state of each row of a log."""
        used, place = np.unique(log.observation_index, return_inverse=True)
        rows = self.scaling.observations(log.observation_table[used]).astype(np.float32)
        table = jnp.asarray(self.table)
        pieces = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        return np.concatenate([np.asarray(nearest_row(table, piece)) for piece in pieces])[place.reshape(-1)]

    def count(self, log: Dataset) -> Tables:
        """The tables of a log."""
        state, states, actions = self.of(log), len(self.table), log.num_actions
        assert actions is not None
        allowed = np.ones((states, actions), bool)
        if log.action_mask is not None:
            allowed = np.zeros((states, actions), bool)
            np.logical_or.at(allowed, state, log.action_mask)
            allowed[~allowed.any(1)] = True  # a state of other episodes, of which nothing is known
        count = np.bincount(state * actions + log.action, minlength=states * actions).reshape(states, actions)
        logits = self.phi @ regress(action_counts(log, self.scaling), PENALTY)
        raised = np.exp(np.minimum(logits - np.where(allowed, logits, -np.inf).max(1, keepdims=True), 0.0))
        everywhere = raised / (raised * allowed).sum(1, keepdims=True)
        everywhere = (1 - UNIFORM) * everywhere + UNIFORM / allowed.sum(1, keepdims=True)
        return Tables(count.astype(np.float64), everywhere, everywhere * allowed)

    def policy(self, scores: Float[NumpyArray, "S A"]) -> StandardizedPolicy:
        """The policy with these probabilities, renormalised under the mask that it is asked with."""
        logs = np.log(np.maximum(scores, 1e-30)).astype(np.float32)
        inner = TabularPolicy(jnp.asarray(self.table), jnp.asarray(logs))
        return StandardizedPolicy(jnp.asarray(self.scaling.mean), jnp.asarray(self.scaling.std), inner)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Smoothed counts by state."""

    name: str = "counts"
    title: str = "smoothed shares of the actions in each state"
    maximum_likelihood: bool = True

    def refusal(self, log: Dataset) -> str | None:
        """It refuses continuous actions, images, and logs whose observations hardly ever repeat."""
        if log.num_actions is None or log.observation_table.ndim != 2:
            return "Counts of actions need discrete actions and observations that are vectors."
        states = min(_least_states(log), log.num_transitions)
        if states <= MOST_STATES:
            states = len(_distinct(log))
        if states > MOST_STATES or log.num_transitions < VISITS * states:
            return (
                f"Counts of actions need at most {MOST_STATES:,} distinct observations, seen {VISITS} times each on average; "
                f"this log has at least {states:,} in {log.num_transitions:,} rows."
            )
        table = States(log).table
        if (np.asarray(nearest_row(jnp.asarray(table), table)) != np.arange(len(table))).any():
            return "Counts of actions need observations that differ by more than rounding; some of this log's do not."
        return None

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """Equation (1), with a strength that predicts held-out episodes well."""
        states = States(data.whole)
        tables, state = states.count(data.train), states.of(data.held_out)
        tried = [_held_out(tables.scores(k), state, data.held_out) for k in STRENGTHS]
        chosen = first_of_the_best(tried, data.held_out)
        scores, strength = tried[chosen], STRENGTHS[chosen]
        whole = states.count(data.whole)
        noise = CountNoise(states, whole, strength, data.whole)
        optimism = float((_held_out(whole.scores(strength), state, data.held_out) - scores).mean())
        return FittedBehavior(self.name, states.policy(whole.scores(strength)), scores, noise, optimism)


@dataclasses.dataclass(frozen=True, eq=False)
class CountNoise:
    """Equations (2) to (4).

    Attributes:
        states: the states.
        tables: what was counted.
        strength: k.
        fit_on: the episodes that were counted.
    """

    states: States
    tables: Tables
    strength: float
    fit_on: Dataset

    def effect(self, log: Dataset, gradient: Float[NumpyArray, "N K"]) -> FitEffect:
        """What the fit does to K numbers that were computed from `log`."""
        count, smooth = self.tables.taken, self.tables.smooth
        shape, numbers = count.shape, gradient.shape[1]
        cell = self.states.of(log) * shape[1] + log.action
        sums = [np.bincount(cell, one, minlength=count.size).reshape(shape) for one in gradient.T]
        total, rows = count + self.strength * smooth, count.sum(1)
        derivative = np.empty((self.states.phi.shape[1], shape[1], numbers))
        moved = np.empty((*shape, numbers))
        for k, one in enumerate(sums):
            by_action = np.divide(one, total, out=np.zeros(shape), where=total > 0)
            moved[:, :, k] = by_action - (one.sum(1) / (rows + self.strength))[:, None]
            through = by_action * self.strength * smooth
            derivative[:, :, k] = self.states.phi.T @ (through - through.sum(1, keepdims=True) * smooth)
        direction = solve_information(self.states.phi, smooth, rows, PENALTY, derivative)
        for k in range(numbers):
            along = self.states.phi @ direction[:, :, k]
            moved[:, :, k] += along - (smooth * along).sum(1, keepdims=True)
        here = self.states.of(self.fit_on) * shape[1] + self.fit_on.action
        expected = np.einsum("s,sa,saj,sak->jk", rows, self.tables.probs(self.strength), moved, moved, optimize=True)
        by_row = moved.reshape(count.size, numbers)[here]
        return FitEffect(by_episode(by_row, self.fit_on.episode_start[:-1]), expected)


def _held_out(scores: Float[NumpyArray, "S A"], state: Int[NumpyArray, " N"], log: Dataset) -> NumpyArray:
    """(N,) log-likelihood of each logged action, of a log with these states."""
    rows = scores[state]
    if log.action_mask is not None:
        rows = rows * log.action_mask
    rows = rows / np.maximum(rows.sum(1, keepdims=True), 1e-30)
    found: NumpyArray = np.log(np.maximum(rows[np.arange(len(rows)), log.action], LEAST_PROBABILITY))
    return found


def _distinct(log: Dataset) -> Float[NumpyArray, "S D"]:
    return np.unique(log.observation_table[np.unique(log.observation_index)], axis=0)


def _least_states(log: Dataset) -> int:
    """A number that the distinct observations are no fewer than, from a sample of the rows."""
    rows = np.unique(log.observation_index)
    if len(rows) > ROWS_LOOKED_AT:
        rows = np.random.default_rng(0).choice(rows, ROWS_LOOKED_AT, replace=False)
    return len(np.unique(log.observation_table[rows], axis=0))
