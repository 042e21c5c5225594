"""Texts from files or standard input → vectors in a file or a folder of shards. Output row N is input row N.

However long the input is, memory holds a chunk of it at a time.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from limbeck.compress import vector_bytes
from limbeck.encoding.reading import Inputs, Row, identities, read_rows
from limbeck.encoding.shards import Sharding, write_shards
from limbeck.encoding.writing import WRITERS, Encoded, format_of, write_lines
from limbeck.errors import ConfigError, DataError, TextError
from limbeck.files import atomic_write
from limbeck.folders import full_disk_named
from limbeck.model.stream import CHUNK as _CHUNK
from limbeck.model.stream import TextEncoder, chunks

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How texts are encoded; as the arguments of `Encoder.encode`."""

    role: Literal["query", "document"] = "document"
    task: str | Mapping[str, float] | None = None
    dim: int | None = None
    precision: Literal["float32", "int8", "binary", "ubinary"] = "float32"
    on_long: Literal["truncate", "error"] = "truncate"
    space: Literal["student", "teacher"] = "student"


@dataclass(frozen=True, slots=True)
class Stats:
    """What was done."""

    texts: int  # in the output
    numbers: int  # in a row of the output: the dims, or an eighth of them at one bit each
    precision: str
    task: str | None  # as on the command line; of "auto", what it chose
    bytes: int  # of all vectors
    seconds: float  # encoding and writing; loading the model is not counted
    texts_per_second: float  # of those that were encoded now
    out: str
    truncated: int  # texts that were cut, of those that were encoded now, at
    max_tokens: int
    shards: int | None = None  # None = a single file
    kept: int = 0  # texts of shards that were there before

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.bytes / 2**20:.1f} MiB" if self.bytes >= 2**20 else f"{self.bytes:,} bytes"
        where = "standard output" if self.out == "-" else self.out
        where += f" ({self.shards:,} shards)" if self.shards is not None else ""
        task = f" for {self.task}" if self.task else ""
        cut = f"; {self.truncated:,} of them cut at {self.max_tokens:,} tokens" if self.truncated else ""
        kept = f"; {self.kept:,} of them were there before" if self.kept else ""
        speed = f", {self.texts_per_second:,.0f} texts/s" if self.kept < self.texts else ""
        return (
            f"{self.texts:,} texts × {self.numbers} {self.precision} ({size}){task} in {self.seconds:.1f} s"
            f"{speed} → {where}{cut}{kept}"
        )


def parse_task(text: str) -> str | dict[str, float]:
    """Read a task of a command line: a name, or a blend as in "retrieval=0.7,clustering=0.3". Raises ConfigError."""
    if "=" not in text:
        return text
    try:
        return {name.strip(): float(weight) for name, weight in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ConfigError(f"expected a task, or a blend such as retrieval=0.7,clustering=0.3; got {text!r}") from None


def task_words(task: str | Mapping[str, float] | None) -> str | None:
    """Write a task as `parse_task` reads it."""
    return ",".join(f"{name}={weight}" for name, weight in task.items()) if isinstance(task, Mapping) else task


def is_folder(out: str) -> bool:
    """Whether an output is a folder of shards: its name ends in /, or it is one."""
    return out.endswith("/") or Path(out).is_dir()


def encode_file(
    encoder: TextEncoder,
    texts: Inputs | Iterable[str],
    out: str,
    settings: Settings | None = None,
    *,
    sharding: Sharding | None = None,
    progress: Progress | None = None,
) -> Stats:
    """Encode and write, chunk by chunk; a file appears whole or not at all.

    Args:
        encoder: as `limbeck.load` gives it.
        texts: at least one; files as `find_inputs` finds them, or texts.
        out: where vectors go:

            - FILE.parquet or FILE.arrow: columns "text", or "id" where ids were asked for; "vector", lists of one
              length; in int8 "scale";
            - FILE.npy: an array [N, D]. FILE.npz, in int8 instead of it: "codes" [N, D], "scales" [N] and "task";
            - FILE.jsonl: objects with "text" or "id", "vector" and, where there are, "scale" and "task"; or "-", the
              same on standard output;
            - FOLDER/: shards that are such files, see `limbeck.encoding.shards`. Those that are there already are not
              made again, if all that decides their bytes is the same.
        settings: how to encode. The task "auto" is settled by the first 16,384 texts, and all vectors lie in one space.
        sharding: how to cut a folder into shards; if it is given, `out` is a folder whatever its name.
        progress: called with the number of texts done since the last call.

    Raises:
        ConfigError: another ending of `out`, or a folder of what cannot be read a second time.
        DataError: as `read_rows` and, naming the line, a text that cannot be encoded, or is too long where that is an
            error. A full disk. As `write_shards`.
    """
    settings = settings or Settings()
    if sharding is None and is_folder(out):
        sharding = Sharding()
    if sharding and not isinstance(texts, Inputs):
        raise ConfigError("shards are resumed by reading the input again: give files, as `find_inputs` finds them")
    ids = isinstance(texts, Inputs) and texts.id is not None
    form = format_of(f"{out}*.{sharding.format}" if sharding else out, settings.precision, ids=ids)
    start = time.perf_counter()
    rows, settings = _settled(encoder, read_rows(texts) if isinstance(texts, Inputs) else _rows(texts), settings)
    task = task_words(settings.task)
    counts: Counter[str] = Counter()

    def write(path: Path, part: Iterator[Row]) -> int:
        before = counts["texts"]
        with full_disk_named(path), atomic_write(path) as temporary:
            WRITERS[form](temporary, _encoded(encoder, part, settings, counts, progress), task)
        return counts["texts"] - before

    written = None
    if sharding and isinstance(texts, Inputs):
        key = _key(encoder, texts, settings, sharding)
        written = write_shards(Path(out), rows, key, sharding, write, kept=progress)
    elif out == "-":
        write_lines(sys.stdout, _encoded(encoder, rows, settings, counts, progress), task)
    else:
        write(Path(out), rows)
    seconds = time.perf_counter() - start
    total, dim = written.rows if written else counts["texts"], _width(encoder, settings)
    return Stats(
        texts=total,
        numbers=dim // 8 if settings.precision.endswith("binary") else dim,
        precision=settings.precision,
        task=task,
        bytes=total * vector_bytes(dim, settings.precision),
        seconds=round(seconds, 3),
        texts_per_second=round(counts["texts"] / seconds, 1),
        out=out,
        truncated=counts["truncated"],
        max_tokens=encoder.max_tokens,
        shards=written.shards if written else None,
        kept=written.kept if written else 0,
    )


def _rows(texts: Iterable[str]) -> Iterator[Row]:
    number = 0
    for number, text in enumerate(texts, start=1):
        yield Row(text, None, f"line {number}")
    if not number:
        raise DataError("there are no texts to encode")


def _settled(encoder: TextEncoder, rows: Iterator[Row], settings: Settings) -> tuple[Iterator[Row], Settings]:
    """All rows, of which there is at least one, and the settings with what "auto" means for them."""
    auto = settings.task == "auto"
    first = list(islice(rows, _CHUNK if auto else 1))
    if auto:
        settings = replace(settings, task=encoder.route([row.text for row in first], role=settings.role))
    return chain(first, rows), settings


def _encoded(
    encoder: TextEncoder,
    rows: Iterator[Row],
    settings: Settings,
    counts: Counter[str],
    progress: Progress | None,
) -> Iterator[Encoded]:
    """Chunks with their vectors; `counts` is told of "texts" and of those "truncated"."""
    for chunk in chunks(rows, _CHUNK):
        try:
            found = encoder.encode([row.text for row in chunk], **asdict(settings), progress=progress)
        except TextError as error:
            raise DataError(f"{chunk[error.index].place} {error.reason}") from None
        counts.update(texts=len(chunk), truncated=encoder.truncated)
        yield Encoded(chunk, *found) if isinstance(found, tuple) else Encoded(chunk, found, None)


def _width(encoder: TextEncoder, settings: Settings) -> int:
    return encoder.projection.teacher_dim if settings.space == "teacher" else settings.dim or encoder.dim


def _key(encoder: TextEncoder, inputs: Inputs, settings: Settings, sharding: Sharding) -> dict[str, Any]:
    """What decides the bytes of shards, beside their number of rows."""
    how = encoder.runtime
    return {
        "model": encoder.fingerprint_of(settings.task, space=settings.space, dim=settings.dim),
        "runtime": f"{how.backend} {how.precision} on {how.device}",
        **asdict(settings),
        "task": task_words(settings.task),
        "dim": settings.dim or encoder.dim,
        "shard_format": sharding.format,
        "field": inputs.field,
        "id": inputs.id,
        "inputs": identities(inputs),
    }
