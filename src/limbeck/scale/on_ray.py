"""Shards by actors of Ray Data: each loads its model once; a shard of one that dies is given to another."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray  # pyright: ignore[reportMissingImports]  # an extra that `all` leaves out
import ray.data  # pyright: ignore[reportMissingImports]
from ray.data.context import DataContext  # pyright: ignore[reportMissingImports]

from limbeck import __version__
from limbeck.errors import DataError, ModelError

if TYPE_CHECKING:
    from limbeck.scale.crew import Crew, Done, Job, Shard


def on_ray(job: Job, shards: Sequence[Shard], crew: Crew) -> Generator[Done, None, None]:
    """Do shards on the cluster that this process is connected to, else that of $RAY_ADDRESS, else one started here.

    Raises DataError: the cluster has not what a worker needs, or went away.
    """
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield from _done(job, shards, crew)
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray ended the job ({error}). What is done is kept: run the same command again") from error
    finally:
        if started:
            ray.shutdown()


def _done(job: Job, shards: Sequence[Shard], crew: Crew) -> Generator[Done, None, None]:
    from limbeck.scale.crew import Done

    gpus, workers = _shares(crew)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with DataContext.current(context):
        # a block for each shard: of an actor that died, one shard is done again
        rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards)).map(
            _actor(job),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
            num_cpus=crew.cpus,
            num_gpus=gpus,
        )
        for row in rows.iter_rows():
            yield Done(**row)


def _actor(job: Job) -> Any:
    version = __version__

    class Actor:
        def __init__(self) -> None:
            from limbeck import __version__ as own
            from limbeck.scale.crew import Worker

            self.work = Worker(job if own == version else _Other(own, version))

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            from limbeck.scale.crew import Shard

            return asdict(self.work(Shard(**row)))

    return Actor


class _Other:
    """Stands for the job where limbeck is another."""

    def __init__(self, own: str, version: str) -> None:
        self.own, self.version = own, version

    def begin(self, device: str | None) -> Any:
        raise ModelError(f"a worker has limbeck {self.own}, this is {self.version}: install the same on every node")


def _shares(crew: Crew) -> tuple[float, int]:
    """GPUs of a worker, and how many workers. Raises DataError: the cluster cannot hold a single one."""
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    each = crew.gpus if crew.gpus is not None else (1.0 if gpus else 0.0)
    if crew.workers is None and (crew.cpus > cpus or each > gpus):
        raise DataError(
            f"a worker asks for {crew.cpus:g} cores and {each:g} GPUs, the cluster has {cpus:g} and {gpus:g}: ask for "
            "less, or say how many workers it will grow to hold (--workers)"
        )
    most = min(cpus // crew.cpus, gpus // each if each else float("inf"))
    return each, crew.workers or int(most)
