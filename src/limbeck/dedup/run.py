"""The whole of it: inputs → corpus → threshold → groups or pairs → files, which appear together or not at all."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from limbeck.dedup.calibration import LEAST_TEXTS, Expected, read_labelled, sample_of, scored
from limbeck.dedup.corpus import Corpus, read_corpus
from limbeck.dedup.groups import Keep, Shape, group
from limbeck.dedup.rest import check_rest, write_rest
from limbeck.dedup.writing import (
    GROUP_FIELDS,
    PAIR_FIELDS,
    Found,
    format_of,
    kept_rows,
    write_groups,
    write_pairs,
    writer,
)
from limbeck.encode_file import task_words
from limbeck.encoding.reading import Inputs, count_rows, read_rows
from limbeck.encoding.vectors import Model, Task
from limbeck.errors import ConfigError
from limbeck.files import atomic_write
from limbeck.folders import full_disk_named

Bar = Callable[[str, Callable[[], int | None]], AbstractContextManager[Callable[[int], None]]]

PRECISION = 0.95


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    inputs: Inputs
    out: str  # FILE.jsonl, FILE.csv, or "-"
    rest: str | None = None  # where the input without its duplicates goes
    pairs: bool = False  # write pairs, and make no groups
    keep: Keep = "first"
    shape: Shape = "star"
    threshold: float | None = None
    labelled: str | None = None
    precision: float | None = None  # that a threshold is chosen for
    task: Task = None
    dim: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError for what does not go together, or cannot be written."""
        format_of(self.out)
        if self.threshold is not None and self.precision is not None:
            raise ConfigError("a threshold is given or chosen for a precision, not both: leave one of them out")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ConfigError(f"a threshold is a cosine, from -1 to 1, got {self.threshold:g}")
        if self.precision is not None and not 0 < self.precision < 1:
            raise ConfigError(f"a precision is above 0 and below 1, got {self.precision:g}")
        if self.rest is not None:
            if self.pairs:
                raise ConfigError("pairs do not say which texts are kept: leave out --pairs or --kept")
            if self.rest == self.out:
                raise ConfigError(f"duplicates and what is kept cannot both go to {self.out}")
            check_rest(self.inputs, self.rest)


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done."""

    texts: int  # rows
    different: int  # texts, byte for byte
    found: Found
    expected: Expected
    task: str | None
    out: str
    kept: str | None
    truncated: int  # texts that were cut at
    max_tokens: int
    seconds: float  # without loading the model

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "texts": self.texts,
            "different": self.different,
            "groups": self.found.groups,
            "duplicates": self.found.duplicates,
            "pairs": self.found.pairs,
            **self.expected.as_dict(),
            "task": self.task,
            "out": self.out,
            "kept": self.kept,
            "truncated": self.truncated,
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """For people."""
        found = self.found
        count = (
            f"{found.pairs:,} near pairs"
            if found.pairs is not None
            else f"{found.duplicates:,} duplicates in {found.groups:,} groups"
        )
        where = "standard output" if self.out == "-" else self.out
        lines = [str(self.expected), f"{count} among {self.texts:,} texts in {self.seconds:.1f} s → {where}"]
        if self.kept and found.duplicates is not None:
            lines.append(f"{self.texts - found.duplicates:,} texts that are kept → {self.kept}")
        if self.truncated:
            lines.append(f"{self.truncated:,} texts were cut at {self.max_tokens:,} tokens, and compared by the rest")
        return lines


def dedup(model: Model, request: Request, *, bar: Bar) -> Summary:
    """Find near duplicates and write them.

    Args:
        model: as `limbeck.load` gives it.
        request: what is asked for.
        bar: shows how far each part is, as `limbeck.cli_parts.progress` does.

    Raises:
        ConfigError: as `Request.check`; too few texts to choose a threshold by. As `read_corpus`.
        DataError: as `read_corpus`, `read_labelled`, `Labelled.choose`, `Sample.choose` and `write_rest`. A full disk.
    """
    request.check()
    start = time.perf_counter()
    labelled = read_labelled(request.labelled) if request.labelled else None  # what is wrong with it is said first
    paths = [Path(out) for out in (request.out, request.rest) if out not in (None, "-")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    folder = paths[0].parent if paths else None
    with ExitStack() as stack:
        stack.enter_context(full_disk_named(paths[0] if paths else Path(tempfile.gettempdir(), "vectors")))
        with bar("encoding", lambda: count_rows(request.inputs)) as advance:
            rows = read_rows(request.inputs)
            reading = read_corpus(model, rows, task=request.task, dim=request.dim, folder=folder, progress=advance)
            corpus = stack.enter_context(reading)
        expected = _expected(model, corpus, request, labelled, bar)
        # first all is written, then all is renamed
        out = None if request.out == "-" else stack.enter_context(atomic_write(Path(request.out)))
        rest = None if request.rest is None else stack.enter_context(atomic_write(Path(request.rest)))
        if out is None:
            found = _write(sys.stdout, rest, corpus, expected.threshold, request, bar)
        else:
            with open(out, "w", encoding="utf-8", newline="") as file:
                found = _write(file, rest, corpus, expected.threshold, request, bar)
        return Summary(
            texts=len(corpus.rows),
            different=len(corpus),
            found=found,
            expected=expected,
            task=task_words(corpus.task),
            out=request.out,
            kept=request.rest,
            truncated=corpus.truncated,
            max_tokens=model.max_tokens,
            seconds=round(time.perf_counter() - start, 3),
        )


def _expected(model: Model, corpus: Corpus, request: Request, labelled: Any, bar: Bar) -> Expected:
    """The threshold, and what to expect of it."""
    given, precision = request.threshold, request.precision or PRECISION
    if labelled is not None:
        pairs, labels = labelled
        with bar("encoding labelled pairs", lambda: None) as advance:
            scores = scored(model, pairs, labels, task=corpus.task, dim=request.dim, progress=advance)
        return scores.choose(precision, seed=request.seed) if given is None else scores.at(given)
    if given is not None and len(corpus) < LEAST_TEXTS:
        return Expected(given, None, None, None, None, "nothing", 0)
    with bar("calibrating", lambda: None) as advance:
        try:
            sample = sample_of(model, corpus, dim=request.dim, seed=request.seed, progress=advance)
        except ConfigError:  # too few long texts
            if given is None:
                raise
            return Expected(given, None, None, None, None, "nothing", 0)
    return sample.choose(precision) if given is None else sample.at(given)


def _write(file: IO[str], rest: Path | None, corpus: Corpus, threshold: float, request: Request, bar: Bar) -> Found:
    form = format_of(request.out)
    times = 2 if request.keep == "central" and not request.pairs else 1
    with bar("comparing", lambda: times * len(corpus)) as advance:
        if request.pairs:
            return write_pairs(writer(file, form, PAIR_FIELDS), corpus, threshold, progress=advance)
        groups = group(corpus, threshold, keep=request.keep, shape=request.shape, progress=advance)
    found = write_groups(writer(file, form, GROUP_FIELDS), corpus, groups)
    if rest is not None:
        write_rest(rest, request.inputs, kept_rows(corpus, groups))
    return found
