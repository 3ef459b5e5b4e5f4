"""The scripts that write pages of the documentation, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["page_script"]

SCRIPTS = Path(__file__).parents[2] / "scripts"


def page_script(name: str) -> ModuleType:
    """The module `scripts/<name>.py`, with its neighbours in reach."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
