"""The command line, in this process and with a made-up model: what it parses, calls, prints and returns."""

import gzip
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import limbeck
from commands import typed
from limbeck import cli, encode_file
from limbeck.config import Recipe
from limbeck.errors import TextError, TrainingError

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(get_command(cli.app).commands)  # type: ignore[attr-defined]

Run = Callable[..., tuple[int, str, str]]


class LetterCounts:
    """A model whose vectors count the letters a to h; a query is a document with one more a. A letter is a token."""

    dim = 8
    max_tokens = 500
    tasks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.truncated = 0

    def fingerprint_of(self, task: Any, **_: Any) -> str:
        return f"letters {task}"

    def route(self, texts: list[str], *, role: str) -> dict[str, float]:
        return {"retrieval": 1.0} if role == "query" else {"clustering": 0.75, "retrieval": 0.25}

    def encode(self, texts, *, task=None, role="document", dim=None, precision="float32", on_long="truncate", **_):
        self.calls.append({"texts": list(texts), "task": task, "role": role, "dim": dim, "precision": precision})
        long = [i for i, text in enumerate(texts) if len(text) > self.max_tokens]
        if long and on_long == "error":
            raise TextError(long[0], f"has {len(texts[long[0]])} tokens")
        self.truncated = len(long)
        vectors = np.array([[t.count(letter) for letter in "abcdefgh"] for t in texts], np.float32).reshape(-1, 8)
        if role == "query":
            vectors[:, 0] += 1
        vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))[:, :dim]
        if precision == "int8":
            scales = np.abs(vectors).max(axis=1) / 127
            return np.round(vectors / np.maximum(scales[:, None], 1e-9)).astype(np.int8), scales
        return np.packbits(vectors > 0, axis=1) if precision == "ubinary" else vectors


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LetterCounts:
    made = LetterCounts()
    monkeypatch.setitem(limbeck.__dict__, "load", lambda path, **_: made)
    return made


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

    def call(*arguments: object) -> tuple[int, str, str]:
        return typed(capsys, *arguments)

    return call


# ------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_names_it(command: str, run: Run) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: limbeck {command}" in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_command_table_of_the_readme(command: str) -> None:
    assert re.search(rf"^\| `limbeck {command}\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_the_readme_names_no_command_that_does_not_exist() -> None:
    named = re.findall(r"^\| `limbeck (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == COMMANDS


def test_help_and_import_need_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, limbeck, limbeck.cli\n"
        "try: limbeck.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'datasets'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_project_file(run: Run) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version") == (0, f"{declared}\n", "")


# ----------------------------------------------------------------------------------------------- errors


def test_an_error_made_for_people_is_one_message_and_exit_code_1(run: Run) -> None:
    code, out, err = run("plan", "nonsense")
    assert (code, out) == (1, "")
    assert err.startswith("limbeck: no recipe 'nonsense'")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["plan"], ["bogus"], ["run", "demo", "--bogus"], ["encode", "m", "--dim", "0"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], run: Run) -> None:
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize("switch", ["option", "environment"])
def test_debug_lets_the_traceback_through(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DEBUG", "1" if switch == "environment" else "0")
    with pytest.raises(limbeck.LimbeckError):
        cli.main(["--debug", "plan", "nonsense"] if switch == "option" else ["plan", "nonsense"])


def test_a_missing_package_names_the_extra_that_brings_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "limbeck.training", fake_pipeline(lambda *_, **__: missing("accelerate")))
    code, _, err = run("run", "jina-v5-nano")
    assert code == 1
    assert "pip install 'limbeck[train]'" in err


def test_every_extra_that_a_message_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(cli._EXTRAS.values()) <= set(extras)


def test_a_full_disk_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "runs/x/model.safetensors")

    monkeypatch.setitem(sys.modules, "limbeck.training", fake_pipeline(fail))
    assert run("run", "jina-v5-nano")[::2] == (1, "limbeck: No space left on device: runs/x/model.safetensors\n")


# ------------------------------------------------------------------------------------------ run, recipes


def fake_pipeline(function: Callable[..., Any]) -> ModuleType:
    package = ModuleType("limbeck.training")
    package.pipeline = ModuleType("limbeck.training.pipeline")  # type: ignore[attr-defined]
    package.pipeline.run = function  # type: ignore[attr-defined]
    return package


def missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_run_hands_the_recipe_and_its_options_to_the_pipeline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def pipeline(recipe: Recipe, **options: Any) -> None:
        seen.update(options, recipe=recipe)

    monkeypatch.setitem(sys.modules, "limbeck.training", fake_pipeline(pipeline))
    assert run("run", "jina-v5-nano", "--set", "seed=4", "--set", "name=x", "--stop-after", "teach", "--force")[0] == 0
    assert (seen["recipe"].seed, seen["recipe"].name) == (4, "x")
    assert (seen["stop_after"], seen["force"]) == ("teach", True)


def test_a_failed_run_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipeline(*_: Any, **__: Any) -> None:
        raise TrainingError("the loss is not a number at step 7: lower the learning rate")

    monkeypatch.setitem(sys.modules, "limbeck.training", fake_pipeline(pipeline))
    code, _, err = run("run", "jina-v5-nano")
    assert (code, err) == (1, "limbeck: the loss is not a number at step 7: lower the learning rate\n")


def test_launchers_find_it_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "limbeck", "--version"], capture_output=True, text=True)
    assert done.stdout == f"{limbeck.__version__}\n"


def test_recipes_lists_what_is_shipped(run: Run) -> None:
    _, out, _ = run("recipes")
    assert re.search(r"^jina-v5-small +Qwen3-0.6B-Base", out, re.MULTILINE)
    _, out, _ = run("recipes", "--json")
    assert "jina-v5-nano" in json.loads(out)


# ------------------------------------------------------------------------------------------------ encode


def test_row_n_is_line_n_even_where_a_line_is_blank(tmp_path: Path, model: LetterCounts, run: Run) -> None:
    (tmp_path / "texts.txt").write_text("aab\n\nc\r\nh")
    code, out, err = run("encode", "m", tmp_path / "texts.txt", "--out", tmp_path / "v.npy")
    assert (code, out) == (0, "")
    assert "4 texts × 8 float32" in err
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors.argmax(axis=1), [0, 0, 2, 7])
    assert model.calls[0]["texts"] == ["aab", "", "c", "h"]


def test_options_reach_the_model(tmp_path: Path, model: LetterCounts, run: Run) -> None:
    (tmp_path / "t.txt").write_text("ab\nc\n")
    options = ["--role", "query", "--task", "retrieval", "--dim", "8", "--precision", "ubinary"]
    run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy", *options)
    asked = {"task": "retrieval", "role": "query", "dim": 8, "precision": "ubinary"}
    assert model.calls == [{"texts": ["ab", "c"], **asked}]
    assert np.load(tmp_path / "v.npy").tolist() == [[0b11000000], [0b10100000]]


@pytest.mark.parametrize(
    ("options", "asked", "recorded"),
    [
        (["--task", "clustering"], "clustering", "clustering"),
        (
            ["--task", "retrieval=0.7, clustering=0.3"],
            {"retrieval": 0.7, "clustering": 0.3},
            "retrieval=0.7,clustering=0.3",
        ),
        (["--task", "auto"], {"clustering": 0.75, "retrieval": 0.25}, "clustering=0.75,retrieval=0.25"),
        (["--task", "auto", "--role", "query"], {"retrieval": 1.0}, "retrieval=1.0"),
        ([], None, None),
    ],
)
def test_a_task_is_settled_once_for_all_texts_and_recorded(
    options: list[str],
    asked: Any,
    recorded: str | None,
    tmp_path: Path,
    model: LetterCounts,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 1)
    (tmp_path / "t.txt").write_text("ab\nc\n")
    _, out, _ = run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.jsonl", *options, "--json")
    assert json.loads(out)["task"] == recorded
    assert [call["task"] for call in model.calls] == [asked, asked]
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row.get("task") for row in rows] == [recorded] * 2
    run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npz", *options, "--precision", "int8")
    with np.load(tmp_path / "v.npz") as arrays:
        assert (str(arrays["task"]) if "task" in arrays else None) == recorded
    if recorded:
        again = encode_file.parse_task(recorded)
        assert again == asked and encode_file.task_words(again) == recorded


def test_a_blend_that_cannot_be_read_is_an_error(tmp_path: Path, model: LetterCounts, run: Run) -> None:
    (tmp_path / "t.txt").write_text("a")
    for task in ("retrieval=much", "retrieval=0.5,clustering", "retrieval=0.5=0.5"):
        code, _, err = run("encode", "m", tmp_path / "t.txt", "--task", task)
        assert code == 1 and "expected a task, or a blend such as retrieval=0.7,clustering=0.3" in err


@pytest.mark.parametrize("packed", [False, True])
def test_jsonl_gives_its_field_and_takes_vectors(tmp_path: Path, packed: bool, model: LetterCounts, run: Run) -> None:
    rows = b'{"body": "a\\nb", "n": 1}\n{"body": "\xc3\xa9 c"}\n'
    source = tmp_path / ("t.jsonl.gz" if packed else "t.jsonl")
    source.write_bytes(gzip.compress(rows) if packed else rows)
    run("encode", "m", source, "--field", "body", "--out", tmp_path / "v.jsonl", "--dim", "3")
    written = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in written] == ["a\nb", "é c"]
    np.testing.assert_array_equal(
        np.array([row["vector"] for row in written], np.float32), LetterCounts().encode(["ab", "c"], dim=3)
    )


def test_standard_input_goes_to_standard_output(model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"aa\nb\n")))
    code, out, err = run("encode", "m", "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["aa", "b"]
    stats = json.loads(err)
    assert (stats["texts"], stats["numbers"], stats["bytes"], stats["out"]) == (2, 8, 64, "-")


def test_a_large_input_is_encoded_in_chunks(
    tmp_path: Path, model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 2)
    texts = ["a", "bb", "c", "d", "hg"]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    _, out, _ = run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy", "--json")
    assert [len(call["texts"]) for call in model.calls] == [2, 2, 1]
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), LetterCounts().encode(texts))
    assert json.loads(out)["texts"] == 5


@pytest.mark.parametrize("ending", ["npz", "jsonl"])
def test_int8_keeps_its_scales(
    tmp_path: Path, ending: str, model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 2)
    texts, out = ["aab", "cc", "dga"], tmp_path / f"v.{ending}"
    (tmp_path / "t.txt").write_text("\n".join(texts))
    assert run("encode", "m", tmp_path / "t.txt", "--out", out, "--precision", "int8")[0] == 0
    if ending == "npz":
        vectors = np.load(out)["codes"] * np.load(out)["scales"][:, None]
    else:
        vectors = np.array([np.array(r["vector"]) * r["scale"] for r in map(json.loads, out.read_text().splitlines())])
    np.testing.assert_allclose(vectors, LetterCounts().encode(texts), atol=0.005)


def test_int8_is_not_written_where_its_scales_would_be_lost(tmp_path: Path, model: LetterCounts, run: Run) -> None:
    (tmp_path / "t.txt").write_text("a")
    code, _, err = run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy", "--precision", "int8")
    assert code == 1
    assert "end it in .npz or .jsonl" in err
    assert model.calls == []


@pytest.mark.parametrize("ending", ["npy", "jsonl"])
def test_an_output_is_whole_or_as_it_was(
    tmp_path: Path, ending: str, model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 1)
    (tmp_path / "t.txt").write_text("a\nb\n")
    out = tmp_path / f"v.{ending}"
    out.write_bytes(b"as it was")
    encode = model.encode

    def fail_on_b(texts: list[str], **options: Any) -> Any:
        if texts == ["b"]:
            raise limbeck.LimbeckError("no more")
        return encode(texts, **options)

    monkeypatch.setattr(model, "encode", fail_on_b)
    assert run("encode", "m", tmp_path / "t.txt", "--out", out)[0] == 1
    assert out.read_bytes() == b"as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.txt", out.name]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.txt", b"", [], "holds no texts"),
        (
            "t.txt",
            b"a\ncaf\xe9\n",
            [],
            "t.txt:2: not UTF-8 (invalid continuation byte, byte 4 of the line): convert the",
        ),
        ("t.txt", b"a\nb\nl\xf6wer\n", [], "t.txt:3: not UTF-8 (invalid start byte, byte 2 of the line): convert the"),
        ("t.txt", b"\xed\xa0\x80", [], "t.txt:1: not UTF-8"),  # a lone surrogate
        ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}', ["--field", "text"], "t.jsonl:2: not UTF-8"),
        ("t.txt.gz", b"not gzip", [], "t.txt.gz cannot be unpacked"),
        ("t.txt.gz", gzip.compress(b"a" * 1000, mtime=0)[:20], [], "t.txt.gz cannot be unpacked"),
        ("t.jsonl", b'{"text": "a"}', [], "name the field of the text, e.g. --field text"),
        (
            "t.jsonl",
            b'{"text": "a"}\n{"body": "b"}',
            ["--field", "text"],
            ":2: no text in field 'text', the row has body",
        ),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}', ["--field", "text"], ":2: no text in field 'text'"),
        ("t.jsonl", b"[1]", ["--field", "text"], ":1: no text in field 'text', the row has list"),
        ("t.jsonl", b'{"text": "a"}\n{"te', ["--field", "text"], ":2: not JSON"),
        ("t.txt", b"a", ["--out", "v.pickle"], "end it in .npy or .jsonl"),
        ("t.txt", b"a", ["--out", "v.npz"], "end it in .npy or .jsonl"),
    ],
)
def test_an_input_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, options: list[str], message: str, model: LetterCounts, run: Run
) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, err = run("encode", "m", tmp_path / name, *options)
    assert code == 1
    assert message in err
    assert model.calls == []


def test_standard_input_that_is_not_utf8_is_named_with_its_line(
    model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"aa\n\xe9\n"), encoding="latin-1"))
    code, out, err = run("encode", "m")
    assert (code, out) == (1, "")
    assert err.startswith("limbeck: standard input:2: not UTF-8 (")


@pytest.mark.parametrize("as_json", [False, True])
def test_texts_that_were_cut_are_counted_over_all_chunks(
    as_json: bool, tmp_path: Path, model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 2)
    (tmp_path / "t.txt").write_text("\n".join(["a" * 501, "b", "c", "d" * 600, "a" * 500]))
    options = ["--out", tmp_path / "v.npy", *(["--json"] if as_json else [])]
    code, out, err = run("encode", "m", tmp_path / "t.txt", *options)
    assert code == 0
    if as_json:
        assert (json.loads(out)["truncated"], json.loads(out)["max_tokens"]) == (2, 500)
    else:
        assert err.endswith("v.npy; 2 of them cut at 500 tokens\n")
    (tmp_path / "t.txt").write_text("a\nb")
    assert "of them cut" not in run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy")[2]


def test_strict_refuses_a_text_over_the_limit_and_names_its_line(
    tmp_path: Path, model: LetterCounts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_file, "_CHUNK", 2)
    (tmp_path / "t.txt").write_text("\n".join(["a", "b", "c", "d" * 600, "e" * 700]))
    code, _, err = run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy", "--strict")
    assert (code, err) == (1, "limbeck: line 4 has 600 tokens\n")
    assert not (tmp_path / "v.npy").exists()
    (tmp_path / "t.txt").write_text("a\nb")
    assert run("encode", "m", tmp_path / "t.txt", "--out", tmp_path / "v.npy", "--strict")[0] == 0


def test_a_file_that_is_not_there_is_named(model: LetterCounts, run: Run) -> None:
    assert run("encode", "m", "nowhere.txt")[::2] == (1, "limbeck: no such file: nowhere.txt\n")


# ------------------------------------------------------------------------------------------------ search


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [
        {"id": "first", "text": "bbb"},
        {"id": "second", "text": "a\n a " + "a" * 200},
        {"id": "third", "text": "ab"},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_search_prints_the_best_documents_first(corpus: Path, model: LetterCounts, run: Run) -> None:
    code, out, _ = run("search", "m", corpus, "a", "--top", "2")
    assert code == 0
    assert re.findall(r"^ +(\d)  (\d\.\d+)  (\w+)$", out, re.MULTILINE) == [
        ("1", "1.000", "second"),
        ("2", "0.707", "third"),
    ]
    assert max(map(len, out.splitlines())) < 120


def test_search_as_json_holds_everything(corpus: Path, model: LetterCounts, run: Run) -> None:
    _, out, _ = run("search", "m", corpus, "a", "--json", "--dim", "4")
    found = json.loads(out)
    assert found["query"] == "a"
    assert [hit["id"] for hit in found["hits"]] == ["second", "third", "first"]
    assert model.calls[-1]["dim"] == 4
    assert model.calls[-1]["role"] == "query"


@pytest.mark.parametrize(
    ("options", "asked", "role"),
    [
        ([], "retrieval", "query"),
        (["--task", "text-matching"], "text-matching", "document"),
        (["--task", "retrieval=1,clustering=1"], {"retrieval": 1.0, "clustering": 1.0}, "query"),
    ],
)
def test_a_search_takes_the_task_it_is_told_and_retrieval_otherwise(
    options: list[str], asked: Any, role: str, corpus: Path, model: LetterCounts, run: Run
) -> None:
    model.tasks = ("retrieval", "text-matching", "clustering")
    assert run("search", "m", corpus, "a", *options)[0] == 0
    assert [call["task"] for call in model.calls] == [asked, asked]
    assert [call["role"] for call in model.calls] == ["document", role]


def test_the_second_search_encodes_the_query_only(corpus: Path, model: LetterCounts, run: Run) -> None:
    run("search", "m", corpus, "a")
    model.calls.clear()
    run("search", "m", corpus, "b")
    assert [call["texts"] for call in model.calls] == [["b"]]


def test_a_corpus_that_is_not_there_is_named(model: LetterCounts, run: Run) -> None:
    code, _, err = run("search", "m", "nowhere.jsonl", "a")
    assert code == 1
    assert "nowhere.jsonl" in err
