"""The hidden causes that overturn a gain, in one decision and in every one, against the exact worst cases of a known world."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, small_log, small_world, tabular

from stitchrl.evaluation.contributions import Contributions
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.robust_values import GRID
from stitchrl.evaluation.sensitivity import (
    LARGEST_EVERY,
    OutcomeSpread,
    Sensitivity,
    _Above,
    _every_decision,
    visits_by_step,
)
from stitchrl.evaluation.units import Units
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.hidden_cause import robust_policy_value


def exact_drops(odds_ratio: float, steps: int, *, sign: int = 1, of: np.ndarray | None = None) -> np.ndarray:
    """(steps,) drop of the policy's value for a cause at each step, by the distribution of every outcome."""
    world, behavior, policy = small_world()
    policy = policy if of is None else of
    values = (policy * world.action_values(policy)).sum(1)
    outcome = sign * (world.reward + np.where(world.terminal, 0.0, values)[None, None, :])
    tau = 1 / (odds_ratio + 1)
    order = np.argsort(outcome, axis=2)
    chance = np.take_along_axis(world.transition, order, 2)
    until = np.cumsum(chance, 2)
    share = np.clip(np.minimum(until, tau) - (until - chance), 0, None)
    tail = (share * np.take_along_axis(outcome, order, 2)).sum(2) / tau
    gap = (1 - behavior) * (1 - 1 / odds_ratio) * ((world.transition * outcome).sum(2) - tail)
    here, found = world.initial.copy(), []
    for _ in range(steps):
        here = np.where(world.terminal, 0.0, here)
        found.append((here[:, None] * policy * gap).sum())
        here = here @ np.einsum("sa,sax->sx", policy, world.transition)
    return np.array(found)


def spread(episodes: int, seed: int) -> tuple[OutcomeSpread, np.ndarray]:
    """The spread of outcomes of a log, states and actions told apart, and the step of each row."""
    world, behavior, policy = small_world()
    log = draw(world, behavior, episodes, seed)
    state = log.observation_id
    assert state is not None
    ratio = policy[state, log.action] / behavior[state, log.action]
    fitted = tabular(log, 5)
    found = refit(log, fitted, ratio, gamma=1.0)
    visits = visits_by_step(log, fitted["psi"], fitted["next_psi"], ratio, found.visits)
    weight = visits * ratio * (1 - behavior[state, log.action])
    return OutcomeSpread(weight, found.residual, 2 * state + log.action), log.position


@pytest.mark.parametrize("odds_ratio", [1.2, 2.0, 5.0])
def test_drops_are_the_exact_ones(odds_ratio: float) -> None:
    steps, episodes = 4, 20_000
    found, position = spread(episodes, 5)
    for upwards in (False, True):
        drops = np.bincount(position, found.drops(odds_ratio, upwards=upwards))[:steps] / episodes
        exact = exact_drops(odds_ratio, steps, sign=-1 if upwards else 1)
        assert drops == pytest.approx(exact, rel=0.05, abs=0.003)
        assert exact.max() > 0.05


def test_any_grouping_gives_a_drop_that_is_not_too_small() -> None:
    found, position = spread(20_000, 6)
    together = OutcomeSpread(found.weight, found.residual, np.zeros(len(position), np.int64))
    apart, joined = ((one.drops(2.0)).sum() / 20_000 for one in (found, together))
    assert joined >= apart - 1e-9
    assert joined < 1.5 * apart


def test_no_cause_no_drop_and_more_with_more() -> None:
    found, _ = spread(2000, 7)
    sums = [found.drops(odds).sum() for odds in (1.0, 1.5, 2.0, 4.0)]
    assert sums[0] == 0
    assert sums == sorted(sums)


@pytest.mark.parametrize("baseline", [False, True])
def test_the_cause_that_overturns_a_gain_is_the_exact_one(baseline: bool) -> None:
    """Against the exact drop: the lower end falls to the margin where the worst drop is as large as what lies between."""
    _, behavior, policy = small_world()
    log, other = small_log(11), small_log(12)
    kept = {"fit_on": other, "settings": QUICK, "estimators": ("fqe",)}
    if baseline:
        kept["baseline"] = Table(behavior)
    lower = evaluate(Table(policy), log, **kept).gain["fqe"].lower
    assert lower is not None
    room = 0.15
    found = evaluate(Table(policy), log, margin=lower - room, **kept)
    assert found.confirmation is not None
    assert found.confirmation.sensitivity is not None
    odds = found.confirmation.sensitivity.odds_ratio

    def drop(strength: float) -> float:
        falls = exact_drops(strength, 6)
        return float((falls + exact_drops(strength, 6, sign=-1, of=behavior) if baseline else falls).max())

    # The width of the interval hardly changes with the drop, so the drop alone must fill the room.
    assert drop(odds) == pytest.approx(room, rel=0.35)
    assert found.confirmation.sensitivity.step == 0
    every = found.confirmation.sensitivity.every_decision
    assert every is not None
    assert 1 < every < odds
    assert exact_fall(every, rise=baseline) == pytest.approx(room, rel=0.35)
    nothing = evaluate(Table(policy), log, margin=lower + 0.01, **kept)
    assert nothing.confirmation is not None
    assert nothing.confirmation.sensitivity is not None
    assert nothing.confirmation.sensitivity.odds_ratio == 1.0
    assert nothing.confirmation.sensitivity.every_decision == 1.0


def exact_fall(odds_ratio: float, *, rise: bool = False) -> float:
    """What a cause in every decision takes from the policy's value, and adds to that of the behaviour as a baseline."""
    world, behavior, policy = small_world()
    found = world.policy_value(policy) - robust_policy_value(world, policy, behavior, odds_ratio)
    if rise:
        turned = FiniteMDP(world.transition, -world.reward, world.initial, world.terminal)
        worst = robust_policy_value(turned, behavior, behavior, odds_ratio)
        found += turned.policy_value(behavior) - worst
    return found


def falls_of(by_strength: dict[float, float], noise: float = 0.0) -> np.ndarray:
    """(100, L) falls that are equal in all episodes but for a noise that averages 0; those not named are the last named."""
    mean = np.array([max(fall for odds, fall in by_strength.items() if odds <= strength) for strength in GRID])
    return mean + noise * np.tile([1.0, -1.0], 50)[:, None] * (np.array(GRID) > 1)


def above_by(room: float, spread: float = 0.0) -> _Above:
    """A gain whose lower end lies above the margin by so much; its standard error is that of its spread."""
    values = room + 2.0 * spread / 10 + spread * np.tile([1.0, 1.0, -1.0, -1.0], 25)
    gain = Contributions(values[:, None], np.ones((100, 1)))
    return _Above(Units(100), gain, spread / 10, 2.0, 0.0)


def test_the_strength_lies_between_the_two_of_the_grid_that_the_lower_end_lies_between() -> None:
    falls = falls_of({1.0: 0.0, 1.1: 0.2, 1.15: 0.4})
    assert _every_decision(falls, above_by(0.3)) == pytest.approx(np.sqrt(1.1 * 1.15))
    assert _every_decision(falls, above_by(0.3, spread=1.0)) == pytest.approx(np.sqrt(1.1 * 1.15))
    assert _every_decision(falls, above_by(0.5)) == LARGEST_EVERY


def test_noise_of_the_fall_makes_the_strength_less_and_never_more() -> None:
    quiet, noisy = falls_of({1.0: 0.0, 1.1: 0.2, 1.15: 0.4}), falls_of({1.0: 0.0, 1.1: 0.2, 1.15: 0.4}, noise=0.5)
    # The two spreads share nothing: the error goes from .1 to sqrt(.01 + .0025), and twice that is lost.
    lost = 2 * (np.sqrt(0.0125) - 0.1)
    above = above_by(0.3, spread=1.0)
    assert above.after(noisy[:, 4]) == pytest.approx(0.1 - lost)
    assert _every_decision(noisy, above) < _every_decision(quiet, above)
    # A fall that offsets the noise of the gain would make the interval narrower.
    offsets = quiet.copy()
    offsets[:, 1:] += (np.tile([1.0, 1.0, -1.0, -1.0], 25) * 0.5)[:, None]
    assert above.after(offsets[:, 4]) > above.after(quiet[:, 4])
    assert _every_decision(offsets, above) == _every_decision(quiet, above)


def test_a_stronger_cause_costs_no_less_and_one_without_a_value_overturns_all() -> None:
    back = falls_of({1.0: 0.0, 1.1: 0.2})
    back[:, GRID.index(1.15) :] = 0.1  # noise says that a stronger cause costs less
    assert _every_decision(back, above_by(0.15)) == pytest.approx(
        _every_decision(falls_of({1.0: 0, 1.1: 0.2}), above_by(0.15))
    )
    lost = falls_of({1.0: 0.0, 1.02: 0.01})
    lost[:, GRID.index(1.2) :] = np.nan
    assert _every_decision(lost, above_by(0.3)) == 1.15


def test_in_words() -> None:
    assert Sensitivity(1.0, 0, 1.0).every_in_words() == ""
    assert Sensitivity(2.0, 0).every_in_words() == ""
    assert "with a factor of 1.09" in Sensitivity(2.0, 0, 1.0912).every_in_words()
    assert (
        "in every decision would not overturn it with a factor of up to 5"
        in Sensitivity(20.0, 0, LARGEST_EVERY).every_in_words()
    )
    assert Sensitivity(2.0, 3, 1.5).to_dict() == {"odds_ratio": 2.0, "step": 3, "every_decision": 1.5}
