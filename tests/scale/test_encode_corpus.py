"""A corpus file by file: what is there stays, what is missing is made, and nothing else is."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "encoding"), str(TESTS / "model")]  # for the modules there that are no tests

from counting import CountingEncoder  # noqa: E402
from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402
from limbeck.encode_file import Settings, encode_file  # noqa: E402
from limbeck.encoding.reading import find_inputs  # noqa: E402
from limbeck.errors import ConfigError, DataError  # noqa: E402
from limbeck.scale import encode_corpus as module  # noqa: E402
from limbeck.scale import places  # noqa: E402
from limbeck.scale.crew import Crew  # noqa: E402
from limbeck.scale.encode_corpus import Corpus, CorpusStats, ModelPlace, encode_corpus  # noqa: E402

LETTERS = "abcde"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five packed files of JSON lines."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, letter in enumerate(LETTERS):
        write(folder / f"{letter}.jsonl.gz", [letter * n for n in range(1, number + 3)])
    return folder


def write(path: Path, texts: list[str]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps({"t": t, "n": i}) + "\n" for i, t in enumerate(texts)).encode()))


def encode(sources: Any, out: Any, encoder: Any = None, **fields: Any) -> CorpusStats:
    how = {name: fields.pop(name) for name in ("crew", "progress") if name in fields}
    corpus = {name: fields.pop(name) for name in ("field", "id", "format", "force") if name in fields}
    found = Corpus((str(sources),), str(out), **{"field": "t", **corpus})
    return encode_corpus(encoder or CountingEncoder(), ModelPlace("m"), found, Settings(**fields), **how)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("form", ["parquet", "arrow", "npy", "npz", "jsonl"])
def test_each_file_has_the_bytes_of_encoding_it_alone(form: Any, source: Path, tmp_path: Path) -> None:
    precision: Any = "int8" if form == "npz" else "float32"
    told: list[int] = []
    stats = encode(source, tmp_path / "v", format=form, precision=precision, dim=4, progress=told.append)
    for letter in LETTERS:
        alone = f"{tmp_path}/{letter}.{form}"
        inputs = find_inputs([str(source / f"{letter}.jsonl.gz")], field="t")
        encode_file(CountingEncoder(), inputs, alone, Settings(precision=precision, dim=4))
        assert (tmp_path / "v" / f"{letter}.{form}").read_bytes() == Path(alone).read_bytes()
    assert (stats.texts, stats.files, stats.kept, stats.failures) == (20, 5, 0, [])
    assert sum(told) == 20
    names = [f"{letter}.{form}" for letter in LETTERS] + ["manifest", "manifest.json"]
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == names


def test_a_second_run_reads_no_input_and_makes_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    encode(source, out)
    whole = tree(out)
    (out / "b.parquet").unlink()
    (out / "manifest/c.json").unlink()
    (out / "d.parquet").write_bytes(b"torn")
    encoder = CountingEncoder()
    stats = encode(source, out, encoder)
    assert [call[0] for call in encoder.calls if call] == ["b", "c", "d"]
    assert (stats.files, stats.kept, stats.texts) == (5, 2, 20)
    assert tree(out) == whole
    hashed: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sha256_file", hashed.append)
        assert encode(source, out, encoder).kept == 5
    assert hashed == []


def test_an_input_is_known_by_its_bytes_not_by_its_time_or_place(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    encode(source, out)
    (source / "a.jsonl.gz").touch()
    write(source / "b.jsonl.gz", ["h"])
    moved = tmp_path / "moved"
    source.rename(moved)
    encoder = CountingEncoder()
    stats = encode(moved, out, encoder)
    assert [call for call in encoder.calls if call] == [["h"]]
    assert (stats.kept, stats.texts) == (4, 18)
    assert pq.read_table(out / "b.parquet")["text"].to_pylist() == ["h"]
    assert json.loads((out / "manifest/a.json").read_text())["input"]["name"] == str(moved / "a.jsonl.gz")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"t": "a"}\n\xff\n', r"b\.jsonl\.gz:2: not UTF-8"),
        (b'{"t": "a"}\n{"t": "b"}\n{"t"\n', r"b\.jsonl\.gz:3: not JSON"),
        (b'{"t": "a"}\n{"x": "b"}\n', r"b\.jsonl\.gz:2: no text in field 't'"),
        (b'{"t": "\\ud800"}\n', r"b\.jsonl\.gz:1 is not valid Unicode"),
        (b"", r"b\.jsonl\.gz holds no texts"),
    ],
)
def test_a_poison_row_costs_its_file_alone_and_is_made_when_it_is_mended(
    bad: bytes, message: str, source: Path, tmp_path: Path
) -> None:
    kept = (source / "b.jsonl.gz").read_bytes()
    (source / "b.jsonl.gz").write_bytes(gzip.compress(bad))
    stats = encode(source, tmp_path / "v")
    assert (stats.files, [failure["file"] for failure in stats.failures]) == (4, [str(source / "b.jsonl.gz")])
    with pytest.raises(DataError, match=rf"(?s)^1 of 5 files have no vectors.*in/{message}"):
        stats.check()
    assert not (tmp_path / "v/b.parquet").exists() and not (tmp_path / "v/manifest/b.json").exists()
    (source / "b.jsonl.gz").write_bytes(kept)
    encoder = CountingEncoder()
    encode(source, tmp_path / "v", encoder).check()
    assert [call[0] for call in encoder.calls if call] == ["b"]
    encode(source, tmp_path / "whole")
    assert tree(tmp_path / "v") == tree(tmp_path / "whole")


def test_what_ails_every_file_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / f"in/{number:02d}.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"8 files failed one after the other.*07\.jsonl:1: not JSON"):
        encode(tmp_path / "in", tmp_path / "v")


def test_an_error_that_nobody_foresaw_costs_its_file_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_file_or_not(encoder: Any, inputs: Any, *rest: Any) -> Any:
        if "c.jsonl" in inputs.files[0]:
            raise RuntimeError("CUDA out of memory")
        return encode_file(encoder, inputs, *rest)

    monkeypatch.setattr(module, "encode_file", encode_file_or_not)
    stats = encode(source, tmp_path / "v")
    assert stats.files == 4
    assert stats.failures[0]["error"] == f"{source}/c.jsonl.gz: RuntimeError: CUDA out of memory"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder": CountingEncoder("other")}, "model: counting None there, other None now"),
        ({"dim": 4}, "dim: 8 there, 4 now"),
        ({"precision": "int8", "role": "query"}, "role: document there, query now; precision: float32 there, int8 now"),
        ({"format": "arrow"}, "format: parquet there, arrow now"),
        ({"id": "n"}, "id: None there, n now"),
    ],
)
def test_vectors_made_otherwise_are_refused_until_it_is_forced(
    changed: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    encode(source, tmp_path / "v")
    before = tree(tmp_path / "v")
    with pytest.raises(DataError, match=message):
        encode(source, tmp_path / "v", **changed)
    assert tree(tmp_path / "v") == before
    encode(source, tmp_path / "v", force=True, **changed)
    encode(source, tmp_path / "whole", **changed)
    assert tree(tmp_path / "v") == tree(tmp_path / "whole")


def test_folders_of_others_are_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"v holds other files \(thesis\.tex\)"):
        encode(source, tmp_path / "v", force=True)
    encode_file(CountingEncoder(), find_inputs([str(source)], field="t"), f"{tmp_path}/shards/")
    with pytest.raises(DataError, match="not of vectors that limbeck made file by file"):
        encode(source, tmp_path / "shards", force=True)
    encode(source, tmp_path / "w")
    with pytest.raises(DataError, match="is not of vectors that limbeck encoded"):
        encode_file(CountingEncoder(), find_inputs([str(source)], field="t"), f"{tmp_path}/w/")


def test_two_inputs_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "a.jsonl").write_text('{"t": "a"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl and .*a\.jsonl\.gz would both become a\.parquet"):
        encode(source, tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_auto_is_settled_once_for_all_files(source: Path, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    stats = encode(source, tmp_path / "v", encoder, task="auto")
    assert encoder.routed == [["a", "aa"]]
    assert stats.task == "clustering=1.0"


def test_workers_that_do_the_same_file_at_once_harm_nobody(source: Path, tmp_path: Path) -> None:
    encode(source, tmp_path / "whole")
    out = tmp_path / "v"
    barrier = threading.Barrier(4)

    class Meeting(CountingEncoder):
        def encode(self, texts: list[str], **options: Any) -> Any:
            if texts:
                barrier.wait(30)  # all four have seen that the file is not there
            return super().encode(texts, **options)

    def work() -> None:
        encode(source, out, Meeting())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(out) == tree(tmp_path / "whole")


def test_folders_of_killed_workers_are_removed_and_those_of_living_ones_are_not(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    left = out / ".work-abc"
    left.mkdir(parents=True)
    (left / "vectors.parquet").write_bytes(b"half")
    with places.scratch(str(out)) as living:
        (out / "manifest.json").write_text("{}")
        places.clear_scratch(str(out))
        assert living.exists() and not left.exists()
    assert not living.exists()


# ------------------------------------------------------------------------------------------------ object stores


@pytest.fixture
def bucket(source: Path) -> Iterator[str]:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in source.iterdir():
        memory.pipe_file(f"/bucket/in/{path.name}", path.read_bytes())
    memory.pipe_file("/bucket/in/README.md", b"not an input")
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_an_object_store_gets_the_bytes_that_a_folder_gets(bucket: str, source: Path, tmp_path: Path) -> None:
    import fsspec

    encode(source, tmp_path / "v")
    encode(f"{bucket}/in", f"{bucket}/v/").check()
    memory = fsspec.filesystem("memory")
    names = [name.removeprefix("/bucket/v/") for name in memory.find("/bucket/v")]
    assert sorted(names) == sorted(tree(tmp_path / "v"))
    for letter in LETTERS:
        assert memory.cat_file(f"/bucket/v/{letter}.parquet") == (tmp_path / "v" / f"{letter}.parquet").read_bytes()
    memory.rm_file("/bucket/v/d.parquet")
    encoder = CountingEncoder()
    assert encode(f"{bucket}/in", f"{bucket}/v/", encoder).kept == 4
    assert [call[0] for call in encoder.calls if call] == ["d"]
    encode(f"{bucket}/in", f"{bucket}/v/", dim=4, force=True, format="arrow").check()
    assert sum(name.endswith(".parquet") for name in memory.find("/bucket/v")) == 0


def test_a_poison_row_in_an_object_store_is_named_by_its_url(bucket: str) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/bucket/in/c.jsonl.gz", gzip.compress(b'{"t": "a"}\nnot JSON\n'))
    stats = encode(f"{bucket}/in", f"{bucket}/v")
    [failure] = stats.failures
    assert failure["error"].startswith("memory://bucket/in/c.jsonl.gz:2: not JSON")


def test_urls_that_lead_nowhere_are_said(bucket: str, tmp_path: Path) -> None:
    for url, error, message in (
        ("memory://bucket/nowhere", DataError, "no such file: memory://bucket/nowhere"),
        ("nonsense://bucket/in", ConfigError, "cannot open nonsense://bucket/in: .*nonsense"),
    ):
        with pytest.raises(error, match=message):
            encode(url, tmp_path / "v")
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz holds JSON: name the field"):
        encode(f"{bucket}/in", tmp_path / "v", field=None)


# --------------------------------------------------------------------------------------------------- workers


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_model(folder / "bert", "Bert", wordpiece())
    return adapted_bundle(folder / "model", student(init="pruned", pruned={"layers": [0]}), bert, ("retrieval",))


def by_workers(bundle: Path, source: Path, out: Path, crew: Crew, *more: Path) -> CorpusStats:
    encoder = limbeck.load(bundle, device="cpu")  # in the precision of the workers
    corpus = Corpus((str(source), *map(str, more)), str(out), "t")
    return encode_corpus(encoder, ModelPlace(str(bundle)), corpus, Settings(task="retrieval"), crew=crew)


@pytest.mark.slow
def test_processes_make_the_bytes_that_one_makes_and_a_killed_one_costs_its_file(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    by_workers(bundle, source, tmp_path / "one", Crew()).check()
    fifo = tmp_path / "waits.jsonl"
    os.mkfifo(fifo)
    victims: list[int] = []

    def kill() -> None:
        with open(fifo, "wb"):  # when somebody reads it, who then waits for what is written
            victims.append(reader_of(fifo))
            os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DataError, match=r"a worker was ended from outside.*of 6 files are left"):
        by_workers(bundle, source, tmp_path / "v", Crew(workers=2), fifo)
    killer.join()
    assert victims and not list((tmp_path / "v").glob(".work-*"))
    before = tree(tmp_path / "v")
    stats = by_workers(bundle, source, tmp_path / "v", Crew(workers=2))
    assert stats.kept == sum(name.startswith("manifest/") for name in before)
    assert tree(tmp_path / "v") == tree(tmp_path / "one")


def reader_of(fifo: Path) -> int:
    """The child of this process that has a file open."""
    for child in multiprocessing.active_children():
        if str(fifo) in [os.readlink(link) for link in Path(f"/proc/{child.pid}/fd").iterdir()]:
            assert child.pid is not None
            return child.pid
    raise AssertionError("nobody reads the file")
