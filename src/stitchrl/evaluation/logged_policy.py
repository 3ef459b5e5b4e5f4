"""A policy whose probabilities stand in columns of the log, row by row: nothing is known of it anywhere else.

Where the log has the probability of every action (`policy_probs`), every estimator applies that needs no policy at simulated
states. Where it has the probability, or the density, of the logged action alone (`policy_log_prob`), those remain that weigh
logged actions and ask nothing else.

The columns are part of the log, so they follow their rows through splits, halves and horizons. They are never looked up by
observation: two rows with equal observations may have different probabilities, as where the policy remembers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.nn.memory import has_memory
from stitchrl.types import NumpyArray

__all__ = [
    "LoggedPolicy",
    "knows_every_action",
    "note_on_ends",
    "refusal_of_unknown_actions",
    "why_no_verdict",
    "without_unknown_ends",
]

ROUNDING = 1e-3
"""How far the sum of probabilities may be from 1, and the two columns from each other."""
LEAST_MASS = 1e-6
"""Largest probability of a forbidden action that counts as 0."""


@dataclasses.dataclass(frozen=True)
class LoggedPolicy:
    """The policy whose probabilities stand in the log that it is evaluated on.

    They are in the columns with the role `policy_probs` (every action) or `policy_log_prob` (the logged one; of continuous
    actions the log-density). It cannot act: it knows what it would have done in the rows of the log, and nothing else.
    """

    has_density: ClassVar[bool] = True

    def probs(self, obs: Any, *, action_mask: Any = None) -> NumpyArray:
        """Raises EvaluationError: probabilities belong to rows, and an observation does not tell which row it is from."""
        raise EvaluationError(
            "The probabilities of a `LoggedPolicy` belong to the rows of a log: at other observations nothing is known of it."
        )

    def knows_every_action(self, log: Dataset) -> bool:
        """Whether a log has the policy's probability of every action."""
        return log.num_actions is not None and log.policy_probs is not None

    def refusal(self, name: str, log: Dataset, remain: str) -> str:
        """Why an estimator does not apply that asks for more than the logged actions; `remain` names those that do."""
        if log.num_actions is None:
            what, way = "density", "Give the policy itself for the others."
        else:
            what, way = (
                "probability",
                "Columns with the probability of every action (`policy_probs`) serve the others too.",
            )
        return (
            f"{name} asks what the policy would do beside the logged action, and the log has its {what} of that one alone "
            f"(`policy_log_prob`). {remain} ask for no more. {way}"
        )

    def probs_on(self, log: Dataset, rows: slice = slice(None)) -> Float[NumpyArray, "n A"]:
        """(n, A) float32 probability of every action in the given rows, checked.

        Raises:
            EvaluationError: the log has no `policy_probs`, or they are not probabilities, or give forbidden actions some.
        """
        if log.policy_probs is None:
            raise EvaluationError(_missing(log, "`policy_probs`"))
        probs = np.asarray(log.policy_probs[rows], np.float32)
        first = rows.start or 0
        if probs.ndim != 2 or probs.shape[1] != log.num_actions:
            raise EvaluationError(
                f"`policy_probs` must have one column for each of the {log.num_actions} actions; got shape {probs.shape}."
            )
        with np.errstate(invalid="ignore"):
            right = (probs >= 0).all(1) & (np.abs(probs.sum(1, dtype=np.float64) - 1) <= ROUNDING)  # NaN is neither
        if not right.all():
            at = int(np.flatnonzero(~right)[0])
            raise EvaluationError(
                f"`policy_probs` must be in [0, 1] and sum to 1 in every row; row {first + at} sums to "
                f"{probs[at].sum():.4g} with minimum {probs[at].min():.4g}."
            )
        if log.action_mask is not None:
            forbidden = np.where(log.action_mask[rows], 0.0, probs).max(1)
            if (forbidden > LEAST_MASS).any():
                at = int(np.flatnonzero(forbidden > LEAST_MASS)[0])
                raise EvaluationError(
                    f"`policy_probs` must be 0 for the actions that `action_mask` forbids; row {first + at} gives one of "
                    f"them {forbidden[at]:.4g}. Correct the column, or the mask."
                )
        return probs

    def log_prob_on(self, log: Dataset) -> Float[NumpyArray, " N"]:
        """(N,) float64 logarithm of the probability, or density, of each logged action; minus infinity where it is 0.

        Raises:
            EvaluationError: the log has neither column, or they hold what is no probability or contradict each other.
        """
        given, found = log.policy_log_prob, None
        if given is not None:
            given = np.asarray(given, np.float64)
            _check_log_probs(given, log)
        if log.policy_probs is not None and log.num_actions is not None:
            probs = self.probs_on(log)
            chosen = np.take_along_axis(probs, log.action[:, None].astype(np.int64), 1)[:, 0].astype(np.float64)
            if given is not None and (np.abs(np.exp(given) - chosen) > ROUNDING).any():
                at = int(np.argmax(np.abs(np.exp(given) - chosen)))
                raise EvaluationError(
                    f"`policy_log_prob` and `policy_probs` must agree; in row {at} they give the logged action "
                    f"{np.exp(given[at]):.4g} and {chosen[at]:.4g}. Keep the right one."
                )
            with np.errstate(divide="ignore"):
                found = np.log(chosen)
        known = given if found is None else found
        if known is None:
            raise EvaluationError(_missing(log, "neither `policy_probs` nor `policy_log_prob`"))
        return known


def knows_every_action(policy: Any, log: Dataset) -> bool:
    """Whether a policy's probability of every action at the states of a log is known, and not of the logged action alone."""
    if isinstance(policy, LoggedPolicy):
        return policy.knows_every_action(log)
    return not has_memory(policy)


def why_no_verdict(policy: Any, log: Dataset) -> str:
    """Why no estimate over several steps that a verdict may rest on applies to a policy; "" where one may apply."""
    if knows_every_action(policy, log):
        return ""
    return (
        "the estimates that a verdict may rest on ask what the policy does at any observation, and of this policy only the "
        "probabilities of the logged actions are known"
    )


def refusal_of_unknown_actions(name: str, log: Dataset, policies: Sequence[Any]) -> str | None:
    """Why an estimator does not apply that asks what policies would do beside the logged action; None where it is known."""
    unknown = [policy for policy in policies if not knows_every_action(policy, log)]
    if not unknown:
        return None
    remain = "ips and snips" if log.episode_lengths.max() == 1 else "is, pdis, wis and pdwis"
    assert isinstance(unknown[0], LoggedPolicy)
    return unknown[0].refusal(name, log, remain)


def without_unknown_ends(policies: Sequence[Any], log: Dataset) -> Dataset:
    """The log without the final observations at which a logged policy would have to be asked and cannot be.

    The last row of a cut episode then has no target, as if the log lacked its next observation.
    """
    unknown = _unknown_ends(policies, log)
    if not unknown.any():
        return log
    kept = np.where(unknown, NO_OBSERVATION, log.next_observation_index).astype(log.next_observation_index.dtype)
    return dataclasses.replace(log, next_observation_index=kept)


def note_on_ends(policies: Sequence[Any], log: Dataset) -> tuple[str, ...]:
    """A sentence for the verdict about final observations that are not used; nothing where there are none."""
    count = int(_unknown_ends(policies, log).sum())
    if not count:
        return ()
    return (
        f"At {count:,} cuts the log has the next observation, but not what the policy would have done there, so that fitted "
        "values cannot use the last rows before them.",
    )


def _unknown_ends(policies: Sequence[Any], log: Dataset) -> Bool[NumpyArray, " N"]:
    """(N,) rows after which a logged policy would have to be asked at an observation that has no row of its own."""
    if not any(isinstance(one, LoggedPolicy) and knows_every_action(one, log) for one in policies):
        return np.zeros(log.num_transitions, bool)
    return ~log.continues & ~log.terminated & (log.next_observation_index != NO_OBSERVATION)


def _check_log_probs(given: NumpyArray, log: Dataset) -> None:
    if given.shape != (log.num_transitions,):
        raise EvaluationError(f"`policy_log_prob` must be one number a row; got shape {given.shape}.")
    with np.errstate(invalid="ignore"):
        wrong = np.isnan(given) | (given == np.inf)
        if log.num_actions is not None:
            wrong |= given > ROUNDING
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        rule = (
            "a number or minus infinity"
            if log.num_actions is None
            else "at most 0, being the logarithm of a probability"
        )
        raise EvaluationError(f"`policy_log_prob` must be {rule}; row {at} has {given[at]:.4g}.")


def _missing(log: Dataset, what: str) -> str:
    lacks = f"has {what}" if what.startswith("neither") else f"has no {what}"
    return (
        f"A `LoggedPolicy` is judged by columns of the log, and {log.schema.name!r} {lacks}. Name them in the schema, or in "
        '`st.read(..., beside={"policy_probs": [...]})`.'
    )
