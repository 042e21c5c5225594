"""`limbeck serve` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        command = [sys.executable, "-m", "limbeck.cli", "serve", str(folder), "--port", "0", *options]
        environment = os.environ | {"LIMBECK_API_KEYS": "one", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        self.log = log
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            threading.Event().wait(0.05)
        self.url = found[1]

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Authorization": "Bearer one", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as answer:
            return answer.read()
