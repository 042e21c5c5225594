"""Pull matching pairs together, push the rest apart.

B: pairs, N: hard negatives of a pair, C = B + B·N: candidates of a query (all documents, then all negatives), D: dims.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit

_ROUNDING = 1e-6  # two cosines of the same two texts may differ by this


@in_fp32
def info_nce(
    queries: Tensor,
    documents: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float,
    excluded: Tensor | None = None,
    both_directions: bool = False,
) -> Tensor:
    """Mean cross-entropy of finding each query's document among all candidates.

    (van den Oord et al. 2018, arXiv 1807.03748.)

    Args:
        queries: [B, D], any norm.
        documents: [B, D], any norm; row i matches query i.
        negatives: [B, N, D] hard negatives; those of every row are candidates of every query.
        temperature: cosines are divided by it.
        excluded: [B, C] bool, True = not a negative of this query (its match in all but name). A query's own document
            is never excluded, whatever stands there. Exclude the whole column of a negative that is only padding.
        both_directions: the mean of query → documents and document → queries (hard negatives only in the first).

    0 for a query without negatives. Raises ValueError: no pairs, shapes that do not fit, or a temperature that is not
    positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    logits = candidate_cosines(queries, documents, negatives) / temperature
    if not logits.numel():
        raise ValueError("InfoNCE of no pairs: expected at least one query and its document")
    if excluded is not None:
        if excluded.shape != logits.shape:
            raise ValueError(f"excluded must be {list(logits.shape)} (B × C), got {list(excluded.shape)}")
        # -inf, not 0: a zero would beat a negative similarity
        logits = logits.masked_fill(excluded & ~own_documents(logits), float("-inf"))
    labels = torch.arange(len(logits), device=logits.device)
    forward = F.cross_entropy(logits, labels)
    if not both_directions:
        return forward
    return (forward + F.cross_entropy(logits[:, : len(logits)].T, labels)) / 2


@in_fp32
def candidate_cosines(queries: Tensor, documents: Tensor, negatives: Tensor | None = None) -> Tensor:
    """Cosine of each query with each candidate: [B, C], column i being the document of query i.

    queries, documents: [B, D]; negatives: [B, N, D]; any norm. Raises ValueError: shapes that do not fit.
    """
    if queries.shape != documents.shape or queries.ndim != 2:
        raise ValueError(f"queries {list(queries.shape)} and documents {list(documents.shape)} must be equal, [B, D]")
    candidates = unit(documents)
    if negatives is not None:
        pairs, dims = queries.shape
        if negatives.ndim != 3 or len(negatives) != pairs or negatives.shape[-1] != dims:
            raise ValueError(f"negatives must be [{pairs}, N, {dims}] (B, N, D), got {list(negatives.shape)}")
        candidates = torch.cat([candidates, unit(negatives).flatten(0, 1)])
    return unit(queries) @ candidates.T


@torch.no_grad()
def likely_matches(
    teacher_queries: Tensor, teacher_documents: Tensor, teacher_negatives: Tensor | None = None, *, margin: float = 0.0
) -> Tensor:
    """Candidates that the teacher finds at least as close to a query as its own document, less a margin: [B, C] bool.

    To be passed to `info_nce` as `excluded`. Shapes as there, in the teacher's dims; margin in cosine: the larger, the
    more is excluded.
    """
    cosines = candidate_cosines(teacher_queries, teacher_documents, teacher_negatives)
    own = cosines.diagonal()[:, None]
    return (cosines >= own - margin - _ROUNDING) & ~own_documents(cosines)


def same_text(documents: Tensor, candidates: Tensor) -> Tensor:
    """Candidates that are the same text as a query's own document: [B, C] bool.

    documents: [B] int64 text hashes; candidates: [C] int64, the hashes of all documents and then of all negatives.
    """
    found = documents[:, None] == candidates[None, :]
    return found & ~own_documents(found)


def same_label(labels: Tensor, candidates: Tensor) -> Tensor:
    """Candidates of a query's own label: [B, C] bool. labels: [B]; candidates: [C], int64."""
    return same_text(labels, candidates)


def own_documents(scores: Tensor) -> Tensor:
    """Where each query's own document stands in a [B, C] table: bool, True at column i of row i."""
    return torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
