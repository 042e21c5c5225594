"""The model card that goes into a bundle: what it is, how to use it, what it was made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from limbeck.config import Recipe
from limbeck.model.bundle import BundleSpec

_TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "limbeck", "matryoshka"]

_CARD = """---
{metadata}
---

# {name}

{description}A text-embedding model of {dim} dims, distilled from `{teacher}` with limbeck {version}.
Texts are cut at {max_tokens} tokens. Vectors may be cut to {dims} dims (renormalise them), or to one bit a dim.

{usage}
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode(["your question"], prompt_name="query")
documents = model.encode(["your text"], prompt_name="document")
```
{base_note}
| | |
|---|---|
| pooling | {pooling} |
| adapters | {tasks} |
| prefixes | `{query}` for queries, `{document}` for all other text |
| RoPE theta | {theta} |
| trained on | {sources} |
| recipe | `{digest}` |
{scores}
The licences of the teacher and of the training texts decide how this model may be used.
"""

_PLAIN = """```python
import limbeck

model = limbeck.load("path/to/this/folder")
queries = model.encode(["your question"], role="query")
documents = model.encode(["your text"], role="document", dim={half})
```
"""

_ADAPTED = """It has an adapter for each of {count} tasks, and every call names the one to use:

```python
import limbeck

model = limbeck.load("path/to/this/folder")
{examples}
```

Vectors of different tasks do not compare.{auto}
"""

# What each task is for, and its shortest use
_EXAMPLES = {
    "retrieval": """
# retrieval: find the texts that answer a question
queries = model.encode(["your question"], task="retrieval", role="query")
documents = model.encode(["your text"], task="retrieval", role="document")
scores = documents @ queries.T""",
    "text-matching": """
# text-matching: how alike in meaning two texts are; duplicates, translations
first, second = model.encode(["one text", "another text"], task="text-matching")
alike = first @ second""",
    "clustering": """
# clustering: group texts by topic, e.g. with sklearn.cluster.KMeans
topics = model.encode(["a text", "another text"], task="clustering")""",
    "classification": """
# classification: features for a classifier, e.g. sklearn.linear_model.LogisticRegression
features = model.encode(["a text", "another text"], task="classification", dim={half})""",
}

_AUTO = ' `task="auto"` chooses for the texts of a call, or blends.'

_BASE_NOTE = """
sentence-transformers loads the base, without adapters; `model.base` is the same in limbeck.
"""


_SCORES = """
## Scores

| task | type | metric | score |
|---|---|---|---:|
{rows}
"""


def model_card(
    recipe: Recipe,
    spec: BundleSpec,
    *,
    results: Sequence[EvalResult] = (),
    languages: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """README.md of a bundle, as Markdown with the hub's metadata.

    Args:
        recipe: what the model was made by.
        spec: what the bundle says about itself.
        results: its scores, see `limbeck.evaluation.model_index`; they go into the metadata and a table.
        languages: tags of the texts it was trained on, such as "de" or "pt-BR".
        license: the hub's name of its licence, where known.
    """
    half = spec.dims[len(spec.dims) // 2]
    usage = _PLAIN.format(half=half)
    if spec.tasks:
        examples = "\n".join(_EXAMPLES[task] for task in spec.tasks).format(half=half)
        auto = _AUTO if recipe.adapters.router else ""
        usage = _ADAPTED.format(count=len(spec.tasks), examples=examples.strip(), auto=auto)
    theta = f"{spec.train_theta or 'as the backbone'} in training, {spec.inference_theta or 'the same'} at inference"
    return _CARD.format(
        metadata=_metadata(recipe, spec, results, languages, license),
        name=spec.name,
        description=f"{recipe.description.strip()}\n\n" if recipe.description else "",
        dim=spec.dims[-1],
        teacher=recipe.teacher.model,
        version=spec.limbeck,
        max_tokens=spec.max_tokens,
        dims=", ".join(map(str, spec.dims)),
        usage=usage,
        base_note=_BASE_NOTE if spec.tasks else "",
        tasks=", ".join(spec.tasks) or "none",
        pooling=spec.pooling,
        query=spec.prompts["query"],
        document=spec.prompts["document"],
        theta=theta,
        sources=", ".join(s.name for s in recipe.data.sources),
        digest=spec.recipe,
        scores=_SCORES.format(rows="\n".join(map(_row, results))) if results else "",
    )


def _metadata(
    recipe: Recipe, spec: BundleSpec, results: Sequence[EvalResult], languages: Sequence[str], license: str | None
) -> str:
    """The hub's YAML; what is not known is left out."""
    # The hub knows languages, not their countries.
    known = list(dict.fromkeys(re.split("[-_]", tag)[0].lower() for tag in languages))
    return ModelCardData(
        language=known or None,
        license=license,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[*_TAGS, *(["mteb"] if results else [])],
        base_model=_base_model(recipe),
        model_name=spec.name if results else None,
        eval_results=list(results) or None,
    ).to_yaml()


def _base_model(recipe: Recipe) -> str | None:
    """Id on the hub of the model whose weights the student began with. None where there is no such model."""
    student, teacher = recipe.student, recipe.teacher
    on_hub = {"pretrained": student.model, "pruned": teacher.model if teacher.type == "sentence-transformers" else None}
    name = on_hub.get(student.init)
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None


def _row(result: EvalResult) -> str:
    cells = (result.dataset_name, result.task_name or result.task_type, result.metric_type)
    named = " | ".join(re.sub(r"([|\\<>*`])", r"\\\1", cell) for cell in cells)
    return f"| {named} | {result.metric_value:.4f} |"
