"""An index over both engines: qdrant-edge in a folder, and a server, for which qdrant-client stands in by itself."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from word_model import WordModel

from limbeck.errors import ConfigError, DataError, ModelError, StoreError

pytest.importorskip("qdrant_edge")
from qdrant_client import QdrantClient  # noqa: E402

from limbeck.search import edge, engine, server  # noqa: E402
from limbeck.search.index import Document, Index  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{said}")  # of the client that stands in: what it does not do
    for said in ("Payload indexes have no effect", "Local mode performs exact", "Local mode is not recommended")
]

SERVER = "http://localhost:6333/notes"
NOTES = [
    Document("1", "add the numbers of a list", fields={"lang": "en", "year": 2020, "draft": True}),
    Document("2", "order the items of a list", fields={"lang": "en", "year": 2021, "draft": False}),
    Document("3", "lies eine Datei von der Platte", fields={"lang": "de", "year": 2022, "tags": ["io", "disk"]}),
    Document("4", "read a file from disk", "Files", {"lang": "en", "price": 1.5}),
]


class _Client(QdrantClient):
    """One server for all that connect, in memory."""

    def close(self, **_: Any) -> None:
        return None


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> QdrantClient:
    made = _Client(":memory:")
    monkeypatch.setattr(server, "connect", lambda address: made)
    return made


@pytest.fixture(params=["folder", "server"])
def where(request: pytest.FixtureRequest, tmp_path: Path, client: QdrantClient) -> str:
    return str(tmp_path / "notes.index") if request.param == "folder" else SERVER


@pytest.fixture
def model() -> WordModel:
    return WordModel()


@pytest.fixture
def notes(where: str, model: WordModel) -> Iterator[Index]:
    with Index.create(where, model, precision="float16") as made:
        made.add(NOTES)
        yield made


def found(index: Index, query: str, **how: Any) -> list[str]:
    return [hit.id for hit in index.search(query, **how)]


def test_the_nearest_document_comes_first_with_its_cosine_and_all_it_was_given(notes: Index, model: WordModel) -> None:
    first, *_ = notes.search("read a file", k=2)
    query, document = (model.encode([t])[0] for t in ("read a file", "Files. read a file from disk"))
    assert first.score == pytest.approx(float(query @ document), abs=1e-3)
    assert (first.id, first.title, first.text, first.rank) == ("4", "Files", "read a file from disk", 1)
    assert (first.start, first.end, first.chunk, first.chunks) == (0, 21, 0, 1)
    assert first.fields == {"lang": "en", "price": 1.5}
    assert [d.fields for d in notes.get(["1", "nil", "3"]) if d] == [NOTES[0].fields, NOTES[2].fields]


CHOSEN: list[tuple[dict[str, Any], set[str]]] = [
    ({"lang": "de"}, {"3"}),
    ({"lang": ["de", "fr"]}, {"3"}),
    ({"lang": {"!=": "en"}}, {"3"}),
    ({"year": {">=": 2021}}, {"2", "3"}),
    ({"year": 2020}, {"1"}),
    ({"year": {">": 2020, "<": 2022}}, {"2"}),
    ({"draft": True}, {"1"}),
    ({"draft": False}, {"2"}),
    ({"draft": {"!=": True}}, {"2", "3", "4"}),
    ({"tags": "disk"}, {"3"}),
    ({"price": 1.5}, {"4"}),
    ({"price": {"<": 1.5}}, set()),
    ({"lang": "en", "draft": False}, {"2"}),
]


def test_conditions_choose_documents(notes: Index) -> None:
    for chosen, ids in CHOSEN:
        assert set(found(notes, "a list", where=chosen)) == ids == set(notes.ids(chosen)), chosen
        assert set(found(notes, "a list of file", where=chosen, by="both")) == ids, chosen


def test_words_find_what_vectors_do_not_and_both_are_fused(notes: Index) -> None:
    assert found(notes, "Platte", by="words") == ["3"]
    assert found(notes, "list", by="words", k=1, where={"year": 2021}) == ["2"]
    assert found(notes, "???", by="words") == []
    fused = notes.search("read Datei", by="both")
    assert {hit.id for hit in fused} == {"1", "2", "3", "4"}
    assert fused[0].score <= 2 / 60 + 1e-6


def test_documents_are_added_updated_left_and_deleted(notes: Index, model: WordModel) -> None:
    model.texts.clear()
    changed = Document("2", "order the files by size", fields={"lang": "en"})
    report = notes.add([NOTES[0], changed, Document("5", "split a text into words")])
    assert report.as_dict() == {"added": 1, "updated": 1, "unchanged": 1, "chunks": 2, "truncated": 0}
    assert model.texts == ["order the files by size", "split a text into words"]  # no others were encoded
    assert found(notes, "files by size", k=1) == ["2"] and found(notes, "items", by="words") == []
    assert len(notes) == 5
    assert notes.delete(["5", "5", "nil"]) == 1 and len(notes) == 4
    assert notes.delete_where({"lang": "de"}) == 1 and "3" not in set(notes.ids())
    assert notes.keep_only({"4"}) == 2 and set(notes.ids()) == {"4"}
    with pytest.raises(ConfigError, match="say which documents to delete"):
        notes.delete_where({})


def test_what_is_written_is_there_when_it_is_opened_again(notes: Index, where: str, model: WordModel) -> None:
    notes.optimize()
    notes.close()
    with Index.open(where, model) as again:
        assert found(again, "read a file", k=1) == ["4"] and len(again) == 4
        assert again.spec.fields["year"] == "integer"
    with Index.without_model(where) as again:
        assert found(again, "file", by="words") == ["4"]
        with pytest.raises(ConfigError, match="opened without its model"):
            again.search("file")
        with pytest.raises(ConfigError, match="opened without its model"):
            again.add([Document("9", "new")])
    notes.engine = Index.open(where, model).engine  # for the fixture to close


def test_another_model_is_refused_with_the_fix(notes: Index, where: str) -> None:
    notes.close()
    with pytest.raises(
        ModelError,
        match=r"made with the model word-model for the task retrieval \(fingerprint words-1 ret.*limbeck index MODEL",
    ):
        Index.open(where, WordModel(fingerprint="words-2"))
    notes.engine = Index.open(where, WordModel()).engine  # a refused one holds nothing


@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("exact", [False, True])
def test_small_vectors_find_candidates_that_float16_puts_in_order(
    where: str, model: WordModel, precision: Any, exact: bool
) -> None:
    with Index.create(where, model, precision=precision, dim=32, words=False) as made:
        made.add([Document(str(n), f"word{n} word{n + 1} word{n + 2}") for n in range(200)])
        made.optimize()
        for n in range(0, 200, 20):
            [hit] = made.search(f"word{n} word{n + 1} word{n + 2}", k=1, exact=exact)
            assert hit.id == str(n) and hit.score == pytest.approx(1, abs=2e-3)
        with pytest.raises(ConfigError, match="made without words"):
            made.search("word1", by="both")


def test_more_oversampling_finds_more_of_what_is_nearest(tmp_path: Path, model: WordModel) -> None:
    with Index.create(tmp_path / "many.index", model, precision="binary", dim=8, words=False) as made:
        made.add([Document(str(n), f"word{n} word{n % 17} word{n % 29}") for n in range(400)])
        made.optimize()
        queries = [f"word{n} word{n + 7}" for n in range(0, 400, 20)]
        best = made.search_all(queries, k=5, exact=True)

        def share(oversampling: float) -> float:
            found = made.search_all(queries, k=5, oversampling=oversampling)
            pairs = zip(best, found, strict=True)
            return sum(len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in pairs) / (5 * len(queries))

        assert share(1) < 0.8 < share(80) == 1


def test_chunks_of_a_long_document_count_as_one(where: str, model: WordModel) -> None:
    long = "\n\n".join(f"chapter{n} speaks of topic{n} and of others" for n in range(6))
    with Index.create(where, model, chunks="separate", chunk_chars=45, sample=NOTES) as made:
        assert made.spec.average_words == pytest.approx(5.25, abs=1)
        report = made.add([Document("long", long, "Book"), *NOTES])
        assert report.chunks == 6 + 4 and len(made) == 5
        hits = made.search("topic4 chapter4", k=5)
        assert [hit.id for hit in hits].count("long") == 1 and len(hits) == 5
        assert hits[0].id == "long" and hits[0].chunk == 4 and hits[0].chunks == 6
        assert long[hits[0].start : hits[0].end] == hits[0].text and hits[0].text.startswith("chapter4")
        assert "Book. chapter4" in "".join(model.texts)
        [back] = made.get(["long"])
        assert back == Document("long", long, "Book")
        # shorter now: the chunks that it has no more are gone
        assert made.add([Document("long", "chapter0 alone", "Book")]).updated == 1
        assert found(made, "topic5", by="words") == [] and made.details()["points"] == 5


def test_more_chunks_are_looked_at_until_there_are_enough_documents(where: str, model: WordModel) -> None:
    crowd = "\n\n".join("the same words again" for _ in range(40))
    with Index.create(where, model, chunks="separate", chunk_chars=25) as made:
        made.add([Document("crowd", crowd), Document("other", "the same things"), Document("third", "quite else")])
        assert found(made, "the same words again", k=3) == ["crowd", "other", "third"]
        assert found(made, "the same words again", k=4, each=2) == ["crowd", "crowd", "other", "third"]
        several = made.search("the same words again", k=5, each=5)
        assert len({(hit.id, hit.chunk) for hit in several}) == 5 and [hit.rank for hit in several] == [1, 2, 3, 4, 5]
        assert {hit.id for hit in several} == {"crowd"}
        with pytest.raises(ConfigError, match="each must be at least 1, got 0"):
            made.search("words", each=0)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=4)),
            st.tuples(st.just("delete"), st.lists(st.integers(0, 5), max_size=3)),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=6,
    )
)
def test_it_holds_what_a_dictionary_would(tmp_path: Path, steps: list[tuple[str, Any]]) -> None:
    folder, model, expected = tmp_path / "i", WordModel(), {}
    shutil.rmtree(folder, ignore_errors=True)
    index = Index.create(folder, model, chunks="separate", chunk_chars=8)
    for what, of in steps:
        if what == "add":
            new = {str(id): "\n\n".join(f"w{id} n{n}" for n in range(parts)) for id, parts in of}
            index.add(Document(id, text) for id, text in new.items())
            expected |= new
        elif what == "delete":
            assert index.delete(map(str, of)) == len({str(id) for id in of} & expected.keys())
            expected = {id: text for id, text in expected.items() if id not in map(str, of)}
        else:
            index.close()
            index = Index.open(folder, model)
        assert {d.id: d.text for d in index.get(sorted(index.ids())) if d} == expected
        assert index.details()["points"] == sum(text.count("w") for text in expected.values())
    index.close()


BAD = [
    (Document("5", "\ud800"), "document '5' is not valid Unicode"),
    (Document("5", "nowhere"), "document '5' has a vector that is all zeros"),
    (
        Document("5", "x", fields={"year": "soon"}),
        "document '5': field 'year' holds text, in documents before it int",
    ),
    (Document("6", "twice"), "id '6' occurs a second time"),
    (Document("5", " "), "its text is ' '"),
]


def test_a_bad_document_is_named_and_nothing_is_lost(notes: Index) -> None:
    for bad, message in BAD:
        with pytest.raises(DataError, match=message):
            notes.add([Document("6", "fine"), bad])
        assert set(notes.ids()) == {"1", "2", "3", "4"} and found(notes, "read a file", k=1) == ["4"]
    notes.add([Document("6", "fine"), Document("5", "mended")])
    assert len(notes) == 6


IMPOSSIBLE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": " "}, DataError, "query 0 is empty"),
    ({"query": "\ud800"}, DataError, "query 0 is not valid Unicode"),
    ({"k": 0}, ConfigError, "k must be at least 1"),
    ({"oversampling": 0.5}, ConfigError, "oversampling must be from 1 to 1000, got 0.5"),
    ({"oversampling": float("nan")}, ConfigError, "oversampling must be from 1 to 1000, got nan"),
    ({"by": "luck"}, ConfigError, "by must be one of vectors, words, both"),
    (
        {"where": {"langauge": "en"}},
        ConfigError,
        "no document has a field 'langauge'.* known are draft|known are lang",
    ),
]


def test_a_search_that_cannot_be_is_refused(notes: Index) -> None:
    for how, error, message in IMPOSSIBLE:
        with pytest.raises(error, match=message):
            notes.search(**{"query": "a list"} | how)


def test_equal_scores_are_put_in_order_by_id() -> None:
    hits = [SimpleNamespace(id=name, score=score) for name, score in (("c", 0.5), ("d", 0.9), ("a", 0.5), ("b", 0.5))]
    for order in itertools.permutations(hits):
        assert [hit.id for hit in engine.best(order, 3)] == ["d", "a", "b"]


def test_documents_of_one_score_come_in_one_order(notes: Index) -> None:
    def search(k: int) -> list[tuple[float, str]]:
        return [(hit.score, hit.id) for hit in notes.search("read a file", k=k, by="both", where={"lang": "en"})]

    whole = search(3)  # in a folder: second and third by vectors, third and second by words
    for _ in range(20):
        assert search(3) == whole
        assert search(2) == whole[:2]


def test_vectors_of_queries_may_come_from_elsewhere(notes: Index, where: str, model: WordModel) -> None:
    queries = ["read a file", "order a list"]
    vectors = model.encode(queries, role=notes.query_role, task=notes.spec.encoding_task, dim=notes.spec.dim)
    expected = {by: notes.search_all(queries, k=3, by=by, where={"lang": "en"}) for by in ("vectors", "words", "both")}
    notes.close()
    with Index.without_model(where) as index:
        for by, hits in expected.items():
            given = None if by == "words" else vectors
            assert index.search_encoded(queries, given, k=3, by=by, where={"lang": "en"}) == hits  # type: ignore[arg-type]
        for wrong, said in ((None, "got None"), (vectors[:1], r"got \(1, 64\)"), (vectors[:, :8], r"got \(2, 8\)")):
            with pytest.raises(ConfigError, match=rf"2 queries need vectors \(2, 64\), {said}"):
                index.search_encoded(queries, wrong)
        with pytest.raises(DataError, match="not finite"):
            index.search_encoded(queries, vectors * float("nan"))
        index.check_model(model)
        with pytest.raises(ModelError, match="its vectors mean something else"):
            index.check_model(WordModel(fingerprint="words-2"))


def test_a_task_without_queries_encodes_them_as_documents(tmp_path: Path, model: WordModel) -> None:
    for task, role in ((None, "query"), ("text-matching", "document")):
        with Index.create(tmp_path / role, model, task=task) as index:
            assert index.query_role == role
            model.encoded.clear()
            index.search("a list")
            assert model.encoded == [(role, 1)]


def test_fields_may_widen_but_not_change(notes: Index) -> None:
    notes.add([Document("7", "half", fields={"year": 2020.5, "extra": {"a": [1]}, "none": None})])
    assert notes.spec.fields["year"] == "number" and notes.spec.fields["extra"] == "other"
    assert set(notes.ids({"year": {">": 2020}})) == {"2", "3", "7"} and set(notes.ids({"year": 2020})) == {"1"}
    with pytest.raises(ConfigError, match="'extra' holds objects"):
        list(notes.ids({"extra": "a"}))


def test_what_is_in_the_way_is_left_alone(where: str, model: WordModel, tmp_path: Path) -> None:
    Index.create(where, model).close()
    with pytest.raises(ConfigError, match=r"name (a new folder|another)"):
        Index.create(where, model)
    assert Index.exists(where) and not Index.exists(tmp_path / "none")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dim": 65}, "dim must be from 1 to 64"),
        ({"task": "clustering"}, "unknown task|clustering"),
        ({"language": "klingon"}, "no stop words and stemmer for 'klingon'; known are arabic"),
        ({"chunk_chars": 0}, "chunk_chars must be at least 1"),
    ],
)
def test_an_index_that_cannot_be_is_not_begun(where: str, model: WordModel, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Index.create(where, model, **how)
    assert not Index.exists(where)


def test_a_language_takes_stop_words_and_endings_away(where: str, model: WordModel) -> None:
    with Index.create(where, model, language="english") as made:
        made.add([Document("1", "the houses were burning"), Document("2", "the boats")])
        assert found(made, "burned house", by="words") == ["1"] and found(made, "the", by="words") == []


# ----------------------------------------------------------------------------------------------- folders


def test_one_process_at_a_time_has_a_folder_open(tmp_path: Path, model: WordModel) -> None:
    with Index.create(tmp_path / "i", model):
        with pytest.raises(StoreError, match="is open in another process.*Qdrant server"):
            Index.open(tmp_path / "i", model, wait=0.1)
    Index.open(tmp_path / "i", model).close()


def test_a_folder_that_is_no_index_or_torn_is_named(tmp_path: Path, model: WordModel) -> None:
    with pytest.raises(StoreError, match="no index .*none: make one with limbeck index"):
        Index.open(tmp_path / "none", model)
    with pytest.raises(StoreError, match=r"is no index, it has no limbeck-index\.json"):
        Index.open(tmp_path, model)
    Index.create(tmp_path / "i", model).close()
    manifest = tmp_path / "i" / edge.MANIFEST
    body = json.loads(manifest.read_text())
    for broken, message in (
        ("{", "is not valid JSON"),
        (json.dumps(body | {"format": 9}), "has format 9.*update limbeck"),
        (json.dumps(body | {"dim": 0}), "cannot be read: dim"),
    ):
        manifest.write_text(broken)
        with pytest.raises(StoreError, match=message):
            Index.open(tmp_path / "i", model)
    manifest.write_text(json.dumps(body))
    shutil.rmtree(tmp_path / "i" / "shard")
    with pytest.raises(StoreError, match="cannot be opened"):
        Index.open(tmp_path / "i", model)


def test_a_full_disk_is_seen_before_it_is_written_to(
    tmp_path: Path, model: WordModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "i", model) as made:
        made.add(NOTES)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
        for write in (lambda: made.add([Document("9", "x")]), made.optimize):
            with pytest.raises(DataError, match="the disk is full: .* what was written before is kept"):
                write()
        monkeypatch.undo()
        assert len(made) == 4 and made.add([Document("9", "x")]).added == 1


def test_a_graph_that_cannot_be_built_loses_nothing(
    tmp_path: Path, model: WordModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "i", model) as made:
        made.add(NOTES)
        monkeypatch.setattr(edge, "_OPTIMIZE", "raise SystemExit('no memory')")
        with pytest.raises(StoreError, match=r"could not be optimized \(no memory\): no point was lost"):
            made.optimize()
        assert found(made, "read a file", k=1) == ["4"]


_WRITER = """
import sys
sys.path[:0] = {paths!r}
from word_model import WordModel
from limbeck.search.index import Document, Index
index = Index.open(sys.argv[1], WordModel())
for batch in range(10_000):
    index.add(Document(f"{{batch}}-{{n}}", f"batch {{batch}} number {{n}}") for n in range(20))
    print(batch, flush=True)
"""


def test_killed_while_it_writes_no_acknowledged_document_is_lost(tmp_path: Path, model: WordModel) -> None:
    Index.create(tmp_path / "i", model).close()
    writer = _WRITER.format(paths=[str(Path(__file__).parent)])
    done = 0
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path / "i")], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(5):
            done = max(done, int(child.stdout.readline()) + 1)
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        done = max([done, *(int(line) + 1 for line in rest if line.isdigit())])
        with Index.open(tmp_path / "i", model) as again:
            there = set(again.ids())
            assert {f"{b}-{n}" for b in range(done) for n in range(20)} <= there
            hit = again.search(f"batch {done - 1} number 7", k=1)[0]
            assert hit.score == pytest.approx(1, abs=2e-3)


# ------------------------------------------------------------------------------------------------ servers


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("http://localhost:6333/notes", ("http://localhost:6333", "notes")),
        ("https://q.example.com/notes/", ("https://q.example.com:443", "notes")),
        ("http://[::1]/a/b", ("http://[::1]:6333/a", "b")),
    ],
)
def test_addresses_of_servers(text: str, means: tuple[str, str]) -> None:
    assert server.parse_address(text) == means


@pytest.mark.parametrize("text", ["http://localhost:6333", "http:///x", "http://a:b/c", "ftp://a/b", "http://k@h/c"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        server.parse_address(text)


def test_a_server_that_does_not_answer_is_named(model: WordModel) -> None:
    with pytest.raises(StoreError, match=r"Qdrant at http://127\.0\.0\.1:9, collection 'x'"):
        Index.create("http://127.0.0.1:9/x", model)


def test_a_collection_of_others_is_refused(client: QdrantClient, model: WordModel) -> None:
    from qdrant_client import models

    client.create_collection("notes", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    with pytest.raises(StoreError, match="says nothing of a model"):
        Index.open(SERVER, model)
    with pytest.raises(StoreError, match="has no collection 'other': make one"):
        Index.open(SERVER.replace("notes", "other"), model)


def test_fields_that_two_processes_add_are_both_known(client: QdrantClient, model: WordModel) -> None:
    with Index.create(SERVER, model) as one, Index.open(SERVER, model) as other:
        one.add([Document("1", "a b", fields={"lang": "en"})])
        other.add([Document("2", "a c", fields={"year": 2020})])
        with Index.open(SERVER, model) as again:
            assert again.spec.fields == {"lang": "text", "year": "integer"}
            assert found(again, "a", where={"lang": "en"}) == ["1"] and found(again, "a", where={"year": 2020}) == ["2"]


def test_shards_and_replicas_are_those_of_a_server(tmp_path: Path, model: WordModel) -> None:
    with pytest.raises(ConfigError, match="shards and replicas are those of a server"):
        Index.create(tmp_path / "i", model, shards=2)
