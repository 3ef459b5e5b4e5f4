"""Planted failures of offline learning, each with the codes that are its own, for tests/diagnosis and benchmarks/failures.py.

A planting is looked at by the audit of the log, or by `st.diagnose` after a run with a probe, whose findings hold the red
flags of training too. It is a hit where one of its own codes is raised with a severity above a note.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gallery_worlds import Parts, control, cut_after, grid, hospital, parts, with_column

import stitchrl as st
from stitchrl.auditing.all_checks import CHECKS
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.diagnose import diagnose_members, findings_of_training, title_of
from stitchrl.diagnosis.subject import Member, Shared
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.results import Estimate
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import DEATH, ExactValues, compact_table, demo_log, icu_sepsis
from stitchrl.nn.policy import DiscretePolicy

__all__ = ["PLANTINGS", "Planting", "audited", "diagnosed", "fitted", "loud"]

NETWORK: dict[str, Any] = {"hidden_sizes": (32, 32), "learning_rate": 2e-3}
CRITICS: dict[str, Any] = NETWORK | {"gamma": 1.0, "target_rate": 0.04}
"""Settings of algorithms with critics on hospital stays, which end by themselves."""
UPDATES = 500

Found = list[Finding]


@dataclasses.dataclass(frozen=True)
class Planting:
    """A failure made on purpose.

    Attributes:
        name: in a few words.
        what: what was done, in a sentence.
        own: codes of which one must be raised.
        found: seed of the log -> what was found.
    """

    name: str
    what: str
    own: tuple[str, ...]
    found: Callable[[int], Found]

    def missed(self, found: Found) -> bool:
        """Whether none of its own codes was raised."""
        return not set(self.own) & loud(found)


def loud(found: Found) -> set[str]:
    """The codes of errors and warnings; notes never count."""
    return {finding.code for finding in found if finding.severity != "info"}


def fitted(algorithm: Any, log: Parts, *, updates: int = UPDATES, **settings: Any) -> st.Run:
    """Two seeds with a probe on what is held out, and 25 rows of metrics."""
    seeds = 1 if algorithm.closed_form else 2
    given: dict[str, Any] = {"seeds": seeds, "batch_size": 128, "log_every_updates": max(updates // 25, 1)}
    return st.fit(algorithm, log.train, updates=updates, probe=st.Probe(log.held_out), **(given | settings))


def diagnosed(algorithm: Any, log: Parts, *, newer: Dataset | None = None, **settings: Any) -> Found:
    """What `st.diagnose` finds on held-out rows of a run; the behaviour of a log is fitted once for several runs."""
    run = fitted(algorithm, log, **settings)
    if newer is not None:
        return list(st.diagnose(run, log.held_out, newer=newer).findings)
    members = [
        Member(f"seed {seed}", policy, value, run.algorithm, run=run)
        for seed, policy, value in zip(run.seeds, run.policies, run.values, strict=True)
    ]
    return list(diagnose_members(title_of(run), members, shared(log.held_out), findings_of_training(run)).findings)


@lru_cache(maxsize=4)
def shared(log: Dataset) -> Shared:
    """What is known of a log, whichever policy is looked at."""
    return Shared(log)


def audited(log: Dataset) -> Found:
    """What the audit finds, without its history checks, which take most of its time."""
    facts = Facts(log, None)
    return [one for check in CHECKS if not check.__name__.startswith("history") for one in check(log, facts)]


def both(log: Parts, change: Callable[[Dataset], Dataset]) -> Parts:
    """Both parts changed alike."""
    return Parts(*map(change, log))


def with_rewards(log: Dataset, reward: np.ndarray) -> Dataset:
    """The log with other rewards."""
    return dataclasses.replace(log, reward=reward.astype(np.float32))


# --- what is wrong with the log -----------------------------------------------------------------------------------


def timeouts_as_deaths(seed: int) -> Found:
    log, cut = cut_after(hospital(seed).train, 12)
    return audited(dataclasses.replace(log, truncated=log.truncated & ~cut, terminated=log.terminated | cut))


def leaking(seed: int) -> Found:
    log = hospital(seed).train
    outcome = np.repeat(log.episode_returns(1.0), log.episode_lengths)
    return audited(with_column(log, outcome + 0.01 * np.random.default_rng(seed).normal(size=len(outcome)), 3))


def column_of_action(seed: int) -> Found:
    log = hospital(seed).train
    dose = (log.action // 5).astype(np.float64)
    return audited(with_column(log, dose + 0.05 * np.random.default_rng(seed).normal(size=len(dose)), 3))


def wrong_propensities(seed: int) -> Found:
    log = hospital(seed).train
    probs = log.behavior_probs
    assert probs is not None
    sharp = np.where(log.action_mask, probs**2, 0.0)
    sharp = (sharp / sharp.sum(1, keepdims=True)).astype(np.float32)
    chosen = np.log(sharp[np.arange(len(sharp)), log.action])
    return audited(dataclasses.replace(log, behavior_probs=sharp, behavior_log_prob=chosen))


def drowned(seed: int) -> Found:
    return audited(control(seed, share=0.1, gain=1.0, std=0.2).train)


def expert_alone(seed: int) -> Found:
    return audited(control(seed, std=0.005).train)


def without_rewards(seed: int) -> Found:
    log = hospital(seed).train
    return audited(with_rewards(log, np.zeros(log.num_transitions)))


# --- what is wrong with the algorithm or its settings --------------------------------------------------------------


def masks_ignored(seed: int) -> Found:
    train, held_out = hospital(seed)
    columns = {role: name for role, name in train.schema.columns.items() if role != "action_mask"}
    schema = dataclasses.replace(train.schema, columns=columns)
    run = fitted(
        st.IQL(**CRITICS),
        both(Parts(train, held_out), lambda part: dataclasses.replace(part, action_mask=None, schema=schema)),
    )
    return list(st.diagnose(run, held_out).findings)


def noisy(log: Parts, seed: int) -> Parts:
    """Normal noise on every reward, three times as large as the reward of a survival."""
    rng = np.random.default_rng(seed)
    return both(log, lambda part: with_rewards(part, part.reward + 3.0 * rng.normal(size=part.num_transitions)))


def unscaled_column(seed: int) -> Found:
    log = both(hospital(seed), lambda part: with_column(part, 3e4 + 1e3 * part.observation[:, 3], 3))
    return diagnosed(st.IQL(**CRITICS), log, standardize=False)


class ByColumn(DiscretePolicy):
    """Nearly always takes the action whose number a column holds, where it is allowed."""

    column: int

    def logits(self, obs: Any, *, action_mask: Any = None) -> Any:
        wanted = jnp.clip(jnp.round(jnp.asarray(obs)[:, self.column]), 0, 24).astype(jnp.int32)
        return 6.0 * jax.nn.one_hot(wanted, 25, dtype=jnp.float32)


def one_column(seed: int) -> Found:
    log = hospital(seed).held_out
    return list(st.diagnose(ByColumn(3), with_column(log, log.action.astype(np.float64), 3)).findings)


def copies_last(seed: int) -> Found:
    log = hospital(seed).held_out
    last = np.where(log.position == 0, 0, np.append(0, log.action[:-1]))
    return list(st.diagnose(ByColumn(3), with_column(log, last, 3)).findings)


def changed_world(seed: int) -> Found:
    log = hospital(seed)
    newer = parts(demo_log(compact_table(_deadlier().draw(icu_sepsis().clinicians, 1200, seed=seed))), (4000, 500))
    return diagnosed(st.BC(**NETWORK), log, newer=newer.train, updates=300)


@cache
def _deadlier() -> FiniteMDP:
    """The world of the hospital, in which a tenth of all decisions ends in death whatever is done."""
    mdp = icu_sepsis().mdp
    live = ~mdp.terminal
    transition = mdp.transition.copy()
    transition[live] *= 0.9
    transition[live, :, DEATH] += 0.1
    return dataclasses.replace(mdp, transition=transition)


def deployed_below(seed: int) -> Found:
    log = hospital(seed)
    run = fitted(st.BC(**NETWORK), log, seeds=1, updates=300)
    deaths = np.random.default_rng(seed).random(400) < 0.55
    return _with_estimate(run, log, np.where(deaths, 0.0, 1.0))


def claims_too_much(seed: int) -> Found:
    log = hospital(seed)
    return _with_estimate(fitted(st.DQN(**CRITICS), log, seeds=1), log)


def _with_estimate(run: st.Run, log: Parts, deployed: np.ndarray | None = None) -> Found:
    """What is found of the first seed with an estimate that is right: the exact value of its policy in the world of the stays."""
    exact = ExactValues().value(run.policy)
    estimand = Estimand.of(log.held_out, gamma=1.0)
    estimate = Estimate("exact", exact, exact - 0.02, exact + 0.02, 0.01, 0.95, estimand)
    value = run.values[0]
    member = Member("seed 0", run.policy, value, run.algorithm, estimate, deployed=deployed, run=run)
    return list(diagnose_members(title_of(run), [member], shared(log.held_out), findings_of_training(run)).findings)


def other_units(seed: int) -> Found:
    log = control(seed)
    run = fitted(st.BC(**NETWORK), log, updates=300)
    percent = dataclasses.replace(log.held_out, action=100 * log.held_out.action, behavior_log_prob=None)
    return list(st.diagnose(run, percent).findings)


def few_stays(seed: int, stays: int = 100) -> Parts:
    """As many decisions as the first stays have on average, whatever the seed."""
    log = hospital(seed)
    return Parts(parts(log.train, (9 * stays, 9))[0], log.held_out)


def _run(algorithm: Any, world: Callable[[int], Parts] = hospital, **settings: Any) -> Callable[[int], Found]:
    return lambda seed: diagnosed(algorithm, world(seed), **settings)


OVERESTIMATES = (
    "impossible-value",
    "policy-claim",
    "actions-without-support",
    "far-from-behavior",
    "claims-without-support",
)
FAST: dict[str, Any] = CRITICS | {"hidden_sizes": (64, 64), "learning_rate": 3e-3}
CONTINUOUS: dict[str, Any] = NETWORK | {"gamma": 0.9, "target_rate": 0.04}

PLANTINGS: tuple[Planting, ...] = (
    Planting(
        "naive DQN", "Q-learning without a constraint on 1,200 hospital stays", OVERESTIMATES, _run(st.DQN(**CRITICS))
    ),
    Planting(
        "naive TD3", "TD3 on a log of a narrow controller", OVERESTIMATES,
        _run(st.TD3(**CONTINUOUS), lambda seed: control(seed, std=0.05)),
    ),
    Planting(
        "CQL far too strong", "`cql_weight` 1000", ("penalty-decides", "pessimistic-value"),
        _run(st.CQL(**CRITICS, cql_weight=1000.0)),
    ),
    Planting(
        "AWR, temperature to 0", "`inverse_temperature` 10,000", ("collapsed-weights", "capped-weights"),
        _run(st.AWR(**NETWORK, gamma=1.0, inverse_temperature=1e4)),
    ),
    Planting(
        "AWR, temperature to infinity", "`inverse_temperature` 0.001", ("equal-weights",),
        _run(st.AWR(**NETWORK, gamma=1.0, inverse_temperature=1e-3)),
    ),
    Planting("IQL, expectile 0.5", "values of the behaviour", ("expectile-low",), _run(st.IQL(**CRITICS, expectile=0.5))),
    Planting(
        "IQL, expectile 0.999", "values of the luckiest outcome", ("expectile-high",),
        _run(st.IQL(**CRITICS, expectile=0.999)),
    ),
    Planting("BCQ, threshold 0", "no constraint is left", ("threshold-off",), _run(st.BCQ(**CRITICS, threshold=0.0))),
    Planting("BCQ, threshold 0.999", "no choice is left", ("threshold-strict",), _run(st.BCQ(**CRITICS, threshold=0.999))),
    Planting(
        "timeouts as deaths", "stays cut after 12 steps and marked as ended", ("time-limit-as-terminal",),
        timeouts_as_deaths,
    ),
    Planting(
        "a good source drowned", "a tenth by a controller, nine tenths noise, told by a column",
        ("source-drowned", "quality-drowned", "mostly-random"), drowned,
    ),
    Planting(
        "an observation that leaks", "a column holds the outcome of the stay", ("observation-leaks-outcome",), leaking
    ),
    Planting(
        "a column made of the action", "a column holds the dose of the same row",
        ("observation-leaks-action", "observation-made-of-action"), column_of_action,
    ),
    Planting(
        "gamma too high", "gamma 0.999 on episodes that are cut after 20 steps", ("gamma-too-large",),
        _run(st.IQL(**(CONTINUOUS | {"gamma": 0.999})), control),
    ),
    Planting(
        "gamma too low", "gamma 0.3 where the reward comes at the end", ("gamma-too-small",),
        _run(st.IQL(**(CRITICS | {"gamma": 0.3}))),
    ),
    Planting(
        "a reward shift", "-0.2 on every step of stays that end", ("reward-shift-changes-order",),
        _run(st.IQL(**CRITICS), reward_shift=-0.2),
    ),
    Planting(
        "noise on rewards", "noise with three times the size of a reward, at expectile 0.9",
        ("expectile-high", "held-out-error", "seeds-claim-differently"),
        _run(st.IQL(**CRITICS, expectile=0.9), lambda seed: noisy(hospital(seed), seed)),
    ),
    Planting(
        "noise on few rewards", "the same in 40 stays, learned for 1,000 updates", ("held-out-error",),
        _run(st.IQL(**FAST), lambda seed: noisy(few_stays(seed, 40), seed), updates=1000),
    ),
    Planting(
        "another world later", "newer stays in which a tenth of all decisions ends in death",
        ("dynamics-shift", "reward-shift"), changed_world,
    ),
    Planting(
        "a dead network", "a column of size 30,000 that is not standardised", ("dead-units",), unscaled_column
    ),
    Planting(
        "learning rate too high", "a learning rate of 3 for IQL",
        ("critic-growth", "impossible-value", "diverged", "dead-units"), _run(st.IQL(**(CRITICS | {"learning_rate": 3.0}))),
    ),
    Planting(
        "entropy instead of rewards", "SAC held to nearly uniform actions, with a temperature that rises without end",
        ("entropy-outweighs-rewards",),
        _run(st.SAC(**CONTINUOUS, actor_learning_rate=2e-3, first_temperature=0.05), grid, updates=2000),
    ),
    Planting(
        "bounds of actions too wide", "actions within 2 of each other in bounds of -100 to 100", ("actions-in-a-sliver",),
        _run(st.BC(**NETWORK), lambda seed: control(seed, bound=100.0)),
    ),
    Planting(
        "actions in another unit", "a run diagnosed on a log whose actions are in percent", ("actions-outside-scale",),
        other_units,
    ),
    Planting("masks ignored", "learned without the mask that the log has", ("takes-forbidden-actions",), masks_ignored),
    Planting(
        "propensities wrong", "the logged probabilities squared",
        ("propensities-uncalibrated", "propensities-uncalibrated-in-part", "propensities-beaten"), wrong_propensities,
    ),
    Planting(
        "seeds that disagree", "Q-learning on 100 stays", ("seeds-disagree", "seeds-claim-differently"),
        _run(st.DQN(**CRITICS), few_stays, batch_size=32),
    ),
    Planting(
        "a policy that copies the last action", "a policy that goes on with the treatment of the last step",
        ("repeats-last-action",), copies_last,
    ),
    Planting(
        "a policy that follows one column", "a policy that reads its action from a column which was filled in after it",
        ("follows-one-column",), one_column,
    ),
    Planting(
        "expert data alone", "a controller with hardly any noise", ("behavior-deterministic",), expert_alone
    ),
    Planting(
        "learned by heart", "1,000 updates on 40 stays, imitation", ("held-out-likelihood",),
        _run(st.BC(hidden_sizes=(64, 64), learning_rate=3e-3), lambda seed: few_stays(seed, 40), updates=1000),
    ),
    Planting(
        "values by heart", "1,000 updates on 40 stays, IQL", ("held-out-error", "held-out-likelihood"),
        _run(st.IQL(**FAST), lambda seed: few_stays(seed, 40), updates=1000),
    ),
    Planting(
        "too few updates", "300 updates of imitation from a wide start", ("updates-too-few",),
        _run(st.BC(**NETWORK), control, updates=300),
    ),
    Planting("no rewards", "all rewards are 0", ("returns-constant",), without_rewards),
    Planting(
        "deployed below the estimate", "returns of 400 deployed stays, in which half die", ("estimate-optimistic",),
        deployed_below,
    ),
    Planting(
        "a claim above the estimate", "Q-learning beside an estimate that is right", ("claim-above-estimate",),
        claims_too_much,
    ),
)  # fmt: skip
