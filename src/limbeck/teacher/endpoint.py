"""A teacher behind an OpenAI-compatible `/v1/embeddings` endpoint: OpenAI itself, vLLM, TEI, llama.cpp and others.

The `openai` client sends, retries (connection errors, timeouts, 408, 409, 429 and 5xx, with exponential backoff and
jitter, or after the server's Retry-After) and decodes base64 or float vectors. Here: the rate, several requests at a
time, every check of an answer, and errors in plain words. The key is read from the environment at the first request; it
is in no fingerprint, log record or message.

Legend: N texts, D the teacher's dims.
"""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from limbeck import config
from limbeck.errors import TeacherError
from limbeck.teacher.checks import Progress, shown, unit_vectors, utf8


class EndpointTeacher:
    """A teacher reached over HTTP. Needs the `openai` package (the `train` extra)."""

    truncated = None  # only the server knows

    def __init__(self, teacher: config.Teacher) -> None:
        """Take the settings; nothing is sent before the first `encode`.

        Raises:
            TeacherError: the URL holds a password.
        """
        assert teacher.base_url  # the recipe has checked it
        self.dim = teacher.dim
        self.max_tokens = teacher.max_tokens
        self._config = teacher
        self._url = urlsplit(teacher.base_url)
        if self._url.username or self._url.password:  # HTTP libraries log URLs, and recipes are passed on
            raise TeacherError(
                f"teacher.base_url of {self._url.hostname} holds a user or password: put the key into the environment "
                f"variable {teacher.api_key_env} instead"
            )
        self.host = self._url.netloc
        self._limiter = RateLimiter(teacher.requests_per_minute)

    @property
    def fingerprint(self) -> str:
        """Model and where it is served; with teacher.revision, model and revision.

        A server may serve anything under a model's name, so its address counts. Whoever sets `revision` vouches for
        what is served: the vectors then stay known when the server moves.
        """
        where = self._config.revision or f"{self.host}{self._url.path.rstrip('/')}"
        name = f"{self._config.model}@{where}"
        return name if self.max_tokens is None else f"{name} max_tokens={self.max_tokens}"

    def encode(self, texts: Sequence[str], *, instruction: str = "", progress: Progress | None = None) -> np.ndarray:
        """Encode texts to unit vectors, teacher.texts_per_request at a time, teacher.concurrency requests in flight.

        Args:
            texts: [N], none empty.
            instruction: put in front of every text.
            progress: called after each request with the number of its texts.

        Returns:
            float32 [N, D] in the order of `texts`.

        Raises:
            DataError: a text is not valid Unicode.
            TeacherError: no key, no connection, a refusal that retries did not cure, or an answer that does not fit.
        """
        for i in range(len(texts)):
            utf8(texts[i], i)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if not len(texts):
            return vectors
        client = self._client  # made here and not in a thread: a missing key is said once, before anything is sent
        size = self._config.texts_per_request
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="limbeck-teacher")
        try:
            requests = {
                pool.submit(self._request, client, list(texts[start : start + size]), instruction, start): start
                for start in range(0, len(texts), size)
            }
            for done in as_completed(requests):
                answer = done.result()
                vectors[requests[done] : requests[done] + len(answer)] = answer
                if progress:
                    progress(len(answer))
        finally:
            # not waiting: after an error or Ctrl-C nobody wants the rest, and those in flight end by their own timeout
            pool.shutdown(wait=False, cancel_futures=True)
        return vectors

    @cached_property
    def _key(self) -> str:
        key = os.environ.get(self._config.api_key_env, "").strip()
        if key:
            return key
        if _is_this_machine(self._url.hostname or ""):
            return "none"  # the client insists on one; local servers rarely look at it
        raise TeacherError(
            f"teacher {self._config.model} at {self.host} needs a key: set the environment variable "
            f"{self._config.api_key_env} (to anything, if that server asks for none), or name another in "
            "teacher.api_key_env"
        )

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise TeacherError("an openai teacher needs the openai package: pip install 'limbeck[train]'") from None
        return openai.OpenAI(
            api_key=self._key,
            base_url=self._config.base_url,
            timeout=self._config.timeout_seconds,
            max_retries=self._config.max_retries,
            # a hook and not a wait before `create`, because the rate counts retries too
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [lambda _: self._limiter.wait()]}),
        )

    def width(self, text: str = "How wide is a vector?") -> int:
        """D, as the endpoint answers one text, whatever teacher.dim says. Raises TeacherError."""
        return self._answer(self._client, [text], 0).shape[1]

    def _request(self, client: Any, texts: list[str], instruction: str, start: int) -> np.ndarray:
        """float32 [N, D], unit vectors of one request."""
        vectors = self._answer(client, [instruction + text for text in texts], start)
        positions = range(start, start + len(texts))
        return unit_vectors(vectors, texts, positions=positions, dim=self.dim, teacher=self._config.model)

    def _answer(self, client: Any, texts: list[str], start: int) -> np.ndarray:
        """float32 [N, D] as they came."""
        import openai

        # vLLM's way of asking for truncation; other servers may refuse it, which is why it is sent only when asked for
        extra = {"truncate_prompt_tokens": self.max_tokens} if self.max_tokens else None
        try:
            answer = client.embeddings.create(model=self._config.model, input=texts, extra_body=extra)
            return self._in_order(answer.data, len(texts))
        except openai.OpenAIError as error:
            failure = TeacherError(self._explain(error, texts, start))
        except (ValueError, TypeError, AttributeError) as error:
            failure = TeacherError(
                f"teacher {self._config.model}: {self.host} does not answer in the form of /v1/embeddings "
                f"({self._clean(str(error))}): check teacher.base_url, which usually ends in /v1"
            )
        raise failure  # outside `except`, so that it carries no request (and no key) along as its context

    def _in_order(self, data: list[Any], expected: int) -> np.ndarray:
        """[N, D] of an answer's items, which may come in any order."""
        if len(data) != expected:
            raise ValueError(f"expected {expected} vectors, got {len(data)}")
        by_index = {item.index: item.embedding for item in data}
        if by_index.keys() != set(range(expected)):
            raise ValueError(f"expected the indices 0 to {expected - 1}, each once")
        widths = {len(vector) for vector in by_index.values()}
        if len(widths) != 1:
            raise ValueError(f"expected vectors of one width, got {sorted(widths)}")
        return np.array([by_index[i] for i in range(expected)], dtype=np.float32)

    def _explain(self, error: Exception, texts: list[str], start: int) -> str:
        import openai

        head = f"teacher {self._config.model} at {self.host}"
        tries = f"after {self._config.max_retries + 1} tries"
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{head} did not answer within {self._config.timeout_seconds:g} s, {tries}: raise "
                "teacher.timeout_seconds or lower teacher.texts_per_request"
            )
        if isinstance(error, openai.APIConnectionError):
            reason = self._clean(str(error.__cause__ or error))
            return f"{head} cannot be reached ({reason}), {tries}: check teacher.base_url and that the server runs"
        if not isinstance(error, openai.APIStatusError):
            return f"{head}: {self._clean(str(error))}"
        status = error.status_code
        advice = {
            401: f"check the key in the environment variable {self._config.api_key_env}",
            403: f"the key in the environment variable {self._config.api_key_env} may not use this model",
            404: "check teacher.model, and teacher.base_url, which usually ends in /v1",
            429: f"{tries}: lower teacher.requests_per_minute and teacher.concurrency, or check the account's quota; "
            "run again to go on from here",
        }.get(status)
        if advice is None and status in (400, 413, 422):
            longest = max(range(len(texts)), key=lambda i: len(texts[i]))
            advice = (
                "a text may be too long or empty, or the request too big; lower teacher.texts_per_request, or shorten "
                f"the texts (the longest of this request is text {start + longest}, {shown(texts[longest])}, "
                f"{len(texts[longest])} characters)"
            )
            if self.max_tokens:
                advice += "; or unset teacher.max_tokens, if the server does not know truncate_prompt_tokens"
        return f"{head} answered {status} ({self._clean(error.message)}): {advice or f'{tries}; ask who runs it'}"

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
