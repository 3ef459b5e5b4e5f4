"""The bundle of a policy that was trained alone, outside the main job."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.errors import RunDirectoryError
from stitchrl.nn.saving import unsavable
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.versions import installed_versions
from stitchrl.training.run import Run

__all__ = ["check_free", "in_words", "save_trained", "save_winner"]

NOT_JUDGED = "Nobody has estimated yet how good this policy is: `stitchrl evaluate` does, on episodes it never saw."


SELECTED = (
    "This policy won a race on validation episodes, where its estimate is optimistic. Nobody has estimated yet how good it is on "
    "episodes that the race did not look at: `stitchrl evaluate` does."
)


def check_free(out: Path) -> None:
    """Raise RunDirectoryError where a folder holds a policy that training there would replace."""
    if (out / "run.json").exists():
        raise RunDirectoryError(
            f"{str(out)!r} holds a run of `stitchrl run`, whose policy a training would replace. Choose another --out."
        )
    if (out / "policy" / "policy.json").exists() and not (out / "config.json").exists():
        raise RunDirectoryError(f"{str(out)!r} holds a policy that was not trained there. Choose another --out.")


def save_trained(run: Run, log: Dataset, out: Path, *, label: str) -> Path | None:
    """Write the policy of a run's first seed as the bundle `out`/policy.

    Args:
        run: what `st.fit` gave.
        log: what it learned from.
        out: the run's directory.
        label: what the policy is called.

    Returns:
        The bundle's folder; None where the policy is of a kind that no file can hold, such as one of a user's own.
    """
    if unsavable(run.policy):
        return None
    provenance = {
        "label": label,
        "algorithm": run.algorithm.name,
        "settings": json.loads(json.dumps(dataclasses.asdict(run.algorithm))),
        "seed": run.seeds[0],
        "acts": "as trained",
        "rung": None,
        "log": {"name": log.schema.name, "content_hash": log.bare().content_hash},
        "versions": installed_versions(),
        "verdict": {"decision": "NOT JUDGED", "headline": NOT_JUDGED, "caveats": [NOT_JUDGED]},
    }
    folder = out / "policy"
    save_bundle(folder, Bundle(run.policy, log.schema, Guard.fit(log), provenance, EpisodeMemory.of(log)))
    return folder


def save_winner(folder: Path, winner: Candidate, log: Dataset, train: Dataset, learned_from: Dataset) -> None:
    """Write the policy that won a race as a bundle, where there is none yet.

    Args:
        folder: of the bundle.
        winner: as it is to be deployed.
        log: the whole log.
        train: what the policy learned from.
        learned_from: the episodes that it learned from or was chosen by, on which it must not be judged.
    """
    if (folder / "policy.json").exists():
        return
    provenance = {
        "label": winner.label,
        "algorithm": winner.algorithm.name,
        "settings": json.loads(json.dumps(dataclasses.asdict(winner.algorithm))),
        "seed": winner.seed,
        "acts": winner.acts if winner.rung is None else "as trained",
        "rung": None if winner.rung is None else dataclasses.asdict(winner.rung),
        "log": {"name": log.schema.name, "content_hash": log.bare().content_hash},
        "versions": installed_versions(),
        "verdict": {"decision": "NOT JUDGED", "headline": SELECTED, "caveats": [SELECTED]},
    }
    memory = EpisodeMemory.of(learned_from)
    save_bundle(folder, Bundle(winner.policy, log.schema, Guard.fit(train), provenance, memory))


def in_words(run: Run, out: Path, bundle: Path | None) -> str:
    """A sentence for a person on where the policy of the first seed of a run is.

    Args:
        run: what `st.fit` gave.
        out: the run's directory.
        bundle: what `save_trained` gave.
    """
    if bundle is not None:
        return f"The policy of seed {run.seeds[0]} is a bundle: {bundle}"
    kind = unsavable(run.policy)
    return (
        f"The policy holds a {kind}, which is none of this package's classes, and a bundle holds no others: "
        f"`st.load({str(out)!r}, algorithms=[{type(run.algorithm).__name__}]).policy` is the policy of seed {run.seeds[0]}."
    )
