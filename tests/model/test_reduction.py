"""The teacher's vectors mapped down to the student's widths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.model.projection import Projection
from limbeck.model.reduction import Meeting, Reduction

TEACHER = 12


@pytest.fixture
def teacher() -> Tensor:
    """200 vectors that use some directions more than others."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(200, TEACHER, generator=rng) * torch.linspace(3, 0.2, TEACHER)


def fitted(teacher: Tensor, student: Tensor | None = None) -> Reduction:
    reduction = Reduction([4, 8], TEACHER, trained=False)
    reduction.to_components(teacher, student)
    return reduction


def test_components_keep_as_much_of_the_scalar_products_as_any_map_to_so_few_dims(teacher: Tensor) -> None:
    rows = F.normalize(teacher, dim=-1)
    products = rows @ rows.T
    values = torch.linalg.eigvalsh(products).flip(0)
    for width in (4, 8):
        kept = fitted(teacher)(teacher, width)
        # Eckart & Young: the best approximation of rank k leaves the other eigenvalues
        left = torch.linalg.norm(products - kept @ kept.T)
        assert left == pytest.approx(torch.linalg.norm(values[width:TEACHER]).item(), rel=1e-3)


def test_a_prefix_of_the_wide_map_is_the_narrow_one_turned_or_not(teacher: Tensor) -> None:
    for student in (None, torch.randn(200, 8, generator=torch.Generator().manual_seed(1))):
        reduction = fitted(teacher, student)
        torch.testing.assert_close(reduction(teacher, 8)[:, :4], reduction(teacher, 4))


def test_turning_changes_no_scalar_product_and_brings_the_sample_nearer(teacher: Tensor) -> None:
    plain = fitted(teacher)(teacher, 8)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2))).Q
    student = torch.cat([plain[:, :4] @ turn, plain[:, 4:]], dim=1)
    turned = fitted(teacher, student)(teacher, 8)
    torch.testing.assert_close(turned @ turned.T, plain @ plain.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[:, :4], student[:, :4], atol=1e-4, rtol=0)


def test_too_small_a_sample_is_refused(teacher: Tensor) -> None:
    with pytest.raises(ValueError, match="5 vectors have no 8 principal components"):
        fitted(teacher[:5])


def test_the_cut_is_the_first_dims_of_the_unit_vector(teacher: Tensor) -> None:
    reduction = Reduction([4], TEACHER, trained=False)
    reduction.to_cut()
    torch.testing.assert_close(reduction(teacher, 4), F.normalize(teacher, dim=-1)[:, :4])


def test_a_fixed_map_is_saved_with_a_checkpoint_and_never_trained() -> None:
    assert not list(Reduction([4], TEACHER, trained=False).parameters())
    assert set(Reduction([4], TEACHER, trained=False).state_dict()) == {"heads.4.weight", "heads.4.bias"}
    assert len(list(Reduction([4], TEACHER, trained=True).parameters())) == 2


def test_narrow_widths_meet_in_the_students_space_and_wide_ones_in_the_teachers(teacher: Tensor) -> None:
    meeting = Meeting(Projection([8], TEACHER), Reduction([4], TEACHER, trained=True))
    for width, space in ((4, 4), (8, TEACHER)):
        vectors = torch.randn(200, width)
        one, other = meeting.meet(vectors, teacher)
        assert one.shape == other.shape == (200, space)
    assert meeting.meet(torch.ones(1, 8), teacher)[1] is teacher
