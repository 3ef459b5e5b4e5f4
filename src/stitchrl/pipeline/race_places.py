"""The places of a round's candidates, and what becomes of each and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.ranking import Ranked, passed_over
from stitchrl.evaluation.results import Estimate
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.race_result import Row
from stitchrl.pipeline.rungs import ContinuousRung, Rung

__all__ = ["Judged", "place_candidates"]

UNCONFIRMED = "a verdict could not confirm its gain"
"""Why a candidate with a larger bound stands behind."""


class Judged(NamedTuple):
    """A policy of a candidate, its estimates on validation, and its rank."""

    candidate: Candidate
    evaluation: Evaluation
    ranked: Ranked


def place_candidates(order: Sequence[Judged], updates: Mapping[str, int], go_on: int) -> list[Row]:
    """A row for each candidate, best first; each has the place of the best of its policies.

    A candidate with the very numbers of a better one is the same policy, as where a filter of episodes by their return keeps the
    same ones: it is dropped, so that it does not take the place of another candidate.

    Args:
        order: every policy of every candidate, best first.
        updates: title of a candidate -> gradient updates that it has made.
        go_on: how many go on; 0 in the final.
    """
    best: dict[str, Judged] = {}
    for one in order:
        best.setdefault(one.candidate.label, one)
    seen: dict[tuple[object, ...], str] = {}
    rows: list[Row] = []
    places_left = go_on or 1
    for place, (title, one) in enumerate(best.items(), 1):
        twin = seen.setdefault(_numbers(one), title)
        if twin != title:
            fate, why = "dropped", f"the same policy as {twin}, with the same estimates to the last digit"
        else:
            fate = ("goes on" if go_on else "wins") if places_left > 0 else ("dropped" if go_on else "loses the final")
            ahead = f"; the best {go_on} go on" if go_on else ""
            why = f"place {place} of {len(best)}{ahead}{_behind(one, list(best.values())[: place - 1])}"
            places_left -= 1
        rows.append(_row(one, updates[title], place, fate, why))
    return rows


def _numbers(one: Judged) -> tuple[object, ...]:
    """What tells one policy from another: its estimated value and gain, unrounded."""
    name = one.ranked.estimator
    if name is None:
        return (one.candidate.label,)
    value, gain = one.evaluation.estimates[name], one.evaluation.gain[name]
    return name, value.value, value.standard_error, gain.value, gain.standard_error


def _behind(one: Judged, ahead: Sequence[Judged]) -> str:
    """Why a candidate stands behind others, where it is not by its bound alone."""
    if one.ranked.estimator is None:
        return "; no estimate of its gain has an interval"
    if one.ranked.healthy:
        return f"; {UNCONFIRMED}" if passed_over(one.ranked, [other.ranked for other in ahead]) else ""
    reasons = one.evaluation.gain[one.ranked.estimator].reasons
    return f"; checks fail: {reasons[0] if reasons else 'one is predicted to fail on the test part'}"


def _row(one: Judged, updates: int, place: int, fate: str, why: str) -> Row:
    name, rung = one.ranked.estimator, one.candidate.rung
    value: Estimate | None = None if name is None else one.evaluation.estimates[name]
    gain: Estimate | None = None if name is None else one.evaluation.gain[name]
    return Row(
        title=one.candidate.label,
        acts=one.candidate.acts,
        power=rung.power if isinstance(rung, Rung) else None,
        floor=rung.floor if isinstance(rung, Rung) else None,
        updates=updates,
        place=place,
        estimator=name,
        value=None if value is None else value.value,
        lower=None if value is None else value.lower,
        upper=None if value is None else value.upper,
        gain=None if gain is None else gain.value,
        gain_lower=None if gain is None else gain.lower,
        gain_upper=None if gain is None else gain.upper,
        bound=one.ranked.predicted_lower,
        healthy=one.ranked.healthy,
        fate=fate,
        why=why,
        reach=rung.reach if isinstance(rung, ContinuousRung) else None,
        spread=rung.spread if isinstance(rung, ContinuousRung) else None,
    )
