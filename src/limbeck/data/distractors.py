"""Long documents made of short ones: the document of a pair, hidden among documents of other pairs."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.config import DistractorsSource
from limbeck.data.dedup import Hashes, Ints, normalise, stable_hash
from limbeck.data.examples import Pair
from limbeck.data.tables import ExampleTable

SEPARATOR = "\n\n"

logger = logging.getLogger(__name__)


def hidden_documents(table: ExampleTable, source: DistractorsSource, rows: Sequence[int]) -> Iterator[Pair]:
    """Yield a pair for each of `rows` of a table of pairs: its query, and its document among those of other pairs.

    The length is drawn from `source.chars`, evenly by its logarithm. Whole documents of other pairs are drawn, none
    twice, until the next would make the text longer than that; the pair's own stands anywhere among them with the same
    chance, and alone where it is longer by itself. Those in its language come first, the others when they are used up.
    None is the document itself, nor another one of the same query. The draws depend on the pair and the name of the
    source, and on which documents the table holds, but not on their order.
    """
    pool = _pool(table)
    used_up = 0
    for row in rows:
        pair = _pair(table, row)
        rng = random.Random(stable_hash(f"{source.name}\n{pair.query}\n{pair.document}"))
        shortest, longest = source.chars
        room = int(shortest * (longest / shortest) ** rng.random()) - len(pair.document)
        others: list[Pair] = []
        for other in (_pair(table, i) for i in _drawn(pool, pair, rng)):
            room -= len(SEPARATOR) + len(other.document)
            if room < 0:
                break
            others.append(other)
        used_up += room >= 0
        place = int(rng.random() * (len(others) + 1))
        yield _among(pair, [*others[:place], pair, *others[place:]], source)
    if used_up:
        logger.warning(
            "source %r: %d of %d documents in %s are shorter than was drawn: there are %d to hide them among",
            *(source.name, used_up, len(rows), table.path.name, len(pool.rows)),
        )


@dataclass(frozen=True)
class _Pool:
    """What may be drawn from N pairs: a row of each different document, in the order of the documents' hashes."""

    rows: Ints
    rows_of_language: dict[str | None, Ints]
    queries: Hashes  # [N] hashes in ascending order
    answers: Ints  # [N] of each query the row, of `rows`, that has its document


def _pool(table: ExampleTable) -> _Pool:
    hashes = np.array([(_hash(query), _hash(document)) for query, document in _texts(table)], np.uint64)
    hashes = hashes.reshape(-1, 2)  # also where there are none
    _, rows, documents = np.unique(hashes[:, 1], return_index=True, return_inverse=True)
    spoken = table.lang
    by_language: dict[str | None, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_language[spoken[row]].append(row)
    order = np.argsort(hashes[:, 0], kind="stable")
    return _Pool(
        rows,
        {language: np.array(found) for language, found in by_language.items()},
        hashes[order, 0],
        rows[documents][order],
    )


def _texts(table: ExampleTable) -> Iterator[tuple[str, str]]:
    for pair in table:
        assert isinstance(pair, Pair)
        yield pair.query, pair.document


def _hash(text: str) -> int:
    return stable_hash(normalise(text))


def _drawn(pool: _Pool, pair: Pair, rng: random.Random) -> Iterator[int]:
    """Rows that may stand beside a pair's document, in random order, each once: those in its language first."""
    query = np.uint64(_hash(pair.query))
    first, last = np.searchsorted(pool.queries, query, "left"), np.searchsorted(pool.queries, query, "right")
    answers = set(pool.answers[first:last].tolist())
    seen: set[int] = set()
    for rows in (pool.rows_of_language.get(pair.lang, pool.rows), pool.rows):  # the second holds the first
        while len(seen) < len(rows):
            row = int(rows[int(rng.random() * len(rows))])
            if row not in seen:
                seen.add(row)
                if row not in answers:
                    yield row


def _among(pair: Pair, parts: Sequence[Pair], source: DistractorsSource) -> Pair:
    """The pair with all the parts as its document."""
    document = SEPARATOR.join(part.document for part in parts)
    taught = pair.teacher_document or pair.document
    if source.teacher_reads == "whole":
        taught = SEPARATOR.join(part.teacher_document or part.document for part in parts)
    return Pair(
        id=pair.id,
        query=pair.query,
        document=document,
        lang=pair.lang,
        teacher_query=pair.teacher_query,
        teacher_document=None if taught == document else taught,
    )


def _pair(table: ExampleTable, row: int) -> Pair:
    pair = table[row]
    assert isinstance(pair, Pair)
    return pair
