"""`limbeck index`, `search` and `delete` as they are typed: what they print, take from pipes, and refuse."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "search"), str(TESTS / "model")]  # for the modules there that are no tests

from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402
from word_model import WordModel  # noqa: E402

import limbeck  # noqa: E402
from commands import typed  # noqa: E402
from limbeck.search.engine import OVERSAMPLING  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

ROWS = [
    {"id": "1", "text": "add the numbers of a list", "lang": "en", "year": 2020},
    {"id": "2", "text": "order the items of a list", "lang": "en", "year": 2021},
    {"id": "3", "text": "lies eine Datei", "lang": "de", "year": 2022},
]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> WordModel:
    made = WordModel()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write("notes.jsonl", ROWS)

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, *arguments)

    return call


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def standard_input(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))


def test_an_index_is_made_asked_and_brought_up_to_date(model: WordModel, run: Run) -> None:
    code, out, _ = run("index", "m", "notes.jsonl", "--out", "i", "--dim", "32")
    assert code == 0 and "3 documents added, 0 updated, 0 deleted, 0 as they were; 3 chunks stored" in out
    assert re.search(r"^i: 3 chunks × 32 binary, \d+\.\d MiB$", out, re.MULTILINE)

    code, out, _ = run("search", "i", "items of a list", "--top", "2", "--where", "year>=2020", "--where", "lang=en")
    assert code == 0 and re.findall(r"^ +(\d)  \d\.\d+  (\w+)$", out, re.MULTILINE) == [("1", "2"), ("2", "1")]

    code, again, _ = run(
        *("search", "i", "items of a list", "--top", "2", "--where", "year>=2020", "--where", "lang=en"),
        *("--oversampling", "20"),
    )
    assert code == 0 and again == out
    assert f"{OVERSAMPLING:g} if nothing is said" in " ".join(run("search", "--help")[1].replace("│", " ").split())

    write("notes.jsonl", [ROWS[0], {"id": "2", "text": "order the files"}, {"id": "4", "text": "new"}])
    code, out, _ = run("index", "m", "notes.jsonl", "--out", "i", "--prune", "--json")
    told = json.loads(out)
    assert code == 0 and told["index"]["dim"] == 32 and told["index"]["points"] == 3
    counts = {name: told[name] for name in ("added", "updated", "unchanged", "deleted", "chunks", "truncated")}
    assert counts == {"added": 1, "updated": 1, "unchanged": 1, "deleted": 1, "chunks": 2, "truncated": 0}


def test_searches_as_json_and_by_words(model: WordModel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", "m", "notes.jsonl", "--out", "i")
    found = json.loads(run("search", "i", "Datei", "--json", "--by", "both")[1])
    assert found["query"] == "Datei" and found["hits"][0]["id"] == "3"
    assert found["hits"][0] | {"score": 0} == {
        "rank": 1, "score": 0, "id": "3", "text": "lies eine Datei", "title": "",
        "fields": {"lang": "de", "year": 2022}, "start": 0, "end": 15, "chunk": 0, "chunks": 1,
    }  # fmt: skip
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: pytest.fail("words take no model"))
    assert "  3\n" in run("search", "i", "Datei", "--by", "words")[1]


def test_queries_and_documents_come_from_pipes(model: WordModel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, "".join(json.dumps(row) + "\n" for row in ROWS))
    assert run("index", "m", "-", "--out", "i")[0] == 0
    standard_input(monkeypatch, "items of a list\n\nDatei\n")
    found = [json.loads(line) for line in run("search", "i", "-", "--json", "--top", "1")[1].splitlines()]
    assert [(f["query"], f["hits"][0]["id"]) for f in found] == [("items of a list", "2"), ("Datei", "3")]
    standard_input(monkeypatch, "add the numbers\nDatei\n")
    out = run("search", "m", "notes.jsonl", "-", "--top", "1")[1]
    assert re.findall(r"^(\S.*)\n +1  \d\.\d+  (\d)$", out, re.MULTILINE) == [("add the numbers", "1"), ("Datei", "3")]
    standard_input(monkeypatch, "1\n3\n")
    assert run("delete", "i", "-")[1] == "2 documents deleted, 1 left\n"


def test_documents_are_deleted_by_id_and_by_condition(model: WordModel, run: Run) -> None:
    run("index", "m", "notes.jsonl", "--out", "i")
    assert json.loads(run("delete", "i", "1", "nil", "--json")[1]) == {"deleted": 1, "documents": 2}
    assert run("delete", "i", "--where", "lang=de")[1] == "1 documents deleted, 1 left\n"
    assert run("delete", "i")[0] == 2 and run("delete", "i", "2", "--where", "lang=en")[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dim", "32"], "i is there, and dim cannot be changed (it was made with 64): name another"),
        (["--precision", "int8"], "precision cannot be changed (it was made with 'binary')"),
        (["--task", "text-matching"], "task cannot be changed (it was made with 'retrieval')"),
        (["--no-words"], "words cannot be changed (it was made with True)"),
        (["--shards", "2"], "shards cannot be changed (it was made before)"),
    ],
)
def test_how_an_index_was_made_cannot_be_changed(change: list[str], message: str, model: WordModel, run: Run) -> None:
    run("index", "m", "notes.jsonl", "--out", "i", "--no-optimize")
    code, _, err = run("index", "m", "notes.jsonl", "--out", "i", *change)
    assert code == 1 and message in err
    same = ["--dim", "64", "--precision", "binary", "--task", "retrieval", "--words", "--chunks", "auto"]
    assert run("index", "m", "notes.jsonl", "--out", "i", *same)[0] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "notes.jsonl holds no documents"),
        ([{"id": "1", "text": "a"}, {"id": "1", "text": "b"}], "notes.jsonl:2: id '1' occurs a second time"),
        ([{"text": "a"}], "notes.jsonl:1: a document needs the fields id and text"),
        ([{"id": "1", "text": "nowhere"}], "notes.jsonl:1 has a vector that is all zeros"),
    ],
)
def test_bad_input_is_named(rows: list[dict[str, Any]], message: str, model: WordModel, run: Run) -> None:
    write("notes.jsonl", rows)
    code, _, err = run("index", "m", "notes.jsonl", "--out", "i")
    assert code == 1 and message in err and err.startswith("limbeck: ")
    if not rows:
        assert not Path("i").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "none", "a"], 1, "no index none: make one with limbeck index"),
        (["search", "i", "a", "--where", "color=red"], 1, "no document has a field 'color'"),
        (["search", "i", "a", "--dim", "8"], 2, "--task and --dim are those that the index was made with"),
        (["search", "m", "notes.jsonl", "a", "--by", "words"], 2, "make one with limbeck index"),
        (["search", "m", "notes.jsonl", "a", "--oversampling", "2"], 2, "make one with limbeck index"),
        (["search", "i", "a", "--oversampling", "2000"], 1, "oversampling must be from 1 to 1000"),
        (["search", "a"], 2, "expected INDEX QUERY, or MODEL CORPUS QUERY"),
        (["search", "i", " "], 1, "query 0 is empty"),
        (["index", "m", "notes.jsonl", "--out", "notes.jsonl"], 1, "notes.jsonl"),
        (["index", "m", "nowhere.jsonl", "--out", "j"], 1, "no corpus 'nowhere.jsonl'"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], code: int, message: str, model: WordModel, run: Run) -> None:
    run("index", "m", "notes.jsonl", "--out", "i", "--no-optimize")
    ended, _, err = run(*arguments)
    assert ended == code and message in " ".join(re.sub("[│╭╮╰╯─]", " ", err).split())


@pytest.mark.slow
def test_in_processes_of_their_own_the_index_finds_its_model_again(tmp_path: Path) -> None:
    teacher = save_model(tmp_path / "teacher", "Bert", wordpiece())
    bundle = adapted_bundle(tmp_path / "bundle", student(init="pruned", pruned={"layers": [0, 2]}), teacher)
    write(str(tmp_path / "notes.jsonl"), [{"id": str(n), "text": f"aa bb {'cc ' * n}"} for n in range(5)])

    def limbeck_says(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "limbeck.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    made = limbeck_says("index", "bundle", "notes.jsonl", "--out", "i", "--dim", "16")
    assert made.returncode == 0, made.stderr
    found = limbeck_says("search", "i", "aa bb cc", "--json")
    assert found.returncode == 0 and len(json.loads(found.stdout)["hits"]) == 5
    bundle.rename(tmp_path / "moved")
    lost = limbeck_says("search", "i", "aa bb")
    assert lost.returncode == 1 and "say where it is now (--model)" in lost.stderr
    assert limbeck_says("search", "i", "aa bb", "--model", "moved").returncode == 0
