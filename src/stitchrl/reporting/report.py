"""The content of a report, gathered from the stage files of a run directory. It judges nothing and imports no JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stitchrl.errors import RunDirectoryError
from stitchrl.messages import first_steps_in_words
from stitchrl.reporting.confirmation import confirmation_content
from stitchrl.reporting.distribution import distribution_content
from stitchrl.reporting.groups import groups_content
from stitchrl.reporting.ladder import exact_base, ladder_content
from stitchrl.reporting.numbers import short
from stitchrl.reporting.together import together_content
from stitchrl.reporting.weights import weights_content

__all__ = ["CURVES", "build_report"]

CURVES = ("loss/critic", "loss/actor", "held_out/td_error", "held_out/log_prob", "q/data_mean", "policy/agreement")
"""Metrics that are shown as learning curves, where an algorithm has them."""


def build_report(folder: Path, meanings: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The content of the report on a finished run directory, in the types that JSON has.

    Args:
        folder: the run directory.
        meanings: decision -> its `tone` (good, bad or unsure) and a `note` to say with it, for a verdict whose file does
            not say so itself.

    Raises:
        RunDirectoryError: a stage file is missing.
    """
    run, audit, split = (_read(folder / name) for name in ("run.json", "audit.json", "split.json"))
    ranking, estimates, verdict = (_read(folder / name) for name in ("ranking.json", "estimates.json", "verdict.json"))
    selected = estimates["selected"]
    meaning: dict[str, str] = {"tone": "", "note": ""} | dict(meanings.get(verdict["decision"], {}))
    meaning |= {key: verdict[key] for key in meaning if key in verdict}
    return {
        "title": run["name"],
        "unit": "reward a decision" if audit["numbers"]["episodes"] == audit["numbers"]["transitions"] else "return",
        "horizon": run.get("horizon"),  # runs of older versions have none
        "verdict": _verdict(verdict, estimates) | {"tone": meaning["tone"]},
        "audit": {"checks": []} | {key: value for key, value in audit.items() if key != "numbers"},
        "log": audit["numbers"],
        "advice": _read(folder / "advice.json") if (folder / "advice.json").exists() else None,  # older runs have none
        "learning": _learning(folder, run),
        "claims": [_claim(candidate, verdict["primary"]) for candidate in ranking["candidates"]],
        "behavior": {
            "validation": _span(ranking["behavior"]),
            "test": _span(estimates["behavior"]),
            "exact": ranking["behavior_exact"],
        },
        "baseline": _baseline(estimates, verdict["primary"]),
        "estimators": _estimators([*ranking["candidates"], selected]),
        "estimates": {
            "validation": [row for c in ranking["candidates"] for row in _rows(c, _title(selected), ranking)],
            "test": _rows(selected, _title(selected), ranking),
        },
        "ranking": [_rank(place, row, ranking, _title(selected)) for place, row in enumerate(ranking["order"], 1)],
        "ladder": ladder_content(ranking, _title(selected), _title),
        "confirmation": confirmation_content(selected["evaluation"]),
        "weights": weights_content(estimates),
        "together": together_content(selected["evaluation"], verdict["primary"]),
        "distribution": distribution_content(selected["evaluation"]),
        "groups": groups_content(selected["evaluation"]),
        "diagnosis": _read(folder / "diagnosis.json") if (folder / "diagnosis.json").exists() else None,
        "disagreement": estimates["disagreement"],
        "explain": _explain(run, ranking, estimates, verdict, meaning["note"]),
        "provenance": _provenance(run, split),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunDirectoryError(
            f"A report needs {path.name} in {str(path.parent)!r}, which is missing or damaged. Run the earlier stages first."
        ) from None
    return content


def _candidates(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Label -> candidate; in a run of an older version each algorithm is labelled by its name."""
    return {entry.get("label", entry["algorithm"]): entry for entry in run.get("candidates") or run["algorithms"]}


def _title(candidate: Mapping[str, Any]) -> str:
    """A candidate with its seed and how it acts, such as "IQL-2 seed 1, greedy"."""
    title: str = candidate.get("title", candidate["label"])  # an older version called the title the label
    return title


def _names(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """What the report calls a candidate, and the heading under which it stands with its other seeds."""
    group = candidate["label"] if "title" in candidate else candidate["algorithm"]
    return {"label": _title(candidate), "algorithm": group}


def _span(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: estimate[key] for key in ("value", "lower", "upper")}


def _verdict(verdict: Mapping[str, Any], estimates: Mapping[str, Any]) -> dict[str, Any]:
    primary = verdict["primary"]
    gains = estimates["selected"]["evaluation"]["gain"]
    return {
        "decision": verdict["decision"],
        "headline": verdict["headline"],
        "candidate": _title(estimates["selected"]),
        "baseline": "the baseline" if "baseline" in estimates else "behaviour",
        "baseline_title": estimates["baseline"]["title"] if "baseline" in estimates else "behaviour",
        "confidence": verdict["confidence"],
        "margin": verdict["margin"],
        "primary": None if primary is None else {"estimator": primary} | _span(gains[primary]),
        "lines": verdict["lines"],
        "caveats": verdict["caveats"],
        "power": verdict.get("power"),
    }


def _baseline(estimates: Mapping[str, Any], primary: str | None) -> dict[str, Any] | None:
    """The value of the baseline on test by the primary estimate; None where gains are over the behaviour."""
    found = estimates.get("baseline")
    if found is None:
        return None
    value = None if primary is None else {"estimator": primary} | _span(found["estimates"][primary])
    return {"title": found["title"], "exact": found["exact"], "test": value}


def _learning(folder: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels = []
    for label, entry in _candidates(run).items():
        file = folder / "checkpoints" / label / "metrics.parquet"
        if not file.exists():  # it diverged and was left out
            continue
        table = pq.read_table(file).to_pydict()
        curves = []
        for metric in CURVES:
            if metric not in table:
                continue
            rows = list(zip(table["update"], table["seed"], table[metric], strict=True))
            seeds = sorted({seed for _, seed, _ in rows})
            curves.append(
                {
                    "metric": metric,
                    "updates": sorted({update for update, _, _ in rows}),
                    "seeds": [{"seed": s, "values": [v for _, seed, v in rows if seed == s]} for s in seeds],
                }
            )
        panels.append({"algorithm": label, "caution": entry["caution"], "curves": curves})
    return panels


def _estimators(candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The name and title of each estimator that was used, in order of appearance."""
    titles: dict[str, str] = {}
    for candidate in candidates:
        for name, estimate in candidate["evaluation"]["estimates"].items():
            titles.setdefault(name, estimate.get("title") or name)
    return [{"name": name, "title": title} for name, title in titles.items()]


def _claim(candidate: Mapping[str, Any], primary: str | None) -> dict[str, Any]:
    """What a candidate claims, beside the primary estimate of it, or the first estimate where that one has no value."""
    estimates = candidate["evaluation"]["estimates"]
    order = sorted(estimates, key=lambda name: name != primary)
    name = next((name for name in order if estimates[name]["value"] is not None), None)
    estimated = None
    if name is not None:
        estimated = {"estimator": name, "healthy": estimates[name]["healthy"]} | _span(estimates[name])
    keep = ("seed", "caution", "claimed", "exact")
    return _names(candidate) | {key: candidate[key] for key in keep} | {"estimated": estimated}


def _rows(candidate: Mapping[str, Any], selected: str, ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    exact, base = candidate["exact"], exact_base(ranking)
    rows = []
    for name, estimate in candidate["evaluation"]["estimates"].items():
        keep = ("value", "lower", "upper", "standard_error", "ess", "max_weight_share")
        gain = candidate["evaluation"]["gain"][name]
        errors = {key: gain[key] for key in ("standard_error", "predictable_error") if key in gain}
        rows.append(
            _names(candidate)
            | {
                "seed": candidate["seed"],
                "selected": _title(candidate) == selected,
                "caution": candidate["caution"],
                "estimator": name,
                "gain": _span(gain) | errors,
                # What counts is the gain, and more can be wrong with a difference than with a value.
                "healthy": gain["healthy"],
                "reasons": gain["reasons"],
                "failed": [check["key"] for check in gain.get("checks", ()) if not check["passed"]],
                "exact": exact,
                "exact_gain": None if exact is None else exact - base,
            }
            | {key: estimate[key] for key in keep}
        )
    return rows


def _rank(place: int, row: Mapping[str, Any], ranking: Mapping[str, Any], selected: str) -> dict[str, Any]:
    candidate = ranking["candidates"][row["index"]]
    gain = candidate["evaluation"]["gain"].get(row["estimator"] or "")
    exact = candidate["exact"]
    return _names(candidate) | {
        "rank": place,
        "seed": candidate["seed"],
        "caution": candidate["caution"],
        "estimator": row["estimator"],
        "gain": {"value": None, "lower": None, "upper": None} if gain is None else _span(gain),
        "healthy": bool(row.get("healthy", gain and gain["healthy"])),
        "predicted_lower": row.get("predicted_lower"),
        "passed_over": bool(row.get("passed_over")),
        "selected": _title(candidate) == selected,
        "exact_gain": None if exact is None else exact - exact_base(ranking),
    }


def _agreement_text(found: Mapping[str, Any]) -> str:
    if "shift" in found:
        apart = sum(found["shift"]["distance"]) / len(found["shift"]["distance"])
        return (
            f"The mean action of the selected policy is {apart:.2f} standard deviations of the logged actions away from the "
            "logged one, on average."
        )
    own = found["agreement_behavior"]
    beside = "" if own is None else f", and the behaviour itself gives it {own:.2f}"
    return f"The selected policy gives the logged action a probability of {found['agreement']:.2f} on average{beside}."


def _explain(
    run: Mapping[str, Any],
    ranking: Mapping[str, Any],
    estimates: Mapping[str, Any],
    verdict: Mapping[str, Any],
    note: str,
) -> list[str]:
    selected = estimates["selected"]
    over = " over the baseline" if "baseline" in estimates else ""
    texts = [
        "A policy can be evaluated only where the log has tried what the policy would do. The more a policy differs from the "
        "behaviour, the more it can gain, and the fewer logged decisions tell something about it, so its interval is wider. "
        f"Candidates are therefore ranked by the lower end of the interval of their gain{over}{_predicted(ranking)}, not by its "
        f"middle.{_passed_over(ranking)}",
        _agreement_text(estimates["disagreement"]),
    ]
    if (primary := verdict["primary"]) is not None:
        texts.append(_primary_text(primary, selected["evaluation"]["estimates"][primary]))
    cautioned = [c for c in ranking["candidates"] if c["caution"] and c["claimed"] is not None]
    if cautioned:
        worst = max(cautioned, key=lambda c: c["claimed"])
        tail = "" if worst["exact"] is None else f", while its exact value is {short(worst['exact'])}"
        texts.append(
            f"{_title(worst)} is shown as a warning: it claims a value of {short(worst['claimed'])}{tail}. A learned value "
            "is no evidence about itself."
        )
    if note:
        texts.append(note)
    if (horizon := run.get("horizon")) is not None:
        texts.append(
            f"Every value, gain and interval on this page, the behaviour's too, is of {first_steps_in_words(horizon)} of an "
            "episode. What comes later is not judged, and is not in the numbers."
        )
    if selected["exact"] is not None:
        texts.append(
            "This log comes from a known simulated world, so the exact value of every policy is shown (diamonds). A real "
            "log has no such values: compare them with the estimates to see how far those can be trusted."
        )
    return texts


def _predicted(ranking: Mapping[str, Any]) -> str:
    """Which lower end they were ranked by: older versions took that of the validation part itself."""
    known = any(row.get("predicted_lower") is not None for row in ranking["order"])
    return " that the test part, which is larger, is predicted to give" if known else ""


def _passed_over(ranking: Mapping[str, Any]) -> str:
    """Why a larger lower end stands behind a smaller one, where that is so."""
    if not any(row.get("passed_over") for row in ranking["order"]):
        return ""
    return (
        " Gains that a verdict could confirm come before others where their predicted lower end is above the margin: "
        "propensities cannot confirm a gain that does not weigh the actions by them."
    )


def _primary_text(name: str, estimate: Mapping[str, Any]) -> str:
    title = estimate.get("title") or name
    text = f"The primary estimate is {name if title == name else f'{name} ({title})'}."
    if assumptions := [str(assumption).rstrip(".") for assumption in estimate.get("assumptions", ())]:
        text += f" Its interval assumes the following: {'; '.join(assumptions)}."
    return f"{text} An estimate that fails a check of its own conditions is drawn hollow and does not count."


def _provenance(run: Mapping[str, Any], split: Mapping[str, Any]) -> dict[str, Any]:
    keep = (
        "command",
        "versions",
        "content_hash",
        "seed",
        "seeds",
        "updates",
        "batch_size",
        "gamma",
        "truth",
    )
    parts = {name: {k: part[k] for k in ("episodes", "transitions")} for name, part in split["parts"].items()}
    algorithms = []
    for label, entry in _candidates(run).items():
        kind = {} if label == entry["algorithm"] else {"algorithm": entry["algorithm"]}
        algorithms.append({"algorithm": label, "settings": kind | entry["settings"]})
    return {key: run[key] for key in keep} | {
        "time_unit": run.get("time_unit"),
        "split": parts,
        "algorithms": algorithms,
    }
