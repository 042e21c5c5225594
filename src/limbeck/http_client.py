"""Requests to an OpenAI-compatible server: several at a time, at a rate, tried again, and errors in plain words.

The `openai` client sends, retries (connection errors, timeouts, 408, 409, 429 and 5xx, with exponential backoff and
jitter, or after the server's Retry-After) and reads answers. Here: the rate, several requests at a time, and what to do
about a refusal. The key is read from the environment at the first request; it is in no log record or message.

    endpoint = Endpoint(settings, role="teacher", section="teacher", smaller="lower teacher.texts_per_request",
                        error=TeacherError)
    vectors = endpoint.call(lambda client: read(client.embeddings.create(...)), path="/v1/embeddings", refused="…")
    endpoint.for_each(items, function, done)   # function(item) in threads, done(item, result) in the caller's
"""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from limbeck import config
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from openai import OpenAI

Item = TypeVar("Item")
Result = TypeVar("Result")


class Endpoint:
    """A server and how it is asked. Needs the `openai` package (the `train` extra)."""

    def __init__(
        self,
        settings: config.Teacher | config.QueryModel,
        *,
        role: str,
        section: str,
        smaller: str,
        error: type[LimbeckError],
    ) -> None:
        """Take the settings; nothing is sent before the first `call`.

        Args:
            settings: model, address, variable of the key, rate, requests in flight, timeout and retries.
            role: what the model is to us, for messages, e.g. "teacher".
            section: where its settings stand in a recipe, for messages, e.g. "teacher".
            smaller: what makes a request smaller, for messages, e.g. "lower teacher.texts_per_request".
            error: raised for all that goes wrong.

        Raises:
            error: the URL holds a password.
        """
        assert settings.base_url  # the recipe has checked it
        self._settings, self._section, self._smaller, self._error = settings, section, smaller, error
        url = urlsplit(settings.base_url)
        if url.username or url.password:  # HTTP libraries log URLs, and recipes are passed on
            raise error(
                f"{section}.base_url of {url.hostname} holds a user or password: put the key into the environment "
                f"variable {settings.api_key_env} instead"
            )
        self.address = f"{url.netloc}{url.path.rstrip('/')}"  # host, port and path
        self.limiter = RateLimiter(settings.requests_per_minute)
        self._host, self._hostname = url.netloc, url.hostname or ""
        self._name = f"{role} {settings.model}"

    def call(self, send: Callable[[OpenAI], Result], *, path: str, refused: str) -> Result:
        """Send one request, try again where that can help, and return what came.

        Args:
            send: makes the request with the client and reads the answer. A ValueError, TypeError or AttributeError that
                it raises says that the answer has not the form of `path`.
            path: of the request, for messages, e.g. "/v1/embeddings".
            refused: what to do where the request itself is refused (400, 413 or 422), for the message.

        Raises:
            error: no key, no connection, a refusal that retries did not cure, or an answer of another form.
        """
        client = self._client
        import openai

        try:
            return send(client)
        except openai.OpenAIError as error:
            failure = self._error(self._explain(error, refused))
        except (ValueError, TypeError, AttributeError) as error:
            failure = self._error(
                f"{self._name}: {self._host} does not answer in the form of {path} ({self._clean(str(error))}): check "
                f"{self._section}.base_url, which usually ends in /v1"
            )
        raise failure  # outside `except`, so that it carries no request (and no key) along as its context

    def for_each(
        self, items: Iterable[Item], function: Callable[[Item], Result], done: Callable[[Item, Result], None]
    ) -> None:
        """Run a function that calls the endpoint on every item, `concurrency` at a time.

        Args:
            items: each is handed to `function` once.
            function: runs in threads.
            done: takes an item and its result as soon as it is there, in this thread; so in no certain order.

        Raises:
            error: no key, before anything is sent; else the first error of `function` or `done`. What was not yet begun
                is not sent any more.
        """
        _ = self._client  # made here and not in a thread: a missing key is said once
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="limbeck-endpoint")
        try:
            running = {pool.submit(function, item): item for item in items}
            for future in as_completed(running):
                done(running[future], future.result())
        finally:
            # not waiting: after an error or Ctrl-C nobody wants the rest, and those in flight end by their own timeout
            pool.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _key(self) -> str:
        key = os.environ.get(self._settings.api_key_env, "").strip()
        if key:
            return key
        if _is_this_machine(self._hostname):
            return "none"  # the client insists on one; local servers rarely look at it
        raise self._error(
            f"{self._name} at {self._host} needs a key: set the environment variable {self._settings.api_key_env} (to "
            f"anything, if that server asks for none), or name another in {self._section}.api_key_env"
        )

    @cached_property
    def _client(self) -> OpenAI:
        try:
            import openai
        except ImportError:
            raise self._error(f"{self._name} needs the openai package: pip install 'limbeck[train]'") from None
        return openai.OpenAI(
            api_key=self._key,
            base_url=self._settings.base_url,
            timeout=self._settings.timeout_seconds,
            max_retries=self._settings.max_retries,
            # a hook and not a wait before each `call`, because the rate counts retries too
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [lambda _: self.limiter.wait()]}),
        )

    def _explain(self, error: Exception, refused: str) -> str:
        import openai

        settings, section = self._settings, self._section
        head = f"{self._name} at {self._host}"
        tries = f"after {settings.max_retries + 1} tries"
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{head} did not answer within {settings.timeout_seconds:g} s, {tries}: raise "
                f"{section}.timeout_seconds or {self._smaller}"
            )
        if isinstance(error, openai.APIConnectionError):
            reason = self._clean(str(error.__cause__ or error))
            return f"{head} cannot be reached ({reason}), {tries}: check {section}.base_url and that the server runs"
        if not isinstance(error, openai.APIStatusError):
            return f"{head}: {self._clean(str(error))}"
        advice = {
            400: refused,
            401: f"check the key in the environment variable {settings.api_key_env}",
            403: f"the key in the environment variable {settings.api_key_env} may not use this model",
            404: f"check {section}.model, and {section}.base_url, which usually ends in /v1",
            413: refused,
            422: refused,
            429: f"{tries}: lower {section}.requests_per_minute and {section}.concurrency, or check the account's "
            "quota; run again to go on from here",
        }.get(error.status_code, f"{tries}; ask who runs it")
        return f"{head} answered {error.status_code} ({self._clean(error.message)}): {advice}"

    def _clean(self, message: str) -> str:
        """One line of a foreign message, without the key, should it repeat it."""
        line = " ".join(message.split())
        if self._key != "none":
            line = line.replace(self._key, "***")
        return line if len(line) <= 200 else line[:200] + "…"


class RateLimiter:
    """Lets so many requests a minute begin, evenly spaced, from any thread."""

    def __init__(
        self,
        per_minute: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """per_minute: None = no limit. clock, sleep: in seconds."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may begin."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            begin = max(now, self._next)
            self._next = begin + self._gap
        if begin > now:
            self._sleep(begin - now)


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
