"""A recommender's impressions in the format of the Open Bandit Dataset: which of five items to show to which visitor?

    python examples/recommender.py

Every row is a decision; a click is worth 1. The world is made here, so exact click rates show whether the estimates are right.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from scipy.special import softmax

import stitchrl as st

ITEMS, DEVICES, AGES = 5, np.array(["desktop", "phone"]), np.array(["18-30", "31-50", "51+"])
RNG = np.random.default_rng(0)
APPEAL = RNG.normal(size=(2, 3, ITEMS))  # what each kind of visitor likes
CLICK_RATE = 0.3 / (1 + np.exp(-APPEAL))
OLD_SYSTEM = softmax(0.4 * APPEAL + 0.6 * RNG.normal(size=APPEAL.shape), axis=-1)  # the old system is half right


def write_log(path: Path, rows: int, seed: int) -> None:
    """Impressions as the Open Bandit Dataset has them; no schema is needed."""
    rng = np.random.default_rng(seed)
    kind, position = (rng.integers(2, size=rows), rng.integers(3, size=rows)), rng.integers(1, 4, size=rows)
    item = (rng.random((rows, 1)) > OLD_SYSTEM[kind].cumsum(1)[:, :-1]).sum(1)
    log = {"timestamp": np.arange(rows), "item_id": item, "position": position}
    log["click"] = (rng.random(rows) < CLICK_RATE[*kind, item]).astype(int)
    log["propensity_score"] = OLD_SYSTEM[*kind, item]
    csv.write_csv(pa.table(log | {"user_feature_0": DEVICES[kind[0]], "user_feature_1": AGES[kind[1]]}), path)


def main(updates: int = 2_000, rows: int = 40_000, seed: int = 0) -> tuple[float, float, st.Evaluation]:
    """Run the example; returns the exact click rates of the new policy and the old system, and what the log says."""
    with tempfile.TemporaryDirectory() as folder:
        write_log(path := Path(folder) / "impressions.csv", rows, seed + 1)
        log = st.read(path)
    print(audit := st.audit(log))
    learn, test = log.split((0.5, 0.5), seed=seed)
    iql = st.IQL(hidden_sizes=(64, 64), inverse_temperature=30, learning_rate=1e-3)
    policy = st.fit(iql, learn, updates=updates, seeds=[seed]).policy  # it stays random, and is judged as such
    result = st.evaluate(policy, test, fit_on=learn, audit_verdict=audit.verdict, seed=seed)
    # An observation has one number for each position, each device and each age group.
    seen = [[*np.eye(3)[p], *np.eye(2)[d], *np.eye(3)[a]] for p in range(3) for d in range(2) for a in range(3)]
    probs = np.asarray(policy.probs(np.array(seen, np.float32))).reshape(3, *APPEAL.shape)
    exact, exact_old = (float((shown * CLICK_RATE).sum(-1).mean()) for shown in (probs, OLD_SYSTEM))
    print(f"\nclick rate, exactly: old system {exact_old:.4f}, new policy {exact:.4f}; the new policy's from the log:")
    for name, found in result.estimates.items():
        print(f"  {name:9} {found.value:.4f}, 95% interval [{found.lower:.4f}, {found.upper:.4f}]")
    print(f"\n{result.verdict}")
    return exact, exact_old, result


if __name__ == "__main__":
    main()
