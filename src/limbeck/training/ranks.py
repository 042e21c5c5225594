"""The processes of a run that `torchrun` or `accelerate launch` started: what one does, what all do, who ended.

A rank is one of them, numbered from 0; rank 0 is the main one. Without a launcher there is rank 0 alone, and everything
here is a plain call.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psutil

from limbeck import machine
from limbeck.errors import ConfigError, LimbeckError, TrainingError

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # the main rank may teach for so long while the others wait
_POLL_SECONDS = 0.05
_SAME_SECONDS = 5.0  # what stops one rank at a step stops the others within
_SETTLE_SECONDS = 2.0  # a connection breaks some moments before the process behind it is gone


@dataclass(frozen=True)
class Member:
    """A process of the run, and where it is."""

    rank: int
    host: str
    process: int

    @property
    def alive(self) -> bool:
        """False if it is known to have ended; of a process on another machine nothing is known."""
        if self.host != socket.gethostname():
            return True
        try:
            return psutil.Process(self.process).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        """Rank, process and machine."""
        return f"rank {self.rank} (process {self.process} on {self.host})"


@dataclass(frozen=True)
class _Failed:
    """What the others are told when the main rank cannot go on."""


class _Stopped(TrainingError):
    """Another rank is gone: there is nobody to tell."""


class Ranks:
    """This process among those of its run."""

    def __init__(self, members: list[Member], index: int, group: Any) -> None:
        """Args: members, by rank; index: of this one; group: a process group that waits for long, or None if alone."""
        self.members, self.index, self._group = members, index, group

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes, if a launcher started any: a call that all of them make.

        Raises ConfigError: the launcher asks for a kind of parallelism that is set in the recipe.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls.alone()
        asked = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
        if found := [name for variable, name in asked.items() if os.environ.get(variable, "false").lower() == "true"]:
            raise ConfigError(
                f"accelerate was told to use {found[0]}: launch without it, and set shard=true in the recipe to split "
                "the weights over the devices"
            )
        import torch.distributed as dist
        from accelerate import PartialState

        from limbeck.model.runtime import device_of

        state = PartialState(cpu=device_of().type == "cpu")
        # gloo on every device: its waiting keeps no GPU busy, and it notices at once that a process has gone
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        me = Member(state.process_index, socket.gethostname(), os.getpid())
        members: list[Any] = [None] * state.num_processes
        dist.all_gather_object(members, me, group=group)
        return cls(members, me.rank, group)

    @classmethod
    def alone(cls) -> Ranks:
        """No launcher: one process."""
        return cls([Member(0, socket.gethostname(), os.getpid())], 0, None)

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes, and does what is done once."""
        return self.index == 0

    @property
    def threads(self) -> int:
        """CPU cores for this process, where those of one machine share its cores."""
        here = sum(m.host == self.members[self.index].host for m in self.members)
        return max(1, machine.usable_cores() // here)

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` gives on the main rank, on every rank: a call that all of them make, in the same order.

        The others wait, for days if need be, without computing. Where the work raises, it does so on the main rank
        alone, and the others exit with code 1.
        """
        if self._group is None:
            return work()
        if not self.main:
            return self._heard()
        try:
            found = work()
        except _Stopped:
            raise
        except Exception:
            with suppress(RuntimeError):  # what went wrong here is to be said, whoever is gone
                self._tell(_Failed())
            raise
        self._tell(found)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the run end on all ranks when one of them is gone, and say so once.

        Raises TrainingError on the first of the ranks that are left on each machine, which names those that ended; the
        others exit with code 1. Also when the launcher ends this process (SIGTERM), as it does when another failed.
        """
        if self._group is None:
            yield
            return

        def stop(*_: object) -> None:
            # ignored from here on: the message must come through
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise self._stopped()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        except LimbeckError as error:
            if not (self.main or isinstance(error, _Stopped)):
                self._leave_to_main()
            raise
        except RuntimeError as error:  # gloo and NCCL have no type of their own for a peer that is gone
            if not self._ended(wait=True):
                raise
            raise self._stopped() from error
        finally:
            if signal.getsignal(signal.SIGTERM) is stop:
                signal.signal(signal.SIGTERM, before)
        from accelerate import PartialState

        PartialState().destroy_process_group()

    def _leave_to_main(self) -> None:
        """Exit with code 1 if the main rank ends too: it met the same error, and says so."""

        def leave(*_: object) -> None:
            raise SystemExit(1)

        signal.signal(signal.SIGTERM, leave)
        until = time.monotonic() + _SAME_SECONDS
        while time.monotonic() < until:
            if not self.members[0].alive:
                leave()
            time.sleep(_POLL_SECONDS)

    def _heard(self) -> Any:
        import torch.distributed as dist

        self._meet()
        answer: list[Any] = [None]
        dist.broadcast_object_list(answer, src=0, group=self._group)
        if isinstance(answer[0], _Failed):
            raise SystemExit(1)  # the main rank says why
        return answer[0]

    def _tell(self, value: Any) -> None:
        import torch.distributed as dist

        self._meet()
        dist.broadcast_object_list([value], src=0, group=self._group)

    def _meet(self) -> None:
        import torch.distributed as dist

        waiting: Any = dist.barrier(group=self._group, async_op=True)
        while not waiting.is_completed():  # asked again and again: a blocked call would not hear Ctrl-C
            time.sleep(_POLL_SECONDS)
        waiting.wait()

    def _ended(self, *, wait: bool) -> list[Member]:
        until = time.monotonic() + (_SETTLE_SECONDS if wait else 0)
        while True:
            gone = [m for m in self.members if m.rank != self.index and not m.alive]
            if gone or time.monotonic() >= until:
                return gone
            time.sleep(_POLL_SECONDS)

    def _stopped(self) -> BaseException:
        gone = self._ended(wait=False)
        here = [m.rank for m in self.members if m.host == self.members[self.index].host and m not in gone]
        time.sleep(_SETTLE_SECONDS)  # this one has not ended by itself: the others shall see that
        if here[0] != self.index:
            return SystemExit(1)
        who = f"{' and '.join(map(str, gone))} ended" if gone else "the launcher stopped this process (SIGTERM)"
        return _Stopped(
            f"{who} before the run was done, so all {len(self.members)} ranks stop; what is done is kept: the same "
            "command, with any number of processes, goes on from the last checkpoint"
        )
