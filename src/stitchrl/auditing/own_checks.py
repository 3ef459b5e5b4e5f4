"""Checks that users add to an audit or a diagnosis: what they give is looked at before it stands beside other findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stitchrl.auditing.finding import SEVERITIES, Finding
from stitchrl.errors import ConfigurationError

__all__ = ["findings_of", "name_of"]


def name_of(check: Callable[..., Any]) -> str:
    """What a check is called: the name of its function, or of its class."""
    return str(getattr(check, "__name__", type(check).__name__))


def findings_of(check: Callable[..., Iterable[Finding]], *given: Any) -> list[Finding]:
    """What a user's check finds.

    Raises:
        ConfigurationError: it gives something else than findings, or one of a severity that there is not.
    """
    found = check(*given)
    if not isinstance(found, Iterable):
        raise ConfigurationError(
            f"The check {name_of(check)} must give findings, an iterable of `st.Finding`; it gave {found!r:.60}. Let it `yield` "
            "each, or return an empty tuple."
        )
    findings = list(found)
    for one in findings:
        if not isinstance(one, Finding) or one.severity not in SEVERITIES:
            raise ConfigurationError(
                f"The check {name_of(check)} must give findings, each an `st.Finding` with a severity from "
                f"{', '.join(SEVERITIES)}; it gave {one!r:.60}."
            )
    return findings
