"""One ONNX graph, run by onnxruntime: the student's own vectors, for batches of any number, length and mix of tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_adapters import adapters_of
from tiny_models import backbone_of
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.config import Scaling
from limbeck.errors import ModelError
from limbeck.model.adapters import Adapter, merged
from limbeck.model.graph import write_onnx
from limbeck.model.pretrained import read_model
from limbeck.model.rope import set_rope
from limbeck.model.student import StudentModel

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

LENGTHS = [7, 12, 1]
IDS = torch.arange(36).view(3, 12) % 40 + 6
MASK = (torch.arange(12)[None, :] < torch.tensor(LENGTHS)[:, None]).long()


@pytest.fixture
def folders(bert: Path, qwen3: Path, eurobert: Path, modernbert: Path) -> dict[str, Path]:
    return {"bert": bert, "qwen3": qwen3, "eurobert": eurobert, "modernbert": modernbert}


def backbone(kind: str, folders: dict[str, Path]) -> Any:
    return read_model(folders["bert"]).eval() if kind == "BERT" else backbone_of(kind, folders)


def opened(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: Any, ids: Tensor, mask: Tensor, task: Sequence[int] | None = None) -> np.ndarray:
    inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    return session.run(None, inputs if task is None else inputs | {"task": np.array(task)})[0]


@torch.no_grad()
def alone(model: StudentModel, row: int) -> np.ndarray:
    length = LENGTHS[row]
    return normalize(model(IDS[row : row + 1, :length], MASK[row : row + 1, :length]), dim=-1).numpy()


def with_task(own: Any, adapter: Adapter, pooling: str) -> StudentModel:
    return StudentModel(merged(own, [(adapter, 1.0)]), pooling=pooling).eval()


KINDS = [
    pytest.param(kind, pooling, marks=pytest.mark.slow)
    for kind, pooling in [
        ("rotary BERT", "last"),
        ("causal Qwen3", "last"),
        ("bidirectional Qwen3", "mean"),
        ("EuroBERT", "last"),
        ("ModernBERT", "cls"),
        ("BERT", "mean"),
    ]
]


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
def test_each_text_of_a_batch_of_mixed_tasks_has_the_vector_that_its_merged_model_gives_it_alone(
    kind: str, pooling: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    own = backbone(kind, folders)
    adapters = adapters_of(own, ["retrieval", "clustering"])
    path = tmp_path / "model.onnx"
    write_onnx(StudentModel(own, pooling=pooling), path, adapters=adapters)
    session = opened(path)
    order = json.loads(session.get_modelmeta().custom_metadata_map["tasks"])
    assert order == ["retrieval", "clustering"]
    tasks = [1, 0, 1]
    together = run(session, IDS, MASK, tasks)
    for row, task in enumerate(tasks):
        wanted = alone(with_task(own, adapters[order[task]], pooling), row)
        np.testing.assert_allclose(together[row : row + 1], wanted, atol=1e-5)
        only = run(session, IDS[row : row + 1, : LENGTHS[row]], MASK[row : row + 1, : LENGTHS[row]], [task])
        np.testing.assert_allclose(only, wanted, atol=1e-5)
    assert np.abs(run(session, IDS, MASK, [0, 0, 0]) - together).max() > 1e-3


def test_without_adapters_there_are_two_inputs_and_a_vector_of_unit_length(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = StudentModel(backbone("rotary BERT", folders), pooling="mean").eval()
    before = model.backbone.config._attn_implementation  # type: ignore[union-attr]
    write_onnx(model, tmp_path / "model.onnx")
    assert model.backbone.config._attn_implementation == before  # type: ignore[union-attr]
    session = opened(tmp_path / "model.onnx")
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()] == [
        ("input_ids", "tensor(int64)", 2),
        ("attention_mask", "tensor(int64)", 2),
    ]
    [output] = session.get_outputs()
    assert (output.name, output.type, output.shape[1]) == ("embedding", "tensor(float)", 32)
    found = run(session, IDS, MASK)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for row in range(3):
        np.testing.assert_allclose(found[row : row + 1], alone(model, row), atol=1e-5)


@pytest.mark.slow
def test_adapters_of_other_ranks_and_layers_stand_side_by_side(folders: dict[str, Path], tmp_path: Path) -> None:
    own = backbone("rotary BERT", folders)
    first, second = adapters_of(own, ["a", "b"]).values()
    narrow = {name: (a[:2], b[:, :2]) for name, (a, b) in second.factors.items() if name.endswith("q_proj")}
    adapters: Mapping[str, Adapter] = {"a": first, "b": replace(second, factors=narrow, rank=2)}
    write_onnx(StudentModel(own, pooling="last"), tmp_path / "model.onnx", adapters=adapters)
    found = run(opened(tmp_path / "model.onnx"), IDS, MASK, [1, 0, 1])
    for row, task in enumerate(["b", "a", "b"]):
        np.testing.assert_allclose(found[row : row + 1], alone(with_task(own, adapters[task], "last"), row), atol=1e-5)


@pytest.mark.slow
def test_the_graph_turns_positions_by_the_theta_that_the_student_has_now(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    own = backbone("rotary BERT", folders)
    model = StudentModel(own, pooling="last").eval()
    before = alone(model, 1)
    set_rope(own, 40.0)
    write_onnx(model, tmp_path / "model.onnx")
    found = run(opened(tmp_path / "model.onnx"), IDS, MASK)
    np.testing.assert_allclose(found[1:2], alone(model, 1), atol=1e-5)
    assert np.abs(found[1:2] - before).max() > 1e-3


def test_rope_of_dynamic_scaling_is_refused_with_what_to_take(folders: dict[str, Path], tmp_path: Path) -> None:
    own = backbone("rotary BERT", folders)
    set_rope(own, None, Scaling(type="dynamic", factor=2))
    with pytest.raises(ModelError, match="take yarn or linear scaling"):
        write_onnx(StudentModel(own, pooling="last"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
