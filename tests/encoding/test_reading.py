"""Rows of files: in order, with their places, and what is wrong with a file is said with its line."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.encoding import reading
from limbeck.encoding.reading import Inputs, Row, count_rows, find_inputs, identities, read_rows
from limbeck.errors import ConfigError, DataError


def parquet(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return str(path)


def texts_of(*sources: Path | str, **fields: Any) -> list[str]:
    return [row.text for row in read_rows(find_inputs([str(s) for s in sources], **fields))]


@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_is_the_same_from_lines_json_and_parquet(texts: list[str], tmp_path: Path) -> None:
    ids = list(range(len(texts)))
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n", encoding="utf-8", newline="")
    rows = [json.dumps({"t": text, "n": i}) for i, text in zip(ids, texts, strict=True)]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows))
    parquet(tmp_path / "t.parquet", n=ids, t=texts)
    assert texts_of(tmp_path / "t.txt") == texts
    for name in ("t.jsonl.gz", "t.parquet"):
        inputs = find_inputs([str(tmp_path / name)], field="t", id="n")
        assert [(row.text, row.id) for row in read_rows(inputs)] == list(zip(texts, ids, strict=True))


def test_several_files_and_folders_are_read_in_order_and_rows_know_their_places(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.txt").write_text("three")
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    (folder / "README.md").write_text("not an input")
    (folder / ".hidden.txt").write_text("nor this")
    (tmp_path / "z.log").write_text("zero\n")
    inputs = find_inputs([str(tmp_path / "z.log"), str(folder)])
    assert list(read_rows(inputs)) == [
        Row("zero", None, f"{tmp_path}/z.log:1"),
        Row("one", None, f"{folder}/a.txt.gz:1"),
        Row("two", None, f"{folder}/a.txt.gz:2"),
        Row("three", None, f"{folder}/b.txt:1"),
    ]
    assert [row.place for row in read_rows(find_inputs([str(folder / "a.txt.gz")]))] == ["line 1", "line 2"]


def test_the_places_of_parquet_are_rows(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", t=["a", "b", "c"])
    assert [row.place for row in read_rows(find_inputs([file], field="t"))] == ["row 1", "row 2", "row 3"]
    last = list(read_rows(find_inputs([file, file], field="t")))[-1]
    assert last.place == f"{file}, row 3"


def test_a_file_is_read_as_far_as_its_rows_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield b"line\n"

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": endless()}))
    rows = read_rows(find_inputs(["-"]))
    for _ in range(100):
        next(rows)
    assert taken == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"t": "a", "n": 1}\n{"t": "b"}', ":2: no id (text, or whole number of 64 bits) in field 'n', the row has t"),
        (b'{"t": "a", "n": 1}\n{"t": "b", "n": "x"}', ":2: id 'x' is of type str, those before are int"),
        (b'{"t": "a", "n": 1.5}', ":1: no id (text, or whole number of 64 bits) in field 'n', it holds 1.5"),
        (b'{"t": "a", "n": true}', ":1: no id (text, or whole number of 64 bits) in field 'n', it holds True"),
        (b'{"t": "a", "n": 9223372036854775808}', ":1: no id (text, or whole number of 64 bits) in field 'n'"),
        (b'{"t": null, "n": 1}', ":1: no text in field 't', it holds null"),
        (b'{"t": "a", "n": ' + b"1" * 5000 + b"}", ":1: not JSON"),
        (b"[" * 100_000, ":1: not JSON"),
        (b"", "holds no texts"),
    ],
)
def test_a_json_row_that_does_not_fit_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(find_inputs([str(tmp_path / "t.jsonl")], field="t", id="n")))
    assert message in str(caught.value) and "t.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"t": ["a", None]}, "t.parquet, row 2: no text in field 't', it holds null"),
        ({"t": [1, 2]}, "t.parquet, row 1: no text in field 't', it holds 1"),
        ({"t": ["a", "b"], "n": [1, None]}, "t.parquet, row 2: no id (text, or whole number of 64 bits) in field 'n'"),
        ({"t": pa.array([], pa.string())}, "t.parquet holds no texts"),
        (
            {"t": pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"\xe9"]).buffers()[1:]])},
            "t.parquet: not UTF-8 in one of the rows 1 to 1",
        ),
    ],
)
def test_a_parquet_row_that_does_not_fit_is_named(columns: Any, message: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", **columns)
    with pytest.raises(DataError) as caught:
        list(read_rows(find_inputs([file], field="t", id="n" if "n" in columns else None)))
    assert message in str(caught.value)


def test_what_cannot_be_read_is_said_before_anything_is(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", text=["a"], n=[1])
    (tmp_path / "t.txt").write_text("a")
    (tmp_path / "t.jsonl").write_text('{"t": "a"}')
    (tmp_path / "torn.parquet").write_bytes(Path(file).read_bytes()[:-7])
    (tmp_path / "empty").mkdir()
    plain, lines = str(tmp_path / "t.txt"), str(tmp_path / "t.jsonl")
    for sources, fields, error, message in (
        ([file], {}, ConfigError, r"t\.parquet is Parquet: name the column .* --field text; it has text, n"),
        ([file], {"field": "body"}, DataError, r"t\.parquet has no column 'body'; it has text, n"),
        ([file], {"field": "text", "id": "_id"}, DataError, r"t\.parquet has no column '_id'; it has text, n"),
        ([str(tmp_path / "torn.parquet")], {"field": "text"}, DataError, "is torn or not Parquet"),
        ([plain], {"id": "n"}, ConfigError, r"plain lines have no field 'n': name that of the text"),
        ([lines], {}, ConfigError, "holds JSON: name the field of the text, e.g. --field text"),
        ([plain, lines], {}, ConfigError, r"of one kind, got .*t\.txt \(plain lines\) and .*t\.jsonl \(JSON lines\)"),
        ([lines, file], {"field": "text"}, ConfigError, r"t\.jsonl \(JSON lines\) and .*t\.parquet \(Parquet\)"),
        ([str(tmp_path)], {"field": "text"}, ConfigError, "encode them apart"),
        ([], {}, ConfigError, "there is nothing to read"),
        (["-", plain], {}, ConfigError, r"standard input \(-\) is read alone"),
        ([str(tmp_path / "empty")], {}, DataError, r"empty holds no \.txt, \.jsonl, \.ndjson .* or \.parquet file"),
        ([str(tmp_path / "nowhere")], {}, DataError, "no such file: .*nowhere"),
    ):
        with pytest.raises(error, match=message):
            find_inputs(sources, **fields)


def test_rows_are_counted_where_that_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "t.parquet", t=["a", "b", "c"])
    (tmp_path / "t.txt").write_text("a\n\nb")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a\n"))
    plain = find_inputs([str(tmp_path / "t.txt")] * 2)
    assert count_rows(find_inputs([file, file], field="t")) == 6
    assert count_rows(plain) == len(list(read_rows(plain))) == 6
    assert count_rows(find_inputs([str(tmp_path / "t.txt.gz")])) is None
    assert count_rows(find_inputs(["-"])) is None
    monkeypatch.setattr(reading, "_COUNTED_BYTES", 7)
    assert count_rows(plain) is None


def test_inputs_are_told_apart_by_their_names_and_bytes_wherever_they_are(tmp_path: Path) -> None:
    for folder, content in (("one", "a\n"), ("two", "a\n"), ("three", "b\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.txt").write_text(content)
    one, two, three = (identities(find_inputs([str(tmp_path / name)])) for name in ("one", "two", "three"))
    assert one == two != three
    assert one[0]["name"] == "t.txt" and one[0]["bytes"] == 2
    with pytest.raises(ConfigError, match="standard input cannot be: write it to a file"):
        identities(Inputs(("-",), "lines", None, None))


def test_standard_input_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode()), encoding="latin-1"))
    assert texts_of("-") == ["é"]
