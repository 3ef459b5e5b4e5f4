"""A logged contextual bandit: which of five offers to show to which visitor?

    python examples/bandit.py

Every row of the log is a decision of its own: a visitor comes, one offer is shown, and a click is worth 1. The old system
drew its offers at random, with probabilities that depend on the visitor and that it wrote down (the propensities).
The script makes the world, so it also knows the exact click rate of every policy and can show whether the estimates made
from the log alone are right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import stitchrl as st

KINDS, FEATURES, OFFERS = 300, 6, 5


class World(NamedTuple):
    """What nobody outside this script would know."""

    visitors: np.ndarray  # (KINDS, FEATURES) what is seen of each kind of visitor; all kinds are equally frequent
    click_rate: np.ndarray  # (KINDS, OFFERS) how likely each kind clicks on each offer
    old_system: np.ndarray  # (KINDS, OFFERS) how likely the old system showed each offer

    def exact(self, probs: np.ndarray) -> float:
        """The click rate of a policy that gives each kind of visitor these probabilities of the offers."""
        return float((probs * self.click_rate).sum(1).mean())


def make_world(seed: int) -> World:
    rng = np.random.default_rng(seed)
    visitors = rng.normal(size=(KINDS, FEATURES)).astype(np.float32)
    appeal = visitors @ rng.normal(size=(FEATURES, OFFERS))
    belief = 0.4 * appeal + rng.normal(size=(KINDS, OFFERS))  # the old system is half right about what people like
    odds = np.exp(0.7 * belief)
    return World(visitors, 0.3 / (1 + np.exp(-appeal)), odds / odds.sum(1, keepdims=True))


def draw_log(world: World, decisions: int, seed: int) -> st.Dataset:
    """Visitors come at random, the old system shows an offer, and some click."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS, size=decisions)
    offer = (rng.random((decisions, 1)) > world.old_system[kind].cumsum(1)[:, :-1]).sum(1)
    click = rng.random(decisions) < world.click_rate[kind, offer]
    columns = {
        "visitor": world.visitors[kind],
        "offer": offer,
        "click": click.astype(np.float32),
        "shown_with_probability": world.old_system[kind, offer],
    }
    roles = {"observation": "visitor", "action": "offer", "reward": "click", "propensity": "shown_with_probability"}
    # `bandit` says that every row is an episode of one step, so no columns for episodes and their ends are needed.
    return st.read(columns, st.Schema(roles, num_actions=OFFERS, bandit=True, gamma=1.0, name="offers"))


def main(updates: int = 2_000, decisions: int = 40_000, seed: int = 0) -> dict[str, float | str]:
    """Run the example and return its numbers."""
    world = make_world(seed)
    log = draw_log(world, decisions, seed + 1)
    print(f"{st.audit(log)}\n")
    learn, test = log.split((0.5, 0.5), seed=seed)

    # The new policy stays random too: it shows each offer with the probability it learned, and is judged as such.
    iql = st.IQL(hidden_sizes=(64, 64), inverse_temperature=30, learning_rate=1e-3)
    policy = st.fit(iql, learn, updates=updates, seeds=[seed]).policy
    # `wis` weighs the logged clicks by how much more often the new policy would have shown that offer; `dr` and `wdr` add a
    # model of the clicks, fitted on the part that the policy learned from.
    result = st.evaluate(policy, test, estimators=("wis", "dr", "wdr"), fit_on=learn, seed=seed)

    exact = world.exact(np.asarray(policy.probs(world.visitors)))
    exact_old = world.exact(world.old_system)
    print(f"click rate of the old system: {result.behavior.value:.4f} in the test log, exactly {exact_old:.4f}")
    print(f"click rate of the new policy: exactly {exact:.4f}, and from the log alone:")
    numbers: dict[str, float | str] = {"exact": exact, "exact_old": exact_old, "decision": result.verdict.decision}
    for name, found in result.estimates.items():
        inside = "holds the exact rate" if found.lower <= exact <= found.upper else "misses the exact rate"
        print(f"  {name:4} {found.value:.4f}, 95% interval [{found.lower:.4f}, {found.upper:.4f}], which {inside}")
        numbers |= {f"{name}_lower": found.lower, f"{name}_upper": found.upper}
    print(f"\n{result.verdict}")
    return numbers


if __name__ == "__main__":
    main()
