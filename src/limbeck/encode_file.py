"""Texts from a file or standard input → vectors in a file. Row N of the output is line N of the input."""

from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

import numpy as np

from limbeck.errors import ConfigError, DataError, TextError
from limbeck.files import atomic_write

Chunk: TypeAlias = tuple[np.ndarray, np.ndarray | None]

_CHUNK = 4096  # texts encoded between two writes: what a large input holds in memory beside the texts


class TextEncoder(Protocol):
    """What is needed of a model; `limbeck.load` gives one."""

    truncated: int  # texts that the last call of `encode` cut

    @property
    def max_tokens(self) -> int:
        """Where it cuts them."""
        ...

    def encode(self, texts: list[str], *, task: Any, role: Any, dim: int | None, precision: Any, on_long: Any) -> Any:
        """Vectors [N, D] of N texts; in int8, codes [N, D] and scales [N]."""
        ...

    def route(self, texts: Sequence[str], *, role: str) -> Mapping[str, float]:
        """The blend of tasks that suits the texts; asked only for the task "auto"."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How texts are encoded; as the arguments of `Encoder.encode`."""

    role: Literal["query", "document"] = "document"
    task: str | Mapping[str, float] | None = None
    dim: int | None = None
    precision: Literal["float32", "int8", "binary", "ubinary"] = "float32"
    on_long: Literal["truncate", "error"] = "truncate"


@dataclass(frozen=True, slots=True)
class Stats:
    """What was done."""

    texts: int
    numbers: int  # in a row of the output: the dims, or an eighth of them at one bit each
    precision: str
    task: str | None  # as on the command line; of "auto", what it chose
    bytes: int  # of all vectors
    seconds: float  # encoding and writing; loading the model is not counted
    texts_per_second: float
    out: str
    truncated: int  # texts that were cut, at
    max_tokens: int

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.bytes / 2**20:.1f} MiB" if self.bytes >= 2**20 else f"{self.bytes:,} bytes"
        where = "standard output" if self.out == "-" else self.out
        task = f" for {self.task}" if self.task else ""
        cut = f"; {self.truncated:,} of them cut at {self.max_tokens:,} tokens" if self.truncated else ""
        return (
            f"{self.texts:,} texts × {self.numbers} {self.precision} ({size}){task} in {self.seconds:.1f} s, "
            f"{self.texts_per_second:,.0f} texts/s → {where}{cut}"
        )


def read_texts(source: str, field: str | None = None) -> list[str]:
    """Read one text a line, or one JSON object a line and the text from its `field`.

    Args:
        source: a file (".gz" is unpacked), or "-" for standard input.
        field: of the JSON objects; None = plain lines.

    Raises DataError: no such file, not UTF-8, no texts, or a line without that field. ConfigError: a ".jsonl" file
    without `field`.
    """
    if field is None and source.removesuffix(".gz").endswith(".jsonl"):
        raise ConfigError(f"{source} holds JSON: name the field of the text, e.g. --field text")
    name = "standard input" if source == "-" else source
    try:
        with _opened(source) as lines:
            plain = (line.rstrip("\r\n") for line in _decoded(lines, name))
            texts = list(plain) if field is None else list(_fields(plain, field, name))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{name} cannot be unpacked ({error}): copy it anew, or unpack it by hand") from None
    except FileNotFoundError:
        raise DataError(f"no such file: {source}") from None
    if not texts:
        raise DataError(f"{name} holds no texts")
    return texts


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


def encode_file(
    encoder: TextEncoder,
    texts: list[str],
    out: str,
    settings: Settings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Stats:
    """Encode and write, chunk by chunk; the file appears whole or not at all.

    Args:
        encoder: as `limbeck.load` gives it.
        texts: at least one.
        out: FILE.npy (an array [N, D]), FILE.npz (in int8: "codes" [N, D], "scales" [N] and "task"), FILE.jsonl
            (objects with "text", "vector" and, where there are, "scale" and "task"), or "-": JSONL on standard output.
        settings: how to encode. The task "auto" is settled once, by all texts, so that all vectors lie in one space.
        progress: called with the number of texts done since the last call.

    Raises ConfigError: another ending of `out`. DataError that names the line: a text that cannot be encoded, or is too
    long where that is an error.
    """
    settings = settings or Settings()
    array = ".npz" if settings.precision == "int8" else ".npy"
    if out != "-" and not out.endswith((array, ".jsonl")):
        raise ConfigError(
            f"cannot write {settings.precision} vectors to {out!r}: end it in {array} or .jsonl, or use - for JSONL"
        )
    start = time.perf_counter()
    if settings.task == "auto":
        settings = replace(settings, task=encoder.route(texts, role=settings.role))
    task = task_words(settings.task)
    cuts: list[int] = []
    chunks = _encoded(encoder, texts, settings, cuts, progress)
    if out == "-":
        row, size = _write_jsonl(sys.stdout, texts, chunks, task)
    else:
        with atomic_write(Path(out)) as temporary:
            if out.endswith(".npy"):
                row, size = _write_npy(temporary, len(texts), chunks)
            elif out.endswith(".npz"):
                row, size = _write_npz(temporary, chunks, task)
            else:
                with open(temporary, "w", encoding="utf-8") as lines:
                    row, size = _write_jsonl(lines, texts, chunks, task)
    seconds = time.perf_counter() - start
    speed = round(len(texts) / seconds, 1)
    return Stats(
        texts=len(texts),
        numbers=row,
        precision=settings.precision,
        task=task,
        bytes=size,
        seconds=round(seconds, 3),
        texts_per_second=speed,
        out=out,
        truncated=sum(cuts),
        max_tokens=encoder.max_tokens,
    )


@contextmanager
def _opened(source: str) -> Iterator[Iterable[bytes]]:
    if source == "-":
        yield sys.stdin.buffer  # not its text: whether that is UTF-8 depends on the locale
    else:
        with gzip.open(source, "rb") if source.endswith(".gz") else open(source, "rb") as lines:
            yield lines


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}:{number}: not UTF-8 ({error.reason}, byte {error.start + 1} of the line): convert the file, "
                "e.g. with `iconv -f latin1 -t utf-8`"
            ) from None


def _fields(lines: Iterable[str], field: str, name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}:{number}: not JSON ({error})") from None
        text = row.get(field) if isinstance(row, dict) else None
        if not isinstance(text, str):
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{name}:{number}: no text in field {field!r}, the row has {has}")
        yield text


def _encoded(
    encoder: TextEncoder,
    texts: list[str],
    settings: Settings,
    cuts: list[int],
    progress: Callable[[int], None] | None,
) -> Iterator[Chunk]:
    """Vectors [n, D] and their scales [n], or None where they have none; `cuts` gets the number of texts cut."""
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        try:
            found = encoder.encode(chunk, **asdict(settings))
        except TextError as error:
            raise DataError(f"line {start + error.index + 1} {error.reason}") from None
        cuts.append(encoder.truncated)
        yield found if isinstance(found, tuple) else (found, None)
        if progress:
            progress(len(chunk))


# Each writer returns the numbers of a row, and the bytes of all vectors as numbers.


def _write_npy(path: Path, count: int, chunks: Iterator[Chunk]) -> tuple[int, int]:
    first, _ = next(chunks)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(count, first.shape[1]))
    array[: len(first)] = first
    done = len(first)
    for vectors, _ in chunks:
        array[done : done + len(vectors)] = vectors
        done += len(vectors)
    array.flush()
    return first.shape[1], array.nbytes


def _write_npz(path: Path, chunks: Iterator[Chunk], task: str | None) -> tuple[int, int]:
    codes, scales = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    with open(path, "wb") as file:  # by its name, numpy would add an ending
        np.savez(file, allow_pickle=False, codes=codes, scales=scales, **({"task": np.array(task)} if task else {}))
    return codes.shape[1], codes.nbytes + scales.nbytes


def _write_jsonl(lines: IO[str], texts: list[str], chunks: Iterator[Chunk], task: str | None) -> tuple[int, int]:
    done = row = size = 0
    asked = f', "task": {json.dumps(task)}' if task else ""
    for vectors, scales in chunks:
        for i, vector in enumerate(vectors):
            numbers = ",".join(vector.astype(str))  # the shortest text that reads back as the same number
            scale = "" if scales is None else f', "scale": {scales[i]!s}'
            lines.write(
                f'{{"text": {json.dumps(texts[done], ensure_ascii=False)}, "vector": [{numbers}]{scale}{asked}}}\n'
            )
            done += 1
        row, size = vectors.shape[1], size + vectors.nbytes + (0 if scales is None else scales.nbytes)
    return row, size
