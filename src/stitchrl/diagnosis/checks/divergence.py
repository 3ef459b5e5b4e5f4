"""Checks of how far a policy departs from the behaviour: in bits, in decisions without support, and in forbidden actions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool

from stitchrl.auditing.finding import Finding
from stitchrl.auditing.wording import share_of
from stitchrl.deployment.bundle import Bundle
from stitchrl.diagnosis.departure_table import departure_table
from stitchrl.diagnosis.first_departures import FirstDepartures, first_departures
from stitchrl.diagnosis.knobs import nearer_to_log
from stitchrl.diagnosis.similar_states import action_discrepancy
from stitchrl.diagnosis.subject import NotLookedAtError, Subject
from stitchrl.diagnosis.support import MOST_BITS, bits_of, check_acts_alone, states_of, support_of
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.agreement import SUPPORT
from stitchrl.evaluation.probabilities import policy_probabilities
from stitchrl.types import NumpyArray

__all__ = [
    "actions_without_support",
    "divergence_numbers",
    "far_from_behavior",
    "takes_forbidden_actions",
]

CLOSE, SEVERE = 1.0, 5.0
"""Bits under which a policy is close to the behaviour, and over which it is severely far from it."""
OVER_LEAST = 1.0
"""Bits by which a severe divergence exceeds the fewest bits of any deterministic policy: among many equally usual actions no
such policy is near to the behaviour, and that is no fault of it."""
UNSUPPORTED = 0.1
"""Share of decisions without support above which it is a finding, where the behaviour's own share is below half of it."""
FORBIDDEN = 0.01
"""Mean probability of forbidden actions from which it is a finding."""
BANDS = "under 1 bit, which is close to the behaviour (1 to 5 bits want watching, and more is severe)"


def divergence_numbers(subject: Subject) -> dict[str, Any]:
    """How far the policy departs from the behaviour, as plain numbers."""
    found: dict[str, Any] = {}
    try:
        bits = subject.once(bits_of)
        found |= {
            "bits": float(bits.of_row.mean()),
            "band": _band(float(bits.of_row.mean())),
            "bits_of_most_usual_actions": None if bits.least is None else float(bits.least.mean()),
            "treatment": f"An action that the behaviour hardly ever takes counts as {MOST_BITS:g} bits at most.",
        }
    except NotLookedAtError as why:
        found["bits_missing"] = str(why)
    support = subject.once(support_of)
    found |= {
        "unsupported": float(support.off.mean()),
        "unsupported_behavior": float(support.off_logged.mean()),
        "first_departures": subject.once(_departures).to_dict(),
    }
    if subject.mask is not None:
        with contextlib.suppress(NotLookedAtError):
            found["forbidden_without_mask"] = subject.once(forbidden_share)
    if support.distance is not None:
        states = subject.shared.once(states_of)
        apart = action_discrepancy(states, states.of_rows(subject.drawn))
        near = support.distance[np.isfinite(support.distance)]
        found |= {
            "distance_to_nearest_action": float(near.mean()),
            "usual_distance": support.usual,
            "mmd": apart.mmd,
            "mmd_by_chance": apart.by_chance,
        }
    return found


def far_from_behavior(subject: Subject) -> Iterator[Finding]:
    """The divergence of the policy from the behaviour is over 5 bits, or wants watching."""
    bits = subject.once(bits_of)
    mean, least = float(bits.of_row.mean()), 0.0 if bits.least is None else float(bits.least.mean())
    if mean < CLOSE:
        return
    severe = mean > SEVERE and mean > least + OVER_LEAST
    needed = (
        "" if bits.least is None else f"; a policy that always takes the behaviour's most usual action has {least:.2g}"
    )
    yield Finding(
        "far-from-behavior" if severe else "departs-from-behavior",
        "warning" if severe else "info",
        f"{len(bits.of_row):,} decisions",
        f"the policy is {mean:.2g} bits away from the behaviour on average (Kullback-Leibler divergence{needed}): in a "
        f"typical decision it makes its choice about {2**mean:,.0f} times as often as the behaviour does",
        BANDS,
        f"The log hardly shows what follows from what this policy does. {nearer_to_log(subject.member.algorithm)}"
        if severe
        else "Let `st.evaluate` say whether the log suffices to judge a policy this far from the behaviour.",
    )


def actions_without_support(subject: Subject) -> Iterator[Finding]:
    """A large share of the policy's decisions are ones that the log does not show in such states."""
    support = subject.once(support_of)
    share, own = float(support.off.mean()), float(support.off_logged.mean())
    if share <= max(UNSUPPORTED, 2 * own) or _only_noisier(subject):
        return
    count = len(support.off)
    if support.usual is None:
        lacking = f"take an action that the behaviour takes with a probability below {SUPPORT:g} in that state"
    else:
        lacking = (
            f"take an action farther than {support.usual:.2g} standard deviations from every logged action in similar states, "
            "which 99% of the logged actions are not"
        )
    yield Finding(
        "actions-without-support",
        "warning",
        f"{count:,} decisions",
        f"{share_of(round(share * count), count)} of the policy's decisions {lacking}; of the behaviour's own decisions "
        f"{share_of(round(own * count), count)} do. {_sentence(subject.once(_departures))}{_most_frequent(subject)}",
        f"at most {max(UNSUPPORTED, 2 * own):.0%}",
        "What follows such an action is extrapolated from other states and actions, and was not seen. "
        f"{nearer_to_log(subject.member.algorithm)} Or log episodes in which these actions are tried in these states.",
    )


def takes_forbidden_actions(subject: Subject) -> Iterator[Finding]:
    """The policy gives forbidden actions some probability although it has the mask, or learned without one."""
    mask = subject.mask
    if mask is None:
        return
    share = subject.once(forbidden_share)
    if share <= FORBIDDEN:
        return
    seen = f"{share:.1%} of its probability lies on actions that the mask of the log forbids"
    if subject.once(_ignores_the_mask):
        yield Finding(
            "takes-forbidden-actions",
            "error",
            "allowed actions",
            f"{seen}, although it was given the mask",
            "no probability on forbidden actions",
            "The policy ignores the mask: honour `action_mask` in its `probs`, and give it the mask of each decision in use.",
        )
    elif not (subject.member.with_mask or _learned_with_mask(subject.member.policy)):
        learned = subject.member.algorithm is not None or getattr(subject.member.policy, "schema", None) is not None
        yield Finding(
            "takes-forbidden-actions",
            "warning" if learned else "info",
            "allowed actions",
            f"asked without the mask, {seen}",
            "a mask in the log that it learns from, and with every observation in use",
            "It learned without the mask, so that the values of forbidden actions were among its targets: train on a log that "
            "has the mask (`action_mask` in the schema), and give the mask of each decision in use."
            if learned
            else "Give it the mask of each decision in use. If it was learned, learn it again from a log that has the mask "
            "(`action_mask` in the schema): otherwise the values of forbidden actions were among its targets.",
        )


def forbidden_share(subject: Subject) -> float:
    """The mean probability that the policy, asked without the mask, gives forbidden actions."""
    check_acts_alone(subject)
    policy = subject.member.policy
    try:
        bare = policy_probabilities(policy.unguarded() if isinstance(policy, Bundle) else policy, subject.obs, None)
    except (EvaluationError, TypeError, ValueError, AttributeError) as why:
        raise NotLookedAtError(f"{subject.member.heading} cannot be asked without a mask: {why}") from None
    return float((bare * _forbidden(subject)).sum(1).mean())


def _ignores_the_mask(subject: Subject) -> bool:
    try:
        return bool((subject.probs * _forbidden(subject)).sum() > 0)
    except NotLookedAtError:
        return True


def _forbidden(subject: Subject) -> Bool[NumpyArray, "N A"]:
    return np.zeros((subject.rows.num_transitions, 1), bool) if subject.mask is None else ~subject.mask


def _learned_with_mask(policy: Any) -> bool:
    schema = getattr(policy, "schema", None)
    return schema is not None and "action_mask" in schema.columns


def _departures(subject: Subject) -> FirstDepartures:
    return first_departures(subject.rows, subject.once(support_of))


def _only_noisier(subject: Subject) -> bool:
    """Whether draws lie outside the log only because the policy's density is wider than the behaviour's, but close to it."""
    if subject.rows.num_actions is not None:
        return False
    try:
        return float(subject.once(bits_of).of_row.mean()) < CLOSE
    except NotLookedAtError:
        return False


def _most_frequent(subject: Subject) -> str:
    """The most frequent departure that lacks support, as a further sentence; "" where there is none between discrete actions."""
    behavior = subject.shared.behavior.probs if subject.rows.num_actions is not None else None
    if behavior is None:
        return ""
    table = departure_table(subject.rows, subject.probs * (behavior < SUPPORT), behavior)
    return f". Most often it takes {table[0]}" if table else ""


def _sentence(found: FirstDepartures) -> str:
    text = str(found)
    return text[0].upper() + text[1:]


def _band(bits: float) -> str:
    return "close" if bits < CLOSE else "watch" if bits <= SEVERE else "severe"
