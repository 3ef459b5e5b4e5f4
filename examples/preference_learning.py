"""Learn from "this reply rather than that one": which of five replies suits which message?

    python examples/preference_learning.py

The old system draws two replies to each message, and a judge says which is better; nobody writes down how good either is. The
script makes the judge, so it knows what every reply is worth to them, and what the best policy at this distance from the old
system would reach.
"""

from __future__ import annotations

import numpy as np

import stitchrl as st

FEATURES, REPLIES, KL_WEIGHT = 4, 5, 0.5


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def main(updates: int = 3_000, pairs: int = 20_000, seed: int = 0) -> dict[str, float]:
    """Run the example and return its numbers."""
    rng = np.random.default_rng(seed)
    taste, habit = rng.normal(size=(2, FEATURES, REPLIES))  # what the judge likes, and what the old system tends to
    messages = rng.normal(size=(pairs, FEATURES)).astype(np.float32)
    worth, old = messages @ taste, softmax(0.5 * messages @ habit)

    # Draw two different replies of the old system (the two largest scores with Gumbel noise), and let the judge decide.
    drawn = np.argsort(np.log(old) + rng.gumbel(size=old.shape), axis=1)[:, -2:]
    first, second = np.take_along_axis(worth, drawn, axis=1).T
    first_wins = rng.random(pairs) < 1 / (1 + np.exp(second - first))
    preferred, rejected = (np.where(side, *drawn.T) for side in (first_wins, ~first_wins))
    table = {"observation": messages, "preferred_action": preferred, "rejected_action": rejected}
    train, held_out = st.read_preferences(table).split((0.9, 0.1), seed=seed)

    dpo = st.DPO(kl_weight=KL_WEIGHT, hidden_sizes=(64, 64), learning_rate=1e-3, behavior_updates=updates)
    run = st.fit(dpo, train, updates=updates, batch_size=256, seeds=[seed], probe=st.Probe(held_out, rows=2_000))
    row = run.history[-1]
    best_guess = float(np.mean(1 / (1 + np.exp(-np.abs(first - second)))))
    print(f"held-out verdicts predicted rightly: {row['held_out/accuracy']:.1%}")
    print(f"the best possible share: {best_guess:.1%}, because the judge is not always sure")

    probs = {"old system": old, "learned by DPO": np.asarray(run.policy.probs(messages), np.float64)}
    probs["best possible"] = softmax(np.log(old) + worth / KL_WEIGHT)
    print(f"\n{'':15}  worth to the judge   nats from the old system   both: worth - {KL_WEIGHT} x nats")
    numbers = {"accuracy": row["held_out/accuracy"], "best accuracy": best_guess}
    for name, p in probs.items():
        mean, nats = (p * worth).sum(1).mean(), (p * np.log(p / old)).sum(1).mean()
        print(f"{name:15}  {mean:18.3f}   {nats:24.3f}   {mean - KL_WEIGHT * nats:24.3f}")
        numbers[name] = float(mean - KL_WEIGHT * nats)
    return numbers


if __name__ == "__main__":
    main()
