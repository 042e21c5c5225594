"""README.md of an export: how to use it in its target, and its facts."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from limbeck.export.facts import MARK, Facts
from limbeck.export.licences import UNKNOWN

_README = """---
{metadata}
---

# {name}

A text-embedding model of {dim} dims, written by limbeck {version} {layout}.
Vectors are of unit length, and may be cut to {dims} dims (renormalise them then).

```python
{snippet}
```
"""

_SENTENCE_TRANSFORMERS = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
{queries}vectors = model.encode(["your text"], prompt_name="document")"""

_GRAPH = """import json

import numpy as np
{imports}
from tokenizers import Tokenizer

folder = "path/to/this/folder"
facts = json.load(open(f"{{folder}}/{mark}"))
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
tokenizer.enable_truncation(facts["max_tokens"])
tokenizer.enable_padding()
{load}

{encode}"""

_ENCODE = """
def encode(texts, role="document"):
    batch = tokenizer.encode_batch([facts["prompts"][role] + text for text in texts])
    ids, mask = (np.array([getattr(e, name) for e in batch]) for name in ("ids", "attention_mask"))
    inputs = {{"input_ids": ids, "attention_mask": mask}}
    return {run}


vectors = encode(["your text", "another text"])"""

_ENCODE_BY_TASK = """
def encode(texts, tasks, role="document"):
    batch = tokenizer.encode_batch([facts["prompts"][role] + text for text in texts])
    ids, mask = (np.array([getattr(e, name) for e in batch]) for name in ("ids", "attention_mask"))
    task = np.array([facts["tasks"].index(name) for name in tasks])  # one for each text; a batch may mix them
    inputs = {{"input_ids": ids, "attention_mask": mask, "task": task}}
    return {run}


vectors = encode(["your text", "another text"], tasks=["{first}", "{last}"])"""

_LAYOUTS = {
    "sentence-transformers": "for sentence-transformers",
    "onnx": "as one ONNX graph that ends with the pooled vector at unit length",
    "openvino": "as one OpenVINO graph that ends with the pooled vector at unit length",
}

_FACTS = """
## Facts

{mark} says the same to programs.

| | |
|---|---|
{rows}

The licences of all three, and of the texts it was trained on, decide how this model may be used.
"""

_SEVERAL = """# {name}

One sentence-transformers model for each task, in a folder of its own; vectors of different tasks do not compare.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder/{first}")
vectors = model.encode(["your text"], prompt_name="document")
```

{listed}
"""


def write_readme(folder: Path, facts: Facts) -> None:
    """Write README.md; where the format has written one of its own, add the facts to it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if facts.format == "jina-v5" else _own(facts)
    path.write_text(text + facts_section(facts), encoding="utf-8")


def write_list(folder: Path, facts: Facts) -> None:
    """Write README.md of a folder that holds an export for each task."""
    listed = "\n".join(f"- [{task}]({task}/README.md)" for task in facts.tasks)
    text = _SEVERAL.format(name=facts.name, first=facts.tasks[0], listed=listed)
    (folder / "README.md").write_text(text + facts_section(facts), encoding="utf-8")


def facts_section(facts: Facts) -> str:
    """The facts as Markdown."""
    return _FACTS.format(mark=MARK, rows="\n".join(f"| {name} | {value} |" for name, value in _rows(facts)))


def _own(facts: Facts) -> str:
    licences = facts.licences
    known = licences.model.licence if licences.model.licence != UNKNOWN else None
    base = licences.base.name if licences.base.name.count("/") == 1 and not Path(licences.base.name).exists() else None
    metadata = ModelCardData(
        license=known,
        library_name=facts.format,
        pipeline_tag="sentence-similarity",
        tags=["feature-extraction", "limbeck", "matryoshka"],
        base_model=base,
    )
    return _README.format(
        metadata=metadata.to_yaml(),
        name=facts.name,
        dim=facts.dims[-1],
        version=facts.limbeck,
        layout=_LAYOUTS[facts.format],
        dims=", ".join(map(str, facts.dims)),
        snippet=_snippet(facts),
    )


def _snippet(facts: Facts) -> str:
    if facts.format == "sentence-transformers":
        asked = 'queries = model.encode(["your question"], prompt_name="query")\n'
        return _SENTENCE_TRANSFORMERS.format(queries=asked if _has_queries(facts) else "")
    if facts.format == "onnx":
        imports, run = "import onnxruntime", 'session.run(["embedding"], inputs)[0]'
        load = 'session = onnxruntime.InferenceSession(f"{folder}/model.onnx")'
    else:
        imports, run = "import openvino", 'model(inputs)["embedding"]'
        exact = '{"INFERENCE_PRECISION_HINT": "f32"}'  # else bf16, on CPUs that have it
        load = f'model = openvino.Core().compile_model(f"{{folder}}/model.xml", "CPU", {exact})'
    if facts.tasks and not facts.merged:
        body = _ENCODE_BY_TASK.format(run=run, first=facts.tasks[0], last=facts.tasks[-1])
    else:
        body = _ENCODE.format(run=run)
    return _GRAPH.format(imports=imports, mark=MARK, load=load, encode=body)


def _rows(facts: Facts) -> list[tuple[str, str]]:
    licences = facts.licences
    scaling = f", {facts.rope_scaling.type} scaling by {facts.rope_scaling.factor:g}" if facts.rope_scaling else ""
    rows = [
        ("tasks", ", ".join(facts.tasks) or "none: the base alone"),
        ("prefixes", f"`{facts.prompts['query']}` for queries, `{facts.prompts['document']}` for all other text"),
        ("dims", ", ".join(map(str, facts.dims))),
        ("longest text", f"{facts.max_tokens:,} tokens"),
        ("pooling", facts.pooling),
        ("RoPE theta", f"{facts.rope_theta:g}{scaling}" if facts.rope_theta else "no RoPE"),
        ("weights", _weights(facts)),
        ("made from the model", f"`{facts.fingerprint}` (`Encoder.fingerprint`)"),
        ("least cosine to its vectors", f"{facts.min_cosine:.6f}" if facts.min_cosine is not None else UNKNOWN),
        ("retrieval", str(facts.retrieval) if facts.retrieval else ""),
        ("licence of the model", licences.model.licence),
        ("base, and its licence", f"{licences.base.name}: {licences.base.licence}"),
        ("teacher, and its licence", f"{licences.teacher.name}: {licences.teacher.licence}"),
    ]
    return [(name, value) for name, value in rows if value]


def _weights(facts: Facts) -> str:
    if facts.precision != "int8":
        return facts.precision
    return (
        f"int8, {'token embeddings too' if facts.int8_embedding else 'but for the token embeddings'}; products in float"
    )


def _has_queries(facts: Facts) -> bool:
    return not facts.tasks or "retrieval" in facts.tasks
