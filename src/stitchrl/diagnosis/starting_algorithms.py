"""The algorithms that a run starts from before anything is known of its log, with the settings that the main job gives them."""

from __future__ import annotations

import dataclasses
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.filtered_bc import FilteredBC
from stitchrl.algorithms.iql import IQL
from stitchrl.algorithms.spibb import SPIBB
from stitchrl.algorithms.td3bc import TD3BC
from stitchrl.algorithms.vilcb import VILCB

__all__ = ["FEW_EPISODES", "default_algorithms", "job_algorithm", "why_default"]

FEW_EPISODES = 100
"""With fewer episodes the validation part has fewer than ten, and would choose among many candidates by luck."""


def default_algorithms(
    gamma: float, *, numbered_states: bool = False, continuous: bool = False, episodes: int = FEW_EPISODES
) -> tuple[Algorithm, ...]:
    """The candidates of a run: small networks, rewards scaled to unit spread of returns.

    IQL's inverse temperature and CQL's weight are in units of that spread. The mode of a mildly weighted IQL actor keeps to
    actions that the log supports well, so that its gain can also be shown.

    Args:
        gamma: the discount of the log.
        numbered_states: whether states can be counted (`numbers_states`): SPIBB and VILCB, which count them, are then added.
        continuous: whether actions are continuous: then only algorithms that learn from such are given, with the step sizes of
            their papers, and CQL with a sampled gradient, since it would otherwise take as long as all others together.
        episodes: with fewer than `FEW_EPISODES` there is no CQL, so that fewer candidates are compared.
    """
    small: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    value = small | {"gamma": gamma, "target_rate": 0.02}
    few = episodes < FEW_EPISODES
    if continuous:
        return (
            BC(**small),
            FilteredBC(**small),
            IQL(gamma=gamma, hidden_sizes=(128, 128)),
            TD3BC(gamma=gamma, hidden_sizes=(128, 128)),
            *(() if few else (CQL(gamma=gamma, hidden_sizes=(128, 128), gradient_samples=4),)),
        )
    counting = (SPIBB(gamma=gamma), VILCB(gamma=gamma)) if numbered_states else ()
    return (
        BC(**small),
        FilteredBC(**small),
        IQL(expectile=0.8, inverse_temperature=10.0, **value),
        *(() if few else (CQL(cql_weight=0.2, **value),)),
        *counting,
        DQN(**value),
    )


def why_default(*, numbered_states: bool, continuous: bool, episodes: int) -> str:
    """The reason for the choice of `default_algorithms`, in a sentence."""
    kind = (
        "actions are vectors, which these learn from"
        if continuous
        else "actions are numbered, and DQN is there as a warning"
    )
    counted = "; states are numbered, so SPIBB and VILCB count them" if numbered_states and not continuous else ""
    few = (
        f"; with {episodes:,} episodes few are tried, since the validation part would choose among many by luck"
        if episodes < FEW_EPISODES
        else ""
    )
    return f"Candidates that fit the log: {kind}{counted}{few}."


JOB_SETTINGS: dict[str, Any] = {"first_temperature": 0.01, "critic_bc_weight": 1e-4, "warm_start_updates": 200}
"""Settings, for the algorithms that have them, that suit rewards divided by the spread of returns, and short trainings."""


def job_algorithm(kind: type[Algorithm], gamma: float, *, continuous: bool = False) -> Algorithm:
    """An algorithm with the settings that the main job gives it: those of `default_algorithms`, else its own defaults.

    Where rewards are scaled to unit spread of returns, a decision's reward is small: terms beside it start smaller here than in
    the papers (the entropy of soft actors, ReBRAC's penalty in the target), and BEAR only imitates for its first 200 updates.

    Args:
        kind: the class of the algorithm.
        gamma: the log's discount.
        continuous: whether the log's actions are.
    """
    for algorithm in default_algorithms(gamma, continuous=continuous):
        if type(algorithm) is kind:
            return algorithm
    fields = {field.name for field in dataclasses.fields(kind)}
    given = {"gamma": gamma, **JOB_SETTINGS}
    return kind(**{name: value for name, value in given.items() if name in fields})
