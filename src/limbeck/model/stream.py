"""Texts of any number → vectors, a batch at a time, in order.  n: texts of a batch, D: dims."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from limbeck.errors import ConfigError, TextError

Vectors: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]
"""What `Encoder.encode` gives for many texts: vectors [n, D]; in int8, codes [n, D] and scales [n]."""

Item = TypeVar("Item")

CHUNK = 16_384  # texts: a pass has texts of like length, tokens are made beside passes, and memory stays in bounds


class TextEncoder(Protocol):
    """What is needed of a model; `limbeck.load` gives one."""

    truncated: int  # texts that the last call of `encode` cut

    @property
    def dim(self) -> int:
        """Full width of its vectors."""
        ...

    @property
    def max_tokens(self) -> int:
        """Where it cuts texts."""
        ...

    @property
    def runtime(self) -> Any:
        """How it runs: `backend`, `device` and `precision`; asked only for shards."""
        ...

    @property
    def projection(self) -> Any:
        """The map into the teacher's space; asked only for vectors of that space."""
        ...

    def fingerprint_of(self, task: Any, *, space: Any, dim: int | None) -> str:
        """What changes when vectors of the task do; asked only for shards."""
        ...

    def encode(
        self,
        texts: list[str],
        *,
        role: Any,
        task: Any,
        dim: int | None,
        precision: Any,
        on_long: Any,
        space: Any,
        progress: Callable[[int], None] | None,
    ) -> Any:
        """`Vectors` of texts; arguments as of `Encoder.encode`."""
        ...

    def route(self, texts: Sequence[str], *, role: str) -> Mapping[str, float]:
        """The blend of tasks that suits the texts; asked only for the task "auto"."""
        ...


def encode_stream(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    chunk: int = CHUNK,
    role: str = "document",
    task: str | Mapping[str, float] | None = None,
    **options: Any,
) -> Iterator[Vectors]:
    """Encode as `Encoder.encode_stream` says.

    Raises ConfigError at once: one text instead of many, a list of tasks, chunk < 1, options that do not fit (with
    "auto", these at the first batch). TextError, with the place of the text in the stream, at the batch that holds it.
    """
    if isinstance(texts, str):
        raise ConfigError("a stream is of many texts, got one str: use `encode`, or give [text]")
    if task is not None and not isinstance(task, str | Mapping):
        raise ConfigError("a stream has one task, or one blend of tasks: encode the texts of each task apart")
    if chunk < 1:
        raise ConfigError(f"chunk must be at least 1 text, got {chunk}")
    if task != "auto":
        encoder.encode([], role=role, task=task, **options)  # for what it raises
    return _batches(encoder, texts, chunk, role, task, options)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one of what is left; no item is taken before its list is asked for."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _batches(
    encoder: TextEncoder,
    texts: Iterable[str],
    chunk: int,
    role: str,
    task: str | Mapping[str, float] | None,
    options: Mapping[str, Any],
) -> Iterator[Vectors]:
    done = 0
    try:
        for batch in chunks(texts, chunk):
            if task == "auto":
                task = encoder.route(batch, role=role)
            try:
                vectors = encoder.encode(batch, role=role, task=task, **options)
            except TextError as error:
                raise TextError(done + error.index, error.reason) from None
            yield vectors
            done += len(batch)
    finally:
        if isinstance(texts, Generator):  # who stops reading vectors early wants no more texts
            texts.close()
