"""Checks of the behaviour: whether returns fall into two modes, and how random the logged actions look."""

from __future__ import annotations

from collections.abc import Iterator

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.randomness import randomness
from stitchrl.auditing.return_modes import return_modes
from stitchrl.auditing.thresholds import MAJORITY, MINORITY
from stitchrl.data.dataset import Dataset

__all__ = ["behavior_deterministic", "behavior_random", "mostly_random", "returns_multimodal"]


def returns_multimodal(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Returns with two modes: two kinds of behaviour or of tasks, of which the larger may hide the better."""
    modes = return_modes(facts)
    if modes is None or not modes.distinct:
        return
    drowned = modes.share[0] < MINORITY and not modes.by_length
    yield Finding(
        "quality-drowned" if drowned else "returns-multimodal",
        "warning" if drowned else "info",
        "reward",
        f"{modes.share[0]:.0%} of episodes return about {modes.mean[0]:.4g}, the other {modes.share[1]:.0%} about "
        f"{modes.mean[1]:.4g}{', because episodes differ in length and not in what a decision earns' if modes.by_length else ''}",
        f"returns with a single mode, or at least {MINORITY:.0%} of episodes in the better one",
        "See whether long and short episodes are the same task."
        if modes.by_length
        else "Imitation learns the average of both modes: filter by return (FilteredBC) or weight by advantage (IQL, AWAC).",
    )


def mostly_random(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most episodes look random and the rest follows a policy, as in a log of 90% random and 10% expert episodes."""
    found = randomness(facts)
    if found.proven_mixture and found.random_share is not None and found.random_share > MAJORITY:
        yield Finding(
            "mostly-random",
            "warning",
            "action",
            f"about {found.random_share:.0%} of episodes look like uniformly random actions, while the other "
            f"{1 - found.random_share:.0%} follow a policy",
            "less than half of the episodes to be random",
            "Imitation will be mostly random: filter by return or weight by advantage, and log a source for each episode.",
        )


def behavior_random(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """All actions look uniformly random: the best log for evaluation, with little to imitate."""
    if randomness(facts).uniform:
        yield Finding(
            "behavior-random",
            "info",
            "action",
            "the actions look uniformly random throughout, which is good for comparing policies",
            "actions that follow a policy, where a log is to be imitated",
            "Do not imitate it. In long episodes good outcomes may be too rare to learn from.",
        )


def behavior_deterministic(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most actions are determined by the observation, so the log cannot compare actions."""
    found = randomness(facts)
    if found.deterministic:
        yield Finding(
            "behavior-deterministic",
            "warning",
            "action",
            f"in {found.near_deterministic_share:.0%} of rows the action follows from the observation with hardly any chance",
            "several actions tried in similar states",
            "Only policies close to the behaviour can be evaluated; let the logging policy explore a little.",
        )
