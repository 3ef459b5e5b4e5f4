"""A sentence of advice, with the number that it rests on and the rule that leads from the one to the other."""

from __future__ import annotations

import dataclasses

__all__ = ["Statement"]


@dataclasses.dataclass(frozen=True)
class Statement:
    """One piece of advice.

    Attributes:
        statement: the advice, as a whole sentence.
        number: what was measured or answered, in words, such as "300 episodes".
        rule: the rule that leads from the number to the statement.
        source: where the rule is from: a paper, a benchmark of this repository, a check of the audit, or arithmetic.
    """

    statement: str
    number: str
    rule: str
    source: str

    def __str__(self) -> str:
        return f"{self.statement} Because: {self.number}. Rule: {self.rule} ({self.source})."
