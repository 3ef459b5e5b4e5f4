"""Choosing in practice: the hospital log from end to end, every claim beside its estimate and the exact value."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from scipy import sparse

from stitchrl.algorithms.spibb import improved
from stitchrl.algorithms.tabular_model import TabularModel, policy_value
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.balance_checks import check_balance
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.health import check_spread
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.predictable import VisitRatios, variance_of_difference
from stitchrl.evaluation.refit import ratio_of, refit
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units
from stitchrl.lab.figures import COLORS, INK, follows, parameters, rows
from stitchrl.lab.lesson import Choice, Figure, Lesson, Number, Slider
from stitchrl.mdp.icu_sepsis import demo_log, icu_sepsis
from stitchrl.types import NumpyArray

__all__ = ["Learned", "exact_value", "grouped", "implicit", "lesson", "safe"]

COUNTS = (1, 5, 10, 20, 50, 100)
"""Least counts of safe policy improvement; 1 is the policy that is greedy in whatever the log shows."""
GROUPS = {25: (0, 1, 2, 3, 4), 9: (0, 1, 1, 2, 2), 4: (0, 1, 1, 1, 1)}
"""How many actions -> the level of each of the five doses: all of them; none, low, high; none, some."""
EXPECTILES, TEMPERATURES = (0.5, 0.7, 0.9), (10.0, 100.0)
ROUNDS, SWEEPS = 60, 400


def lesson() -> Lesson:
    """The page."""
    return Lesson(
        title="Choosing in practice: a hospital log from end to end",
        question="Which algorithm, how conservative, with which actions, and how does one know before the first patient is treated?",
        figures=[_conservative(), _actions(), _settings(), _validation()],
        values=_values(),
    )


class Learned(NamedTuple):
    """A policy and the value that its learner claims; S = 716 states and A = 25 actions of the hospital.

    Attributes:
        table: (S, A) probabilities.
        q: (S, A) the policy's values in the model that counts the learner's stays, 0 where there are none.
        v: (S,) likewise.
        claim: the learner's mean value of the first states of its own stays.
        exact: survival under the policy in the true world.
    """

    table: NumpyArray
    q: NumpyArray
    v: NumpyArray
    claim: float
    exact: float


class Judged(NamedTuple):
    """The gain over the clinicians that a part of the log shows: its value, interval, and whether its weights are healthy."""

    value: float
    lower: float
    upper: float
    healthy: bool
    sentence: str

    @property
    def word(self) -> str:
        """What it comes to."""
        if not self.healthy:
            return "not to be judged"
        return "shown" if self.lower > 0 else "not shown"


@cache
def _parts() -> list[Dataset]:
    """The hospital log in three: 10,000 stays to learn from, 5,000 to choose by, 5,000 to decide by."""
    return demo_log().split((0.5, 0.25, 0.25), seed=0)


@cache
def grouped(actions: int) -> tuple[TabularModel, NumpyArray]:
    """The model that counts the learning part with so many actions, and the (25,) group of each action.

    The behaviour is taken to be what the log shows, as where no propensities are recorded.
    """
    level = np.array(GROUPS[actions])
    group = (level[:, None] * (level.max() + 1) + level[None, :]).reshape(-1)
    train = _parts()[0]
    names = {name: column for name, column in train.schema.columns.items() if not name.startswith("behavior")}
    names.pop("action_mask", None)
    bare = dataclasses.replace(
        train,
        action=group[train.action].astype(train.action.dtype),
        behavior_probs=None,
        behavior_log_prob=None,
        action_mask=None,
        schema=dataclasses.replace(train.schema, columns=names, num_actions=actions),
    )
    return TabularModel.of(bare, Scaling.identity(0), gamma=1.0, name="this lesson"), group


def _learned(probs: NumpyArray, claimed: NumpyArray, actions: int) -> Learned:
    """In the 25 actions: inside a group the policy doses as clinicians do, and in states that were not seen it is theirs.

    Args:
        probs: of the groups, in each state of the model.
        claimed: the learner's value of each state.
        actions: how many groups there are.
    """
    model, group = grouped(actions)
    clinicians, train = icu_sepsis().clinicians, _parts()[0]
    seen = np.unique(train.observation_id)
    of_group = clinicians[seen] @ np.eye(actions)[group]
    inside = clinicians[seen] / np.where(of_group > 0, of_group, 1.0)[:, group]
    table = clinicians.copy()
    table[seen] = probs[:, group] * inside
    v = policy_value(model, probs, 1.0, start=claimed)
    full_q, full_v = np.zeros(clinicians.shape), np.zeros(len(clinicians))
    full_q[seen], full_v[seen] = model.q(v, 1.0)[:, group], v
    claim = float(claimed[model.state[train.episode_start[:-1]]].mean())
    return Learned(table, full_q, full_v, claim, exact_value(table))


@cache
def safe(least_count: int, actions: int = 25) -> Learned:
    """SPIBB (Laroche, Trichelair, Tachet des Combes 2019): policy iteration in the model, away from the log only on pairs of a state
    and an action that were seen so often. With 1 it is greedy among all pairs that were ever seen."""
    model, _ = grouped(actions)
    certain = model.count >= least_count
    probs, v = model.behavior, np.zeros(len(model.count))
    for _ in range(ROUNDS):
        v = policy_value(model, probs, 1.0, start=v)
        following = improved(model.q(v, 1.0), model.behavior, certain)
        if np.array_equal(following, probs):
            break
        probs = following
    return _learned(probs, v, actions)


@cache
def implicit(expectile: float, inverse_temperature: float) -> Learned:
    """IQL (Kostrikov, Nair and Levine 2022) with a table in place of networks, iterated to the end: V is the expectile of Q over the
    logged actions, Q = r + V of what followed, and the policy the log's actions weighted by exp(inverse_temperature (Q - V))."""
    model, _ = grouped(25)
    v = np.zeros(len(model.count))
    for _ in range(SWEEPS):
        q = model.q(v, 1.0)
        following = (model.behavior * q).sum(1)
        for _ in range(30):
            weight = model.behavior * np.where(q > following[:, None], expectile, 1 - expectile)
            following = (weight * q).sum(1) / weight.sum(1)
        v, change = following, float(np.abs(following - v).max())
        if change < 1e-6:
            break
    q = model.q(v, 1.0)
    probs = model.behavior * np.exp(np.minimum(inverse_temperature * (q - v[:, None]), 50.0))
    return _learned(probs / probs.sum(1, keepdims=True), v, 25)


def exact_value(table: NumpyArray) -> float:
    """Survival under a policy, exactly: the share of patients who leave alive."""
    mdp = icu_sepsis().mdp
    live = np.flatnonzero(~mdp.terminal)
    step = np.matmul(table[live][:, None, :], mdp.transition[live])[:, 0]
    # The reward is 1 on the way to survival, the one live reward there is.
    reward = (step * mdp.reward[live, 0]).sum(1)
    values = np.linalg.solve(np.eye(len(live)) - step[:, live], reward)
    return float(mdp.initial[live] @ values)


def judged(learned: Learned, part: int) -> Judged:
    """The gain by fitted Q evaluation, whose Q is that of the learner's model and whose last layer is a table, on a part of the log (1 or 2)."""
    log = _parts()[part]
    state, goes_on = log.observation_id, log.continues
    assert state is not None
    assert log.behavior_log_prob is not None
    assert log.behavior_probs is not None
    following = np.where(goes_on, np.append(state[1:], 0), 0)
    n, shape = log.num_transitions, (log.num_transitions, int(icu_sepsis().mdp.num_states))
    here = sparse.csr_array((np.ones(n), (np.arange(n), state)), shape=shape)
    after = sparse.csr_array((goes_on.astype(float), (np.arange(n), following)), shape=shape)
    with np.errstate(divide="ignore"):
        ratio = ratio_of(np.log(learned.table[state, log.action]) - log.behavior_log_prob)
    fitted = {
        "q": learned.q[state, log.action],
        "v": learned.v[state],
        "next_v": np.where(goes_on, learned.v[following], 0.0),
        "psi": here,
        "next_psi": after,
    }
    found = refit(log, fitted, ratio, gamma=1.0)
    returns = Episodes.of(log, Estimand(1.0)).returns
    gain = minus(Contributions.average(found.contributions), Contributions.average(returns))
    own = VisitRatios(found.visits, learned.table[state], log.behavior_probs, found.residual, found.first)
    expected = variance_of_difference(own, VisitRatios(np.ones(n), None, np.ones((n, 0))), log.num_episodes)
    units = Units(log.num_episodes)
    interval = Resampler(units).interval(gain, expected)
    per_episode = np.add.reduceat(np.abs(found.weights), log.episode_start[:-1])
    checks = (check_balance(found.imbalance), *check_spread(units, per_episode))
    failed = [check.sentence for check in checks if not check.passed]
    return Judged(interval.value, interval.lower, interval.upper, not failed, failed[0] if failed else "")


@cache
def _on_validation(kind: str, first: float, second: float) -> Judged:
    learned = safe(int(first), int(second)) if kind == "safe" else implicit(first, second)
    return judged(learned, 1)


@cache
def _clinicians() -> float:
    return exact_value(icu_sepsis().clinicians)


def _three(at: dict[str, Any], learned: Learned, seen: Judged) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and a frame of a candidate: what it claims, what is estimated, what is true."""
    exact, own = learned.exact, _clinicians()
    estimate = own + seen.value
    ends = {"low": own + seen.lower, "high": own + seen.upper}
    shown = [
        {**at, "what": "claimed", "value": learned.claim, "low": learned.claim, "high": learned.claim},
        {**at, "what": "estimated", "value": estimate, **ends},
        {**at, "what": "true", "value": exact, "low": exact, "high": exact},
    ]
    return shown, {**at, "claimed": learned.claim, "estimated": estimate, "true": exact, "word": seen.word}


def _bars(shown: list[dict[str, Any]], controls: list[Any], extra: list[Any] | None = None) -> Any:
    """The three numbers of a candidate on one axis, with the clinicians' survival as a dashed line."""
    base = alt.Chart(rows(shown)).transform_filter(follows(*(control.name for control in controls)))
    x = {
        "title": "Survival",
        "scale": alt.Scale(domain=[0.7, 1.0]),
        "axis": alt.Axis(format="%"),
    }
    y = alt.Y("what:N", title=None, sort=["claimed", "estimated", "true"])
    names = ["claimed", "estimated", "true"]
    color = alt.Color("what:N", legend=None, scale=alt.Scale(domain=names, range=[COLORS[1], COLORS[0], COLORS[2]]))
    shape = alt.Shape("what:N", legend=None, scale=alt.Scale(domain=names, range=["square", "circle", "diamond"]))
    line = alt.Chart(rows([{"own": _clinicians()}])).mark_rule(color=INK, strokeDash=[5, 3])
    layers = [
        line.encode(alt.X("own:Q", **x)),
        base.mark_bar(height=10, opacity=0.4, clip=True).encode(alt.X("low:Q", **x), alt.X2("high:Q"), y, color),
        base.mark_point(size=150, clip=True).encode(alt.X("value:Q", **x), y, color, shape),
    ]
    return alt.layer(*layers, *(extra or [])).properties(height=150).add_params(*parameters(controls))


NUMBERS = (
    Number("claimed", "Claimed by the learner", 1, percent=True),
    Number("estimated", "Estimated on stays it never saw", 1, percent=True),
    Number("true", "True", 1, percent=True),
    Number("word", "A gain over the clinicians is"),
)


def _conservative() -> Figure:
    """From greedy to careful."""
    slider = Slider(
        "least", "A pair of a state and an action must have been seen", COUNTS, 1, ["once", *(f"{k} times" for k in COUNTS[1:])]
    )
    shown, frames = [], []
    for count in COUNTS:
        found, frame = _three({"least": count}, safe(count), _on_validation("safe", count, 25))
        shown += found
        frames.append(frame)
    return Figure(
        name="conservative",
        title="At 1 the policy believes whatever it saw once. Make it more careful: the claim falls, and the truth rises.",
        chart=_bars(shown, [slider]),
        description="Safe policy improvement, learned from 10,000 stays. Dashed: the clinicians' survival. The bar about the estimate is its 95% "
        "interval on 5,000 other stays; it may reach beyond the axis.",
        controls=[slider],
        numbers=NUMBERS,
        frames=frames,
    )


@cache
def _best_possible(actions: int) -> float:
    """The best survival that any policy over the grouped actions can have, by policy iteration."""
    _, group = grouped(actions)
    world = icu_sepsis()
    live = np.flatnonzero(~world.mdp.terminal)
    member = np.eye(actions)[group]
    share = (world.clinicians @ member)[live]
    inside = world.clinicians[live, None, :] * member.T / np.where(share > 0, share, 1.0)[:, :, None]
    transition = np.matmul(inside, world.mdp.transition[live])
    reward = (transition * world.mdp.reward[live, :1]).sum(2)
    transition = transition[:, :, live]
    each, choice = np.arange(len(live)), share.argmax(1)
    while True:
        v = np.linalg.solve(np.eye(len(live)) - transition[each, choice], reward[each, choice])
        q = np.where(share > 0, reward + transition @ v, -np.inf)
        better = q.max(1) > q[each, choice] + 1e-12
        if not better.any():
            return float(world.mdp.initial[live] @ v)
        choice = np.where(better, q.argmax(1), choice)


def _actions() -> Figure:
    """How many actions the learner may tell apart."""
    choice = Choice("actions", "Actions told apart", tuple(GROUPS), 25)
    seen = Choice("least", "A pair must have been seen", (5, 20), 20, ["5 times", "20 times"])
    shown, frames = [], []
    for actions, count in itertools.product(GROUPS, seen.values):
        found, frame = _three(
            {"actions": actions, "least": count},
            safe(int(count), actions),
            _on_validation("safe", count, actions),
        )
        model, _ = grouped(actions)
        certain = model.count >= count
        shown += found
        frames.append({**frame, "best": _best_possible(actions), "certain": float(model.count[certain].sum() / model.count.sum())})
    return Figure(
        name="actions",
        title="Fewer actions: each is seen more often, and less can be chosen.",
        chart=_bars(shown, [choice, seen]),
        description="25 actions are 5 doses of fluids times 5 of vasopressors. With 9 the doses are none, low or high; with 4, none or some. Inside a "
        "group the policy doses as the clinicians do.",
        controls=[choice, seen],
        numbers=[
            *NUMBERS,
            Number("best", "Best possible with these actions", 1, percent=True),
            Number("certain", "Decisions on pairs seen often enough", 0, percent=True),
        ],
        frames=frames,
    )  # fmt: skip


def _settings() -> Figure:
    """Expectile and inverse temperature of IQL."""
    expectile = Choice("expectile", "Expectile", EXPECTILES, 0.7)
    temperature = Choice("temperature", "Inverse temperature", TEMPERATURES, 10.0)
    shown, frames = [], []
    for e, t in itertools.product(EXPECTILES, TEMPERATURES):
        found, frame = _three({"expectile": e, "temperature": t}, implicit(e, t), _on_validation("implicit", e, t))
        shown += found
        frames.append(frame)
    return Figure(
        name="settings",
        title="IQL on the same stays. Which of the two settings moves the claim, and which the truth?",
        chart=_bars(shown, [expectile, temperature]),
        description="IQL with a table for each state and action in place of networks, iterated until nothing changes. The inverse temperature "
        "multiplies an advantage in units of survival, which is at most 1.",
        controls=[expectile, temperature],
        numbers=NUMBERS,
        frames=frames,
    )


@cache
def _candidates() -> dict[str, tuple[Learned, Judged]]:
    """Name -> what was learned and how validation judges it."""
    found = {f"SPIBB at {k}": (safe(k), _on_validation("safe", k, 25)) for k in COUNTS}
    for e, t in itertools.product(EXPECTILES, TEMPERATURES):
        found[f"IQL {e:g}, {t:g}"] = (implicit(e, t), _on_validation("implicit", e, t))
    return found


def _validation() -> Figure:
    """Claims and estimates of all candidates against the truth."""
    choice = Choice("by", "Judge the candidates by", ("claims", "estimates"), "claims", names=("their claims", "estimates on other stays"))
    own, shown = _clinicians(), []
    for name, (learned, seen) in _candidates().items():
        exact = learned.exact
        kind = name.split()[0]
        shown.append({"by": "claims", "name": name, "kind": kind, "true": exact, "said": learned.claim, "healthy": "healthy"})
        healthy = "healthy" if seen.healthy else "fails a check"
        shown.append({"by": "estimates", "name": name, "kind": kind, "true": exact, "said": own + seen.value, "healthy": healthy})
    frames = []
    for by in choice.values:
        of = [row for row in shown if row["by"] == by and row["healthy"] == "healthy"]
        best = max(of, key=lambda row: row["said"])
        error = float(np.sqrt(np.mean([(row["said"] - row["true"]) ** 2 for row in of])))
        frames.append({"by": by, "chosen": best["name"], "its": best["true"], "error": error, "count": len(of)})
    base = alt.Chart(rows(shown)).transform_filter(follows("by"))
    line = alt.Chart(rows([{"true": 0.77, "said": 0.77}, {"true": 0.83, "said": 0.83}])).mark_line(color=INK, strokeDash=[5, 3], strokeWidth=1)
    x = alt.X("true:Q", title="True survival", scale=alt.Scale(domain=[0.77, 0.83]), axis=alt.Axis(format=".0%", values=[0.77, 0.78, 0.79, 0.8, 0.81, 0.82, 0.83]))
    y = alt.Y("said:Q", title="Claimed, or estimated", scale=alt.Scale(domain=[0.75, 1.0]), axis=alt.Axis(format="%"))
    points = base.mark_point(size=110).encode(
        x, y, alt.Color("kind:N", title=None), alt.Shape("kind:N", title=None),
        alt.Opacity("healthy:O", title=None, sort=["healthy", "fails a check"], scale=alt.Scale(domain=["healthy", "fails a check"], range=[1.0, 0.3])), tooltip=["name:N", "said:Q", "true:Q"],
    )
    return Figure(
        name="validation",
        title="Twelve candidates. On the dashed line a number would be true.",
        chart=alt.layer(line.encode(x, y), points).properties(height=300).add_params(*parameters([choice])),
        description="Each mark is a policy of the figures above, named when it is pointed at. Faint marks are estimates that fail a health check.",
        controls=[choice],
        numbers=[
            Number("chosen", "Best of those that are healthy"),
            Number("its", "Its true survival", 1, percent=True),
            Number("error", "Error of the numbers, root mean square", 1, percent=True),
            Number("count", "Candidates judged", 0),
        ],
        frames=frames,
    )  # fmt: skip


def _values() -> dict[str, Any]:
    """Numbers of the prose: the candidate that validation chooses by its lower end, judged once on the last part."""
    own, candidates = _clinicians(), _candidates()
    name, (learned, seen) = max(
        ((name, pair) for name, pair in candidates.items() if pair[1].healthy), key=lambda one: one[1][1].lower
    )
    last = judged(learned, 2)
    greedy, greedy_seen = candidates["SPIBB at 1"]
    return {
        "clinicians": own,
        "greedy_claim": greedy.claim,
        "greedy_true": greedy.exact,
        "greedy_reason": greedy_seen.sentence,
        "chosen": name,
        "chosen_claim": learned.claim,
        "chosen_seen": seen.value,
        "chosen_gain": last.value,
        "chosen_lower": last.lower,
        "chosen_upper": last.upper,
        "chosen_word": last.word,
        "chosen_true": learned.exact - own,
        "best": _best_possible(25),
    }
