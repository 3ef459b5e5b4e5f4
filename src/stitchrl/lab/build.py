"""Builds the lessons: computes each once for a version of the code, and writes pages that open without a network."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from stitchrl.errors import ConfigurationError, RunDirectoryError
from stitchrl.lab.registry import LESSONS, STAGES, check_name, prose_of
from stitchrl.storage.files import make_directory, write_atomic, write_bytes, write_text

__all__ = ["Built", "build", "cache_folder", "export"]

NEEDED = ("altair", "vl_convert", "markdown_it", "mdit_py_plugins", "math_core", "pygments")
WORKERS = 2
KEPT_DAYS = 30
SOURCES = (".py", ".md", ".j2", ".npz", ".parquet")
"""Suffixes of the package's files that a lesson's numbers and text can depend on. Styles and scripts are not kept with it."""
LIBRARIES = (
    *("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "pyarrow"),
    *("altair", "math-core", "markdown-it-py", "mdit-py-plugins", "pygments", "jinja2"),
)
MADE_BY = '<meta name="generator" content="stitchrl lab">'
"""The line by which an exported page is recognised as one of ours."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A lesson whose numbers are computed: what a page is written from."""

    name: str
    title: str
    question: str
    body: str


def export(
    folder: Path,
    names: Sequence[str] = (),
    *,
    single: bool = False,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write lessons and their index as HTML into a folder.

    Args:
        folder: made where it is missing. Pages of the named lessons that are in it are replaced; other lessons that are in it
            stay in the index and in the path, where this version of the code built them; other files are left alone.
        names: which lessons; all where none is named.
        single: each page holds all it needs; else the pages share a folder `assets`.
        done: told how many lessons of how many are built.

    Returns:
        The pages: first the index, then the named lessons.

    Raises:
        ConfigurationError: there is no lesson of a name, or the extra `lab` is not installed.
        RunDirectoryError: the folder cannot be written, or a file of the user's would be lost.
    """
    for name in names:
        check_name(name)
    check_dependencies()
    make_directory(folder)
    chosen = [name for name in LESSONS if not names or name in names]
    from stitchrl.lab.page import assets, index_page, lesson_page

    shared = {} if single else assets()
    _refuse_foreign(folder, ["index.html", *(f"{name}.html" for name in chosen)], [f"assets/{name}" for name in shared])
    path = [name for name in LESSONS if name in chosen or (_is_ours(folder / f"{name}.html") and _cached(name))]
    built = build(path, done=done)
    stage = {name: heading for heading, group in STAGES.items() for name in group}
    order: list[dict[str, Any]] = [
        {
            "name": one.name,
            "title": one.title,
            "question": one.question,
            "stage": stage[one.name],
            "number": LESSONS.index(one.name) + 1,
        }
        for one in built
    ]
    # The index comes first: by it an interrupted export knows its own files again.
    write_text(folder / "index.html", index_page(order, headings=list(STAGES), single=single))
    if shared:
        make_directory(folder / "assets")
    for name, content in shared.items():
        write_atomic(folder / "assets" / name, partial(write_bytes, content=content))
    for one in built:
        page = lesson_page(one.name, one.title, one.question, one.body, order, single=single)
        write_text(folder / f"{one.name}.html", page)
    return [folder / "index.html", *(folder / f"{name}.html" for name in chosen)]


def build(names: Sequence[str], *, done: Callable[[int, int], None] = lambda done, total: None) -> list[Built]:
    """The lessons of these names, from the cache where this version of the code has built them before."""
    found = {name: read for name in names if (read := _cached(name)) is not None}
    missing = [name for name in names if name not in found]
    done(len(found), len(names))
    if len(missing) == 1:
        found[missing[0]] = _build_one(missing[0])
    elif missing:
        # A process each: compiling keeps a core busy, and two lessons share nothing.
        context = multiprocessing.get_context("spawn")
        others = multiprocessing.active_children()
        with concurrent.futures.ProcessPoolExecutor(min(WORKERS, len(missing)), mp_context=context) as pool:
            try:
                for future in concurrent.futures.as_completed([pool.submit(_build_one, name) for name in missing]):
                    one = future.result()
                    found[one.name] = one
                    done(len(found), len(names))
            except BaseException:  # Ctrl-C, or a lesson that fails: nobody waits for the rest
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - set(others):
                    process.terminate()
                raise
    return [found[name] for name in names]


def _refuse_foreign(folder: Path, pages: Sequence[str], shared: Sequence[str]) -> None:
    """Raises RunDirectoryError where a file that would be written is there and is not of lessons: it would be lost.

    Styles and scripts carry no mark of ours; beside an index of lessons they are taken to be ours.
    """
    foreign = [name for name in pages if (folder / name).exists() and not _is_ours(folder / name)]
    if not (folder / "index.html").exists():
        foreign += [name for name in shared if (folder / name).exists()]
    if foreign:
        raise RunDirectoryError(
            f"The folder {str(folder)!r} holds {foreign[0]}, which is not of stitchrl's lessons and would be lost; choose "
            "another --export."
        )


def _is_ours(page: Path) -> bool:
    """Whether there is such a page, and an export of lessons wrote it."""
    try:
        return MADE_BY in page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def check_dependencies() -> None:
    """Raises ConfigurationError where the extra `lab` is not installed."""
    for module in NEEDED:
        try:
            importlib.import_module(module)
        except ImportError:
            raise ConfigurationError(
                f"The lessons need the package that provides {module!r}, which is not installed; run: pip install 'stitchrl[lab]'"
            ) from None


def cache_folder() -> Path:
    """Where built lessons are kept: below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "stitchrl" / "lessons"


def _build_one(name: str) -> Built:
    """Compute a lesson, and keep it."""
    from stitchrl.lab.page import body_of

    lesson = importlib.import_module(f"stitchrl.lab.lessons.{name}").lesson()
    built = Built(name, lesson.title, lesson.question, body_of(lesson, prose_of(name)))
    try:
        make_directory(cache_folder() / _version())
        write_text(_place(name), json.dumps(dataclasses.asdict(built)))
        _forget_old_versions()
    except Exception:  # a cache that cannot be written costs time, nothing else
        pass
    return built


def _forget_old_versions() -> None:
    """Remove what other versions of the code kept, where it was made more than `KEPT_DAYS` ago."""
    for other in cache_folder().iterdir():
        if other.name != _version() and time.time() - other.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)


def _cached(name: str) -> Built | None:
    """What was kept of a lesson; None where nothing was, or what is there is no whole lesson."""
    try:
        found = Built(**json.loads(_place(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = all(isinstance(value, str) for value in dataclasses.astuple(found))
    return found if whole and found.name == name else None


def _place(name: str) -> Path:
    return cache_folder() / _version() / f"{name}.json"


@cache
def _version() -> str:
    """A name for all that a lesson is made from: the package's own source and data, and the libraries that compute and draw."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for file in sorted(package.rglob("*")):
        if file.suffix in SOURCES and file.is_file():
            content = file.read_bytes()
            digest.update(f"{file.relative_to(package)}:{len(content)};".encode() + content)
    for library in LIBRARIES:
        digest.update(f"{library} {importlib.metadata.version(library)};".encode())
    return digest.hexdigest()[:16]
