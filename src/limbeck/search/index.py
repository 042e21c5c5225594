"""An index of documents: made once, added to, and searched, in a folder or on a Qdrant server.

with Index.create("notes.index", model) as index:
    index.add([Document("1", "…", fields={"lang": "en"})])
    index.search("…", where={"lang": "en"})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from limbeck.encode_file import task_words
from limbeck.encoding.vectors import Model, Task, check_fingerprint, checked_dim, settled_task
from limbeck.errors import ConfigError, DataError, TextError
from limbeck.model.prefixes import PREFIXES
from limbeck.model.stream import chunks as batches
from limbeck.search.adding import Added, add_batch, sampled_average, words_of
from limbeck.search.chunks import IndexModel
from limbeck.search.conditions import Selection, Where, select
from limbeck.search.documents import Document, checked, read_documents
from limbeck.search.engine import (
    MOST_OVERSAMPLING,
    OVERSAMPLING,
    Ask,
    Engine,
    first_chunks,
    of_documents,
    point_id,
)
from limbeck.search.opening import create_engine, exists, model_of, open_engine
from limbeck.search.passages import Passage, passages
from limbeck.search.spec import Chunks, IndexSpec, Precision

__all__ = ["Added", "Document", "Index", "Passage", "read_documents"]

By: TypeAlias = Literal["vectors", "words", "both"]

_BATCH = 512  # documents that are encoded, stored and flushed together
_IDS = 1_000  # documents deleted at a time


class Index:
    """Documents that can be searched, and the model that their vectors come from.

    One process at a time has an index in a folder open; one on a server is shared.
    """

    def __init__(self, engine: Engine, model: IndexModel | None, where: str) -> None:
        """Use an engine that is open; `create`, `open` and `without_model` make one.

        Raises ModelError: the model is not the one that the index was made with.
        """
        self.engine, self._model, self.where = engine, model, where
        if model is not None:
            self.check_model(model)
        self._words = words_of(self.spec)

    @property
    def model(self) -> IndexModel:
        """What makes its vectors. Raises ConfigError: it was opened without."""
        if self._model is None:
            raise ConfigError(f"the index {self.where} was opened without its model, which makes vectors: open it with")
        return self._model

    @property
    def spec(self) -> IndexSpec:
        """What the index says of itself."""
        return self.engine.spec

    @property
    def query_role(self) -> Literal["query", "document"]:
        """What queries are encoded as: a task that has no queries, such as text-matching, finds texts like them."""
        task = self.spec.encoding_task
        names = [task] if isinstance(task, str) else list(task or ())
        return "query" if not names or any((name, "query") in PREFIXES for name in names) else "document"

    def check_model(self, model: Model) -> None:
        """Raise ModelError when vectors of another model would be held against those of the index."""
        check_fingerprint(
            model,
            self.spec.encoding_task,
            self.spec.fingerprint,
            what=f"the index {self.where}",
            made_with=self.spec.model,
            again=f"limbeck index MODEL CORPUS --out {self.where}",
        )

    @classmethod
    def create(
        cls,
        where: str | Path,
        model: IndexModel,
        *,
        task: Task = None,
        dim: int | None = None,
        precision: Precision = "binary",
        chunks: Chunks | Literal["auto"] = "auto",
        chunk_chars: int = 2_000,
        words: bool = True,
        language: str | None = None,
        sample: Sequence[Document] = (),
        address: str | None = None,
        shards: int | None = None,
        replicas: int | None = None,
    ) -> Index:
        """Make an empty index.

        Args:
            where: a folder, or http://HOST:6333/NAME, a collection on a Qdrant server (1.16 or later).
            model: as `limbeck.load` gives it.
            task: adapter, or blend; None = retrieval where the model has adapters.
            dim: keep the first so many numbers of each vector; None = all.
            precision: of what is searched. "binary" and "int8" find fifteen candidates a hit, which vectors at float16,
                kept on the disk, put in order; "float16" is for itself, in memory.
            chunks: as in `chunks_of`; "auto" is "late" where the model pools by mean, else "separate".
            chunk_chars: of the longest chunk.
            words: keep the words too, to be searched by BM25.
            language: whose stop words are left out and whose endings are cut, such as "german"; None = words as they
                are, in all languages.
            sample: some documents, to learn how many words a chunk has on average; without them it is taken to be 256.
            address: where the model can be loaded from; None = its folder.
            shards: on a server, parts that the collection is split into; None = what the server does.
            replicas: on a server, copies of each.

        Raises ConfigError: something is there, or an argument does not fit. DataError: the disk is full. StoreError: no
        server answers.
        """
        settled = settled_task(model, task, [d.text for d in sample[:256]], usual="retrieval")
        width = checked_dim(model, dim)
        if chunk_chars < 1:
            raise ConfigError(f"chunk_chars must be at least 1, got {chunk_chars}")
        if chunks == "auto":
            chunks = "late" if model.spec.pooling == "mean" else "separate"
        spec = IndexSpec(
            model=str(model.spec.name),
            address=address or str(getattr(model, "folder", None) or model.spec.name),
            fingerprint=model.fingerprint_of(settled),
            task=task_words(settled),
            prompts={role: model.spec.prompts[role] for role in ("query", "document")},
            dim=width,
            precision=precision,
            chunks=chunks,
            chunk_chars=chunk_chars,
            words=words,
            language=language,
            average_words=sampled_average(sample, chunks, chunk_chars, language) if words else 256.0,
        )
        words_of(spec)  # for what it raises, before anything is made
        return cls(create_engine(where, spec, shards, replicas), model, str(where))

    @classmethod
    def open(cls, where: str | Path, model: IndexModel | str | None = None, *, wait: float = 10.0) -> Index:
        """Open an index. Close it when it is done with, or use it in a `with`.

        Args:
            where: as in `create`.
            model: a model, or where to load it from; None = from where it was when the index was made.
            wait: seconds to wait for another process that has the folder open.

        Raises StoreError: no index there, torn, of a newer limbeck, or open elsewhere. ModelError: the model cannot be
        loaded, or is another one.
        """
        opened = open_engine(where, wait)
        try:
            if model is None or isinstance(model, str):
                model = model_of(opened.spec, model, where)
            return cls(opened, model, str(where))
        except BaseException:
            opened.close()
            raise

    @classmethod
    def without_model(cls, where: str | Path, *, wait: float = 10.0) -> Index:
        """Open an index to search it by words, to delete or to look, which takes no model. Raises as `open`."""
        return cls(open_engine(where, wait), None, str(where))

    @staticmethod
    def exists(where: str | Path) -> bool:
        """Whether there is an index, or something else in its place. Raises StoreError: no server answers."""
        return exists(where)

    def __enter__(self) -> Index:
        """The index itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the folder, or of the connection. All that was written is there."""
        self.engine.close()

    def __len__(self) -> int:
        """Documents."""
        return self.engine.count(first_chunks())

    # ------------------------------------------------------------------------------------------- writing

    def add(self, documents: Iterable[Document], *, progress: Callable[[int], None] | None = None) -> Added:
        """Add documents; those whose id is there take the other's place, and those that are the same are left.

        What was stored before an error, or before the process was killed, stays: give the same documents again.

        Args:
            documents: any number; they are taken, encoded and stored 512 at a time.
            progress: called with the number of documents done since the last call.

        Raises DataError that names a document: an id or text that is empty, an id that comes twice, fields that JSON
        does not know or that held something else before, a text that cannot be encoded, a vector without direction.
        Also for a full disk. StoreError: the engine failed.
        """
        report = Added()
        for batch in batches(checked(documents), _BATCH):
            report.ids.update(document.id for document in batch)
            add_batch(self.engine, self.model, self._words, batch, report)
            if progress is not None:
                progress(len(batch))
        return report

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; unknown ones are passed over. Returns how many were there."""
        gone, remaining = 0, iter(dict.fromkeys(ids))
        while some := list(islice(remaining, _IDS)):
            there = self.engine.payloads([point_id(id, 0) for id in some], ["id"])
            self.engine.delete(of_documents(some))
            gone += len(there)
        return gone

    def delete_where(self, where: Where) -> int:
        """Delete the documents that conditions hold for. Returns how many. Raises ConfigError: no condition."""
        selection = self._selection(where)
        if selection == Selection():
            raise ConfigError("say which documents to delete: without a condition, all would go")
        found = {payload["id"] for payload in self.engine.scroll(["id"], selection)}
        self.engine.delete(selection)
        return len(found)

    def keep_only(self, ids: set[str]) -> int:
        """Delete all documents but these. Returns how many went."""
        return self.delete([id for id in self.ids() if id not in ids])

    def optimize(self) -> None:
        """Make searches fast and small, after much was added: build the graph and the small vectors over all of it.

        In a folder this takes minutes for a million documents; killed, it changes nothing. A server does it by itself.
        """
        self.engine.optimize()

    # ------------------------------------------------------------------------------------------- reading

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        each: int = 1,
        where: Where | None = None,
        by: By = "vectors",
        exact: bool = False,
        oversampling: float = OVERSAMPLING,
    ) -> list[Passage]:
        """The k best documents of a query, best first; arguments as those of `search_all`."""
        how: dict[str, Any] = {"k": k, "each": each, "where": where, "by": by}
        return self.search_all([query], **how, exact=exact, oversampling=oversampling)[0]

    def search_all(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        each: int = 1,
        where: Where | None = None,
        by: By = "vectors",
        exact: bool = False,
        oversampling: float = OVERSAMPLING,
    ) -> list[list[Passage]]:
        """The k best documents of each query, best first; each document once, by its best chunk, unless `each` is more.

        Args:
            queries: what is looked for.
            k: documents a query, or passages where a document may have several.
            each: passages of one document, at most.
            where: conditions on fields, see `Where`.
            by: "vectors"; "words", by BM25; or "both", by the sum of 1 / (60 + rank) in either (Cormack et al. 2009).
            exact: compare with every vector at float16, instead of by graph and small vectors.
            oversampling: candidates by int8 or bits for each hit, which are then put in order at float16: more find
                more of what `exact` would, and take longer.

        Raises DataError: an empty query, or one that cannot be encoded. ConfigError: k, each or oversampling < 1, a
        condition that does not fit the fields, words of an index without them.
        """
        if isinstance(queries, str):
            raise ConfigError("queries are a list of texts; for one there is `search`")
        how: dict[str, Any] = {"k": k, "each": each, "where": where, "by": by, "oversampling": oversampling}
        self.check_search(queries, **how)
        vectors = self._query_vectors(list(queries)) if by != "words" else None
        return self.search_encoded(queries, vectors, **how, exact=exact)

    def search_encoded(
        self,
        queries: Sequence[str],
        vectors: np.ndarray | None,
        *,
        k: int = 10,
        each: int = 1,
        where: Where | None = None,
        by: By = "vectors",
        exact: bool = False,
        oversampling: float = OVERSAMPLING,
    ) -> list[list[Passage]]:
        """As `search_all`, with vectors that were made elsewhere; the index needs no model of its own.

        Args:
            queries: Q texts, for their words.
            vectors: of these, float32 [Q, D], each of length 1, encoded as `query_role` for `spec.encoding_task` by a
                model that `check_model` lets pass, and cut to D = `spec.dim`; None by words.
            k: as in `search_all`, like the others.
            each: passages of one document.
            where: conditions.
            by: what is compared.
            exact: whether with every vector.
            oversampling: candidates for each hit.

        Raises as `search_all`; ConfigError too for vectors of another shape. DataError: one that is not finite.
        """
        self.check_search(queries, k=k, each=each, where=where, by=by, oversampling=oversampling)
        if by != "words":
            self._check_vectors(vectors, len(queries))
        selection = self._selection(where)
        found = []
        for number, query in enumerate(queries):
            vector = vectors[number] if vectors is not None and by != "words" else None
            words = self._words.query(query) if self._words is not None and by != "vectors" else None
            ask = Ask(vector, words, k, selection, exact, oversampling)
            found.append(passages(self.engine, ask, k, each) if vector is not None or words is not None else [])
        return found

    def check_search(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        each: int = 1,
        where: Where | None = None,
        by: By = "vectors",
        oversampling: float = OVERSAMPLING,
    ) -> None:
        """Raise what `search_all` raises of its arguments, without encoding or asking the engine."""
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        if each < 1:
            raise ConfigError(f"each must be at least 1, got {each}")
        if not 1 <= oversampling <= MOST_OVERSAMPLING:
            raise ConfigError(f"oversampling must be from 1 to {MOST_OVERSAMPLING}, got {oversampling}")
        if by not in ("vectors", "words", "both"):
            raise ConfigError(f"by must be one of vectors, words, both, got {by!r}")
        if by != "vectors" and self._words is None:
            raise ConfigError(f"the index {self.where} was made without words: search it by vectors, or make it again")
        for number, query in enumerate(queries):
            if not query.strip():
                raise DataError(f"query {number} is empty: say what to look for")
            try:
                query.encode()
            except UnicodeEncodeError:
                raise DataError(f"query {number} is not valid Unicode") from None
        self._selection(where)

    def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Documents as they were added, None for those that are not there. White space between chunks is kept."""
        keys = ["id", "text", "title", "fields", "chunk", "chunks"]
        first = self.engine.payloads([point_id(id, 0) for id in ids], keys)
        found: list[Document | None] = []
        for id in ids:
            head = first.get(point_id(id, 0))
            if head is None:
                found.append(None)
                continue
            others = [point_id(id, n) for n in range(1, head["chunks"])]
            rest = self.engine.payloads(others, ["text"]) if others else {}
            text = head["text"] + "".join(rest[point]["text"] for point in others)
            found.append(Document(id, text, head.get("title", ""), head.get("fields", {})))
        return found

    def ids(self, where: Where | None = None) -> Iterator[str]:
        """Ids of all documents, or of those that conditions hold for, in no order."""
        for payload in self.engine.scroll(["id"], first_chunks(self._selection(where))):
            yield payload["id"]

    def details(self) -> dict[str, Any]:
        """What the index says of itself, and what its engine does."""
        return {**self.spec.model_dump(mode="json"), **self.engine.details()}

    # ----------------------------------------------------------------------------------------- in parts

    def _selection(self, where: Where | None) -> Selection:
        return select(where, self.spec.fields)

    def _query_vectors(self, queries: list[str]) -> np.ndarray:
        try:
            encode: Any = self.model.encode
            return encode(queries, role=self.query_role, task=self.spec.encoding_task, dim=self.spec.dim)
        except TextError as error:
            raise DataError(f"query {error.index} {error.reason}") from None

    def _check_vectors(self, vectors: np.ndarray | None, count: int) -> None:
        expected, shape = (count, self.spec.dim), None if vectors is None else vectors.shape
        if vectors is None or (shape != expected and count):
            raise ConfigError(f"{count} queries need vectors {expected}, got {shape}")
        if not np.isfinite(vectors).all():
            raise DataError("the model gave a query vector that is not finite: look at the query and at the model")
