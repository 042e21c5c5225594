"""Fill the sphere, so that search and one-bit vectors have room.  B, C: rows, D: dims."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit


@in_fp32
def orthogonal_spread(left: Tensor, right: Tensor, matching: Tensor | None = None) -> Tensor:
    """Global orthogonal regulariser: mean² + relu(second moment − 1/D) of the cosines of non-matching pairs.

    Points spread evenly over the sphere have mean 0 and second moment 1/D. (Zhang et al. 2017, arXiv 1708.06320)

    Args:
        left: [B, D], any norm.
        right: [C, D], any norm; may be `left` itself.
        matching: [B, C] bool, True = a matching pair, left out. None = the diagonal.

    0 where no pair is left. Raises ValueError: `matching` of another shape.
    """
    cosines = unit(left) @ unit(right).T
    if matching is None:
        matching = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    if matching.shape != cosines.shape:
        raise ValueError(f"matching must be {list(cosines.shape)}, got {list(matching.shape)}")
    # sums over a mask, not over the pairs picked by it: picking waits for the device to count them
    pairs = (~matching).sum().clamp(min=1)
    apart = cosines.masked_fill(matching, 0)
    return (apart.sum() / pairs).square() + F.relu(apart.square().sum() / pairs - 1 / left.shape[-1])


@in_fp32
def query_document_spread(
    queries: Tensor,
    documents: Tensor,
    *,
    query_groups: Tensor | None = None,
    document_groups: Tensor | None = None,
) -> Tensor:
    """Mean of the `orthogonal_spread` of queries, of documents, and of queries against documents.

    Each has moments of its own: pooled, queries that crowd together (cosines above 0) could hide behind documents that
    point away from them (below 0). EmbeddingGemma (arXiv 2509.20354) spreads within each side only; the pairs of a
    query and another query's document, the non-matching pairs of Zhang et al., are those that search compares.

    Args:
        queries: [B, D], any norm.
        documents: [C, D], any norm: row i matches query i, further rows (hard negatives) match none.
        query_groups: [B] int64; rows with equal numbers match and are left out, e.g. the hash of the text of the
            query's document. None = by row.
        document_groups: [C] int64, numbers as of the queries. Given where those are.

    Raises ValueError: one of the two groups alone, or of another length.
    """
    if (query_groups is None) != (document_groups is None):
        raise ValueError("query_groups and document_groups: expected both or neither")
    q = torch.arange(len(queries), device=queries.device) if query_groups is None else query_groups
    d = torch.arange(len(documents), device=documents.device) if document_groups is None else document_groups
    sides = [(queries, q, queries, q), (documents, d, documents, d), (queries, q, documents, d)]
    terms = [orthogonal_spread(left, right, a[:, None] == b[None, :]) for left, a, right, b in sides]
    return torch.stack(terms).mean()
