"""What a policy object keeps of the log that it learned from: the schema, and the range of the observations."""

from __future__ import annotations

from typing import Any

from stitchrl.data.schema import Schema

__all__ = ["WithOrigin", "remember_origin"]

ORIGIN = "_origin"


class WithOrigin:
    """A policy that may know its log. This is kept outside its arrays: compiled programs, files, and copies that JAX makes of a
    policy do not have it. A policy that acts through another one knows what that one knows."""

    @property
    def schema(self) -> Schema | None:
        """The schema of the log that it learned from; None where that is not known."""
        return self.__dict__[ORIGIN][0] if ORIGIN in self.__dict__ else getattr(self._inner, "schema", None)

    @property
    def guard(self) -> Any:
        """The range of the observations in that log, which reveals observations in other units; None where it is not known."""
        return self.__dict__[ORIGIN][1] if ORIGIN in self.__dict__ else getattr(self._inner, "guard", None)

    @property
    def _inner(self) -> Any:
        return getattr(self, "policy", None)


def remember_origin(policy: Any, schema: Schema | None, guard: Any) -> None:
    """Attach to a policy what is known of its log. A policy of another kind, such as a user's own, is left as it is."""
    if isinstance(policy, WithOrigin):
        policy.__dict__[ORIGIN] = (schema, guard)
