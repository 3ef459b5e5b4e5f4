"""What the tests of data share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file() -> None:
    """Replaces the fixture that clears JAX's caches after each file: these tests compile nothing."""
