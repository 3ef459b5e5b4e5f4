"""Faults in a part of a log: probabilities of some actions or states, actions of other rows, codes of other sites, limits."""

from __future__ import annotations

import dataclasses

import audit_corpus as corpus
import exact_worlds
import numpy as np
import pytest
import sound_worlds
from worlds import random_log, schema_of

import stitchrl as st
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.twins import expected_with_twin

BY_NAME = {check.__name__: check for check in CHECKS}
HUNDRED = "tabular, 100 states"


def found(name: str, log: st.Dataset) -> list[Finding]:
    return list(BY_NAME[name](log, Facts(log)))


@pytest.fixture(scope="module")
def tabular() -> st.Dataset:
    """A log of 100 states and 8 actions, some 10,000 rows."""
    return exact_worlds.world_named(HUNDRED).log(1200, 0)


# --- probabilities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word"), [(0.8, "too small"), (1.25, "too large")])
def test_the_actions_whose_probabilities_are_wrong_are_named(tabular: st.Dataset, factor: float, word: str) -> None:
    wrong = (0, 2, 4, 6)
    rows = np.isin(tabular.action, wrong)
    (finding,) = found("propensities_uncalibrated_in_part", corpus.part_scaled(tabular, rows, factor))
    assert (finding.code, finding.severity) == ("propensities-uncalibrated-in-part", "error")
    named = finding.where.removeprefix("behavior_log_prob: action").lstrip("s ")
    assert {int(action) for action in named.split(", ")} <= set(wrong)
    assert len(named.split(", ")) >= 2
    assert word in finding.seen
    assert found("propensities_uncalibrated_in_part", corpus.taken_only(tabular)) == []
    assert found("propensities_uncalibrated_in_part", tabular) == []


def test_lost_weight_is_traced_to_the_probabilities(tabular: st.Dataset) -> None:
    """With all of .8 on half of the actions few effective episodes are left; the finding says how many."""
    (finding,) = found("propensities_uncalibrated_in_part", corpus.half_scaled(tabular, 0.6))
    text = finding.seen.split("leave an effective sample of ")[1]
    effective, episodes = (int(word.replace(",", "")) for word in text.removesuffix(" episodes").split(" of "))
    assert episodes == tabular.num_episodes
    assert effective < 0.1 * episodes


def test_the_states_whose_probabilities_are_wrong_are_named(tabular: st.Dataset) -> None:
    high = tabular.observation[:, 3] >= np.quantile(tabular.observation[:, 3], 0.8)
    (finding,) = found("propensities_uncalibrated_in_part", corpus.part_scaled(tabular, high, 0.75))
    assert "observation[3] at least" in finding.where or "high observation[3]" in finding.where
    assert "action" not in finding.where


def test_one_source_with_wrong_probabilities_is_named(tabular: st.Dataset) -> None:
    second = np.repeat(corpus.some(tabular.num_episodes, 0.3), tabular.episode_lengths)
    log = dataclasses.replace(
        corpus.part_scaled(tabular, second, 0.75), source=np.where(second, "ward b", "ward a").astype(str)
    )
    (finding,) = found("propensities_uncalibrated_in_part", log)
    assert "source ward b" in finding.where
    assert "ward a" not in finding.where


# --- actions of other rows ------------------------------------------------------------------------------------------------


def test_mixed_actions_are_told_from_a_policy_that_nothing_decides(tabular: st.Dataset) -> None:
    plain = corpus.without(tabular, "behavior_probs", "behavior_log_prob")
    assert found("actions_shuffled", plain) == []
    (finding,) = found("actions_shuffled", corpus.mixed_within(tabular, 1.0))
    assert (finding.code, finding.severity) == ("actions-shuffled", "warning")
    assert found("actions_shuffled", random_log(2000, with_masks=False)) == []  # uniform, as in an experiment


def test_one_treatment_an_episode_has_no_order_to_lose() -> None:
    """The treatment is chosen at the start by what is then seen, and kept."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(300, 1))
    seen = 0.7 * first[:, None] + rng.normal(size=(300, 8, 1))
    columns = {
        "episode": np.repeat(np.arange(300), 8),
        "observation": seen.reshape(-1, 1).astype(np.float32),
        "action": np.repeat((first[:, 0] + rng.normal(size=300) > 0.5).astype(np.int32), 8),
        "reward": rng.normal(size=2400).astype(np.float32),
        "terminated": np.tile(np.arange(8) == 7, 300),
    }
    assert found("actions_shuffled", st.read(columns, schema_of(columns, num_actions=2))) == []


# --- codes ----------------------------------------------------------------------------------------------------------------


def test_the_codes_that_two_sites_exchange_are_named(tabular: st.Dataset) -> None:
    log = corpus.codes_by_source(tabular, 3)
    common = [int(a) for a in np.argsort(-np.bincount(tabular.action, minlength=8))[:3]]
    (finding,) = found("action_codes_differ", log)
    assert (finding.code, finding.severity) == ("action-codes-differ", "warning")
    assert finding.where in ("action, source: north", "action, source: south")
    assert finding.seen.startswith("3 codes look exchanged")
    # North wrote the next of the common codes; so its code says what the one before says in the south.
    pairs = {(common[k], common[(k + 1) % 3]) for k in range(3)}
    pairs = pairs if "north" in finding.where else {(b, a) for a, b in pairs}
    assert all(f"{b} like {a}" in finding.seen or f"{a} like {b}" in finding.seen for a, b in pairs)
    assert found("action_codes_differ", corpus.codes_by_source(tabular, 1)) == []


def test_two_sites_may_have_policies_of_their_own() -> None:
    log = sound_worlds.SOUND_WORLDS["12 states, two policies by source"](1000, 3)
    assert found("action_codes_differ", log) == []


# --- ends -----------------------------------------------------------------------------------------------------------------


def steps(lengths: np.ndarray, reward_at_end: bool) -> st.Dataset:
    """Episodes of given lengths that all end terminated; a last reward tells the end where asked for."""
    count = int(lengths.sum())
    last = np.zeros(count, bool)
    last[np.cumsum(lengths) - 1] = True
    rng = np.random.default_rng(0)
    columns = {
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "observation": rng.normal(size=(count, 2)).astype(np.float32),
        "action": rng.integers(0, 2, count).astype(np.int32),
        "reward": (last * reward_at_end).astype(np.float32),
        "terminated": last,
    }
    return st.read(columns, schema_of(columns, num_actions=2))


def test_a_limit_is_asked_about_as_loudly_as_it_deserves() -> None:
    rng = np.random.default_rng(1)
    (fixed,) = found("terminated_at_limit", steps(np.full(200, 12), False))
    assert (fixed.severity, fixed.code) == ("info", "time-limit-as-terminal")
    assert fixed.action.startswith("Does the task end there")
    mixed = np.minimum(rng.geometric(0.1, 400), 12)
    (silent,) = found("terminated_at_limit", steps(mixed, False))
    assert silent.severity == "warning"
    assert "neither the observation nor the reward tells an end" in silent.seen
    (told,) = found("terminated_at_limit", steps(mixed, True))  # a reward marks every end, those at the limit too
    assert told.severity == "info"
    assert found("terminated_at_limit", steps(rng.geometric(0.1, 400), True)) == []


# --- chance ---------------------------------------------------------------------------------------------------------------


def coins(episodes: int, seed: int) -> st.Dataset:
    """Six tosses of a fair coin, nothing else: 64 equally likely episodes."""
    rng = np.random.default_rng(seed)
    columns = {
        "episode": np.repeat(np.arange(episodes), 6),
        "observation": np.ones((6 * episodes, 1), np.float32),
        "action": rng.integers(0, 2, 6 * episodes).astype(np.int32),
        "reward": np.zeros(6 * episodes, np.float32),
        "terminated": np.tile(np.arange(6) == 5, episodes),
    }
    return st.read(columns, schema_of(columns, num_actions=2))


def test_twins_by_chance_are_as_many_as_the_exact_number() -> None:
    # An episode has an equal among 39 others with probability 1 - (63/64)^39.
    exact = 40 * (1 - (63 / 64) ** 39)
    estimates = [expected_with_twin(coins(40, seed), 3) for seed in range(100)]
    assert np.mean(estimates) == pytest.approx(exact, rel=0.1)  # a share of so few episodes is off by chance
    exact = 400 * (1 - (63 / 64) ** 399)
    assert expected_with_twin(coins(400, 0), 3) == pytest.approx(exact, rel=0.01)


def test_copies_are_found_where_chance_makes_twins_too() -> None:
    log = sound_worlds.SOUND_WORLDS["12 states"](1500, 0)
    assert found("duplicated_episodes", log) == []
    (finding,) = found("duplicated_episodes", corpus.copied_episodes(log, 0.1))
    assert finding.severity == "warning"
    assert "chance explains about" in finding.seen
    continuous = corpus.clean_logs()["control"]
    assert expected_with_twin(continuous, 3) == 0.0


# --- sound worlds ---------------------------------------------------------------------------------------------------------

MINE = (
    "propensities_uncalibrated_in_part",
    "actions_shuffled",
    "action_codes_differ",
    "terminated_at_limit",
    "duplicated_episodes",
    "observation_jumps",
    "actions_missing_in_region",
)


def undeserved(world: str, seed: int, names: tuple[str, ...]) -> set[str]:
    log = sound_worlds.SOUND_WORLDS[world](sound_worlds.EPISODES[world], seed)
    facts = Facts(log)
    loud = {f.code for name in names for f in BY_NAME[name](log, facts) if f.severity != "info"}
    return loud - set(sound_worlds.DESERVED.get(world, ()))


@pytest.mark.parametrize("world", ["4 states", "bandit, taken action only", "a cart with a target that is moved"])
def test_a_sound_log_raises_none_of_these(world: str) -> None:
    assert undeserved(world, 7, MINE) == set()


@pytest.mark.slow
@pytest.mark.parametrize("world", sound_worlds.SOUND_WORLDS)
def test_twenty_sound_logs_raise_none_of_these(world: str) -> None:
    alarms = [undeserved(world, seed, MINE) for seed in range(20)]
    assert [found for found in alarms if found] == []
