"""What the report shows beside an interval: the parts of the checklist, the ladder, hidden causes, the past, influence."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import CHROMIUM, Page, chromium
from stage_files import candidate, changed, write_stage_files

from stitchrl.evaluation.confirmation import Confirmation
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.meaning import MEANINGS
from stitchrl.evaluation.sensitivity import Sensitivity
from stitchrl.reporting.confirmation import confirmation_view
from stitchrl.reporting.ladder import ladder_view
from stitchrl.reporting.render import render
from stitchrl.reporting.report import build_report

EVIL = "<script>alert('x')</script>\"&"
RUNG = "IQL seed 1, ladder 2 from 10%"
HELD = Check("imbalance", 0.05, 0.2, True, "The weights are balanced, at most 20%.")
FAILED = Check("possible-influence", 0.4, 0.25, False, "A single logged action could carry 40%, above 25%.")
CONFIRMATION = Confirmation(True, HELD, sensitivity=Sensitivity(1.25, 3))
HISTORY = {
    "passed": False,
    "sentence": "The past predicts the action.",
    "targets": [
        {"target": "action", "gain": 0.0431, "lower": 0.03, "upper": 0.05, "columns": ["dose 2 back"], "passed": False},
        {"target": "reward", "gain": -0.001, "lower": -0.002, "upper": 0.001, "columns": [], "passed": True},
    ],
}
INFLUENCE = {"noun": "stay", "count": 8000, "largest": [0.2, 0.05, 0.05], "half": 61, "limit": 0.1}


def rung(power: float, floor: float, gain: float, error: float, **more: Any) -> dict[str, Any]:
    """A rung as ranking.json has it; two standard errors are taken off its gain."""
    return {
        "title": f"IQL seed 1, ladder {power:g} from {floor:.0%}",
        "label": "IQL",
        "power": power,
        "floor": floor,
        "gain": gain,
        "standard_error": error,
        "healthy": True,
        "predicted_lower": gain - 2 * error,
        "exact": 0.75,
    } | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stage files of a run whose selected policy is a rung, and whose primary gain fails a check."""
    write_stage_files(tmp_path)
    policies = [candidate("IQL", seed, 0.8, title=f"IQL seed {seed}", rung=None, exact=0.76) for seed in range(12)]
    chosen = candidate("IQL", 1, 0.79, title=RUNG, rung={"power": 2.0, "floor": 0.1, "of": 1}, exact=0.75)
    checks = [{"key": one.key, "passed": one.passed, "sentence": one.sentence} for one in (HELD, FAILED)]
    chosen["evaluation"]["gain"]["wdr"] |= {
        "healthy": False,
        "reasons": [FAILED.sentence],
        "checks": checks,
        "predictable_error": 0.0047,
    }
    order = [{"index": 12, "estimator": "wdr", "healthy": True, "predicted_lower": 0.0712}]
    order += [{"index": k, "estimator": "wdr", "healthy": k != 2, "predicted_lower": 0.01 - k / 100} for k in range(12)]
    ladder = [rung(2.0, 0.1, 0.09, 0.01), rung(1.0, 0.1, 0.05, 0.005), rung(1.0, 0.05, 0.06, 0.02, healthy=False)]
    changed(
        tmp_path, "ranking.json", candidates=[*policies, chosen], order=order, ladder=ladder, behavior_exact=0.7
    )  # fmt: skip
    chosen["evaluation"] |= {"confirmation": CONFIRMATION.to_dict() | {"history": HISTORY}, "influence": INFLUENCE}
    changed(tmp_path, "estimates.json", selected=chosen)
    changed(
        tmp_path,
        "verdict.json",
        decision="CANNOT TELL",
        lines=[
            {"key": "c", "rule": "every check holds", "seen": FAILED.sentence, "passed": False, "parts": checks},
            {"key": "e", "rule": "it is confirmed", "seen": "by all of them", "passed": True, "parts": checks[:1] * 2},
        ],
    )
    return tmp_path


def text_of(folder: Path) -> str:
    return Page(render(build_report(folder, MEANINGS))).text


def test_failed_parts_of_a_line_are_shown_and_the_others_are_behind_a_fold(folder: Path) -> None:
    page = render(build_report(folder, MEANINGS))
    line = page[page.index("(c) every check holds") : page.index("(e) it is confirmed")]
    assert line.index(FAILED.sentence) < line.index("the other one, which holds") < line.index(HELD.sentence)
    assert line.count(FAILED.sentence) == line.count(HELD.sentence) == 1
    confirmed = page[page.index("(e) it is confirmed") : page.index("What this verdict does not cover")]
    assert confirmed.index("by all of them") < confirmed.index("show them") < confirmed.index(HELD.sentence)


def test_a_line_whose_text_strings_its_parts_together_is_a_list(folder: Path) -> None:
    parts = [
        {"passed": True, "sentence": "is +0.1 [+0.0, +0.2]"},
        {"passed": False, "sentence": "wis -0.2 [-0.3, -0.1]"},
    ]
    seen = ", ".join(part["sentence"] for part in parts)
    changed(folder, "verdict.json", lines=[{"key": "b", "rule": "none", "seen": seen, "passed": False, "parts": parts}])
    text = text_of(folder)
    assert "fails: wis -0.2 [-0.3, -0.1] holds: is +0.1 [+0.0, +0.2]" in text
    assert seen not in text
    assert "which hold" not in text


def test_an_unhealthy_gain_says_which_check_it_failed(folder: Path) -> None:
    page = render(build_report(folder, MEANINGS))
    text = Page(page).text
    assert text.count("fails: possible influence") == 2  # on test, and the same on validation
    assert '<span class="state unhealthy">not healthy</span><span class="failed-checks">' in page
    assert FAILED.sentence in text[text.index("The numbers and the reasons") :]
    table = text[text.index("Estimates on test") :]
    assert "expected from the ratios" in table
    assert "0.0047" in table


def test_the_ladder_is_drawn_at_gain_and_standard_error(folder: Path) -> None:
    content = build_report(folder, MEANINGS)
    view = ladder_view(content["ladder"], 0.0, 4)
    assert view is not None
    assert view["reach"] == "2.00"
    assert view["lines"] == [f"rungs on actions of at least {n}% behaviour probability" for n in (5, 10)]
    (panel,) = view["panels"]
    dots = {dot["title"].partition(":")[0]: dot for dot in panel["dots"]}
    # The learned policy of the ladder is seed 1; its gain is 0.1 at an error of 0.005.
    assert dots.keys() == {RUNG, "IQL seed 1, ladder 1 from 10%", "IQL seed 1, ladder 1 from 5%", "IQL seed 1"}
    assert dots["IQL seed 1"]["learned"]
    assert [name for name, dot in dots.items() if dot["selected"]] == [RUNG]
    assert [name for name, dot in dots.items() if not dot["healthy"]] == ["IQL seed 1, ladder 1 from 5%"]
    x = {name: dot["x"] for name, dot in dots.items()}
    assert x["IQL seed 1, ladder 1 from 5%"] == pytest.approx(4 * x["IQL seed 1, ladder 1 from 10%"], abs=0.1)
    assert x[RUNG] == pytest.approx(2 * x["IQL seed 1"], abs=0.1)
    # All rungs truly gain 0.05, which is where the rung that says so lies.
    assert {dot["exact"] for dot in dots.values() if not dot["learned"]} == {dots["IQL seed 1, ladder 1 from 10%"]["y"]}
    # A line for each floor, upwards through the powers.
    ends = [re.findall(r"[ML]([\d.]+) ([\d.]+)", line) for line in panel["lines"]]
    zero = 100 - view["zero"]
    assert [len(points) for points in ends] == [1, 2]
    assert [float(x) for x, _ in ends[1]] == [dots["IQL seed 1, ladder 1 from 10%"]["x"], dots[RUNG]["x"]]
    # On the dashed line the predicted lower end is the margin: two errors of gain for one of error.
    first, *_, last = re.findall(r"[ML]([\d.]+) ([\d.]+)", view["edge"])
    assert (float(first[0]), float(first[1])) == (0.0, pytest.approx(zero, abs=0.01))
    rise = (zero - float(last[1])) / float(last[0])
    own = dots["IQL seed 1, ladder 1 from 10%"]
    assert rise == pytest.approx((zero - own["y"]) / own["x"] * 2 * 0.005 / 0.05, rel=0.01)


def test_the_ranking_shows_what_is_predicted_for_test_and_folds_the_rest(folder: Path) -> None:
    page = render(build_report(folder, MEANINGS))
    shown = page[page.index("How it was chosen") : page.index("candidates further behind")]
    text = re.sub(r"<[^>]+>|\s+", " ", shown)
    assert "predicted lower end on test" in text
    assert "+0.071" in text
    assert RUNG in text
    assert "3 candidates further behind" in page
    assert "IQL seed 8" in text
    assert "IQL seed 9" not in text  # rank 11
    assert "Candidates are ranked by their gain less 2.00 standard errors" in Page(page).text


def test_the_hidden_cause_stands_on_a_scale_of_equal_factors(folder: Path) -> None:
    view = confirmation_view(build_report(folder, MEANINGS)["confirmation"])
    assert view is not None
    scale = view["hidden_cause"]
    # log(1.25) / log(20) and log(1.5) / log(20)
    assert (scale["seen"], scale["needed"]) == (7.45, 13.53)
    text = text_of(folder)
    assert (
        "A hidden cause that changes the odds of the logged action by a factor of 1.25, in the decision at step 3 alone, would "
        "overturn the gain. In any other single decision it would have to be stronger. Since the behaviour is fitted, a gain "
        "must withstand a factor of 1.5."
    ) in text
    assert "withstands 1.25" in text
    assert "needed: 1.5" in text


@pytest.mark.parametrize(
    ("fitted", "odds", "says", "withstands"),
    [
        (False, 2.3, "Since the propensities are logged, the verdict asks for no strength.", "withstands 2.30"),
        (True, 1.0, "nothing for a hidden cause to overturn.", "withstands 1.00"),
        (
            True,
            20.0,
            "by a factor of up to 20, in any one decision, would not overturn the gain.",
            "withstands more than 20.00",
        ),
    ],
)
def test_strengths_at_the_ends_and_without_need(
    folder: Path, fitted: bool, odds: float, says: str, withstands: str
) -> None:
    selected = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))["selected"]
    confirmation = Confirmation(fitted, HELD, sensitivity=Sensitivity(odds, 0))
    selected["evaluation"]["confirmation"] = confirmation.to_dict()
    changed(folder, "estimates.json", selected=selected)
    text = text_of(folder)
    assert says in text
    assert withstands in text
    assert ("needed: 1.5" in text) is fitted


@pytest.mark.parametrize(
    ("every", "place", "says", "withstands"),
    [
        # log(1.1) / log(20)
        (
            1.1,
            3.18,
            "One that acts in every decision would overturn it with a factor of 1.10.",
            "withstands 1.10 in every",
        ),
        (5.0, 53.72, "would not overturn it with a factor of up to 5.", "withstands more than 5.00 in every"),
    ],
)
def test_a_cause_in_every_decision_has_a_strip_of_its_own(
    folder: Path, every: float, place: float, says: str, withstands: str
) -> None:
    selected = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))["selected"]
    confirmation = Confirmation(False, HELD, sensitivity=Sensitivity(2.3, 0, every))
    selected["evaluation"]["confirmation"] = confirmation.to_dict()
    changed(folder, "estimates.json", selected=selected)
    view = confirmation_view(build_report(folder, MEANINGS)["confirmation"])
    assert view is not None
    assert view["hidden_cause"]["every"] == place
    text = text_of(folder)
    assert says in text
    assert withstands in text
    assert "withstands 2.30 in one decision" in text
    assert "It is assumed to have no memory" in text
    assert "Propensities that the acting policy itself recorded leave no room for a hidden cause." in text


def test_a_run_of_a_version_that_knew_one_decision_only_has_one_strip(folder: Path) -> None:
    selected = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))["selected"]
    older = selected["evaluation"]["confirmation"]
    older["sensitivity"].pop("every_decision")
    for key in ("every", "largest_every"):
        older["hidden_cause"].pop(key)
    changed(folder, "estimates.json", selected=selected)
    text = text_of(folder)
    assert "withstands 1.25" in text
    assert "in every decision" not in text


def test_the_past_and_who_carries_the_variance_are_shown(folder: Path) -> None:
    text = text_of(folder)
    for said in (
        "The past predicts the action.",
        "action through dose 2 back 4.4% likelier 99% interval: 3.0% likelier to 5.1% likelier more than the observation",
        "nothing more",
        "One stay carries 20.0% of it, and the 3 with the largest shares 30.0% together.",
        "Half of what all of them carry is carried by 61 of 8,000 stays.",
        "limit for one: 10%",
    ):
        assert said in text, said
    view = confirmation_view({"influence": INFLUENCE})
    assert view is not None
    bars = view["influence"]["bars"]
    assert bars[0]["height"] == pytest.approx(4 * bars[1]["height"], abs=0.1)
    assert bars[0]["y"] < view["influence"]["limit"] < bars[1]["y"]  # the first one is above the limit
    assert view["influence"]["models"] == ""
    of_models = confirmation_view({"influence": INFLUENCE | {"models": 0.3}})
    assert of_models is not None
    assert of_models["influence"]["models"] == "30.0%"


def test_files_of_older_versions_have_none_of_it(tmp_path: Path) -> None:
    content = build_report(write_stage_files(tmp_path), MEANINGS)
    assert (content["ladder"], content["confirmation"]) == (None, None)
    page = Page(render(content))
    assert "confirmation" not in page.ids
    assert "standard errors, which is the lower end" not in page.text
    assert "predicted" not in page.text


def test_a_run_of_one_candidate_without_interval_draws_no_ladder(folder: Path) -> None:
    changed(folder, "ranking.json", ladder=[rung(1.0, 0.1, 0.0, 0.0) | {"gain": None, "standard_error": None}])
    assert "The rungs in numbers" not in text_of(folder)


def test_hostile_names_are_text(folder: Path) -> None:
    ranking = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    for step in ranking["ladder"]:
        step |= {"title": step["title"] + EVIL, "label": step["label"] + EVIL}
    changed(folder, "ranking.json", ladder=ranking["ladder"])
    selected = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))["selected"]
    evaluation = selected["evaluation"]
    evaluation["confirmation"]["hidden_cause"]["sentence"] += EVIL
    evaluation["confirmation"]["history"]["targets"][0]["columns"] = [EVIL]
    evaluation["influence"]["noun"] = EVIL
    evaluation["gain"]["wdr"]["checks"][1]["key"] = EVIL
    changed(folder, "estimates.json", selected=selected)
    parts = [{"passed": False, "sentence": EVIL}, {"passed": True, "sentence": "fine"}]
    changed(folder, "verdict.json", lines=[{"key": "c", "rule": EVIL, "seen": "x", "passed": False, "parts": parts}])
    page = render(build_report(folder, MEANINGS))
    assert "<script" not in page
    assert "script" not in {tag for tag, _ in Page(page).tags}
    assert Page(page).text.count(EVIL) > 8


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
def test_the_sections_never_scroll_a_phone_sideways(folder: Path, tmp_path: Path) -> None:
    text = render(build_report(folder, MEANINGS)).replace("<details>", "<details open>")
    frame = f'<iframe style="border:0;width:360px;height:900px" srcdoc="{html.escape(text)}"></iframe>'
    script = (
        "<script>onload = () => { const root = document.querySelector('iframe').contentDocument.documentElement;"
        " document.title = `width ${root.clientWidth} needs ${root.scrollWidth}` }</script>"
    )
    wrapper = tmp_path / "frame.html"
    wrapper.write_text(f'<meta charset="utf-8"><body style="margin:0">{frame}{script}', encoding="utf-8")
    measured = re.search(r"<title>width (\d+) needs (\d+)</title>", chromium(tmp_path, wrapper, "--dump-dom"))
    assert measured is not None
    client, needed = map(int, measured.groups())
    assert needed <= client == 360


def test_rungs_of_continuous_actions_lie_on_a_line_for_each_spread(folder: Path) -> None:
    steps = [
        {key: value for key, value in rung(1.0, 0.1, 0.02 * reach, 0.01).items() if key not in ("power", "floor")}
        | {"title": f"IQL seed 1, ladder {reach:g} sd with {spread:.0%} of the noise", "reach": reach, "spread": spread}
        for reach, spread in ((1.0, 0.8), (0.5, 0.8), (0.5, 1.0))
    ]
    changed(folder, "ranking.json", ladder=steps)
    view = ladder_view(build_report(folder, MEANINGS)["ladder"], 0.0, 4)
    assert view is not None
    assert view["lines"] == [f"rungs with {n}% of the behaviour's standard deviation" for n in (80, 100)]
    points = [re.findall(r"[ML]([\d.]+) ([\d.]+)", line) for line in view["panels"][0]["lines"]]
    assert [len(line) for line in points] == [2, 1]
    heights = [float(y) for _, y in points[0]]
    assert heights[1] < heights[0]  # from the smaller reach, and its smaller gain, upwards
    text = text_of(folder)
    assert "by at most so many of its standard deviations" in text
    assert "noise kept" in text
    assert "the gains of rungs are estimated by" not in text
    changed(folder, "ranking.json", ladder=[step | {"estimator": "lstdq"} for step in steps])
    assert "the gains of rungs are estimated by lstdq, those of the learned policies by " in text_of(folder)
    assert "the higher their power" not in text
