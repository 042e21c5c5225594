"""Bundles of tiny random models, to be written in other layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from limbeck.config import TASKS, Scaling
from limbeck.model.adapters import Adapter
from limbeck.model.bundle import BundleSpec, save_bundle
from limbeck.model.tokenizer import Tokenizer
from model.tiny_models import CORPUS, SHAPE, byte_level, wordpiece

TEXTS = ["join", CORPUS[0], "", CORPUS[1] * 3, CORPUS[2]]  # some are cut
LONGEST, THETA = 20, 40_000.0
PROMPTS = {"query": "Query: ", "document": "Document: "}


def make_bundle(
    folder: Path,
    kind: str = "Qwen3",
    *,
    tasks: Sequence[str] = TASKS,
    pooling: Any = "last",
    scaling: Scaling | None = None,
    **shape: Any,
) -> Path:
    """A bundle that was trained with another theta than it runs with, and takes fewer tokens than its backbone."""
    hf = wordpiece() if kind in ("EuroBert", "Bert") else byte_level()
    ids = {"vocab_size": len(hf), "pad_token_id": hf.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    heads = {"num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.1}
    config = getattr(transformers, f"{kind}Config")(**(SHAPE | ids | heads | shape))
    torch.manual_seed(2)
    backbone = getattr(transformers, f"{kind}Model")(config)
    spec = BundleSpec(
        name="tiny",
        pooling=pooling,
        dims=[8, 16, 32],
        max_tokens=LONGEST,
        train_theta=None if kind == "Bert" else 10_000.0,
        inference_theta=None if kind == "Bert" else THETA,
        inference_scaling=scaling,
    )
    linears = {name: m.weight.shape for name, m in backbone.named_modules() if isinstance(m, nn.Linear)}
    adapters = {}
    for task in tasks:
        factors = {n: (0.2 * torch.randn(4, b), 0.1 * torch.randn(a, 4)) for n, (a, b) in linears.items()}
        adapters[task] = Adapter(factors, 4, 6.0, 0.1)
    tokenizer = Tokenizer(hf)
    save_bundle(folder, backbone=backbone, tokenizer=tokenizer, spec=spec, projection=None, adapters=adapters)
    return folder
