"""What is read back from a file of vectors is what was written, bit for bit."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck import compress
from limbeck.encoding.reading import Row
from limbeck.encoding.writing import WRITERS, Encoded, Format, format_of
from limbeck.errors import ConfigError

ROWS = [Row(text, None, f"line {n}") for n, text in enumerate(["a", "", 'é "🙂"\n', "d" * 3000, "\u2028"], start=1)]
PRECISIONS: tuple[compress.Precision, ...] = ("float32", "int8", "binary", "ubinary")


def encoded(precision: compress.Precision, rows: list[Row] = ROWS) -> list[Encoded]:
    """Chunks of two rows."""
    vectors = np.random.default_rng(0).standard_normal((len(rows), 16)).astype(np.float32)
    found = compress.compress(vectors, precision)
    codes, scales = found if isinstance(found, tuple) else (found, None)
    return [
        Encoded(rows[i : i + 2], codes[i : i + 2], None if scales is None else scales[i : i + 2])
        for i in range(0, len(rows), 2)
    ]


def joined(chunks: list[Encoded]) -> tuple[np.ndarray, np.ndarray | None]:
    scales = [chunk.scales for chunk in chunks if chunk.scales is not None]
    return np.concatenate([chunk.vectors for chunk in chunks]), np.concatenate(scales) if scales else None


def table(path: Path, form: str) -> pa.Table:
    return pq.read_table(path) if form == "parquet" else pa.ipc.open_file(path).read_all()


def read_back(path: Path, form: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    if form == "npy":
        return np.load(path), None
    if form == "npz":
        with np.load(path) as arrays:
            return arrays["codes"], arrays["scales"]
    if form == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        scales = np.array([row["scale"] for row in rows], np.float32) if "scale" in rows[0] else None
        return np.array([row["vector"] for row in rows], dtype), scales
    found = table(path, form)
    vectors = found["vector"].combine_chunks()
    assert pa.types.is_fixed_size_list(vectors.type)
    numbers = vectors.values.to_numpy().reshape(len(found), -1)
    return numbers, found["scale"].to_numpy() if "scale" in found.column_names else None


HOLD = [(form, p) for form in ("parquet", "arrow", "jsonl") for p in PRECISIONS]
HOLD += [("npz", "int8"), *(("npy", p) for p in PRECISIONS if p != "int8")]


@pytest.mark.parametrize(("form", "precision"), HOLD)
def test_vectors_and_scales_are_read_back_bit_for_bit(form: Format, precision: Any, tmp_path: Path) -> None:
    chunks = encoded(precision)
    WRITERS[form](tmp_path / "v", iter(chunks), "clustering")
    vectors, scales = joined(chunks)
    found, found_scales = read_back(tmp_path / "v", form, vectors.dtype)
    assert found.dtype == vectors.dtype and np.array_equal(found, vectors)
    assert (scales is None) == (found_scales is None)
    assert scales is None or np.array_equal(found_scales, scales)


@pytest.mark.parametrize(("form", "precision"), HOLD)
def test_the_bytes_of_a_file_follow_from_what_it_holds(form: Format, precision: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        WRITERS[form](tmp_path / name, iter(encoded(precision)), None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_arrays_are_those_of_numpy_byte_for_byte(tmp_path: Path) -> None:
    chunks = encoded("float32")
    WRITERS["npy"](tmp_path / "ours.npy", iter(chunks), None)
    np.save(tmp_path / "theirs.npy", joined(chunks)[0])
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    chunks = encoded("int8")
    WRITERS["npz"](tmp_path / "ours.npz", iter(chunks), "retrieval")
    codes, scales = joined(chunks)
    np.savez(tmp_path / "theirs.npz", allow_pickle=False, codes=codes, scales=scales, task=np.array("retrieval"))
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_a_slice_of_wider_vectors_is_written_as_its_numbers(tmp_path: Path) -> None:
    wide = np.arange(20, dtype=np.float32).reshape(5, 4)
    for form in ("npy", "parquet", "arrow"):
        WRITERS[form](tmp_path / form, iter([Encoded(ROWS, wide[:, :3], None)]), None)
        assert np.array_equal(read_back(tmp_path / form, form, wide.dtype)[0], wide[:, :3])


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize("ids", [None, ["x", "é", "", "w", "v"], [3, -1, 2**63 - 1, 0, 7]])
def test_texts_or_ids_stand_beside_the_vectors_in_order(form: Format, ids: list[Any] | None, tmp_path: Path) -> None:
    rows = ROWS if ids is None else [row._replace(id=id) for row, id in zip(ROWS, ids, strict=True)]
    WRITERS[form](tmp_path / "v", iter(encoded("int8", rows)), "retrieval=0.5,clustering=0.5")
    name, expected = ("text", [row.text for row in ROWS]) if ids is None else ("id", ids)
    if form == "jsonl":
        found = [json.loads(line) for line in (tmp_path / "v").read_text(encoding="utf-8").split("\n")[:-1]]
        assert [row[name] for row in found] == expected
        assert {tuple(row) for row in found} == {(name, "vector", "scale", "task")}
    else:
        columns = table(tmp_path / "v", form)
        assert columns.column_names == [name, "vector", "scale"]
        assert columns[name].to_pylist() == expected
        assert columns.schema.metadata[b"task"] == b"retrieval=0.5,clustering=0.5"


def test_a_number_of_a_byte_costs_about_a_byte_in_parquet(tmp_path: Path) -> None:
    rows = [Row("x", None, "")] * 20_000
    codes = np.random.default_rng(0).integers(-128, 128, (20_000, 32), np.int8)
    WRITERS["parquet"](tmp_path / "v", iter([Encoded(rows, codes, None)]), None)
    assert (tmp_path / "v").stat().st_size < 1.2 * codes.nbytes


@pytest.mark.parametrize("form", WRITERS)
def test_chunks_are_written_as_they_come(form: Format, tmp_path: Path) -> None:
    """When a chunk is asked for, no other one is alive but the last, which the writer may still hold."""
    alive: list[weakref.ref[np.ndarray]] = []

    def chunks() -> Iterator[Encoded]:
        for chunk in encoded("int8" if form == "npz" else "float32", ROWS * 4):
            assert sum(ref() is not None for ref in alive) <= 2  # the first one, and the last
            vectors = chunk.vectors.copy()
            alive.append(weakref.ref(vectors))
            yield Encoded(chunk.rows, vectors, chunk.scales)
            del vectors

    WRITERS[form](tmp_path / "v", chunks(), None)
    assert len(alive) == 10


@pytest.mark.parametrize(
    ("out", "precision", "ids", "expected"),
    [
        ("-", "int8", True, "jsonl"),
        ("v.parquet", "int8", True, "parquet"),
        ("v.arrow", "binary", True, "arrow"),
        ("v.npy", "ubinary", False, "npy"),
        ("v.npz", "int8", False, "npz"),
        ("v.npy", "int8", False, r"end it in \.npz or \.jsonl, or in \.parquet or \.arrow"),
        ("v.npz", "float32", False, r"end it in \.npy or \.jsonl"),
        ("v.csv", "float32", False, "cannot write float32 vectors to 'v.csv'.* a folder of shards ends in /"),
        ("v.npy", "float32", True, r"holds numbers alone: to keep ids, end it in \.parquet, \.arrow or \.jsonl"),
    ],
)
def test_the_ending_says_the_format(out: str, precision: str, ids: bool, expected: str) -> None:
    if expected in WRITERS:
        assert format_of(out, precision, ids=ids) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            format_of(out, precision, ids=ids)
