"""One linear layer over the features of several networks, with traces of ratios: the correction over continuous actions.

The equations are those of `evaluation/refit.py`, with two changes. psi holds the features of all networks, since one may tell
apart what another cannot. And the instruments are traces (off-policy LSTD(lambda), Yu 2010):

    (1)  z_t = psi_t + lambda gamma_{t-1} rho_{t-1} z_{t-1},   A = E[sum_t rho_t z_t (psi_t - gamma psi_{t+1})^T]

The weights w_t = E[psi_0]^T A^{-1} z_t then account for about the last 1 / (1 - lambda) actions by their ratios, and rely on the
features only for what came before. With lambda = 0 they rely on the features alone, and where these cannot represent where a
policy goes, the estimate is pulled towards the value of the behaviour; with lambda = 1 they multiply all ratios. lambda is as
large as a bounded variance of the trace allows. How far the traces move the estimate hints at the error that they leave, and
is part of the standard error.

The symmetric part of A is positive definite for the behaviour itself (Tsitsiklis and Van Roy 1997); where that of the sample
is not, the ridge is raised until it is, for the estimate would otherwise divide by a number near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.linear_system import RIDGE, SHORT, Solved
from stitchrl.types import NumpyArray

__all__ = ["Equations", "Joint", "joint_features", "pseudo_values", "solve_jointly", "trace_rate", "traced"]

GROWTH = 0.75
"""Largest factor by which the mean square of a trace may change from step to step; below 1, so that it stays bounded."""
LARGEST_RATE = 0.9
"""The largest lambda."""
ROWS_AT_ONCE = 32_768
Columns = slice | Int[NumpyArray, " C"]
EVERY = slice(None)


class Equations(NamedTuple):
    """The equations A theta = b, which can be solved for any choice of the H columns of psi.

    Attributes:
        balance: (H, H) A without its ridge.
        moment: (H,) b.
        square: (H,) mean squares of psi, summed over the steps of an episode.
        ridge: the least ridge, as a share of the mean of `square`.
    """

    balance: Float[NumpyArray, "H H"]
    moment: Float[NumpyArray, " H"]
    square: Float[NumpyArray, " H"]
    ridge: float

    def matrix(self, columns: Columns = EVERY) -> Float[NumpyArray, "C C"]:
        """A of these columns, its symmetric part made positive definite."""
        found, scale = self.balance[columns][:, columns], float(self.square[columns].mean())
        lowest = float(np.linalg.eigvalsh((found + found.T) / 2)[0])
        return found + (self.ridge * scale + max(0.0, -lowest)) * np.eye(len(found))

    def correction(self, first: Float[NumpyArray, " H"], columns: Columns = EVERY) -> float:
        """What these columns alone add to the mean of V(s_0), given E[psi_0].

        It is E[psi_0]^T theta plus the part that the ridge keeps theta from adding, so that it is the mean of the contributions.
        """
        matrix, balance, moment = self.matrix(columns), self.balance[columns][:, columns], self.moment[columns]
        theta, carry = np.linalg.solve(matrix, moment), np.linalg.solve(matrix.T, first[columns])
        return float(first[columns] @ theta + carry @ (moment - balance @ theta))


class Joint(NamedTuple):
    """The solved equations of several networks together.

    Attributes:
        solved: the solution with traces.
        equations: the equations with traces.
        untraced: the equations without traces.
        first_v: (n,) the uncorrected value of each first state, averaged over the networks.
        blocks: for each network, which columns of psi are its features.
    """

    solved: Solved
    equations: Equations
    untraced: Equations
    first_v: Float[NumpyArray, " n"]
    blocks: list[Int[NumpyArray, " H"]]

    def by_network(self, member: Float[NumpyArray, " n"] | None = None) -> tuple[float, ...]:
        """The jackknife's pseudo-value of each network, for the mean over first states; with one network its value.

        Args:
            member: (n,) how much each first state counts; None: all count once.
        """
        whole = self._value(self.equations, EVERY, member)
        if len(self.blocks) == 1:
            return (whole,)
        columns = np.arange(len(self.equations.moment))
        without = [np.setdiff1d(columns, block) for block in self.blocks]
        return pseudo_values(whole, [self._value(self.equations, kept, member) for kept in without])

    def moved(self, member: Float[NumpyArray, " n"] | None = None) -> float:
        """By how much the traces move the mean over first states."""
        return self._value(self.equations, EVERY, member) - self._value(self.untraced, EVERY, member)

    def _value(self, equations: Equations, columns: Columns, member: Float[NumpyArray, " n"] | None) -> float:
        counts = np.ones(len(self.first_v)) if member is None else member
        first = counts @ self.solved.first_psi / len(counts)
        return float(counts @ self.first_v) / len(counts) + equations.correction(first, columns)


def pseudo_values(whole: float, without: Sequence[float]) -> tuple[float, ...]:
    """K whole - (K - 1) without_k of the jackknife (Tukey 1958): the variance of the whole is theirs, divided by K."""
    count = len(without)
    return tuple(count * whole - (count - 1) * one for one in without)


def trace_rate(ratio: Float[NumpyArray, " N"], decay: Float[NumpyArray, " N"]) -> float:
    """lambda: the largest, up to .9, at which the mean square of a trace changes by a factor of at most .75 from step to step.

    No reward enters, so that the choice favours no estimate.

    Args:
        ratio: (N,) policy / behaviour probability, or density, of the logged actions.
        decay: (N,) discount of what follows each transition.
    """
    growth = float(np.mean((ratio * decay) ** 2))
    return LARGEST_RATE if growth <= 0 else min(LARGEST_RATE, float(np.sqrt(GROWTH / growth)))


def traced(
    log: Dataset, features: Float[NumpyArray, "N H"], decay: Float[NumpyArray, " N"]
) -> Float[NumpyArray, "N H"]:
    """(N, H) equation (1): z_t = psi_t + decay_{t-1} z_{t-1} within each episode.

    Args:
        log: the episodes.
        features: (N, H) psi.
        decay: (N,) what the trace is multiplied by after each row: lambda times its discount times its ratio.
    """
    found = features.copy()
    order = np.argsort(-log.episode_lengths, kind="stable")
    start, lengths = log.episode_start[:-1][order], log.episode_lengths[order]
    for step in range(1, int(lengths[0])):
        rows = (
            start[: np.searchsorted(-lengths, -step, side="left")] + step
        )  # of the episodes that are longer than `step`
        found[rows] += decay[rows - 1, None].astype(found.dtype) * found[rows - 1]
    return found


def joint_features(of_networks: Sequence[dict[str, NumpyArray]]) -> dict[str, NumpyArray]:
    """What `FittedQ.on` gives for each of several networks, put together: values averaged, features side by side."""
    if len(of_networks) == 1:
        return of_networks[0]
    names = of_networks[0].keys()
    values = {
        name: np.mean([one[name] for one in of_networks], axis=0) for name in names if name in ("q", "v", "next_v")
    }
    features = {name: np.concatenate([one[name] for one in of_networks], 1) for name in names if name not in values}
    return values | features


def solve_jointly(
    log: Dataset,
    of_networks: Sequence[dict[str, NumpyArray]],
    ratio: Float[NumpyArray, " N"],
    *,
    gamma: float,
    rate: float,
) -> Joint:
    """The equations, solved with traces of rate lambda and without.

    Args:
        log: the episodes of the estimate, not those that the networks were fitted on.
        of_networks: what `FittedQ.on` gives for each network.
        ratio: (N,) policy / behaviour probability of the logged action.
        gamma: discount.
        rate: lambda.
    """
    fitted, known = joint_features(of_networks), ratio * log.can_bootstrap
    instrument = fitted.get("instrument", fitted["psi"])
    go_on = log.discount(gamma)
    change = fitted["psi"] - go_on[:, None].astype(np.float32) * fitted["next_psi"]
    delta = log.reward + go_on * fitted["next_v"] - fitted["q"]
    least = RIDGE * min(1.0, float(1.0 - go_on.mean()) / SHORT)

    def equations(features: Float[NumpyArray, "N H"]) -> Equations:
        return _equations(features, instrument, change, delta, known, log.num_episodes, least)

    untraced = equations(instrument)
    features = traced(log, instrument, rate * go_on * known) if rate > 0 else instrument
    with_traces = equations(features) if rate > 0 else untraced
    matrix, start = with_traces.matrix(), log.episode_start[:-1]
    theta = np.linalg.solve(matrix, with_traces.moment)
    first_v, first_psi = fitted["v"][start], fitted["psi"][start].astype(np.float64)
    residual = np.concatenate([delta[rows] - change[rows].astype(np.float64) @ theta for rows in _pieces(len(delta))])
    first = first_v + first_psi @ theta
    solved = Solved(
        matrix, with_traces.balance, features, known, first_psi, first, residual, start
    )  # fmt: skip
    ends = np.cumsum([one["psi"].shape[1] for one in of_networks])
    blocks = [np.arange(end - one["psi"].shape[1], end) for one, end in zip(of_networks, ends, strict=True)]
    return Joint(solved, with_traces, untraced, first_v, blocks)


def _equations(
    features: Float[NumpyArray, "N H"],
    psi: Float[NumpyArray, "N H"],
    change: Float[NumpyArray, "N H"],
    delta: Float[NumpyArray, " N"],
    ratio: Float[NumpyArray, " N"],
    n: int,
    ridge: float,
) -> Equations:
    """The equations from sums in float64 over some rows at a time, since the features of several networks fill gigabytes."""
    size = features.shape[1]
    balance, moment, square = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    for rows in _pieces(len(ratio)):
        weighted = features[rows].astype(np.float64) * ratio[rows, None]
        balance += weighted.T @ change[rows].astype(np.float64) / n
        moment += weighted.T @ delta[rows] / n
        square += (psi[rows].astype(np.float64) ** 2).sum(0) / n
    return Equations(balance, moment, square, ridge)


def _pieces(count: int) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, count, ROWS_AT_ONCE)]
