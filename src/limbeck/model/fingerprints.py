"""What decides the vectors of a model, in 16 hex digits: they change when its vectors do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from limbeck.files import sha256_file
from limbeck.model.adapters import Adapter
from limbeck.model.bundle import BundleSpec
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer


def of_base(model: StudentModel, tokenizer: Tokenizer, spec: BundleSpec, folder: Path | None, altered: str) -> str:
    """Of a model without adapters: by its files where there are any, else by its weights.

    altered: how vectors differ from those that the files make; "" = not at all.
    """
    known = spec.model_dump_json(include={"pooling", "max_tokens", "prompts"})
    if folder is not None:
        weights = sorted(folder.glob("model*.safetensors"))  # several where they are large
        files = (folder / "config.json", *weights, folder / "tokenizer.json")
        return of_parts(known, *([altered] if altered else []), *map(sha256_file, files))
    backbone: Any = model.backbone
    named = [part for item in backbone.state_dict().items() for part in item]
    return of_parts(known, backbone.config.to_json_string(), *named, tokenizer.hf.backend_tokenizer.to_str())


def of_adapter(adapter: Adapter) -> str:
    """Of an adapter: its scale and its factors by name."""
    factors = (part for name, pair in sorted(adapter.factors.items()) for part in (name, *pair))
    return of_parts(f"{adapter.alpha / adapter.rank}", *factors)


def of_parts(*parts: str | torch.Tensor) -> str:
    """Of words and of the bytes of tensors, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(part.encode())
    return digest.hexdigest()[:16]
