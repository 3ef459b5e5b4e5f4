"""The format of a file or folder is told from its content."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_files import FIXTURE_FORMATS, opened, recognised


@pytest.mark.parametrize(("name", "format"), FIXTURE_FORMATS.items())
def test_content_tells_the_format(made: Path, name: str, format: str) -> None:
    assert recognised(made / name)[0] == format
    assert opened(made / name).format.split()[0] == format.split()[0]


def test_recognition_never_raises(tmp_path: Path) -> None:
    for content in (b"", b"\x80", b"\x80\x04", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"a,b\n", b"\xff" * 600):
        path = tmp_path / "any.bin"
        path.write_bytes(content)
        recognised(path)
    assert recognised(tmp_path) == []
