"""The one setting of each algorithm that decides most, and the values of it that a race tries.

Most of these settings say how far an algorithm may depart from the log. Values are in the main job's units: rewards are scaled so
that returns have a standard deviation of 1. Each grid holds the algorithm's own default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stitchrl.algorithms.base import Algorithm
from stitchrl.errors import ConfigurationError
from stitchrl.messages import listed, printable
from stitchrl.pipeline.assignments import with_setting

__all__ = ["KNOBS", "Entrant", "Knob", "entrants_of", "knob_of"]


class Knob(NamedTuple):
    """A setting, and the values that a race tries.

    Attributes:
        setting: its name.
        values: from the most cautious to the boldest.
    """

    setting: str
    values: tuple[Any, ...]


KNOBS: dict[str, Knob] = {
    "FilteredBC": Knob("top_fraction", (0.5, 0.25, 0.1)),
    "AdvantageBC": Knob("positive_share", (0.5, 0.3, 0.15)),
    "AWR": Knob("inverse_temperature", (0.3, 1.0, 3.0)),
    "AWAC": Knob("inverse_temperature", (1.0, 3.0, 10.0)),
    "IQL": Knob("expectile", (0.6, 0.7, 0.8, 0.9)),
    "IDQL": Knob("expectile", (0.6, 0.7, 0.8, 0.9)),
    "SQL": Knob("temperature", (3.0, 1.0, 0.3)),
    "EQL": Knob("temperature", (5.0, 2.0, 0.5)),
    "XQL": Knob("temperature", (5.0, 2.0, 1.0)),
    "CQL": Knob("cql_weight", (5.0, 1.0, 0.2, 0.05)),
    "COMBO": Knob("cql_weight", (10.0, 5.0, 1.0)),
    "MOPO": Knob("penalty_weight", (5.0, 2.5, 1.0)),
    "BCQIQL": Knob("threshold", (0.6, 0.3, 0.1)),
    "TD3BC": Knob("q_weight", (0.5, 1.0, 2.5, 5.0)),
    "ReBRAC": Knob("actor_bc_weight", (0.1, 0.03, 0.01, 0.003)),
    "BEAR": Knob("mmd_threshold", (0.02, 0.05, 0.1)),
    "FQL": Knob("distill_weight", (100.0, 30.0, 10.0)),
    "SACN": Knob("num_critics", (20, 10, 5)),
    "EDAC": Knob("num_critics", (20, 10, 5)),
    "SPIBB": Knob("least_count", (30, 10, 3)),
    "VILCB": Knob("penalty_weight", (0.3, 0.1, 0.03)),
}
"""Name of the algorithm -> its knob. `BC` has none, nor have those that a race does not take."""
BCQ_KNOBS = {"discrete": Knob("threshold", (0.6, 0.3, 0.1)), "continuous": Knob("perturbation_limit", (0.0, 0.05, 0.2))}
"""What BCQ's caution is depends on the kind of action."""


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A candidate of a race: an algorithm with one value of its knob, and a seed.

    Attributes:
        label: of the algorithm, such as "IQL-2".
        algorithm: with its settings.
        knob: the setting that the race varies; "" where it varies none.
        seed: it is trained with.
        seeded: whether there are others that differ in the seed alone, so that its title names the seed.
    """

    label: str
    algorithm: Algorithm
    knob: str
    seed: int
    seeded: bool = False

    @property
    def title(self) -> str:
        """As shown in tables, such as "IQL expectile 0.8"; no two candidates of a race share it."""
        words = [self.label, *([f"{self.knob} {getattr(self.algorithm, self.knob):.10g}"] if self.knob else [])]
        return " ".join([*words, *([f"seed {self.seed}"] if self.seeded else [])])


def knob_of(algorithm: Algorithm, *, continuous: bool) -> Knob | None:
    """The knob of an algorithm; None where it has none."""
    if algorithm.name == "BCQ":
        return BCQ_KNOBS["continuous" if continuous else "discrete"]
    return KNOBS.get(algorithm.name)


def entrants_of(
    candidates: Mapping[str, Algorithm], grid: Mapping[str, Sequence[Any]], *, continuous: bool, seeds: int = 1
) -> list[Entrant]:
    """Every candidate with every value of its knob, and every seed.

    Args:
        candidates: label -> algorithm with its other settings.
        grid: "LABEL.setting" -> values, in place of the knob that is declared for the algorithm of that label.
        continuous: whether the log's actions are.
        seeds: of each; what is solved in closed form is the same for every seed, and has one.

    Raises:
        ConfigurationError: a grid of an unknown label or setting, without values, or with one out of range; two of one label.
    """
    own = _own_knobs(candidates, grid)
    found = []
    for label, algorithm in candidates.items():
        knob = own.get(label) or knob_of(algorithm, continuous=continuous)
        several = [algorithm] if knob is None else _with_values(label, algorithm, knob)
        count = 1 if algorithm.closed_form else seeds
        found += [
            Entrant(label, one, "" if knob is None else knob.setting, seed, seeded=count > 1)
            for one in several
            for seed in range(count)
        ]
    return found


def _own_knobs(candidates: Mapping[str, Algorithm], grid: Mapping[str, Sequence[Any]]) -> dict[str, Knob]:
    """Label -> the knob that a grid gives it."""
    own: dict[str, Knob] = {}
    by_name = {label.lower(): label for label in candidates}
    for target, values in grid.items():
        label, dot, setting = str(target).rpartition(".")
        known = by_name.get(label.strip().lower())
        if not dot or known is None:
            raise ConfigurationError(
                f"A grid must be named LABEL.setting, such as IQL.expectile, of a candidate; got {printable(str(target))!r}. "
                f"The candidates are {', '.join(candidates)}."
            )
        if known in own:
            raise ConfigurationError(
                f"A race tries one setting of each candidate; {known} has the grids {own[known].setting} and "
                f"{setting.strip()}. Name the algorithm twice to try both."
            )
        several = [values] if isinstance(values, str) or not isinstance(values, Sequence) else list(values)
        if not several:
            raise ConfigurationError(f"The grid {known}.{setting} needs at least one value; it has none.")
        own[known] = Knob(setting.strip(), tuple(several))
    return own


def _with_values(label: str, algorithm: Algorithm, knob: Knob) -> list[Algorithm]:
    """The algorithm with each value of a knob, each once."""
    found: list[Algorithm] = []
    for value in knob.values:
        one: Algorithm = with_setting(algorithm, label, [knob.setting], value)
        number = getattr(one, knob.setting)
        if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
            raise ConfigurationError(
                f"A race tries settings that are numbers; {label}.{knob.setting} is {printable(repr(number))}. The number "
                f"settings of {algorithm.name} are {listed(_number_settings(algorithm), 20)}."
            )
        if one not in found:
            found.append(one)
    return found


def _number_settings(algorithm: Algorithm) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(algorithm)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    ]
