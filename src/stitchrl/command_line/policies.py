"""The policies that a command names: folders of the main job and of `st.fit`, files of ONNX, and columns of the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import stitchrl
from stitchrl.errors import ConfigurationError

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset
    from stitchrl.data.episode_memory import EpisodeMemory
    from stitchrl.data.schema import Schema

__all__ = ["bundle_folder", "columns_of_the_policy", "learned_meaning", "policy_and_log", "policy_of", "unseen_part"]

# JAX and NumPy are imported inside the functions: `stitchrl --help` must not wait for them.


def columns_of_the_policy(probs: str | None, log_prob: str | None) -> Mapping[str, Sequence[str]]:
    """Role -> columns, of `--policy-columns` and `--policy-log-prob`; empty where neither is given."""
    if probs is not None and log_prob is not None:
        raise ConfigurationError(
            "`--policy-columns` names the probabilities of all actions and `--policy-log-prob` that of the logged action alone; "
            "both were given. Give one of them."
        )
    if probs is not None:
        names = [name.strip() for name in probs.split(",")]
        if not all(names):
            raise ConfigurationError(f"`--policy-columns` must be names separated by commas; got {probs!r}.")
        return {"policy_probs": names}
    return {} if log_prob is None else {"policy_log_prob": [log_prob]}


def policy_and_log(first: Path, second: Path | None, columns: Mapping[str, Sequence[str]]) -> tuple[Path | None, Path]:
    """POLICY and LOG of a command whose policy stands in columns of the log where these are named."""
    if not columns and second is None:
        raise ConfigurationError(
            "`stitchrl evaluate` needs POLICY and LOG, or LOG with `--policy-columns` or `--policy-log-prob`; one of them was "
            "not given. See `stitchrl evaluate --help`."
        )
    if columns and second is not None:
        raise ConfigurationError(
            f"The policy is {str(first)!r} or it is in columns of the log; both were given. Leave one of them out."
        )
    return (None, first) if columns else (first, second or first)


class _Learned(NamedTuple):
    """The meaning of the log that a policy without a bundle learned from."""

    schema: Schema


def learned_meaning(path: Path | None) -> Any:
    """What a log must mean for the policy that a path names: its bundle, or the schema that `st.fit` kept; None where unknown."""
    if path is None:
        return None
    where = bundle_folder(path)
    if (where / "policy.json").is_file():
        return stitchrl.load_policy(where)
    if not _is_fit(path):
        return None
    from stitchrl.data.schema import Schema
    from stitchrl.training.checkpoint import read_meta
    from stitchrl.training.run import CHECKPOINT

    kept = read_meta(path / CHECKPOINT).get("schema") if (path / CHECKPOINT).is_file() else None
    return None if kept is None else _Learned(Schema.from_dict(kept))


def policy_of(path: Path, log: Dataset, *, output: str | None = None) -> Any:
    """The policy that a path names, for a log: of a policy folder, a run directory, `st.fit` or an ONNX file.

    Args:
        path: what the command was given.
        log: what it is for.
        output: what the output of an ONNX file is, as in `st.load_policy`.

    Raises:
        CheckpointError: there is no policy.
        ConfigurationError: a grid, or actions of another kind.
    """
    where = bundle_folder(path)
    if _is_fit(path):
        policy, discrete = _trained(path)
    elif path.suffix == ".onnx" and path.is_file():
        policy = stitchrl.load_policy(path, output=output, num_actions=log.num_actions)
        discrete, output = policy.discrete, None
    else:
        policy = stitchrl.load_policy(where)
        discrete = policy.schema.num_actions is not None  # type: ignore[union-attr]
    if output is not None:
        raise ConfigurationError(f"`--policy-output` is for ONNX files, and {str(path)!r} is not one. Leave it out.")
    if discrete == (log.num_actions is None):
        kinds = ["discrete" if one else "continuous" for one in (discrete, log.num_actions is not None)]
        raise ConfigurationError(
            f"The policy in {str(path)!r} takes {kinds[0]} actions, and those of this log are {kinds[1]}. Give a log of the "
            "kind that it learned from."
        )
    return policy


def unseen_part(path: Path, policy: Any, log: Dataset, *, leave_out: bool) -> Dataset:
    """The episodes of a log that the policy of a path did not learn from.

    Args:
        path: what the command was given.
        policy: what `policy_of` made of it.
        log: what it is to be judged on.
        leave_out: whether to leave known episodes out; otherwise a log that holds any is refused. So is one whose known
            episodes cannot be told from ones that are equal by coincidence.

    Raises:
        ConfigurationError: all episodes but one were learned from, or known ones cannot be left out.
        EvaluationError: some were, more than coincidence explains.
    """
    from stitchrl.data.episode_memory import EpisodeMemory
    from stitchrl.evaluation.log_of_policy import SAME_LOG, check_unseen, refusal_of_known
    from stitchrl.evaluation.seen_episodes import overlap_of
    from stitchrl.storage.learned_from import read_learned_from

    fit = _is_fit(path)
    hashes = read_learned_from(path) if fit else None
    known = getattr(policy, "learned_from", None) if hashes is None else EpisodeMemory.from_arrays(hashes)
    if known is None and path.suffix == ".onnx":
        print(f"{path.name} does not say which log it learned from: give episodes that it never saw.", file=sys.stderr)
        return log
    learned_from = _log_of_fit(path) if fit else policy.provenance.get("log", {}).get("content_hash", "")
    very = learned_from in (log.content_hash, log.bare().content_hash)
    leaving_out = "`--leave-out-known` judges it on the others."
    if known is None:
        if very:
            raise ConfigurationError(
                f"{SAME_LOG} so that estimates on it would be too good. Give episodes it never saw."
            )
        return log
    if not leave_out:
        check_unseen(log, known, content_hash=learned_from, leaving_out=leaving_out)
        return log
    found = overlap_of(known, log)
    if very:
        found = found._replace(seen=SAME_LOG)
    if found.seen and not found.removable:
        raise ConfigurationError(refusal_of_known(found, leaving_out))
    if found.seen:
        return _without_known(path, known, log)
    if found.known:
        print(
            f"None of {log.num_episodes:,} episodes is left out: {found.known:,} are equal to episodes that the "
            "policy learned from, which is no more than coincidence explains. Leaving these out would select episodes by what "
            "happened in them.",
            file=sys.stderr,
        )
    return log


def _without_known(path: Path, known: EpisodeMemory, log: Dataset) -> Dataset:
    """The episodes of a log that are not recognised; ConfigurationError where too few are left."""
    seen = known.recognised(log)
    if (~seen).sum() < 2:
        raise ConfigurationError(
            f"The policy in {str(path)!r} learned from {seen.sum():,} of the {log.num_episodes:,} episodes of this log, and "
            "too few are left. Give episodes it never saw."
        )
    print(
        f"{seen.sum():,} of {log.num_episodes:,} episodes are left out, because the policy learned from them.",
        file=sys.stderr,
    )
    return log.select_episodes(~seen)


def bundle_folder(path: Path) -> Path:
    """The folder of a bundle inside a run directory where there is one, else the path itself."""
    inner = path / "policy"
    return inner if (inner / "policy.json").exists() else path


def _is_fit(path: Path) -> bool:
    """Whether a path is a folder of `st.fit` without a bundle in it."""
    return (path / "config.json").is_file() and not (bundle_folder(path) / "policy.json").is_file()


def _log_of_fit(folder: Path) -> str:
    """The content hash of the log that a folder of `st.fit` learned from."""
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("log", ""))


def _trained(folder: Path) -> tuple[Any, bool]:
    """The policy of the first seed of a folder of `st.fit`, and whether its actions are discrete."""
    from stitchrl.nn.memory import MemoryPolicy
    from stitchrl.nn.policy import DiscretePolicy

    found = stitchrl.load(folder)
    if isinstance(found, stitchrl.Grid):
        raise ConfigurationError(f"One policy is needed, and {str(folder)!r} holds a grid. Name one run of it.")
    if len(found.seeds) > 1:
        print(
            f"{str(folder)!r} holds {len(found.seeds)} seeds; the policy is that of seed {found.seeds[0]}.",
            file=sys.stderr,
        )
    policy = found.policy
    if isinstance(policy, MemoryPolicy):
        return policy, not policy.action_shape
    return policy, isinstance(policy, DiscretePolicy)
