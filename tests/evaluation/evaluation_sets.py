"""Small evaluation sets in folders, and a model that counts words: what `limbeck evaluate` is tested on."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIM = 64
TOPICS = {
    "cats": ["cats purr softly", "a cat hunts mice", "kittens sleep all day", "the cat drinks milk", "mice fear cats"],
    "stocks": ["stocks fell today", "the bond market rose", "shares of a bank", "interest rates fell", "a bank rose"],
    "soup": ["tomato soup with basil", "boil the soup slowly", "basil and cream", "salt the tomato", "cream of leek"],
}
DOCUMENTS = {f"d{i}": text for i, text in enumerate(t for texts in TOPICS.values() for t in texts)}
QUERIES = {"q0": "cats purr", "q1": "mice fear the cat", "q2": "bond market", "q3": "tomato soup", "q4": "leek"}
GRADES = {"q0": {"d0": 2, "d4": 1}, "q1": {"d4": 1}, "q2": {"d6": 1}, "q3": {"d10": 1, "d13": 1}, "q4": {"d14": 1}}


class WordCounts:
    """Implements `subjects.Subject`: signed hashed bags of words. A query counts its first word twice."""

    kind = "sentence-transformers"
    folder: Path | None = None
    max_tokens: int | None = None
    parameters: int | None = 7
    notes: Sequence[str] = ()

    def __init__(self, name: str = "words", dim: int = DIM, adapters: Sequence[str] = ()) -> None:
        self.name, self.dim, self.dims, self.adapters = name, dim, [dim // 2, dim], adapters
        self.calls: list[tuple[list[str], str | None, str | None]] = []  # texts, role, adapter

    def fingerprint(self, adapter: str | None) -> str:
        return f"{self.name} {self.dim} {adapter}"

    def encode(self, texts: Sequence[str], *, role: str | None, adapter: str | None) -> np.ndarray:
        self.calls.append((list(texts), role, adapter))
        return np.stack([self.vector(text, role) for text in texts])

    def vector(self, text: str, role: str | None = None) -> np.ndarray:
        words = text.lower().split() or ["(nothing)"]
        vector = np.full(self.dim, 0.01, np.float32)
        for word in [*words, *(words[:1] if role == "query" else [])]:
            digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            vector[digest % self.dim] += 1 if digest >> 63 else -1
        return vector

    @property
    def texts(self) -> list[str]:
        """All that it was made to encode."""
        return [text for texts, _, _ in self.calls for text in texts]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON lines; a string is written as it stands. A name that ends in .gz is packed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_search(
    root: Path,
    kind: str = "retrieval",
    name: str = "pets",
    *,
    documents: Mapping[str, str] = DOCUMENTS,
    queries: Mapping[str, str] = QUERIES,
    grades: Mapping[str, Mapping[str, int]] = GRADES,
    packed: bool = False,
) -> Path:
    folder, end = root / kind / name, ".gz" if packed else ""
    write_rows(folder / f"corpus.jsonl{end}", ({"id": i, "title": "", "text": t} for i, t in documents.items()))
    write_rows(folder / f"queries.jsonl{end}", ({"id": i, "text": t} for i, t in queries.items()))
    write_rows(folder / f"qrels.tsv{end}", (f"{q}\t{d}\t{g}" for q, of in grades.items() for d, g in of.items()))
    return folder


def write_instruction(root: Path, name: str = "wishes") -> Path:
    """Two pairs of queries; of each, one document is no longer wanted under the changed instruction."""
    folder = root / "instruction" / name
    write_rows(folder / "corpus.jsonl", ({"id": i, "text": t} for i, t in DOCUMENTS.items()))
    asked = {"p": ("cats", "purr softly", "hunts mice"), "s": ("soup", "tomato basil", "boil slowly")}
    rows = [
        {"id": f"{q}-{end}", "text": text, "instruction": wish}
        for q, (text, *wishes) in asked.items()
        for end, wish in zip(("og", "changed"), wishes, strict=True)
    ]
    write_rows(folder / "queries.jsonl", rows)
    lines = ["p-og\td0\t1", "p-og\td1\t1", "p-changed\td0\t0", "p-changed\td1\t1"]
    lines += ["s-og\td10\t1", "s-og\td11\t1", "s-changed\td10\t0", "s-changed\td11\t1"]
    write_rows(folder / "qrels.tsv", lines)
    return folder


def write_pairs(root: Path, kind: str = "sts", name: str = "alike") -> Path:
    texts = list(DOCUMENTS.values())
    pairs = [(texts[i], texts[j]) for i, j in [(0, 4), (0, 5), (1, 3), (10, 13), (5, 8), (6, 9), (2, 11), (12, 14)]]
    fields = {"sts": "score", "pairclf": "label"}
    values = {"sts": [3.5, 0, 4, 4.5, 3, 2, 0.5, 1], "pairclf": [1, 0, 1, 1, 1, 0, 0, 0]}
    if kind == "bitext":
        rows = [{"src": a, "tgt": f"{a} indeed"} for a, _ in pairs]
    else:
        rows = [{"text1": a, "text2": b, fields[kind]: v} for (a, b), v in zip(pairs, values[kind], strict=True)]
    return write_rows(root / kind / name / "pairs.jsonl", rows).parent


def write_labels(root: Path, kind: str = "classification", name: str = "topics") -> Path:
    rows = [{"text": text, "label": label} for label, texts in TOPICS.items() for text in texts]
    folder = root / kind / name
    write_rows(folder / "test.jsonl", rows)
    if kind == "classification":
        write_rows(folder / "train.jsonl", [row | {"text": f"{row['text']} again"} for row in rows] * 2)
    return folder


def write_all(root: Path) -> Path:
    """One set of each kind."""
    for kind in ("retrieval", "reranking", "longdoc"):
        write_search(root, kind, f"{kind}-set", packed=kind == "longdoc")
    write_instruction(root)
    for kind in ("sts", "pairclf", "bitext"):
        write_pairs(root, kind, f"{kind}-set")
    for kind in ("classification", "clustering"):
        write_labels(root, kind, f"{kind}-set")
    return root
