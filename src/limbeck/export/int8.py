"""Weights of an ONNX graph in one byte each: symmetric, with one scale for each output channel.

Only weights are rounded. Products stay in floating point: where a CPU has no VNNI instructions, those of int8
activations saturate, and vectors that are right on one machine would be wrong on another.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

_SMALLEST = 1_024  # weights of a matrix: below, its scale and node cost more than the bytes saved


def quantise_weights(path: Path, *, embedding: bool) -> None:
    """Round the weights of linear layers, and with `embedding` those of token embeddings, to int8, in place.

    A linear layer's weight has a scale for each output, and is multiplied back (DequantizeLinear) before it is used. A
    token embedding has a scale for each token, and only the rows that are looked up are multiplied back.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "MatMul" and _is_matrix(weights, uses, node.input[1]):
            nodes += _linear(graph, weights[node.input[1]], node)
        elif embedding and node.op_type == "Gather" and _is_matrix(weights, uses, node.input[0]):
            nodes += _embedding(graph, weights[node.input[0]], node)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    left = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in left]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    external = path.with_name(f"{path.name}.data")
    large = external.exists()
    external.unlink(missing_ok=True)
    onnx.save(model, str(path), save_as_external_data=large and model.ByteSize() > 2**31, location=external.name)


def rounded(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes in −127 … 127 and the scale of each index of `axis`. weight: fp32, two axes → (int8 alike, fp32 [n])."""
    largest = np.abs(weight).max(axis=1 - axis, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)  # a channel of zeros stays one
    return np.rint(weight / scale).astype(np.int8), scale.reshape(-1)


def _is_matrix(weights: dict[str, Any], uses: Counter[str], name: str) -> bool:
    from onnx import TensorProto

    tensor = weights.get(name)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or uses[name] != 1:
        return False
    return tensor.dims[0] * tensor.dims[1] >= _SMALLEST


def _linear(graph: Any, tensor: Any, node: Any) -> list[Any]:
    """The weight, [in, out], multiplied back.

    It is stored as [out, in] and turned: from a DequantizeLinear right before the product onnxruntime would make one
    operator that rounds the activations to int8 as well.
    """
    from onnx import helper, numpy_helper

    name = tensor.name
    turned = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), name)
    codes, scale = _stored(graph, turned, axis=0)
    node.input[1] = f"{name}_float"
    return [
        helper.make_node("DequantizeLinear", [codes, scale], [f"{name}_rows"], axis=0),
        helper.make_node("Transpose", [f"{name}_rows"], [node.input[1]], perm=[1, 0]),
        node,
    ]


def _embedding(graph: Any, tensor: Any, node: Any) -> list[Any]:
    """The rows of the table, [tokens, H], multiplied back once they are looked up."""
    from onnx import TensorProto, helper, numpy_helper

    codes, scale = _stored(graph, tensor, axis=0)
    [found], ids, name = node.output, node.input[1], tensor.name
    last = f"{name}_last_axis"
    graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), last))
    return [
        helper.make_node("Gather", [codes, ids], [f"{name}_codes"], axis=0),
        helper.make_node("Gather", [scale, ids], [f"{name}_scales"], axis=0),
        helper.make_node("Cast", [f"{name}_codes"], [f"{name}_rows"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", [f"{name}_scales", last], [f"{name}_factors"]),
        helper.make_node("Mul", [f"{name}_rows", f"{name}_factors"], [found]),
    ]


def _stored(graph: Any, tensor: Any, axis: int) -> tuple[str, str]:
    """Names of the codes and scales that take the place of a weight."""
    from onnx import numpy_helper

    names = (f"{tensor.name}_int8", f"{tensor.name}_scale")
    for name, array in zip(names, rounded(numpy_helper.to_array(tensor), axis), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    return names
