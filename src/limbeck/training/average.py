"""Mean of two checkpoints of one run (2602.15547, stage 2; Wortsman et al. 2022, arXiv 2203.05482).

Of a LoRA, A and B are averaged as they are, not their product: along one run from one start they stay aligned, and the
result keeps its rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from limbeck.errors import TrainingError


def averaged(final: Mapping[str, Tensor], earlier: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """(1 − weight) · final + weight · earlier, in fp32. Raises TrainingError: other names or shapes."""
    differing = set(final) ^ set(earlier) or {n for n in final if final[n].shape != earlier[n].shape}
    if differing:
        raise TrainingError(
            f"two checkpoints of one run must hold the same weights, they differ in {sorted(differing)[:3]}"
        )
    return {name: (1 - weight) * tensor.float() + weight * earlier[name].float() for name, tensor in final.items()}
