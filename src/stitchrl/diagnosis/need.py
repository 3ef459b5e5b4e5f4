"""First part of the advice: is learning from the log alone needed, or would learning by trying be better?

The four questions (can more be collected, is that costly, is it dangerous, is there a simulator) are for a person to answer,
since no log holds the answers. Each answer is True, False, or None where it is not known.
"""

from __future__ import annotations

import dataclasses

from stitchrl.diagnosis.statement import Statement

__all__ = ["Answers", "need_of"]

WORDS = {True: "yes", False: "no", None: "not answered"}
SURVEY = "Levine et al. 2020, arXiv 2005.01643"


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to the four questions.

    Attributes:
        collect_more: whether more episodes can be collected by a policy of one's own.
        costly: whether an episode costs much money or time.
        dangerous: whether a bad action can do harm.
        simulator: whether there is a simulator that is trusted.
    """

    collect_more: bool | None = None
    costly: bool | None = None
    dangerous: bool | None = None
    simulator: bool | None = None

    def said(self, *names: str) -> str:
        """Some of the answers in words, such as "costly: yes, dangerous: no"."""
        return ", ".join(f"{name.replace('_', ' ')}: {WORDS[getattr(self, name)]}" for name in names)


def need_of(answers: Answers) -> tuple[str, tuple[Statement, ...]]:
    """Whether offline learning is needed ("needed", "worth it", "not needed" or "unknown"), and why."""
    a = answers
    if a.simulator:
        return "not needed", _simulated(a)
    if a.dangerous or a.collect_more is False:
        return "needed", _needed(a)
    if a.costly:
        return "worth it", (
            Statement(
                "Learn from the log first, and spend the costly episodes on testing and fine-tuning what comes out of it.",
                a.said("costly", "collect_more"),
                "where episodes are costly, every one that the log already holds is saved",
                SURVEY,
            ),
        )
    if a.collect_more and a.costly is False and a.dangerous is False:
        return "not needed", (
            Statement(
                "Learn online, by trying: it corrects its own errors, which no log can. Use the log as a warm start and as the "
                "baseline that the new policy has to beat.",
                a.said("collect_more", "costly", "dangerous"),
                "where trying is possible, cheap and harmless, online learning is simpler and needs no caution about untried "
                "actions",
                SURVEY,
            ),
        )
    return "unknown", (_unanswered(a),)


def _simulated(a: Answers) -> tuple[Statement, ...]:
    found = [
        Statement(
            "Learn online in the simulator, and use the log to test it: a policy from a simulator is as good as the simulator.",
            a.said("simulator"),
            "a trusted simulator gives as many episodes as are wanted, at no risk",
            SURVEY,
        )
    ]
    if a.dangerous or a.costly:
        found.append(
            Statement(
                "Before the policy acts for real, evaluate it on the log as well (`stitchrl evaluate`): the log is of the real "
                "world, and the simulator is not.",
                a.said("dangerous", "costly"),
                "where mistakes are costly, a second source of evidence that shares no error with the first is worth having",
                SURVEY,
            )
        )
    return tuple(found)


def _needed(a: Answers) -> tuple[Statement, ...]:
    found = []
    if a.collect_more is False:
        found.append(
            Statement(
                "Learn from this log alone: there is nothing else. What it never tried stays unknown, so the policy has to keep "
                "to actions that were tried.",
                a.said("collect_more"),
                "without new episodes nothing corrects a value that was never seen",
                SURVEY,
            )
        )
    if a.dangerous:
        found.append(
            Statement(
                "Do not learn by trying. Learn from the log, deploy only after a GO on the test part, and keep the guard of the "
                "bundle on.",
                a.said("dangerous"),
                "where a bad action does harm, no action may be tried that the evidence does not support",
                SURVEY,
            )
        )
    return tuple(found)


def _unanswered(a: Answers) -> Statement:
    open_questions = [field.name for field in dataclasses.fields(a) if getattr(a, field.name) is None]
    options = ", ".join(f"--{name.replace('_', '-')} yes/no" for name in open_questions)
    return Statement(
        "Whether offline learning is needed cannot be read from a log. It is where more episodes cannot be collected, or where "
        "collecting them is costly or dangerous; with a trusted simulator, or with cheap and harmless trials, learn online "
        f"instead. Answer with {options}.",
        a.said("collect_more", "costly", "dangerous", "simulator"),
        "offline learning pays where trying is impossible, costly or dangerous",
        SURVEY,
    )
