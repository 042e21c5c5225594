import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck.config import Data, FileSource, PythonDocsSource
from limbeck.data import sources
from limbeck.data.examples import Pair
from limbeck.data.prepare import prepare
from limbeck.errors import DataError
from limbeck.search import load_corpus

ROWS = [{"id": "a", "title": "Sum", "text": "adds numbers"}, {"id": "b", "title": "", "text": "sorts items"}]


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_kind_of_file_gives_the_same_corpus(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "c.jsonl").write_text(lines)
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write(lines)
    (tmp_path / "c.csv").write_text("id,title,text\na,Sum,adds numbers\nb,,sorts items\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("c.jsonl", "c.jsonl.gz", "c.csv", "c.parquet"):
        corpus = load_corpus(tmp_path / name)
        assert (corpus.name, corpus.ids, corpus.documents) == (name, ["a", "b"], ["Sum. adds numbers", "sorts items"])


def test_titles_are_optional_and_ids_may_be_numbers_or_named_as_beir_does(tmp_path):
    (tmp_path / "c.csv").write_text("text,id\nadds numbers,7\n")
    assert load_corpus(tmp_path / "c.csv").ids == ["7"]
    corpus = load_corpus(_jsonl(tmp_path / "c.jsonl", [{"_id": 7, "text": "x"}, {"_id": 8, "title": "T", "text": "y"}]))
    assert (corpus.ids, corpus.documents) == (["7", "8"], ["x", "T. y"])


def test_an_id_that_occurs_twice_is_reported_with_both_places(tmp_path):
    path = _jsonl(tmp_path / "c.jsonl", [*ROWS, {"id": "a", "text": "again"}])
    with pytest.raises(DataError, match=r"c\.jsonl:3: id 'a' is already that of .*c\.jsonl:1"):
        load_corpus(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"id": "a", "body": "x"}\n', "needs the fields id and text .* it has id, body"),
        ('{"text": "x"}\n', "needs the fields id and text"),
        ('{"id": "a", "text": "x"}\n{"text": "y"}\n', r"c\.jsonl:2: .*'id'"),
        ('{"id": "a", "text": "x"}\n{"id": "b", "text": ""}\n', r"c\.jsonl:2: 'text' is empty"),
        ('{"id": ["a", "b"], "text": "x"}\n', r"c\.jsonl:1: 'id' must be one"),
        ('{"id": "a", "te\n', r"c\.jsonl:1: not valid JSON"),
        ("", "is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_reported_with_the_reason(tmp_path, content, reason):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(DataError, match=reason):
        load_corpus(tmp_path / "c.jsonl")


def test_a_torn_archive_and_a_torn_parquet_file_are_named(tmp_path):
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "x"}\n' * 500)[:-20])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    for name in ("c.jsonl.gz", "c.parquet"):
        with pytest.raises(DataError, match=name):
            load_corpus(tmp_path / name)


def test_a_corpus_that_is_not_there_is_an_error_that_lists_what_could_be_given(tmp_path):
    with pytest.raises(DataError, match="python-docs, debian-packages"):
        load_corpus(tmp_path / "nothing.jsonl")


def test_a_run_folder_gives_each_document_of_its_data_once(tmp_path):
    rows = [{"q": f"what is {i}", "d": f"the number {i // 2} explained"} for i in range(40)]
    path = _jsonl(tmp_path / "pairs.jsonl", rows)
    source = FileSource(name="pairs", path=str(path), columns={"query": "q", "document": "d"})  # pyright: ignore
    prepare(Data(sources=[source], heldout_fraction=0.3, near_duplicate_threshold=None), tmp_path / "run" / "data")
    for folder in (tmp_path / "run", tmp_path / "run" / "data"):
        corpus = load_corpus(folder)
        assert sorted(corpus.documents) == sorted({row["d"] for row in rows})
        assert len(corpus.ids) == len(corpus.documents)


def test_labelled_texts_of_a_run_are_searched_only_where_it_has_nothing_else(tmp_path):
    pairs = _jsonl(tmp_path / "pairs.jsonl", [{"q": f"what is {i}", "d": f"number {i}"} for i in range(9)])
    labelled = _jsonl(tmp_path / "labelled.jsonl", [{"t": f"text {i}", "l": str(i % 2)} for i in range(9)])
    asked = FileSource(name="pairs", path=str(pairs), columns={"query": "q", "document": "d"})  # pyright: ignore
    topics = FileSource(name="topics", path=str(labelled), columns={"text": "t", "labels": "l"})  # pyright: ignore
    for sources_, expected in (([asked, topics], "number"), ([topics], "text")):
        prepare(Data(sources=sources_, near_duplicate_threshold=None), tmp_path / expected / "data")
        documents = load_corpus(tmp_path / expected).documents
        assert documents and all(document.startswith(f"{expected} ") for document in documents)


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a prepared folder"):
        load_corpus(tmp_path)


@pytest.fixture
def python_docs(monkeypatch):
    """Stands in for the reader of every installed package; counts how often it was asked."""
    asked: list[PythonDocsSource] = []

    def read(source, *, report=None):
        asked.append(source)
        yield Pair(id="m.f", query="q", document="m.f(a)\n\nadds\u2028numbers")
        yield Pair(id="m.g", query="q", document="m.g(a)\n\nsorts items")

    monkeypatch.setattr(sources, "read_source", read)
    return asked


def test_python_docs_are_read_once_and_then_kept(tmp_path, python_docs, caplog):
    first = load_corpus("python-docs", cache_dir=tmp_path)
    assert first.ids == ["m.f", "m.g"]
    assert load_corpus("python-docs", cache_dir=tmp_path) == first
    assert len(python_docs) == 1
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text()[:-20])
    with caplog.at_level(logging.WARNING):
        assert load_corpus("python-docs", cache_dir=tmp_path) == first
    assert len(python_docs) == 2 and "cannot be used" in caplog.text


def test_python_docs_are_read_anew_when_a_package_was_installed(tmp_path, python_docs, monkeypatch):
    load_corpus("python-docs", cache_dir=tmp_path)
    monkeypatch.setattr("limbeck.search.corpus.metadata.distributions", lambda: [])
    load_corpus("python-docs", cache_dir=tmp_path)
    assert len(python_docs) == 2


def test_without_a_cache_folder_nothing_is_written(tmp_path, python_docs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_corpus("python-docs")
    assert list(tmp_path.iterdir()) == []
