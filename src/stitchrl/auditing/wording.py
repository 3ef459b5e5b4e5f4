"""How findings name rows, columns and shares."""

from __future__ import annotations

from collections.abc import Sequence

from stitchrl.types import NumpyArray

__all__ = ["episodes_shown", "listed", "percent", "rows_from", "share_of"]


def rows_from(first: object, count: int) -> str:
    """The first of some rows and how many others there are, such as "row 3 and 12 more"."""
    return f"row {first}" if count == 1 else f"row {first} and {count - 1:,} more"


def listed(noun: str, names: Sequence[object], most: int = 10) -> str:
    """A noun and the first `most` of some names, such as "columns 2, 5 ..."."""
    text = ", ".join(str(name) for name in names[:most])
    return f"{noun}{'' if len(names) == 1 else 's'} {text}{' ...' if len(names) > most else ''}"


def percent(share: float) -> str:
    """A share in percent, never rounded to all where something is missing."""
    return f"{share:.0%}" if share == 1 else "over 99.9%" if share > 0.999 else f"{share:.1%}"


def share_of(count: int, total: int) -> str:
    """A share in percent, never rounded to none where there is any."""
    share = count / max(total, 1)
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def episodes_shown(identifiers: NumpyArray, episodes: NumpyArray, most: int = 3) -> str:
    """The identifiers of the first few of some episodes, such as "17, 20, 31 and 5 more"; `identifiers` has one an episode."""
    text = ", ".join(str(i) for i in identifiers[episodes[:most]])
    return f"{text} and {len(episodes) - most:,} more" if len(episodes) > most else text
