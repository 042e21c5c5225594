"""Held-out retrieval: who is asked, what counts as an answer, and how sets are averaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.config import Data
from limbeck.data.prepare import Prepared, prepare
from limbeck.errors import DataError
from limbeck.evaluation.heldout import HeldOut, examples, heldout_sets, score, texts_per_second

E = np.eye(8, dtype=np.float32)


def prepared(tmp_path: Path, rows: list[dict[str, Any]], columns: dict[str, str], fraction: float = 0.5) -> Prepared:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "file", "name": "rows", "path": str(tmp_path / "rows.jsonl"), "columns": columns}
    data = Data.model_validate({"sources": [source], "heldout_fraction": fraction, "near_duplicate_threshold": None})
    return prepare(data, tmp_path / "data")


def pairs(tmp_path: Path, **how: Any) -> Prepared:
    """Documents 0 to 39, each under two queries; a query "both i" asks for documents i and i + 1."""
    rows = [{"q": f"query {kind} {i}", "d": f"document {i}"} for i in range(40) for kind in ("one", "two")]
    rows += [{"q": f"both {i - i % 2}", "d": f"document {i}"} for i in range(40)]
    return prepared(tmp_path, rows, {"query": "q", "document": "d"}, **how)


def test_every_held_out_query_has_all_its_documents_and_a_document_stands_once(tmp_path: Path) -> None:
    made = pairs(tmp_path)
    [held] = heldout_sets(made, 1000)
    table = made.sources["rows"].heldout
    asked = list(zip(table.texts("query"), table.texts("document"), strict=True))
    assert len(set(held.documents)) == len(held.documents) == len(held.ids) < len(asked)
    assert sorted(held.queries) == sorted({q for q, _ in asked})
    for query, relevant in zip(held.queries, held.relevant, strict=True):
        assert {held.documents[i] for i in relevant} == {d for q, d in asked if q == query}
    assert any(len(relevant) == 2 for relevant in held.relevant)
    first = {d: i for d, i in reversed(list(zip(table.texts("document"), table.ids, strict=True)))}
    assert held.ids == [first[d] for d in held.documents]


def test_fewer_queries_are_a_stable_sample_and_all_documents_stay(tmp_path: Path) -> None:
    made = pairs(tmp_path)
    [many], [few] = heldout_sets(made, 20), heldout_sets(made, 5)
    assert few.queries == many.queries[:5] and few.documents == many.documents


def test_nothing_held_out_and_sources_without_pairs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="raise data.heldout_fraction, or add a source of pairs"):
        heldout_sets(pairs(tmp_path, fraction=0.0), 10)
    texts = [{"t": f"text {i}"} for i in range(40)]
    with pytest.raises(DataError, match="no source has held-out pairs"):
        heldout_sets(prepared(tmp_path, texts, {"text": "t"}), 10)


def test_a_source_of_which_every_document_is_found_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [many] = heldout_sets(pairs(tmp_path / "many"), 1000)
    assert len(many.documents) > 10 and not caplog.records
    [few] = heldout_sets(pairs(tmp_path / "few", fraction=0.1), 1000)
    assert len(few.documents) <= 10
    assert f"finds all of them within the ten best: rows {len(few.documents)};" in caplog.text


# ----------------------------------------------------------------------------------------------- scores


def held(name: str, queries: int) -> HeldOut:
    """Query i is answered by document i."""
    return HeldOut(
        name,
        [f"id {i}" for i in range(8)],
        [f"{name} q{i}" for i in range(queries)],
        [f"{name} d{i}" for i in range(8)],
        [{i} for i in range(queries)],
    )


def vectors(first: list[np.ndarray], second: list[np.ndarray]) -> Any:
    """A model that knows the queries of two sets, and for whom the documents are the axes."""
    queries = {f"{name} q{i}": v for name, known in (("a", first), ("b", second)) for i, v in enumerate(known)}
    return lambda role, texts: np.stack([queries[t] if role == "query" else E[int(t[-1])] for t in texts])


def test_sets_are_averaged_with_equal_weight_whatever_their_size() -> None:
    # set a: both queries find their document first. Set b: the one query finds it second, behind document 5.
    model = vectors([E[0], E[1]], [0.6 * E[0] + 0.8 * E[5]])
    found = score([held("a", 2), held("b", 1)], model, dims=[8])
    second = 1 / math.log2(3)
    assert found.means["ndcg_at_10"] == pytest.approx((1 + second) / 2)
    assert found.means["mrr_at_10"] == pytest.approx((1 + 0.5) / 2)
    assert [s.ndcg.tolist() for s in found.by_set] == [pytest.approx([1, 1]), pytest.approx([second])]


def test_widths_and_bits_are_relative_to_the_full_vector() -> None:
    documents = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    held_a = held("a", 8)
    found = score([held_a], lambda role, texts: documents[[int(t[-1]) for t in texts]], dims=[4, 8, 64])
    rows = {(row.dim, row.precision, row.rescored_by): row for row in found.curve}
    anywhere = {(dim, precision, None) for dim in (4, 8, 16) for precision in ("float32", "int8")}
    bits = {(dim, "binary", finer) for dim in (8, 16) for finer in (None, "int8", "float32")}
    assert set(rows) == anywhere | bits
    assert rows[16, "float32", None].relative_to_full == 1.0 == found.means["ndcg_at_10"]
    for row in rows.values():
        assert row.relative_to_full == pytest.approx(row.ndcg_at_10 / found.means["ndcg_at_10"])


def test_a_model_that_finds_nothing_scores_zero_and_relates_to_nothing() -> None:
    many = HeldOut("m", [str(i) for i in range(20)], ["m q0"], [f"m {i}" for i in range(20)], [{19}])
    axes = np.linspace(1, 0, 20)[:, None] * np.eye(8, dtype=np.float32)[0] + np.eye(8, dtype=np.float32)[1]

    def wrong(role: str, texts: Any) -> np.ndarray:
        return E[:1] if role == "query" else axes.astype(np.float32)

    found = score([many], wrong, dims=[])
    assert found.means["ndcg_at_10"] == 0.0
    assert all(row.relative_to_full is None for row in found.curve)


def test_shown_searches_are_taken_evenly_whatever_came_out() -> None:
    held_a = held("a", 5)
    found = score([held_a], vectors([E[0], E[3], E[2], E[3], 0.8 * E[7] + 0.6 * E[4]], []), dims=[8])
    shown = examples([held_a], found, count=3, shown=2)
    assert [s.query for s in shown] == ["a q0", "a q2", "a q4"]
    assert [s.gold for s in shown] == ["id 0", "id 2", "id 4"]
    assert [s.gold_rank for s in shown] == [1, 1, 2]
    assert [hit.id for hit in shown[2].hits] == ["id 7", "id 4"] and [h.gold for h in shown[2].hits] == [False, True]


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = texts_per_second(sides, 10, rounds=2)
    assert calls == ["a", "b"] * 3 and set(found) == {"a", "b"}
