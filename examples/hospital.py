"""From the embedded hospital log to a verdict: is the learned treatment policy better than the clinicians?

    python examples/hospital.py

The log holds 20,000 simulated stays in intensive care. A stay that ends in survival is worth 1, in death 0, so the value of a
policy is the share of patients it would keep alive. In the world that the log was drawn from, the clinicians' own share is
known: 0.7818. The verdict may be CANNOT TELL: after so short a training the log seldom shows a gain, and saying so is right.
"""

from __future__ import annotations

from typing import Any

import stitchrl as st

EXACT_CLINICIANS = 0.7818


def main(updates: int = 1_000, stays: int = 20_000, seed: int = 0) -> dict[str, Any]:
    """Run the example with `updates` gradient updates on `stays` stays, and return its main numbers."""
    # 1. Look at the log before learning anything from it.
    log = st.demo_log().head(stays)
    audit = st.audit(log)
    print(f"The log has {log.num_episodes:,} stays and {log.num_transitions:,} treatment decisions.\n{audit}")

    # 2. Keep 40% of the stays for the evaluation; the learner never sees them. To compare several candidates, keep a third part
    #    to choose among them, as `stitchrl run` does.
    train, test = log.split((0.6, 0.4), seed=seed)

    # 3. Learn. Here gamma is 1 because survival counts in full however long the stay is.
    iql = st.IQL(gamma=1.0, expectile=0.8, inverse_temperature=20, hidden_sizes=(128, 128), learning_rate=1e-3)
    run = st.fit(iql, train, updates=updates, seeds=[seed])

    # 4. Evaluate exactly what would be deployed: the policy that always takes its most probable action.
    result = st.evaluate(run.policy.greedy(), test, fit_on=train, audit_verdict=audit.verdict, seed=seed)
    seen = result.behavior
    print(
        f"\nOf the test stays {seen.value:.3f} survived [{seen.lower:.3f}, {seen.upper:.3f}]; exactly {EXACT_CLINICIANS}."
    )
    print("\nestimator   value  95% interval      gain  95% interval      can be trusted")
    for name, value in result.estimates.items():
        gain = result.gain[name]
        print(
            f"{name:9}  {value.value:6.3f}  [{value.lower:.3f}, {value.upper:.3f}]  {gain.value:+.3f}  "
            f"[{gain.lower:+.3f}, {gain.upper:+.3f}]  {'yes' if gain.healthy else 'no: ' + gain.reasons[0].split(':')[0]}"
        )

    # 5. The verdict is one rule, printed with the numbers that each of its lines rests on.
    print(f"\n{result.verdict}")
    healthy = [(gain.lower, gain.upper) for gain in result.gain.values() if gain.healthy]
    return {"decision": result.verdict.decision, "clinicians": (seen.lower, seen.upper), "healthy gains": healthy}


if __name__ == "__main__":
    main()
