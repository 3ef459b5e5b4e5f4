"""What the audit's section draws and says, from the audit's plain numbers: geometry, orderings, sentences.

Numbers that an older audit did not write give None here, and the section leaves their part out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.reporting import charts
from stitchrl.reporting.charts import Axis, is_number, number, percent, short

__all__ = ["audit_view"]

Json = Mapping[str, Any]

TONES = {"usable": "go", "usable with care": "unknown", "not usable": "nogo"}
SEVERITIES = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "info": ("for information", "for information"),
}
MEANS = {
    "usable": "No check found anything that harms learning or judging from this log.",
    "usable with care": "No finding forbids the use of this log; each warning below names something that it can spoil.",
    "not usable": "With an error below, every number made from this log can be wrong: mend it first.",
}
SMALL = 0.2
"""Standard deviations below which a shift is called small (Cohen 1988)."""
LINES = 5
"""As many lines as a panel's dashes tell apart."""
THIN = 0.01
"""A region with a smaller share of the log says little: regions are cut to be about equally large."""
NUMBERED = 8
"""Columns of a coverage map up to which a cell has room for its number."""
HEADED = 25
"""Columns of a coverage map up to which each is named."""
SHORT_HEAD = 4
"""Characters up to which the names of columns lie flat."""
MAX_HEAD = 24
LONG_NAME = 16
"""Characters from which the name of an action does not fit beside its bar."""
PRINTED_ROWS = 60
"""A table with more rows is left out on paper."""
CONVINCING, APART, LEAST_PART = 10.0, 2.0, 0.01
"""Two humps are said from this gain in BIC (Kass and Raftery 1995), Ashman's D and share of episodes on."""
WEAK = 0.1
"""Nats an episode below which the part of random episodes rests on next to no evidence."""
THROUGHOUT = 0.97


def audit_view(audit: Json, numbers: Json, names: Sequence[str] = ()) -> dict[str, Any]:
    """All that the template needs for the section "What is in the log".

    Args:
        audit: `verdict` and `findings`, `checks` where there are any.
        numbers: the audit's numbers.
        names: of the discrete actions; by default those of the audit. An action without one goes by its number.

    Raises:
        KeyError: a number is missing that every audit has written.
    """
    names = names or numbers.get("action_names") or ()
    bars = charts.action_bars(numbers["action_counts"], numbers["action_allowed_share"], names)
    keep = ("episodes", "transitions", "mean_return", "mean_length", "num_actions", "observation_size")
    return {
        **{key: numbers[key] for key in (*keep, "behavior_source")},
        **_verdict(audit),
        "truncated": numbers.get("truncated_episodes"),
        "reward": numbers.get("reward"),
        "returns": charts.histogram(numbers["return_hist"], numbers["mean_return"]),
        "lengths": charts.histogram(numbers["length_hist"], numbers["mean_length"], decimals=1),
        "all_return": _all_alike(numbers["return_hist"], numbers["mean_return"]),
        "all_length": _all_alike(numbers["length_hist"], numbers["mean_length"]),
        "humps": _humps(numbers.get("return_modes")),
        "actions": bars,
        "long_actions": any(len(row["name"]) > LONG_NAME for row in bars if row["number"] is not None),
        "masked": bool(numbers["action_allowed_share"]),
        "action_ranges": _action_ranges(numbers.get("action_range")),
        "coverage": _coverage(numbers.get("coverage"), names),
        "drift": _drift(numbers, names),
        "randomness": _randomness(numbers.get("randomness")),
        "sources": _sources(numbers.get("sources")),
        "columns": numbers.get("columns") or [],
        "long_table": len(numbers.get("columns") or []) > PRINTED_ROWS,
    }


def _verdict(audit: Json) -> dict[str, Any]:
    severities = list(SEVERITIES)
    findings = sorted(
        audit["findings"],
        key=lambda f: severities.index(f["severity"]) if f["severity"] in SEVERITIES else len(severities),
    )
    counts = {severity: sum(f["severity"] == severity for f in findings) for severity in SEVERITIES}
    found = [f"{n} {SEVERITIES[severity][n != 1]}" for severity, n in counts.items() if n]
    return {
        "verdict": audit["verdict"],
        "tone": TONES.get(audit["verdict"], "unknown"),
        "means": MEANS.get(audit["verdict"], ""),
        "findings": findings,
        "tally": _listed(found) if found else "nothing to report",
        "checks": [str(name).replace("_", " ") for name in audit.get("checks") or []],
    }


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _signed(value: Any, decimals: int = 2) -> str:
    return number(value, decimals, sign=True)


def _all_alike(histogram: Json, mean: Any) -> str:
    """The one value of a histogram that holds nothing else: a lone bar would look like a range."""
    counts = histogram["counts"]
    alike = bool(counts) and sum(counts) == counts[0] > 0 and mean == histogram["edges"][0]
    return short(mean) if alike else ""


def _humps(modes: Json | None) -> str:
    """Says that returns come in two humps, where that is beyond doubt."""
    if not modes or not (is_number(modes["bic_gain"]) and is_number(modes["separation"])):
        return ""
    if modes["bic_gain"] < CONVINCING or modes["separation"] < APART or min(modes["share"]) < LEAST_PART:
        return ""
    return (
        f"Two humps fit these returns far better than one: about {modes['share'][0]:.0%} of episodes return around "
        f"{short(modes['mean'][0])}, the other {modes['share'][1]:.0%} around {short(modes['mean'][1])}."
    )


def _action_ranges(ranges: Sequence[Json] | None) -> dict[str, Any] | None:
    """One strip a number of the action: its whole range, and one standard deviation about its mean."""
    known = [r for r in ranges or [] if is_number(r["low"]) and is_number(r["high"])]
    if not ranges or not known:
        return None
    axis = charts.fit_axis(value for r in known for value in (r["low"], r["high"]))
    rows = []
    for index, r in enumerate(ranges):
        middle = is_number(r["mean"]) and is_number(r["spread"])
        low, high = (r["mean"] - r["spread"], r["mean"] + r["spread"]) if middle else (None, None)
        rows.append(
            {
                **r,
                "name": f"number {index}",
                "range": charts.span(axis, r["low"], r["high"]),
                "usual": charts.span(axis, low, high),
                "mark": charts.mark(axis, r["mean"]),
            }
        )
    return {"rows": rows, "ticks": axis.ticks()}


# --- coverage ----------------------------------------------------------------------------------------------------


def _coverage(coverage: Json | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Rows of cells, one a region of the state space, one column an action (or a number of a continuous action)."""
    if not coverage or not coverage["matrix"] or not coverage["actions"]:
        return None
    share = coverage["kind"] == "share"
    heads = [charts.action_name(names, a) if share else f"number {a}" for a in coverage["actions"]]
    known = [v for row in coverage["matrix"] for v in row if is_number(v)]
    top = max([*known, 0.0 if share else 1.0]) or 1.0
    parts = zip(coverage["regions"], coverage["row_share"], coverage["matrix"], strict=True)
    rows = [_region(name, part, values, heads, top, share) for name, part, values in parts]
    judged = [row for row in rows if not row["thin"]] or rows
    narrowest = max(judged, key=lambda row: row["narrow"])
    return {
        "share": share,
        "rows": rows,
        "columns": len(heads),
        "numbered": len(heads) <= NUMBERED,
        **_heads(heads),
        "legend": [
            {"strength": _strength(v, top, share), "text": percent(v, 0 if v >= 0.01 else 1) if share else short(v)}
            for v in ((0.001, 0.01, 0.05, 0.2, 0.5, 1.0) if share else (0.25, 0.5, 1.0, 2.0))
            if v <= top
        ],
        "thin": sum(row["thin"] for row in rows),
        "narrowest": narrowest,
        "fullest": max(row["seen"] for row in judged),
        "emptiest": min(row["seen"] for row in judged),
    }


def _region(name: str, part: float, values: Sequence[Any], heads: Sequence[str], top: float, share: bool) -> Json:
    step = 100.0 / len(heads)
    cells = [
        {
            "x": round(i * step, 3),
            "strength": _strength(v, top, share),
            "text": (percent(v, 0) if v >= 0.01 or v == 0 else "<1%") if share else number(v, 2),
            "title": f"{heads[i]}: {percent(v)}" if share else f"{heads[i]}: {number(v, 2)}",
        }
        for i, v in enumerate(values)
        if is_number(v) and (v > 0 or len(heads) <= NUMBERED)
    ]
    never = [(i, i + 1) for i, v in enumerate(values) if is_number(v) and v <= 0]
    runs: list[tuple[int, int]] = []
    for first, last in never:
        if runs and runs[-1][1] == first:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))
    known = [(v, i) for i, v in enumerate(values) if is_number(v)]
    # the action taken most; of continuous actions the number that varies least
    (value, at) = (max(known) if share else min(known)) if known else (None, 0)
    match = re.fullmatch(r"(region \d+) \((.*)\)", name, re.DOTALL)
    return {
        "name": name,
        "head": match[2] if match else name,
        "tail": match[1] if match else "",
        "part": "<0.1%" if 0 < part < 0.001 else percent(part),
        "thin": part < THIN,
        "cells": cells,
        "blanks": [{"x": round(i * step, 3), "width": round((j - i) * step, 3)} for i, j in runs],
        "width": round(step, 3),
        "seen": sum(v > 0 for v, _ in known),
        "extreme": heads[at],
        "extreme_value": value,
        "narrow": -math.inf if value is None else value if share else -sum(v for v, _ in known) / len(known),
        "mean": sum(v for v, _ in known) / len(known) if known else None,
    }


def _strength(value: float, top: float, share: bool) -> float:
    """Opacity of a cell: square root of shares, because a few actions hold most decisions; straight for spreads."""
    part = min(1.0, max(0.0, value / top))
    if not share:
        return round(part, 3)
    return round(0.14 + 0.86 * math.sqrt(part), 3) if value > 0 else 0.0  # seldom must not look like never


def _heads(heads: Sequence[str]) -> dict[str, Any]:
    """Names of the columns: flat where short, upright where long, every so many where they are too many."""
    texts = [head.removeprefix("action ").removeprefix("number ") for head in heads]
    every = math.ceil(len(texts) / HEADED)
    if every > 1:
        texts = [str(i) if len(text) > SHORT_HEAD else text for i, text in enumerate(texts)]
        every = next((n for n in (2, 5, 10, 20) if n >= every), every)
    texts = charts.fitting(texts, MAX_HEAD)
    longest = max(map(len, texts))
    return {
        "upright": longest > SHORT_HEAD,
        "side": 10 + round(5.6 * longest),  # px: room for the longest name upright
        "heads": [
            {"x": round(100.0 * (i + 0.5) / len(texts), 3), "text": text, "minor": i // every % 2 == 1}
            for i, text in enumerate(texts)
            if i % every == 0
        ],
        "crowded": longest > 1 and len(texts) / every > 14,
    }


# --- drift -------------------------------------------------------------------------------------------------------


def _drift(numbers: Json, names: Sequence[str]) -> dict[str, Any] | None:
    """Panels of lines over equal parts of the log, early to late, and the table behind them."""
    drift = numbers.get("drift")
    if not drift or not drift["rows"]:
        return None
    rows = drift["rows"]
    least = min((n for n in rows if n), default=0)
    actions = _action_lines(drift.get("action"), numbers.get("action_range"), names)
    panels = [
        panel
        for panel in (
            _reward_panel(drift.get("reward"), numbers.get("reward")),
            _shift_panel("Observation columns that move most", drift.get("observation")),
            _mix_panel(actions)
            if numbers["num_actions"] is not None
            else _shift_panel("Numbers of the action", actions),
        )
        if panel
    ]
    return {
        "by_time": drift["order"] == "time",
        "parts": len(rows),
        "part_name": "tenth" if len(rows) == 10 else "part",
        "rows": least,
        "chance": f"{1.0 / math.sqrt(least):.1g}" if least else "",
        "panels": panels,
        "table": _drift_table(rows, panels),
    }


def _reward_panel(values: Sequence[Any] | None, reward: Json | None) -> dict[str, Any] | None:
    known = [v for v in values or [] if is_number(v)]
    if values is None or not known:
        return None
    spread, middle = (reward["spread"], reward["mean"]) if reward else (None, None)
    band: tuple[float, float] | None = None
    if is_number(spread) and is_number(middle) and spread > 0:
        band = middle - SMALL * spread, middle + SMALL * spread
    axis = charts.fit_axis([*known, *(band or ())], pad=0.1)
    return _panel(
        "Mean reward of a decision",
        [("mean reward", values)],
        axis,
        f"First {short(known[0])}, last {short(known[-1])}; between {short(min(known))} and {short(max(known))}.",
        band=band,
        ticks=axis.ticks(3),
        write=short,
    )


def _shift_panel(title: str, entries: Sequence[Json] | None) -> dict[str, Any] | None:
    lines = [(entry["name"], entry["shift"]) for entry in entries or []][:LINES]
    known = [v for _, values in lines for v in values if is_number(v)]
    if not known:
        return None
    name, values = max(lines, key=lambda line: max((abs(v) for v in line[1] if is_number(v)), default=0.0))
    own = [v for v in values if is_number(v)]
    large = max(abs(v) for v in own) > SMALL
    says = "" if large else "No line leaves the band. "
    says += f"Moves most: {name}, between {_signed(min(own))} and {_signed(max(own))}."
    axis = charts.fit_axis([*known, -SMALL, SMALL], pad=0.12)
    return _panel(title, lines, axis, says, band=(-SMALL, SMALL), ticks=axis.ticks(3, sign=True), write=_signed) | {
        "unit": "In standard deviations from the mean of the whole log. ",
        "keyed": True,
    }


def _action_lines(
    action: Sequence[Sequence[Any]] | None, ranges: Sequence[Json] | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """A line an action (its share) or a number of the action (its shift in standard deviations); most moved first."""
    if not action or not action[0]:
        return []
    lines = []
    for index, values in enumerate(zip(*action, strict=True)):
        shift: list[Any] = list(values)
        if ranges:
            mean, spread = ranges[index]["mean"], ranges[index]["spread"]
            if not (is_number(mean) and is_number(spread) and spread > 0):
                continue
            shift = [(v - mean) / spread if is_number(v) else None for v in values]
        known = [v for v in shift if is_number(v)]
        if known:
            name = f"number {index}" if ranges else charts.action_name(names, index)
            lines.append({"name": name, "shift": shift, "reach": max(known) - min(known)})
    return sorted(lines, key=lambda line: -line["reach"])


def _mix_panel(lines: Sequence[Json]) -> dict[str, Any] | None:
    if not lines:
        return None
    drawn = [(line["name"], line["shift"]) for line in lines[:LINES]]
    known = [v for _, values in drawn for v in values if is_number(v)]
    axis = Axis(0.0, max(1.12 * max(known), 0.01))
    ticks = [tick | {"text": tick["text"] + "%"} for tick in Axis(0.0, 100.0 * axis.upper).ticks(3)]
    own = [v for v in drawn[0][1] if is_number(v)]
    says = f"Changes most: {drawn[0][0]}, between {percent(min(own))} and {percent(max(own))} of decisions."
    title = "Share of each action" if len(lines) <= LINES else f"Shares of the {LINES} actions that change most"
    return _panel(title, drawn, axis, says, ticks=ticks, write=percent) | {
        "unit": "In shares of the decisions. ",
        "keyed": True,
    }


def _panel(
    title: str,
    lines: Sequence[tuple[str, Sequence[Any]]],
    axis: Axis,
    says: str,
    *,
    ticks: Sequence[Json],
    write: Any,
    band: tuple[float, float] | None = None,
) -> dict[str, Any]:
    parts = max(len(values) for _, values in lines)
    across = Axis(-0.5, parts - 0.5)
    return {
        "title": title,
        "says": says,
        "unit": "",
        "keyed": False,
        "ticks": ticks,
        "band": None if band is None else {"y": 100 - axis.at(band[1]), "height": axis.at(band[1]) - axis.at(band[0])},
        "lines": [
            {
                "name": name,
                "path": charts.line_path(range(len(values)), values, across, axis, False),
                "dots": [
                    {"x": across.at(i), "y": round(100 - axis.at(v), 2), "title": f"{name}, {i + 1}: {write(v)}"}
                    for i, v in enumerate(values)
                    if is_number(v)
                ],
                "texts": [write(v) for v in values],
            }
            for name, values in lines
        ],
    }


def _drift_table(rows: Sequence[int], panels: Sequence[Json]) -> dict[str, Any]:
    lines = [line for panel in panels for line in panel["lines"]]
    return {
        "heads": [line["name"] for line in lines],
        "rows": [
            {"part": i + 1, "rows": n, "texts": [line["texts"][i] if i < len(line["texts"]) else "" for line in lines]}
            for i, n in enumerate(rows)
        ],
    }


# --- randomness and sources --------------------------------------------------------------------------------------


def _randomness(found: Json | None) -> dict[str, Any] | None:
    """How random the actions look, in words and numbers; `facts` empty where the log is too small to say."""
    if found is None:
        return None
    certain, spread = found.get("near_deterministic_share"), found.get("relative_spread")
    effective, allowed = found.get("effective_actions"), found.get("allowed_actions")
    facts: list[dict[str, str]] = []
    at: float | None = None
    if is_number(effective) and is_number(allowed):
        at = (effective - 1.0) / (allowed - 1.0) if allowed > 1 else 0.0
        facts.append(
            {
                "value": f"{number(effective, 1)} of {number(allowed, 1)}",
                "text": "actions: in places alike, the choice varies as much as an even draw among so many of the "
                "allowed actions (mean of exp(entropy))",
            }
        )
    if is_number(spread):
        at = spread
        facts.append(
            {
                "value": number(spread, 2),
                "text": "spread of the actions about what a regression on the observation predicts; 1 is the spread of uniform "
                "random actions, 0 no chance at all. At most this: what the regression misses passes for chance",
            }
        )
    if is_number(certain):
        facts.append(
            {
                "value": percent(certain, 0),
                "text": "of decisions were made where the same action follows nearly always"
                + (" (95% or more)" if spread is None else " (spread under 0.05), if not more")
                + ": nothing there to compare it with",
            }
        )
    if share := _random_share(found):
        facts.append(share)
    discrete = not is_number(spread)
    at = None if at is None else round(100.0 * min(1.0, max(0.0, at)), 2)
    means = _randomness_means(at, certain, found.get("random_share"), discrete)
    return {"facts": facts, "at": at, "discrete": discrete, "means": means}


def _random_share(found: Json) -> dict[str, str] | None:
    share, gain = found.get("random_share"), found.get("gain")
    if not is_number(share):
        return None
    text = "of episodes look like uniformly random actions"
    if 0 < share < THROUGHOUT:
        text += ", next to a policy in the rest"
        if is_number(gain):
            text += f"; the evidence is {number(gain, 2)} nats an episode"
            text += f", under the {WEAK:g} that make a case: read it as none" if gain < WEAK else ""
    return {"value": percent(share, 0), "text": text}


def _randomness_means(at: float | None, certain: Any, share: Any, discrete: bool) -> str:
    if at is None:
        return ""
    if (is_number(certain) and certain > 0.5) or at < 5:
        return (
            "Close to no chance: most places show one action only. Policies near the behaviour can be judged, others "
            "rest on a model."
        )
    if (is_number(share) and share >= THROUGHOUT) or (discrete and at > 90):
        return "Close to uniformly random: good for comparing policies, poor for imitating."
    if at < 40:
        return (
            "Some chance: policies that differ moderately from the behaviour can be judged. The longer the episodes, the "
            "faster the weights of such a judgement grow."
        )
    if not discrete:
        return (
            "Spread widely, but not like uniformly random actions: a noisy policy, several policies, or one whose shape a "
            "regression cannot follow. Log its probabilities rather than trust a fit."
        )
    return "Much chance: many policies can be judged from it; an imitation of it would be as noisy as the log."


def _sources(sources: Sequence[Json] | None) -> list[dict[str, Any]]:
    largest = max((entry["share"] for entry in sources or []), default=0.0) or 1.0
    return [{**entry, "width": round(100.0 * entry["share"] / largest, 2)} for entry in sources or []]
