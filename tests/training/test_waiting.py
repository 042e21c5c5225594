"""One process does what is done once, the others wait for it, hear what came of it, and notice when it is gone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from limbeck import machine
from limbeck.errors import ConfigError, DataError, LimbeckError, StoreError, TrainingError
from limbeck.training.ranks import Member, Ranks

pytestmark = pytest.mark.slow

COUNT = 3
Say = Callable[[str], Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hears(ranks: Ranks, say: Say) -> None:
    """Each says what the main one found out."""
    for i in range(3):
        found = ranks.from_main(lambda i=i: (os.getpid(), i))
        say(f"{found[0] == ranks.members[0].process} {found[1]}")


def fails(ranks: Ranks, say: Say) -> None:
    """What the main one does goes wrong."""

    def wrong() -> None:
        raise DataError("no such file")

    ranks.from_main(wrong)


def fail_alike(ranks: Ranks, say: Say) -> None:
    """The same goes wrong for all."""
    raise TrainingError("not finite")


def one_fails(ranks: Ranks, say: Say) -> None:
    """Something goes wrong for one that is not the main one, which waits for it."""
    if ranks.index == 2:
        raise StoreError("not the same folder")
    ranks.from_main(lambda: None)


def main_dies(ranks: Ranks, say: Say) -> None:
    """The main one is killed while the others wait."""

    def dies() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)

    ranks.from_main(dies)


def stopped(ranks: Ranks, say: Say) -> None:
    """The launcher ends all, as a cluster does that wants its machine back."""
    ranks.from_main(lambda: None)  # all of them are there
    if ranks.main:
        for member in ranks.members[1:]:
            os.kill(member.process, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    ranks.from_main(lambda: time.sleep(60))


CASES = {f.__name__: f for f in (hears, fails, fail_alike, one_fails, main_dies, stopped)}
Outcomes = dict[str, tuple[list[int], list[str]]]


def forked(case: str) -> tuple[list[int], list[str]]:
    """Exit codes by rank (or the negative signal), and what was said, of COUNT processes."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(COUNT)}
    read, write = os.pipe()
    children = []
    for rank in range(COUNT):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(COUNT)}
        code = 0
        try:
            ranks = Ranks.join()
            with ranks.together():
                CASES[case](ranks, lambda what, rank=rank: os.write(write, f"{rank}: {what}\n".encode()))
        except LimbeckError as error:
            os.write(write, f"{rank}: {error}\n".encode())
            code = 1
        except SystemExit as stop:
            code = int(stop.code or 0)
        os._exit(code)
    ended = dict(os.wait() for _ in children)  # as they end: one that is dead and not waited for would still be there
    os.close(write)
    with open(read) as file:
        return [os.waitstatus_to_exitcode(ended[child]) for child in children], sorted(file.read().splitlines())


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Of every case, from a process that has imported nothing else: forks of it have no threads that hold a lock."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return {case: (codes, said) for case, (codes, said) in json.loads(done.stdout).items()}


def test_what_the_main_one_finds_out_is_heard_by_all_in_order(outcomes: Outcomes) -> None:
    assert outcomes["hears"] == ([0, 0, 0], sorted(f"{rank}: True {i}" for rank in range(3) for i in range(3)))


@pytest.mark.parametrize(
    ("case", "said"),
    [("fails", ["0: no such file"]), ("fail_alike", ["0: not finite"])],
)
def test_what_goes_wrong_for_all_ends_all_and_is_said_once(case: str, said: list[str], outcomes: Outcomes) -> None:
    assert outcomes[case] == ([1, 1, 1], said)


def test_what_goes_wrong_for_one_is_said_by_that_one_too(outcomes: Outcomes) -> None:
    codes, said = outcomes["one_fails"]
    assert codes == [1, 1, 1]
    assert "2: not the same folder" in said
    assert [line for line in said if line.startswith("0: rank 2 (process ")]


def test_the_death_of_the_main_one_is_named_once_by_those_who_wait(outcomes: Outcomes) -> None:
    codes, said = outcomes["main_dies"]
    assert codes == [-signal.SIGKILL, 1, 1]
    [line] = said
    assert re.match(
        rf"1: rank 0 \(process \d+ on {re.escape(socket.gethostname())}\) ended before the run was done, so all 3 "
        "ranks stop; .* goes on from the last checkpoint",
        line,
    )


def test_a_stop_by_the_launcher_is_said_once(outcomes: Outcomes) -> None:
    codes, said = outcomes["stopped"]
    assert codes == [1, 1, 1] and len(said) == 1
    assert said[0].startswith("0: the launcher stopped this process (SIGTERM) before the run was done")


def test_without_a_launcher_there_is_one_process_that_calls_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks.join()
    before = signal.getsignal(signal.SIGTERM)
    with ranks.together():
        assert ranks.main and ranks.from_main(lambda: 7) == 7
        assert signal.getsignal(signal.SIGTERM) is before


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    members = [Member(rank, "here" if rank < 3 else "there", rank) for rank in range(4)]
    assert [Ranks(members, i, None).threads for i in range(4)] == [2, 2, 2, 8]


@pytest.mark.parametrize(("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepS")])
def test_parallelism_that_the_launcher_asks_for_is_refused(
    variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=rf"told to use {name}.*set shard=true in the recipe"):
        Ranks.join()


if __name__ == "__main__":
    import accelerate  # noqa: F401  # once, and not in every process

    print(json.dumps({case: forked(case) for case in CASES}))
