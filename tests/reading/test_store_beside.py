"""A store asked for columns that it was not made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import full_columns, schema_of

import stitchrl as st
from stitchrl.errors import ConfigurationError


def test_a_store_never_answers_with_other_columns_than_were_asked_for(tmp_path: Path) -> None:
    columns = {name: values for name, values in full_columns().items() if name != "policy_probs"}
    st.convert(columns, tmp_path / "store", schema=schema_of(columns))
    with pytest.raises(ConfigurationError, match="for policy_log_prob policy_log_prob, not bad"):
        st.read(tmp_path / "store", beside={"policy_log_prob": ["bad"]})
    with pytest.raises(ConfigurationError, match="for policy_probs none, not p0, p1"):
        st.read(tmp_path / "store", beside={"policy_probs": ["p0", "p1"]})
    with pytest.raises(ConfigurationError, match="for cost cost, not dose"):
        st.read(tmp_path / "store", beside={"cost": ["dose"]})
    found = st.read(
        tmp_path / "store", beside={"policy_log_prob": ["policy_log_prob"], "cost": ["cost"], "subgroup": ()}
    )
    assert found.policy_log_prob is not None
    np.testing.assert_allclose(found.policy_log_prob, columns["policy_log_prob"], rtol=1e-6)
