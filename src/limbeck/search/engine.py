"""What an index asks of the engine that stores and searches its points: the same of one on disk and of a cluster.

A point is a chunk of a document: its vector, its words, and a payload,

    id, digest         of the document
    chunk, chunks      its number, from 0, of so many
    start, end         characters of the document's text
    text, title        what is shown
    fields             of the document; booleans once more as words in `flags`, to be filtered by

and its own id is a UUID of the document's id and the chunk's number: a document that comes again takes its place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from limbeck.search.conditions import Check, Kind, Selection
from limbeck.search.spec import IndexSpec

VECTOR, WORDS = "dense", "words"  # names of the two vectors of a point
DOCUMENT_KEY = "id"
MOST_OVERSAMPLING = 1000
OVERSAMPLING = 15.0  # candidates by int8 or bits for each hit that float16 then puts in order: benchmarks/search.py
HNSW_M, HNSW_BUILD, HNSW_SEARCH = 16, 128, 128
RRF_K = 60  # Cormack et al. 2009
_NAMESPACE = uuid.UUID(
    "2c95ab9d-62df-409a-9552-4dbbda6de45c"
)  # of all chunks; another one would make every document a new one


class Sparse(NamedTuple):
    """Words of a text by number, and what each weighs."""

    indices: list[int]
    values: list[float]


class Point(NamedTuple):
    """A chunk, ready to be stored. vector: float32 [D]."""

    id: str
    vector: np.ndarray
    words: Sparse | None
    payload: dict[str, Any]


class Found(NamedTuple):
    """A point that a search gave, best first."""

    score: float
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """A search: by vector, by words, or by both, whose ranks are then fused."""

    vector: np.ndarray | None  # float32 [D]
    words: Sparse | None
    limit: int
    selection: Selection = Selection()
    exact: bool = False  # compare with every vector, at float16
    oversampling: float = OVERSAMPLING  # candidates by int8 or bits for each hit


ALL = Selection()


class Engine(Protocol):
    """Stores points durably: when a call that writes returns, what it wrote outlives kill −9. Raises StoreError."""

    @property
    def spec(self) -> IndexSpec:
        """What the index says of itself."""
        ...

    def write_spec(self, spec: IndexSpec) -> None:
        """Say something else."""
        ...

    def add_fields(self, kinds: Mapping[str, Kind]) -> None:
        """Make payload keys fast to filter by."""
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; those with the same id are replaced."""
        ...

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points, those that are there."""
        ...

    def delete(self, selection: Selection) -> None:
        """Delete all points of a selection."""
        ...

    def payloads(self, ids: Sequence[str], keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """These keys of the payloads of points that are there, by id."""
        ...

    def scroll(self, keys: Sequence[str], selection: Selection) -> Iterator[Mapping[str, Any]]:
        """These keys of all payloads of a selection."""
        ...

    def search(self, ask: Ask) -> list[Found]:
        """The best points, best first."""
        ...

    def count(self, selection: Selection) -> int:
        """Points of a selection."""
        ...

    def optimize(self) -> None:
        """Build what makes searches fast and small, over all points; they can be searched before."""
        ...

    def details(self) -> dict[str, Any]:
        """Further facts for people."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def point_id(document: str, chunk: int) -> str:
    """The id of a point."""
    return str(uuid.uuid5(_NAMESPACE, f"{chunk}\0{document}"))


def first_chunks(selection: Selection = ALL) -> Selection:
    """The points of a selection that stand for a document each."""
    return Selection((*selection.must, (Check("chunk", any=(0,)),)), selection.must_not)


def of_documents(ids: Sequence[str]) -> Selection:
    """The points of these documents."""
    return Selection(must=((Check(DOCUMENT_KEY, any=tuple(ids)),),))


def candidates(limit: int) -> int:
    """Points to take from each of two rankings that are fused into `limit`."""
    return max(50, 4 * limit)


class _Hit(Protocol):
    @property
    def id(self) -> Any: ...

    @property
    def score(self) -> float: ...


HitT = TypeVar("HitT", bound=_Hit)


def best(hits: Iterable[HitT], limit: int) -> list[HitT]:
    """The first hits, best first, equal scores by id: Qdrant's own order of these differs from process to process."""
    return sorted(hits, key=lambda hit: (-hit.score, str(hit.id)))[:limit]
