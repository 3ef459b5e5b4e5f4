"""A fitted Q corrected on the episodes of the estimate, by one more linear layer: the value with a valid interval.

The layer theta acts on the state features psi(s) = E_{a ~ policy} phi(s, a), with phi the last hidden layer of the
network and a constant (off-policy least-squares temporal differences, Bradtke and Barto 1996, with ratios
rho = policy / behaviour):

    (1)  delta_t = r_t + gamma (1 - terminated) V(s_{t+1}) - Q(s_t, a_t)
    (2)  A theta = b,  A = E[sum_t rho_t psi_t (psi_t - gamma psi_{t+1})^T] + ridge,  b = E[sum_t rho_t psi_t delta_t]
    (3)  value = E[ V(s_0) + psi_0^T theta ]

With w(s) = E[psi_0]^T A^{-1} psi(s), a linear model of the ratio of state visits, (3) is E[V(s_0)] + E[sum_t w_t rho_t delta_t]:
a marginalised doubly robust estimate (Kallus and Uehara 2020, arXiv 1908.08526; Uehara, Huang, Jiang 2020), wrong only
by the PRODUCT of the errors of Q and w. Each episode contributes

    (4)  c_i = V(s_0) + psi_0^T theta + sum_t w_t rho_t (delta_t - (psi_t - gamma psi_{t+1})^T theta)

which is its influence value plus the estimate. The spread of the c_i over sqrt(n) is the standard error, which includes the
noise of theta, and they are paired with the behaviour's returns episode by episode. Without rho in (2) the weights cannot follow
the policy's actions, and a nominal 95% interval covers far less (docs/decisions/0003). Where the data say little, the ridge
pulls theta to 0, which leaves the fitted network as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ, fit_q
from stitchrl.evaluation.joint_correction import solve_jointly, trace_rate
from stitchrl.evaluation.linear_system import Matrix, Solved, solve_with_ratios, solve_without_ratios
from stitchrl.types import NumpyArray

__all__ = [
    "CorrectedQ",
    "FitQ",
    "FittedValues",
    "Refit",
    "ratio_of",
    "refit",
    "refit_behavior",
    "refit_without_ratios",
    "refusal_of_q",
]

LARGEST_LOG_RATIO = 100.0
"""Largest logarithm of a ratio; larger ones are set to it, since an estimate with such a ratio fails its checks in any case."""


@dataclasses.dataclass(frozen=True, eq=False)
class FittedValues:
    """A fitted Q on a log's transitions, in return units.

    Attributes:
        q: (N,) value of the logged action.
        v: (N,) value of the policy.
        next_v: (N,) value of the policy at the next observation; where there is none it has no meaning. None where it was not
            computed.
    """

    q: Float[NumpyArray, " N"]
    v: Float[NumpyArray, " N"]
    next_v: Float[NumpyArray, " N"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Refit:
    """The refitted value of a policy on n episodes of N transitions.

    Attributes:
        contributions: (n,) c_i of equation (4): their mean is the value, their spread over sqrt(n) its standard error.
        network_value: the value by the fitted network alone on these episodes.
        visits: (N,) w_t, how much likelier the policy comes to the state of each transition than the behaviour.
        weights: (N,) marginal weight w_t rho_t of each transition.
        residual: (N,) the TD error that the correction leaves, delta_t - (psi_t - gamma psi_{t+1})^T theta.
        first: (n,) value of the first state, V(s_0) + psi_0^T theta.
        imbalance: how far the weights fail to carry the first states' features through the log, relative to these
            features: |E[psi_0] - A_0^T A^{-T} E[psi_0]| / |E[psi_0]| with A_0 the matrix A without its ridge. It is near 0 where
            the log goes where the policy goes, and near 1 where it does not, whatever the effective sample size.
    """

    contributions: Float[NumpyArray, " n"]
    network_value: float
    visits: Float[NumpyArray, " N"]
    weights: Float[NumpyArray, " N"]
    residual: Float[NumpyArray, " N"]
    first: Float[NumpyArray, " n"]
    imbalance: float


def ratio_of(log_ratio: Float[NumpyArray, " N"]) -> Float[NumpyArray, " N"]:
    """(N,) ratios from their logarithms, at most e^100, whose square is still a number in float64."""
    return np.exp(np.minimum(log_ratio, LARGEST_LOG_RATIO))


def refit(log: Dataset, fitted: dict[str, NumpyArray], ratio: Float[NumpyArray, " N"], *, gamma: float) -> Refit:
    """Equations (1) to (4) on the episodes of `log`, in float64.

    Args:
        log: the episodes of the estimate, not those the network was fitted on.
        fitted: what `FittedQ.on` gives for this log.
        ratio: (N,) policy / behaviour probability of the logged action.
        gamma: discount.
    """
    return _refit_of(log, fitted, solve_with_ratios(log, fitted, ratio, gamma=gamma))


def refit_without_ratios(log: Dataset, fitted: dict[str, Matrix], *, gamma: float) -> Refit:
    """The refitted value with features of the logged action in place of ratios, LSTD-Q (Lagoudakis and Parr 2003):

        (5)  A = E[sum_t phi_t (phi_t - gamma psi_{t+1})^T] + ridge,  b = E[sum_t phi_t delta_t],   phi_t = phi(s_t, a_t)

    theta corrects Q(s, a) by phi(s, a)^T theta. The weights w(s, a) = E[psi_0]^T A^{-1} phi(s, a) model the ratio of visits
    of state and action together, so that neither propensities nor a density of the policy are needed. The estimate is wrong by
    the product of the errors of Q and of this w, and w is harder to model here: no ratio tells it which actions the policy
    takes. `visits` are the weights themselves.

    Args:
        log: the episodes of the estimate, not those the network was fitted on.
        fitted: what `FittedQ.on` gives for this log with `logged=True`.
        gamma: discount.
    """
    return _refit_of(log, fitted, solve_without_ratios(log, fitted, gamma=gamma))


def _refit_of(log: Dataset, fitted: dict[str, Matrix], solved: Solved) -> Refit:
    """What the solved equations say about the first states of all episodes."""
    visits, imbalance = solved.visits()
    network_value = float(fitted["v"][log.episode_start[:-1]].mean())
    contributions, weights = solved.contributions(visits), visits * solved.ratio
    return Refit(contributions, network_value, visits, weights, solved.residual, solved.first, imbalance)


def refit_behavior(log: Dataset, fitted: dict[str, NumpyArray], *, gamma: float) -> Refit:
    """The behaviour's own value by the same equations, with the ratio 1 and V in place of Q; arguments as in `refit`.

    It bootstraps at cuts as the policy's value does, so that a gain over it makes one assumption about cuts and not two. It
    needs no Q of the behaviour: the true weights of its states are 1, which the constant among the features can represent.
    """
    return refit(log, fitted | {"q": fitted["v"]}, np.ones(log.num_transitions), gamma=gamma)


class CorrectedQ(NamedTuple):
    """A policy's fitted Q on the transitions of a log, and its correction on the log's episodes.

    Attributes:
        values: the fitted Q. Where there are several networks, this and all that follows is their average.
        refit: its correction; None where the policy has no density.
        behavior: the behaviour's value by the same equations; None where no episode was cut, since its mean return is its value
            then.
        by_network: the corrected value of each network; where networks are corrected jointly, the pseudo-value of each.
        behavior_by_network: the same for the behaviour; empty where `behavior` is None.
        moved: by how much traces of ratios move the value; 0 where there are none.
        behavior_moved: the same for the behaviour.
        without_ratios: the same Q corrected without ratios; None over discrete actions.
    """

    values: FittedValues
    refit: Refit | None
    behavior: Refit | None = None
    by_network: tuple[float, ...] = ()
    behavior_by_network: tuple[float, ...] = ()
    moved: float = 0.0
    behavior_moved: float = 0.0
    without_ratios: CorrectedQ | None = None


@dataclasses.dataclass(frozen=True)
class FitQ:
    """The request for a policy's Q: fitted on other episodes, then corrected on those of the estimate.

    With a horizon it is the Q of the steps that are left, and its observations tell the step (`evaluation/clock.py`).
    """

    def fit(self, data: FitData) -> list[list[FittedQ]]:
        """FQE of all policies."""
        return fit_q(
            data.timed_log,
            data.next_choices(),
            data.policies,
            gamma=data.gamma,
            settings=data.settings,
            monitors=data.monitors,
        )

    def apply(self, model: list[FittedQ], fold: Fold, policy: int) -> CorrectedQ:
        """The fitted values on the episodes of a fold, and the refit there."""
        return self.apply_many(model, fold, [policy])[0]

    def apply_many(self, model: list[FittedQ], fold: Fold, policies: Sequence[int]) -> list[CorrectedQ]:
        """The same for several policies that one model serves.

        Over continuous actions, where reading a network costs most, the correction without ratios is made as well.
        """
        log = fold.timed_log
        if fold.log.num_actions is None:
            return [_jointly(model, fold, k) for k in policies]
        (network,) = model
        asked = [(fold.choices(k), fold.next_choices(k)) for k in policies]
        found = network.on_many(log, asked)
        return [_corrected(fold, fitted, fold.log_ratio(k)) for k, fitted in zip(policies, found, strict=True)]

    def join(self, parts: Sequence[CorrectedQ], order: Order) -> CorrectedQ:
        """The corrections of all folds, each with a layer of its own; `imbalance` is that of the worst fold."""
        return _joined_q(parts, order)


def _corrected(fold: Fold, fitted: dict[str, NumpyArray], log_ratio: Float[NumpyArray, " N"] | None) -> CorrectedQ:
    """The correction of one network on the episodes of a fold."""
    log, gamma = fold.timed_log, fold.data.gamma
    behavior = refit_behavior(log, fitted, gamma=gamma) if _cut(log) else None
    with_ratios = None if log_ratio is None else refit(log, fitted, ratio_of(log_ratio), gamma=gamma)
    return CorrectedQ(FittedValues(fitted["q"], fitted["v"], fitted["next_v"]), with_ratios, behavior)


def _jointly(model: Sequence[FittedQ], fold: Fold, policy: int) -> CorrectedQ:
    """The correction of all networks together, with traces, and of each without ratios: over continuous actions."""
    log, gamma, log_ratio = fold.timed_log, fold.data.gamma, fold.log_ratio(policy)
    choices, next_choices = fold.choices(policy), fold.next_choices(policy)
    of_networks = [network.on(log, choices, next_choices, logged=True) for network in model]
    without = [_without_ratios(log, fitted, gamma=gamma) for fitted in of_networks]
    found = _averaged(without)
    if log_ratio is None:
        return CorrectedQ(found.values, None, found.behavior, without_ratios=found)
    ratio = ratio_of(log_ratio)
    rate = trace_rate(ratio * log.can_bootstrap, log.discount(gamma))
    joint = solve_jointly(log, of_networks, ratio, gamma=gamma, rate=rate)
    corrected = CorrectedQ(
        found.values,
        _refit_of(log, {"v": found.values.v}, joint.solved),
        by_network=joint.by_network(),
        moved=joint.moved(),
        without_ratios=found,
    )
    if not _cut(log):
        return corrected
    as_logged = [fitted | {"q": fitted["v"]} for fitted in of_networks]
    own = solve_jointly(log, as_logged, np.ones(log.num_transitions), gamma=gamma, rate=rate)
    return corrected._replace(
        behavior=_refit_of(log, {"v": found.values.v}, own.solved),
        behavior_by_network=own.by_network(),
        behavior_moved=own.moved(),
    )


def _without_ratios(log: Dataset, fitted: dict[str, NumpyArray], *, gamma: float) -> CorrectedQ:
    values = FittedValues(fitted["q"], fitted["v"], fitted["next_v"])
    behavior = refit_behavior(log, fitted, gamma=gamma) if _cut(log) else None
    return CorrectedQ(values, refit_without_ratios(log, fitted, gamma=gamma), behavior)


def _cut(log: Dataset) -> bool:
    """Whether some episode was cut, so that the mean logged return is not the behaviour's value."""
    return not log.terminated[log.episode_start[1:] - 1].all()


def _joined_q(parts: Sequence[CorrectedQ], order: Order) -> CorrectedQ:
    refits = [part.refit for part in parts if part.refit is not None]
    behaviors = [part.behavior for part in parts if part.behavior is not None]
    without = [part.without_ratios for part in parts if part.without_ratios is not None]
    # Where one fold has cut episodes and another has none, the mean return of the second would make another assumption.
    cut = len(behaviors) == len(parts)
    return CorrectedQ(
        _joined_values([part.values for part in parts], order),
        _joined(refits, order) if refits else None,
        _joined(behaviors, order) if cut else None,
        _mean_by_network([part.by_network for part in parts], refits) if refits else (),
        _mean_by_network([part.behavior_by_network for part in parts], behaviors) if cut else (),
        _mean_by_network([(part.moved,) for part in parts], refits)[0] if refits else 0.0,
        _mean_by_network([(part.behavior_moved,) for part in parts], behaviors)[0] if cut else 0.0,
        _joined_q(without, order) if without else None,
    )


def _joined_values(values: Sequence[FittedValues], order: Order) -> FittedValues:
    following = [one.next_v for one in values if one.next_v is not None]
    return FittedValues(
        order.per_row([one.q for one in values]),
        order.per_row([one.v for one in values]),
        order.per_row(following) if len(following) == len(values) else None,
    )


def _mean_values(values: Sequence[FittedValues]) -> FittedValues:
    following = [one.next_v for one in values if one.next_v is not None]
    return FittedValues(
        np.mean([one.q for one in values], axis=0),
        np.mean([one.v for one in values], axis=0),
        np.mean(following, axis=0) if len(following) == len(values) else None,
    )


def _averaged(of_networks: Sequence[CorrectedQ]) -> CorrectedQ:
    """The average of several networks on the same episodes; `imbalance` is that of the worst network."""
    refits = [one.refit for one in of_networks if one.refit is not None]
    behaviors = [one.behavior for one in of_networks if one.behavior is not None]
    return CorrectedQ(
        _mean_values([one.values for one in of_networks]),
        _mean_refit(refits) if refits else None,
        _mean_refit(behaviors) if behaviors else None,
        tuple(float(one.contributions.mean()) for one in refits),
        tuple(float(one.contributions.mean()) for one in behaviors),
    )


def _mean_refit(refits: Sequence[Refit]) -> Refit:
    if len(refits) == 1:
        return refits[0]
    means = {
        field.name: np.mean([getattr(one, field.name) for one in refits], axis=0)
        for field in dataclasses.fields(Refit)
        if field.name not in ("network_value", "imbalance")
    }
    return Refit(
        **means,
        network_value=float(np.mean([one.network_value for one in refits])),
        imbalance=max(one.imbalance for one in refits),
    )


def _mean_by_network(values: Sequence[tuple[float, ...]], refits: Sequence[Refit]) -> tuple[float, ...]:
    """Values by network of several folds, averaged over their episodes."""
    share = np.array([len(one.contributions) for one in refits], float)
    mean = (share / share.sum()) @ np.array(values, float).reshape(len(values), -1)
    return tuple(float(of_network) for of_network in mean)


def _joined(refits: Sequence[Refit], order: Order) -> Refit:
    """The refits of all folds, as of the whole log."""
    counts = np.array([len(one.contributions) for one in refits])
    return Refit(
        order.per_episode([one.contributions for one in refits]),
        float(counts @ np.array([one.network_value for one in refits]) / counts.sum()),
        order.per_row([one.visits for one in refits]),
        order.per_row([one.weights for one in refits]),
        order.per_row([one.residual for one in refits]),
        order.per_episode([one.first for one in refits]),
        max(one.imbalance for one in refits),
    )


def refusal_of_q(name: str, log: Dataset, estimand: Estimand) -> str | None:
    """Why an estimator of this name has no fitted Q for such a log and estimand; None where it has."""
    longest = int(log.episode_lengths.max())
    endless = estimand.horizon is None or longest < estimand.horizon
    if estimand.gamma == 1 and endless and not log.terminated.any():
        return (
            f"{name} needs episodes that end, a discount below 1, or a horizon: no episode of this log ends, and undiscounted "
            f"rewards would add up without end. With `horizon` at most {longest} it applies."
        )
    if log.observation_table.ndim != 2:
        return f"{name} fits a Q to vectors; this log's observations are images of shape {log.observation_shape}."
    return None
