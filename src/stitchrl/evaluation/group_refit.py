"""The corrected Q of `evaluation/refit.py` for groups of first states: one matrix, a right-hand side for each group.

    (1)  w_g = E[1_g psi_0]^T A^{-1} psi,    u_ig = 1_g(i) (V(s_0) + psi_0^T theta) + sum_t w_g rho_t (delta_t - ...)
    (2)  value of group g = E[u_g] / E[1_g]

with 1_g(i) = 1 for the episodes of group g, and the rest as in `refit.py`. All episodes tell about the states that a group comes
to, so that masking the contributions of the whole log would be wrong: those of the group's own episodes are not in balance by
themselves. The balance is tested for each group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ
from stitchrl.evaluation.groups import Groups
from stitchrl.evaluation.joint_correction import Joint, solve_jointly, trace_rate
from stitchrl.evaluation.linear_system import Solved, solve_with_ratios, solve_without_ratios
from stitchrl.evaluation.refit import FitQ, ratio_of
from stitchrl.types import NumpyArray

__all__ = ["FitGroups", "GroupRefit", "RefitOfGroups"]


class GroupRefit(NamedTuple):
    """Equations (1) for G groups on n episodes of N transitions, each times the share of the group.

    Attributes:
        contributions: (n, G) u_ig.
        visits: (N, G) w_g.
        weights: (N, G) w_g rho_t.
        residual: (N,) the TD error that the correction leaves.
        first: (n,) the value of each first state.
        imbalance: (G,) as `Refit.imbalance`, for the first states of each group.
    """

    contributions: Float[NumpyArray, "n G"]
    visits: Float[NumpyArray, "N G"]
    weights: Float[NumpyArray, "N G"]
    residual: Float[NumpyArray, " N"]
    first: Float[NumpyArray, " n"]
    imbalance: Float[NumpyArray, " G"]


class RefitOfGroups(NamedTuple):
    """The policy's values in groups, and the behaviour's by the same equations where episodes were cut.

    Attributes:
        policy: the policy's values.
        behavior: the behaviour's values; None where no episode was cut.
        by_network: (K, G) as `CorrectedQ.by_network`, each times the share of the group.
        behavior_by_network: the same for the behaviour.
        moved: (G,) by how much traces move each of the policy's values, times the share of the group.
        behavior_moved: the same for the behaviour.
    """

    policy: GroupRefit
    behavior: GroupRefit | None
    by_network: Float[NumpyArray, "K G"]
    behavior_by_network: Float[NumpyArray, "K G"] | None
    moved: Float[NumpyArray, " G"]
    behavior_moved: Float[NumpyArray, " G"] | None


@dataclasses.dataclass(frozen=True)
class FitGroups:
    """The request for the corrected Q in groups, from the networks that `FitQ` fits.

    Attributes:
        groups: the groups of episodes.
        with_ratios: whether the correction uses ratios; otherwise features of the logged action take their place.
    """

    groups: Groups
    with_ratios: bool = True

    def fit(self, data: FitData) -> Sequence[list[FittedQ]]:
        """The networks of every policy."""
        return data.models(FitQ())

    def apply(self, model: list[FittedQ], fold: Fold, policy: int) -> RefitOfGroups:
        """The correction in each group, on the episodes of a fold; the mean over networks."""
        log, gamma, members = fold.timed_log, fold.data.gamma, self.groups.members(fold.log)
        choices = [(fold.choices(policy), fold.next_choices(policy))]
        networks = [network.on_many(log, choices, logged=not self.with_ratios)[0] for network in model]
        as_logged = [fitted | {"q": fitted["v"]} for fitted in networks]
        ones, cut = np.ones(log.num_transitions), not log.terminated[log.episode_start[1:] - 1].all()
        if not self.with_ratios:
            solved = [solve_without_ratios(log, fitted, gamma=gamma) for fitted in networks]
            own = [solve_with_ratios(log, fitted, ones, gamma=gamma) for fitted in as_logged] if cut else []
            return _refit_of_groups(_of_each(solved, members), _of_each(own, members) if cut else None)
        log_ratio = fold.log_ratio(policy)
        assert log_ratio is not None
        ratio = ratio_of(log_ratio)
        if fold.log.num_actions is not None:
            solved = [solve_with_ratios(log, fitted, ratio, gamma=gamma) for fitted in networks]
            own = [solve_with_ratios(log, fitted, ones, gamma=gamma) for fitted in as_logged] if cut else []
            return _refit_of_groups(_of_each(solved, members), _of_each(own, members) if cut else None)
        rate = trace_rate(ratio * log.can_bootstrap, log.discount(gamma))
        joint = solve_jointly(log, networks, ratio, gamma=gamma, rate=rate)
        of_behavior = solve_jointly(log, as_logged, ones, gamma=gamma, rate=rate) if cut else None
        return _refit_of_groups(_of_all(joint, members), None if of_behavior is None else _of_all(of_behavior, members))

    def join(self, parts: Sequence[RefitOfGroups], order: Order) -> RefitOfGroups:
        """The corrections of all folds, as of the whole log."""
        behaviors = [part.behavior for part in parts if part.behavior is not None]
        whole = len(behaviors) == len(parts)
        share = np.array([len(part.policy.contributions) for part in parts], float)
        share /= share.sum()
        moved = [part.behavior_moved for part in parts if part.behavior_moved is not None]
        of_behavior = [part.behavior_by_network for part in parts if part.behavior_by_network is not None]
        return RefitOfGroups(
            _joined([part.policy for part in parts], order),
            _joined(behaviors, order) if whole else None,
            np.tensordot(share, np.stack([part.by_network for part in parts]), 1),
            np.tensordot(share, np.stack(of_behavior), 1) if whole else None,
            np.tensordot(share, np.stack([part.moved for part in parts]), 1),
            np.tensordot(share, np.stack(moved), 1) if whole else None,
        )


OfGroups = tuple[GroupRefit, Float[NumpyArray, "K G"], Float[NumpyArray, " G"]]
"""Values in groups, those by network, and how far traces moved them."""


def _refit_of_groups(policy: OfGroups, behavior: OfGroups | None) -> RefitOfGroups:
    own, by_network, moved = (None, None, None) if behavior is None else behavior
    return RefitOfGroups(policy[0], own, policy[1], by_network, policy[2], moved)


def _of_each(solved: Sequence[Solved], members: Float[NumpyArray, "n G"]) -> OfGroups:
    """Values in groups by networks that are corrected one by one, averaged."""
    refits = [_by_group(one, members) for one in solved]
    return _mean(refits), _by_network(refits), np.zeros(members.shape[1])


def _of_all(joint: Joint, members: Float[NumpyArray, "n G"]) -> OfGroups:
    """Values in groups by networks that are corrected together, with traces."""
    by_network = np.array([joint.by_network(member) for member in members.T]).T
    return _by_group(joint.solved, members), by_network, np.array([joint.moved(member) for member in members.T])


def _by_group(solved: Solved, members: Float[NumpyArray, "n G"]) -> GroupRefit:
    found = [solved.visits(member) for member in members.T]
    visits = np.stack([of_group for of_group, _ in found], axis=1)
    contributions = [
        solved.contributions(of_group, member) for (of_group, _), member in zip(found, members.T, strict=True)
    ]
    return GroupRefit(
        np.stack(contributions, axis=1),
        visits,
        visits * solved.ratio[:, None],
        solved.residual,
        solved.first,
        np.array([imbalance for _, imbalance in found]),
    )


def _mean(refits: Sequence[GroupRefit]) -> GroupRefit:
    """The mean of several networks; `imbalance` is that of the worst network."""
    contributions, visits, weights, residual, first, imbalance = zip(*refits, strict=True)
    return GroupRefit(
        np.mean(contributions, axis=0),
        np.mean(visits, axis=0),
        np.mean(weights, axis=0),
        np.mean(residual, axis=0),
        np.mean(first, axis=0),
        np.max(imbalance, axis=0),
    )


def _by_network(refits: Sequence[GroupRefit]) -> Float[NumpyArray, "networks G"]:
    return np.stack([one.contributions.mean(0) for one in refits])


def _joined(refits: Sequence[GroupRefit], order: Order) -> GroupRefit:
    contributions, visits, weights, residual, first, imbalance = zip(*refits, strict=True)
    return GroupRefit(
        order.per_episode(contributions),
        order.per_row(visits),
        order.per_row(weights),
        order.per_row(residual),
        order.per_episode(first),
        np.max(imbalance, axis=0),
    )
