"""How the candidates of a race learn: as members of programs, each of which compiles once, and on from where they were."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.errors import DataError, StitchRLWarning
from stitchrl.pipeline.knobs import Entrant
from stitchrl.progress import LoopMonitor
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.fit import fit_members, run_of
from stitchrl.training.job import TrainedMembers
from stitchrl.training.run import Run

__all__ = ["Group", "groups_of"]

SAVE_EVERY_UPDATES = 500


@dataclasses.dataclass(eq=False)
class Group:
    """Candidates that one program trains: they differ in number settings and seeds alone.

    Attributes:
        name: of its folder.
        entrants: those that are left in the race.
        trained: what they have learned; None before their first round.
    """

    name: str
    entrants: list[Entrant]
    trained: TrainedMembers | None = None

    @property
    def learners(self) -> int:
        """How many of the candidates make updates: all, or none where they are solved in closed form."""
        return 0 if not self.entrants or self.entrants[0].algorithm.closed_form else len(self.entrants)

    def learn(
        self, train: Dataset, *, updates: int, batch_size: int, folder: Path | None, show: LoopMonitor
    ) -> dict[Entrant, str]:
        """Let all learn until each has made so many updates; gives those that failed, each with its sentence.

        Args:
            train: the training part.
            updates: of each, those of earlier rounds included.
            batch_size: transitions in a batch.
            folder: of the checkpoints of this round; None keeps none.
            show: called as the training loop's monitors are.
        """
        knob = self.entrants[0].knob
        try:
            with _without_remarks_on_divergence():
                self.trained = fit_members(
                    [one.algorithm for one in self.entrants],
                    train,
                    updates=updates,
                    seeds=[one.seed for one in self.entrants],
                    named_by=[knob] if knob else [],
                    begin=self.trained,
                    batch_size=batch_size,
                    out=None if folder is None else folder / self.name,
                    save_every_updates=SAVE_EVERY_UPDATES,
                    reward_scale=unit_return_scale(train),
                    callbacks=(show,),
                    progress=False,
                )
        except DivergenceError as error:
            return {one: str(error) for one in self.entrants}
        except DataError as error:
            # A log whose model has no solution, as where episodes never end, is no fault of the other candidates.
            if self.learners:
                raise
            return {one: str(error) for one in self.entrants}
        return {self.entrants[k]: sentence for k, sentence in self.trained.trained.diverged.items()}

    def keep(self, titles: Sequence[str]) -> None:
        """Leave out all candidates but those of these titles."""
        left = [k for k, one in enumerate(self.entrants) if one.title in titles]
        if self.trained is not None and left:
            self.trained = self.trained.of_members(left)
        self.entrants = [self.entrants[k] for k in left]

    def run(self, entrant: Entrant) -> Run:
        """What one of them has learned."""
        assert self.trained is not None
        return run_of(entrant.algorithm, entrant.seed, self.trained, self.entrants.index(entrant))


def groups_of(entrants: Sequence[Entrant]) -> list[Group]:
    """The candidates by the program that trains them; each that is solved in closed form by itself."""
    found: dict[object, list[Entrant]] = {}
    for number, one in enumerate(entrants):
        key = (one.label, one.algorithm.structure(), number if one.algorithm.closed_form else -1)
        found.setdefault(key, []).append(one)
    groups: list[Group] = []
    for members in found.values():
        label = members[0].label
        number = 1 + sum(group.entrants[0].label == label for group in groups)
        groups.append(Group(label if number == 1 else f"{label}.{number}", members))
    return groups


@contextlib.contextmanager
def _without_remarks_on_divergence() -> Iterator[None]:
    """The table of the round says which candidates diverged and why, so that no warning needs to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*The others go on\.$", category=StitchRLWarning)
        yield
