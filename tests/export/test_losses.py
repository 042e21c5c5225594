"""What an export loses in retrieval: the score of a search worked out by hand, on the queries that belong to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from limbeck.config import Data
from limbeck.data.prepare import prepare
from limbeck.evaluation.heldout import HeldOut
from limbeck.export import losses
from limbeck.export.facts import RetrievalLoss

WORDS = ["tree", "river", "engine", "violin"]
HELD = HeldOut("words", list("abcd"), WORDS[:2], [f"about a {word}" for word in WORDS], [{0}, {1}])


def by_word(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
    return np.eye(len(WORDS), dtype=np.float32)[[next(i for i, w in enumerate(WORDS) if w in text) for text in texts]]


def second_best(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
    """Queries find the answer to the other query first, and their own after it."""
    vectors = by_word(texts, task, role)
    return vectors if role == "document" else vectors + 2 * vectors[:, [1, 0, 2, 3]]


def test_the_loss_is_between_the_ndcg_of_the_model_and_that_of_the_export() -> None:
    loss = losses.retrieval_loss(second_best, by_word, ["clustering", "retrieval"], [HELD], "words")
    assert (loss.float_ndcg_at_10, loss.ndcg_at_10) == (1, pytest.approx(1 / np.log2(3), abs=1e-6))
    assert (loss.queries, loss.documents, loss.task, loss.source) == (2, 4, "retrieval", "words")
    assert str(loss).startswith("nDCG@10 1.0000 in float, 0.6309 in int8 (-36.91%): 2 queries of words in 4 documents")


def test_an_adapter_that_knows_no_queries_reads_them_as_documents() -> None:
    loss = losses.retrieval_loss(second_best, by_word, ["clustering"], [HELD], "words")
    assert (loss.task, loss.ndcg_at_10) == ("clustering", 1)


def test_every_text_gets_its_own_vector_however_they_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_BATCH", 2)
    longer = HeldOut("words", HELD.ids, HELD.queries, [d * (4 - i) for i, d in enumerate(HELD.documents)], [{0}, {1}])
    assert losses.retrieval_loss(by_word, by_word, ["retrieval"], [longer], "words").ndcg_at_10 == 1


def test_a_loss_of_nothing_is_said_without_a_share() -> None:
    loss = RetrievalLoss(source="x", queries=1, documents=1, task=None, float_ndcg_at_10=0, ndcg_at_10=0)
    assert str(loss) == "nDCG@10 0.0000 in float, 0.0000 in int8: 1 queries of x in 1 documents"


def test_a_run_gives_its_own_held_out_queries_with_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": f"question {i}?", "d": f"Document number {i} about thing {i}."} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"query": "q", "document": "d"}
    source = {"type": "file", "name": "pairs", "path": str(tmp_path / "pairs.jsonl"), "columns": columns}
    run = tmp_path / "myrun"
    prepare(Data.model_validate({"sources": [source], "heldout_fraction": 0.5}), run / "data")
    [held], about = losses.sets_of(run)
    assert about == "the held-out data of myrun" and len(held.queries) > 10
    monkeypatch.setattr(losses, "_QUERIES", 5)
    monkeypatch.setattr(losses, "_DOCUMENTS", 8)
    [few], _ = losses.sets_of(run)
    assert (len(few.queries), len(few.documents), len(few.ids)) == (5, 8, 8)
    for query, [answer] in zip(few.queries, few.relevant, strict=True):
        assert query.removeprefix("question ").rstrip("?") in few.documents[answer].split()[2]


def test_elsewhere_summaries_of_docstrings_are_asked_for_what_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "The saw has {} teeth, and is kept in the shed behind the house."
    tools = [f'def tool{i}():\n    """Cut the long plank {i}.\n\n    {body.format(i + 2)}"""\n' for i in range(4)]
    (tmp_path / "tools.py").write_text("".join(tools))
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    for run in (None, tmp_path):
        [held], about = losses.sets_of(run)
        assert "standard library" in about and len(held.queries) == len(held.documents) == 4
        for query, answers in zip(held.queries, held.relevant, strict=True):
            [i] = answers
            number = int(query.removeprefix("Cut the long plank ").rstrip("."))
            assert f"{number + 2} teeth" in held.documents[i]
