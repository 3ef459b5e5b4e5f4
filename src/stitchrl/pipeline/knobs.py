"""The one setting of each algorithm that decides most, and the values of it that a race tries.

Most of these settings say how far an algorithm may depart from the log. Values are in the main job's units: rewards are scaled so
that returns have a standard deviation of 1. Each grid holds the algorithm's own default and reaches to both sides of it.
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

__all__ = ["KNOBS", "Knob", "expanded", "knob_of"]


class Knob(NamedTuple):
    """A setting, and the values that a race tries.

    Attributes:
        setting: its name.
        values: from the most cautious to the boldest.
    """

    setting: str
    values: tuple[float, ...]


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


def knob_of(algorithm: Algorithm, *, continuous: bool) -> Knob | None:
    """The knob of an algorithm; None where it has none."""
    if algorithm.name == "BCQ":
        return BCQ_KNOBS["continuous" if continuous else "discrete"]
    return KNOBS.get(algorithm.name)


def expanded(
    candidates: Mapping[str, Algorithm], grid: Mapping[str, Sequence[Any]], *, continuous: bool
) -> list[tuple[str, Algorithm, str]]:
    """(label, algorithm, its knob) of every candidate with every value of its knob; a knob of "" is none.

    Args:
        candidates: label -> algorithm with its other settings.
        grid: "LABEL.setting" -> values, in place of the knob that is declared for the algorithm of that label.
        continuous: whether the log's actions are.

    Raises:
        ConfigurationError: a grid of an unknown label or setting, without values, or with one out of range; two of one label.
    """
    own: dict[str, Knob] = {}
    by_name = {label.lower(): label for label in candidates}
    for target, values in grid.items():
        label, dot, setting = str(target).rpartition(".")
        known = by_name.get(label.strip().lower())
        if not dot or known is None:
            raise ConfigurationError(
                f"A grid must be named LABEL.setting, such as IQL.expectile, of a candidate; got {printable(str(target))!r}. The "
                f"candidates are {', '.join(candidates)}."
            )
        if known in own:
            raise ConfigurationError(
                f"A race tries one setting of each candidate; {known} has the grids {own[known].setting} and {setting.strip()}. "
                "Name the algorithm twice to try both."
            )
        several = [values] if isinstance(values, str) or not isinstance(values, Sequence) else list(values)
        if not several:
            raise ConfigurationError(f"The grid {known}.{setting} needs at least one value; it has none.")
        own[known] = Knob(setting.strip(), tuple(several))
    found = []
    for label, algorithm in candidates.items():
        knob = own.get(label) or knob_of(algorithm, continuous=continuous)
        if knob is None:
            found.append((label, algorithm, ""))
            continue
        settings = dict.fromkeys(with_setting(algorithm, label, [knob.setting], value) for value in knob.values)
        for one in settings:
            value = getattr(one, knob.setting)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise ConfigurationError(
                    f"A race tries settings that are numbers; {label}.{knob.setting} is {printable(repr(value))}. The number "
                    f"settings of {algorithm.name} are {listed(_number_settings(algorithm), 20)}."
                )
        found += [(label, one, knob.setting) for one in settings]
    return found


def _number_settings(algorithm: Algorithm) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(algorithm)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    ]
