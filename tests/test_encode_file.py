"""Files of texts → files of vectors, with a model: what `encode` gives, however much there is."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "model"), str(TESTS / "encoding")]  # for the modules there that are no tests

from counting import CountingEncoder  # noqa: E402
from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402

from limbeck import encode_file as module  # noqa: E402
from limbeck.encode_file import Settings, encode_file, is_folder  # noqa: E402
from limbeck.encoding.reading import find_inputs  # noqa: E402
from limbeck.errors import ConfigError, DataError  # noqa: E402
from limbeck.model.encoder import Encoder  # noqa: E402
from limbeck.model.loading import load  # noqa: E402

TEXTS = [
    "a",
    "",
    "join two tables",
    "日本語 🙂",
    "Split the string at the first occurrence of sep. " * 9,
    " x ",
    "key " * 20,
]
TASK = {"retrieval": 0.5, "clustering": 0.5}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_model(folder / "bert", "Bert", wordpiece())
    section = student(init="pruned", pruned={"layers": [0, 2]})
    bundle = adapted_bundle(folder / "model", section, bert, ("retrieval", "clustering"))
    return load(bundle, device="cpu", precision="fp32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two packed files of JSON lines in a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, texts in (("1", TEXTS[:4]), ("2", TEXTS[4:])):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"body": text, "id": f"№ {text[:3]}"}) + "\n" for text in texts)
    return folder


def vectors_of(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """As they were written: numbers and, in int8, scales."""
    if path.suffix == ".npy":
        return np.load(path), None
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["codes"], arrays["scales"]
    if path.suffix == ".jsonl":
        table = pa.Table.from_pylist([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        vectors = np.array(table["vector"].to_pylist())
    else:
        table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
        vectors = table["vector"].combine_chunks().values.to_numpy().reshape(len(table), -1)
    return vectors, table["scale"].to_numpy() if "scale" in table.column_names else None


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "array", "shards"])
@pytest.mark.parametrize("precision", ["float32", "int8", "binary", "ubinary"])
def test_every_format_holds_what_encode_gives(
    precision: Any, ending: str, encoder: Encoder, source: Path, tmp_path: Path
) -> None:
    name = {"array": "npz" if precision == "int8" else "npy", "shards": "d/"}.get(ending, ending)
    out = f"{tmp_path}/v.{name}"
    stats = encode_file(encoder, find_inputs([str(source)], field="body"), out, Settings("query", TASK, 16, precision))
    vectors, scales = vectors_of(Path(out) / "part-00000.parquet" if ending == "shards" else Path(out))
    expected = encoder.encode(TEXTS, role="query", task=TASK, dim=16, precision=precision)
    codes, expected_scales = expected if isinstance(expected, tuple) else (expected, None)
    assert np.array_equal(vectors, codes) if precision != "float32" else np.allclose(vectors, codes, atol=1e-6)
    assert expected_scales is None or np.allclose(scales, expected_scales, atol=0, rtol=1e-6)
    assert (stats.texts, stats.numbers, stats.truncated) == (7, codes.shape[1], encoder.truncated)
    assert stats.bytes == codes.nbytes + (0 if expected_scales is None else expected_scales.nbytes)


def test_chunks_of_any_size_hold_what_one_call_gives(
    encoder: Encoder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder.encode(TEXTS, task="clustering")
    for size in (1, 2, 3, 6, 7, 8):
        monkeypatch.setattr(module, "_CHUNK", size)
        out = str(tmp_path / f"{size}.npy")
        encode_file(encoder, find_inputs([str(source)], field="body"), out, Settings(task="clustering"))
        np.testing.assert_allclose(np.load(out), expected, atol=1e-5, rtol=0)


def test_ids_stand_in_the_place_of_texts(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    inputs = find_inputs([str(source)], field="body", id="id")
    encode_file(encoder, inputs, str(tmp_path / "v.parquet"), Settings(task="clustering"))
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "vector"]
    assert table["id"].to_pylist() == [f"№ {text[:3]}" for text in TEXTS]
    assert table.schema.metadata[b"task"] == b"clustering"
    with pytest.raises(ConfigError, match="to keep ids"):
        encode_file(encoder, inputs, str(tmp_path / "v.npy"), Settings(task="clustering"))


def test_a_line_that_cannot_be_encoded_is_named(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    (tmp_path / "t.jsonl").write_text('{"t": "a"}\n{"t": ""}\n{"t": "\\ud800"}\n')
    inputs, out, task = find_inputs([str(tmp_path / "t.jsonl")], field="t"), str(tmp_path / "v.npy"), "retrieval"
    with pytest.raises(DataError, match="^line 3 is not valid Unicode"):
        encode_file(encoder, inputs, out, Settings(task=task))
    long = ["a", "b", "join " * 50]
    with pytest.raises(DataError, match=r"^line 3 has \d+ tokens, over the limit of 32: shorten it"):
        encode_file(encoder, long, out, Settings(task=task, on_long="error"))
    assert not Path(out).exists()
    assert str(encode_file(encoder, long, out, Settings(task=task))).endswith("v.npy; 1 of them cut at 32 tokens")
    with pytest.raises(DataError, match="there are no texts"):
        encode_file(encoder, [], out, Settings(task=task))


@pytest.mark.parametrize("ending", ["npy", "npz", "jsonl", "parquet", "arrow"])
def test_texts_are_taken_chunk_by_chunk_whatever_is_written(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for letter in "abcdefgh" * 5:
            taken += 1
            yield letter

    encoder, ahead = CountingEncoder(), []
    real = encoder.encode

    def encode(batch: list[str], **options: Any) -> Any:
        ahead.append(taken - sum(map(len, encoder.calls)))
        return real(batch, **options)

    monkeypatch.setattr(encoder, "encode", encode)
    settings = Settings(precision="int8" if ending == "npz" else "float32")
    encode_file(encoder, texts(), str(tmp_path / f"v.{ending}"), settings)
    assert ahead == [3] * 13 + [1]


@pytest.mark.parametrize("name", ["v.npy", "v.npz", "v.jsonl", "v.parquet", "v.arrow", "v/"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(name: str, tmp_path: Path) -> None:
    handler, kept = signal.getsignal(signal.SIGXFSZ), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (4000, 20))  # little is saved by packing their vectors
    (tmp_path / "in.txt").write_text("".join("".join(line) + "\n" for line in letters))
    (tmp_path / "out").mkdir()
    settings = Settings(precision="int8" if name == "v.npz" else "float32")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, kept[1]))
        with pytest.raises(DataError, match=f"the disk is full: {tmp_path}/out/{name}.* could not be written"):
            encode_file(CountingEncoder(), find_inputs([str(tmp_path / "in.txt")]), f"{tmp_path}/out/{name}", settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert sorted(left) == (["manifest.json", "v"] if name == "v/" else [])


def test_a_folder_ends_in_a_slash_or_is_there(tmp_path: Path) -> None:
    assert is_folder("new/") and is_folder(str(tmp_path))
    assert not is_folder("new") and not is_folder("-") and not is_folder("v.npy")


def test_vectors_in_the_teachers_space_are_those_of_the_model_and_a_folder_of_others_is_refused(
    encoder: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("a b\nc\n")
    inputs = find_inputs([str(tmp_path / "in.txt")])
    asked: dict[str, Any] = {"task": "retrieval", "role": "query"}
    expected = encoder.encode(["a b", "c"], space="teacher", **asked)
    stats = encode_file(encoder, inputs, str(tmp_path / "v.npy"), Settings(space="teacher", **asked))
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    assert stats.numbers == expected.shape[1] != encoder.dim
    encode_file(encoder, inputs, f"{tmp_path}/shards/", Settings(**asked))
    with pytest.raises(DataError, match="space"):
        encode_file(encoder, inputs, f"{tmp_path}/shards/", Settings(space="teacher", **asked))
