"""`limbeck encode` as it is typed: several inputs, shards, ids, and what is said when something does not fit."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path[:0] = [str(Path(__file__).parent / "encoding")]  # for the modules there that are no tests

from counting import CountingEncoder  # noqa: E402
from rich.console import Console  # noqa: E402

import limbeck  # noqa: E402
from commands import typed  # noqa: E402
from limbeck import cli_parts  # noqa: E402
from limbeck.scale.encode_corpus import ModelPlace  # noqa: E402

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CountingEncoder:
    made = CountingEncoder()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, "encode", "m", *arguments)

    return call


def test_several_inputs_become_one_file(model: CountingEncoder, run: Run) -> None:
    Path("in").mkdir()
    Path("in/a.txt").write_text("a\nb\n")
    Path("c.txt").write_text("c\n")
    code, out, err = run("c.txt", "in", "--out", "v.parquet")
    assert (code, out) == (0, "") and "3 texts × 8 float32" in err
    assert pq.read_table("v.parquet")["text"].to_pylist() == ["c", "a", "b"]


def test_parquet_in_and_shards_of_arrow_out_with_ids(model: CountingEncoder, run: Run) -> None:
    pq.write_table(pa.table({"body": list("abcde"), "key": [7, 8, 9, 10, 11], "other": [None] * 5}), "in.parquet")
    options = ["--field", "body", "--id", "key", "--shard-rows", 2, "--format", "arrow", "--precision", "int8"]
    code, out, _ = run("in.parquet", "--out", "v", *options, "--json")
    stats = json.loads(out)
    assert code == 0
    assert (stats["texts"], stats["shards"], stats["kept"], stats["out"]) == (5, 3, 0, "v")
    tables = [pa.ipc.open_file(f"v/part-0000{n}.arrow").read_all() for n in range(3)]
    assert [id for table in tables for id in table["id"].to_pylist()] == [7, 8, 9, 10, 11]
    assert tables[0].column_names == ["id", "vector", "scale"]
    calls = len(model.calls)
    assert run("in.parquet", "--out", "v", *options)[2].endswith("v (3 shards); 5 of them were there before\n")
    assert len(model.calls) == calls


def test_a_folder_made_otherwise_is_one_message_until_it_is_forced(model: CountingEncoder, run: Run) -> None:
    Path("in.txt").write_text("a\nb\n")
    assert run("in.txt", "--out", "v/")[0] == 0
    code, _, err = run("in.txt", "--out", "v/", "--dim", 4)
    assert (code, err.count("\n")) == (1, 1)
    assert "limbeck: v holds vectors that were made otherwise (dim: 8 there, 4 now)" in err and "--force" in err
    assert run("in.txt", "--out", "v/", "--dim", 4, "--force")[0] == 0
    assert len(pq.read_table("v/part-00000.parquet")["vector"][0]) == 4


@pytest.mark.parametrize("option", [["--format", "arrow"], ["--force"], ["--shard-rows", "0"], ["--format", "csv"]])
def test_wrong_usage_is_exit_code_2(option: list[str], model: CountingEncoder, run: Run) -> None:
    Path("in.txt").write_text("a\n")
    assert run("in.txt", "--out", "v.npy", *option)[0] == 2
    assert model.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.parquet"], "in.parquet is Parquet: name the column of the text, e.g. --field text; it has body"),
        (["in.parquet", "--field", "text"], "in.parquet has no column 'text'; it has body"),
        (["in.parquet", "in.txt", "--field", "body"], "encode them apart"),
        (["in.txt", "--id", "key"], "plain lines have no field 'key'"),
        (["in.txt", "-"], "standard input (-) is read alone"),
        (["in.txt", "--out", "v.csv"], "end it in .npy or .jsonl, or in .parquet or .arrow"),
        (["-", "--out", "v/"], "standard input cannot be: write it to a file"),
        (["in.txt", "--out", "v/", "--format", "npy", "--precision", "int8"], "cannot write int8 vectors to"),
        (["in.txt", "--out", "."], ". holds other files (in.parquet, in.txt): give an empty folder or a new one"),
    ],
)
def test_what_does_not_fit_is_said(
    arguments: list[str], message: str, model: CountingEncoder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"body": ["a"]}), "in.parquet")
    Path("in.txt").write_text("a\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    code, _, err = run(*arguments)
    assert code == 1 and err.startswith("limbeck: ") and message in err
    assert model.calls == []
    assert sorted(path.name for path in Path().iterdir()) == ["in.parquet", "in.txt"]


@pytest.mark.parametrize("arguments", [["in.parquet", "--field", "body"], ["in.txt", "--out", "v.arrow"]])
def test_a_missing_pyarrow_names_the_extra_that_brings_it(
    arguments: list[str], model: CountingEncoder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.parquet").write_bytes(b"")
    Path("in.txt").write_text("a\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run(*arguments)
    assert code == 1 and "pip install 'limbeck[train]'" in err
    assert sorted(path.name for path in Path().iterdir()) == ["in.parquet", "in.txt"]


def test_file_by_file_a_poison_row_is_named_and_the_exit_code_is_1(model: CountingEncoder, run: Run) -> None:
    Path("in").mkdir()
    for name in "abc":
        Path(f"in/{name}.txt").write_text(f"{name}\n")
    Path("in/b.txt").write_bytes(b"b\n\xff\n")
    code, out, err = run("in", "--out", "v/", "--workers", 1, "--json")
    stats = json.loads(out)
    assert code == 1
    assert (stats["files"], stats["texts"], [failure["file"] for failure in stats["failures"]]) == (2, 2, ["in/b.txt"])
    assert "1 of 3 files have no vectors" in err and "in/b.txt:2: not UTF-8" in err
    Path("in/b.txt").write_text("b\n")
    code, _, err = run("in", "--out", "v/", "--engine", "local", "--format", "parquet")
    assert code == 0 and err.endswith("v/ (3 files; 2 of them were there before)\n")


def test_a_url_is_made_file_by_file(model: CountingEncoder, run: Run, tmp_path: Path) -> None:
    Path("in.txt").write_text("a\nb\n")
    assert run("in.txt", "--out", f"file://{tmp_path}/v/", "--format", "npy")[0] == 0
    assert np.array_equal(np.load("v/in.npy"), model.encode(["a", "b"]))


@pytest.mark.parametrize("compute", ["fp32", "bf16", None])
def test_what_passes_compute_in_is_told_to_every_loader(
    compute: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def load(path: str, *, precision: str, **_: object) -> CountingEncoder:
        told.append(precision)
        return CountingEncoder()

    monkeypatch.setitem(limbeck.__dict__, "load", load)
    Path("in.txt").write_text("a\n")
    asked = ["--compute", compute] if compute else []
    for out in (["--out", "v.npy"], ["--out", "v/", "--workers", 1]):
        assert run("in.txt", *out, *asked)[0] == 0
    ModelPlace("m", precision=compute or "auto").load("cpu")  # as a worker does
    assert set(told) == {compute or "auto"} and len(told) == 3
    assert run("in.txt", "--compute", "fp8")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", 2, "--out", "v.parquet"],
        ["--workers", 2],
        ["--workers", 0, "--out", "v/"],
        ["--engine", "spark", "--out", "v/"],
        ["--engine", "ray", "--out", "v/", "--shard-rows", 5],
        ["--out", "s3://bucket/v.parquet"],
    ],
)
def test_wrong_usage_of_workers_is_exit_code_2(arguments: list[object], model: CountingEncoder, run: Run) -> None:
    Path("in.txt").write_text("a\n")
    assert run("in.txt", *arguments)[0] == 2
    assert model.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.txt", "--worker-gpus", 1], "cores and GPUs of a worker are for a Ray cluster"),
        (["--workers", 1], "there is nothing to read: name files or folders"),
        (["-", "--workers", 1], "standard input cannot be a shard"),
        (["in.txt", "--engine", "ray"], "this needs ray, which is not installed: pip install 'limbeck[scale]'"),
    ],
)
def test_what_workers_cannot_do_is_said(
    arguments: list[object], message: str, model: CountingEncoder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "limbeck.scale.on_ray", raising=False)
    Path("in.txt").write_text("a\n")
    code, _, err = run(*arguments, "--out", "v/")
    assert code == 1 and message in err


def test_a_pipe_in_and_a_pipe_out(model: CountingEncoder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"t": "a", "n": "x"}\n{"t": "b", "n": "y"}\n')))
    _, out, _ = run("--field", "t", "--id", "n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == ["x", "y"]
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), model.encode(["a", "b"]))


@pytest.mark.parametrize("total", [None, 4])
def test_a_terminal_shows_how_many_are_done(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(cli_parts, "console", lambda stream: Console(file=screen, force_terminal=True, width=100))
    with cli_parts.progress("encoding", lambda: total) as advance:
        advance(1)
        advance(2)
    assert "encoding" in screen.getvalue() and "3 texts" in screen.getvalue()
    assert ("75%" in screen.getvalue()) == (total is not None)


def test_no_terminal_shows_nothing_and_counts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with cli_parts.progress("encoding", lambda: pytest.fail("counted")) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
