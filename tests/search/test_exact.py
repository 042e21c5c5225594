import json
import logging

import numpy as np
import pytest
from word_model import HashEncoder

from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.search import search_corpus
from limbeck.search.exact import default_cache_dir, document_vectors

IDS = ["sum", "sort", "open"]
DOCUMENTS = ["add the numbers of a list", "order the items of a list", "read a file from disk"]


def _search(encoder, cache_dir=None, queries=("read a file",), **options):
    return search_corpus(encoder, IDS, DOCUMENTS, list(queries), cache_dir=cache_dir, **options)


def test_the_document_that_shares_the_most_words_is_found_first_with_its_cosine():
    (hits,) = _search(HashEncoder())
    encoder = HashEncoder()
    cosine = encoder.encode(["read a file"], role="query") @ encoder.encode([DOCUMENTS[2]], role="document").T
    assert [h.rank for h in hits] == [1, 2, 3]
    assert hits[0].id == "open" and hits[0].document == DOCUMENTS[2]
    assert hits[0].score == pytest.approx(float(cosine[0, 0]), abs=1e-3)


def test_roles_and_dim_reach_the_encoder():
    encoder = HashEncoder()
    _search(encoder, queries=["a list", "a file"], dim=64, k=1)
    assert encoder.encoded == [("document", 3), ("query", 2)]


def test_a_second_search_encodes_only_the_query_and_gives_the_same_hits(tmp_path):
    first = _search(HashEncoder(), tmp_path)
    again = HashEncoder()
    assert _search(again, tmp_path) == first
    assert again.encoded == [("query", 1)]


@pytest.mark.parametrize(
    ("tasks", "task", "asked", "role"),
    [
        ((), None, None, "query"),
        (("retrieval", "clustering"), None, "retrieval", "query"),
        (("retrieval", "clustering"), "auto", "retrieval", "query"),
        (("retrieval", "clustering"), "clustering", "clustering", "document"),
        (("retrieval",), {"retrieval": 0.5, "clustering": 0.5}, {"retrieval": 0.5, "clustering": 0.5}, "query"),
        (("retrieval",), {"text-matching": 1.0}, {"text-matching": 1.0}, "document"),
    ],
)
def test_both_sides_take_one_task_and_only_retrieval_has_queries(tasks, task, asked, role):
    encoder = HashEncoder(tasks=tasks)
    _search(encoder, task=task)
    assert encoder.asked == [asked, asked]
    assert encoder.encoded == [("document", 3), (role, 1)]


@pytest.mark.parametrize("change", ["fingerprint", "documents", "dim", "order", "task"])
def test_another_encoder_corpus_width_or_task_is_never_served_from_the_cache(tmp_path, change):
    document_vectors(HashEncoder(), DOCUMENTS, dim=256, cache_dir=tmp_path)
    encoder = HashEncoder(fingerprint="hash-2" if change == "fingerprint" else "hash-1")
    documents = {"documents": [*DOCUMENTS[:2], "read"], "order": DOCUMENTS[::-1]}.get(change, DOCUMENTS)
    task = "clustering" if change == "task" else None
    document_vectors(encoder, documents, task=task, dim=64 if change == "dim" else 256, cache_dir=tmp_path)
    assert encoder.encoded == [("document", 3)]


def test_documents_that_differ_only_in_where_they_are_cut_have_other_vectors(tmp_path):
    document_vectors(HashEncoder(), ["ab", "c"], dim=8, cache_dir=tmp_path)
    encoder = HashEncoder()
    document_vectors(encoder, ["a", "bc"], dim=8, cache_dir=tmp_path)
    assert encoder.encoded


@pytest.mark.parametrize("damage", ["torn vectors", "torn manifest", "foreign manifest", "no manifest", "other dtype"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage, caplog):
    expected = _search(HashEncoder(), tmp_path)
    (vectors,), (manifest,) = list(tmp_path.glob("*.npy")), list(tmp_path.glob("*.json"))
    if damage == "torn vectors":
        vectors.write_bytes(vectors.read_bytes()[:-100])
    elif damage == "torn manifest":
        manifest.write_text(manifest.read_text()[:20])
    elif damage == "foreign manifest":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "encoder": "another"}))
    elif damage == "no manifest":
        manifest.unlink()
    else:
        np.save(vectors, np.zeros((3, 256), np.float64))
    encoder = HashEncoder()
    with caplog.at_level(logging.WARNING):
        assert _search(encoder, tmp_path) == expected
    assert encoder.encoded == [("document", 3), ("query", 1)]
    assert ("cannot be used" in caplog.text) == (damage != "no manifest")
    again = HashEncoder()
    _search(again, tmp_path)
    assert again.encoded == [("query", 1)]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        (hits,) = _search(HashEncoder(), blocked)
    assert hits[0].id == "open"
    assert "not kept" in caplog.text


def test_a_full_disk_leaves_no_half_written_cache(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    (hits,) = _search(HashEncoder(), tmp_path)
    assert hits[0].id == "open"
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_document_once(monkeypatch):
    monkeypatch.setattr("limbeck.search.exact._CHUNK", 2)
    seen: list[int] = []
    _search(HashEncoder(), progress=seen.append)
    assert seen == [2, 1]


def test_bad_input_is_an_error_that_says_what_to_do():
    encoder = HashEncoder()
    with pytest.raises(DataError, match="holds no documents"):
        search_corpus(encoder, [], [], ["x"])
    with pytest.raises(DataError, match="3 documents need as many ids, got 2"):
        search_corpus(encoder, IDS[:2], DOCUMENTS, ["x"])
    with pytest.raises(DataError, match="query 1 is empty"):
        _search(encoder, queries=["x", "  "])
    with pytest.raises(ConfigError, match="k must be at least 1"):
        _search(encoder, k=0)
    assert _search(encoder, queries=[]) == []


def test_an_encoder_that_gives_nan_or_another_shape_is_named():
    class Broken(HashEncoder):
        def encode(self, texts, *, role, task=None, dim=None):
            return np.full((len(texts), dim or self.dim), np.nan, np.float32)

    class Narrow(HashEncoder):
        def encode(self, texts, *, role, task=None, dim=None):
            return np.ones((len(texts), 8), np.float32)

    with pytest.raises(ModelError, match="NaN"):
        _search(Broken())
    with pytest.raises(ModelError, match=r"\(3, 8\) for 3 texts, expected \(3, 256\)"):
        _search(Narrow())


def test_the_cache_lives_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "limbeck" / "search"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "limbeck" / "search"
