"""An index in a folder of this machine: qdrant-edge, in this process.

    limbeck-index.json    what the index says of itself (`IndexSpec`)
    shard/                points, as qdrant-edge keeps them

What the engine leaves to its caller is done here: writes are flushed before they are acknowledged (`update` alone syncs
nothing), room on the disk is looked for first (a write to a full one would end the process by a signal), and building
the graph goes on in a process of its own (it holds the interpreter's lock, and may be killed).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from limbeck.errors import ConfigError, DataError, StoreError
from limbeck.files import read_json, write_json
from limbeck.folders import full_disk_named, replaced_folder
from limbeck.machine import return_freed_memory
from limbeck.search import engine
from limbeck.search.conditions import Check, Kind, Selection
from limbeck.search.engine import Ask, Found, Point, Sparse
from limbeck.search.spec import IndexSpec

MANIFEST, SHARD = "limbeck-index.json", "shard"

_WAIT = 10.0  # seconds that another process may hold the index before that is an error
_SPARE = 64 * 2**20  # bytes that must stay free: the engine's log grows in steps of 32 MiB
_SCROLL = 1_000
_GRAPH_KB = 10_000  # of vectors: fewer are compared one by one, which is as fast
_KINDS = {
    "text": edge.PayloadSchemaType.Keyword,
    "boolean": edge.PayloadSchemaType.Keyword,  # as words
    "integer": edge.PayloadSchemaType.Integer,
    "number": edge.PayloadSchemaType.Float,
}


class EdgeEngine:
    """The engine of an index in a folder. One process has it open at a time, readers too."""

    def __init__(self, folder: Path, *, wait: float = _WAIT) -> None:
        """Open it.

        Raises StoreError: there is none, it is torn or of a newer limbeck, or another process has had it open for
        `wait` seconds.
        """
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            raise StoreError(
                f"{folder} is no index, it has no {MANIFEST}: make one with limbeck index MODEL CORPUS --out {folder}"
            )
        try:
            self._spec = IndexSpec.read(read_json(folder / MANIFEST), str(folder))
        except ValueError as error:
            raise StoreError(str(error)) from None
        self._shard = _loaded(folder, wait)

    @classmethod
    def create(cls, folder: Path, spec: IndexSpec) -> EdgeEngine:
        """Make an empty index, whole or not at all. Raises ConfigError where something is, DataError: a full disk."""
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise ConfigError(f"{folder} is there, and is no index: name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(folder.parent, _SPARE)
        with full_disk_named(folder), replaced_folder(folder) as temporary:
            (temporary / SHARD).mkdir()
            with _explained(folder):
                shard = edge.EdgeShard.create(str(temporary / SHARD), _config(spec))
                shard.update(edge.UpdateOperation.create_field_index(engine.DOCUMENT_KEY, _KINDS["text"]))
                shard.flush()
                shard.close()
            write_json(temporary / MANIFEST, spec.model_dump(mode="json"))
        return cls(folder)

    @property
    def spec(self) -> IndexSpec:
        """What the index says of itself."""
        return self._spec

    def write_spec(self, spec: IndexSpec) -> None:
        """Say something else."""
        with full_disk_named(self.folder / MANIFEST):
            write_json(self.folder / MANIFEST, spec.model_dump(mode="json"))
        self._spec = spec

    def add_fields(self, kinds: Mapping[str, Kind]) -> None:
        """Make payload keys fast to filter by."""
        self._write(*(edge.UpdateOperation.create_field_index(key, _KINDS[kind]) for key, kind in kinds.items()))

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; those with the same id are replaced."""
        size = sum(4 * len(point.vector) + 4 * len(str(point.payload)) for point in points)
        _check_room(self.folder, _SPARE + 3 * size)  # log, segment, and what else the engine makes of it
        self._write(edge.UpdateOperation.upsert_points([_point(point) for point in points]))

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points, those that are there."""
        self._write(edge.UpdateOperation.delete_points(list(ids)))

    def delete(self, selection: Selection) -> None:
        """Delete all points of a selection."""
        self._write(edge.UpdateOperation.delete_points_by_filter(_filter(selection) or edge.Filter()))

    def payloads(self, ids: Sequence[str], keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """These keys of the payloads of points that are there, by id."""
        with _explained(self.folder):
            found = self._shard.retrieve(list(ids), with_payload=list(keys), with_vector=False)
        return {str(record.id): record.payload or {} for record in found}

    def scroll(self, keys: Sequence[str], selection: Selection) -> Iterator[Mapping[str, Any]]:
        """These keys of all payloads of a selection."""
        offset = None
        while True:
            with _explained(self.folder):
                request = edge.ScrollRequest(
                    offset=offset, limit=_SCROLL, filter=_filter(selection), with_payload=list(keys)
                )
                records, offset = self._shard.scroll(request)
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def search(self, ask: Ask) -> list[Found]:
        """The best points, best first."""
        chosen, parts = _filter(ask.selection), self._queries(ask)
        with _explained(self.folder):
            if len(parts) == 1:
                [(query, params)] = parts
                found = self._shard.query(
                    edge.QueryRequest(limit=ask.limit, query=query, params=params, filter=chosen, with_payload=True)
                )
                return [Found(hit.score, hit.payload or {}) for hit in engine.best(found, ask.limit)]
            each = engine.candidates(ask.limit)
            ranked = [edge.Prefetch(limit=each, query=q, params=params, filter=chosen) for q, params in parts]
            fused: Any = edge.Fusion.Rrf(k=engine.RRF_K)
            found = self._shard.query(edge.QueryRequest(limit=len(parts) * each, query=fused, prefetches=ranked))
            first = engine.best(found, ask.limit)
            records = self._shard.retrieve([hit.id for hit in first], with_payload=True, with_vector=False)
        payloads = {record.id: record.payload or {} for record in records}
        return [Found(hit.score, payloads[hit.id]) for hit in first if hit.id in payloads]  # or deleted in between

    def count(self, selection: Selection) -> int:
        """Points of a selection."""
        with _explained(self.folder):
            return self._shard.count(edge.CountRequest(filter=_filter(selection)))

    def optimize(self) -> None:
        """Build the graph and the small vectors over all points, in a process of its own; it may be killed.

        Raises DataError where the disk has no room for a second copy, StoreError: the process failed.
        """
        size = _disk_bytes(self.folder)
        _check_room(self.folder, _SPARE + size)
        self.close()
        child = subprocess.Popen(
            [sys.executable, "-c", _OPTIMIZE, str(self.folder / SHARD)], stderr=subprocess.PIPE, text=True
        )
        try:
            _, said = child.communicate()
        finally:
            child.kill()  # after Ctrl-C: it would hear of it only when all is built
            child.wait()
            self._shard = _loaded(self.folder, _WAIT)
        if child.returncode:
            last = said.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            raise StoreError(f"{self.folder} could not be optimized ({last[0]}): no point was lost; try again")

    def details(self) -> dict[str, Any]:
        """Points in its graph, and bytes on the disk."""
        with _explained(self.folder):
            info = self._shard.info()
        return {"points": info.points_count, "segments": info.segments_count, "disk_bytes": _disk_bytes(self.folder)}

    def close(self) -> None:
        """Let go of the folder, for other processes."""
        with _explained(self.folder):
            self._shard.close()

    def _write(self, *operations: Any) -> None:
        with _explained(self.folder):
            for operation in operations:
                self._shard.update(operation)
            self._shard.flush()

    def _queries(self, ask: Ask) -> list[tuple[Any, Any]]:
        """What is asked, each with how it is searched."""
        parts: list[tuple[Any, Any]] = []
        if ask.vector is not None:
            small = self._spec.precision != "float16"
            finer = edge.QuantizationSearchParams(rescore=True, oversampling=ask.oversampling) if small else None
            if ask.exact:
                params = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
            else:
                params = edge.SearchParams(hnsw_ef=engine.HNSW_SEARCH, quantization=finer)
            parts.append((edge.Query.Nearest(ask.vector.tolist(), using=engine.VECTOR), params))
        if ask.words is not None:
            parts.append((edge.Query.Nearest(_sparse(ask.words), using=engine.WORDS), None))
        return parts


_OPTIMIZE = "import sys, qdrant_edge as e; s = e.EdgeShard.load(sys.argv[1]); s.optimize(); s.flush(); s.close()"


def _config(spec: IndexSpec) -> edge.EdgeConfig:
    small: Any = None
    if spec.precision == "binary":
        small = edge.BinaryQuantizationConfig(
            query_encoding=edge.BinaryQuantizationQueryEncoding.Scalar8Bits,  # finer queries, the same bits stored
            memory=edge.Memory.Pinned,
        )
    elif spec.precision == "int8":
        small = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Pinned)
    vector = edge.EdgeVectorParams(
        size=spec.dim,
        distance=edge.Distance.Dot,  # cosine would normalise vectors of length 1 once more
        datatype=edge.VectorStorageDatatype.Float16,
    )
    words = {engine.WORDS: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)} if spec.words else None
    return edge.EdgeConfig(
        vectors={engine.VECTOR: vector},
        sparse_vectors=words,
        on_disk_payload=True,
        quantization_config=small,
        hnsw_config=edge.HnswIndexConfig(engine.HNSW_M, engine.HNSW_BUILD, full_scan_threshold=_GRAPH_KB),
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=100_000_000, indexing_threshold=_GRAPH_KB
        ),
    )


def _loaded(folder: Path, wait: float) -> edge.EdgeShard:
    until = time.monotonic() + wait
    while True:
        try:
            shard = edge.EdgeShard.load(str(folder / SHARD))
            return_freed_memory()  # of the log that was read: many times what the index itself takes
            return shard
        except Exception as error:  # of the engine, which has no types of its own
            if "WouldBlock" not in str(error):
                raise StoreError(f"{folder} cannot be opened ({_line(error)}): make the index again") from None
            if time.monotonic() > until:
                raise StoreError(
                    f"{folder} is open in another process, and only one can have it: end that one, or put the index on "
                    "a Qdrant server (--out http://HOST:6333/NAME), which many can ask"
                ) from None
            time.sleep(0.05)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError):  # of the arguments that limbeck gave
        raise
    except Exception as error:
        raise StoreError(f"{folder}: the engine failed ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"the disk is full: {folder} wants {needed:,} bytes to write on, {free:,} are free; what was written "
            "before is kept: make room, and give the same command again"
        )


def _disk_bytes(folder: Path) -> int:
    """Bytes that its files take; many are sparse."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _point(point: Point) -> edge.Point:
    vectors: dict[str, Any] = {engine.VECTOR: point.vector.tolist()}
    if point.words is not None:
        vectors[engine.WORDS] = _sparse(point.words)
    return edge.Point(point.id, vectors, point.payload)


def _sparse(words: Sparse) -> edge.SparseVector:
    return edge.SparseVector(words.indices, words.values)


def _filter(selection: Selection) -> edge.Filter | None:
    if not selection.must and not selection.must_not:
        return None
    must: list[Any] = [edge.Filter(should=[_condition(test) for test in tests]) for tests in selection.must]
    return edge.Filter(must=must, must_not=[_condition(test) for test in selection.must_not])


def _condition(test: Check) -> Any:
    if test.any:
        return edge.FieldCondition(test.key, match=edge.MatchAny(list(test.any)))  # type: ignore[arg-type]
    return edge.FieldCondition(test.key, range=edge.RangeFloat(**dict(test.bounds)))
