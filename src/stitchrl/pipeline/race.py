"""`st.race`: successive halving over algorithms and their knobs, under a declared budget of gradient updates.

All candidates learn a little and are judged on the validation part; one of `eta` goes on, learns on from where it was, and so on
until at most three are left (Jamieson and Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
Optimization). Every round has an equal share of the budget, so that the survivors get more and more of it each. Candidates are
ranked as the main job ranks them: by the lower end of the gain that the test part is predicted to give. Nothing looks at the test part.

Candidates that differ in number settings alone are members of one program, which compiles once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.data.atoms import action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError, StitchRLWarning
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.ranking import Ranked, rank
from stitchrl.evaluation.registry import chosen_estimators, default_estimators
from stitchrl.evaluation.requirements import check_size
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.pipeline.bundling import save_winner
from stitchrl.pipeline.candidates import Candidate, Rung, default_algorithms, forms_of, labelled
from stitchrl.pipeline.knobs import expanded
from stitchrl.pipeline.ladder import Step, climb, on_rung
from stitchrl.pipeline.race_places import Judged, place_candidates
from stitchrl.pipeline.race_result import Race, Round, Row
from stitchrl.pipeline.race_settings import Entrant, RaceSettings, check_budget, round_sizes, updates_each
from stitchrl.pipeline.validation import RANKING_RESAMPLES, validation_fits
from stitchrl.pipeline.versions import installed_versions
from stitchrl.progress import LoopMonitor, ProgressDisplay
from stitchrl.storage.files import write_json
from stitchrl.storage.run_directory import claim, load_json
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.fit import fit_members, run_of
from stitchrl.training.job import TrainedMembers
from stitchrl.training.run import Run

__all__ = ["race"]


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
        budget, eta, evaluation_updates, seeds, batch_size, seed, fractions, split_by, confidence, horizon, ladder: as in `RaceSettings`.
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


@dataclasses.dataclass(eq=False)
class _Group:
    """Candidates that one program trains, those that are left of them, and what they have learned."""

    name: str
    entrants: list[Entrant]
    trained: TrainedMembers | None = None

    def keep(self, entrants: Sequence[Entrant]) -> None:
        """Leave out all others."""
        left = [entrant for entrant in self.entrants if entrant in entrants]
        if self.trained is not None and left:
            self.trained = self.trained.of_members([self.entrants.index(entrant) for entrant in left])
        self.entrants = left


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
        entrants = self._entrants()
        sizes = round_sizes(len(entrants), self.settings.eta)
        check_budget(self.settings.budget, len(sizes), len(_learners(entrants)))
        self._check_size(len(entrants))
        self._claim(entrants)
        groups, done, spent, rounds = _groups(entrants), 0, 0, list[Round]()
        with ProgressDisplay(enabled=self.progress) as display:
            bar = display.track("race, updates of all", unit="upd/s")
            for number in range(1, len(sizes) + 1):
                learners = len(_learners(entrants))
                each = updates_each(self.settings.budget - spent, len(sizes) - number + 1, learners)
                done += each
                known = self._known(number)
                failed = {} if known is None else _failed(known, entrants)
                failed |= self._train(groups, number, done, each, spent, failed, bar)
                spent += each * learners
                go_on = sizes[number] if number < len(sizes) else 0
                if known is None:
                    rows = self._rows(groups, failed, done, go_on, display)
                    known = Round(number, len(sizes), each, spent, self.settings.budget, go_on, tuple(rows))
                    if self.out is not None:
                        write_json(self.out / _file(number), known.to_dict())
                rounds.append(known)
                self.on_round(known)
                titles = [row.title for row in known.rows if row.fate in ("goes on", "wins")]
                entrants = [entrant for entrant in entrants if entrant.title in titles]
                for group in groups:
                    group.keep(entrants)
        winner, run = self._winner(groups, rounds[-1].rows[0])
        found = Race(tuple(rounds), winner, run, self.settings.budget, spent, *self.parts, self.out)
        if self.out is not None:
            train, validation, _ = self.positions
            learned_from = self.log.select_episodes(sorted([*train.tolist(), *validation.tolist()]))
            save_winner(self.out / "policy", winner, self.log, self.parts[0], learned_from)
            write_json(self.out / "result.json", found.to_dict())
        return found

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

    def _entrants(self) -> list[Entrant]:
        """The candidates, checked. Raises ConfigurationError where the log or one of them cannot race."""
        if self.log.observation_table.ndim != 2:
            raise ConfigurationError(
                f"A race needs observations that are vectors; this log's are images of shape {self.log.observation_shape}. "
                "`st.fit` learns from it."
            )
        continuous = self.log.num_actions is None
        kind = "continuous" if continuous else "discrete"
        if self.algorithms is None:
            counted = not continuous and numbers_states(self.log)
            defaults = default_algorithms(
                self.log.schema.gamma, numbered_states=counted, continuous=continuous, episodes=self.log.num_episodes
            )
            candidates = labelled([algorithm for algorithm in defaults if not algorithm.caution])
        else:
            candidates = labelled(self.algorithms)
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
                    f"{label} gives a policy that remembers its episode, which a race cannot rank by fitted values. Leave it out; "
                    "`stitchrl train` trains it."
                )
        seeds = self.settings.seeds
        return [
            Entrant(label, algorithm, knob, number, seeded=seeds > 1 and not algorithm.closed_form)
            for label, algorithm, knob in expanded(candidates, self.grid, continuous=continuous)
            for number in range(1 if algorithm.closed_form else seeds)  # what is solved is the same for every seed
        ]

    def _check_size(self, candidates: int) -> None:
        """Raise EvaluationError where the policies of the first round do not fit into memory on the validation part."""
        train, validation, _ = self.parts
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

    # --- a round ----------------------------------------------------------------------------------------------------

    def _train(
        self,
        groups: Sequence[_Group],
        number: int,
        updates: int,
        each: int,
        spent: int,
        failed: Mapping[Entrant, str],
        bar: LoopMonitor,
    ) -> dict[Entrant, str]:
        """Let every candidate learn until it has made so many updates; gives those that failed, each with its sentence.

        Args:
            groups: of those that are left.
            number: of the round.
            updates: of each candidate, since the race began.
            each: of them, those in this round.
            spent: by all candidates before this round.
            failed: those that are known to have failed in this round, where it was judged before.
            bar: shows how far the race is.
        """
        found: dict[Entrant, str] = {}
        train = self.parts[0]
        for group in groups:
            members = group.entrants
            if not members or all(member in failed for member in members):
                continue
            folder = None if self.out is None else self.out / "checkpoints" / f"round-{number}" / group.name
            learning = not members[0].algorithm.closed_form

            def show(done: int, total: int, metrics: Any, before: int = spent, count: int = len(members)) -> None:
                bar(before + (done - updates + each) * count, self.settings.budget, {})

            try:
                with _without_remarks_on_divergence():
                    group.trained = fit_members(
                        [member.algorithm for member in members],
                        train,
                        updates=updates,
                        seeds=[member.seed for member in members],
                        named_by=[members[0].knob] if members[0].knob else [],
                        begin=group.trained,
                        batch_size=self.settings.batch_size,
                        out=folder,
                        save_every_updates=500,
                        reward_scale=unit_return_scale(train),
                        callbacks=(show,) if learning else (),
                        progress=False,
                    )
                diverged = group.trained.trained.diverged
                found |= {members[k]: sentence for k, sentence in diverged.items()}
            except (DivergenceError, DataError) as error:
                # A log whose model has no solution, as where episodes never end, is no fault of the others.
                if isinstance(error, DataError) and learning:
                    raise
                found |= {member: str(error) for member in members}
            spent += each * len(members) if learning else 0
        return found

    def _rows(
        self,
        groups: Sequence[_Group],
        failed: Mapping[Entrant, str],
        updates: int,
        go_on: int,
        display: ProgressDisplay,
    ) -> list[Row]:
        """The candidates of a round, best first, and behind them those that failed. Raises DivergenceError where all did."""
        entrants = [entrant for group in groups for entrant in group.entrants]
        made = {entrant.title: 0 if entrant.algorithm.closed_form else updates for entrant in entrants}
        candidates = [one for group in groups for one in self._candidates(group, failed)]
        if not candidates:
            raise DivergenceError(f"Every candidate of the race failed; the last: {list(failed.values())[-1]}")
        found = place_candidates(self._judge(candidates, display), made, go_on)
        return found + [Row.of_failed(one.title, made[one.title], sentence) for one, sentence in failed.items()]

    def _candidates(self, group: _Group, failed: Mapping[Entrant, str]) -> Iterator[Candidate]:
        """Every way of acting of the candidates of a group that did not fail."""
        for entrant in group.entrants:
            if entrant in failed:
                continue
            run = self._run(group, entrant)
            for acts, policy in forms_of(entrant.algorithm, run.policy, self._atoms):
                algorithm, seed = entrant.algorithm, entrant.seed
                yield Candidate(entrant.title, algorithm, seed, policy, run.values[0], run.policy, acts=acts)

    def _run(self, group: _Group, entrant: Entrant) -> Run:
        assert group.trained is not None
        return run_of(entrant.algorithm, entrant.seed, group.trained, group.entrants.index(entrant))

    @cached_property
    def _atoms(self) -> Any:
        return action_atoms(self.parts[0])

    @cached_property
    def _fit_settings(self) -> FitSettings:
        settings = self.settings
        return FitSettings(updates=settings.evaluation_updates, batch_size=settings.batch_size, seed=settings.seed)

    @cached_property
    def _behavior(self) -> DiscretePolicy:
        """The behaviour, fitted to the training part: the ladder between a policy and the log leads to it."""
        policy = fit_behavior(self.parts[0], self._fit_settings).policy
        assert isinstance(policy, DiscretePolicy)
        return policy

    def _judge(self, candidates: list[Candidate], display: ProgressDisplay) -> list[Judged]:
        """The candidates and the best rung of the ladder of each on the validation part, best first."""
        train, validation, test = self.parts
        settings = self.settings
        fits = validation_fits(
            [candidate.policy for candidate in candidates],
            validation,
            train,
            estimand=Estimand.of(self.log, horizon=settings.horizon),
            settings=self._fit_settings,
            display=display,
        )

        def evaluated(fits: Fits, estimators: Sequence[Estimator], **how: Any) -> list[Evaluation]:
            return evaluate_fits(
                fits, estimators, confidence=settings.confidence, resamples=RANKING_RESAMPLES, **how
            )  # fmt: skip

        chosen = chosen_estimators(default_estimators(fits.log, settings.horizon))
        evaluations = evaluated(fits, chosen, confirm=False)
        sizes = (Units(validation.num_episodes, validation.group).count, Units(test.num_episodes, test.group).count)

        def ranked() -> list[Ranked]:
            gains = [one.gain for one in evaluations]
            return rank(gains, [True] * len(gains), size=sizes[0], test_size=sizes[1])

        order = ranked()
        if settings.ladder and self.log.num_actions is not None:
            best: dict[str, Step] = {}
            for step in climb(fits, candidates, order, self._behavior, sizes, evaluated):
                best.setdefault(step.candidate.label, step)
            candidates = [*candidates, *(step.candidate for step in best.values())]
            evaluations += [step.evaluation for step in best.values()]
            order = ranked()
        return [Judged(candidates[row.index], evaluations[row.index], row) for row in order]

    def _winner(self, groups: Sequence[_Group], won: Row) -> tuple[Candidate, Run]:
        """The candidate that the final put first, and its run."""
        (group,) = (group for group in groups if group.entrants)
        (entrant,) = group.entrants
        forms = list(self._candidates(group, {}))
        chosen = next((one for one in forms if one.acts == won.acts), forms[0])
        if won.power is not None and won.floor is not None:
            chosen = on_rung(chosen, Rung(won.power, won.floor), self._behavior)
        return chosen, self._run(group, entrant)


def _failed(known: Round, entrants: Sequence[Entrant]) -> dict[Entrant, str]:
    """Those that failed in a round that was judged before, each with its sentence."""
    why = {row.title: row.why for row in known.rows if row.place is None}
    return {entrant: why[entrant.title] for entrant in entrants if entrant.title in why}


def _groups(entrants: Sequence[Entrant]) -> list[_Group]:
    """The candidates that differ in number settings alone, together; a closed form, which is solved at once, by itself."""
    found: dict[Any, list[Entrant]] = {}
    for number, entrant in enumerate(entrants):
        algorithm = entrant.algorithm
        key = (entrant.label, algorithm.structure(), entrant.knob, number if algorithm.closed_form else -1)
        found.setdefault(key, []).append(entrant)
    names: dict[str, int] = {}
    groups = []
    for members in found.values():
        label = members[0].label
        names[label] = names.get(label, 0) + 1
        groups.append(_Group(f"{label}.{names[label]}", members))
    return groups


def _learners(entrants: Sequence[Entrant]) -> list[Entrant]:
    return [entrant for entrant in entrants if not entrant.algorithm.closed_form]


def _file(number: int) -> str:
    return f"round-{number}.json"


@contextlib.contextmanager
def _without_remarks_on_divergence() -> Iterator[None]:
    """The table of the round says which candidates diverged and why, so that no warning needs to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*The others go on\.$", category=StitchRLWarning)
        yield
