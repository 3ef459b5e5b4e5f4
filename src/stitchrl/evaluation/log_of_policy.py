"""Whether a policy may be judged on a log: the columns mean the same as in the policy's own log, the policy did not learn from
these episodes, and their observations lie where it learned. Only policies that carry this knowledge are checked: bundles, and
those of `st.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.data.same_meaning import check_units, difference_of_meaning
from stitchrl.data.schema import Schema
from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.guard import ANSWER, REFUSE, Guard
from stitchrl.deployment.memory_bundle import MemoryBundle
from stitchrl.errors import EvaluationError, SchemaError
from stitchrl.evaluation.remembering import RememberingPolicy
from stitchrl.evaluation.seen_episodes import Overlap, overlap_of
from stitchrl.messages import listed, shown
from stitchrl.nn.memory import MemoryPolicy, has_memory

__all__ = ["SAME_LOG", "as_judged", "check_meaning", "check_unseen", "notes_on_policies", "refusal_of_known"]

SAME_LOG = "The policy learned from this very log,"
FEW_OUTSIDE = 0.01
"""Share of decisions outside the range of the policy's log up to which the verdict says nothing."""


def notes_on_policies(policies: Sequence[Any], log: Dataset, *, unseen: int, force: bool) -> tuple[str, ...]:
    """Refuse a log on which a policy must not be judged; else give a sentence on each thing that is doubtful.

    Args:
        policies: what is judged; only what a policy carries is checked (`schema`, `learned_from`, `guard`).
        log: what they are judged on.
        unseen: how many of the policies, from the first on, must not have learned from episodes of the log.
        force: whether to go on where the log has, or seems to have, other units.

    Raises:
        EvaluationError: the log has other columns, categories or actions; it holds episodes that a policy learned from, or is
            the log that it learned from; or its observations look like another unit.
    """
    notes: dict[str, None] = {}
    looked_at = set[int]()
    for number, policy in enumerate(policies):
        schema, guard = getattr(policy, "schema", None), getattr(policy, "guard", None)
        learned_from = getattr(policy, "learned_from", None)
        if isinstance(schema, Schema):
            notes |= dict.fromkeys(check_meaning(log, schema, guard if isinstance(guard, Guard) else None, force=force))
        if isinstance(guard, Guard) and id(guard) not in looked_at:
            looked_at.add(id(guard))  # the seeds of a run have one
            notes |= dict.fromkeys(_ranges(log, guard, force=force, remembers=has_memory(policy)))
        if isinstance(learned_from, EpisodeMemory) and number < unseen:
            count = check_unseen(
                log,
                learned_from,
                content_hash=getattr(policy, "provenance", {}).get("log", {}).get("content_hash", ""),
                leaving_out="`log.select_episodes(~policy.knows(log))` leaves the known ones out.",
            )
            if count:
                notes[
                    f"{count:,} of {log.num_episodes:,} episodes are equal to ones that the policy learned from, no more than "
                    "coincidence explains where there are so few different observations; leaving them out would select episodes "
                    "by what happened in them."
                ] = None
    return tuple(notes)


def as_judged(policy: Any) -> Any:
    """The policy in the form that estimators ask.

    A bundle whose guard refuses has no action where it refuses, so it is judged without its guard. A bundle that is told to do
    something else outside the range of its log acts everywhere, and is judged as it acts. A policy with memory is asked along
    the episodes of the log.

    Raises:
        EvaluationError: a bundle of a policy with memory that acts outside the range of its log, or that is one of NumPy.
    """
    if isinstance(policy, MemoryBundle):
        if policy.guard.on_outside not in (REFUSE, ANSWER):
            raise EvaluationError(
                "A policy that remembers its episode is judged without its guard, and this one's guard acts outside the range of "
                'its log. Give `policy.guarded("refuse")`, and read the estimate as that of the policy without a guard.'
            )
        policy = policy.policy
        if not isinstance(policy, MemoryPolicy):
            raise EvaluationError(
                "A policy of NumPy that remembers its episode does not give the probabilities of whole histories: load the "
                'bundle with JAX, `st.load_policy(folder, backend="jax")`.'
            )
    if isinstance(policy, MemoryPolicy):
        return RememberingPolicy(policy)
    return policy.unguarded() if isinstance(policy, Bundle) and policy.guard.on_outside == REFUSE else policy


def check_meaning(log: Dataset, schema: Schema, guard: Guard | None = None, *, force: bool = False) -> list[str]:
    """Refuse a log whose numbers mean something else than those a policy learned from; else give a sentence on each doubt.

    Args:
        log: what the policy is to be judged on.
        schema: the schema of the log that it learned from.
        guard: the range of the observations in that log; None where it is not known.
        force: whether to go on where the schemas name other units.

    Raises:
        EvaluationError: other columns, categories, actions or units.
    """
    if difference := difference_of_meaning(schema, log.schema) or _other_width(schema, guard, log):
        raise EvaluationError(
            f"The policy learned another meaning than this log has: {difference}. `st.read(path, policy=policy)` reads the log "
            "by the names that the policy learned."
        )
    notes = _without_names(schema, log)
    try:
        check_units(schema, log.schema)
    except SchemaError as error:
        if not force:
            raise EvaluationError(f"{error} With `force` the policy is judged on it all the same.") from None
        notes.append(f"{error} The evaluation was forced.")
    return notes


def _other_width(schema: Schema, guard: Guard | None, log: Dataset) -> str:
    """How the counts of numbers of an observation or an action differ from those that a policy learned; "" where they do not,
    or where the policy does not say."""
    observed, acting = schema.observation_columns, _columns_of_action(schema)
    seen, taken = log.schema.observation_columns, _columns_of_action(log.schema)
    if guard is not None and guard.low.shape != (shape := log.observation_table.shape[1:]):
        return (
            f"it observes {_numbers(guard.low.shape)} in {listed(observed)}, and this log gives {_numbers(shape)} in "
            f"{listed(seen)}"
        )
    known = schema.action_low or schema.action_high or (acting if len(acting) > 1 else ())
    if known and log.num_actions is None and log.action.shape[1] != len(known):
        return (
            f"its action has {_numbers((len(known),))} in {listed(acting)}, and this log's {_numbers(log.action.shape[1:])} in "
            f"{listed(taken)}"
        )
    return ""


def _without_names(schema: Schema, log: Dataset) -> list[str]:
    """A sentence each on the observation and the action where one side names its numbers and the other has one column of them."""
    found = []
    for what, ours, theirs in (
        ("observation", schema.observation_columns, log.schema.observation_columns),
        ("action", _columns_of_action(schema), _columns_of_action(log.schema)),
    ):
        if (len(ours) == 1) != (len(theirs) == 1):
            named = ours if len(ours) > 1 else theirs
            single, whose = (theirs, "this log") if len(ours) > 1 else (ours, "the policy's log")
            found.append(
                f"The numbers of the {what} have no names in {whose}, where they stand in one column, {shown(single[0])}: make "
                f"sure that their order is {listed(named)}."
            )
    return found


def _columns_of_action(schema: Schema) -> tuple[str, ...]:
    column = schema.columns["action"]
    return (column,) if isinstance(column, str) else column


def _numbers(shape: tuple[int, ...]) -> str:
    """So many numbers."""
    if len(shape) > 1:
        return f"images of {' x '.join(map(str, shape))}"
    return f"{shape[0]} number{'s' * (shape[0] != 1)}"


def check_unseen(log: Dataset, learned_from: EpisodeMemory, *, content_hash: str, leaving_out: str) -> int:
    """How many episodes of the log equal one that the policy learned from, where coincidence explains that many.

    An episode is recognised by its rows, in whatever order they stand (`evaluation/seen_episodes.py`).

    Args:
        log: what the policy is to be judged on.
        learned_from: what is remembered of the episodes that the policy learned from.
        content_hash: content hash of the log that the policy learned from; "" where it is not known.
        leaving_out: a sentence that says how to leave known episodes out.

    Raises:
        EvaluationError: more episodes are known than coincidence explains, or it is the same log.
    """
    found = overlap_of(learned_from, log)
    if content_hash in (log.content_hash, log.bare().content_hash):
        found = found._replace(seen=SAME_LOG)
    if found.seen:
        raise EvaluationError(refusal_of_known(found, leaving_out))
    return found.known


def refusal_of_known(found: Overlap, leaving_out: str) -> str:
    """Why a log is refused of which a policy knows episodes, and what to give instead."""
    if found.removable:
        way_out = f"Give episodes it never saw; {leaving_out}"
    else:
        way_out = (
            "Leaving equal episodes out would select episodes by what happened in them, since new ones are equal by coincidence "
            "as well: give a log of a later time, or split the log by time, group or source before anything is learned from it."
        )
    return f"{found.seen} so that estimates on it would be too good. {way_out}"


def _ranges(log: Dataset, guard: Guard, *, force: bool, remembers: bool) -> list[str]:
    """A sentence where some decisions lie outside the range of the policy's log, and where a column looks like another unit.

    Raises:
        EvaluationError: a column looks like another unit, and `force` is False.
    """
    if log.observation_table.ndim != 2 or log.observation_table.shape[1] != len(guard.low):
        return []
    seen = log.observation_table[np.unique(log.observation_index)]
    notes = []
    for column, here, there, times in guard.other_ranges(seen):
        name = _name_of(log, column)
        sentence = (
            f"{name} lies from {here[0]:.4g} to {here[1]:.4g} in the middle half of this log's rows, where the policy learned "
            f"from {there[0]:.4g} to {there[1]:.4g}{_spreads(times)}: it looks like another unit."
        )
        if not force:
            raise EvaluationError(f"{sentence} Convert it, or judge the policy on it all the same with `force`.")
        notes.append(f"{sentence} The evaluation was forced.")
    outside = float(1 - guard.admits(log.observation_table)[log.observation_index].mean())
    if outside > FEW_OUTSIDE and not notes:
        notes.append(
            f"In {outside:.0%} of the decisions the observation lies outside the range that the policy learned from."
            f"{_what_acts(guard, remembers=remembers)}"
        )
    return notes


def _spreads(times: float | None) -> str:
    """How much wider or narrower the range of a column is, in words; "" where that is not what was noticed."""
    if times is None:
        return ""
    return (
        f", and spreads {times:.3g} times as widely"
        if times > 1
        else f", and spreads {1 / times:.3g} times less widely"
    )


def _what_acts(guard: Guard, *, remembers: bool) -> str:
    """What a bundle with this guard does outside the range of its log, and what the estimates are of; "" where it acts."""
    if guard.on_outside != REFUSE:
        return ""
    bare = " There the policy in use refuses to act, and the estimates are of the policy without its guard"
    return (
        f"{bare}."
        if remembers
        else f"{bare}: `policy.guarded(...)` gives one that acts, and can be judged, everywhere."
    )


def _name_of(log: Dataset, column: int) -> str:
    """What a number of the observation is called."""
    names = log.observation_names
    return f"The observation {shown(names[column])}" if column < len(names) else f"The observation's number {column}"
