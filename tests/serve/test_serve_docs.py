"""Every curl of docs/serving.md is asked of a server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (curl (?:.*\\\n)*.*)$", TEXT, re.MULTILINE)


def test_there_is_one_for_each_api() -> None:
    paths = {shlex.split(command)[1].partition(":8080")[2] for command in COMMANDS}
    others = {"/v1/classify", "/v1/similarity", "/v1/search", "/v1/indexes"}
    assert paths == {"/v1/embeddings", "/v2/embed", "/embed", "/info"} | others


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: shlex.split(command)[1].partition(":8080")[2])
def test_it_works(command: str, serve: Any, request: pytest.FixtureRequest) -> None:
    words = shlex.split(command.replace("\\\n", ""))
    path = words[1].removeprefix("http://127.0.0.1:8080")
    indexes = {}
    if path == "/v1/search":
        from limbeck.search.index import Index

        indexes["notes"] = Index.without_model(request.getfixturevalue("index_folder"))
    client = serve(name="demo", indexes=indexes)
    if "-d" not in words:
        assert client.get(path).status_code == 200
        return
    body = json.loads(words[words.index("-d") + 1])
    for name in ("dimensions", "output_dimension"):
        if name in body:  # the model of the tests has fewer than the demo's
            body[name] = 16
    assert "Content-Type: application/json" in words
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
