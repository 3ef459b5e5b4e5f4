"""Reading a saved policy with NumPy alone, class by class; `nn/saving.py` writes it, and reads it for JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.deployment.numpy_candidates import NumpyBestOfPolicy, NumpyPerturbedPolicy
from stitchrl.deployment.numpy_continuous import (
    NumpyClippedPolicy,
    NumpyContinuousPolicy,
    NumpyDeterministicPolicy,
    NumpyGaussianPolicy,
    NumpyMixturePolicy,
    NumpyModePolicy,
    NumpyRescaledPolicy,
    NumpySmoothedPolicy,
    NumpySquashedGaussianPolicy,
)
from stitchrl.deployment.numpy_continuous_ladder import NumpyContinuousLadderPolicy
from stitchrl.deployment.numpy_discrete import (
    NumpyCategoricalPolicy,
    NumpyConstrainedGreedyPolicy,
    NumpyDiscretePolicy,
    NumpyFlooredPolicy,
    NumpyGreedyPolicy,
    NumpyLadderPolicy,
    NumpyStandardizedPolicy,
    NumpyTabularPolicy,
    NumpyValueGreedyPolicy,
)
from stitchrl.deployment.numpy_flows import NumpyDiffusionPolicy, NumpyFlowPolicy, NumpyOneStepPolicy
from stitchrl.deployment.numpy_memory import (
    NumpyChunkPolicy,
    NumpyGreedyMemoryPolicy,
    NumpyMemoryPolicy,
    NumpyRescaledMemoryPolicy,
    NumpyReturnConditionedPolicy,
)
from stitchrl.deployment.numpy_networks import (
    NumpyEnsemble,
    NumpyFactoredNetwork,
    NumpyImageNetwork,
    NumpyMLP,
    NumpyResidualNetwork,
)
from stitchrl.deployment.numpy_transformer import (
    NumpyAffine,
    NumpyCausalTransformer,
    NumpyNorm,
    NumpyReturnConditionedNetwork,
    NumpyTransformerBlock,
)
from stitchrl.errors import CheckpointError
from stitchrl.messages import shown
from stitchrl.storage.tensors import UnreadableError, read_tensors
from stitchrl.types import NumpyArray

__all__ = ["FORMAT_VERSION", "KINDS", "NO_PART_OF_A_POLICY", "load_numpy_policy_file"]

FORMAT_VERSION = 1
KINDS: dict[str, type] = {
    "MLP": NumpyMLP,
    "ImageNetwork": NumpyImageNetwork,
    "FactoredNetwork": NumpyFactoredNetwork,
    "Ensemble": NumpyEnsemble,
    "CategoricalPolicy": NumpyCategoricalPolicy,
    "ValueGreedyPolicy": NumpyValueGreedyPolicy,
    "ConstrainedGreedyPolicy": NumpyConstrainedGreedyPolicy,
    "GreedyPolicy": NumpyGreedyPolicy,
    "StandardizedPolicy": NumpyStandardizedPolicy,
    "TabularPolicy": NumpyTabularPolicy,
    "LadderPolicy": NumpyLadderPolicy,
    "ContinuousLadderPolicy": NumpyContinuousLadderPolicy,
    "FlooredPolicy": NumpyFlooredPolicy,
    "GaussianPolicy": NumpyGaussianPolicy,
    "SquashedGaussianPolicy": NumpySquashedGaussianPolicy,
    "DeterministicPolicy": NumpyDeterministicPolicy,
    "ModePolicy": NumpyModePolicy,
    "RescaledPolicy": NumpyRescaledPolicy,
    "MixturePolicy": NumpyMixturePolicy,
    "SmoothedPolicy": NumpySmoothedPolicy,
    "ClippedPolicy": NumpyClippedPolicy,
    "PerturbedPolicy": NumpyPerturbedPolicy,
    "BestOfPolicy": NumpyBestOfPolicy,
    "FlowPolicy": NumpyFlowPolicy,
    "OneStepPolicy": NumpyOneStepPolicy,
    "ResidualNetwork": NumpyResidualNetwork,
    "DiffusionPolicy": NumpyDiffusionPolicy,
    "Affine": NumpyAffine,
    "Norm": NumpyNorm,
    "TransformerBlock": NumpyTransformerBlock,
    "CausalTransformer": NumpyCausalTransformer,
    "ReturnConditionedNetwork": NumpyReturnConditionedNetwork,
    "ReturnConditionedPolicy": NumpyReturnConditionedPolicy,
    "ChunkPolicy": NumpyChunkPolicy,
    "RescaledMemoryPolicy": NumpyRescaledMemoryPolicy,
    "GreedyMemoryPolicy": NumpyGreedyMemoryPolicy,
}
"""The name of a class in the file -> what computes the same with NumPy."""
NO_PART_OF_A_POLICY = {
    "DiscreteCritics": "it holds the critics of a state of training, of which a policy keeps the networks alone",
    "ContinuousCritics": "it holds the critics of a state of training, and no policy over continuous actions asks them",
    "TabularValue": "it is a value, and bundles hold policies",
}
"""Classes that `nn/saving.py` writes as well -> why they are not read here."""
MAY_BE_INFINITE = ("low", "high", "log_probabilities")
"""Fields in which infinity is no damage: a bound that is none, an action that is never taken."""


def load_numpy_policy_file(path: Path) -> NumpyDiscretePolicy | NumpyContinuousPolicy | NumpyMemoryPolicy:
    """Read a policy written by `nn.saving.save_policy_file`, without JAX.

    Raises:
        CheckpointError: missing, damaged, of another format, or of a class that NumPy does not know.
    """
    try:
        arrays, header = read_tensors(path)
    except UnreadableError as error:
        raise CheckpointError(f"The policy file {path} cannot be read: {error}.") from None
    seen = header.get("format") if isinstance(header, dict) else None
    if seen != FORMAT_VERSION:
        raise CheckpointError(f"The policy file {path} must have format {FORMAT_VERSION}; got {seen}.")
    try:
        _refuse_not_finite(arrays)
        policy = _decode(header["policy"], arrays)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CheckpointError(f"The policy file {path} does not describe a policy: {reason}.") from None
    if not isinstance(policy, NumpyDiscretePolicy | NumpyContinuousPolicy | NumpyMemoryPolicy):
        raise CheckpointError(f"The policy file {path} holds a {type(policy).__name__}, not a policy.")
    return policy


def _refuse_not_finite(arrays: dict[str, NumpyArray]) -> None:
    """Raise ValueError for a tensor that holds NaN, or infinity where that means nothing."""
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        bad = np.isnan(array) if name.split(".")[-1] in MAY_BE_INFINITE else ~np.isfinite(array)
        if bad.any():
            raise ValueError(f"its tensor {shown(name)} holds numbers that are not finite")


def _decode(content: Any, arrays: dict[str, NumpyArray]) -> Any:
    if content is None:
        return None
    if isinstance(content, dict):
        if "plain" in content:
            return content["plain"]
        name = content["class"]
        if name not in KINDS:
            reason = NO_PART_OF_A_POLICY.get(name, "this version does not know it")
            raise ValueError(f"it holds a {shown(name)}, which NumPy does not compute: {reason}")
        return KINDS[name](**{field: _decode(entry, arrays) for field, entry in content["fields"].items()})
    if isinstance(content, list):
        return tuple(_decode(entry, arrays) for entry in content)
    return arrays[content]
