"""A look at a test part: what makes two looks one, what a verdict says of earlier ones, and when nothing is recorded."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_worlds import Table, Uniform, draw, small_world

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.looks import look_at, notes_on
from stitchrl.evaluation.verdict import decide
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, draw_log
from stitchrl.storage.looks import EarlierLooks

ESTIMAND = Estimand(1.0)


def world_log(seed: int = 1) -> Dataset:
    world, behavior, _ = small_world()
    return draw(world, behavior, 300, seed)


def policy() -> Table:
    return Table(small_world()[2])


class Nudged:
    """A policy whose probabilities are changed in one row."""

    def __init__(self, by: float) -> None:
        self.by = by

    def probs(self, obs: np.ndarray, *, action_mask: Any = None) -> np.ndarray:
        probs = np.array(policy().probs(obs, action_mask=action_mask))
        probs[17] += [self.by, -self.by]
        return probs


class Rounded:
    """A policy as another machine would compute it."""

    def probs(self, obs: np.ndarray, *, action_mask: Any = None) -> np.ndarray:
        probs = policy().probs(obs, action_mask=action_mask)
        return (probs * (1 + 1e-7 * np.random.default_rng(0).normal(size=probs.shape))).astype(np.float32)


def test_the_same_question_about_the_same_policy_is_one_look() -> None:
    log = world_log()
    backwards = log.select_episodes(np.arange(log.num_episodes)[::-1]).compact()
    for asked, of in ((policy(), log), (policy(), log), (policy(), backwards), (Rounded(), log)):
        assert look_at([asked], of, ESTIMAND).count == 0


@pytest.mark.parametrize("by", [0.01, 0.2])
def test_a_policy_that_differs_in_one_row_is_another(by: float) -> None:
    assert look_at([policy()], world_log(), ESTIMAND).count == 0
    assert look_at([Nudged(by)], world_log(), ESTIMAND) == EarlierLooks(count=1, share=1.0, whole=1)


def test_another_discount_horizon_or_baseline_is_another_look() -> None:
    log, behavior = world_log(), Table(small_world()[1])
    asked: list[tuple[list[Any], Estimand]] = [
        ([policy()], ESTIMAND),
        ([policy()], Estimand(0.9)),
        ([policy()], Estimand(1.0, 3)),
        ([policy(), behavior], ESTIMAND),
        ([policy(), policy()], ESTIMAND),
    ]
    assert [look_at(policies, log, estimand).count for policies, estimand in asked] == [0, 1, 2, 3, 4]


def test_stays_that_are_equal_by_coincidence_are_no_look_at_these() -> None:
    log = demo_log(compact_table(draw_log(3000, seed=3)))
    train, valid, test = log.split((0.5, 0.1, 0.4), seed=0)
    uniform = Uniform()
    assert np.isin(test.episode_hashes, train.episode_hashes).mean() > 0.05  # short stays, the same by chance
    for part in (train, valid, test):
        assert look_at([uniform], part, ESTIMAND).count == 0
    again = log.split((0.5, 0.1, 0.4), seed=1)[2]
    fresh = demo_log(compact_table(draw_log(1200, seed=4)))
    assert look_at([uniform], fresh, ESTIMAND).count == 0
    found = look_at([uniform], again, ESTIMAND)
    assert (found.count, found.share) == (3, pytest.approx(1.0, abs=0.02))


def look_files() -> list[Path]:
    return list(Path(os.environ["STITCHRL_STATE"]).glob("looks/*"))


def test_evaluate_records_a_look_where_it_is_told_to() -> None:
    log, other = world_log(), Table(np.full((5, 2), 0.5))
    plain = evaluate(policy(), log, estimators=("wis",))
    assert look_files() == []
    first = evaluate(policy(), log, estimators=("wis",), record_look=True)
    assert first.to_dict() == plain.to_dict()
    assert len(look_files()) == 1
    second = evaluate(other, log, estimators=("wis",), record_look=True)
    assert "These test episodes have been looked at once before" in second.verdict.caveats[-1]
    assert "too narrow for the best of 2" in str(second.verdict)
    assert evaluate(other, log, estimators=("wis",)).verdict.caveats == plain.verdict.caveats
    assert len(look_files()) == 2


def test_what_is_refused_is_no_look() -> None:
    log = world_log()
    with pytest.raises(ConfigurationError):
        evaluate(policy(), log, estimators=("spell",), record_look=True)
    with pytest.raises(EvaluationError):
        evaluate(object(), log, estimators=("wis",), record_look=True)
    with pytest.raises(EvaluationError):
        evaluate(policy(), log.head(1), estimators=("wis",), record_look=True)
    assert look_files() == []


def test_what_is_killed_before_there_is_an_estimate_is_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stitchrl.evaluation.evaluate.evaluate_fits", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(policy(), world_log(), estimators=("wis",), record_look=True)
    assert look_files() == []
    found = evaluate(policy(), world_log(), estimators=("wis",), margin=0.1, record_look=True)
    assert not any("looked at" in caveat for caveat in found.verdict.caveats)
    assert len(look_files()) == 1


@pytest.mark.parametrize(
    ("looks", "sentences"),
    [
        (EarlierLooks(), ()),
        (EarlierLooks(2, 1.0, 1), ("These test episodes have been looked at twice before, ", "best of 3.")),
        (EarlierLooks(3, 0.404), ("About 40% of these test episodes have been looked at 3 times before, ",)),
        (EarlierLooks(1, 0.999), ("About 99% of these test episodes have been looked at once before, ",)),
        (EarlierLooks(1, 0.0), ("Fewer than 1% of these test episodes have been looked at once",)),
        (EarlierLooks(unreadable=2), ("Some records of earlier looks at test episodes are damaged",)),
        (EarlierLooks(problem="off"), ("was not recorded, since that is switched off",)),
        (EarlierLooks(problem="not writable"), ("was not recorded, since the folder for it cannot be written",)),
    ],
)
def test_what_is_said(looks: EarlierLooks, sentences: tuple[str, ...]) -> None:
    notes = notes_on(looks)
    assert len(notes) == min(1, len(sentences))
    assert all(sentence in notes[0] for sentence in sentences)


def test_notes_are_the_last_caveats_of_a_verdict() -> None:
    plain, noted = decide({}), decide({}, notes=("One.", "Two."))
    assert noted == dataclasses.replace(plain, caveats=(*plain.caveats, "One.", "Two."))
    assert st.Verdict.from_dict(noted.to_dict()) == noted
