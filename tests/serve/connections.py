"""Requests to an application without a server between, which say when the client goes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

DEFAULT = {"input": ["a key column"]}


class Connection:
    """One request as a server hands it to an application, and what the application sends."""

    def __init__(self, app: Any, path: str = "/v1/embeddings", body: Any = DEFAULT, **headers: str) -> None:
        self.sent: list[dict[str, Any]] = []
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if body is not None:
            self.messages.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        named = {"content-type": "application/json"} | headers
        self.scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()], "http_version": "1.1",
            "scheme": "http", "client": ("10.0.0.1", 1), "server": ("localhost", 80), "root_path": "", "state": {},
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(self.scope, self.messages.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


def running(app: Any, work: Any) -> None:
    """Do work while an application runs in this thread's event loop."""

    async def all_of_it() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(work(), 30)

    asyncio.run(all_of_it())
