"""`st.evaluate` on exact worlds: near the truth, paired, cross-fitted, honest about cuts, groups and missing support."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from evaluation_worlds import (
    OF_EPISODES,
    QUICK,
    Table,
    cut_at_random,
    draw,
    sized,
    small_log,
    small_world,
    without_propensities,
)

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation import refit as refit_module
from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.estimator import Draft
from stitchrl.evaluation.evaluate import evaluate, evaluate_all
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.registry import DEFAULT, ESTIMATORS
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.verdict import Verdict
from stitchrl.mdp.finite import FiniteMDP

WITHOUT_Q = ("is", "pdis", "wis", "pdwis")


def cut_log(seed: int) -> Dataset:
    world, behavior, _ = small_world()
    return sized(cut_at_random(draw(world, behavior, 1500, seed), 0.25, seed))


def assert_near(estimates: dict[str, Estimate], truth: float, errors: float = 4.0) -> None:
    for name, estimate in estimates.items():
        assert estimate.value is not None
        assert estimate.standard_error is not None
        assert abs(estimate.value - truth) < errors * estimate.standard_error, name


@pytest.mark.slow
def test_cut_episodes_do_not_move_the_estimates() -> None:
    world, behavior, policy = small_world()
    truth, own = world.policy_value(policy), world.policy_value(behavior)
    found = evaluate(Table(policy), cut_log(21), estimators=OF_EPISODES, fit_on=cut_log(22), settings=QUICK)
    assert_near(found.estimates, truth)
    # Many episodes, and no fits: what the reader of raw returns would have believed is far off.
    log = cut_at_random(draw(world, behavior, 6000, 21), 0.25, 0)
    assert log.truncated.sum() > 1000
    found = evaluate(Table(policy), log, estimators=WITHOUT_Q)
    assert_near(found.estimates, truth)
    assert_near({"logged": found.behavior}, own)
    assert found.behavior.standard_error is not None
    assert abs(log.episode_returns().mean() - own) > 8 * found.behavior.standard_error


def test_the_behaviour_itself_gains_nothing_where_episodes_are_cut() -> None:
    _, behavior, _ = small_world()
    found = evaluate(Table(behavior), cut_log(23), fit_on=cut_log(22), settings=QUICK)
    for name, gain in found.gain.items():
        assert gain.lower is not None
        assert gain.upper is not None
        assert gain.lower <= 0.005, name
        assert gain.upper >= -0.005, name
    assert found.verdict.decision != "GO"


def test_where_all_are_cut_weights_claim_nothing_and_a_fitted_value_goes_on() -> None:
    """Episodes that still run after three steps are cut: weights end there, while a fitted Q bootstraps on both sides."""
    world, behavior, policy = small_world()
    log = sized(draw(world, behavior, 1500, 24, max_steps=3))
    found = evaluate(Table(policy), log, fit_on=cut_log(22), settings=QUICK, estimators=("wis", "wdr", "fqe"))
    for name in ("wis", "wdr"):
        assert not found.gain[name].healthy
        assert "With `horizon` at most 3 no weight is lost" in " ".join(found.gain[name].reasons)
    gain, truth = found.gain["fqe"], world.policy_value(policy) - world.policy_value(behavior)
    assert gain.lower is not None
    assert gain.upper is not None
    assert gain.lower < truth < gain.upper
    # The logged returns of three steps would have been another quantity.
    assert abs(log.episode_returns().mean() - world.policy_value(behavior)) > 3 * found.behavior.standard_error


def test_a_policy_that_starts_where_the_log_never_went_is_unhealthy() -> None:
    """The log always takes action 0 first; later it tries both. The policy takes action 1 first."""
    transition = np.zeros((5, 2, 5))
    transition[0, :, 1] = transition[1, :, 2] = transition[2, :, 4] = transition[3, :, 4] = transition[4, :, 4] = 1.0
    reward = np.zeros((5, 2, 5))
    reward[1, 1, 2] = reward[2, 1, 4] = 1.0
    world = FiniteMDP(transition, reward, np.array([1.0, 0, 0, 0, 0]), np.arange(5) == 4)
    behavior, policy = np.full((5, 2), 0.5), np.tile([0.0, 1.0], (5, 1))
    behavior[0] = 1.0, 0.0
    log = draw(world, behavior, 533, 25, last=False)  # 3 steps each
    found = evaluate(Table(policy), log, fit_on=log, settings=QUICK)
    assert not found.estimates["fqe"].healthy
    assert "unbalanced" in " ".join(found.estimates["fqe"].reasons)
    assert found.verdict.decision == "CANNOT TELL"
    same_start = np.concatenate([behavior[:1], policy[1:]])
    assert evaluate(Table(same_start), log, fit_on=log, settings=QUICK).estimates["fqe"].healthy


def test_a_baseline_that_cannot_be_estimated_gives_no_gain() -> None:
    world, _, _ = small_world()
    behavior, baseline = np.tile([1.0, 0.0], (5, 1)), np.tile([0.0, 1.0], (5, 1))
    log = sized(draw(world, behavior, 2000, 26, last=False))
    found = evaluate(Table(behavior), log, fit_on=log, baseline=Table(baseline), settings=QUICK)
    assert found.verdict.decision == "CANNOT TELL"
    assert found.gain["wis"].value is None
    assert "For the baseline" in " ".join(found.gain["fqe"].reasons)


def test_evaluate_is_near_the_truth_with_and_without_propensities() -> None:
    world, _, policy = small_world()
    log, other = small_log(11), small_log(12)
    truth = world.policy_value(policy)
    known = evaluate(Table(policy), log, estimators=OF_EPISODES, fit_on=other, settings=QUICK)
    assert_near(known.estimates, truth)
    for name, estimate in known.estimates.items():
        assert estimate.value is not None
        assert known.gain[name].value == pytest.approx(estimate.value - known.behavior.value)
    assert not known.behavior_fitted
    settings = dataclasses.replace(QUICK, updates=1500)
    fitted = evaluate(Table(policy), without_propensities(log), fit_on=other, settings=settings)
    assert fitted.behavior_fitted
    assert any("no propensities" in caveat for caveat in fitted.verdict.caveats)
    assert any("fitted behaviour" in text for text in fitted.estimates["wis"].assumptions)
    for name, estimate in fitted.estimates.items():
        assert estimate.value is not None
        assert abs(estimate.value - truth) < 0.25, name


def test_cross_fitting_serves_each_half_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _, policy = small_world()
    log, asked = small_log(13), []

    def watched(self: refit_module.FitQ, data, fit=refit_module.FitQ.fit):
        asked.append(set(data.log.episode_id.tolist()))
        return fit(self, data)

    monkeypatch.setattr(refit_module.FitQ, "fit", watched)
    found = evaluate(Table(policy), log, settings=QUICK)
    assert_near(found.estimates, world.policy_value(policy), 4.5)
    assert found.agreement.matrix.sum() == pytest.approx(1.0)
    # Once for each half, whatever asks: the two halves are all, and share nothing.
    one, other = asked
    assert one | other == set(log.episode_id.tolist())
    assert not one & other
    assert evaluate(Table(policy), log, settings=QUICK).to_dict() == found.to_dict()


def test_a_policy_s_numbers_do_not_depend_on_its_company() -> None:
    _, behavior, policy = small_world()
    log, other = small_log(11), small_log(12)
    alone = evaluate(Table(policy), log, fit_on=other, settings=QUICK)
    together = evaluate_all([Table(behavior), Table(policy)], log, fit_on=other, settings=QUICK)[1]
    for name in alone.estimates:
        assert alone.estimates[name].value == pytest.approx(together.estimates[name].value, abs=1e-5)


def test_a_baseline_policy_is_paired() -> None:
    _, _, policy = small_world()
    log, other = small_log(11), small_log(12)
    same = evaluate(Table(policy), log, fit_on=other, baseline=Table(policy), settings=QUICK)
    for gain in same.gain.values():
        assert gain.value == pytest.approx(0.0, abs=1e-6)
        assert gain.upper == pytest.approx(0.0, abs=2e-5)
    assert same.verdict.decision == "CANNOT TELL"


def test_a_policy_the_log_never_tried_is_called_unhealthy() -> None:
    world, _, _ = small_world()
    behavior, policy = np.tile([0.99, 0.01], (5, 1)), np.tile([0.0, 1.0], (5, 1))
    log = sized(draw(world, behavior, 1500, 18, last=False))
    found = evaluate(Table(policy), log, fit_on=log, settings=QUICK)
    assert not any(estimate.healthy for estimate in found.estimates.values())
    assert found.verdict.decision == "CANNOT TELL"


def test_copies_in_one_group_add_nothing_to_what_is_known() -> None:
    """Every stay four times, as four stays of one patient: four times the rows, and the very same intervals."""
    _, _, target = small_world()
    log, other = small_log(11), small_log(12)
    copies = [np.repeat(log.episode_start[:-1], 4), np.repeat(log.episode_lengths, 4)]
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(*copies, strict=True)])
    count = log.num_episodes
    columns = {
        "episode": np.repeat(np.arange(4 * count), copies[1]),
        "group": np.repeat(np.repeat(np.arange(count), 4), copies[1]),
        **{role: getattr(log, role)[rows] for role in ("step", "observation", "action", "reward", "terminated")},
        "behavior_probs": log.behavior_probs[rows],
    }
    copied = st.read(columns, st.Schema.infer(list(columns), num_actions=2, gamma=1.0))
    arguments = {"estimators": DEFAULT, "fit_on": other, "settings": QUICK}
    single = evaluate(Table(target), log, **arguments)
    of_groups = evaluate(Table(target), copied, **arguments)
    of_episodes = evaluate(Table(target), dataclasses.replace(copied, group=None), estimators=("wis",))
    for name, found in of_groups.estimates.items():
        gain, before = of_groups.gain[name], single.gain[name]
        for number in ("value", "lower", "upper", "standard_error", "max_weight_share"):
            assert getattr(gain, number) == pytest.approx(getattr(before, number), abs=1e-4), (name, number)
        # In episodes, of which there are four times as many.
        assert gain.ess == pytest.approx(4 * before.ess, rel=1e-3)
        # In units, of which there are no more: four copies are no more evidence, for FQE neither.
        units, units_before = (next(c for c in e.checks if c.key == "effective-units") for e in (gain, before))
        assert units.seen == pytest.approx(units_before.seen, rel=1e-3)
        assert units.seen < count
        assert f"the {count:,} groups are independent" in found.assumptions
    for name, plain in of_episodes.gain.items():
        assert plain.standard_error == pytest.approx(of_groups.gain[name].standard_error / 2, rel=0.01)
    assert of_groups.behavior.assumptions == ("groups are independent",)


# --- only what is asked for ------------------------------------------------------------------------------------


def test_weights_alone_fit_nothing_where_propensities_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, policy = small_world()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was fitted")

    monkeypatch.setattr(refit_module, "fit_q", never)
    monkeypatch.setattr("stitchrl.evaluation.fit_data.fit_behavior", never)
    found = evaluate(Table(policy), small_log(11), estimators=WITHOUT_Q)
    assert set(found.estimates) == set(WITHOUT_Q)
    for names, log in ((("wdr",), small_log(11)), (("wis",), without_propensities(small_log(11)))):
        with pytest.raises(AssertionError, match="something was fitted"):
            evaluate(Table(policy), log, estimators=names)


def test_nothing_is_audited_unseen_and_the_verdict_says_so() -> None:
    _, _, policy = small_world()
    log = small_log(11)
    found = evaluate(Table(policy), log, estimators=("wis",))
    (line,) = [line for line in found.verdict.lines if line.key == "d"]
    assert line.passed is None
    assert line.seen.startswith("the log was not audited")
    told = evaluate(Table(policy), log, estimators=("wis",), audit_verdict="usable with care")
    (line,) = [line for line in told.verdict.lines if line.key == "d"]
    assert (line.passed, line.seen) == (True, "usable with care")


class Halved:
    """An estimator of one's own: half of the mean logged return, without weights."""

    name, title, primary_rank = "halved", "half of the logged return", 5

    def refusal(self, log, estimand, policies) -> str | None:
        return None

    def requests(self) -> tuple:
        return ()

    def estimate(self, case):
        return Draft(Contributions.average(case.episodes.returns / 2), (), ("returns halve",))


def test_an_estimator_of_one_s_own_stands_beside_the_others() -> None:
    _, _, policy = small_world()
    log = small_log(11)
    found: Evaluation = evaluate(Table(policy), log, estimators=("wis", Halved()))
    assert found.estimates["halved"].value == pytest.approx(log.episode_returns().mean() / 2)
    assert found.estimates["halved"].title == "half of the logged return"
    assert found.estimates["halved"].ess is None
    assert found.verdict.primary == "halved"
    assert found.estimates["wis"].title == ESTIMATORS["wis"].title
    # Who carries the variance is kept for the primary gain, and the heaviest is the one that its check saw.
    (seen,) = (check.seen for check in found.gain["halved"].checks if check.key == "influence")
    assert found.influence is not None
    assert (found.influence.largest[0], found.influence.count) == (pytest.approx(seen), log.num_episodes)


def test_results_survive_json() -> None:
    _, _, policy = small_world()
    found = evaluate(Table(policy), small_log(11), estimators=("wis", "pdwis"), horizon=3)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Verdict.from_dict(stored["verdict"]) == found.verdict
    for name, gain in found.gain.items():
        assert Estimate.from_dict(stored["gain"][name]) == gain
    # Files written before estimates had titles, ranks and checks.
    old = {k: v for k, v in stored["gain"]["wis"].items() if k not in ("title", "primary_rank", "checks")}
    assert Estimate.from_dict(old) == dataclasses.replace(found.gain["wis"], checks=())
    assert Estimate.from_dict(old | {"name": "wdr"}).primary_rank == ESTIMATORS["wdr"].primary_rank
