"""Teacher → student space, the other way about: what projecting the student up is compared with.

N: rows, d: prefix width, D: teacher dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.model.projection import Projection


class Reduction(nn.Module):
    """`A t + c` of the teacher's vector t, `A` and `c` chosen by the width of the student's."""

    def __init__(self, dims: Sequence[int], teacher_dim: int, *, trained: bool) -> None:
        """One map for each of `dims`, drawn from torch's global generator; unless `trained`, they are buffers."""
        super().__init__()
        self.dims, self.teacher_dim, self.trained = list(dims), teacher_dim, trained
        self.heads = nn.ModuleDict({str(d): nn.Linear(teacher_dim, d) for d in dims})
        for head in () if trained else self.heads.values():
            for name, fixed in [(n, p.detach()) for n, p in head.named_parameters()]:
                delattr(head, name)
                head.register_buffer(name, fixed)  # saved with a checkpoint, which leaves out what is merely frozen

    def forward(self, teacher: Tensor, width: int) -> Tensor:
        """Map teacher vectors [N, D], any norm, to the student's space: [N, d] (any norm), in fp32."""
        with torch.autocast(teacher.device.type, enabled=False):
            return self.heads[str(width)](F.normalize(teacher.float(), dim=-1))

    @torch.no_grad()
    def to_components(self, teacher: Tensor, student: Tensor | None = None) -> None:
        """Set the map of each width to the first principal components of a sample, which is not centred.

        Not centred, since cosines are kept and they are measured from the origin: no d directions keep more of the
        sample's scalar products. With the student's vectors, the components are turned to where these already are
        (orthogonal Procrustes), which changes no scalar product; those that one width has beyond the one before are
        turned among themselves, so that a prefix is the same in every width.

        Args:
            teacher: [N, D], any norm.
            student: [N, H], any norm; H at least the widest of `dims`.

        Raises ValueError: fewer directions in the sample than dims.
        """
        rows = F.normalize(teacher.double(), dim=-1)
        components = torch.linalg.svd(rows, full_matrices=False).Vh  # [min(N, D), D]
        if len(components) < max(self.dims):
            raise ValueError(f"{len(rows)} vectors have no {max(self.dims)} principal components: take a larger sample")
        if student is not None:
            theirs = F.normalize(student.double(), dim=-1)
            for begin, end in pairwise([0, *sorted(self.dims)]):
                block = components[begin:end]
                left, _, right = torch.linalg.svd((rows @ block.T).T @ theirs[:, begin:end])
                components[begin:end] = (left @ right).T @ block
        self._set({d: components[:d] for d in self.dims})

    @torch.no_grad()
    def to_cut(self) -> None:
        """Set the map of each width to the first dims of the teacher's vector."""
        self._set({d: torch.eye(d, self.teacher_dim) for d in self.dims})

    def _set(self, weights: dict[int, Tensor]) -> None:
        for d, weight in weights.items():
            head = self.heads[str(d)]
            head.weight.copy_(weight)  # type: ignore[union-attr]
            head.bias.zero_()  # type: ignore[union-attr]


class Meeting(nn.Module):
    """Where student and teacher are compared: widths of `down` in the student's space, the others in the teacher's."""

    def __init__(self, up: Projection | None, down: Reduction) -> None:
        """Both together have a head for each width of the student."""
        super().__init__()
        self.up, self.down = up, down

    def meet(self, vectors: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the student [N, d] and the teacher's [N, D], brought into one space."""
        width = vectors.shape[-1]
        if width in self.down.dims:
            return vectors, self.down(teacher, width)
        assert self.up is not None
        return self.up.meet(vectors, teacher)
