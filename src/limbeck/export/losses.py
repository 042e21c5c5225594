"""What int8 weights cost in retrieval: the same queries by the model and by its export.  Q: queries, N: documents."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from limbeck.config import PythonDocsSource
from limbeck.data.examples import Pair
from limbeck.data.sources import read_source
from limbeck.data.tables import Prepared
from limbeck.errors import DataError
from limbeck.evaluation.heldout import HeldOut, retrieval_sets
from limbeck.evaluation.retrieval import evaluate_retrieval
from limbeck.export.facts import RetrievalLoss
from limbeck.export.targets import Encode
from limbeck.model.prefixes import PREFIXES

_QUERIES, _DOCUMENTS = 300, 1_000  # of each source: a minute or two for a small model
_BATCH = 32  # texts


def retrieval_loss(
    found: Encode, wanted: Encode, tasks: Sequence[str], sets: Sequence[HeldOut], source: str
) -> RetrievalLoss:
    """nDCG@10 of an export and of the model.

    By the retrieval adapter, or the first there is; one that knows no queries encodes them as documents.

    Args:
        found: the export.
        wanted: the model itself.
        tasks: adapters in the export.
        sets: queries, and documents to search.
        source: of the queries, for people.
    """
    task = "retrieval" if "retrieval" in tasks else next(iter(tasks), None)
    asked = "query" if task is None or (task, "query") in PREFIXES else "document"

    def ndcg(encode: Encode) -> float:
        scores = [
            evaluate_retrieval(
                _in_batches(encode, held.queries, task, asked),
                _in_batches(encode, held.documents, task, "document"),
                held.relevant,
            ).ndcg
            for held in sets
        ]
        return round(float(np.concatenate(scores).mean()), 6)

    return RetrievalLoss(
        source=source,
        queries=sum(len(held.queries) for held in sets),
        documents=sum(len(held.documents) for held in sets),
        task=task,
        float_ndcg_at_10=ndcg(wanted),
        ndcg_at_10=ndcg(found),
    )


def sets_of(run: Path | None) -> tuple[list[HeldOut], str]:
    """Queries to lose nothing on, and what they are: held out by a run, or docstrings of the standard library."""
    if run is not None:
        try:
            held = retrieval_sets(Prepared.open(run / "data"), _QUERIES, "test")
        except DataError:  # removed since, or of another version
            held = []
        if held:
            return [_fewer(one) for one in held], f"the held-out data of {run.name}"
    return [docstrings(Path(sysconfig.get_paths()["stdlib"]))], "docstrings of the Python standard library"


def docstrings(folder: Path) -> HeldOut:
    """Summaries in Python sources as queries, and what follows them as documents."""
    source = PythonDocsSource(paths=[str(folder)], max_document_chars=300, max_rows=_DOCUMENTS)
    pairs = [pair for pair in read_source(source) if isinstance(pair, Pair)]
    queries = [pair.query for pair in pairs[:_QUERIES]]
    documents = [pair.document for pair in pairs]
    return HeldOut("python-docs", [pair.id for pair in pairs], queries, documents, [{i} for i in range(len(queries))])


def _fewer(held: HeldOut) -> HeldOut:
    """With all relevant documents, and of the others so many that a search stays a search and takes no hour."""
    relevant = set().union(*held.relevant)
    others = [i for i in range(len(held.documents)) if i not in relevant]
    kept = sorted([*relevant, *others[: max(0, _DOCUMENTS - len(relevant))]])
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        held,
        ids=[held.ids[i] for i in kept],
        documents=[held.documents[i] for i in kept],
        relevant=[{place[i] for i in answers} for answers in held.relevant],
    )


def _in_batches(encode: Encode, texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
    """Vectors in the order of the texts, encoded by length: a graph pads every batch to its longest."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    found = np.concatenate([encode([texts[i] for i in part], task, role) for part in parts])
    vectors = np.empty_like(found)
    vectors[order] = found
    return vectors
