"""Texts through one student: tokenised, cut into forward passes, pooled.  N: texts, S: spans, T: tokens, D: dims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batching import micro_batches
from limbeck.model import rope
from limbeck.model.packing import packs
from limbeck.model.spans import Span, token_ranges
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import OnLong, Tokenizer, pad

Forward: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(ids [B, T], mask [B, T], both int64) → vectors [B, H] of any norm: a `StudentModel`, or a compiled stand-in."""

# Texts sorted by length at a time: enough for narrow buckets, few enough that most are tokenised beside a forward pass.
_CHUNK, _CHUNK_GPU = 4_096, 16_384
_ALONE = 4_096  # tokens of a text that is never padded: the mask that padding needs is as large as the length squared


@dataclass(frozen=True)
class Settings:
    """How texts are encoded."""

    prefix: str
    max_tokens: int
    on_long: OnLong
    dim: int
    batch_tokens: int  # padded, of one pass
    progress: Callable[[int], None] | None  # called with the number of texts done since the last call


def unit_vectors(
    student: StudentModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]] | None,
    settings: Settings,
    device: torch.device,
    forward: Forward | None = None,
) -> tuple[np.ndarray, int]:
    """Unit vectors of texts, or of spans of them.

    `forward` stands in for the student where whole texts are wanted; None = the student itself.

    Returns (fp32 [N, D], or with spans [ΣS, D], text after text; the number of texts that were cut). Raises TextError.
    """
    bounds = row_bounds(len(texts), spans)
    vectors, truncated = np.empty((bounds[-1], settings.dim), dtype=np.float32), 0
    for start, chunk in _chunks(tokenizer, texts, spans, settings, _alone(student), device):
        truncated += chunk.cut
        found: list[tuple[np.ndarray, Tensor]] = []
        for part in chunk.parts:
            rows = [chunk.rows[i] for i in part]
            asked = None if chunk.ranges is None else [chunk.ranges[i] for i in part]
            pooled = _pooled(student, forward, rows, asked, tokenizer.pad_id, device)[:, : settings.dim]
            found.append((rows_of(bounds, start + part), torch.nn.functional.normalize(pooled, dim=-1)))
            if settings.progress:
                settings.progress(len(part))
        for places, unit in found:  # now, not pass by pass: a GPU would idle at each while its vectors are fetched
            vectors[places] = unit.cpu().numpy()
    return vectors, truncated


def pooled_rows(
    student: StudentModel,
    rows: Sequence[np.ndarray],
    ranges: Sequence[np.ndarray] | None,
    *,
    pad_id: int,
    budget: int,
    device: torch.device,
    forward: Forward | None = None,
) -> list[np.ndarray]:
    """Vectors of texts that are tokenised already, or of ranges of their tokens, of any norm.

    Args:
        student: encodes.
        rows: token ids of N texts, each [T] int32, prefix and closing token included.
        ranges: of each text, [S, 2] as `token_ranges` gives them; None = the whole text.
        pad_id: of the tokenizer.
        budget: padded tokens of one forward pass.
        device: of the student.
        forward: stands in for the student where whole texts are wanted.

    Returns N arrays in the order of the texts, each fp32 [S, H]; [1, H] for whole texts.
    """
    found: list[tuple[np.ndarray, Tensor]] = []
    for part in _cuts(np.array([len(row) for row in rows]), budget, _alone(student)):
        asked = None if ranges is None else [ranges[i] for i in part]
        found.append((part, _pooled(student, forward, [rows[i] for i in part], asked, pad_id, device)))
    vectors: list[np.ndarray] = [np.empty(0)] * len(rows)
    for part, pooled in found:
        bounds = row_bounds(len(part), None if ranges is None else [ranges[i] for i in part])
        for i, own in zip(part, by_text(pooled.float().cpu().numpy(), bounds), strict=True):
            vectors[i] = own
    return vectors


def _alone(student: StudentModel) -> int:
    """Tokens beyond which a text has a pass to itself.

    One pass has one set of frequencies: under dynamic scaling a longer text beside it would change a text's vector.
    """
    known = rope.stretched_beyond(student.backbone)
    return _ALONE if known is None else min(_ALONE, known // 8 * 8)  # what `pad` would not take beyond it


@dataclass(frozen=True)
class _Chunk:
    """Texts that are ready for forward passes: tokens, ranges that spans are, passes, and how many texts were cut."""

    rows: list[np.ndarray]
    ranges: list[np.ndarray] | None
    parts: list[np.ndarray]
    cut: int


def _chunks(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]] | None,
    settings: Settings,
    alone: int,
    device: torch.device,
) -> Iterator[tuple[int, _Chunk]]:
    """Chunks and where they start; while one is computed with, a thread prepares the next. Raises TextError."""
    size = _CHUNK if device.type == "cpu" else _CHUNK_GPU

    def prepared(start: int) -> _Chunk:
        chunk = slice(start, start + size)
        rows, ranges, cut = _tokens(tokenizer, texts[chunk], None if spans is None else spans[chunk], settings, start)
        parts = list(_cuts(np.array([len(row) for row in rows]), settings.batch_tokens, alone))
        return _Chunk(rows, ranges, parts, cut)

    starts = range(0, len(texts), size)
    if len(starts) <= 1:  # a thread would cost more than it spares
        yield from ((start, prepared(start)) for start in starts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="limbeck-tokens") as beside:
        coming = beside.submit(prepared, 0)
        for start in starts:
            ready = coming.result()
            if start + size < len(texts):
                coming = beside.submit(prepared, start + size)
            yield start, ready


def row_bounds(texts: int, spans: Sequence[Sequence[Span]] | None) -> np.ndarray:
    """Where the vectors of each text begin, and where the last end: [N + 1]. A text has one, or one for each span."""
    return np.arange(texts + 1) if spans is None else np.cumsum([0, *map(len, spans)])


def rows_of(bounds: np.ndarray, texts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The rows that hold the vectors of some texts, at least one."""
    return np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in texts])


def by_text(found: Any, bounds: np.ndarray) -> list[Any]:
    """Vectors, or parts of them such as codes and scales, as one array (one tuple of arrays) for each text."""
    return [
        tuple(part[begin:end] for part in found) if isinstance(found, tuple) else found[begin:end]
        for begin, end in pairwise(bounds.tolist())
    ]


def _tokens(
    tokenizer: Tokenizer, texts: Sequence[str], spans: Sequence[Sequence[Span]] | None, settings: Settings, first: int
) -> tuple[list[np.ndarray], list[np.ndarray] | None, int]:
    """Token ids of each text, the ranges of them that its spans are, and the number of texts that were cut."""
    limits: dict[str, Any] = {"max_tokens": settings.max_tokens, "on_long": settings.on_long}
    if spans is None:
        rows, cut = tokenizer.ids(texts, prefix=settings.prefix, first=first, **limits)
        return rows, None, cut
    placed = tokenizer.placed(texts, prefix=settings.prefix, first=first, **limits)
    ranges = [
        token_ranges(of_text, asked, index=i, max_tokens=settings.max_tokens)
        for i, (of_text, asked) in enumerate(zip(placed, spans, strict=True), first)
    ]
    return [p.ids for p in placed], ranges, sum(p.read < len(t) for p, t in zip(placed, texts, strict=True))


def _cuts(lengths: np.ndarray, budget: int, alone: int) -> Iterator[np.ndarray]:
    """Forward passes; a text of more than `alone` tokens has one to itself."""
    for part in micro_batches(lengths, budget):
        yield from [part] if lengths[part].max() <= alone else part[:, None]


def _pooled(
    student: StudentModel,
    forward: Forward | None,
    rows: list[np.ndarray],
    ranges: list[np.ndarray] | None,
    pad_id: int,
    device: torch.device,
) -> Tensor:
    """One vector for each text, or for each range of its tokens, text after text: [n, H]."""
    if packs(student.backbone, device) and (forward is None or ranges is not None):
        return student.packed(rows, ranges, device)
    ids, mask = (torch.from_numpy(array).to(device) for array in pad(rows, pad_id))
    if ranges is None:
        return (forward or student)(ids, mask)
    states = student.token_states(input_ids=ids, attention_mask=mask)
    return torch.cat([student.pool_ranges(*of_text) for of_text in zip(states, ranges, strict=True)])
