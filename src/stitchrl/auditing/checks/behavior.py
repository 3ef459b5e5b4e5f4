"""Checks of who made the log: sources and quality levels, and how much of it looks random or without chance."""

from __future__ import annotations

from collections.abc import Iterator

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.randomness import randomness
from stitchrl.auditing.return_modes import return_modes
from stitchrl.auditing.thresholds import MAJORITY, MINORITY
from stitchrl.data.dataset import Dataset

__all__ = ["behavior_deterministic", "behavior_random", "mostly_random", "returns_multimodal"]

SEPARATION = 2.0
"""Ashman's D above which two normals make two humps (Ashman, Bird and Zepf 1994)."""
STRONG = 10.0
"""Difference of BIC called very strong (Kass and Raftery 1995)."""
LEAST_GAIN = 0.1
"""Nats an episode by which the mixture must beat either part alone."""
LEAST_POLICY = 0.03
"""Share of episodes that follow a policy below which the log counts as random throughout."""


# --- sources and returns -----------------------------------------------------------------------------------------


def returns_multimodal(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Returns in two humps: two kinds of behaviour or of tasks, the better of which may be drowned by the other."""
    modes = return_modes(facts)
    if modes is None or modes.gain < STRONG or modes.separation < SEPARATION or min(modes.share) < 0.01:
        return
    drowned = modes.share[0] < MINORITY
    yield Finding(
        "quality-drowned" if drowned else "returns-multimodal",
        "warning" if drowned else "info",
        "reward",
        f"{modes.share[0]:.0%} of episodes return about {modes.mean[0]:.4g}, the other {modes.share[1]:.0%} about "
        f"{modes.mean[1]:.4g}",
        f"one hump, or a better part of {MINORITY:.0%} or more",
        "Imitation learns the average of both: filter by return (FilteredBC) or weigh by advantage (IQL, AWAC).",
    )


# --- randomness --------------------------------------------------------------------------------------------------


def mostly_random(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most episodes look random beside a part with a policy of its own: the 90% random, 10% expert log."""
    found = randomness(log, facts)
    share, gain = found["random_share"], found["gain"]
    if share is not None and gain is not None and gain > LEAST_GAIN and MAJORITY < share < 1 - LEAST_POLICY:
        yield Finding(
            "mostly-random",
            "warning",
            "action",
            f"about {share:.0%} of episodes look like uniformly random actions, the other {1 - share:.0%} follow a policy",
            "under half of the log random, where the rest knows better",
            "Imitation will be mostly random: filter by return or weigh by advantage; log a source.",
        )


def behavior_random(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """All actions look uniformly random: the best for estimating, little to imitate."""
    found = randomness(log, facts)
    if found["random_share"] is not None and found["random_share"] >= 1 - LEAST_POLICY:
        yield Finding(
            "behavior-random",
            "info",
            "action",
            "the actions look uniformly random throughout",
            "nothing else: such a log is good for comparing policies",
            "Do not imitate it. In long episodes good outcomes may be too rare to learn from.",
        )


def behavior_deterministic(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most actions follow from the observation without chance: the log holds no comparison."""
    share = randomness(log, facts)["near_deterministic_share"]
    if share is not None and share > MAJORITY:
        yield Finding(
            "behavior-deterministic",
            "warning",
            "action",
            f"in {share:.0%} of rows the action follows from the observation with hardly any chance",
            "several actions tried in alike states",
            "Policies near the behaviour can be judged, others not; have the logging policy explore a little.",
        )
