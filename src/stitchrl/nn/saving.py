"""Policies as a safetensors file with a JSON header. Loading builds only classes named here: it runs no code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from stitchrl.errors import CheckpointError
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.chunk import ChunkPolicy
from stitchrl.nn.clipped import ClippedPolicy
from stitchrl.nn.constrained import ConstrainedGreedyPolicy
from stitchrl.nn.continuous_ladder import ContinuousLadderPolicy
from stitchrl.nn.continuous_policy import (
    ContinuousPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    MixturePolicy,
    ModePolicy,
    SquashedGaussianPolicy,
)
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.diffusion import DiffusionPolicy
from stitchrl.nn.factored import FactoredNetwork
from stitchrl.nn.floored import FlooredPolicy
from stitchrl.nn.flow import FlowPolicy
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.memory import GreedyMemoryPolicy, MemoryPolicy
from stitchrl.nn.networks import MLP, Ensemble, ImageNetwork
from stitchrl.nn.one_step import OneStepPolicy
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy, GreedyPolicy, ValueGreedyPolicy
from stitchrl.nn.residual import ResidualNetwork
from stitchrl.nn.return_conditioned import ReturnConditionedNetwork, ReturnConditionedPolicy
from stitchrl.nn.smoothed import SmoothedPolicy
from stitchrl.nn.tabular import TabularPolicy, TabularValue
from stitchrl.nn.transformer import Affine, CausalTransformer, Norm, TransformerBlock
from stitchrl.nn.units import RescaledMemoryPolicy, RescaledPolicy, StandardizedPolicy
from stitchrl.nn.vae import PerturbedPolicy
from stitchrl.storage.tensors import UnreadableError, read_tensors, write_tensors

__all__ = ["load_policy_file", "load_tree_file", "save_policy_file", "save_tree_file", "unsavable"]

FORMAT_VERSION = 1
CLASSES: dict[str, type[eqx.Module]] = {
    kind.__name__: kind
    for kind in (
        MLP, ImageNetwork, FactoredNetwork, Ensemble, DiscreteCritics, ContinuousCritics,
        CategoricalPolicy, ValueGreedyPolicy, GreedyPolicy, StandardizedPolicy,
        GaussianPolicy, SquashedGaussianPolicy, DeterministicPolicy, ModePolicy, RescaledPolicy, TabularPolicy, TabularValue,
        LadderPolicy, ContinuousLadderPolicy, FlooredPolicy, MixturePolicy, SmoothedPolicy, ClippedPolicy,
        ConstrainedGreedyPolicy, PerturbedPolicy, BestOfPolicy, FlowPolicy, OneStepPolicy,
        ResidualNetwork, DiffusionPolicy,
        Affine, Norm, TransformerBlock, CausalTransformer, ReturnConditionedNetwork, ReturnConditionedPolicy, ChunkPolicy,
        RescaledMemoryPolicy, GreedyMemoryPolicy,
    )
}  # fmt: skip


def save_policy_file(path: Path, policy: DiscretePolicy | ContinuousPolicy | MemoryPolicy) -> None:
    """Write a policy, atomically."""
    arrays: dict[str, np.ndarray] = {}
    structure = _encode(policy, "policy", arrays)
    write_tensors(path, arrays, {"format": FORMAT_VERSION, "policy": structure})


def unsavable(value: Any) -> str:
    """The name of a class in a policy that no file can hold, such as one of a user's own; "" where there is none."""
    if isinstance(value, eqx.Module):
        if type(value).__name__ not in CLASSES:
            return type(value).__name__
        value = [getattr(value, field.name) for field in dataclasses.fields(value) if not field.metadata.get("static")]
    parts = list(value.values()) if isinstance(value, dict) else value
    return next(filter(None, map(unsavable, parts)), "") if isinstance(parts, list | tuple) else ""


def load_policy_file(path: Path) -> DiscretePolicy | ContinuousPolicy | MemoryPolicy:
    """Read a policy written by `save_policy_file`.

    Raises:
        CheckpointError: missing, damaged, of another format, or naming a class that is not a policy's.
    """
    try:
        arrays, header = read_tensors(path)
    except UnreadableError as error:
        raise CheckpointError(f"The policy file {path} cannot be read: {error}.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT_VERSION:
        seen = header.get("format") if isinstance(header, dict) else None
        raise CheckpointError(f"The policy file {path} must have format {FORMAT_VERSION}; got {seen}.")
    try:
        policy = _decode(header["policy"], arrays)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The policy file {path} does not describe a policy: {error!r}.") from None
    if not isinstance(policy, DiscretePolicy | ContinuousPolicy | MemoryPolicy):
        raise CheckpointError(f"The policy file {path} holds a {type(policy).__name__}, not a policy.")
    return policy


def save_tree_file(path: Path, tree: Any) -> None:
    """Write arrays, networks and policies in dicts and tuples, atomically. Raises as `save_policy_file`."""
    arrays: dict[str, np.ndarray] = {}
    structure = _encode(tree, "tree", arrays)
    write_tensors(path, arrays, {"format": FORMAT_VERSION, "tree": structure})


def load_tree_file(path: Path) -> Any:
    """Read what `save_tree_file` wrote. Raises CheckpointError: missing, damaged, or of another format."""
    try:
        arrays, header = read_tensors(path)
        if header["format"] != FORMAT_VERSION:
            raise ValueError(f"its format is {header['format']}, not {FORMAT_VERSION}")
        return _decode(header["tree"], arrays)
    except (UnreadableError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The file {path} cannot be read: {error}. Delete the run to start over.") from None


def _encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None:
        return None
    if isinstance(value, eqx.Module):
        if type(value).__name__ not in CLASSES:
            raise CheckpointError(f"A {type(value).__name__} cannot be saved; savable are {', '.join(CLASSES)}.")
        fields = {
            field.name: {"plain": getattr(value, field.name)}
            if field.metadata.get("static")
            else _encode(getattr(value, field.name), f"{name}.{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, dict):
        return {"dict": {key: _encode(entry, f"{name}.{key}", arrays) for key, entry in value.items()}}
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            raise CheckpointError(
                f"A {type(value).__name__} cannot be saved, for it would be loaded as a plain tuple without its names "
                f"{', '.join(value._fields)}. Put a dict in its place."
            )
        return [_encode(entry, f"{name}.{i}", arrays) for i, entry in enumerate(value)]
    arrays[name] = np.asarray(jax.device_get(value), order="C")
    return name


def _decode(content: Any, arrays: dict[str, np.ndarray]) -> Any:
    if content is None:
        return None
    if isinstance(content, dict):
        if "plain" in content:
            return content["plain"]
        if "dict" in content:
            return {name: _decode(entry, arrays) for name, entry in content["dict"].items()}
        kind = CLASSES[content["class"]]
        return kind(**{name: _decode(entry, arrays) for name, entry in content["fields"].items()})
    if isinstance(content, list):
        return tuple(_decode(entry, arrays) for entry in content)
    return jnp.asarray(arrays[content])
