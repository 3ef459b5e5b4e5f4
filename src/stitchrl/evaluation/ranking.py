"""Ranking of candidates on validation: by the lower end of the interval of their primary gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.verdict import choose_primary

__all__ = ["Ranked", "rank"]


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate's place.

    Attributes:
        index: position in the sequence that was ranked.
        estimator: of the gain it was ranked by; None where none has an interval.
        eligible: False for candidates kept as a warning, which are never selected.
    """

    index: int
    estimator: str | None
    eligible: bool


def rank(gains: Sequence[Mapping[str, Estimate]], eligible: Sequence[bool]) -> list[Ranked]:
    """Best first: eligible before not, healthy primary gains before unhealthy, then by lower end.

    The lower end and not the value: among many candidates the largest value is the luckiest. Ties keep their order.
    """
    rows = [Ranked(i, choose_primary(g), e) for i, (g, e) in enumerate(zip(gains, eligible, strict=True))]

    def key(row: Ranked) -> tuple[bool, bool, float]:
        estimate = gains[row.index][row.estimator] if row.estimator is not None else None
        if estimate is None or estimate.lower is None:
            return (not row.eligible, True, float("inf"))
        return (not row.eligible, not estimate.healthy, -estimate.lower)

    return sorted(rows, key=key)
