"""Which pairs of a corpus are kept, by their texts alone: one document a query, and samples that stay the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from limbeck.data.examples import Pair

# A query shared by more documents than this is boilerplate ("Initialize self."), and none of them is kept.
MAX_NAMESAKES = 8

T = TypeVar("T")


def one_document_a_query(pairs: Sequence[Pair], key: Callable[[str], str], skipped: Counter[str]) -> list[Pair]:
    """Of the pairs whose queries have the same `key`, the one with the shortest id; none of more than MAX_NAMESAKES.

    Retrieval is well posed only where a query names one document of the corpus: with two, an answer that is right
    would count as wrong. Keeps the order; counts what went in `skipped`.
    """
    groups: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(key(pair.query), []).append(i)
    kept: list[int] = []
    for same in groups.values():
        if len(same) > MAX_NAMESAKES:
            skipped["query is boilerplate"] += len(same)
            continue
        kept.append(min(same, key=lambda i: (pairs[i].id.count("."), len(pairs[i].id), pairs[i].id)))
        skipped["query shared with another document"] += len(same) - 1
    return [pairs[i] for i in sorted(kept)]


def stable_sample(items: Sequence[T], size: int | None, text: Callable[[T], str]) -> list[T]:
    """At most `size` of the items, chosen by the hash of their text, in their order; None = all."""
    if size is None or len(items) <= size:
        return list(items)
    chosen = sorted(range(len(items)), key=lambda i: (stable_hash(text(items[i])), i))[:size]
    return [items[i] for i in sorted(chosen)]


def stable_hash(text: str) -> int:
    """64 bits that depend on the text alone: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
