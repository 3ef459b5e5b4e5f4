"""Health checks of what rests on a learned model of the world."""

from __future__ import annotations

from stitchrl.evaluation.health import Check
from stitchrl.evaluation.learned_model import ModelError

__all__ = ["check_model_ends", "check_model_error", "check_rollout_cap", "check_rollouts_alone", "model_checks"]

NO_BETTER = 1.1
"""Largest held-out squared error, as a share of the variance; at 1 a model predicts no better than the mean."""
ENDS_OFF = 4.0
"""Standard errors by which the expected and the seen number of ends of held-out rows may differ."""
MAXIMUM_LEFT = 0.01
"""Largest mean discounted weight that may be left where whole rollouts are cut."""


def model_checks(error: ModelError) -> tuple[Check, Check]:
    """Whether a model predicts held-out episodes."""
    return check_model_error(error), check_model_ends(error)


def check_model_error(error: ModelError) -> Check:
    """Whether changes of the observation and rewards of held-out rows are predicted better than by their means."""
    seen = max(error.change, error.reward)
    passed = seen <= NO_BETTER
    sentence = (
        f"On {error.rows:,} held-out rows the model leaves {error.change:.1%} of the variance of the changes of the observation "
        f"unexplained, and {error.reward:.1%} of that of the reward"
    )
    sentence += "." if passed else ": it predicts worse than their means would."
    return Check("model-error", seen, NO_BETTER, passed, sentence)


def check_model_ends(error: ModelError) -> Check:
    """Whether as many held-out rows end their episode as the model expects.

    If the chance that an episode ends is too small by a tenth in each step, rollouts are longer by about a tenth.
    """
    off = error.ends_off
    passed = abs(off) <= ENDS_OFF
    sentence = (
        f"On {error.rows:,} held-out rows the model expects {error.ends_expected:,.1f} ends of episodes, and "
        f"{error.ends_seen:,.0f} were seen"
    )
    sentence += "." if passed else f", {off:+.1f} standard errors apart: its rollouts have the wrong length."
    return Check("model-ends", off, ENDS_OFF, passed, sentence)


def check_rollout_cap(left: float, reached: float, cap: int) -> Check:
    """Whether whole rollouts were cut while rewards were still to come.

    Args:
        left: discounted weight that was left at the cut, averaged over the rollouts.
        reached: share of the rollouts that were cut while weight was left.
        cap: after how many steps they were cut.
    """
    passed = left <= MAXIMUM_LEFT
    sentence = (
        f"{reached:.1%} of the rollouts were cut after {cap:,} steps, with {left:.2%} of the weight still to come"
    )
    sentence += (
        "."
        if passed
        else f", above {MAXIMUM_LEFT:.0%}: the value lacks what would have followed. Set `horizon` to {cap:,} or less."
    )
    return Check("rollout-cap", left, MAXIMUM_LEFT, passed, sentence)


def check_rollouts_alone(low: float, high: float, members: int) -> Check:
    """The check that a value from a learned model alone always fails, since nothing tells how wrong it is.

    Args:
        low, high: the least and the largest value that a member of the model gives.
        members: how many members it has.
    """
    return Check(
        "interval",
        None,
        None,
        False,
        f"The value comes from rollouts in a learned model alone, and nothing in the log corrects its error: it has no interval. "
        f"The {members} networks of the model give {low:.4g} to {high:.4g}, which may all be wrong in the same way; model-dr "
        "corrects the same model by weights.",
    )
