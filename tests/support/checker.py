"""The type checker of the suite: beartype, with an int accepted where a float is asked for (PEP 484)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import BeartypeConf, beartype

strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typechecked(function: Any) -> Any:
    """The same function, its arguments and result checked; the check is built at the first call, for most are never called."""
    if not inspect.isfunction(function):
        return strict(function)
    checked: Callable[..., Any] | None = None

    @wraps(function)
    def check(*values: Any, **named: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = strict(function)
        return checked(*values, **named)

    return check
