"""A variant as mteb sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from evaluation_sets import DOCUMENTS, QUERIES, WordCounts, write_search
from mteb._create_dataloaders import _retrieval_texts, create_dataloader
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.types import PromptType

from limbeck.errors import DataError
from limbeck.evaluation.mteb_model import MtebModel, document_texts
from limbeck.evaluation.named_tasks import find_tasks
from limbeck.evaluation.variants import Variant
from limbeck.evaluation.vectors import VectorCache


@pytest.fixture
def metadata(tmp_path: Path) -> Any:
    [task] = find_tasks([str(write_search(tmp_path))]).tasks
    return task.task.metadata


def model(tmp_path: Path, **variant: Any) -> MtebModel:
    subject = WordCounts()
    return MtebModel(Variant(subject, **{"dim": subject.dim, **variant}), VectorCache(tmp_path / "vectors"))


def rows(texts: dict[str, str], **columns: list[str]) -> Dataset:
    return Dataset.from_dict({"id": list(texts), "text": list(texts.values()), **columns})


def where(metadata: Any, **more: Any) -> dict[str, Any]:
    return {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default", **more}


def test_mteb_takes_it_for_an_encoder_and_for_a_search(tmp_path: Path) -> None:
    made = model(tmp_path)
    assert isinstance(made, EncoderProtocol) and isinstance(made, SearchProtocol)


def test_variants_have_names_of_their_own_in_mteb(tmp_path: Path) -> None:
    metas = [model(tmp_path, dim=dim).mteb_model_meta for dim in (64, 32)]
    assert metas[0].name != metas[1].name and metas[0].revision != metas[1].revision


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_its_search_finds_what_mtebs_own_finds(tmp_path: Path, metadata: Any, precision: str) -> None:
    made = model(tmp_path, precision=precision)
    corpus, queries = rows(DOCUMENTS, title=["", "a title"] * 7 + [""]), rows(QUERIES)
    made.index(corpus, **where(metadata))
    found = made.search(queries, **where(metadata, top_k=4))

    peer = SearchEncoderWrapper(model(tmp_path))
    peer.index(corpus, **where(metadata, encode_kwargs={"batch_size": 4}))
    expected = peer.search(queries, **where(metadata, top_k=4, encode_kwargs={"batch_size": 4}))
    tolerance = 1e-6 if precision == "float32" else 2e-3
    for query, documents in expected.items():
        assert sorted(found[query].values()) == pytest.approx(sorted(documents.values()), abs=tolerance)


def test_candidates_are_ranked_among_themselves(tmp_path: Path, metadata: Any) -> None:
    made = model(tmp_path)
    made.index(rows(DOCUMENTS), **where(metadata))
    candidates = {"q0": ["d7", "d0", "d4"], "q1": [], "q3": ["d10"]}
    ids = {q: QUERIES[q] for q in candidates}
    found = made.search(rows(ids), **where(metadata, top_k=2, top_ranked=candidates))
    assert {q: list(d) for q, d in found.items()} == {"q0": ["d0", "d4"], "q1": [], "q3": ["d10"]}


def test_a_candidate_that_is_no_document_is_an_error(tmp_path: Path, metadata: Any) -> None:
    made = model(tmp_path)
    made.index(rows(DOCUMENTS), **where(metadata))
    with pytest.raises(DataError, match="pets: 1 candidates of query 'q0' are not in the corpus, the first is 'd99'"):
        made.search(rows({"q0": "x"}), **where(metadata, top_k=2, top_ranked={"q0": ["d0", "d99"]}))


def test_documents_are_read_with_their_titles_and_queries_with_their_instructions(
    tmp_path: Path, metadata: Any
) -> None:
    made = model(tmp_path)
    made.index(rows({"a": "text"}, title=["A title"]), **where(metadata))
    made.search(rows({"q": "text"}, instruction=["as told"]), **where(metadata, top_k=2))
    subject: Any = made.variant.subject
    assert subject.texts == ["A title text", "text as told"]


@pytest.mark.parametrize("columns", [{}, {"title": ["", "A title", "  "]}])
def test_documents_are_the_texts_that_mteb_makes_of_them(columns: dict[str, list[str]]) -> None:
    corpus = rows({"a": " padded ", "b": "text", "c": "x"}, **columns)
    assert document_texts(corpus) == list(_retrieval_texts(corpus, PromptType.document))


def test_a_side_of_a_search_that_mteb_encodes_itself_has_its_role(tmp_path: Path, metadata: Any) -> None:
    made = model(tmp_path)
    loader = create_dataloader(rows(QUERIES), task_metadata=metadata, prompt_type=PromptType.query, batch_size=2)
    vectors = made.encode(loader, **where(metadata, prompt_type=PromptType.query))
    subject: Any = made.variant.subject
    assert [role for _, role, _ in subject.calls] == ["query"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_binary_similarities_of_equal_distances_are_equal_to_the_bit(tmp_path: Path) -> None:
    made = model(tmp_path, precision="binary")
    signs = np.sign(np.random.default_rng(0).standard_normal((40, 64))).astype(np.float32) / 8
    similar = made.similarity(signs, signs)
    distances = np.rint((1 - similar) * 32)
    assert len(np.unique(similar)) == len(np.unique(distances))
    np.testing.assert_allclose(similar, signs @ signs.T, atol=1e-6)
