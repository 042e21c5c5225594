"""The model card that goes into a bundle: what it is, how to use it, what it was made from."""

from __future__ import annotations

from limbeck.config import Recipe
from limbeck.model.bundle import BundleSpec

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, limbeck, matryoshka]
---

# {name}

{description}A text-embedding model of {dim} dims, distilled from `{teacher}` with limbeck {version}.
Texts are cut at {max_tokens} tokens. Vectors may be cut to {dims} dims (renormalise them), or to one bit a dim.

```python
import limbeck

model = limbeck.load("path/to/this/folder")
queries = model.encode(["your question"], role="query")
documents = model.encode(["your text"], role="document", dim={half})
```

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode(["your question"], prompt_name="query")
documents = model.encode(["your text"], prompt_name="document")
```

| | |
|---|---|
| pooling | {pooling} |
| prefixes | `{query}` for queries, `{document}` for all other text |
| RoPE theta | {theta} |
| trained on | {sources} |
| recipe | `{digest}` |

The licences of the teacher and of the training texts decide how this model may be used.
"""


def model_card(recipe: Recipe, spec: BundleSpec) -> str:
    """README.md of a bundle, as Markdown with the hub's metadata."""
    theta = f"{spec.train_theta or 'as the backbone'} in training, {spec.inference_theta or 'the same'} at inference"
    return _CARD.format(
        name=spec.name,
        description=f"{recipe.description.strip()}\n\n" if recipe.description else "",
        dim=spec.dims[-1],
        teacher=recipe.teacher.model,
        version=spec.limbeck,
        max_tokens=spec.max_tokens,
        dims=", ".join(map(str, spec.dims)),
        half=spec.dims[len(spec.dims) // 2],
        pooling=spec.pooling,
        query=spec.prompts["query"],
        document=spec.prompts["document"],
        theta=theta,
        sources=", ".join(s.name for s in recipe.data.sources),
        digest=spec.recipe,
    )
