"""`st.advise`: what to do with a log, explained: whether to learn from it, with what, and what to log next."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.auditing.audit import audit as audit_of
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Audit
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.choice import Choice, choices_of
from stitchrl.diagnosis.log_facts import LogFacts
from stitchrl.diagnosis.need import Answers, need_of
from stitchrl.diagnosis.next_log import next_log_of
from stitchrl.diagnosis.quality import quality_of
from stitchrl.diagnosis.statement import Statement
from stitchrl.errors import ConfigurationError
from stitchrl.printing import Shown

__all__ = ["Advice", "advise"]

TITLES = {
    "need": "Is offline learning needed?",
    "quality": "Is the log good enough?",
    "choice": "Which algorithms, with which settings?",
    "next_log": "What to log next?",
}
"""The four parts of the advice, with the question that each answers."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Advice(Shown):
    """What to do with a log. Every sentence carries the number that it rests on, and the rule.

    Attributes:
        needed: whether offline learning is "needed", "worth it", "not needed" or "unknown".
        usable: the verdict of the audit on the log.
        need, quality, choice, next_log: the four parts, sentence by sentence.
        choices: the advised algorithms, the best first, at most three.
        answers: the four answers that were given.
        facts: what was measured of the log.
    """

    needed: str
    usable: str
    need: tuple[Statement, ...]
    quality: tuple[Statement, ...]
    choice: tuple[Statement, ...]
    next_log: tuple[Statement, ...]
    choices: tuple[Choice, ...]
    answers: Answers
    facts: LogFacts

    @property
    def algorithms(self) -> dict[str, Algorithm]:
        """Label -> algorithm with its settings, the best first, as `st.fit` and the main job take them. The settings suit rewards
        that are divided by the standard deviation of returns, as the main job divides them (`reward_scale`)."""
        return {choice.label: choice.algorithm for choice in self.choices}

    def command(self, log: str = "LOG", out: str = "RUN") -> str:
        """The command line that runs the main job with the advised algorithms; empty where none is advised."""
        if not self.choices:
            return ""
        words = [
            "stitchrl",
            "run",
            log,
            "--out",
            out,
            "--algorithms",
            ",".join(choice.label for choice in self.choices),
        ]
        for choice in self.choices:
            for text in choice.assignments:
                words += ["--set", text]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        parts = {
            name: {"title": title, "statements": [dataclasses.asdict(each) for each in getattr(self, name)]}
            for name, title in TITLES.items()
        }
        return {
            "needed": self.needed,
            "usable": self.usable,
            "parts": parts,
            "algorithms": [choice.to_dict() for choice in self.choices],
            "command": self.command(),
            "answers": dataclasses.asdict(self.answers),
            "facts": dataclasses.asdict(self.facts),
        }

    def __str__(self) -> str:
        return "\n".join(lines_of(self.to_dict(), self.command()))


def lines_of(content: Mapping[str, Any], command: str) -> list[str]:
    """Plain content of advice as lines of text, with a command line that runs it."""
    lines: list[str] = []
    for part in content["parts"].values():
        lines += [part["title"]]
        for each in part["statements"]:
            lines += [
                f"  - {each['statement']}",
                f"      because: {each['number']}",
                f"      rule: {each['rule']} ({each['source']})",
            ]
    if command:
        lines += ["To run it:", f"  {command}"]
    return lines


def advise(
    log: Dataset,
    *,
    collect_more: bool | None = None,
    costly: bool | None = None,
    dangerous: bool | None = None,
    simulator: bool | None = None,
    audit: Audit | Mapping[str, Any] | None = None,
    width: float | None = None,
) -> Advice:
    """Say whether to learn from a log, whether it is good enough, with which algorithms, and what to log next.

    Nothing is trained: the advice rests on the numbers of the audit, a few regressions, and the four answers. How good the advice
    is was measured on benchmark logs (`docs/advice.md`).

    Args:
        log: the log.
        collect_more: whether more episodes can be collected by a policy of one's own; None where that is not known.
        costly: whether an episode costs much money or time.
        dangerous: whether a bad action can do harm.
        simulator: whether there is a simulator that is trusted.
        audit: of this log, where there is one already, or its plain content; None makes it.
        width: of the 95% interval that is wanted for a value, above 0, in units of the return; None is a tenth of the standard
            deviation of returns.

    Raises:
        ConfigurationError: an answer that is neither True, False nor None, a width that is not above 0, or an audit of another
            log.
    """
    answers = Answers(collect_more, costly, dangerous, simulator)
    for name, answer in dataclasses.asdict(answers).items():
        if answer not in (True, False, None):
            raise ConfigurationError(f"`{name}` must be True, False, or None where it is not known; got {answer!r}.")
    if width is not None and not (width > 0 and math.isfinite(width)):
        raise ConfigurationError(
            f"`width` must be a number above 0, in units of the return; got {width}. Leave it out for a tenth of the standard "
            "deviation of returns."
        )
    content = _content(log, audit)
    shared = Facts(log)
    facts = LogFacts.measure(log, content["numbers"], shared)
    needed, need = need_of(answers)
    choices = () if content["verdict"] == "not usable" else choices_of(facts)
    return Advice(
        needed=needed,
        usable=content["verdict"],
        need=need,
        quality=quality_of(facts, content["verdict"], content["findings"]),
        choice=tuple(choice.statement for choice in choices) or (NO_CHOICE,),
        next_log=next_log_of(log, facts, shared, width),
        choices=choices,
        answers=answers,
        facts=facts,
    )


NO_CHOICE = Statement(
    "No algorithm is advised before the log is corrected.",
    "the audit calls the log not usable",
    "no algorithm can correct numbers that are wrong",
    "st.audit",
)


def _content(log: Dataset, audit: Audit | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The plain content of the audit of a log."""
    content = audit_of(log).to_dict() if audit is None else audit.to_dict() if isinstance(audit, Audit) else audit
    seen = (content["numbers"].get("episodes"), content["numbers"].get("transitions"))
    if seen != (log.num_episodes, log.num_transitions):
        raise ConfigurationError(
            f"`audit` must be of this log, which has {log.num_episodes:,} episodes and {log.num_transitions:,} transitions; it "
            f"is of one with {seen[0]:,} and {seen[1]:,}. Leave `audit` out, and the log is audited anew."
        )
    return content
