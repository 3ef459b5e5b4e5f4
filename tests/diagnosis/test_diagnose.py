"""`st.diagnose` and its command: planted claims are named with their numbers, sound ones are not, bad input is one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from commands import Command
from worlds import random_log

import stitchrl as st
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.deployment.guard import Guard
from stitchrl.diagnosis.diagnose import diagnose_members
from stitchrl.diagnosis.subject import Member
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.results import Estimate
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue
from stitchrl.training.flags import RedFlag
from stitchrl.training.history import History
from stitchrl.training.value_limits import ValueLimits


def with_propensities(log: st.Dataset) -> st.Dataset:
    """Its actions were drawn evenly; knowing it, nothing fits a behaviour."""
    probs = np.full((log.num_transitions, 3), 1 / 3, np.float32)
    return dataclasses.replace(log, behavior_probs=probs, behavior_log_prob=np.log(probs[:, 0]))


MASKED = with_propensities(random_log(200))
LOG = dataclasses.replace(MASKED, action_mask=None)
RETURNS = LOG.episode_returns(LOG.schema.gamma)


class Even(DiscretePolicy):
    """Takes every action alike."""

    def logits(self, obs: Any, *, action_mask: Any = None) -> Any:
        return jnp.zeros((len(obs), 3))


class Claim(DiscreteValue):
    """Claims so much for every action, more where the first column is larger."""

    level: float
    slope: float = 1.0

    def q_all(self, obs: Any) -> Any:
        return jnp.repeat(self.level + self.slope * jnp.asarray(obs)[:, :1], 3, axis=1)

    def v(self, obs: Any, *, action_mask: Any = None) -> Any:
        return self.q_all(obs)[:, 0]


def diagnosis(value: DiscreteValue | None, estimate: Estimate | None = None) -> st.Diagnosis:
    member = Member("seed 0", Even(), value, st.DQN(gamma=LOG.schema.gamma), estimate)
    return diagnose_members("planted", [member], LOG)


def values_only(found: st.Diagnosis) -> set[str]:
    return {code for code in found.codes if "value" in code or "claim" in code}


def test_claims_are_held_against_what_rewards_allow() -> None:
    low, high = found_range()
    assert values_only(diagnosis(Claim(float(RETURNS.mean())))) == set()
    impossible = diagnosis(Claim(high + 0.2 * (high - low)))
    assert values_only(impossible) == {"impossible-value"}
    finding = next(f for f in impossible.findings if f.code == "impossible-value")
    assert (finding.severity, finding.where) == ("error", "seed 0: claimed values")
    assert f"{high:.4g} at most" in finding.seen
    assert values_only(diagnosis(Claim(low - 0.2 * (high - low)))) == {"pessimistic-value"}
    assert values_only(diagnosis(Claim(float(RETURNS.mean()), 1e-5))) == {"constant-value"}


def found_range() -> tuple[float, float]:
    low, high = diagnosis(Claim(0.0)).numbers["seed 0"]["values"]["attainable"]
    return low, high


def test_claims_are_held_against_an_estimate() -> None:
    estimand = Estimand(LOG.schema.gamma)
    near = Estimate("wdr", 0.0, -0.5, 0.5, 0.25, 0.95, estimand)
    first = LOG.observation_table[LOG.observation_index[LOG.episode_start[:-1]]][:, 0].mean()
    sound = Claim(-float(first))  # which claims 0 on average at the start
    assert values_only(diagnosis(sound, near)) == set()
    assert values_only(diagnosis(sound, dataclasses.replace(near, value=-2.0, lower=-2.5, upper=-1.5))) == {
        "claim-above-estimate"
    }
    assert values_only(diagnosis(sound, dataclasses.replace(near, value=2.0, lower=1.5, upper=2.5))) == {
        "claim-below-estimate"
    }
    other = diagnosis(sound, dataclasses.replace(near, estimand=Estimand(0.5), value=2.0, lower=1.5, upper=2.5))
    assert "claim_against_estimate" in other.skipped


def test_values_are_held_against_the_rewards_of_the_training_log_where_they_are_known() -> None:
    """Rewards twice as large in training: a claim of 1.8 times what the log looked at allows is possible."""
    high = found_range()[1]
    twice = dataclasses.replace(LOG, reward=2 * LOG.reward)
    run = st.fit(st.DQN(hidden_sizes=(4,), gamma=LOG.schema.gamma), twice, updates=1, batch_size=4)
    member = Member("seed 0", Even(), Claim(1.8 * high), run.algorithm, run=run)
    trained = diagnose_members("planted", [member], LOG)
    assert "impossible-value" not in trained.codes
    assert trained.numbers["seed 0"]["values"]["attainable_from"] == "the rewards of the training log"
    unknown = dataclasses.replace(member, run=dataclasses.replace(run, limits=None))
    (finding,) = (f for f in diagnose_members("planted", [unknown], LOG).findings if f.code == "impossible-value")
    assert "where the rewards of the log looked at add up to" in finding.seen


def test_an_entropy_bonus_is_no_overestimate() -> None:
    """SAC at a temperature of 1: log(3) nats in each of the later decisions."""
    low, high = found_range()
    limits = ValueLimits.of(LOG, LOG.schema.gamma, entropy=np.log(3))
    rows = History.of_rows([{"update": 1, "member": 0, "temperature": 1.0, "policy/entropy": 1.0}])
    run = st.Run(st.SAC(gamma=LOG.schema.gamma), (0,), [], Scaling.identity(3), rows, 1, limits=limits)
    possible = high + np.log(3) * limits.steps
    for claim, found in ((possible, set()), (possible + 0.2 * (high - low), {"impossible-value"})):
        member = Member("seed 0", Even(), Claim(claim), run.algorithm, run=run)
        assert values_only(diagnose_members("planted", [member], LOG)) == found
    assert limits.steps > 0


def test_a_claim_over_few_first_states_is_given_its_error() -> None:
    """The mean over first states of claims that differ a lot among them is known to its standard error alone."""
    estimand = Estimand(LOG.schema.gamma)
    first = 10 * LOG.observation_table[LOG.observation_index[LOG.episode_start[:-1]]][:, 0]
    error = first.std(ddof=1) / np.sqrt(len(first))
    near = Estimate("wdr", 0.0, -0.001, 0.001, 0.0005, 0.95, estimand)
    for times, found in ((1.9, set()), (2.0, {"claim-above-estimate"})):
        claim = Claim(float(0.003 + times * error - first.mean()), 10.0)
        assert values_only(diagnosis(claim, near)) & {"claim-above-estimate"} == found


def test_a_run_is_diagnosed_with_and_without_a_log() -> None:
    run = st.fit(
        st.IQL(hidden_sizes=(8,)), LOG, updates=20, log_every_updates=10, seeds=2, batch_size=16, probe=st.Probe()
    )
    flags = tuple(RedFlag("dead-units", k, 20, "all units are dead", "some alive", "Revive them.") for k in (0, 1))
    alone = st.diagnose(dataclasses.replace(run, red_flags=flags))
    assert [f.code for f in alone.findings] == ["dead-units"]
    assert alone.findings[0].where == "seed 0: update 20 (and seed 1)"
    assert "No log was given" in alone.skipped["log"]
    whole = st.diagnose(dataclasses.replace(run, red_flags=flags), LOG)
    assert "was probed 2 times" in whole.skipped["updates_too_few"]
    assert "dead-units" in whole.codes
    assert set(whole.numbers) == {"seed 0", "seed 1", "seeds"}
    assert whole.to_dict() == json.loads(json.dumps(whole.to_dict()))
    assert str(whole).startswith("IQL, 2 seeds, 20 updates: ")


def test_what_cannot_be_said_of_one_policy_is_said_of_the_others() -> None:
    low, high = found_range()
    members = [Member("seed 0", Even(), Claim(high + 0.2 * (high - low))), Member("seed 1", Even())]
    found = diagnose_members("planted", members, LOG)
    assert "impossible-value" in found.codes
    assert found.skipped["value_impossible"].startswith("Seed 1: There are no critics, so that no values are claimed")


def test_a_policy_alone_claims_nothing() -> None:
    found = st.diagnose(Even(), LOG)
    assert "no values are claimed" in found.skipped["value_impossible"]
    with pytest.raises(ConfigurationError, match="needs a `log`"):
        st.diagnose(Even())
    with pytest.raises(ConfigurationError, match="one for each policy, 1; got 2"):
        st.diagnose(Even(), LOG, evaluations=[None, None])


def test_paths_and_other_things_are_no_logs_and_no_runs() -> None:
    ask = st.diagnose.__wrapped__  # type: ignore[attr-defined]  # a user has no checks of types
    with pytest.raises(ConfigurationError, match=r"must be a run or a policy; got the path 'runs/bc'\. `st\.load`"):
        ask("runs/bc", LOG)
    for name in ("log", "newer"):
        with pytest.raises(ConfigurationError, match=rf"`{name}` of diagnose must be a log.*got 'stays\.csv'"):
            ask(Even(), **({"log": LOG} | {name: "stays.csv"}))


def test_a_bundle_is_diagnosed_on_rows_that_its_guard_refuses() -> None:
    """The guard refuses to act there, and the diagnosis is for finding out what such rows are."""
    run = st.fit(st.BC(hidden_sizes=(8,)), MASKED, updates=2, batch_size=16)
    bundle = Bundle(run.policy, MASKED.schema, Guard.fit(MASKED), {})
    far = dataclasses.replace(MASKED, observation_table=MASKED.observation_table + 1_000)
    assert bundle.guard.admits(far.observation_table).sum() == 0
    assert (
        st.diagnose(bundle, far).numbers["the policy"].keys()
        == st.diagnose(bundle, MASKED).numbers["the policy"].keys()
    )


def test_the_command_diagnoses_what_is_in_a_folder(tmp_path: Path, stitchrl: Command) -> None:
    run = st.fit(st.BC(hidden_sizes=(8,)), LOG, updates=4, batch_size=16, out=tmp_path / "bc")
    assert run.updates == 4
    done = stitchrl("diagnose", tmp_path / "bc", "--json")
    assert (done.status, json.loads(done.out)["title"]) == (0, "BC, 1 seed, 4 updates")
    assert stitchrl("diagnose", tmp_path / "bc", "--quiet").out == "BC, 1 seed, 4 updates: no failure found\n"
    assert "BC, 1 seed, 4 updates: no failure found" in stitchrl("diagnose", tmp_path / "bc").out
    (tmp_path / "empty").mkdir()
    for name in ("run", "race"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text("{}")
    (tmp_path / "finished").mkdir()
    save_bundle(tmp_path / "finished" / "policy", Bundle(run.policy, LOG.schema, Guard.fit(LOG), {}))
    for words, sentence in (
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "empty"], "it has no run.json, config.json or policy.json"),
        ([tmp_path / "run"], "has trained nothing yet"),
        ([tmp_path / "race"], "has trained nothing yet"),
        ([tmp_path / "finished"], "name a log to look at it on with `--log`"),
        (
            [tmp_path / "bc", "--out", tmp_path / "bc" / "config.json"],
            "must not be what the command reads, or lie in it",
        ),
        ([tmp_path / "bc", "--newer", tmp_path], "name it with `--log`"),
    ):
        done = stitchrl("diagnose", *words)
        assert (done.status, done.out) == (2, "")
        assert sentence in done.err
        assert done.err.count("\n") == 1


def test_how_a_log_with_another_column_was_read_is_said(tmp_path: Path, stitchrl: Command) -> None:
    rng, rows = np.random.default_rng(0), 40
    columns = {
        "episode": np.repeat(np.arange(10), 4), "pulse": rng.normal(size=rows), "pressure": rng.normal(size=rows),
        "action": rng.integers(0, 2, rows), "reward": rng.normal(size=rows), "terminated": np.arange(rows) % 4 == 3,
        "lactate": rng.normal(size=rows), "behavior_probs": np.full((rows, 2), 0.5, np.float32),
    }  # fmt: skip
    roles = {role: role for role in ("episode", "action", "reward", "terminated", "behavior_probs")}
    wide = Schema(roles | {"observation": ("pulse", "pressure", "lactate")}, num_actions=2)
    narrow = dataclasses.replace(wide, columns=roles | {"observation": ("pulse", "pressure")})
    st.fit(st.BC(hidden_sizes=(4,)), st.read(columns, narrow), updates=1, batch_size=4, out=tmp_path / "bc")
    st.convert(st.read(columns, wide), tmp_path / "log.parquet")
    done = stitchrl("diagnose", tmp_path / "bc", "--log", tmp_path / "log.parquet")
    assert "How the log was read" in done.out
    assert "does not observe lactate" in " ".join(done.out.split())


def test_a_log_of_other_observations_is_one_sentence() -> None:
    run = st.fit(st.BC(hidden_sizes=(8,)), LOG, updates=2, batch_size=16)
    wide = dataclasses.replace(LOG, observation_table=np.repeat(LOG.observation_table, 2, axis=1), observation_names=())
    with pytest.raises(EvaluationError, match="observation"):
        st.diagnose(run, wide)


def test_a_run_that_lost_the_mask_of_its_log_takes_forbidden_actions() -> None:
    """Three actions that are nearly alike, of which the mask forbids four in fifteen."""
    run = st.fit(st.BC(hidden_sizes=(8,)), LOG, updates=2, batch_size=16)
    finding = next(f for f in st.diagnose(run, MASKED).findings if f.code == "takes-forbidden-actions")
    assert finding.severity == "warning"
    assert "It learned without the mask" in finding.action


def test_what_cannot_be_asked_of_one_policy_is_asked_of_the_others() -> None:
    """One of two policies was evaluated, and claims more than its evaluation says; the other has no evaluation."""
    estimate = Estimate("wis", 0.0, -0.1, 0.1, 0.05, 0.95, Estimand.of(LOG))
    members = [
        Member(name, Even(), Claim(5.0), st.DQN(gamma=LOG.schema.gamma), one)
        for name, one in (("seed 0", estimate), ("seed 1", None))
    ]
    for order in (members, members[::-1]):
        found = diagnose_members("planted", order, LOG)
        assert "claim-above-estimate" in found.codes
        assert "claim_against_estimate" in found.checks


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_small_errors_are_no_failure_where_every_return_is_the_same(reward: float) -> None:
    """One step an episode, and always the same reward: the attainable range has no width, and critics are approximate."""
    rows = np.arange(40)
    log = st.read(
        {
            "episode": rows,
            "observation": np.linspace(-1, 1, 40, dtype=np.float32)[:, None],
            "action": rows % 3,
            "reward": np.full(40, reward, np.float32),
            "terminated": np.ones(40, bool),
            "behavior_probs": np.full((40, 3), 1 / 3, np.float32),
        }
    )
    for error in (-0.01, 0.01):
        member = Member("seed 0", Even(), Claim(reward + error, 1e-3), st.DQN())
        assert values_only(diagnose_members("planted", [member], log)) == set()


def test_returns_are_discounted_as_the_claims_are() -> None:
    """A log whose schema discounts nothing, and critics that look two steps ahead: the largest return is named by their gamma."""
    log = dataclasses.replace(LOG, schema=dataclasses.replace(LOG.schema, gamma=1.0))
    member = Member("seed 0", Even(), Claim(0.0), st.DQN(gamma=0.5))
    seen = diagnose_members("planted", [member], log).numbers["seed 0"]["values"]["largest_return_seen"]
    to_go = np.zeros(log.num_transitions)
    for row in range(log.num_transitions - 1, -1, -1):
        to_go[row] = log.reward[row] + (0.5 * to_go[row + 1] if log.continues[row] else 0.0)
    assert seen == pytest.approx(to_go.max(), rel=1e-5)
