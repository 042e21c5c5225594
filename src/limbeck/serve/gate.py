"""What every request passes: who asks, how much at a time, how large, how long; and what is counted and logged.

A plain ASGI layer, so that a body is refused before it is read, and nothing that goes wrong further in gets out: no
traceback, no text.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limbeck.serve.errors import Refusal, body_of
from limbeck.serve.keys import Allowance, Keys
from limbeck.serve.metrics import Metrics
from limbeck.serve.settings import Settings

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing about anyone's texts."""

log = logging.getLogger("limbeck.serve")


class Gate:
    """Around the application."""

    def __init__(self, app: ASGIApp, *, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        """Args: app: what is behind; settings; keys; metrics."""
        self._app, self._settings, self._keys, self._metrics = app, settings, keys, metrics
        self._allowance = Allowance(settings.requests_per_minute)
        self._inside = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, begun = uuid.uuid4().hex, time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"], state["owner"] = request_id, _address(scope)
        state["path"] = scope["path"].removeprefix(scope.get("root_path", ""))  # uvicorn puts it before
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._inner(scope, receive, sending)
        except Refusal as refusal:
            if not status:
                await self.refuse(refusal, scope, receive, sending)
        except Exception as error:
            log.error("request %s failed: %s", request_id, type(error).__name__, exc_info=self._settings.debug)
            if not status:
                failed = Refusal(500, "internal_error", f"the server failed; its log has more under {request_id}")
                await self.refuse(failed, scope, receive, sending)
        finally:
            seconds, route = time.perf_counter() - begun, _route(scope)
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            if state["path"] not in OPEN:
                log.info("%s %s %s %d %.0f ms", request_id, scope["method"], route, status, 1000 * seconds)

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal."""
        self._metrics.refused.labels(refusal.code).inc()
        await answer_of(refusal, scope)(scope, receive, send)

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._keys.needed:
            owner = self._keys.owner(headers.get(b"authorization", b"").decode("latin-1") or None)
            if owner is None:
                raise Refusal(401, "invalid_api_key", "a key is needed: send Authorization: Bearer KEY")
            scope["state"]["owner"] = owner
        if scope["method"] != "POST":  # what only looks, such as Prometheus at a busy server, is not held up
            await self._app(scope, receive, send)
            return
        if wait := self._allowance.spend(scope["state"]["owner"], 1):
            raise Refusal(429, "rate_limit", "this key's requests of the minute are used up", retry_after=wait)
        if self._inside >= self._settings.waiting_requests:
            raise Refusal(429, "too_many_requests", "the server is busy: try again later", retry_after=1)
        self._inside += 1
        try:
            body = await self._body(headers, receive)
            await self._app(scope, _again(body, receive), send)
        finally:
            self._inside -= 1

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """All of it, within the limits. Raises Refusal."""
        most = self._settings.body_bytes
        large = Refusal(413, "body_too_large", f"the body is over the limit of {most:,} bytes: send less at a time")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(499, "client_gone", "the client has gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "body_timeout", "the body did not arrive in time") from None


def answer_of(refusal: Refusal, scope: Scope) -> JSONResponse:
    """A refusal as the API of the path says it."""
    status, body = body_of(scope["state"]["path"], refusal, scope["state"]["request_id"])
    response = JSONResponse(body, status)
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refusal.status in (408, 413):  # what is left of the body is not read
        response.headers["Connection"] = "close"
    return response


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, and then what else comes: that the client has gone."""
    left = [body]

    async def receiving() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receiving


def _route(scope: Scope) -> str:
    """The pattern of a path, never the path itself: as many labels as there are routes."""
    route: Any = scope.get("route")
    return getattr(route, "path", None) or "other"


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
