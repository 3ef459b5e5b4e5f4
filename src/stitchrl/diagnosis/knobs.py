"""Which setting of an algorithm holds its policy nearer to the log, for the remedies of findings."""

from __future__ import annotations

from stitchrl.algorithms.base import Algorithm

__all__ = ["nearer_to_log"]

NEARER = {
    "cql_weight": "larger",
    "actor_bc_weight": "larger",
    "q_weight": "smaller",
    "threshold": "larger",
    "mmd_threshold": "smaller",
    "distill_weight": "larger",
    "penalty_weight": "larger",
    "least_count": "larger",
    "inverse_temperature": "smaller",
    "temperature": "larger",
    "expectile": "smaller",
}
"""Setting -> the direction in which the policy stays nearer to the log; the strongest first."""
PESSIMISM = {"deviations": "larger", "num_critics": "larger"}
"""The same of what makes critics pessimistic, for algorithms that have nothing else."""
MOST_NAMED = 2
WITHOUT = ("DQN", "SAC", "DDPG", "TD3")
"""Algorithms that nothing holds to the log, although they have critics to tell."""


def nearer_to_log(algorithm: Algorithm | None) -> str:
    """What to change so that the policy stays nearer to the log, as a sentence."""
    if algorithm is None:
        return "Hold the policy nearer to the log, or use an algorithm that keeps to the log's actions (IQL, BCQ, CQL)."
    name = algorithm.name
    for settings in () if name in WITHOUT else (NEARER, PESSIMISM):
        known = [(setting, getattr(algorithm, setting, None)) for setting in settings]
        told = [f"a {settings[setting]} `{setting}` (now {now:g})" for setting, now in known if now is not None]
        if told:
            return f"Hold the policy nearer to the log by {' or '.join(told[:MOST_NAMED])}."
    return f"Nothing holds {name} to the actions of the log: use an algorithm that does (IQL, BCQ, CQL)."
