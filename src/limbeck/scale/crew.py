"""Workers, each with a model of its own, that take shards until none is left: processes here, or actors of Ray.

A job says what to do with a shard; the same function does it in this process, in a pool and on a cluster. It puts its
result whole, so that nothing is lost but time where two workers do the same shard, or one is killed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any, Literal, Protocol, TypeAlias

from limbeck.errors import ConfigError, DataError, LimbeckError

log = logging.getLogger(__name__)

_FAILED_AT_ONCE = 8  # shards, or two a worker, that fail one after the other: what ails them is not a row


@dataclass(frozen=True, slots=True)
class Shard:
    """A file to be read, and what it becomes."""

    source: str  # path or URL
    stamp: str  # of `limbeck.scale.places.Listed`
    name: str  # of its result


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a shard."""

    source: str
    texts: int = 0
    kept: bool = False  # its result was there before
    truncated: int = 0  # texts that were cut
    chunked: int = 0  # texts that were read in pieces
    bytes: int = 0  # of its vectors
    error: str = ""  # why there is no result


Work: TypeAlias = Callable[[Shard], Done]


class Job(Protocol):
    """What is done with shards. It is sent to workers, so it holds no model."""

    def begin(self, device: str | None) -> Work:
        """Load a model, on a device or the best there is, and give what does a shard with it."""
        ...


class Worker:
    """Does shards, and says of each that fails why. The model is loaded at the first."""

    def __init__(self, job: Job, device: str | None = None) -> None:
        """Args: what to do; where to compute."""
        self._job, self._device, self._work = job, device, None

    def __call__(self, shard: Shard) -> Done:
        """Do one shard."""
        try:
            if self._work is None:
                self._work = self._job.begin(self._device)
            return self._work(shard)
        except LimbeckError as error:
            return Done(shard.source, error=str(error))
        except Exception as error:  # of a device, a disk, an object store: the other shards may go well
            log.exception("%s failed", shard.source)
            return Done(shard.source, error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers there are, and where."""

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None  # None = one here; on a cluster as many as it has GPUs, or cores
    cpus: float = 1.0  # of a worker on a cluster
    gpus: float | None = None  # likewise; None = one, if the cluster has any

    def __post_init__(self) -> None:
        """Raise ConfigError: no workers, or a part of nothing."""
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"there must be at least 1 worker, got {self.workers}")
        if self.cpus <= 0 or (self.gpus or 0) < 0:
            raise ConfigError(f"a worker has more than 0 cores and 0 or more GPUs, got {self.cpus} and {self.gpus}")
        if self.engine == "local" and (self.cpus != 1 or self.gpus is not None):
            raise ConfigError("cores and GPUs of a worker are for a Ray cluster; here, workers share what there is")

    @property
    def is_alone(self) -> bool:
        """Whether all is done in this process."""
        return self.engine == "local" and (self.workers or 1) == 1

    def run(self, job: Job, shards: Sequence[Shard], *, here: Work | None = None) -> Generator[Done, None, None]:
        """Do shards, in any order. Whoever stops reading stops the workers.

        Args:
            job: what to do; on a cluster, limbeck of the same version is installed on every node.
            shards: each is done once.
            here: does a shard in this process, where there is one worker and it is here; None = by `job`.

        Raises:
            DataError: a worker here was killed (on a cluster, Ray starts another), or shard after shard failed.
        """
        if not shards:
            return
        if self.is_alone:
            worker = Worker(_Loaded(here) if here else job)
            found: Generator[Done, None, None] = (worker(shard) for shard in shards)
        elif self.engine == "ray":
            from limbeck.scale.on_ray import on_ray

            found = on_ray(job, shards, self)
        else:
            found = _in_processes(job, shards, self.workers or 1)
        failed, limit = 0, max(_FAILED_AT_ONCE, 2 * (self.workers or 1))
        with closing(found):
            for done in found:
                yield done
                failed = failed + 1 if done.error else 0
                if failed >= limit and failed < len(shards):
                    raise DataError(
                        f"{failed} files failed one after the other, so no more were tried; the last: {done.error}"
                    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A job whose model is in this process already."""

    work: Work

    def begin(self, device: str | None) -> Work:
        return self.work


def sum_of(done: Sequence[Done]) -> Done:
    """All together."""
    total = Done("")
    for one in done:
        counts = {
            name: getattr(total, name) + getattr(one, name) for name in ("texts", "truncated", "chunked", "bytes")
        }
        total = replace(total, **counts)
    return total


# ------------------------------------------------------------------------------------------ this machine


def _in_processes(job: Job, shards: Sequence[Shard], workers: int) -> Generator[Done, None, None]:
    workers = min(workers, len(shards))
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    before = set(multiprocessing.active_children())
    devices = context.SimpleQueue()
    for number in range(workers):
        devices.put(_device(number))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(job, devices, workers))
    left = len(shards)
    try:
        for future in as_completed([pool.submit(_do, shard) for shard in shards]):
            yield future.result()
            left -= 1
    except BrokenProcessPool:
        raise DataError(
            f"a worker was ended from outside, or by the system for want of memory: {left:,} of {len(shards):,} files "
            "are left. What is done is kept: run the same command again, with fewer --workers if memory ran out"
        ) from None
    finally:
        if left:  # stopped early: do not wait for shards that nobody wants
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
                child.join()
        pool.shutdown()


def _device(number: int) -> str | None:
    """GPUs in turn; None where there are none, or torch is not here."""
    import torch

    return f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else None


_WORKER: Worker | None = None  # of this process, if it is one of a pool


def _begin(job: Job, devices: Any, workers: int) -> None:
    global _WORKER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from limbeck.machine import usable_cores

    torch.set_num_threads(max(1, usable_cores() // workers))
    _WORKER = Worker(job, devices.get())


def _do(shard: Shard) -> Done:
    assert _WORKER is not None
    return _WORKER(shard)


def _end_with_parent() -> None:
    """A pool's worker waits for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
