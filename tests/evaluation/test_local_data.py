"""Evaluation sets in folders: what is read, what is counted, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_sets import GRADES, QUERIES, write_all, write_instruction, write_labels, write_pairs, write_rows
from evaluation_sets import write_search as search

from limbeck.errors import DataError
from limbeck.evaluation.local_data import LocalFolder, find_folders, read_labels, read_pairs, read_search


def one(folder: Path) -> LocalFolder:
    [found] = find_folders(folder)
    return found


# ------------------------------------------------------------------------------------------ finding


def test_a_set_a_kind_and_a_folder_of_kinds_are_all_found(tmp_path: Path) -> None:
    write_all(tmp_path)
    search(tmp_path, name="more")
    assert [(f.kind, f.name) for f in find_folders(tmp_path / "retrieval" / "more")] == [("retrieval", "more")]
    assert [f.name for f in find_folders(tmp_path / "retrieval")] == ["more", "retrieval-set"]
    assert {f.kind for f in find_folders(tmp_path)} == {
        *("retrieval", "reranking", "longdoc", "instruction", "sts", "pairclf", "bitext", "classification"),
        "clustering",
    }


def test_other_folders_beside_the_kinds_are_left_alone(tmp_path: Path) -> None:
    search(tmp_path)
    write_rows(tmp_path / "train" / "x" / "pairs.jsonl", [{"query": "a"}])
    assert len(find_folders(tmp_path)) == 1


def test_an_unknown_kind_is_an_error_that_lists_the_known(tmp_path: Path) -> None:
    folder = search(tmp_path, kind="search")
    with pytest.raises(DataError, match=r"parent folder is 'search'.*kinds are retrieval, reranking"):
        find_folders(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (search(tmp_path) / "qrels.tsv").unlink()
    with pytest.raises(DataError, match=r"pets has no qrels.tsv \(or qrels.tsv.gz\): a retrieval task needs corpus"):
        find_folders(tmp_path)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        find_folders(tmp_path / "nothing")


def test_the_digest_changes_with_a_byte_of_the_data_and_with_nothing_else(tmp_path: Path) -> None:
    folder = search(tmp_path)
    before = one(folder).digest()
    write_rows(folder / "meta.json", ['{"languages": ["deu_Latn"]}'])
    assert one(folder).digest() == before
    assert one(folder).languages() == ["deu-Latn"]
    (folder / "qrels.tsv").write_text((folder / "qrels.tsv").read_text().replace("q0\td0\t2", "q0\td0\t1"))
    assert one(folder).digest() != before


# ----------------------------------------------------------------------------------------- searches


def test_packed_and_plain_files_hold_the_same(tmp_path: Path) -> None:
    plain = read_search(one(search(tmp_path / "plain")))
    packed = read_search(one(search(tmp_path / "packed", packed=True)))
    assert plain == packed
    assert (plain.queries, plain.grades, plain.warnings) == (QUERIES, GRADES, [])


def test_a_header_above_the_grades_is_no_grade(tmp_path: Path) -> None:
    folder = search(tmp_path)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + (folder / "qrels.tsv").read_text())
    assert read_search(one(folder)).grades == GRADES


def test_grades_that_name_unknown_ids_are_left_out_and_counted(tmp_path: Path) -> None:
    grades = {**GRADES, "q9": {"d0": 1}, "q4": {"d14": 1, "d77": 1, "d78": 1}}
    found = read_search(one(search(tmp_path, grades=grades)))
    assert found.grades == GRADES
    assert found.warnings == [
        "1 lines of qrels.tsv name a query that is not in queries.jsonl, and are left out (q9)",
        "2 lines of qrels.tsv name a document that is not in corpus.jsonl, and are left out (d77, d78)",
    ]


def test_a_query_without_a_relevant_document_is_left_out_and_counted_not_scored_as_zero(tmp_path: Path) -> None:
    found = read_search(one(search(tmp_path, queries={**QUERIES, "q5": "nothing"}, grades={**GRADES, "q4": {"d1": 0}})))
    assert set(found.queries) == {"q0", "q1", "q2", "q3"}
    assert found.warnings == ["2 queries have no relevant document, and are left out (q4, q5)"]


def test_a_negative_grade_counts_as_zero(tmp_path: Path) -> None:
    found = read_search(one(search(tmp_path, grades={**GRADES, "q1": {"d4": 1, "d0": -1}})))
    assert found.grades["q1"] == {"d4": 1, "d0": 0}
    assert found.warnings == ["1 lines of qrels.tsv have a negative grade, which counts as 0 (q1)"]


def test_empty_queries_and_documents_are_counted(tmp_path: Path) -> None:
    found = read_search(one(search(tmp_path, queries=QUERIES | {"q0": "  "})))
    assert found.warnings == ["1 queries are empty (q0)"]


def test_grades_that_fit_no_query_at_all_are_an_error(tmp_path: Path) -> None:
    folder = search(tmp_path, grades={"1": {"d0": 1}})
    with pytest.raises(DataError, match="nothing is left to score: 5 queries.*1 lines in qrels.tsv 1 name an unknown"):
        read_search(one(folder))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", '{"id": "x", "text": ', r"corpus.jsonl:2: not JSON"),
        ("corpus.jsonl", '["x"]', r"corpus.jsonl:2: expected a JSON object, got list"),
        ("corpus.jsonl", '{"id": "a", "text": "again"}', r"corpus.jsonl:2: the id 'a' occurs a second time"),
        ("corpus.jsonl", '{"id": "x", "body": "b"}', r"corpus.jsonl:2: 'text' must be a text, got None; the row has"),
        ("queries.jsonl", '{"text": "b"}', r"queries.jsonl:2: 'id' must be a text or a whole number"),
        ("qrels.tsv", "q0 d0 1", r"qrels.tsv:2: expected query id, document id and grade, with tabs"),
        ("qrels.tsv", "q0\td0\thigh", r"qrels.tsv:2: the grade must be a whole number, got 'high'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, file: str, line: str, message: str) -> None:
    folder = search(tmp_path)
    first = {"corpus.jsonl": '{"id": "a", "text": "t"}', "queries.jsonl": '{"id": "a", "text": "t"}'}
    write_rows(folder / file, [first.get(file, "q0\td0\t1"), line])
    with pytest.raises(DataError, match=message):
        read_search(one(folder))


def test_what_is_no_gzip_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = search(tmp_path)
    (folder / "corpus.jsonl").rename(folder / "corpus.jsonl.gz")
    with pytest.raises(DataError, match="corpus.jsonl.gz cannot be read"):
        read_search(one(folder))


def test_candidates_of_a_reranking_are_the_lines_of_its_grades(tmp_path: Path) -> None:
    grades = {"q0": {"d3": 0, "d0": 1}, "q1": {"d4": 1, "d0": 0}}
    found = read_search(one(search(tmp_path, "reranking", queries={"q0": "a", "q1": "b"}, grades=grades)))
    assert found.candidates == {"q0": ["d3", "d0"], "q1": ["d4", "d0"]}


def test_an_instruction_set_knows_what_the_changed_instruction_no_longer_wants(tmp_path: Path) -> None:
    found = read_search(one(write_instruction(tmp_path)))
    assert found.changed == {"p": ["d0"], "s": ["d10"]}
    assert found.candidates and found.candidates["p-og"] == found.candidates["p-changed"] == ["d0", "d1"]
    assert found.instructions["s-changed"] == "boil slowly"


def test_a_query_without_its_partner_is_an_error(tmp_path: Path) -> None:
    folder = write_instruction(tmp_path)
    lines = (folder / "queries.jsonl").read_text().splitlines()
    write_rows(folder / "queries.jsonl", lines[:-1])
    with pytest.raises(DataError, match=r"query 's-og' has no partner"):
        read_search(one(folder))


# ------------------------------------------------------------------------------------ pairs, labels


def test_pairs_keep_their_order_and_values(tmp_path: Path) -> None:
    found = read_pairs(one(write_pairs(tmp_path)))
    assert (found.left[1], found.right[1], found.values[:2]) == ("cats purr softly", "stocks fell today", [3.5, 0])


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("sts", '{"text1": "a", "text2": "b", "score": NaN}', r"pairs.jsonl:1: 'score' must be a finite number"),
        ("sts", '{"text1": "a", "text2": "b", "score": "2"}', r"pairs.jsonl:1: 'score' must be a finite number"),
        ("pairclf", '{"text1": "a", "text2": "b", "label": 2}', r"pairs.jsonl:1: 'label' must be 0 or 1, got 2"),
        ("bitext", '{"src": "a", "tgt": null}', r"pairs.jsonl:1: 'tgt' must be a text"),
        ("bitext", '{"src": "a", "tgt": "b"}', r"has 1 pairs: at least 2"),
    ],
)
def test_malformed_pairs_are_refused(tmp_path: Path, kind: str, row: str, message: str) -> None:
    folder = write_rows(tmp_path / kind / "x" / "pairs.jsonl", [row]).parent
    with pytest.raises(DataError, match=message):
        read_pairs(one(folder))


def test_pairs_of_one_class_or_one_score_are_refused(tmp_path: Path) -> None:
    rows = [{"text1": "a", "text2": "b", "label": 1, "score": 4}] * 3
    for kind, what in (("pairclf", "labels are 1"), ("sts", "scores are 4")):
        folder = write_rows(tmp_path / kind / "x" / "pairs.jsonl", rows).parent
        with pytest.raises(DataError, match=f"all 3 {what}: there is nothing to tell apart"):
            read_pairs(one(folder))


def test_classes_are_numbered_in_one_order_for_training_and_test(tmp_path: Path) -> None:
    found = read_labels(one(write_labels(tmp_path)), shots=8)
    assert found.labels == ["cats", "soup", "stocks"]
    assert found.test[0] == ("cats purr softly", 0) and found.train[5] == ("stocks fell today again", 2)
    assert found.warnings == []


def test_one_class_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}] * 3
    for kind in ("classification", "clustering"):
        folder = write_labels(tmp_path, kind)
        write_rows(folder / "test.jsonl", rows)
        with pytest.raises(DataError, match=r"test.jsonl has 1 labels \('x'\), at least 2 are needed"):
            read_labels(one(folder))


def test_labels_that_training_lacks_or_hardly_has_are_counted(tmp_path: Path) -> None:
    folder = write_labels(tmp_path)
    train = [{"text": "a", "label": "cats"}] * 9 + [{"text": "b", "label": "soup"}] * 3
    write_rows(folder / "train.jsonl", train)
    assert read_labels(one(folder), shots=8).warnings == [
        "5 test texts have a label that no training text has (stocks)",
        "1 labels have fewer than the 8 training texts that a classifier takes of each (soup)",
    ]
