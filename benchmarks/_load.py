"""Clients of a server in a process of their own: HTTP/1.1 over kept connections, as little work for each as can be.

They share the machine with the server that they measure, so what they cost is measured too.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

_CONNECTING = 64  # at a time: a server's line of connections that are not yet accepted has an end
_PATIENCE = 150.0  # seconds for an answer
_KEPT = 3.0  # seconds that a connection may stand unused: servers close them after five or more


@dataclass
class Load:
    """What clients met."""

    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)  # "200", "429", …; "closed", "refused", "no answer"
    latencies: list[float] = field(default_factory=list)  # seconds, of each answer 200
    refusals: list[float] = field(default_factory=list)  # seconds, of each answer 429
    all: int = 0  # requests answered in any way, those of the warm-up and after the end included
    cpu: float = 0.0  # share of one core that the clients took
    unsent: int = 0  # due, but every connection was waiting for an answer
    draining: float = 0.0  # seconds from the end until all that was sent was answered

    @property
    def rate(self) -> float:
        """Answers 200 a second."""
        return len(self.latencies) / self.seconds

    def add(self, status: str, seconds: float) -> None:
        """An answer came, or what stands for it."""
        self.statuses[status] += 1
        if status == "200":
            self.latencies.append(seconds)
        elif status == "429":
            self.refusals.append(seconds)


def closed(port: int, requests: Sequence[bytes], clients: int, seconds: float, warmup: float) -> Load:
    """So many clients, each of which sends its next request when it has an answer. The warm-up is not counted."""

    async def work() -> Load:
        load, turn = Load(seconds), itertools.count()
        begin = time.perf_counter() + warmup
        end = begin + seconds

        async def client() -> None:
            line = await connected(port)
            while (sent := time.perf_counter()) < end:
                status = await line.ask(requests[next(turn) % len(requests)])
                now = time.perf_counter()
                load.all += 1
                if begin <= now <= end or not status.isdigit():
                    load.add(status, now - sent)
                if not line.open:
                    line = await connected(port)
            line.close()

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        await asyncio.sleep(warmup)
        used = time.process_time()
        await asyncio.sleep(max(0.0, end - time.perf_counter()))
        load.cpu = (time.process_time() - used) / seconds
        await asyncio.gather(*tasks)
        return load

    return _run(work)


def offered(port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int) -> Load:
    """So many requests a second at even distances, whether or not the ones before were answered."""

    async def work() -> Load:
        load = Load(seconds)
        gate = asyncio.Semaphore(_CONNECTING)
        idle = list(await asyncio.gather(*(_within(gate, connected(port)) for _ in range(connections))))
        under_way: set[asyncio.Task[None]] = set()

        async def one(line: Connection, request: bytes) -> None:
            sent = time.perf_counter()
            if not line.open or sent - line.used > _KEPT:
                line.close()
                line = await connected(port)
            load.add(await line.ask(request), time.perf_counter() - sent)
            idle.append(line)

        begin, used, done = time.perf_counter(), time.process_time(), 0
        while (past := time.perf_counter() - begin) < seconds:
            for i in range(done, due := int(past * rate)):
                if idle:
                    task = asyncio.create_task(one(idle.pop(), requests[i % len(requests)]))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                else:
                    load.unsent += 1
            done = due
            await asyncio.sleep(0.002)
        load.cpu = (time.process_time() - used) / seconds
        if under_way:
            await asyncio.wait(under_way)
        load.draining = time.perf_counter() - begin - seconds
        for line in idle:
            line.close()
        return load

    return _run(work)


def recovery(port: int, request: bytes, normal: float, patience: float) -> tuple[float, Counter[str]]:
    """Seconds until a request is sent that is answered 200 within `normal` seconds, and what was answered meanwhile."""

    async def work() -> tuple[float, Counter[str]]:
        begin, statuses = time.perf_counter(), Counter[str]()
        line = await connected(port)
        while (sent := time.perf_counter()) - begin < patience:
            status = await line.ask(request)
            statuses[status] += 1
            if status == "200" and time.perf_counter() - sent <= normal:
                line.close()
                return sent - begin, statuses
            if not line.open:
                line = await connected(port)
            await asyncio.sleep(0.005)
        return patience, statuses

    return _run(work)


class Connection(asyncio.Protocol):
    """One request at a time over one connection."""

    def __init__(self) -> None:
        """Not yet connected."""
        self.open = False
        self.used = time.perf_counter()  # when it was last
        self._transport: Any = None
        self._got = bytearray()
        self._end: int | None = None  # of the answer that is coming
        self._answer: asyncio.Future[str] | None = None

    async def ask(self, request: bytes) -> str:
        """Send a request → the status of its answer, or "closed" or "no answer"."""
        if not self.open:
            return "closed"
        self._answer = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(_PATIENCE, self._settle, "no answer")
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Of asyncio."""
        self._transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self.open = False
        self._settle("closed")

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._got += data
        if self._end is None:
            head = self._got.find(b"\r\n\r\n")
            if head < 0:
                return
            length = bytes(self._got[:head]).lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            if not length:
                raise RuntimeError("an answer without a length is not read here")
            self._end = head + 4 + int(length)
        if len(self._got) >= self._end:
            status = self._got[9:12].decode()
            if b"\r\nconnection: close" in bytes(self._got[: self._end]).lower():
                self.open = False
                self._transport.close()
            del self._got[: self._end]
            self._end = None
            self._settle(status)

    def _settle(self, status: str) -> None:
        if status == "no answer":
            self.open = False
            self._transport.abort()
        self.used = time.perf_counter()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


async def connected(port: int) -> Connection:
    """A connection to a server of this machine."""
    _, line = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return line


async def _within(gate: asyncio.Semaphore, work: Coroutine[Any, Any, Connection]) -> Connection:
    async with gate:
        return await work


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    import uvloop  # what the servers run on

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())
