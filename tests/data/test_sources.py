from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import FileSource, HubSource, Source
from limbeck.data.examples import LabelledText, Pair, ScoredPair, Text, Triplet
from limbeck.data.sources import ReadReport, read_rows, read_source
from limbeck.errors import DataError

PAIR = {"query": "q", "document": "d"}


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSONL; a row given as bytes is written as it is."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def file_source(path: Any, columns: dict[str, Any] | None = None, **fields: Any) -> FileSource:
    paths = [str(p) for p in path] if isinstance(path, list) else str(path)
    return FileSource.model_validate({"name": "s", "path": paths, "columns": columns or PAIR, **fields})


def read(source: Source) -> list[Any]:
    return list(read_source(source))


def reason(path: Path, columns: dict[str, Any] | None = None, **fields: Any) -> str:
    """The only malformed row's description, after checking that the good rows around it are read."""
    report = ReadReport()
    examples = list(read_source(file_source(path, columns, max_malformed=1, **fields), report=report))
    assert (report.malformed, len(report.shown), report.rows) == (1, 1, len(examples) + 1)
    return report.shown[0]


# ---------------------------------------------------------------------------------- shapes


def test_jsonl_rows_become_pairs_named_by_file_and_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "one", "d": "two"}, b"", {"q": "drei", "d": "vier"}])
    assert read(file_source(path, lang="de")) == [
        Pair(id=f"{path}:1", query="one", document="two", lang="de"),
        Pair(id=f"{path}:3", query="drei", document="vier", lang="de"),
    ]


def test_gzipped_jsonl_gives_the_same_texts_as_plain(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "d": f"d{i}"} for i in range(50)]
    plain = read(file_source(write_lines(tmp_path / "a.jsonl", rows)))
    zipped = read(file_source(write_lines(tmp_path / "a.jsonl.gz", rows)))
    assert [(e.query, e.document) for e in plain] == [(e.query, e.document) for e in zipped]


@pytest.mark.parametrize(
    ("negatives", "row"),
    [
        ("n", {"n": ["x", "y"]}),
        (["n1", "n2"], {"n1": "x", "n2": "y"}),
        (["n1", "n2", "n3"], {"n1": "x", "n2": "y", "n3": None}),
        (["n1", "n2"], {"n1": ["x"], "n2": ["y"]}),
    ],
)
def test_triplets_take_any_number_of_negatives_from_lists_and_columns(tmp_path: Path, negatives: Any, row: Any) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "one", "d": "two", **row}])
    (example,) = read(file_source(path, {**PAIR, "negatives": negatives}))
    assert example == Triplet(id=f"{path}:1", query="one", document="two", negatives=("x", "y"))


def test_one_string_is_one_negative(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "one", "d": "two", "n": "three"}])
    assert read(file_source(path, {**PAIR, "negatives": "n"}))[0].negatives == ("three",)


def test_scored_pairs_keep_their_score_and_the_bounds_of_the_range_are_inside(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "a", "d": "b", "s": s} for s in (0, 2.5, 5)])
    examples = read(file_source(path, {**PAIR, "score": "s"}, score_range=(0, 5)))
    assert [e.score for e in examples] == [0.0, 2.5, 5.0]
    assert all(isinstance(e, ScoredPair) for e in examples)


def test_labels_may_be_one_many_or_class_numbers(tmp_path: Path) -> None:
    rows = [{"t": "a", "l": "news"}, {"t": "b", "l": ["news", "sport", "news"]}, {"t": "c", "l": 3}]
    examples = read(file_source(write_lines(tmp_path / "a.jsonl", rows), {"text": "t", "labels": "l"}))
    assert all(isinstance(e, LabelledText) for e in examples)
    assert [e.labels for e in examples] == [("news",), ("news", "sport"), ("3",)]


def test_the_teacher_reads_its_own_column_and_null_means_the_same_text(tmp_path: Path) -> None:
    rows = [{"t": "Hallo Welt", "en": "Hello world"}, {"t": "Hello", "en": None}]
    examples = read(file_source(write_lines(tmp_path / "a.jsonl", rows), {"text": "t", "teacher_text": "en"}))
    assert [(e.text, e.teacher_text) for e in examples] == [("Hallo Welt", "Hello world"), ("Hello", None)]
    assert all(type(e) is Text for e in examples)


def test_teacher_columns_of_a_pair_go_to_their_sides(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "a", "d": "b", "qe": "A en", "de": "B en"}])
    (example,) = read(file_source(path, {**PAIR, "teacher_query": "qe", "teacher_document": "de"}))
    assert (example.teacher_query, example.teacher_document) == ("A en", "B en")


def test_title_is_put_in_front_and_lang_falls_back_to_the_source(tmp_path: Path) -> None:
    rows = [{"q": "a", "d": "b", "t": "T", "l": "fr"}, {"q": "a", "d": "c", "t": "", "l": None}, {"q": "a", "d": "e"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    examples = read(file_source(path, {**PAIR, "title": "t", "lang": "l"}, lang="en"))
    assert [(e.document, e.lang) for e in examples] == [("T. b", "fr"), ("c", "en"), ("e", "en")]


def test_csv_with_quotes_commas_and_line_breaks_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [['say "hi", twice', "first\nsecond\r\nthird"], ["plain", "größer"]]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["q", "d"], *rows])
    examples = read(file_source(path))
    assert [[e.query, e.document] for e in examples] == rows
    assert [e.id for e in examples] == [f"{path}:2", f"{path}:5"]  # lines, not rows


def test_csv_scores_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"q,d,s\na,b,0.25\na,c,nope\n"))
    source = file_source(path, {**PAIR, "score": "s"}, max_malformed=1)
    report = ReadReport()
    assert [e.score for e in read_source(source, report=report)] == [0.25]  # type: ignore[union-attr]
    assert report.shown == [f"{path}:3: 's' is 'nope', expected a number"]


def test_parquet_reads_lists_and_only_the_mapped_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    count = 3000  # more than one batch
    columns = {
        "q": [f"q{i}" for i in range(count)],
        "d": [f"d{i}" for i in range(count)],
        "n": [[f"n{i}", "m"] for i in range(count)],
        "unused": [b"\xff"] * count,
    }
    pq.write_table(pa.table(columns), path)
    examples = read(file_source(path, {**PAIR, "negatives": "n"}))
    assert len(examples) == count
    assert examples[-1] == Triplet(id=f"{path}:3000", query="q2999", document="d2999", negatives=("n2999", "m"))


def test_globs_and_lists_are_read_in_order_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_lines(tmp_path / f"{name}.jsonl", [{"q": name, "d": "x"}])
    source = file_source([tmp_path / "c.jsonl", tmp_path / "*.jsonl"])
    assert [e.query for e in read(source)] == ["c", "a", "b"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a[1].jsonl", [{"q": "a", "d": "b"}])
    assert len(read(file_source(path))) == 1


def test_max_rows_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "a", "d": "b"}, {"q": "c", "d": "d"}, b"not read"])
    assert [e.query for e in read(file_source(path, max_rows=2))] == ["a", "c"]


def test_a_text_of_100000_characters_is_read_from_csv_and_jsonl(tmp_path: Path) -> None:
    long = "wörter " * 20_000
    jsonl = write_lines(tmp_path / "a.jsonl", [{"q": "a", "d": long}])
    table = tmp_path / "a.csv"
    table.write_text(f"q,d\na,{long}\n", encoding="utf-8")
    assert [e.document for path in (jsonl, table) for e in read(file_source(path))] == [long, long]


# ------------------------------------------------------------------------------- malformed


GOOD = {"q": "good", "d": "row"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b'{"q": "a", ', "not valid JSON"),
        (b'{"q": "\xff", "d": "b"}', "not valid UTF-8: byte 0xff at position 7"),
        (b'["a", "b"]', "expected a JSON object, got a list"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"q": ' + b"9" * 5000 + b', "d": "b"}', "not valid JSON"),
        ({"q": "a"}, "no field 'd', the row has 'q'"),
        ({"q": "a", "d": ""}, "'d' is empty"),
        ({"q": " \t", "d": "b"}, "'q' is empty"),
        ({"q": 5, "d": "b"}, "'q' is 5 (int), expected a text"),
        ({"q": "a", "d": None}, "'d' is null, expected a text"),
        ({"q": "a", "d": ["b"]}, "'d' is ['b'] (list)"),
        ({"q": "a\x00", "d": "b"}, "'q' holds a NUL character"),
        (b'{"q": "\\ud800", "d": "b"}', "'q' holds a lone surrogate, U+D800"),
    ],
)
def test_a_malformed_row_is_reported_with_file_line_and_reason(tmp_path: Path, row: Any, expected: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD, row, GOOD])
    described = reason(path)
    assert described.startswith(f"{path}:2: ")
    assert expected in described


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("0.5", "'s' is '0.5' (str), expected a number"),
        (True, "'s' is True (bool)"),
        (None, "'s' is null"),
        (float("nan"), "expected a finite number"),
        (float("inf"), "expected a finite number"),
        (10**400, "expected a finite number"),
        (5.01, "outside the declared range 0 to 5"),
        (-1, "outside the declared range 0 to 5"),
    ],
)
def test_a_score_must_be_a_finite_number_in_the_declared_range(tmp_path: Path, score: Any, expected: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{**GOOD, "s": 1}, {**GOOD, "s": score}])
    assert expected in reason(path, {**PAIR, "score": "s"}, score_range=(0, 5))


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ([], "no negatives in 'n'"),
        (None, "no negatives in 'n'"),
        (["x", ""], "'n' is empty"),
        (["x", 3], "'n' is 3 (int)"),
        (["x", " ROW "], "a negative equals the document"),
    ],
)
def test_negatives_must_be_texts_that_differ_from_the_document(tmp_path: Path, negatives: Any, expected: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{**GOOD, "n": ["x"]}, {**GOOD, "n": negatives}])
    assert expected in reason(path, {**PAIR, "negatives": "n"})


@pytest.mark.parametrize("labels", [[], None, "", [""], [1.5], True, {"a": 1}])
def test_labels_must_be_texts_or_whole_numbers(tmp_path: Path, labels: Any) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"t": "x", "l": "y"}, {"t": "x", "l": labels}])
    assert "'l'" in reason(path, {"text": "t", "labels": "l"})


def test_an_empty_teacher_text_is_malformed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"t": "x", "en": "y"}, {"t": "x", "en": ""}])
    assert reason(path, {"text": "t", "teacher_text": "en"}).endswith("'en' is empty")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"only one", "1 fields, the header has 2"),
        (b"a,b,c", "3 fields, the header has 2"),
        (b"a,\xff", "not valid UTF-8: byte 0xff"),
        (b"a\x00,b", "'q' holds a NUL character"),
        (b"a,", "'d' is empty"),
        (b'"a" b,c', "not valid CSV"),
    ],
)
def test_a_malformed_csv_row_is_reported_and_the_next_one_read(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"q,d\n1,2\n" + line + b"\n3,4\n")
    described = reason(path)
    assert described.startswith(f"{path}:3: ")
    assert expected in described


def test_a_csv_quote_that_never_closes_stops_the_run_however_many_rows_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q,d\na,b\nc,"d\ne,f\n')
    with pytest.raises(DataError, match=r"a\.csv:3: a quote that opens in this row is never closed"):
        read(file_source(path, max_malformed=99))


def test_invalid_utf8_in_parquet_spoils_its_row_only(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 1, 2, 3)))
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"a\xffc"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": broken, "d": ["x", "y", "z"]}), path)
    assert reason(path) == f"{path}:2: not valid UTF-8: byte 0xff"


def test_the_row_past_the_limit_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD, {"q": "a"}, GOOD, {"d": "b"}, GOOD])
    assert len(read(file_source(path, max_malformed=2))) == 3
    report = ReadReport()
    with pytest.raises(DataError) as caught:
        list(read_source(file_source(path, max_malformed=1), report=report))
    message = str(caught.value)
    assert f"{path}:2: no field 'd'" in message
    assert f"{path}:4: no field 'q'" in message
    assert "source 's' has 2 malformed rows" in message
    assert "`max_malformed:`" in message
    assert (report.rows, report.malformed) == (4, 2)


def test_only_the_first_twenty_malformed_rows_are_described_but_all_are_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": str(i)} for i in range(30)] + [GOOD])
    report = ReadReport()
    list(read_source(file_source(path, max_malformed=30), report=report))
    assert (report.malformed, len(report.shown)) == (30, 20)


# ------------------------------------------------------------------------- files that fail


def test_a_path_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 's': nothing matches .*\*\.jsonl"):
        read(file_source(tmp_path / "*.jsonl"))


def test_a_folder_and_an_unknown_ending_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder, files are expected"):
        read(file_source(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"ending of .*a\.txt is not known, expected \*\.jsonl"):
        read(file_source(tmp_path / "a.txt"))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_an_empty_source_is_an_error_that_names_its_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=f"source 's' is empty: .*{name} gives no rows"):
        read(file_source(path))


def test_a_csv_with_a_header_only_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,d\n")
    with pytest.raises(DataError, match="is empty"):
        read(file_source(tmp_path / "a.csv"))


def test_a_torn_gzip_file_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl.gz", [{"q": f"q{i}", "d": "d"} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is torn or not gzip"):
        read(file_source(path))
    path.write_bytes(b'{"q": "a", "d": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is torn or not gzip"):
        read(file_source(path))


def test_a_torn_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"a\.parquet is torn or not Parquet"):
        read(file_source(path))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_missing_column_is_found_before_any_row_and_the_columns_there_are_listed(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / name
    if path.suffix == ".csv":
        path.write_text("q,text\na,b\n")
    else:
        pq.write_table(pa.table({"q": ["a"], "text": ["b"]}), path)
    with pytest.raises(DataError, match="has no column 'd'; it has 'q', 'text': correct `columns:`"):
        read(file_source(path, max_malformed=99))


# -------------------------------------------------------------------- Hugging Face datasets


@pytest.fixture
def saved_dataset(tmp_path: Path) -> Path:
    import datasets

    label = datasets.ClassLabel(names=["news", "sport"])
    features = datasets.Features({"t": datasets.Value("string"), "l": label, "extra": datasets.Value("int64")})
    rows = {"t": ["one", "two", "three"], "l": [0, 1, -1], "extra": [1, 2, 3]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def hub_source(dataset: Any, **fields: Any) -> HubSource:
    return HubSource.model_validate(
        {"name": "h", "dataset": str(dataset), "columns": {"text": "t", "labels": "l"}, **fields}
    )


def test_a_saved_dataset_gives_class_names_as_labels(saved_dataset: Path) -> None:
    report = ReadReport()
    examples = list(read_source(hub_source(saved_dataset, max_malformed=1), report=report))
    assert [(e.text, e.labels) for e in examples] == [("one", ("news",)), ("two", ("sport",))]  # type: ignore[union-attr]
    assert examples[0].id == f"{saved_dataset}/train:1"
    assert report.shown == [f"{saved_dataset}/train:3: 'l' is class -1, the dataset names 0 to 1"]


def test_another_split_of_a_saved_dataset_is_read_and_an_absent_one_is_an_error(saved_dataset: Path) -> None:
    assert len(read(hub_source(saved_dataset, split="test"))) == 1
    with pytest.raises(DataError, match="has no split 'dev', it has train, test"):
        read(hub_source(saved_dataset, split="dev"))


def test_a_dataset_without_the_column_lists_those_it_has(saved_dataset: Path) -> None:
    with pytest.raises(DataError, match="has no column 'body'; it has 't', 'l', 'extra'"):
        read(hub_source(saved_dataset, columns={"text": "body"}))


def test_a_folder_of_data_files_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    write_lines(tmp_path / "folder" / "train.jsonl", [{"t": "one", "l": ["a", "b"]}])
    (example,) = read(hub_source(tmp_path / "folder"))
    assert (example.text, example.labels) == ("one", ("a", "b"))


def test_an_unreachable_hub_dataset_says_what_was_asked_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        read(hub_source("nobody/nothing", subset="de", split="dev", revision="abc"))
    message = str(caught.value)
    assert "dataset 'nobody/nothing', split 'dev', subset 'de', revision 'abc'" in message
    assert "save_to_disk" in message


def test_all_fields_of_a_file_are_read_where_none_is_mapped(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Any] = [{"id": "1", "any": "x", "score": 0.5}, {"id": "2", "any": "y", "score": 1.5}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == rows
    assert list(read_rows(write_lines(tmp_path / "a.jsonl.gz", rows))) == rows
    (tmp_path / "a.csv").write_text("id,any,score\n1,x,0.5\n2,y,1.5\n")
    assert list(read_rows(tmp_path / "a.csv")) == [{k: str(v) for k, v in row.items()} for row in rows]
    with pytest.raises(DataError, match=r"b\.jsonl:2: not valid JSON.*: mend the row or take it out"):
        list(read_rows(write_lines(tmp_path / "b.jsonl", [{"a": "b"}, b"{"])))
