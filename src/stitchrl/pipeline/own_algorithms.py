"""Algorithms of a user's own file, named as FILE.py:CLASS on the command line and in configuration files."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from stitchrl.algorithms.base import Algorithm
from stitchrl.errors import ConfigurationError
from stitchrl.messages import printable

__all__ = ["is_own", "own_algorithm"]

MODULES: dict[Path, ModuleType] = {}
"""The files that were run: a file that is named twice must give the same classes."""


def is_own(name: str) -> bool:
    """Whether a name is one of a class in a file."""
    return ".py:" in name


def own_algorithm(name: str) -> type[Algorithm]:
    """The class that FILE.py:CLASS names; the file is run as Python, once.

    Raises:
        ConfigurationError: there is no such file, it fails when it is run, or it defines no such algorithm.
    """
    path, _, wanted = name.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(
            f"There is no file {printable(path)!r} to take the algorithm {printable(wanted)!r} from."
        )
    module = _module(file)
    found: dict[str, type[Algorithm]] = {key: value for key, value in vars(module).items() if _is_of(value, module)}
    if wanted not in found:
        there = ", ".join(found) or "none: a class must inherit from st.Algorithm"
        raise ConfigurationError(f"The file {str(file)!r} has no algorithm {printable(wanted)!r}; it has {there}.")
    return found[wanted]


def _is_of(value: object, module: ModuleType) -> bool:
    return inspect.isclass(value) and issubclass(value, Algorithm) and value.__module__ == module.__name__


def _module(file: Path) -> ModuleType:
    where = file.resolve()
    if where in MODULES:
        return MODULES[where]
    name = file.stem if file.stem not in sys.modules else f"{file.stem}_{len(MODULES)}_of_a_user"
    spec = importlib.util.spec_from_file_location(name, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"The file {str(file)!r} fails when it is run: {type(error).__name__}: {error}. Run it by itself to see where."
        ) from error
    MODULES[where] = module
    return module
