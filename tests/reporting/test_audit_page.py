"""The audit's own page: what it draws and says, with old audits, odd numbers and long names, on a phone too."""

import copy
import html
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import CHROMIUM, Page, chromium

import stitchrl as st
from stitchrl.errors import DataError
from stitchrl.reporting.audit_page import render_audit
from stitchrl.reporting.audit_view import audit_view

OLD = (
    "episodes",
    "transitions",
    "observation_size",
    "num_actions",
    "mean_return",
    "mean_length",
    "return_hist",
    "length_hist",
    "action_counts",
    "action_allowed_share",
    "behavior_source",
)
MINUS = "\N{MINUS SIGN}"


def a_range(name: str = "", low: float = -1.0, high: float = 1.0, **more: Any) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {**named, "low": low, "high": high, "mean": 0.0, "spread": 0.5, "missing": 0, "infinite": 0, **more}


@pytest.fixture
def audit() -> dict[str, Any]:
    """A log of 3 actions in 4 regions that drifts, with two sources."""
    return {
        "verdict": "usable with care",
        "meaning": "Each warning names something that it can spoil.",
        "worst": "warning",
        "counts": {"error": 0, "warning": 1, "info": 1},
        "summary": "3 checks found 1 warning and 1 note.",
        "checks": ["missing_values", "observation_drift", "reward_scale"],
        "findings": [
            {
                "code": "observation-drift",
                "severity": "warning",
                "where": "observation: lactate",
                "seen": "it rises",
                "expected": "effects under 0.2",
                "action": "Split by time.",
            },
            {"code": "a-note", "severity": "info", "where": "", "seen": "s", "expected": "", "action": ""},
        ],
        "numbers": {
            "episodes": 400,
            "transitions": 8000,
            "observation_size": 2,
            "num_actions": 3,
            "mean_return": 10.2,
            "mean_length": 20.0,
            "return_hist": {"edges": [0.0, 10.0, 20.0], "counts": [180, 220]},
            "length_hist": {"edges": [19.5, 20.5], "counts": [400]},
            "action_counts": [3200, 4000, 800],
            "action_allowed_share": None,
            "truncated_episodes": 12,
            "behavior_source": "fitted",
            "columns": [a_range("lactate", missing=17), a_range("age", 1.0, 1.0)],
            "reward": a_range(low=-3.6, high=4.0),
            "action_range": [],
            "randomness": {
                "random_share": 0.02,
                "near_deterministic_share": 0.16,
                "effective_actions": 2.0,
                "allowed_actions": 3.0,
                "relative_spread": None,
                "gain": 0.01,
                "chance": 0.5,
                "meaning": "Much chance.",
                "explanations": {
                    "effective_actions": "effective actions",
                    "near_deterministic_share": "of decisions are nearly certain",
                    "random_share": "of episodes look random",
                },
            },
            "coverage": {
                "kind": "share",
                "regions": ["region 0 (high lactate)", "region 1 (low age)", "region 2", "region 3 (low lactate)"],
                "row_share": [0.4, 0.3, 0.2996, 0.0004],
                "thin": [False, False, False, True],
                "thin_below": 0.01,
                "actions": [0, 1, 2],
                "matrix": [[0.8, 0.2, 0.0], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]],
            },
            "drift": {
                "order": "rows",
                "small": 0.2,
                "rows": [800] * 10,
                "reward": [0.01 * i for i in range(10)],
                "observation": [
                    {"name": "lactate", "shift": [-0.5] * 5 + [0.7] * 5},
                    {"name": "age", "shift": [0.0, None, *[0.01] * 8]},
                ],
                "observation_shift": [0.5] * 10,
                "action": [[0.4, 0.5, 0.1]] * 5 + [[0.2, 0.5, 0.3]] * 5,
            },
            "sources": [
                {"source": "ward B", "episodes": 266, "share": 0.665, "mean_return": 10.2, "return_spread": 7.3},
                {"source": "ward A", "episodes": 134, "share": 0.335, "mean_return": 9.1, "return_spread": 7.4},
            ],
            "return_modes": {
                "share": [0.3, 0.7],
                "mean": [15.0, 8.0],
                "spread": [1.0, 1.0],
                "bic_gain": 50.0,
                "separation": 7.0,
                "sentence": "Two modes: 30% of episodes return around 15.",
            },
        },
    }


@pytest.fixture
def continuous(audit: dict[str, Any]) -> dict[str, Any]:
    """The same of a log whose actions are two numbers."""
    audit["numbers"] |= {
        "num_actions": None,
        "action_counts": [],
        "action_range": [a_range(), a_range(low=-0.2, high=0.1, spread=0.05)],
        "randomness": {
            "random_share": 0.0,
            "near_deterministic_share": 0.0,
            "effective_actions": None,
            "allowed_actions": None,
            "relative_spread": 1.06,
            "gain": 0.0,
            "chance": 1.0,
            "meaning": "Spread widely.",
            "explanations": {
                "relative_spread": "is the spread",
                "near_deterministic_share": "of decisions hardly vary",
            },
        },
        "coverage": {
            "kind": "spread",
            "regions": ["region 0 (high lactate)", "region 1 (low age)"],
            "row_share": [0.5, 0.5],
            "actions": [0, 1],
            "matrix": [[1.2, 0.9], [0.3, 0.5]],
        },
    }
    audit["numbers"]["drift"]["action"] = [[0.0, 0.0]] * 5 + [[0.0, 0.05]] * 5
    return audit


def words(audit: dict[str, Any]) -> str:
    return Page(render_audit(audit)).text


def test_page_is_whole_loads_nothing_and_every_link_has_a_target(audit: dict[str, Any]) -> None:
    text = render_audit(audit, title="Stays of 2024")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    assert len(links) == 8
    assert all(link[0] == "#" and link[1:] in page.ids for link in links)
    assert not re.search(r"https?://|url\(|@import|javascript:|<script", text)
    assert "default-src 'none'" in text
    assert "Stays of 2024" in page.text
    assert render_audit(audit, title="Stays of 2024") == text


def test_verdict_comes_first_then_findings_in_their_order(audit: dict[str, Any]) -> None:
    said = (
        "Audit: usable with care",
        "Each warning names something that it can spoil. 3 checks found 1 warning and 1 note.",
        "observation-drift",
        "a-note",
        "Returns of",
    )
    text = words(audit)
    places = [text.index(words) for words in said]
    assert places == sorted(places)
    audit["findings"].reverse()
    text = words(audit)
    assert text.index("a-note") < text.index("observation-drift")


@pytest.mark.parametrize(
    ("worst", "tone"), [(None, "go"), ("info", "go"), ("warning", "unknown"), ("error", "nogo"), ("dire", "plain")]
)
def test_verdict_is_said_in_words_and_colour(audit: dict[str, Any], worst: str | None, tone: str) -> None:
    verdict = "fit for the moon"  # the words are the audit's own
    audit |= {"verdict": verdict, "worst": worst}
    text = render_audit(audit)
    assert f'class="audit-verdict {tone}"' in text
    assert f"Audit: {verdict}" in Page(text).text


def test_coverage_tells_never_from_seldom_and_judges_by_regions_of_some_size(audit: dict[str, Any]) -> None:
    cover = audit_view(audit, audit["numbers"], ["wait", "treat", "refer"])["coverage"]
    first, *_, thin = cover["rows"]
    assert (first["head"], first["seen"], first["extreme"]) == ("high lactate", 2, "wait")
    assert first["blanks"] == [{"x": 66.667, "width": 33.333}]
    assert [cell["text"] for cell in first["cells"]] == ["80%", "20%", "0%"]
    assert [cell["strength"] for cell in first["cells"]] == pytest.approx(
        [0.14 + 0.86 * s for s in (0.894, 0.447)] + [0], abs=1e-3
    )
    assert (thin["thin"], thin["part"], cover["thin"]) == (True, "<0.1%", 1)
    assert cover["narrowest"] is first  # not the thin one, where one action is all there is
    assert (cover["emptiest"], cover["fullest"]) == (2, 3)
    assert "1 faded region holds less than 1% of the log and says little" in words(audit)


def test_coverage_of_continuous_actions_is_their_spread(continuous: dict[str, Any]) -> None:
    text = words(continuous)
    assert "one number of the action" in text
    assert "The narrowest choice: region 1 (low age), where the action varies 0.40 times as much" in text
    assert "numbers in an action 2" in text
    assert f"from {MINUS}0.2 to 0.1" in text


@pytest.mark.parametrize("size", [1, 8, 9, 25, 26, 100])
def test_columns_of_a_coverage_map_are_named_as_far_as_there_is_room(audit: dict[str, Any], size: int) -> None:
    audit["numbers"]["coverage"] |= {"actions": list(range(size)), "matrix": [[1 / size] * size] * 4}
    cover = audit_view(audit, audit["numbers"])["coverage"]
    assert 1 <= len(cover["heads"]) <= 25
    assert not cover["upright"]
    named = audit_view(audit, audit["numbers"], [f"a treatment of kind {i}" for i in range(size)])["coverage"]
    assert named["upright"] == (size <= 25)
    Page(render_audit(audit))


def test_drift_lines_say_what_moves_and_what_chance_would_do(audit: dict[str, Any]) -> None:
    drift = audit_view(audit, audit["numbers"])["drift"]
    reward, columns, mix = drift["panels"]
    assert reward["band"]["height"] > 50  # a tenth of a standard deviation does not look like a slope
    assert columns["says"] == f"The largest shift is in lactate: between {MINUS}0.50 and +0.70."
    assert columns["lines"][1]["path"].count("M") == 2  # a part without a number breaks the line
    assert len(columns["lines"][1]["dots"]) == 9
    assert mix["says"] == "The largest change is in action 0: between 20.0% and 40.0% of decisions."
    assert drift["table"]["rows"][1]["texts"][2] == "\N{EN DASH}"
    text = words(audit)
    assert "The log gives no time" in text
    assert "about 0.04 standard deviations" in text
    audit["numbers"]["drift"]["order"] = "time"
    assert "The log gives no time" not in words(audit)


def test_a_log_that_does_not_change_stays_inside_the_band(audit: dict[str, Any]) -> None:
    audit["numbers"]["drift"]["observation"] = [{"name": "lactate", "shift": [0.03, -0.02] * 5}]
    panel = audit_view(audit, audit["numbers"])["drift"]["panels"][1]
    assert panel["says"] == f"No line leaves the band. The largest shift is in lactate: between {MINUS}0.02 and +0.03."
    heights = [dot["y"] for line in panel["lines"] for dot in line["dots"]]
    assert max(heights) - min(heights) < 15


def test_drift_of_continuous_actions_is_in_standard_deviations(continuous: dict[str, Any]) -> None:
    panel = audit_view(continuous, continuous["numbers"])["drift"]["panels"][2]
    assert panel["says"] == "The largest shift is in number 1: between 0.00 and +1.00."


def test_randomness_is_drawn_with_the_words_it_is_given(audit: dict[str, Any]) -> None:
    text = words(audit)
    for said in (
        "2.0 of 3.0 effective actions",
        "16% of decisions are nearly certain",
        "2% of episodes look random",
        "Much chance.",
    ):
        assert said in text
    assert audit_view(audit, audit["numbers"])["randomness"]["at"] == 50
    audit["numbers"]["randomness"] = dict.fromkeys(audit["numbers"]["randomness"])
    assert "cannot be estimated" in words(audit)


def test_sources_columns_and_return_modes_are_told(audit: dict[str, Any]) -> None:
    text = words(audit)
    for said in ("ward B 66.5%", "(constant)", "30% of episodes return around 15", "12 of 400 episodes were cut short"):
        assert said in text
    audit["numbers"]["return_modes"] |= {"sentence": ""}
    assert "Two modes" not in words(audit)


def test_a_lone_value_is_told_not_drawn(audit: dict[str, Any]) -> None:
    audit["numbers"] |= {"length_hist": {"edges": [20.0, 20.5, 21.0], "counts": [400, 0]}}
    assert "20 decisions, in every episode" in words(audit)
    audit["numbers"] |= {"return_hist": {"edges": [10.2, 10.7, 11.2], "counts": [400, 0]}}
    assert "Returns that never differ" in words(audit)


def test_an_older_audit_shows_what_it_has(audit: dict[str, Any]) -> None:
    del audit["checks"]
    audit["numbers"] = {key: audit["numbers"][key] for key in OLD}
    text = words(audit)
    assert "Returns of the episodes" in text
    assert "Which actions the log holds" in text
    for absent in ("tried where", "early to late", "How random", "Who made", "observation columns", "cut short"):
        assert absent not in text


SENTENCES = {
    "": ("meaning", "worst", "counts", "summary"),
    "randomness": ("chance", "meaning", "explanations"),
    "coverage": ("thin", "thin_below"),
    "drift": ("small",),
    "return_modes": ("sentence",),
}
"""What audits did not yet say when their numbers were already as they are."""


@pytest.mark.parametrize("kind", ["audit", "continuous"])
def test_an_audit_without_judgements_is_drawn_without_any(request: pytest.FixtureRequest, kind: str) -> None:
    audit = request.getfixturevalue(kind)
    for place, keys in SENTENCES.items():
        for key in keys:
            (audit["numbers"][place] if place else audit).pop(key, None)
    page = render_audit(audit)
    text = Page(page).text
    assert 'class="audit-verdict plain"' in page
    for said in ("Audit: usable with care", "observation-drift", "The largest shift", "The narrowest choice"):
        assert said in text
    for judged in ("found", "leaves the band", "grey band", "faded", "Two modes", "How random"):
        assert judged not in text
    assert not re.search(r"\b(None|nan|Undefined)\b", text)


def test_of_many_actions_the_commonest_are_listed(audit: dict[str, Any]) -> None:
    counts = [0] * 10_000
    counts[7_000], counts[3] = 500, 700
    audit["numbers"] |= {"num_actions": 10_000, "action_counts": counts, "action_allowed_share": None}
    audit["numbers"]["action_names"] = [f"item {k}" for k in range(10_000)]
    page = render_audit(audit)
    assert page.count('class="action"') == 41
    assert page.index("item 3<") < page.index("item 7000<")
    assert "9,960 others" in page


@pytest.mark.parametrize("kind", ["audit", "continuous"])
def test_each_new_number_may_be_absent_or_null(request: pytest.FixtureRequest, kind: str) -> None:
    whole = request.getfixturevalue(kind)
    for key in set(whole["numbers"]) - set(OLD):
        less = copy.deepcopy(whole)
        del less["numbers"][key]
        Page(render_audit(less))
        less["numbers"][key] = None
        assert not re.search(r"\b(None|nan|Undefined)\b", Page(render_audit(less)).text)


@pytest.mark.parametrize("kind", ["audit", "continuous"])
@pytest.mark.parametrize("lost", [None, math.nan])
def test_numbers_that_are_not_known_are_never_printed_as_such(
    request: pytest.FixtureRequest, kind: str, lost: float | None
) -> None:
    audit = request.getfixturevalue(kind)

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [without(entry) for entry in value]
        return lost if isinstance(value, float) else value

    numbers = audit["numbers"]
    for key in set(numbers) - set(OLD):
        numbers[key] = without(numbers[key])
    numbers["coverage"]["row_share"] = [0.5] * len(numbers["coverage"]["regions"])
    for source in numbers["sources"]:
        source["share"] = 0.5
    numbers["return_modes"] = None
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", words(audit))


def test_what_every_audit_holds_is_asked_for_by_name(audit: dict[str, Any]) -> None:
    broken = copy.deepcopy(audit)
    del broken["findings"]
    with pytest.raises(DataError, match="`findings` is missing"):
        render_audit(broken)
    del audit["numbers"]["return_hist"]
    with pytest.raises(DataError, match="return_hist"):
        render_audit(audit)


def test_every_text_is_escaped(audit: dict[str, Any]) -> None:
    evil = "<script>alert('x')</script>\"&"

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v) for v in value]
        return value + evil if isinstance(value, str) and key not in ("kind", "severity") else value

    text = render_audit(poison(audit), title=evil)
    assert "<script" not in text
    assert evil in Page(text).text


@pytest.mark.parametrize("kind", ["audit", "continuous"])
def test_pictures_have_words_beside_them(request: pytest.FixtureRequest, kind: str) -> None:
    page = Page(render_audit(request.getfixturevalue(kind)))
    # an svg with a place of its own lies inside another
    assert all(attrs.get("aria-hidden") == "true" for tag, attrs in page.tags if tag == "svg" and "x" not in attrs)
    assert "The regions in numbers" in page.text
    assert "The lines in numbers" in page.text


@pytest.mark.parametrize("discrete", [True, False])
def test_a_real_audit_renders(discrete: bool) -> None:
    rng = np.random.default_rng(0)
    episodes, steps = 60, 20
    rows = episodes * steps
    step = np.tile(np.arange(steps), episodes)
    log = st.read(
        {
            "episode": np.repeat(np.arange(episodes), steps),
            "step": step,
            "observation": rng.normal(size=(rows, 3)).astype(np.float32),
            "action": rng.integers(0, 4, rows) if discrete else rng.normal(size=(rows, 2)).astype(np.float32),
            "reward": rng.normal(size=rows).astype(np.float32),
            "terminated": step == steps - 1,
            "source": np.where(np.arange(rows) // steps % 3 == 0, "ward A", "ward B"),
        }
    )
    text = words(st.audit(log).to_dict())
    for said in ("What was tried where", "from early to late", "How random", "ward A", "The observation columns"):
        assert said in text
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
@pytest.mark.parametrize("kind", ["audit", "continuous"])
def test_long_names_never_widen_the_page(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    audit = request.getfixturevalue(kind)
    name = "a_name_without_any_break_" * 8

    def lengthen(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: lengthen(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [lengthen(v) for v in value]
        return value + name if isinstance(value, str) and key not in ("kind", "severity", "verdict") else value

    text = html.escape(render_audit(lengthen(audit), title=name).replace("<details", "<details open"))
    widths = (1280, 390, 320)
    frames = [f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{text}"></iframe>' for width in widths]
    script = (
        "<script>onload = () => {"
        " const roots = [...document.querySelectorAll('iframe')].map(f => f.contentDocument.documentElement);"
        " document.title = roots.map(r => `${r.scrollWidth} of ${r.scrollHeight}`).join(', ') }</script>"
    )
    wrapper = tmp_path / "frames.html"
    wrapper.write_text(f'<meta charset="utf-8"><body style="margin:0">{"".join(frames)}{script}', encoding="utf-8")
    measured = re.search(r"<title>([\d of,]+)</title>", chromium(tmp_path, wrapper, "--dump-dom"))
    assert measured is not None
    for width, found in zip(widths, measured[1].split(", "), strict=True):
        needed, high = map(int, found.split(" of "))
        assert needed <= width
        assert high > 2000
