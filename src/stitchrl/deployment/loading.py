"""`st.load_policy`: reads a bundle and checks all its parts, or reads an ONNX file. Nothing here needs JAX."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.data.schema import Schema
from stitchrl.deployment.bundle import BEHAVIOR_FILE, CARD, FORMAT_VERSION, POLICY, Bundle
from stitchrl.deployment.guard import Guard
from stitchrl.deployment.memory_bundle import MemoryBundle
from stitchrl.deployment.numpy_saving import load_numpy_policy_file
from stitchrl.deployment.soundness import UnsoundError, check_guard, check_learned_from, check_policy, check_told
from stitchrl.errors import CheckpointError, ConfigurationError
from stitchrl.messages import shown
from stitchrl.storage.learned_from import read_learned_from

if TYPE_CHECKING:
    from stitchrl.deployment.onnx_policy import OnnxPolicy

__all__ = ["load_policy"]

BACKENDS = ("jax", "numpy")
SAVE_AGAIN = "Save it again, or let `stitchrl run` make it anew after deleting the folder."


def load_policy(
    folder: str | os.PathLike[str],
    *,
    output: str | None = None,
    num_actions: int | None = None,
    backend: str = "jax",
) -> Bundle | OnnxPolicy:
    """Read a bundle, or the policy of an ONNX file (this is `st.load_policy`).

    Args:
        folder: a `policy` folder of `stitchrl run`, or a file that ends in ".onnx".
        output: of an ONNX file, what its output is: "probs", "logits" or "action", or "NAME:probs" and so on where it has
            several. Not needed where one output has one of these three names.
        num_actions: of an ONNX file that gives the action alone, how many discrete actions there are.
        backend: of a bundle, what computes: "jax", or "numpy", which starts and answers one row faster and needs no JAX.

    Raises:
        CheckpointError: there is no bundle, or it is damaged; onnxruntime is not installed, or cannot run the file.
        ConfigurationError: it cannot be told what the output of an ONNX file is, or there is no such backend.
    """
    where = Path(folder)
    if backend not in BACKENDS:
        raise ConfigurationError(f'`backend` must be "jax" or "numpy"; got {shown(backend)}.')
    if where.suffix == ".onnx" and where.is_file():
        from stitchrl.deployment.onnx_policy import load_onnx

        return load_onnx(where, output=output, num_actions=num_actions)
    if output is not None or num_actions is not None:
        raise ConfigurationError(
            f"`output` and `num_actions` are for files of ONNX, and {str(where)!r} is none. Leave them out."
        )
    bundle = _sound_bundle(where)
    if backend == "numpy":
        return bundle
    from stitchrl.nn.saving import load_policy_file

    return dataclasses.replace(
        bundle,
        policy=load_policy_file(where / POLICY),
        behavior=None if bundle.behavior is None else load_policy_file(where / BEHAVIOR_FILE),
    )


def _read_card(where: Path) -> tuple[Schema, Guard, dict[str, Any]]:
    """The schema, the guard and the provenance that the card of a bundle holds, or a CheckpointError."""
    if not (where / CARD).is_file():
        raise CheckpointError(
            f"There is no policy to load in {str(where)!r}, for it has no {CARD}. {_what_it_looks_like(where)}"
        )
    try:
        card = json.loads((where / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"The policy in {str(where)!r} must have format {FORMAT_VERSION}; got {card['format']}."
            )
        schema = Schema.from_dict(card["schema"])
        check_guard(card["guard"])
        guard = Guard.from_dict(card["guard"])
        provenance = card["provenance"]
        if not isinstance(provenance, dict):
            raise UnsoundError(f"its provenance must be named entries; got {shown(provenance)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"The policy in {str(where)!r} cannot be loaded, for its {CARD} is damaged: {reason.rstrip('.')}. {SAVE_AGAIN}"
        ) from None
    return schema, guard, provenance


def _sound_bundle(where: Path) -> Bundle:
    """The bundle of a folder, whose policies NumPy computes, after everything in it was found to fit together."""
    schema, guard, provenance = _read_card(where)
    policy = load_numpy_policy_file(where / POLICY)
    behavior = load_numpy_policy_file(where / BEHAVIOR_FILE) if (where / BEHAVIOR_FILE).is_file() else None
    hashes = read_learned_from(where)
    kind = MemoryBundle if getattr(policy, "has_memory", False) else Bundle
    bundle = kind(policy, schema, guard, provenance, None, behavior)
    try:
        size = check_policy(policy, schema, guard, "its policy")
        if behavior is not None:
            check_policy(behavior, schema, guard, "its model of the behaviour")
        check_told(guard, schema, policy, size, behavior=bundle._behavior is not None)
        check_learned_from(hashes)
    except UnsoundError as error:
        raise CheckpointError(f"The policy in {str(where)!r} cannot be loaded: {error}. {SAVE_AGAIN}") from None
    return bundle if hashes is None else dataclasses.replace(bundle, learned_from=EpisodeMemory.from_arrays(hashes))


def _what_it_looks_like(where: Path) -> str:
    """A sentence on a folder that holds no bundle: what it seems to be, and the way to a policy from there."""
    if not where.exists():
        return "There is no such file." if where.suffix == ".onnx" else "There is no such folder."
    if not where.is_dir():
        return "It is a file; give the folder in which a policy was saved, or a file that ends in .onnx."
    if (where / "policy" / CARD).is_file():
        return f"It looks like a run directory of `stitchrl run`, whose policy is in {str(where / 'policy')!r}."
    if (where / "run.json").is_file():
        return "It looks like a run directory of `stitchrl run` that has not come to its end; the same command goes on with it."
    if (where / "config.json").is_file():
        return f"It looks like a folder of `st.fit`, whose policy `st.load({str(where)!r}).policy` gives."
    return "A folder with a policy is the `policy` folder that `stitchrl run` makes in its run directory."
