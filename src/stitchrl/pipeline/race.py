"""`st.race`: successive halving over algorithms and their knobs, under a declared budget of gradient updates.

All candidates learn a little and are judged on the validation part; one of `eta` goes on, learns on from where it was, and so on
until at most three are left (Jamieson and Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
Optimization). Every round has an equal share of the budget, so that the survivors get more and more of it each. Candidates are
ranked as the main job ranks them: by the lower end of the gain that the test part is predicted to give. Nothing looks at the
test part.

Candidates that differ in number settings alone are members of one program, which compiles once.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError, RunDirectoryError
from stitchrl.evaluation.requirements import check_size
from stitchrl.evaluation.units import Units
from stitchrl.pipeline.bundling import save_winner
from stitchrl.pipeline.candidates import default_algorithms, labelled
from stitchrl.pipeline.knobs import Entrant, entrants_of
from stitchrl.pipeline.race_judging import Jury
from stitchrl.pipeline.race_places import place_candidates
from stitchrl.pipeline.race_result import Race, Round, Row
from stitchrl.pipeline.race_settings import RaceSettings, check_budget, round_sizes, updates_each
from stitchrl.pipeline.race_training import Group, groups_of
from stitchrl.pipeline.versions import installed_versions
from stitchrl.progress import LoopMonitor, ProgressDisplay
from stitchrl.storage.files import write_json
from stitchrl.storage.run_directory import claim, load_json
from stitchrl.training.divergence import DivergenceError

__all__ = ["race", "race_entrants"]

RESULT = "result.json"


def race(
    log: Dataset,
    *,
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    budget: int = RaceSettings.budget,
    eta: int = RaceSettings.eta,
    evaluation_updates: int = RaceSettings.evaluation_updates,
    seeds: int = RaceSettings.seeds,
    batch_size: int = RaceSettings.batch_size,
    seed: int = RaceSettings.seed,
    fractions: tuple[float, float, float] = RaceSettings.fractions,
    split_by: str | None = RaceSettings.split_by,
    confidence: float = RaceSettings.confidence,
    horizon: int | None = RaceSettings.horizon,
    ladder: bool = RaceSettings.ladder,
    out: str | os.PathLike[str] | None = None,
    on_round: Callable[[Round], None] = lambda found: None,
    progress: bool = False,
) -> Race:
    """Find an algorithm and the setting that decides most in it, under a budget of gradient updates.

    The log is split as the main job splits it. Candidates learn on the training part and are ranked on the validation part; the
    test part is not looked at, and says afterwards what the winner is worth: `st.evaluate(race.policy, race.test)`.

    Args:
        log: the whole log.
        algorithms: as of `st.run`; each is tried with every value of its knob (`pipeline/knobs.py`). None: those of the main job
            without its warning example.
        grid: "LABEL.setting" -> values, such as `{"IQL.expectile": [0.6, 0.9]}`, in place of that algorithm's own knob.
        budget, eta, evaluation_updates, seeds, batch_size, seed, fractions, split_by, confidence, horizon, ladder: as in
            `RaceSettings`.
        out: directory of the race, which keeps the winner as a bundle too; a race found there goes on if its log, candidates
            and settings are the same. None writes nothing.
        on_round: called with every round when it is known.
        progress: show bars.

    Raises:
        DataError, ConfigurationError, EvaluationError: the log, a candidate or a number is not such as a race can take.
        RunDirectoryError: `out` cannot be written, or holds another race or something else.
        DivergenceError: every candidate diverged.
    """
    settings = RaceSettings(
        budget, eta, evaluation_updates, seeds, batch_size, seed, fractions, split_by, confidence, horizon, ladder
    )
    folder = None if out is None else Path(out)
    return _Racing(log, settings, algorithms, grid or {}, folder, on_round, progress).run()


def race_entrants(
    log: Dataset,
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 1,
) -> list[Entrant]:
    """The candidates of a race, checked; arguments as of `race`.

    Raises:
        ConfigurationError: the log, or one of the candidates, is not such as can race.
    """
    if log.observation_table.ndim != 2:
        raise ConfigurationError(
            f"A race needs observations that are vectors; this log's are images of shape {log.observation_shape}. "
            "`st.fit` learns from it."
        )
    continuous = log.num_actions is None
    kind = "continuous" if continuous else "discrete"
    if algorithms is None:
        counted = not continuous and numbers_states(log)
        defaults = default_algorithms(
            log.schema.gamma, numbered_states=counted, continuous=continuous, episodes=log.num_episodes
        )
        candidates = labelled([algorithm for algorithm in defaults if not algorithm.caution])
    else:
        candidates = labelled(algorithms)
    for label, algorithm in candidates.items():
        if kind not in algorithm.actions:
            raise ConfigurationError(
                f"{label} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}. Leave it out."
            )
        if algorithm.caution:
            raise ConfigurationError(
                f"{label} is only a warning example, which must not win a race; `stitchrl run` shows it. Leave it out."
            )
        if algorithm.has_memory:
            raise ConfigurationError(
                f"{label} gives a policy that remembers its episode, which a race cannot rank by fitted values. Leave it "
                "out; `stitchrl train` trains it."
            )
    return entrants_of(candidates, grid or {}, continuous=continuous, seeds=seeds)


@dataclasses.dataclass(eq=False)
class _Racing:
    """A race while it runs."""

    log: Dataset
    settings: RaceSettings
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm] | None
    grid: Mapping[str, Sequence[Any]]
    out: Path | None
    on_round: Callable[[Round], None]
    progress: bool

    def run(self) -> Race:
        """All rounds, and the winner."""
        entrants = race_entrants(self.log, self.algorithms, self.grid, self.settings.seeds)
        sizes = round_sizes(len(entrants), self.settings.eta)
        groups = groups_of(entrants)
        check_budget(self.settings.budget, len(sizes), sum(group.learners for group in groups))
        self._check_size(len(entrants))
        self._claim(entrants)
        rounds = list[Round]()
        with ProgressDisplay(enabled=self.progress) as display:
            bar = display.track("race, updates of all", unit="upd/s")
            for go_on in [*sizes[1:], 0]:
                found = self._round(groups, rounds, len(sizes), go_on, display, bar)
                rounds.append(found)
                self.on_round(found)
                titles = [row.title for row in found.rows if row.fate in ("goes on", "wins")]
                for group in groups:
                    group.keep(titles)
        (group,) = (group for group in groups if group.entrants)
        (entrant,) = group.entrants
        run = group.run(entrant)
        winner = self._jury.deployed(entrant, run, rounds[-1].rows[0])
        race = Race(tuple(rounds), winner, run, self.settings.budget, rounds[-1].spent, *self.parts, self.out)
        if self.out is not None:
            train, validation, _ = self.positions
            learned_from = self.log.select_episodes(sorted([*train.tolist(), *validation.tolist()]))
            save_winner(self.out / "policy", winner, self.log, self.parts[0], learned_from)
            write_json(self.out / RESULT, race.to_dict())
        return race

    def _round(
        self,
        groups: Sequence[Group],
        before: Sequence[Round],
        rounds: int,
        go_on: int,
        display: ProgressDisplay,
        bar: LoopMonitor,
    ) -> Round:
        """Train and judge what is left of the candidates; a round that was judged earlier stays as it is.

        Args:
            groups: of the candidates that are left.
            before: the earlier rounds.
            rounds: how many the race has.
            go_on: how many go on to the next round; 0 in the last one.
            display, bar: where progress is shown, and how far the race is.
        """
        number, learners = len(before) + 1, sum(group.learners for group in groups)
        spent = before[-1].spent if before else 0
        each = updates_each(self.settings.budget - spent, rounds - len(before), learners)
        updates = each + sum(one.updates for one in before)
        known = self._known(number)
        failed_before = {} if known is None else {row.title: row.why for row in known.rows if row.place is None}
        failed: dict[Entrant, str] = {}
        for group in groups:
            if not group.entrants or all(one.title in failed_before for one in group.entrants):
                continue

            def show(done: int, total: int, metrics: Any, before: int = spent, count: int = group.learners) -> None:
                bar(before + (done - updates + each) * count, self.settings.budget, {})

            folder = None if self.out is None else self.out / "checkpoints" / f"round-{number}"
            failed |= group.learn(
                self.parts[0], updates=updates, batch_size=self.settings.batch_size, folder=folder, show=show
            )
            spent += each * group.learners
        if known is not None:
            return known
        rows = self._rows(groups, failed, updates, go_on, display)
        found = Round(number, rounds, each, spent, self.settings.budget, go_on, tuple(rows))
        if self.out is not None:
            for later in (*(_file(k) for k in range(number + 1, rounds + 1)), RESULT, "policy/policy.json"):
                (self.out / later).unlink(missing_ok=True)  # made of an earlier file of this round
            write_json(self.out / _file(number), found.to_dict())
        return found

    def _rows(
        self,
        groups: Sequence[Group],
        failed: Mapping[Entrant, str],
        updates: int,
        go_on: int,
        display: ProgressDisplay,
    ) -> list[Row]:
        """The candidates of a round, best first, and behind them those that failed. Raises DivergenceError where all did."""
        left = [(group, one) for group in groups for one in group.entrants]
        made = {one.title: 0 if one.algorithm.closed_form else updates for _, one in left}
        candidates = [
            candidate
            for group, one in left
            if one not in failed
            for candidate in self._jury.candidates(one, group.run(one))
        ]
        if not candidates:
            raise DivergenceError(f"Every candidate of the race failed; the last: {list(failed.values())[-1]}")
        found = place_candidates(self._jury.judge(candidates, display), made, go_on)
        return found + [Row.of_failed(one.title, made[one.title], sentence) for one, sentence in failed.items()]

    # --- what there is to race --------------------------------------------------------------------------------------

    @cached_property
    def positions(self) -> tuple[Any, ...]:
        """The episodes of train, validation and test."""
        by = self.settings.split_by
        return self.log.split_episodes(self.settings.fractions, seed=self.settings.seed, by=by)

    @cached_property
    def parts(self) -> tuple[Dataset, Dataset, Dataset]:
        """Train, validation and test."""
        train, validation, test = (self.log.select_episodes(where) for where in self.positions)
        return train, validation, test

    @cached_property
    def _jury(self) -> Jury:
        train, validation, test = self.parts
        units = [Units(part.num_episodes, part.group).count for part in (validation, test)]
        return Jury(train, validation, validation_units=units[0], test_units=units[1], settings=self.settings)

    def _check_size(self, candidates: int) -> None:
        """Raise EvaluationError where the validation part is too small to judge by, or the policies do not fit into memory."""
        train, validation, _ = self.parts
        if self._jury.validation_units < 2:
            raise EvaluationError(
                "The validation part needs at least 2 episodes, of 2 groups where the log has groups: their spread makes the "
                f"intervals that candidates are ranked by. It has {self._jury.validation_units}. Log more episodes, or give it "
                f"a larger share with `fractions`; now {', '.join(f'{share:g}' for share in self.settings.fractions)}."
            )
        forms = 2 if self.log.num_actions is None else 1
        check_size(self.log, validation.num_transitions, train.num_transitions, candidates * forms)

    def _claim(self, entrants: Sequence[Entrant]) -> None:
        """Take the directory for this race, or see that the race in it is this one."""
        if self.out is None:
            return
        content = {
            "name": self.log.schema.name,
            "content_hash": self.log.bare().content_hash,
            "candidates": [
                {
                    "label": one.title,
                    "algorithm": one.algorithm.name,
                    "settings": dataclasses.asdict(one.algorithm),
                    "seed": one.seed,
                }
                for one in entrants
            ],
            **dataclasses.asdict(self.settings),
            "gamma": self.log.schema.gamma,
            "versions": installed_versions(),
        }
        claim(self.out / "race.json", json.loads(json.dumps(content)), alone=True)

    def _known(self, number: int) -> Round | None:
        """A round that was finished before; None where it was not. Raises RunDirectoryError where its file is damaged."""
        file = None if self.out is None else self.out / _file(number)
        if file is None or not file.exists():
            return None
        try:
            return Round.from_dict(load_json(file))
        except (KeyError, TypeError):
            raise RunDirectoryError(f"{file} is damaged. Delete it to have its round judged again.") from None


def _file(number: int) -> str:
    return f"round-{number}.json"
