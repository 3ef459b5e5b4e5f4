"""The rungs of the ladders between a policy and the behaviour, of discrete and of continuous actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["AnyRung", "ContinuousRung", "Rung", "rung_from"]


@dataclasses.dataclass(frozen=True)
class Rung:
    """A rung over discrete actions, as in `nn.ladder.LadderPolicy`.

    Attributes:
        power: of the ratio of the probabilities of policy and behaviour.
        floor: least behaviour probability of an action that is taken.
    """

    power: float
    floor: float


@dataclasses.dataclass(frozen=True)
class ContinuousRung:
    """A rung over continuous actions, as in `nn.continuous_ladder.ContinuousLadderPolicy`.

    Attributes:
        reach: the most standard deviations by which the behaviour's action is moved towards that of the policy.
        spread: factor of the behaviour's standard deviation.
    """

    reach: float
    spread: float


AnyRung: TypeAlias = Rung | ContinuousRung


def rung_from(content: Mapping[str, Any]) -> AnyRung | None:
    """The rung that the entries of a file describe; None where they describe none."""
    for kind in (Rung, ContinuousRung):
        found = {field.name: content.get(field.name) for field in dataclasses.fields(kind)}
        if None not in found.values():
            return kind(**found)  # type: ignore[arg-type]
    return None
