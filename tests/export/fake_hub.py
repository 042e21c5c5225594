"""A hub in a thread: it makes repositories, takes files of git and LFS, and keeps what was committed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, OWNER = "hf_right", "someone"
_LARGE = (".safetensors", ".onnx", ".bin", "tokenizer.json")  # sent as LFS objects


@dataclass
class Hub:
    """What it has been given."""

    url: str = ""
    visibility: dict[str, str | None] = field(default_factory=dict)  # of each repository, as asked for
    branches: set[str] = field(default_factory=lambda: {"main"})
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)  # by repository and branch
    messages: list[str] = field(default_factory=list)
    failing: str | None = None  # requests to paths with this in them end in an error of the server

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or OWNER}/{asked['name']}"
            if not name.startswith(f"{OWNER}/"):
                return 403, {"error": "You don't have the rights to create a model under this namespace"}
            if name in self.visibility:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.visibility[name] = asked.get("visibility")
            return 200, {"url": f"{self.url}/{name}"}
        if found := re.fullmatch(r"/api/models/(\S+?/\S+?)/branch/(\S+)", path):
            self.branches.add(found[2])
            return 200, {}
        if re.fullmatch(r"/api/models/\S+/preupload/\S+", path):
            return 200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._action(o) for o in json.loads(body)["objects"]]}
        if found := re.fullmatch(r"/api/models/(\S+?/\S+?)/commit/(\S+)", path):
            return self._commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"no such page: {path}"}

    def put(self, path: str, body: bytes) -> tuple[int, Any]:
        digest = hashlib.sha256(body).hexdigest()
        if path != f"/storage/{digest}":
            return 400, {"error": "these bytes do not have the digest that was announced"}
        self.objects[digest] = body
        return 200, {}

    def _action(self, announced: dict[str, Any]) -> dict[str, Any]:
        return announced | {"actions": {"upload": {"href": f"{self.url}/storage/{announced['oid']}"}}}

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        if name not in self.visibility or branch not in self.branches:
            return 404, {"error": "Repository or revision not found"}
        files = self.files.setdefault((name, branch), {})
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/abc", "commitOid": "abc", "hookOutput": ""}


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(_LARGE) else "regular", "shouldIgnore": False}


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if hub.failing and hub.failing in path:
                status, answer = 422, {"error": "out of order"}
            elif self.command == "PUT":
                status, answer = hub.put(path, body)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, answer = 401, {"error": "Invalid credentials in Authorization header"}
            elif self.command == "POST":
                status, answer = hub.post(path, body)
            else:
                known = path.removeprefix("/api/models/").partition("/revision/")[0] in hub.visibility
                status, answer = (200, {"id": path}) if known else (404, {"error": "Repository not found"})
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
