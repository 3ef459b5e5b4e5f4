"""Health checks of ratios: whether what they weigh is in balance, and whether they are calibrated."""

from __future__ import annotations

from stitchrl.data.atoms import LEAST_SHARE
from stitchrl.evaluation.balance import JointTest
from stitchrl.evaluation.health import Check

__all__ = [
    "UNLIKELY",
    "check_action_balance",
    "check_balance",
    "check_calibration",
    "check_carried_mass",
    "check_choice_balance",
    "check_clipping",
    "check_density_at_atoms",
    "check_outside",
    "check_regional_balance",
    "check_termination_mass",
    "check_untested_calibration",
    "check_untested_clipping",
]

TERMINATION_SLACK = 0.1
"""How far the sum of the chances of ending, each normalised at its own step, may be from 1."""
MAXIMUM_IMBALANCE = 0.2
"""Largest `Refit.imbalance` at which the refitted FQE is trusted."""
UNLIKELY = 1e-3
"""Chance below which a deviation of the ratios is not put down to luck."""
CALIBRATION_SLACK = 0.02
"""How far the average of the ratios of logged actions in regions of the observations may be from 1."""
BALANCE_SLACK = 0.1
"""Share of the first states that the weights may gain or lose on their way through the regions of the observations."""
MAXIMUM_OUTSIDE = 0.05
"""Share of a policy's drawn actions that may have a number beyond the range of the logged ones."""


def check_termination_mass(mass: float) -> Check:
    """Where each step is normalised by itself, the chances of ending at each step must still sum to 1."""
    passed = abs(mass - 1.0) <= TERMINATION_SLACK
    seen = f"The chances of ending at each step sum to {mass:.2f}"
    sentence = (
        f"{seen}, where 1 is expected."
        if passed
        else f"{seen} where 1 is expected: a reward at the end of an episode counts {mass:.2f} times."
    )
    return Check("termination-mass", mass, 1.0, passed, sentence)


def check_balance(imbalance: float) -> Check:
    """Where no logged decisions lead where the policy goes, no weights can carry the correction there.

    Args:
        imbalance: `Refit.imbalance`.
    """
    passed = imbalance <= MAXIMUM_IMBALANCE
    seen = f"The weights leave {imbalance:.0%} of the first states' features unbalanced"
    if passed:
        sentence = f"{seen}, at most {MAXIMUM_IMBALANCE:.0%}."
    else:
        sentence = f"{seen}, above {MAXIMUM_IMBALANCE:.0%}: the log does not go where the policy goes."
    return Check("imbalance", imbalance, MAXIMUM_IMBALANCE, passed, sentence)


def check_regional_balance(test: JointTest) -> Check:
    """Right weights lead from the first states of the episodes through every region to their ends."""
    return _balance_of("regional-balance", "of the observations", "where the policy goes", test)


def check_carried_mass(test: JointTest) -> Check:
    """Right ratios of visits carry each episode to one end; ratios that are all too large or too small do not."""
    passed = test.p_value >= UNLIKELY or test.size <= BALANCE_SLACK
    seen = f"By the weights, each episode should end once on average, which is off by {test.size:.1%}"
    if passed:
        sentence = f"{seen} (at most {BALANCE_SLACK:.0%}, or no more than chance explains)."
    else:
        sentence = (
            f"{seen}, above {BALANCE_SLACK:.0%} and more than chance explains (p = {test.p_value:.1g}): the ratios of visits "
            "are too large or too small as a whole."
        )
    return Check("carried-mass", test.size, BALANCE_SLACK, passed, sentence)


def check_action_balance(test: JointTest) -> Check:
    """Weights must carry the policy's actions as well as its states, which fails where the log does not have such actions."""
    return _balance_of("action-balance", "of observations and actions together", "what the policy does", test)


def check_choice_balance(test: JointTest) -> Check:
    """Weights of state and action that use no propensities must still follow the policy's discrete actions."""
    passed = test.p_value >= UNLIKELY or test.size <= CALIBRATION_SLACK
    seen = f"Under the policy the weighted actions should be as likely as its own, which is off by {test.size:.1%}"
    if passed:
        sentence = f"{seen} (at most {CALIBRATION_SLACK:.0%}, or no more than chance explains)."
    else:
        sentence = f"{seen}, more than chance explains (p = {test.p_value:.1g}): the weights do not follow the policy's actions."
    return Check("action-balance", test.size, CALIBRATION_SLACK, passed, sentence)


def _balance_of(key: str, regions: str, lacking: str, test: JointTest) -> Check:
    passed = test.p_value >= UNLIKELY or test.size <= BALANCE_SLACK
    seen = f"Through the regions {regions} the weights gain or lose {test.size:.0%} of the episodes"
    if passed:
        why = (
            f"at most {BALANCE_SLACK:.0%}"
            if test.size <= BALANCE_SLACK
            else f"no more than chance explains (p = {test.p_value:.2g})"
        )
        sentence = f"{seen}, {why}."
    else:
        sentence = (
            f"{seen}, above {BALANCE_SLACK:.0%} and more than chance explains (p = {test.p_value:.1g}): the log does not "
            f"{'go ' if key == 'regional-balance' else 'show '}{lacking}."
        )
    return Check(key, test.size, BALANCE_SLACK, passed, sentence)


def check_calibration(test: JointTest, *, fitted: bool, densities: bool = False) -> Check:
    """Ratios to the behaviour's true probabilities average 1 over the logged actions, in every part of the log.

    Args:
        test: of the ratios in regions of the observations.
        fitted: whether the behaviour is a fitted model.
        densities: whether the ratios are of densities. Where these are very uneven the test fails too often, since the largest
            may not have been drawn.
    """
    passed = test.p_value >= UNLIKELY or test.size <= CALIBRATION_SLACK
    seen = f"Over regions of the observations the mean ratio of the logged actions differs from 1 by {test.size:.1%}"
    if passed:
        why = (
            f"at most {CALIBRATION_SLACK:.0%}"
            if test.size <= CALIBRATION_SLACK
            else f"no more than chance explains (p = {test.p_value:.2g})"
        )
        sentence = f"{seen}, {why}."
    else:
        wrong = "the logged propensities are not those of the logged actions"
        if densities:
            wrong += ", or too few of the actions that the policy prefers were logged to tell"
        whose = "the fitted behaviour is wrong" if fitted else wrong
        sentence = f"{seen}, more than chance explains (p = {test.p_value:.1g}): {whose}."
    return Check("calibration", test.size, CALIBRATION_SLACK, passed, sentence)


def check_density_at_atoms(weight: float, share: float) -> Check:
    """On a bound the policy has a density and the behaviour a probability; their quotient is no ratio.

    Args:
        weight: share of all weight that logged actions on bounds have.
        share: share of the logged actions that lie on bounds.
    """
    passed = weight <= LEAST_SHARE
    seen = f"{share:.1%} of the logged actions lie exactly on a bound, where the policy never is"
    if passed:
        sentence = (
            f"{seen}; its weights leave them out (they have {weight:.2%} of all weight, at most {LEAST_SHARE:.1%})."
        )
    else:
        sentence = (
            f"{seen}, and they have {weight:.1%} of all weight: a density of the policy is divided by a probability. Evaluate "
            "the policy as it is executed, clipped to the same bounds: st.ClippedPolicy(policy, low, high)."
        )
    return Check("clipping", weight, LEAST_SHARE, passed, sentence)


def check_clipping(test: JointTest, share: float, *, fitted: bool) -> Check:
    """Actions that are weighted rightly lie on the bounds they were clipped to as often as the policy's own.

    Args:
        test: the result of `clipping_test`.
        share: share of the logged actions that lie on bounds.
        fitted: whether the behaviour is a fitted model.
    """
    passed = test.p_value >= UNLIKELY or test.size <= CALIBRATION_SLACK
    seen = (
        f"{share:.1%} of the logged actions lie exactly on a bound; weighted, their share differs from the policy's by "
        f"{test.size:.1%}"
    )
    if passed:
        sentence = f"{seen} (at most {CALIBRATION_SLACK:.0%}, or no more than chance explains)."
    else:
        whose = (
            "the fitted behaviour is wrong there"
            if fitted
            else "the propensities logged there, or the policy's own log_prob, are not probabilities of being clipped. A density "
            "of the action before it was clipped is none: log the probability of the tail, or leave the column out"
        )
        sentence = f"{seen}, more than chance explains (p = {test.p_value:.1g}): {whose}."
    return Check("clipping", test.size, CALIBRATION_SLACK, passed, sentence)


def check_untested_clipping(share: float) -> Check:
    """Where only logged numbers of the policy are known, nothing tells whether those on bounds are probabilities.

    Args:
        share: share of the logged actions that lie on bounds.
    """
    return Check(
        "clipping",
        None,
        CALIBRATION_SLACK,
        False,
        f"{share:.1%} of the logged actions lie exactly on a bound, and nothing tells whether the policy's numbers there are "
        "probabilities or densities. Evaluate a policy that can be asked for actions at any observation.",
    )


def check_outside(share: float) -> Check:
    """A log says nothing about actions beyond all that were logged."""
    passed = share <= MAXIMUM_OUTSIDE
    seen = f"{share:.1%} of the policy's actions have a number beyond all logged ones"
    limit = f"{MAXIMUM_OUTSIDE:.0%}"
    sentence = f"{seen}, at most {limit}." if passed else f"{seen}, above {limit}: the log says nothing about them."
    return Check("outside", share, MAXIMUM_OUTSIDE, passed, sentence)


def check_untested_calibration() -> Check:
    """Without a density of the policy there are no ratios to test."""
    return Check(
        "calibration",
        None,
        CALIBRATION_SLACK,
        False,
        "The policy has no density, so there are no ratios by which the logged actions could be checked.",
    )
