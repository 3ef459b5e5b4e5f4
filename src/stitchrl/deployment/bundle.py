"""A bundle: a policy with its schema, guard and provenance, in one directory that can be loaded without training code."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt64

from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import Guard
from stitchrl.deployment.onnx_policy import OnnxPolicy, load_onnx
from stitchrl.errors import CheckpointError, ConfigurationError, DataError
from stitchrl.jax_types import Key
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.storage.files import make_directory, write_json
from stitchrl.storage.learned_from import read_learned_from, write_learned_from
from stitchrl.types import NumpyArray

__all__ = ["Bundle", "load_policy", "save_bundle"]

FORMAT_VERSION = 1
POLICY, CARD = "policy.safetensors", "policy.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A policy that is ready for use. It takes observations as they are in the log, B rows of D numbers.

    Attributes:
        policy: the policy, with its scaling.
        schema: the meaning of the columns of the log.
        guard: the ranges of the observations in the training log.
        provenance: where the policy comes from and what is known of it: algorithm, seed, log, verdict.
        learned_from: hashes of the episodes that it learned from, or was chosen on (`Dataset.episode_contents`); None where
            that is not known, as in bundles of older versions.
    """

    policy: DiscretePolicy | ContinuousPolicy
    schema: Schema
    guard: Guard
    provenance: dict[str, Any]
    learned_from: UInt64[NumpyArray, " E"] | None = None

    def knows(self, log: Dataset) -> Bool[NumpyArray, " E"]:
        """(E,) which episodes of a log the policy learned from, recognised by their rows; all False where that is not known."""
        if self.learned_from is None:
            return np.zeros(log.num_episodes, bool)
        found: NumpyArray = np.isin(log.episode_contents, self.learned_from)
        return found

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` is a real (log-)probability or density."""
        return bool(self.policy.has_density)

    def probs(
        self, obs: Float[NumpyArray, "B D"], *, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Float[NumpyArray, "B A"]:
        """(B, A) probabilities of the actions, as NumPy.

        Raises:
            DataError: the rows or the mask are not as wide as the schema says, or the actions are continuous.
        """
        if not isinstance(self.policy, DiscretePolicy):
            raise DataError("Continuous actions have no probabilities: ask for `sample`, `mode` or `log_prob`.")
        self._check(obs, action_mask)
        return np.asarray(self.policy.probs(obs, action_mask=action_mask))

    def log_prob(
        self,
        obs: Float[NumpyArray, "B D"],
        action: Shaped[NumpyArray, "B ..."],
        *,
        action_mask: Bool[NumpyArray, "B A"] | None = None,
    ) -> Float[NumpyArray, " B"]:
        """(B,) log-probabilities, or log-densities, of the given actions. Raises DataError as `probs`."""
        self._check(obs, action_mask)
        return np.asarray(self.policy.log_prob(obs, action, action_mask=action_mask))

    def greedy(self) -> Bundle:
        """A bundle whose policy always takes the most probable action of this one; its provenance is still that of this one."""
        return dataclasses.replace(self, policy=self.policy.greedy())

    def mode(
        self, obs: Float[NumpyArray, "B D"], *, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Shaped[NumpyArray, "B ..."]:
        """(B,) the most probable allowed action of each row; (B, D) where actions are continuous. Raises DataError as `probs`."""
        self._check(obs, action_mask)
        return np.asarray(self.policy.mode(obs, action_mask=action_mask))

    def sample(
        self, obs: Float[NumpyArray, "B D"], *, key: Key, action_mask: Bool[NumpyArray, "B A"] | None = None
    ) -> Shaped[NumpyArray, "B ..."]:
        """(B,) an action drawn for each row; (B, D) where actions are continuous. Raises DataError as `probs`."""
        self._check(obs, action_mask)
        return np.asarray(self.policy.sample(obs, key=key, action_mask=action_mask))

    def _check(self, obs: NumpyArray, action_mask: NumpyArray | None) -> None:
        if obs.ndim != 2 or obs.shape[1] != len(self.guard.low):
            raise DataError(
                f"The policy takes observations of {len(self.guard.low)} numbers, one row each; got shape {obs.shape}."
            )
        if action_mask is not None and action_mask.shape[1] != self.schema.num_actions:
            raise DataError(f"The policy has {self.schema.num_actions} actions; the mask has {action_mask.shape[1]}.")


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle: policy.safetensors and episodes.safetensors first, then policy.json, which marks it as complete."""
    make_directory(folder)
    save_policy_file(folder / POLICY, bundle.policy)
    if bundle.learned_from is not None:
        write_learned_from(folder, bundle.learned_from)
    card = {
        "format": FORMAT_VERSION,
        "schema": bundle.schema.to_dict(),
        "guard": bundle.guard.to_dict(),
        "provenance": bundle.provenance,
    }
    write_json(folder / CARD, card)


def load_policy(
    folder: str | os.PathLike[str], *, output: str | None = None, num_actions: int | None = None
) -> Bundle | OnnxPolicy:
    """Read a bundle, or the policy of an ONNX file (this is `st.load_policy`).

    Args:
        folder: a `policy` folder of `stitchrl run`, or a file that ends in ".onnx".
        output: of an ONNX file, what its output is: "probs", "logits" or "action", or "NAME:probs" and so on where it has
            several. Not needed where one output has one of these three names.
        num_actions: of an ONNX file that gives the action alone, how many discrete actions there are.

    Raises:
        CheckpointError: there is no bundle, or it is damaged; onnxruntime is not installed, or cannot run the file.
        ConfigurationError: it cannot be told what the output of an ONNX file is.
    """
    where = Path(folder)
    if where.suffix == ".onnx" and where.is_file():
        return load_onnx(where, output=output, num_actions=num_actions)
    if output is not None or num_actions is not None:
        raise ConfigurationError(
            f"`output` and `num_actions` are for files of ONNX, and {str(where)!r} is none. Leave them out."
        )
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
        schema, guard = Schema.from_dict(card["schema"]), Guard.from_dict(card["guard"])
        provenance = card["provenance"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"The policy in {str(where)!r} cannot be loaded, for its {CARD} is damaged: {reason.rstrip('.')}. Save it again, "
            "or let `stitchrl run` make it anew after deleting the folder."
        ) from None
    policy = load_policy_file(where / POLICY)
    if not isinstance(policy, DiscretePolicy | ContinuousPolicy):
        raise CheckpointError(f"The file in {str(where)!r} must hold a policy; got a {type(policy).__name__}.")
    return Bundle(policy, schema, guard, provenance, read_learned_from(where))


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
