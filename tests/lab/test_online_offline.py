"""The lesson on online and offline learning: its loops against what can be said without running them."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.lab.lessons.online_offline import CLIFF, LEARNERS, first_log, learned, rounds

LIVE = ~CLIFF.mdp.terminal


def test_with_every_move_tried_both_learners_find_the_best_values() -> None:
    tried = np.repeat(LIVE[:, None], 4, axis=1)
    best = CLIFF.action_values(CLIFF.optimal_policy())
    for learner in LEARNERS:
        np.testing.assert_allclose(learned(tried, learner)[LIVE], best[LIVE], atol=1e-6)


def test_the_careful_operator_never_steps_into_a_pit() -> None:
    tried = first_log("careful")
    falls = (CLIFF.mdp.transition * CLIFF.mdp.terminal).sum(2).astype(bool) & (CLIFF.mdp.expected_reward < 0)
    assert falls.any()
    assert not (tried & falls).any()


def test_a_fixed_log_keeps_its_gap_and_acting_closes_it() -> None:
    offline, online = (rounds("careful", "average", loop) for loop in ("offline", "online"))
    assert offline[0].claimed == online[0].claimed
    assert offline[-1].claimed == offline[0].claimed > offline[0].true + 10
    assert online[-1].claimed == pytest.approx(online[-1].true)
    assert online[-1].tried.sum() > offline[-1].tried.sum()


def test_who_takes_tried_moves_only_earns_what_it_claims() -> None:
    for loop in ("offline", "online"):
        assert all(one.claimed == pytest.approx(one.true) for one in rounds("careful", "tried", loop))


def test_hope_discovers_the_best_online() -> None:
    best = CLIFF.mdp.policy_value(CLIFF.optimal_policy(), gamma=CLIFF.gamma)
    online, offline = (rounds("careful", "hopeful", loop)[-1] for loop in ("online", "offline"))
    assert online.true == pytest.approx(best)
    assert online.claimed == pytest.approx(best)
    assert offline.claimed > best + 3
    assert offline.true < 0
