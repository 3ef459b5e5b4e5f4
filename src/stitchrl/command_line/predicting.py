"""What `--on-outside` says, as `Bundle.guarded` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stitchrl.deployment.bundle import Bundle

__all__ = ["guard_of"]


def guard_of(text: str, bundle: Bundle) -> str | int | list[float]:
    """A word or the name of an action as it is; the number of an action, or the numbers of a continuous one."""
    if bundle.discrete:
        named = bundle.schema.action_categories is not None
        return int(text) if text.strip().isdecimal() and not named else text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
