"""Folders of tiny models, and bundles made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_level, save_model, spec_of, wordpiece

from limbeck.config import Student
from limbeck.model import backbone as backbones
from limbeck.model.bundle import save_bundle
from limbeck.model.projection import Projection
from limbeck.model.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with its tokenizer: the teacher of most tests."""
    return save_model(tmp_path_factory.mktemp("bert"), "Bert", wordpiece())


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 with grouped queries, whose tokenizer adds no closing token."""
    return save_model(tmp_path_factory.mktemp("qwen3"), "Qwen3", byte_level(), num_key_value_heads=1, head_dim=16)


@pytest.fixture(scope="session")
def eurobert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("eurobert"), "EuroBert", wordpiece(), num_key_value_heads=2)


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other layer attends locally, with frequencies of its own."""
    return save_model(tmp_path_factory.mktemp("modernbert"), "ModernBert", wordpiece(), global_attn_every_n_layers=2)


MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """(student section, teacher's folder, name) → the folder of an untrained bundle."""

    def make(section: Student, teacher: Path, name: str = "model", **spec: Any) -> Path:
        built = backbones.build(section, teacher, seed=1)
        folder = tmp_path / name
        torch.manual_seed(1)
        save_bundle(
            folder,
            backbone=built.model,
            tokenizer=built.tokenizer,
            spec=spec_of(section, **spec),
            projection=Projection(section.dims, 12),
        )
        return folder

    return make


@pytest.fixture(scope="session")
def closed() -> Tokenizer:
    """A byte-level tokenizer whose closing token limbeck has pinned."""
    return Tokenizer(byte_level())
