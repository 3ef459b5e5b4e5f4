"""The interactive lessons, embedded under /lessons: what `stitchrl lab --export` writes, beside the pages."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
FOLDER = "lessons"
MARK = "<!-- link to the lessons -->"
LINK = f'<p class="lessons"><a href="{FOLDER}/index.html">Open the lessons</a></p>'


def there_are() -> bool:
    """Whether this stitchrl has lessons."""
    return importlib.util.find_spec("stitchrl.lab") is not None


def link(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the link where the page has its mark."""
    if there_are():
        source[0] = source[0].replace(MARK, LINK)


def export(app: Sphinx, failed: Exception | None) -> None:
    """Write the lessons into the site; a build of anything but HTML, and one that failed, has none."""
    if failed is not None or app.builder.name != "html" or not there_are():
        return
    folder = Path(app.outdir) / FOLDER
    command = [sys.executable, "-m", "stitchrl.cli", "lab", "--export", str(folder), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "index.html").exists():
        logger.warning("The lessons could not be written: %s", (done.stderr or done.stdout).strip()[-500:])


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above."""
    app.connect("source-read", link)
    app.connect("build-finished", export)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
