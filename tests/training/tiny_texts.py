"""Texts of few words, and the width of the vectors that the tiny teacher makes of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEACHER_DIM = 24
WORDS = (
    "array axis buffer byte cache class code column count data date decode dict digit directory encode error event "
    "field file float format frame function group handle header image index input integer iterator join key label "
    "length level line list lock loop map matrix merge message mode module name number object option order output "
    "packet page parse path pattern process query queue range read record request return row sample scale search "
    "sequence server set shape signal size slice sort source split stack state stream string table task text thread "
    "time token tree tuple type update user value vector version view weight width window word write zone"
).split()


def write_pairs(path: Path, count: int, *, seed: int = 0) -> Path:
    """JSONL of queries and documents; a document repeats words of its query."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        query = draw.sample(WORDS, draw.randint(2, 6))
        rows.append({"q": " ".join(query), "d": " ".join([*query[:2], *draw.choices(WORDS, k=draw.randint(3, 25))])})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_graded(path: Path, count: int, *, seed: int = 1) -> Path:
    """JSONL of two texts and the share of words that they have in common."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        first = draw.sample(WORDS, 8)
        shared = draw.randint(0, 8)
        rows.append({"a": " ".join(first), "b": " ".join([*first[:shared], *draw.sample(WORDS, 8 - shared)])})
        rows[-1]["score"] = shared / 8
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_labelled(path: Path, count: int, *, seed: int = 2) -> Path:
    """JSONL of texts, each of words from its label's quarter of the vocabulary."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        label = i % 4
        rows.append({"text": " ".join(draw.choices(WORDS[label::4], k=draw.randint(5, 12))), "label": f"label {label}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
