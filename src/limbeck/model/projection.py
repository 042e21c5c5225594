"""Student → teacher space: one affine head for each Matryoshka prefix.  N: rows, d: prefix width, D: teacher dims.

Each prefix has a head of its own rather than a slice of the widest: a slice is the best map of the first d dims only
if they are uncorrelated with the rest, so it would tie what the first 32 dims may hold to a head that also sees the
other 992. With prefixes that double, the heads of all together hold about twice the weights of the widest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.errors import ConfigError, ModelError

Space: TypeAlias = Literal["student", "teacher"]
"""Where vectors lie: in the student's own space, or, projected, in the teacher's."""


def check_space(space: str, spans: Any = None) -> bool:
    """Whether vectors are to be projected. Raises ConfigError: an unknown space, or spans in the teacher's."""
    if space not in get_args(Space):
        raise ConfigError(f"space must be one of {', '.join(get_args(Space))}, got {space!r}")
    if space == "teacher" and spans is not None:
        raise ConfigError(
            'spans do not go with space="teacher": the projection was trained on vectors of whole texts; encode the '
            "texts of the spans"
        )
    return space == "teacher"


class Projection(nn.Module):
    """`W z + b` into the teacher's space, `W` and `b` chosen by the width of z (2602.15547, stage 1)."""

    def __init__(self, dims: Sequence[int], teacher_dim: int) -> None:
        """One head for each of `dims`, drawn from torch's global generator."""
        super().__init__()
        self.dims, self.teacher_dim = list(dims), teacher_dim
        self.heads = nn.ModuleDict({str(d): nn.Linear(d, teacher_dim) for d in dims})

    def forward(self, vectors: Tensor) -> Tensor:
        """Map unit vectors [N, d], d one of the prefixes, to the teacher's space [N, D] (any norm), in fp32."""
        head = self.head(vectors.shape[-1])
        with torch.autocast(vectors.device.type, enabled=False):
            return head(vectors.float())

    def head(self, dim: int) -> nn.Linear:
        """The map of vectors of d = `dim`. Raises ModelError: there is none."""
        if dim not in self.dims:
            raise ModelError(
                f"the projection has heads for vectors of {self.dims} dims, got {dim}: ask for one of them"
            )
        return self.heads[str(dim)]  # type: ignore[return-value]

    @torch.no_grad()
    def lift(self, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [N, d], d one of the prefixes → unit vectors float32 [N, D] in the teacher's space."""
        device = next(self.parameters()).device
        return F.normalize(self(torch.from_numpy(vectors).to(device)), dim=-1).cpu().numpy()

    def meet(self, vectors: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What distillation compares: projected vectors [N, D], and the teacher's as they are."""
        return self(vectors), teacher

    @torch.no_grad()
    def rotate(self, student: Tensor, teacher: Tensor, *, teachers: Sequence[int] | None = None) -> None:
        """Set every head to the rotation that brings a sample closest to the teacher (orthogonal Procrustes), b = 0.

        A rotation keeps all angles, so what training then teaches the projected vector it teaches the student's own
        vector as well, and that is the one that is searched with. The least-squares map would start with a lower loss
        and leave the student's angles as they are: it corrects them on the way up.

        Args:
            student: [N, d_max], any norm. N of a few times d_max is enough.
            teacher: [N, D], any norm.
            teachers: dims of each teacher, where D is those of several side by side: each has a rotation of its own.
        """
        blocks = teacher.double().split(list(teachers or [self.teacher_dim]), dim=-1)
        targets = [F.normalize(block, dim=-1) for block in blocks]
        for d in self.dims:
            inputs = F.normalize(student[:, :d].double(), dim=-1)
            # T' z = U S V', with k = min(D, d): [D, k], [k], [k, d]; the rotation is U V'
            found = [torch.linalg.svd(target.T @ inputs, full_matrices=False) for target in targets]
            head = self.heads[str(d)]
            head.weight.copy_(torch.cat([left @ right for left, _, right in found]))  # type: ignore[union-attr]
            head.bias.zero_()  # type: ignore[union-attr]

    @torch.no_grad()
    def first(self, teacher_dim: int) -> Projection:
        """A copy into the space of the first teacher alone, of `teacher_dim` dims."""
        cut = Projection(self.dims, teacher_dim)
        cut.load_state_dict({name: tensor[:teacher_dim] for name, tensor in self.state_dict().items()})
        return cut

    def save(self, path: Path) -> None:
        """Write the heads as safetensors."""
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, str(path))

    @classmethod
    def load(cls, path: Path) -> Projection:
        """Read heads written by `save`. Raises ModelError when the file is not one."""
        try:
            tensors = load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the projection {path} cannot be read: {error}") from error
        widths = {k.split(".")[1]: v for k, v in tensors.items() if k.startswith("heads.") and k.endswith(".weight")}
        if not widths:
            raise ModelError(f"{path} holds no projection heads: it names {sorted(tensors)[:3]}")
        projection = cls(sorted(int(d) for d in widths), next(iter(widths.values())).shape[0])
        projection.load_state_dict(tensors)
        return projection
