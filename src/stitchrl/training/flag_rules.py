"""The rules of red flags on the metrics of one member: one pure function for each failure, with its healthy range.

Thresholds are set so that sound runs raise no flag; a comment at each gives the reason. Metrics named probe/... and
held_out/... come from a probe (`diagnosis.probe`); a rule that needs one raises no flag where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.messages import likelier
from stitchrl.training.value_limits import ValueLimits
from stitchrl.types import NumpyArray

__all__ = ["RULES", "Columns", "Found", "in_logged_units", "temperature_and_entropy"]

RECENT_ROWS = 5  # that "now" means: a chunk's mean is itself noisy
GROWTH_ROWS = 20  # fewest in which growth is looked for, so that a quarter of them is as many as "now"
LARGEST_GROWTH = 10.0  # of the critic loss; sound runs on Hopper raised it up to 6 times, as values rose from 0
ACCELERATION = 1.5  # times the growth of the quarter before: sound values level off once they are large
LARGE_VALUE = 0.5  # of the largest value possible; while they are small, values may well grow faster and faster
CLAIM_SHARE = 0.5  # of that value, by which a policy may claim to beat the log; true gains of half of it are rare
CAPPED_SHARE = 0.5  # of the weights at their cap: beyond it the better half of the log is not told apart
LEAST_ENTROPY = 0.01  # nats: one action has more than 99.8% on average
LEAST_SHARE = 0.05  # of a batch that still counts under its weights: a dozen rows of 256
EQUAL_SHARE = 0.999  # of a batch: weights that differ by some 3% change nothing
DEAD_SHARE = 0.75  # of the last hidden layer; sound deterministic actors lost up to 0.56, ruined networks 0.97
GENERALISATION = 1.5  # times the error on seen rows: sound runs on small logs stayed below
RISEN = 1.25  # times its least: held-out errors are noisy
SEEN_LOST = 0.05  # nats per decision that seen actions may lose in the same time; learned by heart, they gain
LIKELIHOOD_LOST = 0.2  # nats per decision; a fifth of one is seen in the behaviour's own table


class Found(NamedTuple):
    """What a rule found: at which update, what was seen, what a sound run would show, and what to do about it."""

    update: int
    seen: str
    expected: str
    action: str


Columns = Mapping[str, NumpyArray]
"""The rows of one member, at least one, by column: "update" and each metric, NaN where a row does not have it.

Values, temperatures and TD errors are in the log's unit of reward (`in_logged_units`), losses in that of training.
"""


def in_logged_units(columns: Columns, scale: float) -> dict[str, NumpyArray]:
    """Columns of metrics in the units of training -> in those of the rules; rewards were multiplied by `scale` in training."""
    rewarded = ("q/", "probe/q_", "probe/spread_")
    named = ("temperature", "probe/td_error", "held_out/td_error")
    return {
        name: column / scale if name.startswith(rewarded) or name in named else column
        for name, column in columns.items()
    }


def _impossible_value(rows: Columns, limits: ValueLimits) -> Found | None:
    claimed, bonus = _claimed(rows, np.fmax), _bonus(rows, limits)
    # Fresh networks overshoot, so the claim must last.
    allowed = np.where(_late(claimed), limits.highest(), limits.highest(fresh=True))
    row = _lasting(claimed > allowed + bonus)
    if row is None:
        return None
    possible = limits.high + bonus[row]
    return Found(
        int(rows["update"][row]),
        f"the critics claim a value of {claimed[row]:.3g} on average, where rewards"
        f"{' and an entropy bonus' if bonus[row] else ''} add up to {possible:.3g} at most",
        f"a mean value of at most {possible:.3g}",
        "The critic may be feeding on its own overestimates: lower the learning rate or the target rate, or use an algorithm "
        "that stays nearer to the log (IQL, or CQL with a larger `cql_weight`).",
    )


def _accelerating_value(rows: Columns, limits: ValueLimits) -> Found | None:
    values = np.abs(_present(rows, "q/data_mean"))
    largest = _largest(limits) + _bonus(rows, limits).max(initial=0.0)
    if len(values) < GROWTH_ROWS or not math.isfinite(largest):
        return None
    smooth = _smoothed(values)
    quarter = len(values) // 4
    before, last = smooth[-quarter] - smooth[-2 * quarter], smooth[-1] - smooth[-quarter]
    if not (last > ACCELERATION * before > 0 and smooth[-1] > LARGE_VALUE * largest):
        return None
    return Found(
        int(rows["update"][-1]),
        f"the mean value of logged actions is {smooth[-1]:.3g}, where rewards allow {largest:.3g}, and it grows faster and "
        f"faster: by {last:.3g} in the last quarter of training, after {before:.3g} in the one before",
        "growth that slows down, as each step of a backup that discounts does",
        "The critic feeds on its own values: lower the learning rate or the target rate, or use an algorithm that stays nearer "
        "to the log.",
    )


def _policy_claim(rows: Columns, limits: ValueLimits) -> Found | None:
    gap = _metric(rows, "q/policy_mean") - _metric(rows, "q/data_mean")
    gap = np.where(np.isnan(gap), _metric(rows, "probe/q_gap"), gap)
    # Fresh networks claim anything, the more so among many actions, so the claim must last.
    row = _lasting(gap > CLAIM_SHARE * _largest(limits))
    if row is None:
        return None
    return Found(
        int(rows["update"][row]),
        f"the critic values the policy's actions {gap[row]:.3g} above the logged ones, where rewards allow values of "
        f"{_largest(limits):.3g}",
        f"a difference of at most {CLAIM_SHARE:.0%} of that",
        "It may overestimate actions that the log never shows: do not trust this value, and hold the policy nearer to the log.",
    )


def _pessimistic_value(rows: Columns, limits: ValueLimits) -> Found | None:
    claimed, loss = _claimed(rows, np.fmin), limits.entropy_loss(*temperature_and_entropy(rows))
    # Fresh networks claim values near 0, which may be far below what every episode returns.
    row = _lasting((claimed < limits.lowest(loss)) & _late(claimed))
    if row is None:
        return None
    return Found(
        int(rows["update"][row]),
        f"the critics claim a value of {claimed[row]:.3g} on average, where rewards add up to {limits.low - loss:.3g} at least",
        f"a mean value of at least {limits.low - loss:.3g}",
        "The penalty on values outweighs the rewards: lower `cql_weight` or the pessimism of the ensemble, or scale rewards up. "
        "Without a penalty the critic is running away: lower the learning rate.",
    )


def _constant_value(rows: Columns, limits: ValueLimits) -> Found | None:
    spread = _recent(rows, "probe/q_states")
    if not spread or len(_present(rows, "probe/q_states")) < GROWTH_ROWS or max(spread) >= limits.least_spread:
        return None
    return Found(
        int(rows["update"][-1]),
        f"the claimed values of {SAMPLE} have a standard deviation of {max(spread):.2g}, where the returns that followed logged "
        f"decisions have one of {limits.spread:.3g}",
        f"a standard deviation of at least {limits.least_spread:.2g}",
        "The critic gives nearly every state the same value: raise the learning rate, look at `probe/dead_units`, and see "
        "whether the observations hold any information (the audit's findings on them).",
    )


def _entropy_outweighs(rows: Columns, limits: ValueLimits) -> Found | None:
    temperatures = _recent(rows, "temperature")
    if not temperatures or len(_present(rows, "temperature")) < GROWTH_ROWS:
        return None
    bonus = limits.entropy_bonus(fmean(temperatures))
    if not limits.width or not math.isfinite(bonus) or bonus <= limits.largest_bonus:
        return None
    return Found(
        int(rows["update"][-1]),
        f"the temperature is {fmean(temperatures):.3g}, at which acting at random adds up to {bonus:.3g} to a value by its "
        f"entropy bonus, where rewards make values differ by {limits.width:.3g} at most",
        f"a bonus of at most {limits.largest_bonus:.3g}",
        "Claimed values then tell more of the policy's randomness than of rewards, and the temperature may go on rising. "
        "Lower `entropy_share` (0.3 suits a fixed log), start from a lower `first_temperature`, or scale rewards up.",
    )


def _critic_growth(rows: Columns, limits: ValueLimits) -> Found | None:
    losses = _present(rows, "loss/critic")
    if len(losses) < GROWTH_ROWS:
        return None
    quarter = len(losses) // 4
    first, last = float(losses[:quarter].mean()), float(losses[-quarter:].mean())
    # Below a reward's own square, growth is a sparse reward's signal arriving, not divergence.
    if not last > max(LARGEST_GROWTH * first, (limits.reward * limits.scale) ** 2):
        return None
    return Found(
        int(rows["update"][-1]),
        f"the critic loss rose from {first:.3g} to {last:.3g}",
        f"a rise of at most {LARGEST_GROWTH:g} times",
        "Its targets may be running away: lower the learning rate or the target rate, or scale rewards down.",
    )


def _capped_weights(rows: Columns, limits: ValueLimits) -> Found | None:
    recent = _recent(rows, "weight/clipped")
    if not recent or fmean(recent) <= CAPPED_SHARE:
        return None
    return Found(
        int(rows["update"][-1]),
        f"{fmean(recent):.0%} of the advantage weights are at their cap",
        f"at most {CAPPED_SHARE:.0%}",
        "Most transitions then count alike, good or merely less bad: lower the inverse temperature, or scale rewards down.",
    )


def _collapsed_weights(rows: Columns, limits: ValueLimits) -> Found | None:
    recent = _recent(rows, "weight/effective_share")
    if not recent or fmean(recent) >= LEAST_SHARE:
        return None
    return Found(
        int(rows["update"][-1]),
        f"under the weights only {fmean(recent):.1%} of a batch counts (the effective sample size)",
        f"at least {LEAST_SHARE:.0%}",
        "A few rows decide every update, and the policy copies them with their noise: lower the inverse temperature, or use "
        "larger batches.",
    )


def _equal_weights(rows: Columns, limits: ValueLimits) -> Found | None:
    recent = _recent(rows, "weight/effective_share")
    if not recent or fmean(recent) <= EQUAL_SHARE:
        return None
    return Found(
        int(rows["update"][-1]),
        f"the advantage weights hardly differ: {fmean(recent):.2%} of a batch counts (the effective sample size)",
        f"at most {EQUAL_SHARE:.1%}",
        "The policy imitates the whole log, as BC does: raise the inverse temperature, or scale rewards up.",
    )


def _collapsed_entropy(rows: Columns, limits: ValueLimits) -> Found | None:
    # "policy/agreement" is there for discrete actions only; a density's entropy may well be below 0.
    discrete = not math.isnan(_metric(rows, "policy/agreement")[-1])
    recent = _recent(rows, "policy/entropy") if discrete else []
    if not recent or fmean(recent) >= LEAST_ENTROPY:
        return None
    return Found(
        int(rows["update"][-1]),
        f"the policy always takes one action: in a typical decision it gives it {math.exp(-fmean(recent)):.2%}",
        f"at most {math.exp(-LEAST_ENTROPY):.0%}",
        "Unless the log does so too, it overfits or its weights single out few transitions: stop earlier, or lower the inverse "
        "temperature.",
    )


def _dead_units(rows: Columns, limits: ValueLimits) -> Found | None:
    recent = _recent(rows, "probe/dead_units")
    if not recent or fmean(recent) <= DEAD_SHARE:
        return None
    return Found(
        int(rows["update"][-1]),
        f"{fmean(recent):.0%} of the last hidden layer of a network is 0 on all of {SAMPLE}",
        f"at most {DEAD_SHARE:.0%}",
        "These units contribute nothing and do not learn: lower the learning rate, use layer normalisation or another "
        'activation (`Network(activation="gelu")`), and see whether an observation column has another scale than the rest.',
    )


def _held_out_error(rows: Columns, limits: ValueLimits) -> Found | None:
    held_out, seen = _present(rows, "held_out/td_error"), _present(rows, "probe/td_error")
    if len(held_out) < GROWTH_ROWS or len(seen) != len(held_out):
        return None
    smooth = _smoothed(held_out)
    best = int(smooth.argmin())
    if smooth[-1] <= RISEN * smooth[best] or smooth[-1] <= GENERALISATION * _smoothed(seen)[-1]:
        return None
    update = int(rows["update"][~np.isnan(_metric(rows, "held_out/td_error"))][best])
    return Found(
        int(rows["update"][-1]),
        f"the TD error on held-out rows rose from {smooth[best]:.3g} at update {update:,} to {smooth[-1]:.3g}, where that on "
        f"seen rows is {_smoothed(seen)[-1]:.3g}",
        f"a rise of at most {RISEN - 1:.0%}, or an error of at most {GENERALISATION:g} times that on seen rows",
        f"The critic learns its rows by heart. Stop near update {update:,} (`updates=`, or a stop rule on held_out/td_error), or "
        "use a smaller network or a larger log.",
    )


def _held_out_likelihood(rows: Columns, limits: ValueLimits) -> Found | None:
    held_out, seen = _present(rows, "held_out/log_prob"), _present(rows, "probe/log_prob")
    # A greedy policy gives probability 0 to all other actions, so that its likelihood says nothing.
    if len(held_out) < GROWTH_ROWS or len(seen) != len(held_out) or math.isnan(_metric(rows, "loss/actor")[-1]):
        return None
    smooth, known = _smoothed(held_out), _smoothed(seen)
    best = int(smooth.argmax())
    lost = float(smooth[best] - smooth[-1])
    # Where seen actions become less probable as well, the policy leaves the log for higher values, and does not overfit.
    if lost <= LIKELIHOOD_LOST or known[best] - known[-1] > SEEN_LOST:
        return None
    update = int(rows["update"][~np.isnan(_metric(rows, "held_out/log_prob"))][best])
    return Found(
        int(rows["update"][-1]),
        f"under the policy held-out actions became {likelier(-lost)} on average since update {update:,}, and seen ones did not: "
        f"compared with held-out ones, these are {likelier(known[-1] - smooth[-1])}",
        f"held-out actions that become at most {likelier(-LIKELIHOOD_LOST)}",
        f"The policy learns its rows by heart. Stop near update {update:,} (`updates=`, or a stop rule on held_out/log_prob), or "
        "use a smaller network or dropout.",
    )


def _nothing_learned(rows: Columns, limits: ValueLimits) -> Found | None:
    for name in ("loss/critic", "loss/value"):
        recent = _recent(rows, name)
        if recent and not any(recent):
            return Found(
                int(rows["update"][-1]),
                f"{name} is exactly 0 over {RECENT_ROWS} rows",
                "a loss above 0",
                "Nothing is being learned: rewards may all be 0, or no transition may have a target (see the audit).",
            )
    return None


SAMPLE = "the probe's rows"
RULES: dict[str, Callable[[Columns, ValueLimits], Found | None]] = {
    "impossible-value": _impossible_value,
    "accelerating-value": _accelerating_value,
    "policy-claim": _policy_claim,
    "pessimistic-value": _pessimistic_value,
    "constant-value": _constant_value,
    "entropy-outweighs-rewards": _entropy_outweighs,
    "critic-growth": _critic_growth,
    "capped-weights": _capped_weights,
    "collapsed-weights": _collapsed_weights,
    "equal-weights": _equal_weights,
    "collapsed-entropy": _collapsed_entropy,
    "dead-units": _dead_units,
    "held-out-error": _held_out_error,
    "held-out-likelihood": _held_out_likelihood,
    "nothing-learned": _nothing_learned,
}
"""Code -> the rule that looks for it in the rows of one member."""


def temperature_and_entropy(rows: Columns) -> tuple[float, float]:
    """The largest temperature of soft actor-critic, and the least entropy of its policy, over these rows; 0 without one.

    The largest temperature, because critics follow a falling temperature with a delay.
    """
    temperature, entropy = _present(rows, "temperature"), _present(rows, "policy/entropy")
    if not len(temperature):
        return 0.0, 0.0
    return float(temperature.max()), float(entropy.min()) if len(entropy) else 0.0


def _bonus(rows: Columns, limits: ValueLimits) -> Float[NumpyArray, " N"]:
    """What entropy adds to a value at most, by the largest temperature up to each row."""
    temperature = np.nan_to_num(_metric(rows, "temperature"))
    return np.asarray([limits.entropy_bonus(float(t)) for t in np.maximum.accumulate(temperature)])


def _claimed(rows: Columns, of_both: Callable[..., NumpyArray]) -> Float[NumpyArray, " N"]:
    """The mean claim of each row, of logged or of the policy's actions, whichever is more extreme; NaN where there is none."""
    policy = _metric(rows, "q/policy_mean")
    policy = np.where(np.isnan(policy), _metric(rows, "probe/q_policy"), policy)
    logged = _metric(rows, "q/data_mean")
    logged = np.where(np.isnan(logged), _metric(rows, "probe/q_logged"), logged)
    claimed: Float[NumpyArray, " N"] = of_both(logged, policy)
    return claimed


def _late(claimed: Float[NumpyArray, " N"]) -> Bool[NumpyArray, " N"]:
    """Which rows may be among the last `RECENT_ROWS` at the twentieth row that has a claim, or later."""
    late: Bool[NumpyArray, " N"] = np.cumsum(~np.isnan(claimed)) > GROWTH_ROWS - RECENT_ROWS
    return late


def _largest(limits: ValueLimits) -> float:
    """The largest absolute value that rewards allow; infinite where it is not known, and where all rewards are 0."""
    return max(abs(limits.low), abs(limits.high)) or math.inf


def _smoothed(values: Float[NumpyArray, " N"]) -> Float[NumpyArray, " N"]:
    """The mean of each value and up to `RECENT_ROWS` - 1 before it."""
    sums = np.cumsum(values)
    sums[RECENT_ROWS:] -= np.cumsum(values)[:-RECENT_ROWS]
    counts: Float[NumpyArray, " N"] = sums / np.minimum(np.arange(1, len(values) + 1), RECENT_ROWS)
    return counts


def _metric(rows: Columns, name: str) -> Float[NumpyArray, " N"]:
    """The metric of each row; NaN where it has none."""
    return rows[name] if name in rows else np.full(len(rows["update"]), np.nan)


def _present(rows: Columns, name: str) -> Float[NumpyArray, " _"]:
    """The metric of the rows that have it."""
    values = _metric(rows, name)
    return values[~np.isnan(values)]


def _recent(rows: Columns, name: str) -> list[float]:
    """The metric's last rows; none where there are too few."""
    values: list[float] = _present(rows, name)[-RECENT_ROWS:].tolist()
    return values if len(values) == RECENT_ROWS else []


def _lasting(seen: Bool[NumpyArray, " N"]) -> int | None:
    """Index of the first row at the end of `RECENT_ROWS` rows in a row in which something was seen; None without one."""
    lasting = np.convolve(seen, np.ones(RECENT_ROWS))[: len(seen)] == RECENT_ROWS
    return int(np.argmax(lasting)) if lasting.any() else None
