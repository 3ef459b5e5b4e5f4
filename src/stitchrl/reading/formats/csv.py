"""The format of CSV and TSV files."""

from __future__ import annotations

from pathlib import Path

from stitchrl.reading.sources.delimited import open_delimited
from stitchrl.reading.sources.dialect import DELIMITERS
from stitchrl.reading.sources.source import Format

__all__ = ["FORMAT"]


def _recognises(path: Path, head: bytes) -> bool:
    """Whether the first line has a delimiter, and does not look like JSON."""
    line = head.split(b"\n", 1)[0]
    separated = any(sign.encode() in line for sign in DELIMITERS)
    return b"\x00" not in head and separated and not line.lstrip().startswith((b"{", b"["))


USED = ("delimiter", "quotechar", "decimal", "thousands", "encoding", "header", "names", "na_values", "skiprows")
FORMAT = Format("CSV", (".csv", ".tsv"), _recognises, open_delimited, open_delimited, USED)
