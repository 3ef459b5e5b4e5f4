"""A rung of a ladder in words: the same in every title, table and picture."""

from __future__ import annotations

from stitchrl.reporting.numbers import Json

__all__ = ["place_on_ladder", "rung_explained", "rung_in_words"]

LADDERS = (("power", "floor"), ("reach", "spread"))
"""What a rung of discrete and of continuous actions is described by: how far along a line it is, and which line that is."""


def place_on_ladder(entries: Json) -> tuple[float, float] | None:
    """How far along its line a rung is, and the number that names the line; None where the entries are of no rung."""
    for along, line in LADDERS:
        if entries.get(along) is not None:
            return entries[along], entries[line]
    return None


def rung_in_words(entries: Json) -> str | None:
    """Such as "ladder 3 from 5%", or, of continuous actions, "ladder 0.5 sd with 80% of the noise".

    None where the entries are of no rung.

    Args:
        entries: `power` and `floor`, or `reach` and `spread`, beside whatever else there is.
    """
    found = place_on_ladder(entries)
    if found is None:
        return None
    if entries.get("power") is not None:
        return f"ladder {found[0]:g} from {found[1]:.0%}"
    kept = "all" if found[1] == 1 else f"{found[1]:.0%}"
    return f"ladder {found[0]:g} sd with {kept} of the noise"


def rung_explained(entries: Json) -> str:
    """What the words mean, in sentences."""
    first = "a policy between the candidate and the log's own."
    if entries.get("power") is not None:
        return (
            f"{first} It prefers what the candidate prefers, the more strictly the higher the first number "
            f"({entries['power']:g}), and takes only actions that the log's policy takes with a probability of "
            f"{entries['floor']:.0%} or more."
        )
    return (
        f"{first} It moves the action of the log's policy towards that of the candidate, by at most {entries['reach']:g} of its "
        f"standard deviations, and keeps {entries['spread']:.0%} of the standard deviation."
    )
