"""Facts of an export that there is not."""

from __future__ import annotations

from typing import Any

from limbeck.export.facts import Facts
from limbeck.export.licences import Licences, Origin


def facts_of(**fields: Any) -> Facts:
    known: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "limbeck": "0.1.0",
        "name": "tiny",
        "tasks": ["retrieval", "clustering"],
        "merged": False,
        "prompts": {"query": "Query: ", "document": "Document: "},
        "pooling": "last",
        "dims": [8, 16, 32],
        "max_tokens": 20,
        "rope_theta": 40_000.0,
        "rope_scaling": None,
        "fingerprint": "0" * 16,
        "licences": Licences(model=Origin(name="tiny"), base=Origin(), teacher=Origin()),
    }
    return Facts(**(known | fields))
