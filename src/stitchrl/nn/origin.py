"""What a policy in memory remembers of the log that it learned from: what its numbers mean, and where they lie."""

from __future__ import annotations

from typing import Any

from stitchrl.data.schema import Schema

__all__ = ["WithOrigin", "remember_origin"]

ORIGIN = "_origin"


class WithOrigin:
    """A policy that may remember its log. The memory stands beside its numbers: programs, files and copies that JAX makes of a
    policy do not have it. A policy that acts through another one remembers what that one does."""

    @property
    def schema(self) -> Schema | None:
        """The schema of the log that it learned from; None where that is not known."""
        return self.__dict__[ORIGIN][0] if ORIGIN in self.__dict__ else getattr(self._inner, "schema", None)

    @property
    def guard(self) -> Any:
        """The range of the observations in that log, by which another unit is noticed; None where that is not known."""
        return self.__dict__[ORIGIN][1] if ORIGIN in self.__dict__ else getattr(self._inner, "guard", None)

    @property
    def _inner(self) -> Any:
        return getattr(self, "policy", None)


def remember_origin(policy: Any, schema: Schema | None, guard: Any) -> None:
    """Have a policy remember the log that it learned from. A policy of another kind, such as a user's own, is left as it is."""
    if isinstance(policy, WithOrigin):
        policy.__dict__[ORIGIN] = (schema, guard)
