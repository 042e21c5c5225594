"""`limbeck` in processes that kill themselves with SIGKILL at a chosen moment.

Starting Python and importing torch takes seconds, so one process does it and then forks a child for every run. A moment
is an *event*: a call by which a run changes the disk (before it; a rename also after; tensors also half written), or
an optimizer step. Its name is "stage:what", or "distill/checkpoint-3:what" while the third step is saved. `Zygote` is
the side of the tests, `main` the other.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code, or the negative signal; its events; what it printed."""

    code: int
    events: list[str]
    stdout: str
    stderr: str
    seconds: float


class Zygote:
    """Forks runs of the command line. Every run sees the modules imported and nothing else done."""

    def __enter__(self) -> Zygote:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        kill_at: tuple[str, int] | None = None,
        kill_after: float | None = None,
        file_limit: int | None = None,
    ) -> Outcome:
        """`limbeck` with these arguments.

        Args:
            arguments: as on a command line.
            kill_at: (start of an event's name, n): it dies at the n-th such event, from 0.
            kill_after: it is killed after so many seconds.
            file_limit: bytes that a file may have, as on a full disk.
        """
        assert self._process.stdin and self._process.stdout
        request = {
            "arguments": [str(a) for a in arguments],
            "kill_at": kill_at,
            "kill_after": kill_after,
            "limit": file_limit,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


class Events:
    """Counts events, notes each in a file, and dies at the chosen one."""

    def __init__(self, note: Path, kill_at: tuple[str, int] | None) -> None:
        self._note, self.stage = open(note, "a", buffering=1), "start"
        self._fatal, self._left = kill_at or ("never", 0)

    def happens(self, what: str) -> None:
        event = f"{self.stage}:{what}"
        self._note.write(event + "\n")
        if event.startswith(self._fatal):
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1

    def around(self, module: Any, name: str, *, torn: Callable[..., None] | None = None, after: bool = False) -> None:
        """Make a function of a module an event; `torn` leaves what a kill in the middle of it would."""
        original = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.happens(f"before {name}")
            if torn:
                torn(*args, **kwargs)
                self.happens(f"in {name}")
            result = original(*args, **kwargs)
            if after:
                self.happens(f"after {name}")
            return result

        setattr(module, name, wrapped)


def _half_a_file(_tensors: Any, path: str, **_: Any) -> None:
    Path(path).write_bytes(b"\x40\0\0\0\0\0\0\0{")


def watch(events: Events) -> None:
    """Make events of everything that changes the disk, and of optimizer steps."""
    import shutil

    import numpy as np

    from limbeck.model import adapters, projection, router
    from limbeck.teacher.store import TeacherStore
    from limbeck.training import checkpoint, loop, pipeline

    events.around(os, "replace", after=True)
    for module, name in ((os, "fsync"), (shutil, "rmtree"), (np, "save"), (loop, "schedule")):
        events.around(module, name)
    for module in (adapters, checkpoint, projection, router):
        events.around(module, "save_file", torn=_half_a_file)
    do, teach, save = pipeline.Pipeline.do, TeacherStore.teach, checkpoint.save

    def named(self: Any, name: str, **kwargs: Any) -> Any:
        events.stage = name
        events.happens("starts")
        return do(self, name, **kwargs)

    def chunked(self: Any, *args: Any, **kwargs: Any) -> Any:
        return teach(self, *args, **kwargs, chunk=40)  # so that a run of a few texts has chunks to be killed between

    def saved(folder: Path, module: Any, optimizer: Any, progress: checkpoint.Progress, **kwargs: Any) -> Path:
        stage = events.stage
        events.stage = f"{stage}/checkpoint-{progress.step}"
        result = save(folder, module, optimizer, progress, **kwargs)
        events.stage = stage
        return result

    checkpoint.save = saved  # type: ignore[assignment]
    pipeline.Pipeline.do = named  # type: ignore[method-assign]
    TeacherStore.teach = chunked  # type: ignore[method-assign]


def child(request: dict[str, Any], folder: Path) -> None:
    """One run, from just after the imports."""
    for stream, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT), number)
    watch(Events(folder / "events", request["kill_at"]))
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    import torch

    from limbeck import cli

    torch.manual_seed(time.time_ns())  # what was drawn before must not matter
    sys.argv = ["limbeck", *request["arguments"]]
    code = 0
    try:
        cli.main(request["arguments"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Answer one line of JSON with one, until standard input ends."""
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    from transformers import BertModel, JinaEmbeddingsV3Model, Qwen3Model  # noqa: F401

    import limbeck.training.pipeline  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as name:
            folder, start = Path(name), time.monotonic()
            pid = os.fork()
            if not pid:
                child(request, folder)
            if request["kill_after"] is not None:
                time.sleep(request["kill_after"])
                os.kill(pid, signal.SIGKILL)  # at once or, if it has ended, on a process nobody has waited for
            _, status = os.waitpid(pid, 0)
            read = {
                f: (folder / f).read_text() if (folder / f).exists() else "" for f in ("events", "stdout", "stderr")
            }
            outcome = Outcome(
                code=os.waitstatus_to_exitcode(status),
                events=read["events"].splitlines(),
                stdout=read["stdout"],
                stderr=read["stderr"],
                seconds=time.monotonic() - start,
            )
            print(json.dumps(outcome.__dict__), flush=True)


if __name__ == "__main__":
    main()
