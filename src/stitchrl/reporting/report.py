"""Plain numbers -> the report's content: reads a run directory's stage files, computes nothing new. No JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stitchrl.errors import RunDirectoryError

__all__ = ["CURVES", "build_report"]

CURVES = ("loss/critic", "loss/actor", "q/data_mean", "policy/agreement")
"""Metrics shown as learning curves, where an algorithm has them."""


def build_report(folder: Path) -> dict[str, Any]:
    """The content of the report of a finished run directory, JSON-able.

    Raises:
        RunDirectoryError: a stage file is missing.
    """
    run, audit, split = (_read(folder / name) for name in ("run.json", "audit.json", "split.json"))
    ranking, estimates, verdict = (_read(folder / name) for name in ("ranking.json", "estimates.json", "verdict.json"))
    selected = estimates["selected"]
    return {
        "title": run["name"],
        "unit": "return",
        "verdict": _verdict(verdict, estimates),
        "audit": {"verdict": audit["verdict"], "findings": audit["findings"], "checks": audit.get("checks", [])},
        "log": audit["numbers"],
        "learning": _learning(folder, run),
        "claims": [_claim(candidate) for candidate in ranking["candidates"]],
        "behavior": {
            "validation": _span(ranking["behavior"]),
            "test": _span(estimates["behavior"]),
            "exact": ranking["behavior_exact"],
        },
        "estimates": {
            "validation": [row for c in ranking["candidates"] for row in _rows(c, selected["label"], ranking)],
            "test": _rows(selected, selected["label"], ranking),
        },
        "ranking": [_rank(place, row, ranking, selected["label"]) for place, row in enumerate(ranking["order"], 1)],
        "disagreement": estimates["disagreement"],
        "explain": _explain(ranking, estimates, verdict),
        "provenance": _provenance(run, split),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunDirectoryError(
            f"A report needs {path.name} in {str(path.parent)!r}; it is missing or damaged. Run the earlier stages first."
        ) from None
    return content


def _span(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: estimate[key] for key in ("value", "lower", "upper")}


def _verdict(verdict: Mapping[str, Any], estimates: Mapping[str, Any]) -> dict[str, Any]:
    primary = verdict["primary"]
    gains = estimates["selected"]["evaluation"]["gain"]
    return {
        "decision": verdict["decision"],
        "headline": verdict["headline"],
        "candidate": estimates["selected"]["label"],
        "baseline": "behaviour",
        "confidence": verdict["confidence"],
        "margin": verdict["margin"],
        "primary": None if primary is None else {"estimator": primary} | _span(gains[primary]),
        "lines": verdict["lines"],
        "caveats": verdict["caveats"],
    }


def _learning(folder: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels = []
    for entry in run["algorithms"]:
        file = folder / "checkpoints" / entry["algorithm"] / "metrics.parquet"
        if not file.exists():  # left out: it diverged
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
        panels.append({"algorithm": entry["algorithm"], "caution": entry["caution"], "curves": curves})
    return panels


def _claim(candidate: Mapping[str, Any]) -> dict[str, Any]:
    estimate = candidate["evaluation"]["estimates"].get("fqe")
    estimated = None
    if estimate is not None and estimate["value"] is not None:
        estimated = {"estimator": "fqe", "healthy": estimate["healthy"]} | _span(estimate)
    keep = ("label", "algorithm", "seed", "caution", "claimed", "exact")
    return {key: candidate[key] for key in keep} | {"estimated": estimated}


def _rows(candidate: Mapping[str, Any], selected: str, ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    exact, base = candidate["exact"], ranking["behavior_exact"]
    rows = []
    for name, estimate in candidate["evaluation"]["estimates"].items():
        keep = ("value", "lower", "upper", "standard_error", "ess", "max_weight_share", "healthy", "reasons")
        rows.append(
            {
                "label": candidate["label"],
                "algorithm": candidate["algorithm"],
                "seed": candidate["seed"],
                "selected": candidate["label"] == selected,
                "caution": candidate["caution"],
                "estimator": name,
                "gain": _span(candidate["evaluation"]["gain"][name]),
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
    return {
        "rank": place,
        "label": candidate["label"],
        "algorithm": candidate["algorithm"],
        "seed": candidate["seed"],
        "caution": candidate["caution"],
        "estimator": row["estimator"],
        "gain": {"value": None, "lower": None, "upper": None} if gain is None else _span(gain),
        "healthy": bool(gain and gain["healthy"]),
        "selected": candidate["label"] == selected,
        "exact_gain": None if exact is None else exact - ranking["behavior_exact"],
    }


def _explain(ranking: Mapping[str, Any], estimates: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[str]:
    selected = estimates["selected"]
    agreement, own = estimates["disagreement"]["agreement"], estimates["disagreement"]["agreement_behavior"]
    texts = [
        "A policy can be judged only where the log has tried what it would do. The more a policy differs from the "
        "behaviour, the more it can gain, and the fewer logged decisions speak about it: the interval widens. Candidates "
        "are therefore ranked by the lower end of their gain, not by its middle.",
        f"The selected policy gives the logged action a probability of {agreement:.2f} on average; the behaviour itself "
        f"gives it {own:.2f}." if own is not None else
        f"The selected policy gives the logged action a probability of {agreement:.2f} on average.",
        "The primary estimate, FQE, is refitted on the episodes it is read on, with each decision weighted by how much "
        "likelier the policy takes it and how much likelier it comes to that state. Its interval includes the error of "
        "the fit. The importance-sampling family multiplies ratios over a whole episode; where its effective sample "
        "size is small it is shown hollow and decides nothing.",
    ]  # fmt: skip
    cautioned = [c for c in ranking["candidates"] if c["caution"] and c["claimed"] is not None]
    if cautioned:
        worst = max(cautioned, key=lambda c: c["claimed"])
        tail = "" if worst["exact"] is None else f" and is truly worth {worst['exact']:.3f}"
        texts.append(
            f"{worst['algorithm']} is there as a warning: it claims {worst['claimed']:.3f}{tail}. A learned value is not "
            "evidence about itself."
        )
    if verdict["decision"] == "CANNOT TELL":
        texts.append(
            "CANNOT TELL is not NO: the log does not settle the question. More test episodes, logged probabilities, or a "
            "policy nearer to the behaviour would narrow the interval."
        )
    if selected["exact"] is not None:
        texts.append(
            "This log comes from a known simulated world, so the exact value of every policy is shown (diamonds). A real "
            "log has no such column: check here how far the estimates can be trusted."
        )
    return texts


def _provenance(run: Mapping[str, Any], split: Mapping[str, Any]) -> dict[str, Any]:
    keep = ("command", "versions", "content_hash", "seed", "seeds", "updates", "batch_size", "gamma", "truth")
    parts = {name: {k: part[k] for k in ("episodes", "transitions")} for name, part in split["parts"].items()}
    algorithms = [{"algorithm": e["algorithm"], "settings": e["settings"]} for e in run["algorithms"]]
    return {key: run[key] for key in keep} | {"split": parts, "algorithms": algorithms}
