"""What the audit's section draws and says, from the audit's plain numbers: geometry, orderings, sentences.

Numbers that an older audit did not write give None here, and the section leaves their part out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stitchrl.reporting import charts
from stitchrl.reporting.audit_coverage import coverage_view
from stitchrl.reporting.audit_drift import drift_view
from stitchrl.reporting.charts import is_number, number, percent, short
from stitchrl.reporting.page import Json

__all__ = ["audit_view"]


TONES = {"usable": "go", "usable with care": "unknown", "not usable": "nogo"}
SEVERITIES = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "info": ("for information", "for information"),
}
MEANS = {
    "usable": "No check found anything that harms learning or judging from this log.",
    "usable with care": "No finding forbids the use of this log; each warning below names something that it can spoil.",
    "not usable": "With an error below, every number made from this log can be wrong: mend it first.",
}
LONG_NAME = 16
"""Characters from which the name of an action does not fit beside its bar."""
PRINTED_ROWS = 60
"""A table with more rows is left out on paper."""
CONVINCING, APART, LEAST_PART = 10.0, 2.0, 0.01
"""Two humps are said from this gain in BIC (Kass and Raftery 1995), Ashman's D and share of episodes on."""
WEAK = 0.1
"""Nats an episode below which the part of random episodes rests on next to no evidence."""
THROUGHOUT = 0.97


def audit_view(audit: Json, numbers: Json, names: Sequence[str] = ()) -> dict[str, Any]:
    """All that the template needs for the section "What is in the log".

    Args:
        audit: `verdict` and `findings`, `checks` where there are any.
        numbers: the audit's numbers.
        names: of the discrete actions; by default those of the audit. An action without one goes by its number.

    Raises:
        KeyError: a number is missing that every audit has written.
    """
    names = names or numbers.get("action_names") or ()
    bars = charts.action_bars(numbers["action_counts"], numbers["action_allowed_share"], names)
    keep = ("episodes", "transitions", "mean_return", "mean_length", "num_actions", "observation_size")
    return {
        **{key: numbers[key] for key in (*keep, "behavior_source")},
        **_verdict(audit),
        "truncated": numbers.get("truncated_episodes"),
        "reward": numbers.get("reward"),
        "returns": charts.histogram(numbers["return_hist"], numbers["mean_return"]),
        "lengths": charts.histogram(numbers["length_hist"], numbers["mean_length"], decimals=1),
        "all_return": _all_alike(numbers["return_hist"], numbers["mean_return"]),
        "all_length": _all_alike(numbers["length_hist"], numbers["mean_length"]),
        "humps": _humps(numbers.get("return_modes")),
        "actions": bars,
        "long_actions": any(len(row["name"]) > LONG_NAME for row in bars if row["number"] is not None),
        "masked": bool(numbers["action_allowed_share"]),
        "action_ranges": _action_ranges(numbers.get("action_range")),
        "coverage": coverage_view(numbers.get("coverage"), names),
        "drift": drift_view(numbers, names),
        "randomness": _randomness(numbers.get("randomness")),
        "sources": _sources(numbers.get("sources")),
        "columns": numbers.get("columns") or [],
        "long_table": len(numbers.get("columns") or []) > PRINTED_ROWS,
    }


def _verdict(audit: Json) -> dict[str, Any]:
    severities = list(SEVERITIES)
    findings = sorted(
        audit["findings"],
        key=lambda f: severities.index(f["severity"]) if f["severity"] in SEVERITIES else len(severities),
    )
    counts = {severity: sum(f["severity"] == severity for f in findings) for severity in SEVERITIES}
    found = [f"{n} {SEVERITIES[severity][n != 1]}" for severity, n in counts.items() if n]
    return {
        "verdict": audit["verdict"],
        "tone": TONES.get(audit["verdict"], "unknown"),
        "means": MEANS.get(audit["verdict"], ""),
        "findings": findings,
        "tally": _listed(found) if found else "nothing to report",
        "checks": [str(name).replace("_", " ") for name in audit.get("checks") or []],
    }


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _all_alike(histogram: Json, mean: Any) -> str:
    """The one value of a histogram that holds nothing else: a lone bar would look like a range."""
    counts = histogram["counts"]
    alike = bool(counts) and sum(counts) == counts[0] > 0 and mean == histogram["edges"][0]
    return short(mean) if alike else ""


def _humps(modes: Json | None) -> str:
    """Says that returns come in two humps, where that is beyond doubt."""
    if not modes or not (is_number(modes["bic_gain"]) and is_number(modes["separation"])):
        return ""
    if modes["bic_gain"] < CONVINCING or modes["separation"] < APART or min(modes["share"]) < LEAST_PART:
        return ""
    return (
        f"Two humps fit these returns far better than one: about {modes['share'][0]:.0%} of episodes return around "
        f"{short(modes['mean'][0])}, the other {modes['share'][1]:.0%} around {short(modes['mean'][1])}."
    )


def _action_ranges(ranges: Sequence[Json] | None) -> dict[str, Any] | None:
    """One strip a number of the action: its whole range, and one standard deviation about its mean."""
    known = [r for r in ranges or [] if is_number(r["low"]) and is_number(r["high"])]
    if not ranges or not known:
        return None
    axis = charts.fit_axis(value for r in known for value in (r["low"], r["high"]))
    rows = []
    for index, r in enumerate(ranges):
        middle = is_number(r["mean"]) and is_number(r["spread"])
        low, high = (r["mean"] - r["spread"], r["mean"] + r["spread"]) if middle else (None, None)
        rows.append(
            {
                **r,
                "name": f"number {index}",
                "range": charts.span(axis, r["low"], r["high"]),
                "usual": charts.span(axis, low, high),
                "mark": charts.mark(axis, r["mean"]),
            }
        )
    return {"rows": rows, "ticks": axis.ticks()}


# --- coverage ----------------------------------------------------------------------------------------------------


# --- drift -------------------------------------------------------------------------------------------------------


# --- randomness and sources --------------------------------------------------------------------------------------


def _randomness(found: Json | None) -> dict[str, Any] | None:
    """How random the actions look, in words and numbers; `facts` empty where the log is too small to say."""
    if found is None:
        return None
    certain, spread = found.get("near_deterministic_share"), found.get("relative_spread")
    effective, allowed = found.get("effective_actions"), found.get("allowed_actions")
    facts: list[dict[str, str]] = []
    at: float | None = None
    if is_number(effective) and is_number(allowed):
        at = (effective - 1.0) / (allowed - 1.0) if allowed > 1 else 0.0
        facts.append(
            {
                "value": f"{number(effective, 1)} of {number(allowed, 1)}",
                "text": "actions: in places alike, the choice varies as much as an even draw among so many of the "
                "allowed actions (mean of exp(entropy))",
            }
        )
    if is_number(spread):
        at = spread
        facts.append(
            {
                "value": number(spread, 2),
                "text": "spread of the actions about what a regression on the observation predicts; 1 is the spread of uniform "
                "random actions, 0 no chance at all. At most this: what the regression misses passes for chance",
            }
        )
    if is_number(certain):
        facts.append(
            {
                "value": percent(certain, 0),
                "text": "of decisions were made where the same action follows nearly always"
                + (" (95% or more)" if spread is None else " (spread under 0.05), if not more")
                + ": nothing there to compare it with",
            }
        )
    if share := _random_share(found):
        facts.append(share)
    discrete = not is_number(spread)
    at = None if at is None else round(100.0 * min(1.0, max(0.0, at)), 2)
    means = _randomness_means(at, certain, found.get("random_share"), discrete)
    return {"facts": facts, "at": at, "discrete": discrete, "means": means}


def _random_share(found: Json) -> dict[str, str] | None:
    share, gain = found.get("random_share"), found.get("gain")
    if not is_number(share):
        return None
    text = "of episodes look like uniformly random actions"
    if 0 < share < THROUGHOUT:
        text += ", next to a policy in the rest"
        if is_number(gain):
            text += f"; the evidence is {number(gain, 2)} nats an episode"
            text += f", under the {WEAK:g} that make a case: read it as none" if gain < WEAK else ""
    return {"value": percent(share, 0), "text": text}


def _randomness_means(at: float | None, certain: Any, share: Any, discrete: bool) -> str:
    if at is None:
        return ""
    if (is_number(certain) and certain > 0.5) or at < 5:
        return (
            "Close to no chance: most places show one action only. Policies near the behaviour can be judged, others "
            "rest on a model."
        )
    if (is_number(share) and share >= THROUGHOUT) or (discrete and at > 90):
        return "Close to uniformly random: good for comparing policies, poor for imitating."
    if at < 40:
        return (
            "Some chance: policies that differ moderately from the behaviour can be judged. The longer the episodes, the "
            "faster the weights of such a judgement grow."
        )
    if not discrete:
        return (
            "Spread widely, but not like uniformly random actions: a noisy policy, several policies, or one whose shape a "
            "regression cannot follow. Log its probabilities rather than trust a fit."
        )
    return "Much chance: many policies can be judged from it; an imitation of it would be as noisy as the log."


def _sources(sources: Sequence[Json] | None) -> list[dict[str, Any]]:
    largest = max((entry["share"] for entry in sources or []), default=0.0) or 1.0
    return [{**entry, "width": round(100.0 * entry["share"] / largest, 2)} for entry in sources or []]
