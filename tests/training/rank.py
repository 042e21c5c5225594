"""`limbeck` as one of many processes, watched: `rank.py VICTIM STAGE STEP ARGUMENTS…`, started by torchrun.

The rank VICTIM dies by SIGKILL before a step (from 0) of the stage that trains in a folder of that name; -1 = none.
Where weights are split, each process says how many it holds.

`rank.py --fork N VICTIM …` is torchrun and its N processes in one: they are forked, so that what takes longest in a
small run, to import everything, is done once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from limbeck import cli


def rank(victim: str, stage: str, step: str, *arguments: str) -> None:
    """Run the command line, with a loop that kills and tells."""
    from limbeck.training import loop

    schedule, start, split, where = loop.schedule, loop.Metrics.__init__, loop.split, [Path()]

    def started(self: Any, run: loop.Run, *args: Any, **kwargs: Any) -> None:
        where[0] = run.folder
        start(self, run, *args, **kwargs)

    def scheduled(now: int, *args: Any) -> float:
        if os.environ["RANK"] == victim and now == int(step) and where[0].name == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        return schedule(now, *args)

    def told(model: Any, device: Any) -> Any:
        found = split(model, device)
        held: list[Any] = list(found.parameters())
        parts = sum(p.to_local().numel() for p in held)
        print(f"rank {os.environ['RANK']} holds {parts} of {sum(p.numel() for p in held)}", flush=True)
        return found

    loop.Metrics.__init__, loop.schedule, loop.split = started, scheduled, told  # type: ignore[method-assign]
    cli.main(list(arguments))


def forked(processes: int, *arguments: str) -> None:
    """What `torchrun --standalone` does, with processes that are forked."""
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    from transformers import BertModel, JinaEmbeddingsV3Model  # noqa: F401

    import limbeck.training.pipeline  # noqa: F401

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    try:
        elastic_launch(config, rank)(*arguments)
    except ChildFailedError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        forked(int(sys.argv[2]), *sys.argv[3:])
    else:
        rank(*sys.argv[1:])
