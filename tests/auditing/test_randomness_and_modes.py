"""How random actions look and whether returns have two modes: the estimates, and the words for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import audit_corpus as corpus
import numpy as np
import pytest
from sound_worlds import SOUND_WORLDS
from worlds import schema_of

import stitchrl as st
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Audit
from stitchrl.auditing.randomness import Randomness, randomness
from stitchrl.auditing.return_modes import Modes


def test_randomness_with_masks_by_hand() -> None:
    """One region; action 0 in half of the rows, 1 and 2 in a quarter each. Where 2 is forbidden, 2/3 and 1/3 are left."""
    action = np.tile([0, 1, 0, 2], 300).astype(np.int32)
    mask = np.ones((1200, 3), bool)
    mask[1::4, 2] = False  # forbidden where action 1 is taken
    columns = {
        "episode": np.arange(1200),
        "observation": np.ones((1200, 1), np.float32),
        "action": action,
        "reward": np.arange(1200, dtype=np.float32),
        "terminated": np.ones(1200, bool),
        "action_mask": mask,
    }
    log = st.read(columns, schema_of(columns))
    found = randomness(Facts(log))
    small = 2 / (2 * 1200)  # Miller and Madow
    free = np.exp(1.5 * np.log(2) + small)
    bound = np.exp(np.log(3) - 2 / 3 * np.log(2) + small)
    assert found.effective_actions == pytest.approx(0.75 * free + 0.25 * bound)
    assert found.allowed_actions == 2.75


def test_random_share_of_a_mixed_log() -> None:
    log = corpus.random_torques(corpus.clean_logs()["control"], 0.7)
    assert randomness(Facts(log)).random_share == pytest.approx(0.7, abs=0.15)


def test_two_policies_are_not_taken_for_random_actions() -> None:
    # In a region of many observations their actions look uniform together; at each observation they do not.
    log = SOUND_WORLDS["100 states, two policies by source"](1500, 3)
    found = randomness(Facts(log))
    assert found.random_share == 0.0
    assert not found.proven_mixture


@pytest.mark.parametrize(
    ("numbers", "chance", "said"),
    [
        (
            {"near_deterministic_share": 0.9, "effective_actions": 1.1, "allowed_actions": 3.0},
            0.05,
            "Close to no chance",
        ),
        (
            {"near_deterministic_share": 0.51, "effective_actions": 2.0, "allowed_actions": 3.0},
            0.5,
            "Close to no chance",
        ),
        ({"near_deterministic_share": 0.5, "effective_actions": 2.0, "allowed_actions": 3.0}, 0.5, "Much chance"),
        ({"effective_actions": 1.08, "allowed_actions": 3.0}, 0.04, "Close to no chance"),
        ({"effective_actions": 1.5, "allowed_actions": 3.0}, 0.25, "Some chance"),
        ({"effective_actions": 2.2, "allowed_actions": 3.0}, 0.6, "Much chance"),
        ({"effective_actions": 2.95, "allowed_actions": 3.0}, 0.975, "Close to uniformly random"),
        ({"effective_actions": 1.0, "allowed_actions": 1.0}, 0.0, "Close to no chance"),
        ({"relative_spread": 1.06, "random_share": 0.0}, 1.0, "but not like uniformly random actions"),
        ({"relative_spread": 0.98, "random_share": 1.0}, 0.98, "Close to uniformly random"),
        ({}, None, ""),
    ],
)
def test_randomness_is_put_in_words(numbers: dict[str, float], chance: float | None, said: str) -> None:
    found = Randomness(**numbers)
    assert found.chance == (None if chance is None else pytest.approx(chance))
    assert said in found.meaning
    assert bool(found.meaning) == bool(said)
    assert set(found.explanations) == set(numbers) - {"allowed_actions"}


@pytest.mark.parametrize(
    ("numbers", "said", "proven"),
    [
        ({"random_share": 0.4, "gain": 0.03}, "that is no evidence", False),
        (
            {"random_share": 0.4, "gain": 3.0},
            "such a mixture makes the actions of an episode 20.1 times as likely",
            True,
        ),
        ({"random_share": 0.98, "gain": 3.0}, "look like uniformly random actions", False),
        ({"random_share": 0.0, "gain": 3.0}, "look like uniformly random actions", False),
        ({"random_share": 1.0}, "look like uniformly random actions", False),
    ],
)
def test_a_share_of_random_episodes_needs_evidence(numbers: dict[str, float], said: str, proven: bool) -> None:
    found = Randomness(**numbers)
    assert said in found.explanations["random_share"]
    assert found.proven_mixture is proven
    assert ("follow a policy" in found.explanations["random_share"]) == (numbers["random_share"] == 0.4)


@pytest.mark.parametrize(
    ("change", "distinct"),
    [({}, True), ({"gain": 9.0}, False), ({"separation": 1.9}, False), ({"share": (0.005, 0.995)}, False)],
)
def test_two_modes_are_said_only_beyond_doubt(change: dict[str, Any], distinct: bool) -> None:
    whole = {"share": (0.3, 0.7), "mean": (15.0, 8.0), "spread": (1.0, 1.0), "gain": 50.0, "separation": 7.0}
    modes = Modes(**(whole | change))
    assert modes.distinct is distinct
    assert ("30% of episodes return around 15, the other 70% around 8." in modes.sentence) == distinct
    assert bool(modes.sentence) == distinct


def test_the_words_of_an_audit_go_with_its_numbers(clean_audits: dict[str, Audit]) -> None:
    numbers = clean_audits["control"].to_dict()["numbers"]
    found = Randomness(**{f.name: numbers["randomness"][f.name] for f in dataclasses.fields(Randomness)})
    assert numbers["randomness"]["meaning"] == found.meaning != ""
    assert numbers["randomness"]["explanations"] == found.explanations
    modes = numbers["return_modes"]
    assert (
        modes["sentence"]
        == Modes(
            *(tuple(modes[k]) for k in ("share", "mean", "spread")), modes["bic_gain"], modes["separation"]
        ).sentence
    )
    coverage = numbers["coverage"]
    assert coverage["thin"] == [share < coverage["thin_below"] for share in coverage["row_share"]]
