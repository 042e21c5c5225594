"""An index as a collection of a Qdrant server or cluster: the same points, shared by many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from limbeck.errors import ConfigError, StoreError
from limbeck.search import engine
from limbeck.search.conditions import Check, Kind, Selection
from limbeck.search.engine import Ask, Found, Point, Sparse
from limbeck.search.spec import IndexSpec

KEY_VARIABLE = "QDRANT_API_KEY"

_METADATA = "limbeck"  # key of the collection's metadata that holds its `IndexSpec`
_TIMEOUT = 60  # seconds of one request
_SCROLL = 1_000
_KINDS = {
    "text": models.PayloadSchemaType.KEYWORD,
    "boolean": models.PayloadSchemaType.KEYWORD,  # as words
    "integer": models.PayloadSchemaType.INTEGER,
    "number": models.PayloadSchemaType.FLOAT,
}


class Address(NamedTuple):
    """A server, and the name of a collection there."""

    url: str
    collection: str


def parse_address(text: str) -> Address:
    """Read http://HOST:6333/NAME, or https. Raises ConfigError."""
    parts = urlsplit(text)
    *before, name = parts.path.rstrip("/").split("/") if parts.path.strip("/") else ["", ""]
    if parts.scheme not in ("http", "https") or not parts.hostname or not name or parts.query or parts.username:
        raise ConfigError(
            f"expected http://HOST:6333/NAME, a Qdrant server and a collection; got {text!r} (a key goes into the "
            f"environment, {KEY_VARIABLE})"
        )
    try:
        port = parts.port
    except ValueError:
        raise ConfigError(f"{text!r} has no valid port: write http://HOST:6333/NAME") from None
    port = port or (443 if parts.scheme == "https" else 6333)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{parts.scheme}://{host}:{port}{'/'.join(before)}", name)


def connect(address: Address) -> QdrantClient:
    """A client of the server, with the key of the environment. Raises StoreError."""
    with _explained(address):
        return QdrantClient(
            url=address.url, api_key=os.environ.get(KEY_VARIABLE), timeout=_TIMEOUT, check_compatibility=False
        )


def has_collection(address: Address) -> bool:
    """Whether the server has it. Raises StoreError."""
    client = connect(address)
    try:
        with _explained(address):
            return client.collection_exists(address.collection)
    finally:
        client.close()


class ServerEngine:
    """The engine of an index on a server."""

    def __init__(self, client: QdrantClient, address: Address) -> None:
        """Open a collection. Raises StoreError: not there, not an index of limbeck, or the server cannot be reached."""
        self._client, self.address = client, address
        with _explained(address):
            if not client.collection_exists(address.collection):
                raise StoreError(
                    f"{address.url} has no collection {address.collection!r}: make one with "
                    f"limbeck index MODEL CORPUS --out {address.url}/{address.collection}"
                )
            metadata = client.get_collection(address.collection).config.metadata or {}
        if _METADATA not in metadata:
            raise StoreError(
                f"the collection {address.collection!r} at {address.url} says nothing of a model: it was not made by "
                "limbeck, or the server is older than Qdrant 1.16; name another"
            )
        self._spec = IndexSpec.read(metadata[_METADATA], f"{address.url}/{address.collection}")

    @classmethod
    def create(
        cls,
        client: QdrantClient,
        address: Address,
        spec: IndexSpec,
        *,
        shards: int | None = None,
        replicas: int | None = None,
    ) -> ServerEngine:
        """Make an empty collection. Raises ConfigError where there is one, StoreError."""
        small: Any = None
        if spec.precision == "binary":
            small = models.BinaryQuantization(
                binary=models.BinaryQuantizationConfig(
                    always_ram=True, query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR8BITS
                )
            )
        elif spec.precision == "int8":
            small = models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            )
        vector = models.VectorParams(
            size=spec.dim,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            on_disk=small is not None,  # what is compared with every query stays in memory
        )
        words = {engine.WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)} if spec.words else None
        with _explained(address):
            if client.collection_exists(address.collection):
                raise ConfigError(f"{address.url} has a collection {address.collection!r}: name another, or delete it")
            client.create_collection(
                address.collection,
                vectors_config={engine.VECTOR: vector},
                sparse_vectors_config=words,
                quantization_config=small,
                hnsw_config=models.HnswConfigDiff(m=engine.HNSW_M, ef_construct=engine.HNSW_BUILD),
                on_disk_payload=True,
                shard_number=shards,
                replication_factor=replicas,
                metadata={_METADATA: spec.model_dump(mode="json")},
            )
        made = cls(client, address)
        made.add_fields({engine.DOCUMENT_KEY: "text"})
        return made

    @property
    def spec(self) -> IndexSpec:
        """What the index says of itself."""
        return self._spec

    def write_spec(self, spec: IndexSpec) -> None:
        """Say something else. Fields that other processes have added in the meantime stay."""
        with _explained(self.address):
            theirs = (self._client.get_collection(self._name).config.metadata or {}).get(_METADATA, {})
            spec = spec.with_fields(theirs.get("fields", {}) | spec.fields)
            self._client.update_collection(self._name, metadata={_METADATA: spec.model_dump(mode="json")})
        self._spec = spec

    def add_fields(self, kinds: Mapping[str, Kind]) -> None:
        """Make payload keys fast to filter by."""
        with _explained(self.address):
            for key, kind in kinds.items():
                self._client.create_payload_index(self._name, key, _KINDS[kind], wait=True)

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; those with the same id are replaced."""
        with _explained(self.address):
            self._client.upsert(self._name, [_point(point) for point in points], wait=True)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete points, those that are there."""
        with _explained(self.address):
            self._client.delete(self._name, models.PointIdsList(points=list(ids)), wait=True)

    def delete(self, selection: Selection) -> None:
        """Delete all points of a selection."""
        with _explained(self.address):
            chosen = models.FilterSelector(filter=_filter(selection) or models.Filter())
            self._client.delete(self._name, chosen, wait=True)

    def payloads(self, ids: Sequence[str], keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """These keys of the payloads of points that are there, by id."""
        with _explained(self.address):
            found = self._client.retrieve(self._name, list(ids), with_payload=list(keys))
        return {str(record.id): record.payload or {} for record in found}

    def scroll(self, keys: Sequence[str], selection: Selection) -> Iterator[Mapping[str, Any]]:
        """These keys of all payloads of a selection."""
        offset = None
        while True:
            with _explained(self.address):
                records, offset = self._client.scroll(
                    self._name, _filter(selection), limit=_SCROLL, offset=offset, with_payload=list(keys)
                )
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def search(self, ask: Ask) -> list[Found]:
        """The best points, best first."""
        chosen, parts = _filter(ask.selection), self._queries(ask)
        with _explained(self.address):
            if len(parts) == 1:
                [(query, using, params)] = parts
                found = self._client.query_points(
                    self._name, query, using=using, query_filter=chosen, search_params=params, limit=ask.limit
                )
                return [Found(hit.score, hit.payload or {}) for hit in engine.best(found.points, ask.limit)]
            each = engine.candidates(ask.limit)
            ranked = [
                models.Prefetch(query=query, using=using, params=params, filter=chosen, limit=each)
                for query, using, params in parts
            ]
            fused = models.RrfQuery(rrf=models.Rrf(k=engine.RRF_K))
            found = self._client.query_points(
                self._name, fused, prefetch=ranked, limit=len(parts) * each, with_payload=False
            )
            first = engine.best(found.points, ask.limit)
            records = self._client.retrieve(self._name, [hit.id for hit in first], with_payload=True)
        payloads = {record.id: record.payload or {} for record in records}
        return [Found(hit.score, payloads[hit.id]) for hit in first if hit.id in payloads]  # or deleted in between

    def count(self, selection: Selection) -> int:
        """Points of a selection."""
        with _explained(self.address):
            return self._client.count(self._name, _filter(selection)).count

    def optimize(self) -> None:
        """Nothing: a server builds its graphs by itself, beside its work."""

    def details(self) -> dict[str, Any]:
        """Points, and those in a graph."""
        with _explained(self.address):
            info = self._client.get_collection(self._name)
        return {"points": info.points_count, "segments": info.segments_count, "status": str(info.status.value)}

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    @property
    def _name(self) -> str:
        return self.address.collection

    def _queries(self, ask: Ask) -> list[tuple[Any, str, Any]]:
        """What is asked: query, name of its vectors, and how it is searched."""
        parts: list[tuple[Any, str, Any]] = []
        if ask.vector is not None:
            small = self._spec.precision != "float16"
            finer = models.QuantizationSearchParams(rescore=True, oversampling=ask.oversampling) if small else None
            if ask.exact:
                params = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
            else:
                params = models.SearchParams(hnsw_ef=engine.HNSW_SEARCH, quantization=finer)
            parts.append((ask.vector.tolist(), engine.VECTOR, params))
        if ask.words is not None:
            parts.append((_sparse(ask.words), engine.WORDS, None))
        return parts


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    try:
        yield
    except (ApiException, ValueError) as error:  # ValueError: of the client, for what no server was asked
        reason = " ".join(str(error).split())
        hint = f"; is the key in {KEY_VARIABLE}?" if " 401 " in f" {reason} " or " 403 " in f" {reason} " else ""
        raise StoreError(f"Qdrant at {address.url}, collection {address.collection!r}: {reason:.300}{hint}") from None


def _point(point: Point) -> models.PointStruct:
    vectors: dict[str, Any] = {engine.VECTOR: point.vector.tolist()}
    if point.words is not None:
        vectors[engine.WORDS] = _sparse(point.words)
    return models.PointStruct(id=point.id, vector=vectors, payload=point.payload)


def _sparse(words: Sparse) -> models.SparseVector:
    return models.SparseVector(indices=words.indices, values=words.values)


def _filter(selection: Selection) -> models.Filter | None:
    if not selection.must and not selection.must_not:
        return None
    must: list[Any] = [models.Filter(should=[_condition(test) for test in tests]) for tests in selection.must]
    return models.Filter(must=must, must_not=[_condition(test) for test in selection.must_not])


def _condition(test: Check) -> models.FieldCondition:
    if test.any:
        return models.FieldCondition(key=test.key, match=models.MatchAny(any=list(test.any)))  # type: ignore[arg-type]
    return models.FieldCondition(key=test.key, range=models.Range(**dict(test.bounds)))
