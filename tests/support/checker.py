"""Shapes and types of the package's functions, checked by jaxtyping and beartype at the first calls in every test.

Most functions are never called in a test process, some call for no arrays, and a few are called thousands of times in one test.
So a check is built at the first call; where no array is asked for it is beartype's alone, without the names of axes that
jaxtyping keeps; and the calls of a function in one test that follow its first `CALLS` go unchecked.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import _lru_cache_wrapper, partial, wraps
from types import FunctionType
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

__all__ = ["CALLS", "begin_test", "checked", "install"]

CALLS = 100
"""Calls of each function that are checked in one test."""

strict = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
"""An int is accepted where a float is asked for (PEP 484)."""
of_arrays = jaxtyping.jaxtyped
"""jaxtyping's own decorator, for which `install` puts another in place."""

_test = 0


def begin_test() -> None:
    """The next calls of every function are its first ones again."""
    global _test
    _test += 1


def _check_of(function: FunctionType) -> Callable[..., Any]:
    """The function, checked at every call; what an annotation names for mypy alone is not known here and not checked."""
    known: dict[str, Any] = {}
    for name, said in function.__annotations__.items():
        with suppress(Exception):
            holder = type("Holder", (), {"__annotations__": {name: said}})
            found = get_type_hints(holder, function.__globals__, include_extras=True)
            # A test may have put a function in the place of a class: then the name says nothing of types.
            known |= {name: hint for name, hint in found.items() if not isinstance(hint, _lru_cache_wrapper)}
    if any("jaxtyping" in repr(hint) for hint in known.values()):
        return of_arrays(function, typechecker=strict)
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__annotations__, copy.__qualname__ = function.__kwdefaults__, known, function.__qualname__
    return strict(copy)


def checked(item: Any = None, *, typechecker: Any = None) -> Any:
    """What stands above every class and function of the package: the same one, checked."""
    if item is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(item):
        if dataclasses.is_dataclass(item) and "__init__" in vars(item):
            item.__init__ = checked(vars(item)["__init__"])  # type: ignore[method-assign]
        return item
    if not inspect.isfunction(item):
        raise TypeError(f"The import hook decorates classes and functions; got {item!r}.")
    check: Callable[..., Any] | None = None
    seen = left = 0

    @wraps(item)
    def first_calls_checked(*values: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        nonlocal check, seen, left
        if seen != _test:
            seen, left = _test, CALLS
        if not left:
            return item(*values, **named)
        left -= 1
        if check is None:
            check = _check_of(item)
        return check(*values, **named)

    return first_calls_checked


def install() -> None:
    """Check every module of the package that is imported from here on."""
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]
    jaxtyping.install_import_hook("stitchrl", "checker.strict")
