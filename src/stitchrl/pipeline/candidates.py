"""The candidates of the main job: algorithms under labels, and what each seed of one would deploy."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.filtered_bc import FilteredBC
from stitchrl.algorithms.iql import IQL
from stitchrl.algorithms.spibb import SPIBB
from stitchrl.algorithms.td3bc import TD3BC
from stitchrl.algorithms.vilcb import VILCB
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.messages import printable
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import ContinuousValue, DiscreteValue

__all__ = ["Candidate", "Rung", "default_algorithms", "job_algorithm", "labelled", "unique_labels", "why_default"]

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _+-]{0,58}[A-Za-z0-9_+-]|[A-Za-z0-9]")
"""A label is also the name of a folder, and what stands before the dot of `--set LABEL.setting=value`."""


FEW_EPISODES = 100
"""Below so many, the validation part has fewer than ten: it would choose among many candidates by luck."""


def default_algorithms(
    gamma: float, *, numbered_states: bool = False, continuous: bool = False, episodes: int = FEW_EPISODES
) -> tuple[Algorithm, ...]:
    """The candidates of a run: small networks, rewards scaled to unit spread of returns.

    With fewer `episodes` than `FEW_EPISODES`, only imitation and IQL (and TD3+BC over continuous actions).

    With `continuous`, for a log of continuous actions, those that learn from such, at the steps of their papers: CQL with a
    sampled gradient, since it would otherwise take as long as all others together.

    With `numbered_states`, for a log whose states can be counted (`numbers_states`), also the two that count them. IQL's
    inverse temperature and CQL's weight are in units of that spread. The mode of a mildly weighted IQL actor keeps to
    actions the log supports well, so that what it gains can also be shown.
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
    """Why `default_algorithms` gives what it gives, in a sentence."""
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
"""Settings, of whichever algorithm has them, for rewards in units of the spread of returns and for the job's short trainings."""


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


@dataclasses.dataclass(frozen=True)
class Rung:
    """A rung of the ladder between a policy and the behaviour, as in `nn.ladder.LadderPolicy`.

    Attributes:
        power: of the ratio of their probabilities.
        floor: least behaviour probability of an action that is taken.
    """

    power: float
    floor: float


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
    rung: Rung | None = None
    acts: str = "as trained"

    @property
    def title(self) -> str:
        """As shown in tables, e.g. "IQL-2 seed 1, greedy" or "IQL seed 0, ladder 3 from 5%"."""
        if self.rung is not None:
            return f"{self.label} seed {self.seed}, ladder {self.rung.power:g} from {self.rung.floor:.0%}"
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
