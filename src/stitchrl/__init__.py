"""stitchrl: from a log file to a policy you can defend.

    import stitchrl as st

    log = st.demo_log()
    train, valid, test = log.split((0.5, 0.1, 0.4), seed=0)
    run = st.fit(st.IQL(gamma=1.0, expectile=0.8), train, updates=2_000)
    print(st.evaluate(run.policy.greedy(), test).verdict)

Every name is imported when it is first used, so that `import stitchrl` costs nothing. `__init__.pyi`, beside this file,
is the one list of names: editors and type checkers read it, and so does this file.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_FOLDER = Path(__file__).parent
_FACE: dict[str, str] = {
    name: module
    for module, name in re.findall(
        r"^from (stitchrl\S*) import \w+ as (\w+)$",
        (_FOLDER / "__init__.pyi").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
"""Name in the face -> module that defines it, or package that holds it where it is a module itself."""

PREFERENCE_ALGORITHMS: dict[str, str] = {"DPO": _FACE["DPO"]}
"""Name of an algorithm that learns from preferences -> defining module."""

ALGORITHMS: dict[str, str] = {
    name: module
    for name, module in _FACE.items()
    if module.startswith("stitchrl.algorithms.") and module != "stitchrl.algorithms.base"
    if name not in PREFERENCE_ALGORITHMS
}
"""Name of an algorithm that learns from logs -> defining module."""

__all__ = sorted([*_FACE, "load"])


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'stitchrl' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = _FACE[name]
    if _FOLDER.joinpath(*module.split(".")[1:], f"{name}.py").exists():
        value: Any = importlib.import_module(f"{module}.{name}")
    else:
        value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load(folder: str | os.PathLike[str], *, algorithms: Sequence[type[Any]] = ()) -> Any:
    """The run or grid that `fit` or `fit_grid` saved with `out=folder`, as far as its last checkpoint.

    Args:
        folder: the directory.
        algorithms: classes of algorithms of your own, where the run is of one of them.

    Raises:
        CheckpointError: no run there, a damaged one, or one of an algorithm that is not known.
    """
    from stitchrl.training.fit import load as load_run

    known = ALGORITHMS | PREFERENCE_ALGORITHMS
    classes = {name: getattr(importlib.import_module(module), name) for name, module in known.items()}
    return load_run(folder, classes | {one.__name__: one for one in algorithms})
