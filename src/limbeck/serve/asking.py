"""What routes share: the parts of a server, and how long they work for whom."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
from fastapi import Request, Response

from limbeck.serve.catalogue import Catalogue
from limbeck.serve.embedding import Embedder
from limbeck.serve.errors import Refusal
from limbeck.serve.metrics import Metrics
from limbeck.serve.settings import Settings

if TYPE_CHECKING:
    from limbeck.classify.saved import Classifier
    from limbeck.serve.searching import Searcher

Result = TypeVar("Result")


@dataclass(frozen=True)
class Parts:
    """Of one server; `app.state.parts`."""

    embedder: Embedder
    catalogue: Catalogue
    settings: Settings
    metrics: Metrics
    classifiers: Mapping[str, Classifier] = field(default_factory=dict)
    searchers: Mapping[str, Searcher] = field(default_factory=dict)


def parts_of(request: Request) -> Parts:
    """The parts of the server that got a request."""
    return request.app.state.parts


def owner_of(request: Request) -> str:
    """Who asks: of `Keys.owner`, or an address."""
    return request.state.owner


async def while_there(request: Request, work: Awaitable[Result]) -> Result:
    """Work for as long as the client is there and its time is not up; then drop the work.

    Raises what the work raises, and Refusal: gone (499, which nobody reads), or the time is up (504).
    """
    parts = parts_of(request)
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_gone(request))
    try:
        seconds = parts.settings.request_seconds
        done, _ = await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            parts.metrics.gone.inc()
            raise Refusal(499, "client_gone", "the client has gone")
        raise Refusal(504, "timeout", f"there was no answer within {seconds:g} s: send less at a time, or try again")
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Numbers(Response):
    """JSON whose arrays are NumPy's: float32 is written in as few digits as tell it from its neighbours."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """To bytes."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def base64_of(vector: np.ndarray) -> str:
    """Little-endian float32, as OpenAI's clients read it. vector: [D]."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")
