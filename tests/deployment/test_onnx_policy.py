"""Policies in ONNX files: the output read as it is named or told, masks, fixed batches, and refusals in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import stitchrl as st
from stitchrl.deployment.onnx_policy import OnnxPolicy
from stitchrl.errors import CheckpointError, ConfigurationError, DataError, StitchRLError

WEIGHT = np.array([[1.0, 0.0, -1.0], [0.5, -0.5, 2.0]], np.float32)
OBS = np.array([[0.2, 1.0], [-1.0, 0.3], [2.0, -0.7]], np.float32)


def onnx_file(
    path: Path, *, operator: str = "", output: str = "y", rows: Any = "rows", more: tuple[str, ...] = ()
) -> Path:
    """A linear model: observations of 2 numbers times `WEIGHT`, then an operator if one is given."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    last = "logit" if operator else output
    nodes = [helper.make_node("MatMul", ["obs", "weight"], [last])]
    kind, shape = TensorProto.FLOAT, [rows, 3]
    if operator == "ArgMax":
        nodes.append(helper.make_node("ArgMax", ["logit"], [output], axis=1, keepdims=0))
        kind, shape = TensorProto.INT64, [rows]
    elif operator:
        nodes.append(helper.make_node(operator, ["logit"], [output]))
    made = [helper.make_tensor_value_info(output, kind, shape)]
    for name in more:
        nodes.append(helper.make_node("Identity", ["obs"], [name]))
        made.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 2]))
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [rows, 2])],
        made,
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def softmax(logits: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    weight = np.exp(logits.astype(np.float64)) * (1 if mask is None else mask)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def test_logits_become_probabilities_renormalised_under_the_mask(tmp_path: Path) -> None:
    policy = st.load_policy(onnx_file(tmp_path / "p.onnx", output="logits"))
    mask = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    np.testing.assert_allclose(policy.probs(OBS), softmax(OBS @ WEIGHT), rtol=1e-5)
    np.testing.assert_allclose(policy.probs(OBS, action_mask=mask), softmax(OBS @ WEIGHT, mask), rtol=1e-5)
    assert policy.has_density
    assert policy.num_actions == 3
    np.testing.assert_array_equal(policy.mode(OBS), (OBS @ WEIGHT).argmax(1))
    np.testing.assert_allclose(
        policy.log_prob(OBS, np.array([0, 1, 2])), np.log(np.diag(softmax(OBS @ WEIGHT))), rtol=1e-5
    )
    many = np.repeat(OBS[:1], 40_000, 0)  # more rows than are asked at once
    drawn = policy.sample(many, key=jax.random.key(0))
    np.testing.assert_array_equal(drawn, policy.sample(many, key=jax.random.key(0)))
    share = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(share, softmax(OBS @ WEIGHT)[0], atol=0.01)


def test_probabilities_are_read_as_they_are_and_logits_are_not_taken_for_them(tmp_path: Path) -> None:
    right = onnx_file(tmp_path / "right.onnx", operator="Softmax", output="probs")
    np.testing.assert_allclose(st.load_policy(right).probs(OBS), softmax(OBS @ WEIGHT), rtol=1e-5)
    wrong = st.load_policy(onnx_file(tmp_path / "wrong.onnx", output="probs"))
    with pytest.raises(DataError, match=r'sum to 1; in row 0 .*If its output is logits, say output="probs:logits"'):
        wrong.probs(OBS)


def test_an_action_alone_is_a_policy_without_chance(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "p.onnx", operator="ArgMax", output="action")
    policy = st.load_policy(path, num_actions=4)
    np.testing.assert_array_equal(policy.probs(OBS), np.eye(4)[(OBS @ WEIGHT).argmax(1)])
    with pytest.raises(DataError, match="give `num_actions`"):
        st.load_policy(path).probs(OBS)
    with pytest.raises(DataError, match="must be 0 to 1; got 0 to 2"):
        st.load_policy(path, num_actions=2).probs(OBS)
    taken = (OBS @ WEIGHT).argmax(1)
    mask = np.ones((3, 4), bool)
    mask[1, taken[1]] = False
    with pytest.raises(DataError, match="in row 1 it takes only what `action_mask` forbids"):
        policy.probs(OBS, action_mask=mask)


def test_a_continuous_action_has_no_density(tmp_path: Path) -> None:
    policy = st.load_policy(onnx_file(tmp_path / "p.onnx", output="action"))
    assert not policy.has_density
    np.testing.assert_allclose(policy.mode(OBS), OBS @ WEIGHT, rtol=1e-6)
    np.testing.assert_array_equal(policy.sample(OBS, key=jax.random.key(1)), policy.mode(OBS))
    for asked in (lambda: policy.probs(OBS), lambda: policy.log_prob(OBS, OBS @ WEIGHT)):
        with pytest.raises(DataError):
            asked()


def test_a_model_for_a_fixed_number_of_rows_is_run_as_often_as_needed(tmp_path: Path) -> None:
    for rows in (1, 2):
        policy = st.load_policy(onnx_file(tmp_path / f"{rows}.onnx", output="logits", rows=rows))
        np.testing.assert_allclose(policy.probs(OBS), softmax(OBS @ WEIGHT), rtol=1e-5)
    with pytest.raises(DataError, match=r"takes observations of shape \[1, 2\], one row each; got shape \(3, 1\)"):
        st.load_policy(tmp_path / "1.onnx").probs(OBS[:, :1])


def test_a_model_of_whole_numbers_gets_no_fractions(tmp_path: Path) -> None:
    """Where onnxruntime is installed: a model whose observations are int32, cast to float inside."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["obs"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["number", "weight"], ["logits"]),
        ],
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.INT32, ["rows", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "p.onnx"))
    policy = st.load_policy(tmp_path / "p.onnx")
    whole = np.array([[0.0, 1.0], [-3.0, 2.0]], np.float32)
    np.testing.assert_allclose(policy.probs(whole), softmax(whole @ WEIGHT), rtol=1e-5)
    with pytest.raises(DataError, match="takes observations of type int32, and those of the log are not whole numbers"):
        policy.probs(OBS)


class WholeNumbers:
    """A session of a model with two observations and two logits, without onnxruntime: it returns what it is fed."""

    def __init__(self, kind: str) -> None:
        self.kind, self.fed = kind, np.zeros(0)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="obs", type=self.kind, shape=["rows", 2])]

    def run(self, outputs: list[str], fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed = fed["obs"]
        return [self.fed.astype(np.float32)]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("int32", [3.0, -4.0], [3.0, 0.5]),
        ("int64", [3.0, -4.0], [3.0, 1e-3]),
        ("uint8", [0.0, 255.0], [0.0, 256.0]),
        ("bool", [0.0, 1.0], [0.0, 2.0]),
    ],
)
def test_what_a_type_cannot_hold_is_refused(kind: str, right: list[float], wrong: list[float]) -> None:
    session = WholeNumbers(f"tensor({kind})")
    output = SimpleNamespace(name="logits", type="tensor(float)", shape=["rows", 2])
    policy = OnnxPolicy("p.onnx", session, output, "logits", 2)
    probs = policy.probs(np.array([right], np.float32))
    np.testing.assert_allclose(probs, softmax(np.array([right])), rtol=1e-5)
    assert session.fed.dtype == np.dtype(kind)
    with pytest.raises(
        DataError, match=f"takes observations of type {kind}, and those of the log are not whole numbers"
    ):
        policy.probs(np.array([right, wrong], np.float32))


def test_the_output_is_told_and_never_guessed(tmp_path: Path) -> None:
    plain = onnx_file(tmp_path / "plain.onnx", output="y")
    several = onnx_file(tmp_path / "several.onnx", output="probs", operator="Softmax", more=("action",))
    for path in (plain, several):
        with pytest.raises(
            ConfigurationError, match="must have one output named probs, logits or action; its outputs are"
        ):
            st.load_policy(path)
    expected = softmax(OBS @ WEIGHT)
    np.testing.assert_allclose(st.load_policy(plain, output="logits").probs(OBS), expected, rtol=1e-5)
    np.testing.assert_allclose(st.load_policy(several, output="probs").probs(OBS), expected, rtol=1e-5)
    np.testing.assert_array_equal(st.load_policy(several, output="action:action").mode(OBS), OBS)
    with pytest.raises(ConfigurationError, match='must be "probs", "logits" or "action"'):
        st.load_policy(plain, output="y")
    with pytest.raises(ConfigurationError, match="'z' is none of them"):
        st.load_policy(plain, output="z:probs")


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "p.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"The policy 'p\.onnx' cannot be loaded as ONNX: .*[^.]\.$") as refused:
        st.load_policy(tmp_path / "p.onnx")
    assert "\n" not in str(refused.value)


# --- without onnxruntime -------------------------------------------------------------------------------------------


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "p.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r'pip install "stitchrl\[onnx\]"'):
        st.load_policy(tmp_path / "p.onnx")


def test_other_paths_are_no_files_of_onnx(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no such file"):
        st.load_policy(tmp_path / "p.onnx")
    with pytest.raises(ConfigurationError, match="are for files of ONNX"):
        st.load_policy(tmp_path, output="probs")
    assert issubclass(DataError, StitchRLError)
