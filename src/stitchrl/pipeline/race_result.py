"""What a race hands back: every round as a table, and the winner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.pipeline.candidates import Candidate
from stitchrl.printing import Shown
from stitchrl.reporting.race_table import race_in_words
from stitchrl.training.run import Run

__all__ = ["Race", "Round", "Row"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate in a round.

    Attributes:
        title: of the candidate, such as "IQL expectile 0.8".
        acts: "greedy" or "as trained", whichever the ranking put first; of a policy on the ladder, how its candidate acts.
        power, floor: of the rung of the ladder that the ranking put first; None where the candidate itself came first, and over
            continuous actions.
        updates: gradient updates that it had made by the end of the round, those of earlier rounds included.
        place: among the candidates of the round, from 1; None where it diverged.
        estimator: what its gain was estimated by; None where no estimate has an interval.
        value, lower, upper: its estimated value on the validation part, with its interval.
        gain, gain_lower, gain_upper: over the behaviour, on the validation part.
        bound: the lower end of its gain that the test part is predicted to give; candidates are ranked by it.
        healthy: whether every check of its gain is predicted to hold on the test part; others are ranked behind.
        fate: "goes on", "dropped", "wins" or "loses the final".
        why: in words.
        reach, spread: of the rung over continuous actions that the ranking put first; None where the candidate itself came first,
            and over discrete actions.
    """

    title: str
    acts: str
    power: float | None
    floor: float | None
    updates: int
    place: int | None
    estimator: str | None
    value: float | None
    lower: float | None
    upper: float | None
    gain: float | None
    gain_lower: float | None
    gain_upper: float | None
    bound: float | None
    healthy: bool
    fate: str
    why: str
    reach: float | None = None
    spread: float | None = None

    @classmethod
    def of_failed(cls, title: str, updates: int, why: str) -> Row:
        """A candidate that was not judged, for the reason that `why` says."""
        numbers = dict.fromkeys(field.name for field in dataclasses.fields(cls))
        own = {"title": title, "acts": "", "updates": updates, "healthy": False, "fate": "dropped", "why": why}
        return cls(**{**numbers, **own})  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Round:
    """A round of a race.

    Attributes:
        number: from 1.
        rounds: how many the race has.
        updates: gradient updates that each learning candidate made in it.
        spent: gradient updates of all candidates so far.
        budget: of the race.
        go_on: how many go on to the next round; 0 in the last one.
        rows: best first.
    """

    number: int
    rounds: int
    updates: int
    spent: int
    budget: int
    go_on: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self) | {"rows": [dataclasses.asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Round:
        """Inverse of `to_dict`. Raises KeyError or TypeError on other content."""
        return cls(**{**content, "rows": tuple(Row(**row) for row in content["rows"])})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Race(Shown):
    """What `st.race` gives back.

    Attributes:
        rounds: in order; the last one is the final.
        winner: as it would be deployed.
        run: of the winner: states, metrics and scaling, as `st.fit` gives them.
        budget: gradient updates that were allowed.
        spent: gradient updates that were made.
        train, validation, test: the parts of the log. Nothing in the race looked at the test part.
        folder: where everything is kept; None where nothing is.
    """

    rounds: tuple[Round, ...]
    winner: Candidate
    run: Run
    budget: int
    spent: int
    train: Dataset
    validation: Dataset
    test: Dataset
    folder: Path | None = None

    @property
    def policy(self) -> Any:
        """The winner's policy as it would be deployed. `st.evaluate(race.policy, race.test)` says what it is worth."""
        return self.winner.policy

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        won = self.rounds[-1].rows[0]
        tried = sum(row.place is not None for row in self.rounds[0].rows)
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "winner": dataclasses.asdict(won),
            "algorithm": self.winner.algorithm.name,
            "seed": self.winner.seed,
            "continuous": self.train.num_actions is None,
            "budget": self.budget,
            "spent": self.spent,
            "candidates": len(self.rounds[0].rows),
            "judged": tried,
            "episodes": {name: part.num_episodes for name, part in parts.items()},
            "rounds": [one.to_dict() for one in self.rounds],
            "folder": None if self.folder is None else str(self.folder),
        }

    def __str__(self) -> str:
        return race_in_words(self.to_dict())
