"""Formats: how each is written, and how its target reads it back.

What reads an export here does what the README of the export tells its users to do.  N: texts, T: tokens, D: dims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from limbeck.export.facts import Facts
from limbeck.export.int8 import quantise_weights
from limbeck.model import jina_v5
from limbeck.model.adapters import Adapter, merged
from limbeck.model.bundle import MANIFEST, Bundle, save_bundle
from limbeck.model.graph import EMBEDDING, IDS, MASK, TASK, write_onnx
from limbeck.model.pretrained import quiet
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer

ONNX, OPENVINO = "model.onnx", "model.xml"

Encode: TypeAlias = Callable[[Sequence[str], str | None, str], np.ndarray]
"""(texts, task, role) → unit vectors, fp32 [N, D]."""


@dataclass(frozen=True)
class Target:
    """A format."""

    write: Callable[[Bundle, Facts, Path], None]  # into an empty folder
    read: Callable[[Path, Facts], Encode]
    modules: tuple[str, ...] = ()  # that it needs installed
    keeps_adapters: bool = True  # else one task an export
    int8: bool = False  # whether its weights may be int8

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if find_spec(name) is None]


def _write_sentence_transformers(model: Bundle, facts: Facts, folder: Path) -> None:
    spec = model.spec.model_copy(update={"name": facts.name})
    backbone = merged(model.backbone, [(a, 1.0) for a in model.adapters.values()])
    whole = folder / "model"  # which `save_bundle` puts in place as one; `folder` may be one that is not to be replaced
    save_bundle(whole, backbone=backbone, tokenizer=model.tokenizer, spec=spec, projection=None)
    for file in whole.iterdir():
        file.rename(folder / file.name)
    whole.rmdir()
    [as_bundle], [own] = (t.ids([""], max_tokens=8)[0] for t in (Tokenizer.load(folder), model.tokenizer))
    if not np.array_equal(as_bundle, own):
        (folder / MANIFEST).unlink()  # read as a bundle, texts would get a closing token that this model is without


def _read_sentence_transformers(folder: Path, facts: Facts) -> Encode:
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
        return np.asarray(model.encode(list(texts), prompt_name=role, batch_size=len(texts), show_progress_bar=False))

    return encode


def _write_jina_v5(model: Bundle, facts: Facts, folder: Path) -> None:
    jina_v5.write(model, folder)


def _read_jina_v5(folder: Path, facts: Facts) -> Encode:
    from limbeck.model.loading import load

    model = load(folder, device="cpu", precision="fp32")
    return lambda texts, task, role: model.encode(texts, task=task, role=role)


def _write_onnx(model: Bundle, facts: Facts, folder: Path) -> None:
    kept: Mapping[str, Adapter] = {} if facts.merged else model.adapters
    backbone = merged(model.backbone, [(a, 1.0) for a in model.adapters.values()]) if facts.merged else model.backbone
    write_onnx(StudentModel(backbone, pooling=facts.pooling), folder / ONNX, adapters=kept)
    if facts.precision == "int8":
        quantise_weights(folder / ONNX, embedding=facts.int8_embedding)
    model.tokenizer.hf.model_max_length = facts.max_tokens
    model.tokenizer.save(folder)


def _read_onnx(folder: Path, facts: Facts) -> Encode:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    return _by_graph(folder, facts, lambda inputs: session.run([EMBEDDING], inputs)[0])


def _write_openvino(model: Bundle, facts: Facts, folder: Path) -> None:
    import openvino

    _write_onnx(model, facts, folder)
    converted: Any = openvino.convert_model(str(folder / ONNX))
    openvino.save_model(converted, str(folder / OPENVINO), compress_to_fp16=False)
    del converted  # it maps the file that is removed now
    for file in folder.glob(f"{ONNX}*"):
        file.unlink()


def _read_openvino(folder: Path, facts: Facts) -> Encode:
    import openvino

    # some CPUs would multiply in bf16, which is for the user to choose
    compiled = openvino.Core().compile_model(str(folder / OPENVINO), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _by_graph(folder, facts, lambda inputs: np.array(compiled(inputs)[EMBEDDING]))


def _by_graph(folder: Path, facts: Facts, run: Callable[[dict[str, np.ndarray]], Any]) -> Encode:
    """Texts through the tokenizer beside a graph, and the graph."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(facts.max_tokens)
    tokenizer.enable_padding()

    def encode(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
        batch = tokenizer.encode_batch([facts.prompts[role] + text for text in texts])
        inputs = {IDS: np.array([e.ids for e in batch]), MASK: np.array([e.attention_mask for e in batch])}
        if not facts.merged and facts.tasks:
            inputs[TASK] = np.full(len(batch), facts.tasks.index(task or ""))
        return run(inputs)

    return encode


TARGETS: dict[str, Target] = {
    "sentence-transformers": Target(
        _write_sentence_transformers, _read_sentence_transformers, ("sentence_transformers",), keeps_adapters=False
    ),
    "jina-v5": Target(_write_jina_v5, _read_jina_v5),
    "onnx": Target(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime"), int8=True),
    "openvino": Target(_write_openvino, _read_openvino, ("onnx", "onnxscript", "openvino"), int8=True),
}
"""By the name of the format."""
