"""Ranking of episodes: exact against fits without the episode, planted harm near the top, and nothing to drop in sound logs."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import planted_episodes as planted
import pytest
from evaluation_worlds import corridor, draw, small_world
from planted_episodes import HARMS, recall, vector_log

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.evaluation.drop_curve import drop_curve, halves_of
from stitchrl.evaluation.episode_reasons import _of_actions as of_actions
from stitchrl.evaluation.episode_scores import score_episodes
from stitchrl.evaluation.leave_one_out import LinearFit
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.evaluation.log_models import ACTIONS, OBSERVATIONS, VALUES, fit_models, fit_values


def with_all(log: Dataset, column: str, value: float) -> Dataset:
    return dataclasses.replace(log, **{column: np.full_like(getattr(log, column), value)})


def tabular(seed: int = 0) -> Dataset:
    world, behavior, _ = small_world()
    return draw(world, behavior, 60, seed).compact()


def long_episodes() -> Dataset:
    world, behavior, _ = corridor()
    return draw(world, behavior, 12, 3, max_steps=40).compact()


LOGS = {
    "numbered states": tabular,
    "episodes longer than features": long_episodes,
    "vectors, some cut": lambda: vector_log(24, cut=0.4),
    "vectors, numbered actions": lambda: vector_log(24, actions=5),
}


def refitted(fit: LinearFit, left_out: slice) -> np.ndarray:
    """The solution without some rows, from dense arrays and by another solver."""
    instruments, features = (
        np.asarray(m.todense() if hasattr(m, "todense") else m) for m in (fit.instruments, fit.features)
    )
    keep = np.ones(len(fit.target), bool)
    keep[left_out] = False
    u, w, y = instruments[keep], features[keep], fit.target[keep]
    return np.linalg.lstsq(u.T @ w + fit.ridge * np.eye(u.shape[1]), u.T @ y, rcond=None)[0]


@pytest.mark.parametrize("name", LOGS)
def test_leaving_out_an_episode_is_a_fit_without_its_rows(name: str) -> None:
    log = LOGS[name]()
    features = LogFeatures.of(log)
    models = fit_models(log, features, 0.9)
    assert [model.name for model in models] == [VALUES, ACTIONS, OBSERVATIONS]
    for model in models:
        fit, states = model.fit, np.asarray(model.states.todense() if features.numbered else model.states)
        direction = states[log.episode_start[:-1]].mean(0)
        found = fit.influence(model.states, direction)
        for k in range(0, log.num_episodes, 5):
            rows = slice(*log.episode_start[k : k + 2].tolist())
            change = fit.theta - refitted(fit, rows)
            np.testing.assert_allclose(found.moved[k], ((states @ change) ** 2).sum(1).mean(), rtol=1e-6, atol=1e-12)
            np.testing.assert_allclose(found.readout[k], direction @ change[:, 0], rtol=1e-6, atol=1e-10)
            np.testing.assert_allclose(found.first[k], states[rows.start] @ change[:, 0], rtol=1e-6, atol=1e-9)
            missed = fit.residual(refitted(fit, rows))[rows]
            np.testing.assert_allclose(found.held_out[rows], missed, rtol=1e-6, atol=1e-8)


def test_the_value_without_an_episode_is_that_of_a_log_without_it() -> None:
    log = tabular(1)
    features = LogFeatures.of(log)
    scores = score_episodes(log, features, 0.9)
    for k in (0, 7, 31):
        rest = log.select_episodes(np.delete(np.arange(log.num_episodes), k))
        # What every value starts from, and the ridge, are held: they hardly matter, but the comparison is exact.
        there = fit_values(rest, features, 0.9, scores.values.base)
        fit = dataclasses.replace(there.fit, ridge=scores.values.fit.ridge)
        alone = float((there.states[rest.episode_start[:-1]] @ fit.theta).mean() + there.base[0])
        assert abs(scores.value_without[k] - alone) < 1e-10
    assert np.ptp(scores.value_without) > 1e-3


def test_the_value_of_a_log_whose_episodes_end_is_near_its_mean_return_and_as_uncertain() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 400, 2).compact()
    features = LogFeatures.of(log)
    scores = score_episodes(log, features, 0.9)
    (whole, less) = drop_curve(
        log, features, scores, [5], by="harm", halves=halves_of(log, 0), gamma=0.9, confidence=0.95
    )
    returns = log.episode_returns(0.9)
    rest = np.delete(returns, scores.order("harm")[:5])
    for found, expected in ((whole, returns), (less, rest)):
        error = expected.std(ddof=1) / np.sqrt(len(expected))
        assert abs(found.value - expected.mean()) < 0.3 * error
        assert (
            0.75 < (found.upper - found.lower) / (2 * 1.966 * error) < 1.1
        )  # what the states foretell is no error twice
    assert whole.errors == ()
    assert [one.model for one in less.errors] == [VALUES, ACTIONS, OBSERVATIONS]


LEAST_RECALL = {
    "rewards of the other sign": 1.0,
    "actions of other rows": 0.8,
    "rewards of another unit": 1.0,
    "a column of another unit": 1.0,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("actions", [None, 5], ids=["vectors", "numbers"])
def test_planted_harm_is_near_the_top(harm: str, actions: int | None) -> None:
    plant, share = HARMS[harm]
    log, harmed = plant(vector_log(actions=actions), max(share, 0.01), 1)
    found = st.rank_episodes(log, drops=())
    assert recall(found.order, log, harmed) >= LEAST_RECALL[harm]  # by chance .01 to .02
    assert len(found.apart) >= 2
    assert set(found.apart[:2]) <= set(log.episode_id[harmed].tolist())
    assert found.worst[0].episode in log.episode_id[harmed]


def test_dropping_is_recommended_where_episodes_held_out_are_foretold_better_without() -> None:
    log, harmed = HARMS["rewards of another unit"][0](vector_log(), 0.01, 1)
    found = st.rank_episodes(log)
    names = set(log.episode_id[harmed].tolist())
    assert 0 < found.recommended <= len(names)
    assert set(found.drop_list()) <= names
    assert "falls by" in found.headline
    assert "its reward 1" in found.worst[0].reason
    again = st.rank_episodes(log.without_episodes(names))
    assert again.recommended == 0
    assert again.apart == ()


@pytest.mark.parametrize("actions", [None, 5])
def test_a_sound_log_gives_nothing_to_drop(actions: int | None) -> None:
    for seed in (11, 12):
        log = vector_log(200, seed, actions=actions)
        before = log.content_hash
        found = st.rank_episodes(log)
        assert found.apart == ()
        assert found.recommended == 0
        assert found.drop_list() == []
        assert found.headline.endswith("there is nothing to drop.")
        assert found.warning.startswith("Nothing was dropped.")
        assert dataclasses.replace(log).content_hash == before
        assert log.num_episodes == len(found.order)


def test_rare_true_rewards_stand_apart_but_are_not_recommended_for_dropping() -> None:
    log = vector_log()
    reward, rare = np.zeros_like(log.reward), np.random.default_rng(0).choice(300, 4, replace=False)
    reward[log.episode_start[rare + 1] - 1] = 1.0
    found = st.rank_episodes(dataclasses.replace(log, reward=reward), gamma=1.0)
    assert set(found.apart) == set(log.episode_id[rare].tolist())
    assert found.recommended == 0
    assert "errors of the data or rare truth" in found.headline


def test_propensities_groups_and_orders() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 200, 4)
    assert log.behavior_probs is not None
    without = dataclasses.replace(log, behavior_probs=None, behavior_log_prob=None)
    assert st.rank_episodes(log).to_dict() == st.rank_episodes(without).to_dict()
    pairs = np.arange(200) // 2
    first, second = halves_of(dataclasses.replace(log, group=pairs), 0)
    assert not set(pairs[first]) & set(pairs[second])
    by_value = st.rank_episodes(log, by="value", drops=(3,))
    moves = np.array([abs(one.value_change) for one in by_value.worst])
    assert (np.diff(moves) <= 0).all()
    assert by_value.recommended == 0
    assert "no fault" in by_value.headline
    by_fit = st.rank_episodes(log, by="fit", drops=(3,), shown=200)
    pulls = np.array([one.pull for one in by_fit.worst])
    assert (np.diff(pulls) <= 0).all()
    assert abs(pulls.mean() - 1) < 1e-9


def test_a_world_without_chance_has_no_tail_and_still_shows_the_odd_one() -> None:
    log = with_all(vector_log(), "reward", 0.0)
    assert st.rank_episodes(log, drops=()).apart == ()
    reward = log.reward.copy()
    reward[log.episode_start[7]] = 3.0
    found = st.rank_episodes(dataclasses.replace(log, reward=reward), drops=())
    assert found.order[0] == log.episode_id[7]
    assert 7 in found.apart
    assert found.worst[0].reason.startswith("its reward 3 at step 0 lies outside the 0 to 0 of ordinary")


@pytest.mark.parametrize(
    ("log", "given", "sentence"),
    [
        (lambda: vector_log(24), {"by": "luck"}, "`by` must be one of harm, value, fit; got 'luck'."),
        (lambda: vector_log(24), {"drops": [12]}, "from 1 to 11, below half of the episodes; got 12."),
        (lambda: vector_log(24), {"drops": [0]}, "got 0."),
        (lambda: vector_log(24), {"drops": [True]}, "got True."),
        (lambda: vector_log(24), {"gamma": 1.5}, "`gamma` must be from 0 to 1; got 1.5."),
        (lambda: vector_log(24), {"shown": 0}, "`shown` must be at least 1"),
        (lambda: vector_log(24).head(19), {}, "needs at least 20; this log has 19."),
        (lambda: with_all(vector_log(24), "reward", np.nan), {}, "rewards of this log are missing or infinite"),
        (lambda: with_all(vector_log(24), "observation_table", np.inf), {}, "have missing or infinite numbers"),
        (
            lambda: dataclasses.replace(vector_log(24), terminated=np.zeros(vector_log(24).num_transitions, bool)),
            {"gamma": 1.0},
            "No episode of this log ends",
        ),
        (
            lambda: dataclasses.replace(
                vector_log(24), observation_table=np.zeros((len(vector_log(24).observation_table), 2, 2, 1), np.uint8)
            ),
            {},
            r"images of shape \(2, 2, 1\)",
        ),
    ],
)
def test_bad_input_is_one_sentence(log: object, given: dict[str, object], sentence: str) -> None:
    with pytest.raises((ConfigurationError, DataError), match=sentence):
        st.rank_episodes(log(), **given)


def test_a_drop_list_is_asked_for_by_number() -> None:
    found = st.rank_episodes(vector_log(24), drops=())
    assert found.drop_list(3) == list(found.order[:3])
    assert found.drop_list() == []
    for wrong in (-1, 24, True):
        with pytest.raises(ConfigurationError, match="holds 0 to 23 of the 24 episodes"):
            found.drop_list(wrong)
    assert str(found).splitlines()[0] == found.headline
    assert planted.recall(found.order, vector_log(24), np.arange(24) >= 0) == 1.0


def test_long_episodes_take_no_memory_of_their_square() -> None:
    """Episodes of 3,000 rows: products of all pairs of their rows would take 72 MB an episode."""
    rng = np.random.default_rng(0)
    x, start = rng.normal(size=(9_000, 6)), np.arange(4) * 3_000
    fit = LinearFit(x, x, rng.normal(size=(9_000, 1)), start, 1.0)
    tracemalloc.start()
    try:
        found = fit.influence(x)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    without = dataclasses.replace(fit, instruments=x[3_000:], features=x[3_000:], target=fit.target[3_000:]).theta
    moved = ((x @ (fit.theta - without)) ** 2).mean()
    np.testing.assert_allclose(found.moved[0], moved, rtol=1e-6)


def test_a_reason_counts_rare_actions_only_where_there_are_any() -> None:
    log = vector_log(4, actions=5)
    rows = slice(int(log.episode_start[0]), int(log.episode_start[1]))
    taken = log.action[rows].astype(int)
    missed = np.full((len(taken), 5), 0.9)  # each logged action has a probability of 0.1 by the others
    missed[0, taken[0]] = 0.92
    said = of_actions(log, missed, rows, 0)
    assert said.endswith(f"least of all {taken[0]} at step 0 (8.0%)")
    missed[0, taken[0]] = 0.97
    said = of_actions(log, missed, rows, 0)
    assert said.startswith(f"1 of its {len(taken)} actions has less than 5% probability")
    assert said.endswith(f"such as {taken[0]} at step 0 (3.0%)")
