"""The gain in groups of episodes: exact in an exact world, adding up to the whole, and a veto where one group loses."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, sized, small_log, small_world

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.group_gains import simultaneous_reach
from stitchrl.evaluation.groups import first_labels, groups_of
from stitchrl.mdp.finite import FiniteMDP


def by_first_state(log: Dataset) -> Dataset:
    """The log with a column "start" that tells the state in which each episode begins, and nothing of later rows."""
    state = np.asarray(log.observation_id)
    labels = np.where(log.position == 0, np.where(state == 0, "a", np.where(state == 1, "b", "c")), "later")
    return with_subgroup(log, labels)


def with_subgroup(log: Dataset, labels: np.ndarray) -> Dataset:
    columns = dict(log.schema.columns) | {"subgroup": ("start",)}
    return dataclasses.replace(
        log, subgroup=labels.astype(str)[:, None], schema=dataclasses.replace(log.schema, columns=columns)
    )


@functools.cache
def fork() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Two kinds of episodes that never meet, two steps each: the policy's action 1 helps one kind and harms the other.

    Kind a (80% of episodes) starts in state 0 and goes on in state 1; kind b in 2 and 3. Each step pays 1 by chance:
    .4 with action 0; with action 1 .7 in kind a, and .1 in kind b. The behaviour takes either action half of the time.
    """
    transition = np.zeros((5, 2, 5))
    reward = np.zeros((5, 2, 5))
    for first, second, helped in ((0, 1, 0.7), (2, 3, 0.1)):
        transition[first, :, second] = transition[second, :, 4] = 1.0
        reward[first, :, second] = reward[second, :, 4] = (0.4, helped)
    transition[4, :, 4] = 1.0
    reward[4] = 0.0
    world = FiniteMDP(transition, reward, np.array([0.8, 0, 0.2, 0, 0]), np.arange(5) == 4)
    return world, np.full((5, 2), 0.5), np.tile([0.2, 0.8], (5, 1))


def fork_log(seed: int, rows: int = 3200) -> Dataset:
    """A log of the fork whose rewards are 0 or 1, each with the chance that the world gives as its mean."""
    world, behavior, _ = fork()
    log = sized(draw(world, behavior, rows // 2 + 8, seed, last=False), rows)
    rng = np.random.default_rng(seed + 1000)
    drawn = (rng.random(log.num_transitions) < log.reward).astype(np.float32)
    labels = np.where(np.asarray(log.observation_id) < 2, "a", "b")
    return with_subgroup(dataclasses.replace(log, reward=drawn), labels)


def asked(log: Dataset, other: Dataset | None, policy: np.ndarray, **more) -> Evaluation:
    settings = {"fit_on": other, "settings": QUICK, "groups": "start"} | more
    return evaluate(Table(policy), log, audit_verdict="usable", **settings)


@pytest.mark.parametrize("estimator", ["fqe", "wdr"])
def test_gains_in_groups_are_near_the_exact_ones(estimator: str) -> None:
    world, behavior, policy = small_world()
    log, other = by_first_state(small_log(11)), by_first_state(small_log(12))
    found = asked(log, other, policy, estimators=(estimator,))
    assert found.groups is not None
    assert [gain.label for gain in found.groups.gains] == ["a", "b", "c"]
    values = [world.state_values(table) for table in (policy, behavior)]
    for gain, states in zip(found.groups.gains, ((0,), (1,), (2, 3)), strict=True):
        of, base = (value[list(states)].mean() for value in values)
        assert gain.standard_error is not None
        assert abs(gain.value - (of - base)) < 4 * gain.standard_error, gain
        assert gain.units == int((first_labels(log, "start") == gain.label).sum())


@pytest.mark.parametrize("cross_fitted", [False, True])
def test_groups_add_up_to_the_whole_whatever_the_estimator(cross_fitted: bool) -> None:
    _, _, policy = small_world()
    log, other = by_first_state(small_log(11)), by_first_state(small_log(12))
    found = asked(log, None if cross_fitted else other, policy, estimators=("fqe",))
    assert found.groups is not None
    share = np.array([gain.units for gain in found.groups.gains]) / log.num_episodes
    assert found.gain["fqe"].value == pytest.approx(share @ [gain.value for gain in found.groups.gains], abs=1e-9)


def test_an_estimate_by_weights_in_a_group_is_that_of_its_episodes_alone() -> None:
    _, _, policy = small_world()
    log, other = by_first_state(small_log(11)), by_first_state(small_log(12))
    found = asked(log, other, policy, estimators=("wdr",))
    alone = asked(log.select_episodes(first_labels(log, "start") == "a"), other, policy, estimators=("wdr",), groups=())
    assert found.groups is not None
    gain = found.groups.gains[0]
    assert gain.value == pytest.approx(alone.gain["wdr"].value, abs=1e-4)  # Q on other rows is rounded otherwise
    assert gain.standard_error == pytest.approx(alone.gain["wdr"].standard_error, rel=1e-3)


def test_a_group_that_loses_forbids_go_and_is_named() -> None:
    world, behavior, policy = fork()
    log, other = fork_log(1), fork_log(2)
    assert world.policy_value(policy) > world.policy_value(behavior) + 0.05
    free = asked(log, other, policy, groups=())
    assert free.verdict.decision == "GO"
    assert [line.key for line in free.verdict.lines] == list("abcde")
    found = asked(log, other, policy)
    assert found.groups is not None
    assert {gain.label: gain.state for gain in found.groups.gains} == {"a": "above", "b": "below"}
    assert found.verdict.decision == "CANNOT TELL"
    assert [line.key for line in found.verdict.lines if line.passed is False] == ["f"]
    assert "line (f) failed, for start = b the gain lies wholly below 0" in found.verdict.headline
    # The exact gains, .18 and -.18, lie in the intervals.
    for gain, exact in zip(found.groups.gains, (0.18, -0.18), strict=True):
        assert gain.lower < exact < gain.upper


def test_a_group_that_is_too_small_is_said_to_be_and_decides_nothing() -> None:
    _, _, policy = fork()
    log, other = fork_log(1), fork_log(2)
    labels = first_labels(log, "start")
    few = np.flatnonzero(labels == "b")[:99]
    log = log.select_episodes(np.concatenate([np.flatnonzero(labels == "a"), few]))
    found = asked(log, other, policy, estimators=("wdr",))
    assert found.groups is not None
    small = found.groups.gains[1]
    assert small.state == "too few"
    assert small.sentence(0.0) == "For start = b there are too few to judge: 99 episodes, and 100 are needed."
    line = found.verdict.lines[-1]
    assert (line.key, line.passed) == ("f", True)


def test_a_group_that_the_observation_does_not_explain_is_not_judged() -> None:
    """The policy loses for half of the episodes and wins for the others, and only a column beside the observation tells which."""
    _, _, policy = fork()

    def hidden(seed: int, winners: float = 0.5) -> Dataset:
        log = fork_log(seed)
        kind = np.repeat(np.random.default_rng(seed).random(log.num_episodes) < winners, log.episode_lengths)
        reward = np.where(kind, log.action, 1.0 - log.action).astype(np.float32)
        return with_subgroup(dataclasses.replace(log, reward=reward), np.where(kind, "wins", "loses"))

    found = asked(hidden(1), hidden(2), policy, estimators=("fqe",))
    assert found.groups is not None
    for gain in found.groups.gains:
        assert gain.state == "not judged"
        assert "do not explain the outcomes" in " ".join(gain.reasons)
    # What there is lies wholly below 0 for those who lose: it is no proof, and no GO either.
    assert found.verdict.lines[-1].passed is False
    mostly = asked(hidden(1, 0.65), hidden(2, 0.65), policy, estimators=("fqe",))
    assert [line.key for line in mostly.verdict.lines if line.passed is False] == ["f"]
    assert mostly.verdict.decision == "CANNOT TELL"
    # Weights need no observation to explain anything.
    by_weights = asked(hidden(1), hidden(2), policy, estimators=("wdr",))
    assert by_weights.groups is not None
    assert {gain.label: gain.state for gain in by_weights.groups.gains} == {"loses": "below", "wins": "above"}


def test_the_reach_of_many_independent_groups_is_that_of_their_largest_deviation() -> None:
    """Exact: P(max of G independent |z| <= c) = (2 Phi(c) - 1)^G."""
    from scipy import stats

    influence = np.random.default_rng(0).normal(size=(20_000, 10))
    exact = float(stats.norm.ppf((1 + 0.95 ** (1 / 10)) / 2))
    assert simultaneous_reach(influence, 0.95) == pytest.approx(exact, abs=0.03)
    same = np.repeat(influence[:, :1], 10, axis=1)
    assert simultaneous_reach(same, 0.95) == pytest.approx(1.96, abs=0.02)
    assert simultaneous_reach(influence[:, :1], 0.95) == pytest.approx(1.96, abs=0.002)


def test_groups_are_told_by_columns_of_the_log_or_refused_with_a_way_out() -> None:
    log = small_log(11)
    numbers = np.arange(log.num_transitions)
    with pytest.raises(ConfigurationError, match="there is no 'sex' among"):
        groups_of(log, "sex")
    with pytest.raises(ConfigurationError, match=r"at most 20 different values .*'start' has \d"):
        groups_of(with_subgroup(log, numbers), "start")
    found = groups_of(log, ["observation[0]"])
    assert found is not None
    assert found.named == (("observation[0]", "0"), ("observation[0]", "1"))
    np.testing.assert_array_equal(found.members(log)[:, 1], log.observation[log.episode_start[:-1], 0])
    assert groups_of(log, ()) is None


@pytest.mark.slow
def test_no_more_than_one_in_forty_logs_gives_a_false_veto() -> None:
    """Four groups in each of which the policy is worth exactly as much as the behaviour: a veto is false."""
    world, behavior, _ = fork()
    policy = np.tile([0.2, 0.8], (5, 1))
    even = dataclasses.replace(world, reward=np.where(world.reward > 0, 0.4, 0.0))
    vetoes, replicates = 0, 200
    for seed in range(replicates):
        log = sized(draw(even, behavior, 1608, seed, last=False), 3200)
        rng = np.random.default_rng(seed + 5000)
        log = dataclasses.replace(log, reward=(rng.random(log.num_transitions) < 0.4).astype(np.float32))
        kind = np.repeat(rng.integers(0, 4, log.num_episodes), log.episode_lengths)
        found = asked(with_subgroup(log, kind), None, policy, estimators=("fqe",))
        assert found.groups is not None
        assert len(found.groups.gains) == 4
        vetoes += any(gain.state == "below" for gain in found.groups.gains)
    assert vetoes <= 11  # 5 are expected at most; more than 11 have a chance below 1%
