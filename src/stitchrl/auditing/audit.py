"""`st.audit`: run every check on a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stitchrl.auditing.all_checks import CHECKS, PICTURES
from stitchrl.auditing.draws import drawn_by
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import SEVERITIES, Audit, Finding
from stitchrl.auditing.moments import Moments, blocks
from stitchrl.auditing.own_checks import findings_of, name_of
from stitchrl.data.dataset import Dataset
from stitchrl.data.given import check_is_log
from stitchrl.errors import ConfigurationError
from stitchrl.storage.plain import plain
from stitchrl.types import NumpyArray

__all__ = ["audit"]

MOST_COLUMNS = 200
"""The audit lists the range of at most this many observation columns."""
MOST_BINS = 24


def audit(
    log: Dataset,
    against: Dataset | None = None,
    *,
    removed: Mapping[str, NumpyArray] | None = None,
    seed: int = 0,
    checks: Sequence[Callable[[Dataset, Facts], Iterable[Finding]]] = (),
) -> Audit:
    """Say what is in a log and what is wrong with it, before anything is trained.

    The log is read once, in blocks, so it may be larger than memory. Everything that needs several looks at a row uses a
    random sample that the seed fixes, so the same log always gets the same audit.

    Args:
        log: the log.
        against: another log that must share nothing with this one, such as the test part.
        removed: name -> (N,) values of a column that was left out of the observation on purpose, in the order of the log's
            rows. The audit says whether the observation reveals it all the same, and whether it decided both the actions and
            what followed. `stitchrl audit LOG --removed a,b` reads such columns from the log itself.
        seed: of the samples that are looked at in a large log, and of the random functions in the models of the checks; at
            least 0. A finding that another seed does not give is a matter of the draw.
        checks: checks of your own, which run after the built-in ones: each takes the log and the facts about it and gives
            findings.

    Raises:
        ConfigurationError: the seed is below 0, what was given is no log, a removed column does not fit the log or is part
            of its observation, or a check of your own gives something else than findings.

    Returns:
        Findings, the most harmful first, and numbers: sizes, returns, lengths, actions, and the numbers of pictures
        (`coverage`, `drift`, `history`, `randomness`, `columns`, `sources`, `return_modes`).
    """
    check_is_log(log, "st.audit")
    facts = Facts(log, against, _removed(log, removed or {}))
    with drawn_by(seed), np.errstate(over="ignore", invalid="ignore"):  # values that are not finite become findings
        findings = [finding for check in CHECKS for finding in check(log, facts)]
        findings += [finding for check in checks for finding in findings_of(check, log, facts)]
        findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        numbers = plain(_numbers(log, facts))
    return Audit(tuple(findings), tuple(map(name_of, (*CHECKS, *checks))), numbers)


def _removed(log: Dataset, given: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
    """The removed columns as arrays; each must have a value for every row, and must really be left out."""
    seen = {name.partition("=")[0] for name in log.observation_names}
    found = {name: np.asarray(values) for name, values in given.items()}
    for name, values in found.items():
        if values.shape != (log.num_transitions,):
            raise ConfigurationError(
                f"`removed` must give one value for each of the {log.num_transitions:,} rows of the log; {name!r} has shape "
                f"{values.shape}. Give its values in the order of the log's rows."
            )
        if name in seen:
            raise ConfigurationError(
                f"`removed` names {name!r}, which is part of the observation. Take it out of `observation` in the schema first."
            )
    return found


def _numbers(log: Dataset, facts: Facts) -> dict[str, Any]:
    returns, lengths = facts.scan.returns, np.diff(log.episode_start)
    return {
        "episodes": log.num_episodes,
        "transitions": log.num_transitions,
        "observation_size": log.observation_size,
        "num_actions": log.num_actions,
        "action_names": list(log.schema.action_names),
        "mean_return": float(returns.mean()),
        "mean_length": float(lengths.mean()),
        "return_hist": _histogram(returns),
        "length_hist": _histogram(lengths.astype(float)),
        "action_counts": [] if log.num_actions is None else facts.scan.action_counts.sum(0).tolist(),
        "action_allowed_share": None if log.action_mask is None else _mean_by_block(log.action_mask),
        "truncated_episodes": int(log.truncated.sum()),
        "behavior_source": "fitted" if log.behavior_log_prob is None else "logged",
        "columns": _columns(facts),
        "reward": _range(facts.scan.reward, 0),
        "action_range": []
        if facts.scan.action is None
        else [_range(facts.scan.action, j) for j in range(len(facts.scan.action.low))],
        **{name: facts.once(compute) for name, compute in PICTURES.items()},
    }


def _columns(facts: Facts) -> list[dict[str, Any]]:
    """The range of each observation column, of the first `MOST_COLUMNS`."""
    moments = facts.scan.observation
    if moments is None:
        return []
    return [{"name": name} | _range(moments, j) for j, name in enumerate(facts.observation_names[:MOST_COLUMNS])]


def _range(moments: Moments, j: int) -> dict[str, Any]:
    return {
        "low": float(moments.low[j]),
        "high": float(moments.high[j]),
        "mean": float(moments.mean[j]),
        "spread": float(moments.spread[j]),
        "missing": int(moments.missing[j]),
        "infinite": int(moments.infinite[j]),
    }


def _mean_by_block(values: NumpyArray) -> list[float]:
    total = np.zeros(values.shape[1])
    for rows in blocks(len(values)):
        total += values[rows].sum(0)
    means: list[float] = (total / max(len(values), 1)).tolist()
    return means


def _histogram(values: NumpyArray) -> dict[str, list[float]]:
    """A histogram of at most `MOST_BINS` bins; whole numbers over a wide enough range get bins of a whole width."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 2:
        edges = np.linspace(low, high if high > low else low + 1, 11)
    elif (values == np.floor(values)).all():
        width = max(1.0, np.ceil((high - low + 1) / MOST_BINS))
        edges = np.arange(low - 0.5, high + 0.5 + width, width)
    else:
        edges = np.linspace(low, high, MOST_BINS + 1)
    counts, edges = np.histogram(values, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
