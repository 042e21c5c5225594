"""One request for vectors, whatever API it came by.  N: texts, D: dims."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck import compress
from limbeck.errors import ConfigError, DataError, TextError
from limbeck.model.runtime import encode_tokens, use_threads
from limbeck.serve.batching import Batcher, Closed, Full, Row
from limbeck.serve.catalogue import Choice
from limbeck.serve.errors import Refusal
from limbeck.serve.keys import Allowance
from limbeck.serve.metrics import Metrics
from limbeck.serve.settings import Settings
from limbeck.serve.tokens import Long, late_rows, rows_of

_TOKENIZING = 2  # threads: tokens are made beside a forward pass, and the tokenizer has threads of its own

_PARALLEL = 4  # batches at a time, at most: more would each be slower, and none sooner

_AT_ONCE = 500  # characters whose tokens are made in place: to hand them to a thread and back would cost more


@dataclass(frozen=True)
class Ask:
    """What is wanted."""

    texts: Sequence[str]
    choice: Choice
    owner: str  # who asks, for the allowance
    dim: int | None = None  # None = all
    normalise: bool = True
    long: Long = "refuse"
    max_tokens: int | None = None  # of a text; None = the model's
    late: bool = False  # late chunking: the texts are read as one, and get a vector each


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    vectors: np.ndarray  # float32 [N, D]
    task: str | None  # as a request would name it; of "auto", the blend that it was
    tokens: int
    fingerprint: str  # `Encoder.fingerprint_of`: what changes when vectors of the task do

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors.shape[1]

    @property
    def headers(self) -> dict[str, str]:
        """What every API's answer says in its headers."""
        return {
            "X-Limbeck-Task": self.task or "",
            "X-Limbeck-Dims": str(self.dim),
            "X-Limbeck-Fingerprint": self.fingerprint,
        }


class Embedder:
    """An encoder behind a batcher."""

    def __init__(self, encoder: Any, settings: Settings, metrics: Metrics) -> None:
        """Args: encoder: of `limbeck.load`, used by nobody else from now on; settings; metrics."""
        self.encoder, self.settings, self._metrics = encoder, settings, metrics
        self.batch_tokens = settings.batch_tokens or 2 * encode_tokens(encoder.device)
        self._threads = encoder.parallel
        self.batcher = Batcher(
            self._compute,
            batch_tokens=self.batch_tokens,
            queue_tokens=settings.queue_tokens,
            window_seconds=settings.window_ms / 1000,
            threads=min(encoder.parallel, settings.parallel_batches or _PARALLEL),
            watch=metrics,
        )
        metrics.look_at(self.batcher)
        self._tokenizing: ThreadPoolExecutor | None = None
        self._allowance = Allowance(settings.tokens_per_minute)

    async def start(self) -> None:
        """Begin to work: adapters are merged, as many as are held, and a first text is encoded with each.

        From now on the model's folder may be replaced: this server's vectors stay as they are.
        """
        self.encoder.let_go_of_files()
        self._tokenizing = ThreadPoolExecutor(_TOKENIZING, thread_name_prefix="limbeck-tokens")
        self.batcher.start()
        for task in self.encoder.tasks[: self.encoder.hold] or [None]:
            await self.batcher.run(lambda task=task: self.encoder.encode(["first"], task=task))
            self.encoder.fingerprint_of(task)

    async def close(self) -> None:
        """Finish what was accepted, and stop."""
        await self.batcher.close()
        if self._tokenizing is not None:
            self._tokenizing.shutdown(wait=False)

    def checked_dim(self, dim: int | None) -> int:
        """The width of vectors. Raises Refusal: not from 1 to the model's."""
        if dim is not None and not 1 <= dim <= self.encoder.dim:
            raise Refusal(
                422,
                "invalid_dimensions",
                f"dimensions must be from 1 to {self.encoder.dim}, got {dim}; trained widths are "
                f"{', '.join(map(str, self.encoder.dims))}",
                param="dimensions",
            )
        return dim or self.encoder.dim

    async def embed(self, ask: Ask) -> Answer:
        """Encode. Raises Refusal."""
        dim = self.checked_dim(ask.dim)
        if not ask.texts:
            raise Refusal(400, "empty_input", "there is no text: send one or more", param="input")
        if len(ask.texts) > (most := self.settings.request_texts):
            raise Refusal(
                413, "too_many_texts", f"{len(ask.texts):,} texts in one request, over the limit of {most:,}: send less"
            )
        try:
            return await self._embed(ask, dim)
        except Full as full:
            raise Refusal(
                429, "queue_full", "the server is busy: try again later", retry_after=full.retry_after
            ) from None
        except Closed:
            raise Refusal(503, "shutting_down", "the server is shutting down", retry_after=5) from None

    async def _embed(self, ask: Ask, dim: int) -> Answer:
        task, label = ask.choice.task, ask.choice.label
        shares, prefix = await self._chosen(ask)
        if task == "auto":
            task = dict(shares)
            label = ",".join(f"{name}={share:g}" for name, share in shares)
        begun = time.perf_counter()
        if sum(map(len, ask.texts)) <= _AT_ONCE:
            rows = self._rows(ask, prefix)
        else:
            rows = await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._rows, ask, prefix)
        self._metrics.tokenize_seconds.observe(time.perf_counter() - begun)
        tokens = sum(len(row.ids) for row in rows)
        if tokens > (most := self.settings.request_tokens):
            raise Refusal(413, "too_many_tokens", f"{tokens:,} tokens in one request, over the limit of {most:,}")
        self.batcher.check_room(tokens)  # first: nobody pays for what is not taken
        if wait := self._allowance.spend(ask.owner, tokens):
            raise Refusal(429, "rate_limit", "this key's tokens of the minute are used up", retry_after=wait)
        found = np.concatenate(await self.batcher.submit((shares, ask.late), rows))
        named = "blend" if "=" in ask.choice.label else ask.choice.label  # as many labels as there are tasks
        self._metrics.texts.labels(named).inc(len(ask.texts))
        self._metrics.tokens.labels(named).inc(tokens)
        try:
            vectors = compress.truncate(found, dim) if ask.normalise else np.ascontiguousarray(found[:, :dim])
        except DataError as error:
            raise Refusal(500, "no_vector", str(error)) from None
        return Answer(vectors, label, tokens, self.encoder.fingerprint_of(task))

    async def _chosen(self, ask: Ask) -> tuple[Any, str]:
        """Shares and prefix."""
        task, role = ask.choice.task, ask.choice.role
        try:
            if task == "auto":  # the base reads the texts
                return await self.batcher.run(lambda: self.encoder.chosen(task, role=role, texts=ask.texts))
            return self.encoder.chosen(task, role=role)
        except TextError as error:
            raise Refusal(422, "invalid_text", str(error), param="input") from None
        except ConfigError as error:
            raise Refusal(422, "invalid_task", str(error), param="task") from None

    def _rows(self, ask: Ask, prefix: str) -> list[Row]:
        limit = self.encoder.max_tokens
        limit = min(limit, ask.max_tokens or limit)
        if ask.late:
            return late_rows(self.encoder.tokenizer, ask.texts, prefix=prefix, max_tokens=limit)
        return rows_of(self.encoder.tokenizer, ask.texts, prefix=prefix, max_tokens=limit, long=ask.long)

    def _compute(self, key: Hashable, rows: list[Row]) -> Sequence[np.ndarray]:
        shares, late = key  # type: ignore[misc]
        ranges = [row.ranges for row in rows] if late else None
        if self._threads > 1:
            use_threads(max(1, self._threads // max(1, self.batcher.computing)))
        return self.encoder.encode_rows([row.ids for row in rows], shares, ranges=ranges)
