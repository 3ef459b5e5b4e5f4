"""How results are shown where nobody calls `print`: in a notebook, at a prompt, inside a list."""

from __future__ import annotations

from typing import Any

__all__ = ["Shown"]


class Shown:
    """A result whose own `__str__` puts it into words: notebooks show all of them, and a prompt the first line, in place of every
    field."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {str(self).partition(chr(10))[0]}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython and Jupyter call."""
        printer.text(str(self))
