"""Engines that search vectors, each built into a folder and opened from it, asked one query at a time.

Legend: `N` documents, `D` dims, `K` hits a query. Vectors have length 1, so that the dot product is the cosine. What an
engine needs beside NumPy it imports itself.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from limbeck.compress import Int8Grid, to_bits
from limbeck.nearest import rescore, top_k, top_k_bits

K = 10
BLOCK = 50_000  # vectors that are turned into another type at once

# of whatever keeps a pool of threads; read when a library is first imported
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "TOKIO_WORKER_THREADS",
        "LANCE_CPU_THREADS",  # not LANCE_IO_THREADS: LanceDB 0.40 waits for ever with a single one
    )
}


class Engine(Protocol):
    """Vectors in a folder."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        """Write all that `search` needs into an empty folder. vectors: float32 [N, D], a mapped file."""
        ...

    def __init__(self, folder: Path) -> None:
        """Open what was built."""
        ...

    def search(self, query: np.ndarray, **how: Any) -> Any:
        """Ids of the K nearest documents, a sequence of whole numbers. query: float32 [D]."""
        ...


# -- NumPy -------------------------------------------------------------------------------------------------------------


class Exact:
    """The yardstick: one matrix product, then the K largest."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        np.save(folder / "vectors.npy", vectors)

    def __init__(self, folder: Path) -> None:
        self.vectors = np.load(folder / "vectors.npy")

    def search(self, query: np.ndarray) -> Any:
        scores = self.vectors @ query
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]


class Float32(Exact):
    """The same by limbeck.nearest, which works in blocks and has an order among equals."""

    def search(self, query: np.ndarray) -> Any:
        return top_k(query[None], self.vectors, K).indices[0]


def _as_int8(vectors: np.ndarray, folder: Path) -> None:
    grid = Int8Grid.fit(vectors)
    np.savez(folder / "grid.npz", offset=grid.offset, step=grid.step)
    _converted(vectors, folder / "codes.npy", np.int8, grid.encode)


def _as_float16(vectors: np.ndarray, folder: Path) -> None:
    _converted(vectors, folder / "float16.npy", np.float16, lambda block: block.astype(np.float16))


def _as_bits(vectors: np.ndarray, folder: Path) -> None:
    bits = np.concatenate([to_bits(vectors[i : i + BLOCK]) for i in range(0, len(vectors), BLOCK)])
    np.save(folder / "bits.npy", bits)


def _converted(vectors: np.ndarray, file: Path, dtype: Any, convert: Callable[[np.ndarray], np.ndarray]) -> None:
    out = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=vectors.shape)
    for start in range(0, len(vectors), BLOCK):
        out[start : start + BLOCK] = convert(vectors[start : start + BLOCK])
    out.flush()


class Int8:
    """Codes of one grid; the query stays a float. Every search turns all codes into floats, block by block."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        _as_int8(vectors, folder)

    def __init__(self, folder: Path) -> None:
        self.codes, self.step = np.load(folder / "codes.npy"), np.load(folder / "grid.npz")["step"]

    def search(self, query: np.ndarray) -> Any:
        return top_k((query * self.step)[None], self.codes, K).indices[0]


class Bits:
    """One bit a dimension, nothing else."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        _as_bits(vectors, folder)

    def __init__(self, folder: Path) -> None:
        self.bits = np.load(folder / "bits.npy")

    def search(self, query: np.ndarray) -> Any:
        return top_k_bits(to_bits(query[None]), self.bits, K).indices[0]


class BitsInt8(Bits):
    """Bits in memory; what they find is ordered by int8 codes that stay in a mapped file."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        _as_bits(vectors, folder)
        _as_int8(vectors, folder)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fine, self.step = np.load(folder / "codes.npy", mmap_mode="r"), np.load(folder / "grid.npz")["step"]

    def search(self, query: np.ndarray, oversampling: int = 10) -> Any:
        hits = top_k_bits(to_bits(query[None]), self.bits, K * oversampling)
        return rescore(hits, (query * self.step)[None], self.fine, K).indices[0]


class BitsFloat16(Bits):
    """Bits in memory; what they find is ordered by float16 vectors that stay in a mapped file."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        _as_bits(vectors, folder)
        _as_float16(vectors, folder)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fine = np.load(folder / "float16.npy", mmap_mode="r")

    def search(self, query: np.ndarray, oversampling: int = 10) -> Any:
        hits = top_k_bits(to_bits(query[None]), self.bits, K * oversampling)
        return rescore(hits, query[None], self.fine, K).indices[0]


# -- FAISS, usearch, LanceDB -------------------------------------------------------------------------------------------


class Faiss:
    """IndexBinaryFlat, ordered by float16 vectors as limbeck's bits are."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexBinaryFlat(vectors.shape[1])
        for start in range(0, len(vectors), BLOCK):
            index.add(to_bits(vectors[start : start + BLOCK]))
        faiss.write_index_binary(index, str(folder / "bits.faiss"))
        _as_float16(vectors, folder)

    def __init__(self, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index_binary(str(folder / "bits.faiss"))
        self.index.use_heap = False  # counting the distances is faster
        self.fine = np.load(folder / "float16.npy", mmap_mode="r")

    def search(self, query: np.ndarray, oversampling: int = 10) -> Any:
        found = self.index.search(to_bits(query[None]), K * oversampling)[1][0]
        scores = self.fine[found].astype(np.float32) @ query
        return found[np.argsort(-scores)[:K]]


class Usearch:
    """HNSW over float16, with its own default graph."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        from usearch.index import Index

        index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
        for start in range(0, len(vectors), BLOCK):
            block = np.ascontiguousarray(vectors[start : start + BLOCK])
            index.add(np.arange(start, start + len(block), dtype=np.uint64), block, threads=1)
        index.save(str(folder / "graph.usearch"))

    def __init__(self, folder: Path) -> None:
        from usearch.index import Index

        index = Index.restore(str(folder / "graph.usearch"))
        assert index is not None
        self.index = index

    def search(self, query: np.ndarray, ef: int = 64) -> Any:
        self.index.expansion_search = ef
        return np.asarray(self.index.search(query, K, threads=1).keys).astype(np.int64)


class Lance:
    """IVF_RQ: RaBitQ at 1 bit in partitions, refined from the float32 vectors of the table."""

    @staticmethod
    def build(vectors: np.ndarray, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        def batches() -> Any:
            for start in range(0, len(vectors), BLOCK):
                block = np.ascontiguousarray(vectors[start : start + BLOCK])
                rows = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
                ids = pa.array(np.arange(start, start + len(block)))
                yield pa.record_batch([ids, rows], names=["id", "vector"])

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), vectors.shape[1]))])
        table = lancedb.connect(str(folder)).create_table("vectors", batches(), schema=schema)
        table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_RQ", num_bits=1)

    def __init__(self, folder: Path) -> None:
        import lancedb

        self.table = lancedb.connect(str(folder)).open_table("vectors")

    def search(self, query: np.ndarray, nprobes: int = 20, refine: int = 10) -> Any:
        asked = self.table.search(query, vector_column_name="vector").distance_type("dot")
        found = asked.nprobes(nprobes).refine_factor(refine).select(["id", "_distance"]).limit(K).to_arrow()
        return found["id"].to_numpy()


# -- Qdrant Edge -------------------------------------------------------------------------------------------------------


def edge_config(
    dims: int,
    *,
    m: int,
    ef_construct: int,
    indexing_kb: int,
    quantization: Any,
    sparse: Mapping[str, Any] | None = None,
    wal: bool = True,
) -> Any:
    """One segment of float16 vectors named "dense", with a graph of `m` edges a point, searched by one thread.

    m = 0: no graph, all points are looked at.
    """
    import qdrant_edge as edge

    return edge.EdgeConfig(
        vectors={
            "dense": edge.EdgeVectorParams(
                size=dims,
                distance=edge.Distance.Dot,  # Cosine would store other vectors than were given: normalised once more
                datatype=edge.VectorStorageDatatype.Float16,
            )
        },
        sparse_vectors=dict(sparse or {}),
        quantization_config=quantization,
        hnsw_config=edge.HnswIndexConfig(m, ef_construct, full_scan_threshold=1000, max_indexing_threads=1),
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=1,
            max_segment_size=100_000_000,  # kB; otherwise it is cut by the number of cores
            indexing_threshold=indexing_kb,
        ),
        max_search_threads=1,
        wal_enabled=wal,
    )


def edge_bits() -> Any:
    """One bit a dimension, in memory, asked by finer queries."""
    import qdrant_edge as edge

    return edge.BinaryQuantizationConfig(
        query_encoding=edge.BinaryQuantizationQueryEncoding.Scalar8Bits, memory=edge.Memory.Pinned
    )


class Edge:
    """`limbeck index` in a folder: float16 vectors in mapped files, smaller ones in memory if it has any, and a graph.

    The engine below `limbeck.search.index.Index`, without the model, texts and words that an index has besides.
    """

    PRECISION = "float16"

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> None:
        from limbeck.search.edge import EdgeEngine
        from limbeck.search.engine import Point
        from limbeck.search.spec import IndexSpec

        spec = IndexSpec(
            model="none",
            address="none",
            fingerprint="none",
            task=None,
            prompts={},
            dim=vectors.shape[1],
            precision=cls.PRECISION,  # type: ignore[arg-type]
            chunks="none",
            chunk_chars=1,
            words=False,
            average_words=1,
        )
        made = EdgeEngine.create(folder, spec)
        for start in range(0, len(vectors), 10_000):
            rows = enumerate(vectors[start : start + 10_000], start)
            made.upsert([Point(str(uuid.UUID(int=i)), vector, None, {"id": i}) for i, vector in rows])
        made.optimize()
        assert made.details()["points"] == len(vectors)
        made.close()

    def __init__(self, folder: Path) -> None:
        from limbeck.search.edge import EdgeEngine
        from limbeck.search.engine import Ask

        self.engine, self.ask = EdgeEngine(folder), Ask

    def search(self, query: np.ndarray, oversampling: int = 1) -> Any:
        found = self.engine.search(self.ask(query, None, K, oversampling=oversampling))
        return [hit.payload["id"] for hit in found]


class EdgeInt8(Edge):
    """Scalar quantization."""

    PRECISION = "int8"


class EdgeBits(Edge):
    """Binary quantization."""

    PRECISION = "binary"


# -- rows of the table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """An engine, and the ways in which it is asked."""

    title: str
    engine: type[Any]
    needs: str | None = None  # module that it imports
    install: str = ""
    oversampled: bool = False  # asked with each oversampling
    how: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, oversampling: Sequence[int]) -> list[dict[str, Any]]:
        """Arguments of `search`, one for each line of the table."""
        if not self.oversampled:
            return [dict(self.how)]
        return [{**self.how, "oversampling": times} for times in oversampling]

    def missing(self) -> bool:
        """Whether the library is not installed."""
        return self.needs is not None and find_spec(self.needs) is None


EXACT = "exact"
_EDGE = ("qdrant_edge", "qdrant-edge-py")
ROWS: dict[str, Row] = {
    EXACT: Row("float32 exact, NumPy alone", Exact),
    "float32": Row("limbeck float32", Float32),
    "int8": Row("limbeck int8", Int8),
    "bits": Row("limbeck bits, not rescored", Bits),
    "bits-int8": Row("limbeck bits, then int8", BitsInt8, oversampled=True),
    "bits-float16": Row("limbeck bits, then float16", BitsFloat16, oversampled=True),
    "faiss": Row("FAISS BinaryFlat, then float16", Faiss, "faiss", "faiss-cpu", oversampled=True),
    "usearch": Row("usearch HNSW float16", Usearch, "usearch", "usearch", how={"ef": 64}),
    "lancedb": Row("LanceDB IVF_RQ", Lance, "lancedb", "lancedb", how={"nprobes": 20, "refine": 10}),
    "index-float16": Row("limbeck index float16", Edge, *_EDGE),
    "index-int8": Row("limbeck index int8", EdgeInt8, *_EDGE, how={"oversampling": 2}),
    "index-bits": Row("limbeck index bits", EdgeBits, *_EDGE, oversampled=True),
}


# -- what an engine's process takes ------------------------------------------------------------------------------------


class Lap:
    """Seconds of wall time and of CPU (all threads of this process) since the last lap."""

    def __init__(self) -> None:
        """Begin."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        """Wall, CPU."""
        wall, cpu = time.perf_counter(), time.process_time()
        passed = wall - self._wall, cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return passed


def memory() -> tuple[float, float]:
    """Resident memory of this process in MiB: what it allocated, and pages of files that it maps. Reads /proc: Linux.

    Pages of files are counted where they were touched, with what the kernel maps around them; it takes them back when
    memory is short.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    allocated, file = (int(status[name].split()[0]) / 2**10 for name in ("RssAnon", "RssFile"))
    return allocated, file


def disk_bytes(folder: Path) -> int:
    """Bytes that the files of a folder take on disk: they have holes."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def one_core() -> None:
    """Keep this process, and all threads that it will start, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
