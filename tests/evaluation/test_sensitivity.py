"""The hidden cause in one decision that overturns a gain, against the exact worst case of a known world."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_worlds import QUICK, Table, draw, small_log, small_world, tabular

from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.sensitivity import OutcomeSpread, visits_by_step


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
    nothing = evaluate(Table(policy), log, margin=lower + 0.01, **kept)
    assert nothing.confirmation is not None
    assert nothing.confirmation.sensitivity is not None
    assert nothing.confirmation.sensitivity.odds_ratio == 1.0
