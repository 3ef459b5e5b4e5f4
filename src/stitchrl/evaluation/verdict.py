"""The verdict: GO, NO-GO or CANNOT TELL by one rule, as a checklist a person can check."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.evaluation.confirmation import NO_MEMORY, RECORDED, Confirmation
from stitchrl.evaluation.power import Power
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.registry import primary_names
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.sensitivity import LARGEST
from stitchrl.evaluation.vetoes import Vetoes
from stitchrl.messages import first_steps_in_words, interval_in_words
from stitchrl.printing import Shown

__all__ = ["Line", "Part", "Verdict", "decide"]

NOT_AUDITED = "not audited"
"""The value of `audit_verdict` where the log was not audited; line (d) does not apply then."""
WIDTH = 100
"""Columns of the terminal that a printed verdict fits into."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the conditions that a line of the checklist asks for, with a sentence that says what was seen."""

    passed: bool
    sentence: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the checklist.

    Attributes:
        key: a letter.
        rule: what must hold.
        seen: what was seen, in one sentence; where several parts fail, all of them.
        passed: whether it holds; None where the line does not apply.
        parts: everything that a line of several conditions asks for.
    """

    key: str
    rule: str
    seen: str
    passed: bool | None
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Line:
        """The line that `dataclasses.asdict` was made of; one that an older version wrote has no parts."""
        return cls(**dict(content) | {"parts": tuple(Part(**part) for part in content.get("parts", ()))})

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "n/a "}[self.passed]
        start = f"[{mark}] ({self.key}) {self.rule}"
        failed = [part.sentence for part in self.parts if not part.passed]
        if self.passed is False and failed:
            return "\n".join([_wrapped(f"{start}:", 2, 9), *(_wrapped(f"- {sentence}", 9, 11) for sentence in failed)])
        return _wrapped(f"{start}: {self.seen}", 2, 9)


@dataclasses.dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """The decision and everything it rests on.

    Attributes:
        decision: GO, NO-GO or CANNOT TELL.
        headline: the decision in one sentence.
        lines: the checklist.
        caveats: what no line can test, and whatever else a reader must know.
        primary: name of the estimator of the primary gain; None where no estimate that a verdict may rest on has an interval.
        margin: the least gain worth having, in return units.
        confidence: two-sided coverage that the intervals aim at.
        power: how large a log would be needed for GO; None where the decision is another than CANNOT TELL, or this was not
            computed.
    """

    decision: str
    headline: str
    lines: tuple[Line, ...]
    caveats: tuple[str, ...]
    primary: str | None
    margin: float
    confidence: float
    power: Power | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self) | {"power": None if self.power is None else self.power.to_dict()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_dict` wrote, for instance into a verdict.json."""
        lines = tuple(Line.from_dict(line) for line in content["lines"])
        power = content.get("power")
        known = {"power": None if power is None else Power.from_dict(power)}
        return cls(**dict(content) | {"lines": lines, "caveats": tuple(content["caveats"])} | known)

    def __str__(self) -> str:
        found = [_wrapped(f"{self.decision}: {self.headline}", 0, 2), *map(str, self.lines)]
        if self.power is not None:
            found.append(_wrapped(f"size: {self.power.sentence}", 2, 8))
        return "\n".join(found + [_wrapped(f"note: {caveat}", 2, 8) for caveat in self.caveats])


def _wrapped(text: str, first: int, others: int) -> str:
    """Text broken into lines of a terminal, the first line and the others indented by so many spaces."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def decide(
    gains: Mapping[str, Estimate],
    *,
    audit_verdict: str = NOT_AUDITED,
    margin: float = 0.0,
    confirmation: Confirmation | None = None,
    vetoes: Vetoes | None = None,
    baseline: str = "the behaviour",
    notes: Sequence[str] = (),
    decisions: bool = False,
    not_judged: str = "",
) -> Verdict:
    """Apply the rule to the paired gains of one policy on the test episodes.

    GO: (a) the lower end of the primary gain is above the margin; (b) no other healthy gain lies wholly below it;
    (c) every health check of the primary holds; (d) the audit does not call the log unusable, or there was none; (e) the
    primary is confirmed: by logged propensities that are calibrated, or, with a fitted behaviour, by a past that adds
    nothing to it, by a gain that withstands a hidden cause in any single decision, and by a second healthy estimate on
    other assumptions; (f) of the groups and costs that were asked for, no group lies wholly below the margin, and no cost
    wholly above its limit. NO-GO: the primary's upper end is below the margin, with (c) and (d). Otherwise CANNOT TELL.

    Line (e) also asks for published results that intervals of this kind hold: while `confirmation.FITTED_COVERED` is False a
    fitted behaviour gives no GO, and over continuous actions only estimates that were counted do (`confirmation.uncounted`).

    Args:
        gains: estimator -> gain, all of one estimand, on the same episodes.
        audit_verdict: usable, usable with care, not usable, or not audited.
        margin: the least gain worth having, in return units.
        confirmation: what is known about the behaviour; None: nothing, and nothing then confirms the primary.
        vetoes: the groups and costs that were asked for; None: none, and there is no line (f).
        baseline: what the gain is over.
        notes: further caveats, one sentence or more each.
        decisions: whether every episode is a single decision, for which a verdict rests on other estimators.
        not_judged: why no estimator that a verdict may rest on applies to the policy; "" where one may.
    """
    name = choose_primary(gains)
    primary = gains[name] if name is not None else None
    confidence = primary.confidence if primary is not None else 0.95
    horizon = next((gain.estimand.horizon for gain in gains.values()), None)
    lines = (
        _line_a(name, gains, margin, confidence, decisions, not_judged),
        _line_b(name, gains, margin),
        _line_c(primary),
        _line_d(audit_verdict),
        _line_e(name, gains, margin, confirmation),
        *([] if vetoes is None else [_line_f(vetoes, margin)]),
    )
    failed = [line for line in lines if line.passed is False]
    sound = not {"c", "d"} & {line.key for line in failed}
    if not failed:
        assert primary is not None
        assert name is not None
        assert confirmation is not None
        decision, headline = (
            "GO",
            f"the policy is better than {baseline}: gain {_span(primary)}. It rests on "
            f"{confirmation.rests_on(name, gains, margin)}.",
        )
    elif primary is not None and sound and primary.upper is not None and primary.upper < margin:
        decision, headline = (
            "NO-GO",
            f"the policy is not better than {baseline} by {margin:g}: gain {_span(primary)}.",
        )
    else:
        decision, headline = (
            "CANNOT TELL",
            f"the log does not prove the policy better than {baseline}: {_reasons(failed)}.",
        )
    counted = confirmation.counted_where if confirmation is not None and decision == "GO" else ()
    caveats = (*_caveats(confirmation, horizon), *counted, *notes)
    return Verdict(decision, headline, lines, caveats, name, margin, confidence)


def _reasons(failed: Sequence[Line]) -> str:
    """Why lines failed, for a headline: for each line one reason that no earlier line gave, and how many more it has.

    Of each reason only what stands before its first colon is told, without a parenthesis that the colon would cut; the rest
    stays in the checklist.
    """
    said: set[str] = set()
    reasons = []
    for line in failed:
        sentences = [part.sentence for part in line.parts if not part.passed] or [line.seen]
        first = next((sentence for sentence in sentences if sentence not in said), sentences[0])
        said |= set(sentences)
        words = first.split(":")[0].rstrip(".")
        if words.count("(") > words.count(")"):
            words = words[: words.rindex("(")].rstrip()
        if len(words) > 1 and not words[1].isupper():
            words = words[0].lower() + words[1:]
        more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
        reasons.append(f"line ({line.key}) failed, {words}{more}")
    return "; ".join(reasons)


def _line_a(
    name: str | None, gains: Mapping[str, Estimate], margin: float, confidence: float, decisions: bool, not_judged: str
) -> Line:
    rule = f"the primary gain's {confidence:.0%} interval lies above {margin:g}"
    if name is not None:
        primary = gains[name]
        assert primary.lower is not None
        return Line("a", rule, f"{name} {_span(primary)}", primary.lower > margin)
    if not_judged:
        return Line("a", rule, not_judged, False)
    if any(gain.primary_rank is not None for gain in gains.values()) or not gains:
        why = next((gain.reasons[0] for gain in gains.values() if gain.reasons), "")
        return Line("a", rule, f"no estimate that a verdict may rest on has an interval. {why}".strip(), False)
    known = " or ".join(primary_names(decisions=decisions))
    seen = f"a verdict cannot rest on {' or '.join(gains)} alone: ask for {known} as well"
    return Line("a", rule, seen, False)


def _line_b(name: str | None, gains: Mapping[str, Estimate], margin: float) -> Line:
    rule = f"no other healthy estimate lies wholly below {margin:g}"
    parts = tuple(
        Part(gain.upper >= margin, f"{other} {_span(gain)}")
        for other, gain in gains.items()
        if other != name and gain.healthy and gain.upper is not None
    )
    if not parts:
        return Line("b", rule, "no other estimate is healthy: none contradicts, none confirms", None)
    return Line("b", rule, ", ".join(part.sentence for part in parts), all(part.passed for part in parts), parts)


def _line_c(primary: Estimate | None) -> Line:
    rule = "every health check of the primary gain holds"
    if primary is None:
        return Line("c", rule, "there is no primary gain", None)
    parts = tuple(Part(check.passed, check.sentence) for check in primary.checks)
    if not primary.healthy:
        return Line("c", rule, " ".join(primary.reasons), False, parts)
    if len(parts) > 1:
        return Line("c", rule, f"all {len(parts)} checks hold", True, parts)
    return Line("c", rule, parts[0].sentence if parts else "it is healthy", True, parts)


def _line_d(audit_verdict: str) -> Line:
    rule = "the audit does not call the log unusable"
    if audit_verdict == NOT_AUDITED:
        return Line("d", rule, "the log was not audited: `st.audit(log)` gives an `audit_verdict` to hand in", None)
    return Line("d", rule, audit_verdict, audit_verdict != "not usable")


def _line_e(name: str | None, gains: Mapping[str, Estimate], margin: float, confirmation: Confirmation | None) -> Line:
    rule = "the primary gain is confirmed"
    if name is None:
        return Line("e", rule, "there is no primary gain", None)
    if confirmation is None:
        return Line("e", rule, "nothing is known about the behaviour that confirms it", False)
    parts = tuple(Part(passed, sentence) for passed, sentence in confirmation.parts(name, gains, margin))
    failed = [part.sentence for part in parts if not part.passed]
    if failed:
        return Line("e", rule, " ".join(failed), False, parts)
    told = " ".join(part.sentence for part in parts)
    seen = f"by {confirmation.rests_on(name, gains, margin)}" if confirmation.fitted else told
    return Line("e", rule, seen, True, parts)


def _line_f(vetoes: Vetoes, margin: float) -> Line:
    rule = vetoes.rule(margin)
    parts = tuple(Part(passed, sentence) for passed, sentence in vetoes.parts())
    failed = [part.sentence for part in parts if not part.passed]
    seen = " ".join(failed or [part.sentence for part in parts])
    return Line("f", rule, seen, False if failed else True if vetoes.judged else None, parts)


def _span(estimate: Estimate) -> str:
    horizon = estimate.estimand.horizon
    steps = "" if horizon is None else f" in {first_steps_in_words(horizon)}"
    assert estimate.value is not None
    assert estimate.lower is not None
    assert estimate.upper is not None
    return f"{interval_in_words(estimate.value, estimate.lower, estimate.upper)}{steps}"


def _caveats(confirmation: Confirmation | None, horizon: int | None) -> tuple[str, ...]:
    notes = [
        "Unmeasured confounding cannot be ruled out by any log: if something that is not in the observations decided both the "
        "logged actions and the outcome, every number here can be wrong."
    ]
    if horizon is not None:
        steps = first_steps_in_words(horizon)
        one = horizon == 1
        notes.insert(
            0,
            f"Only {steps} of an episode count{'s' if one else ''}: what comes after {'it' if one else 'them'} is not judged.",
        )
    notes.extend(_hidden_cause(confirmation))
    if confirmation is not None and confirmation.fitted:
        what = f" ({confirmation.model})" if confirmation.model else ""
        notes.append(f"The log has no propensities: the behaviour's probabilities are a fitted model's{what}.")
    return tuple(notes)


def _hidden_cause(confirmation: Confirmation | None) -> list[str]:
    """How strong a hidden cause would have to be to overturn the gain; nothing where there is none to overturn."""
    found = None if confirmation is None else confirmation.sensitivity
    if confirmation is None or found is None or found.odds_ratio <= 1:
        return []
    one = (
        f"A hidden cause that changes the odds of the logged action by a factor of up to {LARGEST:g}, in any one decision, would "
        "not overturn the gain."
        if found.odds_ratio >= LARGEST
        else f"A hidden cause that changes the odds of the logged action by a factor of {found.odds_ratio:.2f}, in the decision "
        f"at step {found.step} alone, would overturn the gain."
    )
    recorded = "" if confirmation.fitted else RECORDED
    return [" ".join(filter(None, (one, found.every_in_words(), NO_MEMORY, recorded)))]
