"""The run directory of the main job, and what its stages share: the log, its parts, and the trained candidates."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.auditing.audit import audit
from stitchrl.data.atoms import Atoms, action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.data.schema import Schema
from stitchrl.diagnosis.probe import Probe
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.evaluation.clock import first_steps
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.costs import check_costs, limits_of
from stitchrl.evaluation.groups import groups_of
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.registry import DEFAULT, chosen_estimators, default_estimators
from stitchrl.evaluation.requirements import check_size
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.pipeline.baseline import Baseline, same_baseline
from stitchrl.pipeline.candidates import Candidate, default_algorithms, forms_of, labelled, why_default
from stitchrl.pipeline.ladder import FootOfLadder, foot_of_ladder, on_rung
from stitchrl.pipeline.rungs import rung_from
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.versions import installed_versions
from stitchrl.progress import ProgressDisplay
from stitchrl.reading.read import read
from stitchrl.storage.files import forget_abandoned, write_json
from stitchrl.storage.run_directory import claim, load_json
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.fit import fit
from stitchrl.training.run import Run

__all__ = ["Truth", "Workspace"]

FILES = (
    "audit.json",
    "split.json",
    "ranking.json",
    "looks.json",
    "estimates.json",
    "diagnosis.json",
    "verdict.json",
    "report.html",
    "policy/policy.json",
)
"""What the stages leave, in order; each rests on those before it."""


@runtime_checkable
class Truth(Protocol):
    """Exact values, where the world behind a log is known."""

    name: str

    def value(self, policy: Any, horizon: int | None = None) -> float:
        """Exact expected return of a policy, of the first `horizon` steps where given."""

    def behavior(self, horizon: int | None = None) -> float:
        """Exact expected return of the behaviour, of the first `horizon` steps where given."""


@dataclasses.dataclass(eq=False)
class Workspace:
    """One run of the main job: where it is kept, what it is about, and what its stages hand to each other.

    Args:
        log_path: the log, in any format that `st.read` knows.
        out: the run directory.
        schema, format: of the log, as `st.read` takes them.
        algorithms: candidates, as label -> algorithm or as algorithms alone (the second IQL is then "IQL-2"); None is
            `default_algorithms`.
        settings: numbers of the run.
        truth: exact values, where known.
        baseline: what gains are taken over; None is the behaviour.
        command: how the run was started, for the report.
        say: called with one line a finished stage.
        progress: show bars.
    """

    log_path: str | os.PathLike[str]
    out: Path
    schema: Schema | str | os.PathLike[str] | None = None
    format: str | None = None
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm] | None = None
    settings: PipelineSettings = dataclasses.field(default_factory=PipelineSettings)
    truth: Truth | None = None
    baseline: Baseline | None = None
    command: str = ""
    say: Callable[[str, str], None] = lambda stage, text: None
    progress: bool = True

    @cached_property
    def log(self) -> Dataset:
        """The whole log, checked."""
        limits = limits_of(self.settings.cost)
        beside = {"subgroup": self.settings.group, "cost": [limit.column for limit in limits]}
        found = read(self.log_path, self.schema, format=self.format, beside=beside)
        if (gamma := self.settings.gamma) is not None:
            found = dataclasses.replace(found, schema=dataclasses.replace(found.schema, gamma=gamma))
        groups_of(found, self.settings.group)  # refused before anything is written
        check_costs(limits, found)
        return found

    @cached_property
    def labelled(self) -> dict[str, Algorithm]:
        """Label -> algorithm, of every candidate."""
        if self.algorithms is not None:
            return labelled(self.algorithms)
        return labelled(default_algorithms(self.log.schema.gamma, **self._kind_of_log))

    @cached_property
    def _kind_of_log(self) -> dict[str, Any]:
        """What the choice of candidates depends on."""
        continuous = self.log.num_actions is None
        counted = not continuous and numbers_states(self.log)
        return {"numbered_states": counted, "continuous": continuous, "episodes": self.log.num_episodes}

    @property
    def why_candidates(self) -> str:
        """Why these are the candidates; "" where they were asked for."""
        return "" if self.algorithms is not None else why_default(**self._kind_of_log)

    # --- the directory -------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Take the directory for this run, or see that the run in it is this one.

        Raises:
            ConfigurationError, EvaluationError: the log or the candidates are not such as the main job can take.
            RunDirectoryError: the directory cannot be written, holds another run, or holds something else.
        """
        if self.log.observation_table.ndim != 2:
            raise ConfigurationError(
                "The main job needs observations that are vectors so far; this log's are images of shape "
                f"{self.log.observation_shape}. `st.fit` learns from it."
            )
        chosen_estimators(self.estimators)  # refused before anything is written
        kind = "continuous" if self.log.num_actions is None else "discrete"
        for label, algorithm in self.labelled.items():
            if kind not in algorithm.actions:
                raise ConfigurationError(
                    f"{label} learns from {' or '.join(algorithm.actions)} actions; this log's are {kind}."
                )
            if algorithm.has_memory:
                judged = (
                    "`stitchrl evaluate` judges it by weights"
                    if kind == "discrete"
                    else "`st.rollout` plays it in an environment; `stitchrl evaluate` judges it only if its actions have a "
                    "density, which those of QChunking and DecisionTransformer over vectors do not have"
                )
                raise ConfigurationError(
                    f"{label} gives a policy that remembers its episode, which the main job can neither rank by fitted values "
                    f"nor put into a bundle. `stitchrl train` or `st.fit` trains it, and {judged}."
                )
        self._check_truth()
        train, valid, test = (int(share * self.log.num_transitions) for share in self.settings.fractions)
        forms = 2 if kind == "continuous" else 1
        check_size(self.log, valid, train, len(self.labelled) * self.settings.seeds * forms + len(self.compared))
        check_size(self.log, test, train + valid, 1 + len(self.compared))
        claim(self.out / "run.json", self._identity(), free=("command",), upgrade=self._upgraded, alone=True)
        for name in FILES:  # what a killed run was writing
            forget_abandoned(self.out / name)

    def _check_truth(self) -> None:
        """Raise ConfigurationError where there is a horizon and the truth only knows values until the end."""
        if self.truth is None or self.settings.horizon is None:
            return
        for method in (self.truth.value, self.truth.behavior):
            if "horizon" not in inspect.signature(method).parameters:
                raise ConfigurationError(
                    f"`truth` has no exact values of the first {self.settings.horizon} steps: its `{method.__name__}` takes "
                    "no `horizon`. Leave one of the two out."
                )

    def _identity(self) -> dict[str, Any]:
        content = {
            "name": self.log.schema.name,
            "content_hash": self.log.content_hash,
            "candidates": [
                {
                    "label": label,
                    "algorithm": algorithm.name,
                    "settings": dataclasses.asdict(algorithm),
                    "acts": algorithm.acts,
                    "caution": algorithm.caution,
                }
                for label, algorithm in self.labelled.items()
            ],
            **dataclasses.asdict(self.settings),
            "seeds": list(range(self.settings.seeds)),
            "gamma": self.log.schema.gamma,
            "estimators": list(self.estimators),
            "truth": None if self.truth is None else self.truth.name,
            **self._baseline_identity,
            "versions": installed_versions(),
            "command": self.command,
        }
        if self.estimand.time_unit is not None:
            content["time_unit"] = self.estimand.time_unit
        return dict(json.loads(json.dumps(content)))

    @cached_property
    def _baseline_identity(self) -> dict[str, Any]:
        return {"baseline": None} if self.baseline is None else self.baseline.identity(self.log)

    def _upgraded(self, found: dict[str, Any]) -> dict[str, Any]:
        """run.json as this version would have written it, with the same baseline called what this run calls it."""
        found = _of_this_version(found)
        return found | (self._baseline_identity if same_baseline(found, self._baseline_identity) else {})

    def load(self, name: str) -> dict[str, Any]:
        """The content of a file that a stage left. Raises RunDirectoryError where it is missing or damaged."""
        return load_json(self.out / name)

    def stage(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of a stage's file, which `make` gives where the file is not there yet."""
        file = self.out / name
        if not file.exists():
            content = make()
            # What a later stage made of an earlier file of this name no longer holds.
            for later in FILES[FILES.index(name) + 1 :]:
                (self.out / later).unlink(missing_ok=True)
            write_json(file, content)
        return load_json(file)

    @cached_property
    def audited(self) -> dict[str, Any]:
        """The plain content of an audit of the log, made when it is first asked for."""
        return audit(self.log).to_dict()

    # --- what stages share ---------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, Dataset]:
        """train, validation, test, and train + validation together."""
        found = self.load("split.json")["parts"]
        positions = {name: np.asarray(part["positions"]) for name, part in found.items()}
        positions["train+validation"] = np.sort(np.concatenate([positions["train"], positions["validation"]]))
        return {name: self.log.select_episodes(where) for name, where in positions.items()}

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Label -> training run, from its checkpoints where they are whole."""
        found = {}
        with ProgressDisplay(enabled=self.progress) as display:
            for label, algorithm in self.labelled.items():
                try:
                    found[label] = self._fit(label, algorithm, display)
                except (DivergenceError, DataError) as error:
                    # The warning example may blow up, which is its point; and nobody asked for our own candidates that
                    # solve the log's model, which has no solution where episodes never end. The others go on.
                    if not algorithm.caution and (self.algorithms is not None or not algorithm.closed_form):
                        raise
                    self.say("train", f"{label} left out: {error}")
        return found

    def _fit(self, label: str, algorithm: Algorithm, display: ProgressDisplay) -> Run:
        """A training run, whose policies need not remember their log: they are judged on other parts of it."""
        train = self.parts["train"]
        # What is solved and not trained is the same for every seed.
        seeds = 1 if algorithm.closed_form else self.settings.seeds
        trained = fit(
            algorithm,
            train,
            updates=self.settings.updates,
            seeds=seeds,
            batch_size=self.settings.batch_size,
            out=self.out / "checkpoints" / label,
            save_every_updates=500,
            reward_scale=unit_return_scale(train),
            callbacks=(display.track(f"{label} x {seeds}"),),
            progress=False,
            probe=Probe(self.parts["validation"]),
        )
        return dataclasses.replace(trained, schema=None, guard=None)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every candidate with every seed, as it would be deployed."""
        found = []
        for label, run in self.runs.items():
            for seed, policy, value in zip(run.seeds, run.policies, run.values, strict=True):
                assert not isinstance(policy, MemoryPolicy)  # refused before anything was trained
                found += [
                    Candidate(label, run.algorithm, seed, acting, value, policy, acts=acts)
                    for acts, acting in forms_of(run.algorithm, policy, self._atoms)
                ]
        return found

    @cached_property
    def _atoms(self) -> Atoms | None:
        """The bounds to which the actions of the training part were clipped; None where they were not."""
        return action_atoms(self.parts["train"])

    @cached_property
    def behavior_model(self) -> FootOfLadder:
        """The behaviour, fitted to the training part, to act on any observation."""
        return foot_of_ladder(self.parts["train"], self.fit_settings)

    @property
    def compared(self) -> list[PolicyLike]:
        """The baseline, to stand last among the policies of an evaluation; nothing where gains are over the behaviour."""
        return [] if self.baseline is None else [self.baseline.policy]

    @property
    def selected(self) -> Candidate:
        """The candidate that the ranking puts first, on the rung of its ladder where it is on one."""
        ranking = self.load("ranking.json")
        first: int = ranking["order"][0]["index"]
        if first < len(self.candidates):
            return self.candidates[first]
        step = ranking["candidates"][first]
        rung = rung_from(step["rung"])
        assert rung is not None
        return on_rung(self.candidates[step["rung"]["of"]], rung, self.behavior_model)

    def units_of(self, part: str) -> int:
        """How many independent units a part has: episodes, or groups where the log has them."""
        log = self.parts[part]
        return Units(log.num_episodes, log.group).count

    @property
    def estimators(self) -> tuple[str, ...]:
        """What estimates on the test part, by name."""
        if self.settings.estimators is not None:
            return self.settings.estimators
        horizon = self.settings.horizon
        return default_estimators(first_steps(self.log, horizon), horizon, densities=self.judges_densities)

    @property
    def judges_densities(self) -> bool:
        """Whether what may be selected has a density, or has rungs that do, and the baseline has one too."""
        return self.settings.ladder and all(map(has_density, self.compared))

    @property
    def fit_settings(self) -> FitSettings:
        """Settings of what the evaluation fits."""
        return FitSettings(
            updates=self.settings.evaluation_updates,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
        )

    @property
    def estimand(self) -> Estimand:
        """Which quantity the evaluation estimates."""
        return Estimand.of(self.log, horizon=self.settings.horizon)

    def describe(self, candidate: Candidate, log: Dataset, of: int | None = None) -> dict[str, Any]:
        """A candidate for the stage files, with the value it claims on a log and its exact one where known.

        With a horizon there is no claim: a learned value is of everything that follows, and must not be compared. Nor has
        a rung one: the critics speak about the policy that they were learned with.

        Args:
            candidate: what is described.
            log: of the claim.
            of: of a rung, the number of the candidate whose ladder it is on.
        """
        rung = None if candidate.rung is None else dataclasses.asdict(candidate.rung) | {"of": of}
        return {
            "title": candidate.title,
            "label": candidate.label,
            "algorithm": candidate.algorithm.name,
            "seed": candidate.seed,
            "acts": candidate.acts if rung is None else "rung of the ladder",
            "rung": rung,
            "caution": bool(candidate.algorithm.caution),
            "claimed": candidate.claimed(log) if self.settings.horizon is None and rung is None else None,
            "exact": self.exact(candidate.policy),
        }

    def exact(self, policy: Any | None) -> float | None:
        """The exact value of a policy, or of the behaviour (None), as far as the horizon; None where it is not known."""
        if self.truth is None:
            return None
        far = {} if self.settings.horizon is None else {"horizon": self.settings.horizon}
        return self.truth.behavior(**far) if policy is None else self.truth.value(policy, **far)


def _of_this_version(found: dict[str, Any]) -> dict[str, Any]:
    """run.json as it is. Raises RunDirectoryError where an older version wrote it, whose candidates had no labels."""
    if "candidates" not in found:
        raise RunDirectoryError(
            "The run in this directory is of an earlier version, whose candidates had no labels; its report and policy can "
            "be read, but it cannot go on. Choose another --out."
        )
    # What later versions added, as it was before.
    earlier = {"minimum_odds_ratio": PipelineSettings.minimum_odds_ratio, "ladder": False, "estimators": list(DEFAULT)}
    earlier |= {"group": [], "cost": [], "distribution": False, "tail": PipelineSettings.tail}
    earlier |= {"baseline": None}
    return earlier | found
