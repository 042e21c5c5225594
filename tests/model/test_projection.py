"""The map into the teacher's space: the closest rotation where it is fitted, in fp32, one head a width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from limbeck.errors import ModelError
from limbeck.model.projection import Projection

DIMS, TEACHER = [4, 8, 16], 12


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(300, 16, generator=generator) + 0.5, torch.randn(300, TEACHER, generator=generator) * 3


def cosine(student: torch.Tensor, teacher: torch.Tensor) -> float:
    return torch.cosine_similarity(student, teacher, dim=-1).mean().item()


def test_a_rotation_is_the_solution_of_orthogonal_procrustes(sample) -> None:
    from scipy.linalg import orthogonal_procrustes

    student = sample[0]
    teacher = torch.randn(300, 16, generator=torch.Generator().manual_seed(2))
    projection = Projection([16], 16)
    projection.rotate(student, teacher)
    unit = (F.normalize(t.double(), dim=-1).numpy() for t in (student, teacher))
    expected, _ = orthogonal_procrustes(*unit)
    np.testing.assert_allclose(projection.heads["16"].weight.detach().numpy(), expected.T, atol=1e-5)


@pytest.mark.parametrize("dim", [4, 8])
def test_a_rotation_keeps_all_angles_and_adds_nothing(sample, dim: int) -> None:
    projection = Projection(DIMS, TEACHER)
    projection.rotate(*sample)
    vectors = torch.randn(20, dim, generator=torch.Generator().manual_seed(3))
    up = projection(vectors).detach()
    torch.testing.assert_close(up @ up.T, vectors @ vectors.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", DIMS)
def test_no_other_rotation_brings_the_sample_closer_to_the_teacher(sample, dim: int) -> None:
    student, teacher = F.normalize(sample[0][:, :dim], dim=-1), sample[1]
    projection = Projection(DIMS, TEACHER)
    projection.rotate(*sample)
    weight = projection.heads[str(dim)].weight.detach()
    targets = F.normalize(teacher, dim=-1)
    best = ((student @ weight.T) * targets).sum()
    for seed in range(50):
        step = torch.randn(TEACHER, TEACHER, generator=torch.Generator().manual_seed(seed)) * (
            0.5 if seed % 2 else 0.01
        )
        near = torch.linalg.matrix_exp(step - step.T) @ weight
        assert ((student @ near.T) * targets).sum() <= best + 1e-4


def test_a_student_that_is_a_rotated_teacher_is_turned_back(sample) -> None:
    teacher = sample[1]
    turn = torch.linalg.qr(torch.randn(16, TEACHER, generator=torch.Generator().manual_seed(1))).Q
    projection = Projection([16], TEACHER)
    projection.rotate(teacher @ turn.T, teacher)
    assert cosine(projection(teacher @ turn.T), teacher) == pytest.approx(1, abs=1e-6)


def test_each_width_is_fitted_by_itself(sample) -> None:
    together, alone = Projection(DIMS, TEACHER), Projection([4], TEACHER)
    together.rotate(*sample)
    alone.rotate(sample[0][:, :4], sample[1])
    torch.testing.assert_close(together.heads["4"].weight, alone.heads["4"].weight)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_sample_that_is_too_small_or_all_the_same_gives_a_rotation_all_the_same(rows: int) -> None:
    projection = Projection(DIMS, TEACHER)
    projection.rotate(torch.ones(rows, 16), torch.ones(rows, TEACHER))
    for dim in (4, 8):
        weight = projection.heads[str(dim)].weight.detach()
        torch.testing.assert_close(weight.T @ weight, torch.eye(dim), atol=1e-5, rtol=0)
    assert cosine(projection(F.normalize(torch.ones(1, 8), dim=-1)), torch.ones(1, TEACHER)) == pytest.approx(
        1, abs=1e-5
    )


def test_the_width_of_the_vectors_chooses_the_head() -> None:
    projection = Projection(DIMS, TEACHER)
    vectors = torch.randn(2, 16)
    for dim in DIMS:
        head = projection.heads[str(dim)]
        torch.testing.assert_close(projection(vectors[:, :dim]), F.linear(vectors[:, :dim], head.weight, head.bias))


def test_a_width_without_a_head_is_an_error_that_lists_the_heads() -> None:
    with pytest.raises(ModelError, match=r"heads for vectors of \[4, 8, 16\] dims, got 5"):
        Projection(DIMS, TEACHER)(torch.ones(1, 5))


def test_it_computes_in_fp32_under_autocast() -> None:
    projection, vectors = Projection(DIMS, TEACHER), torch.randn(3, 16)
    plain = projection(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = projection(vectors)
        from_bf16 = projection(vectors.bfloat16())
    assert torch.equal(mixed, plain)
    assert from_bf16.dtype == torch.float32


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    projection = Projection(DIMS, TEACHER)
    projection.save(tmp_path / "p.safetensors")
    loaded = Projection.load(tmp_path / "p.safetensors")
    assert (loaded.dims, loaded.teacher_dim) == (DIMS, TEACHER)
    vectors = torch.randn(3, 8)
    assert torch.equal(loaded(vectors), projection(vectors))


def test_a_file_that_is_no_projection_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"other": torch.ones(1)}, str(tmp_path / "p.safetensors"))
    with pytest.raises(ModelError, match=r"p.safetensors holds no projection heads: it names \['other'\]"):
        Projection.load(tmp_path / "p.safetensors")


@pytest.mark.parametrize("content", [b"", b"junk" * 9])
def test_a_torn_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"p.safetensors cannot be read"):
        Projection.load(tmp_path / "p.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"p.safetensors cannot be read"):
        Projection.load(tmp_path / "p.safetensors")
