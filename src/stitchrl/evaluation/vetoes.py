"""What can forbid a GO even where the gain is shown: a group of episodes that loses, and a cost above its limit."""

from __future__ import annotations

import dataclasses

from stitchrl.evaluation.costs import CostLimits
from stitchrl.evaluation.group_gains import GroupGains

__all__ = ["Vetoes"]


@dataclasses.dataclass(frozen=True)
class Vetoes:
    """The groups and the costs that were asked for.

    Attributes:
        groups: the primary gain in each group; None where no group was asked for, or there is no primary gain.
        costs: each cost against its limit; None where no cost was asked for.
    """

    groups: GroupGains | None = None
    costs: CostLimits | None = None

    def rule(self, margin: float) -> str:
        """What must hold."""
        groups = f"no group lies wholly below {margin:g}" if self.groups is not None else ""
        costs = "no cost lies wholly above its limit" if self.costs is not None else ""
        return " and ".join(filter(None, (groups, costs)))

    def parts(self) -> list[tuple[bool, str]]:
        """Whether each group and each cost lets a GO pass, with a sentence that says why."""
        return [part for found in (self.groups, self.costs) if found is not None for part in found.parts()]

    @property
    def judged(self) -> bool:
        """Whether everything that was asked for could be judged, groups of too few episodes left out."""
        return all(found.judged for found in (self.groups, self.costs) if found is not None)
