"""Groups or pairs of near duplicates as JSON lines or CSV, and the input without its duplicates."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from limbeck.dedup.corpus import Corpus, IntArray
from limbeck.dedup.groups import AllPairs, Groups
from limbeck.dedup.join import Pairs, self_join
from limbeck.encoding.reading import Id
from limbeck.errors import ConfigError

Format = Literal["jsonl", "csv"]
Write = Callable[[dict[str, Any]], object]

GROUP_FIELDS = ("group", "id", "kept", "score", "text")
PAIR_FIELDS = ("id_a", "id_b", "score", "text_a", "text_b")


@dataclass(frozen=True, slots=True)
class Found:
    """How much there was. Pairs are counted only where all of them are looked at."""

    groups: int | None
    duplicates: int | None  # rows that another stands for
    pairs: int | None


def format_of(out: str) -> Format:
    """JSON lines or CSV, by the ending; JSON lines for "-". Raises ConfigError for another one, and for a folder."""
    if out == "-":
        return "jsonl"
    if Path(out).is_dir():
        raise ConfigError(f"{out} is a folder: name a file, or - for standard output")
    by_name: Format | None = "csv" if out.endswith(".csv") else "jsonl" if out.endswith((".jsonl", ".ndjson")) else None
    if by_name is None:
        raise ConfigError(f"duplicates are written as JSON lines or CSV, not to {out!r}: end it in .jsonl or .csv")
    return by_name


def writer(file: IO[str], form: Format, fields: Iterable[str]) -> Write:
    """A function that writes an object as the next line or row; of CSV the heading is written at once.

    In CSV true and false are 1 and 0. What is not valid Unicode cannot come here, since no model encodes it.
    """
    if form == "jsonl":
        return lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = csv.DictWriter(file, list(fields), lineterminator="\n")
    rows.writeheader()
    return lambda row: rows.writerow({k: int(v) if isinstance(v, bool) else v for k, v in row.items()})


def write_groups(write: Write, corpus: Corpus, groups: Groups) -> Found:
    """Write the rows of groups of two or more, group after group, in each the kept row first.

    Each has "group", from 1, in the order of their first rows; "id", which is the number of the row, from 1, where
    there are no ids; "kept"; "score", the cosine to the kept text; "text".
    """
    number = members = 0
    for number, (kept, rows) in enumerate(_members(corpus, groups), start=1):
        members += len(rows)
        for row in [kept, *(row for row in rows if row != kept)]:
            id, text = corpus.rows[row]
            score = float(groups.scores[corpus.text_of[row]])
            write(
                {"group": number, "id": _id(id, row), "kept": row == kept, "score": round(score, 4), "text": text}
            )  # fmt: skip
    return Found(groups=number, duplicates=members - number, pairs=None)


def kept_rows(corpus: Corpus, groups: Groups) -> np.ndarray:
    """Which rows are kept. → bool [N]."""
    kept = np.zeros(len(corpus.rows), bool)
    kept[corpus.first_row[np.unique(groups.kept)]] = True
    return kept


def _members(corpus: Corpus, groups: Groups) -> Iterator[tuple[int, list[int]]]:
    """The kept row and all rows of each group of two or more, in the order of their first rows."""
    of_row = groups.kept[corpus.text_of]
    order = np.argsort(of_row, kind="stable")  # rows of a group together, and in order
    starts = np.flatnonzero(np.append(True, of_row[order][1:] != of_row[order][:-1]))
    stops = np.append(starts[1:], len(order))
    for place in np.argsort(order[starts], kind="stable"):
        if stops[place] - starts[place] > 1:
            rows = order[starts[place] : stops[place]].tolist()
            yield int(corpus.first_row[of_row[rows[0]]]), rows


def write_pairs(
    write: Write,
    corpus: Corpus,
    threshold: float,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Write all near pairs as they are found, so that any number of them takes no memory.

    Each has "id_a" and "id_b", as in groups, of which b came first; "score", their cosine; "text_a" and "text_b". Rows
    with the same text: each but the first is paired with the first alone, and the first with what is near.
    """
    visitor = _Written(write, corpus, threshold)
    order = np.arange(len(corpus), dtype=np.int64)
    for row, text in enumerate(corpus.text_of):
        if corpus.first_row[text] != row:
            visitor.write(row, int(corpus.first_row[text]), 1.0)
    self_join(corpus, order, threshold, visitor, workers=workers, progress=progress)
    return Found(groups=None, duplicates=None, pairs=visitor.count)


class _Written(AllPairs):
    def __init__(self, write: Write, corpus: Corpus, threshold: float) -> None:
        super().__init__(threshold)
        self._write, self._corpus = write, corpus
        self.count = 0

    def pairs(self, found: Pairs) -> None:
        first: IntArray = self._corpus.first_row
        for i, j, cosine in zip(first[found.now], first[found.before], found.cosines, strict=True):
            self.write(int(i), int(j), float(cosine))

    def write(self, row: int, other: int, score: float) -> None:
        self.count += 1
        (id_a, text_a), (id_b, text_b) = self._corpus.rows[row], self._corpus.rows[other]
        self._write(
            {
                "id_a": _id(id_a, row),
                "id_b": _id(id_b, other),
                "score": round(score, 4),
                "text_a": text_a,
                "text_b": text_b,
            }
        )


def _id(id: Id | None, row: int) -> Id:
    return row + 1 if id is None else id
