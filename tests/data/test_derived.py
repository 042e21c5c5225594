"""Sources made of other sources: what they hold, and that neither half learns of the other."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from limbeck.config import Data, DistractorsSource, QueryModel
from limbeck.data import document_queries
from limbeck.data.dedup import normalise
from limbeck.data.distractors import SEPARATOR
from limbeck.data.examples import Example, Pair, Triplet
from limbeck.data.prepare import prepare
from limbeck.data.sources import read_source
from limbeck.data.tables import ExampleTable, Prepared
from limbeck.errors import DataError

MODEL = {"model": "writer", "base_url": "http://localhost:1/v1"}


def source(folder: Path, rows: Sequence[dict[str, Any]], columns: str = "query document", **fields: Any) -> dict:
    path = folder / f"{fields.setdefault('name', 's')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"type": "file", "path": str(path), "columns": {name: name for name in columns.split()}, **fields}


def hidden(**fields: Any) -> dict:
    return {"type": "distractors", "name": "hidden", "of": "s", **fields}


def asked(by: str, **fields: Any) -> dict:
    return {"type": "queries", "name": "asked", "of": "s", "by": by, **fields}


def made(folder: Path, *sources: dict, **fields: Any) -> Prepared:
    return prepare(Data.model_validate({"sources": sources, "heldout_fraction": 0.0, **fields}), folder / "out")


def pairs(count: int, **fields: str) -> list[dict[str, Any]]:
    """Documents of 60 to 99 characters, no blank line in them, none within another."""
    return [
        {"query": f"query {i}", "document": f"document {i} ".ljust(60 + i % 40, "x"), **fields} for i in range(count)
    ]


def examples(table: ExampleTable) -> list[Pair]:
    found = list(table)
    assert all(type(example) is Pair for example in found)
    return found  # type: ignore[return-value]


def texts_of(example: Example) -> set[str]:
    names = ("query", "document", "text", "teacher_query", "teacher_document", "teacher_text")
    own = {getattr(example, name, None) for name in names}
    return {normalise(text) for text in own | set(getattr(example, "negatives", ())) if text}


def assert_halves_share_nothing(prepared: Prepared) -> None:
    train, heldout = (
        {t for split in prepared.sources.values() for example in getattr(split, half) for t in texts_of(example)}
        for half in ("train", "heldout")
    )
    assert train and heldout
    assert not train & heldout


def assert_counts_add_up(prepared: Prepared) -> None:
    for name, counts in prepared.counts.items():
        assert counts["read"] == sum(n for key, n in counts.items() if key not in ("read", "negatives_removed"))
        assert counts["train"] == len(prepared.sources[name].train) > 0
        assert counts["heldout"] == len(prepared.sources[name].heldout)


# ------------------------------------------------------------------------------------- distractors


def test_a_document_is_hidden_whole_among_whole_documents_of_other_pairs_of_its_half(tmp_path: Path) -> None:
    prepared = made(tmp_path, source(tmp_path, pairs(600)), hidden(chars=[300, 2000]), heldout_fraction=0.2)
    assert_halves_share_nothing(prepared)
    assert_counts_add_up(prepared)
    for half in ("train", "heldout"):
        base = {pair.query: pair for pair in examples(getattr(prepared.sources["s"], half))}
        documents = {pair.document for pair in base.values()}
        found = examples(getattr(prepared.sources["hidden"], half))
        assert [pair.query for pair in found] == list(base)
        for pair in found:
            parts = pair.document.split(SEPARATOR)
            assert base[pair.query].document in parts
            assert set(parts) <= documents
            assert len(set(parts)) == len(parts)
            assert pair.teacher_document is None


def test_the_length_is_just_below_what_was_drawn(tmp_path: Path) -> None:
    prepared = made(tmp_path, source(tmp_path, pairs(300)), hidden(chars=[1500, 1500]))
    lengths = [len(document) for document in prepared.sources["hidden"].train.texts("document")]
    assert max(lengths) <= 1500
    assert min(lengths) > 1500 - len(SEPARATOR) - 99  # another document would have fitted


def test_lengths_are_even_by_their_logarithm_and_places_are_even(tmp_path: Path) -> None:
    prepared = made(tmp_path, source(tmp_path, pairs(1000)), hidden(chars=[2000, 32000]))
    base = dict(zip(*(prepared.sources["s"].train.texts(role) for role in ("query", "document")), strict=True))
    found = examples(prepared.sources["hidden"].train)
    lengths = [math.log(len(pair.document)) for pair in found]
    low, high = math.log(2000), math.log(32000)
    assert stats.kstest(lengths, stats.uniform(low, high - low).cdf).statistic < 0.05
    places = []
    for pair in found:
        parts = pair.document.split(SEPARATOR)
        places.append((parts.index(base[pair.query]) + 0.5) / len(parts))
    assert stats.kstest(places, stats.uniform.cdf).statistic < 0.05


def test_a_distractor_is_no_other_document_of_the_same_query(tmp_path: Path) -> None:
    rows = [{"query": f"query {i % 5}", "document": f"document {i}"} for i in range(40)]
    rows += [{"query": "another query", "document": f"document {i}"} for i in range(0, 40, 5)]
    prepared = made(tmp_path, source(tmp_path, rows), hidden(chars=[5000, 5000]))
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row["query"], set()).add(row["document"])
    found = examples(prepared.sources["hidden"].train)
    assert len(found) == 48
    for pair in found:
        parts = set(pair.document.split(SEPARATOR))
        assert len(parts & answers[pair.query]) == 1
        assert len(parts) == 1 + 40 - len(answers[pair.query])  # all the others, as 5,000 characters hold them


def test_documents_longer_than_was_drawn_stay_alone(tmp_path: Path) -> None:
    rows = pairs(50)
    rows[7]["document"] = "long " * 200
    prepared = made(tmp_path, source(tmp_path, rows), hidden(chars=[500, 900]))
    found = {pair.query: pair.document for pair in examples(prepared.sources["hidden"].train)}
    assert found["query 7"] == rows[7]["document"]
    assert sum(rows[7]["document"] in document for document in found.values()) == 1


def test_a_pool_that_is_used_up_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, source(tmp_path, pairs(10)), hidden(chars=[5000, 5000]))
    assert "source 'hidden': 10 of 10 documents" in caplog.text
    assert "are shorter than was drawn" in caplog.text


def test_distractors_speak_the_language_of_the_document_while_there_are_any(tmp_path: Path) -> None:
    rows = [row | {"lang": "de" if i % 3 else "fr"} for i, row in enumerate(pairs(300))]
    lang = {row["document"]: row["lang"] for row in rows}
    base = source(tmp_path, rows, "query document lang")
    prepared = made(tmp_path, base, hidden(chars=[500, 2000]), hidden(name="all", chars=[40_000, 40_000]))
    for pair in examples(prepared.sources["hidden"].train):
        assert {lang[part] for part in pair.document.split(SEPARATOR)} == {pair.lang}
    for pair in examples(prepared.sources["all"].train):
        assert len(pair.document.split(SEPARATOR)) == 300


def test_the_teacher_reads_the_whole_or_the_answer_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        row | {"teacher_document": f"english {i}" if i % 2 else None} for i, row in enumerate(pairs(80))
    ]
    english: dict[str, str] = {row["document"]: row["teacher_document"] or row["document"] for row in rows}
    base = source(tmp_path, rows, "query document teacher_document")
    fields = {"chars": [300, 900]}
    prepared = made(tmp_path, base, hidden(**fields), hidden(name="found", teacher_reads="answer", **fields))
    documents = {pair.query: pair.document for pair in examples(prepared.sources["s"].train)}
    for pair in examples(prepared.sources["hidden"].train):
        whole = SEPARATOR.join(english[part] for part in pair.document.split(SEPARATOR))
        assert (pair.teacher_document or pair.document) == whole
    for pair in examples(prepared.sources["found"].train):
        assert pair.teacher_document == english[documents[pair.query]]


def test_triplets_become_pairs(tmp_path: Path) -> None:
    rows = [row | {"negatives": ["a negative"]} for row in pairs(50)]
    prepared = made(tmp_path, source(tmp_path, rows, "query document negatives"), hidden(chars=[300, 500]))
    assert type(prepared.sources["s"].train[0]) is Triplet
    assert len(examples(prepared.sources["hidden"].train)) == 50


def test_what_is_hidden_where_depends_on_the_texts_not_on_their_order(tmp_path: Path) -> None:
    rows = pairs(200)
    found = []
    for name, ordered in {"one": rows, "again": rows, "other": rows[::-1]}.items():
        (tmp_path / name).mkdir()
        prepared = made(
            tmp_path / name, source(tmp_path, ordered), hidden(chars=[300, 3000], max_rows=150), heldout_fraction=0.2
        )
        found.append(prepared)
    files = [{f.name: f.read_bytes() for f in prepared.path.iterdir()} for prepared in found]
    assert files[0] == files[1]
    for half in ("train", "heldout"):
        one, other = (
            {(p.query, p.document) for p in examples(getattr(prepared.sources["hidden"], half))}
            for prepared in found[::2]
        )
        assert one == other


def test_a_sample_spans_both_halves_and_is_part_of_a_larger_one(tmp_path: Path) -> None:
    base = source(tmp_path, pairs(1000))
    small, large = ({"name": "hidden", "chars": [300, 400], "max_rows": size} for size in (100, 400))
    samples = [made(tmp_path, base, hidden(**fields), heldout_fraction=0.3) for fields in (small, large)]
    queries = [
        [set(getattr(prepared.sources["hidden"], half).texts("query")) for half in ("train", "heldout")]
        for prepared in samples
    ]
    assert [sum(map(len, halves)) for halves in queries] == [100, 400]
    assert 15 <= len(queries[0][1]) <= 45
    assert all(few < many for few, many in zip(*queries, strict=True))


def test_distractors_of_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'hidden' hides the documents of pairs or triplets, but 's' holds text ex"):
        made(tmp_path, source(tmp_path, [{"text": "a"}], "text"), hidden())


# ----------------------------------------------------------------------------------------- queries


def test_each_heading_asks_for_the_whole_document(tmp_path: Path) -> None:
    guide = "# Growing apples\n\nPlant them in autumn.\n\n## Pruning young trees\n\nCut what crosses.\n"
    rows = [{"text": guide, "lang": "en"}, {"text": "Just a sentence without any heading."}]
    prepared = made(tmp_path, source(tmp_path, rows, "text lang"), asked("heading"))
    found = examples(prepared.sources["asked"].train)
    assert [(pair.query, pair.document, pair.lang) for pair in found] == [
        ("Growing apples", guide, "en"),
        ("Pruning young trees", guide, "en"),
    ]
    assert prepared.counts["asked"]["without_query"] == 1
    assert_counts_add_up(prepared)


def test_a_heading_that_several_documents_have_asks_for_none_of_them(tmp_path: Path) -> None:
    rows = [{"text": f"# About thing {i}\n\nText.\n\n## See also\n\nMore {i}.\n"} for i in range(200)]
    prepared = made(tmp_path, source(tmp_path, rows, "text"), asked("heading"), heldout_fraction=0.2)
    assert prepared.counts["asked"]["shared_query"] == 200
    split = prepared.sources["asked"]
    assert not any(query == "See also" for query in [*split.train.texts("query"), *split.heldout.texts("query")])
    assert_halves_share_nothing(prepared)
    assert_counts_add_up(prepared)


def test_the_first_sentence_asks_for_the_rest_of_the_document(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "document": "The tower is very tall. It was built in a year.", "teacher_document": None},
        {
            "query": "r",
            "document": "Der Turm ist sehr hoch. Man baute ihn in einem Jahr.",
            "teacher_document": "The tower of Ulm is high. They built it in a year.",
        },
        {"query": "s", "document": "Too short.", "teacher_document": None},
    ]
    prepared = made(tmp_path, source(tmp_path, rows, "query document teacher_document"), asked("summary"))
    first, second = examples(prepared.sources["asked"].train)
    assert (first.query, first.document) == ("The tower is very tall.", "It was built in a year.")
    assert (first.teacher_query, first.teacher_document) == (None, None)
    assert (second.query, second.document) == ("Der Turm ist sehr hoch.", "Man baute ihn in einem Jahr.")
    assert second.teacher_query == "The tower of Ulm is high."
    assert second.teacher_document == "They built it in a year."
    assert prepared.counts["asked"]["without_query"] == 1


def test_a_document_under_many_queries_is_asked_for_once(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "document": "The tower is very tall. It was built in a year."} for i in range(5)]
    prepared = made(tmp_path, source(tmp_path, rows), asked("summary"))
    assert prepared.counts["asked"]["read"] == prepared.counts["asked"]["train"] == 1


def test_a_new_text_that_stands_on_the_other_side_of_any_source_is_left_out(tmp_path: Path) -> None:
    # every first sentence is also a text of a source of its own, and every second rest is that of a document before
    rows = [{"text": f"The tower number {i} is tall. It was built in {1000 + i // 2} days."} for i in range(400)]
    texts = [{"text": f"The tower number {i} is tall."} for i in range(400)]
    prepared = made(
        tmp_path, source(tmp_path, rows, "text"), source(tmp_path, texts, "text", name="t"), asked("summary"),
        heldout_fraction=0.3, near_duplicate_threshold=None,
    )  # fmt: skip
    assert_halves_share_nothing(prepared)
    assert_counts_add_up(prepared)
    assert prepared.counts["asked"]["overlap"] > 100
    assert prepared.counts["asked"]["heldout"] > 10


class Writer:
    """In place of a model: writes a query for every document but those with "nothing" in them."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, documents: Sequence[str], settings: QueryModel) -> list[str | None]:
        assert settings.model == "writer"
        self.asked += documents
        return [None if "nothing" in d else f"What is said in {d[:20]}?" for d in documents]


def test_a_model_is_asked_about_no_more_documents_than_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    monkeypatch.setattr(document_queries, "write_queries", writer)
    rows = [{"text": f"{i} {'nothing' if i % 4 == 0 else 'something'} is said"} for i in range(400)]
    prepared = made(
        tmp_path, source(tmp_path, rows, "text"), asked("model", model=MODEL, max_rows=100), heldout_fraction=0.2
    )
    counts = prepared.counts["asked"]
    assert len(set(writer.asked)) == 100 == counts["read"]
    assert counts["without_query"] == sum("nothing" in document for document in set(writer.asked)) > 0
    assert counts["train"] + counts["heldout"] == 100 - counts["without_query"]
    for pair in examples(prepared.sources["asked"].train):
        assert pair.query == f"What is said in {pair.document[:20]}?"
    assert_halves_share_nothing(prepared)
    assert_counts_add_up(prepared)


def test_heldout_max_and_max_rows_bound_what_many_headings_make(tmp_path: Path) -> None:
    rows = [{"text": "\n\n".join(f"# Title {i} of part {j}\n\nText {i} {j}." for j in range(5))} for i in range(200)]
    sources = source(tmp_path, rows, "text"), asked("heading", max_rows=300)
    prepared = made(tmp_path, *sources, heldout_fraction=0.3, heldout_max=20)
    assert prepared.counts["s"]["heldout"] == 20
    assert prepared.counts["asked"]["heldout"] == 20
    free = made(tmp_path, *sources, heldout_fraction=0.3)
    assert free.counts["asked"]["heldout"] + free.counts["asked"]["train"] == 300
    assert_counts_add_up(prepared)


# ----------------------------------------------------------------------------------- of all of them


def test_a_derived_source_may_be_made_of_a_derived_one(tmp_path: Path) -> None:
    rows = [{"text": f"The tower number {i} is tall. It was built in {i} days."} for i in range(300)]
    of_derived = hidden(of="asked", chars=[200, 900])
    prepared = made(tmp_path, source(tmp_path, rows, "text"), asked("summary"), of_derived, heldout_fraction=0.2)
    assert list(prepared.sources) == ["s", "asked", "hidden"]
    rests = set(prepared.sources["asked"].train.texts("document"))
    for pair in examples(prepared.sources["hidden"].train):
        assert set(pair.document.split(SEPARATOR)) <= rests
    assert_halves_share_nothing(prepared)
    assert_counts_add_up(prepared)


def test_sources_stand_in_the_order_of_the_recipe_and_keep_their_own_weights(tmp_path: Path) -> None:
    later = source(tmp_path, pairs(20), name="later", weight=0.5)
    later["path"] = source(tmp_path, [{"query": f"x {i}", "document": f"y {i}"} for i in range(9)], name="y")["path"]
    prepared = made(tmp_path, source(tmp_path, pairs(20)), hidden(chars=[300, 400], weight=3.0), later)
    weights = {name: split.train.weight for name, split in prepared.sources.items()}
    assert weights == {"s": 1.0, "hidden": 3.0, "later": 0.5}
    prepared.verify()


def test_progress_tells_the_pairs_of_a_derived_source(tmp_path: Path) -> None:
    calls: Counter[tuple[str, int]] = Counter()
    data = Data.model_validate({"sources": [source(tmp_path, pairs(1500)), hidden(chars=[100, 200])]})
    prepare(data, tmp_path / "out", progress=lambda name, rows: calls.update([(name, rows)]))
    assert calls["hidden", 1000] == calls["hidden", 1500] == 1


def test_a_derived_source_left_without_examples_says_what_became_of_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'asked' is left with no training examples \(3 read, 3 without query\)"):
        made(tmp_path, source(tmp_path, pairs(3)), asked("heading"))


def test_a_derived_source_cannot_be_read_by_itself() -> None:
    with pytest.raises(DataError, match="'hidden' is made of 's' and cannot be read by itself"):
        next(read_source(DistractorsSource.model_validate(hidden())))
