"""How a verdict's decision is to be shown to a reader: its tone, for colours and signs, and a note to print with it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEANINGS"]

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "GO": {"tone": "good", "note": ""},
    "NO-GO": {"tone": "bad", "note": ""},
    "CANNOT TELL": {
        "tone": "unsure",
        "note": "CANNOT TELL is not NO-GO: the log does not settle the question. A larger test part, logged probabilities, "
        "or a policy closer to the behaviour would narrow the interval.",
    },
}
"""Decision -> its tone (good, bad or unsure), and a sentence that a report says with it, "" where it needs none."""
