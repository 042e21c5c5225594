"""The batcher with functions in place of a model: what meets in a batch, what waits, what is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.serve.batching import Batcher, Closed, Full, Row


class Computer:
    """Gives each row its first token back; holds still while it is told to."""

    def __init__(self, *, held: bool = False, fails_at: int | None = None) -> None:
        self.batches: list[tuple[Hashable, list[list[int]]]] = []
        self.go, self.began = threading.Event(), threading.Event()
        self.fails_at = fails_at
        if not held:
            self.go.set()

    def __call__(self, key: Hashable, rows: list[Row]) -> list[np.ndarray]:
        self.batches.append((key, [row.ids.tolist() for row in rows]))
        self.began.set()
        assert self.go.wait(20)
        if any(self.fails_at in row.ids for row in rows):
            raise RuntimeError("out of memory")
        return [np.array([[row.ids[0]]]) for row in rows]


def rows(*firsts: int, tokens: int = 1) -> list[Row]:
    return [Row(np.full(tokens, first)) for first in firsts]


def values(found: list[np.ndarray]) -> list[int]:
    return [int(each[0, 0]) for each in found]


def run(
    computer: Any,
    work: Callable[[Batcher], Coroutine[Any, Any, None]],
    *,
    batch_tokens: int = 8,
    queue_tokens: int = 100,
    window_seconds: float = 0.0,
    **options: Any,
) -> None:
    async def all_of_it() -> None:
        batcher = Batcher(
            computer, batch_tokens=batch_tokens, queue_tokens=queue_tokens, window_seconds=window_seconds, **options
        )
        batcher.start()
        try:
            await asyncio.wait_for(work(batcher), 20)
        finally:
            computer.go.set()
            await batcher.close()
        assert batcher.tokens == 0 and batcher.requests == 0

    asyncio.run(all_of_it())


async def began(computer: Computer) -> None:
    """Until a batch is being computed."""
    assert await asyncio.to_thread(computer.began.wait, 20)


def test_requests_that_come_during_a_batch_share_the_next_one_if_their_key_is_the_same() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit("a", rows(1)))
        await began(computer)
        others = [asyncio.create_task(batcher.submit(key, rows(n))) for n, key in enumerate("abab", 2)]
        await asyncio.sleep(0)
        computer.go.set()
        assert [values(found) for found in await asyncio.gather(first, *others)] == [[1], [2], [3], [4], [5]]

    run(computer, work)
    assert computer.batches == [("a", [[1]]), ("a", [[2], [4]]), ("b", [[3], [5]])]


def test_a_lone_request_does_not_wait_for_a_second_one() -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        assert values(await batcher.submit("a", rows(1, 2))) == [1, 2]

    run(computer, work, window_seconds=3_600)  # had it waited for others, it would still


def test_a_batch_stays_open_for_a_third_once_a_second_request_waits() -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        two = [asyncio.create_task(batcher.submit("a", rows(n, tokens=2))) for n in (1, 2)]
        while batcher.requests < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert computer.batches == []  # open
        third = asyncio.create_task(batcher.submit("a", rows(3, tokens=4)))  # fills it
        await asyncio.gather(*two, third)

    run(computer, work, window_seconds=3_600)
    assert [len(batch) for _, batch in computer.batches] == [3]


def test_a_window_that_passes_lets_a_batch_go() -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit("a", rows(n)) for n in (1, 2)))
        assert [values(each) for each in found] == [[1], [2]]

    run(computer, work, window_seconds=0.01)
    assert len(computer.batches) == 1


def test_a_large_request_is_split_and_a_small_one_waits_for_one_batch_at_most() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.submit("a", rows(*range(40))))
        await began(computer)
        small = asyncio.create_task(batcher.submit("b", rows(100)))
        alike = asyncio.create_task(batcher.submit("a", rows(101, 102)))
        await asyncio.sleep(0)
        computer.go.set()
        assert values(await small) == [100]
        assert values(await alike) == [101, 102]
        assert not large.done()
        assert values(await large) == list(range(40))

    run(computer, work)
    assert computer.batches[1] == ("b", [[100]])
    assert [101] in computer.batches[2][1] and [102] in computer.batches[2][1] and len(computer.batches[2][1]) == 8
    assert all(len(batch) <= 8 for _, batch in computer.batches)


def test_texts_of_like_length_meet_in_a_batch() -> None:
    computer = Computer()
    lengths = [4, 1, 4, 1, 4, 1, 4, 1]

    async def work(batcher: Batcher) -> None:
        given = [Row(np.full(length, place)) for place, length in enumerate(lengths)]
        assert values(await batcher.submit("a", given)) == list(range(8))

    run(computer, work, batch_tokens=8)
    assert [sorted(map(len, batch)) for _, batch in computer.batches] == [[1, 1, 1, 1, 4], [4, 4], [4]]


def test_a_row_over_the_budget_has_a_batch_to_itself() -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        await batcher.submit("a", [*rows(1, 2), *rows(3, tokens=9), *rows(4, tokens=20)])

    run(computer, work)
    assert [len(batch) for _, batch in computer.batches] == [2, 1, 1]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit("a", rows(1, tokens=60)))
        await began(computer)
        second = asyncio.create_task(batcher.submit("a", rows(2, tokens=40)))
        await asyncio.sleep(0)
        assert batcher.tokens == 100
        with pytest.raises(Full) as full:
            await batcher.submit("a", rows(3))
        assert 1 <= full.value.retry_after <= 60
        computer.go.set()
        await asyncio.gather(first, second)
        assert batcher.tokens == 0
        assert values(await batcher.submit("a", rows(4, tokens=101))) == [4]  # into an empty queue

    run(computer, work)


def test_what_was_given_up_is_never_computed_and_leaves_the_queue() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit("a", rows(1)))
        await began(computer)
        gone = asyncio.create_task(batcher.submit("a", rows(2, tokens=30)))
        stays = asyncio.create_task(batcher.submit("a", rows(3)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert batcher.tokens == 2
        computer.go.set()
        assert values(await first) == [1] and values(await stays) == [3]

    run(computer, work)
    assert computer.batches == [("a", [[1]]), ("a", [[3]])]


def test_a_large_request_given_up_midway_stops_there() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.submit("a", rows(*range(40))))
        await began(computer)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        computer.go.set()
        assert values(await batcher.submit("a", rows(100))) == [100]

    run(computer, work)
    assert len(computer.batches) == 2


def test_a_failure_is_its_own_request_s_and_those_beside_it_are_answered() -> None:
    computer = Computer(held=True, fails_at=3)

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit("a", rows(1)))
        await began(computer)
        good = asyncio.create_task(batcher.submit("a", rows(2)))
        bad = asyncio.create_task(batcher.submit("a", rows(3, *range(10, 30))))
        await asyncio.sleep(0)
        computer.go.set()
        with pytest.raises(RuntimeError, match="out of memory"):
            await bad
        assert values(await good) == [2] and values(await first) == [1]
        assert values(await batcher.submit("a", rows(4))) == [4]

    run(computer, work)


def test_closing_finishes_what_was_accepted_and_takes_no_more() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        accepted = [asyncio.create_task(batcher.submit(key, rows(*range(20)))) for key in "ab"]
        await began(computer)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            await batcher.submit("a", rows(1))
        with pytest.raises(Closed):
            await batcher.run(list)
        computer.go.set()
        for task in accepted:
            assert values(await task) == list(range(20))
        await closing
        assert not batcher.alive

    run(computer, work)


def test_a_function_runs_in_the_compute_thread() -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        name = await batcher.run(lambda: threading.current_thread().name)
        assert name.startswith("limbeck-compute")
        with pytest.raises(ZeroDivisionError):
            await batcher.run(lambda: 1 // 0)

    run(computer, work)


def test_the_watch_is_told_of_every_batch_and_of_each_request_once() -> None:
    computer = Computer()
    told: list[Any] = []

    class Watch:
        def waited(self, seconds: float) -> None:
            told.append("waited")

        def computed(self, *, seconds: float, requests: int, texts: int, tokens: int) -> None:
            told.append((requests, texts, tokens))

    async def work(batcher: Batcher) -> None:
        await batcher.submit("a", rows(*range(5), tokens=2))

    run(computer, work, watch=Watch())
    assert told == ["waited", (1, 4, 8), (1, 1, 2)]


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 12), min_size=1, max_size=8)), max_size=12
    ),
    batch_tokens=st.integers(1, 20),
    threads=st.integers(1, 3),
)
def test_everyone_gets_all_of_their_own_in_order(
    requests: list[tuple[str, list[int]]], batch_tokens: int, threads: int
) -> None:
    computer = Computer()

    async def work(batcher: Batcher) -> None:
        names = iter(range(10_000))
        asked = [(key, [Row(np.full(length, next(names))) for length in lengths]) for key, lengths in requests]
        found = await asyncio.gather(*(batcher.submit(key, each) for key, each in asked))
        for (_, each), got in zip(asked, found, strict=True):
            assert values(got) == [int(row.ids[0]) for row in each]

    run(computer, work, batch_tokens=batch_tokens, queue_tokens=10_000, threads=threads)
    done = [row[0] for _, batch in computer.batches for row in batch]
    assert sorted(done) == list(range(len(done)))
    assert all(len(batch) == 1 or sum(map(len, batch)) <= batch_tokens for _, batch in computer.batches)


class Unwritable(str):
    """A key that must not be written out, nor must the numbers beside it: it takes longer than to compute them."""

    def __repr__(self) -> str:
        raise AssertionError("written out")


def test_no_request_is_written_out_whatever_becomes_of_it() -> None:
    computer, key = Computer(held=True, fails_at=9), Unwritable("a")

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(key, rows(1)))
        await began(computer)
        gone, failed = (asyncio.create_task(batcher.submit(key, rows(n))) for n in (2, 9))
        await asyncio.sleep(0)
        gone.cancel()
        computer.go.set()
        assert values(await first) == [1]
        with pytest.raises(RuntimeError, match="out of memory"):
            await failed
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(computer, work)


def test_several_threads_compute_a_batch_each_and_a_request_has_one_at_a_time() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.submit("a", rows(1, 2, 3, tokens=8)))  # a batch for each of its rows
        await began(computer)
        computer.began.clear()
        small = asyncio.create_task(batcher.submit("a", rows(4)))
        await began(computer)  # beside the first
        assert batcher.computing == 2 and [len(batch) for _, batch in computer.batches] == [1, 1]
        late = asyncio.create_task(batcher.submit("a", rows(5)))
        await asyncio.sleep(0.01)
        assert batcher.requests == 1 and batcher.computing == 2  # no third
        computer.go.set()
        assert [values(found) for found in await asyncio.gather(large, small, late)] == [[1, 2, 3], [4], [5]]
        assert batcher.computing == 0

    run(computer, work, threads=2)
    assert len(computer.batches) == 5


def test_closed_with_several_threads_all_that_was_accepted_is_finished() -> None:
    computer = Computer(held=True)

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.create_task(batcher.submit(key, rows(n, n + 1, tokens=8))) for n, key in enumerate("abc")]
        await began(computer)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        computer.go.set()
        await closing
        assert [values(await task) for task in asked] == [[0, 1], [1, 2], [2, 3]]

    run(computer, work, threads=2)
