"""The gallery of planted failures: each is named by a code of its own, and sound runs of every algorithm raise no alarm.

The whole gallery is benchmarks/failures.py; here are the failures that share two compiled programs, and the rest as slow tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gallery import PLANTINGS, Planting, loud
from healthy_runs import HEALTHY, Healthy

import stitchrl as st
from stitchrl.auditing.finding import Finding
from stitchrl.training.flag_rules import RULES

ROOT = Path(__file__).parent.parent.parent
CHEAP = ("AWR, temperature to infinity",)
CHEAP_SOUND = ("AWR, hospital",)
MISSED: tuple[str, ...] = ("noise on rewards",)
"""Plantings that are known to be missed, as benchmarks/results/failures.md says."""
ALARMS: dict[str, tuple[str, ...]] = {"DDPG, wide actions": ("actions-without-support",)}
"""Sound runs with false alarms that are known, as that page says."""


@pytest.mark.parametrize(
    "planting",
    [
        pytest.param(one, id=one.name, marks=() if one.name in CHEAP else pytest.mark.slow)
        for one in PLANTINGS
        if one.name not in MISSED
    ],
)
def test_a_planted_failure_is_named(planting: Planting) -> None:
    found = planting.found(0)
    assert not planting.missed(found), sorted(loud(found))


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        pytest.param(name, one, id=name, marks=() if name in CHEAP_SOUND else pytest.mark.slow)
        for name, one in HEALTHY.items()
    ],
)
def test_a_sound_run_raises_no_alarm(name: str, sound: Healthy) -> None:
    assert loud(sound.found(0)) <= set(ALARMS.get(name, ()))


def test_every_algorithm_has_a_sound_run_with_every_kind_of_action() -> None:
    discrete = ("hospital", "grid")
    kinds = {
        (one.algorithm.name, "discrete" if name.endswith(discrete) else "continuous") for name, one in HEALTHY.items()
    }
    assert kinds == {(name, kind) for name in st.ALGORITHMS for kind in getattr(st, name).actions}
    assert len(PLANTINGS) == len({one.name for one in PLANTINGS}) >= 24


def test_notes_do_not_count() -> None:
    note, warning = (Finding("threshold-off", severity, "", "", "", "") for severity in ("info", "warning"))
    planting = next(one for one in PLANTINGS if one.name == "BCQ, threshold 0")
    assert (planting.missed([note]), planting.missed([warning]), planting.missed([])) == (True, False, True)


def test_the_page_names_every_code_and_no_other() -> None:
    page = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)
    checks = (ROOT / "src" / "stitchrl" / "diagnosis" / "checks").glob("*.py")
    raised = {
        code for file in checks for code in re.findall(r'"([a-z]+(?:-[a-z]+)+)"', file.read_text(encoding="utf-8"))
    }
    assert len(documented) == len(set(documented))
    assert set(documented) == raised | set(RULES) | {"diverged"}
    own = {code for one in PLANTINGS for code in one.own}
    audited = own - set(documented)
    audit = (ROOT / "src" / "stitchrl" / "auditing" / "checks").glob("*.py")
    sources = "".join(file.read_text(encoding="utf-8") for file in audit)
    assert {code for code in audited if f'"{code}"' not in sources} == set()
