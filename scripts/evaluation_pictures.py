"""The pictures of docs/evaluation.md: how estimates fail, on logs of simulated ICU stays whose exact values are known.

python scripts/evaluation_pictures.py              # all of them, into docs/pictures; some minutes
python scripts/evaluation_pictures.py collapse     # one

Each SVG holds its caption, with the numbers, as its description; docs/evaluation.md quotes it, and a test compares the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["STITCHRL_STATE"] = "off"  # what a picture evaluates is no look at anybody's test part

import jax.numpy as jnp
import numpy as np

import stitchrl as st
from picture import WIDTH, Picture, Row, across, rows_picture
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Episodes, Estimand
from stitchrl.evaluation.units import effective_sample_size
from stitchrl.evaluation.weights import cumulative_weights
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import DEATH, SURVIVAL, compact_table, demo_log, icu_sepsis
from stitchrl.nn.tabular import TabularPolicy
from stitchrl.reporting.charts import Axis

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
WORLD = icu_sepsis()
LIVE = ~WORLD.mdp.terminal
SETTINGS = st.FitSettings(updates=1000)
STAYS = 3000
ALMOST_NONE = 1e-30


# --- policies and logs ----------------------------------------------------------------------------------------------


@cache
def best() -> np.ndarray:
    """(S, A) the best policy among the clinicians' own actions."""
    return WORLD.mdp.optimal_policy(allowed=WORLD.mask | WORLD.mdp.terminal[:, None])


def mixed(share: float) -> np.ndarray:
    """(S, A) the clinicians' policy that follows the best one in a share of its decisions."""
    return np.where(LIVE[:, None], share * best() + (1 - share) * WORLD.clinicians, 0.0)


def policy_of(table: np.ndarray) -> TabularPolicy:
    """A table as a policy."""
    log_probabilities = np.log(np.maximum(table[:DEATH], ALMOST_NONE))
    return TabularPolicy(jnp.asarray(WORLD.features[:DEATH], jnp.float32), jnp.asarray(log_probabilities, jnp.float32))


def log_of(behavior: np.ndarray, stays: int, seed: int, **how: Any) -> Dataset:
    """A log drawn under a behaviour, with its propensities."""
    drawn = WORLD.mdp.draw(behavior, stays, seed=seed, **how)
    probs = behavior[drawn.state].astype(np.float32)
    with np.errstate(divide="ignore"):  # the clinicians never take some of these actions
        shown = demo_log(compact_table(drawn))
    return dataclasses.replace(
        shown,
        behavior_probs=probs,
        behavior_log_prob=np.log(probs[np.arange(len(probs)), drawn.action]),
    )


def without(log: Dataset, *roles: str) -> Dataset:
    """The log without some optional columns."""
    columns = {name: column for name, column in log.schema.columns.items() if name not in roles}
    schema = dataclasses.replace(log.schema, columns=columns)
    return dataclasses.replace(log, schema=schema, **dict.fromkeys(roles))


def exact(table: np.ndarray) -> float:
    return WORLD.mdp.policy_value(table)


def row(estimate: Any, label: str = "", first: str = "") -> Row:
    """An estimate as a row, with one check that it failed, and how many more."""
    failed = [check.key.replace("-", " ") for check in estimate.checks if not check.passed]
    failed.sort(key=lambda name: name != first)
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    note = f"fails: {failed[0]}{more}" if failed else "healthy"
    ends = (estimate.lower, estimate.upper)
    return Row(label or estimate.name, estimate.value, *ends, "est" if estimate.healthy else "bad", note)


def said(estimate: Any, key: str) -> str:
    """What one check of an estimate said."""
    return next(check.sentence for check in estimate.checks if check.key == key)


def ends(estimate: Any) -> str:
    return f"[{estimate.lower:.3f}, {estimate.upper:.3f}]"


# --- the pictures ---------------------------------------------------------------------------------------------------


def collapse() -> Picture:
    """Products of ratios over whole stays: a few stays carry everything."""
    log, true = log_of(WORLD.clinicians, 2000, 1), exact(best())
    found = st.evaluate(policy_of(best()), log, estimators=("is", "wis")).estimates
    one, plain = found["wis"], found["is"]
    table = np.maximum(best(), ALMOST_NONE)
    ratio = np.log(table[log.observation_id, log.action]) - log.behavior_log_prob
    weight = cumulative_weights(Episodes.of(log, Estimand(1.0)), ratio).now
    effective = [effective_sample_size(weight[:, step]) for step in range(weight.shape[1])]
    shares = np.sort(weight[:, -1])[::-1] / weight[:, -1].sum()
    caption = (
        f"True value {true:.3f}; `wis` says {one.value:.3f} {ends(one)} and `is` {plain.value:.3f}. Of 2,000 "
        "stays the weights of the "
        f"last step are worth {effective[-1]:.1f}, and one stay has {shares[0]:.0%} of all weight. Health check: "
        f"{said(one, 'effective-units')}"
    )
    drawn = Picture("Whole-episode weights collapse", caption, 300)
    left, right, top, bottom = 60.0, 330.0, 70.0, 240.0
    up, along = Axis(0.0, math.log10(2000)), Axis(1, len(effective))
    drawn.text(left, 54, "effective stays, by step (log scale)", "muted")
    for power in range(4):
        y = bottom - up.at(power) / 100 * (bottom - top)
        drawn.line(left, y, right, y, "grid")
        drawn.text(left - 8, y + 4.5, f"{10**power:,}", "muted", "end")
    points = [
        (across(along, step + 1, left, right), bottom - up.at(math.log10(max(value, 1.0))) / 100 * (bottom - top))
        for step, value in enumerate(effective)
    ]
    drawn.curve(points, "est")
    drawn.text(left, bottom + 20, "1", "muted")
    drawn.text(right, bottom + 20, f"{len(effective)} steps", "muted", "end")
    left, right, tall = 400.0, WIDTH - 20.0, Axis(0.0, 1.12 * float(shares[0]))
    drawn.text(left, 54, "share of all weight, the 10 heaviest stays", "muted")
    for k, share in enumerate(shares[:10]):
        wide, high = (right - left) / 10, tall.at(float(share)) / 100 * (bottom - top)
        drawn.box(left + k * wide, bottom - high, 0.8 * wide, high, "est")
        if share >= 0.05:
            drawn.text(left + k * wide + 0.4 * wide, bottom - high - 5, f"{share:.0%}", "strong", "middle")
    drawn.line(left, bottom, right, bottom, "base")
    drawn.text(left, bottom + 42, f"true {true:.3f}; wis {one.value:.3f} {ends(one)}", "strong")
    return drawn


def bias() -> Picture:
    """The average of self-normalised estimates over many small logs."""
    policy, sizes, pool = mixed(0.5), (5, 10, 20, 50, 100, 200, 500, 1000), []
    true, base = exact(policy), exact(WORLD.clinicians)
    for seed in range(5):
        log = log_of(WORLD.clinicians, 20_000, 100 + seed)
        ratio = np.log(policy[log.observation_id, log.action]) - log.behavior_log_prob
        episodes = Episodes.of(log, Estimand(1.0))
        pool.append((cumulative_weights(episodes, ratio).now[:, -1], episodes.returns))
    weight, returns = (np.concatenate(part) for part in zip(*pool, strict=True))
    rng, means, heaviest = np.random.default_rng(0), [], []
    for size in sizes:
        chosen = rng.integers(0, len(weight), (4000, size))
        w, r = weight[chosen], returns[chosen]
        means.append(float(((w * r).sum(1) / w.sum(1)).mean()))
        heaviest.append(float((w.max(1) / w.sum(1)).mean()))
    caption = (
        f"True value {true:.3f}, the behaviour's {base:.3f}. Averaged over 4,000 logs each, `wis` gives "
        f"{means[0]:.3f} on logs of "
        f"{sizes[0]} stays, {means[3]:.3f} of {sizes[3]} and {means[-1]:.3f} of {sizes[-1]:,}: divided by "
        "their own sum, the weights of "
        f"a small log cannot move far from the behaviour. Health check: on logs of {sizes[3]} stays one stay "
        f"has {heaviest[3]:.0%} of all "
        "weight on average, where 2% is the limit."
    )
    drawn = Picture("Self-normalised weights are biased on small logs", caption, 300)
    left, right, top, bottom = 70.0, WIDTH - 130.0, 60.0, 230.0
    span = max(true, *means) - min(base, *means)
    up, along = (
        Axis(min(base, *means) - 0.15 * span, max(true, *means) + 0.15 * span),
        Axis(math.log(5), math.log(1000)),
    )

    def height(value: float) -> float:
        return bottom - up.at(value) / 100 * (bottom - top)

    for tick in up.ticks(4):
        drawn.line(left, height(tick["value"]), right, height(tick["value"]), "grid")
        drawn.text(left - 8, height(tick["value"]) + 4.5, tick["text"], "muted", "end")
    for css, value, name in (("true", true, "true"), ("behavior", base, "behaviour")):
        drawn.line(left, height(value), right, height(value), css)
        drawn.text(right + 8, height(value) + 4.5, f"{name} {value:.3f}", f"text-{css}")
    points = [
        (across(along, math.log(size), left, right), height(mean)) for size, mean in zip(sizes, means, strict=True)
    ]
    drawn.curve(points, "est")
    for (x, y), size in zip(points, sizes, strict=True):
        drawn.dot(x, y, "est")
        drawn.text(x, bottom + 20, f"{size:,}", "muted", "middle")
    drawn.text((left + right) / 2, bottom + 44, "stays in the log; upwards the average wis estimate", "muted", "middle")
    return drawn


def claim() -> Picture:
    """A value that a model of the log claims for the policy that is greedy in it."""
    train = log_of(WORLD.clinicians, 8000, 11)
    state, action = train.observation_id, train.action
    ended = np.where(train.reward > 0, SURVIVAL, DEATH)
    following = np.where(train.terminated, ended, np.append(state[1:], 0))
    counts = np.zeros(WORLD.mdp.transition.shape)
    np.add.at(counts, (state, action, following), 1)
    seen = counts.sum(2) > 0
    chance = np.where(seen[..., None], counts / np.maximum(counts.sum(2), 1)[..., None], 0.0)
    chance[~seen & LIVE[:, None], DEATH] = 1.0
    model = FiniteMDP(chance, np.broadcast_to(WORLD.mdp.reward, chance.shape), WORLD.mdp.initial, WORLD.mdp.terminal)
    allowed = np.where(seen.any(1)[:, None], seen, WORLD.mask) | WORLD.mdp.terminal[:, None]
    greedy = model.optimal_policy(allowed=allowed, gamma=0.9999)
    claimed, true = model.policy_value(greedy, gamma=0.9999), exact(greedy)
    fresh = log_of(WORLD.clinicians, STAYS, 12)
    found = st.evaluate(policy_of(greedy), fresh, estimators=("fqe",), settings=SETTINGS).estimates["fqe"]
    failed = [check for check in found.checks if not check.passed]
    health = f"Health check: {failed[0].sentence}" if failed else "Every health check holds."
    caption = (
        "A policy that is greedy in a model of 8,000 stays, among the actions seen in each state. True value "
        f"{true:.3f}; FQE on the "
        f"log that it was learned from claims {claimed:.3f}. `fqe` on {STAYS:,} fresh stays says "
        f"{found.value:.3f} {ends(found)}. {health}"
    )
    rows = [Row("FQE, on its own log", claimed, kind="claim", note="no evidence"), row(found, "fqe, on fresh stays")]
    return rows_picture("A value learned from the same log", caption, rows, true, exact(WORLD.clinicians))


def hidden() -> Picture:
    """Physicians who see how ill a patient is, and a log that does not say so."""
    value = WORLD.mdp.state_values(WORLD.clinicians)[:DEATH]
    looks = (value - value.mean()) / value.std()
    withheld = 0.85 / (1 + np.exp(0.5 - 4.0 * looks))[:, None]  # the healthier, the likelier no treatment (action 0)
    behavior = np.zeros(WORLD.clinicians.shape)
    behavior[:DEATH] = withheld * np.eye(25)[0] + (1 - withheld) * WORLD.clinicians[:DEATH]
    usual = WORLD.clinicians[:DEATH].mean(0)
    table = np.zeros(WORLD.clinicians.shape)
    table[:DEATH] = 0.9 * np.eye(25)[0] + 0.1 * usual
    features = WORLD.features[:DEATH]
    least = np.argsort([abs(np.corrcoef(column, value)[0, 1]) for column in features.T])[:2]
    coarse = (features[:, least] > np.median(features[:, least], 0)).astype(np.float32)
    log = without(log_of(behavior, STAYS, 21), "behavior_probs", "behavior_log_prob", "action_mask", "observation_id")
    log = dataclasses.replace(log, observation_table=coarse)

    class Withhold:
        def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
            return np.tile(table[0], (len(obs), 1))

    found = st.evaluate(Withhold(), log, estimators=("fqe", "wis"), settings=SETTINGS)
    fqe, wis, true = found.estimates["fqe"], found.estimates["wis"], exact(table)
    history = found.confirmation.history
    caption = (
        "Physicians withhold treatment from those who look well, and the log does not hold how they look. A policy that "
        f"nearly always withholds it is truly worth {true:.3f}; with fitted propensities `fqe` says {fqe.value:.3f} "
        f"{ends(fqe)} and `wis` {wis.value:.3f} {ends(wis)}. The history check says: "
        f"{history.sentence.split(', through')[0] if history else 'not made'}."
    )
    return rows_picture("Fitted propensities hide a cause", caption, [row(fqe), row(wis)], true, exact(behavior))


def cuts() -> Picture:
    """Stays that the log cuts after eight steps."""
    sure = np.where(WORLD.clinicians >= 0.05, WORLD.clinicians, 0.0) ** 2
    sure[LIVE] /= sure[LIVE].sum(1, keepdims=True)
    log = log_of(WORLD.clinicians, STAYS, 3, max_steps=8)
    found = st.evaluate(policy_of(sure), log, estimators=("wis", "fqe"), settings=SETTINGS).estimates
    naive, true, one = float(log.reward.sum()) / STAYS, exact(sure), found["wis"]
    caption = (
        f"{log.truncated.sum() / STAYS:.0%} of the stays are cut after 8 steps. True value {true:.3f}; a mean "
        "that takes a cut for an end "
        f"gives {naive:.3f}. `wis` hands the weight of a cut stay to those that run on, where there are any, "
        f"and says {one.value:.3f} "
        f"{ends(one)}; `fqe` bootstraps at the cuts and says {found['fqe'].value:.3f} {ends(found['fqe'])}. "
        "Health check of `wis`: "
        f"{said(one, 'lost-weight').split(': ')[0]}."
    )
    rows = [
        Row("mean, cuts as ends", naive, kind="claim", note="wrong"),
        row(one, first="lost weight"),
        row(found["fqe"]),
    ]
    return rows_picture("Cut episodes", caption, rows, true, exact(WORLD.clinicians))


def support() -> Picture:
    """A policy that takes actions that nobody ever took."""
    table = np.where(LIVE[:, None], 0.5 * WORLD.clinicians + 0.5 * np.eye(25)[24], 0.0)
    log = without(log_of(WORLD.clinicians, STAYS, 4), "action_mask")
    found = st.evaluate(policy_of(table), log, estimators=("wis", "fqe"), settings=SETTINGS).estimates
    wis, fqe, true = found["wis"], found["fqe"], exact(table)
    caption = (
        "Every second decision is the strongest treatment, which clinicians give few patients. True value "
        f"{true:.3f}; `wis` says "
        f"{wis.value:.3f} {ends(wis)}, `fqe` {fqe.value:.3f} {ends(fqe)}: its interval allows for anything "
        "after an action that was never "
        f"tried. Health check: {said(fqe, 'never-tried')}"
    )
    return rows_picture(
        "A policy without support", caption, [row(wis), row(fqe, first="never tried")], true, exact(WORLD.clinicians)
    )


def small() -> Picture:
    """Intervals from small logs in which the decisive stays happen to be missing."""
    policy, logs, stays = mixed(0.5), 60, 200
    true = exact(policy)
    found = [
        st.evaluate(policy_of(policy), log_of(WORLD.clinicians, stays, 1000 + k), estimators=("is",)).estimates["is"]
        for k in range(logs)
    ]
    found.sort(key=lambda one: one.value)
    low = [one for one in found if one.upper < true]
    high = [one for one in found if one.lower > true]
    caught = [one for one in low + high if not one.healthy]
    caption = (
        f"{logs} logs of {stays} stays each; true value {true:.3f}. Where 3 of 60 intervals of 95% may miss, "
        f"{len(low)} of `is` end below "
        f"the true value and {len(high)} begin above it: stays with rare actions and large weights are not in "
        "those logs. Health check: "
        f"{len(caught)} of these {len(low) + len(high)}, and {sum(not one.healthy for one in found)} of all "
        f"{logs}, are not healthy."
    )
    drawn = Picture("Small logs miss rare actions", caption, 300)
    left, right, top, bottom = 60.0, WIDTH - 120.0, 60.0, 250.0
    up = Axis(-0.1, 2.1)  # the widest intervals leave the picture

    def height(value: float) -> float:
        return bottom - up.at(value) / 100 * (bottom - top)

    for tick in up.ticks(4):
        drawn.line(left, height(tick["value"]), right, height(tick["value"]), "grid")
        drawn.text(left - 8, height(tick["value"]) + 4.5, tick["text"], "muted", "end")
    for k, one in enumerate(found):
        x = left + (k + 0.5) / logs * (right - left)
        drawn.line(x, height(one.lower), x, height(one.upper), "claim" if one in low + high else "est")
    drawn.line(left, height(true), right, height(true), "true")
    drawn.text(right + 8, height(true) + 4.5, f"true {true:.3f}", "text-true")
    drawn.text(left, bottom + 30, f"{logs} logs, by their estimate; red: the interval misses the true value", "muted")
    return drawn


def elsewhere() -> Picture:
    """A log that does not go where the policy goes."""
    usual = np.eye(25)[WORLD.clinicians.argmax(1)]
    behavior = np.where(LIVE[:, None], 0.97 * usual + 0.03 * WORLD.clinicians, 0.0)
    log = log_of(behavior, 1500, 5)
    one = st.evaluate(policy_of(best()), log, estimators=("fqe",), settings=SETTINGS).estimates["fqe"]
    failed = [check.sentence for check in one.checks if not check.passed]
    true = exact(best())
    caption = (
        "A log of 1,500 stays in which the commonest treatment is given in 97% of the decisions, and a policy "
        "that mostly gives others. True "
        f"value {true:.3f}; `fqe` says {one.value:.3f} {ends(one)}. Health check: "
        f"{failed[0] if failed else 'all of them hold.'}"
    )
    return rows_picture("The log does not go where the policy goes", caption, [row(one)], true, exact(behavior))


PICTURES: dict[str, Callable[[], Picture]] = {
    made.__name__: made for made in (collapse, bias, claim, hidden, cuts, support, small, elsewhere)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all by default")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in args.names or PICTURES:
        drawn = PICTURES[name]()
        (FOLDER / f"{name}.svg").write_text(drawn.svg(), encoding="utf-8")
        print(f"{name}: {drawn.caption}\n", flush=True)


if __name__ == "__main__":
    main()
