"""The policies that a command names: folders of the main job and of `st.fit`, files of ONNX, and columns of the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stitchrl
from stitchrl.errors import ConfigurationError

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset

__all__ = ["columns_of_the_policy", "policy_and_log", "policy_of"]

# JAX and NumPy are imported inside the functions: `stitchrl --help` must not wait for them.


def columns_of_the_policy(probs: str | None, log_prob: str | None) -> Mapping[str, Sequence[str]]:
    """Role -> columns, of `--policy-columns` and `--policy-log-prob`; empty where neither is given."""
    if probs is not None and log_prob is not None:
        raise ConfigurationError(
            "`--policy-columns` names the probabilities of all actions and `--policy-log-prob` that of the logged one; give one."
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


def policy_of(path: Path, log: Dataset, *, output: str | None = None, fresh: bool = True) -> Any:
    """The policy that a path names, to be judged on a log: of a policy folder, a run directory, `st.fit` or an ONNX file.

    Args:
        path: what the command was given.
        log: what it is judged on.
        output: what the output of an ONNX file is, as in `st.load_policy`.
        fresh: whether the log must be one that the policy did not learn from.

    Raises:
        CheckpointError: there is no policy.
        ConfigurationError: a grid, a policy that was learned from this very log, or actions of another kind.
    """
    inner = path / "policy"
    where = inner if (inner / "policy.json").exists() else path
    if (path / "config.json").is_file() and not (where / "policy.json").is_file():
        policy, discrete, learned_from = _trained(path)
    elif path.suffix == ".onnx" and path.is_file():
        policy = stitchrl.load_policy(path, output=output, num_actions=log.num_actions)
        discrete, learned_from, output = policy.discrete, "", None  # type: ignore[union-attr]
        if fresh:
            print(
                f"{path.name} does not say which log it learned from: give episodes that it never saw.", file=sys.stderr
            )
    else:
        policy = stitchrl.load_policy(where)
        discrete = policy.schema.num_actions is not None  # type: ignore[union-attr]
        learned_from = policy.provenance.get("log", {}).get("content_hash", "")  # type: ignore[union-attr]
    if output is not None:
        raise ConfigurationError(f"`--policy-output` is for files of ONNX, and {str(path)!r} is none. Leave it out.")
    if fresh and learned_from in (log.content_hash, log.bare().content_hash):
        raise ConfigurationError(
            f"The policy in {str(path)!r} was learned from this very log, so estimates on it would be too good. "
            "Give episodes it never saw."
        )
    if discrete == (log.num_actions is None):
        kinds = ["discrete" if one else "continuous" for one in (discrete, log.num_actions is not None)]
        raise ConfigurationError(
            f"The policy in {str(path)!r} takes {kinds[0]} actions, and those of this log are {kinds[1]}. Give a log of the "
            "kind that it learned from."
        )
    return policy


def _trained(folder: Path) -> tuple[Any, bool, str]:
    """The policy of the first seed of a folder of `st.fit`, whether its actions are discrete, and the log it learned from."""
    from stitchrl.nn.policy import DiscretePolicy

    found = stitchrl.load(folder)
    if isinstance(found, stitchrl.Grid):
        raise ConfigurationError(f"One policy is needed, and {str(folder)!r} holds a grid. Name one run of it.")
    if len(found.seeds) > 1:
        print(
            f"{str(folder)!r} holds {len(found.seeds)} seeds; the policy is that of seed {found.seeds[0]}.",
            file=sys.stderr,
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found.policy, isinstance(found.policy, DiscretePolicy), str(config.get("log", ""))
