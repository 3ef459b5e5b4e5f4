"""A policy in an ONNX file, run by onnxruntime. What its output means is read from its name or given, and never guessed.

Inputs: the observations as in the log, B rows, and perhaps a second input named `action_mask`. Nothing is normalised in between:
all that the network needs must be in the file. The output is one of

    probs     (B, A) probabilities of discrete actions
    logits    (B, A) their logarithms up to a constant of the row: a softmax makes them probabilities
    action    (B,) whole numbers: the discrete action that is taken; (B, D) floats: the continuous one, deterministic
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.deployment.outside_policy import OutsidePolicy, one_hot
from stitchrl.errors import CheckpointError, ConfigurationError, DataError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

__all__ = ["OnnxPolicy", "load_onnx"]

MEANINGS = ("probs", "logits", "action")
MASK = "action_mask"
ROWS_AT_ONCE = 16384
TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
"""Types of tensors of ONNX -> of NumPy."""


class OnnxPolicy(OutsidePolicy):
    """The policy of an ONNX file; `st.load_policy` makes one.

    Attributes:
        name: of the file, for messages.
        output: the output of the model that is read.
        meaning: "probs", "logits" or "action".
        num_actions: how many discrete actions there are; None where they are continuous, or where a model that gives the action
            alone does not say.
    """

    def __init__(self, name: str, session: Any, output: Any, meaning: str, num_actions: int | None) -> None:
        self.name, self.output, self.meaning, self._session = name, output.name, meaning, session
        self._whole = output.type in ("tensor(int32)", "tensor(int64)")
        inputs = {one.name: one for one in session.get_inputs()}
        self._mask = inputs.pop(MASK, None) if len(inputs) > 1 else None
        if len(inputs) != 1:
            raise CheckpointError(
                f"The model {name!r} must take observations, and perhaps an `{MASK}`; its inputs are {listed(inputs)}."
            )
        (self._input,) = inputs.values()
        width = output.shape[1] if output.shape is not None and len(output.shape) == 2 else None
        self.num_actions = num_actions if self.discrete else None
        if meaning != "action" and isinstance(width, int):
            if num_actions not in (None, width):
                raise ConfigurationError(f"The model {name!r} has {width} actions; `num_actions` says {num_actions}.")
            self.num_actions = width

    def __str__(self) -> str:
        return f"the model {self.name!r}"

    @property
    def discrete(self) -> bool:
        """Whether its actions are the integers 0, 1, ..."""
        return self.meaning != "action" or self._whole

    def _probs(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        found = self._run(obs, action_mask)
        if self.meaning == "action":
            if self.num_actions is None:
                raise DataError(
                    f"{self} gives the action alone, which does not show how many actions there are: give `num_actions`."
                )
            if found.shape not in ((len(obs),), (len(obs), 1)):
                raise DataError(f"{self} must give one action per row; got shape {found.shape} for {len(obs)} rows.")
            return one_hot(found.reshape(-1).astype(np.int64), self.num_actions, str(self))
        if found.ndim != 2 or len(found) != len(obs):
            raise DataError(
                f"{self} must give {self.meaning} for each row; got shape {found.shape} for {len(obs)} rows."
            )
        if self.meaning == "probs":
            return found
        logits = found.astype(np.float64)
        if np.isnan(logits).any() or (logits == np.inf).any():
            raise DataError(f"The logits of {self} must be numbers or minus infinity; some are not.")
        if action_mask is not None and action_mask.shape == logits.shape:
            logits = np.where(action_mask, logits, -np.inf)
        top = logits.max(1, keepdims=True)
        if not np.isfinite(top).all():
            raise DataError(
                f"{self} must leave some action possible; in row {int(np.argmin(top[:, 0]))} it leaves none."
            )
        weight = np.exp(logits - top)
        return np.asarray(weight / weight.sum(1, keepdims=True))

    def _mode(self, obs: NumpyArray) -> NumpyArray:
        found = self._run(obs, None).astype(np.float32)
        return found[:, None] if found.ndim == 1 else found

    def _hint(self) -> str:
        return f' If its output is logits, say output="{self.output}:logits".' if self.meaning == "probs" else ""

    def _run(self, obs: NumpyArray, action_mask: NumpyArray | None) -> NumpyArray:
        """The output for all rows, computed in parts; a model for a fixed number of rows gets that many each time."""
        shape = list(self._input.shape)
        if len(shape) != obs.ndim or any(
            isinstance(size, int) and size != seen for size, seen in zip(shape[1:], obs.shape[1:], strict=True)
        ):
            raise DataError(f"{self} takes observations of shape {shape}, one row each; got shape {obs.shape}.")
        fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        taken: NumpyArray = np.asarray(obs, TYPES[self._input.type])
        if taken.dtype.kind in "iub" and not np.array_equal(taken, obs):
            raise DataError(
                f"{self} takes observations of type {taken.dtype}, and those of the log are not whole numbers of that range. "
                "Give the log in the units that the model was made for."
            )
        fed: dict[str, NumpyArray] = {self._input.name: taken}
        if self._mask is not None:
            if action_mask is None and self.num_actions is None:
                raise DataError(f"{self} needs an `action_mask`, and the log has none.")
            mask = np.ones((len(obs), self.num_actions or 0), bool) if action_mask is None else action_mask
            fed[MASK] = np.asarray(mask, TYPES[self._mask.type])
        parts = []
        for start in range(0, len(obs), fixed or ROWS_AT_ONCE):
            piece = {name: values[start : start + (fixed or ROWS_AT_ONCE)] for name, values in fed.items()}
            rows = len(piece[self._input.name])
            if fixed is not None and rows < fixed:
                piece = {name: np.concatenate([v, np.repeat(v[-1:], fixed - rows, 0)]) for name, v in piece.items()}
            try:
                (found,) = self._session.run([self.output], piece)
            except Exception as error:  # onnxruntime's own classes have no common base but this
                raise DataError(f"{self} failed: {' '.join(str(error).split()).rstrip('.')}.") from None
            parts.append(np.asarray(found)[:rows])
        return np.concatenate(parts) if parts else np.zeros((0, self.num_actions or 1))


def load_onnx(path: str | os.PathLike[str], *, output: str | None = None, num_actions: int | None = None) -> OnnxPolicy:
    """Read a policy from an ONNX file.

    Args:
        path: the file.
        output: what the model's output is: "probs", "logits" or "action"; "NAME:probs" reads the output NAME. None: one of the
            outputs must have one of these three names.
        num_actions: how many discrete actions there are, for a model that gives the action alone.

    Raises:
        CheckpointError: onnxruntime is not installed, or the file is no model that it can run.
        ConfigurationError: it is not clear which output is meant.
    """
    name = Path(path).name
    try:
        import onnxruntime
    except ImportError:
        raise CheckpointError(
            f'The policy {name!r} needs onnxruntime, which is not installed: pip install "stitchrl[onnx]".'
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise CheckpointError(
            f"The policy {name!r} cannot be loaded as ONNX: {' '.join(str(error).split()).rstrip('.')}."
        ) from None
    chosen, meaning = _chosen(name, {one.name: one for one in session.get_outputs()}, output)
    for one in (*session.get_inputs(), chosen):
        if one.type not in TYPES:
            raise CheckpointError(f"{one.name!r} of the model {name!r} must be a tensor of numbers; it is {one.type}.")
    return OnnxPolicy(name, session, chosen, meaning, num_actions)


def _chosen(name: str, outputs: dict[str, Any], output: str | None) -> tuple[Any, str]:
    """The output of a model that is read, and what it means."""
    if output is None:
        named = [one for one in outputs if one in MEANINGS]
        if len(named) != 1:
            raise ConfigurationError(
                f"The model {name!r} must have one output named probs, logits or action; its outputs are {listed(outputs)}. Say "
                'which is which, such as "NAME:logits" (`output=`, or `--policy-output` on the command line).'
            )
        return outputs[named[0]], named[0]
    wanted, _, meaning = output.rpartition(":")
    if meaning not in MEANINGS:
        raise ConfigurationError(
            f'`output` must be "probs", "logits" or "action", perhaps after an output\'s name and a colon; got {shown(output)}.'
        )
    if not wanted:
        wanted = next(iter(outputs)) if len(outputs) == 1 else meaning
    if wanted not in outputs:
        raise ConfigurationError(
            f"The model {name!r} has the outputs {listed(outputs)}, and {shown(wanted)} is none of them. Name one of them before "
            f'the colon, such as "{next(iter(outputs))}:{meaning}".'
        )
    return outputs[wanted], meaning
