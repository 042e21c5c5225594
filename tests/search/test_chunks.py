"""Chunks of documents by a real, tiny model: whole, apart, and late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_adapters import adapted_bundle
from tiny_models import save_model, student, wordpiece
from word_model import WordModel

import limbeck
from limbeck.errors import DataError
from limbeck.model.spans import spans_of
from limbeck.search.chunks import chunks_of, titled
from limbeck.search.documents import Document

TEXT = "aa bb.\n\ncc dd ee.\n\nff gg hh.\n\nab ba"
CHARS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> limbeck.Encoder:
    folder = tmp_path_factory.mktemp("model")
    teacher = save_model(folder / "teacher", "Bert", wordpiece())
    section = student(init="pruned", pruned={"layers": [0, 2]}, pooling="mean")
    return limbeck.load(adapted_bundle(folder / "bundle", section, teacher), device="cpu", precision="fp32")


def vectors(model: Any, document: Document, how: Any, chars: int = CHARS) -> tuple[list[str], np.ndarray, int]:
    made, cut = chunks_of(model, [document], how=how, max_chars=chars, task="retrieval", dim=16)
    assert [c.number for c in made] == list(range(len(made))) and {c.of for c in made} == {len(made)}
    return [c.text for c in made], np.stack([c.vector for c in made]), cut


def test_a_document_as_one_chunk_is_encoded_with_its_title(model: limbeck.Encoder) -> None:
    texts, found, _ = vectors(model, Document("1", TEXT, " gg "), "none")
    assert texts == [TEXT]
    np.testing.assert_allclose(found, model.encode([f"gg. {TEXT}"], task="retrieval", dim=16), atol=1e-6)


def test_parts_apart_are_encoded_each_with_the_title(model: limbeck.Encoder) -> None:
    texts, found, _ = vectors(model, Document("1", TEXT, "gg"), "separate")
    assert "".join(texts) == TEXT and len(texts) == 4
    np.testing.assert_allclose(found, model.encode([f"gg. {t}" for t in texts], task="retrieval", dim=16), atol=1e-6)


@pytest.mark.parametrize("title", ["", "gg"])
def test_late_chunks_are_the_spans_of_one_reading(model: limbeck.Encoder, title: str) -> None:
    document = Document("1", TEXT[:25], title)
    texts, found, _ = vectors(model, document, "late")
    assert len(texts) == 3
    read, shift = titled(document, document.text), len(title) + 2 if title else 0
    spans = [(start + shift, end + shift) for start, end in spans_of(document.text, max_chars=CHARS)]
    spans[0] = (0, spans[0][1])
    np.testing.assert_allclose(found, model.encode(read, spans=spans, task="retrieval", dim=16), atol=1e-6)
    apart = vectors(model, document, "separate")[1]
    assert np.abs(found - apart).max() > 1e-3  # they know the text around them


def test_a_document_over_the_models_limit_is_read_in_windows(model: limbeck.Encoder) -> None:
    long = Document("1", "\n\n".join(["aa bb cc dd"] * 30))
    texts, found, cut = vectors(model, long, "late", chars=13)
    assert len(texts) == 30 and cut == 0 and found.shape == (30, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_chunk_over_the_models_limit_is_cut_and_counted(model: limbeck.Encoder) -> None:
    words = "aa bb cc dd " * 30
    _, found, cut = vectors(model, Document("1", f"{words}\n\naa bb"), "late", chars=364)
    assert cut == 1 and len(found) == 2
    assert vectors(model, Document("1", words), "none")[2] == 1


@pytest.mark.parametrize("how", ["none", "separate"])
@pytest.mark.parametrize(("text", "message"), [("a \ud800", "is not valid Unicode"), ("nowhere", "all zeros")])
def test_a_text_without_a_vector_is_named_by_its_document(how: Any, text: str, message: str) -> None:
    documents = [Document("1", "fine and\n\nlong"), Document("2", f"fine\n\n{text}", place="f.jsonl:2")]
    with pytest.raises(DataError, match=rf"^f\.jsonl:2.* {message}"):
        chunks_of(WordModel(), documents, how=how, max_chars=8, task="retrieval", dim=64)


def test_a_late_text_that_cannot_be_encoded_is_named(model: limbeck.Encoder) -> None:
    with pytest.raises(DataError, match="^document '2' is not valid Unicode"):
        documents = [Document("1", TEXT), Document("2", TEXT + "\ud800")]
        chunks_of(model, documents, how="late", max_chars=CHARS, task="retrieval", dim=16)
