"""Where a number came from: machine, versions and commit, in a few lines of Markdown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

# What a benchmark evaluates is no look at anybody's test part.
os.environ.setdefault("STITCHRL_STATE", "off")


def describe(command: str) -> str:
    """Machine, versions, commit and the command, as a Markdown list."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("stitchrl", "jax", "equinox", "numpy")
    )
    return "\n".join(
        [
            f"- command: `{command}`",
            f"- machine: {_cpu()}, {os.cpu_count()} cores; {platform.system()} {platform.machine()}",
            f"- versions: Python {platform.python_version()}, {versions}",
            f"- commit: {commit()}",
        ]
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
        plain = {key.strip(): value.strip() for key, value in fields.items()}
        family = f"family {plain.get('cpu family', '?')} model {plain.get('model', '?')}"
        return f"{plain.get('model name', 'unknown')} ({family})"
    return platform.processor() or "unknown"


def commit() -> str:
    """The commit that is checked out, and whether files were changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        return done.stdout.strip()

    # Results are written while a benchmark runs; they change none of what is measured.
    changed = git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")
