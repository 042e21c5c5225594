"""Weights in one byte: codes by hand, and a graph that computes with what the codes stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.export.int8 import quantise_weights, rounded

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(50, 32)).astype(np.float32) * np.linspace(0.01, 10, 50, dtype=np.float32)[:, None]
WEIGHT = GENERATOR.normal(size=(32, 64)).astype(np.float32) * np.linspace(0.01, 10, 64, dtype=np.float32)
SMALL = GENERATOR.normal(size=(64, 2)).astype(np.float32)
IDS = np.array([[0, 49, 7], [3, 3, 20]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """ids [B, T] → TABLE → WEIGHT → SMALL, and WEIGHT's product beside it."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {"table": TABLE, "weight": WEIGHT, "small": SMALL}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weight"], ["wide"]),
            helper.make_node("MatMul", ["wide", "small"], ["narrow"]),
        ],
        "three weights",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", "T", d]) for n, d in (("wide", 64), ("narrow", 2))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def run(path: Path) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path)).run(["wide"], {"ids": IDS})[0]


def types(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}


def test_the_largest_value_of_a_channel_is_127_and_zeros_stay_zeros() -> None:
    codes, scale = rounded(np.array([[1.0, 0.0, -4.0], [-0.5, 0.0, 2.0]], dtype=np.float32), axis=1)
    np.testing.assert_array_equal(codes, [[127, 0, -127], [-64, 0, 64]])  # −63.5 and 63.5 go to the even neighbour
    np.testing.assert_allclose(scale, [1 / 127, 1, 4 / 127])


@pytest.mark.parametrize("axis", [0, 1])
def test_rounding_is_off_by_half_a_step_of_its_own_channel_at_most(axis: int) -> None:
    codes, scale = rounded(WEIGHT, axis)
    steps = scale.reshape((-1, 1) if axis == 0 else (1, -1))
    assert codes.dtype == np.int8 and np.abs(codes).max() == 127
    assert (np.abs(codes * steps - WEIGHT) <= steps * 0.5001).all()


def test_the_graph_computes_with_what_the_codes_stand_for(path: Path) -> None:
    (table, rows), (weight, columns) = rounded(TABLE, 0), rounded(WEIGHT, 1)
    quantise_weights(path, embedding=True)
    wanted = (table * rows[:, None])[IDS] @ (weight * columns)
    np.testing.assert_allclose(run(path), wanted, rtol=1e-4, atol=1e-4)
    onnx.checker.check_model(str(path))


def test_only_matrices_worth_it_are_rounded_and_no_float_copy_stays(path: Path) -> None:
    quantise_weights(path, embedding=True)
    found = types(path)
    assert found["table_int8"] == found["weight_int8"] == onnx.TensorProto.INT8
    assert found["small"] == onnx.TensorProto.FLOAT
    assert not {"table", "weight"} & set(found)


def test_token_embeddings_stay_as_they_are_where_that_is_asked_for(path: Path) -> None:
    quantise_weights(path, embedding=False)
    assert types(path)["table"] == onnx.TensorProto.FLOAT
    codes, scale = rounded(WEIGHT, 1)
    np.testing.assert_allclose(run(path), TABLE[IDS] @ (codes * scale), rtol=1e-4, atol=1e-4)
