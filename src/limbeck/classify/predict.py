"""Files of texts → JSON lines of labels, in memory that does not grow with the input."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from limbeck.classify.head import Label
from limbeck.classify.saved import Classifier
from limbeck.encoding.reading import Inputs, Row, read_rows
from limbeck.encoding.vectors import Model, vectors_of
from limbeck.errors import ConfigError
from limbeck.files import atomic_write
from limbeck.folders import full_disk_named
from limbeck.model.stream import chunks

_CHUNK = 2048  # texts: enough for passes of like length, few enough that a pipe sees labels soon
_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Stats:
    """What was done."""

    texts: int
    labels: dict[str, int]  # each label's texts, the commonest first
    seconds: float  # encoding and writing; loading the model is not counted
    out: str
    truncated: int  # texts that were cut at
    max_tokens: int

    def __str__(self) -> str:
        """One line for people."""
        where = "standard output" if self.out == "-" else self.out
        shown = [f"{label} {n:,}" for label, n in list(self.labels.items())[:8]]
        more = f", and {len(self.labels) - 8} more labels" if len(self.labels) > 8 else ""
        cut = f"; {self.truncated:,} of them cut at {self.max_tokens:,} tokens" if self.truncated else ""
        return f"{self.texts:,} texts → {where} in {self.seconds:.1f} s: {', '.join(shown)}{more}{cut}"


def check_out(out: str) -> None:
    """Raise ConfigError for an output that is neither - nor a file of JSON lines."""
    if out != "-" and (not out.endswith(_ENDINGS) or Path(out).is_dir()):
        raise ConfigError(f"labels are written as JSON lines, not to {out!r}: end it in .jsonl, or use -")


def predict_file(
    classifier: Classifier,
    model: Model,
    inputs: Inputs,
    out: str,
    *,
    every: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Stats:
    """Classify texts, chunk by chunk. Row N of the output is row N of the input; a file appears whole or not at all.

    Args:
        classifier: made with this model.
        model: as `limbeck.load` gives it.
        inputs: as `find_inputs` finds them.
        out: FILE.jsonl, or "-" for standard output. Objects with "text", or "id" where ids were asked for; "label" and
            "probability".
        every: also "probabilities", an object with that of each label, the likeliest first.
        progress: called with the number of texts done since the last call.

    Raises:
        ConfigError: another ending of `out`.
        ModelError: the classifier was made with another model.
        DataError: as `read_rows`, and, naming its line, for a text that cannot be encoded. A full disk.
    """
    check_out(out)
    classifier.check_model(model)
    start = time.perf_counter()
    counts: Counter[Label] = Counter()
    cut = 0

    def write(to: IO[str]) -> None:
        nonlocal cut
        for rows in chunks(read_rows(inputs), _CHUNK):
            for line, label in _lines(classifier, model, rows, every, progress):
                to.write(line)
                counts[label] += 1
            cut += model.truncated
            to.flush()

    if out == "-":
        write(sys.stdout)
    else:
        path = Path(out)
        with full_disk_named(path), atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            write(file)
    return Stats(
        texts=counts.total(),
        labels={str(label): n for label, n in counts.most_common()},
        seconds=round(time.perf_counter() - start, 3),
        out=out,
        truncated=cut,
        max_tokens=model.max_tokens,
    )


def _lines(
    classifier: Classifier, model: Model, rows: list[Row], every: bool, progress: Callable[[int], None] | None
) -> Iterator[tuple[str, Label]]:
    """A line of JSON for each row, and its label."""
    head, made = classifier.head, classifier.manifest
    texts, places = [row.text for row in rows], [row.place for row in rows]
    vectors = vectors_of(model, texts, places, task=classifier.task, dim=made.dim, progress=progress)
    logits = head.logits(vectors)
    probabilities = head.probabilities(vectors)
    for row, of_label, p in zip(rows, logits, probabilities, strict=True):
        best = int(of_label.argmax())  # of the logits: probabilities may be equal where logits are not
        found: dict[str, Any] = {"text": row.text} if row.id is None else {"id": row.id}
        found |= {"label": head.labels[best], "probability": _rounded(p[best])}
        if every:
            order = (-of_label).argsort(kind="stable")
            found["probabilities"] = {str(head.labels[i]): _rounded(p[i]) for i in order}
        yield json.dumps(found, ensure_ascii=False) + "\n", head.labels[best]


def _rounded(probability: float) -> float:
    return round(float(probability), 6)
