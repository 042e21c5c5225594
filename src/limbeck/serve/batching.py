"""Texts of many requests → batches for one compute thread, or a few. Asyncio only: what computes is a function.

A lone request is computed at once. While all threads compute, others come to wait, and the next batch takes from all of
them that change the forward pass in the same way (their key). Every request gets its share of a batch, and one that is
not done goes to the back of the line, so that a large request never holds up a small one by more than a batch. A batch
that is not full is kept open for a moment only if a second request waits already.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Row:
    """A text's tokens, and the ranges of them that get a vector each (None = one vector for all)."""

    ids: np.ndarray  # [T] int32
    ranges: np.ndarray | None = None  # [S, 2]


Compute = Callable[[Hashable, list[Row]], Sequence[np.ndarray]]
"""(key, rows of that key) → an array for each row. Runs in a compute thread, or in several at a time."""


class Watch(Protocol):
    """What is told of the work; metrics are made of it."""

    def waited(self, seconds: float) -> None:
        """From a request's coming to its first batch."""

    def computed(self, *, seconds: float, requests: int, texts: int, tokens: int) -> None:
        """A batch is done."""


class Full(Exception):
    """The queue takes no more now; `retry_after`: seconds until it has probably room."""

    def __init__(self, retry_after: float) -> None:
        """Args: retry_after."""
        super().__init__("the queue is full")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher has been closed, or was not started."""


@dataclass(eq=False, repr=False)  # no repr of all numbers: an error that names a request would write them out
class _Request:
    key: Hashable
    rows: Sequence[Row]
    order: list[int]  # places of rows that wait, the next one last
    found: list[np.ndarray | None]
    future: asyncio.Future[list[np.ndarray]]
    since: float
    owed: int = 0  # tokens that count towards the queue
    begun: bool = False


@dataclass
class _Batch:
    key: Hashable
    parts: list[tuple[_Request, list[int]]] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [request.rows[i] for request, places in self.parts for i in places]


class Batcher:
    """Batches rows of tokens by key. To be used from one event loop."""

    def __init__(
        self,
        compute: Compute,
        *,
        batch_tokens: int,
        queue_tokens: int,
        window_seconds: float = 0.002,
        threads: int = 1,
        watch: Watch | None = None,
    ) -> None:
        """Nothing runs before `start`.

        Args:
            compute: makes vectors of a batch.
            batch_tokens: of a batch; a longer row has a batch to itself.
            queue_tokens: that wait or are computed. A request that is larger is taken when nothing else is there.
            window_seconds: a batch that is not full waits for more, if two requests wait.
            threads: batches that are computed at a time.
            watch: is told of the work.
        """
        self._compute, self._watch = compute, watch
        self._batch_tokens, self._queue_tokens, self._window = batch_tokens, queue_tokens, window_seconds
        self._threads = threads
        self._waiting: deque[_Request] = deque()
        self._tokens, self._rate = 0, 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._pool: ThreadPoolExecutor | None = None
        self._free = asyncio.Semaphore(threads)
        self._computing: set[asyncio.Task[None]] = set()  # the batches that are computed now
        self._task: asyncio.Task[None] | None = None

    @property
    def tokens(self) -> int:
        """That wait or are computed."""
        return self._tokens

    @property
    def requests(self) -> int:
        """That wait, wholly or in part."""
        return len(self._waiting)

    @property
    def computing(self) -> int:
        """Batches that are computed now."""
        return len(self._computing)

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._task is not None and not self._task.done() and not self._closing

    @property
    def retry_after(self) -> float:
        """Seconds in which what waits now will have been computed, as far as can be told: from 1 to 60."""
        return min(60.0, max(1.0, self._tokens / self._rate if self._rate else 1.0))

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="limbeck-compute")
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Take no more, finish what waits, and stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown)

    def check_room(self, tokens: int) -> None:
        """Raise Full where a request of so many tokens would not be taken now."""
        if self._tokens and self._tokens + tokens > self._queue_tokens:
            raise Full(self.retry_after)

    async def submit(self, key: Hashable, rows: Sequence[Row]) -> list[np.ndarray]:
        """Compute rows → an array for each, in order. Cancelled, what has not begun is never computed.

        Args:
            key: all that changes the forward pass.
            rows: at least one.

        Raises Full, Closed, and what computing them raised.
        """
        if not self.alive:
            raise Closed
        lengths = [len(row.ids) for row in rows]
        total = sum(lengths)
        self.check_room(total)
        order = sorted(range(len(rows)), key=lambda i: -lengths[i])  # the shortest last, as it is taken first
        future = asyncio.get_running_loop().create_future()
        request = _Request(key, rows, order, [None] * len(rows), future, time.monotonic(), total)
        self._waiting.append(request)
        self._tokens += total
        self._wake.set()
        try:
            return await future
        finally:
            if request.owed:  # it was cancelled or failed; one that is done is owed nothing, and does not wait
                self._tokens -= request.owed
                request.owed = 0
                with suppress(ValueError):
                    self._waiting.remove(request)

    async def run(self, function: Callable[[], Result]) -> Result:
        """Call a function in a compute thread, between batches. Raises Closed, and what it raises."""
        if self._pool is None or not self.alive:
            raise Closed
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _work(self) -> None:
        while True:
            await self._free.acquire()  # first: until a thread is free, more can come into its batch
            while not self._waiting:
                if self._closing:
                    await asyncio.gather(*self._computing, return_exceptions=True)
                    if not self._waiting:  # a request that was not done is back in the line
                        return
                    continue
                self._wake.clear()
                await self._wake.wait()
            await self._stay_open()
            if not self._waiting:
                self._free.release()
                continue
            task = asyncio.get_running_loop().create_task(self._worked(self._take()))
            self._computing.add(task)
            task.add_done_callback(self._computing.discard)

    async def _worked(self, batch: _Batch) -> None:
        """Compute a batch; what is not done of its requests waits again."""
        try:
            await self._serve(batch)
            for request, _ in batch.parts:  # now, not before: those who came during the batch are ahead of it
                if request.order and not request.future.done():
                    self._waiting.append(request)
        finally:
            self._wake.set()
            self._free.release()

    async def _stay_open(self) -> None:
        """Wait for more to come, while a second request waits and the batch is not full."""
        until = time.monotonic() + self._window
        while self._waiting and not self._closing:
            alike = [request for request in self._waiting if request.key == self._waiting[0].key]
            waiting = sum(request.owed for request in alike)
            left = until - time.monotonic()
            if len(alike) < 2 or waiting >= self._batch_tokens or left <= 0:
                return
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _take(self) -> _Batch:
        """The next batch: of the request at the head of the line, and of those that are alike."""
        alike = [request for request in self._waiting if request.key == self._waiting[0].key]
        share, tokens = max(1, self._batch_tokens // len(alike)), 0
        taken: dict[_Request, list[int]] = {request: [] for request in alike}
        for limit in (share, self._batch_tokens):  # first to each its share, then what is left in the order of the line
            for request in alike:
                own = sum(len(request.rows[i].ids) for i in taken[request])
                while request.order:
                    size = len(request.rows[request.order[-1]].ids)
                    if tokens and (tokens + size > self._batch_tokens or (own and own + size > limit)):
                        break
                    taken[request].append(request.order.pop())
                    tokens, own = tokens + size, own + size
        batch = _Batch(alike[0].key, [(request, places) for request, places in taken.items() if places])
        now = time.monotonic()
        for request, _ in batch.parts:
            self._waiting.remove(request)
            if not request.begun and self._watch:
                self._watch.waited(now - request.since)
            request.begun = True
        return batch

    async def _serve(self, batch: _Batch) -> None:
        """Compute a batch and hand out what it gave. Where it fails, each request is tried by itself."""
        begun, beside = time.monotonic(), self.computing
        try:
            self._give(batch, await self._computed(batch.key, batch.rows))
        except Exception as error:  # whatever a model raises is its request's, and the next one is served
            if len(batch.parts) > 1:
                for part in batch.parts:
                    await self._serve(_Batch(batch.key, [part]))
                return
            future = batch.parts[0][0].future
            if not future.done():
                future.set_exception(error)
            return
        rows, seconds = batch.rows, time.monotonic() - begun
        tokens = sum(len(row.ids) for row in rows)
        rate = max(1, beside) * tokens / max(seconds, 1e-6)
        self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
        if self._watch:
            self._watch.computed(seconds=seconds, requests=len(batch.parts), texts=len(rows), tokens=tokens)

    async def _computed(self, key: Hashable, rows: list[Row]) -> Sequence[np.ndarray]:
        assert self._pool is not None
        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, key, rows)
        assert len(found) == len(rows)
        return found

    def _give(self, batch: _Batch, found: Sequence[np.ndarray]) -> None:
        vectors = iter(found)
        for request, places in batch.parts:
            for i in places:
                request.found[i] = next(vectors)
            if request.future.done():  # its client has gone
                continue
            done = sum(len(request.rows[i].ids) for i in places)
            request.owed -= done
            self._tokens -= done
            if not request.order and all(vector is not None for vector in request.found):
                request.future.set_result([vector for vector in request.found if vector is not None])
