"""Documents of files, standard input and runs, and those that cannot be indexed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limbeck.errors import ConfigError, DataError
from limbeck.search.documents import Document, checked, kinds_of, read_documents

ROWS = [
    {"id": "a", "text": "first", "title": "One", "lang": "en", "year": 2020},
    {"id": 7, "text": "second", "tags": ["x", "y"]},
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_file_with_their_fields(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", ROWS)
    assert list(read_documents(path)) == [
        Document("a", "first", "One", {"lang": "en", "year": 2020}, f"{path}:1"),
        Document("7", "second", "", {"tags": ["x", "y"]}, f"{path}:2"),
    ]


def test_rows_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"id": "a", "text": "b"}\n')))
    assert [d.id for d in read_documents("-")] == ["a"]


def test_columns_of_csv_are_read_as_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("id,text,year,price,lang\n1,a,2020,1.5,en\n2,b,,,de\n")
    first, second = read_documents(path, fields=["year:integer", "price:number"])
    assert first.fields == {"year": 2020, "price": 1.5} and second.fields == {"year": None, "price": None}
    assert kinds_of(second) == {}
    with pytest.raises(ConfigError, match="a field is read as one of text, integer, number, got 'year:date'"):
        list(read_documents(path, fields=["year:date"]))
    with pytest.raises(DataError, match=r"d\.csv:2: no field 'yaer', the row has id, text, year"):
        list(read_documents(path, fields=["yaer"]))
    with pytest.raises(
        DataError, match=r"d\.csv:2: 'lang' is 'en' .*expected integer|'lang' is 'en', expected integer"
    ):
        list(read_documents(path, fields=["lang:integer"]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b"}', "2: a document needs the fields id and text .* it has id"),
        ('{"id": "b", "text": ""}', "2: 'text' is empty: mend the row"),
        ('{"id": null, "text": "x"}', "2: 'id' is null, expected a text"),
        ('{"id": "b", "text": "x", "title": 3}', "2: 'title' is 3"),
        ("{", "2: not valid JSON"),
        ("[1]", "2: expected a JSON object"),
    ],
)
def test_rows_that_are_no_documents_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": "a", "text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        list(read_documents(path))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes('{"id": "a", "text": "fine"}\n{"id": "b", "text": "é"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"d\.jsonl:2: not valid UTF-8: byte 0xe9"):
        list(read_documents(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").touch()
    with pytest.raises(DataError, match="holds no documents"):
        list(read_documents(tmp_path / "d.jsonl"))


def test_fields_are_those_of_a_file() -> None:
    with pytest.raises(ConfigError, match="fields are those of a file"):
        list(read_documents("python-docs", fields=["a"]))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("", "x"), "its id is ''"),
        (Document("b", " \n"), "document 'b': its text is"),
        (Document("a", "again"), "document 'a': id 'a' occurs a second time"),
        (Document("b", "x", fields={"n": float("nan")}), "field 'n' cannot be written as JSON"),
        (Document("b", "x", fields={"n": {1}}), "field 'n' cannot be written as JSON"),
        (Document("b", "x", fields={'q"': 1}), "names have no quotes"),
        (Document("b", "x", place="f:3", fields={"": 1}), "^f:3: a field is named ''"),
    ],
)
def test_what_cannot_be_indexed_is_named(document: Document, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(checked([Document("a", "fine"), document]))


def test_a_digest_tells_documents_apart() -> None:
    same = Document("a", "x", "t", {"n": 1, "m": 2}), Document("b", "x", "t", {"m": 2, "n": 1}, "elsewhere")
    assert same[0].digest() == same[1].digest()
    others = Document("a", "y", "t"), Document("a", "x", "u"), Document("a", "x", "t", {"n": 2})
    assert len({d.digest() for d in (same[0], *others)}) == 4
