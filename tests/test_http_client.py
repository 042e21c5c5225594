"""Requests to an endpoint, against functions in place of a server; tests/teacher/test_endpoint.py has a real one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from limbeck import config
from limbeck.errors import DataError
from limbeck.http_client import Endpoint, RateLimiter


def writer(**changes: Any) -> Endpoint:
    settings = {"model": "m", "base_url": "http://localhost:1/v1/", "concurrency": 2} | changes
    return Endpoint(
        config.QueryModel.model_validate(settings),
        role="query writer",
        section="the model",
        smaller="lower max_chars",
        error=DataError,
    )


def test_every_item_is_handed_to_threads_and_its_result_back_to_this_one():
    results, threads = {}, set()

    def square(number: int) -> int:
        threads.add(threading.current_thread())
        return number**2

    def done(number: int, result: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        results[number] = result

    writer().for_each(range(20), square, done)
    assert results == {n: n**2 for n in range(20)}
    assert threading.main_thread() not in threads and len(threads) <= 2


def test_no_more_requests_are_in_flight_than_the_settings_allow():
    inside, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3)

    def work(_: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(10)  # all three are here at once
        with lock:
            inside -= 1

    writer(concurrency=3).for_each(range(9), work, lambda _, __: None)
    assert most == 3


def test_an_error_of_the_receiver_ends_the_call_as_one_of_the_function_does():
    begun: list[int] = []
    ended = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item:
            ended.wait(10)

    def refuse(item: int, _: None) -> None:
        raise DataError(f"the disk is full at {item}")

    with pytest.raises(DataError, match="the disk is full at 0"):
        writer(concurrency=1).for_each(range(1000), work, refuse)
    ended.set()
    # one more may begin while the rest is taken back: any of them
    assert begun[0] == 0 and len(begun) <= 2


def test_an_answer_of_another_form_is_told_in_the_words_of_the_caller():
    def read(_: Any) -> str:
        raise ValueError("expected one choice,\n got none")

    with pytest.raises(
        DataError,
        match=r"^query writer m: localhost:1 does not answer in the form of /v1/chat/completions "
        r"\(expected one choice, got none\): check the model.base_url, which usually ends in /v1$",
    ) as error:
        writer().call(read, path="/v1/chat/completions", refused="")
    assert error.value.__context__ is None


def test_a_missing_key_is_told_before_anything_is_begun(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    begun = []
    with pytest.raises(
        DataError, match=r"query writer m at far\.invalid needs a key: .* MY_KEY .* the model.api_key_env"
    ):
        writer(base_url="https://far.invalid/v1", api_key_env="MY_KEY").for_each([1, 2], begun.append, print)
    assert begun == []


def test_an_address_is_host_port_and_path():
    assert writer().address == "localhost:1/v1"


def test_so_many_requests_a_minute_begin_evenly_spaced():
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    limiter = RateLimiter(120, clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        limiter.wait()
    now[0] += 10  # a pause is not saved up for a burst
    for _ in range(2):
        limiter.wait()
    assert slept == pytest.approx([0.5, 0.5, 0.5])
