"""Guessing what the columns of a log mean from their names. A person should check the guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from stitchrl.data.schema import ROLES

__all__ = ["guess_columns"]

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "episode": (
        "episode_id",
        "ep",
        "trajectory",
        "trajectory_id",
        "traj_id",
        "session",
        "session_id",
        "stay",
        "stay_id",
    ),
    "step": ("t", "timestep", "time_step", "step_id", "frame_index", "frame"),
    "observation": ("observations", "obs", "state", "states", "features"),
    "action": ("actions", "act", "action_id", "item_id", "arm"),
    "reward": ("rewards", "outcome", "click", "return_at_step"),
    "next_observation": ("next_observations", "next_obs", "next_state", "next_states"),
    "terminated": ("terminal", "terminals", "terminations", "is_terminal", "done", "dones"),
    "truncated": ("timeout", "timeouts", "truncations", "truncation", "is_truncated"),
    "behavior_log_prob": ("log_prob", "logp", "action_log_prob", "behaviour_log_prob"),
    "propensity": ("propensity_score", "pscore", "action_prob", "behavior_prob"),
    "behavior_probs": ("action_probs", "behaviour_probs"),
    "action_mask": ("mask", "legal_actions", "admissible", "available_actions"),
    "time": ("timestamp", "datetime", "charttime", "date"),
    "group": ("patient", "patient_id", "subject_id", "user_id", "machine_id"),
    "source": ("policy", "dataset_source", "behavior_policy"),
}
"""Role -> other names by which logs call it, from the most to the least telling."""
NUMBERED = {
    "observation": r"(?:obs|observation|state|s|feature|user_feature|x)[_\[.]?[0-9]{1,9}\]?",
    "next_observation": r"next_(?:obs|observation|state|s)[_\[.]?[0-9]{1,9}\]?",
    "action": r"(?:act|action|a)[_\[.]?[0-9]{1,9}\]?",
}
"""Role -> a pattern of numbered columns that hold a vector: obs_0, obs_1, ..."""


def guess_columns(names: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Role -> column, for the columns whose names tell their role. A role's own name is preferred to any synonym."""
    guessed: dict[str, str | tuple[str, ...]] = {name: name for name in names if name in ROLES}
    taken = set(guessed)
    lower = {name.lower(): name for name in reversed(names)}
    for role, others in SYNONYMS.items():
        if role in guessed or (role == "propensity" and "behavior_log_prob" in guessed):
            continue
        for other in (role, *others):
            if other in lower and lower[other] not in taken:
                guessed[role] = lower[other]
                taken.add(lower[other])
                break
    for role, pattern in NUMBERED.items():
        if role not in guessed:
            numbered = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
            if len(numbered) > 1:
                guessed[role] = tuple(sorted(numbered, key=_number))
    return guessed


def _number(name: str) -> int:
    """The last number in a name."""
    return int(re.findall(r"[0-9]+", name)[-1])
