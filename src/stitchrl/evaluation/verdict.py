"""The verdict: GO, NO-GO or CANNOT TELL by one rule, as a checklist a person can check."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stitchrl.evaluation.results import Estimate

__all__ = ["MAXIMUM_WEIGHT_SHARE", "MINIMUM_ESS_SHARE", "Line", "Verdict", "choose_primary", "decide"]

MINIMUM_ESS_SHARE = 0.1
"""Effective sample size over episodes below which weights are not trusted."""
MAXIMUM_WEIGHT_SHARE = 0.02
"""Share of all weight on one episode, or group of episodes, above which weights are not trusted."""
PRIMARY_ORDER = ("fqe", "wdr")
"""The primary gain is the first healthy one of these; without any, the last that has an interval."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the checklist: `passed` is None where the line does not apply."""

    key: str
    rule: str
    seen: str
    passed: bool | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The decision and everything it rests on.

    Attributes:
        decision: GO, NO-GO or CANNOT TELL.
        headline: the decision in one sentence.
        lines: the checklist.
        caveats: what no line can test.
        primary: name of the estimator of the primary gain; None where none has an interval.
    """

    decision: str
    headline: str
    lines: tuple[Line, ...]
    caveats: tuple[str, ...]
    primary: str | None
    margin: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "n/a "}
        lines = [f"{self.decision}: {self.headline}"]
        lines += [f"  [{mark[line.passed]}] ({line.key}) {line.rule}: {line.seen}" for line in self.lines]
        return "\n".join(lines + [f"  note: {caveat}" for caveat in self.caveats])


def choose_primary(gains: Mapping[str, Estimate]) -> str | None:
    """Name of the primary gain: the first healthy of `PRIMARY_ORDER`, else the last that has an interval."""
    candidates = [name for name in PRIMARY_ORDER if name in gains and gains[name].lower is not None]
    healthy = [name for name in candidates if gains[name].healthy]
    return healthy[0] if healthy else (candidates[-1] if candidates else None)


def decide(
    gains: Mapping[str, Estimate],
    *,
    episodes: int,
    audit_verdict: str = "not audited",
    margin: float = 0.0,
    behavior_fitted: bool = False,
    baseline: str = "the behaviour",
    unit: str = "episode",
) -> Verdict:
    """Apply the rule to the paired gains of one policy on the test episodes.

    GO: (a) the lower end of the primary gain is above the margin; (b) no other healthy gain lies wholly below it;
    (c) where the primary is weight-based, its weights are spread over enough episodes; (d) the log is usable.
    NO-GO: the primary is healthy and its upper end is below the margin. Otherwise CANNOT TELL.

    Args:
        gains: estimator -> gain, all of one estimand, on the same episodes.
        episodes: how many.
        audit_verdict: usable, usable with care, not usable, or not audited.
        margin: the least gain worth having, in return units.
        behavior_fitted: True where the behaviour's probabilities are a model's.
        baseline: what the gain is over.
        unit: what is resampled, "episode" or "group".
    """
    name = choose_primary(gains)
    primary = gains[name] if name is not None else None
    confidence = primary.confidence if primary is not None else 0.95
    lines = (
        _line_a(name, primary, margin, confidence),
        _line_b(name, gains, margin),
        _line_c(primary, episodes, unit),
        Line("d", "the audit does not call the log unusable", audit_verdict, audit_verdict != "not usable"),
    )
    failed = [line for line in lines if line.passed is False]
    if not failed:
        assert primary is not None
        decision, headline = "GO", f"the policy is better than {baseline}: gain {_span(primary)}."
    elif primary is not None and primary.healthy and primary.upper is not None and primary.upper < margin:
        decision, headline = (
            "NO-GO",
            f"the policy is not better than {baseline} by {margin:g}: gain {_span(primary)}.",
        )
    else:
        # The reasons after a colon stay in the checklist.
        reasons = "; ".join(f"line ({line.key}) failed, {line.seen.split(':')[0]}" for line in failed)
        decision, headline = (
            "CANNOT TELL",
            f"the log does not prove the policy better than {baseline}: {reasons}.",
        )
    return Verdict(decision, headline, lines, _caveats(behavior_fitted), name, margin, confidence)


def _line_a(name: str | None, primary: Estimate | None, margin: float, confidence: float) -> Line:
    rule = f"the primary gain's {confidence:.0%} interval lies above {margin:g} and the estimate is healthy"
    if primary is None or primary.lower is None:
        return Line("a", rule, "no estimate has an interval", False)
    seen = f"{name} {_span(primary)}"
    if not primary.healthy:
        seen += f"; not healthy: {' '.join(primary.reasons)}"
    return Line("a", rule, seen, primary.healthy and primary.lower > margin)


def _line_b(name: str | None, gains: Mapping[str, Estimate], margin: float) -> Line:
    rule = f"no other healthy estimate lies wholly below {margin:g}"
    others = {k: g for k, g in gains.items() if k != name and g.healthy and g.upper is not None}
    against = [k for k, g in others.items() if g.upper is not None and g.upper < margin]
    if not others:
        return Line("b", rule, "no other estimate is healthy: none contradicts, none confirms", None)
    return Line("b", rule, ", ".join(f"{k} {_span(g)}" for k, g in others.items()), not against)


def _line_c(primary: Estimate | None, episodes: int, unit: str) -> Line:
    rule = (
        f"if the primary is weight-based: ESS at least {MINIMUM_ESS_SHARE:.0%} of episodes, "
        f"no {unit} above {MAXIMUM_WEIGHT_SHARE:.0%} of all weight"
    )
    if primary is None or not primary.weight_based or primary.ess is None or primary.max_weight_share is None:
        return Line("c", rule, "the primary uses no products of ratios over whole episodes", None)
    enough = primary.ess >= MINIMUM_ESS_SHARE * episodes and primary.max_weight_share <= MAXIMUM_WEIGHT_SHARE
    return Line(
        "c",
        rule,
        f"ESS {primary.ess:,.0f} of {episodes:,}, largest share {primary.max_weight_share:.1%}",
        enough,
    )


def _span(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} [{estimate.lower:+.4f}, {estimate.upper:+.4f}]"


def _caveats(behavior_fitted: bool) -> tuple[str, ...]:
    notes = [
        "Unmeasured confounding is not tested: if what decided the logged actions also decided the outcome and is not "
        "in the observations, every number here can be wrong.",
        "The smallest hidden confounding that would overturn the verdict is not computed yet.",
    ]
    if behavior_fitted:
        notes.append("The log has no propensities: the behaviour's probabilities are a fitted model's.")
    return tuple(notes)
