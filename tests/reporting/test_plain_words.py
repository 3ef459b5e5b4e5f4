"""Words that a stranger can read: likelihoods as percentages, what the table of a race means, and what is said once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitchrl.messages import likelier, likelier_between, shown
from stitchrl.reporting.diagnosis import diagnosis_view
from stitchrl.reporting.race_table import round_table


@pytest.mark.parametrize(
    ("nats", "words"),
    [(0.1, "10.5% likelier"), (-0.2, "18.1% less likely"), (0.0, "0.0% likelier"), (3.0, "20.1 times as likely")],
)
def test_a_gain_of_log_likelihood_in_words(nats: float, words: str) -> None:
    assert likelier(nats) == words


def test_the_ends_of_an_interval_in_words() -> None:
    assert likelier_between(-0.01, 0.02) == "1.0% less likely to 2.0% likelier"


def test_a_number_is_shown_with_the_digits_of_its_own_type() -> None:
    assert shown(np.float32(-0.2)) == "-0.2"
    assert shown(np.float64(-0.2)) == "-0.2"
    assert (shown(np.float32(5.4652104)), shown(np.int32(3)), shown(np.float32(np.nan))) == ("5.4652104", "3", "nan")


def row(**changes: Any) -> dict[str, Any]:
    found = {
        "title": "IQL seed 0", "updates": 500, "value": 1.0, "lower": 0.9, "upper": 1.1, "bound": 0.05, "place": 1,
        "healthy": True, "fate": "goes on", "acts": "as trained", "power": None, "floor": None, "why": "",
    }  # fmt: skip
    return found | changes


def test_the_first_table_of_a_race_says_what_its_words_mean() -> None:
    content = {
        "number": 1, "rounds": 2, "updates": 500, "spent": 500, "budget": 900, "go_on": 1,
        "rows": [row(power=3.0, floor=0.05)],
    }  # fmt: skip
    first = round_table(content)
    assert (
        "gain at least: the lower end of the interval of the gain over the log's own policy, as predicted for the test part."
        in first
    )
    assert "ladder 3 from 5%: a policy between the candidate and the log's own." in first
    assert "ladder 3 from 5%: " not in round_table(content | {"number": 2})
    assert "ladder" not in round_table(content | {"rows": [row()]})
    # Over continuous actions a rung is described by other numbers.
    moved = round_table(content | {"rows": [row(reach=0.5, spread=0.8)]})
    assert "IQL seed 0, ladder 0.5 sd with 80% of the noise" in moved
    assert (
        "moves the action of the log's policy towards that of the candidate, by at most 0.5 of its standard dev"
        in moved
    )


def test_what_no_candidate_could_be_looked_at_for_is_said_once() -> None:
    def one(**skipped: str) -> dict[str, Any]:
        return {
            "title": "BC", "worst": None, "meaning": "", "summary": "", "findings": [], "numbers": {}, "skipped": skipped,
        }  # fmt: skip

    both = {"BC": one(a="No newer data."), "IQL": one(a="No newer data.", b="One seed alone.")}
    view = diagnosis_view({"on": "x", "selected": one(), "candidates": both})
    assert view is not None
    assert view["skipped"] == ["No newer data."]
    assert [candidate["skipped"] for candidate in view["candidates"]] == [[], ["One seed alone."]]
