"""The report's page: whole, escaped, self-contained, honest about what is missing, and fit for a phone."""

import ast
import copy
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pages import CHROMIUM, Page, chromium

from stitchrl.errors import DataError
from stitchrl.reporting import audit_page, audit_view, charts, numbers
from stitchrl.reporting import page as page_module
from stitchrl.reporting import render as render_module
from stitchrl.reporting.render import render

FIXTURE = Path(__file__).parent / "fixtures" / "report.json"
SECTIONS = ("verdict", "log", "claims", "gains", "learning", "disagreement", "reading", "made")


@pytest.fixture
def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return content


def test_page_is_whole_and_holds_every_section(report: dict[str, Any]) -> None:
    text = render(report)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert all(section in page.ids for section in SECTIONS)
    assert len(page.ids) == len(set(page.ids))
    links = {str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "a"}
    assert links == set(SECTIONS)
    assert len(text.encode()) < 1_000_000
    assert render(report) == text


def test_page_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    text = render(report)
    page = Page(text)
    assert not re.search(r"https?://|url\(|@import|javascript:", text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        assert "src" not in attrs
        assert str(attrs.get("href", "#")).startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    assert "default-src 'none'" in text


def test_every_text_is_escaped(report: dict[str, Any]) -> None:
    evil = "<script>alert('x')</script>\"&"

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return value + evil if isinstance(value, str) and key != "tone" else value

    text = render(poison(report))
    assert "<script" not in text
    assert html.escape("<script>", quote=False) in text
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


def test_verdict_comes_first_with_its_numbers_and_caveats(report: dict[str, Any]) -> None:
    text = Page(render(report)).text
    verdict = report["verdict"]
    for seen in (verdict["headline"], "+0.016", "[+0.008, +0.024]", "does not apply", *verdict["caveats"]):
        assert seen in text
    for line in verdict["lines"]:
        assert line["rule"] in text
        assert line["seen"] in text
    assert text.index(verdict["caveats"][0]) < text.index("What is in the log")


@pytest.mark.parametrize(("decision", "tone"), [("YES", "good"), ("NO", "bad"), ("WHO KNOWS", "unsure")])
def test_decision_is_said_in_words_and_its_tone_in_colour(report: dict[str, Any], decision: str, tone: str) -> None:
    # The page knows no decision by its word: the tone comes with it.
    report["verdict"] |= {"decision": decision, "tone": tone}
    text = render(report)
    assert f'class="verdict {render_module.COLORS[tone]}"' in text
    assert decision in Page(text).text


def test_the_least_probability_of_a_supported_action_comes_with_its_share(report: dict[str, Any]) -> None:
    assert "takes with a probability of at least 2% 97.1%" in Page(render(report)).text
    report["disagreement"]["support"] = 0.05
    assert "takes with a probability of at least 5% 97.1%" in Page(render(report)).text
    del report["disagreement"]["support"]  # as in files of older versions
    assert "on actions that the behaviour takes often enough 97.1%" in Page(render(report)).text


def test_cautioned_algorithms_are_labelled_wherever_they_appear(report: dict[str, Any]) -> None:
    text = Page(render(report)).text
    label = "warning example, never selected"
    assert text.count(label) > 10
    for claim in report["claims"]:
        claim["caution"] = False
    for row in (*report["estimates"]["validation"], *report["ranking"]):
        row["caution"] = False
    for entry in report["learning"]:
        entry["caution"] = ""
    assert label not in Page(render(report)).text


def test_claims_that_run_off_do_not_squash_the_rest(report: dict[str, Any]) -> None:
    chart = charts.claims_chart(report["claims"], report["behavior"])
    rows = {row["label"]: row for group in chart["groups"] for row in group["rows"]}
    off = rows["DQN seed 2, greedy"]["claimed_mark"]
    assert (off["side"], off["text"]) == ("right", "3.041")
    held = [row["exact_mark"]["x"] for row in rows.values()]
    assert all(row["exact_mark"]["side"] == "" for row in rows.values())
    assert max(held) - min(held) > 15
    assert rows["IQL seed 0, greedy"]["claimed_mark"]["side"] == ""
    assert chart["worst"]["label"] == "DQN seed 2, greedy"
    assert "3.041" in Page(render(report)).text


def test_missing_numbers_are_said_and_never_printed_as_none(report: dict[str, Any]) -> None:
    report["behavior"]["exact"] = None
    report["provenance"]["truth"] = None
    report["verdict"]["primary"] = None
    report["audit"]["findings"] = []
    report["log"]["action_allowed_share"] = None
    report["disagreement"]["agreement_behavior"] = None
    for claim in report["claims"]:
        claim |= {"claimed": None, "estimated": None, "exact": None}
    for row in (*report["estimates"]["validation"], *report["estimates"]["test"]):
        row |= {"value": None, "lower": None, "upper": None, "standard_error": None, "ess": None}
        row |= {"max_weight_share": None, "exact": None, "exact_gain": None, "healthy": False}
        row["gain"] = {"value": None, "lower": None, "upper": None}
    for row in report["ranking"]:
        row |= {"exact_gain": None, "estimator": None, "gain": {"value": None, "lower": None, "upper": None}}
    text = Page(render(report)).text
    for said in ("found nothing to report", "No primary estimate", "not known", "no claim", "not applicable"):
        assert said in text
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", text)


def test_empty_lists_are_said(report: dict[str, Any]) -> None:
    report["verdict"] |= {"primary": None, "candidate": None, "lines": [], "caveats": []}
    report |= {"claims": [], "ranking": [], "learning": [], "explain": []}
    report["estimates"] = {"validation": [], "test": []}
    report["disagreement"] |= {"matrix": [], "action_names": []}
    report["log"] |= {"return_hist": {"edges": [0, 1], "counts": [0]}, "action_counts": []}
    text = Page(render(report)).text
    for said in ("No candidate was trained", "No curve was recorded", "Nothing to draw", "none was selected"):
        assert said in text


def test_an_interval_without_ends_is_not_drawn(report: dict[str, Any]) -> None:
    report["verdict"]["primary"] |= {"lower": None, "upper": None}
    assert "interval not given" in Page(render(report)).text


def test_non_finite_numbers_are_dashes_and_break_curves(report: dict[str, Any]) -> None:
    report["log"]["mean_return"] = math.nan
    curve = report["learning"][0]["curves"][0]
    curve["seeds"][0]["values"][5] = math.inf
    path = charts.learning_panels(report["learning"])[0]["panels"][0]["lines"][0]["path"]
    assert path.count("M") == 2
    assert not re.search(r"\b(nan|inf)\b", Page(render(report)).text)


def test_missing_section_and_field_are_named(report: dict[str, Any]) -> None:
    broken = copy.deepcopy(report)
    del broken["claims"]
    with pytest.raises(DataError, match="`claims` is missing"):
        render(broken)
    broken = copy.deepcopy(report)
    del broken["log"]["episodes"]
    with pytest.raises(DataError, match="episodes"):
        render(broken)
    report["verdict"]["tone"] = "merry"
    with pytest.raises(DataError, match="the verdict's tone must be one of good, bad, unsure; got 'merry'"):
        render(report)


@pytest.mark.parametrize(
    ("value", "decimals", "sign", "text"),
    [
        (0.0159, 3, True, "+0.016"),
        (-0.0159, 3, False, "\N{MINUS SIGN}0.016"),
        (-0.0001, 3, True, "0.000"),
        (185235, 0, False, "185,235"),
        (-1234.5, 1, True, "\N{MINUS SIGN}1,234.5"),
        (None, 3, False, "\N{EN DASH}"),
        (math.nan, 3, False, "\N{EN DASH}"),
    ],
)
def test_numbers_are_written_one_way(value: Any, decimals: int, sign: bool, text: str) -> None:
    assert numbers.number(value, decimals, sign) == text


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.1234, 1, "12.3%"),
        (0, 1, "0.0%"),
        (0.0005, 1, "0.1%"),
        (0.0004, 1, "<0.1%"),
        (0.004, 0, "<1%"),
        (1e-6, 2, "<0.01%"),
    ],
)
def test_a_small_share_is_not_written_as_none(share: float, decimals: int, text: str) -> None:
    assert numbers.percent(share, decimals) == text


@pytest.mark.parametrize(
    ("widths", "decimals"),
    [
        ([0.0157], 3),
        ([0.5], 3),
        ([0.00157], 4),
        ([2e-5], 6),
        ([3.2], 1),
        ([47.0, 1e4, 12.0], 0),
        ([1e-30], 9),
        ([], 3),
        ([0.0], 3),
        ([None], 3),
    ],
)
def test_decimals_show_two_digits_of_an_interval(widths: list[float | None], decimals: int) -> None:
    intervals = [{"lower": 0.0, "upper": width} for width in widths]
    assert numbers.decimals_for(intervals) == decimals


def test_a_report_on_click_rates_shows_their_digits(report: dict[str, Any]) -> None:
    report["verdict"]["primary"] |= {"value": 0.00123, "lower": 0.00041, "upper": 0.00204}
    report["claims"][0] |= {"claimed": 0.0049}
    text = Page(render(report)).text
    for said in ("+0.0012", "[+0.0004, +0.0020]", "0.0049"):
        assert said in text


def test_the_axis_of_claims_names_no_value_that_returns_cannot_take(report: dict[str, Any]) -> None:
    for claim in report["claims"]:
        claim |= {"claimed": 0.004, "exact": None}
        claim["estimated"] = {"estimator": "fqe", "value": 0.003, "lower": -0.005, "upper": 0.011, "healthy": True}
    report["behavior"] |= {"exact": None, "validation": {"value": 0.004, "lower": 0.002, "upper": 0.006}}
    said = "only approximate there"
    assert said not in Page(render(report)).text
    below = [tick["text"] for tick in charts.claims_chart(report["claims"], report["behavior"])["ticks"]]
    assert any(text.startswith("\N{MINUS SIGN}") for text in below)
    for reward, length in ((1.0, 4.0), (0.008, 1.0)):
        report["log"] |= {"reward": {"low": 0.0, "high": reward, "mean": 0.004, "spread": 0.06}, "mean_length": length}
        assert said in Page(render(report)).text
        bounds = render_module._attainable(report["log"])
        assert bounds == (0.0, math.inf if length > 1 else reward)
        chart = charts.claims_chart(report["claims"], report["behavior"], 4, bounds)
        assert len(chart["ticks"]) >= 2
        assert all(0 <= tick["value"] <= bounds[1] for tick in chart["ticks"])
        interval = chart["groups"][0]["rows"][0]["interval"]
        assert interval["x1"] < chart["ticks"][0]["x"]  # drawn as it is


def test_candidates_are_grouped_by_what_their_labels_share() -> None:
    rows = [
        {"label": label, "algorithm": "IQL", "seed": seed, "caution": False}
        for label, seed in [
            ("IQL seed 0, greedy", 0),
            ("IQL-2 seed 0, greedy", 0),
            ("IQL seed 1, greedy", 1),
            ("IQL-2 seed 1", 1),
            ("the old rule", 0),
        ]
    ]
    groups = [(g["heading"], g["note"], [row["short"] for row in g["rows"]]) for g in charts.grouped(rows)]
    assert groups == [
        ("IQL", "greedy", ["seed 0", "seed 1"]),
        ("IQL-2", "greedy", ["seed 0"]),
        ("IQL-2", "", ["seed 1"]),
        ("IQL", "", ["the old rule"]),
    ]


def test_estimators_are_called_by_the_titles_they_come_with(report: dict[str, Any]) -> None:
    assert "a title of its own" not in Page(render(report)).text
    report["estimators"] = [{"name": "wdr", "title": "a title of its own"}, {"name": "fqe", "title": "fqe"}]
    text = Page(render(report)).text
    assert text.count("a title of its own") == 2  # over its chart and in the glossary
    assert "fqe fqe" not in text


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [], [-1e6, 1e6], [1e-9, 2e-9], [0.731, 0.829]])
def test_axes_have_at_least_two_round_ticks_inside(values: list[float]) -> None:
    ticks = charts.fit_axis(values).ticks()
    assert 2 <= len(ticks) <= 12
    assert all(0 <= tick["x"] <= 100 for tick in ticks)
    assert len({tick["text"] for tick in ticks}) == len(ticks)


def test_wild_values_do_not_stretch_an_axis_without_any_sure_one() -> None:
    """Where no estimate is healthy, the axis fits most of the values and not the one that ran away."""
    axis = charts.fit_axis([0.75], [0.6, 0.7, 0.9, 1.1, -308.0, 40_000.0])
    assert -1.0 < axis.lower < 0.6
    assert 1.1 < axis.upper < 2.0


def test_an_audit_with_pictures_draws_them_in_the_report(report: dict[str, Any]) -> None:
    text = Page(render(report)).text
    assert "What was tried where" not in text  # the fixture is of an older audit
    report["log"] |= {
        "coverage": {
            "kind": "share",
            "regions": ["region 0 (high lactate)"],
            "row_share": [1.0],
            "actions": [0, 1],
            "matrix": [[0.75, 0.25]],
        },
        "drift": {"order": "time", "small": 0.2, "rows": [5, 5], "reward": [0.1, 0.2], "observation": [], "action": []},
        "randomness": {
            "effective_actions": 2.0,
            "allowed_actions": 25.0,
            "random_share": None,
            "meaning": "Some chance.",
            "explanations": {"effective_actions": "effective actions"},
        },
        "sources": [
            {"source": "ward", "share": 1.0, "episodes": 3, "mean_return": 0.5, "return_spread": 0.1},
        ],
        "columns": [
            {"name": "lactate", "low": 0.0, "high": 9.0, "mean": 2.0, "spread": 1.0, "missing": 7, "infinite": 0}
        ],
    }
    report["audit"]["checks"] = ["missing_values"]
    text = Page(render(report)).text
    for said in (
        "high lactate",
        "fluid 0 / vaso 0 makes up 75%",
        "early to late by time",
        "2.0 of 25.0",
        "ward",
        "lactate",
    ):
        assert said in text
    assert "1 checks" not in text


def test_hundreds_of_actions_and_long_curves_stay_small(report: dict[str, Any]) -> None:
    size = 150
    share = 1 / size**2
    report["disagreement"] |= {
        "matrix": [[share] * size] * size,
        "action_names": [f"a{i}" for i in range(size)],
    }
    report["log"]["action_counts"] = [1] * size
    report["log"]["action_allowed_share"] = None
    updates = list(range(1, 20_001))
    curve = {"metric": "loss/critic", "updates": updates}
    curve["seeds"] = [{"seed": seed, "values": [1 / u for u in updates]} for seed in range(4)]
    report["learning"][2]["curves"] = [curve]
    assert len(render(report).encode()) < 1_000_000
    assert charts.learning_panels(report["learning"])[2]["panels"][0]["log"]


def test_many_actions_together_are_no_agreement(report: dict[str, Any]) -> None:
    report["disagreement"] |= {
        "matrix": [[0.1, 0.2], [0.3, 0.4]],
        "actions": [7],
        "action_names": [f"item {k}" for k in range(50)],
    }
    page = render(report)
    assert "Another 40.0% lie between actions that are not shown" in page
    heat = charts.heat_map([[0.1, 0.2], [0.3, 0.4]], ["item 7", "all others"], pooled=True)
    assert heat is not None
    assert heat["largest"] == 0.3
    assert [d["share"] for d in heat["disagreements"]] == [0.3, 0.2]
    assert "Another" not in render(report | {"disagreement": report["disagreement"] | {"actions": [7, 8]}})


def test_names_that_would_look_alike_when_cut_are_numbers() -> None:
    names = ["fluid below 250, vasopressor below 1", "fluid below 250, vasopressor from 1"]
    assert charts.fitting(names, 24) == ["0", "1"]
    assert charts.fitting(["wait", "x" * 30], 24) == ["wait", "x" * 23 + "…"]


def test_rendering_imports_no_jax_and_no_plotting_library() -> None:
    for module in (audit_view, audit_page, charts, numbers, page_module, render_module):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= {
            "__future__", "collections", "dataclasses", "functools", "jinja2", "math", "pathlib", "re", "stitchrl", "typing"
        }  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_page_never_scrolls_sideways(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    text = render(report).replace("<details>", "<details open>")
    # a frame, because a window may refuse to be as narrow as a phone
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(text)}"></iframe>'
    script = (
        "<script>onload = () => {"
        " const root = document.querySelector('iframe').contentDocument.documentElement;"
        " document.title = `width ${root.clientWidth} needs ${root.scrollWidth} high ${root.scrollHeight}` }"
        "</script>"
    )
    wrapper = tmp_path / "frame.html"
    wrapper.write_text(f'<meta charset="utf-8"><body style="margin:0">{frame}{script}', encoding="utf-8")
    measured = re.search(
        r"<title>width (\d+) needs (\d+) high (\d+)</title>", chromium(tmp_path, wrapper, "--dump-dom")
    )
    assert measured is not None
    client, needed, high = map(int, measured.groups())
    assert client == width
    assert needed <= width
    assert high > 3000
    if width == 320:
        return  # the narrowest is only measured
    picture = tmp_path / "page.png"
    chromium(tmp_path, wrapper, f"--window-size={max(width, 600)},900", f"--screenshot={picture}")
    assert picture.stat().st_size > 10_000
