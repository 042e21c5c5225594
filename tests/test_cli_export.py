"""`limbeck export` and `limbeck push` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import limbeck.export
import limbeck.export.hub
from export.tiny_facts import facts_of
from limbeck.cli_export import leave
from limbeck.export.facts import RetrievalLoss

LOSS = RetrievalLoss(source="words", queries=2, documents=4, task="retrieval", float_ndcg_at_10=0.5, ndcg_at_10=0.4875)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was called, in place of doing it."""
    calls: list[Any] = []

    def export(model: str, out: str, **options: Any) -> Path:
        calls.append((model, out, options))
        Path(out).mkdir()
        facts_of(precision=options["precision"], min_cosine=0.998, retrieval=LOSS).save(Path(out))
        return Path(out)

    def push(model: str, repository: str, **options: Any) -> str:
        calls.append((model, repository, options))
        return "https://hub/commit/abc"

    monkeypatch.setattr(limbeck.export, "export", export)
    monkeypatch.setattr(limbeck.export.hub, "push", push)
    return calls


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(leave, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_export_passes_on_what_was_asked_and_says_how_near_it_is_and_what_it_costs(
    asked: list[Any], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    said = typed("export", "model", "--format", "onnx", "--task", "retrieval", "--precision", "int8", "--out", out)
    assert asked == [("model", out, {"format": "onnx", "task": "retrieval", "precision": "int8"})]
    assert said.splitlines()[0] == f"wrote {out}: least cosine to the model's own vectors 0.998000"
    assert "nDCG@10 0.5000 in float, 0.4875 in int8 (-2.50%)" in said


def test_export_says_the_facts_as_json(asked: list[Any], tmp_path: Path) -> None:
    said = json.loads(typed("export", "model", "--format", "openvino", "--out", str(tmp_path / "out"), "--json"))
    assert (said["min_cosine"], said["retrieval"]["queries"], said["precision"]) == (0.998, 2, "fp32")


def test_push_passes_on_what_was_asked_and_says_the_commit(asked: list[Any]) -> None:
    assert typed("push", "model", "someone/tiny") == "https://hub/commit/abc\n"
    typed("push", "model", "someone/tiny", "--private", "--revision", "next", "--message", "better")
    assert asked[0][2] == {"private": False, "revision": None, "message": None}
    assert asked[1] == ("model", "someone/tiny", {"private": True, "revision": "next", "message": "better"})


def test_a_format_that_there_is_not_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(leave, ["export", "model", "--format", "gguf", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
