"""Adapters for tiny models, drawn and not trained, and bundles that hold them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import spec_of
from torch import nn

from limbeck.config import TASKS, Lora, Student
from limbeck.model import backbone as backbones
from limbeck.model.adapters import Adapter, attach, base_digest, taken_from
from limbeck.model.bundle import save_bundle
from limbeck.model.projection import Projection
from limbeck.model.router import Router

LORA = Lora(rank=4, alpha=6.0)


def drawn(backbone: nn.Module, seed: int = 0, **fields: Any) -> Adapter:
    """An adapter of every linear layer, B as random as A."""
    trained = copy.deepcopy(backbone)
    attach(trained, LORA, "task", seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    found = taken_from(dict(trained.named_parameters()), "task", LORA, base=base_digest(backbone))
    return replace(found, **fields)


def adapters_of(backbone: nn.Module, tasks: Sequence[str] = TASKS) -> dict[str, Adapter]:
    """One for each task, all different."""
    return {task: drawn(backbone, seed) for seed, task in enumerate(tasks, start=1)}


def adapted_bundle(
    folder: Path,
    section: Student,
    teacher: Path,
    tasks: Sequence[str] = TASKS,
    router: Router | None = None,
    **spec: Any,
) -> Path:
    """A bundle with adapters."""
    built = backbones.build(section, teacher, seed=1)
    torch.manual_seed(1)
    save_bundle(
        folder,
        backbone=built.model,
        tokenizer=built.tokenizer,
        spec=spec_of(section, **spec),
        projection=Projection(section.dims, 12),
        adapters=adapters_of(built.model, tasks),
        router=router,
    )
    return folder
