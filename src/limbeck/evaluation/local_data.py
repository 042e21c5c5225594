"""Evaluation sets in folders, `<kind>/<name>/`: found, read and checked. Nothing here knows mteb.

    retrieval, longdoc    corpus.jsonl {"id", "title", "text"}, queries.jsonl {"id", "text"}, qrels.tsv (query id,
                          document id, grade; a header line may stand above)
    reranking             the same; the candidates of a query are its lines in qrels.tsv
    instruction           the same; queries have an "instruction" too and come in pairs, "<id>-og" and "<id>-changed".
                          The candidates of both are their lines together; a document that is relevant under the first
                          instruction and not under the second should fall in rank (p-MRR, arXiv 2403.15246)
    sts                   pairs.jsonl {"text1", "text2", "score"}
    pairclf               pairs.jsonl {"text1", "text2", "label"}, a label is 0 or 1
    classification        train.jsonl and test.jsonl {"text", "label"}
    clustering            test.jsonl {"text", "label"}
    bitext                pairs.jsonl {"src", "tgt"}; the translation of a line is searched in all lines

Each file may be gzipped (corpus.jsonl.gz). meta.json is optional; its "languages" are kept. Whatever does not fit is an
error that names file and line, or is counted in `warnings`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import DataError
from limbeck.files import read_json, sha256_file

_SEARCH = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
KINDS: dict[str, tuple[str, ...]] = {
    "retrieval": _SEARCH,
    "reranking": _SEARCH,
    "longdoc": _SEARCH,
    "instruction": _SEARCH,
    "sts": ("pairs.jsonl",),
    "pairclf": ("pairs.jsonl",),
    "classification": ("train.jsonl", "test.jsonl"),
    "clustering": ("test.jsonl",),
    "bitext": ("pairs.jsonl",),
}
ORIGINAL, CHANGED = "-og", "-changed"  # ends of the ids of a pair of queries that differ in their instruction
_SHOWN = 3  # ids named in a warning

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """One evaluation set on disk."""

    kind: str
    path: Path

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.path.name

    def file(self, name: str) -> Path:
        """The file of this name, or its gzipped form. Raises DataError when neither is there."""
        for path in (self.path / name, self.path / f"{name}.gz"):
            if path.is_file():
                return path
        raise DataError(
            f"{self.path} has no {name} (or {name}.gz): a {self.kind} task needs {', '.join(KINDS[self.kind])}"
        )

    def digest(self) -> str:
        """16 hex digits over the kind and the bytes of the files that are scored."""
        parts = [self.kind, *(f"{name} {sha256_file(self.file(name))}" for name in KINDS[self.kind])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def languages(self) -> list[str]:
        """Languages as meta.json has them, "_" written as "-"; none without it. Raises DataError."""
        path = self.path / "meta.json"
        if not path.is_file():
            return []
        try:
            body = read_json(path)
        except ValueError as error:
            raise DataError(str(error).partition(": delete")[0]) from None
        found = body.get("languages", []) if isinstance(body, dict) else []
        return [str(tag).replace("_", "-") for tag in found] if isinstance(found, list) else [str(found)]


def find_folders(path: Path) -> list[LocalFolder]:
    """The evaluation sets at a path: one `<kind>/<name>`, a `<kind>` with several, or a folder of kinds.

    Subfolders of a folder of kinds that are no kind are left alone. Raises DataError: no such folder, an unknown kind,
    or a set that lacks a file.
    """
    path = path.resolve()
    if not path.is_dir():
        raise DataError(f"no folder {path}: expected an evaluation set <kind>/<name>, or a folder of them")
    if path.parent.name in KINDS:
        found = [LocalFolder(path.parent.name, path)]
    elif path.name in KINDS:
        found = _sets_of(path)
    else:
        found = [folder for kind in _folders(path) if kind.name in KINDS for folder in _sets_of(kind)]
        if not found:
            kind = f"its parent folder is {path.parent.name!r}" if any(path.glob("*.jsonl*")) else "there is none in it"
            raise DataError(
                f"{path} is no evaluation set: a set lies in a folder named by its kind, and {kind}; kinds are "
                f"{', '.join(KINDS)}"
            )
    for folder in found:
        for name in KINDS[folder.kind]:
            folder.file(name)
    return found


def _sets_of(kind: Path) -> list[LocalFolder]:
    return [LocalFolder(kind.name, path) for path in _folders(kind)]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


# ----------------------------------------------------------------------------------------- contents


@dataclass(frozen=True)
class SearchSet:
    """Queries, documents and grades. Every query has a relevant document; every id is known."""

    documents: dict[str, tuple[str, str]]  # id → (title, text)
    queries: dict[str, str]
    instructions: dict[str, str]  # of each query; empty where the kind has none
    grades: dict[str, dict[str, int]]  # query id → document id → grade ≥ 0
    candidates: dict[str, list[str]] | None  # of each query; None = all documents
    changed: dict[str, list[str]] = field(default_factory=dict)  # query id without its end → documents no longer wanted
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PairSet:
    """Pairs of texts, with a score or label each, or none."""

    left: list[str]
    right: list[str]
    values: list[float]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LabelSet:
    """Texts and class numbers; `train` is empty for clustering."""

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    labels: list[str]  # by class number
    warnings: list[str] = field(default_factory=list)


def read_search(folder: LocalFolder) -> SearchSet:
    """Read a set of the kinds retrieval, longdoc, reranking or instruction.

    Left out, and counted in `warnings`: lines of qrels.tsv that name an unknown query or document, and queries without
    a relevant document (they would count as zeros that no model can help). A negative grade counts as 0.

    Raises DataError: a malformed line, an id that occurs twice, a query id without its partner (instruction), or
    nothing left to score.
    """
    instructed = folder.kind == "instruction"
    documents = _by_id(folder.file("corpus.jsonl"), _document)
    rows = _by_id(folder.file("queries.jsonl"), _instructed if instructed else _asked)
    queries, instructions = ({i: row[part] for i, row in rows.items()} for part in (0, 1))
    lines = _grades(folder.file("qrels.tsv"))
    no_query = [q for q, _, _ in lines if q not in queries]
    no_document = [d for q, d, _ in lines if q in queries and d not in documents]
    negative = [q for q, _, grade in lines if grade < 0]
    grades: dict[str, dict[str, int]] = {q: {} for q in queries}
    for query, document, grade in lines:
        if query in queries and document in documents:
            grades[query][document] = max(0, grade)
    changed = _pairs_of_queries(folder, grades) if instructed else {}
    candidates: dict[str, list[str]] | None = None
    if instructed:
        kept = [stem + end for stem in changed for end in (ORIGINAL, CHANGED)]
        both = {stem: list(dict.fromkeys([*grades[stem + ORIGINAL], *grades[stem + CHANGED]])) for stem in changed}
        candidates = {stem + end: both[stem] for stem in changed for end in (ORIGINAL, CHANGED)}
        lacking = "queries want the same documents under both instructions, and are left out"
    else:
        kept = [q for q in queries if any(grades[q].values())]
        lacking = "queries have no relevant document, and are left out"
        if folder.kind == "reranking":
            candidates = {q: list(grades[q]) for q in kept}
    if not kept:
        raise DataError(
            f"{folder.path}: nothing is left to score: {len(queries)} {lacking}; of {len(lines)} lines in qrels.tsv "
            f"{len(no_query)} name an unknown query and {len(no_document)} an unknown document: check the ids"
        )
    kept_set = set(kept)
    warnings = [
        _count(no_query, "lines of qrels.tsv name a query that is not in queries.jsonl, and are left out"),
        _count(no_document, "lines of qrels.tsv name a document that is not in corpus.jsonl, and are left out"),
        _count(negative, "lines of qrels.tsv have a negative grade, which counts as 0"),
        _count([q for q in queries if q not in kept_set], lacking),
        _count([q for q in kept if not queries[q].strip()], "queries are empty"),
        _count([i for i, parts in documents.items() if not "".join(parts).strip()], "documents are empty"),
    ]
    return SearchSet(
        documents,
        {q: queries[q] for q in kept},
        {q: instructions[q] for q in kept} if instructed else {},
        {q: grades[q] for q in kept},
        candidates,
        changed,
        [w for w in warnings if w],
    )


def read_pairs(folder: LocalFolder) -> PairSet:
    """Read a set of the kinds sts, pairclf or bitext.

    Raises DataError: a malformed line, fewer than two pairs, or labels or scores that are all the same.
    """
    path = folder.file("pairs.jsonl")
    names = ("src", "tgt") if folder.kind == "bitext" else ("text1", "text2")
    left: list[str] = []
    right: list[str] = []
    values: list[float] = []
    for where, row in _rows(path):
        left.append(_text(row, names[0], where))
        right.append(_text(row, names[1], where))
        if folder.kind == "sts":
            values.append(_score(row, where))
        elif folder.kind == "pairclf":
            values.append(_zero_or_one(row, where))
    if len(left) < 2:
        raise DataError(f"{path} has {len(left)} pairs: at least 2 are needed")
    if folder.kind != "bitext" and len(set(values)) < 2:
        what = "scores" if folder.kind == "sts" else "labels"
        raise DataError(f"{path}: all {len(values)} {what} are {values[0]:g}: there is nothing to tell apart")
    empty = [str(i + 1) for i, (a, b) in enumerate(zip(left, right, strict=True)) if not (a.strip() and b.strip())]
    warning = _count(empty, "pairs have an empty text, at line")
    return PairSet(left, right, values, [warning] if warning else [])


def read_labels(folder: LocalFolder, *, shots: int = 0) -> LabelSet:
    """Read a set of the kinds classification or clustering. shots: training texts that a classifier takes a label.

    Raises DataError: a malformed line, no texts, or fewer than two labels.
    """
    named = folder.kind == "classification"
    train = _labelled(folder.file("train.jsonl")) if named else []
    test = _labelled(folder.file("test.jsonl"))
    for part, rows in (("train.jsonl", train), ("test.jsonl", test)):
        found = {label for _, label in rows}
        if len(found) < 2 and (named or part == "test.jsonl"):
            label = f" ({next(iter(found))!r})" if found else ""
            raise DataError(f"{folder.path}: {part} has {len(found)} labels{label}, at least 2 are needed")
    labels = sorted({label for _, label in (*train, *test)})
    number = {label: i for i, label in enumerate(labels)}
    sizes = Counter(label for _, label in train)
    warnings = [
        _count([str(i + 1) for i, (text, _) in enumerate(test) if not text.strip()], "texts are empty, at line"),
    ]
    if named:
        unseen = Counter(label for _, label in test if not sizes[label])
        few = [label for label in sizes if sizes[label] < shots]
        warnings += [
            _count(list(unseen.elements()), "test texts have a label that no training text has"),
            _count(few, f"labels have fewer than the {shots} training texts that a classifier takes of each"),
        ]
    return LabelSet(
        [(text, number[label]) for text, label in train],
        [(text, number[label]) for text, label in test],
        labels,
        [w for w in warnings if w],
    )


def _pairs_of_queries(folder: LocalFolder, grades: dict[str, dict[str, int]]) -> dict[str, list[str]]:
    """Query id without its end → documents that the changed instruction no longer wants; pairs without any are absent.

    Raises DataError: a query without its partner.
    """
    changed: dict[str, list[str]] = {}
    for query in grades:
        stem = query.removesuffix(ORIGINAL).removesuffix(CHANGED)
        if stem == query or not {stem + ORIGINAL, stem + CHANGED} <= grades.keys():
            raise DataError(
                f"{folder.path}: query {query!r} has no partner: queries come in pairs, <id>{ORIGINAL} and "
                f"<id>{CHANGED}, which differ in their instruction"
            )
        wanted, still = grades[stem + ORIGINAL], grades[stem + CHANGED]
        if dropped := [d for d, grade in wanted.items() if grade and not still.get(d)]:
            changed[stem] = dropped
    return changed


# -------------------------------------------------------------------------------------------- lines


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line that is not blank. Raises DataError."""
    for where, line in _lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        yield where, row


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _by_id(path: Path, value: Callable[[dict[str, Any], str], Value]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for where, row in _rows(path):
        identity = row.get("id")
        if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
            raise DataError(f"{where}: 'id' must be a text or a whole number, got {identity!r:.40}")
        if str(identity) in found:
            raise DataError(f"{where}: the id {identity!r} occurs a second time")
        found[str(identity)] = value(row, where)
    if not found:
        raise DataError(f"{path} is empty")
    return found


def _document(row: dict[str, Any], where: str) -> tuple[str, str]:
    return (_text(row, "title", where) if row.get("title") is not None else "", _text(row, "text", where))


def _asked(row: dict[str, Any], where: str) -> tuple[str, str]:
    return _text(row, "text", where), ""


def _instructed(row: dict[str, Any], where: str) -> tuple[str, str]:
    return _text(row, "text", where), _text(row, "instruction", where)


def _grades(path: Path) -> list[tuple[str, str, int]]:
    lines: list[tuple[str, str, int]] = []
    for where, line in _lines(path):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(
                f"{where}: expected query id, document id and grade, with tabs between; got {len(fields)} fields"
            )
        try:
            lines.append((fields[0], fields[1], int(fields[2])))
        except ValueError:
            if where == f"{path}:1":  # a header
                continue
            raise DataError(f"{where}: the grade must be a whole number, got {fields[2]!r:.40}") from None
    return lines


def _labelled(path: Path) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for where, row in _rows(path):
        label = row.get("label")
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            raise DataError(f"{where}: 'label' must be a text or a whole number, got {label!r:.40}")
        rows.append((_text(row, "text", where), str(label)))
    return rows


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be a text, got {value!r:.40}; the row has {', '.join(row) or 'none'}")
    return value


def _score(row: dict[str, Any], where: str) -> float:
    value = row.get("score")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: 'score' must be a finite number, got {value!r:.40}")
    return float(value)


def _zero_or_one(row: dict[str, Any], where: str) -> int:
    value = row.get("label")
    if value not in (0, 1, "0", "1"):
        raise DataError(f"{where}: 'label' must be 0 or 1, got {value!r:.40}")
    return int(value)


def _count(found: Sequence[str], what: str) -> str:
    """As in "3 lines are left out (a, b, c)"; empty where nothing was found."""
    if not found:
        return ""
    names = list(dict.fromkeys(found))
    return f"{len(found):,} {what} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
