"""Vectors in the teacher's space: what the kept projection says, and which texts it can be asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_adapters import adapters_of
from tiny_models import spec_of, student

from limbeck.errors import ConfigError, ModelError
from limbeck.model import backbone as backbones
from limbeck.model.bundle import PROJECTION, save_bundle
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.projection import Projection

TEACHER = 16
TEXTS = ["join two tables", "Split the string at the first occurrence of sep.", "a"]


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A bundle with a retrieval and a clustering adapter, whose projection leads to 16 dims."""
    return written(bert, tmp_path / "model")


def written(bert: Path, folder: Path, own: Projection | None = None) -> Path:
    section = student(init="pruned", pruned={"layers": [0, 2]})
    built = backbones.build(section, bert, seed=1)
    torch.manual_seed(1)
    save_bundle(
        folder,
        backbone=built.model,
        tokenizer=built.tokenizer,
        spec=spec_of(section),
        projection=Projection(section.dims, TEACHER),
        adapters=adapters_of(built.model, ["retrieval", "clustering"]),
        projections={} if own is None else {"retrieval": own},
    )
    return folder


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load(folder, device="cpu", precision="fp32")


def mapped(folder: Path, vectors: np.ndarray) -> np.ndarray:
    """W z + b at unit length, from the numbers in the file."""
    head = Projection.load(folder / PROJECTION).heads[str(vectors.shape[1])]
    up = vectors @ head.weight.detach().numpy().T + head.bias.detach().numpy()  # type: ignore[union-attr, operator]
    return up / np.linalg.norm(up, axis=1, keepdims=True)


def test_vectors_in_the_teachers_space_are_the_projected_ones_at_unit_length(folder: Path, encoder: Encoder) -> None:
    for dim in encoder.dims:
        plain = encoder.encode(TEXTS, task="retrieval", role="query", dim=dim)
        there = encoder.encode(TEXTS, task="retrieval", role="query", dim=dim, space="teacher")
        assert there.shape == (3, TEACHER) and there.dtype == np.float32
        np.testing.assert_allclose(there, mapped(folder, plain), atol=1e-6)


def test_a_single_text_and_a_base_without_its_adapters_are_projected_too(folder: Path, encoder: Encoder) -> None:
    expected = mapped(folder, encoder.base.encode(TEXTS))
    np.testing.assert_allclose(encoder.base.encode(TEXTS[0], space="teacher"), expected[0], atol=1e-6)


def test_queries_by_auto_are_those_of_retrieval_and_bits_are_of_the_teachers_width(encoder: Encoder) -> None:
    found = encoder.encode(TEXTS, task=["retrieval"] * 3, role="query", space="teacher")
    np.testing.assert_array_equal(found, encoder.encode(TEXTS, task={"retrieval": 2}, role="query", space="teacher"))
    bits = encoder.encode(TEXTS, task="retrieval", role="query", space="teacher", precision="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(found > 0, axis=1))


@pytest.mark.parametrize("task", ["clustering", {"retrieval": 0.5, "clustering": 0.5}])
def test_an_adapter_of_another_task_does_not_lead_to_the_teachers_documents(encoder: Encoder, task) -> None:
    with pytest.raises(ConfigError, match='goes with task="retrieval" and with the base, got clustering'):
        encoder.encode(TEXTS, task=task, space="teacher")
    with pytest.raises(ConfigError, match="got clustering"):
        encoder.fingerprint_of(task, space="teacher")


def test_what_cannot_be_projected_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="space must be one of student, teacher, got 'docs'"):
        encoder.encode(TEXTS, task="retrieval", space="docs")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='spans do not go with space="teacher"'):
        encoder.encode("a b", task="retrieval", space="teacher", spans=[(0, 1)])
    with pytest.raises(ModelError, match=r"heads for vectors of \[8, 16, 32\] dims, got 12"):
        encoder.encode(TEXTS, task="retrieval", space="teacher", dim=12)


def test_a_bundle_without_its_projection_says_so(folder: Path) -> None:
    (folder / PROJECTION).unlink()
    with pytest.raises(ModelError, match="saved without its projection"):
        load(folder).encode(TEXTS, task="retrieval", space="teacher")


def test_a_fingerprint_tells_the_spaces_the_widths_and_the_projections_apart(folder: Path, encoder: Encoder) -> None:
    prints = [
        encoder.fingerprint_of("retrieval"),
        *(encoder.fingerprint_of("retrieval", space="teacher", dim=dim) for dim in encoder.dims),
        encoder.base.fingerprint_of(None, space="teacher"),
    ]
    Projection(encoder.dims, TEACHER).save(folder / PROJECTION)
    prints.append(load(folder, device="cpu", precision="fp32").fingerprint_of("retrieval", space="teacher"))
    assert len(set(prints)) == len(prints)
    assert encoder.fingerprint_of("retrieval", space="teacher", dim=encoder.dim) == encoder.fingerprint_of(
        "auto", space="teacher"
    )


def test_an_adapter_that_was_trained_with_a_projection_of_its_own_keeps_it(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    own = Projection([8, 16, 32], TEACHER)
    folder = written(bert, tmp_path / "own", own)
    encoder = load(folder, device="cpu", precision="fp32")
    plain = encoder.encode(TEXTS, task="retrieval", role="query")
    there = encoder.encode(TEXTS, task="retrieval", role="query", space="teacher")
    np.testing.assert_allclose(there, own.lift(plain), atol=1e-6)
    based = encoder.base.encode(TEXTS, space="teacher")
    np.testing.assert_allclose(based, mapped(folder, encoder.base.encode(TEXTS)), atol=1e-6)
