"""Reading the Open Bandit Dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pytest
from format_files import assemble_any, read, recognised

from stitchrl.errors import StitchRLError
from stitchrl.reading.formats import (
    open_bandit,
)

COLUMNS = "timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"


BANDIT = f""",{COLUMNS},user-item_affinity_0,user-item_affinity_1
0,2019-11-24 00:00:34.762830+00:00,1,3,0,0.25,aa,cc,0.0,1.5
1,2019-11-24 00:00:53.965051+00:00,0,1,1,0.5,bb,cc,2.0,0.0
2,2019-11-24 00:01:00.000000+00:00,2,3,0,0.125,aa,dd,0.0,0.0
"""


def bandit(folder: Path, content: str = BANDIT, items: int | None = 4) -> Path:
    if items is not None:
        rows = "".join(f"{i},{i},0.5,xx\n" for i in range(items))
        (folder / "item_context.csv").write_text(",item_id,item_feature_0,item_feature_1\n" + rows)
    path = folder / "all.csv"
    path.write_text(content)
    return path


def test_open_bandit_impressions(tmp_path: Path) -> None:
    path = bandit(tmp_path)
    assert recognised(path) == ["Open Bandit"]
    log = read(path)
    assert log.num_episodes == log.num_transitions == 3
    assert log.num_actions == 4
    assert log.action.tolist() == [1, 0, 2]
    assert log.reward.tolist() == [0, 1, 0]
    assert log.terminated.all()
    np.testing.assert_allclose(np.exp(log.behavior_log_prob), [0.25, 0.5, 0.125], rtol=1e-6)
    assert log.observation_names[:6] == (
        "position=1", "position=3", "user_feature_0=aa", "user_feature_0=bb", "user_feature_1=cc", "user_feature_1=dd",
    )  # fmt: skip
    assert log.observation[0].tolist() == [0, 1, 1, 0, 1, 0, 0, 1.5]
    assert log.time is not None
    (tmp_path / "alone").mkdir()
    alone = read(bandit(tmp_path / "alone", items=None))
    assert alone.num_actions == 3
    assert any("no item_context.csv" in note for note in alone.notes)


@pytest.mark.parametrize("policy", ["random", "bts"])
def test_open_bandit_as_published(made: Path, policy: str) -> None:
    log = read(made / f"open_bandit_{policy}" / "all.csv")
    assert (log.num_transitions, log.num_actions, log.schema.bandit) == (200, 80, True)
    if policy == "random":  # uniform over the 80 items
        np.testing.assert_allclose(np.exp(log.behavior_log_prob), 1 / 80, rtol=1e-5)
    else:
        assert len(np.unique(log.behavior_log_prob)) > 50
    table = csv.read_csv(made / f"open_bandit_{policy}" / "all.csv").to_pydict()
    assert log.action.tolist() == table["item_id"]
    assert log.reward.tolist() == table["click"]
    hot = log.observation[:, [log.observation_names.index(f"position={i}") for i in (1, 2, 3)]]
    assert (hot.argmax(1) + 1).tolist() == table["position"]
    affinity = [i for i, name in enumerate(log.observation_names) if name.startswith("user-item_affinity_")]
    assert len(affinity) == 80


@pytest.mark.parametrize(
    "content",
    [
        BANDIT.replace("propensity_score", "probability"),
        BANDIT.split("\n")[0] + "\n",
        BANDIT.replace(",1,3,0,0.25", ",x,3,0,0.25"),
        BANDIT.replace(",1,3,0,0.25", ",,3,0,0.25"),
        BANDIT.replace(",1,3,0,0.25", ",9,3,0,0.25"),
        BANDIT.replace("0.25", "1.25"),
        BANDIT.replace("0.25", ""),
        BANDIT.replace("aa,cc,0.0,1.5", "aa,cc,0.0"),
        BANDIT.replace("1.5", "inf"),
        "",
    ],
)
def test_spoiled_open_bandit_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = bandit(tmp_path, content)
    with pytest.raises(StitchRLError, match=r"all\.csv"):
        assemble_any(open_bandit.FORMAT.open(path))
