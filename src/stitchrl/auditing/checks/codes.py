"""The check that a code of an action means the same in every source, site or group of a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize

from stitchrl.auditing.behavior_rows import BehaviorRows, behavior_rows
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.history_models import Predictor, held_out_probabilities
from stitchrl.auditing.regression import features, z_of_mean
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import hash_words, words
from stitchrl.types import NumpyArray

__all__ = ["action_codes_differ"]

MOST_SITES, MOST_VALUES = 50, 8
"""A source or group with more values than the first is an identifier; so is an observation column with more than the second."""
LEAST_ROWS, LEAST_EPISODES = 300, 20
"""Rows and episodes that a site needs."""
LEAST_OF_CODE = 20
"""Rows of a code, in half of a site, below which it is not compared."""
MOST_COMPARED = 8
"""At most so many sites are compared with the largest one."""
SURE, AGAINST = 6.0, -1.5
"""Standard errors by which other codes must explain a site better, and by which neither behaviour nor outcomes may object."""
LEAST_GAIN = 0.02
"""Nats per row of the codes concerned, by which the exchange must explain them better."""
LEAST_PROBABILITY = 1e-3
MOST_NAMED = 8
"""The finding names at most this many codes."""


@dataclasses.dataclass(frozen=True)
class _Sites:
    """A column that tells sites apart: what it is called, the site of each row, and the observations without that column."""

    name: str
    of_row: NumpyArray
    observation: Float[NumpyArray, "n D"]


def action_codes_differ(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions whose codes seem to be exchanged between two sources, groups or sites.

    A behaviour, and the effect of each action on the next observation and the reward, are fitted to the largest site. Does
    another site look likelier when its codes are exchanged? The exchange is the best assignment of codes on half of that
    site's episodes, and is tested on the other half, one cycle of codes at a time. How common each code is does not count, so
    that a site may prefer other actions.
    """
    rows = behavior_rows(facts)
    if rows is None:
        return
    for sites in _sites(log, facts, rows):
        names, site, counts = np.unique(sites.of_row, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        enough = [
            k for k in order if counts[k] >= LEAST_ROWS and _episodes(rows, site == k) >= LEAST_EPISODES
        ]  # the largest first
        exchanged = []
        for k in enough[1 : 1 + MOST_COMPARED]:
            cycles = _exchanged(log, facts, rows, sites, site == enough[0], site == k)
            if cycles:
                exchanged.append((_shown(names[k]), cycles))
        if exchanged:
            yield _finding(log, rows, sites, _shown(names[enough[0]]), exchanged)


def _episodes(rows: BehaviorRows, inside: NumpyArray) -> int:
    return len(np.unique(rows.sample.episode[inside]))


def _sites(log: Dataset, facts: Facts, rows: BehaviorRows) -> Iterator[_Sites]:
    """The columns that may tell sites: source, group, subgroups, and observation columns that never change in an episode."""
    sample = rows.sample
    seen = sample.observation
    if log.source is not None and 2 <= len(np.unique(log.source[sample.rows])) <= MOST_SITES:
        yield _Sites("source", log.source[sample.rows], seen)
    if log.group is not None and 2 <= len(np.unique(log.group)) <= MOST_SITES:
        yield _Sites("group", log.group[sample.episode], seen)
    if log.subgroup is not None:
        for number in range(log.subgroup.shape[1]):
            yield _Sites(f"subgroup[{number}]", log.subgroup[sample.rows, number], seen)
    same = np.diff(sample.episode) == 0
    if not same.any() or _episodes(rows, np.ones(len(seen), bool)) == len(seen):
        return
    still = np.flatnonzero(~(np.diff(seen, axis=0)[same] != 0).any(0) & (seen.std(0) > 0))
    told: list[int] = []
    for j in still:
        same_site = any(_determined(seen[:, i], seen[:, j]) and _determined(seen[:, j], seen[:, i]) for i in told)
        if len(np.unique(seen[:, j])) <= MOST_VALUES and not same_site:
            told.append(int(j))
            # Columns that change only with this one tell the site as well.
            others = [i for i in range(seen.shape[1]) if i not in still or not _determined(seen[:, j], seen[:, i])]
            yield _Sites(facts.observation_names[j], seen[:, j], seen[:, others])


def _determined(by: NumpyArray, column: NumpyArray) -> bool:
    """Whether a column has one value for each value of another one."""
    return all(len(np.unique(column[by == value])) == 1 for value in np.unique(by))


def _exchanged(
    log: Dataset, facts: Facts, rows: BehaviorRows, sites: _Sites, largest: NumpyArray, other: NumpyArray
) -> list[tuple[int, ...]]:
    """The cycles of classes in which the codes of a site are exchanged; empty where none is."""
    kept = np.flatnonzero((largest | other) & (rows.choice < len(rows.common)))
    choice, reference, episode = rows.choice[kept], largest[kept], rows.sample.episode[kept]
    here = np.flatnonzero(~reference)
    seen = sites.observation[kept]
    scores = [_by_behavior(seen, choice, reference, len(rows.common))[here]]
    if (effect := _by_effect(log, facts, rows, kept, seen, reference)) is not None:
        scores.append(effect[here])
    choice, episode = choice[here], episode[here]
    learn = rows.half[kept][here]
    classes = len(rows.common)
    counts = np.bincount(choice[learn], minlength=classes)
    total = np.zeros((classes, classes))
    for score in scores:
        np.add.at(total, choice[learn], score[learn])
    rare = np.flatnonzero(counts < LEAST_OF_CODE)
    total[rare, rare] += 1e9
    code = optimize.linear_sum_assignment(-total)[1]
    return [
        cycle
        for cycle in _cycles(code)
        if _holds(cycle, code, [s[~learn] for s in scores], choice[~learn], episode[~learn])
    ]


def _holds(
    cycle: tuple[int, ...], code: NumpyArray, scores: list[NumpyArray], choice: NumpyArray, episode: NumpyArray
) -> bool:
    """Whether exchanging the codes of a cycle explains the rows that take them better, beyond chance, with no objection."""
    at = np.flatnonzero(np.isin(choice, cycle))
    if len(at) < LEAST_OF_CODE or len(np.unique(episode[at])) < LEAST_EPISODES:
        return False
    gains = [score[at, code[choice[at]]] - score[at, choice[at]] for score in scores]
    fits = [score[at, code[choice[at]]] for score in scores]
    z = [z_of_mean(gain, episode[at]) if gain.any() else 0.0 for gain in gains]
    total = np.sum(gains, axis=0)
    return bool(
        max(z) > SURE and min(z) > AGAINST and total.mean() > LEAST_GAIN and max(float(fit.mean()) for fit in fits) > 0
    )


def _cycles(code: Int[NumpyArray, " k"]) -> list[tuple[int, ...]]:
    """The cycles of a permutation that move something."""
    found, left = [], set(np.flatnonzero(code != np.arange(len(code))).tolist())
    while left:
        cycle = [min(left)]
        while (after := int(code[cycle[-1]])) != cycle[0]:
            cycle.append(after)
        left -= set(cycle)
        found.append(tuple(cycle))
    return found


def _by_behavior(
    seen: NumpyArray, choice: NumpyArray, reference: Bool[NumpyArray, " n"], classes: int
) -> Float[NumpyArray, "n k"]:
    """(n, k) how likely each code is by the behaviour of the other site, in nats beyond its mean over the site's rows."""
    states, state = np.unique(hash_words(words(seen)), return_inverse=True)
    cells = (state,) if len(states) * 8 <= len(seen) else ()
    model = Predictor(features(seen, full_up_to=8), reference, cells)
    log_probs = np.log(np.maximum(held_out_probabilities(model, choice, classes, None), LEAST_PROBABILITY))
    for side in (reference, ~reference):
        log_probs[side] -= log_probs[side].mean(0)
    return log_probs


def _by_effect(
    log: Dataset, facts: Facts, rows: BehaviorRows, kept: NumpyArray, seen: NumpyArray, reference: NumpyArray
) -> Float[NumpyArray, "n k"] | None:
    """(n, k) how well the effect that each code has in the largest site explains what followed, in nats."""
    at = rows.sample.rows[kept]
    following = log.next_observation_index[at]
    known = following != NO_OBSERVATION
    after = facts.observation_at(np.where(known, following, 0)) - rows.sample.observation[kept]
    outcome = np.concatenate([np.where(known[:, None], after, 0), rows.sample.reward[kept][:, None]], 1)
    outcome = outcome[:, outcome.std(0) > 1e-9]
    if not outcome.shape[1]:
        return None
    classes = len(rows.common)
    hot = np.eye(classes)[rows.choice[kept]]
    x = features(seen, full_up_to=8)
    size = x.shape[1]
    both = np.concatenate([x, hot - hot[reference].mean(0)], 1)
    fitted = both[reference]
    gram = fitted.T @ fitted
    gram[np.diag_indices(size)] += 1e-4 * len(fitted)
    inner = np.arange(size, len(gram))
    gram[inner, inner] += 20.0  # an effect that few rows show is drawn towards none
    weight = np.linalg.solve(gram, fitted.T @ outcome[reference])
    left = outcome - x @ weight[:size]
    for side in (reference, ~reference):
        left[side] -= left[side].mean(0)
    spread = np.maximum(left[reference].std(0), 1e-6 * outcome.std(0))
    left, effect = (left / spread).clip(-5, 5), weight[size:] / spread
    return (left @ effect.T - 0.5 * (effect**2).sum(1)) / np.sqrt(outcome.shape[1])


def _finding(
    log: Dataset, rows: BehaviorRows, sites: _Sites, largest: str, exchanged: list[tuple[str, list[tuple[int, ...]]]]
) -> Finding:
    site, cycles = exchanged[0]
    codes = [(int(rows.common[a]), int(rows.common[b])) for c in cycles for a, b in zip(c, (*c[1:], c[0]), strict=True)]
    said = ", ".join(f"{_name(log, a)} like {_name(log, b)}" for a, b in codes[:MOST_NAMED])
    more = "" if len(exchanged) == 1 else f" and {len(exchanged) - 1} more"
    return Finding(
        "action-codes-differ",
        "warning",
        f"action, {sites.name}: {site}{more}",
        f"{len(codes)} codes look exchanged: by the states in which they are taken and what follows, {sites.name} {site} "
        f"uses code {said}{' ...' if len(codes) > MOST_NAMED else ''} as they are used in {largest}",
        "a code to mean the same action in every part of the log",
        "Do these codes mean the same? If not, translate them before the parts are joined. If they do, the parts treat similar "
        "states differently, and are better evaluated apart.",
    )


def _shown(site: object) -> str:
    """How the finding writes a site: whole numbers without decimals."""
    return f"{site:g}" if isinstance(site, float) else str(site)


def _name(log: Dataset, action: int) -> str:
    names = log.schema.action_names
    named = action < len(names) and names[action] != str(action)
    return f"{action} ({names[action]})" if named else str(action)
