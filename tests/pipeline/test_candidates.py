"""Candidates have labels: several settings of one class in a run, from Python, from text and from TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import numpy as np
import pytest
from worlds import full_columns, schema_of, tiny_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.tabular_model import numbers_states
from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.assignments import candidates_of, candidates_of_tables, with_assignments
from stitchrl.pipeline.candidates import default_algorithms, job_algorithm, labelled, unique_labels, why_default

CLASSES: dict[str, type[Algorithm]] = {name: getattr(st, name) for name in st.ALGORITHMS}


def refusal(make: Any, *arguments: Any) -> str:
    """The sentence that a bad input is refused with."""
    with pytest.raises(ConfigurationError) as refused:
        make(*arguments)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


# --- labels ------------------------------------------------------------------------------------------------------


def test_algorithms_are_labelled_by_their_names_and_numbered() -> None:
    found = labelled([st.IQL(), st.BC(), st.IQL(expectile=0.9), st.IQL(expectile=0.8)])
    assert list(found) == ["IQL", "BC", "IQL-2", "IQL-3"]
    assert found["IQL-2"] == st.IQL(expectile=0.9)


def test_a_number_never_takes_a_name_that_is_somebodys_own() -> None:
    assert unique_labels(["IQL", "IQL", "IQL-2"]) == ["IQL", "IQL-3", "IQL-2"]
    assert unique_labels([]) == []


def test_labels_of_ones_own() -> None:
    found = labelled({"IQL cautious": st.IQL(inverse_temperature=1.0), "bold": st.IQL()})
    assert list(found) == ["IQL cautious", "bold"]


@pytest.mark.parametrize("label", ["", " IQL", "IQL ", "a/b", "a.b", "..", "-x", "x" * 61, "a\nb", "é", 3, "a:b"])
def test_a_label_that_cannot_name_a_folder_is_refused(label: Any) -> None:
    assert "The label of a candidate must be 1 to 60 letters" in refusal(labelled, {label: st.IQL()})


def test_labels_that_differ_in_case_alone_are_refused() -> None:
    assert "got 'IQL' and 'iql'" in refusal(labelled, {"IQL": st.IQL(), "iql": st.IQL(expectile=0.9)})


def test_a_run_needs_something_that_may_be_selected() -> None:
    assert "at least one candidate; got none" in refusal(labelled, [])
    assert "DQN is only shown as a warning" in refusal(labelled, [st.DQN(), st.DQN(learning_rate=1e-3)])
    assert "must be an algorithm with its settings, such as st.IQL(); got <class" in refusal(labelled, {"IQL": st.IQL})
    assert "must be an algorithm with its settings, such as st.IQL(); got 3" in refusal(labelled, [st.IQL(), 3])
    assert list(labelled(st.IQL())) == ["IQL"]


def test_the_main_jobs_own_candidates() -> None:
    own = labelled(default_algorithms(0.9))
    assert {"BC", "FilteredBC", "IQL", "CQL", "DQN"} <= set(own)
    assert all("discrete" in algorithm.actions for algorithm in own.values())
    assert {algorithm.gamma for algorithm in own.values() if hasattr(algorithm, "gamma")} == {0.9}
    assert job_algorithm(st.IQL, 0.9) == own["IQL"]
    assert job_algorithm(st.TD3BC, 0.9) == st.TD3BC(gamma=0.9)  # not among them: its own defaults
    counting = set(labelled(default_algorithms(0.9, numbered_states=True))) - set(own)
    assert counting == {"SPIBB", "VILCB"}


def test_states_are_counted_only_where_they_can_be() -> None:
    plain = full_columns()
    assert not numbers_states(st.read(plain, schema_of(plain)))  # every state once: a number of rows, not of states
    often = {name: np.tile(column, (10,) + (1,) * (column.ndim - 1)) for name, column in plain.items()}
    often["episode"] = np.repeat(np.arange(10) * 10, 6) + often["episode"]
    assert numbers_states(st.read(often, schema_of(often)))
    for observation_id in (np.zeros(60, np.int32), np.arange(60)):
        assert not numbers_states(st.read(often | {"observation_id": observation_id}, schema_of(often)))
    assert not numbers_states(tiny_log())


# --- as text -----------------------------------------------------------------------------------------------------


def test_names_make_candidates_with_the_main_jobs_settings() -> None:
    found = candidates_of("bc, IQL,iql", CLASSES, 1.0)
    assert list(found) == ["BC", "IQL", "IQL-2"]
    assert found["IQL"] == found["IQL-2"] == job_algorithm(st.IQL, 1.0)


def test_settings_are_given_by_label_and_converted_to_their_types() -> None:
    texts = ["IQL.expectile=0.9", "iql-2.expectile = 7e-1", "IQL-2.num_critics=3", "IQL-2.network.hidden_sizes=64,32",
             "IQL.hidden_sizes=128x64", "IQL.precision=bfloat16", "BC.network.layer_norm=after", "BC.hidden_sizes=16",
             "IQL.actor_network.hidden_sizes=(8,)", "BC.network.dropout=0.1", "IQL.gamma=1"]  # fmt: skip
    found = with_assignments(candidates_of("BC,IQL,IQL", CLASSES, 1.0), texts)
    one, two, bc = (found[label] for label in ("IQL", "IQL-2", "BC"))
    assert isinstance(one, st.IQL)
    assert isinstance(two, st.IQL)
    assert (one.expectile, one.precision, one.network.hidden_sizes) == (0.9, "bfloat16", (128, 64))
    assert (two.expectile, two.num_critics, two.network.hidden_sizes) == (0.7, 3, (64, 32))
    assert one.actor_network is not None
    assert one.actor_network.hidden_sizes == (8,)
    assert (bc.network.layer_norm, bc.network.hidden_sizes, bc.network.dropout) == ("after", (16,), 0.1)
    assert isinstance(one.gamma, float)  # a whole number for a real setting is that setting's own type
    assert two.inverse_temperature == 10.0  # what is not named stays as the main job has it


def test_the_label_may_be_left_out_where_there_is_one_candidate() -> None:
    found = with_assignments({"IQL": st.IQL()}, ["expectile=0.9", "network.hidden_sizes=16", "IQL.gamma=0.5"])
    assert found["IQL"] == st.IQL(expectile=0.9, gamma=0.5, hidden_sizes=(16,))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("IQL.expectile", "`--set` must be LABEL.setting=value, such as IQL.expectile=0.9; got 'IQL.expectile'"),
        ("=0.9", "`--set` must be LABEL.setting=value"),
        ("IQL.=0.9", "`--set` must be LABEL.setting=value"),
        ("expectile=0.9", "must begin with the label of a candidate and a dot; the candidates are BC, IQL, IQL-2"),
        ("IQL-3.expectile=0.9", "the candidates are BC, IQL, IQL-2"),
        ("IQL.expectil=0.9", "IQL has no setting 'expectil'; it has"),
        ("BC.expectile=0.9", "BC has no setting 'expectile'; it has"),
        ("IQL.network.depth=2", "IQL.network has no setting 'depth'; it has hidden_sizes"),
        ("IQL.network=16", "`network` of IQL holds several settings; name one of network.hidden_sizes"),
        ("IQL.expectile.deep=1", "`expectile` of IQL is one value"),
        ("IQL.expectile=high", "`expectile` of IQL must be a number; got 'high'"),
        ("IQL.expectile=1.5", "`expectile` of IQL must be in (0, 1); got 1.5"),
        ("IQL.expectile=nan", "`expectile` of IQL must be in (0, 1); got nan"),
        ("IQL-2.num_critics=2.5", "`num_critics` of IQL-2 must be a whole number; got '2.5'"),
        ("IQL.num_critics=0", "`num_critics` of IQL must be at least 1; got 0"),
        ("IQL.hidden_sizes=wide", "`hidden_sizes` of IQL must be whole numbers such as 128x128; got 'wide'"),
        ("IQL.hidden_sizes=16x0", "`hidden_sizes` of Network must be at least 1"),
        ("IQL.precision=half", '`precision` of IQL must be "float32" or "bfloat16"; got \'half\''),
    ],
)
def test_a_wrong_assignment_is_one_sentence(text: str, sentence: str) -> None:
    assert sentence in refusal(with_assignments, candidates_of("BC,IQL,IQL", CLASSES, 1.0), [text])


def test_wrong_names_are_one_sentence() -> None:
    assert "There is no algorithm 'magic'; there are AWAC, AWR, " in refusal(candidates_of, "IQL,magic", CLASSES, 1.0)
    assert "At least one algorithm must be named" in refusal(candidates_of, " , ", CLASSES, 1.0)


# --- as TOML -----------------------------------------------------------------------------------------------------

TABLES = """
[[candidate]]
algorithm = "IQL"

[[candidate]]
label = "IQL cautious"
algorithm = "iql"
inverse_temperature = 1
[candidate.network]
hidden_sizes = [16, 16]

[[candidate]]
algorithm = "IQL"
expectile = 0.9
hidden_sizes = "32x32"
"""


def test_tables_make_candidates() -> None:
    found = candidates_of_tables(tomllib.loads(TABLES)["candidate"], CLASSES, 1.0)
    usual = job_algorithm(st.IQL, 1.0)
    assert list(found) == ["IQL", "IQL cautious", "IQL-2"]
    assert found["IQL"] == usual
    assert found["IQL cautious"] == dataclasses.replace(usual, inverse_temperature=1.0, hidden_sizes=(16, 16))
    assert found["IQL-2"] == dataclasses.replace(usual, expectile=0.9, hidden_sizes=(32, 32))


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ([{"expectile": 0.9}], "Every [[candidate]] must name its `algorithm`, one of AWAC, AWR"),
        ([{}], "has only nothing"),
        ([{"algorithm": "magic"}], "There is no algorithm 'magic'"),
        ([{"algorithm": "IQL", "expectil": 1}], "IQL has no setting 'expectil'"),
        ([{"algorithm": "IQL", "label": "bold", "expectile": "x"}], "`expectile` of bold must be a number; got 'x'"),
        ([{"algorithm": "IQL", "expectile": True}], "`expectile` of IQL must be a number; got True"),
        ([{"algorithm": "IQL", "num_critics": 2.5}], "must be a whole number; got 2.5"),
        ([{"algorithm": "IQL", "hidden_sizes": ["a"]}], "must be whole numbers such as 128x128; got ['a']"),
        ([{"algorithm": "IQL", "label": "A"}, {"algorithm": "BC", "label": "A"}], "Two candidates have the label 'A'"),
        ({"algorithm": "IQL"}, "each under a line [[candidate]]"),
    ],
)
def test_a_wrong_table_is_one_sentence(tables: Any, sentence: str) -> None:
    assert sentence in refusal(candidates_of_tables, tables, CLASSES, 1.0)


def test_a_log_of_few_episodes_gets_few_candidates_and_the_reason_is_said() -> None:
    few = labelled(default_algorithms(0.9, episodes=99))
    assert set(few) == {"BC", "FilteredBC", "IQL", "DQN"}
    assert set(labelled(default_algorithms(0.9, continuous=True, episodes=99))) == {"BC", "FilteredBC", "IQL", "TD3BC"}
    assert "CQL" in labelled(default_algorithms(0.9, episodes=100))
    said = why_default(numbered_states=False, continuous=False, episodes=99)
    assert "with 99 episodes few are tried" in said
    assert "few are tried" not in why_default(numbered_states=True, continuous=False, episodes=100)
