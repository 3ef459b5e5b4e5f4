"""The main job: a log file in, one directory out, a stage a file. A killed run continues with the same command.

Stages, in order: audit.json, split.json, checkpoints/, ranking.json, estimates.json, verdict.json, report.html,
policy/. Each is written whole or not at all; a stage whose file is there is not done again. Nothing that depends on
the clock is in these files, so an interrupted run ends with the same content as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.auditing.audit import audit
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.data.schema import Schema
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.ranking import rank
from stitchrl.evaluation.requirements import check_size
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.verdict import Verdict, decide
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue
from stitchrl.pipeline.candidates import Candidate, default_algorithms
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.progress import ProgressDisplay
from stitchrl.reading.read import read
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report
from stitchrl.storage.files import make_directory, write_json, write_text
from stitchrl.storage.run_directory import difference, load_json
from stitchrl.training.divergence import DivergenceError
from stitchrl.training.fit import fit
from stitchrl.training.run import Run

__all__ = ["STAGES", "Pipeline", "Truth", "stored_verdict"]

STAGES = ("audit", "split", "train", "select", "evaluate", "verdict", "report", "bundle")
FILES = (
    "audit.json",
    "split.json",
    "ranking.json",
    "estimates.json",
    "verdict.json",
    "report.html",
    "policy/policy.json",
)
"""What the stages leave, in order; each rests on those before it."""
PACKAGES = ("stitchrl", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "pyarrow")


@runtime_checkable
class Truth(Protocol):
    """Exact values, where the world behind a log is known."""

    name: str

    def value(self, policy: Any) -> float:
        """Exact expected return of a policy."""

    def behavior(self) -> float:
        """Exact expected return of the behaviour."""


@dataclasses.dataclass(eq=False)
class Pipeline:
    """One run of the main job. `run` does every stage; each stage can also be asked for alone.

    Args:
        log_path: Parquet file.
        out: the run directory.
        schema: Schema or its TOML; by default the TOML beside the log.
        algorithms: candidates; None is `default_algorithms`.
        settings: numbers of the run.
        truth: exact values, where known.
        command: how the run was started, for the report.
        say: called with one line a finished stage.
        progress: show bars.
    """

    log_path: str | os.PathLike[str]
    out: Path
    schema: Schema | str | os.PathLike[str] | None = None
    algorithms: Sequence[Algorithm] | None = None
    settings: PipelineSettings = dataclasses.field(default_factory=PipelineSettings)
    truth: Truth | None = None
    command: str = ""
    say: Callable[[str, str], None] = lambda stage, text: None
    progress: bool = True

    @cached_property
    def log(self) -> Dataset:
        """The whole log, checked."""
        return read(self.log_path, self.schema)

    @cached_property
    def chosen_algorithms(self) -> tuple[Algorithm, ...]:
        """The algorithms, each once."""
        chosen = self.algorithms if self.algorithms is not None else default_algorithms(self.log.schema.gamma)
        names = [algorithm.name for algorithm in chosen]
        if not chosen or len(set(names)) != len(names):
            raise ConfigurationError(
                f"A run needs each algorithm once and at least one; got {', '.join(names) or 'none'}."
            )
        if all(algorithm.caution for algorithm in chosen):
            raise ConfigurationError(
                f"A run needs an algorithm that may be selected; {', '.join(names)} is only shown as a warning. Add another."
            )
        return tuple(chosen)

    def run(self, until: str = "bundle") -> dict[str, Any]:
        """Do every stage up to and including `until`; returns the content of the last one."""
        if until not in STAGES:
            raise ConfigurationError(f"`until` must be a stage: {', '.join(STAGES)}; got {until!r}.")
        self.claim()
        content: dict[str, Any] = {}
        timings: dict[str, float] = {}
        for stage in STAGES[: STAGES.index(until) + 1]:
            started = time.monotonic()
            content = getattr(self, f"{stage}_stage")()
            timings[stage] = round(time.monotonic() - started, 3)
        # Beside the results and not among them: the only file that tells the time.
        write_json(self.out / "timings.json", timings)
        return content

    def claim(self) -> None:
        """Take the directory for this run, or see that the run in it is this one.

        Raises:
            RunDirectoryError: it cannot be written, holds another run, or holds something else.
        """
        if self.log.num_actions is None:
            raise ConfigurationError("The main job needs discrete actions so far; this log's are continuous.")
        train, valid, test = (int(share * self.log.num_transitions) for share in self.settings.fractions)
        check_size(self.log, valid, train, len(self.chosen_algorithms) * self.settings.seeds)
        check_size(self.log, test, train + valid, 1)
        identity = self._identity()
        file = self.out / "run.json"
        if file.exists():
            found = load_json(file)
            for key, value in identity.items():
                if found.get(key) != value and key != "command":
                    raise RunDirectoryError(difference(str(self.out), key, found.get(key), value))
            return
        make_directory(self.out)
        if any(not name.name.startswith(".") for name in self.out.iterdir()):
            raise RunDirectoryError(
                f"{str(self.out)!r} is not empty and holds no run of stitchrl. Choose another --out; nothing was changed."
            )
        write_json(file, identity)

    def _identity(self) -> dict[str, Any]:
        plain = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        versions = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES}
        return {
            "name": self.log.schema.name,
            "content_hash": self.log.content_hash,
            "gamma": self.log.schema.gamma,
            "algorithms": [
                {
                    "algorithm": algorithm.name,
                    "settings": json.loads(json.dumps(dataclasses.asdict(algorithm))),
                    "acts": algorithm.acts,
                    "caution": algorithm.caution,
                }
                for algorithm in self.chosen_algorithms
            ],
            **plain,
            "seeds": list(range(self.settings.seeds)),
            "truth": None if self.truth is None else self.truth.name,
            "versions": versions,
            "command": self.command,
        }

    # --- stages ------------------------------------------------------------------------------------------------

    def audit_stage(self) -> dict[str, Any]:
        """audit.json"""

        def make() -> dict[str, Any]:
            return audit(self.log).to_dict()

        found = self._stage("audit.json", make)
        n = found["numbers"]
        self.say(
            "audit",
            f"{found['verdict']}: {n['episodes']:,} episodes, {n['transitions']:,} transitions, "
            f"{len(found['findings'])} findings",
        )
        return found

    def split_stage(self) -> dict[str, Any]:
        """split.json: which episodes are in which part."""
        names = ("train", "validation", "test")

        def make() -> dict[str, Any]:
            by, seed = self.settings.split_by, self.settings.seed
            parts = self.log.split_episodes(self.settings.fractions, seed=seed, by=by)
            lengths = self.log.episode_lengths
            for name, part in zip(names[1:], parts[1:], strict=True):
                if self.log.group is not None and len(np.unique(self.log.group[part])) < 2:
                    raise DataError(
                        f"The {name} part needs episodes of at least 2 groups, whose spread makes its intervals; it has "
                        "1. Log more groups, or leave `group` (or `gap`, whose pieces are a group) out of the schema if "
                        "episodes are independent."
                    )
            return {
                "by": by or ("episode" if self.log.group is None else "group"),
                "seed": seed,
                "fractions": list(self.settings.fractions),
                "parts": {
                    name: {
                        "episodes": len(part),
                        "transitions": int(lengths[part].sum()),
                        "positions": part.tolist(),
                    }
                    for name, part in zip(names, parts, strict=True)
                },
            }

        found = self._stage("split.json", make)
        self.say("split", ", ".join(f"{name} {found['parts'][name]['episodes']:,}" for name in names) + " episodes")
        return found

    @cached_property
    def parts(self) -> dict[str, Dataset]:
        """train, validation, test, and train + validation together."""
        found = load_json(self.out / "split.json")["parts"]
        positions = {name: np.asarray(part["positions"]) for name, part in found.items()}
        positions["train+validation"] = np.sort(np.concatenate([positions["train"], positions["validation"]]))
        return {name: self.log.select_episodes(where) for name, where in positions.items()}

    def train_stage(self) -> dict[str, Any]:
        """checkpoints/ALGORITHM/: every seed of an algorithm in one program, resumable."""
        runs = self.runs
        self.say(
            "train",
            f"{sum(len(run.seeds) for run in runs)} candidates: {', '.join(r.algorithm.name for r in runs)}",
        )
        return {"candidates": [candidate.label for candidate in self.candidates]}

    @cached_property
    def runs(self) -> list[Run]:
        """One an algorithm, from its checkpoints where they are whole."""
        train = self.parts["train"]
        found = []
        with ProgressDisplay(enabled=self.progress) as display:
            for algorithm in self.chosen_algorithms:
                try:
                    found.append(self._fit(algorithm, train, display))
                except DivergenceError as error:
                    if not algorithm.caution:
                        raise
                    # The warning example blew up, which is its point; the others go on.
                    self.say("train", f"{algorithm.name} left out: {error}")
        return found

    def _fit(self, algorithm: Algorithm, train: Dataset, display: ProgressDisplay) -> Run:
        return fit(
            algorithm,
            train,
            updates=self.settings.updates,
            seeds=self.settings.seeds,
            batch_size=self.settings.batch_size,
            out=self.out / "checkpoints" / algorithm.name,
            save_every_updates=500,
            reward_scale=unit_return_scale(train),
            callbacks=(display.track(f"{algorithm.name} x {self.settings.seeds}"),),
            progress=False,
        )

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every (algorithm, seed) as it would be deployed."""
        found = []
        for run in self.runs:
            for seed, policy, value in zip(run.seeds, run.policies, run.values, strict=True):
                acting = policy.greedy() if run.algorithm.acts == "greedy" else policy
                assert isinstance(acting, DiscretePolicy)
                assert value is None or isinstance(value, DiscreteValue)
                found.append(Candidate(run.algorithm, seed, acting, value))
        return found

    def select_stage(self) -> dict[str, Any]:
        """ranking.json: every candidate's estimates on validation, and their order."""

        def make() -> dict[str, Any]:
            valid = self.parts["validation"]
            with ProgressDisplay(enabled=self.progress) as display:
                evaluations = evaluate_all(
                    [candidate.policy for candidate in self.candidates],
                    valid,
                    fit_on=self.parts["train"],
                    settings=self._fit_settings(),
                    confidence=self.settings.confidence,
                    margin=self.settings.margin,
                    audit_verdict=load_json(self.out / "audit.json")["verdict"],
                    monitors=(display.track(f"FQE of {len(self.candidates)} policies"),),
                )
            order = rank([e.gain for e in evaluations], [not c.algorithm.caution for c in self.candidates])
            return {
                "part": "validation",
                "behavior": evaluations[0].behavior.to_dict(),
                "behavior_exact": None if self.truth is None else self.truth.behavior(),
                "candidates": [
                    self._describe(candidate, valid) | {"evaluation": evaluation.to_dict()}
                    for candidate, evaluation in zip(self.candidates, evaluations, strict=True)
                ],
                "order": [dataclasses.asdict(row) for row in order],
            }

        found = self._stage("ranking.json", make)
        best = found["order"][0]
        candidate = found["candidates"][best["index"]]
        gain = candidate["evaluation"]["gain"].get(best["estimator"])
        text = (
            "no estimate has an interval"
            if gain is None
            else f"validation gain {gain['value']:+.4f}, from {gain['lower']:+.4f}"
        )
        self.say("select", f"{candidate['label']}: {text}")
        return found

    def evaluate_stage(self) -> dict[str, Any]:
        """estimates.json: the selected policy and the behaviour on test, and nothing else."""

        def make() -> dict[str, Any]:
            ranking, test = load_json(self.out / "ranking.json"), self.parts["test"]
            chosen = self.candidates[ranking["order"][0]["index"]]
            with ProgressDisplay(enabled=self.progress) as display:
                (evaluation,) = evaluate_all(
                    [chosen.policy],
                    test,
                    fit_on=self.parts["train+validation"],
                    settings=self._fit_settings(),
                    confidence=self.settings.confidence,
                    margin=self.settings.margin,
                    audit_verdict=load_json(self.out / "audit.json")["verdict"],
                    monitors=(display.track("FQE of the selected policy"),),
                )
            overlap = evaluation.agreement
            return {
                "part": "test",
                "selected": self._describe(chosen, test) | {"evaluation": evaluation.to_dict()},
                "behavior": evaluation.behavior.to_dict(),
                "behavior_exact": None if self.truth is None else self.truth.behavior(),
                "disagreement": {
                    "label": chosen.label,
                    "agreement": overlap.policy,
                    "agreement_behavior": overlap.behavior,
                    "supported": overlap.supported,
                    "matrix": overlap.matrix.tolist(),
                    "actions": overlap.actions.tolist(),
                    "action_names": list(test.schema.action_names),
                },
            }

        found = self._stage("estimates.json", make)
        evaluation = found["selected"]["evaluation"]
        primary = evaluation["verdict"]["primary"]
        gain = evaluation["gain"].get(primary)
        text = "no estimate has an interval" if gain is None else f"{primary} gain {_span(gain)}"
        self.say("evaluate", f"{found['selected']['label']} on test: {text}")
        return found

    def verdict_stage(self) -> dict[str, Any]:
        """verdict.json: the rule applied to estimates.json and audit.json."""

        def make() -> dict[str, Any]:
            estimates = load_json(self.out / "estimates.json")
            evaluation = estimates["selected"]["evaluation"]
            return decide(
                {name: Estimate.from_dict(gain) for name, gain in evaluation["gain"].items()},
                audit_verdict=load_json(self.out / "audit.json")["verdict"],
                margin=self.settings.margin,
                behavior_fitted=evaluation["behavior_fitted"],
            ).to_dict()

        found = self._stage("verdict.json", make)
        self.say("verdict", found["decision"])
        return found

    def report_stage(self) -> dict[str, Any]:
        """report.html: one file that opens offline."""
        content = build_report(self.out)
        file = self.out / "report.html"
        if not file.exists():
            write_text(file, render(content))
        self.say("report", str(file))
        return content

    def bundle_stage(self) -> dict[str, Any]:
        """policy/: the selected policy, to be loaded with `st.load_policy`."""
        folder, verdict = self.out / "policy", load_json(self.out / "verdict.json")
        if not (folder / "policy.json").exists():
            ranking = load_json(self.out / "ranking.json")
            chosen = self.candidates[ranking["order"][0]["index"]]
            provenance = {
                "algorithm": chosen.algorithm.name,
                "settings": json.loads(json.dumps(dataclasses.asdict(chosen.algorithm))),
                "seed": chosen.seed,
                "acts": chosen.algorithm.acts,
                "log": {"name": self.log.schema.name, "content_hash": self.log.content_hash},
                "versions": load_json(self.out / "run.json")["versions"],
                "verdict": {key: verdict[key] for key in ("decision", "headline", "caveats")},
            }
            bundle = Bundle(chosen.policy, self.log.schema, Guard.fit(self.parts["train"]), provenance)
            save_bundle(folder, bundle)
        self.say("bundle", f"{folder} ({verdict['decision']})")
        return verdict

    # --- help --------------------------------------------------------------------------------------------------

    def _stage(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.out / name
        if not file.exists():
            content = make()
            # What a later stage made of an earlier file of this name no longer holds.
            for later in FILES[FILES.index(name) + 1 :]:
                (self.out / later).unlink(missing_ok=True)
            write_json(file, content)
        return load_json(file)

    def _fit_settings(self) -> FitSettings:
        return FitSettings(
            updates=self.settings.evaluation_updates,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
        )

    def _describe(self, candidate: Candidate, log: Dataset) -> dict[str, Any]:
        return {
            "label": candidate.label,
            "algorithm": candidate.algorithm.name,
            "seed": candidate.seed,
            "acts": candidate.algorithm.acts,
            "caution": bool(candidate.algorithm.caution),
            "claimed": candidate.claimed(log),
            "exact": None if self.truth is None else self.truth.value(candidate.policy),
        }


def stored_verdict(folder: Path) -> Verdict:
    """The verdict of a finished run directory."""
    return Verdict.from_dict(load_json(folder / "verdict.json"))


def _span(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:+.4f} [{estimate['lower']:+.4f}, {estimate['upper']:+.4f}]"
