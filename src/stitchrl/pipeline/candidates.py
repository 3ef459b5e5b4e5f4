"""The candidates of the main job: algorithms under labels, and what each seed of one would deploy."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.atoms import Atoms
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.starting_algorithms import default_algorithms, job_algorithm, why_default
from stitchrl.errors import ConfigurationError
from stitchrl.messages import printable
from stitchrl.nn.clipped import ClippedPolicy
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import ContinuousValue, DiscreteValue
from stitchrl.pipeline.rungs import AnyRung
from stitchrl.reporting.rungs import rung_in_words

__all__ = [
    "Candidate",
    "default_algorithms",
    "forms_of",
    "job_algorithm",
    "labelled",
    "unique_labels",
    "why_default",
]

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _+-]{0,58}[A-Za-z0-9_+-]|[A-Za-z0-9]")
"""A label is also the name of a folder, and what stands before the dot of `--set LABEL.setting=value`."""


def unique_labels(names: Iterable[str]) -> list[str]:
    """Names made labels: the second of one name gets "-2", the third "-3", unless that is somebody's name already."""
    names = list(names)
    labels: list[str] = []
    for name in names:
        label, number = name, 1
        while label in labels or (number > 1 and label in names):
            number += 1
            label = f"{name}-{number}"
        labels.append(label)
    return labels


def labelled(algorithms: Any) -> dict[str, Algorithm]:
    """The candidates of a run, checked: label -> algorithm.

    Args:
        algorithms: label -> algorithm; or algorithms alone, which are labelled by their names, the second IQL "IQL-2";
            or a single algorithm.

    Raises:
        ConfigurationError: none that may be selected, two of one label, or a label that cannot name a folder.
    """
    if isinstance(algorithms, Mapping):
        found = dict(algorithms)
    else:
        several = list(algorithms) if isinstance(algorithms, Sequence) else [algorithms]
        labels = unique_labels(getattr(algorithm, "name", "candidate") for algorithm in several)
        found = dict(zip(labels, several, strict=True))
    if not found:
        raise ConfigurationError("A run needs at least one candidate; got none.")
    taken: dict[str, str] = {}
    for label, algorithm in found.items():
        if not isinstance(algorithm, Algorithm):
            raise ConfigurationError(
                f"Candidate {printable(str(label))!r} must be an algorithm with its settings, such as st.IQL(); got "
                f"{printable(repr(algorithm))}."
            )
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise ConfigurationError(
                "The label of a candidate must be 1 to 60 letters, digits, spaces or any of - _ +, and begin with a "
                f"letter or digit; got {printable(repr(label))}."
            )
        # Some file systems do not tell large letters from small ones.
        other = taken.setdefault(label.lower(), label)
        if other != label:
            raise ConfigurationError(
                f"The labels of candidates must differ by more than the case of letters; got {other!r} and {label!r}."
            )
    if all(algorithm.caution for algorithm in found.values()):
        names = ", ".join(dict.fromkeys(algorithm.name for algorithm in found.values()))
        raise ConfigurationError(
            f"A run needs an algorithm that may be selected; {names} is only shown as a warning. Add another."
        )
    return found


def forms_of(algorithm: Algorithm, policy: Any, atoms: Atoms | None) -> list[tuple[str, Any]]:
    """The ways in which a trained policy may act: as its algorithm says; over continuous actions the others as well.

    A deterministic policy often gains more, and one with a density can be weighed: which can be shown better is
    for the ranking to say. Where logged actions were clipped, what is drawn from a normal is clipped as they were.

    Args:
        algorithm: that trained it.
        policy: as trained.
        atoms: the bounds to which the actions of the training part were clipped; None where they were not.
    """
    if isinstance(policy, DiscretePolicy):
        greedy = algorithm.acts == "greedy"  # "sample" says nothing of discrete actions
        return [("greedy", policy.greedy()) if greedy else ("as trained", policy)]
    if atoms is not None and policy.is_normal:
        drawn = ClippedPolicy(policy, atoms.low, atoms.high)
        return [("greedy", policy.greedy()), ("as trained", drawn)]
    return [("greedy", policy.greedy()), *([("as trained", policy)] if policy.has_density else [])]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate trained with one seed, as it would be deployed.

    Attributes:
        label: of the algorithm with its settings, such as "IQL-2".
        algorithm: with its settings.
        seed: it was trained with.
        policy: what would be deployed.
        value: its own value functions; None where the algorithm has none.
        trained: the policy as it was trained, before it was made greedy or put on a ladder.
        rung: of the ladder between the trained policy and the behaviour; None: it is on no ladder.
        acts: "greedy", or "as trained".
    """

    label: str
    algorithm: Algorithm
    seed: int
    policy: DiscretePolicy | ContinuousPolicy
    value: DiscreteValue | ContinuousValue | None
    trained: DiscretePolicy | ContinuousPolicy
    rung: AnyRung | None = None
    acts: str = "as trained"

    @property
    def title(self) -> str:
        """As shown in tables, e.g. "IQL-2 seed 1, greedy" or "IQL seed 0, ladder 3 from 5%"."""
        if self.rung is not None:
            return f"{self.label} seed {self.seed}, {rung_in_words(dataclasses.asdict(self.rung))}"
        form = "" if self.acts == self.algorithm.acts == "as trained" else f", {self.acts}"
        return f"{self.label} seed {self.seed}{form}"

    def claimed(self, log: Dataset) -> float | None:
        """The value its own critics claim, over the first observations of a log; None without critics."""
        if self.value is None:
            return None
        first = log.episode_start[:-1]
        obs = log.observation_table[log.observation_index[first]]
        if isinstance(self.value, ContinuousValue):
            acting = self.policy.sample(obs, key=jax.random.key(0))
            return float(np.asarray(self.value.q(obs, acting), np.float64).mean())
        assert isinstance(self.policy, DiscretePolicy)
        mask = None if log.action_mask is None else log.action_mask[first]
        q = np.asarray(self.value.q_all(obs), np.float64)
        return float((np.asarray(self.policy.probs(obs, action_mask=mask)) * q).sum(1).mean())
