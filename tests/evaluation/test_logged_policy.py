"""A policy in columns of the log: the same numbers as the policy itself, row by row, and refusals where it is not known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, cut_at_random, draw, small_log, small_world
from worlds import tiny_columns, tiny_log

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.errors import DataError, EvaluationError, SchemaError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.logged_policy import LoggedPolicy

WEIGHTS = ("is", "pdis", "wis", "pdwis")


def with_columns(log: Dataset, policy: np.ndarray, *, every: bool = True) -> Dataset:
    """The log with the probabilities that a table gives in each row."""
    probs = Table(policy).probs(log.observation).astype(np.float32)
    chosen = np.take_along_axis(probs, log.action[:, None], 1)[:, 0]
    if every:
        return dataclasses.replace(log, policy_probs=probs)
    return dataclasses.replace(log, policy_log_prob=np.log(chosen).astype(np.float32))


def test_columns_of_every_action_give_the_estimates_of_the_policy_itself() -> None:
    _, _, policy = small_world()
    log, names = small_log(31), (*WEIGHTS, "wdr", "fqe")
    itself = st.evaluate(Table(policy), log, estimators=names, settings=QUICK)
    columns = st.evaluate(LoggedPolicy(), with_columns(log, policy), estimators=names, settings=QUICK)
    for name in names:
        assert columns.estimates[name].value == pytest.approx(itself.estimates[name].value, rel=1e-5), name
        assert columns.gain[name].standard_error == pytest.approx(itself.gain[name].standard_error, rel=1e-4), name
    assert columns.agreement is not None
    assert columns.agreement.matrix == pytest.approx(itself.agreement.matrix, rel=1e-5)


def test_with_the_logged_action_alone_weights_go_on_and_the_others_say_why_not() -> None:
    _, _, policy = small_world()
    log = small_log(31)
    itself = st.evaluate(Table(policy), log, estimators=WEIGHTS)
    found = st.evaluate(
        LoggedPolicy(), with_columns(log, policy, every=False), estimators=(*WEIGHTS, "dr", "fqe"), distribution=True
    )
    for name in WEIGHTS:
        assert found.estimates[name].value == pytest.approx(itself.estimates[name].value, rel=1e-5), name
        assert found.gain[name].lower == pytest.approx(itself.gain[name].lower, rel=1e-4), name
    for name in ("dr", "fqe"):
        assert found.estimates[name].value is None
        (reason,) = found.estimates[name].reasons
        assert reason.startswith(f"{name} asks what the policy would do beside the logged action")
        assert "is, pdis, wis and pdwis ask for no more" in reason
    assert found.agreement is None
    assert found.to_dict()["agreement"] is None
    assert found.verdict.decision == "CANNOT TELL"
    assert "\nwis " in str(found)
    assert found.distribution["fqe"].readings == {}


def test_single_decisions_go_on_with_the_logged_action_alone() -> None:
    rng = np.random.default_rng(3)
    action = rng.integers(2, size=400)
    columns = {"observation": np.eye(2)[action * 0], "action": action, "reward": 1.0 * action}
    columns |= {"propensity": np.full(400, 0.5), "policy_log_prob": np.log(np.where(action, 0.9, 0.1))}
    log = st.read(columns, Schema({name: name for name in columns}, num_actions=2, bandit=True, gamma=1.0))
    found = st.evaluate(st.LoggedPolicy(), log)
    weight = np.where(action, 1.8, 0.2)
    assert found.estimates["snips"].value == pytest.approx(weight @ action / weight.sum(), rel=1e-5)
    assert found.estimates["reward-dr"].value is None
    assert "ips and snips ask for no more" in found.estimates["reward-dr"].reasons[0]
    assert found.verdict.primary == "snips"


def test_rows_and_not_observations_tell_the_probabilities() -> None:
    """Every observation is the same; a policy that alternates is known by its rows alone."""
    steps, episodes = 4, 50
    count = steps * episodes
    rng = np.random.default_rng(5)
    action, turn = rng.integers(2, size=count), np.tile([0, 1, 0, 1], episodes)
    probs = np.where(turn[:, None] == np.arange(2), 0.8, 0.2)
    columns = {
        "episode": np.repeat(np.arange(episodes), steps),
        "step": np.tile(np.arange(steps), episodes),
        "observation": np.zeros((count, 1), np.float32),
        "action": action,
        "reward": (action == turn) * 1.0,
        "terminated": np.tile([False] * (steps - 1) + [True], episodes),
        "behavior_probs": np.full((count, 2), 0.5),
        "policy_probs": probs,
    }
    order = rng.permutation(count)
    log = st.read(
        {name: values[order] for name, values in columns.items()}, Schema({n: n for n in columns}, num_actions=2)
    )
    found = st.evaluate(LoggedPolicy(), log, gamma=1.0, estimators=("is",), horizon=2)
    # By hand: the weight of the first two steps of an episode times the rewards there.
    hit = (action == turn).reshape(episodes, steps)[:, :2]
    weight = np.where(hit, 1.6, 0.4).prod(1)
    assert found.estimates["is"].value == pytest.approx(float((weight * hit.sum(1)).mean()), rel=1e-5)
    half = log.select_episodes(np.arange(episodes)[::-2])
    kept = LoggedPolicy().probs_on(half)
    same = half.position % 2
    np.testing.assert_allclose(kept[np.arange(len(kept)), same], 0.8, rtol=1e-6)


def test_a_logged_policy_is_never_asked_at_an_observation_without_a_row() -> None:
    world, behavior, policy = small_world()
    log = cut_at_random(draw(world, behavior, 300, 4), 0.3, 4)
    cut = ~log.continues & ~log.terminated & (log.next_observation_index >= 0)
    assert cut.any()
    known = with_columns(log, policy)
    fits = Fits([LoggedPolicy()], known, None, estimand=Estimand(1.0), settings=QUICK)
    assert not fits.log.can_bootstrap[cut].any()
    assert fits.log.can_bootstrap[~cut].all()
    following = fits.next_choices(0)
    np.testing.assert_allclose(following[known.continues], known.policy_probs[np.flatnonzero(known.continues) + 1])
    found = st.evaluate(LoggedPolicy(), known, estimators=("wis",))
    assert any(f"At {cut.sum():,} cuts the log has the next observation" in one for one in found.verdict.caveats)
    with pytest.raises(EvaluationError, match="belong to the rows of a log"):
        LoggedPolicy().probs(log.observation)


def test_continuous_actions_have_densities_in_a_column() -> None:
    rng = np.random.default_rng(8)
    action = rng.normal(size=(300, 1)).astype(np.float32)
    given = -0.5 * (action[:, 0] - 0.5) ** 2 - 0.5 * np.log(2 * np.pi)
    own = -0.5 * action[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    columns = {"episode": np.arange(300), "observation": np.zeros((300, 1), np.float32), "action": action}
    columns |= {"reward": action[:, 0], "terminated": np.ones(300, bool), "behavior_log_prob": own}
    columns |= {"policy_log_prob": given}
    log = st.read(columns, Schema({name: name for name in columns}, gamma=1.0))
    found = st.evaluate(LoggedPolicy(), log, estimators=("is", "wis", "lstdq"), record_look=True)
    weight = np.exp(given - own)
    assert found.estimates["is"].value == pytest.approx(float((weight * action[:, 0]).mean()), rel=1e-4)
    assert "density of that one alone" in found.estimates["lstdq"].reasons[0]
    assert found.agreement is None


# --- what is checked ---------------------------------------------------------------------------------------------


def spoilt(**columns: np.ndarray) -> Dataset:
    return dataclasses.replace(tiny_log(), **columns)


def third(row: list[float]) -> np.ndarray:
    return np.array([[0.2, 0.3, 0.5]] * 2 + [row] + [[0.2, 0.3, 0.5]] * 3, np.float32)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"policy_probs": third([0.2, 0.3, 0.6])}, "row 2 sums to 1.1 "),
        ({"policy_probs": third([-0.2, 0.7, 0.5])}, "row 2 sums to 1 with minimum -0.2"),
        ({"policy_probs": third([np.nan, 0.5, 0.5])}, "row 2 sums to nan"),
        ({"policy_probs": np.full((6, 2), 0.5)}, r"one column for each of the 3 actions; got shape \(6, 2\)"),
        (
            {"policy_probs": third([0.2, 0.3, 0.5]), "action_mask": third([1, 1, 0]) > 0},
            "row 2 gives one of them 0.5",
        ),
        ({"policy_log_prob": np.array([-1, -1, -1, 0.5, -1, -1])}, "at most 0, being the logarithm.*row 3 has 0.5"),
        ({"policy_log_prob": np.array([-1, -1, -1, np.nan, -1, -1])}, "row 3 has nan"),
        ({}, "has neither `policy_probs` nor `policy_log_prob`"),
    ],
)
def test_columns_that_are_no_probabilities_are_refused(columns: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        LoggedPolicy().log_prob_on(spoilt(**columns))


def test_columns_that_contradict_each_other_are_refused() -> None:
    probs, log = third([0.2, 0.3, 0.5]), tiny_log()
    right = np.log(np.take_along_axis(probs, log.action[:, None], 1)[:, 0])
    both = spoilt(policy_probs=probs, policy_log_prob=right)
    np.testing.assert_allclose(LoggedPolicy().log_prob_on(both), right)
    wrong = right.copy()
    wrong[4] -= 0.1
    with pytest.raises(EvaluationError, match="must agree; in row 4"):
        LoggedPolicy().log_prob_on(spoilt(policy_probs=probs, policy_log_prob=wrong))


# --- reading -----------------------------------------------------------------------------------------------------


def test_they_are_read_by_name_and_survive_conversions(tmp_path) -> None:
    columns = tiny_columns()
    roles = {name: name for name in columns}
    columns |= {"p_a": np.full(6, 0.2), "p_b": np.full(6, 0.3), "p_c": np.full(6, 0.5), "lp": np.full(6, -np.inf)}
    schema = Schema(roles | {"policy_log_prob": "lp"}, num_actions=3)
    beside = {"policy_probs": ("p_a", "p_b", "p_c")}
    log = st.read(columns, schema, beside=beside)
    np.testing.assert_allclose(log.policy_probs, [[0.2, 0.3, 0.5]] * 6)
    assert log.policy_log_prob is None  # it is of another policy
    assert st.read(columns, schema).policy_log_prob.tolist() == [-np.inf] * 6
    assert st.read(columns, schema, beside={"policy_log_prob": ["lp"]}).policy_log_prob.tolist() == [-np.inf] * 6
    whole = Schema(roles | beside, num_actions=3)
    for target in ("log.parquet", "log"):
        again = st.read(st.convert(columns, tmp_path / target, schema=whole))
        np.testing.assert_array_equal(again.policy_probs, log.policy_probs)
    assert (
        log.bare().content_hash
        == st.read(tiny_columns(), Schema({n: n for n in tiny_columns()}, num_actions=3)).content_hash
    )
    assert log.content_hash != log.bare().content_hash
    assert log.concat(log).policy_probs.shape == (12, 3)
    columns |= {"taken": np.array([0, 2, 1, 1, 0, 2]), "named": np.array(["a", "c", "b", "b", "a", "c"])}
    certain = np.eye(3)[columns["taken"]]
    one = {"policy_probs": ["taken"]}
    np.testing.assert_array_equal(st.read(columns, schema, beside=one).policy_probs, certain)
    with_lists = columns | {"taken": certain}
    np.testing.assert_array_equal(st.read(with_lists, schema, beside=one).policy_probs, certain)
    words = columns | {"action": np.array(["a", "b", "c"])[columns["action"]]}
    named = Schema(roles, num_actions=3, action_categories=("a", "b", "c"))
    np.testing.assert_array_equal(st.read(words, named, beside={"policy_probs": ["named"]}).policy_probs, certain)
    with pytest.raises(
        DataError, match=r"must be an integer from 0 to 2; got 3 in row 4.* A single column of a policy"
    ):
        st.read(columns | {"taken": np.array([0, 2, 1, 1, 3, 2])}, schema, beside=one)
    with pytest.raises(SchemaError, match="policy_probs is in column 'p_d'"):
        st.read(columns, schema, beside={"policy_probs": ("p_a", "p_b", "p_d")})
    with pytest.raises(DataError, match="policy_probs of the dict must be at least 0 and sum to 1 in every row; row 0"):
        st.read(columns | {"p_c": np.full(6, 0.4)}, schema, beside=beside)
    with pytest.raises(DataError, match=r"policy_log_prob.* must be finite; found NaN in row 0"):
        st.read(columns | {"lp": np.full(6, np.nan)}, schema)
