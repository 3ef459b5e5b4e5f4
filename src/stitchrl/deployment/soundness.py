"""Whether the parts of a bundle that was read fit together, so that a damaged one is refused before it acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stitchrl.data.schema import Schema
from stitchrl.deployment.guard import ANSWER, BEHAVIOR, CLIP, REFUSE, Guard
from stitchrl.deployment.numpy_discrete import NumpyDiscretePolicy, NumpyTabularPolicy
from stitchrl.deployment.numpy_memory import NumpyMemoryPolicy
from stitchrl.deployment.outside_range import action_outside, action_range
from stitchrl.errors import ConfigurationError
from stitchrl.messages import listed, shown
from stitchrl.types import NumpyArray

__all__ = ["UnsoundError", "check_guard", "check_learned_from", "check_policy", "check_told"]

ROUNDING = 1e-3
"""How far probabilities may be from a sum of 1."""


class UnsoundError(ValueError):
    """A part of a bundle does not fit the others; the message is the reason without the name of the bundle."""


def check_guard(content: dict[str, Any]) -> None:
    """Check that the numbers of a guard, as `Guard.to_dict` gives them, are ranges, and its margin is a share.

    Raises:
        UnsoundError: they are not.
        ValueError, TypeError, KeyError: there are no such numbers.
    """
    low, high = (np.asarray(content[name], np.float64) for name in ("low", "high"))
    if low.ndim not in (1, 3) or not low.size or low.shape != high.shape:
        raise UnsoundError(
            f"`low` and `high` of its guard must hold one number for each of the observation's; got shapes {low.shape} and "
            f"{high.shape}"
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise UnsoundError("`low` of its guard must be finite and nowhere above `high`; it is not")
    margin = content["margin"]
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < np.inf:
        raise UnsoundError(f"`margin` of its guard must be a finite number of at least 0; got {shown(margin)}")
    quantiles, of_nonzero = np.asarray(content.get("quantiles", [low] * 4)), np.asarray(content.get("of_nonzero", low))
    if quantiles.shape != (4, *low.shape) or quantiles.dtype.kind not in "if" or not np.isfinite(quantiles).all():
        raise UnsoundError(
            f"`quantiles` of its guard must be four finite numbers for each of the {low.size} of the observation; got shape "
            f"{quantiles.shape}"
        )
    if of_nonzero.shape != low.shape:
        raise UnsoundError(
            f"`of_nonzero` of its guard must hold one value for each of the {low.size} numbers of the observation; got shape "
            f"{of_nonzero.shape}"
        )


def check_policy(policy: Any, schema: Schema, guard: Guard, called: str) -> int:
    """Evaluate a policy of NumPy at both ends of its range, and return the size of a continuous action, 0 if it is discrete.

    Args:
        policy: the policy.
        schema: of the bundle.
        guard: of the bundle, already checked.
        called: the name of the policy in messages.

    Raises:
        UnsoundError: its networks do not fit each other, the observation or the actions, its outputs are not finite, or its
            probabilities do not sum to 1.
    """
    rows = np.stack([guard.low, guard.high])
    for known in _widths(policy):
        if known != guard.low.shape:
            raise UnsoundError(
                f"{called} takes observations of shape {known}, and its guard those of {guard.low.shape}"
            )
    try:
        with np.errstate(all="ignore"):
            found, numbered = _answers(policy, rows)
    except (ValueError, TypeError, IndexError, AttributeError, KeyError, ZeroDivisionError):
        raise UnsoundError(
            f"the tensors of {called} do not fit each other, or not the {guard.low.size} numbers of its guard"
        ) from None
    count = schema.num_actions
    if (count is not None) != numbered:
        kinds = ("discrete", "continuous") if count is not None else ("continuous", "discrete")
        raise UnsoundError(f"its schema has {kinds[0]} actions, and {called} takes {kinds[1]} ones")
    wanted = schema.columns["action"] if count is None else ""
    size = count if count is not None else (found.shape[-1] if isinstance(wanted, str) else len(wanted))
    if found.shape != (2, size):
        raise UnsoundError(
            f"its schema has {size} {'actions' if count is not None else 'numbers per action'}, and {called} gives "
            f"{found.shape[-1] if found.ndim else 'none'}"
        )
    if not np.isfinite(found).all():
        raise UnsoundError(f"the outputs of {called} are not finite numbers")
    if count is not None and not np.allclose(found.sum(1), 1, atol=ROUNDING):
        raise UnsoundError(f"the probabilities of {called} do not sum to 1")
    return 0 if count is not None else size


def _answers(policy: Any, rows: NumpyArray) -> tuple[NumpyArray, bool]:
    """(B, A) probabilities, or (B, action) vectors, and which of them; of a policy with memory at its second step."""
    if isinstance(policy, NumpyMemoryPolicy):
        numbered, carry, last = not policy.action_shape, policy.initial_carry(len(rows)), np.zeros(len(rows))
        action = np.zeros((len(rows), *policy.action_shape), np.int64 if numbered else np.float32)
        for _ in range(2):
            found, carry = policy.answer(carry, rows, action, last)
        return found, numbered
    numbered = isinstance(policy, NumpyDiscretePolicy)
    return np.asarray(policy.probs(rows) if numbered else policy.mode(rows)), numbered


def _widths(policy: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of the observations that the parts of a policy know."""
    while policy is not None:
        if np.size(getattr(policy, "mean", ())):
            yield np.shape(policy.mean)
        if isinstance(policy, NumpyTabularPolicy):
            yield np.shape(policy.center)
        policy = getattr(policy, "policy", None)


def check_told(guard: Guard, schema: Schema, policy: Any, size: int, *, behavior: bool) -> None:
    """Raise UnsoundError unless the bundle can do what its guard says for rows outside the range.

    Args:
        guard: of the bundle.
        schema: of the bundle.
        policy: of the bundle, by any backend.
        size: how many numbers a continuous action has.
        behavior: whether the bundle holds a model of the behaviour.
    """
    told = guard.on_outside
    if isinstance(policy, NumpyMemoryPolicy) and told not in (REFUSE, CLIP, ANSWER):
        raise UnsoundError(
            f"`on_outside` of its guard must be {listed((REFUSE, CLIP, ANSWER))}, since the policy remembers its episode; got "
            f"{shown(told)}"
        )
    if isinstance(told, str):
        words = (REFUSE, CLIP, BEHAVIOR, ANSWER)
        if told not in words:
            raise UnsoundError(f"`on_outside` of its guard must be {listed(words)} or an action; got {shown(told)}")
        if told == BEHAVIOR and not behavior:
            raise UnsoundError("its guard hands over to the behaviour, of which the bundle holds no model")
        return
    try:
        action_outside(told, schema, size, action_range(policy, schema))
    except ConfigurationError as error:
        raise UnsoundError(f"`on_outside` of its guard is no action of the policy: {str(error).rstrip('.')}") from None


def check_learned_from(arrays: Mapping[str, NumpyArray] | None) -> None:
    """Raise UnsoundError unless the hashes of episodes are such as `EpisodeMemory.arrays` gives, or an older version."""
    whole = {
        "contents": ("uint64", (None, 3)),
        "chosen": ("uint64", (None,)),
        "runs": ("uint64", (None,)),
        "limits": ("uint64", (4,)),
        "shares": ("float64", (2,)),
    }
    if arrays is None:
        return
    for name, (dtype, shape) in (whole if "limits" in arrays else {"contents": ("uint64", (None,))}).items():
        found = arrays[name]
        fits = len(found.shape) == len(shape) and all(
            one in (None, n) for one, n in zip(shape, found.shape, strict=True)
        )
        if not fits or str(found.dtype) != dtype:
            wanted = " x ".join("n" if one is None else str(one) for one in shape)
            raise UnsoundError(
                f"`{name}` of the hashes of its episodes must be {wanted} {dtype}; got {found.dtype} of shape {found.shape}"
            )
