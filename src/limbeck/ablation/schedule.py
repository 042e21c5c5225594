"""Jobs in worker processes, as many at a time as there are cores or GPUs; two never make the same stage at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from limbeck import machine
from limbeck.ablation import work
from limbeck.ablation.results import ArmScores
from limbeck.errors import LimbeckError, TrainingError


@dataclass(frozen=True)
class Workers:
    """Processes that wait for work. threads: that each computes with on the CPU."""

    pool: ProcessPoolExecutor
    count: int
    threads: int


@dataclass(frozen=True)
class Done:
    """A job that ended: with scores, or with what went wrong."""

    job: work.Job
    scores: ArmScores | None
    error: str = ""


@contextmanager
def workers(count: int | None = None) -> Iterator[Workers]:
    """Start processes when they are first needed, and stop them in the end.

    count: how many; None = one a GPU, or one a core. They share the cores evenly, and the GPUs in turn.
    """
    import torch

    cores, gpus = machine.usable_cores(), torch.cuda.device_count()
    count = count or gpus or cores
    # who limits the threads of one process, as OpenMP is limited, means those of these too: more of them than cores
    # that are free wait for each other, and take many times as long
    threads = max(1, min(cores // count, int(os.environ.get("OMP_NUM_THREADS") or cores)))
    context = multiprocessing.get_context("spawn")
    devices = context.Manager().Queue() if gpus else None
    for i in range(count if devices is not None else 0):
        devices.put(i % gpus)  # type: ignore[union-attr]
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=work.start, initargs=(devices, threads))
    try:
        yield Workers(pool, count, threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    jobs: Sequence[work.Job],
    by: Workers,
    *,
    ready: Callable[[work.Job], bool],
    claims: Callable[[work.Job], set[str]],
) -> Iterator[Done]:
    """Run every job, and yield each as it ends. An error of one leaves the others alone.

    Args:
        jobs: in the order in which they are begun, where nothing is in the way.
        by: who does them.
        ready: whether a job can begin; asked again whenever another has ended.
        claims: names of the stages that a job would make, asked before it is begun; one that a running job has claimed
            makes it wait.

    Raises TrainingError: a worker was killed, say for want of memory.
    """
    waiting, running = list(jobs), dict[Future[ArmScores], tuple[work.Job, set[str]]]()
    try:
        while waiting or running:
            for job, wanted in _startable(waiting, [names for _, names in running.values()], by.count, ready, claims):
                waiting.remove(job)
                running[by.pool.submit(work.do, job, by.threads)] = job, wanted
            if not running:  # the rest waits for a job that failed
                for job in waiting:
                    yield Done(job, None, "the arm whose tokens it should match has no scores")
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, _ = running.pop(future)
                try:
                    done = Done(job, future.result())
                except LimbeckError as error:
                    done = Done(job, None, str(error))
                yield done
    except BrokenProcessPool:
        raise TrainingError(
            "a worker was killed, perhaps for want of memory: finished arms are kept, so start it again, with fewer "
            "--jobs if it was memory"
        ) from None


def _startable(
    waiting: Sequence[work.Job],
    running: Sequence[set[str]],
    count: int,
    ready: Callable[[work.Job], bool],
    claims: Callable[[work.Job], set[str]],
) -> list[tuple[work.Job, set[str]]]:
    """Jobs to begin now, and what they claim."""
    taken, free = set[str]().union(*running), count - len(running)
    found: list[tuple[work.Job, set[str]]] = []
    for job in waiting:
        if len(found) == free:
            break
        if ready(job) and not (wanted := claims(job)) & taken:
            taken |= wanted
            found.append((job, wanted))
    return found
